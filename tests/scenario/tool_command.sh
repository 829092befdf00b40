#!/bin/sh
# tool_command.sh PREFIX WORK
# The `ferry` command: wrong use, pools and doctor against a real server, each benchmark in small.
set -eu
ferry=$1/bin/ferry ferryd=$1/bin/ferryd work=$2
fail() { echo "tool_command: $*" >&2; exit 1; }
rm -rf "$work"
mkdir -p "$work"
cd "$work"
unset FERRY_SERVERS FERRY_FERRYD FERRY_POOL FERRY_TOKEN_FILE FERRY_LOCAL LD_LIBRARY_PATH

# expect STATUS LINES WORDS ARGS...: that exit status, that many lines of error, these words in them.
expect() {
	status=$1 lines=$2 words=$3
	shift 3
	set +e
	timeout -k 5 120 "$ferry" "$@" > out 2> err
	got=$?
	set -e
	[ $got -eq "$status" ] || { cat out err >&2; fail "ferry $*: exit $got, not $status"; }
	[ "$(wc -l < err)" -eq "$lines" ] || { cat err >&2; fail "ferry $*: not $lines line(s) of error"; }
	cat out >> err
	grep -q -e "$words" err || { cat err >&2; fail "ferry $*: says nothing of \"$words\""; }
}

# Wrong use: one clear line, exit 2.
expect 2 1 "no command given"
expect 2 1 'no command "frobnicate"' frobnicate
expect 0 0 "usage: ferry COMMAND" --help
expect 0 0 "^ferry [0-9]" --version
for command in doctor pools top drain bench; do
	expect 0 0 "usage: ferry $command" $command --help
	expect 0 0 "usage: ferry $command" help $command
	expect 2 1 "frobnicate" $command --frobnicate
done
expect 2 1 "no server named" pools
expect 2 1 "one word too many" pools extra
expect 2 1 "no server named" top
expect 2 1 "interval" top --interval=1
expect 2 1 "a host is wanted" top --servers etcd://
expect 2 1 "say which server" drain
expect 2 1 "deadline" drain ferry://127.0.0.1:1 --deadline=soon
expect 2 1 "say what to measure" bench
expect 2 1 'no benchmark "speed"' bench speed
expect 2 1 "size" bench fault --size=12parsecs
expect 2 1 "multiple of 2M" bench fault --size=17M
expect 2 1 "numbers of pages" bench stride --stride=1,,2
expect 2 1 "numbers of pages" bench stride --stride=0
expect 2 1 "numbers of pages" bench stride --stride=4096 --size=16M
expect 2 1 "mode" bench fault --mode=sideways
expect 2 1 "single URL" bench fault --servers ferry://a,ferry://b
# Nobody listens on port 1.
expect 1 1 "127.0.0.1:1" pools --servers ferry://127.0.0.1:1
expect 1 1 "127.0.0.1:1" top --once --servers ferry://127.0.0.1:1
expect 1 1 "127.0.0.1:1" drain ferry://127.0.0.1:1
expect 1 1 "127.0.0.1:1 cannot be reached" pools --servers etcd://127.0.0.1:1/ferry
expect 1 0 "fix:.*ferryd" doctor --no-trial --servers ferry://127.0.0.1:1

# A server, found by the line it writes to its ready descriptor; it ends with the life line, which this shell holds.
mkfifo ready life
exec 5<> life
"$ferryd" --pool name=hot,size=64M,backing=memfd --listen 127.0.0.1:0 --fabric local,tcp --token-file token --ready-fd 3 \
	--lifeline-fd 4 --log-level warn 3> ready 4< life 5>&- 2> ferryd.log &
read -r address < ready || { cat ferryd.log >&2; fail "ferryd did not start"; }
server=$address

expect 0 0 "hot" pools --servers "$server" --token-file token
expect 0 0 '"size_bytes":67108864' pools --servers "$server" --token-file token --json
# Its own session is there; a rate needs two looks, and its own requests make one.
expect 0 0 "^[0-9.:]*  *1  *0  *0  *-  *-  *0  *0$" top --servers "$server" --token-file token --once
expect 0 0 "^[0-9.:]*  *hot  *private  *64M  *64M  *0  *0  *-$" top --servers "$server" --token-file token --once
expect 0 0 '"requests_per_s":null.*"leased_bytes_per_s":null' top --servers "$server" --token-file token --once --json
expect 0 0 '"g_sessions":1.*"requests_per_s":[1-9].*"leased_bytes_per_s":0' top --servers "$server" --token-file token -n 2 -i 100ms --json
expect 0 0 "^[0-9.:]*  *1  *0  *0  *[1-9][0-9.]*  *0.0  *0  *0$" top --servers "$server" --token-file token -n 2 -i 100ms
# One that is away is a row of its own; the status says so at the end.
expect 1 1 "^ferry://127.0.0.1:1 .*nothing listens" top --servers "ferry://127.0.0.1:1,$server" --token-file token --once
expect 1 1 '"error":"nothing listens' top --servers "ferry://127.0.0.1:1,$server" --token-file token --once --json
head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > wrong
chmod 600 wrong
expect 1 1 "token" pools --servers "$server" --token-file wrong
expect 1 0 "fix:.*token" doctor --no-trial --servers "$server" --token-file wrong
expect 0 0 '"check": "server"' doctor --no-trial --servers "$server" --token-file token --json

if "$ferry" doctor > doctor.txt 2>&1; then :; elif grep -q '^fail  uffd' doctor.txt; then
	echo "tool_command: no userfaultfd, benchmarks not run:" && grep -A1 '^fail  uffd' doctor.txt
	exit 77
else
	cat doctor.txt >&2
	fail "ferry doctor: the main job cannot run here"
fi
grep -q '^ok .*trial' doctor.txt || fail "ferry doctor ran no trial"

# Every benchmark, over the server and over one of its own; the keys that readers of the JSON count on.
small="--size=16M --runs=1 --count=200 --json"
check_lines() {
	[ "$(wc -l < out)" -eq "$1" ] || { cat out >&2; fail "not $1 lines of figures"; }
	for key in bench fabric mode raw_us_p50 uffd_us_p50 us_p50 us_p99 mbps raw_mbps ratio hit_rate useless_rate count seed budget_bytes version; do
		[ "$(grep -c "\"$key\":" out)" -eq "$1" ] || { cat out >&2; fail "no \"$key\" in every line"; }
	done
	grep '"bench":"fault"' out | grep -q '"ratio":[0-9]' || { cat out >&2; fail "fault has no ratio"; }
}
# shellcheck disable=SC2086 # several words
expect 0 0 '"fabric":"tcp"' bench all $small --servers "$server" --token-file token --fabric tcp
check_lines 17
# shellcheck disable=SC2086
expect 0 0 '"fabric":"local"' bench all $small --stride=3,-1 --streams=2 # in place of the table's seven rows
check_lines 11
grep -q '"stride":"3,-1","streams":2' out || { cat out >&2; fail "no strides of one's own"; }
for mode in handler inline; do
	# shellcheck disable=SC2086
	expect 0 0 "\"mode\":\"$mode\"" bench fault $small --mode=$mode
	check_lines 1
done
expect 0 0 RATIO bench fault --size=16M --runs=1 --count=200
expect 1 1 "token" drain "$server" --token-file wrong
expect 0 0 "drained, and ended" drain "$server" --token-file token --deadline=60s
exec 5>&-
wait
echo "tool_command: ok"
