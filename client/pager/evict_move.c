/* Picked pages into staging slots: ISOLATING -> STAGED. See evict.h. */
#include "evict_priv.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "pager_priv.h"
#include "uffd.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

void ferryi_evict_forget(struct ferryi_evictor *ev, struct ferryi_evict_page *page)
{
	ferryi_page_void(ev->pager->model, ferryi_object_pfn(page->object, page->index));
	atomic_store_explicit(ferryi_evict_word(page), FERRYI_PAGE_ABSENT, memory_order_release);
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
		ferryi_evict_forget(ev, page); /* neither present nor swapped */
		return 1;
	}
	if (ferryi_page_is_young_zap(page->flags, ferryi_now_ns())) {
		ferryi_evict_keep(page);
		return 0;
	}
	page->flags = ferryi_page_not_zapping(page->flags);
	return -1;
}

void ferryi_evict_end_writeback(ferryi_page_word *word, uint32_t slot)
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
			page[i].staged = page[i].has_frame = true;
		batch->nr_staged += moved;
		return moved;
	}
	if (rc == -ENOENT) {
		ferryi_evict_forget(ev, page); /* the application dropped it */
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
	uint64_t old = ferryi_page_load(ferryi_evict_word(page));

	while (ferryi_page_state(old) == FERRYI_PAGE_RESIDENT && !ferryi_page_pins(old)) {
		uint64_t flags = old & ~(FERRYI_PAGE_WRITEBACK | FERRYI_PAGE_ARG_MASK);

		if (ferryi_page_cas(ferryi_evict_word(page), &old,
				    ferryi_page_with(ferryi_page_not_zapping(flags & ~FERRYI_PAGE_REFERENCED),
						     FERRYI_PAGE_ISOLATING))) {
			page->flags = flags;
			ferryi_evict_resident_sub(page->object, page->index);
			return true;
		}
	}
	ferryi_evict_end_writeback(ferryi_evict_word(page), batch->first_slot + i);
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

void ferryi_evict_move(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
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
		uint64_t old = ferryi_page_load(ferryi_evict_word(page));

		while (!ferryi_page_cas(ferryi_evict_word(page), &old, slot | (old & FERRYI_PAGE_DROPPED) | FERRYI_PAGE_STAGED))
			;
	}
	if (atomic_load(&ev->pager->budget_waiters))
		ferryi_pager_wake_handlers(ev->pager);
}
