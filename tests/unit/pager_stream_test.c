/* client/pager/stream: what is recognised as sequential, and how windows grow. */
#include "unit.h"

#include "stream.h"

enum { MAX_WINDOW = 63 };

static struct ferryi_streams streams;

/* Objects are compared, never looked into. */
static const struct ferryi_object *object(unsigned i)
{
	static const char objects[256];

	return (const struct ferryi_object *)&objects[i];
}

struct result {
	uint32_t ahead, hits;
};

/* A fault on a page, with as many pages read ahead as room allows. */
static struct result fault(unsigned obj, size_t index, int sequential, uint32_t room)
{
	struct ferryi_stream_advice advice = {0};

	ferryi_streams_fault(&streams, object(obj), index, sequential, &advice);
	ferryi_streams_done(&advice, index, advice.ahead < room ? advice.ahead : room);
	return (struct result){advice.ahead, advice.hits};
}

static void sequential__from_start__window_doubles_to_the_largest(void **state)
{
	uint32_t last = 0;
	size_t index = 10;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	assert_int_equal(fault(0, index++, 0, MAX_WINDOW).ahead, 0); /* one fault is no stream */
	for (unsigned i = 0; i < 10; i++) {
		struct result r = fault(0, index, 0, MAX_WINDOW);

		assert_int_equal(r.hits, last); /* all of the last window was used */
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
	fault(0, index++, 0, 2);
	for (unsigned i = 0; i < 10; i++) {
		struct result r = fault(0, index, 0, 2);

		assert_true(r.ahead > 0);
		assert_true(r.hits <= 2);
		index += 1 + (r.ahead < 2 ? r.ahead : 2);
	}
}

static void interleaved__sixty_four_streams__each_kept(void **state)
{
	enum { STREAMS = 64 };
	size_t index[STREAMS];
	uint32_t ahead[STREAMS];
	struct ferryt_rand r = {3};

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < STREAMS; i++) {
		index[i] = (size_t)i << 20;
		ahead[i] = 0;
		fault(i % 4, index[i]++, 0, MAX_WINDOW); /* several streams in one object */
	}
	for (unsigned round = 0; round < 8; round++) {
		unsigned shift = (unsigned)ferryt_rand_below(&r, STREAMS);

		for (unsigned k = 0; k < STREAMS; k++) {
			unsigned i = (k + shift) % STREAMS;
			struct result got = fault(i % 4, index[i], 0, MAX_WINDOW);

			assert_true(got.ahead > 0);
			assert_int_equal(got.hits, ahead[i]);
			ahead[i] = got.ahead;
			index[i] += 1 + got.ahead;
		}
	}
	for (unsigned i = 0; i < STREAMS; i++)
		assert_int_equal(ahead[i], MAX_WINDOW);
}

static void random__faults__no_read_ahead(void **state)
{
	struct ferryt_rand r = {9};
	unsigned hits = 0, ahead = 0;

	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	for (unsigned i = 0; i < 10000; i++) {
		struct result got = fault(0, ferryt_rand_below(&r, 1ULL << 40), 0, MAX_WINDOW);

		ahead += got.ahead;
		hits += got.hits;
	}
	assert_int_equal(ahead, 0);
	assert_int_equal(hits, 0);
}

static void same_index__other_object__not_the_stream(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	fault(0, 7, 0, MAX_WINDOW);
	assert_int_equal(fault(1, 8, 0, MAX_WINDOW).ahead, 0);
	assert_true(fault(0, 8, 0, MAX_WINDOW).ahead > 0);
}

static void first_fault__advised_sequential__largest_window_at_once(void **state)
{
	(void)state;
	ferryi_streams_init(&streams, MAX_WINDOW);
	assert_int_equal(fault(0, 5, 1, MAX_WINDOW).ahead, MAX_WINDOW);
	struct result r = fault(0, 5 + 1 + MAX_WINDOW, 1, MAX_WINDOW);

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
	fault(0, index++, 0, MAX_WINDOW);
	for (unsigned i = 0; i < 50; i++) {
		/* fewer strays than the table has room for: the stream is not the oldest */
		for (unsigned k = 0; k < FERRYI_NR_STREAMS / 2; k++)
			fault(1, ferryt_rand_below(&r, 1ULL << 40), 0, MAX_WINDOW);
		struct result got = fault(0, index, 0, MAX_WINDOW);

		assert_true(got.ahead > 0);
		index += 1 + got.ahead;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sequential__from_start__window_doubles_to_the_largest),
		cmocka_unit_test(sequential__short_reads__stream_goes_on_where_they_ended),
		cmocka_unit_test(interleaved__sixty_four_streams__each_kept),
		cmocka_unit_test(random__faults__no_read_ahead),
		cmocka_unit_test(same_index__other_object__not_the_stream),
		cmocka_unit_test(first_fault__advised_sequential__largest_window_at_once),
		cmocka_unit_test(any_pattern__largest_window_none__never_reads_ahead),
		cmocka_unit_test(many_strays__one_stream__survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
