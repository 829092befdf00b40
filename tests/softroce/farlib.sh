# For the scenarios: ferryd on the server's host, its token copied to this one.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/guestlib.sh"
: "${FERRY_SERVER_ADDR:=$FERRY_RDMA_ADDR}" "${FERRY_BUILD:?the build folder}"

# ferryd_start SIZE: up and listening, FERRY_SERVERS and FERRY_TOKEN_FILE set for clients here.
ferryd_start() {
	wait_for 90 "answer of the server's host" server_run true
	server_spawn ferryd "$FERRY_BUILD/server/ferryd --pool name=far,size=$1 --listen $FERRY_SERVER_ADDR:7470 --fabric verbs --token-file /tmp/ferryd.token"
	wait_for 60 "ferryd on port 7470" port_open "$FERRY_SERVER_ADDR" 7470
	(umask 077 && server_run "cat /tmp/ferryd.token" >/tmp/client.token)
	export FERRY_TOKEN_FILE=/tmp/client.token
	export FERRY_SERVERS="ferry://$FERRY_SERVER_ADDR:7470?fabric=verbs"
}

ferryd_signal() { server_run "kill -$1 \$(cat /tmp/ferryd.pid)"; }

# ferryd_gone SECONDS: waits until the process has ended.
ferryd_gone() { wait_for "$1" "end of ferryd" server_run '! kill -0 $(cat /tmp/ferryd.pid)'; }

on_fail() { server_run "tail -n 20 /tmp/ferryd.log" | sed 's/^/ferryd: /'; }
