/* Read-ahead beyond sequential, over one row (argument: local, tcp or embedded): by the library's own
 * counters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "pager_kit.h"

#define DATA	   (64 * FERRYT_MIB)
#define DATA_PAGES (DATA / FERRYT_PAGE)
#define BUDGET	   (32 * FERRYT_MIB)

/* Visits left + 1 pages from `page` on, stride apart. */
struct walk {
	size_t page;
	long stride;
	size_t left;
};

static struct walk walk_of(size_t first, size_t pages, long stride)
{
	return (struct walk){stride > 0 ? first : first + pages - 1, stride,
			     (pages - 1) / (size_t)labs(stride) + 1};
}

static void step(struct walk *w, const uint8_t *p, uint64_t seed)
{
	ferryt_verify(p + w->page * FERRYT_PAGE, w->page, 1, seed);
	w->page += (size_t)w->stride;
	w->left--;
}

/* One page of each in turn, until all are done; how many visits. */
static uint64_t walk_all(struct walk *walks, unsigned n, const uint8_t *p, uint64_t seed)
{
	uint64_t visits = 0;

	for (uint64_t before = 1; before != visits;) {
		before = visits;
		for (unsigned i = 0; i < n; i++) {
			if (walks[i].left > 0) {
				step(&walks[i], p, seed);
				visits++;
			}
		}
	}
	return visits;
}

/* Each page was away, and visited once: what was read ahead and not found by a visit was of no use. */
static void check_use(struct ferry *ferry, const struct ferry_stats *before, uint64_t visits)
{
	struct ferry_stats after = ferryt_stats(ferry);
	uint64_t misses = after.faults_major - before->faults_major;
	uint64_t ahead = after.pages_readahead - before->pages_readahead;
	uint64_t in = after.pages_in - before->pages_in, hits = after.readahead_hits - before->readahead_hits;
	CHECK(misses <= visits / 10);
	CHECK(ahead >= visits - misses);
	CHECK(ahead - (visits - misses) <= in / 10);
	/* What the library knows of it: not all, some of it late, and no more than there was. */
	CHECK(after.readahead_hits <= after.pages_readahead);
	CHECK(hits >= (visits - misses) / 2);
}

static struct ferry *open_away(uint8_t **p, uint64_t seed)
{
	struct ferry *ferry = ferryt_open(BUDGET);

	*p = ferryt_mmap(ferry, DATA);
	ferryt_fill_away(ferry, *p, DATA_PAGES, seed);
	return ferry;
}

static void all_away(struct ferry *ferry, uint8_t *p)
{
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_COLD), 0);
}

static void body_strides(void)
{
	static const long strides[] = {1, 2, 3, 17, -1, -3};
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 1);

	for (unsigned i = 0; i < sizeof(strides) / sizeof(strides[0]); i++) {
		struct walk w = walk_of(0, DATA_PAGES, strides[i]);
		struct ferry_stats before = ferryt_stats(ferry);

		check_use(ferry, &before, walk_all(&w, 1, p, 1));
		all_away(ferry, p);
	}
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stride__any__hit(void **state)
{
	(void)state;
	RUN(body_strides);
}

static void body_interleaved(void)
{
	static const long mixed[] = {1, 2, 3, 17, -1};
	static const unsigned numbers[] = {4, 16};
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 2);

	for (unsigned k = 0; k < 2; k++) {
		unsigned n = numbers[k];
		struct walk walks[16];

		for (unsigned i = 0; i < n; i++)
			walks[i] = walk_of(i * (DATA_PAGES / n), DATA_PAGES / n, mixed[i % 5]);
		struct ferry_stats before = ferryt_stats(ferry);

		check_use(ferry, &before, walk_all(walks, n, p, 2));
		all_away(ferry, p);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void streams__interleaved__hit(void **state)
{
	(void)state;
	RUN(body_interleaved);
}

/* ---- threads: each its own stride, all in one area ---- */

#define THREADS 4

static struct reader {
	pthread_t thread;
	const uint8_t *p;
	struct walk walk;
} readers[THREADS];

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	while (r->walk.left > 0)
		step(&r->walk, r->p, 3);
	return NULL;
}

static void body_threads(void)
{
	static const long strides[THREADS] = {17, -3, 2, 5};
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 3);
	struct ferry_stats before = ferryt_stats(ferry);
	uint64_t visits = 0;

	for (unsigned i = 0; i < THREADS; i++) {
		readers[i].p = p;
		readers[i].walk = walk_of(i * (DATA_PAGES / THREADS), DATA_PAGES / THREADS, strides[i]);
		visits += readers[i].walk.left;
		CHECK_INT(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(readers[i].thread, NULL), 0);
	check_use(ferry, &before, visits);
	CHECK_INT(ferry_close(ferry), 0);
}

