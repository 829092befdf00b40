#!/bin/bash
# tests/hmm-coverage.md names functions of ferry.h and tests that exist, and every row has a test or says why not.
# usage: coverage.sh SOURCE_DIR
set -eu
cd "$1"
bad=0
complain() { echo "$*"; bad=1; }
table=tests/hmm-coverage.md

for name in $(grep -o '`ferry_[a-z_]*`' "$table" | tr -d '\140' | sort -u); do
	grep -q "[ *]$name(" client/include/ferry.h || complain "$table: $name is not in ferry.h"
done
for name in $(grep -o '`[a-z_0-9]*__[a-z_0-9]*`' "$table" | tr -d '\140' | sort -u); do
	grep -rqE "[(, ]$name[,)]" tests --include='*.c' || complain "$table: no test runs $name"
done
while IFS='|' read -r _ kernel here test _; do
	case $here$test in
	*__* | *'not built'*) ;;
	*) complain "$table: neither a test nor a reason:$kernel" ;;
	esac
done < <(sed -n '/^|---/,$p' "$table" | tail -n +2)
echo "$(grep -c '^| ' "$table") rows"
exit $bad
