#!/bin/sh
# install_examples.sh SOURCE PREFIX LIBDIR WORK
# Builds the examples against the installed library, with CMake and with pkg-config, and runs them in small with an
# embedded server; the parallel ones also with a server of this host, over the local fabric.
set -eu
source=$1 prefix=$2 lib=$2/$3 work=$4
fail() { echo "install_examples: $*" >&2; exit 1; }

# A program that hangs is named, with status 124, and does not take the test's whole time.
limit() { timeout -k 5 120 "$@"; }
flags="-O1 -g"
[ -z "${FERRY_SANITIZE:-}" ] || flags="$flags -fsanitize=$FERRY_SANITIZE -fno-omit-frame-pointer"
unset FERRY_SERVERS FERRY_FERRYD FERRY_POOL FERRY_TOKEN_FILE LD_LIBRARY_PATH
rm -rf "$work"
mkdir -p "$work/make"

{
	cmake -S "$source" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_C_COMPILER="${CC:-cc}" -DCMAKE_C_FLAGS="$flags" &&
		cmake --build "$work/cmake"
} > "$work/cmake.log" 2>&1 || { cat "$work/cmake.log" >&2; fail "the CMake package does not do"; }
PKG_CONFIG_PATH=$lib/pkgconfig make -C "$source" O="$work/make" CC="${CC:-cc}" CFLAGS="$flags" > "$work/make.log" 2>&1 ||
	{ cat "$work/make.log" >&2; fail "pkg-config ferry does not do"; }

# Without userfaultfd there is nothing to run.
if "$prefix/bin/ferry" doctor --no-trial > "$work/doctor.txt" 2>&1; then :; elif grep -q '^fail  uffd' "$work/doctor.txt"; then
	echo "install_examples: built; not run, no userfaultfd:" && grep -A1 '^fail  uffd' "$work/doctor.txt"
	exit 77
fi

cd "$work"
# On a busy machine OpenMP's threads that spin take the time of those that work.
export OMP_WAIT_POLICY=passive
export FERRY_EMBEDDED_SIZE=256M FERRY_LOCAL=8M
# self_checked FOLDER [OPTION]: programs that check their own results, each with more memory than the budget.
self_checked() {
	limit "$1/06-cg" ${2:-} > cg || { cat cg >&2; fail "$1/06-cg ${2:-}: exit $?"; }
	limit "$1/07-gups" --updates 20000 ${2:-} > gups || { cat gups >&2; fail "$1/07-gups ${2:-}: exit $?"; }
	limit "$1/08-bfs" --scale 16 --searches 1 ${2:-} > bfs || { cat bfs >&2; fail "$1/08-bfs ${2:-}: exit $?"; }
	cat cg gups bfs
}
# The machine's own text, and numbers so that it is more than the budget holds; then NULs, empty and long lines, and no newline
# at the end.
{
	{ cat /usr/share/common-licenses/* /var/lib/dpkg/status /var/lib/dpkg/info/*.list 2> /dev/null || true; } | head -c 12000000
	awk 'BEGIN { for (i = 0; i < 300000; i++) print (i * 7919) % 1000003, "line" }'
	printf '\n\n\0\0b\n\0a\nzz\n'
	head -c 100000 /dev/zero
	printf '\nlast, without a newline'
} > input
LC_ALL=C sort input > expected
for built in cmake make; do
	limit "$built/01-hello" || fail "$built/01-hello: exit $?"
	limit "$built/02-adopt" 32 || fail "$built/02-adopt: exit $?"
	limit "$built/04-stencil" --grid 96 --steps 3 --check || fail "$built/04-stencil: exit $?"
	self_checked "$built"
	limit "$built/03-sort" --progress --report report.json input output 2> progress || { cat progress >&2; fail "$built/03-sort: exit $?"; }
	cmp output expected || fail "$built/03-sort: not what LC_ALL=C sort gives"
	grep -q '^merge 100 %' progress || fail "$built/03-sort: no progress shown"
	limit "$built/03-sort" --all-local input output > /dev/null || fail "$built/03-sort --all-local: exit $?"
	cmp output expected || fail "$built/03-sort --all-local: not what LC_ALL=C sort gives"
done
limit make/04-stencil --grid 96 --steps 3 --all-local || fail "make/04-stencil --all-local: exit $?"
self_checked make --all-local

# A job, and a watcher beside it; each step is computed by both, and nobody but the watcher ends the job.
mkfifo ready life
exec 5<> life
"$prefix/bin/ferryd" --pool name=hot,size=64M --listen 127.0.0.1:0 --fabric tcp,local --token-file "$work/token" --ready-fd 3 \
	--lifeline-fd 4 --log-level warn 3> ready 4< life 5>&- 2> ferryd.log &
read -r address < ready || { cat ferryd.log >&2; fail "ferryd did not start"; }
export FERRY_TOKEN_FILE="$work/token"
export FERRY_SERVERS="$address?fabric=local"
self_checked make
export FERRY_SERVERS="$address?fabric=tcp"
for built in cmake make; do
	mkfifo "said.$built"
	limit "$built/05-inspect" job "heat.$built" --grid 64 --steps 1000000 --pace 20 --local 4M 5>&- > "said.$built" 2> "job.$built" &
	job=$!
	exec 6< "said.$built"
	read -r line <&6 || { cat "job.$built" >&2; fail "$built/05-inspect job: says nothing"; }
	limit "$built/05-inspect" watch "heat.$built" "${line##* }" --looks 5 --check --stop > watched || {
		cat watched >&2
		fail "$built/05-inspect watch: exit $?"
	}
	[ "$(grep -c '^step' watched)" -eq 5 ] || { cat watched >&2; fail "$built/05-inspect watch: not 5 steps"; }
	read -r line <&6 || :
	wait $job || { cat "job.$built" >&2; fail "$built/05-inspect job: exit $?"; }
	case $line in "stopped after"*) ;; *) fail "$built/05-inspect job: not stopped: $line" ;; esac
	exec 6<&-
done
if limit cmake/05-inspect watch heat.cmake 0 2> gone; then fail "05-inspect watch: no job, no error"; fi
grep -q 'no mirror of that name' gone || { cat gone >&2; fail "05-inspect watch: the error is not clear"; }
exec 5>&-
unset FERRY_SERVERS FERRY_TOKEN_FILE

# What the report says of the budget must hold.
field() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" report.json; }
[ "$(field budget_bytes)" -eq 8388608 ] || fail "report: budget $(field budget_bytes)"
[ "$(field peak_resident_bytes)" -le 8388608 ] || fail "report: peak resident $(field peak_resident_bytes) is over the budget"
[ "$(field bytes_in)" -gt 0 ] || fail "report: nothing was read back, the test proves nothing"

# The small shapes of input, each against sort.
sort_one() {
	limit make/03-sort --local 4M "$1" out > /dev/null || fail "03-sort of $1: exit $?"
	LC_ALL=C sort "$1" > want
	cmp out want || fail "03-sort of $1: not what LC_ALL=C sort gives"
}
: > empty
printf x > one
printf '\n' > newline
printf 'b\na' > unfinished
awk 'BEGIN { for (i = 0; i < 400000; i++) print "" }' > newlines
awk 'BEGIN { for (i = 0; i < 100000; i++) print "the same line" }' > same
awk 'BEGIN { for (i = 200000; i > 0; i--) printf "%07d\n", i }' > reversed
head -c 3000000 /dev/urandom > noise
for f in empty one newline unfinished newlines same reversed noise; do sort_one "$f"; done
echo "install_examples: ok"
