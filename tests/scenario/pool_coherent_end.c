/*
 * Coherent pools: who wants their pages elsewhere (pins, devices, other pools,
 * fork), and their end, by the caller or the server. argv[1]: the fabric row,
 * "embedded" for the library's own server.
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

/* ---- no long-term pin, and other takers ---- */

static void pin_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_mirror mirror = { .ops = &ops, .owner = ferryt_me };
	struct ferry_migrate_stats stats = ferryt_no_stats();
	struct ferry_range range = { 0 };
	uint8_t *p = ferryt_fill_there(ferry, pool, 1);
	uint64_t pfns[16] = { 0 };
	uintptr_t addrs[16];

	CHECK_INT(ferry_pin(ferry, p + 10 * FERRYT_PAGE, 20 * FERRYT_PAGE), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 20); /* just these have come home */
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 20 * FERRYT_PAGE);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK_INT(ferry_migrate_to_device(pool, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.skipped_pinned, 20);
	CHECK_INT(ferry_unpin(ferry, p + 10 * FERRYT_PAGE, 20 * FERRYT_PAGE), 0);
	ferryt_go(pool, p, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	/* So does an address for RMA. */
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	range.pfns = pfns;
	range.default_flags = 1u << FERRY_PFN_VALID | 1u << FERRY_PFN_WRITE;
	CHECK_INT(ferry_range_register(&range, &mirror, (uintptr_t)p, (uintptr_t)p + 16 * FERRYT_PAGE, 12), 0);
	CHECK_INT(ferry_range_rma_map(&range, addrs, true), 16);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 16);
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 16 * FERRYT_PAGE);
	CHECK_INT(addrs[3], (uintptr_t)p + 3 * FERRYT_PAGE);
	CHECK_INT(ferry_range_rma_unmap(&range, addrs, true), 16);
	ferry_range_unregister(&range);
	/* And who takes a page for himself. */
	CHECK_INT(ferry_exclusive_acquire(&mirror, p + 100 * FERRYT_PAGE, 4 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_exclusive_query(&mirror, p + 100 * FERRYT_PAGE, 4 * FERRYT_PAGE), 4);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 20);
	CHECK_INT(ferry_exclusive_release(&mirror, p + 100 * FERRYT_PAGE, 4 * FERRYT_PAGE), 0);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__pin_rma_exclusive__come_home_first(void **state)
{
	(void)state;
	RUN(pin_body);
}

