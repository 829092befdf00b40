/* client/pager/area: the table against a model that keeps one entry a page. */
#include "unit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "area.h"

#define PAGE ((uintptr_t)FERRYI_PAGE_SIZE)
#define BASE ((uintptr_t)0x10000000)
#define MIB  ((size_t)1 << 20)

struct fixture {
	struct ferryi_arena *arena;
	struct ferryi_area_table table;
};

static void setup(struct fixture *f)
{
	assert_int_equal(ferryi_arena_open(256 * MIB, 256 * MIB, &f->arena), 0);
	assert_int_equal(ferryi_areas_init(&f->table, f->arena), 0);
}

static void teardown(struct fixture *f)
{
	ferryi_areas_fini(&f->table);
	ferryi_arena_close(&f->arena);
}

static int insert(struct fixture *f, struct ferryi_object *object, size_t first_page, uintptr_t start,
		  size_t pages, unsigned flags)
{
	struct ferryi_area area = {.start = start,
				   .end = start + pages * PAGE,
				   .object = object,
				   .first_page = first_page,
				   .flags = flags};

	ferryi_areas_write_lock(&f->table);
	int rc = ferryi_areas_insert_locked(&f->table, &area);

	ferryi_areas_write_unlock(&f->table);
	return rc;
}

static int cut(struct fixture *f, uintptr_t start, uintptr_t end, struct ferryi_area *out)
{
	ferryi_areas_write_lock(&f->table);
	int rc = ferryi_areas_cut_first_locked(&f->table, start, end, out);

	ferryi_areas_write_unlock(&f->table);
	return rc;
}

static bool find(struct fixture *f, uintptr_t va, struct ferryi_page_ref *ref)
{
	ferryi_areas_read_lock(&f->table);
	bool found = ferryi_areas_find_locked(&f->table, va, ref);

	ferryi_areas_read_unlock(&f->table);
	return found;
}

static void object_create__pages__absent_unbound_and_counted(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f);
	struct ferryi_object *object = ferryi_object_create(&f.table, 1025);

	assert_non_null(object);
	assert_int_equal(object->nr_pages, 1025);
	assert_int_equal(object->nr_blocks, 3);
	for (size_t i = 0; i < 1025; i++) {
		assert_int_equal(ferryi_page_state(object->words[i]), FERRYI_PAGE_ABSENT);
		assert_int_equal(ferryi_object_pfn(object, i), 0);
	}
	assert_true(f.table.table_bytes >= 1025 * 8);
	object->blocks[2].subsection = 7 + 1;
	assert_int_equal(ferryi_object_pfn(object, 1024), 7 * FERRYI_PAGES_PER_SUBSECTION);
	ferryi_object_destroy(&f.table, &object);
	assert_null(object);
	ferryi_object_destroy(&f.table, &object);
	assert_int_equal(f.table.table_bytes, 0);
	teardown(&f);
}

static void find__inside_and_outside__page_of_the_object(void **state)
{
	struct ferryi_page_ref ref;
	struct fixture f;

	(void)state;
	setup(&f);
	struct ferryi_object *object = ferryi_object_create(&f.table, 100);

	assert_int_equal(insert(&f, object, 40, BASE, 10, FERRYI_AREA_RANDOM), 0);
	assert_false(find(&f, BASE - 1, &ref));
	assert_false(find(&f, BASE + 10 * PAGE, &ref));
	assert_true(find(&f, BASE + 3 * PAGE + 17, &ref));
	assert_int_equal(ref.va, BASE + 3 * PAGE);
	assert_ptr_equal(ref.object, object);
	assert_int_equal(ref.index, 43);
	assert_int_equal(ref.area_pages_left, 7);
	assert_int_equal(ref.area_flags, FERRYI_AREA_RANDOM);
	assert_int_equal(f.table.managed_pages, 10);
	teardown(&f);
}

