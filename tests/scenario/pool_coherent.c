/*
 * Coherent pools: pages that the CPU reaches where they are; there and back,
 * beside threads that write, and what the application changes meanwhile.
 * argv[1]: the fabric row, "embedded" for the library's own server.
 */
#include <errno.h>
#include <fcntl.h>
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
#include "coherent_kit.h"

#define PAGES FERRYT_COHERENT_PAGES
#define LEN   (PAGES * FERRYT_PAGE)

static const char other[] = "other";

/* ---- what can be had ---- */

static void refused_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool_attr attr = ferryt_coherent_attr(NULL, NULL);
	struct ferry_pool *pool = NULL;

	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "owner");
	attr.owner = ferryt_me;
	attr.name = "a";
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "no name");
	attr.name = NULL;
	attr.pool = "nowhere";
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENXIO, "nowhere");
	attr.pool = NULL;
	attr.len_bytes = 4096;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "2 MiB");
	CHECK(!pool);
	pool = ferryt_coherent_attach(ferry);
	CHECK_FAILS(ferry_migrate_to_device(pool, (void *)4096, FERRYT_PAGE, 0, NULL), -EINVAL, "not mapped");
	CHECK_INT(ferry_pool_detach(pool), 0);
	if (strcmp(ferryt_row(), "local") != 0)
		return;
	/* A server of this host, but not by the fabric that can share memory. */
	char url[192];

	snprintf(url, sizeof(url), "%s?fabric=tcp", ferryt_server()->url);
	attr = ferryt_coherent_attr(ferryt_me, NULL);
	attr.server = url;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENODEV, "fabric=local");
	attr.pool = "test";
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENODEV, "fabric=local");
	/* The server's coherent pool comes first; it is no pool to page to. */
	pool = ferryt_coherent_attach(ferry);
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	CHECK_INT((info.pfn_last - info.pfn_first + 1) * FERRYT_PAGE, 256 * FERRYT_MIB);
	attr = (struct ferry_pool_attr){ .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "hot" };
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -ENXIO, "type private");
	CHECK_INT(ferry_close(ferry), 0);

	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);

	cfg.pool = "hot";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -ENXIO, "type coherent");
}

static void coherent_attach__bad_arguments_or_fabric__own_line(void **state)
{
	(void)state;
	RUN(refused_body);
}

/* ---- there and back ---- */

