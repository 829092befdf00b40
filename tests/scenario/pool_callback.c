/*
 * The callbacks of a pool: page_free, migrate_to_ram, memory_failure. argv[1]:
 * the fabric row. Built with the library's rooms inside, so that a failure of a
 * server's memory can be reported by hand.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "clock.h"
#include "device.h"
#include "pager_kit.h"

#define PAGES	   64u
#define TIMEOUT_MS 5000u
#define MAX_PFNS   (16u * 512u)

/* ---- a driver ---- */

static uint64_t first_pfn;
static _Atomic unsigned freed[MAX_PFNS]; /* page_free calls of each page of the window */
static _Atomic unsigned nr_freed, nr_engine, nr_failure;
static _Atomic unsigned nr_retries; /* the engine says RETRY this often first */
static _Atomic int engine_says, failure_says;
static uint8_t *base; /* the memory that the pages belong to */
static pthread_mutex_t last_lock = PTHREAD_MUTEX_INITIALIZER;
static struct ferry_device_fault last_fault; /* under last_lock: written in a library thread */

static void on_free(struct ferry_pool *pool, uint64_t pfn)
{
	(void)pool;
	atomic_fetch_add(&freed[(pfn - first_pfn) % MAX_PFNS], 1);
	atomic_fetch_add(&nr_freed, 1);
}

static enum ferry_vm_fault on_fault(struct ferry_pool *pool, const struct ferry_device_fault *fault)
{
	(void)pool;
	atomic_fetch_add(&nr_engine, 1);
	pthread_mutex_lock(&last_lock);
	last_fault = *fault;
	pthread_mutex_unlock(&last_lock);
	if (atomic_load(&nr_retries)) {
		atomic_fetch_sub(&nr_retries, 1);
		return FERRY_VM_FAULT_RETRY;
	}
	ferryt_fill_page(fault->to, 50, (fault->va - (uintptr_t)base) / FERRYT_PAGE);
	return (enum ferry_vm_fault)atomic_load(&engine_says);
}

/* The window's pages are taken in order, by the only range there is. */
static int on_failure(struct ferry_pool *pool, uint64_t pfn, void *replica)
{
	(void)pool;
	atomic_fetch_add(&nr_failure, 1);
	if (atomic_load(&failure_says) == 0)
		ferryt_fill_page(replica, 60, (pfn - first_pfn) % PAGES);
	return atomic_load(&failure_says);
}

static const struct ferry_pool_ops free_ops = { .page_free = on_free };
static const struct ferry_pool_ops engine_ops = { .page_free = on_free, .migrate_to_ram = on_fault };
static const struct ferry_pool_ops failure_ops = { .page_free = on_free, .memory_failure = on_failure };

static struct ferry *the_ferry;

/* Memory of `pages` pages whose only pool has these callbacks. */
static struct ferry_pool *open_with(const struct ferry_pool_ops *ops, size_t pages)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test", .ops = ops,
					.len_bytes = 2 * FERRY_SUBSECTION };
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *first, *pool;

	cfg.fault_timeout_ms = TIMEOUT_MS;
	CHECK_INT(ferry_open(&cfg, &the_ferry), 0);
	first = ferry_pool_at(the_ferry, 0);
	CHECK_INT(ferry_pool_attach(the_ferry, &attr, &pool), 0);
	CHECK_INT(ferry_pool_kill(first), 0);
	ferry_pool_put(first);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	first_pfn = info.pfn_first;
	base = ferryt_mmap(the_ferry, pages * FERRYT_PAGE);
	return pool;
}

static void check_reason(const void *va, enum ferry_fault_reason reason)
{
	struct ferry_fault_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_fault_query(the_ferry, (uintptr_t)va, &info), 0);
	CHECK_INT(info.reason, reason);
}

static void wait_for(_Atomic unsigned *count, unsigned want)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	while (atomic_load(count) != want && ferryi_now_ns() < deadline_ns)
		ferryi_cpu_relax();
	CHECK_INT(atomic_load(count), want);
}