static void ref_at__either_way__as_found_or_outside(void **state)
{
	struct fixture f;
	struct ferryi_page_ref ref, moved, found;
	struct ferryi_object *object;

	(void)state;
	setup(&f);
	object = ferryi_object_create(&f.table, 100);
	assert_int_equal(insert(&f, object, 10, BASE, 20, 0), 0);
	assert_true(find(&f, BASE + 5 * PAGE, &ref));
	for (ptrdiff_t pages = -30; pages <= 30; pages++) {
		bool inside = pages >= -5 && pages < 15;

		assert_int_equal(ferryi_ref_at(&ref, pages, &moved), inside);
		if (!inside)
			continue;
		assert_true(find(&f, ref.va + (uintptr_t)pages * PAGE, &found));
		assert_int_equal(moved.va, found.va);
		assert_int_equal(moved.index, found.index);
		assert_int_equal(moved.area_pages_left, found.area_pages_left);
		assert_int_equal(moved.area_pages_before, found.area_pages_before);
	}
	teardown(&f);
}

static void cut__middle__two_areas_left_and_pages_kept(void **state)
{
	struct ferryi_area out;
	struct ferryi_page_ref ref;
	struct fixture f;

	(void)state;
	setup(&f);
	struct ferryi_object *object = ferryi_object_create(&f.table, 100);

	assert_int_equal(insert(&f, object, 0, BASE, 100, FERRYI_AREA_OWN_MAPPING), 0);
	assert_int_equal(cut(&f, BASE + 30 * PAGE, BASE + 50 * PAGE, &out), 1);
	assert_int_equal(out.start, BASE + 30 * PAGE);
	assert_int_equal(out.end, BASE + 50 * PAGE);
	assert_int_equal(out.first_page, 30);
	assert_int_equal(out.flags, FERRYI_AREA_OWN_MAPPING);
	assert_int_equal(object->nr_areas, 2);
	assert_int_equal(f.table.nr_areas, 2);
	assert_int_equal(f.table.managed_pages, 80);
	assert_int_equal(cut(&f, BASE + 30 * PAGE, BASE + 50 * PAGE, &out), 0);
	assert_false(find(&f, BASE + 40 * PAGE, &ref));
	assert_true(find(&f, BASE + 50 * PAGE, &ref));
	assert_int_equal(ref.index, 50);
	assert_int_equal(cut(&f, 0, UINTPTR_MAX & ~(PAGE - 1), &out), 1);
	assert_int_equal(out.first_page, 0);
	assert_int_equal(cut(&f, 0, UINTPTR_MAX & ~(PAGE - 1), &out), 1);
	assert_int_equal(out.first_page, 50);
	assert_int_equal(object->nr_areas, 0);
	assert_int_equal(f.table.managed_pages, 0);
	teardown(&f);
}

static void insert__table_full__enospc_and_unchanged(void **state)
{
	struct ferryi_area out;
	struct fixture f;

	(void)state;
	setup(&f);
	struct ferryi_object *object = ferryi_object_create(&f.table, FERRYI_MAX_AREAS * 4);

	for (unsigned i = 0; i < FERRYI_MAX_AREAS; i++)
		assert_int_equal(insert(&f, object, 4 * i, BASE + 4 * i * PAGE, 3, 0), 0);
	assert_int_equal(insert(&f, object, 0, BASE - 4 * PAGE, 1, 0), -ENOSPC);
	assert_int_equal(f.table.nr_areas, FERRYI_MAX_AREAS);
	assert_int_equal(cut(&f, BASE + PAGE, BASE + 2 * PAGE, &out), -ENOSPC);
	ferryi_areas_write_lock(&f.table);
	assert_int_equal(
		ferryi_areas_flag_locked(&f.table, BASE + PAGE, BASE + 2 * PAGE, FERRYI_AREA_RANDOM, 0),
		-ENOSPC);
	ferryi_areas_write_unlock(&f.table);
	assert_int_equal(f.table.managed_pages, 3ULL * FERRYI_MAX_AREAS);
	assert_int_equal(cut(&f, BASE, BASE + 3 * PAGE, &out), 1); /* a whole one needs no room */
	teardown(&f);
}

