/*
 * client/pager/stream: what is recognised as a stream, how windows grow and
 * shrink. Most tests drive it through a model of the pager: an area whose pages
 * are away, on their way, or there.
 */
#include "unit.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum { MAX_WINDOW = 63, PAGES = 65536, TID = 7, CHUNK = 32 };

static struct ferryi_streams streams;

/* Objects are compared, never looked into. */
static const struct ferryi_object *object(unsigned i)
{
	static const char objects[256];

	return (const struct ferryi_object *)&objects[i];
}

/* ---- single faults ---- */

/* What is asked for lies between pages that were read ahead, and these are there. */
static bool always_there(const struct ferryi_object *obj, size_t index)
{
	(void)obj;
	(void)index;
	return true;
}

static bool never_there(const struct ferryi_object *obj, size_t index)
{
	(void)obj;
	(void)index;
	return false;
}

struct result {
	uint32_t ahead, hits;
	ptrdiff_t step;
};

/* A fault on a page, with as many pages read ahead as room allows. */
static struct result fault_of(int tid, unsigned obj, size_t index, bool sequential, uint32_t room)
{
	const struct ferryi_stream_fault f = {.object = object(obj),
					      .index = index,
					      .tid = tid,
					      .sequential = sequential,
					      .is_there = never_there};
	struct ferryi_stream_advice advice;

	ferryi_streams_fault(&streams, &f, &advice);
	ferryi_streams_done(&streams, &advice, advice.ahead < room ? advice.ahead : room);
	return (struct result){advice.ahead, advice.hits, advice.step};
}

static struct result fault(unsigned obj, size_t index, bool sequential, uint32_t room)
{
	return fault_of(TID, obj, index, sequential, room);
}

static void sequential__from_start__window_doubles_to_the_largest(void **state)
{
	uint32_t last = 0;
	size_t index = 10;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	assert_int_equal(fault(0, index++, false, MAX_WINDOW).ahead, 0); /* one fault is no stream */
	for (unsigned i = 0; i < 10; i++) {
		struct result r = fault(0, index, false, MAX_WINDOW);

		assert_int_equal(r.hits, last); /* all of the last window was used */
		assert_int_equal(r.step, 1);
		assert_true(r.ahead > 0);
		assert_true(last == 0 || r.ahead == (last * 2 < MAX_WINDOW ? last * 2 : MAX_WINDOW));
		last = r.ahead;
		index += 1 + r.ahead;
	}
	assert_int_equal(last, MAX_WINDOW);
}

static void sequential__short_reads__stream_goes_on_where_they_ended(void **state)
{
	size_t index = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	fault(0, index++, false, 2);
	for (unsigned i = 0; i < 10; i++) {
		struct result r = fault(0, index, false, 2);

		assert_true(r.ahead > 0);
		assert_true(r.hits <= 2);
		index += 1 + (r.ahead < 2 ? r.ahead : 2);
	}
}

static void window__nothing_read_for_once__not_begun_anew(void **state)
{
	size_t index = 1;
	uint32_t ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	fault(0, 0, false, MAX_WINDOW);
	for (unsigned i = 0; i < 8; i++, index += 1 + ahead)
		ahead = fault(0, index, false, MAX_WINDOW).ahead;
	assert_int_equal(ahead, MAX_WINDOW);
	assert_int_equal(fault(0, index, false, 0).ahead, MAX_WINDOW); /* no memory just now */
	assert_true(fault(0, index + 1, false, MAX_WINDOW).ahead > MAX_WINDOW / 2);
}

static void interleaved__sixty_four_streams__each_kept(void **state)
{
	enum { STREAMS = 64, ROUNDS = 12 };
	size_t index[STREAMS];
	uint32_t ahead[STREAMS] = {0};
	struct ferryt_rand r = {3};

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < STREAMS; i++)
		index[i] = ((size_t)i << 20) +
			   (size_t)i * i * 37; /* not evenly: that would be a stream itself */
	/* Two faults make one known; where so many begin before any has proved to be one, up to five do. */
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned shift = (unsigned)ferryt_rand_below(&r, STREAMS);

		for (unsigned k = 0; k < STREAMS; k++) {
			unsigned i = (k + shift) % STREAMS;
			struct result got =
				fault(i % 4, index[i], false, MAX_WINDOW); /* several in one object */

			assert_true(round < 4 || got.ahead > 0);
			assert_int_equal(got.hits, ahead[i]);
			ahead[i] = got.ahead;
			index[i] += 1 + got.ahead;
		}
	}
	for (unsigned i = 0; i < STREAMS; i++)
		assert_int_equal(ahead[i], MAX_WINDOW);
}

