/* See budget.h. */
#include "budget.h"

#include "arith.h"

#define SPARE_SHARE   32u   /* of what is free */
#define MAX_LOW_PAGES 2048u /* 8 MiB free are ahead of any burst that one evictor cannot follow */

void ferryi_budget_init(struct ferryi_budget *budget, uint64_t limit_pages, uint64_t slack_pages)
{
	budget->slack = slack_pages;
	atomic_init(&budget->charged, 0);
	atomic_init(&budget->peak, 0);
	atomic_init(&budget->unlimited, 0);
	ferryi_budget_set_limit(budget, limit_pages);
}

void ferryi_budget_set_limit(struct ferryi_budget *budget, uint64_t limit_pages)
{
	uint64_t low = ferryi_min_u64((limit_pages - budget->slack) / 16, MAX_LOW_PAGES);

	atomic_store(&budget->limit, limit_pages);
	atomic_store(&budget->low, low);
	atomic_store(&budget->high, low * 2);
}

static void note_peak(struct ferryi_budget *budget, uint64_t charged)
{
	uint64_t peak = atomic_load_explicit(&budget->peak, memory_order_relaxed);

	while (charged > peak && !atomic_compare_exchange_weak_explicit(&budget->peak, &peak, charged,
									memory_order_relaxed, memory_order_relaxed))
		;
}

uint64_t ferryi_budget_free(const struct ferryi_budget *budget)
{
	uint64_t limit = atomic_load_explicit(&budget->limit, memory_order_relaxed) - budget->slack;
	uint64_t charged = atomic_load_explicit(&budget->charged, memory_order_relaxed);

	if (atomic_load_explicit(&budget->unlimited, memory_order_relaxed))
		return UINT32_MAX;
	return charged < limit ? limit - charged : 0;
}

/*
 * Takes between 1 and n pages such that `keep` stay free, or a small part of what is; 0 if none can be had, or (all)
 * not all.
 */
static uint64_t take(struct ferryi_budget *budget, uint64_t n, uint64_t keep, bool all)
{
	uint64_t limit = atomic_load_explicit(&budget->limit, memory_order_relaxed) - budget->slack;
	uint64_t charged = atomic_load_explicit(&budget->charged, memory_order_relaxed);

	if (atomic_load_explicit(&budget->unlimited, memory_order_relaxed))
		limit = UINT64_MAX / 2;
	for (;;) {
		uint64_t room = charged < limit ? limit - charged : 0;
		uint64_t spare = room > keep ? ferryi_max_u64(room - keep, room / SPARE_SHARE) : room / SPARE_SHARE;
		uint64_t got = ferryi_min_u64(keep ? spare : room, n);

		if (!got || (all && got < n))
			return 0;
		if (atomic_compare_exchange_weak_explicit(&budget->charged, &charged, charged + got,
							  memory_order_relaxed, memory_order_relaxed)) {
			note_peak(budget, charged + got);
			return got;
		}
	}
}

bool ferryi_budget_charge(struct ferryi_budget *budget, uint64_t n)
{
	return take(budget, n, 0, true) == n;
}

uint64_t ferryi_budget_charge_spare(struct ferryi_budget *budget, uint64_t n)
{
	return take(budget, n, atomic_load_explicit(&budget->low, memory_order_relaxed) / 2, false);
}

void ferryi_budget_charge_slack(struct ferryi_budget *budget, uint64_t n)
{
	note_peak(budget, atomic_fetch_add_explicit(&budget->charged, n, memory_order_relaxed) + n);
}

void ferryi_budget_uncharge(struct ferryi_budget *budget, uint64_t n)
{
	atomic_fetch_sub_explicit(&budget->charged, n, memory_order_relaxed);
}
