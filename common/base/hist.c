/*
 * Histogram buckets. Values below 16 have a bucket each; above, a power of two
 * [2^m, 2^(m+1)) is cut into 16 equal buckets. Any thread; see hist.h.
 */
#include "hist.h"

#include <stddef.h>

#define SUB (1u << FERRYI_HIST_SUB_BITS)

static size_t bucket_of(uint64_t ns)
{
	if (ns < SUB)
		return (size_t)ns;

	unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - FERRYI_HIST_SUB_BITS;

	/* Invariant: (ns >> shift) is in [SUB, 2 * SUB). */
	return ((size_t)(shift + 1) << FERRYI_HIST_SUB_BITS) + (size_t)((ns >> shift) & (SUB - 1));
}

/* Largest value of the bucket. */
static uint64_t bucket_upper(size_t bucket)
{
	if (bucket < SUB)
		return bucket;

	size_t shift = (bucket >> FERRYI_HIST_SUB_BITS) - 1;

	return ((SUB + (bucket & (SUB - 1))) << shift) + ((1ULL << shift) - 1);
}

void ferryi_hist_add(struct ferryi_hist *h, uint64_t ns)
{
	atomic_fetch_add_explicit(&h->bucket[bucket_of(ns)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);

	uint64_t max = atomic_load_explicit(&h->max_ns, memory_order_relaxed);

	while (ns > max && !atomic_compare_exchange_weak_explicit(&h->max_ns, &max, ns, memory_order_relaxed,
								  memory_order_relaxed))
		;
}

uint64_t ferryi_hist_quantile(const struct ferryi_hist *h, double q)
{
	/* Counted here, not taken from h->count: adders may be between the two. */
	uint64_t total = 0;

	for (size_t i = 0; i < FERRYI_HIST_BUCKETS; i++)
		total += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
	if (total == 0)
		return 0;

	if (!(q > 0))
		q = 0;
	if (q > 1)
		q = 1;

	double exact = q * (double)total;
	uint64_t rank = (uint64_t)exact;

	if ((double)rank < exact || rank == 0)
		rank++;

	uint64_t seen = 0;
	size_t last = 0;

	for (size_t i = 0; i < FERRYI_HIST_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&h->bucket[i], memory_order_relaxed);

		if (n == 0)
			continue;
		last = i;
		seen += n;
		if (seen >= rank)
			break;
	}
	return bucket_upper(last);
}

void ferryi_hist_reset(struct ferryi_hist *h)
{
	for (size_t i = 0; i < FERRYI_HIST_BUCKETS; i++)
		atomic_store_explicit(&h->bucket[i], 0, memory_order_relaxed);
	atomic_store_explicit(&h->count, 0, memory_order_relaxed);
	atomic_store_explicit(&h->sum_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&h->max_ns, 0, memory_order_relaxed);
}
