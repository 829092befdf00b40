/*
 * Binding: each 2 MiB block of an object to one sub-section of a pool, at map
 * or adopt time (so that eviction cannot fail for want of pool memory), or at
 * first eviction for NORESERVE ranges.
 *
 * A block is taken off its sub-section (its pool is killed, its memory has
 * failed, or it migrates) only when it has settled: no page of it is away or
 * under way, so nobody uses its PFNs. Against those who would begin to:
 *
 *   evictor (evict.c: pick_area)           ferryi_block_leave_begin, _commit
 *   ------------------------------------   --------------------------------------
 *   sub = subsection; LEAVING? not now
 *   pages: RESIDENT -> ISOLATING           subsection |= LEAVING
 *   fence (seq_cst)                        fence (seq_cst)
 *   subsection == sub? go on               pages: one not settled? -EAGAIN, -EBUSY
 *   else the pages are given back          cas subsection: sub | LEAVING -> 0
 *
 * Either the evictor sees LEAVING (or another binding), or the taker sees
 * ISOLATING. ferryi_block_use_begin (a flush writes a page's place while it is
 * RESIDENT) does the same with `users` in place of the page word. A fault uses
 * the PFN of a page that is AWAY or FETCHING only, and no page becomes either
 * while LEAVING is set and all have been seen settled. Who poisons a page that
 * is AWAY needs its place a little longer than the word says:
 *
 *   poison (fault_page.c)                  ferryi_block_leave_commit
 *   ------------------------------------   --------------------------------------
 *   users++ (_use_away)                    pages: POISONED? settled
 *   word: AWAY -> POISONED                 users? -EAGAIN
 *   page_free(pfn), or back to AWAY        cas subsection -> 0
 *   users--
 *
 * A pool is used by its index between ferryi_pager_pool_begin and _end, or
 * under the area table's lock; detaching waits for both (pager.c).
 */
#include <errno.h>

#include "pager_priv.h"

static size_t block_of(size_t page)
{
	return page / FERRYI_PAGES_PER_BLOCK;
}

static void give(struct ferryi_pager *pager, uint32_t subsection)
{
	const struct ferryi_subsection *sub =
		ferryi_subsection_of(pager->model, (uint64_t)subsection * FERRYI_PAGES_PER_SUBSECTION);

	if (sub) {
		struct ferryi_altmap *altmap = ferryi_pool_altmap(sub->pool);

		if (altmap) /* before another block's pages come there, or this one's elsewhere */
			ferryi_altmap_void(altmap, subsection);
		ferryi_pool_give(sub->pool, subsection);
	}
}

/* Several threads may bind one block at a time: the first wins, the others give theirs back. */
static void bind_block(struct ferryi_pager *pager, struct ferryi_block *block, uint32_t subsection)
{
	uint32_t none = 0;

	if (!atomic_compare_exchange_strong(&block->subsection, &none, subsection + 1))
		give(pager, subsection);
}

int ferryi_bind_block_now(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr)
{
	uint32_t subsection;
	int rc = ferryi_choose_now(pager, object, nr, &subsection);

	if (!rc)
		bind_block(pager, &object->blocks[nr], subsection);
	return rc;
}

void ferryi_bind_reserve_ahead(struct ferryi_pager *pager)
{
	if (atomic_load(&pager->binds_late))
		ferryi_choose_reserve_ahead(pager);
}

int ferryi_bind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n)
{
	size_t end = block_of(first + n - 1) + 1;
	uint32_t got[FERRYI_CHOOSE_BATCH];
	int rc = 0;

	for (size_t b = block_of(first); b < end && !rc;) {
		unsigned nr = (unsigned)ferryi_min_u64(end - b, FERRYI_CHOOSE_BATCH);

		rc = ferryi_choose_many(pager, object, b, nr, got); /* after an error the caller unbinds the object as a whole */
		for (unsigned i = 0; i < nr; i++) {
			if (got[i] != FERRYI_NO_SUBSECTION)
				bind_block(pager, &object->blocks[b + i], got[i]);
		}
		b += nr;
	}
	return rc;
}

void ferryi_unbind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n, bool whole)
{
	size_t b = whole ? 0 : block_of(first + FERRYI_PAGES_PER_BLOCK - 1);
	size_t end = whole ? object->nr_blocks : block_of(first + n);

	for (; b < end; b++) {
		uint32_t sub = atomic_exchange(&object->blocks[b].subsection, 0);

		if (sub)
			give(pager, (sub & ~FERRYI_BLOCK_LEAVING) - 1);
	}
}

/* ---- taking a block off its sub-section ---- */

