/*
 * Pages with several locations (device/replica.h): which one is read from, and
 * the writes of one page's content to all of them.
 *
 * A read goes to the first location, in their order, that is read from, has a
 * channel and is not to be avoided; as long as there is another one, it has a
 * part of the fault's time only. One that fails is begun again at another
 * location: its own is avoided for a moment, and has no channel if it was late.
 *
 * Fault and eviction path: the lists of fetch.h and evict.h hold here, too.
 */
#ifndef FERRYI_PAGER_COPIES_H
#define FERRYI_PAGER_COPIES_H

#include "evict.h"
#include "link.h"

struct ferryi_pager;

/* The write of an eviction to one location more than its first. */
struct ferryi_copy_write {
	struct ferryi_op op;
	struct ferryi_evict_write *write;
	const struct ferryi_lender *lender;
	bool is_read_from;
};

/* Owner: the evictor's thread. Of each write of each batch. */
struct ferryi_copy_writes {
	struct ferryi_copy_write more[FERRYI_EVICT_BATCHES][FERRYI_EVICT_BATCH][FERRYI_POOL_LOCATIONS - 1];
};

/*
 * The channel to read the page by, and *from: where; NULL: no location has one now, or none is left. *is_there: one is
 * left. ASSUMPTION: between ferryi_pool_locations_begin and _end, until the read is posted.
 */
struct ferryi_channel *ferryi_copies_source(struct ferryi_lines *lines, struct ferry_pool *pool,
					    const struct ferryi_subsection *sub, uint64_t pfn, struct ferryi_location *from,
					    bool *is_there);
/* By when a read from there is to have ended, that has until deadline_ns in all. */
uint64_t ferryi_copies_deadline(const struct ferryi_pager *pager, const struct ferry_pool *pool,
				const struct ferryi_subsection *sub, uint64_t pfn, const struct ferryi_location *from,
				uint64_t deadline_ns);
/* A read of pages of that pool, by the channel of this index, has failed: others are tried first for a while. */
void ferryi_copies_avoid(struct ferry_pool *pool, unsigned index);

/* Pages of the sub-section can be written now: each location has a channel (but for an unwired evictor). 0, -ENOTCONN, -EAGAIN. */
int ferryi_copies_can_write(struct ferryi_evictor *evictor, struct ferry_pool *pool, const struct ferryi_subsection *sub,
			    uint64_t pfn);
/*
 * Sends write->op to every location of its pages, from pfn on, all of one sub-section. true: it has ended already, with
 * op.status; else it ends by ferryi_copies_ended. 0 when each location that is not lost has it, and one that is read from.
 */
bool ferryi_copies_write(struct ferryi_evictor *evictor, struct ferryi_evict_write *write, uint64_t pfn);
/* An operation of such a write has come back: the write, if it was its last one; else NULL. */
struct ferryi_evict_write *ferryi_copies_ended(struct ferryi_evictor *evictor, struct ferryi_op *op);

/*
 * A page's (or, in one sub-section, pages') content from some location, or to all, by the service's channels, until
 * op->deadline_ns. Errors as ferryi_service_op. ASSUMPTION: service lock held, the block stays bound. Blocks; not the fault path.
 */
int ferryi_copies_read_now(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, struct ferryi_op *op);
int ferryi_copies_write_now(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, struct ferryi_op *op);

#endif
