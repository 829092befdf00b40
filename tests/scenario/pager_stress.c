/*
 * Sixteen threads touch the same pages, each its own words of them, with
 * eviction, flushes and COLD advice beside them: a million operations, every
 * word checked against a model in plain memory.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "pager_kit.h"

#define THREADS       16u
#define PAGES         8192u
#define WORDS         (FERRYT_PAGE / sizeof(uint64_t))
#define SHARED_WORD   (WORDS - 1) /* all threads add to it */
#define HOT_PAGES     64u         /* every eighth operation goes to one of them: the same pages at once */
#define BUDGET        (16 * FERRYT_MIB)

static unsigned nr_ops = 1000000;
static struct ferry *ferry;
static uint64_t *base;
static _Atomic uint32_t shared_sum[PAGES];

struct worker {
	pthread_t thread;
	unsigned id;
	uint32_t model[PAGES];
};

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void step(struct worker *w, uint64_t r)
{
	size_t page = (r >> 8) % (r & 7 ? PAGES : HOT_PAGES);
	uint64_t *mine = base + page * WORDS + w->id * 8;

	CHECK(*mine == w->model[page]);
	if (r & 32)
		*mine = ++w->model[page];
	if ((r >> 40) % 16 == 0) {
		__atomic_fetch_add(base + page * WORDS + SHARED_WORD, 1, __ATOMIC_RELAXED);
		atomic_fetch_add(&shared_sum[page], 1);
	}
	if ((r >> 44) % 4096 == 0)
		CHECK_INT(ferry_advise(ferry, base + page / 512 * 512 * WORDS, 512 * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	if ((r >> 44) % 4096 == 1)
		CHECK_INT(ferry_flush(ferry, base + page * WORDS, FERRYT_PAGE), 0);
	if ((r >> 44) % 4096 == 2)
		CHECK_INT(ferry_advise(ferry, base + page / 512 * 512 * WORDS, 512 * FERRYT_PAGE, FERRY_ADVICE_WILLNEED), 0);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t seed = w->id * 7919 + 12345;

	for (unsigned i = 0; i < nr_ops / THREADS; i++)
		step(w, next_random(&seed));
	return NULL;
}

static void verify(struct worker *workers)
{
	for (size_t page = 0; page < PAGES; page++) {
		for (unsigned t = 0; t < THREADS; t++)
			CHECK(base[page * WORDS + t * 8] == workers[t].model[page]);
		CHECK(base[page * WORDS + SHARED_WORD] == shared_sum[page]);
	}
}

static void stress_body(void)
{
	struct worker *workers = calloc(THREADS, sizeof(*workers));

	CHECK(workers);
	ferry = ferryt_open(BUDGET);
	base = (uint64_t *)ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	for (unsigned t = 0; t < THREADS; t++) {
		workers[t].id = t;
		CHECK_INT(pthread_create(&workers[t].thread, NULL, work, &workers[t]), 0);
	}
	for (unsigned t = 0; t < THREADS; t++)
		CHECK_INT(pthread_join(workers[t].thread, NULL), 0);
	verify(workers);

	struct ferry_stats stats = ferryt_stats(ferry);

	printf("# %llu faults, %llu from the pool, %llu rescued, %llu pages evicted, %llu written, peak %llu of %llu KiB\n",
	       (unsigned long long)stats.faults, (unsigned long long)stats.faults_major,
	       (unsigned long long)stats.faults_rescued, (unsigned long long)stats.pages_evicted,
	       (unsigned long long)stats.pages_written, (unsigned long long)stats.peak_resident_bytes >> 10,
	       (unsigned long long)stats.budget_bytes >> 10);
	CHECK(stats.peak_resident_bytes <= BUDGET);
	CHECK(stats.pages_evicted > 0 && stats.faults_major > 0);
	CHECK_INT(ferry_close(ferry), 0);
	verify(workers); /* plain memory now */
}

static void sixteen_threads__a_million_operations__every_word_right(void **state)
{
	(void)state;
	RUN(stress_body);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sixteen_threads__a_million_operations__every_word_right),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	if (argc > 2) /* sanitizer builds run fewer */
		nr_ops = (unsigned)strtoul(argv[2], NULL, 10);
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
