/* See evict.h: pick, move, decide, write, end. */
#include "evict.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "callback.h"
#include "clock.h"
#include "copies.h"
#include "evict_priv.h"
#include "fetch_priv.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define POLL_BATCH  32u
#define SCAN_BLOCKS 4096u /* resident blocks that one pick looks at, at most: two turns of an 8 GiB budget's clock */

static void assign_slots(struct ferryi_evictor *ev, uint8_t *staging, uint32_t first_slot)
{
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
		ev->batch[i].staging = staging + (size_t)i * FERRYI_EVICT_BATCH * FERRYI_PAGE_SIZE;
		ev->batch[i].first_slot = first_slot + i * FERRYI_EVICT_BATCH;
	}
}

void ferryi_evictor_init_unwired(struct ferryi_evictor *ev, struct ferryi_pager *pager, uint8_t *staging, uint32_t first_slot)
{
	ev->pager = pager;
	ev->is_unwired = true;
	assign_slots(ev, staging, first_slot);
}

int ferryi_evictor_init(struct ferryi_evictor *ev, struct ferryi_pager *pager, uint8_t *staging, uint32_t first_slot,
			int wake_fd)
{
	const size_t len = FERRYI_EVICT_BUF_BYTES + FERRYI_DESC_BUF_BYTES;
	uint8_t *bounce = ferryi_arena_alloc(pager->arena, len);

	if (!bounce)
		return -ENOMEM;
	ev->copies = ferryi_arena_alloc(pager->arena, sizeof(*ev->copies));
	if (!ev->copies)
		return -ENOMEM;
	ev->pager = pager;
	assign_slots(ev, staging, first_slot);
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++)
		ev->batch[i].bounce = bounce + (size_t)i * FERRYI_EVICT_BATCH * FERRYI_PAGE_SIZE;
	ev->descriptors.buf = bounce + FERRYI_EVICT_BUF_BYTES;
	return ferryi_lines_init(&ev->lines, pager->keeper, bounce, len, FERRYI_EVICT_SLOTS, wake_fd);
}

static ferryi_page_word *word_of(const struct ferryi_evict_page *page)
{
	return &page->object->words[page->index];
}

