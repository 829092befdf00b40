/*
 * Binding: each 2 MiB block of an object to one sub-section of a pool, at map
 * or adopt time (so that eviction cannot fail for want of pool memory), or at
 * first eviction for NORESERVE ranges.
 */
#include <errno.h>

#include "pager_priv.h"

#define TAKE_BATCH    256u
#define RESERVE_AHEAD 16u /* sub-sections: 32 MiB that eviction may bind without asking a server */

static size_t block_of(size_t page)
{
	return page / FERRYI_PAGES_PER_BLOCK;
}

/* Takes nr sub-sections from the first pool that can give them; its error, or the last pool's. */
static int take_somewhere(struct ferryi_pager *pager, unsigned nr, bool may_grow, uint32_t *subsections)
{
	int rc = -ENXIO;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&pager->pools[i]);

		if (!pool || ferryi_pool_lost(pool))
			continue;
		rc = ferryi_pool_take(pool, nr, may_grow, subsections);
		if (!rc)
			return 0;
	}
	return rc;
}

static void give(struct ferryi_pager *pager, uint32_t subsection)
{
	const struct ferryi_subsection *sub =
		ferryi_subsection_of(pager->model, (uint64_t)subsection * FERRYI_PAGES_PER_SUBSECTION);

	if (sub)
		ferryi_pool_give(sub->pool, subsection);
}

/* Several threads may bind one block at a time: the first wins, the others give theirs back. */
static void bind_block(struct ferryi_pager *pager, struct ferryi_block *block, uint32_t subsection)
{
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&block->subsection, &none, subsection + 1))
		give(pager, subsection);
}

int ferryi_bind_block_now(struct ferryi_pager *pager, struct ferryi_block *block)
{
	uint32_t subsection;
	int rc = take_somewhere(pager, 1, false, &subsection);

	if (!rc)
		bind_block(pager, block, subsection);
	return rc;
}

void ferryi_bind_reserve_ahead(struct ferryi_pager *pager)
{
	if (!atomic_load(&pager->binds_late))
		return;
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = atomic_load(&pager->pools[i]);

		if (pool && !ferryi_pool_lost(pool) && ferryi_pool_reserve(pool, RESERVE_AHEAD) == 0)
			return;
	}
}

int ferryi_bind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n)
{
	size_t end = block_of(first + n - 1) + 1;
	uint32_t got[TAKE_BATCH];

	for (size_t b = block_of(first); b < end;) {
		unsigned nr = (unsigned)ferryi_min_u64(end - b, TAKE_BATCH);
		int rc = take_somewhere(pager, nr, true, got);

		if (rc)
			return rc; /* the caller unbinds the object as a whole */
		for (unsigned i = 0; i < nr; i++)
			bind_block(pager, &object->blocks[b + i], got[i]);
		b += nr;
	}
	return 0;
}

void ferryi_unbind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n, bool whole)
{
	size_t b = whole ? 0 : block_of(first + FERRYI_PAGES_PER_BLOCK - 1);
	size_t end = whole ? object->nr_blocks : block_of(first + n);

	for (; b < end; b++) {
		uint32_t sub = atomic_exchange(&object->blocks[b].subsection, 0);

		if (sub)
			give(pager, sub - 1);
	}
}
