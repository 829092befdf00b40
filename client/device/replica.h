/*
 * Replicas of a pool: leases of other servers that mirror its window, each
 * sub-section of it at a place of theirs. PFNs and the blocks bound to them stay
 * as they are when a server is lost; what changes is where they are looked for.
 *
 *   location   is it read from?                       is it written to?
 *   --------   ------------------------------------   ------------------------
 *   own        unless its lender is lost, or the      unless its lender is lost
 *              page's memory has failed there
 *   FILLING    no: what was there before is still     yes
 *              being copied to it
 *   LIVE       yes                                    yes
 *   LOST       no                                     no
 *
 * For every page that is AWAY, or in RAM with a valid copy in the pool, each
 * location that is read from has its content. A page is AWAY only when every
 * location that it was written to has answered, one lost meanwhile excepted.
 * The pool is lost when nothing is left to read from.
 *
 * A replica joins, and the sub-sections that are in use then are copied to it.
 * Each has a gate, which keeps writes and the copying apart:
 *
 *   writer (evictor, flush, device)        who fills the replica
 *   ------------------------------------   --------------------------------------
 *                                          replica published, FILLING (seq_cst)
 *                                          for each sub-section in use:
 *   gate += 1; COPYING? -= 1, not now        gate |= COPYING (seq_cst)
 *   looks which locations there are          gate == COPYING? else look again
 *   writes to all of them                    reads it from one that is read from
 *   all have answered                        writes it to the replica
 *   gate -= 1                                gate &= ~COPYING
 *                                          LIVE, unless it, or all else, was lost
 *
 * Either the writer sees COPYING and does not begin, or the filler sees him and
 * waits. A write that has not seen the replica was begun before it was
 * published, so the filler waits for its end and copies what it has written; a
 * later one goes to the replica as well. A sub-section that is taken after the
 * filler has passed it is taken, under the pool's lock, after the publication.
 *
 * A location at a server that drains is replaced in the same way, and lost on
 * purpose once others are whole.
 *
 * Replica structs are type-stable, as pools are, and are used again:
 *
 *   who uses a location                    ferryi_replica_take_off
 *   ------------------------------------   --------------------------------------
 *   samplers++ (seq_cst)                   replica[k] = NULL (seq_cst)
 *   replica[k]? location, operation posted samplers == 0? else look again
 *   samplers--                             (no new operation to its index)
 *                                          its channels are closed, which waits for
 *                                          those under way; then the lease
 */
#ifndef FERRYI_DEVICE_REPLICA_H
#define FERRYI_DEVICE_REPLICA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "control.h"

struct ferry_pool;
struct ferryi_arena;
struct ferryi_subsection;

#define FERRYI_MAX_COPIES    3u
#define FERRYI_MAX_REPLICAS  3u /* of a pool, when its own lease is lost */
#define FERRYI_POOL_LOCATIONS (1u + FERRYI_MAX_REPLICAS)

/* One lease, with channels by an index that is unique in the process: a pool's own, or a replica's. */
struct ferryi_lender {
	/* immutable as long as the index is taken */
	struct ferryi_lease *lease;
	unsigned index;
	/* atomic: enum ferryi_lost_reason, set once */
	_Atomic int lost;
	/* atomic: set once: its server drains, and another location is to take its place */
	_Atomic bool is_leaving;
	/* atomic: CLOCK_MONOTONIC; others are read from until then: it was late, or has failed */
	_Atomic uint64_t avoid_ns;
};

enum ferryi_replica_state { FERRYI_REPLICA_FILLING, FERRYI_REPLICA_LIVE, FERRYI_REPLICA_LOST };

/* Of one sub-section. */
struct ferryi_replica_place {
	struct ferryi_remote remote;
	uint64_t off; /* bytes from the region's start */
};

struct ferryi_replica {
	/* immutable from opening to closing */
	struct ferryi_lender lender;
	struct ferryi_arena *arena;
	struct ferry_pool *pool;
	size_t place_bytes;
	/* those below nr_leased: immutable; they are written before it is published, or the pool has that sub-section */
	struct ferryi_replica_place *place;
	/* protected by the pool's grow_lock */
	uint64_t nr_leased;
	/* atomic: enum ferryi_replica_state; changed under the pool's lock */
	_Atomic int state;
};

/* Where a page is, or is also. */
struct ferryi_location {
	const struct ferryi_lender *lender;
	struct ferryi_remote remote;
	uint64_t off;
	bool is_read_from;
};

static inline bool ferryi_lender_is_lost(const struct ferryi_lender *lender)
{
	return atomic_load(&lender->lost) != FERRYI_LOST_NONE;
}

