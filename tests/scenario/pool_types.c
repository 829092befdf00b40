/*
 * Pools of every type: what can be had where, and that pages go there and come
 * back. argv[1]: the fabric row. The server has "big" and "test" (private),
 * "disk" (fs_dax, a file) and "dev" (generic; /dev/zero stands in for a
 * /dev/dax0.0: a character device that can be mapped shared).
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define PAGES	  (6 * FERRYT_MIB / FERRYT_PAGE)
#define DISK_SIZE (64 * FERRYT_MIB)

static char dir[] = "/tmp/ferryt-types-XXXXXX";
static char disk_path[64];

static bool is_local(void)
{
	return strcmp(ferryt_row(), "local") == 0;
}

static struct ferry_pool_info info_of(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info;
}

static struct ferry_pool *attach(struct ferry *ferry, enum ferry_mem_type type, const char *name)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = type, .pool = name };
	struct ferry_pool *pool = NULL;

	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_INT(info_of(pool).type, type);
	return pool;
}

static void expect_refused(struct ferry *ferry, enum ferry_mem_type type, const char *name, int want, const char *word)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = type, .pool = name };
	struct ferry_pool *pool = NULL;

	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), want, word);
	CHECK(pool == NULL);
}

/* ---- what can be had ---- */

static void types_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool;

	CHECK_INT(info_of(ferry_pool_at(ferry, 0)).type, FERRY_MEM_PRIVATE);
	expect_refused(ferry, 0, "disk", -EINVAL, "type 0");
	expect_refused(ferry, FERRY_MEM_PRIVATE, "disk", -ENXIO, "'disk' of type private");
	expect_refused(ferry, FERRY_MEM_FS_DAX, "test", -ENXIO, "'test' of type fs_dax");
	expect_refused(ferry, FERRY_MEM_GENERIC, "disk", -ENXIO, "'disk' of type generic");
	expect_refused(ferry, FERRY_MEM_COHERENT, "test", -EINVAL, "owner"); /* pool_coherent.c has the rest */
	expect_refused(ferry, FERRY_MEM_P2PDMA, NULL, -ENXIO, "type p2pdma");
	if (is_local()) { /* files and devices cannot be revoked by truncation */
		expect_refused(ferry, FERRY_MEM_FS_DAX, "disk", -ENODEV, "file memory, which the local fabric cannot");
		expect_refused(ferry, FERRY_MEM_GENERIC, "dev", -ENODEV, "another fabric");
	} else {
		/* No name: the first of the type. */
		pool = attach(ferry, FERRY_MEM_FS_DAX, NULL);
		CHECK_INT((info_of(pool).pfn_last - info_of(pool).pfn_first + 1) * FERRYT_PAGE, DISK_SIZE);
		CHECK_INT(ferry_pool_detach(pool), 0);
		pool = attach(ferry, FERRY_MEM_GENERIC, NULL);
		CHECK_INT(ferry_pool_detach(pool), 0);
	}
	/* The first pool of the process by name, as ever. */
	pool = attach(ferry, FERRY_MEM_PRIVATE, NULL);
	CHECK_INT((info_of(pool).pfn_last - info_of(pool).pfn_first + 1) * FERRYT_PAGE, FERRYT_BIG_POOL);
}

static void pool_attach__every_type__had_or_own_line(void **state)
{
	(void)state;
	RUN(types_body);
}

/* ---- paging ---- */

/* As a pool of private memory: evicted to, faulted from, flushed, given up. */
static void page_to(enum ferry_mem_type type, const char *name)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *first = ferry_pool_at(ferry, 0), *pool = attach(ferry, type, name);
	uint8_t *p;

	CHECK_INT(ferry_pool_kill(first), 0);
	ferry_pool_put(first);
	p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	CHECK_INT(info_of(pool).used_bytes, PAGES * FERRYT_PAGE);
	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_fill_away(ferry, p, PAGES, 2);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_munmap(ferry, p, PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	/* What comes next finds zeros, not what was there. */
	pool = attach(ferry, type, name);
	p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	for (uint64_t i = 0; i < PAGES; i++) {
		static const uint8_t zeros[FERRY_PAGE_SIZE];
		uint8_t page[FERRY_PAGE_SIZE];

		CHECK_INT(ferry_device_read(ferry, info_of(pool).pfn_first + i, page, sizeof(page)), 0);
		CHECK(memcmp(page, zeros, sizeof(page)) == 0);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void fs_dax_body(void)
{
	page_to(FERRY_MEM_FS_DAX, "disk");
}

static void generic_body(void)
{
	page_to(FERRY_MEM_GENERIC, "dev");
}

static void fs_dax__paged_to__as_private(void **state)
{
	(void)state;
	if (is_local())
		skip();
	RUN(fs_dax_body);
}

static void generic__paged_to__as_private(void **state)
{
	(void)state;
	if (is_local())
		skip();
	RUN(generic_body);
}

/* ferry_open takes the pool that is named, whatever it is made of. */
static void open_disk_body(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;
	uint8_t *p;

	cfg.pool = "disk";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	CHECK_INT(info_of(ferry_pool_at(ferry, 0)).type, FERRY_MEM_FS_DAX);
	p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	ferryt_fill_away(ferry, p, PAGES, 3);
	ferryt_verify(p, 0, PAGES, 3);
}

static void open__pool_in_a_file__works_as_any(void **state)
{
	(void)state;
	if (is_local())
		skip();
	RUN(open_disk_body);
}

/* ---- leases with a name ---- */

static int try_attach(struct ferry *ferry, const char *name, uint64_t len, struct ferry_pool **pool)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_FS_DAX, .pool = "disk", .name = name,
					.len_bytes = len };

	return ferry_pool_attach(ferry, &attr, pool);
}

