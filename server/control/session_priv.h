/* What the files of session share. Control thread. */
#ifndef FERRYI_CONTROL_SERVER_SESSION_PRIV_H
#define FERRYI_CONTROL_SERVER_SESSION_PRIV_H

#include "session.h"
#include "users.h"
#include "views.h"

/* AUTHENTICATING: munged is asked about the credential. */
enum state { AWAIT_HELLO, AWAIT_AUTH, AUTHENTICATING, LIVE };

struct ferryi_server_session {
	struct ferryi_job
		closing; /* first member: the job that ends the session is part of it, and cannot fail */
	/* immutable */
	struct ferryi_hub *hub;
	struct ferryi_server_session_io io;
	uint64_t id, epoch;
	char peer[64];
	/* tls: whose certificate it is, before any input; then immutable */
	char certified[FERRYI_MAX_USER + 1];
	/* set with the hello, then immutable */
	char label[96];
	/* set when the session is authenticated, then immutable */
	struct ferryi_user *user;
	/* owned by the session's worker between open and the closing job */
	struct ferryi_grants *grants;
	/* owned by the control thread */
	struct ferryi_views *views;		     /* from authentication to close */
	struct ferryi_server_session *next, **pprev; /* on hub->sessions until closed */
	enum state state;
	bool closed, counted; /* counted: in g_sessions and against the limit */
	bool charged;	      /* to its user */
	bool refused;	      /* answered, and to be closed at the next tick */
	uint8_t nonce[FERRYI_NONCE_LEN];
	uint64_t deadline_ns; /* of the handshake, then of silence */
	unsigned nrequests;
	uint8_t *input;
	size_t input_len, input_size;
	uint64_t *leases; /* ids, for revocation notices */
	size_t nleases, leases_size;
};

/* Sends the reply and frees it. */
void ferryi_server_session_put(struct ferryi_server_session *session, struct ferryi_reply *reply);
void ferryi_server_session_put_envelope(struct ferryi_server_session *session,
					const Farferry__Envelope *envelope);
void ferryi_server_session_put_error(struct ferryi_server_session *session, uint64_t request_id,
				     Farferry__Code code, const char *text);
void ferryi_server_session_put_drain(struct ferryi_server_session *session, uint64_t deadline_ms);
/* Logs and answers what ends the connection; rc. */
int ferryi_server_session_fail(struct ferryi_server_session *session, uint64_t request_id,
			       Farferry__Code code, int rc, const char *text);

/* ---- login.c; 0, or negative when the connection is to be closed ---- */

int ferryi_server_session_hello(struct ferryi_server_session *session, const Farferry__Envelope *request);
int ferryi_server_session_auth(struct ferryi_server_session *session, const Farferry__Envelope *request);

#endif
