#!/bin/bash
# ferryd on one host, programs on the other, over verbs: random use with every
# page verified, the sort example against sort(1), then SIGTERM.
set -eu
. "$(dirname "$0")/farlib.sh"
far=$FERRY_BUILD/tests/softroce/softroce_far
sort=$FERRY_BUILD/tests/softroce/softroce_sort

ferryd_start 128M
say "random use of 48 MiB with a budget of 8 MiB"
FERRY_LOCAL=8M timeout 200 "$far" 48 3000 || fail "random use"

say "sort of 16 MiB of text with a budget of 8 MiB"
# What the loop gives differs between machines; that it is text of this one does not.
find /usr/include /usr/share/perl* /usr/share/doc -type f \( -name '*.h' -o -name '*.pm' -o -name copyright \) -print0 2>/dev/null |
	xargs -0 cat 2>/dev/null | head -c $((16 << 20)) >/tmp/text || true
[ -s /tmp/text ] || fail "no text to sort"
timeout 250 "$sort" --local 8M /tmp/text /tmp/sorted || fail "the sort"
LC_ALL=C sort /tmp/text | cmp - /tmp/sorted || fail "the output is not sort(1)'s"

say "SIGTERM: the server drains and ends by itself"
ferryd_signal TERM
ferryd_gone 60
echo ok
