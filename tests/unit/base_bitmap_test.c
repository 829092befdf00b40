/* common/base/bitmap: against a bit-at-a-time model, on random maps. One thread. */
#include "unit.h"

#include <string.h>

#include "bitmap.h"

#define BITS_MAX 333
#define ROUNDS	 3000

/* A random map of random density; bits past nbits are noise that must not matter. */
static size_t random_map(struct ferryt_rand *r, uint64_t *map)
{
	size_t nbits = 1 + (size_t)ferryt_rand_below(r, BITS_MAX);
	uint64_t density = ferryt_rand_below(r, 9);

	for (size_t i = 0; i < FERRYI_BITMAP_WORDS(BITS_MAX) * 64; i++) {
		if (ferryt_rand_below(r, 8) < density)
			ferryi_bitmap_set(map, i);
		else
			ferryi_bitmap_clear(map, i);
	}
	return nbits;
}

static void set_clear__random_range__changes_that_range_only(void **state)
{
	uint64_t map[FERRYI_BITMAP_WORDS(BITS_MAX)];
	uint64_t before[FERRYI_BITMAP_WORDS(BITS_MAX)];
	struct ferryt_rand r = {11};

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t nbits = random_map(&r, map);
		size_t start = (size_t)ferryt_rand_below(&r, nbits + 1);
		size_t n = (size_t)ferryt_rand_below(&r, nbits - start + 1);
		bool set = round % 2;

		memcpy(before, map, sizeof(map));
		if (set)
			ferryi_bitmap_set_range(map, start, n);
		else
			ferryi_bitmap_clear_range(map, start, n);
		for (size_t i = 0; i < FERRYI_BITMAP_WORDS(BITS_MAX) * 64; i++) {
			bool inside = i >= start && i < start + n;

			assert_int_equal(ferryi_bitmap_test(map, i),
					 inside ? set : ferryi_bitmap_test(before, i));
		}
	}
}

static void count_and_next__random_map__equal_model(void **state)
{
	uint64_t map[FERRYI_BITMAP_WORDS(BITS_MAX)];
	struct ferryt_rand r = {12};

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t nbits = random_map(&r, map);
		size_t count = 0;
		size_t from = (size_t)ferryt_rand_below(&r, nbits + 3);
		size_t want_set = nbits;
		size_t want_clear = nbits;

		for (size_t i = nbits; i-- > 0;) {
			bool bit = ferryi_bitmap_test(map, i);

			count += bit;
			if (i >= from && bit)
				want_set = i;
			if (i >= from && !bit)
				want_clear = i;
		}
		assert_int_equal(ferryi_bitmap_count(map, nbits), count);
		assert_int_equal(ferryi_bitmap_next_set(map, nbits, from), want_set);
		assert_int_equal(ferryi_bitmap_next_clear(map, nbits, from), want_clear);
	}
}

/* Length of the clear run that begins at bit i, at most want. */
static size_t model_run(const uint64_t *map, size_t nbits, size_t i, size_t want)
{
	size_t n = 0;

	while (i + n < nbits && n < want && !ferryi_bitmap_test(map, i + n))
		n++;
	return n;
}

static void find_run__random_map__longest_and_next_fit(void **state)
{
	uint64_t map[FERRYI_BITMAP_WORDS(BITS_MAX)];
	struct ferryt_rand r = {13};

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		size_t nbits = random_map(&r, map);
		size_t from = (size_t)ferryt_rand_below(&r, nbits);
		size_t want = 1 + (size_t)ferryt_rand_below(&r, 12);
		size_t start = SIZE_MAX;
		size_t got = ferryi_bitmap_find_run(map, nbits, from, want, &start);
		size_t best = 0;
		size_t first_full = SIZE_MAX; /* in the order from..nbits, 0..from */

		for (size_t k = 0; k < nbits; k++) {
			size_t i = (from + k) % nbits;
			size_t n = model_run(map, nbits, i, want);

			if (n > best)
				best = n;
			if (n == want && first_full == SIZE_MAX)
				first_full = i;
		}
		assert_int_equal(got, best);
		if (got == 0)
			continue;
		assert_int_equal(model_run(map, nbits, start, want), got);
		if (first_full != SIZE_MAX)
			assert_int_equal(start, first_full);
	}
}

static void find_run__full_map_or_nothing_wanted__zero(void **state)
{
	uint64_t map[3] = {~0ULL, ~0ULL, ~0ULL};
	size_t start = 77;

	(void)state;
	assert_int_equal(ferryi_bitmap_find_run(map, 130, 5, 4, &start), 0);
	assert_int_equal(start, 77);
	map[0] = 0;
	assert_int_equal(ferryi_bitmap_find_run(map, 130, 5, 0, &start), 0);
	assert_int_equal(ferryi_bitmap_find_run(map, 0, 0, 1, &start), 0);
}

static void find_run__from_past_end__starts_over(void **state)
{
	uint64_t map[1] = {0};
	size_t start = 77;

	(void)state;
	assert_int_equal(ferryi_bitmap_find_run(map, 10, 10, 3, &start), 3);
	assert_int_equal(start, 0);
}

static void find_run__model_allocator__never_hands_out_twice(void **state)
{
	uint64_t map[FERRYI_BITMAP_WORDS(256)] = {0};
	struct ferryt_rand r = {14};
	size_t hand = 0;
	size_t used = 0;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t want = 1 + (size_t)ferryt_rand_below(&r, 20);
		size_t start = 0;
		size_t n = ferryi_bitmap_find_run(map, 256, hand, want, &start);

		assert_true(n > 0 || used == 256);
		for (size_t i = start; i < start + n; i++)
			assert_false(ferryi_bitmap_test(map, i));
		ferryi_bitmap_set_range(map, start, n);
		hand = start + n;
		used += n;
		if (used > 200) {
			size_t at = (size_t)ferryt_rand_below(&r, 192);

			ferryi_bitmap_clear_range(map, at, 64);
		}
		used = ferryi_bitmap_count(map, 256);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_clear__random_range__changes_that_range_only),
		cmocka_unit_test(count_and_next__random_map__equal_model),
		cmocka_unit_test(find_run__random_map__longest_and_next_fit),
		cmocka_unit_test(find_run__full_map_or_nothing_wanted__zero),
		cmocka_unit_test(find_run__from_past_end__starts_over),
		cmocka_unit_test(find_run__model_allocator__never_hands_out_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
