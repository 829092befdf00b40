/*
 * One-sided transport behind one ops table.
 *
 * Client side: a `peer` is the data plane of one server as seen from this
 * process; a `channel` is one connection to it, owned by one thread, on which
 * reads and writes are posted and completions polled.
 * Server side: a `listener` is one row (provider) on one address; a `tenant` is
 * one client session's protection domain; a `region` is memory that this
 * tenant alone can reach, until it is revoked.
 *
 * Rows: verbs, tcp (libfabric FI_EP_MSG), rdm (libfabric FI_EP_RDM), local
 * (memfd over a Unix socket), fake (in-process, fault injection; tests only).
 * Everything that a provider does differently from this page is handled below
 * it (see fabric/README.md for the list), never above.
 *
 * Errors: 0 or negative errno. Provider errors are translated and logged here,
 * once. The codes that a caller may act on:
 *   -ENOTCONN      the channel (or peer) is dead; open another
 *   -ECANCELED     the operation was flushed because its channel died
 *   -ETIMEDOUT     the operation's deadline passed (its channel is dead too)
 *   -EACCES        key refused: wrong, revoked, or no such right; where the
 *                  provider cannot tell this apart from a dead peer the
 *                  operation ends with -ECANCELED (see ferryi_fabric_row.flags)
 *   -ERANGE        outside the region
 * Any of these leaves the operation's local memory untouched or undefined (a
 * read), but never written to after its completion was returned.
 */
#ifndef FERRYI_FABRIC_H
#define FERRYI_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "counter.h"

/* ---- rows ---- */

enum ferryi_fabric_flags {
	FERRYI_FABRIC_SAME_HOST = 1 << 0,     /* reaches servers of this host only; regions need a memfd */
	FERRYI_FABRIC_TARGET_CPU = 1 << 1,    /* the target's progress threads serve reads and writes */
	FERRYI_FABRIC_EXACT_ERRORS = 1 << 2,  /* a refused key ends that operation alone, with -EACCES */
	FERRYI_FABRIC_DATA_OUTLIVES_STOP = 1 << 3, /* a SIGSTOPped server still serves data */
	FERRYI_FABRIC_TEST_ONLY = 1 << 4,
	FERRYI_FABRIC_UNPINNED = 1 << 5, /* registering local memory pins none of it: see ferryi_channel_is_unpinned */
};

struct ferryi_fabric_ops; /* private: fabric_ops.h */

struct ferryi_fabric_row {
	const char *name;
	unsigned flags;
	const char *text;
	const struct ferryi_fabric_ops *ops;
};

/* NULL when there is no such row ("shm" finds "local"). */
const struct ferryi_fabric_row *ferryi_fabric_find(const char *name);
/* Rows in order of preference for `auto`; NULL past the end. */
const struct ferryi_fabric_row *ferryi_fabric_at(unsigned index);
/*
 * 0 when the row can be used on this machine now; else a negative errno and
 * one line (cause and fix) in why. May load providers; start-up code only.
 */
int ferryi_fabric_usable(const struct ferryi_fabric_row *row, char *why, size_t why_len);

/*
 * Prepares libfabric for this process: registration cache and memory monitors
 * off for *us*, environment as it was afterwards. Called by peer and listener
 * open; explicit early calls are allowed. Idempotent; any thread; may block.
 */
void ferryi_fabric_setup(void);

/* ---- addressing remote memory ---- */

#define FERRYI_TOKEN_LEN      32  /* bytes: a session's data-plane secret */
#define FERRYI_FABRIC_ADDR_LEN 256 /* text, with its NUL */

/* A remote region as a lease describes it. Offsets into it are bytes from its start. */
struct ferryi_remote {
	uint64_t key;  /* provider key */
	uint64_t addr; /* provider address of the first byte (0 where offsets are used) */
	uint64_t len_bytes;
};

/* ---- operations ---- */

enum ferryi_op_kind { FERRYI_OP_READ, FERRYI_OP_WRITE };

/*
 * One read (remote to local) or write (local to remote), of any length; the
 * channel splits what the provider cannot take whole. Owned by the caller,
 * lent to the channel from submit to completion: exactly one completion each,
 * whatever happens. A write's completion means that the bytes are in the
 * region (delivery complete), not merely on the wire.
 */
