#!/bin/bash
# Prints the folder of an unpacked Debian kernel for the VM: vmlinuz, initrd,
# and root/lib/modules. Fetches it by apt-get download on first use and keeps
# it under build/, outside git. Nothing is installed on this machine.
#
# usage: kernel.sh [FLAVOUR]   6.12 (default) or 6.1
# Exit: 0, or 77 with a reason on stderr when the kernel cannot be had.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
flavour=${1:-${FERRY_VM_KERNEL:-6.12}}
cache=${FERRY_VM_CACHE:-$top/build/softroce}
work=

skip() { echo "skipped: $*" >&2; exit 77; }
cleanup() { [ -z "$work" ] || rm -rf "$work"; }
trap cleanup EXIT

case $flavour in
6.1) meta=linux-image-amd64 ;;
6.12) meta=linux-image-6.12-amd64 ;;
*) echo "kernel.sh: unknown kernel '$flavour': say 6.12 or 6.1" >&2; exit 2 ;;
esac

[ "$(uname -m)" = x86_64 ] || skip "the soft-RoCE VM is x86-64 only; this is $(uname -m)"
for tool in apt-get apt-cache dpkg cpio depmod modprobe xz busybox flock; do
	command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
		skip "'$tool' is missing: run deploy/install-deps.sh"
done
PATH=$PATH:/usr/sbin:/sbin
ldd "$(command -v busybox)" >/dev/null 2>&1 &&
	skip "busybox is not static: install busybox-static (deploy/install-deps.sh)"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock -w 300 9 || { echo "kernel.sh: $cache/lock is held for more than 300 s" >&2; exit 1; }

# What a killed run left behind.
find "$cache" -maxdepth 2 \( -name 'run.*' -o -name 'fetch.*' -o -name 'initrd.*' \) -type d -mmin +1440 -exec rm -rf {} + 2>/dev/null || true

# A kernel that is there already is good enough: no network is needed then.
dest=$cache/$flavour
if [ ! -e "$dest/complete" ]; then
	work=$(mktemp -d "$cache/fetch.XXXXXX")
	fetch() {
		image=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: *\(linux-image-[0-9].*\)/\1/p' | head -n1)
		[ -n "$image" ] || { echo "apt knows no $meta: is Debian's security suite enabled?" >"$work/log"; return 1; }
		echo "fetching $image (once, about 100 MB)" >&2
		(cd "$work" && timeout 600 apt-get -q -o Acquire::Retries=2 download "$image" >log 2>&1)
	}
	# Lists that are older than the archive name a package that is gone: then, as root, once more with fresh ones.
	fetch || { [ "$(id -u)" = 0 ] && timeout 300 apt-get -qq update >/dev/null 2>&1 && fetch; } ||
		skip "no kernel package: $(tail -n 1 "$work/log"); try 'apt-get update'"
	dpkg -x "$work"/*.deb "$work/root"
	# Debian's own images keep modules in /lib or, later, /usr/lib.
	[ -d "$work/root/lib/modules" ] || { mkdir -p "$work/root/lib" && mv "$work/root/usr/lib/modules" "$work/root/lib/"; }
	release=$(ls "$work/root/lib/modules")
	mv "$work/root/boot/vmlinuz-$release" "$work/vmlinuz"
	rm -rf "$work"/*.deb "$work/log" "$work/root/boot" "$work/root/usr"
	depmod -b "$work/root" "$release"
	echo "$release" >"$work/release"
	rm -rf "$dest"
	mv "$work" "$dest"
	work=
	touch "$dest/complete"
fi

# The initramfs follows guest-init.sh, so it is remade whenever that is newer.
release=$(cat "$dest/release")
if [ ! -e "$dest/initrd" ] || [ "$here/guest-init.sh" -nt "$dest/initrd" ] || [ "$here/kernel.sh" -nt "$dest/initrd" ]; then
	work=$(mktemp -d "$cache/initrd.XXXXXX")
	mkdir -p "$work/bin" "$work/modules" "$work/proc" "$work/sys" "$work/dev" "$work/host" "$work/new" "$work/top"
	cp "$(command -v busybox)" "$work/bin/busybox"
	cp "$here/guest-init.sh" "$work/init"
	chmod 755 "$work/init" "$work/bin/busybox"
	n=10
	for module in virtio_pci virtio_console 9pnet_virtio 9p overlay; do
		modprobe -d "$dest/root" -S "$release" --show-depends "$module" 2>/dev/null
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
		name=$n-$(basename "$file")
		case $file in
		*.xz) xz -dc "$file" >"$work/modules/${name%.xz}" ;;
		*.zst) zstd -qdc "$file" >"$work/modules/${name%.zst}" ;;
		*) cp "$file" "$work/modules/$name" ;;
		esac
		n=$((n + 1))
	done
	[ -n "$(find "$work/modules" -name '*9p*' -print -quit)" ] || skip "no 9p modules in $dest/root: remove $dest and try again"
	(cd "$work" && find . | cpio -o -H newc --quiet -R 0:0 | gzip -1) >"$dest/initrd.new"
	mv "$dest/initrd.new" "$dest/initrd"
fi
echo "$dest"
