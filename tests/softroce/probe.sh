#!/bin/bash
# Proves the ground that the other tests stand on: an active device, a verbs
# provider, and one-sided reads between two hosts, by the RDMA tools alone.
set -eu
. "$(dirname "$0")/guestlib.sh"

ibv_devinfo | grep -E 'hca_id|state|active_mtu|link_layer' || fail "ibv_devinfo shows no device"
ibv_devinfo | grep -q PORT_ACTIVE || fail "no active port"
fi_info -p verbs -t FI_EP_MSG | grep -m4 -E 'provider|domain|type|protocol' || fail "libfabric has no verbs FI_EP_MSG here"

wait_for 60 "answer of the server's host" server_run true
server_spawn ib_read_lat "ib_read_lat -F -x 1 -s 4096 -n 1000"
wait_for 30 "ib_read_lat server" server_run "ss -Hltn | grep -q :18515"
timeout 60 ib_read_lat -F -x 1 -s 4096 -n 1000 "$FERRY_SERVER_ADDR" >/tmp/lat.log || { cat /tmp/lat.log; fail "ib_read_lat between the hosts"; }
awk '$1 == 4096 && $2 == 1000 { printf "raw ib_read_lat 4096 bytes: p50 %s us, p99 %s us\n", $5, $8; found = 1 } END { exit !found }' /tmp/lat.log ||
	{ cat /tmp/lat.log; fail "no figures from ib_read_lat"; }
echo "ok"
