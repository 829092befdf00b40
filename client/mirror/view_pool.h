/*
 * A view's own reads of the exporter's pages in the server's pool: one-sided, by a right to the extent that the server lends
 * the view, read-only. The exporter named the place and the hash of what was there; since then the page may have come home
 * and the place be another page's:
 *
 *   exporter                               reader
 *   ------------------------------------   --------------------------------------
 *   holds the page: place, hash of it
 *   answers
 *   (the page comes home; another page
 *    is written to the place)
 *                                          reads the place
 *                                          hash differs: asks again
 *                                          hash is equal: these are the page's bytes, all of them
 *
 * An extent that the exporter gives back is zeroed only after the view's key was revoked, so the read fails or its hash
 * differs. Owned by whoever holds the view's lock.
 */
#ifndef FERRYI_MIRROR_VIEW_POOL_H
#define FERRYI_MIRROR_VIEW_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "control.h"

#define FERRYI_VIEW_PEERS   4u
#define FERRYI_VIEW_EXTENTS 256u

/* One data plane: the view's tenant on one fabric. */
struct ferryi_view_peer {
	struct ferryi_view_extent as; /* row, addr and token name it */
	struct ferryi_peer *peer;     /* NULL: not in use */
	struct ferryi_channel *channel;
};

/* A right to an extent; its place is its id's, modulo. */
struct ferryi_view_right {
	uint64_t extent_id; /* 0: none */
	struct ferryi_view_peer *peer;
	struct ferryi_remote remote;
};

struct ferryi_view_pool {
	struct ferryi_session *session;
	uint64_t view_id;
	uint8_t *pages; /* FERRYI_ACCESS_PAGES pages, registered with every channel; page i of an access is read to slot i */
	struct ferryi_view_peer peer[FERRYI_VIEW_PEERS];
	struct ferryi_view_right right[FERRYI_VIEW_EXTENTS];
};

/*
 * Reads the pages of the access that have an extent. *good: bit i is set when page i is in its slot, as the hash says.
 * 0: those that are not are to be asked for again. -EPROTO: the exporter's answer is wrong. -EBUSY, -ESHUTDOWN: the server
 * refuses; any other: there is no way from here to the pool at this time (-ENODEV, -ENOMEM, -ETIMEDOUT, what opening a
 * peer says). Blocks up to the deadline.
 */
int ferryi_view_pool_read(struct ferryi_view_pool *pool, const struct ferryi_access_page *page, unsigned npages,
			  uint64_t deadline_ns, uint32_t *good);
void ferryi_view_pool_close(struct ferryi_view_pool *pool);

#endif
