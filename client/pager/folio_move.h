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
	/* protected by the service lock: NULL: nothing is on its way */
	struct ferryi_evictor *evictor;
	/* owned by who has set it: from begin to end */
	uint64_t pfn;       /* of the first page, in the pool */
	unsigned nr_staged; /* slots that hold RAM */
	struct ferryi_evict_page page[FERRYI_FOLIO_PAGES];
};

static inline bool ferryi_folio_move_has_slot(const struct ferryi_folio_move *move, uint32_t slot)
{
	return slot >= move->first_slot && slot - move->first_slot < FERRYI_FOLIO_PAGES;
}

/* The nr pages from ref on are a huge page of the kernel's, and can be one of a pool. Does not wait. */
bool ferryi_folio_move_can(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, size_t nr);
/*
 * In steps, for who copies by his own means: begin takes it into the slot (data) and gives its evictor's owner to the
 * mirrors; commit, with all of data in the pool, makes it a folio there; end gives back what did not go.
 * ASSUMPTION: service lock held in all three; but one at a time, by one evictor.
 * begin: 0; else its pages are where they were: -EAGAIN (the address space is changing: again), -EBUSY (a page of it is
 * pinned, in use or dropped; or another huge page is on its way), -ENOMEM (budget), or what the kernel said to the move.
 * commit: 0; -EBUSY: a page of it was touched or dropped, so the others are single pages of the pool.
 */
int ferryi_folio_move_begin(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, struct ferryi_evictor *evictor);
const uint8_t *ferryi_folio_move_data(const struct ferryi_pager *pager);
int ferryi_folio_move_commit(struct ferryi_pager *pager, const struct ferryi_page_ref *ref);
void ferryi_folio_move_end(struct ferryi_pager *pager);
/*
 * All of it, by the service evictor, which is idle. *bytes: written. 0: it is a folio. Else it is not, and its pages
 * are where they can be taken one by one: errors as of the steps, or how a write failed.
 */
int ferryi_folio_move_send(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t *bytes);

#endif
