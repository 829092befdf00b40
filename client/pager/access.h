/*
 * A device's access to one managed page, where it is: in RAM, or in a pool
 * without moving it. In the caller's thread; may block, bounded by
 * fault_timeout_ms. Not the fault path.
 *
 * A page in a pool is claimed for the time of the access (AWAY -> FETCHING), so
 * that nobody brings it in or writes its place meanwhile:
 *
 *   device access                          a CPU's fault on the page
 *   ------------------------------------   --------------------------------------
 *   cas AWAY -> FETCHING
 *   reads or writes the pool's copy        FETCHING: its owner will wake us
 *   word = AWAY (or ABSENT, if dropped)
 *   wakes the page's waiters
 *                                          faults again: AWAY, fetches
 */
#ifndef FERRYI_PAGER_ACCESS_H
#define FERRYI_PAGER_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pager.h"

enum ferryi_access_place { FERRYI_ACCESS_RAM, FERRYI_ACCESS_POOL, FERRYI_ACCESS_PLACED };

struct ferryi_access {
	uintptr_t va;      /* [va, va + len) lies in one page */
	size_t len;
	void *read_to;     /* or NULL */
	const void *write_from; /* or NULL */
	const void *owner; /* of the device: pools with this owner are its own */
	const void *holder; /* of exclusive pages: exclusive.h */
	bool pool_only;    /* peek: -ENOENT unless the page is in a pool of the owner's now */
	const struct ferryi_session *place_for; /* a read, not NULL: a page in a pool of this session is not read but PLACED */
	/* out */
	enum ferryi_access_place place;
	bool populated, came_home;
	unsigned rounds;
	/*
	 * PLACED: where the page is, and the hash of what is there at this moment. What the place holds later is for its
	 * reader to compare: the page may come home, and the place be another's.
	 */
	uint64_t extent_id, extent_off, hash;
};

/*
 * 0, -ENOENT (not managed; or pool_only), -EFAULT (the mapping went or lost its
 * rights meanwhile), -EIO (the page is lost), -ETIMEDOUT, -ENOTCONN.
 */
int ferryi_pager_access(struct ferryi_pager *pager, struct ferryi_access *access);

/*
 * The page comes to RAM, writable if asked: from a pool (a coherent one too), as zeros, or, where it
 * is not managed, by the kernel. 0 (look again), -EFAULT (lost, or it cannot be), -ENOMEM.
 */
int ferryi_pager_want(struct ferryi_pager *pager, uintptr_t page, bool write);

#endif
