/*
 * A pool: one lease's extents as sub-sections of a PFN window. Growth leases
 * extents in steps and hot-adds their sub-sections at the window's end. The
 * window is larger than the server's pool, which may grow too.
 *
 * Pool structs are type-stable: they stay in a table of the process and are
 * used again, so that a look-up by PFN may meet a pool that is being detached
 * (the kernel has RCU for that):
 *
 *   ferryi_pool_get_of(pfn)                ferryi_pool_close
 *   ------------------------------------   --------------------------------------
 *   pool = sub-section's pool (acquire)
 *                                          refs = 0
 *                                          sub-sections invalid; struct used again
 *   try_get(pool): fails at refs 0
 *   got it: still that sub-section's pool? else put it and return NULL
 */
#include "pool_priv.h"

#include <errno.h>

#include "altmap.h"
#include "bitmap.h"
#include "clock.h"
#include "ferry.h"
#include "log.h"

#define GROW_STEP     (64ULL << 20) /* bytes: one control round trip and one registration for this much */
#define GROWTH_FACTOR 4u	    /* the server's pool may become this much larger while it is attached, ... */
#define GROWTH_LEAST  (2ULL << 30)  /* ... or so large, bytes */
#define ASK_AGAIN_MS  100

/* By index, which is unique in the process. */
static struct ferry_pool pool_table[FERRYI_MAX_POOLS_ATTACHED];

static size_t holds_bytes(const struct ferry_pool *pool)
{
	return pool->nr_reserved * sizeof(*pool->holds);
}

static size_t gates_bytes(const struct ferry_pool *pool)
{
	return pool->nr_reserved * sizeof(*pool->gates);
}

static size_t failed_map_bytes(const struct ferry_pool *pool)
{
	return FERRYI_BITMAP_WORDS(pool->nr_reserved * FERRYI_PAGES_PER_SUBSECTION) * sizeof(uint64_t);
}

/* ---- the altmap: what it grants for descriptors is accounted as the kernel does ---- */

#define DESCRIPTOR_PFNS (FERRYI_PAGES_PER_SUBSECTION * sizeof(struct ferry_page) / FERRYI_PAGE_SIZE) /* of a sub-section */
#define RECORD_PFNS	1u /* what describes them */
_Static_assert(sizeof(struct ferry_page) == FERRYI_DESCRIPTOR_BYTES, "descriptors in the pool take what is accounted");

/* ASSUMPTION: the lock is held, or nobody else has the pool yet. */
static bool altmap_is_full(const struct ferry_pool *pool)
{
	return pool->altmap && pool->altmap->alloc + DESCRIPTOR_PFNS > pool->altmap->free;
}

/* Window and padding are known now. -EINVAL: no page would be left. */
static int altmap_setup(struct ferry_pool *pool)
{
	struct ferry_altmap *altmap = pool->altmap;
	uint64_t nr_pages = pool->nr_window * FERRYI_PAGES_PER_SUBSECTION;

	pool->nr_aside = 0;
	if (!altmap)
		return 0;
	if (altmap->reserve >= nr_pages || altmap->free >= nr_pages - altmap->reserve)
		return -EINVAL;
	uint64_t offset = altmap->reserve + altmap->free;

	pool->nr_aside = (offset + FERRYI_PAGES_PER_SUBSECTION - 1) / FERRYI_PAGES_PER_SUBSECTION;
	if (pool->nr_aside == pool->nr_window)
		return -EINVAL;
	altmap->base_pfn = pool->pfn_first;
	altmap->end_pfn = pool->pfn_first + nr_pages - 1;
	altmap->align = pool->nr_aside * FERRYI_PAGES_PER_SUBSECTION - offset;
	altmap->alloc = 0;
	return 0;
}