/* Also when the server has not noticed yet that who had it has ended. */
static struct ferry_pool *attach_named(struct ferry *ferry, const char *name, uint64_t len)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	struct ferry_pool *pool = NULL;
	int rc;

	while ((rc = try_attach(ferry, name, len, &pool)) == -EBUSY && ferryi_now_ns() < deadline_ns)
		;
	CHECK_INT(rc, 0);
	return pool;
}

/* What is at these pages of the window is the data of (seed, i), or zeros (seed 0). */
static void check_device(struct ferry *ferry, struct ferry_pool *pool, size_t pages, uint64_t seed)
{
	static uint8_t page[FERRY_PAGE_SIZE];

	for (size_t i = 0; i < pages; i++) {
		CHECK_INT(ferry_device_read(ferry, info_of(pool).pfn_first + i, page, sizeof(page)), 0);
		if (seed)
			ferryt_verify(page, i, 1, seed);
		else
			ferryt_verify_zero(page, 1);
	}
}

/* Pages of the process, moved to the pool; it takes its free memory in order. */
static uint8_t *put_pages(struct ferry *ferry, struct ferry_pool *pool, uint64_t seed)
{
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);

	ferryt_fill(p, PAGES, seed);
	CHECK_INT(ferry_migrate_to_device(pool, p, PAGES * FERRYT_PAGE, 0, NULL), 0);
	CHECK_INT(info_of(pool).used_bytes, PAGES * FERRYT_PAGE);
	return p;
}

static void store_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach_named(ferry, "db.1", PAGES * FERRYT_PAGE), *other = NULL;

	CHECK_INT(info_of(pool).kept_bytes, 0);
	CHECK_INT(info_of(pool).leased_bytes, PAGES * FERRYT_PAGE);
	put_pages(ferry, pool, 7);
	check_device(ferry, pool, PAGES, 7);
	CHECK_FAILS(try_attach(ferry, "db.1", 0, &other), -EBUSY, "'db.1' of pool disk is another session's");
	CHECK(other == NULL);
	raise(SIGKILL);
}

static void store_and_die(void)
{
	assert_int_equal(ferryt_in_child(store_body), 128 + SIGKILL);
}

static void find_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach_named(ferry, "db.1", 0);
	uint8_t *p;

	CHECK_INT(info_of(pool).kept_bytes, PAGES * FERRYT_PAGE);
	CHECK_INT(info_of(pool).leased_bytes, PAGES * FERRYT_PAGE);
	check_device(ferry, pool, PAGES, 7);
	/* New pages do not go there: the lease grows. */
	p = put_pages(ferry, pool, 8);
	ferryt_verify(p, 0, PAGES, 8);
	check_device(ferry, pool, PAGES, 7);
	CHECK_INT(info_of(pool).leased_bytes, 2 * PAGES * FERRYT_PAGE); /* by no more than it needs */
	CHECK_INT(ferry_munmap(ferry, p, PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_pool_detach(pool), 0);
	/* What it has grown by is the name's as well. */
	pool = attach_named(ferry, "db.1", 0);
	CHECK_INT(info_of(pool).kept_bytes, 2 * PAGES * FERRYT_PAGE);
	check_device(ferry, pool, PAGES, 7);
	CHECK_INT(ferry_close(ferry), 0);
}

static void find_again_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach_named(ferry, "db.1", 0);

	CHECK_INT(info_of(pool).kept_bytes, 2 * PAGES * FERRYT_PAGE);
	check_device(ferry, pool, PAGES, 7);
}

static void named_lease__client_killed__next_attach_finds_its_data(void **state)
{
	(void)state;
	if (is_local())
		skip();
	store_and_die();
	RUN(find_body);
}

static void start_server(const char *row);

static void named_lease__server_killed_and_started_again__data_is_there(void **state)
{
	(void)state;
	if (is_local())
		skip();
	store_and_die();
	ferryt_child_signal(ferryt_server(), SIGKILL);
	ferryt_server_end();
	start_server(ferryt_row());
	RUN(find_body);
	/* And once more, with what find_body has left. */
	ferryt_child_signal(ferryt_server(), SIGKILL);
	ferryt_server_end();
	start_server(ferryt_row());
	RUN(find_again_body);
}

