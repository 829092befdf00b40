/*
 * Control plane of the client: sessions with memory servers, leases, the
 * embedded server. One libevent thread (the control thread) per `control`;
 * it watches the control connections and the peers' event descriptors and
 * sends the keep-alives. It never touches managed memory and never waits on
 * the pager.
 *
 * Calls block the caller (never the control thread) up to their deadline.
 * Never on the fault path. Errors: 0 or negative errno, with one clear line
 * left in ferryi_control_last_error() of the calling thread.
 */
#ifndef FERRYI_CONTROL_H
#define FERRYI_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "fabric.h"

struct ferryi_control;
struct ferryi_session;
struct ferryi_lease;

enum ferryi_session_state {
	FERRYI_SESSION_LIVE,
	FERRYI_SESSION_DRAINING, /* the server grants nothing more; data still flows */
	FERRYI_SESSION_LOST,     /* gone for good: its leases are revoked */
};

enum ferryi_lost_reason {
	FERRYI_LOST_NONE,
	FERRYI_LOST_CLOSED,    /* the control connection ended or was reset */
	FERRYI_LOST_KEEPALIVE, /* no answer within the timeout */
	FERRYI_LOST_REVOKED,   /* the server said so */
	FERRYI_LOST_PROTOCOL,  /* the server sent something invalid */
};

struct ferryi_access_call;

struct ferryi_control_attr {
	const char *token_file;  /* NULL: $FERRY_TOKEN_FILE, else where ferryd leaves its own on this machine */
	const uint8_t *token;	 /* overrides the file, and $FERRY_AUTH; borrowed during the call */
	uint64_t connect_ms;     /* of ferryi_session_open, name resolution included */
	uint64_t request_ms;     /* deadline of one request */
	/*
	 * Called once, in the control thread, with no lock held, when a session
	 * is lost or starts draining. Its peer has been failed already. Must not
	 * block; may close the session. Not called for sessions that this process closes.
	 */
	void (*on_state)(void *ctx, struct ferryi_session *session, enum ferryi_session_state state);
	/*
	 * Called in the control thread, with no lock held, for each access of a reader to a mirror that this process
	 * exports: the call is the callee's, to be answered once by another thread. Must not block. NULL: none is exported.
	 */
	void (*on_access)(void *ctx, struct ferryi_access_call *call);
	void *ctx;
};

int ferryi_control_open(const struct ferryi_control_attr *attr, struct ferryi_control **out);
/* Closes every session (their leases end) and joins the thread. */
void ferryi_control_close(struct ferryi_control **control);

/* One line on why the last call of this thread failed; never NULL. */
const char *ferryi_control_last_error(void);

/*
 * Connects, negotiates, authenticates. url: ferry://host:port[?fabric=...][&auth=...]; where it names no
 * method, $FERRY_AUTH does, else it is the token.
 * -EHOSTUNREACH, -ECONNREFUSED, -ETIMEDOUT, -EACCES, -EPROTONOSUPPORT, -EPROTO, -EINVAL;
 * -ESHUTDOWN, -EDQUOT: the server takes no more sessions.
 */
int ferryi_session_open(struct ferryi_control *control, const char *url, struct ferryi_session **out);
/* Its leases end: their peers are failed, the handles stay good for ferryi_lease_close only. */
void ferryi_session_close(struct ferryi_session **session);
enum ferryi_session_state ferryi_session_state(const struct ferryi_session *session); /* any thread, lock-free */
enum ferryi_lost_reason ferryi_session_lost_reason(const struct ferryi_session *session);
const char *ferryi_session_name(const struct ferryi_session *session);      /* "host:port", immutable */
const char *ferryi_session_server_id(const struct ferryi_session *session); /* 32 hex digits */

struct ferryi_pool_info {
	char name[64], type[16], backing[16];
	uint64_t size_bytes, free_bytes, leased_bytes, scrub_bytes, huge_page_bytes;
	int numa_node;
};
/* Up to max pools; returns how many the server has, or negative errno. */
int ferryi_session_pools(struct ferryi_session *session, struct ferryi_pool_info *out, unsigned max);

#define FERRYI_SESSION_QUOTAS 32u

