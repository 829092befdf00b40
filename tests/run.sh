#!/bin/bash
# Builds farferry in every way and runs all its tests: release with gcc (every
# label, the soft-RoCE VMs too), clang, AddressSanitizer + UBSan, ThreadSanitizer,
# a fuzz smoke. Says what was skipped and why. The last line has the totals.
#
# usage: tests/run.sh [--quick] [--no-vm] [--only LABEL] [--no-deps]
#   --quick        the release build and its tests only
#   --no-vm        no soft-RoCE VMs
#   --only LABEL   tests of one CTest label: unit contract scenario chaos softroce fuzz checks
#   --no-deps      install no packages
# Needs no terminal and leaves nothing running. Logs: build/logs.
set -u
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top" || exit 1
quick=no vm=yes only='' deps=yes
usage() { sed -n '/^# usage/,/^# Needs/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=yes; shift ;;
	--no-vm) vm=no; shift ;;
	--no-deps) deps=no; shift ;;
	--only)
		only=${2:-}
		case $only in
		unit | contract | scenario | chaos | softroce | fuzz | checks | bench) shift 2 ;;
		*) echo "run.sh: --only takes one of: unit contract scenario chaos softroce fuzz checks bench" >&2; exit 2 ;;
		esac
		;;
	*) usage ;;
	esac
done

jobs=$(nproc)
logs=$top/build/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
reasons=$logs/skipped.txt failures=$logs/failed.txt
: >"$reasons"
: >"$failures"
# Whatever is started from here carries this, so that the end can see what is left.
FERRY_TEST_RUN=run-$$-$(date +%s)
export FERRY_TEST_RUN
export CTEST_OUTPUT_ON_FAILURE=1 CLICOLOR=0

say() { printf '\n== %s\n' "$*"; }