/* With a name they are in the pool's memory. The window is known, and what of it was kept. -EINVAL: no page would be left. */
static int open_descriptors(struct ferry_pool *pool)
{
	if (!pool->altmap || !ferryi_pool_is_named(pool))
		return 0;
	if (pool->altmap->free < RECORD_PFNS + DESCRIPTOR_PFNS)
		return -EINVAL;
	struct ferryi_altmap_attr attr = { .arena = pool->arena,
					   .model = pool->model,
					   .pfn_first = pool->pfn_first,
					   .nr_subsections = pool->nr_reserved,
					   .nr_aside = pool->nr_aside,
					   .nr_kept = pool->nr_kept,
					   .reserve = pool->altmap->reserve,
					   .free = pool->altmap->free };

	int rc = ferryi_altmap_open(&attr, &pool->descriptors);

	if (!rc)
		pool->altmap->alloc = RECORD_PFNS;
	return rc;
}

/* The next sub-section of the window: a place for pages, or set aside. */
static int add_subsection_locked(struct ferry_pool *pool, const struct ferryi_subsection *info)
{
	uint64_t pfn = pool->pfn_first + pool->nr_leased * FERRYI_PAGES_PER_SUBSECTION;

	if (pool->nr_leased < pool->nr_aside || altmap_is_full(pool)) {
		pool->nr_retired++; /* no page of the pool */
	} else {
		int rc = ferryi_subsection_populate(pool->model, pfn, info);

		if (rc)
			return rc;
		if (pool->altmap)
			pool->altmap->alloc += DESCRIPTOR_PFNS;
		if (pool->nr_leased < pool->nr_kept || ferryi_pool_subsection_failed(pool, pfn))
			pool->nr_retired++; /* pages, but nobody's to take */
		else
			ferryi_bitmap_clear(pool->used_map, pool->nr_leased);
	}
	pool->nr_leased++;
	return 0;
}

static void remove_subsections(struct ferry_pool *pool)
{
	for (uint64_t i = 0; i < pool->nr_leased; i++) {
		uint64_t pfn = pool->pfn_first + i * FERRYI_PAGES_PER_SUBSECTION;

		if (pool->altmap && ferryi_subsection_of(pool->model, pfn))
			pool->altmap->alloc -= DESCRIPTOR_PFNS;
		ferryi_subsection_depopulate(pool->model, pfn);
	}
	if (pool->descriptors)
		pool->altmap->alloc -= RECORD_PFNS;
	if (pool->altmap && pool->altmap->alloc)
		ferryi_error("pool %u: failed to free all reserved pages, %llu are left", pool->lender.index,
			     (unsigned long long)pool->altmap->alloc);
}

static int add_extent_locked(struct ferry_pool *pool, const struct ferryi_extent *extent)
{
	uint64_t nr = extent->len_bytes >> FERRYI_SUBSECTION_SHIFT;

	ferryi_assert_held(&pool->lock);
	if (nr > pool->nr_reserved - pool->nr_leased)
		return -ENOMEM;
	int memfd = ferryi_pool_is_coherent(pool) ?
			    ferryi_peer_memfd(ferryi_lease_peer(pool->lender.lease), &extent->remote) : -1;

	for (uint64_t i = 0; i < nr; i++) {
		struct ferryi_subsection info = { .pool = pool,
						  .remote = extent->remote,
						  .remote_off = i << FERRYI_SUBSECTION_SHIFT,
						  .memfd = memfd };
		int rc = add_subsection_locked(pool, &info);

		if (rc)
			return rc;
	}
	return 0;
}

/* What the server says it has now; never less than what is leased, never more than the window. */
static void follow_server_locked(struct ferry_pool *pool)
{
	uint64_t nr = ferryi_lease_pool_size(pool->lender.lease) >> FERRYI_SUBSECTION_SHIFT;

	ferryi_assert_held(&pool->lock);
	atomic_store(&pool->nr_window, ferryi_max_u64(ferryi_min_u64(nr, pool->nr_reserved), pool->nr_leased));
}