struct ferryi_op {
	/* set by the caller */
	enum ferryi_op_kind kind;
	void *local; /* inside memory registered with this channel */
	size_t len_bytes;
	struct ferryi_remote remote;
	uint64_t remote_off;  /* bytes from the region's start; [off, off + len) is checked, -ERANGE */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
	void *cookie;         /* the caller's */
	/* result, valid once poll() has returned the operation */
	int status; /* 0 or negative errno */
	/* owned by the channel between submit and completion */
	struct ferryi_op *next;
	uint64_t priv[6];
};

/* ---- client side ---- */

struct ferryi_peer;
struct ferryi_channel;

struct ferryi_peer_attr {
	const struct ferryi_fabric_row *row;
	const char *addr;        /* the server's ferryi_tenant_addr(); borrowed during the call */
	const char *control_host; /* used when addr has an empty host */
	uint8_t token[FERRYI_TOKEN_LEN];
	const char *label; /* for log lines; copied */
};

/*
 * Opens the data plane of one server for this process. Connects once, without
 * data, so that the server's end is noticed (local: for imports too); rdm has
 * no connection to make.
 * Context: may block up to deadline_ns, allocates; never on the fault path.
 * Returns 0, -ENODEV (row not usable here), -EHOSTUNREACH, -ECONNREFUSED,
 * -EACCES (token refused), -ETIMEDOUT, -ENOMEM, -EINVAL (addr not of this row).
 */
int ferryi_peer_open(const struct ferryi_peer_attr *attr, uint64_t deadline_ns, struct ferryi_peer **out);
/* All its channels must be closed. NULL allowed; nulls *peer. */
void ferryi_peer_close(struct ferryi_peer **peer);

/*
 * Makes a leased region usable on every channel of the peer (local: fetches its
 * memfd); to be called once before the first operation on it. Forget undoes
 * it; no operation on it may be under way.
 * Context: may block up to deadline_ns; any thread; never on the fault path.
 */
int ferryi_peer_import(struct ferryi_peer *peer, const struct ferryi_remote *remote, uint64_t deadline_ns);
void ferryi_peer_forget(struct ferryi_peer *peer, const struct ferryi_remote *remote);
/*
 * SAME_HOST rows: the memfd of an imported region, which begins at its first
 * byte; it stays open until forget, also when the server has gone. A mapping of
 * it raises SIGBUS once the region is revoked, pread and pwrite end at byte 0.
 * -ENOENT: not imported; -ENOTSUP: the row has none. Any thread; does not block.
 */
int ferryi_peer_memfd(struct ferryi_peer *peer, const struct ferryi_remote *remote);

/*
 * Readable when the peer has connection news (shutdown, hang-up). Watch it from
 * one thread and call events(): 0, or -ENOTCONN once the server is known to be
 * gone. Returns the descriptor, or -ENOTSUP where there is nothing to watch.
 */
int ferryi_peer_event_fd(struct ferryi_peer *peer);
int ferryi_peer_events(struct ferryi_peer *peer);

/*
 * Declares the server dead (keep-alive missed, say): every channel fails with
 * -ENOTCONN from its next call on and flushes what is outstanding. Any thread;
 * does not block.
 */
void ferryi_peer_fail(struct ferryi_peer *peer);
bool ferryi_peer_is_failed(const struct ferryi_peer *peer);

/*
 * Connects one channel. depth: most operations outstanding (1..256).
 * Context: blocks up to deadline_ns, allocates; the new channel may be handed
 * to another thread before its first use.
 * Errors as peer_open, and -EACCES when the server refuses the token.
 */
int ferryi_channel_open(struct ferryi_peer *peer, unsigned depth, uint64_t deadline_ns, struct ferryi_channel **out);
/* Flushes first: every outstanding operation completes through poll before this may be called. Nulls *channel. */
void ferryi_channel_close(struct ferryi_channel **channel);

/*
 * Registers local memory that operations of this channel may use. At most 8
 * ranges a channel; stays registered until close. Never managed memory.
 */