static void same_index__other_object__not_the_stream(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	fault(0, 7, false, MAX_WINDOW);
	assert_int_equal(fault(1, 8, false, MAX_WINDOW).ahead, 0);
	assert_true(fault(0, 8, false, MAX_WINDOW).ahead > 0);
}

static void stride__points_of_several_threads__no_stream(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	assert_int_equal(fault_of(1, 0, 100, false, MAX_WINDOW).ahead, 0);
	assert_int_equal(fault_of(1, 0, 110, false, MAX_WINDOW).ahead, 0);
	assert_int_equal(fault_of(2, 0, 120, false, MAX_WINDOW).ahead, 0);
	struct result r = fault_of(1, 0, 120, false, MAX_WINDOW);

	assert_true(r.ahead > 0);
	assert_int_equal(r.step, 10);
	/* Once known, it is the object's: another thread may go on with it. */
	assert_true(fault_of(2, 0, 120 + 10 * (r.ahead + 1), false, MAX_WINDOW).hits == r.ahead);
}

static void stride__between_the_lines_of_a_sequential_one__both_known(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (size_t i = 0; i < 2; i++) {
		assert_int_equal(fault(0, 1000 + 5 * i, false, MAX_WINDOW).ahead, 0);
		assert_int_equal(fault(0, 2000 - 3 * i, false, MAX_WINDOW).ahead, 0);
	}
	assert_int_equal(fault(0, 1010, false, MAX_WINDOW).step, 5);
	assert_int_equal(fault(0, 1994, false, MAX_WINDOW).step, -3);
}

static void first_fault__advised_sequential__largest_window_at_once(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	assert_int_equal(fault(0, 5, true, MAX_WINDOW).ahead, MAX_WINDOW);
	struct result r = fault(0, 5 + 1 + MAX_WINDOW, true, MAX_WINDOW);

	assert_int_equal(r.ahead, MAX_WINDOW);
	assert_int_equal(r.hits, MAX_WINDOW);
}

static void any_pattern__largest_window_none__never_reads_ahead(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, 0);
	for (size_t i = 0; i < 100; i++)
		assert_int_equal(fault(0, i, i % 2 == 0, MAX_WINDOW).ahead, 0);
}

static void many_strays__one_stream__survives(void **state)
{
	size_t index = 0;
	struct ferryt_rand r = {4};

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	fault(0, index++, false, MAX_WINDOW);
	for (unsigned i = 0; i < 50; i++) {
		/* Before it is known, no more than there is room for; afterwards it has a row of its own. */
		for (unsigned k = 0; k < (i == 0 ? FERRYI_NR_POINTS / 2 : 2 * FERRYI_NR_POINTS); k++)
			fault(1, ferryt_rand_below(&r, 1ULL << 40), false, MAX_WINDOW);
		struct result got = fault(0, index, false, MAX_WINDOW);

		assert_true(got.ahead > 0);
		index += 1 + got.ahead;
	}
}

static void stream__not_seen_for_long__begins_with_a_small_window(void **state)
{
	struct ferryt_rand r = {5};
	size_t index = 0;
	uint32_t ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10; i++, index += 1 + ahead)
		ahead = fault(0, index, false, MAX_WINDOW).ahead;
	assert_int_equal(ahead, MAX_WINDOW);
	for (unsigned i = 0; i < 4000; i++)
		fault(1, ferryt_rand_below(&r, 1ULL << 40), false, MAX_WINDOW);
	struct result got = fault(0, index, false, MAX_WINDOW);

	assert_true(got.ahead > 0 && got.ahead < MAX_WINDOW / 4);
	assert_int_equal(got.hits, 0); /* nobody knows */
}

static void read_ahead__left_before_its_touch__window_shrinks(void **state)
{
	size_t index = 0;
	uint32_t ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10; i++, index += 1 + ahead)
		ahead = fault(0, index, false, MAX_WINDOW).ahead;
	index -= 1 + ahead;
	for (uint32_t want = MAX_WINDOW / 2; want > 0; want /= 2) {
		struct result got = fault(0, ++index, false, MAX_WINDOW);

		assert_int_equal(got.ahead, want);
		assert_int_equal(got.hits, 0);
	}
}