static void device_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_mirror mine = { .ops = &ops, .owner = ferryt_me }, theirs = { .ops = &ops, .owner = other };
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint8_t *p = ferryt_fill_there(ferry, pool, 1);
	uint8_t page[FERRY_PAGE_SIZE];

	/* Any device reaches them, where they are; nothing moves. */
	CHECK_INT(ferry_mirror_register(&mine, ferry), 0);
	CHECK_INT(ferry_mirror_register(&theirs, ferry), 0);
	CHECK_INT(ferry_mirror_read(&theirs, (uintptr_t)p + 5 * FERRYT_PAGE, page, sizeof(page), &stats), 0);
	ferryt_verify(page, 5, 1, 1);
	ferryt_fill_page(page, 9, 6);
	CHECK_INT(ferry_mirror_write(&theirs, (uintptr_t)p + 6 * FERRYT_PAGE, page, sizeof(page), &stats), 0);
	ferryt_verify(p + 6 * FERRYT_PAGE, 6, 1, 9);
	CHECK_INT(ferry_mirror_write(&mine, (uintptr_t)p + 7 * FERRYT_PAGE + 100, "hallo", 5, &stats), 0);
	CHECK(memcmp(p + 7 * FERRYT_PAGE + 100, "hallo", 5) == 0);
	/* From one of these pages to another, in one call each. */
	CHECK_INT(ferry_mirror_write(&mine, (uintptr_t)p + 8 * FERRYT_PAGE, p + 9 * FERRYT_PAGE, FERRYT_PAGE, &stats), 0);
	ferryt_verify(p + 8 * FERRYT_PAGE, 9, 1, 1);
	CHECK_INT(ferry_mirror_read(&mine, (uintptr_t)p + 10 * FERRYT_PAGE, p + 10 * FERRYT_PAGE, FERRYT_PAGE, &stats), 0);
	ferryt_verify(p + 10 * FERRYT_PAGE, 10, 1, 1);
	CHECK_INT(stats.pages_pool, 5);
	CHECK_INT(stats.pages_ram + stats.pages_home + stats.pages_populated, 0);
	/* The device's own table has what is the owner's. */
	CHECK_INT(ferry_mirror_peek(&mine, (uintptr_t)p + 5 * FERRYT_PAGE, page, sizeof(page)), 0);
	ferryt_verify(page, 5, 1, 1);
	CHECK_INT(ferry_mirror_peek(&theirs, (uintptr_t)p, page, sizeof(page)), -ENOENT);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	CHECK_INT(ferry_mirror_unregister(&mine), 0);
	CHECK_INT(ferry_mirror_unregister(&theirs), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__any_device__reads_and_writes_in_place(void **state)
{
	(void)state;
	RUN(device_body);
}

static void other_pool_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .owner = ferryt_me };
	struct ferry_pool *a = ferryt_coherent_attach(ferry), *b = ferryt_coherent_attach(ferry), *theirs = ferryt_coherent_attach_as(ferry, other, NULL), *private;
	struct ferry_migrate_stats stats = ferryt_no_stats();
	uint8_t *p = ferryt_fill_there(ferry, a, 1);

	CHECK_INT(ferry_pool_attach(ferry, &attr, &private), 0);
	/* Another device's are left alone. */
	CHECK_INT(ferry_migrate_to_device(theirs, p, LEN, 0, &stats), 0);
	CHECK_INT(stats.skipped_owner, PAGES);
	ferryt_go(b, p, PAGES);
	CHECK_INT(ferryt_used(a), 0);
	CHECK_INT(ferryt_used(b), 3 * FERRY_SUBSECTION);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_fill(p, PAGES, 2);
	ferryt_go(private, p, PAGES);
	CHECK_INT(ferryt_used(b), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	ferryt_verify(p, 0, PAGES, 2);
	ferryt_go(private, p, PAGES);
	ferryt_go(a, p, PAGES);
	CHECK_INT(ferryt_used(private), 0);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__to_other_pools_and_back__content_right(void **state)
{
	(void)state;
	RUN(other_pool_body);
}

static void steps_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_mmap(ferry, FERRY_MIGRATE_MAX_PAGES * FERRYT_PAGE);
	uint64_t src[FERRY_MIGRATE_MAX_PAGES], dst[FERRY_MIGRATE_MAX_PAGES];
	const void *data[FERRY_MIGRATE_MAX_PAGES];
	struct ferry_migrate m = { .size = sizeof(m), .pool = pool, .start = (uintptr_t)p,
				   .end = (uintptr_t)p + FERRY_MIGRATE_MAX_PAGES * FERRYT_PAGE, .src = src, .dst = dst, .data = data };

	ferryt_fill(p, 100, 1); /* the rest are holes */
	CHECK_INT(ferry_migrate_setup(&m), 0);
	for (size_t i = 0; i < m.npages; i++) {
		if (data[i])
			CHECK_INT(ferry_device_write(ferry, dst[i] >> FERRY_MIGRATE_PFN_SHIFT, data[i], FERRYT_PAGE), 0);
		if (i == 7)
			dst[i] = 0; /* not this one */
	}
	CHECK_INT(ferry_migrate_pages(&m), 0);
	CHECK_INT(ferry_migrate_finalize(&m), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), FERRY_MIGRATE_MAX_PAGES - 1);
	uint64_t faults = ferryt_stats(ferry).faults;

	ferryt_verify(p, 0, 100, 1);
	ferryt_verify_zero(p + 100 * FERRYT_PAGE, FERRY_MIGRATE_MAX_PAGES - 100);
	CHECK_INT(ferryt_stats(ferry).faults, faults);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 100, 1);
}

static void coherent__three_steps__mapped_at_the_last(void **state)
{
	(void)state;
	RUN(steps_body);
}

/* ---- fork ---- */

