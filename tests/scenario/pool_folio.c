/*
 * Huge pages that go to a pool as one (folios): how they go, when they part,
 * and how they are given up as a whole. argv[1]: the fabric row.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "folio_kit.h"

/* ---- as one ---- */

static uintptr_t told_start, told_end;
static size_t told_huge;

static int watch(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	if (update->event == FERRY_UPDATE_MIGRATE && update->owner == mirror->owner && !told_start) {
		told_start = update->start;
		told_end = update->end;
		told_huge = huge_pages((void *)update->start);
	}
	return 0;
}

/* Pages that are marked holes: in the page table, but not there. */
static size_t marked(const uint8_t *p, size_t pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t n = 0;

	CHECK(fd >= 0);
	for (size_t i = 0; i < pages; i++) {
		uint64_t entry;

		CHECK(pread(fd, &entry, 8, (off_t)(((uintptr_t)p / FERRYT_PAGE + i) * 8)) == 8);
		n += (entry >> 57 & 1) && !(entry >> 63);
	}
	close(fd);
	return n;
}

static void check_entries(struct ferry_mirror *mirror, uint8_t *p, uint64_t pfn)
{
	struct ferry_range range = { 0 };
	struct ferry_entry_info info = { .size = sizeof(info) };
	uint64_t entry[2] = { 0 };

	range.pfns = entry;
	CHECK_INT(ferry_range_register(&range, mirror, (uintptr_t)p, (uintptr_t)p + 2 * HUGE, 21), 0);
	CHECK_INT(ferry_range_snapshot(&range), 2);
	for (unsigned i = 0; i < 2; i++) {
		CHECK(entry[i] & ferry_default_pfn_flags[FERRY_PFN_DEVICE_PRIVATE]);
		CHECK_INT(ferry_entry_to_pfn(&range, entry[i]), pfn + i * PAGES);
	}
	for (unsigned i = 0; i < PAGES; i += 73) {
		CHECK_INT(ferry_entry_info(&range, (uintptr_t)p + i * FERRYT_PAGE, &info), 0);
		CHECK(info.kind == FERRY_ENTRY_DEVICE_OWN && info.order == 9 && info.pfn == pfn + i);
	}
	ferry_range_unregister(&range);
}

static void as_one_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = watch };
	static const char owner[] = "device";
	struct ferry_mirror mirror = { .ops = &ops, .owner = owner };
	struct ferry_config cfg = ferryt_config(BUDGET);
	struct ferry_mirror_stats access = { .size = sizeof(access) };
	uint8_t *p = huge(2, 1), page[FERRYT_PAGE];

	CHECK_INT(ferry_open(&cfg, &the_ferry), 0);
	struct ferry_pool *pool = attach(&folio_ops, owner);

	CHECK_INT(ferry_mirror_register(&mirror, the_ferry), 0);
	uint64_t pfn = send(pool, p, 2);

	CHECK(told_start == (uintptr_t)p && told_end == told_start + HUGE && told_huge == PAGES); /* whole, and before */
	CHECK_INT(marked(p, 2 * PAGES), 2 * PAGES);
	for (unsigned i = 0; i < 2 * PAGES; i++)
		CHECK_INT(ferry_page_order(page_at(pfn + i)), i % PAGES ? 0 : 9);
	check_entries(&mirror, p, pfn);
	/* A device's access in place takes nothing out of it. */
	ferryt_fill_page(page, 7, 7);
	CHECK_INT(ferry_mirror_write(&mirror, (uintptr_t)p + 7 * FERRYT_PAGE, page, sizeof(page), &access), 0);
	CHECK_INT(access.pages_pool, 1);
	CHECK_INT(ferry_page_order(page_at(pfn)), 9);
	struct ferry_migrate_stats stats = none();

	CHECK_INT(ferry_migrate_to_device(pool, p, 2 * HUGE, 0, &stats), 0);
	CHECK_INT(stats.there, 2 * PAGES);
	CHECK_INT(stats.folios + stats.bytes, 0);
	CHECK_INT(atomic_load(&nr_split) + atomic_load(&nr_freed) + atomic_load(&nr_freed_whole), 0);

	/* In an order that no stream is seen in: each page once, 389 is prime to 512. */
	ferryt_verify(p + 7 * FERRYT_PAGE, 7, 1, 7);
	ferryt_fill_page(p + 7 * FERRYT_PAGE, 1, 7);
	for (unsigned i = 0; i < 2 * PAGES; i++) {
		unsigned k = i * 389 % (2 * PAGES);

		ferryt_verify(p + k * FERRYT_PAGE, k, 1, 1);
	}
	wait_for(&nr_freed, 2 * PAGES);
	CHECK_INT(atomic_load(&nr_split), 2 * (PAGES - 1));
	CHECK_INT(atomic_load(&nr_freed_whole), 0);
	for (unsigned i = 0; i < 2 * PAGES; i++) {
		CHECK_INT(atomic_load(&split[i]), i % PAGES ? 1 : 0);
		CHECK_INT(atomic_load(&freed[i]), 1);
		CHECK_INT(ferry_page_order(page_at(pfn + i)), 0);
	}
	check_budget();
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, 2 * PAGES, 1);
}

