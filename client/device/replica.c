/* See replica.h. */
#include "replica.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "bitmap.h"
#include "clock.h"
#include "log.h"
#include "pool_priv.h"

#define PAUSE_MS  1
#define COPYING	  (1u << 31) /* in a gate; the rest counts writers */
#define GROW_STEP (256ULL << 20 >> FERRYI_SUBSECTION_SHIFT) /* sub-sections that one request asks for at most */

/* By index, which is unique in the process. */
static struct ferryi_replica replica_table[FERRYI_MAX_POOLS_ATTACHED];

struct ferryi_lender *ferryi_pool_lender(struct ferry_pool *pool)
{
	return &pool->lender;
}

bool ferryi_pool_is_replicated(const struct ferry_pool *pool)
{
	return pool->gates;
}

static struct ferryi_replica *replica_at(const struct ferry_pool *pool, unsigned k)
{
	return atomic_load(&pool->replica[k]);
}

static bool is_in_state(const struct ferryi_replica *replica, enum ferryi_replica_state state)
{
	return replica && atomic_load(&replica->state) == (int)state;
}

struct ferryi_replica *ferryi_pool_replica(struct ferry_pool *pool, unsigned k)
{
	return replica_at(pool, k);
}

void ferryi_lender_avoid(struct ferry_pool *pool, unsigned index, uint64_t until_ns)
{
	if (pool->lender.index == index)
		atomic_store(&pool->lender.avoid_ns, until_ns);
	else
		atomic_store(&replica_table[index].lender.avoid_ns, until_ns);
}

/* ---- locations ---- */

void ferryi_pool_locations_begin(struct ferry_pool *pool)
{
	if (pool->gates)
		atomic_fetch_add(&pool->nr_samplers, 1);
}

void ferryi_pool_locations_end(struct ferry_pool *pool)
{
	if (pool->gates)
		atomic_fetch_sub(&pool->nr_samplers, 1);
}

static uint64_t nr_of(const struct ferry_pool *pool, uint64_t pfn)
{
	return (pfn - pool->pfn_first) / FERRYI_PAGES_PER_SUBSECTION;
}

bool ferryi_pool_location(const struct ferry_pool *pool, const struct ferryi_subsection *sub, uint64_t pfn, unsigned k,
			  struct ferryi_location *out)
{
	uint64_t in_sub = (pfn % FERRYI_PAGES_PER_SUBSECTION) << FERRYI_PAGE_SHIFT;

	if (k == 0) {
		*out = (struct ferryi_location){ .lender = &pool->lender,
						 .remote = sub->remote,
						 .off = sub->remote_off + in_sub,
						 .is_read_from = !ferryi_pool_any_failed(pool) ||
								 !ferryi_pool_page_failed(pool, pfn) };
		return !ferryi_lender_is_lost(&pool->lender);
	}
	const struct ferryi_replica *replica = replica_at(pool, k - 1);

	if (!replica || is_in_state(replica, FERRYI_REPLICA_LOST))
		return false;
	const struct ferryi_replica_place *place = &replica->place[nr_of(pool, pfn)];

	*out = (struct ferryi_location){ .lender = &replica->lender,
					 .remote = place->remote,
					 .off = place->off + in_sub,
					 .is_read_from = is_in_state(replica, FERRYI_REPLICA_LIVE) };
	return true;
}

/* ---- writes against copying ---- */

static _Atomic uint32_t *gate_of(const struct ferry_pool *pool, uint64_t pfn)
{
	return &pool->gates[nr_of(pool, pfn)];
}

bool ferryi_pool_write_begin(struct ferry_pool *pool, uint64_t pfn)
{
	if (!pool->gates || !(atomic_fetch_add(gate_of(pool, pfn), 1) & COPYING))
		return true;
	atomic_fetch_sub(gate_of(pool, pfn), 1);
	return false;
}

void ferryi_pool_write_end(struct ferry_pool *pool, uint64_t pfn)
{
	if (pool->gates)
		atomic_fetch_sub(gate_of(pool, pfn), 1);
}

bool ferryi_pool_is_copying(const struct ferry_pool *pool, uint64_t pfn)
{
	return pool->gates && (atomic_load(gate_of(pool, pfn)) & COPYING);
}

bool ferryi_pool_copy_begin(struct ferry_pool *pool, uint64_t pfn)
{
	return (atomic_fetch_or(gate_of(pool, pfn), COPYING) & ~COPYING) == 0;
}