/*
 * PFNs and bitmap for all that the lease may come to hold: address space only.
 * The server's pool, and room for its growth; an altmap describes one size.
 */
static int reserve_window(struct ferry_pool *pool)
{
	uint64_t nr_pool = ferryi_lease_pool_size(pool->lender.lease) >> FERRYI_SUBSECTION_SHIFT;
	uint64_t nr_most = ferryi_max_u64(GROWTH_FACTOR * nr_pool, GROWTH_LEAST >> FERRYI_SUBSECTION_SHIFT);
	int rc = -ENOMEM;

	atomic_store(&pool->nr_window, nr_pool);
	pool->nr_reserved = pool->altmap ? nr_pool : nr_most;
	while (rc) {
		pool->map_bytes = FERRYI_BITMAP_WORDS(pool->nr_reserved) * sizeof(uint64_t);
		pool->used_map = ferryi_arena_alloc(pool->arena, pool->map_bytes);
		if (pool->used_map) {
			rc = ferryi_pfn_window_alloc(pool->model, pool->nr_reserved, &pool->pfn_first);
			if (!rc)
				break;
			ferryi_arena_free(pool->arena, pool->used_map, pool->map_bytes);
		}
		if (pool->nr_reserved == nr_pool)
			return -ENOMEM;
		pool->nr_reserved = nr_pool; /* little address space: it cannot grow */
	}
	ferryi_bitmap_set_range(pool->used_map, 0, pool->nr_reserved);
	return 0;
}

static void on_lease_failed(void *ctx, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes)
{
	ferryi_pool_set_failed(ctx, extent_index, off_bytes, len_bytes);
}

int ferryi_pool_open(struct ferryi_memory_model *model, struct ferryi_arena *arena, const struct ferryi_pool_attr *attr,
		     struct ferry_pool **out)
{
	struct ferry_pool *pool = &pool_table[attr->index];
	int rc = -ENOMEM;

	ferryi_mutex_init(&pool->grow_lock, FERRYI_RANK_POOL_GROW);
	ferryi_mutex_init(&pool->lock, FERRYI_RANK_POOL);
	pool->model = model;
	pool->arena = arena;
	pool->lender.lease = attr->lease;
	pool->lender.index = attr->index;
	pool->type = attr->type;
	pool->owner = attr->owner;
	pool->data = attr->data;
	pool->ops = attr->ops;
	pool->altmap = attr->altmap;
	pool->nr_leased = pool->nr_used = pool->nr_retired = pool->nr_released = pool->next = 0;
	pool->descriptors = NULL;
	pool->ask_ns = 0;
	pool->copies = attr->copies ? attr->copies : 1;
	pool->gates = NULL;
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++)
		atomic_store(&pool->replica[k], NULL);
	atomic_store(&pool->nr_samplers, 0);
	atomic_store(&pool->lender.lost, FERRYI_LOST_NONE);
	atomic_store(&pool->lender.is_leaving, false);
	atomic_store(&pool->lender.avoid_ns, 0);
	atomic_store(&pool->lost, 0);
	atomic_store(&pool->failed_map, NULL);
	rc = reserve_window(pool);
	if (rc)
		goto err_pool;
	pool->holds = ferryi_arena_alloc(arena, holds_bytes(pool));
	if (attr->copies)
		pool->gates = ferryi_arena_alloc(arena, gates_bytes(pool));
	rc = pool->holds && (!attr->copies || pool->gates) ? 0 : -ENOMEM;
	if (rc)
		goto err_window;
	rc = altmap_setup(pool);
	if (rc)
		goto err_window;
	pool->nr_kept = 0;
	for (unsigned i = 0; i < ferryi_lease_kept_extents(pool->lender.lease); i++)
		pool->nr_kept += ferryi_lease_extent(pool->lender.lease, i)->len_bytes >> FERRYI_SUBSECTION_SHIFT;
	rc = open_descriptors(pool);
	if (rc)
		goto err_window;

	ferryi_mutex_lock(&pool->lock);
	for (unsigned i = 0; !rc && i < ferryi_lease_extent_count(pool->lender.lease); i++)
		rc = add_extent_locked(pool, ferryi_lease_extent(pool->lender.lease, i));
	ferryi_mutex_unlock(&pool->lock);
	if (rc)
		goto err_window;
	atomic_store(&pool->refs, 1);
	ferryi_lease_on_failure(pool->lender.lease, on_lease_failed, pool);
	*out = pool;
	return 0;

