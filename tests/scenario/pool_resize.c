/*
 * A server's pool grows and shrinks while programs page to it: SIGHUP after a
 * change of the config file. argv[1]: the fabric row. The server has "test"
 * (of the kit) and "hot", which the config file describes.
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

#define SMALL_MIB 8u
#define LARGE_MIB 40u
#define PAGES(mib) ((mib) * FERRYT_MIB / FERRYT_PAGE)
#define WAIT_MS	  60000

static char dir[] = "/tmp/ferryt-resize-XXXXXX";
static char config_path[64];

static void write_config(const char *row, unsigned size_mib)
{
	FILE *f = fopen(config_path, "w");

	CHECK(f != NULL);
	fprintf(f, "[pool hot]\nsize = %uM\nbacking = %s\n", size_mib,
		strcmp(row, "local") == 0 ? "memfd" : "anon");
	CHECK_INT(fclose(f), 0);
}

static void reload(unsigned size_mib)
{
	write_config(ferryt_row(), size_mib);
	ferryt_child_signal(ferryt_server(), SIGHUP);
}

static struct ferry_pool_info info_of(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info;
}

static uint64_t window_mib(struct ferry_pool *pool)
{
	return (info_of(pool).pfn_last - info_of(pool).pfn_first + 1) * FERRYT_PAGE / FERRYT_MIB;
}

static struct ferry *open_hot(void)
{
	struct ferry_config cfg = ferryt_config(4 * FERRYT_MIB);
	struct ferry *ferry;

	cfg.pool = "hot";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

/* As a program does that was told that there is more now. */
static uint8_t *mmap_soon(struct ferry *ferry, size_t len)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	void *p;

	while ((p = ferry_mmap(ferry, NULL, len, 3, 0)) == (void *)-1) {
		CHECK_INT(errno, ENOMEM);
		CHECK(ferryi_now_ns() < deadline_ns);
	}
	return p;
}

/* Attaches until the server's pool is that large. */
static struct ferry_pool *attach_when(struct ferry *ferry, unsigned size_mib)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE, .pool = "hot" };
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	struct ferry_pool *pool;

	for (;;) {
		CHECK_INT(ferry_pool_attach(ferry, &attr, &pool), 0);
		if (window_mib(pool) == size_mib)
			return pool;
		CHECK_INT(ferry_pool_detach(pool), 0);
		CHECK(ferryi_now_ns() < deadline_ns);
	}
}

static void grow_and_shrink_body(void)
{
	struct ferry *ferry = open_hot();
	struct ferry_pool *pool = ferry_pool_at(ferry, 0), *other;
	uint8_t *low, *high;

	CHECK_INT(window_mib(pool), SMALL_MIB);
	low = ferryt_mmap(ferry, SMALL_MIB * FERRYT_MIB);
	ferryt_fill_away(ferry, low, PAGES(SMALL_MIB), 1);
	CHECK(ferry_mmap(ferry, NULL, FERRYT_MIB, 3, 0) == (void *)-1 && errno == ENOMEM);
	CHECK(strstr(ferry_last_error(), "the pools are full: 1 MiB asked for, 0 MiB would fit") != NULL);

	/* The same pool, in the same window. */
	reload(LARGE_MIB);
	high = mmap_soon(ferry, (LARGE_MIB - SMALL_MIB) * FERRYT_MIB);
	CHECK_INT(window_mib(pool), LARGE_MIB);
	CHECK_INT(info_of(pool).leased_bytes, LARGE_MIB * FERRYT_MIB);
	ferryt_fill_away(ferry, high, PAGES(LARGE_MIB - SMALL_MIB), 2);
	ferryt_verify(low, 0, PAGES(SMALL_MIB), 1);
	ferryt_verify(high, 0, PAGES(LARGE_MIB - SMALL_MIB), 2);
	CHECK(ferry_mmap(ferry, NULL, FERRYT_MIB, 3, 0) == (void *)-1 && errno == ENOMEM);

	/* All of it is leased: it stays. */
	reload(SMALL_MIB);
	ferryt_fill_away(ferry, high, PAGES(LARGE_MIB - SMALL_MIB), 3);
	ferryt_verify(high, 0, PAGES(LARGE_MIB - SMALL_MIB), 3);
	CHECK_INT(ferry_munmap(ferry, high, (LARGE_MIB - SMALL_MIB) * FERRYT_MIB), 0);
	CHECK_INT(ferry_munmap(ferry, low, SMALL_MIB * FERRYT_MIB), 0);
	CHECK_INT(ferry_pool_kill(pool), 0);
	ferry_pool_put(pool);
	CHECK_INT(ferry_pool_detach(pool), 0);

	reload(SMALL_MIB);
	other = attach_when(ferry, SMALL_MIB);
	low = ferryt_mmap(ferry, SMALL_MIB * FERRYT_MIB);
	ferryt_fill_away(ferry, low, PAGES(SMALL_MIB), 4);
	ferryt_verify(low, 0, PAGES(SMALL_MIB), 4);
	CHECK_INT(info_of(other).used_bytes, SMALL_MIB * FERRYT_MIB);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void server_pool__grown_and_shrunk__client_follows(void **state)
{
	(void)state;
	RUN(grow_and_shrink_body);
}

/* Memory that is bound only when it is evicted finds what was added. */
static void late_body(void)
{
	struct ferry *ferry = open_hot();
	size_t len = (LARGE_MIB - 4) * FERRYT_MIB;
	uint8_t *p = ferry_mmap(ferry, NULL, len, 3, FERRY_MAP_NORESERVE);

	CHECK(p != (void *)-1);
	reload(LARGE_MIB);
	CHECK_INT(ferry_pool_detach(attach_when(ferry, LARGE_MIB)), 0);
	/* Much more than the pool and the budget held when it was attached. */
	ferryt_fill(p, len / FERRYT_PAGE, 5);
	ferryt_verify(p, 0, len / FERRYT_PAGE, 5);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void server_pool__grown__eviction_goes_on_there(void **state)
{
	(void)state;
	RUN(late_body);
}

static int setup(void **state)
{
	const char *args[] = { "--config", config_path, NULL };

	write_config(*state, SMALL_MIB);
	ferryt_server_start_with(*state, args);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return unlink(config_path);
}

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(config_path, sizeof(config_path), "%s/ferryd.conf", dir);
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
		ROW_TEST(server_pool__grown_and_shrunk__client_follows),
		ROW_TEST(server_pool__grown__eviction_goes_on_there),
	};
	int skip_all = ferryt_needs_uffd();

	return skip_all ? skip_all : cmocka_run_group_tests(tests, make_dir, remove_dir);
}