/* ---- against a model ---- */

enum { SPAN = 512, OBJECTS = 8 };

/* What every page of the span is. */
struct model {
	struct ferryi_object *object[SPAN]; /* NULL: not managed */
	size_t index[SPAN];
	unsigned flags[SPAN];
};

static void check(struct fixture *f, const struct model *m)
{
	uint64_t managed = 0;

	for (unsigned i = 0; i < SPAN; i++) {
		struct ferryi_page_ref ref;
		uint64_t word, pfn;
		bool found = find(f, BASE + i * PAGE, &ref);

		assert_int_equal(found, m->object[i] != NULL);
		assert_int_equal(ferryi_areas_peek(&f->table, BASE + i * PAGE + 5, &word, &pfn), found);
		if (!found)
			continue;
		managed++;
		assert_ptr_equal(ref.object, m->object[i]);
		assert_int_equal(ref.index, m->index[i]);
		assert_int_equal(ref.area_flags, m->flags[i]);
		assert_int_equal(word, m->object[i]->words[m->index[i]]);
		/* As far as the area reaches, the object's pages follow each other. */
		assert_true(ref.area_pages_left >= 1 && i + ref.area_pages_left <= SPAN);
		assert_ptr_equal(m->object[i + ref.area_pages_left - 1], ref.object);
		assert_int_equal(m->index[i + ref.area_pages_left - 1], ref.index + ref.area_pages_left - 1);
	}
	assert_int_equal(f->table.managed_pages, managed);
	for (unsigned i = 1; i < f->table.nr_areas; i++)
		assert_true(f->table.areas[i - 1].end <= f->table.areas[i].start);
}

static void check_range(struct fixture *f, const struct model *m, unsigned from, unsigned to)
{
	bool all = true, any = false;

	for (unsigned i = from; i < to; i++) {
		all &= m->object[i] != NULL;
		any |= m->object[i] != NULL;
	}
	ferryi_areas_read_lock(&f->table);
	assert_int_equal(ferryi_areas_cover_locked(&f->table, BASE + from * PAGE, BASE + to * PAGE), all);
	assert_int_equal(ferryi_areas_overlap_locked(&f->table, BASE + from * PAGE, BASE + to * PAGE), any);
	ferryi_areas_read_unlock(&f->table);
}

static void model_insert(struct fixture *f, struct model *m, struct ferryi_object *object, unsigned from,
			 unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		if (m->object[i] != NULL)
			return; /* callers never insert over something */
	}
	assert_int_equal(insert(f, object, from, BASE + from * PAGE, to - from, 0), 0);
	for (unsigned i = from; i < to; i++) {
		m->object[i] = object;
		m->index[i] = i;
		m->flags[i] = 0;
	}
}

static void model_cut(struct fixture *f, struct model *m, unsigned from, unsigned to)
{
	struct ferryi_area out;

	while (cut(f, BASE + from * PAGE, BASE + to * PAGE, &out) == 1) {
		unsigned at = (unsigned)((out.start - BASE) / PAGE);

		assert_true(at >= from && out.end <= BASE + to * PAGE);
		for (size_t k = 0; k < (out.end - out.start) / PAGE; k++) {
			assert_ptr_equal(m->object[at + k], out.object);
			assert_int_equal(m->index[at + k], out.first_page + k);
			m->object[at + k] = NULL;
		}
	}
	for (unsigned i = from; i < to; i++)
		assert_null(m->object[i]);
}

