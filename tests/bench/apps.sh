#!/bin/bash
# shellcheck disable=SC2317
# Applications (client/examples) with 100, 75, 50, 37 and 25 % of their memory
# in RAM: how much slower than all local, on farferry and under kernel swap.
#
# usage: apps.sh [--scale N] [--percents LIST] [--apps LIST] [--systems LIST] [--runs N] [--threads N] [--seconds N] [--out FILE]
#   --scale N        size: about 2^N times 48 MiB of memory each (default 0)
#   --percents LIST  default 100,75,50,37,25
#   --apps LIST      default sort,stencil,cg,gups,bfs
#   --systems LIST   default zram-0,local,tcp; also zram-3, local-inline, tcp-inline
#   --runs N         of each (default 1); the table has medians
#   --threads N      of OpenMP (default: one for each CPU)
#   --seconds N      begin nothing after this time (default 420)
#   --out FILE       JSON lines (default: bench/apps.jsonl in the build folder); a table and plots beside it
#
# What counts is what each program counts: the sort from its input to its
# output, the stencil with its first values, cg, gups and bfs without making
# their data. As root, or there is no kernel swap. Programs of FERRY_BUILD (default build/release).
here=$(cd "$(dirname "$0")" && pwd)
. "$here/benchlib.sh"
scale=0 percents=100,75,50,37,25 apps=sort,stencil,cg,gups,bfs systems=zram-0,local,tcp runs=1 threads=$(nproc) seconds=420
file=$FERRY_BUILD/bench/apps.jsonl
while [ $# -gt 0 ]; do
	case $1 in
	--scale) scale=${2:-}; [ "$scale" = 0 ] || is_number "$scale"; shift 2 ;;
	--percents) percents=${2:-}; shift 2 ;;
	--apps) apps=${2:-}; shift 2 ;;
	--systems) systems=${2:-}; shift 2 ;;
	--runs) runs=${2:-}; is_number "$runs"; shift 2 ;;
	--threads) threads=${2:-}; is_number "$threads"; shift 2 ;;
	--seconds) seconds=${2:-}; is_number "$seconds"; shift 2 ;;
	--out) file=${2:?}; shift 2 ;;
	*) usage ;;
	esac
done
IFS=, read -ra percents <<<"$percents"
IFS=, read -ra apps <<<"$apps"
IFS=, read -ra systems <<<"$systems"
limit_one=90 # seconds, of one program
export OMP_NUM_THREADS=$threads
bench_begin "$file" bench_sort bench_stencil bench_cg bench_gups bench_bfs

# arguments APP: for about 48 MiB of memory, and twice as much for each step of scale.
text=$work/text
arguments() {
	local grid=(146 184 232 292 368 464)
	case $1 in
	sort) echo "$text /dev/null" ;;
	stencil) echo "--grid ${grid[scale]:?--scale is 5 at most} --steps 10" ;;
	cg) echo "--rows $((17 + scale)) --layers 27" ;;
	gups) echo "--words $((22 + scale)) --updates 50000" ;; # 32 MiB
	bfs) echo "--scale $((18 + scale)) --edges 20 --searches 1" ;;
	*) fail "no application '$1'; there are sort, stencil, cg, gups, bfs" ;;
	esac
}
# 22 MiB of lines that no compressor makes small, but for what base64 adds.
make_text() { head -c $((16 << (20 + scale))) /dev/urandom | base64 -w 63 >"$text"; }

# run APP SYSTEM PERCENT MIB: one JSON line. The figures come from the program's own line; of all local, MIB is its size.
run() {
	local app=$1 system=$2 percent=$3 budget=$4 args status=0 said
	read -ra args <<<"$(arguments "$app")"
	case $system in
	ram | zram-*)
		args=(--all-local "${args[@]}")
		[ "$app" != sort ] || args=(--local "${budget}M" "${args[@]}")
		;;
	esac
	args=("$(program "bench_$app")" "${args[@]}")
	case $system in
	ram) limited "${args[@]}" ;;
	zram-*)
		echo "${system#zram-}" >/proc/sys/vm/page-cluster
		in_cgroup $((budget + bench_extra)) "${args[@]}"
		;;
	*-inline) FERRY_MODE=inline on_ferry "$server_url?fabric=${system%-inline}" "$budget" "${args[@]}" ;;
	*) on_ferry "$server_url?fabric=$system" "$budget" "${args[@]}" ;;
	esac >"$work/said" || status=$?
	if [ $status != 0 ]; then
		cat "$work/said" >&2
		return $status
	fi
	said=$(tr '\n' ' ' <"$work/said")
	case $app in
	sort) sed -nE 's/.* in [0-9]+ runs, ([0-9.]+) s .*working memory ([0-9.]+) MiB.*/\2 \1/p' <<<"$said" ;;
	*) sed -nE 's/^[^;]* ([0-9.]+) MiB[^,;]*, ([0-9.]+) s.*/\1 \2/p' <<<"$said" ;;
	esac >"$work/figures"
	read -r mib took <"$work/figures" || { echo "no figures in: $said" >&2; return 1; }
	[ "$system" = ram ] || budget_of=", \"budget_mib\": $budget"
	printf '{"app": "%s", "system": "%s", "percent": %d, "mib": %.1f, "seconds": %s%s, "threads": %d}\n' "$app" "$system" "$percent" "$mib" "$took" "${budget_of:-}" "$threads"
}

# budget MIB PERCENT: rounded up, at least what the library takes.
budget() { awk -v m="$1" -v p="$2" 'BEGIN { b = m * p / 100; b = b == int(b) ? b : int(b) + 1; print b < 4 ? 4 : b }'; }

make_text
largest=$((160 << scale))
if [[ " ${systems[*]} " == *" zram-"* ]] && ! { cgroup_open && swap_zram $((2 * largest)); }; then
	for i in "${!systems[@]}"; do [[ ${systems[i]} != zram-* ]] || unset "systems[i]"; done
fi
ferryd_start local,tcp $largest
for ((run = 1; run <= runs; run++)); do
	for app in "${apps[@]}"; do
		# How much memory it takes is what it says of itself; the sort's two arrays are known, and its index is a quarter of the budget.
		if [ "$app" != sort ]; then
			emit run "$app" ram 100 0 || fail "$app, all local, ended with status $?"
			mib=$(tail -n1 "$out" | sed 's/.*"mib": \([0-9.]*\).*/\1/')
		fi
		for percent in "${percents[@]}"; do
			if [ "$app" = sort ]; then
				mib=$(awk -v b="$(stat -c %s "$text")" -v p="$percent" 'BEGIN { print 2 * b / 1048576 / (1 - p / 400) }')
				emit run sort ram "$percent" "$(budget "$mib" "$percent")" || fail "sort, all local, ended with status $?"
			fi
			for system in "${systems[@]}"; do
				if [ "$SECONDS" -ge "$seconds" ]; then
					say "the time is over: ends before $app on $system at $percent %"
					break 4
				fi
				swapped "\"app\": \"$app\", \"system\": \"$system\", \"percent\": $percent" run "$app" "$system" "$percent" "$(budget "$mib" "$percent")" ||
					not_done "$app on $system at $percent %"
			done
		done
	done
done
bench_end
