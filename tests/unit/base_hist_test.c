/* common/base/hist: precision against sorted samples, concurrent adders. */
#include "unit.h"

#include <pthread.h>
#include <stdlib.h>

#include "hist.h"

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void quantile__empty__zero(void **state)
{
	static struct ferryi_hist h;

	(void)state;
	assert_int_equal(ferryi_hist_quantile(&h, 0.5), 0);
}

static void add__every_magnitude__in_a_bucket_within_a_sixteenth(void **state)
{
	static struct ferryi_hist h;

	(void)state;
	for (unsigned shift = 0; shift < 64; shift++) {
		const uint64_t around[] = {(1ULL << shift) - 1, 1ULL << shift, (1ULL << shift) + 1,
					   (1ULL << shift) | (1ULL << shift >> 1)};

		for (size_t i = 0; i < 4; i++) {
			uint64_t ns = around[i];

			ferryi_hist_reset(&h);
			ferryi_hist_add(&h, ns);

			uint64_t q = ferryi_hist_quantile(&h, 0.5);

			assert_true(q >= ns);
			assert_true(q - ns <= ns / 16);
			assert_int_equal(h.count, 1);
			assert_int_equal(h.sum_ns, ns);
			assert_int_equal(h.max_ns, ns);
		}
	}
	ferryi_hist_reset(&h);
	ferryi_hist_add(&h, UINT64_MAX);
	assert_true(ferryi_hist_quantile(&h, 1.0) == UINT64_MAX);
}

static void quantile__random_samples__within_a_sixteenth_of_sorted(void **state)
{
	enum { N = 5000 };
	static struct ferryi_hist h;
	static uint64_t samples[N];
	static const double qs[] = {-1, 0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0, 2};
	struct ferryt_rand r = {21};

	(void)state;
	for (int round = 0; round < 20; round++) {
		ferryi_hist_reset(&h);
		for (size_t i = 0; i < N; i++) {
			samples[i] = ferryt_rand_next(&r) >> (20 + ferryt_rand_below(&r, 44));
			ferryi_hist_add(&h, samples[i]);
		}
		qsort(samples, N, sizeof(samples[0]), compare);
		assert_int_equal(h.count, N);
		assert_int_equal(h.max_ns, samples[N - 1]);

		uint64_t last = 0;

		for (size_t i = 0; i < sizeof(qs) / sizeof(qs[0]); i++) {
			double q = qs[i] < 0 ? 0 : qs[i] > 1 ? 1 : qs[i];
			double exact = q * N;
			size_t rank = (size_t)exact;

			if ((double)rank < exact || rank == 0)
				rank++;

			uint64_t want = samples[rank - 1];
			uint64_t got = ferryi_hist_quantile(&h, qs[i]);

			assert_true(got >= want && got - want <= want / 16);
			assert_true(got >= last);
			last = got;
		}
	}
}

static void reset__used__empty_again(void **state)
{
	static struct ferryi_hist h;

	(void)state;
	ferryi_hist_add(&h, 123456);
	ferryi_hist_reset(&h);
	assert_int_equal(h.count, 0);
	assert_int_equal(h.sum_ns, 0);
	assert_int_equal(h.max_ns, 0);
	assert_int_equal(ferryi_hist_quantile(&h, 1), 0);
}

enum { THREADS = 4, ADDS = 20000 };

static struct ferryi_hist shared;

static void *adder(void *arg)
{
	uint64_t base = (uint64_t)(uintptr_t)arg;

	for (uint64_t i = 0; i < ADDS; i++)
		ferryi_hist_add(&shared, base + i);
	return NULL;
}

static void add__many_threads__nothing_lost(void **state)
{
	pthread_t threads[THREADS];
	uint64_t total = 0;
	uint64_t sum = 0;

	(void)state;
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, adder, (void *)(i * 1000)), 0);
	for (size_t i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		sum += i * 1000 * ADDS + (uint64_t)ADDS * (ADDS - 1) / 2;
	}
	for (size_t i = 0; i < FERRYI_HIST_BUCKETS; i++)
		total += shared.bucket[i];
	assert_int_equal(total, THREADS * ADDS);
	assert_int_equal(shared.count, THREADS * ADDS);
	assert_int_equal(shared.sum_ns, sum);
	assert_int_equal(shared.max_ns, (THREADS - 1) * 1000 + ADDS - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantile__empty__zero),
		cmocka_unit_test(add__every_magnitude__in_a_bucket_within_a_sixteenth),
		cmocka_unit_test(quantile__random_samples__within_a_sixteenth_of_sorted),
		cmocka_unit_test(reset__used__empty_again),
		cmocka_unit_test(add__many_threads__nothing_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
