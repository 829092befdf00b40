/* For the tests of folios: huge pages, a driver that counts what it is told, and a server for each test. */
#ifndef FERRYT_FOLIO_KIT_H
#define FERRYT_FOLIO_KIT_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "pager_kit.h"
#include "uapi.h"

#define HUGE	 (2 * FERRYT_MIB)
#define PAGES	 512u
#define BUDGET	 (16 * FERRYT_MIB)
#define MAX_PFNS (32u * PAGES)
#define THREADS	 8u

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* ---- huge pages of the kernel's ---- */

/* Pages of [p, p + HUGE) that are of a huge page. */
static inline size_t huge_pages(const void *p)
{
	struct ferryi_page_region region[PAGES];
	struct ferryi_pm_scan_arg arg = { .size = sizeof(arg), .start = (uintptr_t)p, .end = (uintptr_t)p + HUGE,
					  .vec = (uintptr_t)region, .vec_len = PAGES, .category_mask = FERRYI_PAGE_IS_HUGE,
					  .return_mask = FERRYI_PAGE_IS_HUGE };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), n;
	size_t pages = 0;

	CHECK(fd >= 0);
	n = ioctl(fd, FERRYI_PAGEMAP_SCAN, &arg);
	close(fd);
	for (int i = 0; i < n; i++)
		pages += (region[i].end - region[i].start) / FERRYT_PAGE;
	return pages;
}

/* nr huge pages of data, next to each other; NULL: they are not to be had. */
static inline uint8_t *try_huge(size_t nr, uint64_t seed)
{
	uint8_t *all = mmap(NULL, (nr + 1) * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *p = (uint8_t *)(((uintptr_t)all + HUGE - 1) & ~(HUGE - 1));

	CHECK(all != MAP_FAILED);
	madvise(p, nr * HUGE, MADV_HUGEPAGE);
	ferryt_fill(p, nr * PAGES, seed);
	for (size_t i = 0; i < nr; i++) {
		if (huge_pages(p + i * HUGE) != PAGES && madvise(p + i * HUGE, HUGE, MADV_COLLAPSE))
			return NULL;
		if (huge_pages(p + i * HUGE) != PAGES)
			return NULL;
	}
	return p;
}

static inline uint8_t *huge(size_t nr, uint64_t seed)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	uint8_t *p;

	while (!(p = try_huge(nr, seed)) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1); /* no free memory in one piece just now */
	CHECK(p);
	return p;
}

/* ---- a driver ---- */

static struct ferry *the_ferry;
static uint64_t first_pfn;
static _Atomic unsigned split[MAX_PFNS], freed[MAX_PFNS]; /* calls for each page of the window */
static _Atomic unsigned nr_split, nr_freed, nr_freed_whole, nr_engine, nr_wrong;
static _Atomic bool tails_are_mine; /* page_split writes drvdata of its own */
static _Atomic bool is_slow;        /* it takes so long that others come meanwhile */
static unsigned fault_threads = 4;

static inline struct ferry_page *page_at(uint64_t pfn)
{
	return ferry_pfn_to_page(the_ferry, pfn);
}

static inline void expect(bool well)
{
	if (!well)
		atomic_fetch_add(&nr_wrong, 1);
}

static inline void on_split(struct ferry_pool *pool, uint64_t head, uint64_t tail)
{
	(void)pool;
	if (atomic_load(&is_slow) && atomic_exchange(&is_slow, false)) {
		uint64_t until_ns = ferryi_deadline_ms(20);

		while (ferryi_now_ns() < until_ns)
			ferryi_cpu_relax();
	}
	expect(tail > head && tail - head < PAGES && head % PAGES == 0);
	expect(ferry_page_order(page_at(head)) == 9 && ferry_page_order(page_at(tail)) == 0);
	expect(ferry_page_get_drvdata(page_at(tail)) == ferry_page_get_drvdata(page_at(head)));
	if (atomic_load(&tails_are_mine))
		ferry_page_set_drvdata(page_at(tail), ferry_page_get_drvdata(page_at(head)) + tail - head);
	for (uint64_t i = head; i < head + PAGES; i++) /* no page has been freed before all were told of */
		expect(atomic_load(&freed[i - first_pfn]) == 0);
	atomic_fetch_add(&split[tail - first_pfn], 1);
	atomic_fetch_add(&nr_split, 1);
}

