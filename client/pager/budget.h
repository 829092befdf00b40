/*
 * The hard budget: pages of local RAM that managed pages may hold. A page is
 * charged before it can become resident and uncharged after its memory has
 * gone back to the kernel, so the sum never passes the limit.
 *
 * `slack` pages below the limit are kept for rescues: a page that leaves
 * staging is in RAM twice until its batch is freed. All atomic; fault path.
 */
#ifndef FERRYI_PAGER_BUDGET_H
#define FERRYI_PAGER_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ferryi_budget {
	/* atomic: changed by ferry_set_budget, read by everyone */
	_Atomic uint64_t limit;
	_Atomic uint64_t low;  /* evictors wake when fewer pages are free */
	_Atomic uint64_t high; /* and go on until this many are */
	/* immutable */
	uint64_t slack;
	/* atomic: the sum itself */
	_Atomic uint64_t charged;
	_Atomic uint64_t peak;
	_Atomic unsigned unlimited; /* ferry_close and unadopt bring everything home; counted */
};

void ferryi_budget_init(struct ferryi_budget *budget, uint64_t limit_pages, uint64_t slack_pages);
void ferryi_budget_set_limit(struct ferryi_budget *budget, uint64_t limit_pages);

/* Charges n pages, or nothing: false when they do not fit under limit - slack. */
bool ferryi_budget_charge(struct ferryi_budget *budget, uint64_t n);
/*
 * Charges up to n and says how many. Near the `low` mark it leaves most of what is free alone (read-ahead must not cause
 * waits); not all, as a stream whose every page is a fault takes the rest as fast, and waits for each.
 */
uint64_t ferryi_budget_charge_spare(struct ferryi_budget *budget, uint64_t n);
/* For rescues: may use the slack. */
void ferryi_budget_charge_slack(struct ferryi_budget *budget, uint64_t n);
void ferryi_budget_uncharge(struct ferryi_budget *budget, uint64_t n);

/* Pages free under limit - slack. */
uint64_t ferryi_budget_free(const struct ferryi_budget *budget);

static inline bool ferryi_budget_is_low(const struct ferryi_budget *budget)
{
	return ferryi_budget_free(budget) < atomic_load_explicit(&budget->low, memory_order_relaxed);
}

#endif
