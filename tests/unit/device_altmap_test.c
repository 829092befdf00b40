/* client/device/altmap: what is written to the head of a pool, and read from it. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "altmap.h"

#define MIB	 ((size_t)1 << 20)
#define NR_ASIDE 1u
#define NR_SUBS	 300u /* descriptors of several words of the summary */
#define RESERVE	 7u
#define FREE	 (1u + 4u * NR_SUBS)
#define GROUPS	 8u /* of a sub-section */

struct world {
	struct ferryi_arena *arena;
	struct ferryi_memory_model *model;
	uint64_t pfn_first;
	struct ferryi_altmap_attr attr;
	struct ferryi_altmap *altmap;
};

/* A window whose sub-sections hold pages of nobody in particular; so many of them were kept. */
static void world_open(struct world *w, uint64_t nr_kept)
{
	static char pool; /* an identity */

	assert_int_equal(ferryi_arena_open(64 * MIB, 64 * MIB, &w->arena), 0);
	assert_int_equal(ferryi_memory_model_open(w->arena, &w->model), 0);
	assert_int_equal(ferryi_pfn_window_alloc(w->model, NR_SUBS, &w->pfn_first), 0);
	for (uint64_t i = NR_ASIDE; i < NR_SUBS; i++) {
		struct ferryi_subsection sub = {.pool = (struct ferry_pool *)&pool};

		assert_int_equal(ferryi_subsection_populate(w->model, w->pfn_first + i * 512, &sub), 0);
	}
	w->attr = (struct ferryi_altmap_attr){.arena = w->arena,
					      .model = w->model,
					      .pfn_first = w->pfn_first,
					      .nr_subsections = NR_SUBS,
					      .nr_aside = NR_ASIDE,
					      .nr_kept = nr_kept,
					      .reserve = RESERVE,
					      .free = FREE};
	assert_int_equal(ferryi_altmap_open(&w->attr, &w->altmap), 0);
}

static void world_close(struct world *w)
{
	ferryi_altmap_close(&w->altmap);
	assert_null(w->altmap);
	ferryi_altmap_close(&w->altmap); /* NULL is allowed */
	ferryi_memory_model_close(&w->model);
	ferryi_arena_close(&w->arena);
}

static struct ferry_page *page_of(const struct world *w, uint64_t number)
{
	return ferryi_pfn_to_page(w->model, w->pfn_first + number);
}

/* ---- the head record ---- */

static void altmap_record__same_other_garbled__told_apart(void **state)
{
	uint8_t record[FERRYI_ALTMAP_RECORD_BYTES], bad[FERRYI_ALTMAP_RECORD_BYTES];
	uint64_t reserve, free_pfns;
	struct ferryi_altmap *other;
	struct world w;

	(void)state;
	world_open(&w, 0);
	assert_int_equal(ferryi_altmap_record_page(w.altmap), RESERVE);
	ferryi_altmap_record_encode(w.altmap, record);
	assert_int_equal(ferryi_altmap_record_check(w.altmap, record, &reserve, &free_pfns), 0);
	w.attr.reserve++;
	assert_int_equal(ferryi_altmap_open(&w.attr, &other), 0);
	assert_int_equal(ferryi_altmap_record_check(other, record, &reserve, &free_pfns), -EINVAL);
	assert_int_equal(reserve, RESERVE);
	assert_int_equal(free_pfns, FREE);
	ferryi_altmap_close(&other);
	for (size_t i = 0; i < sizeof(record); i++) {
		memcpy(bad, record, sizeof(bad));
		bad[i] ^= 0x10;
		assert_int_equal(ferryi_altmap_record_check(w.altmap, bad, &reserve, &free_pfns), -EBADMSG);
	}
	memset(bad, 0, sizeof(bad));
	assert_int_equal(ferryi_altmap_record_check(w.altmap, bad, &reserve, &free_pfns), -EBADMSG);
	world_close(&w);
}

/* ---- descriptors ---- */

static void altmap_descriptors__written_and_read_elsewhere__the_same(void **state)
{
	const uint64_t group = (NR_ASIDE + 1) * GROUPS + 3, number = group * FERRYI_GROUP_PAGES;
	static uint8_t bytes[FERRYI_GROUP_BYTES];
	struct ferryi_kept_page kept;
	struct world w, v;

	(void)state;
	world_open(&w, 0);
	world_open(&v, 3);
	/* After the record, 4 PFNs a sub-section that holds pages. */
	assert_int_equal(ferryi_altmap_group_off(w.altmap, NR_ASIDE * GROUPS), (RESERVE + 1) * 4096);
	assert_int_equal(ferryi_altmap_group_off(w.altmap, group),
			 (RESERVE + 1 + 4) * 4096 + 3 * FERRYI_GROUP_BYTES);
	page_of(&w, number + 5)->va = 0x7fff12345000;
	page_of(&w, number + 5)->hash = 0x0123456789abcdef;
	atomic_store(&page_of(&w, number + 5)->drvdata, 42);
	page_of(&w, number + 63)->va = 0x10000 | FERRYI_DESCRIPTOR_ZERO;
	atomic_store(&page_of(&w, number + 9)->drvdata, 43); /* of no page */
	ferryi_altmap_encode(w.altmap, group, bytes);
	assert_int_equal(bytes[5 * 32 + 1], 0x50); /* little-endian */
	assert_int_equal(bytes[5 * 32 + 16], 0xef);
	assert_int_equal(ferryi_altmap_decode(v.altmap, group, bytes), 0);
	assert_int_equal(ferryi_altmap_kept_left(v.altmap, (uint32_t)(v.pfn_first / 512 + NR_ASIDE + 1)), 2);
	assert_int_equal(ferryi_altmap_kept_left(v.altmap, (uint32_t)(v.pfn_first / 512 + NR_ASIDE)), 0);
	assert_true(ferryi_altmap_kept_page(v.altmap, v.pfn_first + number + 5, &kept));
	assert_true(kept.va == 0x7fff12345000 && kept.hash == 0x0123456789abcdef && kept.drvdata == 42 &&
		    !kept.is_zero);
	assert_true(ferryi_altmap_kept_page(v.altmap, v.pfn_first + number + 63, &kept));
	assert_true(kept.va == 0x10000 && kept.is_zero);
	assert_false(ferryi_altmap_kept_page(v.altmap, v.pfn_first + number + 9, &kept));
	/* Those that are not needed any more, until none is left. */
	assert_false(ferryi_altmap_drop_kept(v.altmap, v.pfn_first + number + 5));
	assert_false(ferryi_altmap_kept_page(v.altmap, v.pfn_first + number + 5, &kept));
	assert_true(ferryi_altmap_is_dirty(v.altmap));
	assert_true(ferryi_altmap_drop_kept(v.altmap, v.pfn_first + number + 63));
	world_close(&v);
	world_close(&w);
}

