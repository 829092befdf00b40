#!/bin/bash
# libferry.so exports ferry_ names, each with the version node of its release, and nothing else.
# usage: symbols.sh LIBRARY MAP
set -eu
lib=$1 map=$2
command -v nm >/dev/null || { echo "skipped: nm is missing: run deploy/install-deps.sh"; exit 77; }
bad=0
names=$(nm -D --defined-only --with-symbol-versions "$lib" | awk '$2 != "A" { print $NF }')
[ -n "$names" ] || { echo "$lib exports nothing"; exit 1; }
for name in $names; do
	case $name in
	ferry_*@@FERRY_[0-9]*) ;;
	*) echo "exported, but not ferry_ with a version: $name"; bad=1 ;;
	esac
done
# What the header declares is there, and what is there is declared.
header=$(dirname "$0")/../../client/include/ferry.h
declared=$(sed -n -e 's/^[a-z].*[ *]\(ferry_[a-z_0-9]*\)(.*/\1/p' -e 's/^extern .*[ *]\(ferry_[a-z_0-9]*\)\[.*/\1/p' "$header" | sort -u)
exported=$(printf '%s\n' "$names" | sed 's/@.*//' | sort -u)
for name in $(comm -23 <(printf '%s\n' "$declared") <(printf '%s\n' "$exported")); do
	echo "declared in ferry.h, not exported: $name"
	bad=1
done
for name in $(comm -13 <(printf '%s\n' "$declared") <(printf '%s\n' "$exported")); do
	echo "exported, not declared in ferry.h: $name"
	bad=1
done
[ -e "$map" ] || { echo "no version map $map"; bad=1; }
echo "$(printf '%s\n' "$exported" | wc -l) symbols"
exit $bad
