/*
 * What a row implements, and what all rows share. fabric.c and channel.c check
 * arguments, allocate, keep the lists, the deadlines and the exactly-once rule;
 * a row only moves bytes and says what became of an operation.
 *
 * A row's own structs begin with the base struct below (`struct ferryi_peer base`
 * first) and it states their sizes: the common code allocates them zeroed, fills
 * the base part, calls open, and frees them after close or after a failed open
 * (a failed open leaves nothing behind; close is not called for it).
 */
#ifndef FERRYI_FABRIC_OPS_H
#define FERRYI_FABRIC_OPS_H

#include <stdatomic.h>

#include "fabric.h"
#include "lock.h"

#define FERRYI_CHANNEL_DEPTH_MAX  256
#define FERRYI_CHANNEL_RANGES_MAX 8

/* Local memory registered with one channel; priv and desc are the row's. */
struct ferryi_local_range {
	char *base;
	size_t len_bytes;
	void *priv; /* registration handle */
	void *desc; /* local descriptor, whatever the provider wants with each operation */
};

struct ferryi_peer {
	/* immutable after open */
	const struct ferryi_fabric_row *row;
	char addr[FERRYI_FABRIC_ADDR_LEN]; /* without the "row:" prefix; an empty host already replaced by
					      control_host */
	char label[64];
	uint8_t token[FERRYI_TOKEN_LEN];
	int fail_fd; /* eventfd, readable for ever once failed; a row adds it to what wait_fd watches */
	struct ferryi_mutex lock; /* FERRYI_RANK_PEER; for the row's lists (channels, imports) */
	/* atomic: any thread sets it, every channel owner reads it */
	_Atomic bool failed;
	_Atomic unsigned nchannels;
};

struct ferryi_channel {
	/* immutable after open */
	struct ferryi_peer *peer;
	const struct ferryi_fabric_ops *ops;
	unsigned depth;
	/* atomic: is_dead() may be asked from any thread; only the owner sets it */
	_Atomic bool dead;
	/* owned by the channel's owner thread */
	unsigned noutstanding; /* posted + done but not yet returned */
	unsigned nranges;
	unsigned npolls;
	uint64_t next_deadline_ns;   /* lower bound of the deadlines posted; 0: none */
	uint64_t expired_at_ns;	     /* time of death by deadline; 0: other cause */
	struct ferryi_op *posted;    /* doubly linked through next and priv[0], newest first */
	struct ferryi_op *done_head; /* FIFO through next */
	struct ferryi_op **done_tail;
	struct ferryi_local_range ranges[FERRYI_CHANNEL_RANGES_MAX];
};

struct ferryi_listener {
	/* immutable after open */
	const struct ferryi_fabric_row *row;
	char host[128]; /* "" : everywhere */
	char label[64];
	uint64_t spin_us;
	unsigned threads;
	struct ferryi_mutex lock; /* FERRYI_RANK_LISTENER */
	/* protected by lock */
	struct ferryi_tenant *tenants;
	/* atomic: counters */
	struct ferryi_listener_stats stats;
};

struct ferryi_tenant {
	/* immutable after open */
	struct ferryi_listener *listener;
	uint8_t token[FERRYI_TOKEN_LEN];
	char label[64];
	/* protected by listener->lock */
	struct ferryi_tenant *next, **pprev; /* pprev NULL: not (or no longer) found by token */
	struct ferryi_region *regions;
};

struct ferryi_region {
	/* immutable after open */
	struct ferryi_tenant *tenant;
	struct ferryi_memory memory;
	unsigned access;
	struct ferryi_remote remote; /* filled by region_open */
	/* protected by listener->lock */
	struct ferryi_region *next, **pprev;
};

/*
 * Optional entries may be NULL. Every int is 0 or a negative errno of
 * fabric.h; the row logs the foreign cause once.
 */
struct ferryi_fabric_ops {
	size_t peer_size, channel_size, listener_size, tenant_size, region_size;

	/* As ferryi_fabric_usable. */
	int (*usable)(char *why, size_t why_len);

	/* ---- client ---- */
	int (*peer_open)(struct ferryi_peer *peer, uint64_t deadline_ns);
	void (*peer_close)(struct ferryi_peer *peer);
	int (*peer_import)(struct ferryi_peer *peer, const struct ferryi_remote *remote,
			   uint64_t deadline_ns);					   /* optional */
	void (*peer_forget)(struct ferryi_peer *peer, const struct ferryi_remote *remote); /* optional */
	int (*peer_memfd)(struct ferryi_peer *peer, const struct ferryi_remote *remote); /* optional: -ENOTSUP */
	int (*peer_event_fd)(struct ferryi_peer *peer); /* optional: -ENOTSUP */
	int (*peer_events)(
		struct ferryi_peer *peer); /* optional; -ENOTCONN makes the common code fail the peer */

