#!/bin/bash
# A network that drops some packets: nothing is lost. Then the server is taken
# away while pages are there: killed, and cut off by a network that drops
# everything. No zero, no hang, a reason.
set -eu
. "$(dirname "$0")/farlib.sh"
far=$FERRY_BUILD/tests/softroce/softroce_far
export FERRY_LOCAL=8M FERRY_FAULT_TIMEOUT=6000

# lost CAUSE COMMAND...: a client fills its memory, the command takes the server away, the client touches all of it.
lost() {
	local cause=$1 client status=0
	shift
	say "server lost: $cause"
	rm -f /tmp/go
	mkfifo /tmp/go
	# Slower hosts, slower answers: the deadline of one touch, and room for a busy machine.
	timeout 150 "$far" 32 200 --lost 30 </tmp/go >/tmp/far.log 2>&1 &
	client=$!
	exec 4>/tmp/go
	wait_for 100 "client that is ready ($cause)" grep -qE '^ready|FAILED' /tmp/far.log
	"$@"
	echo go >&4
	exec 4>&-
	wait "$client" || status=$?
	cat /tmp/far.log
	[ "$status" = 0 ] || fail "$cause: the client ended with status $status (124: it hung)"
}
kill_server() {
	ferryd_signal KILL
	ferryd_gone 30
}
cut_wire() { tc qdisc replace dev "$wire" root netem loss 100%; }

# A wire that loses packets, and is slow: what is lost is sent again by the transport, and nobody notices but by the time.
use_lossy_wire() {
	say "one packet in a hundred lost, each 2 ms late"
	tc qdisc replace dev "$wire" root netem loss 1% delay 2ms
	FERRY_LOCAL=4M FERRY_FAULT_TIMEOUT=60000 timeout 200 "$far" 6 30 || fail "use over a lossy wire"
	tc qdisc del dev "$wire" root
}

if [ -n "${FERRY_TWO_VMS:-}" ]; then
	wire=$(ip -4 -o addr show | awk -v a="$FERRY_RDMA_ADDR" 'index($4, a "/") == 1 { print $2 }')
	modprobe sch_netem || fail "this kernel has no sch_netem"
fi
ferryd_start 64M
[ -z "${FERRY_TWO_VMS:-}" ] || use_lossy_wire
lost killed kill_server
ferryd_start 64M
if [ -n "${FERRY_TWO_VMS:-}" ]; then
	lost "cut off" cut_wire
fi
echo ok
