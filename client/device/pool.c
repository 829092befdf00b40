/*
 * A pool: one lease's extents as sub-sections of a PFN window. Growth leases
 * extents in steps and hot-adds their sub-sections at the window's end.
 */
#include "device.h"

#include <errno.h>

#include "bitmap.h"
#include "log.h"

#define GROW_STEP (64ULL << 20) /* bytes: one control round trip and one registration for this much */

struct ferry_pool {
	/* immutable */
	struct ferryi_memory_model *model;
	struct ferryi_arena *arena;
	struct ferryi_lease *lease;
	unsigned index;
	const void *owner;
	void *data;
	uint64_t pfn_first;
	uint64_t nr_window; /* sub-sections */
	size_t map_bytes;

	/* serialises growth; held across the control request, so never with lock */
	struct ferryi_mutex grow_lock;

	/* protected by lock: held shortly, never across I/O */
	struct ferryi_mutex lock;
	uint64_t nr_leased; /* sub-sections populated, from the window's start */
	uint64_t nr_used;
	uint64_t next;      /* next-fit position */
	uint64_t *used_map; /* bit set: in use, or not leased */

	/* atomic: a reference count; an event that happens once */
	_Atomic unsigned refs;
	_Atomic int lost;
};

static int add_extent_locked(struct ferry_pool *pool, const struct ferryi_extent *extent)
{
	uint64_t nr = extent->len_bytes >> FERRYI_SUBSECTION_SHIFT;

	ferryi_assert_held(&pool->lock);
	if (nr > pool->nr_window - pool->nr_leased)
		return -ENOMEM;
	for (uint64_t i = 0; i < nr; i++) {
		struct ferryi_subsection info = { .pool = pool,
						  .remote = extent->remote,
						  .remote_off = i << FERRYI_SUBSECTION_SHIFT };
		uint64_t pfn = pool->pfn_first + pool->nr_leased * FERRYI_PAGES_PER_SUBSECTION;
		int rc = ferryi_subsection_populate(pool->model, pfn, &info);

		if (rc)
			return rc;
		ferryi_bitmap_clear(pool->used_map, pool->nr_leased);
		pool->nr_leased++;
	}
	return 0;
}

int ferryi_pool_open(struct ferryi_memory_model *model, struct ferryi_arena *arena, const struct ferryi_pool_attr *attr,
		     struct ferry_pool **out)
{
	struct ferry_pool *pool = ferryi_arena_alloc(arena, sizeof(*pool));
	int rc = -ENOMEM;

	if (!pool)
		return rc;
	ferryi_mutex_init(&pool->grow_lock, FERRYI_RANK_POOL_GROW);
	ferryi_mutex_init(&pool->lock, FERRYI_RANK_POOL);
	pool->model = model;
	pool->arena = arena;
	pool->lease = attr->lease;
	pool->index = attr->index;
	pool->owner = attr->owner;
	pool->data = attr->data;
	atomic_init(&pool->refs, 1);
	/* The lease may come to hold the whole server pool, so the window is that large: address space only. */
	pool->nr_window = ferryi_lease_pool_size(attr->lease) >> FERRYI_SUBSECTION_SHIFT;
	pool->map_bytes = FERRYI_BITMAP_WORDS(pool->nr_window) * sizeof(uint64_t);
	pool->used_map = ferryi_arena_alloc(arena, pool->map_bytes);
	if (!pool->used_map)
		goto err_pool;
	ferryi_bitmap_set_range(pool->used_map, 0, pool->nr_window);
	rc = ferryi_pfn_window_alloc(model, pool->nr_window, &pool->pfn_first);
	if (rc)
		goto err_map;

	ferryi_mutex_lock(&pool->lock);
	for (unsigned i = 0; !rc && i < ferryi_lease_extent_count(pool->lease); i++)
		rc = add_extent_locked(pool, ferryi_lease_extent(pool->lease, i));
	ferryi_mutex_unlock(&pool->lock);
	if (rc)
		goto err_window;
	*out = pool;
	return 0;

err_window:
	for (uint64_t i = 0; i < pool->nr_leased; i++)
		ferryi_subsection_depopulate(model, pool->pfn_first + i * FERRYI_PAGES_PER_SUBSECTION);
	ferryi_pfn_window_free(model, pool->pfn_first, pool->nr_window);
err_map:
	ferryi_arena_free(arena, pool->used_map, pool->map_bytes);
err_pool:
	ferryi_mutex_fini(&pool->lock);
	ferryi_mutex_fini(&pool->grow_lock);
	ferryi_arena_free(arena, pool, sizeof(*pool));
	return rc;
}

