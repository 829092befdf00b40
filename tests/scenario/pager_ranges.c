/* Ranges that change: unmapped, moved, adopted, given up, by us and by the application's own calls (argument:
 * row). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "pager_kit.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define LEN   (16 * FERRYT_MIB)
#define PAGES (LEN / FERRYT_PAGE)

static uint8_t *anonymous(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* What was unmapped is settled by the keeper when pages of it were on their way; then nothing is left. */
static void check_empty(struct ferry *ferry)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	struct ferry_stats s = ferryt_stats(ferry);

	while ((s.resident_bytes || s.away_bytes) && ferryi_now_ns() < deadline_ns)
		s = ferryt_stats(ferry);
	CHECK_INT(s.managed_bytes, 0);
	CHECK_INT(s.resident_bytes, 0);
	CHECK_INT(s.away_bytes, 0);
	CHECK_INT(s.pinned_bytes, 0);
}

/* ---- unmap ---- */

static void body_unmap_middle(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	const size_t third = PAGES / 4;
	uint8_t byte;

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_verify(p, 0, 100, 1);
	CHECK_INT(ferry_munmap(ferry, p + third * FERRYT_PAGE, third * FERRYT_PAGE), 0);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, (PAGES - third) * FERRYT_PAGE);
	CHECK(ferryt_touch(p + third * FERRYT_PAGE, &byte) != 0);
	ferryt_verify(p, 0, third, 1);
	ferryt_verify(p + 2 * third * FERRYT_PAGE, 2 * third, PAGES - 2 * third, 1);
	/* over the hole, and over what is left in two parts */
	CHECK_FAILS(ferry_munmap(ferry, p, LEN), -EINVAL, "managed");
	CHECK_INT(ferry_munmap(ferry, p, third * FERRYT_PAGE), 0);
	CHECK_INT(ferry_munmap(ferry, p + 2 * third * FERRYT_PAGE, (PAGES - 2 * third) * FERRYT_PAGE), 0);
	check_empty(ferry);
	/* Pool memory came back: far more than the pool, one after the other. */
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *q = ferryt_mmap(ferry, 256 * FERRYT_MIB);

		ferryt_fill(q, 100, i);
		CHECK_INT(ferry_munmap(ferry, q, 256 * FERRYT_MIB), 0);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void munmap__middle_part__rest_stays_and_memory_returns(void **state)
{
	(void)state;
	RUN(body_unmap_middle);
}

static void body_own_munmap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	const size_t quarter = PAGES / 4;

	ferryt_fill_away(ferry, p, PAGES, 2);
	CHECK_INT(munmap(p + quarter * FERRYT_PAGE, quarter * FERRYT_PAGE), 0);
	ferryt_verify(p, 0, quarter, 2);
	ferryt_verify(p + 2 * quarter * FERRYT_PAGE, 2 * quarter, 2 * quarter, 2);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 3 * quarter * FERRYT_PAGE);
	/* what comes to the same place is not ours */
	uint8_t *q = mmap(p + quarter * FERRYT_PAGE, quarter * FERRYT_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	CHECK(q == p + quarter * FERRYT_PAGE);
	ferryt_verify_zero(q, quarter);
	ferryt_fill(q, quarter, 3);
	CHECK_FAILS(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), -EINVAL, "managed");
	ferryt_verify(q, 0, quarter, 3);
	/* mapped over a managed part, in one step */
	q = mmap(p, FERRYT_MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	CHECK(q == p);
	ferryt_verify_zero(p, 256);
	ferryt_verify(p + FERRYT_MIB, 256, quarter - 256, 2);
	CHECK_INT(munmap(p, LEN), 0);
	check_empty(ferry);
	CHECK_INT(ferry_close(ferry), 0);
}

static void own_munmap__managed_parts__given_up(void **state)
{
	(void)state;
	RUN(body_own_munmap);
}

struct sender {
	struct ferry *ferry;
	uint8_t *p;
	size_t len;
};

static void *send_away(void *arg)
{
	struct sender *s = arg;

	ferry_advise(s->ferry, s->p, s->len, FERRY_ADVICE_COLD);
	return NULL;
}