static void fork_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), ok = 0;
	int to_child[2], to_parent[2];

	CHECK_INT(pipe(to_child) | pipe(to_parent), 0);
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK_INT(read(to_child[0], &ok, 1), 1);
		ferryt_verify(p, 0, PAGES, 1); /* not what the parent has written since */
		ferryt_fill(p, PAGES, 3);
		CHECK_INT(write(to_parent[1], &ok, 1), 1);
		ferryt_verify(p, 0, PAGES, 3);
		_exit(0);
	}
	CHECK_INT(ferryt_coherent_pages(ferry), 0); /* sent away, to be copied on write; they come home by touch */
	ferryt_verify(p, 0, PAGES / 2, 1);
	ferryt_fill(p, PAGES / 2, 2);
	ferryt_go(pool, p, PAGES); /* in the places that the child still needs, both of those written anew and of the others */
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	ferryt_fill(p, PAGES, 4);
	CHECK_INT(write(to_child[1], &ok, 1), 1);
	CHECK_INT(read(to_parent[0], &ok, 1), 1);
	ferryt_verify(p, 0, PAGES, 4);
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 4);
}

static void coherent__fork__both_see_all_and_only_their_own_writes(void **state)
{
	(void)state;
	RUN(fork_body);
}

static void guard_body(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;
	uint8_t byte;

	cfg.fork = "guard";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	uint8_t *p = ferryt_fill_there(ferry, pool, 1);
	pid_t pid = fork();

	if (pid == 0) {
		CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
		_exit(0);
	}
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK_INT(system("true"), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__fork_guard__child_gets_sigbus_and_nothing_moves(void **state)
{
	(void)state;
	RUN(guard_body);
}

/* ---- stacks ---- */

static struct ferry *stack_ferry;
static struct ferry_pool *stack_pool;
static uint8_t *stack;
static _Atomic int stack_step;

#define STACK_BYTES (2 * FERRYT_MIB)

/* Stands on pages that leave the pool by its own calls. */
static void *stand(void *arg)
{
	volatile uint8_t frame[16 * FERRY_PAGE_SIZE];

	(void)arg;
	for (size_t i = 0; i < sizeof(frame); i++)
		frame[i] = (uint8_t)(i * 7);
	CHECK_FAILS(ferry_migrate_to_device(stack_pool, stack, STACK_BYTES, 0, NULL), -EINVAL, "own stack");
	for (int round = 1; round <= 3; round++) {
		atomic_store(&stack_step, 2 * round - 1);
		while (atomic_load(&stack_step) != 2 * round)
			;
		CHECK(ferryt_coherent_pages(stack_ferry) > 0);
		if (round == 1) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(frame[1000] != (uint8_t)(1000 * 7));
			CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
		} else if (round == 2) {
			CHECK_INT(ferry_migrate_to_ram(stack_ferry, stack, STACK_BYTES, NULL, 0, NULL), 0);
		} else {
			CHECK_INT(ferry_pin(stack_ferry, stack, STACK_BYTES), 0);
			CHECK_INT(ferry_unpin(stack_ferry, stack, STACK_BYTES), 0);
		}
		CHECK_INT(ferryt_coherent_pages(stack_ferry), 0);
		for (size_t i = 0; i < sizeof(frame); i++)
			CHECK_INT(frame[i], (uint8_t)(i * 7));
	}
	atomic_store(&stack_step, 7);
	return NULL;
}

static void stack_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry_mirror mirror = { .ops = &ops, .owner = ferryt_me };
	pthread_attr_t attr;
	pthread_t thread;

	stack_ferry = ferryt_open(FERRYT_BUDGET);
	if (!(ferry_caps(stack_ferry) & FERRY_CAP_KERNEL_FAULT)) {
		printf("# without kernel-mode faults no thread can stand on pages that are away: it gets SIGSEGV (rseq)\n");
		return;
	}
	stack_pool = ferryt_coherent_attach(stack_ferry);
	CHECK_INT(ferry_mirror_register(&mirror, stack_ferry), 0);
	stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(stack != MAP_FAILED);
	CHECK_INT(pthread_attr_init(&attr), 0);
	CHECK_INT(pthread_attr_setstack(&attr, stack, STACK_BYTES), 0);
	CHECK_INT(pthread_create(&thread, &attr, stand, NULL), 0);
	for (int round = 1; round <= 3; round++) {
		while (atomic_load(&stack_step) != 2 * round - 1)
			poll(NULL, 0, 1);
		ferryt_go(stack_pool, stack, STACK_BYTES / FERRYT_PAGE); /* while it runs on it */
		atomic_store(&stack_step, 2 * round);
	}
	while (atomic_load(&stack_step) != 7) /* not asleep in pthread_join while the word that it waits for moves */
		poll(NULL, 0, 1);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(stack_ferry), 0);
}

