#!/bin/bash
# The main job, on this machine: sorts at least 512 MiB of its own text by a
# program whose memory is four times its local budget; the rest is at a server,
# reached over tcp on loopback. Proves the output, then reports.
#
# usage: deploy/demo.sh [--size MIB] [--local MIB] [--keep]
#   --size MIB    text to sort (default 512)
#   --local MIB   budget of local memory (default 256; working memory must be at least 4 times that)
#   --keep        leave the text and the outputs in build/demo
# Builds and installs under build/demo only; needs root or sudo once, for Debian packages.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
size=512 budget=256 keep=no
usage() { sed -n '/^# usage/,/^# Builds/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
number() { case ${1:-} in '' | *[!0-9]* | 0*) echo "demo.sh: '${1:-}' is no number of MiB" >&2; exit 2 ;; esac; echo "$1"; }
while [ $# -gt 0 ]; do
	case $1 in
	--size) size=$(number "${2:-}"); shift 2 ;;
	--local) budget=$(number "${2:-}"); shift 2 ;;
	--keep) keep=yes; shift ;;
	*) usage ;;
	esac
done

out=$top/build/demo
server=
step() { printf '\n== %s\n' "$*"; }
fail() { echo "demo.sh: $*" >&2; exit 1; }
stop_server() {
	[ -n "$server" ] || return 0
	kill "$server" 2>/dev/null || true
	wait "$server" 2>/dev/null || server_status=$?
	server=
}
cleanup() {
	stop_server
	rm -rf "$out/state"
	[ "$keep" = yes ] || rm -f "$out/text" "$out/text."* "$out/sorted" "$out/sorted-local"
}
server_status=0
trap cleanup EXIT
trap 'echo; echo "demo.sh: interrupted" >&2; exit 130' INT
trap 'exit 143' TERM HUP

[ $((2 * size)) -ge $((4 * budget)) ] || fail "sorting $size MiB takes $((2 * size)) MiB, less than 4 times a budget of $budget MiB: raise --size or lower --local"
# What the server must lend: text, runs, index, and room for whole sub-sections.
pool=$((2 * size + budget / 4 + 64))
pool=$((pool + pool % 2))
have=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
need=$((pool + budget + 256))
[ "$have" -ge "$need" ] || fail "needs $need MiB of memory, $have MiB are available: give a smaller --size with --local a half of it"
mkdir -p "$out"
disk=$(df -Pm "$out" | awk 'NR == 2 { print $4 }')
[ "$disk" -ge $((3 * size + 512)) ] || fail "needs $((3 * size + 512)) MiB of disk in $out, $disk MiB are free"

step "packages"
"$top/deploy/install-deps.sh" build
echo "all there"

step "build and install into build/demo/prefix"
jobs=$(nproc)
cmake -S "$top" -B "$out/cmake" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DFERRY_TESTS=OFF \
	-DCMAKE_INSTALL_PREFIX="$out/prefix" -DCMAKE_INSTALL_LIBDIR=lib >"$out/cmake.log" 2>&1 ||
	{ tail -n 20 "$out/cmake.log"; fail "cmake failed (above; all of it in build/demo/cmake.log)"; }
cmake --build "$out/cmake" -j "$jobs" >"$out/build.log" 2>&1 ||
	{ tail -n 30 "$out/build.log"; fail "the build failed (above; all of it in build/demo/build.log)"; }
cmake --install "$out/cmake" >"$out/install.log" 2>&1 ||
	{ tail -n 20 "$out/install.log"; fail "the installation failed (above)"; }
# As a user's own program: by the installed header, library and pkg-config file.
mkdir -p "$out/bin"
PKG_CONFIG_PATH=$out/prefix/lib/pkgconfig make -s -C "$top/client/examples" O="$out/bin" "$out/bin/03-sort" ||
	fail "the example does not build against the installed library"
"$out/prefix/bin/ferryd" --version 2>/dev/null || true