static void folio__huge_page_migrated__one_move_and_content_right(void **state)
{
	(void)state;
	RUN(as_one_body);
}

/* ---- in three steps ---- */

struct huge_steps {
	struct ferry_migrate m;
	uint64_t src[PAGES], dst[PAGES];
	const void *data[PAGES];
};

/* The first PFN when it was collected, else 0. */
static uint64_t setup_huge(struct huge_steps *s, struct ferry_pool *pool, uint8_t *p)
{
	memset(s, 0xff, sizeof(*s));
	s->m = (struct ferry_migrate){ .size = sizeof(s->m), .pool = pool, .start = (uintptr_t)p, .end = (uintptr_t)p + HUGE,
				       .src = s->src, .dst = s->dst, .data = s->data, .flags = FERRY_MIGRATE_SELECT_COMPOUND };
	CHECK_INT(ferry_migrate_setup(&s->m), 0);
	for (unsigned i = 1; i < PAGES; i++)
		CHECK(!s->src[i] && !s->dst[i] && !s->data[i]);
	if (!s->m.cpages) {
		CHECK(!s->src[0] && !s->dst[0] && !s->data[0]);
		return 0;
	}
	CHECK_INT(s->m.cpages, PAGES);
	CHECK_INT(s->src[0], FERRY_MIGRATE_PFN_VALID | FERRY_MIGRATE_PFN_MIGRATE | FERRY_MIGRATE_PFN_WRITE |
				     FERRY_MIGRATE_PFN_COMPOUND);
	CHECK(s->dst[0] & FERRY_MIGRATE_PFN_COMPOUND);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	return s->dst[0] >> FERRY_MIGRATE_PFN_SHIFT;
}

static void copy_huge(const struct huge_steps *s, uint64_t pfn, size_t first, uint64_t seed)
{
	const uint8_t *data = s->data[0];

	ferryt_verify(data, first, PAGES, seed);
	for (unsigned i = 0; i < PAGES; i++)
		CHECK_INT(ferry_device_write(the_ferry, pfn + i, data + i * FERRYT_PAGE, FERRYT_PAGE), 0);
}

static void three_steps_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	struct ferry_migrate_stats stats = none();
	static struct huge_steps s;
	uint8_t *p = huge(2, 5), *other = p + HUGE;

	CHECK_INT(ferry_adopt(the_ferry, p, 2 * HUGE, 0), 0);

	/* given up: it stays, in small pages or as it was */
	CHECK(setup_huge(&s, pool, p));
	s.dst[0] = 0;
	CHECK_INT(ferry_migrate_pages(&s.m), 0);
	CHECK(!(s.src[0] & FERRY_MIGRATE_PFN_MIGRATE));
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	ferryt_verify(p, 0, PAGES, 5);

	/* no huge page any more: nothing is collected, and nothing changes */
	CHECK(!setup_huge(&s, pool, p));
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	s.m.start += FERRYT_PAGE;
	s.m.end += FERRYT_PAGE;
	CHECK_FAILS(ferry_migrate_setup(&s.m), -EINVAL, "COMPOUND");

	/* as one; there is one slot, so a second huge page goes page by page meanwhile */
	uint64_t pfn = setup_huge(&s, pool, other);

	CHECK(pfn);
	copy_huge(&s, pfn, PAGES, 5);
	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(ferry_migrate_pages(&s.m), 0);
	CHECK(s.src[0] & FERRY_MIGRATE_PFN_MIGRATE && s.src[0] & FERRY_MIGRATE_PFN_COMPOUND);
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferry_page_order(page_at(pfn)), 9);
	CHECK_INT(ferryt_present(other, PAGES), 0);
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, 2 * PAGES, 5);
}

