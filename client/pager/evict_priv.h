/* Pages on their way out: what the evict files and folio_move.c share. ASSUMPTION: the evictor is the caller's. */
#ifndef FERRYI_PAGER_EVICT_PRIV_H
#define FERRYI_PAGER_EVICT_PRIV_H

#include "evict.h"

static inline ferryi_page_word *ferryi_evict_word(const struct ferryi_evict_page *page)
{
	return &page->object->words[page->index];
}

static inline void ferryi_evict_resident_sub(struct ferryi_object *object, size_t index)
{
	atomic_fetch_sub_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

/* ---- evict_pick.c ---- */

/*
 * Two turns of the clock at most: the first may only take reference bits away.
 * ASSUMPTION, for both: the area table's read lock is held.
 */
void ferryi_evict_pick_by_clock_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch);
/* What can leave of [*start, end), from *start on, which moves. */
void ferryi_evict_pick_range_locked(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, uintptr_t *start,
				    uintptr_t end);
/*
 * RESIDENT -> ISOLATING (ours), and *page filled, if it is unpinned and (second_chance) not referenced since
 * the clock passed last. ASSUMPTION: the area table's read lock is held.
 */
bool ferryi_evict_isolate(struct ferryi_evict_page *page, struct ferryi_object *object, size_t index,
			  uintptr_t va, bool second_chance);
/* The page stays where it is (pinned, shared, not writable): give it back, with a second chance. */
void ferryi_evict_keep(struct ferryi_evict_page *page);

/* ---- evict_move.c ---- */

/* The picked pages of a batch to its slots, as far as they can be moved; the others are kept, or forgotten. */
void ferryi_evict_move(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch);
/* Dropped: its word is ours, as that of all that is ended here. */
void ferryi_evict_forget(struct ferryi_evictor *ev, struct ferryi_evict_page *page);
/* The write of a rescued page's old content has ended, or a shared page is let go: it may be written again. */
void ferryi_evict_end_writeback(ferryi_page_word *word, uint32_t slot);

/* ---- evict_readonly.c ---- */

/*
 * UFFDIO_MOVE (uffd: of the mapping) from a mapping that may be read only, which refuses it. As ferryi_uffd_move; -ENOMEM (no mapping more).
 * ASSUMPTION: events_lock held; nobody but the caller changes the mapping.
 */
long ferryi_evict_move_readonly(struct ferryi_pager *pager, int uffd, void *slot, uintptr_t va, size_t len);

/* ---- evict.c ---- */

/*
 * What an operation of this write is to read: the slots themselves, unless the channel pins what it is given (a pinned
 * page does not move, so no registered memory can be a slot); then the bounce buffer, and they have been copied there.
 * Until the write has ended everywhere their frames stay: a rescue copies from them.
 */
void *ferryi_evict_source(struct ferryi_evictor *ev, const struct ferryi_evict_write *write, const struct ferryi_channel *channel);
/*
 * Ends a page in its slot: from STAGED to `to` (RESCUING for one who goes on
 * with the page), and true; or ABSENT when the application dropped it, or
 * nothing when it was rescued, and false.
 */
bool ferryi_evict_end(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot, uint64_t to);
/* The pool did not take it: the page goes back to the application, dirty. */
void ferryi_evict_put_page_back(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot);

#endif
