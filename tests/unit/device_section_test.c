/* client/device: the arena, PFN windows, and PFN <-> page over random populations, against plain models. */
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "device.h"

#define MIB	   ((size_t)1 << 20)
#define ARENA_SIZE (256 * MIB)

/* Never dereferenced by the memory model: an identity is enough. */
static struct ferry_pool *fake_pool(unsigned i)
{
	static char pools[64];

	return (struct ferry_pool *)&pools[i];
}

static struct ferryi_arena *open_arena(size_t bytes)
{
	struct ferryi_arena *arena = NULL;

	assert_int_equal(ferryi_arena_open(bytes, bytes, &arena), 0);
	return arena;
}

/* ---- arena ---- */

static void arena_alloc__twice__zeroed_aligned_apart(void **state)
{
	struct ferryi_arena *arena = open_arena(MIB);
	uint8_t *a = ferryi_arena_alloc(arena, 100);
	uint8_t *b = ferryi_arena_alloc(arena, FERRYI_PAGE_SIZE + 1);

	(void)state;
	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal((uintptr_t)a % FERRYI_PAGE_SIZE, 0);
	assert_int_equal((uintptr_t)b % FERRYI_PAGE_SIZE, 0);
	assert_true(b >= a + FERRYI_PAGE_SIZE || b + 2 * FERRYI_PAGE_SIZE <= a);
	memset(a, 0xff, 100);
	ferryi_arena_free(arena, a, 100);
	a = ferryi_arena_alloc(arena, FERRYI_PAGE_SIZE);
	for (unsigned i = 0; i < FERRYI_PAGE_SIZE; i++)
		assert_int_equal(a[i], 0);
	ferryi_arena_close(&arena);
	assert_null(arena);
}

static void arena_alloc__more_than_there_is__null_and_rest_usable(void **state)
{
	struct ferryi_arena *arena = open_arena(MIB);

	(void)state;
	assert_null(ferryi_arena_alloc(arena, MIB + 1));
	void *all = ferryi_arena_alloc(arena, MIB);

	assert_non_null(all);
	assert_null(ferryi_arena_alloc(arena, 1));
	ferryi_arena_free(arena, all, MIB);
	ferryi_arena_free(arena, NULL, 1);
	assert_non_null(ferryi_arena_alloc(arena, 1));
	ferryi_arena_close(&arena);
	ferryi_arena_close(&arena);
}

struct piece {
	uint8_t *ptr;
	size_t len;
	uint8_t mark;
};

static void check_mark(const struct piece *p)
{
	assert_int_equal(p->ptr[0], p->mark);
	assert_int_equal(p->ptr[p->len - 1], p->mark);
}

static void arena__random_alloc_and_free__never_overlaps_and_merges_to_one(void **state)
{
	enum { PIECES = 200, ROUNDS = 4000 };
	struct ferryi_arena *arena = open_arena(64 * MIB);
	static struct piece piece[PIECES];
	struct ferryt_rand r = {77};

	(void)state;
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct piece *p = &piece[ferryt_rand_below(&r, PIECES)];

		if (p->ptr != NULL) {
			check_mark(p);
			ferryi_arena_free(arena, p->ptr, p->len);
			p->ptr = NULL;
			continue;
		}
		p->len = 1 + ferryt_rand_below(&r, 64 * FERRYI_PAGE_SIZE);
		p->ptr = ferryi_arena_alloc(arena, p->len);
		assert_non_null(p->ptr);
		assert_int_equal(p->ptr[0], 0);
		assert_int_equal(p->ptr[p->len - 1], 0);
		p->mark = (uint8_t)(1 + ferryt_rand_below(&r, 255));
		p->ptr[0] = p->ptr[p->len - 1] = p->mark;
	}
	for (unsigned i = 0; i < PIECES; i++) {
		if (piece[i].ptr == NULL)
			continue;
		check_mark(&piece[i]);
		ferryi_arena_free(arena, piece[i].ptr, piece[i].len);
	}
	/* Only if every hole has merged with its neighbours. */
	assert_non_null(ferryi_arena_alloc(arena, 64 * MIB));
	ferryi_arena_close(&arena);
}

/* ---- windows ---- */