static void first_touch__inside_what_is_read_ahead__stream_as_it_was(void **state)
{
	size_t index = 0;
	uint32_t ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10; i++, index += 1 + ahead)
		ahead = fault(0, index, false, MAX_WINDOW).ahead;

	const struct ferryi_stream_fault f = {.object = object(0),
					      .index = index - 20,
					      .tid = TID,
					      .is_first = true,
					      .is_there = always_there};
	struct ferryi_stream_advice advice;

	ferryi_streams_fault(&streams, &f, &advice);
	assert_true(advice.ahead > 0 && advice.ahead < 20);
	ferryi_streams_done(&streams, &advice, 0);
	assert_int_equal(fault(0, index, false, MAX_WINDOW).ahead, MAX_WINDOW);
}

/* ---- the model ---- */

enum where { AWAY, COMING, THERE };

static struct {
	uint8_t page[PAGES];
	uint64_t visits, misses, ahead, twice, hits;
	uint32_t max_window;
	bool chunks; /* what is on its way arrives with its neighbours */
} model;

static void model_init(uint32_t max_window)
{
	memset(&model, 0, sizeof(model));
	model.max_window = max_window;
	ferryi_streams_init(&streams, max_window);
}

/* Reads as the fetcher does: within the area, what is away. */
static void model_read(const struct ferryi_stream_advice *advice, bool late)
{
	uint32_t got = 0;

	assert_true(advice->ahead <= model.max_window);
	assert_true(advice->ahead == 0 || advice->step != 0);
	if (labs(advice->step) > 1)
		assert_true(advice->ahead <= FERRYI_STEP_WINDOW);
	for (; got < advice->ahead; got++) {
		ptrdiff_t page = (ptrdiff_t)advice->from + advice->step * (ptrdiff_t)(got + 1);

		if (page < 0 || page >= PAGES)
			break;
		model.twice += model.page[page] == COMING;
		model.ahead += model.page[page] == AWAY;
		if (model.page[page] == AWAY)
			model.page[page] = late ? COMING : THERE;
	}
	model.hits += advice->hits;
	ferryi_streams_done(&streams, advice, got);
}

static bool model_is_there(const struct ferryi_object *obj, size_t index)
{
	assert_ptr_equal(obj, object(0));
	assert_true(index < PAGES);
	return model.page[index] == THERE;
}

/* late: what is read ahead is still on its way when it is touched. */
static void model_visit(size_t page, int tid, bool late)
{
	const struct ferryi_stream_fault f = {
		.object = object(0), .index = page, .tid = tid, .is_there = model_is_there};
	struct ferryi_stream_advice advice;

	model.visits++;
	if (model.page[page] == AWAY) {
		model.misses++;
		model.page[page] = THERE;
		ferryi_streams_fault(&streams, &f, &advice);
		model_read(&advice, late);
	} else if (model.page[page] == COMING) {
		ferryi_streams_joined(&streams, &f, &advice);
		model_read(&advice, late);
		model.page[page] = THERE;
		for (size_t i = page - page % CHUNK; model.chunks && i < page - page % CHUNK + CHUNK; i++)
			model.page[i] = model.page[i] == COMING ? THERE : model.page[i];
	}
}

static double hit_rate(void)
{
	return 1.0 - (double)model.misses / (double)model.visits;
}

/* Each page is visited once at most: as in `ferry bench stride`. */
static double useless_rate(void)
{
	double used = (double)(model.visits - model.misses);

	return ((double)model.ahead - used) / (double)(model.ahead + model.misses);
}

struct walk {
	ptrdiff_t page, step;
	size_t left;
};

static struct walk walk_of(size_t first, size_t pages, ptrdiff_t step)
{
	return (struct walk){(ptrdiff_t)(step > 0 ? first : first + pages - 1), step,
			     (pages - 1) / (size_t)labs(step) + 1};
}

/* One visit of each in turn, until all are done. */
static void walk_all(struct walk *walks, unsigned n, bool late)
{
	for (bool any = true; any;) {
		any = false;
		for (unsigned i = 0; i < n; i++) {
			if (walks[i].left == 0)
				continue;
			model_visit((size_t)walks[i].page, TID, late);
			walks[i].page += walks[i].step;
			walks[i].left--;
			any = true;
		}
	}
}

