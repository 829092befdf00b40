#!/bin/sh
# check.sh LIBRARY MAN_DIR: every function that the library exports has its place in ferry.3 and a page name of its own.
set -eu
functions=$(nm -D --defined-only "$1" | awk '$2 == "T" { sub(/@.*/, "", $3); print $3 }')
[ -n "$functions" ] || { echo "check.sh: $1 exports nothing" >&2; exit 1; }
status=0
for f in $functions; do
	if ! grep -q "$f(" "$2/ferry.3"; then
		echo "check.sh: $f is exported but not in ferry.3: give it a comment in ferry.h" >&2
		status=1
	elif [ ! -e "$2/links/$f.3" ] && [ ! -e "$2/$f.3" ]; then
		echo "check.sh: no page $f.3" >&2
		status=1
	fi
done
exit $status
