#!/bin/bash
# No deadline, timeout or figure stands on the wall clock: when it jumps, nothing may happen.
# usage: clock.sh TREE
set -eu
cd "$1"
# lock.c gives its condition variables the monotonic clock.
bad=$(grep -rnE 'CLOCK_REALTIME|gettimeofday|[^_a-z]time\((NULL|0)\)|(cond_timedwait|sem_timedwait|mutex_timedlock)\(' \
	--include='*.[ch]' client server common proto | grep -v '^common/base/lock\.c:.*pthread_cond_timedwait' || true)
grep -q 'pthread_condattr_setclock(&attr, CLOCK_MONOTONIC)' common/base/lock.c || bad+=' common/base/lock.c: which clock?'
[ -z "$bad" ] || { echo "the wall clock is looked at:"; echo "$bad"; exit 1; }
echo "no deadline on the wall clock"