static void there_and_back_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_migrate_stats stats = ferryt_no_stats();
	uint8_t *p = ferryt_mmap(ferry, LEN), page[FERRY_PAGE_SIZE];
	uint64_t resident;

	/* 1000 with data, 100 of zeros, 100 never touched */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill(p, 1000, 1);
	for (size_t i = 1000; i < 1100; i++)
		p[i * FERRYT_PAGE] = 0;
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, FERRY_MIGRATE_SELECT_SYSTEM, &stats), 0);
	CHECK_INT(stats.cpages, 1100);
	CHECK_INT(stats.migrated, 1000);
	CHECK_INT(stats.zero, 200);
	CHECK_INT(stats.bytes, 1000 * FERRYT_PAGE);
	CHECK_INT(ferryt_used(pool), 3 * FERRY_SUBSECTION);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	CHECK_INT(ferryt_present(p, PAGES), PAGES); /* mapped, every one */

	/* No fault on access, and nothing of it in the budget. */
	struct ferry_stats before = ferryt_stats(ferry);

	ferryt_verify(p, 0, 1000, 1);
	ferryt_verify_zero(p + 1000 * FERRYT_PAGE, 200);
	ferryt_fill(p, PAGES, 2);
	ferryt_verify(p, 0, PAGES, 2);
	struct ferry_stats after = ferryt_stats(ferry);

	CHECK_INT(after.faults, before.faults);
	CHECK_INT(after.pages_in, before.pages_in);
	CHECK_INT(after.resident_bytes, before.resident_bytes);
	CHECK_INT(after.resident_bytes, 0);
	/* The device sees what the CPU wrote, without any flush. */
	for (size_t i = 0; i < PAGES; i += 97) {
		CHECK_INT(ferry_device_read(ferry, ferryt_pfn_at(ferry, ferryt_me, p + i * FERRYT_PAGE), page, sizeof(page)), 0);
		ferryt_verify(page, i, 1, 2);
	}
	/* And the CPU what the device writes. */
	memset(page, 0x5a, sizeof(page));
	CHECK_INT(ferry_device_write(ferry, ferryt_pfn_at(ferry, ferryt_me, p), page, sizeof(page)), 0);
	CHECK(memcmp(p, page, sizeof(page)) == 0);
	ferryt_fill_page(p, 2, 0);

	/* Eviction and advice leave it alone. */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_WILLNEED), 0);
	CHECK_INT(ferry_flush(ferry, p, LEN), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	stats = ferryt_no_stats();
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.there, PAGES);
	CHECK_INT(stats.cpages + stats.migrated + stats.zero + stats.bytes, 0);

	/* Back: by owner, and by kind. */
	stats = ferryt_no_stats();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, other, 0, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	stats = ferryt_no_stats();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, ferryt_me, FERRY_MIGRATE_SELECT_DEVICE_PRIVATE, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	stats = ferryt_no_stats();
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, ferryt_me, FERRY_MIGRATE_SELECT_DEVICE_COHERENT, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(stats.bytes, LEN);
	resident = ferryt_stats(ferry).resident_bytes;
	CHECK(resident > 0 && resident <= FERRYT_BUDGET);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	ferryt_verify(p, 0, PAGES, 2);

	/* In RAM again they are evicted as ever: elsewhere, and the pool is free. */
	ferryt_fill_away(ferry, p, PAGES, 3);
	CHECK_INT(ferryt_used(pool), 0);
	ferryt_verify(p, 0, PAGES, 3);
	/* From there they can go once more, although nobody owns the other pool. */
	ferryt_go(pool, p, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 3);
}

static void coherent__there_and_back__counts_and_no_fault_on_access(void **state)
{
	(void)state;
	RUN(there_and_back_body);
}

#define AT 500u /* behind others of its block that are settled later */

/* A page alone comes home, beside neighbours that stay; what it once was in the pool is no copy of it any more. */
static void part_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_fill_there(ferry, pool, 1);

	for (size_t i = AT; i < AT + 4; i++)
		ferryt_fill_page(p + i * FERRYT_PAGE, 2, i); /* in the pool, where nobody takes its hash */
	CHECK_INT(ferry_migrate_to_ram(ferry, p + AT * FERRYT_PAGE, 4 * FERRYT_PAGE, NULL, 0, NULL), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 4);
	ferryt_verify(p + AT * FERRYT_PAGE, AT, 4, 2);
	for (size_t i = AT; i < AT + 4; i++)
		ferryt_fill_page(p + i * FERRYT_PAGE, 1, i); /* as it was when it was sent there */
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES - 4); /* its block is there, so they went there */
	CHECK_INT(ferryt_used(pool), 3 * FERRY_SUBSECTION);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 1);
}

static void coherent__some_pages_of_a_block_home__no_stale_copy_is_used(void **state)
{
	(void)state;
	RUN(part_body);
}

/* More than the budget holds. */
static void large_body(void)
{
	struct ferry *ferry = ferryt_open(FERRY_BUDGET_MIN);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_mmap(ferry, 16 * FERRYT_MIB), *q = ferryt_mmap(ferry, 4 * FERRYT_MIB);
	size_t pages = 16 * FERRYT_MIB / FERRYT_PAGE;

	ferryt_fill(p, pages, 1);
	ferryt_go(pool, p, pages);
	CHECK_INT(ferryt_coherent_pages(ferry), pages);
	ferryt_fill(q, 4 * FERRYT_MIB / FERRYT_PAGE, 2); /* the whole budget is others' */
	ferryt_verify(p, 0, pages, 1);
	CHECK_INT(ferryt_stats(ferry).budget_bytes, FERRY_BUDGET_MIN);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRY_BUDGET_MIN + 2 * FERRY_THREAD_RESERVE);
	/* They come home into the budget. */
	CHECK_INT(ferry_migrate_to_ram(ferry, p, 16 * FERRYT_MIB, NULL, 0, NULL), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	ferryt_verify(p, 0, pages, 1);
	ferryt_verify(q, 0, 4 * FERRYT_MIB / FERRYT_PAGE, 2);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRY_BUDGET_MIN + 2 * FERRY_THREAD_RESERVE);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__four_times_the_budget__not_charged(void **state)
{
	(void)state;
	RUN(large_body);
}

