/* One page on its way out: what evict.c and folio_move.c share. ASSUMPTION: the evictor is the caller's. */
#ifndef FERRYI_PAGER_EVICT_PRIV_H
#define FERRYI_PAGER_EVICT_PRIV_H

#include "evict.h"

/*
 * RESIDENT -> ISOLATING (ours), and *page filled, if it is unpinned and (second_chance) not referenced since
 * the clock passed last. ASSUMPTION: the area table's read lock is held.
 */
bool ferryi_evict_isolate(struct ferryi_evict_page *page, struct ferryi_object *object, size_t index,
			  uintptr_t va, bool second_chance);
/*
 * UFFDIO_MOVE (uffd: of the mapping) from a mapping that may be read only, which refuses it. As ferryi_uffd_move; -ENOMEM (no mapping more).
 * ASSUMPTION: events_lock held; nobody but the caller changes the mapping. evict_readonly.c
 */
long ferryi_evict_move_readonly(struct ferryi_pager *pager, int uffd, void *slot, uintptr_t va, size_t len);
/* The page stays where it is (pinned, shared, not writable): give it back, with a second chance. */
void ferryi_evict_keep(struct ferryi_evict_page *page);
/*
 * Ends a page in its slot: from STAGED to `to` (RESCUING for one who goes on
 * with the page), and true; or ABSENT when the application dropped it, or
 * nothing when it was rescued, and false.
 */
bool ferryi_evict_end(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot, uint64_t to);
/* The pool did not take it: the page goes back to the application, dirty. */
void ferryi_evict_put_page_back(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot);

#endif
