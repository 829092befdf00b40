/* The server's leases with a name in memory, without a server. */
#include "unit.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "pool.h"

#define MIB ((uint64_t)1 << 20)

static struct ferryi_pool *pool_open(const char *text)
{
	struct ferryi_pool_spec spec;
	struct ferryi_pool *pool;
	char err[256] = "";

	assert_int_equal(ferryi_pool_spec_parse(&spec, text, err, sizeof(err)), 0);
	assert_int_equal(ferryi_pool_spec_resolve(&spec, false, false, err, sizeof(err)), 0);
	if (ferryi_pool_open(&spec, &pool, err, sizeof(err))) {
		print_error("%s\n", err);
		fail();
	}
	return pool;
}

/* An extent of two sub-sections under the name, with something in it. */
static void take_named(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent **list)
{
	uint64_t free_bytes;
	unsigned count;

	assert_int_equal(ferryi_pool_hold(pool, name, list, &count), 0);
	assert_null(*list);
	assert_int_equal(ferryi_pool_take(pool, 4 * MIB, 1, 0, list, &count, &free_bytes), 0);
	assert_int_equal(ferryi_pool_record(pool, name, list, 1), 0);
	memset((*list)->memory.base, 0x5a, 4 * MIB);
}

static uint64_t kept_bytes(struct ferryi_pool *pool)
{
	struct ferryi_pool_usage usage;

	ferryi_pool_usage(pool, &usage);
	return usage.kept_bytes;
}

static void wait_until_free(struct ferryi_pool *pool, uint64_t want)
{
	uint64_t deadline_ns = ferryi_deadline_ms(60000);
	struct ferryi_pool_usage usage;

	do {
		sched_yield();
		ferryi_pool_usage(pool, &usage);
	} while (usage.free_bytes != want && ferryi_now_ns() < deadline_ns);
	assert_int_equal(usage.free_bytes, want);
	assert_int_equal(usage.kept_bytes + usage.leased_bytes, 0);
}

static void check_names(const char *text)
{
	struct ferryi_pool *pool = pool_open(text);
	struct ferryi_pool_extent *list, *other;
	uint64_t off, deadline_ns = ferryi_deadline_ms(600000);
	unsigned count;
	int client_fd;

	assert_false(ferryi_pool_keeps_for_good(pool));
	take_named(pool, "a", &list);
	off = list->pool_off;
	client_fd = list->memory.fd >= 0 ? dup(list->memory.fd) : -1;
	assert_int_equal(ferryi_pool_hold(pool, "a", &other, &count), -EBUSY);
	/* Let go: its memory waits, and what a client has of a memfd is not it. */
	assert_int_equal(ferryi_pool_save(pool, list), 0);
	ferryi_pool_keep(pool, "a", list, deadline_ns);
	assert_int_equal(kept_bytes(pool), 4 * MIB);
	if (client_fd >= 0) {
		struct stat st;

		assert_int_equal(fstat(client_fd, &st), 0);
		assert_int_equal(st.st_size, 0);
		close(client_fd);
	}
	assert_int_equal(ferryi_pool_hold(pool, "b", &other, &count), 0);
	assert_null(other);
	ferryi_pool_keep(pool, "b", NULL, deadline_ns); /* nothing: no name */
	assert_int_equal(ferryi_pool_hold(pool, "a", &list, &count), 0);
	assert_int_equal(count, 1);
	assert_int_equal(kept_bytes(pool), 0);
	assert_int_equal(list->pool_off, off);
	for (size_t i = 0; i < 4 * MIB; i++)
		assert_int_equal(((uint8_t *)list->memory.base)[i], 0x5a);
	/* Nobody comes: it is zeroed, and free. */
	assert_int_equal(ferryi_pool_save(pool, list), 0);
	ferryi_pool_keep(pool, "a", list, ferryi_now_ns());
	wait_until_free(pool, 8 * MIB);
	take_named(pool, "a", &list);
	assert_int_equal(ferryi_pool_forget(pool, "a"), 0);
	ferryi_pool_give_back(pool, list);
	wait_until_free(pool, 8 * MIB);
	/* One that waits still when the pool is closed goes with it. */
	take_named(pool, "a", &list);
	assert_int_equal(ferryi_pool_save(pool, list), 0);
	ferryi_pool_keep(pool, "a", list, deadline_ns);
	ferryi_pool_close(&pool);
}

static void pool_names__in_memory__kept_until_their_time_is_up(void **state)
{
	(void)state;
	check_names("name=t,size=8M,backing=anon");
	check_names("name=t,size=8M,backing=memfd");
	check_names("name=t,size=8M,backing=memfd,reserve=no");
}

static void pool_save__memfd_that_its_client_has_cut__is_lost(void **state)
{
	struct ferryi_pool *pool = pool_open("name=t,size=8M,backing=memfd");
	struct ferryi_pool_extent *list;

	(void)state;
	take_named(pool, "a", &list);
	assert_int_equal(ftruncate(list->memory.fd, (off_t)(3 * MIB)), 0);
	assert_int_equal(ferryi_pool_save(pool, list), -EIO);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_keep(pool, "a", NULL, 0);
	wait_until_free(pool, 8 * MIB);
	ferryi_pool_close(&pool);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pool_names__in_memory__kept_until_their_time_is_up),
		cmocka_unit_test(pool_save__memfd_that_its_client_has_cut__is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
