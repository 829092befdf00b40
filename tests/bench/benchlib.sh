# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by the scripts here: a ferryd, a memory cgroup with kernel swap behind
# it, and JSON lines. Scripts set limit_one (seconds, of one program) and use
# server_url and bench_extra. What it starts or sets is undone by bench_cleanup, which
# is the EXIT trap: servers ended, swap off, devices reset, vm.page-cluster as
# it was, cgroup removed.
set -eu
bench_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bench_top=$(cd "$bench_here/../.." && pwd)
: "${FERRY_BUILD:=$bench_top/build/release}"
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C OMP_WAIT_POLICY=passive
unset FERRY_SERVERS FERRY_POOL FERRY_TOKEN_FILE FERRY_LOCAL FERRY_MODE
# What the library keeps outside the budget for its two threads (FERRY_THREAD_RESERVE), and a program under kernel swap
# gets beside the budget too: both have the same RAM.
bench_extra=8

bench_name=${0##*/}
say() { echo "# $*" >&2; }
fail() { echo "$bench_name: $*" >&2; exit 1; }
usage() { sed -n '/^# usage/,/^[^#]/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
is_number() { case ${1:-} in '' | *[!0-9]* | 0*) fail "'${1:-}' is no number" ;; esac; }

server='' cgroup='' cgroup_file='' swap_device='' zram='' page_cluster='' work='' out=''

# Each step whatever became of those before.
bench_cleanup() {
	set +e
	trap - INT TERM HUP
	if [ -n "$job" ]; then
		kill -- "-$job" 2>/dev/null
		wait "$job" 2>/dev/null
	fi
	ferryd_stop
	swap_off
	[ -z "$page_cluster" ] || echo "$page_cluster" >/proc/sys/vm/page-cluster
	[ -z "$cgroup" ] || [ ! -d "$cgroup" ] || rmdir "$cgroup"
	[ -z "$work" ] || rm -rf "$work"
}
job=

# bench_begin OUT PROGRAM...: traps, scratch folder, the programs are there, the output begins.
bench_begin() {
	local program
	out=$1
	shift
	for program in ferry ferryd "$@"; do
		[ -x "$(program "$program")" ] || fail "no $(program "$program"): build first, or name the build in FERRY_BUILD"
	done
	trap bench_cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-bench.XXXXXX")
	mkdir -p "$(dirname "$out")"
	: >"$out"
	host_line
}

# Where a program of the build is.
program() {
	case $1 in
	ferry) echo "$FERRY_BUILD/client/tool/ferry" ;;
	ferryd) echo "$FERRY_BUILD/server/ferryd" ;;
	*) echo "$FERRY_BUILD/tests/bench/$1" ;;
	esac
}

# not_done WHAT: it took too long, or its content was wrong, as said before; the rest goes on.
bench_status=0
not_done() {
	say "$1: not done, or wrong (above)"
	bench_status=1
}

# The last line, the table, and the script's status.
bench_end() {
	host_line
	"$bench_here/table.sh" "$out" || bench_status=1
	exit $bench_status
}

# What the figures were taken on. More than a little load makes them worthless.
host_line() {
	printf '{"host": "%s", "cpu": "%s", "cpus": %d, "mem_mib": %d, "load1": %s, "date": "%s", "commit": "%s"}\n' \
		"$(uname -sr)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1)" "$(nproc)" \
		"$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)" "$(cut -d' ' -f1 /proc/loadavg)" \
		"$(date -u +%FT%TZ)" "$(git -C "$bench_top" rev-parse --short HEAD 2>/dev/null || echo unknown)" | tee -a "$out"
}

# emit COMMAND...: its lines of JSON to stdout and the output; in the background and by wait, so that a signal acts at once.
emit() {
	local status=0
	set -m # a process group of its own, to be ended as one
	"$@" >"$work/lines" 2>"$work/err" </dev/null &
	job=$!
	set +m
	wait "$job" || status=$?
	job=
	cat "$work/err" >&2
	grep '^{' "$work/lines" | tee -a "$out" || true
	return $status
}

# limited COMMAND...: for limit_one seconds at most; in the process group of its caller.
limited() { timeout --foreground -k 5 "$limit_one" "$@"; }

# ---- servers ----