static void resident_sub(struct ferryi_object *object, size_t index)
{
	atomic_fetch_sub_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

/* ---- picking ---- */

void ferryi_evict_keep(struct ferryi_evict_page *page)
{
	uint64_t back = page->flags | FERRYI_PAGE_REFERENCED, old = ferryi_page_load(word_of(page));

	atomic_fetch_add_explicit(&page->object->blocks[page->index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1,
				  memory_order_relaxed);
	do {
		if (old & FERRYI_PAGE_DROPPED)
			back = ferryi_page_zapping(back, ferryi_now_ns());
	} while (!ferryi_page_cas(word_of(page), &old, back));
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
	resident_sub(object, index);
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

/* Two turns of the clock at most: the first may only take reference bits away. */
static void pick_by_clock_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
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

static void pick_range_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, uintptr_t *start, uintptr_t end)
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

/* ---- moving ---- */

/* Dropped: its word is ours, as that of all that is ended here. */
static void forget_page(struct ferryi_evictor *ev, struct ferryi_evict_page *page)
{
	ferryi_page_void(ev->pager->model, ferryi_object_pfn(page->object, page->index));
	atomic_store_explicit(word_of(page), FERRYI_PAGE_ABSENT, memory_order_release);
	ferryi_budget_uncharge(&ev->pager->budget, 1);
}

/*
 * A page that the application has dropped just now: 1 when it is gone (and
 * forgotten), 0 when it is not for us to move yet (and kept); -1 when it is a
 * page like any other.
 */
static int look_at_drop(struct ferryi_evictor *ev, struct ferryi_evict_page *page)
{
	uint64_t entry = 0;
	off_t at = (off_t)(page->va >> FERRYI_PAGE_SHIFT) * (off_t)sizeof(entry);

	if (!(page->flags & FERRYI_PAGE_ZAPPING))
		return -1;
	if (pread(ev->pager->pagemap_fd, &entry, sizeof(entry), at) == (ssize_t)sizeof(entry) && !(entry >> 62)) {
		forget_page(ev, page); /* neither present nor swapped */
		return 1;
	}
	if (ferryi_page_is_young_zap(page->flags, ferryi_now_ns())) {
		ferryi_evict_keep(page);
		return 0;
	}
	page->flags = ferryi_page_not_zapping(page->flags);
	return -1;
}

/* The write of a rescued page's old content has ended, or a shared page is let go: it may be written again. */
static void end_writeback(ferryi_page_word *word, uint32_t slot)
{
	uint64_t old = ferryi_page_load(word);

	for (;;) {
		bool ours = (old & FERRYI_PAGE_WRITEBACK) && ferryi_page_arg(old) == slot;

		if (!ours)
			return;
		if (ferryi_page_state(old) != FERRYI_PAGE_RESIDENT) { /* FETCHING: bounded by one UFFDIO_COPY */
			ferryi_cpu_relax();
			old = ferryi_page_load(word);
		} else if (ferryi_page_cas(word, &old, old & ~(FERRYI_PAGE_WRITEBACK | FERRYI_PAGE_ARG_MASK))) {
			return;
		}
	}
}

/* Gives a page that is shared with a child back, but so that nobody else moves it: see page.h. */
static void hold_shared(struct ferryi_evict_batch *batch, unsigned i)
{
	struct ferryi_evict_page *page = &batch->page[i];
	uint64_t slot = (uint64_t)(batch->first_slot + i) << FERRYI_PAGE_ARG_SHIFT;

	page->shared = true;
	page->flags |= slot | FERRYI_PAGE_WRITEBACK;
	ferryi_evict_keep(page);
}

/*
 * Marks the holes that pages [first, first + nr) left. EAGAIN: an event came
 * between; the page words know the holes all the same, marked or not.
 */
static void mark_holes(int uffd, uintptr_t va, unsigned nr)
{
	ferryi_uffd_mark(uffd, (void *)va, (size_t)nr * FERRYI_PAGE_SIZE, true);
}

/*
 * Moves up to nr pages with neighbouring addresses, those that are still where
 * they were picked; how many were dealt with. With the events lock held, so
 * that other memory cannot have come to the address unseen.
 */
static unsigned move_some_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned first, unsigned nr)
{
	struct ferryi_evict_page *page = &batch->page[first];
	uint8_t *slot = batch->staging + (size_t)first * FERRYI_PAGE_SIZE;
	struct ferryi_page_ref ref;

	ferryi_assert_held(&ev->pager->events_lock);
	if (!ferryi_areas_find_locked(&ev->pager->areas, page->va, &ref) || ref.object != page->object ||
	    ref.index != page->index) {
		ferryi_evict_keep(page);
		return 1;
	}
	if (look_at_drop(ev, page) >= 0)
		return 1;
	nr = (unsigned)ferryi_min_u64(nr, ref.area_pages_left);
	for (unsigned i = 1; i < nr; i++) {
		if (page[i].flags & FERRYI_PAGE_ZAPPING)
			nr = i;
	}
	struct ferryi_notice notice;

	if (ferryi_notify_ask(ev->pager->attr.notifier, &notice, page->va, (size_t)nr * FERRYI_PAGE_SIZE,
			      FERRY_UPDATE_MIGRATE, ev->owner, !ev->is_urgent)) {
		ev->was_refused = true;
		for (unsigned i = 0; i < nr; i++)
			ferryi_evict_keep(&page[i]);
		return nr;
	}
	int uffd = ferryi_uffd_of(ev->pager, page->object);
	long rc = ferryi_uffd_move(uffd, slot, (void *)page->va, (size_t)nr * FERRYI_PAGE_SIZE);

	if (rc == -EINVAL && ev->takes_readonly)
		rc = ferryi_evict_move_readonly(ev->pager, uffd, slot, page->va, (size_t)nr * FERRYI_PAGE_SIZE);
	if (rc > 0)
		mark_holes(uffd, page->va, (unsigned)((size_t)rc / FERRYI_PAGE_SIZE));
	ferryi_notify_end(&notice);
	if (rc > 0) {
		unsigned moved = (unsigned)((size_t)rc / FERRYI_PAGE_SIZE);

		for (unsigned i = 0; i < moved; i++)
			page[i].staged = true;
		batch->nr_staged += moved;
		return moved;
	}
	if (rc == -ENOENT) {
		forget_page(ev, page); /* the application dropped it */
	} else if (rc == -EBUSY && !page->shared && atomic_load_explicit(&ev->pager->has_forked, memory_order_relaxed)) {
		hold_shared(batch, first);
	} else {
		page->shared = false;
		ferryi_evict_keep(page);
		ev->error = (int)rc;
	}
	return 1;
}

static void move_run(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned first, unsigned nr)
{
	while (nr) {
		ferryi_mutex_lock(&ev->pager->events_lock);
		ferryi_areas_read_lock(&ev->pager->areas);
		unsigned done = move_some_locked(ev, batch, first, nr);

		ferryi_areas_read_unlock(&ev->pager->areas);
		ferryi_mutex_unlock(&ev->pager->events_lock);
		first += done;
		nr -= done;
	}
}

/* Pages from first on that are (all, or all not) shared, with neighbouring addresses: how many. */
static unsigned run_of(const struct ferryi_evict_batch *batch, unsigned first)
{
	const struct ferryi_evict_page *page = &batch->page[first];
	unsigned n = 1;

	while (first + n < batch->nr_pages && page[n].va == page->va + (uintptr_t)n * FERRYI_PAGE_SIZE &&
	       page[n].shared == page->shared)
		n++;
	return n;
}

/* ---- pages shared with a child of fork: the kernel moves none, so it makes a copy first ---- */

/* Takes a held page again, to move it; false: somebody else needs it where it is. */
static bool retake(struct ferryi_evict_batch *batch, unsigned i)
{
	struct ferryi_evict_page *page = &batch->page[i];
	uint64_t old = ferryi_page_load(word_of(page));

	while (ferryi_page_state(old) == FERRYI_PAGE_RESIDENT && !ferryi_page_pins(old)) {
		uint64_t flags = old & ~(FERRYI_PAGE_WRITEBACK | FERRYI_PAGE_ARG_MASK);

		if (ferryi_page_cas(word_of(page), &old,
				    ferryi_page_with(ferryi_page_not_zapping(flags & ~FERRYI_PAGE_REFERENCED),
						     FERRYI_PAGE_ISOLATING))) {
			page->flags = flags;
			resident_sub(page->object, page->index);
			return true;
		}
	}
	end_writeback(word_of(page), batch->first_slot + i);
	page->shared = false;
	return false;
}

/*
 * With no lock held: where the application has dropped a page just now, or has mapped something else, this is a fault
 * like any other, only that it does not wait for room (fault_page.c).
 */
static void move_shared(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	for (unsigned first = 0, n; first < batch->nr_pages; first += n) {
		n = run_of(batch, first);
		if (batch->page[first].shared)
			madvise((void *)batch->page[first].va, (size_t)n * FERRYI_PAGE_SIZE, MADV_POPULATE_WRITE);
	}
	for (unsigned i = 0; i < batch->nr_pages; i++) {
		if (batch->page[i].shared)
			retake(batch, i);
	}
	for (unsigned first = 0, n; first < batch->nr_pages; first += n) {
		n = run_of(batch, first);
		if (batch->page[first].shared)
			move_run(ev, batch, first, n);
	}
}

static void move_batch(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	for (unsigned first = 0, n; first < batch->nr_pages; first += n) {
		n = run_of(batch, first);
		move_run(ev, batch, first, n);
	}
	move_shared(ev, batch);
	/* From here on a fault takes the page from its slot. */
	for (unsigned i = 0; i < batch->nr_pages; i++) {
		struct ferryi_evict_page *page = &batch->page[i];
		uint64_t slot = (uint64_t)(batch->first_slot + i) << FERRYI_PAGE_ARG_SHIFT;

		if (!page->staged)
			continue; /* not ours any more: its object may be gone */
		uint64_t old = ferryi_page_load(word_of(page));

		while (!ferryi_page_cas(word_of(page), &old, slot | (old & FERRYI_PAGE_DROPPED) | FERRYI_PAGE_STAGED))
			;
	}
	if (atomic_load(&ev->pager->budget_waiters))
		ferryi_pager_wake_handlers(ev->pager);
}

/* ---- ending ---- */

bool ferryi_evict_end(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot, uint64_t to)
{
	uint64_t old = ferryi_page_load(word_of(page));

	page->staged = false;
	while (ferryi_page_arg(old) == slot) {
		if (ferryi_page_state(old) == FERRYI_PAGE_RESCUING) {
			ferryi_cpu_relax(); /* bounded by one UFFDIO_COPY */
			old = ferryi_page_load(word_of(page));
		} else if (ferryi_page_state(old) != FERRYI_PAGE_STAGED) {
			break;
		} else if (old & FERRYI_PAGE_DROPPED) {
			ferryi_page_void(ev->pager->model, ferryi_object_pfn(page->object, page->index));
			if (ferryi_page_cas(word_of(page), &old, FERRYI_PAGE_ABSENT))
				return false;
		} else if (ferryi_page_state(to) != FERRYI_PAGE_AWAY) {
			if (ferryi_page_cas(word_of(page), &old, to))
				return true;
		} else {
			uint64_t pfn = ferryi_object_pfn(page->object, page->index);

			ferryi_page_store(ev->pager, pfn); /* before: a fetcher may take it back at once */
			if (ferryi_page_cas(word_of(page), &old, to)) {
				ferryi_count(&ev->pager->counters.g_away_pages, 1);
				return true;
			}
			ferryi_page_store_undo(ev->pager, pfn);
		}
	}
	page->rescued = true;
	end_writeback(word_of(page), slot);
	return false;
}

static void end_batch(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	if (batch->nr_staged) {
		if (ev->pager->memcg.nr_levels)
			ferryi_reserve_refill(ev->pager, batch->staging, batch->nr_pages);
		ferryi_staging_release(ev->pager, batch->staging, (size_t)batch->nr_pages * FERRYI_PAGE_SIZE);
		ferryi_budget_uncharge(&ev->pager->budget, batch->nr_staged);
	}
	batch->in_use = false;
	if (atomic_load(&ev->pager->budget_waiters))
		ferryi_pager_wake_handlers(ev->pager);
}

/*
 * A page of ours (RESCUING) from its slot to where it is mapped now; 0, or why not. -EAGAIN: an event is to be read
 * first. As no event is applied meanwhile, the application has not dropped it when it is RESIDENT again.
 */
static long put_in_place_locked(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint8_t *frame)
{
	struct ferryi_notice notice;
	uintptr_t va;

	ferryi_assert_held(&ev->pager->events_lock);
	if ((ferryi_page_load(word_of(page)) & FERRYI_PAGE_DROPPED) ||
	    !ferryi_areas_va_locked(&ev->pager->areas, page->object, page->index, &va))
		return -ENOENT;
	ferryi_notify_begin(ev->pager->attr.notifier, &notice, va, FERRYI_PAGE_SIZE, FERRY_UPDATE_MIGRATE, ev->owner);
	int uffd = ferryi_uffd_of(ev->pager, page->object);
	long rc = ferryi_place_copy(ev->pager, uffd, (void *)va, frame, FERRYI_PAGE_SIZE);

	if (rc == -ENOMEM) /* no frame is to be had, and this one is the only copy */
		rc = ferryi_place_frame(uffd, (void *)va, frame);
	if (rc == -EINVAL) /* read-only by now: pages do not move there */
		rc = ferryi_uffd_copy(uffd, (void *)va, frame, FERRYI_PAGE_SIZE);
	ferryi_notify_end(&notice);
	if (rc < 0 && rc != -EEXIST)
		return rc;
	ferryi_place_finish(page->object, page->index, FERRYI_PAGE_DIRTY | FERRYI_PAGE_REFERENCED);
	return 0;
}

void ferryi_evict_put_page_back(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot)
{
	long rc;

	if (!ferryi_evict_end(ev, page, slot, (uint64_t)slot << FERRYI_PAGE_ARG_SHIFT | FERRYI_PAGE_RESCUING))
		return;
	page->rescued = true;
	ferryi_rescue_charge(ev->pager, slot);
	do {
		ferryi_mutex_lock(&ev->pager->events_lock);
		ferryi_areas_read_lock(&ev->pager->areas);
		rc = put_in_place_locked(ev, page, ferryi_slot_addr(ev->pager, slot));
		ferryi_areas_read_unlock(&ev->pager->areas);
		ferryi_mutex_unlock(&ev->pager->events_lock);
	} while (rc == -EAGAIN); /* ends when the fault threads have read the event */
	if (rc) { /* dropped, or the range is gone and its data with it */
		forget_page(ev, page);
		ferryi_fetch_wake(ev->pager, page->object, page->index, 1);
	}
}

static void complete_write(struct ferryi_evictor *ev, struct ferryi_evict_write *write)
{
	struct ferryi_evict_batch *batch = write->batch;
	struct ferryi_counters *c = &ev->pager->counters;
	unsigned written = 0;

	for (unsigned i = write->first; i < write->first + write->nr; i++) {
		struct ferryi_evict_page *page = &batch->page[i];

		if (write->op.status) {
			ferryi_evict_put_page_back(ev, page, batch->first_slot + i);
			continue;
		}
		ferryi_page_describe(ev->pager->model, ferryi_object_pfn(page->object, page->index), page->va, page->hash);
		if (ferryi_evict_end(ev, page, batch->first_slot + i, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED))
			written++;
	}
	ferryi_count(&c->c_pages_evicted, written);
	ferryi_count(&c->c_pages_written, written);
	if (write->op.status)
		ev->error = write->op.status;
	else
		ev->bytes_written += write->op.len_bytes;
	ferryi_count(&c->c_bytes_out, write->op.status ? 0 : write->op.len_bytes);
	if (--batch->nr_outstanding == 0)
		end_batch(ev, batch);
}

/* ---- deciding and writing ---- */

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, FERRYI_PAGE_SIZE - 1) == 0;
}

