/*
 * The record of a child of fork, as its parent leaves it when it is killed at
 * any instruction, and as its heir takes it up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "bitmap.h"
#include "child.h"

#define START ((uintptr_t)0x10000000)
#define NR    1024u /* pages, two blocks */

static uintptr_t va(size_t page)
{
	return START + page * FERRYI_PAGE_SIZE;
}

/* One object, all of it in one area and all needed, but page 3, which is lost. */
static struct ferryi_child *make(void)
{
	size_t words = FERRYI_BITMAP_WORDS(NR);
	size_t bytes = sizeof(struct ferryi_child) + sizeof(struct ferryi_child_object) +
		       (2 * words + 2 + 1) * sizeof(uint64_t) + FERRYI_MAX_AREAS * sizeof(struct ferryi_area);
	struct ferryi_child *child = calloc(1, bytes);

	assert_non_null(child);
	child->bytes = bytes;
	child->self = (uintptr_t)child;
	child->nr_objects = 1;
	child->objects = (struct ferryi_child_object *)(child + 1);
	struct ferryi_child_object *copy = child->objects;

	copy->as_object.nr_pages = NR;
	copy->as_object.nr_blocks = 2;
	copy->needed = (uint64_t *)(copy + 1);
	copy->lost = copy->needed + words;
	copy->place = copy->lost + words;
	copy->subsection = (uint32_t *)(copy->place + 2);
	child->areas.areas = (struct ferryi_area *)((uint8_t *)child + bytes) - FERRYI_MAX_AREAS;
	const struct ferryi_area area = { .start = va(0), .end = va(NR), .object = &copy->as_object };

	assert_int_equal(ferryi_areas_insert_locked(&child->areas, &area), 0);
	ferryi_bitmap_set_range(copy->needed, 0, NR);
	ferryi_bitmap_clear(copy->needed, 3);
	ferryi_bitmap_set(copy->lost, 3);
	return child;
}

/* As another process maps it: at another address. The old one is void. */
static struct ferryi_child *elsewhere(struct ferryi_child *child)
{
	struct ferryi_child *there = malloc(child->bytes);

	assert_non_null(there);
	memcpy(there, child, child->bytes);
	memset(child, 0xff, child->bytes);
	free(child);
	return there;
}

static struct uffd_msg event(uint8_t kind, size_t first, size_t end)
{
	struct uffd_msg msg = { .event = kind };

	msg.arg.remove.start = va(first);
	msg.arg.remove.end = va(end);
	return msg;
}

static void record__mapped_elsewhere__all_is_found(void **state)
{
	struct ferryi_child *child = elsewhere(make());
	struct ferryi_page_ref ref;

	(void)state;
	assert_true(ferryi_child_moved(child, child->bytes));
	assert_true(ferryi_child_resume(child));
	assert_int_equal(child->nr_needed, NR - 1);
	assert_int_equal(child->nr_lost, 1);
	assert_true(ferryi_areas_find_locked(&child->areas, va(700), &ref));
	assert_ptr_equal(ref.object, &child->objects[0].as_object);
	assert_int_equal(ref.index, 700);
	free(child);
}

/* Nothing that the record says leads out of it. */
static void record__makes_no_sense__refused(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 8; i++) {
		struct ferryi_child *child = make();
		size_t bytes = child->bytes;

		switch (i) {
		case 0:
			child->objects[0].as_object.nr_pages = bytes * 8;
			child->objects[0].as_object.nr_blocks = bytes;
			break;
		case 1:
			child->objects[0].needed = (uint64_t *)((uint8_t *)child + bytes - 8);
			break;
		case 2:
			child->objects[0].place = (uint64_t *)((uint8_t *)child - 8);
			break;
		case 3:
			child->areas.nr_areas = FERRYI_MAX_AREAS + 1;
			break;
		case 4:
			child->areas.areas[0].object = NULL;
			break;
		case 5:
			child->nr_objects = FERRYI_MAX_AREAS;
			child->objects = (struct ferryi_child_object *)((uint8_t *)child + bytes) - 1;
			break;
		case 6:
			child->objects[0].as_object.nr_blocks = 1;
			break;
		default:
			child->bytes = bytes + 8;
			break;
		}
		child = realloc(child, bytes);
		assert_non_null(child);
		assert_false(ferryi_child_moved(child, bytes));
		free(child);
	}
}

/* The child has gone on, because its event was read; and then the reader died. */
static void record__event_read_and_not_applied__is_applied(void **state)
{
	struct ferryi_child *child = make();
	struct ferryi_page_ref ref;

	(void)state;
	child->events[0][0] = event(UFFD_EVENT_PAGEFAULT, 9, 9);
	child->events[0][1] = event(UFFD_EVENT_REMOVE, 0, 10);
	child->events[1][0] = event(UFFD_EVENT_UNMAP, 600, NR);
	child->events[1][1].event = UFFD_EVENT_REMAP;
	child->events[1][1].arg.remap.from = va(500);
	child->events[1][1].arg.remap.to = va(2000);
	child->events[1][1].arg.remap.len = 50 * FERRYI_PAGE_SIZE;
	assert_true(ferryi_child_resume(child));
	assert_int_equal(child->nr_needed, 590);
	assert_int_equal(child->nr_lost, 0);
	assert_false(ferryi_areas_find_locked(&child->areas, va(600), &ref));
	assert_false(ferryi_areas_find_locked(&child->areas, va(500), &ref));
	assert_true(ferryi_areas_find_locked(&child->areas, va(2010), &ref));
	assert_int_equal(ref.index, 510);
	/* Once: a second heir of the same record would find nothing to do. */
	assert_true(ferryi_child_resume(child));
	assert_true(ferryi_areas_find_locked(&child->areas, va(2010), &ref));
	assert_int_equal(child->nr_needed, 590);
	free(child);
}

static void record__table_half_changed__everything_needed_is_lost(void **state)
{
	struct ferryi_child *child = make();

	(void)state;
	child->events[0][0] = event(UFFD_EVENT_UNMAP, 0, 10);
	child->table_busy = true;
	assert_false(ferryi_child_resume(child));
	assert_int_equal(child->nr_needed, 0);
	assert_int_equal(child->nr_lost, NR);
	assert_int_equal(ferryi_bitmap_count(child->objects[0].lost, NR), NR);
	free(child);
}

/* Killed between the bit and the count. */
static void record__counts_are_off__counted_anew(void **state)
{
	struct ferryi_child *child = make();

	(void)state;
	child->nr_needed = 5;
	child->nr_lost = 77;
	ferryi_bitmap_clear(child->objects[0].needed, 100);
	assert_true(ferryi_child_resume(child));
	assert_int_equal(child->nr_needed, NR - 2);
	assert_int_equal(child->nr_lost, 1);
	free(child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(record__mapped_elsewhere__all_is_found),
		cmocka_unit_test(record__makes_no_sense__refused),
		cmocka_unit_test(record__event_read_and_not_applied__is_applied),
		cmocka_unit_test(record__table_half_changed__everything_needed_is_lost),
		cmocka_unit_test(record__counts_are_off__counted_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
