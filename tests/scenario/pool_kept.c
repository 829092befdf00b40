/*
 * Leases with a name in memory: whose they are, and for how long; page
 * descriptors that are not what they should be, and what is accounted for them.
 * argv[1]: the fabric row.
 */
#include <errno.h>
#include <poll.h>
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "altmap_kit.h"
#include "clock.h"

/* ---- whose it is, and how long ---- */

static void wait_ready(uint64_t want)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);

	while (atomic_load(&shared->ready) != want && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
}

static void holder_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_altmap other = { .reserve = RESERVE, .free = FREE };
	struct ferry_pool *pool = attach(ferry), *second = NULL;

	CHECK_FAILS(try_attach(ferry, &other, &second), -EBUSY, "'" NAME "' of pool test is another session's");
	atomic_store(&shared->ready, 1);
	wait_ready(2);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void busy_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_altmap other = { .reserve = RESERVE, .free = FREE };
	struct ferry_pool *pool = NULL;

	CHECK_FAILS(try_attach(ferry, &other, &pool), -EBUSY, "another session's");
	CHECK(pool == NULL);
}

static pid_t start_body(void (*body)(void))
{
	memset(shared, 0, sizeof(*shared));
	fflush(NULL);
	pid_t pid = fork();

	if (pid == 0) {
		body();
		_exit(0);
	}
	return pid;
}

static void altmap__second_holder__busy(void **state)
{
	(void)state;
	pid_t pid = start_body(holder_body);

	wait_ready(1);
	assert_int_equal(atomic_load(&shared->ready), 1);
	RUN(busy_body);
	atomic_store(&shared->ready, 2);
	assert_int_equal(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
}

/* All of the pool can be had by anybody, and is zero. */
static void expired_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = type, .pool = pool_name, .len_bytes = 64 * FERRYT_MIB };
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);
	struct ferry_pool *pool = NULL;
	static uint8_t page[FERRY_PAGE_SIZE];
	int rc;

	while ((rc = ferry_pool_attach(ferry, &attr, &pool)) == -ENOMEM && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 20);
	CHECK_INT(rc, 0);
	for (uint64_t i = 0; i < attr.len_bytes / FERRYT_PAGE; i++) {
		CHECK_INT(ferry_device_read(ferry, info_of(pool).pfn_first + i, page, sizeof(page)), 0);
		ferryt_verify_zero(page, 1);
	}
	CHECK_INT(ferry_pool_detach(pool), 0);
}

static void short_keep_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);

	CHECK_INT(info_of(pool).keep_ms, 50);
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	ferryt_fill(p, PAGES, 5);
	CHECK_INT(ferry_flush(ferry, p, PAGES * FERRYT_PAGE), 0);
	shared->va = (uintptr_t)p;
	raise(SIGKILL);
}

static void altmap__nobody_comes_in_time__zeroed_and_free_and_the_name_new(void **state)
{
	(void)state;
	ferryt_server_end();
	start_server(ferryt_row(), "50ms");
	expect_killed(short_keep_body);
	RUN(expired_body);
	RUN(nothing_body);
}

/* Stopped, it loses its session; when it goes on, what it does must not reach the pool. */
static void stopped_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);

	attach(ferry);
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES), byte;

	shared->va = (uintptr_t)p;
	ferryt_fill(p, PAGES, 5);
	CHECK_INT(ferry_flush(ferry, p, PAGES * FERRYT_PAGE), 0);
	atomic_store(&shared->ready, 1);
	raise(SIGSTOP);
	/* Eviction has still connections to write by, and a mapping of the memory that it was lent. */
	for (size_t i = 0; i < PAGES; i++) {
		if (ferryt_present(p + i * FERRYT_PAGE, 1) && ferryt_touch(p + i * FERRYT_PAGE, &byte) == 0)
			memset(p + i * FERRYT_PAGE, 0xee, FERRYT_PAGE);
	}
	ferry_flush(ferry, p, PAGES * FERRYT_PAGE);
	atomic_store(&shared->ready, 2);
	raise(SIGSTOP);
}