/* Memory that is the process's own. */
static void adopted_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	ferryt_fill(p, PAGES, 1);
	ferryt_go(pool, p + FERRYT_PAGE, PAGES - 2); /* adopted on the way; no block of it is whole */
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 2);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_fill(p, PAGES, 2);
	CHECK_INT(ferry_unadopt(ferry, p + FERRYT_PAGE, LEN - 2 * FERRYT_PAGE), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 2);
}

static void coherent__memory_of_the_application__adopted_and_given_up(void **state)
{
	(void)state;
	RUN(adopted_body);
}

/* ---- the order of things ---- */

#define MAX_SEEN 4096u

/* A mirror that looks at the page table while it is told. */
struct watcher {
	struct ferry_mirror mirror;
	uintptr_t from, to;
	int pagemap;
	pthread_mutex_t lock;
	unsigned nr;
	struct {
		struct ferry_update update;
		uint64_t first; /* pagemap entry of the first page, at that moment */
	} seen[MAX_SEEN];
};

static int watch(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	struct watcher *w = (struct watcher *)mirror;
	uint64_t entry = 0;

	if (update->end <= w->from || update->start >= w->to)
		return 0;
	pthread_mutex_lock(&w->lock);
	if (pread(w->pagemap, &entry, 8, (off_t)(update->start / FERRYT_PAGE * 8)) == 8 && w->nr < MAX_SEEN) {
		w->seen[w->nr].update = *update;
		w->seen[w->nr++].first = entry;
	}
	pthread_mutex_unlock(&w->lock);
	return 0;
}

#define PRESENT (1ull << 63)
#define SHARED	(1ull << 61) /* of a file, or shared */

/* Every page was told of by one last event of this kind, owner and look of the page table. */
static void check_last(struct watcher *w, const uint8_t *p, const void *owner, uint64_t want)
{
	for (size_t i = 0; i < PAGES; i++) {
		uintptr_t va = (uintptr_t)p + i * FERRYT_PAGE;
		unsigned last = MAX_SEEN;

		for (unsigned k = 0; k < w->nr; k++) {
			CHECK_INT(w->seen[k].update.event, FERRY_UPDATE_MIGRATE);
			if (w->seen[k].update.start <= va && va < w->seen[k].update.end)
				last = k;
		}
		CHECK(last < MAX_SEEN);
		CHECK(w->seen[last].update.owner == owner);
		CHECK_INT(w->seen[last].first & (PRESENT | SHARED), want);
	}
	w->nr = 0;
}

