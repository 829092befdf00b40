/* client/pager/budget: the limit holds under eight threads; slack and spare keep their distance. */
#include "unit.h"

#include <pthread.h>
#include <stdbool.h>

#include "budget.h"

enum { LIMIT = 4096, SLACK = 512, THREADS = 8, ROUNDS = 40000 };

static void charge__up_to_limit_less_slack__then_refused(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	assert_int_equal(ferryi_budget_free(&b), LIMIT - SLACK);
	assert_true(ferryi_budget_charge(&b, LIMIT - SLACK));
	assert_int_equal(ferryi_budget_free(&b), 0);
	assert_false(ferryi_budget_charge(&b, 1));
	assert_int_equal(b.charged, LIMIT - SLACK);
	ferryi_budget_uncharge(&b, 10);
	assert_false(ferryi_budget_charge(&b, 11)); /* all or nothing */
	assert_int_equal(b.charged, LIMIT - SLACK - 10);
	assert_true(ferryi_budget_charge(&b, 10));
}

static void charge_slack__full__within_limit_and_peak_seen(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	assert_true(ferryi_budget_charge(&b, LIMIT - SLACK));
	for (unsigned i = 0; i < SLACK; i++)
		ferryi_budget_charge_slack(&b, 1);
	assert_int_equal(b.charged, LIMIT);
	assert_int_equal(b.peak, LIMIT);
	assert_int_equal(ferryi_budget_free(&b), 0);
	ferryi_budget_uncharge(&b, SLACK);
	assert_int_equal(b.peak, LIMIT);
}

static void charge_spare__near_low_mark__leaves_room_for_faults(void **state)
{
	struct ferryi_budget b;
	uint64_t sum = 0, got;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	while ((got = ferryi_budget_charge_spare(&b, 100)) != 0) {
		assert_true(got <= 100);
		sum += got;
	}
	assert_int_equal(sum, b.charged);
	assert_true(ferryi_budget_free(&b) > 0);
	assert_true(ferryi_budget_free(&b) <= b.low);
	assert_true(ferryi_budget_charge(&b, 1)); /* a fault is served where read-ahead is not */
}

static void charge_spare__below_its_mark__small_part_of_what_is_free(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	assert_true(ferryi_budget_charge(&b, LIMIT - SLACK - b.low / 2));
	uint64_t left = ferryi_budget_free(&b), got = ferryi_budget_charge_spare(&b, left);

	assert_true(got > 0);
	assert_true(got <= left / 16);
}

static void low__by_amount_free__told(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	assert_false(ferryi_budget_is_low(&b));
	assert_true(b.low < b.high);
	assert_true(ferryi_budget_charge(&b, LIMIT - SLACK - b.low));
	assert_false(ferryi_budget_is_low(&b));
	assert_true(ferryi_budget_charge(&b, 1));
	assert_true(ferryi_budget_is_low(&b));
}

static void set_limit__lower_than_charged__nothing_free_until_uncharged(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	assert_true(ferryi_budget_charge(&b, 3000));
	ferryi_budget_set_limit(&b, 2048);
	assert_int_equal(ferryi_budget_free(&b), 0);
	assert_false(ferryi_budget_charge(&b, 1));
	assert_int_equal(ferryi_budget_charge_spare(&b, 1), 0);
	ferryi_budget_uncharge(&b, 2000);
	assert_true(ferryi_budget_charge(&b, 1));
	ferryi_budget_set_limit(&b, LIMIT);
	assert_int_equal(ferryi_budget_free(&b), LIMIT - SLACK - 1001);
}

static void unlimited__while_set__everything_fits(void **state)
{
	struct ferryi_budget b;

	(void)state;
	ferryi_budget_init(&b, LIMIT, SLACK);
	b.unlimited++;
	assert_true(ferryi_budget_charge(&b, 10 * LIMIT));
	assert_false(ferryi_budget_is_low(&b));
	b.unlimited--;
	assert_false(ferryi_budget_charge(&b, 1));
}

static struct ferryi_budget shared;
static _Atomic bool over;

/* Charges in all three ways, keeps a little, gives it back. */
static void *charger(void *arg)
{
	struct ferryt_rand r = {(uint64_t)(uintptr_t)arg};
	uint64_t mine = 0;

	for (unsigned i = 0; i < ROUNDS; i++) {
		uint64_t n = 1 + ferryt_rand_below(&r, 64);

		switch (ferryt_rand_below(&r, 4)) {
		case 0:
			mine += ferryi_budget_charge(&shared, n) ? n : 0;
			break;
		case 1:
			mine += ferryi_budget_charge_spare(&shared, n);
			break;
		case 2: /* rescues: each thread has at most its share of the slack */
			ferryi_budget_charge_slack(&shared, SLACK / THREADS);
			if (shared.charged > LIMIT)
				over = true;
			ferryi_budget_uncharge(&shared, SLACK / THREADS);
			break;
		default:
			n = mine < n ? mine : n;
			ferryi_budget_uncharge(&shared, n);
			mine -= n;
		}
		if (shared.charged > LIMIT)
			over = true;
	}
	ferryi_budget_uncharge(&shared, mine);
	return NULL;
}

static void charge__eight_threads__never_over_limit_and_nothing_lost(void **state)
{
	pthread_t threads[THREADS];

	(void)state;
	ferryi_budget_init(&shared, LIMIT, SLACK);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, charger, (void *)(uintptr_t)(i + 1)), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	assert_false(over);
	assert_true(shared.peak <= LIMIT);
	assert_true(shared.peak > LIMIT / 2);
	assert_int_equal(shared.charged, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(charge__up_to_limit_less_slack__then_refused),
		cmocka_unit_test(charge_slack__full__within_limit_and_peak_seen),
		cmocka_unit_test(charge_spare__near_low_mark__leaves_room_for_faults),
		cmocka_unit_test(charge_spare__below_its_mark__small_part_of_what_is_free),
		cmocka_unit_test(low__by_amount_free__told),
		cmocka_unit_test(set_limit__lower_than_charged__nothing_free_until_uncharged),
		cmocka_unit_test(unlimited__while_set__everything_fits),
		cmocka_unit_test(charge__eight_threads__never_over_limit_and_nothing_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
