#!/bin/busybox sh
# shellcheck shell=dash disable=SC2093
# /init of the VM: the host's root file system, read-only by 9p, under an
# overlay in memory, so that a guest may write anywhere and the host stays as
# it is. Then the job of the kernel command line (ferry.job=PATH) runs in it.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1

die() {
	echo "guest: $*"
	echo "FERRY-VM-EXIT 125"
	echo o >/proc/sysrq-trigger
	$B sleep 60
}

for m in /modules/*.ko; do
	$B insmod "$m" || die "insmod $m failed"
done
# Output by a virtio console from now on: the serial port needs an interrupt for every few bytes, and under emulation
# one was lost, and the writer slept for good. The kernel's own messages go there still, without interrupts.
[ ! -c /dev/hvc0 ] || exec </dev/hvc0 >/dev/hvc0 2>&1
# The kernel booted with one CPU (vm.sh says why); the job has all of them.
for cpu in /sys/devices/system/cpu/cpu[1-9]*/online; do
	[ ! -e "$cpu" ] || echo 1 >"$cpu" || die "$cpu does not come online"
done
job=
for word in $($B cat /proc/cmdline); do
	case $word in ferry.job=*) job=${word#ferry.job=} ;; esac
done
$B mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose root /host || die "no host root by 9p"
$B mount -t tmpfs -o size=75% tmpfs /top
$B mkdir -p /top/upper /top/work
$B mount -t overlay -o lowerdir=/host,upperdir=/top/upper,workdir=/top/work overlay /new || die "no overlay"

$B mount -t proc proc /new/proc
$B mount -t sysfs sys /new/sys
$B mount -t devtmpfs dev /new/dev
$B mkdir -p /new/dev/shm /new/dev/pts
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
	$B ln -s "${link#*:}" "/new/dev/${link%%:*}"
done
$B mount -t tmpfs -o mode=1777 tmpfs /new/dev/shm
$B mount -t devpts devpts /new/dev/pts
$B mount -t tmpfs -o mode=755 tmpfs /new/run
exec $B switch_root /new /bin/bash "$job"
die "no switch_root"