static void after_stopped_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	CHECK_INT(count_kept(pool), PAGES);
	CHECK_INT(kill((pid_t)shared->seed, SIGCONT), 0);
	wait_ready(2);
	CHECK_INT(atomic_load(&shared->ready), 2);
	CHECK_INT(recover(pool, shared->va, p, PAGES, NULL).recovered, PAGES);
	ferryt_verify(p, 0, PAGES, 5);
}

static void altmap__stopped_client_comes_back__reaches_nothing(void **state)
{
	(void)state;
	ferryt_server_end();
	timeout = "10s"; /* so long the server takes to notice */
	start_server(ferryt_row(), "600s");
	pid_t pid = start_body(stopped_body);

	shared->seed = (uint64_t)pid;
	wait_ready(1);
	assert_int_equal(atomic_load(&shared->ready), 1);
	RUN(after_stopped_body);
	kill(pid, SIGKILL);
	assert_int_equal(ferryt_wait_child(pid, FERRYT_BODY_MS), 128 + SIGKILL);
}

static void drop_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	struct ferry_recover_stats stats = { .size = 1 };
	struct ferry_kept_page kept;
	uint8_t *p = map_there(ferry, 4);
	uint64_t cursor = 0;

	CHECK_FAILS(ferry_pool_recover(NULL, 0, p, FERRYT_PAGE, NULL), -EINVAL, "no such pool");
	CHECK_FAILS(ferry_pool_recover(pool, 1, p, FERRYT_PAGE, NULL), -EINVAL, "multiples of 4096");
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, 0, NULL), -EINVAL, "multiples of 4096");
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, 8 * FERRYT_PAGE, NULL), -EINVAL, "not all managed");
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, FERRYT_PAGE, &stats), -EINVAL, "size");
	CHECK_FAILS(ferry_pool_kept(pool, &kept, 0, &cursor), -EINVAL, "cursor");
	CHECK_FAILS(ferry_pool_kept(ferry_pool_at(ferry, 0), &kept, 1, &cursor), -EINVAL, "without an altmap");
	CHECK_FAILS(ferry_pool_drop_kept(ferry_pool_at(ferry, 0)), -EINVAL, "without an altmap");
	/* Read-only memory takes nothing; what is not recovered is still kept. */
	CHECK_INT(mprotect(p, 4 * FERRYT_PAGE, PROT_READ), 0);
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, 4 * FERRYT_PAGE, NULL), -EFAULT, "cannot be written");
	CHECK_INT(mprotect(p, 4 * FERRYT_PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(count_kept(pool), PAGES);
	CHECK_INT(recover(pool, shared->va, p, 4, NULL).recovered, 4);
	ferryt_verify(p, 0, 4, 5);
	CHECK_INT(ferry_pool_drop_kept(pool), PAGES - 4);
	CHECK_INT(ferry_pool_drop_kept(pool), 0);
	CHECK_INT(count_kept(pool), 0);
	/* All that the altmap has descriptors for can be used. */
	kill_first(ferry);
	uint8_t *q = map_there(ferry, (FREE - 1) / 4 * 512 - 512);

	ferryt_fill_away(ferry, q, (FREE - 1) / 4 * 512 - 512, 3);
	ferryt_verify(q, 0, (FREE - 1) / 4 * 512 - 512, 3);
	CHECK_INT(altmap.alloc, FREE);
	CHECK_INT(ferry_flush(ferry, q, FERRYT_PAGE), 0); /* descriptors of what is away, too */
	shared->va = (uintptr_t)q;
	raise(SIGKILL);
}

static void dropped_body(void)
{
	enum { NOW = (FREE - 1) / 4 * 512 - 512 };
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, NOW);

	CHECK(count_kept(pool) <= NOW + 4); /* and the four pages that were recovered */
	CHECK_INT(recover(pool, shared->va, p, NOW, NULL).recovered, NOW);
	ferryt_verify(p, 0, NOW, 3);
	CHECK(count_kept(pool) <= 4);
}