static void coherent__a_threads_stack__leaves_by_its_own_calls(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__ /* its run-time keeps a thread's state on the stack's pages, and touches it with locks held */
	skip();
#endif
	RUN(stack_body);
}

/* ---- the pool's end ---- */

static _Atomic unsigned nr_freed;

static void on_free(struct ferry_pool *pool, uint64_t pfn)
{
	(void)pool;
	(void)pfn;
	atomic_fetch_add(&nr_freed, 1);
}

static void end_body(void)
{
	static const struct ferry_pool_ops ops = { .page_free = on_free };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach_as(ferry, ferryt_me, &ops), *same;
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), byte;
	struct ferry_fault_info info = { .size = sizeof(info) };
	uint64_t pfn = ferryt_pfn_at(ferry, ferryt_me, p);

	same = ferry_pool_get(ferry, pfn, NULL);
	CHECK(same == pool);
	CHECK_FAILS(ferry_pool_detach(pool), -EBUSY, "references");
	ferry_pool_put(same);
	CHECK_FAILS(ferry_pool_detach(pool), -EBUSY, "pages");
	CHECK_INT(atomic_load(&nr_freed), 0);
	/* Once a page, however it goes. */
	CHECK_INT(ferry_migrate_to_ram(ferry, p, 10 * FERRYT_PAGE, NULL, 0, NULL), 0);
	CHECK_INT(atomic_load(&nr_freed), 10);
	CHECK_INT(madvise(p + 20 * FERRYT_PAGE, 5 * FERRYT_PAGE, MADV_DONTNEED), 0);
	CHECK_INT(ferry_munmap(ferry, p + 1100 * FERRYT_PAGE, 100 * FERRYT_PAGE), 0);
	CHECK_INT(atomic_load(&nr_freed), 110);
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK(ferry_pool_get(ferry, pfn, NULL) == NULL);
	CHECK_FAILS(ferry_migrate_to_device(pool, p, LEN - 100 * FERRYT_PAGE, 0, NULL), -ESHUTDOWN, "killed");
	CHECK_FAILS(ferry_pool_drain(pool, 0), -ETIMEDOUT, "in use");
	ferryt_verify(p + 30 * FERRYT_PAGE, 30, 1000, 1); /* what is there is there */
	CHECK_INT(ferry_pool_evict(pool), 0);
	CHECK_INT(ferryt_used(pool), 0);
	CHECK_INT(ferryt_coherent_pages(ferry), 0);
	CHECK_INT(atomic_load(&nr_freed), PAGES);
	CHECK_INT(ferry_pool_drain(pool, 0), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK(!ferry_pfn_valid(ferry, pfn));
	ferryt_verify(p, 0, 20, 1);
	ferryt_verify_zero(p + 20 * FERRYT_PAGE, 5);
	ferryt_verify(p + 25 * FERRYT_PAGE, 25, 1075, 1);
	/* Given up instead. */
	pool = ferryt_coherent_attach(ferry);
	ferryt_go(pool, p, 1100);
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK_INT(ferry_pool_poison(pool), 1100);
	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_REVOKED);
	CHECK_INT(ferry_pool_drain(pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(ferry_munmap(ferry, p, 1100 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__kill_evict_drain_detach_poison__references_exact(void **state)
{
	(void)state;
	RUN(end_body);
}

/* ---- the server's end ---- */

static void wait_until_lost(struct ferry_pool *pool, void *p)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	int rc = 0;

	while (rc != -ENOTCONN && ferryi_now_ns() < deadline_ns) {
		rc = ferry_migrate_to_device(pool, p, FERRYT_PAGE, 0, NULL); /* is there: nothing to do */
		poll(NULL, 0, 1);
	}
	CHECK_INT(rc, -ENOTCONN);
}

static void killed_body(void)
{
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_mirror mirror = { .ops = &ops, .owner = ferryt_me };
	struct ferry_fault_info info = { .size = sizeof(info) };
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), page[FERRY_PAGE_SIZE];

	ferryt_child_signal(ferryt_server(), SIGKILL);
	wait_until_lost(pool, p);
	/* The memory is this process's too, and outlives the server: content right, by every way. */
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_fill(p, PAGES, 2);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NONE);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	CHECK_INT(ferry_mirror_read(&mirror, (uintptr_t)p + 5 * FERRYT_PAGE, page, sizeof(page), NULL), 0);
	ferryt_verify(page, 5, 1, 2);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(madvise(p, FERRYT_PAGE, MADV_DONTNEED), 0);
	ferryt_verify_zero(p, 1);
	CHECK_INT(ferry_migrate_to_ram(ferry, p, 600 * FERRYT_PAGE, NULL, 0, NULL), 0);
	ferryt_verify(p + FERRYT_PAGE, 1, PAGES - 1, 2);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES - 600);
	/* Even ferry_close finds everything. */
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p + FERRYT_PAGE, 1, PAGES - 1, 2);
}