static void order_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = watch };
	static struct watcher w = { .mirror = { .ops = &ops }, .lock = PTHREAD_MUTEX_INITIALIZER };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 1);
	w.from = (uintptr_t)p;
	w.to = w.from + LEN;
	w.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CHECK(w.pagemap >= 0);
	CHECK_INT(ferry_mirror_register(&w.mirror, ferry), 0);
	/* The last thing told of each page: it is gone from RAM, and not yet to be seen in the pool. */
	ferryt_go(pool, p, PAGES);
	check_last(&w, p, ferryt_me, 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	ferryt_fill(p, PAGES, 2);
	CHECK_INT(w.nr, 0);
	/* Back: of each page it is told while it is mapped in the pool, and again before it is there in RAM. */
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, NULL, 0, NULL), 0);
	unsigned while_mapped = 0;

	for (unsigned k = 0; k < w.nr; k++)
		while_mapped += (w.seen[k].first & (PRESENT | SHARED)) == (PRESENT | SHARED) ?
					(unsigned)((w.seen[k].update.end - w.seen[k].update.start) / FERRYT_PAGE) : 0;
	CHECK_INT(while_mapped, PAGES);
	check_last(&w, p, NULL, 0);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferry_mirror_unregister(&w.mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__hostile_mirror__told_before_the_cpu_sees_the_page(void **state)
{
	(void)state;
	RUN(order_body);
}

/* ---- beside writers ---- */

#define NR_WRITERS 2u
#define ROUNDS	   12u

static uint8_t *shared;
static _Atomic bool stop;

/* Each has a word of every page: it is what this thread wrote last, or a write is lost. */
__attribute__((no_sanitize("thread"))) static void *writer(void *arg)
{
	size_t mine = (size_t)(uintptr_t)arg;

	for (uint64_t n = 1; !atomic_load(&stop); n++) {
		for (size_t i = 0; i < PAGES; i++) {
			volatile uint64_t *word = (volatile uint64_t *)(shared + i * FERRYT_PAGE) + mine;

			CHECK_INT(*word, n - 1);
			*word = n;
		}
	}
	return NULL;
}

static void writers_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	pthread_t thread[NR_WRITERS];
	uint64_t all = 0, there = 0;

	shared = ferryt_mmap(ferry, LEN);
	for (size_t k = 0; k < NR_WRITERS; k++)
		CHECK_INT(pthread_create(&thread[k], NULL, writer, (void *)(uintptr_t)(k * 17)), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		CHECK_INT(ferry_migrate_to_device(pool, shared, LEN, 0, NULL), 0);
		there += ferryt_coherent_pages(ferry);
		all += PAGES;
		CHECK_INT(ferry_migrate_to_ram(ferry, shared, LEN, NULL, 0, NULL), 0);
	}
	atomic_store(&stop, true);
	for (size_t k = 0; k < NR_WRITERS; k++)
		CHECK_INT(pthread_join(thread[k], NULL), 0);
	/* Pages in use go there all the same: who touches them meanwhile waits. */
	printf("# %llu of %llu pages were there\n", (unsigned long long)there, (unsigned long long)all);
	CHECK(there > all - all / 10);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__threads_write_through_both_migrations__no_write_lost(void **state)
{
	(void)state;
	RUN(writers_body);
}

/* ---- the application's own changes ---- */

static void dontneed_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry_mirror mirror = { .ops = &ops, .owner = ferryt_me };
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), page[FERRY_PAGE_SIZE];

	/* Dropped: zeros, by CPU and device; what is beside stays. */
	CHECK_INT(madvise(p + 10 * FERRYT_PAGE, 10 * FERRYT_PAGE, MADV_DONTNEED), 0);
	ferryt_verify_zero(p + 10 * FERRYT_PAGE, 10);
	ferryt_verify(p, 0, 10, 1);
	ferryt_verify(p + 20 * FERRYT_PAGE, 20, PAGES - 20, 1);
	CHECK_INT(ferry_advise(ferry, p + 30 * FERRYT_PAGE, FERRYT_PAGE, FERRY_ADVICE_DONTNEED), 0);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	memset(page, 1, sizeof(page));
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p + 30 * FERRYT_PAGE, page, sizeof(page), NULL), 0);
	ferryt_verify_zero(page, 1);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	/* Written to, it keeps that; dropped again, not. */
	for (unsigned n = 0; n < 200; n++) {
		uint8_t *at = p + (40 + n % 7) * FERRYT_PAGE;

		memset(at, 0x77, FERRYT_PAGE);
		CHECK_INT(at[FERRYT_PAGE - 1], 0x77);
		CHECK_INT(madvise(at, FERRYT_PAGE, MADV_DONTNEED), 0);
		if (n % 3)
			ferryt_verify_zero(at, 1);
	}
	/* The file's page goes with MADV_REMOVE. */
	CHECK_INT(madvise(p + 50 * FERRYT_PAGE, 2 * FERRYT_PAGE, MADV_REMOVE), 0);
	ferryt_verify_zero(p + 50 * FERRYT_PAGE, 2);
	/* Dropped and never looked at, it comes home as zeros. */
	CHECK_INT(madvise(p + 60 * FERRYT_PAGE, 5 * FERRYT_PAGE, MADV_DONTNEED), 0);
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, NULL, 0, NULL), 0);
	ferryt_verify_zero(p + 60 * FERRYT_PAGE, 5);
	ferryt_verify(p + 65 * FERRYT_PAGE, 65, PAGES - 65, 1);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__madv_dontneed__reads_zeros_by_cpu_and_device(void **state)
{
	(void)state;
	RUN(dontneed_body);
}

