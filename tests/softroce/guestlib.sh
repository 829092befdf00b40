# Sourced by the scripts that run in a soft-RoCE guest (or on a host with its
# own rdma_rxe). One host: FERRY_RDMA_ADDR is the address of the link. Two
# hosts: FERRY_SERVER_ADDR is the other one's, and server_run runs there.

# shellcheck shell=bash
FERRY_AGENT_PORT=7999

say() { echo "# $*"; }
on_fail() { :; } # a scenario may show more
fail() { on_fail; echo "FAILED: $*"; exit 1; }
skip() { echo "skipped: $*"; exit 77; }

# pause: a fifth of a second between two looks at a condition; every loop has a deadline.
exec {pause_fd}<> <(:)
pause() { read -r -t 0.2 -u "$pause_fd" _ || true; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds, or fail.
wait_for() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || fail "no $what in time"
		pause
	done
}

port_open() { timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2"; }

# server_run COMMAND: runs a shell line on the server's host; its output and status come back.
server_run() {
	local answer
	if [ -z "${FERRY_TWO_VMS:-}" ]; then
		bash -c "$1" </dev/null
		return
	fi
	answer=$(printf '%s\n' "$(printf %s "$1" | base64 -w0)" | timeout 120 busybox nc -w 10 "$FERRY_SERVER_ADDR" "$FERRY_AGENT_PORT")
	printf '%s\n' "$answer" | sed '/^AGENT-STATUS /d'
	answer=${answer##*AGENT-STATUS }
	return "${answer:-125}"
}

# server_spawn NAME COMMAND: starts a daemon there; log in /tmp/NAME.log, pid in /tmp/NAME.pid.
server_spawn() {
	server_run "setsid $2 >/tmp/$1.log 2>&1 </dev/null & echo \$! >/tmp/$1.pid"
}