static void body_rescue_and_unmap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct sender s = {ferry, ferryt_mmap(ferry, FERRYT_MIB / 2), FERRYT_MIB / 2};
	const size_t pages = s.len / FERRYT_PAGE;
	/* COLD may leave a page that the kernel holds just then; the stopped server must not miss its keep-alive. */
	uint64_t deadline_ns = ferryi_deadline_ms(2000);
	pthread_t thread;

	ferryt_fill(s.p, pages, 70);
	/* The server does not take what is sent, over tcp; pages are staged. */
	if (ferryt_server()->pid)
		ferryt_child_stop(ferryt_server());
	CHECK_INT(pthread_create(&thread, NULL, send_away, &s), 0);
	while (ferryt_present(s.p, pages) && ferryi_now_ns() < deadline_ns)
		sched_yield();
	ferryt_verify(s.p, 0, pages, 70); /* from staging, or the pool */
	ferryt_fill(s.p, pages, 71);
	CHECK_INT(munmap(s.p, s.len), 0); /* while their old content is still on its way */
	uint8_t *q = ferryt_mmap(ferry, s.len);

	ferryt_fill(q, pages, 72);
	if (ferryt_server()->pid)
		ferryt_child_signal(ferryt_server(), SIGCONT);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_advise(ferry, q, s.len, FERRY_ADVICE_COLD), 0);
	ferryt_verify(q, 0, pages, 72);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, s.len);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(q, 0, pages, 72);
}

static void munmap__of_pages_rescued_from_staging__waits_for_their_writes(void **state)
{
	(void)state;
	if (strcmp(ferryt_row(), "embedded") == 0) {
		print_message("    skipped: the embedded server is not ours to stop\n");
		skip();
	}
	int rc = ferryt_in_child(body_rescue_and_unmap);

	ferryt_child_signal(ferryt_server(), SIGCONT); /* whatever came of it */
	assert_int_equal(rc, 0);
}

/* ---- mremap ---- */

static void body_mremap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	uint8_t *place = mmap(NULL, 4 * LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(place != MAP_FAILED);
	ferryt_fill(p, PAGES, 4); /* partly away, partly here, partly on the way */
	uint8_t *q = mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, place);

	CHECK(q == place);
	ferryt_verify(q, 0, PAGES, 4);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN);
	CHECK_FAILS(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), -EINVAL, "managed");
	/* a middle part, all away */
	CHECK_INT(ferry_advise(ferry, q, LEN, FERRY_ADVICE_COLD), 0);
	uint8_t *m = mremap(q + 4 * FERRYT_MIB, 4 * FERRYT_MIB, 4 * FERRYT_MIB, MREMAP_MAYMOVE | MREMAP_FIXED,
			    place + 2 * LEN);

	CHECK(m == place + 2 * LEN);
	ferryt_verify(m, 1024, 1024, 4);
	ferryt_verify(q, 0, 1024, 4);
	ferryt_verify(q + 8 * FERRYT_MIB, 2048, 2048, 4);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN);
	/* and pages that moved go away and come back at their new place */
	ferryt_fill_away(ferry, m, 1024, 5);
	ferryt_verify(m, 0, 1024, 5);
	ferryt_verify(q, 0, 1024, 4);
	CHECK_INT(ferry_munmap(ferry, m, 4 * FERRYT_MIB), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(q, 0, 1024, 4);
}

static void mremap__pages_away__every_byte_kept(void **state)
{
	(void)state;
	RUN(body_mremap);
}

static void body_mremap_under_way(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	const size_t pages = 256, len = pages * FERRYT_PAGE;

	/* One touch starts a large read-ahead; the range moves while it is under way. */
	for (unsigned i = 0; i < 60; i++) {
		uint8_t *p = ferryt_mmap(ferry, len);

		CHECK_INT(ferry_advise(ferry, p, len, FERRY_ADVICE_SEQUENTIAL), 0);
		ferryt_fill_away(ferry, p, pages, 100 + i);
		CHECK(*(volatile uint8_t *)p == *p);
		uint8_t *q;

		if (i % 2) {
			q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
		} else {
			q = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			CHECK(q != MAP_FAILED);
			q = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, q);
		}
		CHECK(q != MAP_FAILED && q != p);
		ferryt_verify(q, 0, pages, 100 + i);
		if (i % 2) {
			ferryt_verify_zero(p, pages);
			CHECK_INT(munmap(p, len), 0);
		}
		CHECK_INT(ferry_munmap(ferry, q, len), 0);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void mremap__reads_under_way__every_byte_kept(void **state)
{
	(void)state;
	RUN(body_mremap_under_way);
}

static void body_mremap_dontunmap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 6);
	uint8_t *q = mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	CHECK(q != MAP_FAILED && q != p);
	ferryt_verify_zero(p, PAGES);
	ferryt_verify(q, 0, PAGES, 6);
	/* The old range is plain memory now. */
	ferryt_fill(p, 256, 7);
	ferryt_verify(q, 0, PAGES, 6);
	ferryt_verify(p, 0, 256, 7);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(q, 0, PAGES, 6);
	ferryt_verify(p, 0, 256, 7);
}

