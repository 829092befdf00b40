/*
 * Migration by the public API: to a device and to RAM, by owner, in three
 * steps; and data put over poison. argv[1]: the fabric row.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define PAGES 700u /* more than a 2 MiB block */
#define LEN   (PAGES * FERRYT_PAGE)

static const char owner_a[] = "a", owner_b[] = "b";

static struct ferry_pool *attach(struct ferry *ferry, const void *owner)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test", .owner = owner,
					.len_bytes = 4 * FERRY_SUBSECTION };
	struct ferry_pool *pool = NULL;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	return pool;
}

static uint64_t used(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info.used_bytes;
}

static struct ferry_migrate_stats none(void)
{
	return (struct ferry_migrate_stats){ .size = sizeof(struct ferry_migrate_stats) };
}

static void body_there_and_back(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = ferryt_mmap(ferry, LEN);

	/* 500 with data, 100 of zeros, 100 never touched, nor read ahead */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill(p, 500, 1);
	for (size_t i = 500; i < 600; i++)
		p[i * FERRYT_PAGE] = 0;
	CHECK_INT(used(pool), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	CHECK_INT(used(pool), 2 * FERRY_SUBSECTION); /* this pool, not the one that ferry_mmap had chosen */
	CHECK_INT(stats.cpages, 600);
	CHECK_INT(stats.migrated, 500);
	CHECK_INT(stats.zero, 200);
	CHECK_INT(stats.bytes, 500 * FERRYT_PAGE); /* neither holes nor zero pages were sent */
	CHECK_INT(stats.skipped_pinned + stats.skipped_raced + stats.skipped_owner + stats.skipped_lost, 0);

	stats = none();
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, FERRY_MIGRATE_SELECT_SYSTEM, &stats), 0);
	CHECK_INT(stats.there, 500);
	CHECK_INT(stats.zero, 200);
	CHECK_INT(stats.cpages + stats.migrated + stats.bytes, 0);

	stats = none();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, NULL, 0, &stats), 0);
	CHECK_INT(stats.migrated, 500);
	CHECK_INT(stats.bytes, 500 * FERRYT_PAGE);
	CHECK_INT(ferryt_present(p, PAGES), 500);
	ferryt_verify(p, 0, 500, 1);
	ferryt_verify_zero(p + 500 * FERRYT_PAGE, 200);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 500, 1);
}

static void migrate__there_and_back__counts_and_no_traffic_for_zeros(void **state)
{
	(void)state;
	RUN(body_there_and_back);
}