static void folio__three_steps__one_entry_for_all(void **state)
{
	(void)state;
	RUN(three_steps_body);
}

static void three_steps_touched_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	static struct huge_steps s;
	uint8_t *p = huge(1, 6);

	CHECK_INT(ferry_adopt(the_ferry, p, HUGE, 0), 0);
	uint64_t pfn = setup_huge(&s, pool, p);

	CHECK(pfn);
	copy_huge(&s, pfn, 0, 6);
	p[30 * FERRYT_PAGE] ^= 0xff; /* comes back from the slot, with the write */
	CHECK_INT(ferry_migrate_pages(&s.m), 0);
	CHECK(s.src[0] & FERRY_MIGRATE_PFN_MIGRATE && !(s.src[0] & FERRY_MIGRATE_PFN_COMPOUND));
	CHECK_INT(ferry_migrate_finalize(&s.m), 0);
	CHECK_INT(ferry_page_order(page_at(pfn)), 0);
	CHECK_INT(ferryt_present(p, PAGES), 1);
	p[30 * FERRYT_PAGE] ^= 0xff;
	ferryt_verify(p, 0, PAGES, 6);
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__three_steps_and_a_touch__that_page_stays(void **state)
{
	(void)state;
	RUN(three_steps_touched_body);
}

/* Of a range that begins and ends anywhere, as malloc's do: what lies whole in it. */
static void unaligned_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(3, 2);

	CHECK_INT(ferry_migrate_to_device(pool, p + 3 * FERRYT_PAGE, 2 * HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 1);
	CHECK_INT(stats.folios_split, 0);
	CHECK_INT(stats.migrated, 2 * PAGES);
	CHECK_INT(ferryt_present(p, 3 * PAGES), PAGES);
	ferryt_verify(p, 0, 3 * PAGES, 2);
	wait_for(&nr_freed, 2 * PAGES);
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK_INT(ferry_unadopt(the_ferry, p + 3 * FERRYT_PAGE, 2 * HUGE), 0);
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, 3 * PAGES, 2);
}

static void folio__range_of_any_alignment__the_huge_page_inside_goes(void **state)
{
	(void)state;
	RUN(unaligned_body);
}

static void stats_size_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, NULL);
	uint8_t *p = huge(1, 1);
	struct ferry_migrate_stats stats = { .size = offsetof(struct ferry_migrate_stats, folios), .folios = 77, .folios_split = 78 };

	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(ferry_migrate_to_ram(the_ferry, p, HUGE, NULL, 0, &stats), 0);
	CHECK_INT(stats.migrated, 2 * PAGES);
	CHECK(stats.folios == 77 && stats.folios_split == 78); /* beyond its size */
	CHECK_INT(stats.size, offsetof(struct ferry_migrate_stats, folios));
	stats.size--;
	CHECK_FAILS(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), -EINVAL, "size");
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, PAGES, 1);
}

static void folio__stats_of_an_older_library__accepted(void **state)
{
	(void)state;
	RUN(stats_size_body);
}

/* ---- how it parts ---- */

#define DRVDATA 1000000u

static uint8_t *part_fault(struct ferry_pool *pool, uint8_t *p)
{
	(void)pool;
	ferryt_verify(p + 100 * FERRYT_PAGE, 100, 1, 3);
	return p;
}