int ferryi_channel_register(struct ferryi_channel *channel, void *base, size_t len_bytes);
/*
 * Registered local memory is reached through the page tables, and only by
 * operations under way: as long as these have pages to work on, the others may
 * be moved (UFFDIO_MOVE), dropped and filled again. Any thread.
 */
bool ferryi_channel_is_unpinned(const struct ferryi_channel *channel);

/*
 * Posts operations in order. Returns how many were taken, from the front (less
 * than n: the queue is full, poll first), or -ENOTCONN when the channel is dead
 * (none taken). An operation whose arguments are bad is taken and completes
 * with -ERANGE or -EINVAL.
 * Context: owner thread; does not block; after the first operations of a
 * channel it allocates nothing itself (fault path).
 */
int ferryi_channel_submit(struct ferryi_channel *channel, struct ferryi_op *const *ops, unsigned n);

/*
 * Returns completed operations, 0 if there are none now, or -ENOTCONN when the
 * channel is dead *and* every operation has been returned. Checks deadlines:
 * an operation past its deadline kills the channel (one-sided operations
 * cannot be recalled singly), and all others end with -ECANCELED.
 * Context: owner thread; does not block, but for up to 250 ms in the call that
 * finds the channel dead, while the provider flushes; fault path.
 */
int ferryi_channel_poll(struct ferryi_channel *channel, struct ferryi_op **done, unsigned max);

/*
 * To sleep until something completes: arm() returns 0 when poll(2) on the
 * descriptor is now safe, -EAGAIN when there is something to poll() first,
 * -ENOTSUP where the row has no descriptor (keep polling). Deadlines are the
 * caller's to bound the sleep with.
 */
int ferryi_channel_wait_fd(struct ferryi_channel *channel);
int ferryi_channel_arm(struct ferryi_channel *channel);

/*
 * Kills the channel: what is outstanding completes through poll() with
 * -ECANCELED (or its own result if that came first), and after that nothing
 * writes to local memory any more. Bounded time; owner thread.
 */
void ferryi_channel_shutdown(struct ferryi_channel *channel);
bool ferryi_channel_is_dead(const struct ferryi_channel *channel);
unsigned ferryi_channel_outstanding(const struct ferryi_channel *channel);

/* ---- server side ---- */

struct ferryi_listener;
struct ferryi_tenant;
struct ferryi_region;

#define FERRYI_ACCESS_READ  1u
#define FERRYI_ACCESS_WRITE 2u

struct ferryi_listener_stats {
	ferryi_counter_t c_connections_total;
	ferryi_counter_t c_refused_total;       /* connections with a wrong token */
	ferryi_counter_t g_connections;
	ferryi_counter_t c_registrations_total;
	ferryi_counter_t c_registration_ns_total;
	ferryi_counter_t c_revocations_total;
};

struct ferryi_listener_attr {
	const struct ferryi_fabric_row *row;
	const char *host;      /* where to listen; "" or "0.0.0.0": everywhere */
	uint64_t spin_us;      /* TARGET_CPU rows: keep spinning this long after the last work, then sleep */
	unsigned threads;      /* progress threads, 0: the row's default (1) */
	const char *label;
};

/*
 * Starts listening, with the threads that the row needs (connection events;
 * data progress for TARGET_CPU rows, spinning spin_us after work and then
 * asleep in the kernel).
 * Returns 0, -ENODEV, -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, -ENOMEM, -EINVAL.
 */
int ferryi_listener_open(const struct ferryi_listener_attr *attr, struct ferryi_listener **out);
/* Closes every tenant's connections and regions, joins the threads. */
void ferryi_listener_close(struct ferryi_listener **listener);
const struct ferryi_listener_stats *ferryi_listener_stats(const struct ferryi_listener *listener);

/*
 * Proves in this process that the row keeps access rights: a loop-back client
 * writes to a read-only region, and reads one that was revoked. 0, or -EACCES
 * when either succeeded (the row must not be served), or what stopped the
 * test. May block up to deadline_ns.
 */
int ferryi_listener_self_test(struct ferryi_listener *listener, uint64_t deadline_ns);

