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
	expect_refused(ferry, FERRY_MEM_COHERENT, "test", -ENXIO, "not built");
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
	ferryt_server_end();
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
	};
	int skip_all = ferryt_needs_uffd();

	return skip_all ? skip_all : cmocka_run_group_tests(tests, make_dir, remove_dir);
}
