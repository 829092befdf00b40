/*
 * One session: a control connection to one server, the requests in flight on
 * it and the leases that hang on it. The control thread reads, writes and
 * times the connection; callers queue frames and wait on their request.
 * References: the opener's, one for each lease, one while it is attached to the control thread.
 */
#ifndef FERRYI_CONTROL_SESSION_H
#define FERRYI_CONTROL_SESSION_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "control.h"
#include "lock.h"
#include "proto.h"
#include "url.h"

struct bufferevent;
struct event;
struct ferryi_control;
struct ferryi_request;
struct ferryi_frame;

#define FERRYI_SESSION_MAGIC 0x5e551011u

#define FERRYI_SESSION_FAILURES 64u /* reports that wait for their extent */

/* Part of an extent that is lost. The lease or the extent may not be known here yet. */
struct ferryi_failure {
	uint64_t lease_id, extent_id, off, len_bytes;
};

struct ferryi_session {
	unsigned magic;
	/* immutable */
	struct ferryi_control *control; /* to be used while attached only */
	struct ferryi_url url;
	enum ferryi_auth auth; /* how it shows who it is; auth_named: by the URL or the environment */
	bool auth_named;
	char name[272]; /* "host:port" */
	uint64_t request_ms;
	int fd;		    /* bev's, for the fork table */
	struct ssl_st *tls; /* of a connection that is to be TLS, until bev has it; NULL: plain, or bev's */
	bool is_tls;
	/* written by the handshake before any other thread knows the session, then immutable */
	char server_id[33];
	char offered[256]; /* fabrics, comma list */
	bool same_host;
	uint64_t epoch;
	uint32_t keepalive_ms;
	uint32_t timeout_ms;
	/* atomic: lock-free readers. Written with the lock held, reason before state. */
	_Atomic int state;
	_Atomic int reason;
	_Atomic unsigned refs;
	/* protected by lock */
	struct ferryi_mutex lock;
	uint64_t next_id; /* of requests; 0 is for notices */
	TAILQ_HEAD(, ferryi_request) pending;
	STAILQ_HEAD(, ferryi_frame) out;
	TAILQ_HEAD(, ferryi_lease) leases;
	unsigned attaching; /* lease_open calls under way */
	bool attached;	    /* the control thread knows it */
	bool announced;	    /* session_open has succeeded: on_state is due */
	int server_err;	    /* of an Error notice: why the server is about to hang up */
	char why[1200];	    /* one sentence about the loss */
	/* FERRYI_RANK_FAILURES; a lease on the list stays there while it is held. Before lock. */
	struct ferryi_mutex failure_lock;
	/* protected by failure_lock */
	struct ferryi_failure failures[FERRYI_SESSION_FAILURES]; /* not delivered yet */
	unsigned nfailures;
	/* owned by the control thread */
	TAILQ_ENTRY(ferryi_session) link;
	struct bufferevent *bev; /* NULL once lost */
	struct event *timer;
	uint64_t heard_ns; /* last valid frame from the server */
	uint64_t sent_ns;  /* last keep-alive */
	uint64_t due_ns;   /* when the timer should fire */
	bool data_ended;   /* a peer's connection has; see ferryi_connection_data_ended */
};

void ferryi_session_get(struct ferryi_session *session);
void ferryi_session_put(struct ferryi_session *session);

/*
 * Ends the session here (no on_state any more) and takes it from the control
 * thread; leases stay valid handles, of a lost session. 0 or -ETIMEDOUT. No lock held.
 */
int ferryi_session_detach(struct ferryi_session *session);

/* Sets the error line of a lost session and returns -ENOTCONN. */
int ferryi_session_fail_lost(struct ferryi_session *session);

#endif