struct ferryi_session_quota {
	char name[64]; /* "bytes", "leases", ... */
	uint64_t used, limit;
	bool limited; /* false: there is no limit */
};
/* Who this process is for the server, and what it holds and may hold there. */
struct ferryi_session_user {
	char name[192]; /* "uid:1000"; "": a server of 0.1 */
	unsigned nquotas;
	struct ferryi_session_quota quotas[FERRYI_SESSION_QUOTAS];
};
/* 0 or negative errno. */
int ferryi_session_user(struct ferryi_session *session, struct ferryi_session_user *out);

struct ferryi_session_stat {
	char name[64];
	uint64_t value;
	bool gauge;
};
/*
 * Has the server drained, as SIGTERM of it does; deadline_ms 0: as it is set up.
 * -EPERM: this user may not. A server of 0.1 ends the session. Blocks.
 */
int ferryi_session_drain(struct ferryi_session *session, uint32_t deadline_ms);
int ferryi_session_stats(struct ferryi_session *session, struct ferryi_session_stat *out, unsigned max);

/* A granted extent. Immutable until the lease releases it. */
struct ferryi_extent {
	uint64_t id;
	uint64_t pool_off;  /* bytes from the server pool's start */
	uint64_t len_bytes; /* multiple of 2 MiB */
	struct ferryi_remote remote;
};

/* What a lease is asked for; strings are borrowed during the call. */
struct ferryi_lease_want {
	const char *pool; /* NULL or "": the server's first (of that type) */
	const char *type; /* "private", "fs_dax", ...: what the pool must be; NULL or "": any */
	const char *name; /* NULL or "": the lease ends with the session; else it is kept under that name */
	uint64_t size_bytes; /* multiple of 2 MiB; 0 allowed; a name may have more */
};

/*
 * Leases memory of a pool over the session's fabric, opens the peer, imports
 * the extents.
 * -EBUSY somebody has the lease of that name, -EINVAL a name that cannot be or
 * a pool that keeps none, -EOPNOTSUPP a server of 0.1 (with a name).
 * -ENXIO no such pool, or of another type, -ENOMEM full (the line says how much is free), -ENODEV
 * fabric, -ESHUTDOWN draining, -ENOTCONN session lost, -ETIMEDOUT.
 */
int ferryi_lease_open_as(struct ferryi_session *session, const struct ferryi_lease_want *want, struct ferryi_lease **out);
/* A pool of any type. */
int ferryi_lease_open(struct ferryi_session *session, const char *pool, uint64_t size_bytes, struct ferryi_lease **out);
/*
 * Adds size_bytes. *first is the index of the first new extent, *count how many
 * came. All or nothing. Same errors.
 */
int ferryi_lease_grow(struct ferryi_lease *lease, uint64_t size_bytes, unsigned *first, unsigned *count);
/* ---- heirs ---- */

#define FERRYI_LEASE_SECRET_LEN 16u /* bytes */

/* What another process needs to stand by for a lease of this one. All of it is secret. */
struct ferryi_lease_will {
	char url[320]; /* of the server, with the lease's fabric */
	bool has_token;
	uint8_t token[32];
	uint8_t secret[FERRYI_LEASE_SECRET_LEN];
};
/*
 * false: nobody can inherit this lease: it has a name, or its pool or server
 * keeps nothing, or its session is lost. Any thread; does not block, allocates nothing.
 */
bool ferryi_lease_bequest(const struct ferryi_lease *lease, struct ferryi_lease_will *out);
/*
 * The session stands by for a lease of another one, until it is closed or has claimed it.
 * -ENOENT no such lease, -EBUSY another one does, -EDQUOT, -ENOTCONN, -ETIMEDOUT.
 */
int ferryi_session_stand_by(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN]);
/* It stands by no more. -ENOENT (it did not), -ENOTCONN, -ETIMEDOUT. */
int ferryi_session_renounce(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN]);
/*
 * Takes that lease over, once it is lost: to be read only.
 * -EBUSY it is not yet: ask again; -ENOENT it was given back, or has waited for too long; else as ferryi_lease_open.
 */
int ferryi_lease_claim(struct ferryi_session *session, const uint8_t secret[FERRYI_LEASE_SECRET_LEN],
		       struct ferryi_lease **out);