static void check_freed(unsigned times)
{
	wait_for(&nr_freed, times * PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		CHECK_INT(atomic_load(&freed[i]), times);
}

/* ---- page_free ---- */

static void page_free_body(void)
{
	struct ferry_pool *pool = open_with(&free_ops, PAGES);

	ferryt_fill_away(the_ferry, base, PAGES, 1);
	CHECK_INT(atomic_load(&nr_freed), 0);
	ferryt_verify(base, 0, PAGES, 1); /* home */
	check_freed(1);
	/* No copy was kept: clean as they are, they are written again. */
	uint64_t written = ferryt_stats(the_ferry).pages_written;

	CHECK_INT(ferry_advise(the_ferry, base, PAGES * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK(ferryt_stats(the_ferry).pages_written == written + PAGES);
	check_freed(1);
	CHECK_INT(ferry_advise(the_ferry, base, PAGES * FERRYT_PAGE, FERRY_ADVICE_DONTNEED), 0); /* dropped */
	check_freed(2);
	ferryt_verify_zero(base, PAGES);
	check_freed(2);
	ferryt_fill_away(the_ferry, base, PAGES, 2);
	CHECK_INT(ferry_munmap(the_ferry, base, PAGES * FERRYT_PAGE), 0); /* unmapped */
	check_freed(3);
	base = ferryt_mmap(the_ferry, PAGES * FERRYT_PAGE);
	memset((void *)freed, 0, sizeof(freed));
	atomic_store(&nr_freed, 0);
	ferryt_fill_away(the_ferry, base, PAGES, 3);
	CHECK_INT(ferry_pool_kill(pool), 0);
	CHECK_INT(ferry_pool_poison(pool), PAGES); /* given up */
	wait_for(&nr_freed, PAGES);
}

static void page_free__home_dropped_unmapped_poisoned__once_a_page(void **state)
{
	(void)state;
	RUN(page_free_body);
}

static void old_attr_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool_attr attr = { .size = offsetof(struct ferry_pool_attr, ops), .type = FERRY_MEM_PRIVATE,
					.pool = "test", .ops = (const struct ferry_pool_ops *)1 };
	struct ferry_pool *pool;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0); /* ops is beyond its size: not looked at */
	CHECK(ferryi_pool_ops(pool) == NULL);
	CHECK_INT(ferry_pool_detach(pool), 0);
	attr.size--;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "size");
	CHECK_INT(ferry_close(ferry), 0);
}

static void attach__attr_of_an_older_library__accepted(void **state)
{
	(void)state;
	RUN(old_attr_body);
}

/* ---- migrate_to_ram ---- */

