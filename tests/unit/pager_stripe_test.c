/* client/pager/stripe: each policy's shares. */
#include "unit.h"

#include "stripe.h"

enum { N = 3, MANY = 6000 };

static const struct ferryi_choice choices[N] = {
	{ .index = 0, .room_bytes = 1ULL << 30, .distance = 30000 },
	{ .index = 1, .room_bytes = 2ULL << 30, .distance = 12000 },
	{ .index = 2, .room_bytes = 3ULL << 30, .distance = 10000 },
};

static void count(enum ferryi_policy policy, const struct ferryi_choice *of, unsigned first, unsigned nr, unsigned *got)
{
	got[0] = got[1] = got[2] = 0;
	for (unsigned i = first; i < first + nr; i++) {
		unsigned k = ferryi_stripe_pick(policy, i, of, N);

		assert_true(k < N);
		got[k]++;
	}
}

static void round_robin__any_run__each_in_turn(void **state)
{
	unsigned got[N];

	(void)state;
	count(FERRYI_POLICY_ROUND_ROBIN, choices, 7, MANY, got);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(got[i], MANY / N);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(ferryi_stripe_pick(FERRYI_POLICY_ROUND_ROBIN, i, choices, N), i);
}

static void weighted__any_run__in_proportion_to_room(void **state)
{
	unsigned got[N];

	(void)state;
	/* Short runs too, wherever they begin: no share is off by more than 3 stripes. */
	for (unsigned first = 0; first < 1000; first += 37) {
		for (unsigned nr = 6; nr < 600; nr += 66) {
			count(FERRYI_POLICY_WEIGHTED, choices, first, nr, got);
			for (unsigned i = 0; i < N; i++)
				assert_in_range(got[i] + 3, nr * (i + 1) / 6, nr * (i + 1) / 6 + 6);
		}
	}
}

static void weighted__rooms_of_none_and_of_all__none_gets_none(void **state)
{
	struct ferryi_choice c[N] = { { .room_bytes = 0 }, { .room_bytes = UINT64_MAX / 2 }, { .room_bytes = 0 } };
	unsigned got[N];

	(void)state;
	count(FERRYI_POLICY_WEIGHTED, c, 0, MANY, got);
	assert_int_equal(got[1], MANY);
	c[1].room_bytes = 0; /* no figure is worth more than another: in turn */
	count(FERRYI_POLICY_WEIGHTED, c, 0, MANY, got);
	assert_int_equal(got[0], MANY / N);
}

static void nearest__one_far_two_near__near_ones_in_turn(void **state)
{
	unsigned got[N];

	(void)state;
	count(FERRYI_POLICY_NEAREST, choices, 0, MANY, got);
	assert_int_equal(got[0], 0);
	assert_int_equal(got[1], MANY / 2); /* a fifth farther is as near */
	assert_int_equal(got[2], MANY / 2);
}

static void nearest__distance_unknown__last(void **state)
{
	struct ferryi_choice c[N] = { { .distance = FERRYI_DISTANCE_UNKNOWN },
				      { .distance = FERRYI_DISTANCE_UNKNOWN - 1 },
				      { .distance = FERRYI_DISTANCE_UNKNOWN } };
	unsigned got[N];

	(void)state;
	count(FERRYI_POLICY_NEAREST, c, 0, MANY, got);
	assert_int_equal(got[1], MANY);
	c[1].distance = FERRYI_DISTANCE_UNKNOWN; /* none is known: in turn */
	count(FERRYI_POLICY_NEAREST, c, 0, MANY, got);
	assert_int_equal(got[0], MANY / N);
}

static void fill__always__first(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(ferryi_stripe_pick(FERRYI_POLICY_FILL, i, choices, N), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_robin__any_run__each_in_turn),
		cmocka_unit_test(weighted__any_run__in_proportion_to_room),
		cmocka_unit_test(weighted__rooms_of_none_and_of_all__none_gets_none),
		cmocka_unit_test(nearest__one_far_two_near__near_ones_in_turn),
		cmocka_unit_test(nearest__distance_unknown__last),
		cmocka_unit_test(fill__always__first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
