/*
 * The protocol of one control connection, from bytes to bytes: hello,
 * authentication, requests, silence. Knows no socket: its owner (the door, or a
 * test) feeds input, sends output, calls tick in time and closes it.
 *
 * A session never closes itself: input() and tick() say when the owner has to.
 * Context: control thread. Leases are worked on by the hub's jobs, so replies
 * may come after input() has returned.
 */
#ifndef FERRYI_CONTROL_SERVER_SESSION_H
#define FERRYI_CONTROL_SERVER_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "hub.h"
#include "mce.h"
#include "url.h"

struct ferryi_server_session;

struct ferryi_server_session_io {
	/* Takes one whole frame to be sent; bytes live during the call. Never called after close. */
	void (*output)(void *ctx, const uint8_t *bytes, size_t len);
	/* The session authenticated: it counts against other limits now. May be NULL. */
	void (*authenticated)(void *ctx);
	/* It did not: the next tick says so; what was output goes out first. May be NULL. */
	void (*refused)(void *ctx);
	void *ctx;
	enum ferryi_auth auth; /* of the listener */
	char address[64];      /* numeric, that the client has connected to: MUNGE credentials are for it */
};

/* label: the peer's address, for log lines; copied. 0 or -ENOMEM. */
int ferryi_server_session_open(struct ferryi_hub *hub, const struct ferryi_server_session_io *io,
			       const char *label, struct ferryi_server_session **out);
/*
 * Ends the session at once: everything it holds is revoked by its worker, in
 * the background. NULL allowed; nulls *session. reason goes to the log.
 */
void ferryi_server_session_close(struct ferryi_server_session **session, const char *reason);

/* Whose certificate the peer has shown (auth=tls): before any input. Copied. */
void ferryi_server_session_identify(struct ferryi_server_session *session, const char *user);
/* For log lines; lives as long as the session, and changes with the hello. */
const char *ferryi_server_session_label(const struct ferryi_server_session *session);

/*
 * Feeds bytes as they came, in any pieces. Returns 0, or a negative errno when
 * the connection is to be closed (what was output goes out first).
 */
int ferryi_server_session_input(struct ferryi_server_session *session, const uint8_t *bytes, size_t len);

/*
 * Looks at the clock: -ETIMEDOUT when the peer was silent for too long (the
 * connection is to be closed), else 0 with the time of the next look.
 */
int ferryi_server_session_tick(struct ferryi_server_session *session, uint64_t now_ns, uint64_t *next_ns);

/* Memory of this process has failed: the session that has been lent it is told, and what is free is replaced.
 */
void ferryi_server_sessions_failed(struct ferryi_hub *hub, const struct ferryi_mce *mce);

/* To every session of the hub: the server is going to stop. */
void ferryi_server_sessions_drain(struct ferryi_hub *hub, uint64_t deadline_ms);
/* Tells every session that its leases are revoked; the owner closes it then. */
void ferryi_server_sessions_revoke(struct ferryi_hub *hub, const char *reason);

#endif