static void engine_body(void)
{
	uint8_t byte;

	open_with(&engine_ops, PAGES);
	ferryt_fill_away(the_ferry, base, PAGES, 1);
	CHECK_INT(atomic_load(&nr_engine), 0);
	ferry_page_set_drvdata(ferry_pfn_to_page(the_ferry, first_pfn), 77);
	uint64_t major = ferryt_stats(the_ferry).faults_major;

	atomic_store(&engine_says, FERRY_VM_FAULT_MAJOR);
	ferryt_verify(base, 0, 1, 50); /* what the engine gave, not what the pool has */
	CHECK_INT(atomic_load(&nr_engine), 1); /* the faulting page only */
	CHECK_INT(ferryt_present(base, PAGES), 1);
	pthread_mutex_lock(&last_lock);
	CHECK(last_fault.size == sizeof(last_fault) && last_fault.pfn == first_pfn && last_fault.drvdata == 77);
	CHECK(last_fault.va == (uintptr_t)base);
	pthread_mutex_unlock(&last_lock);
	CHECK(ferryt_stats(the_ferry).faults_major == major + 1);
	atomic_store(&engine_says, FERRY_VM_FAULT_MINOR);
	ferryt_verify(base + FERRYT_PAGE, 1, 1, 50);
	CHECK(ferryt_stats(the_ferry).faults_major == major + 1);
	atomic_store(&nr_retries, 3);
	ferryt_verify(base + 2 * FERRYT_PAGE, 2, 1, 50);
	CHECK_INT(atomic_load(&nr_engine), 2 + 4);
	/* A call of ours that brings pages home goes by the engine, too. */
	CHECK_INT(ferry_pin(the_ferry, base + 8 * FERRYT_PAGE, FERRYT_PAGE), 0);
	ferryt_verify(base + 8 * FERRYT_PAGE, 8, 1, 50);
	CHECK_INT(ferry_unpin(the_ferry, base + 8 * FERRYT_PAGE, FERRYT_PAGE), 0);
	wait_for(&nr_freed, 4);

	atomic_store(&engine_says, FERRY_VM_FAULT_SIGBUS);
	CHECK_INT(ferryt_touch(base + 3 * FERRYT_PAGE, &byte), SIGBUS);
	check_reason(base + 3 * FERRYT_PAGE, FERRY_FAULT_IO); /* at once: no TIMEOUT */
	wait_for(&nr_freed, 5);
	atomic_store(&engine_says, FERRY_VM_FAULT_OOM);
	CHECK_INT(ferryt_touch(base + 4 * FERRYT_PAGE, &byte), SIGBUS);
	check_reason(base + 4 * FERRYT_PAGE, FERRY_FAULT_NO_MEMORY);
	atomic_store(&engine_says, FERRY_VM_FAULT_RETRY);
	uint64_t before = ferryi_now_ns();

	CHECK_INT(ferryt_touch(base + 5 * FERRYT_PAGE, &byte), SIGBUS);
	CHECK(ferryi_now_ns() - before >= TIMEOUT_MS * FERRYI_NS_PER_MS);
	check_reason(base + 5 * FERRYT_PAGE, FERRY_FAULT_TIMEOUT);
	/* A call of ours ends, too, and leaves the page as it was. */
	CHECK_FAILS(ferry_pin(the_ferry, base + 9 * FERRYT_PAGE, FERRYT_PAGE), -EIO, "lost");
	atomic_store(&engine_says, FERRY_VM_FAULT_MAJOR);
	ferryt_verify(base + 9 * FERRYT_PAGE, 9, 1, 50);
	CHECK_INT(ferryt_touch(base, &byte), 0);
}

static void migrate_to_ram__minor_major_retry_oom_sigbus__as_the_engine_says(void **state)
{
	(void)state;
	RUN(engine_body);
}

/* ---- memory_failure ---- */

static void lost_body(void)
{
	uint8_t byte;

	open_with(&failure_ops, PAGES);
	ferryt_fill_away(the_ferry, base, PAGES, 60);
	CHECK_INT(ferry_advise(the_ferry, base, PAGES * FERRYT_PAGE, FERRY_ADVICE_RANDOM), 0);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	/* Over the local fabric the data outlives the server, until the library has noticed. */
	uint64_t deadline_ns = ferryi_deadline_ms(30000);

	void *probe;

	while ((probe = ferry_mmap(the_ferry, NULL, FERRYT_PAGE, 3, 0)) != (void *)-1 && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_munmap(the_ferry, probe, FERRYT_PAGE), 0);
	CHECK(probe == (void *)-1);
	unsigned before = atomic_load(&nr_freed);

	for (unsigned i = 0; i < PAGES / 2; i++)
		ferryt_verify(base + i * FERRYT_PAGE, i, 1, 60);
	wait_for(&nr_freed, before + PAGES / 2);
	atomic_store(&failure_says, -EOPNOTSUPP);
	CHECK_INT(ferryt_touch(base + (PAGES - 1) * FERRYT_PAGE, &byte), SIGBUS);
	check_reason(base + (PAGES - 1) * FERRYT_PAGE, FERRY_FAULT_SERVER_LOST);
	wait_for(&nr_freed, before + PAGES / 2 + 1);
}

static void memory_failure__server_killed__replica_or_poison(void **state)
{
	(void)state;
	RUN(lost_body);
}

