#!/bin/bash
# shellcheck disable=SC2317
# Kernel swap over the network beside farferry over verbs: NBD, and NVMe over
# RDMA, in one boot of the soft-RoCE VM, on the same rxe link (tests/softroce);
# zram and the raw read of the link beside them. Times under emulation mean
# something only as ratios within the boot.
#
# usage: peers_vm.sh [--size MIB] [--budget MIB] [--systems LIST] [--runs N] [--out FILE]
#   --size MIB     memory that the program uses (default 64)
#   --budget MIB   of it in RAM (default: a quarter of the size)
#   --systems LIST default ram,verbs,zram,nbd,nvme
#   --runs N       of each (default 1)
#   --out FILE     JSON lines (default: bench/peers_vm.jsonl in the build folder); a table and plots beside it
#
# Needs deploy/install-deps.sh bench. Ten minutes at most.
here=$(cd "$(dirname "$0")" && pwd)
. "$here/benchlib.sh"
size=64 budget='' runs=1 systems=ram,verbs,zram,nbd,nvme file=$FERRY_BUILD/bench/peers_vm.jsonl guest=no
while [ $# -gt 0 ]; do
	case $1 in
	--size) size=${2:-}; shift 2 ;;
	--budget) budget=${2:-}; shift 2 ;;
	--systems) systems=${2:-}; shift 2 ;;
	--runs) runs=${2:-}; shift 2 ;;
	--out) file=${2:?}; shift 2 ;;
	--guest) guest=yes; shift ;;
	*) usage ;;
	esac
done
for n in "$size" "${budget:=$((size / 4))}" "$runs"; do is_number "$n"; done

if [ $guest = no ]; then
	for tool in nbd-server nbd-client; do
		command -v $tool >/dev/null || { echo "skipped: $tool is missing: run deploy/install-deps.sh bench"; exit 77; }
	done
	mkdir -p "$(dirname "$file")"
	FERRY_BUILD=$(cd "$FERRY_BUILD" && pwd)
	export FERRY_BUILD
	status=0
	"$here/../softroce/vm.sh" --timeout 580 --mem $((2048 + 8 * size)) -- "$here/peers_vm.sh" --guest --size "$size" --budget "$budget" --systems "$systems" --runs "$runs" |
		tee "${file%.jsonl}.log" || status=$?
	grep '^{.*}$' "${file%.jsonl}.log" >"$file" || true
	# What was measured beside what went wrong is worth a table.
	[ ! -s "$file" ] || "$here/table.sh" "$file"
	[ $status = 0 ] || fail "the VM ended with status $status, see ${file%.jsonl}.log"
	exit
fi

# ---- in the guest ----

limit_one=100 # seconds, of one program
bench_begin /tmp/peers_vm.jsonl bench_access bench_sort
access=$(program bench_access)
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cgroup_open

# wait_for SECONDS COMMAND...: until it succeeds; the loop has its deadline.
exec {never}<> <(:)
wait_for() {
	local end=$((SECONDS + $1))
	until "${@:2}" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		read -r -t 0.1 -u "$never" _ || true
	done
}
listens() { ss -Hltn | grep -q ":$1 "; }

raw_line() {
	timeout 60 ib_read_lat -F -x 1 -s 4096 -n 1000 >/tmp/ib.log 2>&1 &
	local pid=$!
	wait_for 30 listens 18515 || fail "ib_read_lat does not listen"
	timeout 60 ib_read_lat -F -x 1 -s 4096 -n 1000 "$FERRY_RDMA_ADDR" 2>/dev/null |
		awk '$1 == 4096 && $2 == 1000 { printf "{\"raw\": \"ib_read_lat\", \"us_p50\": %s, \"us_p99\": %s}\n", $5, $8 }'
	wait $pid || true
}

# What swap lies on; each sets $device, or returns 1 with a reason said.
nbd_up() {
	modprobe nbd nbds_max=1 || { say "nbd: no module"; return 1; }
	truncate -s "$((2 * size))M" /dev/shm/nbd
	dd if=/dev/zero of=/dev/shm/nbd bs=1M count=$((2 * size)) status=none # no first touch is measured
	nbd-server "$FERRY_RDMA_ADDR@10809" /dev/shm/nbd -C /dev/null >/tmp/nbd-server.log 2>&1 || { say "nbd-server: $(tail -n1 /tmp/nbd-server.log)"; return 1; }
	wait_for 20 listens 10809 || { say "nbd-server does not listen: $(tail -n1 /tmp/nbd-server.log)"; return 1; }
	timeout 30 nbd-client "$FERRY_RDMA_ADDR" 10809 /dev/nbd0 -b 4096 -swap >/tmp/nbd-client.log 2>&1 || { say "nbd-client: $(tail -n1 /tmp/nbd-client.log)"; return 1; }
	device=/dev/nbd0
}
nbd_down() { nbd-client -d /dev/nbd0 >/dev/null; rm -f /dev/shm/nbd; }