# Processes with the mark that are not below this one any more: orphans.
left_running() {
	local dir pid up
	for dir in /proc/[0-9]*; do
		pid=${dir#/proc/}
		tr '\0' '\n' 2>/dev/null <"$dir/environ" | grep -qx "FERRY_TEST_RUN=$FERRY_TEST_RUN" || continue
		up=$pid
		while [ "${up:-0}" -gt 1 ] && [ "$up" != $$ ]; do
			up=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$up/status" 2>/dev/null)
		done
		[ "$up" = $$ ] || [ ! -e "$dir/status" ] || echo "$pid"
	done 2>/dev/null
}
finish() {
	local pid
	for pid in $(left_running); do
		kill "$pid" 2>/dev/null || true
	done
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# step NAME SECONDS COMMAND...: one build step; its output only if it fails.
step() {
	local name=$1 limit=$2 begin=$SECONDS log
	shift 2
	log=$logs/${name//[^a-z0-9]/-}.log
	if timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null; then
		printf 'ok      %-32s %4d s\n' "$name" $((SECONDS - begin))
		return 0
	fi
	printf 'FAILED  %-32s %4d s  (%s)\n' "$name" $((SECONDS - begin)) "${log#"$top"/}"
	tail -n 40 "$log"
	failed=$((failed + 1))
	echo "$name" >>"$failures"
	return 1
}

# build PRESET [TARGET...]
build() {
	local preset=$1 targets=()
	shift
	[ $# = 0 ] || targets=(--target "$@")
	step "configure $preset" 300 cmake --preset "$preset" &&
		step "build $preset" 1500 cmake --build --preset "$preset" -j "$jobs" ${targets[@]+"${targets[@]}"}
}

# tests BUILD LABELS NOT-LABELS [NOT-NAMES]: ctest there; counts, and collects why tests were skipped.
tests() {
	local name=$1 with=$2 without=$3 but=${4:-} log=$logs/ctest-$1.log prefix='' total skips fails
	# Sanitizers of this age want their shadow where full randomisation may put a library.
	case $name in asan | tsan | fuzz) prefix="setarch $(uname -m) -R" ;; esac
	say "tests: $name"
	[ -z "$only" ] || with="^$only\$"
	[ "$vm" = yes ] || without="$without|softroce"
	local args=(-L "$with" -LE "$without")
	[ -z "$but" ] || args+=(-E "$but")
	# Two more than processors: many tests wait for most of their time, hmm_stress takes what the others leave, and a VM
	# often has one thread.
	# shellcheck disable=SC2086
	timeout -k 30 1500 $prefix ctest --test-dir "build/$name" -j $((jobs + 2)) "${args[@]}" --no-tests=ignore >"$log" 2>&1 </dev/null
	local status=$?
	grep -aE '^ *[0-9]+/[0-9]+ Test|tests passed|Total Test time|^\*\*\*|tests FAILED' "$log" || true
	total=$(grep -acE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:' "$log")
	skips=$(grep -acE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:.*\*\*\*Skipped' "$log")
	fails=$(grep -aE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:' "$log" | grep -avcE ' Passed |\*\*\*Skipped')
	passed=$((passed + total - skips - fails))
	skipped=$((skipped + skips))
	failed=$((failed + fails))
	grep -aE '^ *[0-9]+/[0-9]+ Test +#[0-9]+:' "$log" | grep -avE ' Passed |\*\*\*Skipped' |
		sed -E "s/^.*Test +#[0-9]+: ([^ ]+).*/\1 ($name)/" >>"$failures"
	if [ "$status" != 0 ] && [ "$fails" = 0 ]; then
		echo "FAILED  ctest itself in build/$name: status $status (124: over its time)"
		failed=$((failed + 1))
		echo "ctest ($name)" >>"$failures"
	fi
	[ "$fails" = 0 ] || { echo "output of what failed:"; sed -n '/\*\*\*Failed\|\*\*\*Timeout\|\*\*\*Exception\|\*\*\*Not Run/,/^ *[0-9]*\/[0-9]* Test/p' "$log" | grep -avE ' Passed |^ *Start ' | tail -n 200; }
	skip_reasons "$name"
}

# One line for each skipped test, with the last reason that it printed; and for
# the parts of a test that were skipped, with a reason where one was printed.
skip_reasons() {
	local last=build/$1/Testing/Temporary/LastTest.log
	[ -e "$last" ] || return 0
	awk -v where="$1" '
		FNR == NR { if (/\*\*\*Skipped/) { name = $0; sub(/^.*Test +#[0-9]+: */, "", name); sub(/ .*/, "", name); is_skipped[name] = 1 } next }
		/^[0-9]+\/[0-9]+ Testing: / { test = $3; why = part_why = quiet = last = ""; n = 0; split("", seen) }
		/^(# )?(SKIP|SKIPPED|[Ss]kipped?)[:,] / { why = $0; sub(/^(# )?[A-Za-z]+[:,] */, "", why); part_why = why }
		/^<end of output>/ { ended = 1 }
		/^Output:/ { ended = 0 }
		!ended && /[^-[:space:]]/ && !/^Output:/ { last = $0 }
		/^\[ RUN / { part_why = "" }
		/^\[  SKIPPED \] [a-z]/ && !/test\(s\)/ && !($4 in seen) {
			seen[$4] = 1
			if (part_why != "") printf "%s (%s), %s: %s\n", test, where, $4, part_why
			else { quiet = quiet " " $4; n++ }
		}
		/^"?.* end time: / && test != "" {
			if (test in is_skipped) printf "%s (%s): %s\n", test, where, why == "" ? last : why
			else if (n > 0) printf "%s (%s), %d parts that do not apply to it:%s\n", test, where, n, quiet
			test = ""
		}
	' "$logs/ctest-$1.log" "$last" >>"$reasons"
}

begin=$SECONDS
say "packages and builds"
if [ "$deps" = yes ]; then
	step "packages" 2400 deploy/install-deps.sh test || exit 1
fi
before=$(git status --porcelain 2>/dev/null)

run_release=no
if build release; then run_release=yes; fi
if [ "$quick" = no ] && [ -z "$only" ]; then
	build clang
fi
run_asan=no run_tsan=no run_fuzz=no
if [ "$quick" = no ] && [ "$only" != softroce ] && [ "$only" != checks ]; then
	if build asan; then run_asan=yes; fi
	if build tsan; then run_tsan=yes; fi
	# The fuzz targets alone: clang's sanitizers cannot be linked into a library that leaves no name undefined.
	# shellcheck disable=SC2046
	if build fuzz $(basename -s .c tests/fuzz/fuzz_*.c); then run_fuzz=yes; fi
fi

export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1
# report_signal_unsafe: a fault on inline memory is a synchronous signal, whose handler may do what inline.h says.
export TSAN_OPTIONS=halt_on_error=0:second_deadlock_stack=1:die_after_fork=0:report_signal_unsafe=0
# The rdm row and the embedded server repeat what tcp and local have shown, slowly: release alone runs them. So it is with tcp
# where only the transport differs (stress, failures, copies and faults stay), and with tools that sanitizers slow down.
[ $run_asan = no ] || tests asan . 'bench|checks' 'contract_rdm|_embedded$|install_examples|tool_command|scenario_(pool|mirror)_.*_tcp'
# ThreadSanitizer sees no locks inside libfabric, which is not built with it, nor inside libgomp (the examples), and
# supports no threads in the child of a fork (hmm_stress leaves its forks out by itself). What differs between rows is the
# transport alone: of the tcp row, stress and failures; the rest has shown itself over local.
[ $run_tsan = no ] || tests tsan 'unit|contract|scenario' 'bench' 'contract_(tcp|rdm|verbs)|install_|tool_command|_embedded$|server_options|pager_fork_(local|tcp|embedded)|scenario_(pool|mirror|failure_net|pager_(fork|inline|memory|ranges|replica|stream|strip)).*_tcp|trust_hostile'
[ $run_fuzz = no ] || tests fuzz '^fuzz$' bench
# The tests of label bench check that programs are right; nothing that is timed is a test.
[ $run_release = no ] || tests release . timed

say "the tree and the machine, afterwards"
if [ -e .git ] && command -v git >/dev/null; then
	if [ "$before" = "$(git status --porcelain 2>/dev/null)" ]; then
		echo "ok      the working tree is as it was"
		passed=$((passed + 1))
	else
		echo "FAILED  tests changed the working tree:"
		diff <(printf '%s\n' "$before") <(git status --porcelain) | sed -n 's/^[<>]/   /p'
		failed=$((failed + 1))
		echo "clean tree" >>"$failures"
	fi
else
	echo "clean tree: no git checkout" >>"$reasons"
	skipped=$((skipped + 1))
fi
left=$(left_running | tr '\n' ' ')
if [ -z "${left// /}" ]; then
	echo "ok      nothing is left running"
	passed=$((passed + 1))
else
	echo "FAILED  left running:"
	for pid in $left; do
		echo "    $pid $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
	done
	failed=$((failed + 1))
	echo "left running" >>"$failures"
fi

[ "$vm" = yes ] || echo "everything of softroce: --no-vm" >>"$reasons"
[ "$quick" = no ] || echo "clang, sanitizers and libFuzzer: --quick" >>"$reasons"
[ -z "$only" ] || echo "every label but $only: --only" >>"$reasons"
if [ -s "$reasons" ]; then
	say "skipped, and why"
	cat "$reasons"
fi
if [ -s "$failures" ]; then
	say "failed"
	cat "$failures"
fi
say "summary ($((SECONDS - begin)) s)"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
