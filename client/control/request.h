/*
 * Requests of one session: a caller sends an envelope and waits for the reply
 * of that id; the control thread hands replies over. A request that timed out
 * stays listed, so that its late reply is known and a lease that it granted is given back.
 */
#ifndef FERRYI_CONTROL_REQUEST_H
#define FERRYI_CONTROL_REQUEST_H

#include <pthread.h>
#include <sys/queue.h>

#include "proto.h"
#include "session.h"

/* A frame on its way to the control thread. */
struct ferryi_frame {
	STAILQ_ENTRY(ferryi_frame) link;
	uint8_t *bytes; /* malloc'ed */
	size_t len;
};

/* All members are protected by the session's lock. */
struct ferryi_request {
	TAILQ_ENTRY(ferryi_request) link;
	uint64_t id;
	Farferry__Envelope__BodyCase expects;
	Farferry__Envelope__BodyCase asked;
	bool abandoned; /* nobody waits (any more); owned by the list */
	bool done;
	int err;
	Farferry__Envelope *reply;
	pthread_cond_t cond;
};

/*
 * Sends and waits. envelope's request_id is set here; its body and *reply's are
 * the caller's (free *reply with ferryi_envelope_free). An Error reply comes
 * back as its errno. On failure the error line is set and *reply is NULL.
 * -ENOTCONN lost, -ETIMEDOUT, -EPROTO (and the session is lost), -ENOMEM.
 * Context: any thread but the control thread; no lock held.
 */
int ferryi_request_call(struct ferryi_session *session, Farferry__Envelope *envelope,
			Farferry__Envelope__BodyCase expects, uint64_t deadline_ns,
			Farferry__Envelope **reply);

/* Control thread: sends without waiting; the reply is checked and dropped. 0, -ENOTCONN, -ENOMEM. */
int ferryi_request_post(struct ferryi_session *session, Farferry__Envelope *envelope,
			Farferry__Envelope__BodyCase expects);

/* Any thread: sends a notice, to which no reply comes. 0, -ENOTCONN, -ENOMEM, -EMSGSIZE. */
int ferryi_request_notify(struct ferryi_session *session, Farferry__Envelope *envelope);

/* Control thread: takes over a reply. 0, or -EPROTO and why. */
int ferryi_request_answer(struct ferryi_session *session, Farferry__Envelope *envelope, char *why,
			  size_t why_len);

/* Ends every request with -ENOTCONN and drops the frames queued. */
void ferryi_request_fail_all_locked(struct ferryi_session *session);

#endif
