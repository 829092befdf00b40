/* See choose.h. */
#include "choose.h"

#include <errno.h>
#include <stdio.h>

#include "clock.h"
#include "log.h"
#include "pager_priv.h"

#define RESERVE_AHEAD 16u /* sub-sections: 32 MiB of a pool that eviction may bind without asking its server */
#define SHORT_MS      500 /* so long late blocks wait for the keeper to lease more where they belong: a server that hangs holds up no more */

/* Pools that can be asked; those that have refused are dropped. */
struct candidates {
	struct ferryi_choice at[FERRYI_MAX_POOLS_ATTACHED];
	unsigned nr;
	enum ferryi_policy policy;
	uint64_t stripe;
	bool are_plain;
};

void ferryi_choose_reset(struct ferryi_pager *pager, unsigned index)
{
	ferryi_choose_tell(pager, index, 0, FERRYI_DISTANCE_UNKNOWN);
	atomic_store(&pager->chooser.pool[index].short_since_ns, 0);
	atomic_store(&pager->chooser.pool[index].is_wanted, false);
	atomic_store(&pager->chooser.pool[index].is_full, false);
}

void ferryi_choose_tell(struct ferryi_pager *pager, unsigned index, uint64_t capacity_bytes, uint32_t distance)
{
	atomic_store(&pager->chooser.pool[index].capacity_bytes, capacity_bytes);
	atomic_store(&pager->chooser.pool[index].distance, distance);
}

static bool is_well(const struct ferry_pool *pool)
{
	return !ferryi_pool_lost(pool) && !ferryi_pool_is_killed(pool) && ferryi_pool_is_paged_to(pool);
}

static bool is_plain(const struct ferry_pool *pool)
{
	return !ferryi_pool_owner(pool) && !ferryi_pool_ops(pool) && !ferryi_pool_is_named(pool);
}

static uint64_t room_of(struct ferryi_pager *pager, unsigned index, struct ferry_pool *pool)
{
	uint64_t capacity = atomic_load(&pager->chooser.pool[index].capacity_bytes);
	uint64_t used = ferryi_pool_used_bytes(pool);

	if (!capacity)
		return ferryi_pool_room_bytes(pool);
	return capacity > used ? capacity - used : 0;
}

static void gather(struct ferryi_pager *pager, enum ferryi_policy policy, bool plain, struct candidates *c)
{
	c->nr = 0;
	c->are_plain = plain;
	c->policy = plain ? policy : FERRYI_POLICY_FILL;
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		if (is_well(pool) && is_plain(pool) == plain)
			c->at[c->nr++] = (struct ferryi_choice){
				.index = i,
				.room_bytes = policy == FERRYI_POLICY_WEIGHTED ? room_of(pager, i, pool) : 0,
				.distance = atomic_load(&pager->chooser.pool[i].distance),
			};
		ferryi_pager_pool_end(pager, i);
	}
}

static void drop(struct candidates *c, unsigned i)
{
	c->nr--;
	for (; i < c->nr; i++)
		c->at[i] = c->at[i + 1];
}

static int take(struct ferryi_pager *pager, unsigned index, unsigned nr, bool may_grow, uint32_t *subsections)
{
	struct ferry_pool *pool = ferryi_pager_pool_begin(pager, index);
	int rc = -ENXIO;

	if (!pool)
		return rc;
	if (is_well(pool))
		rc = ferryi_pool_take(pool, nr, may_grow, subsections);
	ferryi_pager_pool_end(pager, index);
	return rc;
}

/* From whom the policy names, else from the others, plain ones first. */
static int take_one(struct ferryi_pager *pager, struct candidates *c, uint64_t stripe, uint32_t *subsection)
{
	int rc = -ENXIO;

	for (;;) {
		while (c->nr) {
			unsigned i = ferryi_stripe_pick(c->policy, stripe, c->at, c->nr);
			int one = take(pager, c->at[i].index, 1, true, subsection);

			if (!one)
				return 0;
			rc = one == -ENXIO ? rc : one;
			drop(c, i);
		}
		if (!c->are_plain)
			return rc;
		gather(pager, c->policy, false, c);
	}
}