static void failed_body(void)
{
	struct ferry_pool *pool = open_with(&failure_ops, PAGES);
	struct ferry_pool_info info = { .size = sizeof(info) };
	uint8_t byte;

	ferryt_fill_away(the_ferry, base, PAGES, 61);
	ferryi_pool_set_failed(pool, 0, 4 * FERRYT_PAGE + 100, FERRYT_PAGE); /* touches pages 4 and 5 */
	ferryi_pool_set_failed(pool, 99, 0, FERRYT_PAGE);                    /* no such extent: ignored */
	ferryi_pool_set_failed(pool, 0, 1ull << 40, FERRYT_PAGE);            /* nor such a place */
	CHECK_INT(atomic_load(&nr_failure), 0); /* nobody has touched them yet */
	ferryt_verify(base + 3 * FERRYT_PAGE, 3, 1, 61);
	ferryt_verify(base + 6 * FERRYT_PAGE, 6, 1, 61);
	CHECK_INT(atomic_load(&nr_failure), 0);
	ferryt_verify(base + 4 * FERRYT_PAGE, 4, 1, 60); /* the replica */
	CHECK_INT(atomic_load(&nr_failure), 1);
	atomic_store(&failure_says, -EOPNOTSUPP);
	CHECK_INT(ferryt_touch(base + 5 * FERRYT_PAGE, &byte), SIGBUS);
	check_reason(base + 5 * FERRYT_PAGE, FERRY_FAULT_IO);
	/* Page 4 does not go back to the place that failed; once all are home, all go to another. */
	CHECK_INT(ferry_advise(the_ferry, base, PAGES * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	ferryt_verify(base + 4 * FERRYT_PAGE, 4, 1, 60);
	ferryt_verify(base, 0, 4, 61);
	ferryt_verify(base + 6 * FERRYT_PAGE, 6, PAGES - 6, 61);
	CHECK_INT(ferry_advise(the_ferry, base, 4 * FERRYT_PAGE, FERRY_ADVICE_DONTNEED), 0);
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	while (ferryt_present(base + 6 * FERRYT_PAGE, PAGES - 6) && ferryi_now_ns() < deadline_ns)
		CHECK_INT(ferry_advise(the_ferry, base + 4 * FERRYT_PAGE, (PAGES - 4) * FERRYT_PAGE, FERRY_ADVICE_COLD),
			  0);
	CHECK_INT(ferryt_present(base + 6 * FERRYT_PAGE, PAGES - 6), 0);
	ferryt_verify(base + 4 * FERRYT_PAGE, 4, 1, 60);
	ferryt_verify(base + 6 * FERRYT_PAGE, 6, PAGES - 6, 61);
	CHECK_INT(atomic_load(&nr_failure), 2);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	CHECK(info.used_bytes == FERRY_SUBSECTION);
}

static void memory_failure__pages_reported__replica_poison_and_never_used_again(void **state)
{
	(void)state;
	RUN(failed_body);
}

static void failed_no_ops_body(void)
{
	struct ferry_pool *pool = open_with(NULL, PAGES);
	uint8_t byte;

	ferryt_fill_away(the_ferry, base, PAGES, 62);
	ferryi_pool_set_failed(pool, 0, 0, FERRYT_PAGE);
	CHECK_INT(ferryt_touch(base, &byte), SIGBUS);
	check_reason(base, FERRY_FAULT_IO);
	ferryt_verify(base + FERRYT_PAGE, 1, PAGES - 1, 62);
}

static void memory_failure__no_callback__exactly_the_failed_page_is_poisoned(void **state)
{
	(void)state;
	RUN(failed_no_ops_body);
}

/* ---- the server's own report ---- */

/* The page of the only range whose place has failed, once the library knows. */
static void fail_at_server(struct ferry_pool *pool, unsigned page)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	CHECK_INT(ferryi_lease_inject(ferryi_pool_lease(pool), 0, page * FERRYT_PAGE), 0);
	while (!ferryi_pool_page_failed(pool, first_pfn + page) && ferryi_now_ns() < deadline_ns)
		ferryi_cpu_relax();
	CHECK(ferryi_pool_page_failed(pool, first_pfn + page));
}

static void reported_body(void)
{
	struct ferry_pool *pool = open_with(&failure_ops, PAGES);
	uint8_t byte;

	ferryt_fill_away(the_ferry, base, PAGES, 61);
	fail_at_server(pool, 4);
	fail_at_server(pool, 5);
	CHECK_INT(atomic_load(&nr_failure), 0); /* nobody has touched them yet */
	ferryt_verify(base + 4 * FERRYT_PAGE, 4, 1, 60); /* the replica */
	CHECK_INT(atomic_load(&nr_failure), 1);
	atomic_store(&failure_says, -EOPNOTSUPP);
	CHECK_INT(ferryt_touch(base + 5 * FERRYT_PAGE, &byte), SIGBUS);
	check_reason(base + 5 * FERRYT_PAGE, FERRY_FAULT_IO);
	ferryt_verify(base, 0, 4, 61);
	ferryt_verify(base + 6 * FERRYT_PAGE, 6, PAGES - 6, 61);
	CHECK_INT(atomic_load(&nr_failure), 2);
}

static void memory_failure__told_by_the_server__replica_or_poison(void **state)
{
	(void)state;
	RUN(reported_body);
}

static void reported_no_ops_body(void)
{
	struct ferry_pool *pool = open_with(NULL, PAGES);
	uint8_t byte;

	ferryt_fill_away(the_ferry, base, PAGES, 62);
	fail_at_server(pool, 0);
	CHECK_INT(ferryt_touch(base, &byte), SIGBUS);
	check_reason(base, FERRY_FAULT_IO);
	ferryt_verify(base + FERRYT_PAGE, 1, PAGES - 1, 62);
	/* What nobody used is left alone: memory that comes later goes elsewhere. */
	struct ferry_pool_info info = { .size = sizeof(info) };
	uint8_t *more;

	CHECK_INT(ferryi_lease_inject(ferryi_pool_lease(pool), 0, FERRY_SUBSECTION), 0);
	uint64_t deadline_ns = ferryi_deadline_ms(60000);

	while (!ferryi_pool_page_failed(pool, first_pfn + 512) && ferryi_now_ns() < deadline_ns)
		ferryi_cpu_relax();
	more = ferryt_mmap(the_ferry, PAGES * FERRYT_PAGE);
	ferryt_fill_away(the_ferry, more, PAGES, 63);
	ferryt_verify(more, 0, PAGES, 63);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	CHECK(info.leased_bytes > 2 * FERRY_SUBSECTION);
	CHECK_INT(info.used_bytes, 2 * FERRY_SUBSECTION);
}

static void memory_failure__told_by_the_server__no_callback_poison(void **state)
{
	(void)state;
	RUN(reported_no_ops_body);
}

static int setup(void **state)
{
	static const char *const args[] = { "--pool", "name=big,size=640M,backing=memfd,reserve=no", "--inject-failures",
					    NULL };

	ferryt_server_start_with(*state, args);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(page_free__home_dropped_unmapped_poisoned__once_a_page),
		ROW_TEST(attach__attr_of_an_older_library__accepted),
		ROW_TEST(migrate_to_ram__minor_major_retry_oom_sigbus__as_the_engine_says),
		ROW_TEST(memory_failure__server_killed__replica_or_poison),
		ROW_TEST(memory_failure__pages_reported__replica_poison_and_never_used_again),
		ROW_TEST(memory_failure__no_callback__exactly_the_failed_page_is_poisoned),
		ROW_TEST(memory_failure__told_by_the_server__replica_or_poison),
		ROW_TEST(memory_failure__told_by_the_server__no_callback_poison),
	};
	int skip = ferryt_needs_uffd();

	return skip ? skip : cmocka_run_group_tests(tests, NULL, NULL);
}