void ferryi_pool_close(struct ferry_pool **pool_p)
{
	struct ferry_pool *pool = *pool_p;

	if (!pool)
		return;
	*pool_p = NULL;
	for (uint64_t i = 0; i < pool->nr_leased; i++)
		ferryi_subsection_depopulate(pool->model, pool->pfn_first + i * FERRYI_PAGES_PER_SUBSECTION);
	ferryi_pfn_window_free(pool->model, pool->pfn_first, pool->nr_window);
	ferryi_lease_close(&pool->lease);
	ferryi_arena_free(pool->arena, pool->used_map, pool->map_bytes);
	ferryi_mutex_fini(&pool->lock);
	ferryi_mutex_fini(&pool->grow_lock);
	ferryi_arena_free(pool->arena, pool, sizeof(*pool));
}

/* Leases until `want` sub-sections are free, or says why not. */
static int grow(struct ferry_pool *pool, uint64_t want)
{
	int rc = 0;

	ferryi_mutex_lock(&pool->grow_lock);
	ferryi_mutex_lock(&pool->lock);
	uint64_t nr_free = pool->nr_leased - pool->nr_used;
	uint64_t nr_room = pool->nr_window - pool->nr_leased;

	ferryi_mutex_unlock(&pool->lock);
	if (nr_free >= want) /* somebody else's growth was enough */
		goto out;

	uint64_t need = (want - nr_free) << FERRYI_SUBSECTION_SHIFT;
	uint64_t step = ferryi_min_u64(ferryi_max_u64(need, GROW_STEP), nr_room << FERRYI_SUBSECTION_SHIFT);
	unsigned first, count;

	rc = step < need ? -ENOMEM : ferryi_lease_grow(pool->lease, step, &first, &count);
	/* A nearly full server may still have what is needed now. */
	if (rc == -ENOMEM && step > need)
		rc = ferryi_lease_grow(pool->lease, need, &first, &count);
	if (rc)
		goto out;
	ferryi_mutex_lock(&pool->lock);
	for (unsigned i = 0; !rc && i < count; i++)
		rc = add_extent_locked(pool, ferryi_lease_extent(pool->lease, first + i));
	ferryi_mutex_unlock(&pool->lock);
out:
	ferryi_mutex_unlock(&pool->grow_lock);
	return rc;
}

int ferryi_pool_reserve(struct ferry_pool *pool, unsigned want)
{
	return grow(pool, want);
}

static bool take_free(struct ferry_pool *pool, unsigned want, uint32_t *subsections)
{
	uint32_t first_ssn = (uint32_t)(pool->pfn_first / FERRYI_PAGES_PER_SUBSECTION);
	unsigned got = 0;

	ferryi_mutex_lock(&pool->lock);
	bool enough = pool->nr_leased - pool->nr_used >= want;

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
	return enough;
}

int ferryi_pool_take(struct ferry_pool *pool, unsigned want, bool may_grow, uint32_t *subsections)
{
	while (!take_free(pool, want, subsections)) {
		int rc = may_grow ? grow(pool, want) : -ENOMEM;

		if (rc)
			return rc;
	}
	return 0;
}

void ferryi_pool_give(struct ferry_pool *pool, uint32_t subsection)
{
	ferryi_mutex_lock(&pool->lock);
	ferryi_bitmap_clear(pool->used_map, subsection - pool->pfn_first / FERRYI_PAGES_PER_SUBSECTION);
	pool->nr_used--;
	ferryi_mutex_unlock(&pool->lock);
}

unsigned ferryi_pool_index(const struct ferry_pool *pool)
{
	return pool->index;
}

struct ferryi_lease *ferryi_pool_lease(const struct ferry_pool *pool)
{
	return pool->lease;
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
	return (pool->nr_window << FERRYI_SUBSECTION_SHIFT) - ferryi_pool_used_bytes(pool);
}

bool ferryi_pool_try_get(struct ferry_pool *pool)
{
	unsigned refs = atomic_load(&pool->refs);

	while (refs) {
		if (atomic_compare_exchange_weak(&pool->refs, &refs, refs + 1))
			return true;
	}
	return false;
}

void ferryi_pool_put_ref(struct ferry_pool *pool)
{
	atomic_fetch_sub(&pool->refs, 1);
}

unsigned ferryi_pool_refs(const struct ferry_pool *pool)
{
	return atomic_load(&pool->refs);
}

void ferryi_pool_set_lost(struct ferry_pool *pool, enum ferryi_lost_reason reason)
{
	atomic_store(&pool->lost, (int)reason);
}

enum ferryi_lost_reason ferryi_pool_lost(const struct ferry_pool *pool)
{
	return (enum ferryi_lost_reason)atomic_load_explicit(&pool->lost, memory_order_relaxed);
}
