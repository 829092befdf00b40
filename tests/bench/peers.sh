#!/bin/bash
# Kernel swap on zram beside farferry, in one run on this machine: the same
# access program, the same content, the same RAM.
#
# usage: peers.sh [--size MIB] [--budget MIB] [--runs N] [--seconds N] [--out FILE]
#   --size MIB     memory that the program uses (default 256)
#   --budget MIB   of it in RAM (default: a quarter of the size)
#   --runs N       of each system and pattern, in turn (default 3)
#   --seconds N    begin nothing after this time (default 420)
#   --out FILE     JSON lines (default: bench/peers.jsonl in the build folder); a table and plots beside it
#
# As root, or there is no kernel swap. Programs of FERRY_BUILD (default build/release).
here=$(cd "$(dirname "$0")" && pwd)
. "$here/benchlib.sh"
size=256 budget='' runs=3 seconds=420 file=$FERRY_BUILD/bench/peers.jsonl
while [ $# -gt 0 ]; do
	case $1 in
	--size) size=${2:-}; shift 2 ;;
	--budget) budget=${2:-}; shift 2 ;;
	--runs) runs=${2:-}; shift 2 ;;
	--seconds) seconds=${2:-}; shift 2 ;;
	--out) file=${2:?}; shift 2 ;;
	*) usage ;;
	esac
done
for n in "$size" "${budget:=$((size / 4))}" "$runs" "$seconds"; do is_number "$n"; done
limit_one=60 # seconds, of one program
bench_begin "$file" bench_access
access=$(program bench_access)

systems=(ram)
if cgroup_open && swap_zram $((size + size / 4 + 64)); then
	systems+=(zram-0 zram-3)
fi
pool=$((size + 40))
ferryd_start local,tcp $((pool + pool % 2))
systems+=(local tcp)
for fabric in local tcp; do
	FERRY_SERVERS="$server_url?fabric=$fabric" emit limited "$(program ferry)" bench raw --runs 3 --json || fail "ferry bench raw over $fabric"
done
if FERRY_SERVERS="$server_url?fabric=local" limited "$(program ferry)" bench fault --mode inline --size 16M --count 200 --runs 1 >"$work/probe" 2>&1; then
	systems+=(local-inline tcp-inline)
else
	say "no inline mode: $(tail -n1 "$work/probe")"
fi

one() {
	local args=("$access" --size "$size" --system "$1" "$2")
	case $1 in
	ram) limited "${args[@]}" --plain ;;
	zram-*)
		echo "${1#zram-}" >/proc/sys/vm/page-cluster
		in_cgroup $((budget + bench_extra)) "${args[@]}" --plain
		;;
	*-inline) on_ferry "$server_url?fabric=${1%-inline}" "$budget" "${args[@]}" --inline ;;
	*) on_ferry "$server_url?fabric=$1" "$budget" "${args[@]}" ;;
	esac
}

for ((run = 1; run <= runs; run++)); do
	for pattern in seq random stencil sort; do
		for system in "${systems[@]}"; do
			if [ "$SECONDS" -ge "$seconds" ]; then
				say "the time is over: run $run of $runs ends before $pattern on $system"
				break 3
			fi
			case $system in
			zram-*) swapped "\"access\": \"$pattern\", \"system\": \"$system\"" one "$system" "$pattern" ;;
			*) emit one "$system" "$pattern" ;;
			esac || not_done "$pattern on $system"
		done
	done
done
bench_end