static uint64_t stripe_of(const struct ferryi_object *object, size_t block)
{
	return object->first_stripe + block / object->stripe_blocks;
}

/* Each plain pool's share of the blocks, in one piece where it has that much; what stays open is for take_one. */
static void take_shares(struct ferryi_pager *pager, const struct ferryi_object *object, size_t first, unsigned nr,
			const struct candidates *c, uint32_t *subsections)
{
	uint8_t choice[FERRYI_CHOOSE_BATCH];
	uint32_t got[FERRYI_CHOOSE_BATCH];

	for (unsigned b = 0; b < nr; b++)
		choice[b] = (uint8_t)ferryi_stripe_pick(c->policy, stripe_of(object, first + b), c->at, c->nr);
	for (unsigned i = 0; i < c->nr; i++) {
		unsigned want = 0, next = 0;

		for (unsigned b = 0; b < nr; b++)
			want += choice[b] == i;
		if (!want || take(pager, c->at[i].index, want, true, got))
			continue;
		for (unsigned b = 0; b < nr; b++) {
			if (choice[b] == i)
				subsections[b] = got[next++];
		}
	}
}

int ferryi_choose_many(struct ferryi_pager *pager, const struct ferryi_object *object, size_t first, unsigned nr,
		       uint32_t *subsections)
{
	struct candidates c;
	int rc = 0;

	for (unsigned b = 0; b < nr; b++)
		subsections[b] = FERRYI_NO_SUBSECTION;
	gather(pager, object->policy, true, &c);
	if (c.nr)
		take_shares(pager, object, first, nr, &c, subsections);
	for (unsigned b = 0; b < nr && !rc; b++) {
		if (subsections[b] == FERRYI_NO_SUBSECTION)
			rc = take_one(pager, &c, stripe_of(object, first + b), &subsections[b]);
	}
	return rc;
}

int ferryi_choose_any(struct ferryi_pager *pager, uint32_t *subsection)
{
	struct candidates c;

	gather(pager, pager->attr.policy, true, &c);
	return take_one(pager, &c, atomic_fetch_add(&pager->chooser.next_stripe, 1), subsection);
}

/* ---- late: from what is leased ---- */

static void want_more(struct ferryi_pager *pager, unsigned index)
{
	if (!atomic_exchange(&pager->chooser.pool[index].is_wanted, true))
		ferryi_keeper_kick(pager->keeper);
}

/* It had nothing: is it too early to go elsewhere? */
static bool is_worth_waiting(struct ferryi_pager *pager, unsigned index)
{
	uint64_t now = ferryi_now_ns(), since = 0;
	_Atomic uint64_t *at = &pager->chooser.pool[index].short_since_ns;

	want_more(pager, index);
	if (atomic_load(&pager->chooser.pool[index].is_full))
		return false;
	if (atomic_compare_exchange_strong(at, &since, now))
		return true;
	return now < since + SHORT_MS * FERRYI_NS_PER_MS;
}

static int take_leased(struct ferryi_pager *pager, unsigned index, uint32_t *subsection)
{
	int rc = take(pager, index, 1, false, subsection);
	struct ferry_pool *pool = rc ? NULL : ferryi_pager_pool_begin(pager, index);

	if (pool) {
		atomic_store(&pager->chooser.pool[index].short_since_ns, 0);
		if (ferryi_pool_leased_bytes(pool) - ferryi_pool_used_bytes(pool) <
		    (RESERVE_AHEAD / 2) * FERRYI_SUBSECTION_SIZE)
			want_more(pager, index);
		ferryi_pager_pool_end(pager, index);
	}
	return rc;
}