/* Gives one extent back; no operation on it may be under way. Its index stays used, with len_bytes 0. */
int ferryi_lease_shrink(struct ferryi_lease *lease, unsigned extent_index);
/*
 * Gives everything back now, of a lease without a name; the handle stays good for its close and for what it says. Its channels
 * fail. 0, or what the server said; -ETIMEDOUT. By who may close it.
 */
int ferryi_lease_give_back(struct ferryi_lease *lease);
/* Gives everything back, but what has a name. All channels of the peer must be closed. Nulls *lease. */
void ferryi_lease_close(struct ferryi_lease **lease);
/* The same, and the name is given up for good. The lease is closed in any case; else what the server said. */
int ferryi_lease_forget(struct ferryi_lease **lease);
/* "": it ends with the session. */
const char *ferryi_lease_name(const struct ferryi_lease *lease);
/* So many of the first extents hold what was left there under that name. */
/* What has a name waits so long for an attach by it, once the session has ended; 0: for good, or it has none. */
uint32_t ferryi_lease_keep_ms(const struct ferryi_lease *lease);
unsigned ferryi_lease_kept_extents(const struct ferryi_lease *lease);

/*
 * From now on, failed(ctx, ...) is called for each part of the lease's memory
 * that its server reports as lost: bytes [off, off + len) of an extent, whole
 * pages; also for what was reported before. Once for each report, in order, until the lease is
 * closed. Context: the callee runs in the control thread, in this call or in
 * ferryi_lease_grow, with the session's failure lock held; must not block nor call a function of a lease that does.
 */
typedef void ferryi_lease_failed(void *ctx, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes);
void ferryi_lease_on_failure(struct ferryi_lease *lease, ferryi_lease_failed *failed, void *ctx);
/* For tests: the server treats that page of the extent as failed (ferryd --inject-failures). 0, -EINVAL (it does not
 * let us), -ENOENT, -ENOTCONN, -ETIMEDOUT. */
int ferryi_lease_inject(struct ferryi_lease *lease, unsigned extent_index, uint64_t off_bytes);

unsigned ferryi_lease_extent_count(const struct ferryi_lease *lease);
/* The pointer stays valid until the lease is closed. */
const struct ferryi_extent *ferryi_lease_extent(const struct ferryi_lease *lease, unsigned index);
struct ferryi_peer *ferryi_lease_peer(const struct ferryi_lease *lease);
struct ferryi_session *ferryi_lease_session(const struct ferryi_lease *lease);
const struct ferryi_fabric_row *ferryi_lease_row(const struct ferryi_lease *lease);
const char *ferryi_lease_pool_type(const struct ferryi_lease *lease); /* "private", ... */
uint64_t ferryi_lease_pool_size(const struct ferryi_lease *lease); /* bytes of the server's whole pool, at the last grant */

/* ---- exports and views ---- */

#define FERRYI_ACCESS_MAX   65536u /* bytes of one access */
#define FERRYI_ACCESS_PAGES 17u    /* pages that so many bytes touch at most */

/* Bits of perms. */
#define FERRYI_EXPORT_READ  1u
#define FERRYI_EXPORT_WRITE 2u

/* Where one page of an access was found. */
struct ferryi_access_page {
	uint64_t extent_id; /* of the exporter's lease; 0: its bytes are in data */
	uint64_t off;       /* bytes from the extent's start */
	uint64_t hash;      /* XXH3 of the page there */
};

/* What an access gave. */
struct ferryi_access_result {
	unsigned npages; /* of a read */
	struct ferryi_access_page page[FERRYI_ACCESS_PAGES];
	uint8_t *data; /* bytes of the pages without an extent, one after the other; FERRYI_ACCESS_MAX are the caller's */
	size_t data_len;
	uint64_t rounds;
	uint32_t pages_ram, pages_pool, pages_populated, pages_home;
};

