/*
 * Frames on their way round: those of pages that have left become those of the
 * pages that come. A strip is as many neighbouring staging slots as one read of
 * read-ahead fills. An evictor whose batch has ended leaves the batch's strips
 * with their frames here and goes on with empty ones; a fetcher has its read
 * land in such frames and moves them (UFFDIO_MOVE) to where they belong. So
 * neither is a frame given to the kernel and one asked back, nor is the page
 * copied once more.
 *
 *   EMPTY  no slot has a frame
 *   FULL   every slot has
 *   PART   those from `first` on have
 *   STALE  some have
 *
 * Evictors take the strips of a whole batch, a sheet, as its slots are
 * neighbours; fetchers take single ones:
 *
 *   evictor, at the end of a batch         fetcher, reading ahead
 *   ------------------------------------   --------------------------------------
 *   cas EMPTY, PART or STALE -> BUSY, of   cas FULL or PART -> BUSY: it is ours
 *     each strip of a sheet: it is ours    the read lands in frames from `first` on
 *   PART, STALE: their frames go to the      (failed: as it was)
 *     kernel                               moves these to their places: none of
 *   its old sheet, whose writes have         the strip is left: EMPTY; others are:
 *     completed and no page word names:      PART; some of these (they had to be
 *     FULL where each slot has a frame,      copied, or were dropped): STALE
 *     else they go, and EMPTY
 *
 * A slot of staging without a frame must never be read or written to: nobody
 * answers the fault. So BUSY strips alone are touched, by who has them.
 *
 * Only for transports that pin nothing (FERRYI_FABRIC_UNPINNED), and from the
 * first read that wants a strip on. The frames are outside of the budget:
 * FERRYI_STRIP_SHEETS sheets at most, and 1 / FERRYI_STRIP_SHARE of the budget.
 * Lock-free; fault path.
 */
#ifndef FERRYI_PAGER_STRIP_H
#define FERRYI_PAGER_STRIP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "evict.h"
#include "fetch.h"

struct ferryi_pager;

#define FERRYI_STRIP_PAGES      FERRYI_FETCH_CHUNK_PAGES
#define FERRYI_STRIP_LEAST      8u /* pages: with less, a copy takes as long as the move */
#define FERRYI_STRIPS_PER_SHEET (FERRYI_EVICT_BATCH / FERRYI_STRIP_PAGES)
#define FERRYI_STRIP_SHEETS     8u  /* 4 MiB */
#define FERRYI_STRIP_SHARE      16u /* so 8 MiB of budget have one */

struct ferryi_strip {
	_Atomic uint32_t state;
	_Atomic uint32_t first; /* written by who has it BUSY; before that, a hint */
	bool in_inline_half;    /* where the frames are; owned by who has it BUSY */
};

struct ferryi_strips {
	/* immutable after open */
	unsigned nr_sheets; /* with those that evictors begin with; sheet i is the slots from i * FERRYI_EVICT_BATCH on */
	unsigned nr_extra;  /* of these: the others */
	struct ferryi_strip *strip;
	/* atomic */
	_Atomic unsigned nr_strips; /* FULL, PART */
	_Atomic unsigned hand;      /* where the last look for one ended */
	_Atomic bool are_wanted; /* set once, by the first read that looks for one */
};

/* So many sheets beside those of the evictors, for a budget of that many pages. */
unsigned ferryi_strips_extra(uint64_t budget_pages);
/* Start-up code. The first nr_held sheets belong to evictors. -ENOMEM. */
int ferryi_strips_open(struct ferryi_pager *pager, unsigned nr_held, unsigned nr_extra);
/*
 * The slots of a batch that has ended against others, empty: false, there are none, or nobody wants these frames.
 * frames: how many are in each of its strips.
 */
bool ferryi_strips_exchange(struct ferryi_pager *pager, struct ferryi_evict_batch *batch,
			    const unsigned frames[FERRYI_STRIPS_PER_SHEET]);
/* Somebody wants frames, and the budget is so full that pages may leave to give some. */
bool ferryi_strips_are_few(struct ferryi_pager *pager);
/* Somebody wants frames, and those of the next batches could not be kept: there are enough. */
bool ferryi_strips_are_enough(struct ferryi_pager *pager);
/* Frames for nr pages, and in *strip what to give back; NULL: there are none, or the pages are too few. */
uint8_t *ferryi_strip_take(struct ferryi_pager *pager, unsigned nr, uint32_t *strip);
/* No operation works any more on the frames for nr pages, and nr_moved of them have been moved out. */
void ferryi_strip_put(struct ferryi_pager *pager, uint32_t strip, unsigned nr, unsigned nr_moved);

#endif