static const ptrdiff_t steps[] = {1, 2, 3, 17, -1, -2, -3, -17, FERRYI_MAX_STEP, -FERRYI_MAX_STEP};
#define NR_STEPS (sizeof(steps) / sizeof(steps[0]))

static void stride__each__hit_and_not_wasted(void **state)
{
	static const uint32_t windows[] = {15, 63, 255};

	(void)state;
	for (unsigned i = 0; i < NR_STEPS * 3 * 2; i++) {
		struct walk w = walk_of(0, PAGES, steps[i % NR_STEPS]);

		model_init(windows[i / NR_STEPS % 3]);
		walk_all(&w, 1, i / NR_STEPS / 3);
		assert_true(hit_rate() >= 0.9);
		assert_true(useless_rate() <= 0.01); /* the area's end is heeded */
		assert_int_equal(model.twice, 0);
		assert_true(model.hits <= model.ahead);
		assert_true((double)model.hits >
			    0.9 * (double)(model.visits - model.misses) - 2.0 * model.max_window);
	}
}

static void stride__longer_than_is_looked_for__by_the_latest_faults(void **state)
{
	struct walk w = walk_of(0, PAGES, -500);

	(void)state;
	model_init(MAX_WINDOW);
	walk_all(&w, 1, false);
	assert_true(hit_rate() >= 0.8); /* 132 pages, of which 8 tell */
	assert_true(useless_rate() <= 0.01);
}

static void interleaved__mixed_strides__hit_and_little_wasted(void **state)
{
	static const ptrdiff_t mixed[] = {1, 2, 3, 17, -1};
	static const unsigned numbers[] = {4, 16};

	(void)state;
	/* All of one stride, or mixed (the last). */
	for (unsigned i = 0; i < 2 * 2 * 6; i++) {
		unsigned n = numbers[i % 2], kind = i / 4;
		struct walk walks[16];

		for (unsigned k = 0; k < n; k++)
			walks[k] = walk_of(k * (PAGES / n), PAGES / n, mixed[kind < 5 ? kind : k % 5]);
		model_init(255);
		walk_all(walks, n, i / 2 % 2);
		assert_true(hit_rate() >= 0.9);
		assert_true(useless_rate() <= 0.1);
	}
}

static void stride__noise_between__hit(void **state)
{
	(void)state;
	/* As many other faults as its own, near it or anywhere; in the upper half. */
	for (unsigned i = 0; i < NR_STEPS * 2; i++) {
		struct walk w = walk_of(0, PAGES / 2, steps[i % NR_STEPS]);
		bool near = i >= NR_STEPS;
		struct ferryt_rand r = {i + 1};
		uint64_t visits = 0, misses = 0;

		model_init(MAX_WINDOW);
		for (; w.left > 0; w.left--, w.page += w.step) {
			uint64_t before = model.misses;

			model_visit((size_t)w.page, TID, false);
			visits++;
			misses += model.misses - before;
			size_t any = near ? (size_t)w.page + ferryt_rand_below(&r, 60)
					  : PAGES / 2 + ferryt_rand_below(&r, PAGES / 2);

			if (model.page[any % PAGES] == AWAY)
				model_visit(any % PAGES, TID, false);
		}
		assert_true((double)misses <= 0.1 * (double)visits);
	}
}

static void random__faults__hardly_any_read_ahead(void **state)
{
	static const uint64_t pages[] = {4096, 16384, 65536, 1ULL << 40};

	(void)state;
	for (unsigned i = 0; i < 4 * 8; i++) {
		struct ferryt_rand r = {i / 4 + 1};
		uint64_t ahead = 0;
		const unsigned faults = 20000;

		ferryi_streams_init(&streams, 255);
		for (unsigned k = 0; k < faults; k++)
			ahead += fault(0, ferryt_rand_below(&r, pages[i % 4]), false, MAX_WINDOW).ahead;
		assert_true((double)ahead <= 0.03 * (double)(faults + ahead));
	}
}

static void direction__changes__followed(void **state)
{
	(void)state;
	model_init(MAX_WINDOW);
	for (size_t page = 1000; page < 2000; page++)
		model_visit(page, TID, false);
	uint64_t misses = model.misses;

	/* Back over other pages: those before the first. */
	for (size_t page = 1000; page-- > 0;)
		model_visit(page, TID, false);
	assert_true(model.misses - misses <= 3 + 1000 / MAX_WINDOW + 5);
	assert_true(useless_rate() <= 0.1);
}

