/*
 * The pager: faults, eviction, the budget, and the ranges that are managed.
 * The only room that speaks userfaultfd. client/life calls it for the public
 * API; ferry.h documents what each call promises, here is what it assumes.
 *
 * Threads: fault threads (fault.c), eviction threads (evict_thread.c), the
 * keeper (link.c). API calls run in the caller's thread and may block, bounded
 * by attr.fault_timeout_ms or the control deadlines.
 */
#ifndef FERRYI_PAGER_H
#define FERRYI_PAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"
#include "ferry.h"
#include "notify.h"
#include "stripe.h"

struct ferryi_pager;

/* A fault past its deadline for which no memory was to be had. */
enum ferryi_oom { FERRYI_OOM_POISON, FERRYI_OOM_WAIT, FERRYI_OOM_ABORT };

struct ferryi_pager_attr {
	struct ferryi_arena *arena;
	struct ferryi_memory_model *model;
	uint64_t budget_bytes;
	uint32_t fault_timeout_ms;
	uint32_t fault_threads, evict_threads;
	uint32_t readahead_pages;
	uint64_t rebuild_rate; /* bytes/s at which lost ones are made anew */
	/*
	 * Servers for copies that are lost or leave: leases what the pools lack (ferryi_pager_add_replica), gives back what has
	 * been replaced. In the thread `ferry-rebuild`, with no lock held; may block.
	 */
	void (*find_servers)(void *ctx);
	void *find_ctx;
	bool fork_copies; /* a child of fork gets the data; else SIGBUS */
	enum ferryi_oom oom;
	enum ferryi_policy policy; /* of memory whose flags name none */
	uint64_t stripe_bytes;	   /* the same; multiple of 2 MiB */
	struct ferryi_notifier *notifier; /* told of every change (notify.h); NULL: none */
};

/* -EPERM, -EOPNOTSUPP, -ENOMEM, -EMFILE. */
int ferryi_pager_open(const struct ferryi_pager_attr *attr, struct ferryi_pager **out);
/* All managed pages come home. -EIO, -EBUSY: as it was. */
int ferryi_pager_release(struct ferryi_pager *pager);
/* exit(3): children of fork get what they still need, as at the close. May block for long. */
void ferryi_pager_exit(struct ferryi_pager *pager);
/* The threads stop. ASSUMPTION: released, and nobody else has it. Nulls *pager. */
void ferryi_pager_close(struct ferryi_pager **pager);

/*
 * What FERRY_MAP_INLINE wants, before the first map or adopt with it. 0; -EOPNOTSUPP, -EMFILE, -ENOMEM, -ETIMEDOUT with a
 * line. ASSUMPTION: the ferry lock is held. May block.
 */
int ferryi_pager_inline_start(struct ferryi_pager *pager);

uint64_t ferryi_pager_caps(const struct ferryi_pager *pager);
/* This process is a child of fork: the pager is its parent's, nothing of it works here but fault_query. */
bool ferryi_pager_is_forked(const struct ferryi_pager *pager);

/*
 * Connects every thread to the pool and lets eviction use it, unless it is coherent. -ETIMEDOUT, -ENOTCONN;
 * coherent: -ENXIO (the kernel cannot), -ENOMEM: undone.
 */
int ferryi_pager_add_pool(struct ferryi_pager *pager, struct ferry_pool *pool);
/*
 * What its server lends this process at most, leased already or not (0: not known), and how far it is (stripe.h). Counts
 * from now on, for what is bound. Any thread, does not block.
 */
void ferryi_pager_pool_tell(struct ferryi_pager *pager, unsigned index, uint64_t capacity_bytes, uint32_t distance);
/* -EBUSY while a block is bound to it. On success no channel to it is open. */
int ferryi_pager_remove_pool(struct ferryi_pager *pager, struct ferry_pool *pool);
/* A server is gone (ferryi_pool_session_lost was called): faults that wait for it end now, or go elsewhere. Any thread. */
void ferryi_pager_pool_lost(struct ferryi_pager *pager);
/* So many locations were lost with it. */
void ferryi_pager_copies_lost(struct ferryi_pager *pager, unsigned nr);

/*
 * Connects every thread to the replica and makes it part of its pool (ferryi_replica_join), to be filled where there is
 * something. Errors as that, -ETIMEDOUT, -ENOTCONN; it is closed by the caller then. remove: after ferryi_replica_take_off,
 * before it is closed: no channel to it is open, or -ETIMEDOUT.
 */
int ferryi_pager_add_replica(struct ferryi_pager *pager, struct ferryi_replica *replica, bool is_new);
int ferryi_pager_remove_replica(struct ferryi_pager *pager, struct ferryi_replica *replica);
/*
 * Lost copies are made anew from now on (attr.find_servers), and those moved that leave, until stop; at once if it does
 * so already. Does not block. One caller at a time; after stop it does nothing.
 */
int ferryi_pager_rebuild_start(struct ferryi_pager *pager);
void ferryi_pager_rebuild_stop(struct ferryi_pager *pager);

/*
 * The pool's end (leave.c), as ferry_pool_evict, _drain and _poison.
 * ASSUMPTION: the pool is killed, and is not detached meanwhile.
 * evict: 0, -ENOMEM, -EIO, -ETIMEDOUT (a page did not settle). drain: 0, -ETIMEDOUT. poison: how many pages.
 */
int ferryi_pager_evict_pool(struct ferryi_pager *pager, struct ferry_pool *pool);
int ferryi_pager_drain_pool(struct ferryi_pager *pager, struct ferry_pool *pool, int timeout_ms);
long ferryi_pager_poison_pool(struct ferryi_pager *pager, struct ferry_pool *pool);

/* As the public calls of the same names; ranges are validated by the caller to be page aligned and not empty. */
int ferryi_pager_map(struct ferryi_pager *pager, void *hint, size_t len, int prot, unsigned flags, void **out);
int ferryi_pager_unmap(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
int ferryi_pager_protect(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, int prot);
int ferryi_pager_adopt(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, unsigned flags);
int ferryi_pager_unadopt(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
int ferryi_pager_advise(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, enum ferry_advice advice);
int ferryi_pager_pin(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
int ferryi_pager_unpin(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
int ferryi_pager_flush(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
int ferryi_pager_set_budget(struct ferryi_pager *pager, uint64_t bytes);
void ferryi_pager_stats(struct ferryi_pager *pager, struct ferry_stats *stats);

/* Async-signal-safe. */
void ferryi_pager_fault_query(struct ferryi_pager *pager, uintptr_t va, struct ferry_fault_info *info);

#endif
