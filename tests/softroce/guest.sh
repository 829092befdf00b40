#!/bin/bash
# First thing that runs in the VM: limits, RDMA modules, one soft-RoCE link,
# then the command. With a wire to a second VM (FERRY_VM_ADDR is set) the link
# is on it; else it is on a veth pair and the VM is a host of its own.
set -eu
ulimit -l unlimited
ulimit -c 0
ip link set lo up
fail() { echo "guest: $*"; exit 125; }
# So that modprobe finds them without being told where.
mkdir -p /lib/modules
ln -sfn "$FERRY_VM_MODULES/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
# crc32_generic first: without it rdma_rxe says "failed to init crc32 algorithm".
for module in crc32_generic ib_uverbs rdma_ucm rdma_rxe; do
	modprobe "$module" || fail "modprobe $module failed"
done
if [ -n "${FERRY_VM_ADDR:-}" ]; then
	modprobe virtio_net || fail "modprobe virtio_net failed"
	dev=
	for path in /sys/class/net/*; do
		[ "$(readlink -f "$path/device/subsystem" 2>/dev/null)" = /sys/bus/virtio ] && dev=${path##*/}
	done
	[ -n "$dev" ] || fail "no virtio network device"
else
	modprobe veth || fail "modprobe veth failed"
	dev=wire0
	FERRY_VM_ADDR=10.77.0.1
	ip link add "$dev" type veth peer name wire1
	ip link set wire1 mtu 9000 up
fi
ip link set "$dev" mtu 9000 up
ip addr add "$FERRY_VM_ADDR/24" dev "$dev"
rdma link add rxe0 type rxe netdev "$dev" || fail "rdma link add rxe0 failed"
export FERRY_RDMA_ADDR=$FERRY_VM_ADDR
exec "$@"