/* true: nothing to write. The page's hash is taken either way. */
static bool end_if_clean(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned i)
{
	struct ferryi_evict_page *page = &batch->page[i];
	const uint8_t *data = batch->staging + (size_t)i * FERRYI_PAGE_SIZE;
	uint64_t to;

	uint64_t pfn = ferryi_object_pfn(page->object, page->index);
	page->hash = XXH3_64bits(data, FERRYI_PAGE_SIZE);
	if (page->flags & FERRYI_PAGE_COPIED) {
		struct ferry_page *desc = ferryi_pfn_to_page(ev->pager->model, pfn);

		if (desc->hash != page->hash)
			return false;
		if (desc->va != page->va) /* an mremap */
			ferryi_page_describe(ev->pager->model, pfn, page->va, page->hash);
		to = FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED;
	} else if (page->hash == ev->pager->zero_hash && is_zero(data)) {
		ferryi_page_describe(ev->pager->model, pfn, page->va | FERRYI_DESCRIPTOR_ZERO, page->hash);
		to = FERRYI_PAGE_ABSENT;
	} else {
		return false;
	}
	if (ferryi_evict_end(ev, page, batch->first_slot + i, to)) {
		ferryi_count(&ev->pager->counters.c_pages_evicted, 1);
		ferryi_count(&ev->pager->counters.c_pages_dropped, 1);
	}
	return true;
}