err_window:
	remove_subsections(pool);
	ferryi_altmap_close(&pool->descriptors);
	ferryi_arena_free(arena, (void *)pool->gates, gates_bytes(pool));
	if (pool->holds)
		ferryi_arena_free(arena, (void *)pool->holds, holds_bytes(pool));
	ferryi_pfn_window_free(model, pool->pfn_first, pool->nr_reserved);
	ferryi_arena_free(arena, pool->used_map, pool->map_bytes);
err_pool:
	ferryi_mutex_fini(&pool->lock);
	ferryi_mutex_fini(&pool->grow_lock);
	return rc;
}

static int close_pool(struct ferry_pool **pool_p, bool forget)
{
	struct ferry_pool *pool = *pool_p;
	int rc = 0;

	*pool_p = NULL;
	atomic_store(&pool->refs, 0);
	remove_subsections(pool);
	ferryi_altmap_close(&pool->descriptors);
	ferryi_pfn_window_free(pool->model, pool->pfn_first, pool->nr_reserved);
	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = ferryi_pool_replica(pool, k);

		ferryi_replica_close(&replica);
	}
	if (forget)
		rc = ferryi_lease_forget(&pool->lender.lease);
	else
		ferryi_lease_close(&pool->lender.lease);
	ferryi_arena_free(pool->arena, pool->used_map, pool->map_bytes);
	ferryi_arena_free(pool->arena, (void *)pool->holds, holds_bytes(pool));
	ferryi_arena_free(pool->arena, (void *)pool->gates, gates_bytes(pool));
	ferryi_arena_free(pool->arena, (void *)atomic_load(&pool->failed_map), failed_map_bytes(pool));
	ferryi_mutex_fini(&pool->lock);
	ferryi_mutex_fini(&pool->grow_lock);
	return rc;
}

void ferryi_pool_close(struct ferry_pool **pool)
{
	if (*pool)
		close_pool(pool, false);
}

int ferryi_pool_forget(struct ferry_pool **pool)
{
	return close_pool(pool, true);
}

/* Sub-sections, of the window that is not leased yet. */
struct room {
	uint64_t all;	/* that it could hold ever */
	uint64_t there; /* that the server had when it last told */
};

/* The same for every replica, or the pool's own part is given back. */
static int grow_replicas(struct ferry_pool *pool, uint64_t step, unsigned first, unsigned count)
{
	int rc = ferryi_replicas_grow_locked(pool, pool->nr_leased, pool->nr_leased + step);

	for (unsigned i = 0; rc && i < count; i++)
		ferryi_lease_shrink(pool->lender.lease, first + i);
	return rc;
}