# ferryd_start FABRICS MIB [ADDRESS]: $server_url, and its token in FERRY_TOKEN_FILE.
ferryd_start() {
	mkfifo "$work/ready"
	"$(program ferryd)" --pool "name=bench,size=$2M" --listen "${3:-127.0.0.1}:0" --fabric "$1" --token-file "$work/token" \
		--ready-fd 3 --log-level warn 3>"$work/ready" 2>"$work/ferryd.log" &
	server=$!
	read -r server_url <"$work/ready" || { cat "$work/ferryd.log" >&2; fail "ferryd did not start"; }
	rm "$work/ready"
	export FERRY_TOKEN_FILE=$work/token
}

ferryd_stop() {
	[ -n "$server" ] || return 0
	kill "$server" 2>/dev/null || true
	wait "$server" 2>/dev/null || true
	server=
}

# on_ferry URL BUDGET_MIB COMMAND...
on_ferry() {
	FERRY_SERVERS=$1 FERRY_LOCAL=$2M limited "${@:3}"
}

# ---- kernel swap in a cgroup ----

# A cgroup whose memory can be limited, version 2 or 1; 1 with a reason on stderr.
cgroup_open() {
	local root
	page_cluster=$(cat /proc/sys/vm/page-cluster)
	[ "$(id -u)" = 0 ] || { say "no kernel swap: not root"; return 1; }
	for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
		if grep -qw memory "$root/cgroup.controllers" 2>/dev/null; then
			grep -qw memory "$root/cgroup.subtree_control" || echo +memory >"$root/cgroup.subtree_control" || return 1
			cgroup=$root/ferry-bench.$$ cgroup_file=memory.max
			break
		fi
	done
	if [ -z "$cgroup" ]; then
		[ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || { say "no kernel swap: no cgroup has a memory controller here"; return 1; }
		cgroup=/sys/fs/cgroup/memory/ferry-bench.$$ cgroup_file=memory.limit_in_bytes
	fi
	mkdir "$cgroup"
}

# cgroup_limit BYTES|max
cgroup_limit() {
	local limit=$1
	[ "$1$cgroup_file" != maxmemory.limit_in_bytes ] || limit=-1
	echo "$limit" >"$cgroup/$cgroup_file"
}

# in_cgroup MIB COMMAND...: the command alone, in the cgroup, with that much RAM.
in_cgroup() {
	cgroup_limit $(($1 << 20))
	# shellcheck disable=SC2016
	limited bash -c 'echo $$ >"$0" && exec "$@"' "$cgroup/cgroup.procs" "${@:2}"
}

# Under heavy swapping the kernel may find nothing to reclaim in a cgroup full of pages (its count of inactive ones lags
# behind) and end the program. Then once more, and the line says how often that happened.
# swapped NAMES COMMAND...: NAMES are the members that name the run, '"access": "sort", "system": "zram-0"'.
swapped() {
	local names=$1 status killed=0
	shift
	while :; do
		status=0
		emit "$@" || status=$?
		[ $status = 137 ] || break
		killed=$((killed + 1))
		[ $killed -lt 4 ] || break
	done
	[ $killed = 0 ] || printf '{%s, "killed": %d, "done": %s}\n' "$names" $killed "$([ $status = 0 ] && echo true || echo false)" | tee -a "$out"
	[ $status = 0 ] || [ $status = 137 ]
}

# swap_on DEVICE: before all other swap.
swap_on() {
	mkswap "$1" >/dev/null
	swapon -p 32767 "$1"
	swap_device=$1
}

# swap_zram MIB: 1 with a reason on stderr if there is none.
swap_zram() {
	[ -e /sys/class/zram-control/hot_add ] || modprobe zram num_devices=0 2>/dev/null || true
	[ -e /sys/class/zram-control/hot_add ] || { say "no kernel swap on zram: this kernel has none"; return 1; }
	zram=$(cat /sys/class/zram-control/hot_add)
	until [ -b "/dev/zram$zram" ] && [ -w "/sys/block/zram$zram/disksize" ]; do :; done
	echo "$1M" >"/sys/block/zram$zram/disksize"
	swap_on "/dev/zram$zram"
}

swap_off() {
	[ -z "$cgroup" ] || cgroup_limit max # for what is still there of it, files in memory
	[ -z "$swap_device" ] || swapoff "$swap_device"
	swap_device=
	[ -z "$zram" ] || { echo 1 >"/sys/block/zram$zram/reset"; echo "$zram" >/sys/class/zram-control/hot_remove; }
	zram=
}
