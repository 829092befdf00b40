/* The table of backings, and what they share. See backing.h. */
#include "backing.h"

#include <errno.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static const struct ferryi_backing *const backings[] = {&ferryi_backing_anon, &ferryi_backing_memfd,
							&ferryi_backing_file, NULL};

const struct ferryi_backing *ferryi_backing_find(const char *name)
{
	for (unsigned i = 0; backings[i]; i++) {
		if (strcmp(backings[i]->name, name) == 0)
			return backings[i];
	}
	return NULL;
}

const struct ferryi_backing *ferryi_backing_at(unsigned index)
{
	return index < sizeof(backings) / sizeof(backings[0]) ? backings[index] : NULL;
}

int ferryi_backing_bind(void *base, size_t len_bytes, int numa_node)
{
	unsigned long mask[16] = {0};
	const unsigned long bits = 8 * sizeof(mask[0]);

	if (numa_node < 0)
		return 0;
	if ((unsigned long)numa_node >= bits * (sizeof(mask) / sizeof(mask[0])))
		return -EINVAL;
	mask[(unsigned long)numa_node / bits] = 1UL << ((unsigned long)numa_node % bits);
	return mbind(base, len_bytes, MPOL_BIND, mask, bits * (sizeof(mask) / sizeof(mask[0])), 0) ? -errno
												   : 0;
}

/* ---- many threads ---- */

#define THREADS_MAX 16

struct parallel {
	int (*work)(void *ctx, size_t i);
	void *ctx;
	size_t n;
	/* atomic: every thread takes its next piece from here */
	_Atomic size_t next;
	/* atomic: the first error; the others see it and stop */
	_Atomic int error;
};

static void *parallel_main(void *arg)
{
	struct parallel *parallel = arg;
	size_t i;

	while (!atomic_load(&parallel->error) && (i = atomic_fetch_add(&parallel->next, 1)) < parallel->n) {
		int none = 0, rc = parallel->work(parallel->ctx, i);

		if (rc)
			atomic_compare_exchange_strong(&parallel->error, &none, rc);
	}
	return NULL;
}

int ferryi_backing_parallel(size_t n, int (*work)(void *ctx, size_t i), void *ctx)
{
	struct parallel parallel = {.work = work, .ctx = ctx, .n = n};
	pthread_t threads[THREADS_MAX];
	sigset_t all, before;
	cpu_set_t cpus;
	size_t want = 1, started = 0;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		want = (size_t)CPU_COUNT(&cpus);
	want = want < THREADS_MAX ? want : THREADS_MAX;
	want = want < n ? want : n;
	/* Signals are the main thread's. The calling thread works too, so one that cannot be started does no
	 * harm. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (started + 1 < want && !pthread_create(&threads[started], NULL, parallel_main, &parallel))
		started++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	parallel_main(&parallel);
	while (started)
		pthread_join(threads[--started], NULL);
	return atomic_load(&parallel.error);
}