static bool follows(const struct ferryi_evict_page *a, const struct ferryi_evict_page *b)
{
	return a->object == b->object && a->index + 1 == b->index && b->index % FERRYI_PAGES_PER_BLOCK != 0;
}

/* Writes dirty pages [first, first + nr), neighbours in one block, from the bounce buffer. */
static void start_write(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned first, unsigned nr)
{
	struct ferryi_evict_write *write = &batch->write[first];
	struct ferryi_evict_page *page = &batch->page[first];
	struct ferryi_op *op = &write->op;
	size_t off = (size_t)first * FERRYI_PAGE_SIZE, len = (size_t)nr * FERRYI_PAGE_SIZE;

	ferryi_children_save(ev->pager, page->object, page->index, nr);
	memcpy(batch->bounce + off, batch->staging + off, len);
	write->batch = batch;
	write->first = first;
	write->nr = nr;
	op->kind = FERRYI_OP_WRITE;
	op->local = batch->bounce + off;
	op->len_bytes = len;
	op->deadline_ns = ferryi_deadline_ms(ev->pager->attr.fault_timeout_ms);
	batch->nr_outstanding++;
	if (ferryi_copies_write(ev, write, ferryi_object_pfn(page->object, page->index)))
		complete_write(ev, write);
}

static unsigned run_batch(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	unsigned moved = batch->nr_staged;

	ferryi_descriptors_wait(ev); /* the channel takes two batches' writes, and no more */
	batch->nr_outstanding = 1; /* ours: the batch must not end before every write has begun */
	for (unsigned i = 0, n; i < batch->nr_pages; i += n) {
		n = 1;
		if (!batch->page[i].staged || end_if_clean(ev, batch, i))
			continue;
		/* A dirty page; take its dirty neighbours along. */
		bool last_clean = false;

		while (i + n < batch->nr_pages && batch->page[i + n].staged &&
		       follows(&batch->page[i + n - 1], &batch->page[i + n])) {
			last_clean = end_if_clean(ev, batch, i + n);
			if (last_clean)
				break;
			n++;
		}
		start_write(ev, batch, i, n);
		n += last_clean;
	}
	if (--batch->nr_outstanding == 0)
		end_batch(ev, batch);
	return moved;
}

