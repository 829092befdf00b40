#!/bin/bash
# The access program leaves the same content on plain memory and on farferry's, for each pattern, and farferry's really went
# to the server.
# usage: test_access.sh ACCESS FERRYD FERRY
set -eu
access=$1 ferryd=$2 ferry=$3
unset FERRY_SERVERS FERRY_POOL FERRY_TOKEN_FILE FERRY_MODE
export FERRY_FERRYD=$ferryd FERRY_LOCAL=6M FERRY_EMBEDDED_SIZE=64M
fail() { echo "test_access: $*" >&2; exit 1; }
member() { sed -nE "s/.*\"$1\": \"?([^,\"}]*).*/\1/p" <<<"$2"; }

run() { timeout 100 "$access" --size 16 --accesses 3000 --steps 1 "$@"; }
can_page=yes
doctor=$("$ferry" doctor --no-trial 2>&1) || ! grep -A1 '^fail  uffd' <<<"$doctor" || can_page=no
for pattern in seq random stencil sort; do
	plain=$(run --plain "$pattern") || fail "$pattern on plain memory: status $?"
	echo "$plain"
	[ "$(member checksum "$plain")" != 0000000000000000 ] || fail "$pattern: no checksum"
	[ "$(member checksum "$plain")" != "$(member checksum "$(run --plain --seed 2 "$pattern")")" ] ||
		fail "$pattern: the checksum does not depend on the content"
	[ $can_page = yes ] || continue
	far=$(run "$pattern") || fail "$pattern on farferry: status $?"
	echo "$far"
	[ "$(member checksum "$far")" = "$(member checksum "$plain")" ] || fail "$pattern: other content than on plain memory"
	[ "$(member bytes_in "$far")" -gt 0 ] || fail "$pattern: nothing was read from the server, this proves nothing"
	[ "$(member peak_resident_bytes "$far")" -le $((6 << 20)) ] || fail "$pattern: over the budget"
done
status=0
run --plain nonsense 2>/dev/null || status=$?
[ $status = 2 ] || fail "an unknown pattern: status $status"
[ $can_page = yes ] || { echo "skipped: farferry's memory: no userfaultfd"; exit 77; }
echo ok