static void altmap__kept_pages_given_up__places_are_used_anew(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	expect_killed(drop_body);
	RUN(dropped_body);
}

/* ---- a head that is not what it should be ---- */

/* Where the descriptor of page i of the pool is: PFN from the window's start, and byte. */
static uint64_t descriptor_pfn(uint64_t pfn, size_t *off)
{
	uint64_t nr = pfn - 512;

	*off = nr * 32 % FERRYT_PAGE;
	return RESERVE + 1 + nr * 32 / FERRYT_PAGE;
}

/* By the name alone the pool is what it holds, head and all. */
static struct ferry_pool *attach_bare(struct ferry *ferry)
{
	struct ferry_pool *pool = NULL;

	CHECK_INT(attach_when_free(ferry, NULL, &pool), 0);
	return pool;
}

static void garble_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach_bare(ferry);
	uint64_t first = info_of(pool).pfn_first;
	static uint8_t bytes[FERRY_PAGE_SIZE], other[FERRY_PAGE_SIZE];
	size_t off;

	/* Page 0: a bit of its descriptor; 1: all of that; 2: the descriptor of page 3; 4: its content; 5: that of 6. */
	for (unsigned i = 0; i < 3; i++) {
		uint64_t pfn = first + descriptor_pfn(512 + i, &off);

		CHECK_INT(ferry_device_read(ferry, pfn, bytes, sizeof(bytes)), 0);
		if (i == 0)
			bytes[off + 9] ^= 4;
		else if (i == 1)
			memset(bytes + off, 0xa5, 32);
		else
			memcpy(bytes + off, bytes + off + 32, 32);
		CHECK_INT(ferry_device_write(ferry, pfn, bytes, sizeof(bytes)), 0);
	}
	CHECK_INT(ferry_device_write(ferry, first + 512 + 4, "torn", 4), 0);
	CHECK_INT(ferry_device_read(ferry, first + 512 + 6, other, sizeof(other)), 0);
	CHECK_INT(ferry_device_write(ferry, first + 512 + 5, other, sizeof(other)), 0);
	raise(SIGKILL);
}

static void garbled_found_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	static uint8_t which[PAGES];
	uint8_t *p = map_there(ferry, PAGES);
	struct ferry_recover_stats stats;

	CHECK_INT(count_kept(pool), PAGES - 3);
	ferryt_fill(p, 8, 1); /* what is not found stays as it is here */
	stats = recover(pool, shared->va, p, PAGES, which);
	CHECK_INT(stats.recovered, PAGES - 5);
	for (unsigned i = 0; i < 6; i++) {
		CHECK_INT(which[i], i == 3 ? FERRY_RECOVERED : i < 3 ? FERRY_RECOVER_MISSING : FERRY_RECOVER_LOST);
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, i == 3 ? 5 : 1);
	}
	ferryt_verify(p + 6 * FERRYT_PAGE, 6, PAGES - 6, 5);
	CHECK_INT(count_kept(pool), 0);
}

static void altmap__descriptors_or_content_garbled__recognised_and_counted(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	expect_killed(garble_body);
	RUN(garbled_found_body);
}

static void other_layout_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_altmap other = { .reserve = RESERVE, .free = FREE - 4 };
	struct ferry_pool *pool = NULL;

	CHECK_INT(attach_when_free(ferry, &other, &pool), -EINVAL);
	CHECK(strstr(ferry_last_error(), "reserve 3, free 49"));
	CHECK_INT(other.alloc, 0);
	other.reserve++;
	other.free += 3;
	CHECK_INT(attach_when_free(ferry, &other, &pool), -EBADMSG);
	CHECK(strstr(ferry_last_error(), "no page descriptors"));
	CHECK(pool == NULL);
	/* That has changed nothing. */
	pool = attach(ferry);
	CHECK_INT(count_kept(pool), PAGES);
	raise(SIGKILL);
}