/* Asks for `like` or, when the server has less, for less, down to `need`; more than it had only as far as needed. */
static int lease_more(struct ferry_pool *pool, uint64_t need, uint64_t like, const struct room *room)
{
	uint64_t step = ferryi_min_u64(like, ferryi_max_u64(need, room->there));
	unsigned first, count;
	int rc;

	if (need > room->all)
		return -ENOMEM;
	for (;;) {
		rc = ferryi_lease_grow(pool->lender.lease, step << FERRYI_SUBSECTION_SHIFT, &first, &count);
		if (!rc)
			rc = grow_replicas(pool, step, first, count);
		if (rc == -EDQUOT) /* all that this user may have: as good as full */
			rc = -ENOMEM;
		if (rc != -ENOMEM || step == need)
			break;
		step = ferryi_max_u64(need, step / 2);
	}
	if (rc == -ENOMEM)
		pool->ask_ns = ferryi_deadline_ms(ASK_AGAIN_MS);
	if (rc)
		return rc;
	ferryi_mutex_lock(&pool->lock);
	for (unsigned i = 0; !rc && i < count; i++)
		rc = add_extent_locked(pool, ferryi_lease_extent(pool->lender.lease, first + i));
	follow_server_locked(pool);
	ferryi_mutex_unlock(&pool->lock);
	return rc;
}

/*
 * Leases until `want` sub-sections are free, or says why not. ahead: any number
 * more will do, and a server that was full a moment ago is left alone.
 */
static int grow(struct ferry_pool *pool, uint64_t want, bool ahead)
{
	int rc = 0;

	if (ferryi_lender_is_lost(&pool->lender)) /* what it has is at its replicas, and does not grow */
		return -ENOTCONN;
	ferryi_mutex_lock(&pool->grow_lock);
	ferryi_mutex_lock(&pool->lock);
	uint64_t nr_free = pool->nr_leased - pool->nr_used - pool->nr_retired;
	/* What is set aside comes first: it is leased along. */
	uint64_t nr_aside = pool->nr_aside > pool->nr_leased ? pool->nr_aside - pool->nr_leased : 0;
	struct room room = {.all = altmap_is_full(pool) ? 0 : pool->nr_reserved - pool->nr_leased,
			    .there = atomic_load(&pool->nr_window) - pool->nr_leased};

	ferryi_mutex_unlock(&pool->lock);
	if (nr_free >= want) /* somebody else's growth was enough */
		goto out;
	if (ahead && ferryi_now_ns() < pool->ask_ns) {
		rc = -ENOMEM;
		goto out;
	}
	uint64_t nr = want - nr_free + nr_aside;
	/* A name keeps what it has grown by, so no more than it needs, where that is little. */
	bool is_little = ferryi_pool_is_named(pool) && !pool->descriptors;
	uint64_t like = is_little ? nr : ferryi_max_u64(nr, GROW_STEP >> FERRYI_SUBSECTION_SHIFT);

	rc = lease_more(pool, ahead ? 1 + nr_aside : nr, ferryi_min_u64(like, room.all), &room);
out:
	ferryi_mutex_unlock(&pool->grow_lock);
	return rc;
}

int ferryi_pool_reserve(struct ferry_pool *pool, unsigned want)
{
	if (ferryi_pool_is_killed(pool))
		return -ESHUTDOWN;
	return grow(pool, want, true);
}

/* 1: taken; 0: too few are free; -ESHUTDOWN. */
static int take_free(struct ferry_pool *pool, unsigned want, uint32_t *subsections)
{
	uint32_t first_ssn = (uint32_t)(pool->pfn_first / FERRYI_PAGES_PER_SUBSECTION);
	unsigned got = 0;

	ferryi_mutex_lock(&pool->lock);
	bool killed = ferryi_pool_is_killed(pool);
	bool enough = !killed && pool->nr_leased - pool->nr_used - pool->nr_retired >= want;

	while (enough && got < want) {
		size_t start = 0;
		size_t run = ferryi_bitmap_find_run(pool->used_map, pool->nr_leased, pool->next, want - got, &start);

		ferryi_bitmap_set_range(pool->used_map, start, run);
		for (size_t i = 0; i < run; i++)
			subsections[got++] = first_ssn + (uint32_t)(start + i);
		pool->nr_used += run;
		pool->next = start + run < pool->nr_leased ? start + run : 0;
	}
	ferryi_mutex_unlock(&pool->lock);
	return killed ? -ESHUTDOWN : enough;
}

