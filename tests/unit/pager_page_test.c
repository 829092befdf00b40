/* client/pager/page: the page word. */
#include "unit.h"

#include "page.h"

#define TICK_NS (1ULL << 27)

/* A drop is young for FERRYI_ZAP_TICKS from the moment of its event on, whatever else the word says. */
static void is_young_zap__age_of_the_drop__as_long_as_the_kernel_may_take(void **state)
{
	const uint64_t others[] = {0, FERRYI_PAGE_REFERENCED | FERRYI_PAGE_DIRTY | FERRYI_PAGE_COPIED,
				   FERRYI_PAGE_WRITEBACK | 5ULL << FERRYI_PAGE_ARG_SHIFT |
					   3 * FERRYI_PAGE_PIN_ONE};

	(void)state;
	for (uint64_t event = 0; event < 65; event++) { /* the tick of its event: once around the counter */
		for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
			uint64_t word =
				ferryi_page_zapping(FERRYI_PAGE_RESIDENT | others[i], event * TICK_NS);

			for (uint64_t age = 0; age < FERRYI_ZAP_TICKS; age++)
				assert_true(ferryi_page_is_young_zap(word, (event + age) * TICK_NS));
			for (uint64_t age = FERRYI_ZAP_TICKS; age < 64; age++)
				assert_false(ferryi_page_is_young_zap(word, (event + age) * TICK_NS));
			assert_false(
				ferryi_page_is_young_zap(ferryi_page_not_zapping(word), event * TICK_NS));
			assert_int_equal(ferryi_page_not_zapping(word), FERRYI_PAGE_RESIDENT | others[i]);
		}
	}
}

static void release__dropped_meanwhile__absent(void **state)
{
	ferryi_page_word word = FERRYI_PAGE_FETCHING | FERRYI_PAGE_COPIED;

	(void)state;
	assert_false(ferryi_page_release(&word, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED));
	assert_int_equal(word, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED);
	word = FERRYI_PAGE_FETCHING | FERRYI_PAGE_DROPPED;
	assert_true(ferryi_page_release(&word, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED));
	assert_int_equal(word, FERRYI_PAGE_ABSENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_young_zap__age_of_the_drop__as_long_as_the_kernel_may_take),
		cmocka_unit_test(release__dropped_meanwhile__absent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
