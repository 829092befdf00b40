/* See coherent_kit.h. */
#include "coherent_kit.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>

#include "clock.h"

#define PAGES FERRYT_COHERENT_PAGES
#define LEN   (PAGES * FERRYT_PAGE)

const char ferryt_me[] = "me";

struct ferry_pool_attr ferryt_coherent_attr(const void *owner, const struct ferry_pool_ops *ops)
{
	return (struct ferry_pool_attr){ .size = sizeof(struct ferry_pool_attr), .type = FERRY_MEM_COHERENT, .owner = owner,
					 .ops = ops };
}

struct ferry_pool *ferryt_coherent_attach_as(struct ferry *ferry, const void *owner, const struct ferry_pool_ops *ops)
{
	struct ferry_pool_attr attr = ferryt_coherent_attr(owner, ops);
	struct ferry_pool_info info = { .size = sizeof(info) };
	struct ferry_pool *pool = NULL;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_INT(ferry_pool_info(pool, &info), 0);
	CHECK_INT(info.type, FERRY_MEM_COHERENT);
	CHECK(strcmp(info.fabric, "local") == 0);
	return pool;
}

struct ferry_pool *ferryt_coherent_attach(struct ferry *ferry)
{
	return ferryt_coherent_attach_as(ferry, ferryt_me, NULL);
}

uint64_t ferryt_used(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info.used_bytes;
}

struct ferry_migrate_stats ferryt_no_stats(void)
{
	return (struct ferry_migrate_stats){ .size = sizeof(struct ferry_migrate_stats) };
}

void ferryt_go(struct ferry_pool *pool, void *p, size_t pages)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	struct ferry_migrate_stats stats;

	do { /* a page that an eviction thread has under way just then stays */
		stats = ferryt_no_stats();
		CHECK_INT(ferry_migrate_to_device(pool, p, pages * FERRYT_PAGE, 0, &stats), 0);
	} while (stats.skipped_raced && ferryi_now_ns() < deadline_ns);
	CHECK_INT(stats.skipped_pinned + stats.skipped_raced + stats.skipped_owner + stats.skipped_lost, 0);
}

uint64_t ferryt_coherent_pages(struct ferry *ferry)
{
	return ferryt_stats(ferry).coherent_bytes / FERRYT_PAGE;
}

/* Mapped memory, filled and in the pool. */
uint8_t *ferryt_fill_there(struct ferry *ferry, struct ferry_pool *pool, uint64_t seed)
{
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, seed);
	ferryt_go(pool, p, PAGES);
	CHECK_INT(ferryt_coherent_pages(ferry), PAGES);
	return p;
}

int ferryt_ignore(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static sigjmp_buf write_jmp;

static void on_write_signal(int sig)
{
	siglongjmp(write_jmp, sig);
}

/* Writes the byte at p anew: 0, or the signal that this raised. */
int ferryt_write_signal(uint8_t *p)
{
	struct sigaction action = { .sa_handler = on_write_signal, .sa_flags = SA_NODEFER }, old_bus, old_segv;

	sigaction(SIGBUS, &action, &old_bus);
	sigaction(SIGSEGV, &action, &old_segv);
	int sig = sigsetjmp(write_jmp, 1);

	if (!sig)
		*(volatile uint8_t *)p = *(volatile uint8_t *)p;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return sig;
}

/* The device page of the page at p, or dies: it is not in a coherent pool. */
uint64_t ferryt_pfn_at(struct ferry *ferry, const void *owner, const void *p)
{
	static const struct ferry_mirror_ops ops = { .invalidate = ferryt_ignore };
	struct ferry_mirror mirror = { .ops = &ops, .owner = owner };
	struct ferry_entry_info info = { .size = sizeof(info) };
	struct ferry_range range = { 0 };
	uint64_t pfn[1] = { 0 };
	uintptr_t va = (uintptr_t)p;

	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	range.pfns = pfn;
	CHECK_INT(ferry_range_register(&range, &mirror, va, va + FERRYT_PAGE, 12), 0);
	CHECK_INT(ferry_range_snapshot(&range), 1);
	CHECK_INT(ferry_entry_info(&range, va, &info), 0);
	CHECK_INT(info.kind, FERRY_ENTRY_COHERENT);
	CHECK(info.writable);
	CHECK_INT(ferry_entry_to_pfn(&range, pfn[0]), info.pfn);
	/* Valid for the CPU as RAM is: not DEVICE_PRIVATE; and yet it has a descriptor. */
	CHECK_INT(pfn[0] & 7, 1u << FERRY_PFN_VALID | 1u << FERRY_PFN_WRITE);
	CHECK(ferry_entry_to_page(&range, pfn[0]) == ferry_pfn_to_page(ferry, info.pfn));
	CHECK_INT(ferry_entry_from_page(&range, ferry_entry_to_page(&range, pfn[0])), pfn[0] & ~(1ull << FERRY_PFN_WRITE));
	/* A fault leaves it where it is. */
	range.default_flags = 1u << FERRY_PFN_VALID | 1u << FERRY_PFN_WRITE | 1u << FERRY_PFN_DEVICE_PRIVATE;
	CHECK_INT(ferry_range_fault(&range, true), 1);
	CHECK_INT(ferry_entry_to_pfn(&range, pfn[0]), info.pfn);
	ferry_range_unregister(&range);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	return info.pfn;
}

/* ---- the server ---- */

int ferryt_coherent_setup(void **state)
{
	static const char *const args[] = { "--pool", "name=big,size=640M,backing=memfd,reserve=no", "--pool",
					    "name=hot,type=coherent,size=256M,reserve=no", "--drain-timeout", "100ms", NULL };

	ferryt_server_start_with(*state, args);
	return 0;
}

int ferryt_coherent_teardown(void **state)
{
	if (strcmp(*state, "embedded") != 0)
		ferryt_server_end();
	return 0;
}