static struct ferryi_evict_batch *free_batch(struct ferryi_evictor *ev)
{
	for (;;) {
		for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
			struct ferryi_evict_batch *batch = &ev->batch[i];

			if (!batch->in_use) {
				batch->nr_pages = batch->nr_staged = 0;
				batch->in_use = true;
				return batch;
			}
		}
		if (!ferryi_evict_poll(ev)) /* every write has a deadline */
			ferryi_cpu_relax();
	}
}

unsigned ferryi_evict_some(struct ferryi_evictor *ev)
{
	struct ferryi_evict_batch *batch = free_batch(ev);

	ev->error = 0;
	ferryi_areas_read_lock(&ev->pager->areas);
	pick_by_clock_locked(ev, batch);
	ferryi_areas_read_unlock(&ev->pager->areas);
	move_batch(ev, batch);
	return run_batch(ev, batch);
}

unsigned ferryi_evict_range(struct ferryi_evictor *ev, uintptr_t *start, uintptr_t end)
{
	struct ferryi_evict_batch *batch = free_batch(ev);

	ferryi_areas_read_lock(&ev->pager->areas);
	pick_range_locked(ev, batch, start, end);
	ferryi_areas_read_unlock(&ev->pager->areas);
	move_batch(ev, batch);
	return run_batch(ev, batch);
}