static uint8_t *part_pin(struct ferry_pool *pool, uint8_t *p)
{
	(void)pool;
	CHECK_INT(ferry_pin(the_ferry, p + 100 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_unpin(the_ferry, p + 100 * FERRYT_PAGE, FERRYT_PAGE), 0);
	return p;
}

static uint8_t *part_to_ram(struct ferry_pool *pool, uint8_t *p)
{
	struct ferry_migrate_stats stats = none();

	(void)pool;
	CHECK_INT(ferry_migrate_to_ram(the_ferry, p + 100 * FERRYT_PAGE, FERRYT_PAGE, NULL, 0, &stats), 0);
	CHECK_INT(stats.migrated, 1);
	CHECK_INT(stats.folios_split, 1);
	stats = none();
	CHECK_INT(ferry_migrate_to_ram(the_ferry, p + 101 * FERRYT_PAGE, FERRYT_PAGE, NULL, 0, &stats), 0);
	CHECK_INT(stats.folios_split, 0);
	return p;
}

static uint8_t *part_drop(struct ferry_pool *pool, uint8_t *p)
{
	(void)pool;
	CHECK_INT(madvise(p + 100 * FERRYT_PAGE, FERRYT_PAGE, MADV_DONTNEED), 0);
	ferryt_verify_zero(p + 100 * FERRYT_PAGE, 1);
	ferryt_fill_page(p + 100 * FERRYT_PAGE, 3, 100);
	return p;
}

static uint8_t *part_unmap(struct ferry_pool *pool, uint8_t *p)
{
	(void)pool;
	CHECK_INT(munmap(p + 100 * FERRYT_PAGE, FERRYT_PAGE), 0);
	wait_for(&nr_split, PAGES - 1);
	CHECK(mmap(p + 100 * FERRYT_PAGE, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	      MAP_FAILED);
	ferryt_fill_page(p + 100 * FERRYT_PAGE, 3, 100);
	return p;
}

static uint8_t *part_ferry_munmap(struct ferry_pool *pool, uint8_t *p)
{
	(void)pool;
	CHECK_INT(ferry_munmap(the_ferry, p + 100 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK(mmap(p + 100 * FERRYT_PAGE, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	      MAP_FAILED);
	ferryt_fill_page(p + 100 * FERRYT_PAGE, 3, 100);
	return p;
}

/* The upper part goes elsewhere: it is compared there and brought back by hand. */
static uint8_t *part_mremap(struct ferry_pool *pool, uint8_t *p)
{
	size_t len = (PAGES - 100) * FERRYT_PAGE;
	uint8_t *to = mremap(p + 100 * FERRYT_PAGE, len, len, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	(void)pool;
	CHECK(to != MAP_FAILED && to != p + 100 * FERRYT_PAGE);
	wait_for(&nr_split, PAGES - 1);
	CHECK_INT(atomic_load(&nr_freed), 0); /* nothing has left the pool */
	ferryt_verify(to, 100, PAGES - 100, 3);
	memcpy(p + 100 * FERRYT_PAGE, to, len);
	return p;
}

static uint8_t *(*part)(struct ferry_pool *pool, uint8_t *p);

static void part_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint8_t *p = huge(1, 3);
	uint64_t pfn = send(pool, p, 1);

	ferry_page_set_drvdata(page_at(pfn), DRVDATA);
	atomic_store(&tails_are_mine, true);
	p = part(pool, p);
	wait_for(&nr_split, PAGES - 1);
	for (unsigned i = 0; i < PAGES; i++) {
		CHECK_INT(atomic_load(&split[i]), i > 0);
		CHECK_INT(ferry_page_get_drvdata(page_at(pfn + i)), DRVDATA + i);
	}
	CHECK_INT(ferry_page_order(page_at(pfn)), 0);
	ferryt_verify(p, 0, PAGES, 3);
	wait_for(&nr_freed, PAGES);
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK_INT(atomic_load(&nr_freed_whole), 0);
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, PAGES, 3);
}

static void folio_split__part_of_it_leaves__told_of_each_tail_once(void **state)
{
	static uint8_t *(*const parts[])(struct ferry_pool *, uint8_t *) = { part_fault,	part_pin,   part_to_ram, part_drop,
									     part_unmap, part_ferry_munmap, part_mremap };

	(void)state;
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		part = parts[i];
		RUN(part_body);
	}
}

static void no_driver_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, NULL);
	uint8_t *p = huge(1, 3);
	uint64_t pfn = send(pool, p, 1);

	ferry_page_set_drvdata(page_at(pfn), DRVDATA);
	ferryt_verify(p + 200 * FERRYT_PAGE, 200, 1, 3);
	CHECK_INT(ferry_page_order(page_at(pfn)), 0);
	for (unsigned i = 0; i < PAGES; i++)
		CHECK_INT(ferry_page_get_drvdata(page_at(pfn + i)), DRVDATA);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio_split__no_driver__drvdata_is_copied(void **state)
{
	(void)state;
	RUN(no_driver_body);
}

static void engine_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &engine_ops);
	uint8_t *p = huge(1, 3);

	atomic_store(&tails_are_mine, true);
	ferry_page_set_drvdata(page_at(send(pool, p, 1)), DRVDATA);
	ferryt_verify(p + 300 * FERRYT_PAGE, 300, 1, 50);
	CHECK_INT(atomic_load(&nr_engine), 1); /* the faulting page only */
	wait_for(&nr_freed, 1);
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK_INT(ferry_close(the_ferry), 0);
	ferryt_verify(p, 0, PAGES, 50);
	CHECK_INT(atomic_load(&nr_wrong), 0);
}

