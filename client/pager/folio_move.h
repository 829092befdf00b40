/*
 * A huge page on its way to a pool, as one: migrate_vma with a compound page.
 * Its 512 page words are taken together, one UFFDIO_MOVE puts it whole into a
 * slot of its own, two writes of 1 MiB send it, and its device pages become a
 * folio (folio.h). In the caller's thread, with the service lock held, by the
 * service evictor's connection and bounce buffer.
 *
 * A fault meanwhile is answered from the slot, as in eviction: that page stays
 * in RAM, the others go on as single pages. The slot's RAM is charged as the
 * pages were; what the pages that go back take is charged before the move, and
 * what of it they did not take is given back at the end.
 *
 * UFFDIO_MOVE takes a huge page whole (in 3 us) when source and destination are
 * both 2 MiB aligned and the destination has no page table; else it splits it
 * (0.4 ms). So the slot is mapped anew each time. EBUSY: pinned, or shared after
 * a fork, also when the child has ended since.
 */
#ifndef FERRYI_PAGER_FOLIO_MOVE_H
#define FERRYI_PAGER_FOLIO_MOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "evict.h"
#include "folio.h"

struct ferryi_folio_move {
	uint32_t first_slot; /* immutable: in the pager's staging area, 2 MiB aligned */
	/* protected by the service lock */
	struct ferryi_evict_page page[FERRYI_FOLIO_PAGES];
};

static inline bool ferryi_folio_move_has_slot(const struct ferryi_folio_move *move, uint32_t slot)
{
	return slot >= move->first_slot && slot - move->first_slot < FERRYI_FOLIO_PAGES;
}

/* The nr pages from ref on are a huge page of the kernel's, and can be one of a pool. Does not wait. */
bool ferryi_folio_move_can(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, size_t nr);
/*
 * Sends it. owner: as told to the mirrors. *bytes: written. 0: it is a folio. Else it is not, and its pages
 * are where they can be taken one by one: -EAGAIN (the address space is changing: again), -EBUSY (a page of
 * it is pinned, in use or dropped, or was touched), -ENOMEM (budget), or how the move or a write failed.
 * ASSUMPTION: can; service lock held, service evictor idle.
 */
int ferryi_folio_move_send(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, const void *owner,
			   uint64_t *bytes);

#endif