int ferryi_pool_take(struct ferry_pool *pool, unsigned want, bool may_grow, uint32_t *subsections)
{
	int taken;

	while ((taken = take_free(pool, want, subsections)) == 0) {
		int rc = may_grow ? grow(pool, want, false) : -ENOMEM;

		if (rc)
			return rc;
	}
	return taken < 0 ? taken : 0;
}

static _Atomic uint32_t *holds_of(const struct ferry_pool *pool, uint32_t subsection)
{
	return &pool->holds[subsection - pool->pfn_first / FERRYI_PAGES_PER_SUBSECTION];
}

static void give_locked(struct ferry_pool *pool, uint32_t subsection)
{
	uint64_t pfn = (uint64_t)subsection * FERRYI_PAGES_PER_SUBSECTION;

	ferryi_assert_held(&pool->lock);
	pool->nr_used--;
	if (ferryi_pool_subsection_failed(pool, pfn))
		pool->nr_retired++;
	else
		ferryi_bitmap_clear(pool->used_map, (pfn - pool->pfn_first) / FERRYI_PAGES_PER_SUBSECTION);
}

void ferryi_pool_give(struct ferry_pool *pool, uint32_t subsection)
{
	_Atomic uint32_t *holds = holds_of(pool, subsection);

	ferryi_mutex_lock(&pool->lock);
	if (atomic_load(holds))
		atomic_fetch_sub(holds, 1);
	else
		give_locked(pool, subsection);
	ferryi_mutex_unlock(&pool->lock);
}

void ferryi_pool_hold(struct ferry_pool *pool, uint32_t subsection)
{
	ferryi_mutex_lock(&pool->lock);
	atomic_fetch_add(holds_of(pool, subsection), 1);
	ferryi_mutex_unlock(&pool->lock);
}

bool ferryi_pool_is_held(const struct ferry_pool *pool, uint32_t subsection)
{
	return atomic_load(holds_of(pool, subsection)) != 0;
}

unsigned ferryi_pool_index(const struct ferry_pool *pool)
{
	return pool->lender.index;
}

struct ferryi_lease *ferryi_pool_lease(const struct ferry_pool *pool)
{
	return pool->lender.lease;
}

unsigned ferryi_pool_type(const struct ferry_pool *pool)
{
	return pool->type;
}

const void *ferryi_pool_owner(const struct ferry_pool *pool)
{
	return pool->owner;
}

uint64_t ferryi_pool_pfn_first(const struct ferry_pool *pool)
{
	return pool->pfn_first;
}

uint64_t ferryi_pool_pfn_last(const struct ferry_pool *pool)
{
	return pool->pfn_first + pool->nr_window * FERRYI_PAGES_PER_SUBSECTION - 1;
}

bool ferryi_pool_is_named(const struct ferry_pool *pool)
{
	return ferryi_lease_name(pool->lender.lease)[0];
}

bool ferryi_pool_is_paged_to(const struct ferry_pool *pool)
{
	return !ferryi_pool_is_coherent(pool) && (!ferryi_pool_is_named(pool) || pool->descriptors);
}

struct ferryi_altmap *ferryi_pool_altmap(const struct ferry_pool *pool)
{
	return pool->descriptors;
}

bool ferryi_pool_place(const struct ferry_pool *pool, uint64_t nr, struct ferryi_remote *remote, uint64_t *off)
{
	unsigned count = ferryi_lease_extent_count(pool->lender.lease);

	*off = nr << FERRYI_PAGE_SHIFT;
	for (unsigned i = 0; i < count; i++) {
		const struct ferryi_extent *extent = ferryi_lease_extent(pool->lender.lease, i);

		if (*off < extent->len_bytes) {
			*remote = extent->remote;
			return true;
		}
		*off -= extent->len_bytes;
	}
	return false;
}

