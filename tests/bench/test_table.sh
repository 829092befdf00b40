#!/bin/bash
# table.awk on figures that never change; and on systems that disagree on the content.
# usage: test_table.sh FOLDER
set -eu
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
awk -v data="$work/plot" -f table.awk fixture.jsonl >"$work/table.md"
diff fixture.md "$work/table.md"
[ "$(awk -F'\t' '$1 == "cg" && $2 == 25 { print $3, $4 }' "$work/plot-apps.tsv")" = "3 2" ] || { echo "other slowdowns to plot:"; cat "$work/plot-apps.tsv"; exit 1; }
[ "$(awk -F'\t' '$1 == "local" { print $2, $4 }' "$work/plot-peers.tsv")" = "10 600" ] || { echo "other figures to plot:"; cat "$work/plot-peers.tsv"; exit 1; }
sed '/"mbps": 210/s/aa"}/ab"}/' fixture.jsonl >"$work/wrong.jsonl"
if awk -f table.awk "$work/wrong.jsonl" >/dev/null 2>"$work/err"; then
	echo "systems that disagree are taken"
	exit 1
fi
grep -q 'left other content' "$work/err"
echo ok
