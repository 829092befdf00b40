/*
 * Moving pages out. An evictor belongs to one thread (an eviction thread, or
 * whoever holds the service lock). It takes batches of cold pages by a clock
 * with second chance over the areas, moves them atomically into its staging
 * slots (UFFDIO_MOVE), drops those whose content equals the pool's copy, writes
 * the others, and gives the RAM back, or to the pages that are read ahead
 * (strip.h: the batch's slots are others then). A write reads the slots themselves, or a
 * registered bounce buffer where the transport pins what is registered.
 *
 * Clean or dirty is decided by content: XXH3 of the staged page against the
 * hash taken when the pool's copy was written. UFFDIO_MOVE loses the
 * write-protect bit, so no dirty bit survives the move; a hash does, and costs
 * the application no fault.
 *
 * Same written list as the fault path (fetch.h), plus: the area table's read
 * lock while picking, madvise on staging, memcpy into the bounce buffer.
 * A block of a NORESERVE range is bound from memory that is leased already; the
 * keeper thread leases ahead (bind.c).
 */
#ifndef FERRYI_PAGER_EVICT_H
#define FERRYI_PAGER_EVICT_H

#include <stdbool.h>
#include <stdint.h>

#include "area.h"
#include "descriptor.h"
#include "link.h"

struct ferryi_pager;
struct ferryi_copy_writes; /* copies.h */

#define FERRYI_EVICT_BATCH   128u /* pages */
#define FERRYI_EVICT_BATCHES 2u   /* one on the wire while the next is picked */
#define FERRYI_EVICT_SLOTS   (FERRYI_EVICT_BATCH * FERRYI_EVICT_BATCHES)
#define FERRYI_EVICT_BUF_BYTES ((size_t)FERRYI_EVICT_SLOTS * FERRYI_PAGE_SIZE)

struct ferryi_evict_page {
	struct ferryi_object *object;
	size_t index;
	uintptr_t va;   /* when it was picked; to move, mark and put back */
	uint64_t hash;
	uint64_t flags; /* of the page word when it was picked */
	bool staged;
	bool has_frame; /* its slot holds RAM */
	bool rescued; /* it went back from its slot, and is in RAM twice until that is released */
	bool shared; /* with a child of fork: stayed, and is ours as long as its word has WRITEBACK and our slot */
};

struct ferryi_evict_batch;

/* One write of neighbouring pages [first, first + nr) of the batch. */
struct ferryi_evict_write {
	struct ferryi_op op; /* must be first */
	struct ferryi_evict_batch *batch;
	unsigned first, nr;
	/* to one location or several: copies.h */
	struct ferry_pool *pool;
	uint64_t pfn;
	const struct ferryi_lender *lender; /* of op */
	bool is_read_from;                  /* ... that location */
	bool is_kept;                       /* one that is read from has it */
	unsigned nr_under_way;
	int error;
};

struct ferryi_evict_batch {
	unsigned nr_pages;
	unsigned nr_staged;      /* slots that hold RAM: uncharged when the batch ends */
	unsigned nr_outstanding; /* writes under way */
	bool in_use;
	uint8_t *staging, *bounce; /* FERRYI_EVICT_BATCH pages each */
	uint32_t first_slot; /* staging's; changes from batch to batch */
	struct ferryi_evict_page page[FERRYI_EVICT_BATCH];
	struct ferryi_evict_write write[FERRYI_EVICT_BATCH];
};

/* All members: owner thread only. */
struct ferryi_evictor {
	struct ferryi_pager *pager;
	struct ferryi_lines lines;
	bool is_unwired;        /* writes nothing itself: the migrator */
	bool takes_readonly;    /* a migration: pages of read-only mappings too */
	bool is_urgent;         /* a mirror that would have to sleep may keep its pages for now */
	bool was_refused;       /* some mirror has, since the owner thread took this back */
	uint64_t bytes_written; /* in all */
	uintptr_t hand; /* next address of the clock */
	const void *owner; /* whose migration this is, for the notifier; NULL: the pager's own */
	int error;      /* why pages could not leave last: negative errno */
	struct ferryi_evict_batch batch[FERRYI_EVICT_BATCHES];
	struct ferryi_desc_round descriptors;
	struct ferryi_copy_writes *copies;
};

/*
 * staging: FERRYI_EVICT_SLOTS armed, empty pages, to begin with; first_slot: their number in the pager's staging area,
 * a multiple of FERRYI_EVICT_BATCH.
 */
int ferryi_evictor_init(struct ferryi_evictor *evictor, struct ferryi_pager *pager, uint8_t *staging, uint32_t first_slot,
			int wake_fd);

/* For a migration whose data the caller copies: no channels, no bounce buffers. */
void ferryi_evictor_init_unwired(struct ferryi_evictor *evictor, struct ferryi_pager *pager, uint8_t *staging,
				 uint32_t first_slot);
/*
 * Takes the pages of [start, end) that can leave (FERRYI_EVICT_BATCH at most)
 * into staging slots, and leaves them there: page k of the batch is at
 * staging + k pages. A fault takes its page back. Then, for each that has been
 * copied to its place: commit; true unless it was taken back or dropped. At
 * last put_back returns the rest to the application and frees the slots.
 */
const struct ferryi_evict_batch *ferryi_evict_collect(struct ferryi_evictor *evictor, uintptr_t start, uintptr_t end);
bool ferryi_evict_commit(struct ferryi_evictor *evictor, unsigned k);
void ferryi_evict_put_back(struct ferryi_evictor *evictor);

/*
 * Picks one batch by the clock and starts it; how many pages it moved out (0:
 * nothing can leave now, evictor->error says why).
 */
unsigned ferryi_evict_some(struct ferryi_evictor *evictor);
/* The pages of [start, end) that can leave, whatever the clock says; from *start on, which moves. Same return. */
unsigned ferryi_evict_range(struct ferryi_evictor *evictor, uintptr_t *start, uintptr_t end);
/* Ends writes that have completed; how many batches ended. */
unsigned ferryi_evict_poll(struct ferryi_evictor *evictor);
/* Waits for every batch, and has what they have changed of descriptors in pools written; bounded by the writes' deadlines. */
void ferryi_evict_drain(struct ferryi_evictor *evictor);
bool ferryi_evict_is_idle(const struct ferryi_evictor *evictor);

#endif
