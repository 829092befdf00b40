/*
 * Leases with a name of a pool that is no file: who has a name, and the extents
 * of names that nobody has now, until their time is up. In memory only.
 * Context: any thread, with the pool's lock held, for every function.
 */
#ifndef FERRYI_POOL_KEPT_H
#define FERRYI_POOL_KEPT_H

#include <stdint.h>

#include "pool.h"

struct ferryi_kept_entry;

/* All zero: empty. */
struct ferryi_kept {
	struct ferryi_kept_entry *entries;
	unsigned nentries;
};

/*
 * Takes the name for the caller, until _keep or _forget, with what was kept under
 * it, in order; NULL for a new one.
 * -EBUSY (somebody has it), -EDQUOT (too many names), -ENOMEM.
 */
int ferryi_kept_hold(struct ferryi_kept *kept, const char *name, struct ferryi_pool_extent **list);
/* The caller lets go of a name that he holds; its extents wait until then (ferryi_now_ns). */
void ferryi_kept_keep(struct ferryi_kept *kept, const char *name, struct ferryi_pool_extent *list,
		      uint64_t until_ns);
/* A name that the caller holds is gone. */
void ferryi_kept_forget(struct ferryi_kept *kept, const char *name);

/*
 * A name whose time is up by now_ns (UINT64_MAX: any that nobody holds) is gone;
 * its extents are the caller's. NULL: none, and *next_ns says when the next will
 * be (UINT64_MAX: never).
 */
struct ferryi_pool_extent *ferryi_kept_expire(struct ferryi_kept *kept, uint64_t now_ns, uint64_t *next_ns);
/* The name that keeps this byte of the pool, if any does, has no time left: its memory has failed. */
void ferryi_kept_failed(struct ferryi_kept *kept, uint64_t pool_off);

#endif