bool ferryi_block_leave_begin(struct ferryi_block *block)
{
	uint32_t sub = atomic_load(&block->subsection);

	while (sub && !(sub & FERRYI_BLOCK_LEAVING)) {
		if (atomic_compare_exchange_weak(&block->subsection, &sub, sub | FERRYI_BLOCK_LEAVING)) {
			atomic_thread_fence(memory_order_seq_cst); /* partners: ferryi_block_is_still, _use_begin */
			return true;
		}
	}
	return false;
}

void ferryi_block_leave_abort(struct ferryi_block *block)
{
	uint32_t sub = atomic_load(&block->subsection);

	/* It is 0 when the block's memory was unmapped meanwhile. */
	while ((sub & FERRYI_BLOCK_LEAVING) &&
	       !atomic_compare_exchange_weak(&block->subsection, &sub, sub & ~FERRYI_BLOCK_LEAVING))
		;
}

/* The copy in the pool goes: the page in RAM is all there is of it. */
static int settle_page(ferryi_page_word *word)
{
	uint64_t old = ferryi_page_load(word);

	do {
		if (ferryi_page_state(old) == FERRYI_PAGE_AWAY || ferryi_page_state(old) == FERRYI_PAGE_COHERENT)
			return -EBUSY;
		if (ferryi_page_is_transient(old) || (old & FERRYI_PAGE_WRITEBACK))
			return -EAGAIN;
		if (!(old & FERRYI_PAGE_COPIED))
			return 0;
	} while (!ferryi_page_cas(word, &old, (old & ~FERRYI_PAGE_COPIED) | FERRYI_PAGE_DIRTY));
	return 0;
}

int ferryi_block_leave_commit(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr)
{
	struct ferryi_block *block = &object->blocks[nr];
	uint32_t sub = atomic_load(&block->subsection);
	size_t first = nr * FERRYI_PAGES_PER_BLOCK;
	size_t end = ferryi_min_u64(first + FERRYI_PAGES_PER_BLOCK, object->nr_pages);
	int rc = 0;

	for (size_t i = first; i < end && rc != -EBUSY; i++) {
		int one = settle_page(&object->words[i]);

		rc = one ? one : rc;
	}
	if (rc || !sub)
		return rc;
	if (atomic_load(&block->users)) /* after the pages: partner of ferryi_block_use_away */
		return -EAGAIN;
	if (!(sub & FERRYI_BLOCK_LEAVING) || !atomic_compare_exchange_strong(&block->subsection, &sub, 0))
		return -EAGAIN; /* somebody has aborted it */
	give(pager, (sub & ~FERRYI_BLOCK_LEAVING) - 1);
	return 0;
}

int ferryi_unbind_block(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr)
{
	struct ferryi_block *block = &object->blocks[nr];

	if (!ferryi_block_leave_begin(block))
		return atomic_load(&block->subsection) ? -EAGAIN : 0;
	int rc = ferryi_block_leave_commit(pager, object, nr);

	if (rc)
		ferryi_block_leave_abort(block);
	return rc;
}

bool ferryi_block_is_misplaced(const struct ferry_pool *pool, const struct ferryi_block *block, uint64_t pfn,
			       const void *owner)
{
	return ferryi_pool_is_killed(pool) || ferryi_coherent_is_unasked(pool, block, owner) ||
	       (ferryi_pool_any_failed(pool) && ferryi_pool_subsection_failed(pool, pfn));
}

int ferryi_bind_take(struct ferryi_pager *pager, uint32_t *subsection)
{
	return ferryi_choose_any(pager, subsection);
}

void ferryi_bind_give(struct ferryi_pager *pager, uint32_t subsection)
{
	give(pager, subsection);
}

int ferryi_bind_block_to(struct ferryi_pager *pager, struct ferryi_block *block, struct ferry_pool *pool, bool may_grow)
{
	uint32_t subsection, none = 0;
	int rc = ferryi_pool_take(pool, 1, may_grow, &subsection);

	if (rc)
		return rc;
	if (atomic_compare_exchange_strong(&block->subsection, &none, subsection + 1))
		return 0;
	give(pager, subsection);
	return -EAGAIN;
}

bool ferryi_block_is_still(const struct ferryi_block *block, uint32_t subsection)
{
	atomic_thread_fence(memory_order_seq_cst); /* partner: ferryi_block_leave_begin */
	return atomic_load_explicit(&block->subsection, memory_order_relaxed) == subsection;
}

bool ferryi_block_use_begin(struct ferryi_block *block)
{
	atomic_fetch_add(&block->users, 1);
	atomic_thread_fence(memory_order_seq_cst); /* partner: ferryi_block_leave_begin */
	if (!(atomic_load(&block->subsection) & FERRYI_BLOCK_LEAVING))
		return true;
	ferryi_block_use_end(block);
	return false;
}

void ferryi_block_use_away(struct ferryi_block *block)
{
	atomic_fetch_add(&block->users, 1);
}

void ferryi_block_use_end(struct ferryi_block *block)
{
	atomic_fetch_sub(&block->users, 1);
}
