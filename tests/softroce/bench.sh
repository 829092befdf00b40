#!/bin/bash
# ferry bench over verbs in one boot, beside ib_read_lat. Times under emulation
# mean nothing; that every kind runs, and its ratios, do.
set -eu
. "$(dirname "$0")/farlib.sh"
unset FERRY_TWO_VMS
ferryd_start 64M
timeout 60 ib_read_lat -F -x 1 -s 4096 -n 1000 >/tmp/server.log 2>&1 &
wait_for 30 "ib_read_lat server" bash -c "ss -Hltn | grep -q :18515"
timeout 60 ib_read_lat -F -x 1 -s 4096 -n 1000 "$FERRY_RDMA_ADDR" 2>/dev/null |
	awk '$1 == 4096 && $2 == 1000 { printf "ib_read_lat 4096 bytes: p50 %s us, p99 %s us\n", $5, $8 }'
wait
status=0
timeout 500 "$FERRY_BUILD/client/tool/ferry" bench all --fabric verbs --json --size 16M --runs 1 --count 300 --stride=1,17,-1 --streams=3 >/tmp/bench.json || status=$?
cat /tmp/bench.json
[ "$status" = 0 ] || fail "ferry bench ended with status $status"
for kind in raw fault seq random evict stride todev toram threads map idle; do
	grep -qE "\"bench\": ?\"$kind\".*\"fabric\": ?\"verbs\"" /tmp/bench.json || fail "no figures of $kind over verbs"
done
ferryd_signal TERM
ferryd_gone 60
sed -nE 's/.*"bench": ?"([a-z]*)".*"ratio": ?([0-9.]*).*/ratio to the raw transport: \1 \2/p' /tmp/bench.json
echo ok
