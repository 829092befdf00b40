#!/bin/bash
# deploy/softroce/up.sh and down.sh, on a kernel that has rdma_rxe: up twice,
# tests by FERRY_SOFTROCE=host, down twice, and nothing is left.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/guestlib.sh"
[ -n "${FERRY_IN_VM:-}" ] || skip "changes links, so only in the VM"
scripts=$here/../../deploy/softroce

rdma link delete rxe0
ip link del wire0
! FERRY_SOFTROCE=host "$here/vm.sh" -- true >/tmp/skip.log || fail "a host without a link is not skipped"
grep -q 'up.sh' /tmp/skip.log || fail "the skip does not name up.sh"
"$scripts/up.sh" || fail "up.sh"
"$scripts/up.sh" >/dev/null || fail "up.sh, when it is up"
FERRY_SOFTROCE=host "$here/vm.sh" -- bash -c '[ "$FERRY_RDMA_ADDR" = 10.77.0.1 ] && ibv_devinfo | grep PORT_ACTIVE' || fail "host mode does not find the link"
"$scripts/down.sh" || fail "down.sh"
"$scripts/down.sh" || fail "down.sh, when it is down"
[ -z "$(rdma link show)" ] || fail "a link is left: $(rdma link show)"
! "$scripts/up.sh" --netdev no-such 2>/tmp/err || fail "up.sh takes an interface that is not there"
grep -q 'no network interface no-such' /tmp/err || fail "up.sh says: $(cat /tmp/err)"
echo ok
