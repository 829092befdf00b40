/*
 * Page descriptors to and from the head of a pool (device/altmap.h). An evictor
 * writes them, a round at a time: the groups that have changed, neighbours in
 * one write. After each batch that has left, so that a page can be found again
 * one round trip after its data has landed; other changes (drvdata, pages that
 * were dropped) at the latest when the eviction thread looks at its links, once
 * a second.
 *
 *   data of a page is written              its descriptor is written
 *   ------------------------------------   --------------------------------------
 *   write, completed
 *   described; group dirty          ---->  round: group taken off, encoded, written
 *                                          (failed: dirty again)
 *
 * Never the other way round: a descriptor does not name data that is not there.
 * Between the two the old descriptor does not fit the new data; a process that
 * ends just then loses the page.
 */
#ifndef FERRYI_PAGER_DESCRIPTOR_H
#define FERRYI_PAGER_DESCRIPTOR_H

#include "altmap.h"
#include "link.h"

struct ferryi_pager;
struct ferryi_evictor;

#define FERRYI_DESC_GROUPS    32u /* of a round */
#define FERRYI_DESC_BUF_BYTES ((size_t)FERRYI_DESC_GROUPS * FERRYI_GROUP_BYTES)

/* One write of neighbouring groups [first, first + nr) of the round. */
struct ferryi_desc_write {
	struct ferryi_op op;
	unsigned first, nr;
};

/* Owner: the evictor's thread. */
struct ferryi_desc_round {
	uint8_t *buf; /* FERRYI_DESC_BUF_BYTES, registered */
	struct ferryi_altmap *altmap; /* of which it is the writer; NULL: no round under way */
	unsigned nr_outstanding;
	bool failed;
	uint64_t group[FERRYI_DESC_GROUPS];
	struct ferryi_desc_write write[FERRYI_DESC_GROUPS];
};

/* Starts a round for some pool that has changes, unless one is under way. Eviction thread: same list as eviction. */
void ferryi_descriptors_write_some(struct ferryi_evictor *evictor);
/* Until none is under way; a round trip at most. */
void ferryi_descriptors_wait(struct ferryi_evictor *evictor);
/* An operation has come back: true if it was a round's. */
bool ferryi_descriptors_complete(struct ferryi_evictor *evictor, struct ferryi_op *op);

/*
 * What has changed so far, in every pool, is written when this returns. 0, or
 * the last error (-ENOTCONN, ...); a pool whose server is gone is passed over.
 * In the caller's thread; takes the service lock.
 */
int ferryi_descriptors_flush(struct ferryi_pager *pager);

/*
 * At attach, before anything is put into the pool: what it holds from an earlier
 * process is read, or, in a new one, the head record written. Sub-sections that
 * hold nothing are free then. -EBADMSG: no record there; -EINVAL: one for
 * another altmap; or as the transport; with a line.
 */
int ferryi_descriptors_load(struct ferryi_pager *pager, struct ferry_pool *pool);

#endif