const struct ferryi_evict_batch *ferryi_evict_collect(struct ferryi_evictor *ev, uintptr_t start, uintptr_t end)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];

	batch->nr_pages = batch->nr_staged = 0;
	batch->in_use = true;
	ferryi_areas_read_lock(&ev->pager->areas);
	pick_range_locked(ev, batch, &start, end);
	ferryi_areas_read_unlock(&ev->pager->areas);
	move_batch(ev, batch);
	return batch;
}

bool ferryi_evict_commit(struct ferryi_evictor *ev, unsigned k)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];
	struct ferryi_evict_page *page = &batch->page[k];

	if (!page->staged || !ferryi_pfn_to_page(ev->pager->model, ferryi_object_pfn(page->object, page->index)))
		return false;
	ferryi_page_describe(ev->pager->model, ferryi_object_pfn(page->object, page->index), page->va,
			     XXH3_64bits(batch->staging + (size_t)k * FERRYI_PAGE_SIZE, FERRYI_PAGE_SIZE));
	if (!ferryi_evict_end(ev, page, batch->first_slot + k, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED))
		return false;
	ferryi_count(&ev->pager->counters.c_pages_evicted, 1);
	return true;
}

void ferryi_evict_put_back(struct ferryi_evictor *ev)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];

	for (unsigned k = 0; k < batch->nr_pages; k++) {
		if (batch->page[k].staged)
			ferryi_evict_put_page_back(ev, &batch->page[k], batch->first_slot + k);
	}
	end_batch(ev, batch);
}

unsigned ferryi_evict_poll(struct ferryi_evictor *ev)
{
	struct ferryi_op *ops[POLL_BATCH];
	unsigned done = 0;

	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferryi_channel *channel = ev->lines.link[p].channel;

		if (!channel)
			continue;
		int n = ferryi_channel_poll(channel, ops, POLL_BATCH);

		for (int i = 0; i < n; i++) {
			struct ferryi_evict_write *write =
				ferryi_descriptors_complete(ev, ops[i]) ? NULL : ferryi_copies_ended(ev, ops[i]);

			if (write)
				complete_write(ev, write);
		}
		if (n > 0)
			done += (unsigned)n;
		else if (n < 0)
			ferryi_lines_broken(&ev->lines, p);
	}
	ferryi_lines_tend(&ev->lines);
	return done;
}

bool ferryi_evict_is_idle(const struct ferryi_evictor *ev)
{
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
		if (ev->batch[i].in_use)
			return false;
	}
	return !ev->descriptors.altmap;
}
