/* client/pager/event: events of two threads in the other order than their changes. */
#include "unit.h"

#include "pager_priv.h"

#define PAGE  ((uintptr_t)FERRYI_PAGE_SIZE)
#define PAGES 16u
#define LEN   (PAGES * PAGE)
#define AT_A  ((uintptr_t)0x10000000)
#define AT_B  ((uintptr_t)0x20000000)
#define MIB   ((size_t)1 << 20)

static struct ferryi_pager pager;

static void setup(void)
{
	assert_int_equal(ferryi_arena_open(256 * MIB, 256 * MIB, &pager.arena), 0);
	assert_int_equal(ferryi_areas_init(&pager.areas, pager.arena), 0);
	ferryi_mutex_init(&pager.events_lock, FERRYI_RANK_EVENTS);
	ferryi_mutex_init(&pager.zombies_lock, FERRYI_RANK_LEAF);
	pager.uffd = -1; /* no event is ever to come */
}

static void teardown(void)
{
	ferryi_mutex_fini(&pager.zombies_lock);
	ferryi_mutex_fini(&pager.events_lock);
	ferryi_areas_fini(&pager.areas);
	ferryi_arena_close(&pager.arena);
}

/* All its pages are lost, which a drop ends. */
static struct ferryi_object *map(uintptr_t start)
{
	struct ferryi_object *object = ferryi_object_create(&pager.areas, PAGES);
	struct ferryi_area area = {.start = start, .end = start + LEN, .object = object};

	assert_non_null(object);
	for (size_t i = 0; i < PAGES; i++)
		object->words[i] = ferryi_page_poisoned(1, 0);
	ferryi_areas_write_lock(&pager.areas);
	assert_int_equal(ferryi_areas_insert_locked(&pager.areas, &area), 0);
	ferryi_areas_write_unlock(&pager.areas);
	return object;
}

/* Memory was moved to where other memory was unmapped, whose event is late; pages [5, 8) are dropped there.
 */
static void remove__where_a_move_is_late__pages_that_were_moved(void **state)
{
	struct ferryi_page_ref ref;

	(void)state;
	setup();
	struct ferryi_object *unmapped = map(AT_A), *moved = map(AT_B);

	ferryi_mutex_lock(&pager.events_lock);
	ferryi_event_remap_locked(&pager, AT_B, AT_A, LEN);
	assert_int_equal(pager.nr_late_moves, 1);
	assert_true(ferryi_event_is_late_locked(&pager, AT_A + LEN - 1));
	assert_false(ferryi_event_is_late_locked(&pager, AT_A + LEN));
	ferryi_event_remove_locked(&pager, AT_A + 5 * PAGE, AT_A + 8 * PAGE);
	ferryi_event_late_locked(&pager); /* nothing is to come: what is in the way has gone */
	assert_int_equal(pager.nr_late_moves, 0);
	ferryi_mutex_unlock(&pager.events_lock);
	for (size_t i = 0; i < PAGES; i++) {
		bool dropped = i >= 5 && i < 8;

		assert_int_equal(ferryi_page_state(moved->words[i]),
				 dropped ? FERRYI_PAGE_ABSENT : FERRYI_PAGE_POISONED);
		assert_int_equal(ferryi_page_state(unmapped->words[i]), FERRYI_PAGE_POISONED);
	}
	ferryi_areas_read_lock(&pager.areas);
	assert_true(ferryi_areas_find_locked(&pager.areas, AT_A + 5 * PAGE, &ref));
	assert_ptr_equal(ref.object, moved);
	assert_int_equal(ref.index, 5);
	assert_false(ferryi_areas_find_locked(&pager.areas, AT_B, &ref));
	ferryi_areas_read_unlock(&pager.areas);
	teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(remove__where_a_move_is_late__pages_that_were_moved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
