#!/bin/bash
# The server's half of a two-VM test: takes shell lines from the client's VM
# (guestlib.sh, server_run) over the private wire between the two, until the
# VM is ended. Called again by nc for each connection, with --one.
set -u
if [ "${1:-}" = --one ]; then
	read -r line
	bash -c "$(printf %s "$line" | base64 -d)" 2>&1 </dev/null
	echo "AGENT-STATUS $?"
	exit 0
fi
exec busybox nc -ll -p 7999 -e "$0" --one
