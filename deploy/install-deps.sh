#!/bin/bash
# Installs what farferry needs to build, to test or to compare it with others
# (tests/bench) on Debian 12, from packages.txt. Quick and quiet when all is
# there; asks no question.
#
# usage: install-deps.sh [build|test|bench]   test (default) includes build, bench both
set -eu
here=$(cd "$(dirname "$0")" && pwd)
what=${1:-test}
case $what in
build) sections=build ;;
test) sections="build test" ;;
bench) sections="build test bench" ;;
*) echo "usage: install-deps.sh [build|test|bench]" >&2; exit 2 ;;
esac
command -v dpkg-query >/dev/null || { echo "install-deps.sh: this is no Debian; install the likes of deploy/packages.txt by hand" >&2; exit 1; }

wanted=$(awk -v want=" $sections " '/^\[/ { on = index(want, " " substr($0, 2, length($0) - 2) " "); next } on && NF && !/^#/' "$here/packages.txt")

missing() {
	local p
	for p in $wanted; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done
}
need=$(missing | tr '\n' ' ')
[ -n "$need" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
		if [ ! -t 0 ] || ! command -v sudo >/dev/null; then
			echo "install-deps.sh: needs root for: apt-get install -y --no-install-recommends $need" >&2
			exit 1
		fi
	fi
	sudo=sudo
fi
apt() {
	$sudo env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l timeout 1800 \
		apt-get -y -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}
# Debian starts daemons that it installs (etcd, munged, nbd-server); the tests start their own, and nobody asked for others.
policy=/usr/sbin/policy-rc.d made_policy=no
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null && $sudo chmod 755 "$policy" && made_policy=yes
fi
log=$(mktemp)
trap 'rm -f "$log"; [ "$made_policy" = no ] || $sudo rm -f "$policy"' EXIT
echo "installing: $need"
# Package lists may be missing, or older than the archive: then once more with fresh ones.
# shellcheck disable=SC2086
if ! apt install --no-install-recommends $need >"$log" 2>&1; then
	{ apt update && apt install --no-install-recommends $need; } >"$log" 2>&1 || {
		tail -n 20 "$log" >&2
		echo "install-deps.sh: apt-get failed (above)" >&2
		exit 1
	}
fi
need=$(missing | tr '\n' ' ')
[ -z "$need" ] || { echo "install-deps.sh: still missing: $need" >&2; exit 1; }