struct fixture {
	struct ferryi_arena *arena;
	struct ferryi_memory_model *model;
};

static void setup(struct fixture *f)
{
	f->arena = open_arena(ARENA_SIZE);
	assert_int_equal(ferryi_memory_model_open(f->arena, &f->model), 0);
}

static void teardown(struct fixture *f)
{
	ferryi_memory_model_close(&f->model);
	assert_null(f->model);
	ferryi_arena_close(&f->arena);
}

static void window_alloc__several__section_aligned_disjoint_never_pfn_zero(void **state)
{
	static const uint64_t want[] = {1, 64, 65, 512, 1};
	uint64_t first[5];
	struct fixture f;

	(void)state;
	setup(&f);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(ferryi_pfn_window_alloc(f.model, want[i], &first[i]), 0);
		assert_int_equal(first[i] % FERRYI_PAGES_PER_SECTION, 0);
		assert_true(first[i] > 0); /* PFN 0 means "none" */
		for (unsigned k = 0; k < i; k++) {
			uint64_t end_i = first[i] + want[i] * FERRYI_PAGES_PER_SUBSECTION;
			uint64_t end_k = first[k] + want[k] * FERRYI_PAGES_PER_SUBSECTION;

			assert_true(first[i] >= end_k || first[k] >= end_i);
		}
	}
	ferryi_pfn_window_free(f.model, first[3], want[3]);
	uint64_t again;

	assert_int_equal(ferryi_pfn_window_alloc(f.model, want[3], &again), 0);
	assert_int_equal(again, first[3]);
	teardown(&f);
}

static void window_alloc__none_or_too_many__enomem(void **state)
{
	uint64_t first;
	struct fixture f;

	(void)state;
	setup(&f);
	assert_int_equal(ferryi_pfn_window_alloc(f.model, 0, &first), -ENOMEM);
	assert_int_equal(ferryi_pfn_window_alloc(f.model, 1ULL << FERRYI_PFN_BITS, &first), -ENOMEM);
	teardown(&f);
}

/* ---- sub-sections ---- */

static struct ferryi_subsection info_of(unsigned i)
{
	return (struct ferryi_subsection){.pool = fake_pool(i % 64), .remote_off = (uint64_t)i << 21};
}

static void populate__one_subsection__exactly_its_512_pfns_valid(void **state)
{
	struct ferryi_subsection info = info_of(3);
	uint64_t first, pfn;
	struct fixture f;

	(void)state;
	setup(&f);
	assert_int_equal(ferryi_pfn_window_alloc(f.model, 64, &first), 0);
	pfn = first + 5 * FERRYI_PAGES_PER_SUBSECTION;
	assert_null(ferryi_pfn_to_page(f.model, pfn));
	assert_int_equal(ferryi_subsection_populate(f.model, pfn, &info), 0);
	assert_null(ferryi_pfn_to_page(f.model, pfn - 1));
	assert_null(ferryi_pfn_to_page(f.model, pfn + FERRYI_PAGES_PER_SUBSECTION));
	for (unsigned i = 0; i < FERRYI_PAGES_PER_SUBSECTION; i++) {
		struct ferry_page *page = ferryi_pfn_to_page(f.model, pfn + i);

		assert_non_null(page);
		assert_int_equal(ferryi_page_to_pfn(f.model, page), pfn + i);
		assert_int_equal(page->drvdata, 0);
	}
	const struct ferryi_subsection *sub = ferryi_subsection_of(f.model, pfn + 17);

	assert_ptr_equal(sub->pool, info.pool);
	assert_int_equal(sub->remote_off, info.remote_off);
	teardown(&f);
}

