/* What the pager counts; ferry_stats reads them. Relaxed atomics, any thread. */
#ifndef FERRYI_PAGER_COUNTERS_H
#define FERRYI_PAGER_COUNTERS_H

#include "counter.h"
#include "hist.h"

struct ferryi_counters {
	ferryi_counter_t c_faults, c_faults_major, c_faults_zero, c_faults_rescued, c_faults_poisoned;
	ferryi_counter_t c_pages_in, c_pages_readahead, c_readahead_hits;
	ferryi_counter_t c_pages_evicted, c_pages_written, c_pages_dropped;
	ferryi_counter_t c_bytes_in, c_bytes_out;
	ferryi_counter_t c_budget_waits, c_channels_reopened, c_pages_reserve, c_pages_moved;
	ferryi_counter_t c_bytes_replicated, c_reads_retried, c_copies_lost, c_copies_rebuilt, c_bytes_rebuilt;
	ferryi_counter_t g_rebuild_left_bytes;
	ferryi_counter_t g_pinned_pages, g_away_pages, g_coherent_pages;
	struct ferryi_hist fault, fault_major;
};

#endif