void ferryi_pool_copy_end(struct ferry_pool *pool, uint64_t pfn)
{
	atomic_fetch_and(gate_of(pool, pfn), ~COPYING);
}

/* ---- a replica's life ---- */

static void on_lease_failed(void *ctx, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes)
{
	struct ferryi_replica *replica = ctx;

	(void)off_bytes;
	ferryi_warn("%s: memory failure of %llu bytes of extent %u of a replica: it is given up as a whole",
		    ferryi_session_name(ferryi_lease_session(replica->lender.lease)), (unsigned long long)len_bytes,
		    extent_index);
	ferryi_replica_give_up(replica, FERRYI_LOST_REVOKED);
}

int ferryi_replica_open(struct ferry_pool *pool, struct ferryi_lease *lease, unsigned index, struct ferryi_replica **out)
{
	struct ferryi_replica *replica = &replica_table[index];
	size_t bytes = pool->nr_reserved * sizeof(*replica->place);
	struct ferryi_replica_place *place = ferryi_arena_alloc(pool->arena, bytes);

	if (!place)
		return -ENOMEM;
	replica->lender.lease = lease;
	replica->lender.index = index;
	atomic_store(&replica->lender.lost, FERRYI_LOST_NONE);
	atomic_store(&replica->lender.is_leaving, false);
	atomic_store(&replica->lender.avoid_ns, 0);
	replica->arena = pool->arena;
	replica->pool = pool;
	replica->place = place;
	replica->place_bytes = bytes;
	replica->nr_leased = 0;
	atomic_store(&replica->state, FERRYI_REPLICA_FILLING);
	*out = replica;
	return 0;
}

void ferryi_replica_close(struct ferryi_replica **replica_p)
{
	struct ferryi_replica *replica = *replica_p;

	if (!replica)
		return;
	*replica_p = NULL;
	ferryi_lease_close(&replica->lender.lease);
	ferryi_arena_free(replica->arena, replica->place, replica->place_bytes);
	replica->place = NULL;
}

/* Leases up to nr sub-sections; a replica that is lost needs none. */
static int grow_locked(struct ferryi_replica *replica, uint64_t nr)
{
	while (replica->nr_leased < nr && !ferryi_lender_is_lost(&replica->lender)) {
		uint64_t step = ferryi_min_u64(nr - replica->nr_leased, GROW_STEP);
		unsigned first, count;
		int rc = ferryi_lease_grow(replica->lender.lease, step << FERRYI_SUBSECTION_SHIFT, &first, &count);

		if (rc)
			return rc == -EDQUOT ? -ENOMEM : rc; /* all that this user may have: as good as full */
		for (unsigned i = 0; i < count; i++) {
			const struct ferryi_extent *extent = ferryi_lease_extent(replica->lender.lease, first + i);

			for (uint64_t off = 0; off < extent->len_bytes; off += FERRYI_SUBSECTION_SIZE)
				replica->place[replica->nr_leased++] =
					(struct ferryi_replica_place){ .remote = extent->remote, .off = off };
		}
	}
	return 0;
}

/* Gives back what was leased beyond nr, by whole extents: since there were so many. */
static void shrink_locked(struct ferryi_replica *replica, uint64_t nr)
{
	struct ferryi_lease *lease = replica->lender.lease;

	for (unsigned i = ferryi_lease_extent_count(lease); i-- > 0 && replica->nr_leased > nr;) {
		uint64_t len = ferryi_lease_extent(lease, i)->len_bytes;

		if (len && ferryi_lease_shrink(lease, i))
			ferryi_warn("replica at %s: %llu bytes of it are not used: %s",
				    ferryi_session_name(ferryi_lease_session(lease)), (unsigned long long)len,
				    ferryi_control_last_error());
		replica->nr_leased -= len >> FERRYI_SUBSECTION_SHIFT;
	}
}

static bool give_up_unless_last(struct ferryi_replica *replica);