nvme_up() {
	local c=/sys/kernel/config/nvmet nqn=ferry-bench
	if ! { modprobe brd rd_nr=1 rd_size=$((2 * size * 1024)) && modprobe nvmet-rdma && modprobe nvme-rdma; }; then
		say "nvme: no modules"
		return 1
	fi
	dd if=/dev/zero of=/dev/ram0 bs=1M count=$((2 * size)) status=none
	mount -t configfs configfs /sys/kernel/config 2>/dev/null || [ -d $c ] || { say "nvme: no configfs"; return 1; }
	mkdir -p $c/subsystems/$nqn/namespaces/1 $c/ports/1
	echo 1 >$c/subsystems/$nqn/attr_allow_any_host
	echo -n /dev/ram0 >$c/subsystems/$nqn/namespaces/1/device_path
	echo 1 >$c/subsystems/$nqn/namespaces/1/enable
	echo ipv4 >$c/ports/1/addr_adrfam
	echo rdma >$c/ports/1/addr_trtype
	echo 4420 >$c/ports/1/addr_trsvcid
	echo "$FERRY_RDMA_ADDR" >$c/ports/1/addr_traddr
	ln -s $c/subsystems/$nqn $c/ports/1/subsystems/$nqn || { say "nvme: the target takes no port: $(dmesg | tail -n 2 | tr '\n' ' ')"; return 1; }
	echo "transport=rdma,traddr=$FERRY_RDMA_ADDR,trsvcid=4420,nqn=$nqn" >/dev/nvme-fabrics || { say "nvme: no connection: $(dmesg | tail -n 3 | tr '\n' ' ')"; return 1; }
	wait_for 20 test -b /dev/nvme0n1 || { say "nvme: connected, but no device: $(dmesg | tail -n 3 | tr '\n' ' ')"; return 1; }
	device=/dev/nvme0n1
}
nvme_down() { echo 1 >/sys/class/nvme/nvme0/delete_controller; }

one() {
	local args=("$access" --size "$size" --accesses 3000 --steps 1 --seconds 40 --wait-us 15 --system "$1" "$2")
	case $1 in
	ram) limited "${args[@]}" --plain ;;
	verbs*)
		[ "$1" = verbs ] || args+=(--inline)
		on_ferry "$server_url?fabric=verbs" "$budget" "${args[@]}"
		;;
	*) in_cgroup $((budget + bench_extra)) "${args[@]}" --plain ;;
	esac
}
# The example 03-sort, on text of half the memory.
sort_text() {
	local budget_sort=$((size / 4)) args
	args=(--local "$((size / 4))M" --report /tmp/report /tmp/text /tmp/sorted)
	case $1 in
	ram) limited "$(program bench_sort)" --all-local "${args[@]}" >&2 ;;
	verbs*) on_ferry "$server_url?fabric=verbs" "$budget_sort" "$(program bench_sort)" "${args[@]}" >&2 ;;
	*) in_cgroup $((budget_sort + bench_extra)) "$(program bench_sort)" --all-local "${args[@]}" >&2 ;;
	esac || return
	cmp -s /tmp/sorted /tmp/expected || { echo "the text is not sorted right" >&2; return 1; }
	sed -nE "s/.*\"working_bytes\": ([0-9]+).*\"seconds\": ([0-9.]+).*/\1 \2/p" /tmp/report |
		awk -v s="$1" '{ printf "{\"app\": \"sort\", \"system\": \"%s\", \"percent\": 25, \"mib\": %.1f, \"seconds\": %s}\n", s, $1 / 1048576, $2 }'
}
all_patterns() {
	local system=$1 pattern
	for pattern in seq random stencil; do
		swapped "\"access\": \"$pattern\", \"system\": \"$system\"" one "$system" "$pattern" || not_done "$pattern on $system"
	done
	swapped "\"app\": \"sort\", \"system\": \"$system\", \"percent\": 25" sort_text "$system" || not_done "03-sort on $system"
}

head -c $((3 * size << 17)) /dev/urandom | base64 -w 63 >/tmp/text
sort /tmp/text >/tmp/expected
emit raw_line
modprobe zram num_devices=0 || true
run_ram() { all_patterns ram; }
run_verbs() {
	ferryd_start verbs $((2 * size)) "$FERRY_RDMA_ADDR"
	all_patterns verbs
	if FERRY_SERVERS="$server_url?fabric=verbs" timeout 60 "$(program ferry)" bench fault --mode inline --size 16M --count 50 --runs 1 >"$work/probe" 2>&1; then
		all_patterns verbs-inline
	else
		say "no inline mode: $(tail -n1 "$work/probe")"
	fi
	ferryd_stop
}
run_zram() {
	swap_zram $((2 * size)) || return 0
	echo 0 >/proc/sys/vm/page-cluster
	all_patterns zram-0
	swap_off
}
run_swap() {
	local cluster
	if "$1_up"; then
		for cluster in 0 3; do
			swap_on "$device"
			echo $cluster >/proc/sys/vm/page-cluster
			all_patterns "$1-$cluster"
			swap_off
		done
		"$1_down"
	else
		say "no kernel swap over $1"
	fi
}
run_nbd() { run_swap nbd; }
run_nvme() { run_swap nvme; }

IFS=, read -ra systems <<<"$systems"
for system in "${systems[@]}"; do
	declare -F "run_$system" >/dev/null || fail "no system '$system'; there are ram, verbs, zram, nbd, nvme"
done
for ((run = 1; run <= runs; run++)); do
	for system in "${systems[@]}"; do
		"run_$system"
	done
done
say "all done"
exit $bench_status