static void threads__a_stride_each__hit(void **state)
{
	(void)state;
	RUN(body_threads);
}

/* ---- where it must not read ---- */

static void body_area_ends(void)
{
	const size_t quarter = DATA_PAGES / 4;
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 4);
	uint8_t *middle = p + quarter * FERRYT_PAGE;

	/* One object, three areas: what lies beside the middle one is not to be read ahead. */
	CHECK_INT(ferry_advise(ferry, p, quarter * FERRYT_PAGE, FERRY_ADVICE_RANDOM), 0);
	CHECK_INT(ferry_advise(ferry, middle + 2 * quarter * FERRYT_PAGE, quarter * FERRYT_PAGE,
			       FERRY_ADVICE_RANDOM),
		  0);
	static const long strides[] = {-1, -3, 1, 3};

	for (unsigned i = 0; i < 4; i++) {
		struct walk w = walk_of(quarter, 2 * quarter, strides[i]);

		walk_all(&w, 1, p, 4);
		CHECK(ferryt_stats(ferry).pages_readahead > 0);
		CHECK_INT(ferryt_present(p, quarter), 0);
		CHECK_INT(ferryt_present(middle + 2 * quarter * FERRYT_PAGE, quarter), 0);
		all_away(ferry, p);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void stream__to_either_end_of_its_area__nothing_read_beside_it(void **state)
{
	(void)state;
	RUN(body_area_ends);
}

static void body_advised(void)
{
	struct walk w = walk_of(0, DATA_PAGES, 17);
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 5);

	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_RANDOM), 0);
	walk_all(&w, 1, p, 5);
	CHECK_INT(ferryt_stats(ferry).pages_readahead, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stride__advised_random__no_read_ahead(void **state)
{
	(void)state;
	RUN(body_advised);
}

static void body_random(void)
{
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 6);
	struct ferry_stats before = ferryt_stats(ferry);
	uint64_t x = 88172645463325252ULL;

	for (unsigned i = 0; i < 8192; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		ferryt_verify(p + (x % DATA_PAGES) * FERRYT_PAGE, x % DATA_PAGES, 1, 6);
	}
	struct ferry_stats after = ferryt_stats(ferry);

	/* All of it may have been of no use. */
	CHECK(after.pages_in > before.pages_in);
	CHECK((after.pages_readahead - before.pages_readahead) * 100 <=
	      3 * (after.pages_in - before.pages_in));
	CHECK_INT(ferry_close(ferry), 0);
}

static void random__reads__hardly_any_read_ahead(void **state)
{
	(void)state;
	RUN(body_random);
}

/* ---- dropped while it is on its way ---- */

#define DROPS 64

static void body_dropped(void)
{
	uint8_t *p;
	struct ferry *ferry = open_away(&p, 7);
	const size_t every = 2 * DROPS;

	/* A strided reader; what lies ahead of it is dropped now and then: zeros from there on, data
	 * elsewhere. */
	for (size_t first = 0; first + every < DATA_PAGES; first += every) {
		for (size_t i = 0; i < every; i += 2) {
			if (i == DROPS / 2)
				CHECK_INT(madvise(p + (first + DROPS) * FERRYT_PAGE, DROPS * FERRYT_PAGE,
						  MADV_DONTNEED),
					  0);
			if (i < DROPS)
				ferryt_verify(p + (first + i) * FERRYT_PAGE, first + i, 1, 7);
			else
				ferryt_verify_zero(p + (first + i) * FERRYT_PAGE, 1);
		}
	}
	CHECK(ferryt_stats(ferry).pages_readahead > 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stride__pages_ahead_dropped__read_as_zeros(void **state)
{
	(void)state;
	RUN(body_dropped);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stride__any__hit),
		cmocka_unit_test(streams__interleaved__hit),
		cmocka_unit_test(threads__a_stride_each__hit),
		cmocka_unit_test(stream__to_either_end_of_its_area__nothing_read_beside_it),
		cmocka_unit_test(stride__advised_random__no_read_ahead),
		cmocka_unit_test(random__reads__hardly_any_read_ahead),
		cmocka_unit_test(stride__pages_ahead_dropped__read_as_zeros),
	};
	int rc = ferryt_needs_uffd();

	if (rc != 0)
		return rc;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_server_end();
	return rc;
}