static void remap_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), byte;
	uint64_t faults = ferryt_stats(ferry).faults;
	uint8_t *room = mmap(NULL, 4 * LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct ferry_fault_info info = { .size = sizeof(info) };

	CHECK(room != MAP_FAILED);
	/* A part that cuts two blocks goes elsewhere, and all of it is reached without a fault. */
	uint8_t *cut = p + 300 * FERRYT_PAGE;

	CHECK(mremap(cut, 400 * FERRYT_PAGE, 400 * FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	ferryt_verify(p, 0, 300, 1);
	ferryt_verify(room, 300, 400, 1);
	ferryt_verify(p + 700 * FERRYT_PAGE, 700, PAGES - 700, 1);
	CHECK_INT(ferryt_stats(ferry).faults, faults);
	/* The old end of MREMAP_DONTUNMAP has no content of its own: SIGBUS, never what the new end has. */
	uint8_t *twin = room + LEN;

	CHECK(mremap(p, 8 * FERRYT_PAGE, 8 * FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | 4, twin) == twin);
	ferryt_verify(twin, 0, 8, 1);
	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NOT_MANAGED);
	CHECK_INT(munmap(p, 8 * FERRYT_PAGE), 0);
	/* Growth past its end: the file goes on there, with what is not this range's. */
	CHECK(mremap(twin, 8 * FERRYT_PAGE, 16 * FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + 2 * LEN) == room + 2 * LEN);
	twin = room + 2 * LEN;
	ferryt_verify(twin, 0, 8, 1);
	CHECK_INT(ferryt_touch(twin + 8 * FERRYT_PAGE, &byte), SIGBUS);
	CHECK_INT(munmap(twin + 8 * FERRYT_PAGE, 8 * FERRYT_PAGE), 0);
	/* Each piece comes home by its own address. */
	CHECK_INT(ferry_migrate_to_ram(ferry, room, 400 * FERRYT_PAGE, NULL, 0, NULL), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 400);
	ferryt_verify(room, 300, 400, 1);
	CHECK_INT(ferry_migrate_to_ram(ferry, twin, 8 * FERRYT_PAGE, NULL, 0, NULL), 0);
	ferryt_verify(twin, 0, 8, 1);
	/* And goes back. */
	ferryt_fill(room, 400, 2);
	ferryt_go(pool, room, 400);
	ferryt_verify(room, 0, 400, 2);
	/* Unmapped in part, by both calls; the rest stays. */
	CHECK_INT(munmap(p + 100 * FERRYT_PAGE, 100 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_munmap(ferry, p + 250 * FERRYT_PAGE, 50 * FERRYT_PAGE), 0);
	CHECK_INT(ferryt_touch(p + 150 * FERRYT_PAGE, &byte), SIGSEGV);
	ferryt_verify(p + 200 * FERRYT_PAGE, 200, 50, 1);
	ferryt_verify(p + 8 * FERRYT_PAGE, 8, 92, 1);
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK_INT(ferry_pool_evict(pool), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	CHECK_INT(ferry_pool_drain(pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	ferryt_verify(room, 0, 400, 2);
	ferryt_verify(twin, 0, 8, 1);
	ferryt_verify(p + 200 * FERRYT_PAGE, 200, 50, 1);
	ferryt_verify(p + 700 * FERRYT_PAGE, 700, PAGES - 700, 1);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(room, 0, 400, 2);
}

static void coherent__mremap_munmap_in_pieces__every_byte_kept(void **state)
{
	(void)state;
	RUN(remap_body);
}

static void munmap_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	uint8_t *p = ferryt_fill_there(ferry, pool, 1);

	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferryt_used(pool), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	p = ferryt_fill_there(ferry, pool, 2);
	CHECK_INT(munmap(p, LEN), 0);
	while (ferryt_used(pool) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1); /* the keeper's */
	CHECK_INT(ferryt_used(pool), 0);
	/* What comes next into the same memory is not what was there. */
	p = ferryt_mmap(ferry, LEN);
	ferryt_go(pool, p, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__munmap__pool_is_free_and_next_pages_are_zero(void **state)
{
	(void)state;
	RUN(munmap_body);
}

static void mprotect_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_migrate_stats stats = ferryt_no_stats();
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), byte;

	/* Rights are kept on the way home, and differ within a block. */
	CHECK_INT(mprotect(p + 100 * FERRYT_PAGE, 50 * FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(mprotect(p + 200 * FERRYT_PAGE, 50 * FERRYT_PAGE, PROT_NONE), 0);
	ferryt_verify(p + 100 * FERRYT_PAGE, 100, 50, 1);
	CHECK_INT(ferryt_touch(p + 200 * FERRYT_PAGE, &byte), SIGSEGV);
	CHECK_INT(ferry_migrate_to_ram(ferry, p, LEN, NULL, 0, &stats), 0);
	CHECK_INT(stats.migrated, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	ferryt_verify(p + 100 * FERRYT_PAGE, 100, 50, 1);
	CHECK_INT(ferryt_touch(p + 200 * FERRYT_PAGE, &byte), SIGSEGV);
	CHECK_INT(ferryt_write_signal(p + 100 * FERRYT_PAGE), SIGSEGV);
	CHECK_INT(mprotect(p, LEN, PROT_READ | PROT_WRITE), 0);
	ferryt_verify(p, 0, PAGES, 1);
	/* And on the way there: what cannot be moved stays, what is zero or away goes. */
	CHECK_INT(ferry_advise(ferry, p, 50 * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK_INT(mprotect(p, 100 * FERRYT_PAGE, PROT_READ), 0);
	stats = ferryt_no_stats();
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(ferryt_write_signal(p), SIGSEGV);
	CHECK_INT(ferryt_write_signal(p + 99 * FERRYT_PAGE), SIGSEGV);
	CHECK_INT(ferryt_write_signal(p + 100 * FERRYT_PAGE), 0);
	CHECK_INT(stats.skipped_raced, PAGES - ferryt_coherent_pages(ferry));
	ferryt_verify(p, 0, 100, 1);
	ferryt_verify(p + 101 * FERRYT_PAGE, 101, PAGES - 101, 1);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK_INT(ferryt_write_signal(p), SIGSEGV);
}

static void coherent__mprotect__rights_are_kept(void **state)
{
	(void)state;
	RUN(mprotect_body);
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, ferryt_coherent_setup, ferryt_coherent_teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(coherent_attach__bad_arguments_or_fabric__own_line),
		ROW_TEST(coherent__there_and_back__counts_and_no_fault_on_access),
		ROW_TEST(coherent__some_pages_of_a_block_home__no_stale_copy_is_used),
		ROW_TEST(coherent__four_times_the_budget__not_charged),
		ROW_TEST(coherent__memory_of_the_application__adopted_and_given_up),
		ROW_TEST(coherent__hostile_mirror__told_before_the_cpu_sees_the_page),
		ROW_TEST(coherent__threads_write_through_both_migrations__no_write_lost),
		ROW_TEST(coherent__madv_dontneed__reads_zeros_by_cpu_and_device),
		ROW_TEST(coherent__mremap_munmap_in_pieces__every_byte_kept),
		ROW_TEST(coherent__munmap__pool_is_free_and_next_pages_are_zero),
		ROW_TEST(coherent__mprotect__rights_are_kept),
	};
	int skip_all = ferryt_needs_uffd();

	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return skip_all ? skip_all : cmocka_run_group_tests(tests, NULL, NULL);
}