static void body_pinned(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 2);
	CHECK_INT(ferry_pin(ferry, p + 10 * FERRYT_PAGE, 20 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.skipped_pinned, 20);
	CHECK_INT(stats.migrated, PAGES - 20);
	CHECK_INT(ferryt_present(p, PAGES), 20);
	CHECK_INT(ferry_unpin(ferry, p + 10 * FERRYT_PAGE, 20 * FERRYT_PAGE), 0);

	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__pinned_pages__skipped_and_counted(void **state)
{
	(void)state;
	RUN(body_pinned);
}

static sigjmp_buf denied;

static void on_segv(int sig)
{
	siglongjmp(denied, sig);
}

/* A write there raises SIGSEGV. */
static bool is_denied(uint8_t *p)
{
	struct sigaction action = { .sa_handler = on_segv }, old;
	volatile bool is = true;

	CHECK_INT(sigaction(SIGSEGV, &action, &old), 0);
	if (!sigsetjmp(denied, 1)) {
		*(volatile uint8_t *)p ^= 1;
		is = false;
	}
	CHECK_INT(sigaction(SIGSEGV, &old, NULL), 0);
	return is;
}

static void body_read_only(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 2);
	CHECK_INT(mprotect(p, 600 * FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	CHECK(is_denied(p) && is_denied(p + 599 * FERRYT_PAGE)); /* its rights are what they were */
	ferryt_verify(p, 0, PAGES, 2);
	CHECK(is_denied(p) && is_denied(p + 599 * FERRYT_PAGE) && !is_denied(p + 600 * FERRYT_PAGE));
	p[600 * FERRYT_PAGE] ^= 1;
	CHECK_INT(mprotect(p, LEN, PROT_READ | PROT_WRITE), 0);
	ferryt_fill(p, PAGES, 3); /* no page is left protected */
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__read_only_pages__go_and_stay_read_only(void **state)
{
	(void)state;
	RUN(body_read_only);
}

/* Its write is not to be: ThreadSanitizer, which notes it before, would call it a race with who reads. */
__attribute__((no_sanitize("thread"))) static void write_to(volatile uint8_t *p)
{
	*p ^= 1;
}

static _Atomic bool stop_trying;
static _Atomic size_t nr_denied, nr_went_through;

/* Each of its writes is refused, whatever is done to the mapping meanwhile. */
static void *try_to_write(void *arg)
{
	uint8_t *p = arg;
	volatile size_t at = 0;
	struct sigaction action = { .sa_handler = on_segv };

	CHECK_INT(sigaction(SIGSEGV, &action, NULL), 0);
	while (!atomic_load(&stop_trying)) {
		if (!sigsetjmp(denied, 1)) {
			write_to(p + at * FERRYT_PAGE);
			atomic_fetch_add(&nr_went_through, 1);
		}
		at = (at + 1) % PAGES;
		atomic_fetch_add(&nr_denied, 1);
	}
	return NULL;
}

static void body_read_only_writer(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	pthread_t thread;

	ferryt_fill(p, PAGES, 4);
	CHECK_INT(mprotect(p, LEN, PROT_READ), 0);
	CHECK_INT(pthread_create(&thread, NULL, try_to_write, p), 0);
	uint64_t deadline_ns = ferryi_deadline_ms(20000);

	for (unsigned round = 0; round < 30 || (atomic_load(&nr_denied) < 1000 && ferryi_now_ns() < deadline_ns); round++) {
		CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, NULL), 0);
		ferryt_verify(p, 0, PAGES, 4);
	}
	atomic_store(&stop_trying, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK(atomic_load(&nr_denied) >= 1000);
	CHECK_INT(atomic_load(&nr_went_through), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 4);
}

static void migrate__read_only_beside_a_thread_that_writes__sigsegv_as_ever(void **state)
{
	(void)state;
	RUN(body_read_only_writer);
}

static void body_owners(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = attach(ferry, owner_a), *b = attach(ferry, owner_b), *a2 = attach(ferry, owner_a);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_pool *first = ferry_pool_at(ferry, 0);

	/* ferry_mmap took its place from the first pool, which is nobody's: not a's to move while pages are there */
	ferryt_fill(p, PAGES, 3);
	CHECK_INT(ferry_migrate_to_device(a, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(used(first), 0);

	p = ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);
	CHECK(p != MAP_FAILED);
	ferryt_fill(p, PAGES, 3);
	stats = none();
	CHECK_INT(ferry_migrate_to_device(a, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK(used(a) > 0 && !used(b) && !used(a2));

	/* b's device leaves a's pages where they are, both ways */
	stats = none();
	CHECK_INT(ferry_migrate_to_device(b, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	stats = none();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, owner_b, 0, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	CHECK_INT(ferryt_present(p, PAGES), 0);

	/* the same owner's other pool takes them over */
	stats = none();
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK(!used(a) && used(a2) > 0);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, 0, NULL), 0);
	stats = none();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, owner_a, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	ferryt_verify(p, 0, PAGES, 3);
	ferry_pool_put(first);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__owner_filters__both_ways(void **state)
{
	(void)state;
	RUN(body_owners);
}

/* The owners that a mirror was told with. */
static _Atomic unsigned told_a, told_b, told_nobody;

static int note_owner(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	if (update->event == FERRY_UPDATE_MIGRATE)
		atomic_fetch_add(update->owner == owner_a ? &told_a : update->owner == owner_b ? &told_b : &told_nobody, 1);
	return 0;
}

static void body_told_owner(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = note_owner };
	struct ferry *ferry = ferryt_open(4 * FERRYT_BUDGET);
	struct ferry_pool *a = attach(ferry, owner_a), *b = attach(ferry, owner_b);
	struct ferry_mirror mirror = { .ops = &ops, .owner = owner_a };
	uint8_t *p = ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);
	uint8_t *q = ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK(p != MAP_FAILED && q != MAP_FAILED);
	ferryt_fill(p, PAGES, 21);
	ferryt_fill(q, PAGES, 22);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	CHECK_INT(ferry_migrate_to_device(a, p, LEN, 0, NULL), 0);
	CHECK(atomic_load(&told_a) > 0 && !atomic_load(&told_b) && !atomic_load(&told_nobody));
	unsigned before = atomic_load(&told_a);

	CHECK_INT(ferry_migrate_to_device(b, q, LEN, 0, NULL), 0);
	CHECK(atomic_load(&told_b) > 0 && !atomic_load(&told_nobody));
	CHECK_INT(atomic_load(&told_a), before);
	ferryt_verify(p, 0, PAGES, 21); /* a CPU's touch */
	CHECK(atomic_load(&told_nobody) > 0);
	CHECK_INT(atomic_load(&told_a), before);
	ferryt_verify(q, 0, PAGES, 22);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__own_and_others__mirror_is_told_the_owner(void **state)
{
	(void)state;
	RUN(body_told_owner);
}

static void *keep_stack(void *arg)
{
	_Atomic int *step = arg;
	volatile uint8_t frame[64 * 4096];

	for (size_t i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)(i * 7);
	*(volatile uint8_t *volatile *)(step + 2) = frame;
	atomic_store(step, 1);
	while (atomic_load(step) != 2)
		sched_yield();
	for (size_t i = 0; i < sizeof(frame); i++)
		CHECK(frame[i] == (uint8_t)(i * 7));
	return NULL;
}

static void body_adopts(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct ferry_migrate_stats stats = none();
	void *heap = NULL;
	union {
		_Atomic int step;
		void *place[2];
	} shared = { .place = { NULL, NULL } };
	pthread_t thread;

	CHECK_INT(posix_memalign(&heap, FERRYT_PAGE, LEN), 0);
	ferryt_fill(heap, PAGES, 4);
	CHECK_INT(ferry_migrate_to_device(pool, heap, LEN, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(ferryt_present(heap, PAGES), 0);
	ferryt_verify(heap, 0, PAGES, 4);

	/* another thread's stack, while it uses it */
	CHECK_INT(pthread_create(&thread, NULL, keep_stack, &shared.step), 0);
	while (atomic_load(&shared.step) != 1)
		sched_yield();
	uintptr_t page = ((uintptr_t)shared.place[1] + FERRYT_PAGE) & ~(FERRYT_PAGE - 1);

	stats = none();
	CHECK_INT(ferry_migrate_to_device(pool, (void *)page, 32 * FERRYT_PAGE, 0, &stats), 0);
	CHECK_INT(stats.migrated, 32);
	atomic_store(&shared.step, 2);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(heap, 0, PAGES, 4);
}

static void migrate__memory_of_any_kind__adopted_on_the_way(void **state)
{
	(void)state;
	RUN(body_adopts);
}

static void body_errors(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct ferry_migrate_stats small = { .size = 8 };
	uint8_t *p = ferryt_mmap(ferry, LEN);
	uint8_t *shared = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *gone = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(shared != MAP_FAILED && gone != MAP_FAILED);
	CHECK_INT(munmap(gone, LEN), 0);
	CHECK_FAILS(ferry_migrate_to_device(pool, p + 1, LEN, 0, NULL), -EINVAL, "whole pages");
	CHECK_FAILS(ferry_migrate_to_device(pool, p, 100, 0, NULL), -EINVAL, "whole pages");
	CHECK_FAILS(ferry_migrate_to_device(pool, p, LEN, 1u << 20, NULL), -EINVAL, "flag");
	CHECK_FAILS(ferry_migrate_to_device(pool, p, LEN, 0, &small), -EINVAL, "size");
	CHECK_FAILS(ferry_migrate_to_device(NULL, p, LEN, 0, NULL), -EINVAL, "no such pool");
	CHECK_FAILS(ferry_migrate_to_device(pool, gone, LEN, 0, NULL), -EINVAL, "not mapped");
	CHECK_FAILS(ferry_migrate_to_device(pool, shared, LEN, 0, NULL), -EOPNOTSUPP, "private memory");
	CHECK_FAILS(ferry_migrate_to_ram(ferry, gone, LEN, NULL, 0, NULL), -EINVAL, "not all managed");
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__bad_ranges__documented_errors(void **state)
{
	(void)state;
	RUN(body_errors);
}

/* ---- touched meanwhile ---- */

static uint64_t *raced;
static _Atomic bool race_stop;

static void *race(void *arg)
{
	uint64_t *counts = arg;

	for (uint64_t n = 1; !atomic_load(&race_stop); n++) {
		for (size_t i = 0; i < PAGES; i += 3) {
			raced[i * FERRYT_PAGE / sizeof(*raced)] = n;
			counts[i] = n;
		}
	}
	return NULL;
}

static void body_race(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	uint64_t *counts = calloc(PAGES, sizeof(*counts)), end_ns;
	pthread_t thread;

	CHECK(counts);
	raced = (uint64_t *)ferryt_mmap(ferry, LEN);
	CHECK_INT(pthread_create(&thread, NULL, race, counts), 0);
	end_ns = ferryi_now_ns() + 2000000000ULL;
	while (ferryi_now_ns() < end_ns) {
		struct ferry_migrate_stats stats = none();

		CHECK_INT(ferry_migrate_to_device(pool, raced, LEN, 0, &stats), 0);
		CHECK_INT(stats.skipped_lost + stats.skipped_pinned + stats.skipped_owner, 0);
		CHECK_INT(ferry_migrate_to_ram(ferry, raced, LEN, NULL, 0, NULL), 0);
	}
	atomic_store(&race_stop, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	for (size_t i = 0; i < PAGES; i++)
		CHECK_INT(raced[i * FERRYT_PAGE / sizeof(*raced)], counts[i]);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__beside_a_writing_thread__no_write_is_lost(void **state)
{
	(void)state;
	RUN(body_race);
}

static void body_remap(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 5);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, NULL), 0);
	uint8_t *to = mremap(p, LEN, LEN, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);

	CHECK(to != MAP_FAILED && to != p);
	ferryt_verify(to, 0, PAGES / 2, 5);
	CHECK_INT(ferry_migrate_to_device(pool, to, LEN, 0, NULL), 0);
	CHECK_INT(munmap(to + 100 * FERRYT_PAGE, 50 * FERRYT_PAGE), 0); /* some of it goes, away as it is */
	ferryt_verify(to, 0, 100, 5);
	ferryt_verify(to + 150 * FERRYT_PAGE, 150, PAGES - 150, 5);
	ferryt_verify_zero(p, PAGES); /* the old place is empty memory */
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(to + 150 * FERRYT_PAGE, 150, PAGES - 150, 5);
}

static void migrate__mremap_dontunmap_and_partial_munmap__every_byte_kept(void **state)
{
	(void)state;
	RUN(body_remap);
}

/* 700 pages with data: the middle 500 in a pool, the others in RAM. */
static uint8_t *some_in(struct ferry *ferry, struct ferry_pool *pool)
{
	uint8_t *p = ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK(p != MAP_FAILED);
	ferryt_fill(p, PAGES, 8);
	CHECK_INT(ferry_migrate_to_device(pool, p + 100 * FERRYT_PAGE, 500 * FERRYT_PAGE, 0, NULL), 0);
	CHECK_INT(ferryt_present(p, PAGES), 200);
	return p;
}

static void body_select(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = attach(ferry, owner_a), *a2 = attach(ferry, owner_a);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = some_in(ferry, a);

	/* no page is in a pool of that kind */
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, FERRY_MIGRATE_SELECT_DEVICE_COHERENT, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	CHECK(!used(a2) && ferryt_present(p, PAGES) == 200);

	/* from pool to pool: what is in RAM stays there */
	stats = none();
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, FERRY_MIGRATE_SELECT_DEVICE_PRIVATE, &stats), 0);
	CHECK_INT(stats.migrated, 500);
	CHECK_INT(stats.skipped_owner, 200);
	CHECK_INT(ferryt_present(p, 100), 100);
	CHECK_INT(ferryt_present(p, PAGES), 200);
	CHECK(!used(a) && used(a2) == 2 * FERRY_SUBSECTION);

	/* there already, and still nothing of RAM */
	stats = none();
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, FERRY_MIGRATE_SELECT_DEVICE_PRIVATE, &stats), 0);
	CHECK_INT(stats.there, 500);
	CHECK_INT(stats.skipped_owner, 200);

	stats = none();
	CHECK_INT(ferry_migrate_to_device(a2, p, LEN, FERRY_MIGRATE_SELECT_SYSTEM, &stats), 0);
	CHECK_INT(stats.there, 500);
	CHECK_INT(stats.migrated, 200);
	ferryt_verify(p, 0, PAGES, 8);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate__select_flags__only_that_kind_goes(void **state)
{
	(void)state;
	RUN(body_select);
}

/* ---- three steps ---- */

#define STEP_PAGES 100u

struct steps {
	struct ferry_migrate m;
	uint64_t src[STEP_PAGES], dst[STEP_PAGES];
	const void *data[STEP_PAGES];
};

static void setup_selected(struct steps *s, struct ferry_pool *pool, uint8_t *p, const void *owner, unsigned flags)
{
	memset(s, 0, sizeof(*s));
	s->m = (struct ferry_migrate){ .size = sizeof(s->m), .pool = pool, .start = (uintptr_t)p,
				       .end = (uintptr_t)p + STEP_PAGES * FERRYT_PAGE, .src = s->src, .dst = s->dst,
				       .data = s->data, .pgmap_owner = owner, .flags = flags };
	CHECK_INT(ferry_migrate_setup(&s->m), 0);
}

static void setup(struct steps *s, struct ferry_pool *pool, uint8_t *p)
{
	setup_selected(s, pool, p, NULL, 0);
}

static void body_three_steps(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	uint8_t *p = ferryt_mmap(ferry, STEP_PAGES * FERRYT_PAGE), page[FERRYT_PAGE];
	struct steps s, second;

	/* 80 with data, the others holes; one of the 80 is pinned */
	CHECK_INT(ferry_advise(ferry, p, STEP_PAGES * FERRYT_PAGE, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill(p, 80, 6);
	CHECK_INT(ferry_pin(ferry, p + 7 * FERRYT_PAGE, FERRYT_PAGE), 0);
	setup(&s, pool, p);
	CHECK_INT(s.m.npages, STEP_PAGES);
	CHECK_INT(s.m.cpages, 99);
	CHECK_INT(ferryt_present(p, STEP_PAGES), 1);
	second.m = s.m;
	CHECK_FAILS(ferry_migrate_setup(&second.m), -EBUSY, "under way");
	for (size_t i = 0; i < STEP_PAGES; i++) {
		CHECK_INT(s.src[i] & FERRY_MIGRATE_PFN_MIGRATE, i == 7 ? 0 : FERRY_MIGRATE_PFN_MIGRATE);
		CHECK_INT(!!(s.src[i] & FERRY_MIGRATE_PFN_VALID), i < 80 && i != 7);
		if (!(s.src[i] & FERRY_MIGRATE_PFN_VALID)) {
			CHECK(!s.data[i]);
			continue;
		}
		uint64_t pfn = s.dst[i] >> FERRY_MIGRATE_PFN_SHIFT;

		CHECK(ferry_pfn_valid(ferry, pfn));
		ferryt_verify(s.data[i], i, 1, 6);
		if (i == 20)
			s.dst[i] = 0; /* this one stays */
		else
			CHECK_INT(ferry_device_write(ferry, pfn, s.data[i], FERRYT_PAGE), 0);
	}
	/* touched between: comes back from where it was put, with the write */
	p[30 * FERRYT_PAGE] ^= 0xff;
	CHECK_INT(ferry_migrate_pages(&s.m), 0);
	for (size_t i = 0; i < 80; i++)
		CHECK_INT(!!(s.src[i] & FERRY_MIGRATE_PFN_MIGRATE), i != 7 && i != 20 && i != 30);
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferryt_present(p, STEP_PAGES), 3); /* 7, 20, 30 */
	CHECK_INT(ferry_device_read(ferry, s.dst[5] >> FERRY_MIGRATE_PFN_SHIFT, page, sizeof(page)), 0);
	ferryt_verify(page, 5, 1, 6);
	p[30 * FERRYT_PAGE] ^= 0xff;
	ferryt_verify(p, 0, 80, 6);
	ferryt_verify_zero(p + 80 * FERRYT_PAGE, 20);
	CHECK_INT(ferry_unpin(ferry, p + 7 * FERRYT_PAGE, FERRYT_PAGE), 0);

	/* given up at once: nothing has changed */
	setup(&s, pool, p);
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	ferryt_verify(p, 0, 80, 6);
	CHECK_FAILS(ferry_migrate_pages(&s.m), -EINVAL, "follows");
	CHECK_FAILS(ferry_migrate_finalize(&s.m), -EINVAL, "follows");
	CHECK_FAILS(ferry_device_write(ferry, UINT64_MAX / 2, page, sizeof(page)), -EINVAL, "no valid PFN");
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 80, 6);
}

static void migrate__three_steps__copied_by_the_caller(void **state)
{
	(void)state;
	RUN(body_three_steps);
}

static unsigned valid_in_setup(struct ferry_pool *pool, uint8_t *p, const void *owner, unsigned flags)
{
	struct steps s;
	unsigned n = 0;

	setup_selected(&s, pool, p, owner, flags);
	for (size_t i = 0; i < STEP_PAGES; i++)
		n += (s.src[i] & FERRY_MIGRATE_PFN_VALID) != 0;
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	return n;
}

static void body_setup_select(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *a = attach(ferry, owner_a), *a2 = attach(ferry, owner_a);
	uint8_t *p = some_in(ferry, a), *half = p + 50 * FERRYT_PAGE; /* 50 in RAM, then 50 in the pool */
	struct steps s;

	CHECK_INT(valid_in_setup(a2, half, owner_b, FERRY_MIGRATE_SELECT_DEVICE_PRIVATE), 0);
	CHECK_INT(valid_in_setup(a2, half, owner_a, FERRY_MIGRATE_SELECT_DEVICE_COHERENT), 0);
	CHECK(used(a) > 0 && !used(a2));

	setup_selected(&s, a2, half, owner_a, FERRY_MIGRATE_SELECT_DEVICE_PRIVATE);
	for (size_t i = 0; i < STEP_PAGES; i++) {
		CHECK_INT(!!(s.src[i] & FERRY_MIGRATE_PFN_VALID), i >= 50);
		if (i >= 50)
			CHECK_INT(ferry_device_write(ferry, s.dst[i] >> FERRY_MIGRATE_PFN_SHIFT, s.data[i], FERRYT_PAGE), 0);
	}
	CHECK_INT(ferry_migrate_pages(&s.m), 0);
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferryt_present(half, 50), 50);
	CHECK_INT(ferryt_present(half + 50 * FERRYT_PAGE, 50), 0);
	ferryt_verify(p, 0, PAGES, 8);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate_setup__select_flags_and_owner__only_those_collected(void **state)
{
	(void)state;
	RUN(body_setup_select);
}

#define DROP_ROUNDS 300u

static pthread_barrier_t drop_begins;
static uint8_t *dropped;

static void *drop(void *arg)
{
	for (unsigned i = 0; i < DROP_ROUNDS; i++) {
		pthread_barrier_wait(&drop_begins);
		for (size_t k = 0; k < STEP_PAGES; k += STEP_PAGES / 5) /* some before the pages are put back, some between */
			CHECK_INT(madvise(dropped + k * FERRYT_PAGE, STEP_PAGES / 5 * FERRYT_PAGE, MADV_DONTNEED), 0);
		pthread_barrier_wait(&drop_begins);
	}
	return arg;
}

static void body_finalize_beside_a_drop(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach(ferry, NULL);
	struct steps s;
	pthread_t thread;

	dropped = ferryt_mmap(ferry, STEP_PAGES * FERRYT_PAGE);
	CHECK_INT(pthread_barrier_init(&drop_begins, NULL, 2), 0);
	CHECK_INT(pthread_create(&thread, NULL, drop, NULL), 0);
	for (unsigned i = 0; i < DROP_ROUNDS; i++) {
		ferryt_fill(dropped, STEP_PAGES, i);
		setup(&s, pool, dropped);
		pthread_barrier_wait(&drop_begins);
		CHECK_INT(ferry_migrate_finalize(&s.m), 0); /* nothing goes: all is put back */
		pthread_barrier_wait(&drop_begins);
		ferryt_verify_zero(dropped, STEP_PAGES);
	}
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void migrate_finalize__beside_a_drop__reads_zeros(void **state)
{
	(void)state;
	RUN(body_finalize_beside_a_drop);
}

/* ---- recover; ends the server, so it comes last ---- */

static void body_recover(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t byte, *data = malloc(LEN);
	uint8_t *p = ferryt_mmap(ferry, LEN), *probe = ferryt_mmap(ferry, LEN);
	uint64_t deadline_ns;

	CHECK(data);
	CHECK_INT(ferry_advise(ferry, probe, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill_away(ferry, probe, PAGES, 9);

	ferryt_fill_away(ferry, p, PAGES, 7);
	CHECK_FAILS(ferry_recover(ferry, (uintptr_t)p, data, FERRYT_PAGE), -EINVAL, "not poisoned");
	/* Over the local fabric the data outlives the server, until the library has noticed. */
	ferryt_child_signal(ferryt_server(), SIGKILL);
	deadline_ns = ferryi_now_ns() + 30000000000ULL;
	for (size_t i = 0; !ferryt_touch(probe + i * FERRYT_PAGE, &byte); i = (i + 1) % PAGES)
		CHECK(ferryi_now_ns() < deadline_ns && poll(NULL, 0, 1) == 0);
	for (size_t i = 0; i < 11; i++)
		CHECK_INT(ferryt_touch(p + i * FERRYT_PAGE, &byte), SIGBUS);
	ferryt_fill(data, PAGES, 8);
	CHECK_FAILS(ferry_recover(ferry, (uintptr_t)p, data, 12 * FERRYT_PAGE), -EINVAL, "nothing was changed");
	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	CHECK_INT(ferry_recover(ferry, (uintptr_t)p, data, 10 * FERRYT_PAGE), 0);
	ferryt_verify(p, 0, 10, 8);
	p[0] = 1; /* memory like any other */
	CHECK_INT(ferryt_touch(p + 10 * FERRYT_PAGE, &byte), SIGBUS);
	/* what is given up reads as zeros, as the kernel has it for a poisoned page */
	CHECK_INT(madvise(p + 10 * FERRYT_PAGE, FERRYT_PAGE, MADV_DONTNEED), 0);
	ferryt_verify_zero(p + 10 * FERRYT_PAGE, 1);
}

static void recover__data_over_poison__heals_just_these_pages(void **state)
{
	(void)state;
	RUN(body_recover);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(migrate__there_and_back__counts_and_no_traffic_for_zeros),
		cmocka_unit_test(migrate__pinned_pages__skipped_and_counted),
		cmocka_unit_test(migrate__read_only_pages__go_and_stay_read_only),
		cmocka_unit_test(migrate__read_only_beside_a_thread_that_writes__sigsegv_as_ever),
		cmocka_unit_test(migrate__owner_filters__both_ways),
		cmocka_unit_test(migrate__own_and_others__mirror_is_told_the_owner),
		cmocka_unit_test(migrate__memory_of_any_kind__adopted_on_the_way),
		cmocka_unit_test(migrate__bad_ranges__documented_errors),
		cmocka_unit_test(migrate__beside_a_writing_thread__no_write_is_lost),
		cmocka_unit_test(migrate__mremap_dontunmap_and_partial_munmap__every_byte_kept),
		cmocka_unit_test(migrate__three_steps__copied_by_the_caller),
		cmocka_unit_test(migrate__select_flags__only_that_kind_goes),
		cmocka_unit_test(migrate_setup__select_flags_and_owner__only_those_collected),
		cmocka_unit_test(migrate_finalize__beside_a_drop__reads_zeros),
		cmocka_unit_test(recover__data_over_poison__heals_just_these_pages),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
