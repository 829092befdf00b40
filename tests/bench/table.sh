#!/bin/bash
# A Markdown table, and plots where gnuplot is, from JSON lines.
#
# usage: table.sh FILE.jsonl...   writes FILE.md, and FILE-*.svg beside it, of the first; the table also to stdout
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { sed -n 's/^# usage/usage/p' "$0" >&2; exit 2; }
base=${1%.jsonl}
rm -f "$base"-peers.tsv "$base"-apps.tsv
status=0
awk -v data="$base" -f "$here/table.awk" "$@" >"$base.md" || status=$?
cat "$base.md"
if ! command -v gnuplot >/dev/null; then
	echo "no plots: gnuplot is missing (deploy/install-deps.sh bench)" >&2
	exit $status
fi
if [ -e "$base-peers.tsv" ]; then
	gnuplot -e "data='$base-peers.tsv'; out='$base-peers.svg'" "$here/peers.gp" || status=1
fi
if [ -e "$base-apps.tsv" ]; then
	gnuplot -e "data='$base-apps.tsv'; out='$base-apps.svg'" "$here/apps.gp" || status=1
fi
exit $status