static void altmap_descriptors__any_bit_changed_or_moved__not_taken(void **state)
{
	const uint64_t group = NR_ASIDE * GROUPS, number = group * FERRYI_GROUP_PAGES;
	static uint8_t good[FERRYI_GROUP_BYTES], bytes[FERRYI_GROUP_BYTES];
	struct world w;
	unsigned bad = 0;

	(void)state;
	world_open(&w, 2);
	page_of(&w, number)->va = 0x7fff12345000;
	page_of(&w, number)->hash = 77;
	ferryi_altmap_encode(w.altmap, group, good);
	for (unsigned bit = 0; bit < 32 * 8; bit++) {
		memcpy(bytes, good, sizeof(bytes));
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		bad += ferryi_altmap_decode(w.altmap, group, bytes);
	}
	/* The zero flag is a bit of the address as any other. */
	assert_int_equal(bad, 32 * 8);
	memcpy(bytes + 32, good, 32);
	memset(bytes, 0, 32);
	assert_int_equal(ferryi_altmap_decode(w.altmap, group, bytes), 1);
	assert_int_equal(ferryi_altmap_decode(w.altmap, group + 1, good), 1);
	assert_int_equal(ferryi_altmap_kept_left(w.altmap, (uint32_t)(w.pfn_first / 512 + NR_ASIDE)), 0);
	world_close(&w);
}

static void altmap_is_later__around_the_end_of_numbers(void **state)
{
	const uint64_t last = (1ull << 40) - 1;

	(void)state;
	assert_true(ferryi_altmap_is_later(6, 5));
	assert_false(ferryi_altmap_is_later(5, 5));
	assert_false(ferryi_altmap_is_later(5, 6));
	assert_true(ferryi_altmap_is_later(3, last));
	assert_false(ferryi_altmap_is_later(last, 3));
}

/* ---- what is dirty ---- */

/* Random marks, collected in random pieces: each marked group comes, once, in order, and no other. */
static void altmap_collect__random_marks__each_once(void **state)
{
	const uint64_t nr = NR_SUBS * GROUPS;
	static uint8_t model[NR_SUBS * GROUPS];
	struct world w;

	(void)state;
	world_open(&w, 0);
	srand(3);
	for (unsigned round = 0; round < 200; round++) {
		unsigned marks = (unsigned)rand() % 400, max = 1 + (unsigned)rand() % 32, n, total = 0,
			 want = 0;
		uint64_t groups[32], cursor = 0, before = 0;

		memset(model, 0, sizeof(model));
		for (unsigned i = 0; i < marks; i++) {
			uint64_t group = (uint64_t)rand() % nr;

			want += !model[group];
			model[group] = 1;
			ferryi_altmap_mark(w.altmap, group);
		}
		assert_int_equal(ferryi_altmap_is_dirty(w.altmap), want > 0);
		while (cursor != UINT64_MAX) {
			n = ferryi_altmap_collect(w.altmap, &cursor, groups, max);
			for (unsigned i = 0; i < n; i++) {
				assert_true(model[groups[i]] && (!total || groups[i] > before));
				model[groups[i]] = 0;
				before = groups[i];
				total++;
			}
			assert_true(n == max || cursor == UINT64_MAX);
		}
		assert_int_equal(total, want);
		assert_false(ferryi_altmap_is_dirty(w.altmap));
	}
	assert_true(ferryi_altmap_try_write(w.altmap));
	assert_false(ferryi_altmap_try_write(w.altmap));
	ferryi_altmap_end_write(w.altmap);
	assert_true(ferryi_altmap_try_write(w.altmap));
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(altmap_record__same_other_garbled__told_apart),
		cmocka_unit_test(altmap_descriptors__written_and_read_elsewhere__the_same),
		cmocka_unit_test(altmap_descriptors__any_bit_changed_or_moved__not_taken),
		cmocka_unit_test(altmap_is_later__around_the_end_of_numbers),
		cmocka_unit_test(altmap_collect__random_marks__each_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