static inline void on_free(struct ferry_pool *pool, uint64_t pfn)
{
	(void)pool;
	if (ferry_page_order(page_at(pfn)) == 9) {
		atomic_fetch_add(&nr_freed_whole, 1);
		return;
	}
	atomic_fetch_add(&freed[pfn - first_pfn], 1);
	atomic_fetch_add(&nr_freed, 1);
}

static inline enum ferry_vm_fault on_fault(struct ferry_pool *pool, const struct ferry_device_fault *fault)
{
	(void)pool;
	atomic_fetch_add(&nr_engine, 1);
	expect(atomic_load(&nr_split) == PAGES - 1);
	expect(fault->drvdata == ferry_page_get_drvdata(page_at(fault->pfn - fault->pfn % PAGES)) + fault->pfn % PAGES);
	ferryt_fill_page(fault->to, 50, fault->pfn % PAGES);
	return FERRY_VM_FAULT_MAJOR;
}

static const struct ferry_pool_ops folio_ops = { .page_free = on_free, .page_split = on_split };
static const struct ferry_pool_ops engine_ops = { .page_free = on_free, .page_split = on_split, .migrate_to_ram = on_fault };
static const struct ferry_pool_ops small_ops = { .page_free = on_free };

static inline void forget_calls(void)
{
	memset((void *)split, 0, sizeof(split));
	memset((void *)freed, 0, sizeof(freed));
	atomic_store(&nr_split, 0);
	atomic_store(&nr_freed, 0);
	atomic_store(&nr_freed_whole, 0);
}

static inline void wait_for(_Atomic unsigned *count, unsigned want)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	while (atomic_load(count) < want && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	CHECK_INT(atomic_load(count), want);
	CHECK_INT(atomic_load(&nr_wrong), 0);
}

static inline struct ferry_pool *attach(const struct ferry_pool_ops *ops, const void *owner)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test", .ops = ops,
					.owner = owner, .len_bytes = 4 * FERRY_SUBSECTION };
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *pool;

	CHECK_INT(ferry_pool_attach(the_ferry, &attr, &pool), 0);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	first_pfn = info.pfn_first;
	return pool;
}

static inline struct ferry_pool *open_with(size_t budget, const struct ferry_pool_ops *ops)
{
	struct ferry_config cfg = ferryt_config(budget);

	cfg.fault_threads = fault_threads;
	CHECK_INT(ferry_open(&cfg, &the_ferry), 0);
	return attach(ops, NULL);
}

static inline struct ferry_migrate_stats none(void)
{
	return (struct ferry_migrate_stats){ .size = sizeof(struct ferry_migrate_stats) };
}

static inline void check_budget(void)
{
	struct ferry_stats stats = ferryt_stats(the_ferry);

	CHECK(stats.peak_resident_bytes <= stats.budget_bytes);
}

/* Goes as nr folios; the PFN of the first. */
static inline uint64_t send(struct ferry_pool *pool, uint8_t *p, size_t nr)
{
	struct ferry_migrate_stats stats = none();

	CHECK_INT(ferry_migrate_to_device(pool, p, nr * HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, nr);
	CHECK_INT(stats.folios_split, 0);
	CHECK_INT(stats.cpages, nr * PAGES);
	CHECK_INT(stats.migrated, nr * PAGES);
	CHECK_INT(stats.bytes, nr * HUGE);
	CHECK_INT(stats.zero + stats.there + stats.skipped_raced + stats.skipped_pinned, 0);
	CHECK_INT(ferryt_present(p, nr * PAGES), 0);
	return first_pfn;
}

/* ---- other threads ---- */

static uint8_t *shared; /* what they touch */
static _Atomic bool stop;

/* ---- around the tests ---- */

static inline int setup(void **state)
{
	ferryt_server_start(*state);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

static inline int needs_huge_pages(void)
{
	char line[128] = "not to be read";
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");

	if (f && !fgets(line, sizeof(line), f))
		line[0] = '\0';
	if (f)
		fclose(f);
	line[strcspn(line, "\n")] = '\0';
	if (!strstr(line, "[never]") && try_huge(1, 1))
		return 0;
	printf("SKIP: no transparent huge page is to be had (/sys/kernel/mm/transparent_hugepage/enabled: %s)\n", line);
	return 77;
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, row)

#endif