/*
 * A protection domain for one client session; connections that present the
 * token join it. Any thread; may block shortly.
 */
int ferryi_tenant_open(struct ferryi_listener *listener, const uint8_t token[FERRYI_TOKEN_LEN], const char *label,
		       struct ferryi_tenant **out);
/* Shuts its connections, revokes its regions; on return nothing of this tenant can touch memory. Nulls *tenant. */
void ferryi_tenant_close(struct ferryi_tenant **tenant);
/* Text for ferryi_peer_attr.addr; the host part is empty when listening everywhere. */
int ferryi_tenant_addr(struct ferryi_tenant *tenant, char *buf, size_t buf_len);

/* Memory to lend: len_bytes at base; fd >= 0: the same memory as a memfd from fd_off (SAME_HOST rows need it). */
struct ferryi_memory {
	void *base;
	size_t len_bytes;
	int fd;
	off_t fd_off;
};

/*
 * A memfd that SAME_HOST rows can lend: close-on-exec, mode 0600, of that
 * length, sealed so that it can only ever be truncated. One a region. The
 * server must not touch a mapping of it once clients have had it: they can
 * shorten it. Not for huge pages (hugetlbfs files cannot be written).
 * Returns 0 and the descriptor in *fd, -EINVAL, -EFBIG (file size limit,
 * ulimit -f), or what memfd_create and ftruncate say.
 */
int ferryi_local_memfd(const char *name, size_t len_bytes, int *fd);

/*
 * Registers memory for this tenant. One registration an extent, never a page.
 * The memory must outlive the region. Returns 0, -ENOMEM (memlock too small;
 * the log line says what to raise), -EINVAL (row needs a memfd), -EACCES.
 */
int ferryi_region_open(struct ferryi_tenant *tenant, const struct ferryi_memory *memory, unsigned access,
		       struct ferryi_region **out);
void ferryi_region_remote(const struct ferryi_region *region, struct ferryi_remote *out);
/*
 * Revokes the key. On return no peer can read or write the memory through it,
 * and no operation under way touches it any more. Where the provider can only
 * promise that by closing the tenant's connections (tcp), they are closed; the
 * client opens new ones. SAME_HOST: the memfd is truncated to 0, so the owner
 * must not touch `base` afterwards. Nulls *region.
 */
void ferryi_region_revoke(struct ferryi_region **region);

/* ---- devices (libibverbs), for `auto` and `ferry doctor` ---- */

struct ferryi_device {
	char name[64];       /* "rxe0" */
	char netdev[32];     /* "eth0", or "" */
	char link_layer[16]; /* "Ethernet", "InfiniBand" */
	char state[16];      /* "active", "down", "init", "armed" */
	char gid[64];        /* first usable GID */
	unsigned port;
	unsigned active_mtu; /* bytes */
	bool odp;            /* on-demand paging */
	int numa_node;       /* -1 unknown */
};

/* Fills up to max devices (one entry a port); the count, or negative errno (-ENOSYS: no verbs on this kernel). */
int ferryi_device_list(struct ferryi_device *out, unsigned max);
/*
 * Picks the row for a server reached at `host` among the names it offers
 * (comma list): verbs where an active device routes to it, local on the same
 * host, else tcp, else rdm. NULL when none fits.
 */
const struct ferryi_fabric_row *ferryi_fabric_auto(const char *host, bool same_host, const char *offered);

/* ---- fake row: fault injection (tests only) ---- */

enum ferryi_fake_fault {
	FERRYI_FAKE_NONE,
	FERRYI_FAKE_ERROR,   /* complete with -EIO */
	FERRYI_FAKE_DROP,    /* never complete (until deadline or shutdown) */
	FERRYI_FAKE_DIE,     /* the connection dies */
	FERRYI_FAKE_CORRUPT, /* a read returns flipped bits */
};
/* The `count` operations after the next `skip` ones on the whole fake row suffer `what`. Any thread. */
void ferryi_fake_inject(enum ferryi_fake_fault what, unsigned skip, unsigned count);
/* Stop (true) or continue (false) all fake servers: operations stay outstanding. */
void ferryi_fake_stop(bool stopped);

#endif