int ferryi_replicas_grow_locked(struct ferry_pool *pool, uint64_t nr_before, uint64_t nr)
{
	int rc = 0;

	ferryi_assert_held(&pool->grow_lock);
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS && !rc; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (!replica || is_in_state(replica, FERRYI_REPLICA_LOST))
			continue;
		rc = grow_locked(replica, nr);
		/* Its session is lost, or its server drains: it is gone in a moment anyway. */
		if ((rc == -ENOTCONN || rc == -ESHUTDOWN) && give_up_unless_last(replica))
			rc = 0;
	}
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS && rc; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (replica && !is_in_state(replica, FERRYI_REPLICA_LOST))
			shrink_locked(replica, nr_before);
	}
	return rc;
}

static unsigned missing_locked(const struct ferry_pool *pool, bool filled_ones)
{
	unsigned there = !ferryi_lender_is_lost(&pool->lender) && !atomic_load(&pool->lender.is_leaving);

	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		const struct ferryi_replica *replica = replica_at(pool, k);

		if (replica && !atomic_load(&replica->lender.is_leaving))
			there += is_in_state(replica, FERRYI_REPLICA_LIVE) ||
				 (!filled_ones && is_in_state(replica, FERRYI_REPLICA_FILLING));
	}
	return there < pool->copies && !ferryi_pool_lost(pool) ? pool->copies - there : 0;
}

static bool publish_locked(struct ferry_pool *pool, struct ferryi_replica *replica, bool is_new)
{
	ferryi_assert_held(&pool->lock);
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		if (replica_at(pool, k))
			continue;
		atomic_store(&replica->state, is_new && !pool->nr_used ? FERRYI_REPLICA_LIVE : FERRYI_REPLICA_FILLING);
		atomic_store(&pool->replica[k], replica);
		return true;
	}
	return false;
}

int ferryi_replica_join(struct ferryi_replica *replica, bool is_new)
{
	struct ferry_pool *pool = replica->pool;

	ferryi_mutex_lock(&pool->grow_lock);
	int rc = grow_locked(replica, pool->nr_leased); /* nobody changes that while growth is ours */

	if (!rc) {
		ferryi_mutex_lock(&pool->lock);
		if (!missing_locked(pool, false) || !publish_locked(pool, replica, is_new))
			rc = -ENOSPC;
		ferryi_mutex_unlock(&pool->lock);
	}
	ferryi_mutex_unlock(&pool->grow_lock);
	if (!rc)
		ferryi_lease_on_failure(replica->lender.lease, on_lease_failed, replica);
	return rc;
}

bool ferryi_replica_filled(struct ferryi_replica *replica)
{
	struct ferry_pool *pool = replica->pool;

	ferryi_mutex_lock(&pool->lock);
	bool good = is_in_state(replica, FERRYI_REPLICA_FILLING) && !ferryi_pool_lost(pool);

	if (good)
		atomic_store(&replica->state, FERRYI_REPLICA_LIVE);
	ferryi_mutex_unlock(&pool->lock);
	return good;
}

struct ferryi_replica *ferryi_replica_take_off(struct ferry_pool *pool)
{
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (!is_in_state(replica, FERRYI_REPLICA_LOST))
			continue;
		atomic_store(&pool->replica[k], NULL);
		while (atomic_load(&pool->nr_samplers)) /* a submission each, or an operation of an API caller's */
			poll(NULL, 0, PAUSE_MS);
		return replica;
	}
	return NULL;
}

/* ---- loss ---- */

/* Something is read from still once the session (its own lease's too) or the replica is lost; either may be NULL. */
static bool survives_locked(const struct ferry_pool *pool, const struct ferryi_session *session,
			    const struct ferryi_replica *without)
{
	bool any = !ferryi_lender_is_lost(&pool->lender) && ferryi_lease_session(pool->lender.lease) != session;

	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		const struct ferryi_replica *replica = replica_at(pool, k);

		any = any || (is_in_state(replica, FERRYI_REPLICA_LIVE) && replica != without &&
			      ferryi_lease_session(replica->lender.lease) != session);
	}
	return any;
}

static unsigned lose_replica_locked(struct ferryi_replica *replica, enum ferryi_lost_reason reason)
{
	if (is_in_state(replica, FERRYI_REPLICA_LOST))
		return 0;
	atomic_store(&replica->lender.lost, (int)reason);
	atomic_store(&replica->state, FERRYI_REPLICA_LOST);
	return 1;
}

/* The pool first: who finds no location left is to find why. */
static void lose_pool_locked(struct ferry_pool *pool, enum ferryi_lost_reason reason)
{
	ferryi_assert_held(&pool->lock);
	if (!ferryi_pool_lost(pool))
		ferryi_pool_set_lost(pool, reason);
}

