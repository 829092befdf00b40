/*
 * Links: one thread's channels to the pools, and the keeper thread that opens
 * and reopens them. Opening a channel allocates and blocks, so no fault or
 * eviction thread ever does: it hands the dead channel over and is woken when
 * a fresh one is there.
 *
 *   owner (fault, evict)                    keeper
 *   -------------------------------------   ------------------------------------
 *   mail = dead channel
 *   state = BROKEN (release)      ------->  sees BROKEN (acquire)
 *   write keeper's eventfd                  closes mail; opens a channel, registers
 *                                           the owner's buffer; mail = fresh
 *   sees READY (acquire)          <-------  state = READY (release); writes wake_fd
 *   channel = mail; state = UP
 *
 * `mail` belongs to whom the state names, so it needs no lock.
 */
#ifndef FERRYI_PAGER_LINK_H
#define FERRYI_PAGER_LINK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "counters.h"
#include "device.h"

enum ferryi_link_state {
	FERRYI_LINK_NONE = 0, /* no lender at this index */
	FERRYI_LINK_WANTED,   /* keeper: open one */
	FERRYI_LINK_BROKEN,   /* keeper: close mail, open another */
	FERRYI_LINK_READY,    /* owner: take mail */
	FERRYI_LINK_UP,       /* owner: in use */
	FERRYI_LINK_LOST,     /* keeper gave up: the lender's server is gone */
	FERRYI_LINK_CLOSING,  /* keeper: close mail, stay closed (detach, shutdown) */
	FERRYI_LINK_CLOSED,
};

struct ferryi_link {
	/* owned by the owner thread */
	struct ferryi_channel *channel;
	/* see the diagram */
	_Atomic int state;
	struct ferryi_channel *mail;
	/* atomic: asks the owner to hand its channel over for good */
	_Atomic bool close_wanted;
	/* owned by the keeper */
	const struct ferryi_lender *lender;
	uint64_t retry_ns;
	unsigned failures;
};

struct ferryi_keeper;

/* All links of one thread. */
struct ferryi_lines {
	/* immutable after init */
	struct ferryi_keeper *keeper;
	void *buf; /* registered with every channel */
	size_t buf_len;
	void *staging; /* NULL, or registered with every channel that pins nothing: the pager's staging area */
	size_t staging_len;
	unsigned depth;
	int wake_fd; /* eventfd of the owner, or -1 */
	/* each link guarded as above */
	struct ferryi_link link[FERRYI_MAX_POOLS_ATTACHED];
};

/* The thread behind the links. `work` is called on each of its rounds (zombie areas); may be NULL. */
int ferryi_keeper_start(struct ferryi_arena *arena, void (*work)(void *ctx), void *ctx, struct ferryi_counters *counters,
			struct ferryi_keeper **out);
/* Closes every link of every registered `lines` (their owners have stopped) and joins. */
void ferryi_keeper_stop(struct ferryi_keeper **keeper);
/* Async-signal-safe; fault path. */
void ferryi_keeper_kick(struct ferryi_keeper *keeper);

/* -ENOSPC: too many threads. Before the owner starts. staging is set already, or stays NULL. */
int ferryi_lines_init(struct ferryi_lines *lines, struct ferryi_keeper *keeper, void *buf, size_t buf_len, unsigned depth,
		      int wake_fd);
/* Has the keeper open a channel to the lender (a pool's own, or a replica's), by its index. Any thread. */
void ferryi_lines_want(struct ferryi_lines *lines, const struct ferryi_lender *lender);
/* READY, UP or LOST within the deadline, else -ETIMEDOUT; -ENOTCONN when LOST. Any thread; blocks. */
int ferryi_lines_wait(struct ferryi_lines *lines, unsigned index, uint64_t deadline_ns);

/* Owner: the channel to a pool, or NULL when there is none now (link broken, lost, closing). Fault path. */
struct ferryi_channel *ferryi_lines_channel(struct ferryi_lines *lines, unsigned pool_index);
/* Owner: the same; where there is none, or a dead one, has it opened. Its operations have all been returned. */
struct ferryi_channel *ferryi_lines_need(struct ferryi_lines *lines, const struct ferryi_lender *lender);
/* Operations on this channel may work on staging itself. */
static inline bool ferryi_lines_reach_staging(const struct ferryi_lines *lines, const struct ferryi_channel *channel)
{
	return lines->staging && ferryi_channel_is_unpinned(channel);
}
/* Owner: channel is dead and all its operations have been returned. Fault path. */
void ferryi_lines_broken(struct ferryi_lines *lines, unsigned pool_index);
/* Owner: hands over channels whose closing was asked for and that have nothing outstanding. Fault path. */
void ferryi_lines_tend(struct ferryi_lines *lines);
/* Any thread: have the link closed; 0 once it is, -ETIMEDOUT. For an owner thread that has stopped: owner_stopped. */
int ferryi_lines_close_pool(struct ferryi_lines *lines, unsigned pool_index, bool owner_stopped, uint64_t deadline_ns);

#endif