static void late_pages__joined__next_window_without_a_miss(void **state)
{
	struct walk w = walk_of(0, PAGES, 2);

	(void)state;
	model_init(255);
	walk_all(&w, 1, true);
	/* Once it has earned its windows, the reader finds what is on its way, but for a look now and then.
	 */
	assert_true(model.misses < model.visits / 200);
	assert_int_equal(model.twice, 0);
}

/* Read ahead for all pages, a reader of every second or third would find each of its own, and none would show
 * it. */
static void late_pages__step_changes__noticed(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 4 * 2; i++) {
		ptrdiff_t step = 2 + i % 4;
		struct walk w = walk_of(0, 4096, 1);

		model_init(MAX_WINDOW);
		model.chunks = i / 4;
		walk_all(&w, 1, true);
		for (size_t page = 4096; page < PAGES; page += (size_t)step)
			model_visit(page, TID, true);
		assert_true(hit_rate() >= 0.9);
		assert_true(useless_rate() <= 0.1);
	}
}

static void joined__the_page_before_passed_over__not_read_on_for(void **state)
{
	size_t index = 0;
	uint32_t ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10; i++, index += 1 + ahead)
		ahead = fault(0, index, false, MAX_WINDOW).ahead;

	struct ferryi_stream_fault f = {
		.object = object(0), .index = index - 5, .tid = TID, .is_there = never_there};
	struct ferryi_stream_advice advice;

	ferryi_streams_joined(&streams, &f, &advice);
	assert_int_equal(advice.ahead, 0);
	assert_int_equal(advice.hits, 0);
	f.is_there = always_there;
	ferryi_streams_joined(&streams, &f, &advice);
	assert_int_equal(advice.hits, MAX_WINDOW - 4);
}

static void points_of_others__beside_a_stride__not_taken_for_the_next_page(void **state)
{
	struct walk w = walk_of(0, PAGES, 3);

	(void)state;
	model_init(255);
	for (size_t page = 2; page < 12; page += 5) {
		model.page[page] = AWAY;
		model_visit(page, TID + 1, true);
	}
	walk_all(&w, 1, true);
	assert_true(hit_rate() >= 0.9);
	assert_true(useless_rate() <= 0.05);
}

/* Short runs at places far apart: the first windows are lost, later ones are no larger than what comes of
 * them. */
static void short_runs__many__windows_shrink_with_waste(void **state)
{
	uint64_t ahead = 0, used = 0, half_ahead = 0, half_used = 0;
	struct ferryt_rand r = {11};
	const unsigned runs = 2000;

	(void)state;
	ferryi_streams_init(&streams, 255);
	for (unsigned i = 0; i < runs; i++) {
		size_t at = ferryt_rand_below(&r, 1ULL << 40), end = at + 40;

		if (i == runs / 2) {
			half_ahead = ahead;
			half_used = used;
		}
		while (at < end) {
			uint32_t got = fault(0, at, false, 255).ahead;

			ahead += got;
			used += at + got < end ? got : end - at - 1;
			at += 1 + got;
		}
	}
	ahead -= half_ahead;
	used -= half_used;
	assert_true(used > 0);
	assert_true((double)(ahead - used) <= 0.15 * (double)ahead);
}

/* Anything at all: advice stays within its bounds, and no more is called used than was read ahead. */
static void any_mix__many_seeds__bounds_kept(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		static const uint32_t windows[] = {1, 2, 15, 63, 255};
		struct ferryt_rand r = {seed};
		struct walk walks[32];
		uint64_t got = 0;

		model_init(windows[seed % 5]);
		for (unsigned i = 0; i < 32; i++)
			walks[i].left = 0;
		for (unsigned i = 0; i < 4000; i++) {
			struct walk *w = &walks[ferryt_rand_below(&r, 32)];
			uint64_t dice = ferryt_rand_below(&r, 100);
			uint64_t before = model.ahead;

			if (dice < 10) { /* leaves again */
				memset(model.page + ferryt_rand_below(&r, PAGES - 64), AWAY, 64);
			} else if (dice < 20) {
				model_visit(ferryt_rand_below(&r, PAGES), (int)ferryt_rand_below(&r, 3),
					    dice % 2);
			} else if (w->left == 0) {
				size_t len = 1 + ferryt_rand_below(&r, 2000);

				ptrdiff_t step = (ptrdiff_t)ferryt_rand_below(&r, 40) - 20;

				*w = walk_of(ferryt_rand_below(&r, PAGES - len), len, step ? step : 1);
			} else {
				model_visit((size_t)w->page, (int)(w - walks), dice % 2);
				w->page += w->step;
				w->left--;
			}
			got += model.ahead - before;
		}
		assert_true(streams.trust <= 16 && streams.trust >= -32);
		assert_int_equal(got, model.ahead);
	}
}

