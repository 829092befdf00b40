#!/bin/bash
# Runs a command in a small VM that has a real rdma_rxe: a Debian kernel under
# QEMU, on this machine's own root file system (read-only; the guest writes to
# memory). The guest is root, with the RDMA modules loaded.
#
# usage: vm.sh [--timeout S] [--mem MIB] [--kernel 6.12|6.1] [--wire DIR SELF PEER ADDR] [--] COMMAND ARGS
#        --wire connects this VM to a second one by sockets DIR/SELF and DIR/PEER; ADDR is this one's address
# env:   FERRY_VM_ACCEL  tcg (default) or kvm: some /dev/kvm hang a guest, so never by default
#        FERRY_SOFTROCE  vm (default), or host: run the command here, on this machine's own rxe link (deploy/softroce/up.sh)
# Exit:  the command's status; 77 with a reason when a means is missing; 124 on the time limit.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
limit=300 mem=2048 wire_args= wire_addr= cpus=2 flavour=${FERRY_VM_KERNEL:-6.12}
usage() { echo "usage: vm.sh [--timeout S] [--mem MIB] [--kernel 6.12|6.1] [--wire DIR SELF PEER ADDR] [--] COMMAND ARGS" >&2; exit 2; }
while [ $# -gt 0 ]; do
	case $1 in
	--timeout) limit=$2; shift 2 ;;
	--mem) mem=$2; shift 2 ;;
	--kernel) flavour=$2; shift 2 ;;
	--wire)
		wire_args="-netdev dgram,id=wire,local.type=unix,local.path=$2/$3,remote.type=unix,remote.path=$2/$4"
		wire_args="$wire_args -device virtio-net-pci,netdev=wire,host_mtu=9000,mac=52:54:00:77:00:0${5##*.}"
		wire_addr=$5 cpus=1
		shift 5
		;;
	--) shift; break ;;
	-*) usage ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || usage

skip() { echo "skipped: $*"; exit 77; }

case ${FERRY_SOFTROCE:-vm} in
vm) ;;
host)
	netdev=$(PATH=$PATH:/usr/sbin:/sbin rdma link show 2>/dev/null | sed -n 's/^link rxe.* state ACTIVE .*netdev \([^ ]*\).*/\1/p' | head -n1)
	[ -n "$netdev" ] || skip "FERRY_SOFTROCE=host, but no active rxe link here: sudo deploy/softroce/up.sh"
	FERRY_RDMA_ADDR=$(PATH=$PATH:/usr/sbin:/sbin ip -4 -o addr show dev "$netdev" | awk '{ sub("/.*", "", $4); print $4; exit }')
	[ -n "$FERRY_RDMA_ADDR" ] || skip "FERRY_SOFTROCE=host, but $netdev has no IPv4 address"
	export FERRY_RDMA_ADDR FERRY_SERVER_ADDR=$FERRY_RDMA_ADDR
	exec timeout -k 10 "$limit" "$@"
	;;
*) echo "vm.sh: FERRY_SOFTROCE is '${FERRY_SOFTROCE}': say vm or host" >&2; exit 2 ;;
esac

command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is missing: run deploy/install-deps.sh"
image=$("$here/kernel.sh" "$flavour") || exit $?

accel=${FERRY_VM_ACCEL:-tcg}
# -cx16: the emulator once left the flags of a guest's cmpxchg16b (the kernel's
# slab allocator) wrong, and the kernel died of a double fault right after it.
# Without the instruction the kernel takes its own way round it.
case $accel in
tcg) accel_args="-accel tcg,thread=multi -cpu max,-cx16" ;;
kvm) accel_args="-accel kvm -cpu host" ;;
*) echo "vm.sh: FERRY_VM_ACCEL is '$accel': say tcg or kvm" >&2; exit 2 ;;
esac

run=$(mktemp -d "$(dirname "$image")/run.XXXXXX")
vm=
cleanup() {
	if [ -n "$vm" ]; then
		kill "$vm" 2>/dev/null || true
		wait "$vm" 2>/dev/null || true
	fi
	rm -rf "$run"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The job: environment that tests use, then the command, then its status on
# the console, then power off.
{
	echo "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb"
	echo "export FERRY_IN_VM=1 FERRY_VM_MODULES=$(printf %q "$image/root")"
	env | sed -n 's/^\(FERRY_[A-Z_]*\|[AUT]SAN_OPTIONS\|CMOCKA_[A-Z_]*\)=.*/\1/p' | grep -v '^FERRY_\(VM_\|IN_VM\|SOFTROCE\)' |
		while read -r name; do printf 'export %s=%q\n' "$name" "${!name}"; done
	[ -z "$wire_addr" ] || echo "export FERRY_VM_ADDR=$wire_addr"
	printf 'cd %q\n' "$PWD"
	printf '%q ' "$here/guest.sh" "$@"
	echo
	echo 'echo "FERRY-VM-EXIT $?"'
	echo 'echo o >/proc/sysrq-trigger; read -r _ </dev/console'
} >"$run/job"
chmod 755 "$run" "$run/job"

# In the background and by wait, so that a signal to this script acts at once;
# --pdeathsig: whoever kills this script takes the VM along.
# maxcpus=1: the kernel patches its own code most while it boots, and emulation
# with a thread for each CPU may let another CPU run a stale breakpoint of such
# a patch ("Oops: int3"). /init brings the other CPUs up when that is done.
start_guest() {
	rm -f "$run/console"
	mkfifo "$run/console"
	# shellcheck disable=SC2086
	setpriv --pdeathsig TERM timeout -k 5 "$limit" setpriv --pdeathsig KILL \
		qemu-system-x86_64 -M q35 $accel_args -smp $cpus -m "$mem" -nodefaults -display none -no-reboot -serial "file:$run/kernel" \
		-kernel "$image/vmlinuz" -initrd "$image/initrd" \
		-append "console=ttyS0 quiet loglevel=3 panic=-1 maxcpus=1 mitigations=off nokaslr random.trust_cpu=on ferry.job=$run/job" \
		-chardev stdio,id=job,signal=off -device virtio-serial-pci -device virtconsole,chardev=job \
		-device virtio-rng-pci $wire_args \
		-virtfs local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap \
		</dev/null >"$run/console" 2>"$run/qemu.err" &
	vm=$!
	{ tr -d '\r' | tee "$run/serial" | sed -u '/^FERRY-VM-EXIT /,$d'; } <"$run/console" &
	filter=$!
	wait "$vm" || true
	wait "$filter" || true
	vm=
	status=$(sed -n 's/^FERRY-VM-EXIT \([0-9]*\)$/\1/p' "$run/serial" | tail -n1)
}

# Only that fault of the emulator is worth another start: it says nothing of
# the command, and a guest leaves nothing behind.
status=
for attempt in 1 2 3; do
	start_guest
	if [ -n "$status" ] || ! grep -q 'Oops: int3' "$run/kernel"; then
		break
	fi
	echo "vm.sh: start $attempt of at most 3: the emulator ran a stale breakpoint of the guest's kernel (Oops: int3)"
done
if [ -z "$status" ]; then
	cat "$run/qemu.err" >&2
	tail -n 40 "$run/kernel"
	echo "vm.sh: the guest ended without a status: it crashed, or ran longer than $limit s" >&2
	exit 124
fi
exit "$status"
