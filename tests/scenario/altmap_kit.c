/* See altmap_kit.h. */
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

static char dir[] = "/tmp/ferryt-altmap-XXXXXX";
static char disk_path[64];
const char *timeout; /* of sessions; NULL: the server's default */
enum ferry_mem_type type = FERRY_MEM_PRIVATE;
const char *pool_name = "test";

struct ferryt_shared *shared;
struct ferry_altmap altmap;

bool is_local(void)
{
	return strcmp(ferryt_row(), "local") == 0;
}

struct ferry_pool_info info_of(struct ferry_pool *pool)
{
	struct ferry_pool_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_pool_info(pool, &info), 0);
	return info;
}

int try_attach(struct ferry *ferry, struct ferry_altmap *map, struct ferry_pool **pool)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = type, .pool = pool_name, .name = NAME, .altmap = map };

	return ferry_pool_attach(ferry, &attr, pool);
}

/* Also when the server has not noticed yet that who had it has ended. */
int attach_when_free(struct ferry *ferry, struct ferry_altmap *map, struct ferry_pool **pool)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	int rc;

	while ((rc = try_attach(ferry, map, pool)) == -EBUSY && ferryi_now_ns() < deadline_ns)
		;
	return rc;
}

struct ferry_pool *attach(struct ferry *ferry)
{
	struct ferry_pool *pool = NULL;

	altmap = (struct ferry_altmap){ .reserve = RESERVE, .free = FREE };
	CHECK_INT(attach_when_free(ferry, &altmap, &pool), 0);
	return pool;
}

/* Everything goes to the named pool from now on. */
void kill_first(struct ferry *ferry)
{
	struct ferry_pool *first = ferry_pool_at(ferry, 0);

	CHECK_INT(ferry_pool_kill(first), 0);
	ferry_pool_put(first);
}

uint8_t *map_there(struct ferry *ferry, size_t pages)
{
	void *p = ferry_mmap(ferry, NULL, pages * FERRYT_PAGE, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK(p != MAP_FAILED);
	return p;
}

struct ferry_recover_stats recover(struct ferry_pool *pool, uintptr_t old_va, void *addr, size_t pages, uint8_t *which)
{
	struct ferry_recover_stats stats = { .size = sizeof(stats), .which = which };

	CHECK_INT(ferry_pool_recover(pool, old_va, addr, pages * FERRYT_PAGE, &stats), 0);
	CHECK_INT(stats.recovered + stats.missing + stats.lost, pages);
	return stats;
}

long count_kept(struct ferry_pool *pool)
{
	struct ferry_kept_page kept[100];
	uint64_t cursor = 0;
	long n = 0, got;

	while ((got = ferry_pool_kept(pool, kept, 100, &cursor)) > 0)
		n += got;
	CHECK_INT(got, 0);
	return n;
}

void expect_killed(void (*body)(void))
{
	assert_int_equal(ferryt_in_child(body), 128 + SIGKILL);
}

uint64_t drvdata_of(size_t i)
{
	return i % 3 ? 0 : 0xd00d000000000000u + i;
}

void flushed_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint64_t first = info_of(pool).pfn_first, cursor = 0;

	CHECK_INT(info_of(pool).kept_bytes, 0);
	CHECK_INT(info_of(pool).keep_ms, type == FERRY_MEM_FS_DAX ? 0 : 600000);
	CHECK_INT(count_kept(pool), 0);
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	shared->va = (uintptr_t)p;
	ferryt_fill(p, PAGES, 5);
	CHECK_INT(ferry_flush(ferry, p, PAGES * FERRYT_PAGE), 0);
	/* The driver's numbers: place by place, in the pool's order; nothing else has been there, so the order is that of p. */
	for (size_t i = 0; i < PAGES; i++)
		ferry_page_set_drvdata(ferry_pfn_to_page(ferry, first + 512 + i), drvdata_of(i));
	CHECK_INT(ferry_flush(ferry, p, FERRYT_PAGE), 0);
	/* What this process has itself is not what an earlier one has left. */
	struct ferry_kept_page kept;

	CHECK_INT(ferry_pool_kept(pool, &kept, 1, &cursor), 0);
	CHECK_FAILS(ferry_pool_recover(pool, (uintptr_t)p, p, FERRYT_PAGE, NULL), -ENOENT, "no page of an earlier");
	raise(SIGKILL);
}

void nothing_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, 1);

	CHECK_INT(type == FERRY_MEM_FS_DAX ? 0 : info_of(pool).kept_bytes, 0);
	CHECK_INT(count_kept(pool), 0);
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, FERRYT_PAGE, NULL), -ENOENT, "no page of an earlier");
	CHECK_INT(ferry_pool_detach(pool), 0);
	CHECK_INT(altmap.alloc, 0);
}

/* ---- the server ---- */

void start_server(const char *row, const char *keep)
{
	char disk[128];
	const char *args[] = { "--pool", "name=big,size=640M,backing=memfd,reserve=no", "--pool", disk, "--keep", keep,
			       timeout ? "--timeout" : NULL, timeout, timeout ? "--keepalive" : NULL, "500ms", NULL };

	snprintf(disk, sizeof(disk), "name=disk,type=fs_dax,size=64M,path=%s", disk_path);
	ferryt_server_start_with(row, args);
}

int ferryt_altmap_setup(void **state)
{
	type = FERRY_MEM_PRIVATE;
	pool_name = "test";
	timeout = NULL;
	start_server(*state, "600s");
	return 0;
}

int ferryt_altmap_teardown(void **state)
{
	(void)state;
	char leases[80];

	ferryt_server_end();
	snprintf(leases, sizeof(leases), "%s.leases", disk_path);
	unlink(leases);
	return unlink(disk_path);
}

int ferryt_altmap_make_dir(void **state)
{
	(void)state;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || !mkdtemp(dir))
		return -1;
	snprintf(disk_path, sizeof(disk_path), "%s/disk", dir);
	return 0;
}

int ferryt_altmap_remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