static void folio_split__own_copy_engine__split_before_it_is_asked(void **state)
{
	(void)state;
	RUN(engine_body);
}

/* ---- by several at a time ---- */

static pthread_barrier_t barrier;

static void *touch_some(void *arg)
{
	unsigned first = (unsigned)(uintptr_t)arg;

	pthread_barrier_wait(&barrier);
	for (unsigned i = 0; i < PAGES / THREADS; i++) {
		unsigned k = first + (i * 37 % (PAGES / THREADS)) * THREADS;

		ferryt_verify(shared + k * FERRYT_PAGE, k, 1, 4);
	}
	return NULL;
}

static void concurrent_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	pthread_t thread[THREADS];

	for (unsigned round = 0; round < 10; round++) {
		forget_calls();
		atomic_store(&is_slow, true);
		shared = huge(1, 4);
		send(pool, shared, 1);
		pthread_barrier_init(&barrier, NULL, THREADS + 1);
		for (uintptr_t i = 0; i < THREADS; i++)
			CHECK_INT(pthread_create(&thread[i], NULL, touch_some, (void *)i), 0);
		pthread_barrier_wait(&barrier);
		/* ... beside a call that brings home, in this thread */
		CHECK_INT(ferry_migrate_to_ram(the_ferry, shared + 200 * FERRYT_PAGE, 100 * FERRYT_PAGE, NULL, 0, NULL), 0);
		for (unsigned i = 0; i < THREADS; i++)
			CHECK_INT(pthread_join(thread[i], NULL), 0);
		wait_for(&nr_freed, PAGES);
		CHECK_INT(atomic_load(&nr_split), PAGES - 1);
		for (unsigned i = 0; i < MAX_PFNS; i++)
			CHECK(atomic_load(&split[i]) <= 1 && atomic_load(&freed[i]) <= 1);
		CHECK_INT(ferry_munmap(the_ferry, shared, HUGE), 0);
		pthread_barrier_destroy(&barrier);
	}
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio_split__eight_threads_touch__exactly_once(void **state)
{
	(void)state;
	RUN(concurrent_body);
	fault_threads = 1; /* it alone holds no lock beside the call's */
	RUN(concurrent_body);
}

static uint64_t counts[PAGES];

static void *write_all(void *arg)
{
	(void)arg;
	for (uint64_t n = 1; !atomic_load(&stop); n++) {
		for (unsigned i = 0; i < PAGES; i += 5) {
			*(volatile uint64_t *)(shared + i * FERRYT_PAGE) = n;
			counts[i] = n;
		}
	}
	return NULL;
}