/* A reader's access to an export of this process. */
struct ferryi_access_call {
	/* immutable */
	uint64_t export_id;
	uintptr_t va;
	size_t len;          /* 1 .. FERRYI_ACCESS_MAX */
	const uint8_t *data; /* len bytes to write; NULL: a read */
	bool places;         /* pages in a pool of the call's session may be answered by their place */
	uint64_t deadline_ns;
	struct ferryi_session *session;
	/* the callee's */
	struct ferryi_access_call *next;
	/* owned by client/control */
	uint64_t access_id;
	void *envelope;
};

/*
 * Ends the call: with the result, or (rc < 0) with an error and its line, borrowed. Nulls *call. Any thread;
 * does not block. What a lost session cannot be told is dropped.
 */
void ferryi_access_answer(struct ferryi_access_call **call, int rc, const char *line, const struct ferryi_access_result *result);

/*
 * Publishes under a name; accesses come to on_access with this number, from now on. -EEXIST, -EINVAL (name),
 * -EDQUOT, -ENOTCONN, -ETIMEDOUT.
 */
int ferryi_session_export(struct ferryi_session *session, uint64_t export_id, const char *name, unsigned perms);
/* Readers are told that it is gone. -ENOENT, -ENOTCONN, -ETIMEDOUT. */
int ferryi_session_unexport(struct ferryi_session *session, uint64_t export_id);

/* -ENOENT, -EINVAL (name), -EDQUOT, -ENOTCONN, -ETIMEDOUT. */
int ferryi_session_view_open(struct ferryi_session *session, const char *name, uint64_t *view_id, unsigned *perms);
int ferryi_session_view_close(struct ferryi_session *session, uint64_t view_id);
/*
 * One access of at most FERRYI_ACCESS_MAX bytes; write_from NULL: a read. *result is filled, and checked against
 * va and len. -EFAULT, -EPERM, -EIO, -ESHUTDOWN, -EBUSY (ask again), -ENOTCONN, -ETIMEDOUT, -EPROTO.
 */
int ferryi_session_view_access(struct ferryi_session *session, uint64_t view_id, uintptr_t va, size_t len,
			       const uint8_t *write_from, bool places, uint64_t deadline_ns,
			       struct ferryi_access_result *result);

/* A right to read one of the exporter's extents. */
struct ferryi_view_extent {
	const struct ferryi_fabric_row *row;
	char addr[FERRYI_FABRIC_ADDR_LEN];
	uint8_t token[FERRYI_TOKEN_LEN];
	struct ferryi_remote remote;
};
/* -ENOENT (no such extent any more), -ENODEV (it cannot be lent, or this host has no such fabric), -ESHUTDOWN, ... */
int ferryi_session_view_extent(struct ferryi_session *session, uint64_t view_id, uint64_t extent_id, uint64_t deadline_ns,
			       struct ferryi_view_extent *out);
/* The peer that reads them, of one (row, addr, token). As ferryi_peer_open. */
int ferryi_session_view_peer(struct ferryi_session *session, const struct ferryi_view_extent *extent, uint64_t deadline_ns,
			     struct ferryi_peer **out);
/* Milliseconds that one request may take. */
uint64_t ferryi_session_request_ms(const struct ferryi_session *session);

/* ---- embedded server ---- */

struct ferryi_embedded;

/*
 * Starts a ferryd as a child process that dies with this one (its life line is
 * a pipe), serving one lazily populated pool of size_bytes over the local
 * fabric on loopback, with a token passed by inheritance. Found by
 * $FERRY_FERRYD, else beside the library's build or install prefix, else $PATH.
 * No signal handler is touched. An application that waits for any child
 * (waitpid(-1)) may be told of this one; one that ignores SIGCHLD is fine too.
 * -EINVAL size, -ENOENT ferryd not found, -ECHILD it ended at once (the line has its words), -ETIMEDOUT,
 * -EPROTO no ferryd of this version.
 */
int ferryi_embedded_start(uint64_t size_bytes, uint64_t deadline_ns, struct ferryi_embedded **out);
void ferryi_embedded_stop(struct ferryi_embedded **embedded);
const char *ferryi_embedded_url(const struct ferryi_embedded *embedded);
const uint8_t *ferryi_embedded_token(const struct ferryi_embedded *embedded); /* FERRYI_AUTH_TOKEN_LEN bytes */
pid_t ferryi_embedded_pid(const struct ferryi_embedded *embedded);

#endif
