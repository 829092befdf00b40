/*
 * Leases with a name of a pool that is no file: who has a name, and the extents
 * of names that nobody has now, until their time is up. And leases that may have
 * an heir, of any pool: their secrets, who stands by for them, and the extents
 * that wait for that heir. In memory only.
 * Context: any thread, with the pool's lock held, for every function.
 */
#ifndef FERRYI_POOL_KEPT_H
#define FERRYI_POOL_KEPT_H

#include <stdbool.h>
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
 * A lease that may have an heir, until _leave. -EEXIST: there is one of that
 * secret; -ENOMEM.
 */
int ferryi_kept_bequeath(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN]);
/* `heir` (not 0) stands by. -ENOENT: no such lease is held; -EBUSY: another one does. */
int ferryi_kept_stand_by(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
			 uint64_t heir);
/* Somebody stands by for the lease. */
bool ferryi_kept_has_heir(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN]);
/*
 * The lease has ended, without its keys: true, and its extents wait for its heir
 * until then; or false: it has none (or list is NULL), and they are the caller's.
 */
bool ferryi_kept_leave(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
		       struct ferryi_pool_extent *list, uint64_t until_ns);
/* What waits is its heir's, once. -ENOENT: nothing does (any more) for this one; -EBUSY: it is still held. */
int ferryi_kept_claim(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir,
		      struct ferryi_pool_extent **list);
/* This heir is gone. What waits for it is the caller's; NULL: nothing does. */
struct ferryi_pool_extent *ferryi_kept_renounce(struct ferryi_kept *kept,
						const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir);

/*
 * A name, or a lease for its heir, whose time is up by now_ns (UINT64_MAX: any that nobody holds) is gone;
 * its extents are the caller's. NULL: none, and *next_ns says when the next will
 * be (UINT64_MAX: never).
 */
struct ferryi_pool_extent *ferryi_kept_expire(struct ferryi_kept *kept, uint64_t now_ns, uint64_t *next_ns);
/* The name that keeps this byte of the pool, if any does, has no time left: its memory has failed. */
void ferryi_kept_failed(struct ferryi_kept *kept, uint64_t pool_off);

#endif