void ferryi_replica_give_up(struct ferryi_replica *replica, enum ferryi_lost_reason reason)
{
	struct ferry_pool *pool = replica->pool;

	ferryi_mutex_lock(&pool->lock);
	if (!survives_locked(pool, NULL, replica))
		lose_pool_locked(pool, reason);
	lose_replica_locked(replica, reason);
	ferryi_mutex_unlock(&pool->lock);
}

static bool give_up_unless_last(struct ferryi_replica *replica)
{
	struct ferry_pool *pool = replica->pool;

	ferryi_mutex_lock(&pool->lock);
	bool can = survives_locked(pool, NULL, replica);

	if (can)
		lose_replica_locked(replica, FERRYI_LOST_CLOSED);
	ferryi_mutex_unlock(&pool->lock);
	return can;
}

unsigned ferryi_pool_session_lost(struct ferry_pool *pool, const struct ferryi_session *session, enum ferryi_lost_reason reason)
{
	unsigned nr_lost = 0;

	ferryi_mutex_lock(&pool->lock);
	if (!survives_locked(pool, session, NULL))
		lose_pool_locked(pool, reason);
	if (ferryi_lease_session(pool->lender.lease) == session && !ferryi_lender_is_lost(&pool->lender)) {
		atomic_store(&pool->lender.lost, (int)reason);
		nr_lost++;
	}
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (replica && ferryi_lease_session(replica->lender.lease) == session)
			nr_lost += lose_replica_locked(replica, reason);
	}
	ferryi_mutex_unlock(&pool->lock);
	return nr_lost;
}

bool ferryi_pool_session_leaves(struct ferry_pool *pool, const struct ferryi_session *session)
{
	bool any = false;

	ferryi_mutex_lock(&pool->lock);
	if (pool->gates && ferryi_lease_session(pool->lender.lease) == session && !ferryi_lender_is_lost(&pool->lender)) {
		atomic_store(&pool->lender.is_leaving, true);
		any = true;
	}
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (replica && ferryi_lease_session(replica->lender.lease) == session) {
			atomic_store(&replica->lender.is_leaving, true);
			any = true;
		}
	}
	ferryi_mutex_unlock(&pool->lock);
	return any;
}

bool ferryi_pool_drop_leaving(struct ferry_pool *pool)
{
	bool is_own = false;

	ferryi_mutex_lock(&pool->lock);
	bool can = !ferryi_pool_lost(pool) && !missing_locked(pool, true);

	for (unsigned k = 0; can && k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = replica_at(pool, k);

		if (replica && atomic_load(&replica->lender.is_leaving))
			lose_replica_locked(replica, FERRYI_LOST_CLOSED);
	}
	if (can && atomic_load(&pool->lender.is_leaving) && !ferryi_lender_is_lost(&pool->lender)) {
		atomic_store(&pool->lender.lost, FERRYI_LOST_CLOSED);
		is_own = true;
	}
	ferryi_mutex_unlock(&pool->lock);
	return is_own;
}

/* ---- what is there ---- */

unsigned ferryi_pool_missing(struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	unsigned missing = missing_locked(pool, false);

	ferryi_mutex_unlock(&pool->lock);
	return missing;
}

unsigned ferryi_pool_incomplete(struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	unsigned missing = missing_locked(pool, true);

	ferryi_mutex_unlock(&pool->lock);
	return missing;
}

bool ferryi_pool_next_used(struct ferry_pool *pool, uint64_t *nr)
{
	ferryi_mutex_lock(&pool->lock);
	uint64_t at = ferryi_bitmap_next_set(pool->used_map, pool->nr_leased, *nr);
	bool any = at < pool->nr_leased;

	ferryi_mutex_unlock(&pool->lock);
	*nr = at;
	return any;
}

static bool is_at(const struct ferryi_lender *lender, const char *server_id)
{
	return !ferryi_lender_is_lost(lender) &&
	       strcmp(ferryi_session_server_id(ferryi_lease_session(lender->lease)), server_id) == 0;
}

bool ferryi_pool_is_at(struct ferry_pool *pool, const char *server_id)
{
	bool is = is_at(&pool->lender, server_id);

	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		const struct ferryi_replica *replica = replica_at(pool, k);

		is = is || (replica && is_at(&replica->lender, server_id));
	}
	return is;
}