void ferryi_pool_release_kept(struct ferry_pool *pool, uint32_t subsection)
{
	uint64_t nr = subsection - pool->pfn_first / FERRYI_PAGES_PER_SUBSECTION;

	ferryi_mutex_lock(&pool->lock);
	if (!ferryi_pool_subsection_failed(pool, (uint64_t)subsection * FERRYI_PAGES_PER_SUBSECTION)) {
		ferryi_bitmap_clear(pool->used_map, nr);
		pool->nr_retired--;
		pool->nr_released++;
	}
	ferryi_mutex_unlock(&pool->lock);
}

bool ferryi_pool_is_coherent(const struct ferry_pool *pool)
{
	return pool->type == FERRY_MEM_COHERENT;
}

uint64_t ferryi_pool_kept_bytes(const struct ferry_pool *pool)
{
	return pool->nr_kept << FERRYI_SUBSECTION_SHIFT;
}

uint64_t ferryi_pool_leased_bytes(struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	uint64_t bytes = pool->nr_leased << FERRYI_SUBSECTION_SHIFT;

	ferryi_mutex_unlock(&pool->lock);
	return bytes;
}

uint64_t ferryi_pool_used_bytes(struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pool->lock);
	uint64_t bytes = pool->nr_used << FERRYI_SUBSECTION_SHIFT;

	ferryi_mutex_unlock(&pool->lock);
	return bytes;
}

uint64_t ferryi_pool_room_bytes(struct ferry_pool *pool)
{
	uint64_t nr = atomic_load(&pool->nr_window);

	ferryi_mutex_lock(&pool->lock);
	if (ferryi_lender_is_lost(&pool->lender))
		nr = pool->nr_leased; /* at its replicas */
	nr -= ferryi_max_u64(pool->nr_aside, pool->nr_kept) + pool->nr_used - pool->nr_released;
	ferryi_mutex_unlock(&pool->lock);
	return nr << FERRYI_SUBSECTION_SHIFT;
}

const struct ferry_pool_ops *ferryi_pool_ops(const struct ferry_pool *pool)
{
	return pool->ops;
}

/* ---- references ---- */

bool ferryi_pool_try_get(struct ferry_pool *pool)
{
	unsigned refs = atomic_load(&pool->refs);

	while (refs && !(refs & KILLED)) {
		if (atomic_compare_exchange_weak(&pool->refs, &refs, refs + 1))
			return true;
	}
	return false;
}

struct ferry_pool *ferryi_pool_get_of(const struct ferryi_memory_model *model, uint64_t pfn)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(model, pfn);
	struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;

	if (!pool || !ferryi_pool_try_get(pool))
		return NULL;
	sub = ferryi_subsection_of(model, pfn);
	if (sub && ferryi_subsection_pool(sub) == pool)
		return pool;
	ferryi_pool_put_ref(pool); /* detached meanwhile, and its struct used again */
	return NULL;
}

void ferryi_pool_put_ref(struct ferry_pool *pool)
{
	atomic_fetch_sub(&pool->refs, 1);
}

unsigned ferryi_pool_refs(const struct ferry_pool *pool)
{
	return atomic_load(&pool->refs) & ~KILLED;
}

void ferryi_pool_kill(struct ferry_pool *pool)
{
	ferryi_mutex_lock(&pool->lock); /* nothing is taken from it once this returns */
	atomic_fetch_or(&pool->refs, KILLED);
	ferryi_mutex_unlock(&pool->lock);
}

bool ferryi_pool_is_killed(const struct ferry_pool *pool)
{
	return atomic_load_explicit(&pool->refs, memory_order_relaxed) & KILLED;
}

/* ---- memory failure ---- */

/* The failed-page table, made at the first failure; NULL: no address space for it. */
static _Atomic uint64_t *failed_map(struct ferry_pool *pool)
{
	_Atomic uint64_t *map = atomic_load(&pool->failed_map);

	if (!map) {
		map = ferryi_arena_alloc(pool->arena, failed_map_bytes(pool));
		atomic_store_explicit(&pool->failed_map, map, memory_order_release);
	}
	return map;
}

