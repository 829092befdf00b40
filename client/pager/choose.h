/*
 * Choosing the pool of a block: which pools can take it now, which of them its
 * mapping's policy names (stripe.h), and where it goes when that one is full.
 *
 * Stripes go to plain pools: without an owner, callbacks or a name. The others
 * that are paged to (ferryi_pool_is_paged_to) take what these have no room for.
 */
#ifndef FERRYI_PAGER_CHOOSE_H
#define FERRYI_PAGER_CHOOSE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "area.h"
#include "stripe.h"

struct ferryi_pager;

#define FERRYI_CHOOSE_BATCH 256u       /* blocks that are placed at a time */
#define FERRYI_NO_SUBSECTION UINT32_MAX

struct ferryi_chooser {
	/* atomic: stripes given out so far, so that small mappings do not all begin at the first pool */
	_Atomic uint64_t next_stripe;
	/* atomic, of each pool by its index */
	struct {
		_Atomic uint64_t capacity_bytes; /* what this process may hold there, as its server last said; 0: not known */
		_Atomic uint32_t distance;
		_Atomic uint64_t short_since_ns; /* nothing leased was free when a late block wanted it; 0: it was */
		_Atomic bool is_wanted;		 /* the keeper is to lease more */
		_Atomic bool is_full;		 /* it could not */
	} pool[FERRYI_MAX_POOLS_ATTACHED];
	_Atomic bool starved; /* a late block found no room in any pool */
	/* owned by the keeper thread */
	bool told; /* the line about that is out */
};

/* A pool has come to this index. */
void ferryi_choose_reset(struct ferryi_pager *pager, unsigned index);
/* What life has found out about it (pager.h). Any thread. */
void ferryi_choose_tell(struct ferryi_pager *pager, unsigned index, uint64_t capacity_bytes, uint32_t distance);

/*
 * Sub-sections for blocks [first, first + nr) of the object, nr <= FERRYI_CHOOSE_BATCH; leases more where it has to,
 * and so may block on a server. An error (of the last pool asked; -ENXIO: there is none) comes when a block finds no
 * room anywhere; what was taken until then is in subsections all the same, the rest is FERRYI_NO_SUBSECTION.
 */
int ferryi_choose_many(struct ferryi_pager *pager, const struct ferryi_object *object, size_t first, unsigned nr,
		       uint32_t *subsections);
/* One, of the process's own policy, for a block that leaves its pool. */
int ferryi_choose_any(struct ferryi_pager *pager, uint32_t *subsection);
/*
 * One for block `nr` of the object, of memory that is leased already; never blocks. -ENOMEM too while the pool that it
 * should go to has none free and the keeper is about to lease some.
 */
int ferryi_choose_now(struct ferryi_pager *pager, const struct ferryi_object *object, size_t nr, uint32_t *subsection);
/* Keeper thread; may block: leases what ferryi_choose_now has missed, and some more. */
void ferryi_choose_reserve_ahead(struct ferryi_pager *pager);

/* "host:port 60 of 64 MiB, ..." of every pool that is paged to: how much of it this process has taken. Returns buf. */
char *ferryi_choose_text(struct ferryi_pager *pager, char *buf, size_t buf_len);

#endif