static void coherent__server_killed__content_right(void **state)
{
	(void)state;
	RUN(killed_body);
}

/* Well until it is taken; then SIGBUS, never anything else. */
static void expect_taken(const uint8_t *p, size_t i)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	uint8_t first[FERRY_PAGE_SIZE], byte = 0;
	int sig;

	ferryt_fill_page(first, 1, i);
	while (!(sig = ferryt_touch(p + i * FERRYT_PAGE, &byte)) && ferryi_now_ns() < deadline_ns)
		CHECK_INT(byte, first[0]);
	CHECK_INT(sig, SIGBUS);
}

static void revoked_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = ferryt_coherent_attach(ferry);
	struct ferry_fault_info info = { .size = sizeof(info) };
	uint8_t *p = ferryt_fill_there(ferry, pool, 1), byte = 0;

	ferryt_child_signal(ferryt_server(), SIGTERM);
	expect_taken(p, 100);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + 100 * FERRYT_PAGE, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_REVOKED);
	CHECK(info.server[0]);
	/* All of it, however it is looked at; nothing turns into zeros. */
	wait_until_lost(pool, p);
	for (size_t i = 0; i < PAGES; i += 50)
		expect_taken(p, i);
	CHECK_FAILS(ferry_migrate_to_ram(ferry, p, FERRYT_PAGE, NULL, 0, NULL), -EIO, "lost");
	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_REVOKED);
	CHECK_FAILS(ferry_close(ferry), -EIO, "close");
	CHECK_INT(ferryt_touch(p + (PAGES - 1) * FERRYT_PAGE, &byte), SIGBUS);
	/* Given up by the application, it is memory again. */
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void coherent__lease_revoked__sigbus_and_the_query_says_so(void **state)
{
	(void)state;
	RUN(revoked_body);
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, ferryt_coherent_setup, ferryt_coherent_teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	bool own_server = strcmp(row, "embedded") != 0;
	const struct CMUnitTest tests[] = {
		ROW_TEST(coherent__pin_rma_exclusive__come_home_first),
		ROW_TEST(coherent__any_device__reads_and_writes_in_place),
		ROW_TEST(coherent__to_other_pools_and_back__content_right),
		ROW_TEST(coherent__three_steps__mapped_at_the_last),
		ROW_TEST(coherent__fork__both_see_all_and_only_their_own_writes),
		ROW_TEST(coherent__fork_guard__child_gets_sigbus_and_nothing_moves),
		ROW_TEST(coherent__a_threads_stack__leaves_by_its_own_calls),
		ROW_TEST(coherent__kill_evict_drain_detach_poison__references_exact),
		/* with a server that can be ended: */
		ROW_TEST(coherent__server_killed__content_right),
		ROW_TEST(coherent__lease_revoked__sigbus_and_the_query_says_so),
	};
	int skip_all = ferryt_needs_uffd();
	size_t nr = sizeof(tests) / sizeof(tests[0]) - (own_server ? 0 : 2);

	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return skip_all ? skip_all : _cmocka_run_group_tests("coherent", tests, nr, NULL, NULL);
}
