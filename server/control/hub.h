/*
 * What all sessions of the server share. Built by main before anything is
 * served; afterwards immutable but for the members named.
 */
#ifndef FERRYI_CONTROL_HUB_H
#define FERRYI_CONTROL_HUB_H

#include <stdbool.h>
#include <stdint.h>

#include "fabric.h"
#include "jobs.h"
#include "pool.h"
#include "proto.h"
#include "status.h"
#include "users.h"

#define FERRYI_HUB_FABRICS_MAX 8u
#define FERRYI_SERVER_ID_LEN   33u /* 32 hex digits and a NUL */

struct ferryi_server_session;
struct ferryi_export;
struct ferryi_views;

struct ferryi_hub_limits {
	uint64_t sessions;	  /* authenticated, at once */
	uint64_t unauthenticated; /* connections not authenticated yet; more wait in the listen queue */
	uint64_t leases;	  /* of one session */
	uint64_t extents;	  /* of one session */
	uint64_t exports;	  /* of one session */
	uint64_t views;		  /* of one session */
	uint64_t output_bytes;	  /* unread replies of one connection */
	uint64_t handshake_ms;	  /* from accept to authentication */
	uint64_t keepalive_ms;	  /* what clients are told to keep */
	uint64_t timeout_ms;	  /* silence that ends a session */
	uint64_t keep_ms;	  /* a lease with a name, in memory, waits so long for its client */
};

struct ferryi_hub_fabric {
	const struct ferryi_fabric_row *row;
	struct ferryi_listener *listener;
};

struct ferryi_hub {
	/* immutable */
	struct ferryi_pool *pools[FERRYI_MAX_POOLS];
	unsigned npools;
	struct ferryi_hub_fabric fabrics[FERRYI_HUB_FABRICS_MAX];
	unsigned nfabrics;
	struct ferryi_hub_limits limits;
	bool inject_failures;		      /* tests: clients may have memory of theirs fail */
	uint8_t token[FERRYI_AUTH_TOKEN_LEN]; /* zeros where no listener wants it */
	const char *munge_socket;	      /* NULL: the default */
	char server_id[FERRYI_SERVER_ID_LEN];
	char host[256];
	struct ferryi_jobs *jobs; /* itself the control thread's */
	/* For munged, which may block: no session waits for another's. NULL: no listener wants MUNGE. */
	struct ferryi_jobs *logins;
	/* owned by the control thread */
	struct ferryi_server_session *sessions; /* every one, newest first */
	struct ferryi_export *exports;		/* of all sessions (views.c) */
	struct ferryi_views *views;		/* of all sessions */
	struct ferryi_users users;
	uint64_t next_session_id;
	uint64_t epoch;
	uint64_t drain_deadline_ns;
	/* Drains the server, soon, not within the call; deadline_ms 0: its own. Set before anything is served. */
	void (*drain)(void *ctx, uint64_t deadline_ms, const char *who);
	void *drain_ctx;
	/* atomic: the control thread sets, workers read */
	_Atomic bool draining;
	/* atomic: workers number leases and extents with it */
	_Atomic uint64_t next_id;
	/* atomic: counters */
	struct ferryi_status status;
};

/* Zeroes, draws the server id, finds the host's name. 0 or -EIO. */
int ferryi_hub_init(struct ferryi_hub *hub, const struct ferryi_hub_limits *limits);

/* A pool by name ("": the first of that type), of that type ("": any); NULL when there is none. */
struct ferryi_pool *ferryi_hub_pool(const struct ferryi_hub *hub, const char *name, const char *type);
/* A fabric by row name or its other name; NULL when there is none. */
struct ferryi_hub_fabric *ferryi_hub_fabric(struct ferryi_hub *hub, const char *name);

/* Bytes that names of that scope have for good in all pools, and nobody holds. Any thread. */
uint64_t ferryi_hub_booked(const struct ferryi_hub *hub, const char *scope);

/* "hot, cold (fs_dax)": for error sentences. Returns buf. */
const char *ferryi_hub_pool_names(const struct ferryi_hub *hub, char *buf, size_t buf_len);
const char *ferryi_hub_fabric_names(const struct ferryi_hub *hub, char *buf, size_t buf_len);

#endif
