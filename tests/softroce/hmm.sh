#!/bin/bash
# Test programs of tests/scenario over verbs, on a real rxe link: each starts its own ferryd here.
# usage: hmm.sh PROGRAM... (arguments of a program after it, with commas: PROGRAM,20,1)
set -eu
. "$(dirname "$0")/guestlib.sh"
export FERRYT_LISTEN=$FERRY_RDMA_ADDR:0 FERRYT_FABRICS=local,verbs
failed=0
for program in "$@"; do
	IFS=, read -ra words <<<"$program"
	say "${words[0]##*/} over verbs on $FERRY_RDMA_ADDR, kernel $(uname -r)"
	status=0
	timeout -k 10 500 "${words[0]}" verbs "${words[@]:1}" || status=$?
	[ "$status" = 0 ] || { echo "FAILED: ${words[0]##*/} ended with status $status"; failed=1; }
done
exit $failed