static void model_flag(struct fixture *f, struct model *m, unsigned from, unsigned to, unsigned set,
		       unsigned clear)
{
	ferryi_areas_write_lock(&f->table);
	assert_int_equal(
		ferryi_areas_flag_locked(&f->table, BASE + from * PAGE, BASE + to * PAGE, set, clear), 0);
	ferryi_areas_write_unlock(&f->table);
	for (unsigned i = from; i < to; i++)
		m->flags[i] = (m->flags[i] & ~clear) | set;
}

static void table__random_changes__equals_the_model(void **state)
{
	struct ferryi_object *object[OBJECTS];
	struct ferryt_rand r = {11};
	static struct model m;
	struct fixture f;

	(void)state;
	setup(&f);
	for (unsigned o = 0; o < OBJECTS; o++) {
		object[o] = ferryi_object_create(&f.table, SPAN);
		for (size_t i = 0; i < SPAN; i++)
			object[o]->words[i] = o * SPAN + i;
	}
	for (unsigned round = 0; round < 3000; round++) {
		unsigned from = (unsigned)ferryt_rand_below(&r, SPAN - 1);
		unsigned room = SPAN - from < 60 ? SPAN - from : 60;
		unsigned to = from + 1 + (unsigned)ferryt_rand_below(&r, room);

		switch (ferryt_rand_below(&r, 4)) {
		case 0:
		case 1:
			model_insert(&f, &m, object[ferryt_rand_below(&r, OBJECTS)], from, to);
			break;
		case 2:
			model_cut(&f, &m, from, from + (to - from) / 3 + 1);
			break;
		default:
			model_flag(&f, &m, from, to, FERRYI_AREA_RANDOM << ferryt_rand_below(&r, 2),
				   FERRYI_AREA_SEQUENTIAL);
		}
		check_range(&f, &m, from, to);
		if (round % 16 == 0)
			check(&f, &m);
	}
	check(&f, &m);
	model_cut(&f, &m, 0, SPAN);
	for (unsigned o = 0; o < OBJECTS; o++)
		assert_int_equal(object[o]->nr_areas, 0);
	teardown(&f);
}

/* ---- peek beside a writer ---- */

static struct fixture shared;
static _Atomic bool stop;

/* Cuts and puts back every other page of the second half; the first half never changes. */
static void *writer(void *arg)
{
	struct ferryi_object *object = arg;
	struct ferryi_area out;

	for (unsigned i = 0; !stop; i = (i + 2) % 256) {
		uintptr_t va = BASE + (256 + i) * PAGE;

		if (cut(&shared, va, va + PAGE, &out) == 1)
			insert(&shared, object, 256 + i, va, 1, 0);
	}
	return NULL;
}

static void peek__beside_a_writer__never_a_wrong_word(void **state)
{
	struct ferryt_rand r = {13};
	pthread_t thread;
	unsigned missed = 0;

	(void)state;
	setup(&shared);
	struct ferryi_object *object = ferryi_object_create(&shared.table, 512);

	for (size_t i = 0; i < 512; i++)
		object->words[i] = 1000 + i;
	assert_int_equal(insert(&shared, object, 0, BASE, 512, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, writer, object), 0);
	for (unsigned n = 0; n < 200000; n++) {
		uint64_t i = ferryt_rand_below(&r, 512), word = 0, pfn;

		if (ferryi_areas_peek(&shared.table, BASE + i * PAGE, &word, &pfn))
			assert_int_equal(word, 1000 + i);
		else
			missed++; /* cut just now, or a thousand tries fell into changes */
	}
	stop = true;
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(missed < 200000);
	teardown(&shared);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(object_create__pages__absent_unbound_and_counted),
		cmocka_unit_test(find__inside_and_outside__page_of_the_object),
		cmocka_unit_test(ref_at__either_way__as_found_or_outside),
		cmocka_unit_test(cut__middle__two_areas_left_and_pages_kept),
		cmocka_unit_test(insert__table_full__enospc_and_unchanged),
		cmocka_unit_test(table__random_changes__equals_the_model),
		cmocka_unit_test(peek__beside_a_writer__never_a_wrong_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