static void depopulate__then_populate__descriptors_are_zero_again(void **state)
{
	struct ferryi_subsection info = info_of(1);
	struct fixture f;
	uint64_t first;

	(void)state;
	setup(&f);
	uint64_t empty = ferryi_memory_model_bytes(f.model);

	assert_int_equal(ferryi_pfn_window_alloc(f.model, 1, &first), 0);
	assert_int_equal(ferryi_subsection_populate(f.model, first, &info), 0);
	assert_true(ferryi_memory_model_bytes(f.model) > empty);
	ferryi_pfn_to_page(f.model, first + 9)->drvdata = 42;
	ferryi_subsection_depopulate(f.model, first);
	assert_null(ferryi_pfn_to_page(f.model, first + 9));
	assert_null(ferryi_subsection_of(f.model, first));
	ferryi_subsection_depopulate(f.model, first); /* twice is once */
	assert_int_equal(ferryi_subsection_populate(f.model, first, &info), 0);
	assert_int_equal(ferryi_pfn_to_page(f.model, first + 9)->drvdata, 0);
	teardown(&f);
}

static void pfn_to_page__outside_everything__null(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f);
	assert_null(ferryi_pfn_to_page(f.model, 0));
	assert_null(ferryi_pfn_to_page(f.model, FERRYI_PAGES_PER_SECTION));
	assert_null(ferryi_pfn_to_page(f.model, 1ULL << FERRYI_PFN_BITS));
	assert_null(ferryi_pfn_to_page(f.model, UINT64_MAX));
	teardown(&f);
}

enum { WINDOWS = 6, WINDOW_SUBS = 200 };

struct model {
	uint64_t first[WINDOWS];
	bool valid[WINDOWS][WINDOW_SUBS];
};

static void check_random_pfns(struct fixture *f, const struct model *m, struct ferryt_rand *r)
{
	for (unsigned n = 0; n < 50; n++) {
		unsigned w = (unsigned)ferryt_rand_below(r, WINDOWS);
		uint64_t off = ferryt_rand_below(r, WINDOW_SUBS * FERRYI_PAGES_PER_SUBSECTION);
		unsigned sub = (unsigned)(off / FERRYI_PAGES_PER_SUBSECTION);
		struct ferry_page *page = ferryi_pfn_to_page(f->model, m->first[w] + off);

		assert_int_equal(page != NULL, m->valid[w][sub]);
		if (page == NULL)
			continue;
		assert_int_equal(ferryi_page_to_pfn(f->model, page), m->first[w] + off);
		assert_int_equal(ferryi_subsection_of(f->model, m->first[w] + off)->remote_off,
				 info_of(w * WINDOW_SUBS + sub).remote_off);
	}
}

static void model__random_population__exact_inverses_and_right_backing(void **state)
{
	struct ferryt_rand r = {5};
	static struct model m;
	struct fixture f;
	unsigned valid = 0;

	(void)state;
	setup(&f);
	for (unsigned w = 0; w < WINDOWS; w++)
		assert_int_equal(ferryi_pfn_window_alloc(f.model, WINDOW_SUBS, &m.first[w]), 0);
	for (unsigned round = 0; round < 1500; round++) {
		unsigned w = (unsigned)ferryt_rand_below(&r, WINDOWS);
		unsigned sub = (unsigned)ferryt_rand_below(&r, WINDOW_SUBS);
		uint64_t pfn = m.first[w] + (uint64_t)sub * FERRYI_PAGES_PER_SUBSECTION;
		struct ferryi_subsection info = info_of(w * WINDOW_SUBS + sub);

		if (m.valid[w][sub])
			ferryi_subsection_depopulate(f.model, pfn);
		else
			assert_int_equal(ferryi_subsection_populate(f.model, pfn, &info), 0);
		m.valid[w][sub] = !m.valid[w][sub];
		valid += m.valid[w][sub] ? 1u : -1u;
		check_random_pfns(&f, &m, &r);
	}
	/* Descriptors of what is valid, and tables beside them. */
	assert_true(ferryi_memory_model_bytes(f.model) >=
		    (uint64_t)valid * FERRYI_PAGES_PER_SUBSECTION * sizeof(struct ferry_page));
	teardown(&f);
}

/* ---- random layouts ---- */

enum { MAX_LAYOUT = 12, LAYOUT_SUBS = 300 };

struct layout {
	uint64_t first, nr, valid; /* window; sub-sections of it, and how many from its start are populated */
};

