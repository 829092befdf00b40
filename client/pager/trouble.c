/* Why an address raised SIGBUS, and what the pager has counted. Reads only; the query is async-signal-safe. */
#include <errno.h>
#include <string.h>

#include "pager_priv.h"

static void name_server(struct ferryi_pager *pager, uint64_t pfn, char *out, size_t len)
{
	struct ferryi_remote remote;
	uint64_t off;
	struct ferry_pool *pool = pfn ? ferryi_locate(pager, pfn, &remote, &off) : NULL;

	if (!pool)
		return;
	unsigned index = ferryi_pool_index(pool);

	if (ferryi_pager_pool_begin(pager, index) == pool) {
		const char *name = ferryi_session_name(ferryi_lease_session(ferryi_pool_lease(pool)));
		size_t n = strnlen(name, len - 1);

		memcpy(out, name, n);
		out[n] = '\0';
		ferryi_pager_pool_end(pager, index);
	}
}

void ferryi_pager_fault_query(struct ferryi_pager *pager, uintptr_t va, struct ferry_fault_info *info)
{
	uint64_t word, pfn;

	info->va = va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	info->reason = FERRY_FAULT_NOT_MANAGED;
	info->error = 0;
	info->server[0] = '\0';
	if (!ferryi_areas_peek(&pager->areas, va, &word, &pfn))
		return;
	info->reason = FERRY_FAULT_NONE;
	if (atomic_load(&pager->forked)) {
		info->reason = FERRY_FAULT_FORKED;
	} else if (ferryi_page_state(word) == FERRYI_PAGE_POISONED) {
		info->reason = (enum ferry_fault_reason)(ferryi_page_arg(word) & 0xff);
		info->error = -(int)(ferryi_page_arg(word) >> 8);
		name_server(pager, pfn, info->server, sizeof(info->server));
	} else if (ferryi_page_state(word) == FERRYI_PAGE_COHERENT && ferryi_coherent_is_revoked(pager, pfn)) {
		info->reason = FERRY_FAULT_REVOKED;
		name_server(pager, pfn, info->server, sizeof(info->server));
	}
}

static void fill_latency(struct ferry_latency *out, const struct ferryi_hist *h)
{
	out->count = atomic_load(&h->count);
	out->p50_ns = ferryi_hist_quantile(h, 0.5);
	out->p90_ns = ferryi_hist_quantile(h, 0.9);
	out->p99_ns = ferryi_hist_quantile(h, 0.99);
	out->p999_ns = ferryi_hist_quantile(h, 0.999);
	out->max_ns = atomic_load(&h->max_ns);
}

void ferryi_pager_stats(struct ferryi_pager *pager, struct ferry_stats *out)
{
	struct ferryi_counters *c = &pager->counters;

	out->budget_bytes = atomic_load(&pager->budget.limit) << FERRYI_PAGE_SHIFT;
	out->managed_bytes = atomic_load(&pager->areas.managed_pages) << FERRYI_PAGE_SHIFT;
	out->resident_bytes = atomic_load(&pager->budget.charged) << FERRYI_PAGE_SHIFT;
	out->peak_resident_bytes = atomic_load(&pager->budget.peak) << FERRYI_PAGE_SHIFT;
	out->pinned_bytes = ferryi_counter_read(&c->g_pinned_pages) << FERRYI_PAGE_SHIFT;
	out->away_bytes = ferryi_counter_read(&c->g_away_pages) << FERRYI_PAGE_SHIFT;
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		out->leased_bytes += ferryi_pool_leased_bytes(pool);
		out->replicas_missing += ferryi_pool_incomplete(pool);
		ferryi_pager_pool_end(pager, i);
	}
	out->bookkeeping_bytes = atomic_load(&pager->areas.table_bytes) + ferryi_memory_model_bytes(pager->model);
	out->faults = ferryi_counter_read(&c->c_faults);
	out->faults_major = ferryi_counter_read(&c->c_faults_major);
	out->faults_zero = ferryi_counter_read(&c->c_faults_zero);
	out->faults_rescued = ferryi_counter_read(&c->c_faults_rescued);
	out->faults_poisoned = ferryi_counter_read(&c->c_faults_poisoned);
	out->pages_in = ferryi_counter_read(&c->c_pages_in);
	out->pages_readahead = ferryi_counter_read(&c->c_pages_readahead);
	out->readahead_hits = ferryi_counter_read(&c->c_readahead_hits);
	out->pages_evicted = ferryi_counter_read(&c->c_pages_evicted);
	out->pages_written = ferryi_counter_read(&c->c_pages_written);
	out->pages_dropped = ferryi_counter_read(&c->c_pages_dropped);
	out->bytes_in = ferryi_counter_read(&c->c_bytes_in);
	out->bytes_out = ferryi_counter_read(&c->c_bytes_out);
	out->budget_waits = ferryi_counter_read(&c->c_budget_waits);
	out->channels_reopened = ferryi_counter_read(&c->c_channels_reopened);
	fill_latency(&out->fault, &c->fault);
	fill_latency(&out->fault_major, &c->fault_major);
	out->coherent_bytes = ferryi_counter_read(&c->g_coherent_pages) << FERRYI_PAGE_SHIFT;
	out->pages_moved = ferryi_counter_read(&c->c_pages_moved);
	out->pages_reserve = ferryi_counter_read(&c->c_pages_reserve);
	out->rebuild_left_bytes = ferryi_counter_read(&c->g_rebuild_left_bytes);
	out->bytes_replicated = ferryi_counter_read(&c->c_bytes_replicated);
	out->reads_retried = ferryi_counter_read(&c->c_reads_retried);
	out->copies_lost = ferryi_counter_read(&c->c_copies_lost);
	out->copies_rebuilt = ferryi_counter_read(&c->c_copies_rebuilt);
	out->bytes_rebuilt = ferryi_counter_read(&c->c_bytes_rebuilt);
}
