#!/bin/bash
# Makes a soft-RoCE device on this machine, for farferry over verbs without a
# NIC: rdma_rxe on a veth pair (default, nothing leaves the machine), or on a
# network interface that you name. Undo with down.sh.
#
# usage: up.sh [--netdev IFACE] [--name rxe0] [--addr 10.77.0.1/24]
set -eu
name=rxe0 netdev="" addr=10.77.0.1/24
usage() { echo "usage: up.sh [--netdev IFACE] [--name rxe0] [--addr 10.77.0.1/24]" >&2; exit 2; }
while [ $# -gt 0 ]; do
	case $1 in
	--netdev) [ $# -gt 1 ] || usage; netdev=$2; shift 2 ;;
	--name) [ $# -gt 1 ] || usage; name=$2; shift 2 ;;
	--addr) [ $# -gt 1 ] || usage; addr=$2; shift 2 ;;
	*) usage ;;
	esac
done
fail() { echo "up.sh: $*" >&2; exit 1; }
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || fail "needs root, to load modules and make links: sudo $0"
command -v rdma >/dev/null || fail "no 'rdma' command: apt-get install iproute2"

if rdma link show "$name/1" >/dev/null 2>&1; then
	rdma link show "$name/1"
	exit 0
fi
# Without crc32 in the kernel's crypto table rdma_rxe refuses to make a link; newer kernels have no such module.
modprobe crc32_generic 2>/dev/null || true
for module in ib_uverbs rdma_ucm rdma_rxe; do
	modprobe "$module" 2>/dev/null || [ -d "/sys/module/$module" ] ||
		fail "this kernel has no $module (Debian: linux-image-amd64 rather than the cloud kernel; Ubuntu: linux-modules-extra-\$(uname -r)). tests/softroce/vm.sh runs a VM that has it"
done
made=
if [ -z "$netdev" ]; then
	netdev=ferry-rx0
	if [ ! -e /sys/class/net/$netdev ]; then
		modprobe veth 2>/dev/null || true
		ip link add $netdev type veth peer name ferry-rx1 || fail "cannot make a veth pair (is the veth module there?)"
		made=$netdev
		ip link set ferry-rx1 mtu 9000 up
		ip link set $netdev mtu 9000 up
		ip addr add "$addr" dev $netdev || { ip link del $netdev; fail "cannot give $netdev the address $addr"; }
	fi
fi
[ -e "/sys/class/net/$netdev" ] || fail "no network interface $netdev (ip link lists them)"
rdma link add "$name" type rxe netdev "$netdev" || {
	[ -z "$made" ] || ip link del "$made"
	fail "rdma link add $name on $netdev failed; the kernel log has the cause"
}
rdma link show "$name/1"
echo "address: $(ip -4 -o addr show dev "$netdev" | awk '{ print $4; exit }')"
limit=$(ulimit -l)
[ "$limit" = unlimited ] || echo "note: locked memory is limited to $limit KiB here; registering more needs 'ulimit -l unlimited'"