static void mremap_dontunmap__pages_away__old_range_reads_zeros(void **state)
{
	(void)state;
	RUN(body_mremap_dontunmap);
}

/* The content of each page: all as filled, or zeros. */
static void verify_freed(const uint8_t *p, size_t pages, uint64_t seed)
{
	uint8_t want[FERRYT_PAGE];

	for (size_t i = 0; i < pages; i++) {
		ferryt_fill_page(want, seed, i);
		if (memcmp(p + i * FERRYT_PAGE, want, sizeof(want)) != 0)
			ferryt_verify_zero(p + i * FERRYT_PAGE, 1);
	}
}

static void body_madv_free(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 21); /* some are in RAM, most are away */
	CHECK_INT(madvise(p, LEN, MADV_FREE), 0);
	verify_freed(p, PAGES, 21);
	for (size_t i = 0; i < PAGES; i += 3)
		ferryt_fill_page(p + i * FERRYT_PAGE, 22, i);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	for (size_t i = 0; i < PAGES; i++) {
		if (i % 3 == 0)
			ferryt_verify(p + i * FERRYT_PAGE, i, 1, 22); /* written since: kept */
	}
	/* What was away is dropped at once, so it cannot come back. */
	ferryt_fill_away(ferry, p, PAGES, 23);
	CHECK_INT(madvise(p, LEN, MADV_FREE), 0);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(ferry_close(ferry), 0);
}

static void madv_free__in_ram_and_away__old_or_zeros_and_new_writes_kept(void **state)
{
	(void)state;
	RUN(body_madv_free);
}

static void body_brk(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uintptr_t at = (uintptr_t)sbrk(0);
	size_t pad = -at & (FERRYT_PAGE - 1);

	CHECK(sbrk((intptr_t)(pad + LEN)) != (void *)-1);
	uint8_t *p = (uint8_t *)(at + pad);

	ferryt_fill(p, PAGES, 24);
	CHECK_INT(ferry_adopt(ferry, p, LEN, FERRY_MAP_NORESERVE), 0); /* asks no server now, so malloc does not grow the heap */
	ferryt_verify(p, 0, PAGES, 24);
	CHECK((uint8_t *)sbrk(0) == p + LEN);
	CHECK(sbrk(-(intptr_t)(LEN / 2)) != (void *)-1);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN / 2);
	ferryt_verify(p, 0, PAGES / 2, 24);
	CHECK(sbrk(LEN / 2) == p + LEN / 2); /* grown again: not managed, zeros, as any memory */
	ferryt_verify_zero(p + LEN / 2, PAGES / 2);
	ferryt_fill(p + LEN / 2, PAGES / 2, 25);
	ferryt_verify(p, 0, PAGES / 2, 24);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES / 2, 24);
	ferryt_verify(p + LEN / 2, 0, PAGES / 2, 25);
}

static void brk__managed_heap_shrinks_and_grows__kept_and_zeros(void **state)
{
	(void)state;
	RUN(body_brk);
}

static void body_mremap_shrink(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 8);
	CHECK(mremap(p, LEN, LEN / 2, 0) == p);
	ferryt_verify(p, 0, PAGES / 2, 8);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN / 2);
	/* growth is not managed, and works as any memory */
	uint8_t *q = mremap(p, LEN / 2, LEN, MREMAP_MAYMOVE);

	CHECK(q != MAP_FAILED);
	ferryt_verify_zero(q + LEN / 2, PAGES / 2);
	ferryt_fill(q + LEN / 2, PAGES / 2, 9);
	ferryt_verify(q, 0, PAGES / 2, 8);
	ferryt_verify(q + LEN / 2, 0, PAGES / 2, 9);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(q, 0, PAGES / 2, 8);
	ferryt_verify(q + LEN / 2, 0, PAGES / 2, 9);
}

static void mremap__shrunk_and_grown__kept_and_zeros(void **state)
{
	(void)state;
	RUN(body_mremap_shrink);
}

/* ---- adopt ---- */