/* A page that is touched on its way is taken back from where it is. */
static void touched_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	unsigned rounds = 0, parted = 0;
	pthread_t thread;

	while ((rounds < 10 || !parted || !ferryt_stats(the_ferry).faults_rescued) && ferryi_now_ns() < deadline_ns) {
		struct ferry_migrate_stats stats = none();

		forget_calls();
		shared = huge(1, 5);
		atomic_store(&stop, false);
		CHECK_INT(pthread_create(&thread, NULL, write_all, NULL), 0);
		CHECK_INT(ferry_migrate_to_device(pool, shared, HUGE, 0, &stats), 0);
		atomic_store(&stop, true);
		CHECK_INT(pthread_join(thread, NULL), 0);
		CHECK_INT(stats.folios + stats.folios_split, 1);
		CHECK_INT(stats.cpages, PAGES);
		CHECK_INT(stats.migrated + stats.skipped_raced, PAGES);
		CHECK_INT(stats.zero + stats.skipped_lost + stats.skipped_pinned, 0);
		parted += stats.folios_split == 1;
		for (unsigned i = 0; i < PAGES; i += 5)
			CHECK_INT(*(uint64_t *)(shared + i * FERRYT_PAGE), counts[i] ? counts[i] : *(uint64_t *)(shared + i * FERRYT_PAGE));
		for (unsigned i = 0; i < PAGES; i++) {
			if (i % 5)
				ferryt_verify(shared + i * FERRYT_PAGE, i, 1, 5);
		}
		memset(counts, 0, sizeof(counts));
		CHECK_INT(ferry_munmap(the_ferry, shared, HUGE), 0);
		CHECK_INT(ferryt_stats(the_ferry).resident_bytes, 0);
		CHECK_INT(atomic_load(&nr_split) % (PAGES - 1), 0);
		CHECK_INT(atomic_load(&nr_wrong), 0);
		rounds++;
	}
	CHECK(parted && ferryt_stats(the_ferry).faults_rescued);
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__written_to_meanwhile__no_write_is_lost(void **state)
{
	(void)state;
	RUN(touched_body);
}

/* ---- as a whole ---- */

static void check_whole(unsigned folios)
{
	wait_for(&nr_freed_whole, folios);
	CHECK_INT(atomic_load(&nr_split) + atomic_load(&nr_freed), 0);
	forget_calls();
}

static void whole_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	struct ferry_pool_info info = { .size = sizeof(info) };
	uint8_t *p = huge(1, 6), *to;

	send(pool, p, 1);
	CHECK_INT(ferry_munmap(the_ferry, p, HUGE), 0);
	check_whole(1);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	CHECK_INT(info.used_bytes, 0);

	p = huge(2, 6); /* by the application itself */
	send(pool, p, 2);
	CHECK_INT(munmap(p, 2 * HUGE), 0);
	check_whole(2);

	p = huge(1, 6);
	uint64_t pfn = send(pool, p, 1);

	CHECK_INT(madvise(p, HUGE, MADV_DONTNEED), 0);
	check_whole(1);
	CHECK_INT(ferry_page_order(page_at(pfn)), 0);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(ferry_munmap(the_ferry, p, HUGE), 0);
	CHECK_INT(ferryt_stats(the_ferry).away_bytes, 0);

	/* Moved as a whole it stays one, at any address. */
	p = huge(1, 6);
	pfn = send(pool, p, 1);
	uint8_t *room = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	to = (uint8_t *)(((uintptr_t)room & ~(HUGE - 1)) + HUGE - 3 * FERRYT_PAGE);
	to = to < room ? to + HUGE : to;
	CHECK(mremap(p, HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK_INT(ferry_advise(the_ferry, to, HUGE, FERRY_ADVICE_RANDOM), 0); /* once that has succeeded, the move is known */
	CHECK_INT(ferry_page_order(page_at(pfn)), 9);
	CHECK_INT(ferry_munmap(the_ferry, to, HUGE), 0);
	check_whole(1);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__given_up_as_a_whole__one_page_free_of_order_9(void **state)
{
	(void)state;
	RUN(whole_body);
}

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(folio__huge_page_migrated__one_move_and_content_right),
		ROW_TEST(folio__three_steps__one_entry_for_all),
		ROW_TEST(folio__three_steps_and_a_touch__that_page_stays),
		ROW_TEST(folio__range_of_any_alignment__the_huge_page_inside_goes),
		ROW_TEST(folio__stats_of_an_older_library__accepted),
		ROW_TEST(folio_split__part_of_it_leaves__told_of_each_tail_once),
		ROW_TEST(folio_split__no_driver__drvdata_is_copied),
		ROW_TEST(folio_split__own_copy_engine__split_before_it_is_asked),
		ROW_TEST(folio_split__eight_threads_touch__exactly_once),
		ROW_TEST(folio__written_to_meanwhile__no_write_is_lost),
		ROW_TEST(folio__given_up_as_a_whole__one_page_free_of_order_9),
	};
	int skip = ferryt_needs_uffd();

	skip = skip ? skip : needs_huge_pages();
	if (skip)
		return skip;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