/* A fault of a lane: who reads ahead for it may not have come to the page, or to any of its window. */
static struct result relayed(unsigned obj, size_t index)
{
	const struct ferryi_stream_fault f = {
		.object = object(obj), .index = index, .tid = TID, .is_relayed = true, .is_there = always_there};
	struct ferryi_stream_advice advice;

	ferryi_streams_fault(&streams, &f, &advice);
	ferryi_streams_done(&streams, &advice, advice.ahead);
	return (struct result){.ahead = advice.ahead, .hits = advice.hits};
}

static void relayed__page_by_page__window_grows_all_the_same(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	relayed(0, 0);
	uint32_t last = relayed(0, 1).ahead;

	for (size_t index = 2; index < 12; index++) {
		struct result got = relayed(0, index);

		assert_int_equal(got.ahead, last * 2 < MAX_WINDOW ? last * 2 : MAX_WINDOW);
		assert_int_equal(got.hits, 0);
		last = got.ahead;
	}
	assert_int_equal(last, MAX_WINDOW);
	assert_int_equal(relayed(0, 12 + MAX_WINDOW).hits, MAX_WINDOW); /* where the last one ended */
}

static void relayed__inside_a_window_of_long_ago__shrinks(void **state)
{
	size_t index = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10; i++)
		index += 1 + relayed(0, index).ahead;
	for (unsigned i = 0; i < 16; i++)
		relayed(2, (size_t)(i * i + 7 * i) << 20);
	assert_int_equal(relayed(0, index - MAX_WINDOW).ahead, MAX_WINDOW / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sequential__from_start__window_doubles_to_the_largest),
		cmocka_unit_test(sequential__short_reads__stream_goes_on_where_they_ended),
		cmocka_unit_test(window__nothing_read_for_once__not_begun_anew),
		cmocka_unit_test(interleaved__sixty_four_streams__each_kept),
		cmocka_unit_test(same_index__other_object__not_the_stream),
		cmocka_unit_test(stride__points_of_several_threads__no_stream),
		cmocka_unit_test(stride__between_the_lines_of_a_sequential_one__both_known),
		cmocka_unit_test(first_fault__advised_sequential__largest_window_at_once),
		cmocka_unit_test(any_pattern__largest_window_none__never_reads_ahead),
		cmocka_unit_test(many_strays__one_stream__survives),
		cmocka_unit_test(stream__not_seen_for_long__begins_with_a_small_window),
		cmocka_unit_test(read_ahead__left_before_its_touch__window_shrinks),
		cmocka_unit_test(first_touch__inside_what_is_read_ahead__stream_as_it_was),
		cmocka_unit_test(stride__each__hit_and_not_wasted),
		cmocka_unit_test(stride__longer_than_is_looked_for__by_the_latest_faults),
		cmocka_unit_test(interleaved__mixed_strides__hit_and_little_wasted),
		cmocka_unit_test(stride__noise_between__hit),
		cmocka_unit_test(random__faults__hardly_any_read_ahead),
		cmocka_unit_test(direction__changes__followed),
		cmocka_unit_test(late_pages__joined__next_window_without_a_miss),
		cmocka_unit_test(late_pages__step_changes__noticed),
		cmocka_unit_test(joined__the_page_before_passed_over__not_read_on_for),
		cmocka_unit_test(points_of_others__beside_a_stride__not_taken_for_the_next_page),
		cmocka_unit_test(short_runs__many__windows_shrink_with_waste),
		cmocka_unit_test(any_mix__many_seeds__bounds_kept),
		cmocka_unit_test(relayed__page_by_page__window_grows_all_the_same),
		cmocka_unit_test(relayed__inside_a_window_of_long_ago__shrinks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
