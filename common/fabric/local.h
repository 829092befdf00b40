/*
 * The local row: the server hands a region's memfd over a Unix socket, and the
 * client's reads and writes are pread and pwrite on it. No mapping here: a revoked
 * region is a file of length 0, on which both fail cleanly instead of raising
 * SIGBUS. Who wants that (coherent pools) maps the memfd himself. The server's
 * CPU takes part in imports only.
 */
#ifndef FERRYI_FABRIC_LOCAL_H
#define FERRYI_FABRIC_LOCAL_H

#include <stdint.h>

#include "fabric_ops.h"

/*
 * The conversation, over a SOCK_SEQPACKET socket of the abstract name space:
 * the client says hello once, then asks for regions one at a time. Both ends
 * run on one host, so the layout is the compiler's.
 */
#define FERRYI_LOCAL_MAGIC   0x4c595246u /* "FRYL" */
#define FERRYI_LOCAL_VERSION 1u

enum ferryi_local_kind { FERRYI_LOCAL_HELLO = 1, FERRYI_LOCAL_IMPORT = 2 };

struct ferryi_local_request {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	uint64_t key;			 /* IMPORT */
	uint8_t token[FERRYI_TOKEN_LEN]; /* HELLO */
};

struct ferryi_local_reply {
	uint32_t magic;
	uint16_t version;
	uint16_t kind;
	int32_t status; /* 0 or negative errno; an IMPORT that succeeds carries one descriptor */
	uint32_t pad;
	uint64_t key;
	uint64_t len_bytes;
};

/* ---- client (local_client.c) ---- */

struct ferryi_local_import {
	uint64_t key; /* 0: free */
	int fd;
};

struct ferryi_local_peer {
	struct ferryi_peer base; /* base.lock: one conversation at a time on sock */
	/* immutable after open */
	int sock;
	int hangup_fd; /* epoll on sock for hang-up alone: replies do not wake its watcher */
	int wait_fd;   /* epoll on hangup_fd and base.fail_fd */
	/* protected by table_lock (a leaf: the fault path takes it, and never base.lock) */
	struct ferryi_mutex table_lock;
	struct ferryi_local_import *table; /* open addressing; a power of two of slots */
	size_t nslots, nused;
	/* atomic: channels compare it with what their caches saw */
	_Atomic uint64_t generation;
};

int ferryi_local_peer_open(struct ferryi_peer *peer, uint64_t deadline_ns);
void ferryi_local_peer_close(struct ferryi_peer *peer);
int ferryi_local_peer_import(struct ferryi_peer *peer, const struct ferryi_remote *remote,
			     uint64_t deadline_ns);
void ferryi_local_peer_forget(struct ferryi_peer *peer, const struct ferryi_remote *remote);
int ferryi_local_peer_memfd(struct ferryi_peer *peer, const struct ferryi_remote *remote);
int ferryi_local_peer_event_fd(struct ferryi_peer *peer);
int ferryi_local_peer_events(struct ferryi_peer *peer);
/*
 * The descriptor of an imported region, -1 if there is none. It stays open
 * until forget, which may not run while an operation on it is under way.
 * Context: fault path; takes table_lock.
 */
int ferryi_local_peer_find(struct ferryi_local_peer *peer, uint64_t key);

/* ---- channel (local_channel.c) ---- */

#define FERRYI_LOCAL_CACHE 64 /* descriptors remembered by a channel, so that it seldom takes table_lock */

struct ferryi_local_channel {
	struct ferryi_channel base;
	/* owned by the channel's owner thread */
	struct ferryi_op *queue_head; /* FIFO through priv[1] */
	struct ferryi_op *queue_tail;
	struct {
		uint64_t key;
		uint64_t generation;
		int fd;
	} cache[FERRYI_LOCAL_CACHE];
};

int ferryi_local_channel_open(struct ferryi_channel *channel, uint64_t deadline_ns);
void ferryi_local_channel_close(struct ferryi_channel *channel);
int ferryi_local_channel_register(struct ferryi_channel *channel, struct ferryi_local_range *range);
int ferryi_local_channel_submit(struct ferryi_channel *channel, struct ferryi_op *op,
				const struct ferryi_local_range *range);
int ferryi_local_channel_poll(struct ferryi_channel *channel);
int ferryi_local_channel_wait_fd(struct ferryi_channel *channel);
int ferryi_local_channel_arm(struct ferryi_channel *channel);
void ferryi_local_channel_shutdown(struct ferryi_channel *channel);

/* ---- server (local_server.c) ---- */

struct ferryi_local_conn;

struct ferryi_local_listener {
	struct ferryi_listener base;
	/* immutable after open */
	char name[64]; /* "@farferry-<32 hex>" */
	int sock, epoll_fd, stop_fd;
	pthread_t thread;
	/* owned by the service thread */
	int spare_fd; /* given up to refuse a connection when descriptors run out; or -1 */
	/* protected by base.lock */
	struct ferryi_local_conn *conns; /* oldest last */
	unsigned nconns, nstrangers;	 /* strangers: have not said hello yet */
};

struct ferryi_local_tenant {
	struct ferryi_tenant base;
};

struct ferryi_local_region {
	struct ferryi_region base;
};

int ferryi_local_listener_open(struct ferryi_listener *listener);
void ferryi_local_listener_close(struct ferryi_listener *listener);
int ferryi_local_tenant_open(struct ferryi_tenant *tenant);
void ferryi_local_tenant_shutdown(struct ferryi_tenant *tenant);
void ferryi_local_tenant_close(struct ferryi_tenant *tenant);
int ferryi_local_tenant_addr(struct ferryi_tenant *tenant, char *buf, size_t buf_len);
int ferryi_local_region_open(struct ferryi_region *region);
void ferryi_local_region_revoke(struct ferryi_region *region);

/* ---- memory (local.c) ---- */

/* 0 when the descriptor can be lent: a memfd of exactly that size, sealed as ferryi_local_memfd seals. */
int ferryi_local_memfd_check(int fd, size_t len_bytes, char *why, size_t why_len);

#endif
