/* struct ferry, for the files of this room. */
#ifndef FERRYI_LIFE_H
#define FERRYI_LIFE_H

#include "config.h"
#include "control.h"
#include "device.h"
#include "exports.h"
#include "ferry.h"
#include "lock.h"
#include "mirror.h"
#include "pager.h"
#include "placement.h"
#include "scout.h"

#define FERRYI_FERRY_MAGIC 0x59525245u /* "ERRY" */
#define FERRYI_MAX_SERVERS 16u

struct ferryi_lost_session; /* servers.c */

/* Owned by the thread that reopens sessions: when, CLOCK_MONOTONIC, and how long it waits between two attempts. */
struct ferryi_server {
	uint64_t retry_ns, wait_ns;
};

struct ferry {
	/* immutable after open */
	uint32_t magic;
	struct ferryi_config config;
	struct ferryi_arena *arena;
	struct ferryi_memory_model *model;
	struct ferryi_pager *pager; /* NULL, under loss_lock, when it closes */
	struct ferryi_control *control;
	struct ferryi_embedded *embedded;
	struct ferryi_mirrors mirrors; /* its own lock */
	struct ferryi_exports exports; /* its own locks */

	struct ferryi_scout scout; /* its own groups */

	/* protected by lock; the number is read without, and stands for as many sessions, which stay */
	struct ferryi_mutex lock;
	_Atomic unsigned nr_sessions;
	struct ferryi_session *sessions[FERRYI_MAX_SERVERS]; /* by node number; another one when the server has come back */
	struct ferryi_lost_session *lost_sessions;
	struct ferryi_server servers[FERRYI_MAX_SERVERS];
	char urls[FERRYI_MAX_SERVERS][320]; /* of each session, to find it again */
	bool busy[FERRYI_MAX_POOLS_ATTACHED]; /* index taken: by a pool, or a replica */
	_Atomic unsigned nid_of[FERRYI_MAX_POOLS_ATTACHED]; /* of each pool, its server; set before it is published */
	bool is_degraded_told; /* that copies are missing, and no server is there for them */
	struct ferryi_placement placement;

	/* atomic: read by many; taken off under loss_lock, before the pool is closed */
	_Atomic(struct ferry_pool *) pools[FERRYI_MAX_POOLS_ATTACHED];
	/* The control thread, which must not wait for lock, tells pools and pager of a loss under it: they stay until it has. */
	struct ferryi_mutex loss_lock;
};

/* The process's own, or NULL. Async-signal-safe. */
struct ferry *ferryi_the_ferry(void);

/* -EINVAL with a line unless ferry is open and this process is not a forked child. */
int ferryi_ferry_check(const struct ferry *ferry, const char *call);

/* pools.c */
/* A session with the server: the one there is, or a new one. */
int ferryi_session_for(struct ferry *ferry, const char *url, struct ferryi_session **out);
/* attr->type 0: whatever the pool is. */
int ferryi_attach(struct ferry *ferry, struct ferryi_session *session, const struct ferry_pool_attr *attr,
		  struct ferry_pool **out);
/* -1: all are taken. ASSUMPTION: lock held. */
int ferryi_free_index(const struct ferry *ferry);
/* No loss reaches the pool any more: it can be closed. NULL: there was none. */
struct ferry_pool *ferryi_take_pool_off(struct ferry *ferry, unsigned index);
/* A pool that was taken off: closed. What its name has stays where that is for good, unless forget says otherwise. */
int ferryi_end_pool(struct ferry_pool **pool, bool forget);
/* Pages at servers that drain begin to move, if there are any. */
void ferryi_move_leaving(struct ferry *ferry);
/* Control thread: a session is lost, or its server drains. */
void ferryi_on_session_state(void *ctx, struct ferryi_session *session, enum ferryi_session_state state);

/* replicas.c */
/* How many copies a pool that is attached so is to have; 0: its own, which never moves. */
unsigned ferryi_copies_of(const struct ferry *ferry, const struct ferry_pool_attr *attr);
/*
 * Replicas of the pool at other servers, as many as it lacks. -EINVAL: there are not so many servers; else why none
 * of them could be had, as ferryi_attach. ASSUMPTION: lock held, or nobody else has the ferry yet.
 */
int ferryi_replicate(struct ferry *ferry, struct ferry_pool *pool);
/* The indices of the pool's replicas are free again, once it is closed. ASSUMPTION: lock held. */
void ferryi_free_replica_indices(struct ferry *ferry, struct ferry_pool *pool);
/* attr.find_servers of the pager; ctx: struct ferry. */
void ferryi_find_servers(void *ctx);

/* servers.c */
/*
 * Tries the servers that are lost once more, those that are due; true: one is
 * there again. One thread at a time; no lock held. Blocks as ferryi_session_open.
 */
bool ferryi_reopen_servers(struct ferry *ferry);
/* At the end, after the leases. */
void ferryi_close_lost_sessions(struct ferry *ferry);

#endif
