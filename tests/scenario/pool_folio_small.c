/*
 * Huge pages that do not go to a pool as one, or that part when the pool or a
 * child of fork wants it. argv[1]: the fabric row.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "folio_kit.h"

/* ---- what does not go as one ---- */

static void pinned_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(1, 7);

	CHECK_INT(ferry_adopt(the_ferry, p, HUGE, 0), 0);
	CHECK_INT(ferry_pin(the_ferry, p + 9 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.folios_split, 1);
	CHECK_INT(stats.cpages, PAGES);
	CHECK_INT(stats.migrated, PAGES - 1);
	CHECK_INT(stats.skipped_pinned, 1);
	CHECK_INT(stats.bytes, (PAGES - 1) * FERRYT_PAGE);
	CHECK_INT(ferryt_present(p, PAGES), 1);
	ferryt_verify(p, 0, PAGES, 7);
	CHECK_INT(atomic_load(&nr_split), 0);
	wait_for(&nr_freed, PAGES - 1);
	CHECK_INT(ferry_unpin(the_ferry, p + 9 * FERRYT_PAGE, FERRYT_PAGE), 0);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__pinned_page_inside__the_others_go_one_by_one(void **state)
{
	(void)state;
	RUN(pinned_body);
}

/* Page by page, and nobody is told of a split. */
static void check_small(struct ferry_pool *pool, uint8_t *p, size_t pages, unsigned folios_split)
{
	struct ferry_migrate_stats stats = none();

	CHECK_INT(ferry_migrate_to_device(pool, p, pages * FERRYT_PAGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.folios_split, folios_split);
	CHECK_INT(stats.migrated, pages);
	CHECK_INT(ferryt_present(p, pages), 0);
	CHECK_INT(atomic_load(&nr_split), 0);
}

static void collapse(uint8_t *p)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	while (madvise(p, HUGE, MADV_COLLAPSE) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	CHECK_INT(huge_pages(p), PAGES);
}

static void fallback_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint8_t *p = huge(3, 8);

	/* 2 MiB that have been moved elsewhere are not 2 MiB of a pool. */
	uint8_t *room = mmap(NULL, 4 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *to;

	CHECK(room != MAP_FAILED);
	to = (uint8_t *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1)) + 3 * FERRYT_PAGE;
	CHECK_INT(ferry_adopt(the_ferry, p, 2 * HUGE, 0), 0);
	CHECK(mremap(p, 2 * HUGE, 2 * HUGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	p = to - 3 * FERRYT_PAGE + HUGE;
	collapse(p);
	check_small(pool, p, PAGES, 0);
	ferryt_verify(to, 0, 2 * PAGES, 8);
	CHECK_INT(ferry_munmap(the_ferry, to, 2 * HUGE), 0);

	p = huge(1, 8); /* half of one */
	check_small(pool, p, PAGES / 2, 0);
	ferryt_verify(p, 0, PAGES, 8);

	p = huge(1, 8); /* one that has been split already */
	CHECK_INT(mprotect(p, FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(mprotect(p, FERRYT_PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(huge_pages(p), 0);
	check_small(pool, p, PAGES, 0);
	ferryt_verify(p, 0, PAGES, 8);

	struct ferry_migrate_stats stats = none(); /* the huge zero page is no data */

	p = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	p = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, HUGE, MADV_HUGEPAGE);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios + stats.bytes + stats.migrated, 0);
	CHECK_INT(stats.zero, PAGES);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__not_a_whole_huge_page__page_by_page(void **state)
{
	(void)state;
	RUN(fallback_body);
}

static void read_only_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(1, 8);

	CHECK_INT(ferry_adopt(the_ferry, p, HUGE, 0), 0);
	CHECK_INT(mprotect(p, HUGE, PROT_READ), 0);
	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.folios_split, 1);
	CHECK_INT(stats.migrated, PAGES);
	ferryt_verify(p, 0, PAGES, 8);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__read_only__page_by_page(void **state)
{
	(void)state;
	RUN(read_only_body);
}

static void no_split_op_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &small_ops);
	uint8_t *p = huge(1, 8);

	check_small(pool, p, PAGES, 0);
	CHECK_INT(ferry_munmap(the_ferry, p, HUGE), 0);
	wait_for(&nr_freed, PAGES); /* each once */
	CHECK_INT(atomic_load(&nr_freed_whole), 0);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__driver_without_page_split__gets_single_pages(void **state)
{
	(void)state;
	RUN(no_split_op_body);
}

/* The smallest budget has no room for pages that come back from their way. */
static void budget_body(void)
{
	struct ferry_pool *pool = open_with(FERRY_BUDGET_MIN, NULL);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(2, 9);

	CHECK_INT(ferry_migrate_to_device(pool, p, 2 * HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	ferryt_verify(p, 0, 2 * PAGES, 9);
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__smallest_budget__kept_and_page_by_page(void **state)
{
	(void)state;
	RUN(budget_body);
}

/* A tight one, under threads that touch: folios or not, it is kept. */
static void *touch_all(void *arg)
{
	uint8_t byte;

	while (!atomic_load(&stop)) {
		for (unsigned i = 0; i < 4 * PAGES; i += 3)
			CHECK_INT(ferryt_touch((uint8_t *)arg + i * FERRYT_PAGE, &byte), 0);
	}
	return NULL;
}

static void tight_body(void)
{
	struct ferry_pool *pool = open_with(8 * FERRYT_MIB, &folio_ops);
	uint64_t folios = 0;
	pthread_t thread;

	for (unsigned round = 0; round < 8; round++) {
		struct ferry_migrate_stats stats = none();

		shared = huge(4, 10);
		forget_calls();
		atomic_store(&stop, false);
		CHECK_INT(ferry_adopt(the_ferry, shared, 4 * HUGE, FERRY_MAP_NORESERVE), 0);
		if (round % 2)
			CHECK_INT(pthread_create(&thread, NULL, touch_all, shared), 0);
		CHECK_INT(ferry_migrate_to_device(pool, shared, 4 * HUGE, 0, &stats), 0);
		folios += stats.folios;
		atomic_store(&stop, true);
		if (round % 2)
			CHECK_INT(pthread_join(thread, NULL), 0);
		ferryt_verify(shared, 0, 4 * PAGES, 10);
		CHECK_INT(ferry_munmap(the_ferry, shared, 4 * HUGE), 0);
		CHECK_INT(atomic_load(&nr_split) % (PAGES - 1), 0);
	}
	(void)folios; /* as many as the clock has left whole */
	check_budget();
	CHECK_INT(ferryt_stats(the_ferry).resident_bytes, 0); /* every charge was given back */
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__budget_full_and_touched__never_exceeded(void **state)
{
	(void)state;
	RUN(tight_body);
}

/* ---- fork ---- */

static void shared_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, NULL);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(1, 11);
	int go[2];
	char c;

	CHECK_INT(ferry_adopt(the_ferry, p, HUGE, 0), 0);
	CHECK_INT(pipe(go), 0);
	pid_t pid = fork();

	if (pid == 0) {
		close(go[1]);
		CHECK_INT(read(go[0], &c, 1), 1);
		ferryt_verify(p, 0, PAGES, 11);
		_exit(0);
	}
	CHECK_INT(ferry_migrate_to_device(pool, p, HUGE, 0, &stats), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.folios_split, 1);
	CHECK_INT(stats.migrated, PAGES);
	ferryt_fill(p, PAGES, 12);
	CHECK_INT(write(go[1], "x", 1), 1);
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 0);
	ferryt_verify(p, 0, PAGES, 12);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__shared_with_a_child__page_by_page_and_both_right(void **state)
{
	(void)state;
	RUN(shared_body);
}

/* The child looks when what it needs has been overwritten in the pool, by another folio at the same place. */
static void away_fork_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, NULL);
	uint8_t *p = huge(2, 13);
	int go[2];
	char c;

	send(pool, p, 2);
	CHECK_INT(pipe(go), 0);
	pid_t pid = fork();

	if (pid == 0) {
		close(go[1]);
		CHECK_INT(read(go[0], &c, 1), 1);
		ferryt_verify(p, 0, 2 * PAGES, 13);
		_exit(0);
	}
	ferryt_verify(p, 0, PAGES, 13);
	ferryt_fill(p, PAGES, 14);
	collapse(p);
	send(pool, p, 1);
	CHECK_INT(write(go[1], "x", 1), 1);
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 0);
	ferryt_verify(p, 0, PAGES, 14);
	ferryt_verify(p + HUGE, PAGES, PAGES, 13);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__away_at_a_fork__child_and_parent_see_their_own(void **state)
{
	(void)state;
	RUN(away_fork_body);
}

/* ---- the pool's end ---- */

static void evict_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint8_t *p = huge(2, 15);

	send(pool, p, 2);
	CHECK_FAILS(ferry_pool_detach(pool), -EBUSY, "live");
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK_INT(ferry_pool_evict(pool), 0);
	wait_for(&nr_freed, 2 * PAGES);
	CHECK_INT(atomic_load(&nr_split), 2 * (PAGES - 1));
	CHECK_INT(ferry_pool_drain(pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	ferryt_verify(p, 0, 2 * PAGES, 15);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void poison_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint8_t *p = huge(1, 15), byte;

	send(pool, p, 1);
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK_INT(ferry_pool_poison(pool), PAGES);
	wait_for(&nr_freed, PAGES);
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK_INT(ferryt_touch(p + 17 * FERRYT_PAGE, &byte), SIGBUS);
	CHECK_INT(ferry_pool_drain(pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
}

static void folio__pool_killed_evicted_poisoned__parts_and_the_pool_can_go(void **state)
{
	(void)state;
	RUN(evict_body);
	RUN(poison_body);
}

/* kB of this process that are huge pages, wherever they are mapped. */
static unsigned long huge_kib(void)
{
	unsigned long kib = 0;
	char line[128];
	FILE *f = fopen("/proc/self/smaps_rollup", "r");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "AnonHugePages: %lu", &kib);
	fclose(f);
	return kib;
}

static struct ferry_pool *the_pool;

static void *send_shared(void *arg)
{
	CHECK_INT(ferry_migrate_to_device(the_pool, shared, HUGE, 0, arg), 0);
	return NULL;
}

/* Over tcp a stopped server takes no write: the huge page is on its way for as long as this likes. */
static void on_its_way_body(void)
{
	struct ferry_migrate_stats stats = none();
	uint64_t deadline_ns;
	pthread_t thread;

	shared = huge(1, 18);
	the_pool = open_with(BUDGET, &folio_ops);
	CHECK_INT(ferry_adopt(the_ferry, shared, HUGE, FERRY_MAP_NORESERVE), 0);
	unsigned long before = huge_kib();

	ferryt_child_stop(ferryt_server());
	CHECK_INT(pthread_create(&thread, NULL, send_shared, &stats), 0);
	deadline_ns = ferryi_deadline_ms(30000);
	while (ferryt_present(shared, PAGES) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	CHECK_INT(ferryt_present(shared, PAGES), 0);
	CHECK_INT(huge_kib(), before); /* it was not split to go */
	CHECK_INT(ferryt_stats(the_ferry).away_bytes, 0);
	ferryt_verify(shared + 30 * FERRYT_PAGE, 30, 1, 18);
	CHECK_INT(ferryt_stats(the_ferry).faults_rescued, 1);
	ferryt_fill_page(shared + 30 * FERRYT_PAGE, 19, 30);
	ferryt_child_signal(ferryt_server(), SIGCONT);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.folios_split, 1);
	CHECK_INT(stats.migrated, PAGES); /* it was taken, too, once the others had gone */
	ferryt_verify(shared + 30 * FERRYT_PAGE, 30, 1, 19);
	ferryt_fill_page(shared + 30 * FERRYT_PAGE, 18, 30);
	ferryt_verify(shared, 0, PAGES, 18);
	wait_for(&nr_freed, PAGES);
	CHECK_INT(ferryt_stats(the_ferry).resident_bytes, HUGE); /* each page is charged once */
	CHECK_INT(atomic_load(&nr_split), 0); /* it never was a folio */
	check_budget();
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__touched_on_its_way__that_page_comes_back_the_others_go(void **state)
{
	(void)state;
	if (strcmp(ferryt_row(), "tcp") == 0)
		RUN(on_its_way_body);
}

/* ... and when half of it has been moved away meanwhile, it is none. */
static void moved_body(void)
{
	struct ferry_migrate_stats stats = none();
	uint64_t deadline_ns;
	pthread_t thread;

	shared = huge(1, 20);
	the_pool = open_with(BUDGET, &folio_ops);
	CHECK_INT(ferry_adopt(the_ferry, shared, HUGE, FERRY_MAP_NORESERVE), 0);
	ferryt_child_stop(ferryt_server());
	CHECK_INT(pthread_create(&thread, NULL, send_shared, &stats), 0);
	deadline_ns = ferryi_deadline_ms(30000);
	while (ferryt_present(shared, PAGES) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	uint8_t *to = mremap(shared + HUGE / 2, HUGE / 2, HUGE / 2, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	CHECK(to != MAP_FAILED);
	CHECK_INT(ferry_advise(the_ferry, to, HUGE / 2, FERRY_ADVICE_RANDOM), 0); /* the move is known */
	ferryt_child_signal(ferryt_server(), SIGCONT);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(stats.folios, 0);
	CHECK_INT(stats.migrated, PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		CHECK_INT(ferry_page_order(page_at(first_pfn + i)), 0);
	ferryt_verify(shared, 0, PAGES / 2, 20);
	ferryt_verify(to, PAGES / 2, PAGES / 2, 20);
	wait_for(&nr_freed, PAGES);
	CHECK_INT(atomic_load(&nr_split), 0);
	CHECK_INT(ferry_close(the_ferry), 0);
}

static void folio__moved_in_part_on_its_way__single_pages(void **state)
{
	(void)state;
	if (strcmp(ferryt_row(), "tcp") == 0)
		RUN(moved_body);
}

/* ... and past its deadline the pages are back where they were. */
static void stopped_body(void)
{
	struct ferry_config cfg = ferryt_config(BUDGET);
	struct ferry_migrate_stats stats = none();
	uint8_t *p = huge(1, 16);

	cfg.fault_timeout_ms = 2000;
	CHECK_INT(ferry_open(&cfg, &the_ferry), 0);
	struct ferry_pool *pool = attach(&folio_ops, NULL);

	CHECK_INT(ferry_adopt(the_ferry, p, HUGE, 0), 0);
	ferryt_child_stop(ferryt_server());
	/* Its block moves to the pool, which needs no request: there is memory leased already. */
	int rc = ferry_migrate_to_device(pool, p, HUGE, 0, &stats);

	ferryt_child_signal(ferryt_server(), SIGCONT);
	CHECK(rc == 0 || rc == -ENOTCONN);
	CHECK_INT(stats.folios + stats.migrated, 0);
	CHECK_INT(atomic_load(&nr_split) + atomic_load(&nr_freed) + atomic_load(&nr_freed_whole), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	CHECK_INT(ferryt_stats(the_ferry).resident_bytes, HUGE);
	ferryt_verify(p, 0, PAGES, 16);
	check_budget();
}

static void folio__server_stopped__pages_are_back_and_whole(void **state)
{
	(void)state;
	if (strcmp(ferryt_row(), "tcp") == 0)
		RUN(stopped_body);
}

static void killed_body(void)
{
	struct ferry_pool *pool = open_with(BUDGET, &folio_ops);
	uint8_t *p = huge(1, 17), byte;
	uint64_t pfn = send(pool, p, 1), deadline_ns = ferryi_deadline_ms(60000);
	struct ferry_fault_info info = { .size = sizeof(info) };
	void *probe;

	ferryt_child_signal(ferryt_server(), SIGKILL);
	/* Over the local fabric the data outlives the server, until the library has noticed. */
	while ((probe = ferry_mmap(the_ferry, NULL, FERRYT_PAGE, 3, 0)) != MAP_FAILED && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_munmap(the_ferry, probe, FERRYT_PAGE), 0);
	CHECK(probe == MAP_FAILED);
	CHECK_INT(ferry_page_order(page_at(pfn)), 9);
	CHECK_INT(ferryt_touch(p + 40 * FERRYT_PAGE, &byte), SIGBUS);
	CHECK_INT(ferryt_touch(p + 50 * FERRYT_PAGE, &byte), SIGBUS);
	wait_for(&nr_freed, 2); /* just these */
	CHECK_INT(atomic_load(&nr_split), PAGES - 1);
	CHECK_INT(ferryt_stats(the_ferry).away_bytes, (PAGES - 2) * FERRYT_PAGE);
	CHECK_INT(ferry_fault_query(the_ferry, (uintptr_t)p + 40 * FERRYT_PAGE, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_SERVER_LOST);
	CHECK_INT(ferry_fault_query(the_ferry, (uintptr_t)p + 41 * FERRYT_PAGE, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NONE);
	/* What nobody touched before it was given up is no loss. */
	CHECK_INT(ferry_munmap(the_ferry, p, HUGE), 0);
	wait_for(&nr_freed, PAGES);
}

static void folio__server_killed__just_the_touched_pages_are_poisoned(void **state)
{
	(void)state;
	RUN(killed_body);
}

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(folio__pinned_page_inside__the_others_go_one_by_one),
		ROW_TEST(folio__not_a_whole_huge_page__page_by_page),
		ROW_TEST(folio__read_only__page_by_page),
		ROW_TEST(folio__driver_without_page_split__gets_single_pages),
		ROW_TEST(folio__smallest_budget__kept_and_page_by_page),
		ROW_TEST(folio__budget_full_and_touched__never_exceeded),
		ROW_TEST(folio__shared_with_a_child__page_by_page_and_both_right),
		ROW_TEST(folio__away_at_a_fork__child_and_parent_see_their_own),
		ROW_TEST(folio__pool_killed_evicted_poisoned__parts_and_the_pool_can_go),
		ROW_TEST(folio__touched_on_its_way__that_page_comes_back_the_others_go),
		ROW_TEST(folio__moved_in_part_on_its_way__single_pages),
		ROW_TEST(folio__server_stopped__pages_are_back_and_whole),
		ROW_TEST(folio__server_killed__just_the_touched_pages_are_poisoned),
	};
	int skip = ferryt_needs_uffd();

	skip = skip ? skip : needs_huge_pages();
	if (skip)
		return skip;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
