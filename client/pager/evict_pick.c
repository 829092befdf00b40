/* Pages that can leave, by the clock or of a range: RESIDENT -> ISOLATING. See evict.h. */
#include "evict_priv.h"

#include <errno.h>

#include "clock.h"
#include "copies.h"
#include "pager_priv.h"

#define SCAN_BLOCKS 4096u /* resident blocks that one pick looks at, at most: two turns of an 8 GiB budget's clock */

void ferryi_evict_keep(struct ferryi_evict_page *page)
{
	uint64_t back = page->flags | FERRYI_PAGE_REFERENCED, old = ferryi_page_load(ferryi_evict_word(page));

	atomic_fetch_add_explicit(&page->object->blocks[page->index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1,
				  memory_order_relaxed);
	do {
		if (old & FERRYI_PAGE_DROPPED)
			back = ferryi_page_zapping(back, ferryi_now_ns());
	} while (!ferryi_page_cas(ferryi_evict_word(page), &old, back));
}

/*
 * Can pages of this block leave at all now? Binds it when it has to and memory
 * is at hand. *bound: its binding, for ferryi_block_is_still.
 */
static bool block_can_leave(struct ferryi_evictor *ev, struct ferryi_object *object, size_t index, uint32_t *bound)
{
	struct ferryi_block *block = &object->blocks[index / FERRYI_PAGES_PER_BLOCK];
	uint64_t pfn = ferryi_object_pfn(object, index);
	const struct ferryi_subsection *sub = pfn ? ferryi_subsection_of(ev->pager->model, pfn) : NULL;

	/* While pages of the block are there (-EBUSY), the others may join them: there is nowhere else for them. */
	if (sub && ferryi_block_is_misplaced(sub->pool, block, pfn, ev->owner) &&
	    ferryi_unbind_block(ev->pager, object, index / FERRYI_PAGES_PER_BLOCK) == -EAGAIN) {
		ev->error = -EAGAIN;
		return false;
	}
	*bound = atomic_load_explicit(&block->subsection, memory_order_acquire);
	if (!*bound) {
		int rc = ferryi_bind_block_now(ev->pager, object, index / FERRYI_PAGES_PER_BLOCK);

		if (rc) {
			if (rc == -ENOMEM && !atomic_exchange(&ev->pager->binds_late, true))
				ferryi_keeper_kick(ev->pager->keeper); /* it leases more */
			ev->error = rc;
			return false;
		}
		*bound = atomic_load_explicit(&block->subsection, memory_order_acquire);
	}
	if (!*bound || (*bound & FERRYI_BLOCK_LEAVING)) {
		ev->error = -EAGAIN;
		return false;
	}
	pfn = (uint64_t)(*bound - 1) * FERRYI_PAGES_PER_SUBSECTION;
	sub = ferryi_subsection_of(ev->pager->model, pfn);
	int rc = sub ? ferryi_copies_can_write(ev, sub->pool, sub, pfn) : -ENOTCONN;

	if (rc)
		ev->error = rc;
	return !rc;
}

/* The page's place in the pool has failed (while others of its block are there, so that it could not be left). */
static bool place_failed(struct ferryi_evictor *ev, const struct ferryi_object *object, size_t index)
{
	uint64_t pfn = ferryi_object_pfn(object, index);
	const struct ferryi_subsection *sub = ferryi_subsection_of(ev->pager->model, pfn);

	return sub && ferryi_pool_any_failed(sub->pool) && ferryi_pool_page_failed(sub->pool, pfn);
}

bool ferryi_evict_isolate(struct ferryi_evict_page *page, struct ferryi_object *object, size_t index, uintptr_t va,
			  bool second_chance)
{
	uint64_t old = ferryi_page_load(&object->words[index]);

	if (ferryi_page_state(old) != FERRYI_PAGE_RESIDENT || ferryi_page_pins(old) || (old & FERRYI_PAGE_WRITEBACK))
		return false;
	if (second_chance && (old & FERRYI_PAGE_REFERENCED)) {
		ferryi_page_cas(&object->words[index], &old, old & ~FERRYI_PAGE_REFERENCED);
		return false;
	}
	if (!ferryi_page_cas(&object->words[index], &old,
			     ferryi_page_with(ferryi_page_not_zapping(old & ~FERRYI_PAGE_REFERENCED), FERRYI_PAGE_ISOLATING)))
		return false;
	ferryi_evict_resident_sub(object, index);
	*page = (struct ferryi_evict_page){ .object = object, .index = index, .va = va, .flags = old };
	return true;
}

/* Looks at [va, end) of one area; returns the address where it stopped. */
static uintptr_t pick_area(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, const struct ferryi_area *area,
			   uintptr_t va, uintptr_t end, bool clock, unsigned *blocks_left)
{
	while (va < end && batch->nr_pages < FERRYI_EVICT_BATCH && *blocks_left) {
		size_t index = area->first_page + ((va - area->start) >> FERRYI_PAGE_SHIFT);
		size_t to_block_end = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;
		uintptr_t stop = va + to_block_end * FERRYI_PAGE_SIZE;
		struct ferryi_block *block = &area->object->blocks[index / FERRYI_PAGES_PER_BLOCK];

		if (stop > end)
			stop = end;
		unsigned before = batch->nr_pages;
		uint32_t bound;

		if (!atomic_load_explicit(&block->nr_resident, memory_order_relaxed) ||
		    !block_can_leave(ev, area->object, index, &bound)) {
			va = stop;
			continue;
		}
		(*blocks_left)--;
		for (; va < stop && batch->nr_pages < FERRYI_EVICT_BATCH; va += FERRYI_PAGE_SIZE, index++) {
			if (!place_failed(ev, area->object, index))
				batch->nr_pages += ferryi_evict_isolate(&batch->page[batch->nr_pages], area->object, index,
									va, clock);
		}
		if (batch->nr_pages > before && !ferryi_block_is_still(block, bound)) {
			while (batch->nr_pages > before) /* it is being taken off its sub-section: not now */
				ferryi_evict_keep(&batch->page[--batch->nr_pages]);
		}
	}
	return va;
}

void ferryi_evict_pick_by_clock_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	struct ferryi_area_table *table = &ev->pager->areas;
	unsigned blocks_left = SCAN_BLOCKS, turns = 0;

	while (table->nr_areas && turns < 3 && batch->nr_pages < FERRYI_EVICT_BATCH && blocks_left) {
		unsigned i = 0;

		while (i < table->nr_areas && table->areas[i].end <= ev->hand)
			i++;
		if (i == table->nr_areas) {
			ev->hand = 0;
			turns++;
			continue;
		}
		const struct ferryi_area *area = &table->areas[i];
		uintptr_t from = ev->hand > area->start ? ev->hand : area->start;

		if (!ferryi_batch_takes(ev->pager, batch, area->object))
			break;
		ev->hand = pick_area(ev, batch, area, from, area->end, true, &blocks_left);
	}
}

void ferryi_evict_pick_range_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, uintptr_t *start,
				    uintptr_t end)
{
	struct ferryi_area_table *table = &ev->pager->areas;
	unsigned blocks_left = SCAN_BLOCKS;

	for (unsigned i = 0; i < table->nr_areas && batch->nr_pages < FERRYI_EVICT_BATCH; i++) {
		const struct ferryi_area *area = &table->areas[i];

		if (area->end <= *start || area->start >= end)
			continue;
		if (!ferryi_batch_takes(ev->pager, batch, area->object))
			break;
		uintptr_t from = *start > area->start ? *start : area->start;

		*start = pick_area(ev, batch, area, from, area->end < end ? area->end : end, false, &blocks_left);
		if (*start < area->end && *start < end)
			break;
	}
	if (!batch->nr_pages && blocks_left)
		*start = end;
}