/* At every edge of every sub-section, and one page to either side: valid exactly where it is populated. */
static void check_edges(struct fixture *f, const struct layout *l)
{
	for (uint64_t s = 0; s < l->nr; s++) {
		uint64_t pfn = l->first + s * FERRYI_PAGES_PER_SUBSECTION;
		uint64_t last = pfn + FERRYI_PAGES_PER_SUBSECTION - 1;
		bool valid = s < l->valid;

		assert_int_equal(ferryi_pfn_to_page(f->model, pfn) != NULL, valid);
		assert_int_equal(ferryi_pfn_to_page(f->model, last) != NULL, valid);
		if (!valid)
			continue;
		assert_int_equal(ferryi_page_to_pfn(f->model, ferryi_pfn_to_page(f->model, pfn)), pfn);
		assert_int_equal(ferryi_page_to_pfn(f->model, ferryi_pfn_to_page(f->model, last)), last);
		assert_ptr_equal(ferryi_pfn_to_page(f->model, pfn) + (last - pfn), ferryi_pfn_to_page(f->model, last));
	}
	if (l->nr % FERRYI_SUBSECTIONS_PER_SECTION) /* else the next section may be somebody's */
		assert_null(ferryi_pfn_to_page(f->model, l->first + l->nr * FERRYI_PAGES_PER_SUBSECTION));
	assert_true(l->first == 0 || ferryi_pfn_to_page(f->model, l->first - 1) == NULL ||
		    ferryi_subsection_of(f->model, l->first - 1)->pool != ferryi_subsection_of(f->model, l->first)->pool);
}

static void attach_one(struct fixture *f, struct layout *l, struct ferryt_rand *r)
{
	l->nr = 1 + ferryt_rand_below(r, LAYOUT_SUBS - 1);
	l->valid = 0;
	assert_int_equal(ferryi_pfn_window_alloc(f->model, l->nr, &l->first), 0);
}

static void grow_one(struct fixture *f, struct layout *l, unsigned pool, uint64_t by)
{
	struct ferryi_subsection info = info_of(pool);

	for (; by && l->valid < l->nr; by--, l->valid++)
		assert_int_equal(ferryi_subsection_populate(
					 f->model, l->first + l->valid * FERRYI_PAGES_PER_SUBSECTION, &info), 0);
}

static void detach_one(struct fixture *f, struct layout *l)
{
	for (; l->valid; l->valid--)
		ferryi_subsection_depopulate(f->model, l->first + (l->valid - 1) * FERRYI_PAGES_PER_SUBSECTION);
	ferryi_pfn_window_free(f->model, l->first, l->nr);
	l->nr = 0;
}

static void check_disjoint(const struct layout *l)
{
	for (unsigned i = 0; i < MAX_LAYOUT; i++) {
		for (unsigned k = 0; k < i; k++) {
			uint64_t end_i = l[i].first + l[i].nr * FERRYI_PAGES_PER_SUBSECTION;
			uint64_t end_k = l[k].first + l[k].nr * FERRYI_PAGES_PER_SUBSECTION;

			assert_true(!l[i].nr || !l[k].nr || l[i].first >= end_k || l[k].first >= end_i);
		}
	}
}

static void sparsemem__random_attach_grow_detach__valid_at_every_edge(void **state)
{
	struct layout l[MAX_LAYOUT] = { 0 };
	struct ferryt_rand r = { 19 };
	struct fixture f;

	(void)state;
	setup(&f);
	for (unsigned round = 0; round < 600; round++) {
		unsigned i = (unsigned)ferryt_rand_below(&r, MAX_LAYOUT);

		if (!l[i].nr)
			attach_one(&f, &l[i], &r);
		else if (ferryt_rand_below(&r, 4) == 0)
			detach_one(&f, &l[i]);
		else
			grow_one(&f, &l[i], i, 1 + ferryt_rand_below(&r, 40));
		check_disjoint(l);
		for (unsigned k = 0; k < MAX_LAYOUT; k++) {
			if (l[k].nr && l[k].valid)
				check_edges(&f, &l[k]);
		}
	}
	teardown(&f);
}