static void forget_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach_named(ferry, "db.1", PAGES * FERRYT_PAGE), *plain;
	uint8_t *p;

	check_device(ferry, pool, PAGES, 7);
	p = put_pages(ferry, pool, 9);
	CHECK_FAILS(ferry_pool_forget(pool), -EBUSY, "pages");
	CHECK_INT(ferry_munmap(ferry, p, PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_pool_forget(pool), 0);
	/* A new lease of that name, with nothing in it; all of the pool can be had. */
	pool = attach_named(ferry, "db.1", DISK_SIZE);
	CHECK_INT(info_of(pool).kept_bytes, 0);
	check_device(ferry, pool, DISK_SIZE / FERRYT_PAGE, 0);
	CHECK_INT(ferry_pool_forget(pool), 0);
	plain = attach(ferry, FERRY_MEM_FS_DAX, "disk");
	CHECK_FAILS(ferry_pool_forget(plain), -EINVAL, "without a name");
	CHECK_FAILS(ferry_pool_forget(NULL), -EINVAL, "no such pool");
	CHECK_INT(ferry_pool_detach(plain), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void nothing_kept_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_pool *pool = attach_named(ferry, "db.1", DISK_SIZE);

	CHECK_INT(info_of(pool).kept_bytes, 0);
}

static void pool_forget__named_lease__gone_zeroed_and_free_for_good(void **state)
{
	(void)state;
	if (is_local())
		skip();
	store_and_die();
	RUN(forget_body);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	ferryt_server_end();
	start_server(ferryt_row());
	RUN(nothing_kept_body);
}

static void names_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_altmap altmap = { .reserve = 1 };
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "big", .name = "a" };
	struct ferry_pool *pool = NULL, *first = ferry_pool_at(ferry, 0);

	CHECK_FAILS(try_attach(ferry, "a/b", 0, &pool), -EINVAL, "letters, digits");
	attr.altmap = &altmap; /* it grants no descriptor */
	CHECK_FAILS(ferry_pool_attach(ferry, &attr, &pool), -EINVAL, "altmap");
	attr.altmap = NULL;
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK(info_of(pool).kept_bytes == 0 && info_of(pool).keep_ms > 0);
	CHECK_INT(ferry_pool_forget(pool), 0);
	if (is_local())
		return;
	CHECK_FAILS(try_attach(ferry, "a", 2 * DISK_SIZE, &pool), -ENOMEM, "free");
	/* That was refused as a whole: the name can be had, and pages are not evicted to it by themselves. */
	CHECK_INT(try_attach(ferry, "a", DISK_SIZE, &pool), 0);
	CHECK_INT(ferry_pool_kill(first), 0);
	CHECK(ferry_mmap(ferry, NULL, FERRYT_PAGE, 3, 0) == (void *)-1 && errno == ENOMEM);
	CHECK_INT(ferry_pool_forget(pool), 0);
	/* A struct of 0.1 ends before the name. */
	attr = (struct ferry_pool_attr){ .size = offsetof(struct ferry_pool_attr, name), .type = FERRY_MEM_FS_DAX,
					 .pool = "disk", .name = (const char *)1 };
	CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
	CHECK_FAILS(ferry_pool_forget(pool), -EINVAL, "without a name");
}

static void named_lease__bad_name_pool_or_size__own_line_and_nothing_left(void **state)
{
	(void)state;
	RUN(names_body);
}

/* ---- the server ---- */

static void start_server(const char *row)
{
	char disk[128];
	const char *args[] = { "--pool", "name=big,size=640M,backing=memfd,reserve=no",
			       "--pool", disk,
			       "--pool", "name=dev,type=generic,size=64M,path=/dev/zero", NULL };

	snprintf(disk, sizeof(disk), "name=disk,type=fs_dax,size=64M,path=%s", disk_path);
	ferryt_server_start_with(row, args);
}

static int setup(void **state)
{
	start_server(*state);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	char leases[80];

	ferryt_server_end();
	snprintf(leases, sizeof(leases), "%s.leases", disk_path);
	unlink(leases);
	return unlink(disk_path);
}

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(disk_path, sizeof(disk_path), "%s/disk", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, setup, teardown, row)

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(pool_attach__every_type__had_or_own_line),
		ROW_TEST(fs_dax__paged_to__as_private),
		ROW_TEST(generic__paged_to__as_private),
		ROW_TEST(open__pool_in_a_file__works_as_any),
		ROW_TEST(named_lease__client_killed__next_attach_finds_its_data),
		ROW_TEST(named_lease__server_killed_and_started_again__data_is_there),
		ROW_TEST(pool_forget__named_lease__gone_zeroed_and_free_for_good),
		ROW_TEST(named_lease__bad_name_pool_or_size__own_line_and_nothing_left),
	};
	int skip_all = ferryt_needs_uffd();

	return skip_all ? skip_all : cmocka_run_group_tests(tests, make_dir, remove_dir);
}