static void garble_record_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach_bare(ferry);

	CHECK_INT(ferry_device_write(ferry, info_of(pool).pfn_first + RESERVE, "FERRYALK", 8), 0);
	raise(SIGKILL);
}

static void bad_record_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_altmap map = { .reserve = RESERVE, .free = FREE };
	struct ferry_pool *pool = NULL;

	CHECK_INT(attach_when_free(ferry, &map, &pool), -EBADMSG);
	CHECK(strstr(ferry_last_error(), "garbled"));
	/* As it is, it can be had, and given up. */
	pool = attach_bare(ferry);
	CHECK(info_of(pool).kept_bytes > PAGES * FERRYT_PAGE);
	CHECK_INT(ferry_pool_forget(pool), 0);
	pool = attach(ferry);
	CHECK_INT(info_of(pool).kept_bytes, 0);
}

static void altmap__other_layout_or_garbled_record__refused_and_kept(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	expect_killed(other_layout_body);
	expect_killed(garble_record_body);
	RUN(bad_record_body);
}

/* ---- arithmetic ---- */

static void arithmetic_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	static const struct ferry_pool_ops ops = { .page_free = (void (*)(struct ferry_pool *, uint64_t))1 };
	struct ferry_altmap map = { .reserve = 600, .free = 1 + 4 * 2, .align = 99, .alloc = 99 };
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "test", .name = NAME,
					.altmap = &map };
	struct ferry_pool *pool = NULL;

	/* The head is leased at once, pages as they are wanted, as many as descriptors are granted for. */
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_INT(ferry_altmap_offset(&map), 609);
	CHECK_INT(map.align, 1024 - 609);
	CHECK_INT(map.alloc, 1);
	CHECK_INT(info_of(pool).leased_bytes, 2 * FERRY_SUBSECTION);
	kill_first(ferry);
	uint8_t *p = ferryt_mmap(ferry, 2 * FERRY_SUBSECTION);

	CHECK_INT(map.alloc, 9);
	CHECK(ferry_mmap(ferry, NULL, FERRYT_PAGE, 3, 0) == MAP_FAILED && errno == ENOMEM);
	CHECK_INT(ferry_pool_detach(pool), -EBUSY);
	CHECK_INT(ferry_munmap(ferry, p, 2 * FERRY_SUBSECTION), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(map.alloc, 0);
	map = (struct ferry_altmap){ .free = 4 };
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "leaves no page");
	CHECK_INT(map.alloc, 0);
	map = (struct ferry_altmap){ .free = 5 };
	attr.ops = &ops;
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "page_free");
	attr.ops = NULL;
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_INT(ferry_pool_forget(pool), 0);
	CHECK_INT(map.alloc, 0);
}

static void altmap_with_a_name__record_and_descriptors__accounted(void **state)
{
	(void)state;
	RUN(arithmetic_body);
}

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(altmap_with_a_name__record_and_descriptors__accounted),
		ROW_TEST(altmap__second_holder__busy),
		ROW_TEST(altmap__stopped_client_comes_back__reaches_nothing),
		ROW_TEST(altmap__nobody_comes_in_time__zeroed_and_free_and_the_name_new),
		ROW_TEST(altmap__kept_pages_given_up__places_are_used_anew),
		ROW_TEST(altmap__descriptors_or_content_garbled__recognised_and_counted),
		ROW_TEST(altmap__other_layout_or_garbled_record__refused_and_kept),
	};
	int skip_all = ferryt_needs_uffd();

	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return skip_all ? skip_all : cmocka_run_group_tests(tests, ferryt_altmap_make_dir, ferryt_altmap_remove_dir);
}
