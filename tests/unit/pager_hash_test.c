/* client/pager/hash: whatever vectors it takes, it is the library's XXH3. */
#include "unit.h"

#include <xxhash.h>

#include "arith.h"
#include "hash.h"

enum { PAGES = 64 };

static uint8_t page[FERRYI_HASH_AHEAD + (1 << FERRYI_PAGE_SHIFT)];

static void fill(unsigned seed)
{
	uint64_t x = 88172645463325252ULL + seed;

	for (size_t i = 0; i < FERRYI_PAGE_SIZE; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = seed ? (uint8_t)x : 0;
	}
}

static void hash__any_page__is_xxh3(void **state)
{
	(void)state;
	for (unsigned seed = 0; seed < PAGES; seed++) {
		fill(seed);
		uint64_t hash = XXH3_64bits(page, FERRYI_PAGE_SIZE);

		ferryi_hash_prefetch(page + FERRYI_PAGE_SIZE);
		assert_true(ferryi_hash_page_baseline(page) == hash);
		assert_true(ferryi_hash_page(page) == hash);
#ifdef __x86_64__
		if (__builtin_cpu_supports("avx2"))
			assert_true(ferryi_hash_page_avx2(page) == hash);
#endif
	}
}

static void hash__one_bit_differs__hash_differs(void **state)
{
	(void)state;
	fill(1);
	uint64_t hash = ferryi_hash_page(page);

	for (size_t i = 0; i < FERRYI_PAGE_SIZE; i++) {
		page[i] ^= 1;
		assert_true(ferryi_hash_page(page) != hash);
		page[i] ^= 1;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hash__any_page__is_xxh3),
		cmocka_unit_test(hash__one_bit_differs__hash_differs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