/* memremap_pages() refuses a range in conflict at its start or its end; here a sub-section is the unit of both. */
static void sparsemem__overlap_or_misaligned__enomem_einval_and_nothing_changed(void **state)
{
	struct ferryi_subsection mine = info_of(1), other = info_of(2);
	struct fixture f;
	uint64_t first;

	(void)state;
	setup(&f);
	assert_int_equal(ferryi_pfn_window_alloc(f.model, 64, &first), 0);
	assert_int_equal(ferryi_subsection_populate(f.model, first, &mine), 0);
	ferryi_pfn_to_page(f.model, first + 3)->drvdata = 8;
	uint64_t bytes = ferryi_memory_model_bytes(f.model);

	assert_int_equal(ferryi_subsection_populate(f.model, first, &other), -ENOMEM);
	assert_int_equal(ferryi_subsection_populate(f.model, first + 1, &other), -EINVAL);
	assert_int_equal(ferryi_subsection_populate(f.model, first + FERRYI_PAGES_PER_SUBSECTION - 1, &other), -EINVAL);
	assert_int_equal(ferryi_subsection_populate(f.model, 1ULL << FERRYI_PFN_BITS, &other), -EINVAL);
	assert_ptr_equal(ferryi_subsection_of(f.model, first)->pool, mine.pool);
	assert_int_equal(ferryi_pfn_to_page(f.model, first + 3)->drvdata, 8);
	assert_int_equal(ferryi_memory_model_bytes(f.model), bytes);
	teardown(&f);
}

/* Rows of the section table come with the first sub-section in them, descriptors with each. */
static void sparsemem_extreme__tables__cost_is_proportional_to_use(void **state)
{
	enum { ROW_SUBS = 64 * FERRYI_SUBSECTIONS_PER_SECTION }; /* a row: 64 sections */
	const uint64_t descriptors = FERRYI_PAGES_PER_SUBSECTION * sizeof(struct ferry_page);
	struct ferryi_subsection info = info_of(0);
	struct fixture f;
	uint64_t first, step[3];

	(void)state;
	setup(&f);
	uint64_t empty = ferryi_memory_model_bytes(f.model);

	assert_int_equal(ferryi_pfn_window_alloc(f.model, 8 * ROW_SUBS, &first), 0);
	assert_int_equal(ferryi_memory_model_bytes(f.model), empty); /* a window costs nothing */
	for (unsigned i = 0; i < 3; i++) {
		uint64_t before = ferryi_memory_model_bytes(f.model);

		assert_int_equal(ferryi_subsection_populate(
					 f.model, first + 2 * i * ROW_SUBS * FERRYI_PAGES_PER_SUBSECTION, &info), 0);
		step[i] = ferryi_memory_model_bytes(f.model) - before;
	}
	assert_true(step[0] > descriptors); /* a row each, as they are rows apart */
	assert_int_equal(step[1], step[0]);
	assert_int_equal(step[2], step[0]);
	uint64_t before = ferryi_memory_model_bytes(f.model);

	assert_int_equal(ferryi_subsection_populate(f.model, first + FERRYI_PAGES_PER_SUBSECTION, &info), 0);
	assert_int_equal(ferryi_memory_model_bytes(f.model) - before, descriptors); /* the row is there */
	ferryi_subsection_depopulate(f.model, first + FERRYI_PAGES_PER_SUBSECTION);
	assert_int_equal(ferryi_memory_model_bytes(f.model), before);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arena_alloc__twice__zeroed_aligned_apart),
		cmocka_unit_test(arena_alloc__more_than_there_is__null_and_rest_usable),
		cmocka_unit_test(arena__random_alloc_and_free__never_overlaps_and_merges_to_one),
		cmocka_unit_test(window_alloc__several__section_aligned_disjoint_never_pfn_zero),
		cmocka_unit_test(window_alloc__none_or_too_many__enomem),
		cmocka_unit_test(populate__one_subsection__exactly_its_512_pfns_valid),
		cmocka_unit_test(depopulate__then_populate__descriptors_are_zero_again),
		cmocka_unit_test(pfn_to_page__outside_everything__null),
		cmocka_unit_test(model__random_population__exact_inverses_and_right_backing),
		cmocka_unit_test(sparsemem__random_attach_grow_detach__valid_at_every_edge),
		cmocka_unit_test(sparsemem__overlap_or_misaligned__enomem_einval_and_nothing_changed),
		cmocka_unit_test(sparsemem_extreme__tables__cost_is_proportional_to_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