step "text: at least $size MiB of this machine's own"
mib() { echo $(($(stat -c %s "$1") / 1048576)); }
gather() {
	cat /var/lib/dpkg/status /var/lib/dpkg/info/*.list /var/lib/dpkg/info/*.md5sums 2>/dev/null
	find /var/lib/apt/lists -maxdepth 1 -type f -name '*_Packages' -exec cat {} + 2>/dev/null
	find /usr/share/doc /usr/share/man -type f -name '*.gz' -exec zcat -q {} + 2>/dev/null
	find /usr/share/doc /usr/share/common-licenses -type f \( -name copyright -o -name '*.txt' -o -name 'README*' -o -name '*.html' -o -name 'GPL*' \) -exec cat {} + 2>/dev/null
	find /usr/include /usr/lib/gcc -type f -name '*.h' -exec cat {} + 2>/dev/null
	find /usr/lib/python3 /usr/lib/python3.* /usr/share/perl /usr/share/perl5 -type f \( -name '*.py' -o -name '*.p[lm]' \) -exec cat {} + 2>/dev/null
}
export LC_ALL=C
# A little over the size, and no more.
limit=$((size * 1048576 + 1048576))
{ gather || true; } | head -c "$limit" >"$out/text.0"
first=$(mib "$out/text.0")
echo "package lists, documentation, headers and scripts: $first MiB, $(wc -l <"$out/text.0") lines"
[ "$first" -ge 1 ] || fail "found no text on this machine"
mv "$out/text.0" "$out/text"
cp "$out/text" "$out/text.0"
pass=0
while [ "$(mib "$out/text")" -lt "$size" ]; do
	# Once more over the same lines, each with its first word at its end: still real words, other lines.
	pass=$((pass + 1))
	awk 'NF > 0 { first = $1; $1 = ""; print substr($0, 2), first }' "$out/text.0" >"$out/text.1"
	mv "$out/text.1" "$out/text.0"
	head -c $((limit - $(stat -c %s "$out/text"))) "$out/text.0" >>"$out/text"
	echo "pass $pass over it, lines rotated by a word: $(mib "$out/text") MiB"
done
rm -f "$out/text.0"

step "server: ferryd on 127.0.0.1, tcp, a pool of $pool MiB"
rm -rf "$out/state"
mkdir -m 700 "$out/state"
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=7470
while port_open $port; do port=$((port + 1)); done
"$out/prefix/bin/ferryd" --pool "name=demo,size=${pool}M" --listen "127.0.0.1:$port" --fabric tcp \
	--token-file "$out/state/token" >"$out/ferryd.log" 2>&1 &
server=$!
exec {pause}<> <(:)
end=$((SECONDS + 60))
until port_open $port; do
	kill -0 $server 2>/dev/null || { server=; cat "$out/ferryd.log" >&2; fail "ferryd did not start (above)"; }
	[ $SECONDS -lt $end ] || { cat "$out/ferryd.log" >&2; fail "ferryd does not listen on port $port after 60 s"; }
	read -r -t 0.1 -u "$pause" _ || true
done
echo "pid $server, port $port, log build/demo/ferryd.log"

step "sort with $budget MiB of local memory"
FERRY_SERVERS="ferry://127.0.0.1:$port?fabric=tcp" FERRY_TOKEN_FILE=$out/state/token timeout 1800 \
	"$out/bin/03-sort" --local "${budget}M" --progress --report "$out/report.json" "$out/text" "$out/sorted" ||
	{ status=$?; tail -n 5 "$out/ferryd.log" >&2; fail "the sort failed with status $status"; }
stop_server
[ "$server_status" = 0 ] || fail "ferryd ended with status $server_status after SIGTERM: see build/demo/ferryd.log"

step "the same program, all in local memory"
timeout 1800 "$out/bin/03-sort" --all-local --local "${budget}M" --report "$out/report-local.json" "$out/text" "$out/sorted-local" ||
	fail "the all-local sort failed"

step "check against LC_ALL=C sort"
sort -S 512M -T "$out" "$out/text" | cmp - "$out/sorted" || fail "the output differs from LC_ALL=C sort's"
cmp "$out/sorted" "$out/sorted-local" || fail "the all-local output differs"
echo "identical, $(mib "$out/sorted") MiB"

figure() { sed -n "s/.*\"$1\": \"\{0,1\}\([^,\"}]*\).*/\1/p" "$out/${2:-report.json}"; }
working=$(figure working_bytes)
limit_bytes=$(figure budget_bytes)
peak=$(figure peak_resident_bytes)
[ "$limit_bytes" = $((budget * 1048576)) ] || fail "the budget was $limit_bytes bytes, not $budget MiB"
[ "$peak" -le "$limit_bytes" ] || fail "peak resident $peak bytes is over the budget of $limit_bytes"
[ "$working" -ge $((4 * limit_bytes)) ] || fail "working memory $working bytes is less than 4 times the budget"
[ "$(figure bytes_in)" -gt 0 ] || fail "nothing was read from the server: this proved nothing"

step "report"
awk -v working="$working" -v budget="$limit_bytes" -v peak="$peak" -v faults="$(figure faults)" -v major="$(figure faults_major)" \
	-v p50="$(figure fault_us_p50)" -v p99="$(figure fault_us_p99)" -v bin="$(figure bytes_in)" -v bout="$(figure bytes_out)" \
	-v hit="$(figure hit_rate)" -v far="$(figure seconds)" -v near="$(figure seconds report-local.json)" 'BEGIN {
	m = 1048576
	printf "output           identical to LC_ALL=C sort\n"
	printf "working memory   %.0f MiB, %.1f times the budget\n", working / m, working / budget
	printf "peak resident    %.1f MiB of a budget of %.0f MiB\n", peak / m, budget / m
	printf "faults           %d, %d of them read from the server; p50 %.1f us, p99 %.1f us\n", faults, major, p50, p99
	printf "traffic          %.0f MiB in, %.0f MiB out\n", bin / m, bout / m
	printf "hit rate         %.2f %% of page visits needed no wait for the server\n", hit * 100
	printf "time             %.1f s; all local %.1f s: %.2f times as long\n", far, near, far / near
}'
