#!/bin/bash
# Removes what up.sh made: the soft-RoCE device and its veth pair. Modules stay.
#
# usage: down.sh [--name rxe0]
set -eu
name=rxe0
case ${1:-} in
"") ;;
--name) name=${2:?usage: down.sh [--name rxe0]} ;;
*) echo "usage: down.sh [--name rxe0]" >&2; exit 2 ;;
esac
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "down.sh: needs root: sudo $0" >&2; exit 1; }
if rdma link show "$name/1" >/dev/null 2>&1; then
	rdma link delete "$name"
fi
if [ -e /sys/class/net/ferry-rx0 ]; then
	ip link del ferry-rx0
fi