/* A neighbour of the same stripe is bound: the pool of that, which may have changed its turn since; else -1. */
static int pool_of_neighbour(struct ferryi_pager *pager, const struct ferryi_object *object, size_t nr)
{
	size_t begin = nr - nr % object->stripe_blocks;
	size_t end = ferryi_min_u64(begin + object->stripe_blocks, object->nr_blocks);

	for (size_t b = nr > begin ? nr - 1 : nr + 1; b <= nr + 1 && b < end; b += 2) {
		uint64_t pfn = ferryi_object_pfn(object, b * FERRYI_PAGES_PER_BLOCK);
		const struct ferryi_subsection *sub = pfn ? ferryi_subsection_of(pager->model, pfn) : NULL;
		const struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;

		if (pool && is_well(pool) && is_plain(pool))
			return (int)ferryi_pool_index(pool);
	}
	return -1;
}

int ferryi_choose_now(struct ferryi_pager *pager, const struct ferryi_object *object, size_t nr, uint32_t *subsection)
{
	int neighbour = object->stripe_blocks > 1 ? pool_of_neighbour(pager, object, nr) : -1;
	struct candidates c;
	int rc = -ENXIO;

	if (neighbour >= 0 && take_leased(pager, (unsigned)neighbour, subsection) == 0)
		return 0;
	for (unsigned tier = 0; tier < 2; tier++) {
		gather(pager, object->policy, tier == 0, &c);
		while (c.nr) {
			unsigned i = ferryi_stripe_pick(c.policy, stripe_of(object, nr), c.at, c.nr);
			int one = take_leased(pager, c.at[i].index, subsection);

			if (!one || (one == -ENOMEM && is_worth_waiting(pager, c.at[i].index)))
				return one;
			rc = one == -ENXIO ? rc : one;
			drop(&c, i);
		}
	}
	if (rc == -ENOMEM)
		atomic_store(&pager->chooser.starved, true);
	return rc;
}

/* ---- the keeper's side ---- */

/* 0 also when it has enough. */
static int reserve(struct ferryi_pager *pager, unsigned index, struct ferry_pool *pool)
{
	int rc = ferryi_pool_reserve(pool, RESERVE_AHEAD);

	atomic_store(&pager->chooser.pool[index].is_full, rc != 0);
	if (!rc)
		atomic_store(&pager->chooser.pool[index].short_since_ns, 0);
	return rc;
}

static void tell_starved(struct ferryi_pager *pager)
{
	char text[1024];

	if (!pager->chooser.told)
		ferryi_warn("the pools are full: what was mapped NORESERVE cannot leave RAM, and faults wait, up to %u ms, until "
			    "there is room again (%s)", pager->attr.fault_timeout_ms,
			    ferryi_choose_text(pager, text, sizeof(text)));
	pager->chooser.told = true;
}

/* Pools that were wanted; and, where none was, the first that can. */
void ferryi_choose_reserve_ahead(struct ferryi_pager *pager)
{
	bool any = false;

	for (unsigned tier = 0; tier < 2; tier++) {
		for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
			struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

			if (!pool)
				continue;
			if (is_well(pool) && is_plain(pool) == (tier == 0) &&
			    (atomic_exchange(&pager->chooser.pool[i].is_wanted, false) || !any))
				any = reserve(pager, i, pool) == 0 || any;
			ferryi_pager_pool_end(pager, i);
		}
	}
	if (any)
		pager->chooser.told = false;
	else if (atomic_exchange(&pager->chooser.starved, false))
		tell_starved(pager);
}

char *ferryi_choose_text(struct ferryi_pager *pager, char *buf, size_t buf_len)
{
	size_t len = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		const struct ferryi_lease *lease = ferryi_pool_lease(pool);

		if (ferryi_pool_is_paged_to(pool) && len < buf_len)
			len += (size_t)snprintf(buf + len, buf_len - len, "%s%s %llu of %llu MiB%s", len ? ", " : "",
						ferryi_session_name(ferryi_lease_session(lease)),
						(unsigned long long)ferryi_pool_used_bytes(pool) >> 20,
						(unsigned long long)ferryi_lease_pool_size(lease) >> 20,
						ferryi_pool_lost(pool) ? ", lost" : "");
		ferryi_pager_pool_end(pager, i);
	}
	return buf;
}