	/* channel->peer, ops and depth are set. */
	int (*channel_open)(struct ferryi_channel *channel, uint64_t deadline_ns);
	/* Nothing is outstanding; channel_shutdown has been called. */
	void (*channel_close)(struct ferryi_channel *channel);
	/* range->base and len_bytes are set; fills priv and desc. Undone by channel_close. */
	int (*channel_register)(struct ferryi_channel *channel, struct ferryi_local_range *range);
	/*
	 * Posts one operation; arguments are checked, range holds op->local. It is
	 * already on channel->posted, so the row may complete it in here. op->priv[1..5]
	 * are the row's. 0: taken (exactly one ferryi_channel_complete follows);
	 * -EAGAIN: not now, nothing posted; other: not taken, the channel is dead.
	 */
	int (*channel_submit)(struct ferryi_channel *channel, struct ferryi_op *op,
			      const struct ferryi_local_range *range);
	/*
	 * Makes progress and calls ferryi_channel_complete for what has finished
	 * (bounded work, no waiting). 0, or negative when the channel is dead.
	 */
	int (*channel_poll)(struct ferryi_channel *channel);
	int (*channel_wait_fd)(struct ferryi_channel *channel); /* optional: -ENOTSUP */
	int (*channel_arm)(struct ferryi_channel *channel);	/* optional: -ENOTSUP */
	/*
	 * Called once, when the channel dies for whatever cause. On return nothing
	 * writes to local memory any more. Completes what it can tell; the common
	 * code ends the rest with -ECANCELED (or -ETIMEDOUT past the deadline).
	 */
	void (*channel_shutdown)(struct ferryi_channel *channel);

	/* ---- server ---- */
	int (*listener_open)(struct ferryi_listener *listener);
	/* No tenant is left. */
	void (*listener_close)(struct ferryi_listener *listener);
	/* Not yet found by token. */
	int (*tenant_open)(struct ferryi_tenant *tenant);
	/* Closes its connections, waits until they are quiet. No longer found by token; its regions still
	 * exist. */
	void (*tenant_shutdown)(struct ferryi_tenant *tenant); /* optional */
	/* No region and (after tenant_shutdown) no connection is left. */
	void (*tenant_close)(struct ferryi_tenant *tenant);
	/* The part after "row:", into buf: 0 or -ENOSPC. Host empty when listening everywhere. */
	int (*tenant_addr)(struct ferryi_tenant *tenant, char *buf, size_t buf_len);
	/* Fills region->remote. */
	int (*region_open)(struct ferryi_region *region);
	/* As ferryi_region_revoke; the common code frees the struct afterwards. */
	void (*region_revoke)(struct ferryi_region *region);
};

/* ---- the common code, for rows ---- */

/*
 * The operation is finished: takes it off channel->posted and queues it for
 * poll(). Owner thread, from submit, poll or shutdown of the row.
 */
void ferryi_channel_complete(struct ferryi_channel *channel, struct ferryi_op *op, int status);

/*
 * The tenant whose token it is, or NULL; looks at every tenant, every byte, so
 * that the time tells nothing. Caller holds listener->lock and keeps it for as
 * long as it uses the tenant.
 */
struct ferryi_tenant *ferryi_listener_match_locked(struct ferryi_listener *listener,
						   const uint8_t token[FERRYI_TOKEN_LEN]);

/* 64 random bits for a key; never 0 or ~0. */
uint64_t ferryi_random_key(void);

/* "HOST:PORT", "[v6]:PORT", ":PORT" (the rest of an address) into its parts: 0 or -EINVAL. */
int ferryi_addr_split(const char *addr, char *host, size_t host_len, char *port, size_t port_len);

/* The rows; fabric.c lists them. */
extern const struct ferryi_fabric_ops ferryi_ops_verbs;
extern const struct ferryi_fabric_ops ferryi_ops_tcp;
extern const struct ferryi_fabric_ops ferryi_ops_rdm;
extern const struct ferryi_fabric_ops ferryi_ops_local;
extern const struct ferryi_fabric_ops ferryi_ops_fake;

#endif
