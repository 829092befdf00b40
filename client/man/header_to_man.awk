# ferry.h -> ferry.3. Each comment that begins in column 0 documents the
# declarations below it, up to a blank line or the next such comment.
# -v version=.. -v names=1: prints the public functions' names instead.
function esc(s) {
	gsub(/\\/, "\\e", s)
	gsub(/-/, "\\-", s)
	if (s ~ /^[.']/)
		s = "\\&" s
	return s
}
function out(s) { if (!names) print s }
# Text of a comment: indented lines are kept as they are, others flow.
function text(s, n, i, line, kept, list) {
	n = split(s, list, "\n")
	for (i = 1; i <= n; i++) {
		line = list[i]
		if (line ~ /^  / && !kept) { out(".nf"); kept = 1 }
		if (line !~ /^  / && kept) { out(".fi"); kept = 0 }
		if (line == "") { out(".PP"); continue }
		if (line ~ /^(Returns|Context|-E)/ && i > 1 && list[i - 1] ~ /[.;]$/)
			out(".br")
		out(esc(line))
	}
	if (kept) out(".fi")
}
function flush(n, i, list) {
	if (code != "") {
		out(".PP"); out(".nf")
		out(".ft B")
		n = split(code, list, "\n")
		for (i = 1; i <= n; i++)
			if (list[i] != "") out(esc(list[i]))
		out(".ft R"); out(".fi")
		if (comment != "") { out(".RS 4"); text(comment); out(".RE") }
	} else if (comment != "" && !intro) {
		intro = 1
		text(comment)
		out(".SH FUNCTIONS AND TYPES")
	}
	comment = code = ""
}
function strip(s) {
	sub(/^ ?\*\/?/, "", s)
	sub(/\*\/$/, "", s)
	sub(/[ \t]+$/, "", s)
	sub(/^ /, "", s)
	return s
}
BEGIN {
	out(".\\\" Generated from ferry.h; edit that.")
	out(".TH FERRY 3 \"\" \"farferry " version "\" \"Library functions\"")
	out(".SH NAME")
	out("ferry \\- far memory for Linux programs")
	out(".SH SYNOPSIS")
	out(".nf"); out(".B #include <ferry.h>"); out(".sp")
	out("Link with \\fI\\-lferry\\fP: pkg\\-config \\fBferry\\fP, CMake package \\fBferry\\fP, target \\fBferry::ferry\\fP.")
	out(".fi"); out(".SH DESCRIPTION")
}
/^#ifndef FERRY_H/ { body = 1; flush(); next }
/^#endif/ || /^#ifdef/ || /^#include/ || /^#define FERRY_H/ || /^extern "C"/ { next }
/^\/\* ---- .* ---- \*\/$/ {
	flush()
	s = $0; sub(/^\/\* ---- /, "", s); sub(/ ---- \*\/$/, "", s)
	out(".SS " s)
	next
}
/^\/\*/ && !inside {
	if (code != "") flush()
	s = $0; sub(/^\/\*/, "", s)
	if (s ~ /\*\/$/) {
		comment = comment (comment == "" ? "" : "\n") strip(s)
		next
	}
	inside = 1
	if (strip(s) != "") comment = strip(s)
	next
}
inside {
	s = strip($0)
	if ($0 ~ /\*\/$/) {
		inside = 0
		if (s == "") next
	}
	comment = comment (comment == "" ? "" : "\n") s
	next
}
/^[ \t]*$/ { if (code != "") flush(); next }
body && !/^}$/ {
	code = code $0 "\n"
	if (match($0, /^[a-z].*[ *]ferry_[a-z_0-9]+\(/)) {
		s = substr($0, 1, RLENGTH - 1)
		sub(/^.*[ *]/, "", s)
		if (names) print s
	}
}
END {
	flush()
	out(".SH SEE ALSO"); out(".BR ferry (1),"); out(".BR ferryd (8),"); out(".BR userfaultfd (2)")
}