static void adopt_cycle(struct ferry *ferry, uint8_t *p, size_t pages, uint64_t seed)
{
	size_t len = pages * FERRYT_PAGE;

	ferryt_fill(p, pages, seed);
	CHECK_INT(ferry_adopt(ferry, p, len, 0), 0);
	CHECK(ferryt_stats(ferry).resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, len);
	ferryt_verify(p, 0, pages, seed);
	CHECK(ferryt_stats(ferry).away_bytes + FERRYT_BUDGET >= len);
	ferryt_fill(p, pages, seed + 1);
	CHECK_INT(ferry_advise(ferry, p, len, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferry_unadopt(ferry, p, len), 0);
	CHECK_INT(ferryt_present(p, pages), pages);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	CHECK_INT(ferryt_stats(ferry).resident_bytes, 0);
	ferryt_verify(p, 0, pages, seed + 1);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET ||
	      pages * FERRYT_PAGE > FERRYT_BUDGET);
}

static void body_adopt_malloc(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	void *p = NULL;

	CHECK_INT(posix_memalign(&p, FERRYT_PAGE, 32 * FERRYT_MIB), 0);
	adopt_cycle(ferry, p, 32 * FERRYT_MIB / FERRYT_PAGE, 20);
	adopt_cycle(ferry, p, 32 * FERRYT_MIB / FERRYT_PAGE, 22); /* and once more */
	free(p);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt__malloced_memory__content_kept_and_home_after(void **state)
{
	(void)state;
	RUN(body_adopt_malloc);
}

static void body_adopt_mmap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = anonymous(LEN), *q = anonymous(LEN);

	adopt_cycle(ferry, p, PAGES, 30);
	/* partly touched, partly only read: holes and zero pages */
	ferryt_fill(q, PAGES / 4, 32);
	ferryt_verify_zero(q + LEN / 2, PAGES / 4);
	CHECK_INT(ferry_adopt(ferry, q, LEN, 0), 0);
	CHECK_INT(ferry_advise(ferry, q, LEN, FERRY_ADVICE_COLD), 0);
	ferryt_verify(q, 0, PAGES / 4, 32);
	ferryt_verify_zero(q + LEN / 4, 3 * PAGES / 4);
	ferryt_fill(q, PAGES, 33);
	ferryt_verify(q, 0, PAGES, 33);
	/* half of it given up, half stays */
	CHECK_INT(ferry_unadopt(ferry, q + LEN / 4, LEN / 2), 0);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN / 2);
	CHECK_INT(ferryt_present(q + LEN / 4, PAGES / 2), PAGES / 2);
	ferryt_verify(q, 0, PAGES, 33);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(q, 0, PAGES, 33);
}

static void adopt__mmaped_memory__content_kept_with_holes(void **state)
{
	(void)state;
	RUN(body_adopt_mmap);
}