/* Window page at which an extent begins: extents are added at the window's end, in their order. */
static uint64_t extent_first_page(const struct ferry_pool *pool, unsigned extent_index)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < extent_index; i++)
		bytes += ferryi_lease_extent(pool->lender.lease, i)->len_bytes;
	return bytes >> FERRYI_PAGE_SHIFT;
}

static void retire_if_free_locked(struct ferry_pool *pool, uint64_t nr)
{
	ferryi_assert_held(&pool->lock);
	if (nr < pool->nr_leased && !ferryi_bitmap_test(pool->used_map, nr)) {
		ferryi_bitmap_set(pool->used_map, nr);
		pool->nr_retired++;
	}
}

void ferryi_pool_set_failed(struct ferry_pool *pool, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes)
{
	if (extent_index >= ferryi_lease_extent_count(pool->lender.lease))
		return;
	uint64_t size = ferryi_lease_extent(pool->lender.lease, extent_index)->len_bytes;

	if (!len_bytes || !ferryi_range_ok(off_bytes, len_bytes, size))
		return;
	uint64_t base = extent_first_page(pool, extent_index);
	uint64_t first = base + (off_bytes >> FERRYI_PAGE_SHIFT);
	uint64_t end = base + ((off_bytes + len_bytes + FERRYI_PAGE_SIZE - 1) >> FERRYI_PAGE_SHIFT);

	ferryi_mutex_lock(&pool->lock);
	_Atomic uint64_t *map = failed_map(pool);

	for (uint64_t i = first; map && i < end; i++) {
		atomic_fetch_or_explicit(&map[i / 64], 1ULL << (i % 64), memory_order_release);
		retire_if_free_locked(pool, i / FERRYI_PAGES_PER_SUBSECTION);
	}
	ferryi_mutex_unlock(&pool->lock);
	ferryi_warn("%s: memory failure of %llu pages of extent %u",
		    ferryi_session_name(ferryi_lease_session(pool->lender.lease)), (unsigned long long)(end - first), extent_index);
	if (!map) /* which page has failed cannot be noted: none is to be trusted */
		ferryi_pool_set_lost(pool, FERRYI_LOST_REVOKED);
}

bool ferryi_pool_page_failed(const struct ferry_pool *pool, uint64_t pfn)
{
	_Atomic uint64_t *map = atomic_load_explicit(&pool->failed_map, memory_order_acquire);
	uint64_t i = pfn - pool->pfn_first;

	return map && (atomic_load_explicit(&map[i / 64], memory_order_acquire) >> (i % 64) & 1);
}

bool ferryi_pool_subsection_failed(const struct ferry_pool *pool, uint64_t pfn)
{
	_Atomic uint64_t *map = atomic_load_explicit(&pool->failed_map, memory_order_acquire);
	uint64_t word = (pfn - pool->pfn_first) / FERRYI_PAGES_PER_SUBSECTION * (FERRYI_PAGES_PER_SUBSECTION / 64);

	for (unsigned i = 0; map && i < FERRYI_PAGES_PER_SUBSECTION / 64; i++) {
		if (atomic_load_explicit(&map[word + i], memory_order_acquire))
			return true;
	}
	return false;
}

bool ferryi_pool_any_failed(const struct ferry_pool *pool)
{
	return atomic_load_explicit(&pool->failed_map, memory_order_relaxed) != NULL;
}

void ferryi_pool_set_lost(struct ferry_pool *pool, enum ferryi_lost_reason reason)
{
	atomic_store(&pool->lost, (int)reason);
}

enum ferryi_lost_reason ferryi_pool_lost(const struct ferry_pool *pool)
{
	return (enum ferryi_lost_reason)atomic_load_explicit(&pool->lost, memory_order_relaxed);
}
