/*
 * Latency histograms: 16 linear buckets per power of two of nanoseconds, so a
 * quantile is within 6.25 % of the truth. Adding is one relaxed atomic add:
 * any thread, no lock, no allocation.
 */
#ifndef FERRYI_BASE_HIST_H
#define FERRYI_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define FERRYI_HIST_SUB_BITS 4
#define FERRYI_HIST_BUCKETS  ((64 - FERRYI_HIST_SUB_BITS + 1) << FERRYI_HIST_SUB_BITS)

struct ferryi_hist {
	_Atomic uint64_t count;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t max_ns;
	_Atomic uint64_t bucket[FERRYI_HIST_BUCKETS];
};

void ferryi_hist_add(struct ferryi_hist *h, uint64_t ns);
/* Upper edge, in ns, of the bucket that holds quantile q (0..1); 0 when empty. */
uint64_t ferryi_hist_quantile(const struct ferryi_hist *h, double q);
void ferryi_hist_reset(struct ferryi_hist *h);

#endif
