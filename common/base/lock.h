/*
 * Mutexes with a rank. The table below is the lock order of the whole project:
 * a thread may take a lock only if its rank is higher than that of every lock
 * it holds. Debug builds (FERRYI_LOCK_DEBUG) check that and abort; release
 * builds are a bare pthread_mutex_t. Callbacks are called with no lock held;
 * but for a mirror's invalidate, which may call nothing that locks (ferry.h).
 */
#ifndef FERRYI_BASE_LOCK_H
#define FERRYI_BASE_LOCK_H

#include <pthread.h>
#include <stdint.h>
#include <stdbool.h>

/* Acquisition order, outermost first. */
enum ferryi_lock_rank {
	FERRYI_RANK_FERRY = 1,      /* client: struct ferry: open/close, adopt/unadopt, budget changes */
	FERRYI_RANK_EXPORTS,        /* client/mirror: the export thread begins; nothing but the arena is called under it */
	FERRYI_RANK_VIEW,           /* client/mirror: one access of a view at a time; held across requests and reads */
	FERRYI_RANK_LEAVE,          /* client/pager: one evict, drain or poison of a pool at a time */
	FERRYI_RANK_SERVICE,        /* client/pager: the service fetcher and evictor, lent to API callers in turn */
	FERRYI_RANK_CHILDREN,       /* client/pager: children of fork, and the reads for them; held across a fork and I/O */
	FERRYI_RANK_REBUILD,        /* client/pager: the channels that fill replicas; held across I/O */
	FERRYI_RANK_EVENTS,         /* client/pager: reading the userfaultfd and its non-fault events */
	FERRYI_RANK_AREAS,          /* client/pager: the area table (an rwlock: its place in the order only) */
	FERRYI_RANK_MIRRORS,        /* client/mirror: mirrors and changes under way; nothing is called under it */
	FERRYI_RANK_LOSS,           /* client/life: the control thread tells pools and pager of a lost session */
	FERRYI_RANK_POOL_GROW,      /* client/device: one growth of a lease at a time; held across the control request */
	FERRYI_RANK_FAILURES,       /* client/control: failures of a session's leased memory; held across their receiver */
	FERRYI_RANK_POOL,           /* client/device: leased extents, sub-section bitmap */
	FERRYI_RANK_SECTIONS,       /* client/device: population of the section table */
	FERRYI_RANK_SESSION,        /* client/control: requests in flight of one session */
	FERRYI_RANK_SERVER_SESSION, /* server/control */
	FERRYI_RANK_SERVER_BOOK,    /* server/pool: names of kept leases; held while their file is written */
	FERRYI_RANK_SERVER_POOL,    /* server/pool: extents, scrub list */
	FERRYI_RANK_PEER,           /* common/fabric: imports, channel list of one peer */
	FERRYI_RANK_LISTENER,       /* common/fabric: tenants and regions of one listener */
	FERRYI_RANK_LEAF,           /* anything that calls nothing */
	FERRYI_RANK_MAX,
};

struct ferryi_mutex {
	pthread_mutex_t m;
	enum ferryi_lock_rank rank;
};

#define FERRYI_MUTEX_INIT(rank_) { PTHREAD_MUTEX_INITIALIZER, rank_ }

void ferryi_mutex_init(struct ferryi_mutex *mutex, enum ferryi_lock_rank rank);
void ferryi_mutex_fini(struct ferryi_mutex *mutex);
void ferryi_mutex_lock(struct ferryi_mutex *mutex);
bool ferryi_mutex_trylock(struct ferryi_mutex *mutex);
void ferryi_mutex_unlock(struct ferryi_mutex *mutex);
/* Debug builds: abort unless the calling thread holds it. */
void ferryi_assert_held(const struct ferryi_mutex *mutex);

/* A condition on CLOCK_MONOTONIC. */
void ferryi_cond_init(pthread_cond_t *cond);
/* 0, or -ETIMEDOUT once deadline_ns has passed; the mutex is held either way. Wakes may be spurious. */
int ferryi_cond_wait_until(pthread_cond_t *cond, struct ferryi_mutex *mutex, uint64_t deadline_ns);

#endif
