/* Locations of a pool without servers: what is read from and written to, the gate of a sub-section, loss. */
#include "unit.h"

#include <string.h>

#include "device.h"
#include "pool_priv.h"

static struct ferry_pool pool;
static struct ferryi_replica replicas[FERRYI_MAX_REPLICAS];
static struct ferryi_replica_place places[2];
static _Atomic uint32_t gates[2];
static const struct ferryi_subsection sub = { .pool = &pool, .remote = { .key = 1 }, .remote_off = FERRYI_SUBSECTION_SIZE };

#define PFN_FIRST ((uint64_t)5 * FERRYI_PAGES_PER_SECTION)
#define PFN	  (PFN_FIRST + FERRYI_PAGES_PER_SUBSECTION + 3)

static int setup(void **state)
{
	(void)state;
	memset(&pool, 0, sizeof(pool));
	memset(replicas, 0, sizeof(replicas));
	memset((void *)gates, 0, sizeof(gates));
	ferryi_mutex_init(&pool.lock, FERRYI_RANK_POOL);
	pool.copies = 2;
	pool.pfn_first = PFN_FIRST;
	pool.nr_leased = pool.nr_reserved = 2;
	pool.gates = gates;
	places[1] = (struct ferryi_replica_place){ .remote = { .key = 2 }, .off = 0 };
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		replicas[k].pool = &pool;
		replicas[k].place = places;
		replicas[k].lender.index = k + 1;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryi_mutex_fini(&pool.lock);
	return 0;
}

static void put(unsigned k, enum ferryi_replica_state state)
{
	atomic_store(&replicas[k].state, (int)state);
	atomic_store(&pool.replica[k], &replicas[k]);
}

static void location__each_state__is_where_it_says(void **state)
{
	struct ferryi_location at;

	(void)state;
	assert_true(ferryi_pool_location(&pool, &sub, PFN, 0, &at));
	assert_true(at.is_read_from);
	assert_int_equal(at.remote.key, 1);
	assert_int_equal(at.off, FERRYI_SUBSECTION_SIZE + 3 * FERRYI_PAGE_SIZE);
	assert_false(ferryi_pool_location(&pool, &sub, PFN, 1, &at));
	put(0, FERRYI_REPLICA_FILLING);
	assert_true(ferryi_pool_location(&pool, &sub, PFN, 1, &at));
	assert_false(at.is_read_from);
	put(0, FERRYI_REPLICA_LIVE);
	assert_true(ferryi_pool_location(&pool, &sub, PFN, 1, &at));
	assert_true(at.is_read_from);
	assert_int_equal(at.remote.key, 2);
	assert_int_equal(at.off, 3 * FERRYI_PAGE_SIZE);
	assert_ptr_equal(at.lender, &replicas[0].lender);
	put(0, FERRYI_REPLICA_LOST);
	assert_false(ferryi_pool_location(&pool, &sub, PFN, 1, &at));
}

static void gate__writer_and_filler__one_at_a_time(void **state)
{
	(void)state;
	assert_true(ferryi_pool_write_begin(&pool, PFN));
	assert_true(ferryi_pool_write_begin(&pool, PFN)); /* writers do not exclude one another */
	assert_false(ferryi_pool_copy_begin(&pool, PFN));
	assert_true(ferryi_pool_is_copying(&pool, PFN));
	assert_false(ferryi_pool_write_begin(&pool, PFN + 1)); /* the same sub-section: no new one */
	assert_true(ferryi_pool_write_begin(&pool, PFN_FIRST)); /* another one */
	ferryi_pool_write_end(&pool, PFN_FIRST);
	ferryi_pool_write_end(&pool, PFN);
	assert_false(ferryi_pool_copy_begin(&pool, PFN));
	ferryi_pool_write_end(&pool, PFN);
	assert_true(ferryi_pool_copy_begin(&pool, PFN));
	assert_false(ferryi_pool_write_begin(&pool, PFN));
	ferryi_pool_copy_end(&pool, PFN);
	assert_false(ferryi_pool_is_copying(&pool, PFN));
	assert_true(ferryi_pool_write_begin(&pool, PFN));
	ferryi_pool_write_end(&pool, PFN);
	assert_int_equal(atomic_load(&gates[0]) + atomic_load(&gates[1]), 0);
}

/* A filling replica is a place that is there, but nothing that can be read from. */
static void loss__of_all_that_is_read_from__is_the_pools(void **state)
{
	(void)state;
	assert_int_equal(ferryi_pool_missing(&pool), 1);
	put(0, FERRYI_REPLICA_FILLING);
	assert_int_equal(ferryi_pool_missing(&pool), 0);
	assert_int_equal(ferryi_pool_incomplete(&pool), 1);
	assert_true(ferryi_replica_filled(&replicas[0]));
	assert_int_equal(ferryi_pool_incomplete(&pool), 0);
	put(1, FERRYI_REPLICA_FILLING);
	atomic_store(&pool.lender.lost, FERRYI_LOST_CLOSED);
	assert_int_equal(ferryi_pool_lost(&pool), FERRYI_LOST_NONE);
	ferryi_replica_give_up(&replicas[0], FERRYI_LOST_KEEPALIVE);
	assert_int_equal(ferryi_pool_lost(&pool), FERRYI_LOST_KEEPALIVE);
	assert_false(ferryi_replica_filled(&replicas[1])); /* from what? */
	assert_int_equal(atomic_load(&replicas[1].state), FERRYI_REPLICA_FILLING);
	assert_ptr_equal(ferryi_replica_take_off(&pool), &replicas[0]);
	assert_null(ferryi_replica_take_off(&pool));
	assert_null(ferryi_pool_replica(&pool, 0));
	assert_int_equal(ferryi_pool_missing(&pool), 0);
}

/* What leaves is read from and written to until others are whole, and is not counted among them. */
static void leaving__replaced_by_a_whole_one__is_lost(void **state)
{
	struct ferryi_location at;

	(void)state;
	pool.copies = 1;
	atomic_store(&pool.lender.is_leaving, true);
	assert_int_equal(ferryi_pool_missing(&pool), 1);
	assert_false(ferryi_pool_drop_leaving(&pool));
	put(0, FERRYI_REPLICA_FILLING);
	assert_int_equal(ferryi_pool_missing(&pool), 0);
	assert_false(ferryi_pool_drop_leaving(&pool));
	assert_true(ferryi_pool_location(&pool, &sub, PFN, 0, &at));
	assert_true(at.is_read_from);
	assert_true(ferryi_replica_filled(&replicas[0]));
	assert_true(ferryi_pool_drop_leaving(&pool));
	assert_false(ferryi_pool_location(&pool, &sub, PFN, 0, &at));
	assert_true(ferryi_pool_location(&pool, &sub, PFN, 1, &at));
	assert_true(at.is_read_from);
	assert_int_equal(ferryi_pool_lost(&pool), FERRYI_LOST_NONE);
	assert_false(ferryi_pool_drop_leaving(&pool)); /* once */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(location__each_state__is_where_it_says, setup, teardown),
		cmocka_unit_test_setup_teardown(gate__writer_and_filler__one_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(loss__of_all_that_is_read_from__is_the_pools, setup, teardown),
		cmocka_unit_test_setup_teardown(leaving__replaced_by_a_whole_one__is_lost, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