static void body_adopt_huge(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	void *p = NULL;

	CHECK_INT(posix_memalign(&p, 2 * FERRYT_MIB, 32 * FERRYT_MIB), 0);
	madvise(p, 32 * FERRYT_MIB, MADV_HUGEPAGE); /* transparent: none or all of them may be */
	adopt_cycle(ferry, p, 32 * FERRYT_MIB / FERRYT_PAGE, 24);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt__transparent_huge_pages__content_kept(void **state)
{
	(void)state;
	RUN(body_adopt_huge);
}

struct sleeper {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	int step;
	uint8_t *data;
};

/* Has data on its stack, says so, and checks it when asked to. */
static void *sleeper_main(void *arg)
{
	struct sleeper *s = arg;
	uint8_t data[1024 * 1024];

	pthread_mutex_lock(&s->lock);
	ferryt_fill(data, 256, 40);
	s->data = data;
	s->step = 1;
	pthread_cond_broadcast(&s->moved);
	while (s->step < 2)
		pthread_cond_wait(&s->moved, &s->lock);
	pthread_mutex_unlock(&s->lock);
	ferryt_verify(data, 0, 256, 40);
	return NULL;
}

static void body_adopt_stack(void)
{
	static struct sleeper s = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, NULL};
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	pthread_t thread;
	pthread_attr_t attr;
	size_t len = 4 * FERRYT_MIB;
	uint8_t *stack = anonymous(len);

	pthread_attr_init(&attr);
	CHECK_INT(pthread_attr_setstack(&attr, stack, len), 0);
	CHECK_INT(pthread_create(&thread, &attr, sleeper_main, &s), 0);
	pthread_mutex_lock(&s.lock);
	while (s.step < 1)
		pthread_cond_wait(&s.moved, &s.lock);
	CHECK_INT(ferry_adopt(ferry, stack, len, 0), 0);
	CHECK_INT(ferry_advise(ferry, stack, len, FERRY_ADVICE_COLD), 0);
	CHECK(ferryt_stats(ferry).away_bytes >= 250 * FERRYT_PAGE);
	s.step = 2;
	pthread_cond_broadcast(&s.moved);
	pthread_mutex_unlock(&s.lock);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_unadopt(ferry, stack, len), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt__stack_of_another_thread__thread_goes_on(void **state)
{
	(void)state;
	RUN(body_adopt_stack);
}

static void body_noreserve(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	/* more than any pool has, of which little is used */
	uint8_t *p = ferry_mmap(ferry, NULL, 4096 * FERRYT_MIB, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK(p != MAP_FAILED);
	CHECK(ferryt_stats(ferry).leased_bytes <= FERRYT_BIG_POOL);
	for (size_t i = 0; i < 8; i++)
		ferryt_fill(p + i * 512 * FERRYT_MIB, 1024, 50 + i);
	for (size_t i = 0; i < 8; i++)
		ferryt_verify(p + i * 512 * FERRYT_MIB, 0, 1024, 50 + i);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK(s.bookkeeping_bytes <= s.managed_bytes / 50);
	CHECK(s.away_bytes + FERRYT_BUDGET >= 32 * FERRYT_MIB);
	CHECK_INT(ferry_munmap(ferry, p, 4096 * FERRYT_MIB), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mmap_noreserve__larger_than_the_pool__bound_as_used(void **state)
{
	(void)state;
	RUN(body_noreserve);
}

/* ---- threads ---- */

struct churner {
	struct ferry *ferry;
	uint64_t seed;
};

/* Maps, fills, checks, moves, unmaps, over and over. */
static void *churn(void *arg)
{
	struct churner *c = arg;
	const size_t pages = 1024;

	for (unsigned i = 0; i < 12; i++) {
		uint8_t *p = ferryt_mmap(c->ferry, pages * FERRYT_PAGE);

		ferryt_fill(p, pages, c->seed + i);
		if (i % 3 == 0)
			CHECK_INT(ferry_advise(c->ferry, p, pages * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
		if (i % 3 == 1) {
			uint8_t *q = mremap(p, pages * FERRYT_PAGE, pages * FERRYT_PAGE,
					    MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

			CHECK(q != MAP_FAILED);
			CHECK_INT(munmap(p, pages * FERRYT_PAGE), 0);
			p = q;
		}
		ferryt_verify(p, 0, pages, c->seed + i);
		if (i % 2)
			CHECK_INT(munmap(p, pages * FERRYT_PAGE), 0);
		else
			CHECK_INT(ferry_munmap(c->ferry, p, pages * FERRYT_PAGE), 0);
	}
	return NULL;
}

static void body_churn(void)
{
	enum { THREADS = 6 };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct churner c[THREADS];
	pthread_t thread[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		c[i] = (struct churner){ferry, 1000 * (i + 1)};
		CHECK_INT(pthread_create(&thread[i], NULL, churn, &c[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(thread[i], NULL), 0);
	check_empty(ferry);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void ranges__six_threads_map_and_unmap__nothing_lost_or_left(void **state)
{
	(void)state;
	RUN(body_churn);
}

static const char *row;

static int group_setup(void **state)
{
	(void)state;
	ferryt_server_start(row);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(munmap__middle_part__rest_stays_and_memory_returns),
		cmocka_unit_test(own_munmap__managed_parts__given_up),
		cmocka_unit_test(munmap__of_pages_rescued_from_staging__waits_for_their_writes),
		cmocka_unit_test(mremap__pages_away__every_byte_kept),
		cmocka_unit_test(mremap__reads_under_way__every_byte_kept),
		cmocka_unit_test(mremap_dontunmap__pages_away__old_range_reads_zeros),
		cmocka_unit_test(mremap__shrunk_and_grown__kept_and_zeros),
		cmocka_unit_test(madv_free__in_ram_and_away__old_or_zeros_and_new_writes_kept),
		cmocka_unit_test(brk__managed_heap_shrinks_and_grows__kept_and_zeros),
		cmocka_unit_test(adopt__malloced_memory__content_kept_and_home_after),
		cmocka_unit_test(adopt__mmaped_memory__content_kept_with_holes),
		cmocka_unit_test(adopt__transparent_huge_pages__content_kept),
		cmocka_unit_test(adopt__stack_of_another_thread__thread_goes_on),
		cmocka_unit_test(mmap_noreserve__larger_than_the_pool__bound_as_used),
		cmocka_unit_test(ranges__six_threads_map_and_unmap__nothing_lost_or_left),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