/* Others are read from, for a moment, if there are any. By its index; any thread. */
void ferryi_lender_avoid(struct ferry_pool *pool, unsigned index, uint64_t until_ns);

/* Its own lease. */
struct ferryi_lender *ferryi_pool_lender(struct ferry_pool *pool);
/* It can have replicas: more than one copy of its pages is wanted, or they may have to move. */
bool ferryi_pool_is_replicated(const struct ferry_pool *pool);

/* ---- locations: lock-free, fault path ---- */

/* What is got between these two stays what it is until the second. */
void ferryi_pool_locations_begin(struct ferry_pool *pool);
void ferryi_pool_locations_end(struct ferry_pool *pool);
/* Location k, below FERRYI_POOL_LOCATIONS, of the page; false: there is none, or it is lost. ASSUMPTION: sub is the pool's. */
bool ferryi_pool_location(const struct ferry_pool *pool, const struct ferryi_subsection *sub, uint64_t pfn, unsigned k,
			  struct ferryi_location *out);

/* ---- writes against copying ---- */

/* false: the page's sub-section is being copied to a replica: not now. */
bool ferryi_pool_write_begin(struct ferry_pool *pool, uint64_t pfn);
void ferryi_pool_write_end(struct ferry_pool *pool, uint64_t pfn);
bool ferryi_pool_is_copying(const struct ferry_pool *pool, uint64_t pfn);
/* No write to the sub-section begins from now on; true: none is under way either, else call again. end: as before. */
bool ferryi_pool_copy_begin(struct ferry_pool *pool, uint64_t pfn);
void ferryi_pool_copy_end(struct ferry_pool *pool, uint64_t pfn);

/* ---- replicas that come and go ---- */

/*
 * A replica of the pool with this lease, which becomes its, by an index that is free. Not part of the pool yet.
 * -ENOMEM (address space). close: gives the lease back; of one that is not part of a pool, with no channel open.
 */
int ferryi_replica_open(struct ferry_pool *pool, struct ferryi_lease *lease, unsigned index, struct ferryi_replica **out);
void ferryi_replica_close(struct ferryi_replica **replica);
/*
 * Leases as much as the pool has, and makes it part of it: FILLING, or LIVE where the pool is new and nothing is in use.
 * -ENOMEM (its server is full), -ENOSPC (the pool has enough), or as ferryi_lease_grow. Blocks.
 */
int ferryi_replica_join(struct ferryi_replica *replica, bool is_new);
/* It is filled: LIVE. false: it was lost, or the pool was. */
bool ferryi_replica_filled(struct ferryi_replica *replica);
/* It is no location any more, and not filled. Any thread. */
void ferryi_replica_give_up(struct ferryi_replica *replica, enum ferryi_lost_reason reason);
/* Some replica that is LOST, off the pool, to be closed; NULL: none. Waits for its users, shortly. */
struct ferryi_replica *ferryi_replica_take_off(struct ferry_pool *pool);
/* For growth: each replica has nr sub-sections where it had nr_before, or none of them. ASSUMPTION: grow_lock is held. Errors as take. */
int ferryi_replicas_grow_locked(struct ferry_pool *pool, uint64_t nr_before, uint64_t nr);

/* Replica k, or NULL; it stays while the pool is in use by the caller and is not LOST, or while the ferry lock is held. */
struct ferryi_replica *ferryi_pool_replica(struct ferry_pool *pool, unsigned k);
/* How many locations are missing to what is wanted; those that are filled are, to the second. 0 also when the pool is lost. */
unsigned ferryi_pool_missing(struct ferry_pool *pool);
unsigned ferryi_pool_incomplete(struct ferry_pool *pool);
/* The next sub-section at or after nr (of the window) that is in use; false: none. */
bool ferryi_pool_next_used(struct ferry_pool *pool, uint64_t *nr);
/* A location of it is at the server of this id. */
bool ferryi_pool_is_at(struct ferry_pool *pool, const char *server_id);
/*
 * A session is lost: so are its locations; how many were. The pool is lost with the last that could be read from.
 * Control thread.
 */
unsigned ferryi_pool_session_lost(struct ferry_pool *pool, const struct ferryi_session *session, enum ferryi_lost_reason reason);
/* A server drains: locations there are not counted as there any more. true: there were some. Control thread. */
bool ferryi_pool_session_leaves(struct ferry_pool *pool, const struct ferryi_session *session);
/*
 * Once as many others as are wanted are whole, those that leave are lost. true: the pool's own lease was one of them;
 * it is to be given back.
 */
bool ferryi_pool_drop_leaving(struct ferry_pool *pool);

#endif
