#!/bin/bash
# Several scripts in one boot, in turn, each whatever became of those before:
# a boot under emulation costs as much as many of them.
# usage: all.sh SCRIPT... (arguments of a script after it: SCRIPT:ARG:ARG)
# Exit:  1 if any failed; 77 if all were skipped; else 0.
set -u
here=$(cd "$(dirname "$0")" && pwd)
failed=0 done=0
for words in "$@"; do
	IFS=: read -ra words <<<"$words"
	echo "== ${words[0]}"
	begin=$SECONDS status=0
	"$here/${words[0]}" "${words[@]:1}" </dev/null || status=$?
	echo "== ${words[0]}: status $status, $((SECONDS - begin)) s"
	case $status in
	0) done=1 ;;
	77) ;;
	*) failed=1 ;;
	esac
done
[ $failed = 0 ] || exit 1
[ $done = 1 ] || exit 77
