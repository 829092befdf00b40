#!/bin/bash
# Two VMs, two kernels, two soft-RoCE devices, one private wire (a pair of
# Unix sockets): the server's host runs agent.sh, the client's the script
# given here, which drives both through guestlib.sh.
#
# Two namespaces of one kernel cannot stand for this: up to 6.12 at least,
# rdma_rxe sends by the routes and receives by the sockets of the initial
# network namespace, so a link in another one is ACTIVE and carries nothing.
#
# usage: two.sh [--timeout S] [--mem MIB] [--kernel 6.12|6.1] [--] SCRIPT ARGS
# Exit:  the script's status; 77 with a reason when a means is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
limit=300
args=()
while [ $# -gt 0 ]; do
	case $1 in
	--timeout) limit=$2; shift 2 ;;
	--mem | --kernel) args+=("$1" "$2"); shift 2 ;;
	--) shift; break ;;
	*) break ;;
	esac
done
[ $# -gt 0 ] || { echo "usage: two.sh [--timeout S] [--mem MIB] [--kernel 6.12|6.1] [--] SCRIPT ARGS" >&2; exit 2; }

[ "${FERRY_SOFTROCE:-vm}" = vm ] || exec "$here/vm.sh" --timeout "$limit" -- "$@"

# Before the second VM, so that a missing means is said once.
command -v qemu-system-x86_64 >/dev/null || { echo "skipped: qemu-system-x86_64 is missing: run deploy/install-deps.sh"; exit 77; }
"$here/kernel.sh" >/dev/null || exit $?

wire=$(mktemp -d "${TMPDIR:-/tmp}/ferry-wire.XXXXXX")
server='' client=''
# Each VM is told to end, and waited for.
cleanup() {
	local vm
	for vm in $server $client; do
		kill "$vm" 2>/dev/null || true
		wait "$vm" 2>/dev/null || true
	done
	rm -rf "$wire"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# vm SELF PEER ADDR COMMAND: goes down with this script, however that ends.
vm() {
	exec setpriv --pdeathsig TERM "$here/vm.sh" --timeout "$limit" ${args[@]+"${args[@]}"} --wire "$wire" "$1" "$2" "$3" -- "${@:4}"
}

export FERRY_TWO_VMS=1 FERRY_SERVER_ADDR=10.77.0.1
vm s c 10.77.0.1 "$here/agent.sh" >"$wire/server.log" 2>&1 &
server=$!
vm c s 10.77.0.2 "$@" &
client=$!
# In the background and by wait, so that a signal to this script acts at once.
status=0
wait "$client" || status=$?
client=
if [ "$status" != 0 ] && [ "$status" != 77 ]; then
	sed 's/^/server host: /' "$wire/server.log"
fi
exit "$status"
