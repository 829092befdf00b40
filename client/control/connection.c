/* See connection.h. */
#include "connection.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#ifdef FERRYI_HAVE_TLS
#include <event2/bufferevent_ssl.h>
#endif
#include <event2/event.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "arith.h"
#include "clock.h"
#include "control_priv.h"
#include "export.h"
#include "inherit.h"
#include "lease.h"
#include "log.h"
#include "loop.h"
#include "request.h"

static void hang_up(struct ferryi_session *session)
{
	if (session->timer != NULL) {
		event_free(session->timer);
		session->timer = NULL;
	}
	if (session->bev != NULL) {
		ferryi_inherit_forget(session->fd);
		bufferevent_free(session->bev);
		session->bev = NULL;
	}
}

/* First caller wins; false when the session was lost before. */
static bool mark_lost(struct ferryi_session *session, enum ferryi_lost_reason reason, const char *why,
		      bool *announced)
{
	struct ferryi_lease *lease;

	ferryi_mutex_lock(&session->lock);
	if (atomic_load(&session->state) == FERRYI_SESSION_LOST) {
		ferryi_mutex_unlock(&session->lock);
		return false;
	}
	snprintf(session->why, sizeof(session->why), "%s", why);
	atomic_store(&session->reason, (int)reason);
	atomic_store(&session->state, (int)FERRYI_SESSION_LOST);
	/* Data first: nobody should wait on a dead server while we tidy up. */
	TAILQ_FOREACH(lease, &session->leases, link)
	ferryi_peer_fail(lease->peer);
	ferryi_request_fail_all_locked(session);
	*announced = session->announced;
	ferryi_mutex_unlock(&session->lock);
	return true;
}

/* The list of leases changes under the lock only, and a lease leaves it before it dies. */
static void unwatch_leases(struct ferryi_session *session)
{
	struct ferryi_lease *lease;

	ferryi_mutex_lock(&session->lock);
	TAILQ_FOREACH(lease, &session->leases, link)
	ferryi_lease_unwatch(lease);
	ferryi_mutex_unlock(&session->lock);
}

void ferryi_connection_lose(struct ferryi_session *session, enum ferryi_lost_reason reason, const char *fmt,
			    ...)
{
	struct ferryi_control *control = session->control;
	bool announced = false;
	char why[1200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (!mark_lost(session, reason, why, &announced))
		return;
	unwatch_leases(session);
	hang_up(session);
	if (!announced)
		return; /* the opener hears of it by its request */
	ferryi_warn("session %s: lost: %s", session->name, why);
	if (control->on_state != NULL)
		control->on_state(control->ctx, session, FERRYI_SESSION_LOST);
}

/* ---- what the server sends by itself ---- */

static void on_drain(struct ferryi_session *session, const Farferry__DrainNotice *notice)
{
	struct ferryi_control *control = session->control;
	int expected = FERRYI_SESSION_LIVE;

	ferryi_mutex_lock(&session->lock);
	bool first = atomic_compare_exchange_strong(&session->state, &expected, (int)FERRYI_SESSION_DRAINING);
	bool announced = session->announced;

	ferryi_mutex_unlock(&session->lock);
	if (!first || !announced)
		return;
	ferryi_notice("session %s: the server drains within %u ms: %s", session->name, notice->deadline_ms,
		      notice->reason);
	if (control->on_state != NULL)
		control->on_state(control->ctx, session, FERRYI_SESSION_DRAINING);
}

static bool is_ours(struct ferryi_session *session, uint64_t lease_id)
{
	struct ferryi_lease *lease;
	bool ours;

	ferryi_mutex_lock(&session->lock);
	ours = session->attaching > 0;
	TAILQ_FOREACH(lease, &session->leases, link)
	ours = ours || lease->id == lease_id;
	ferryi_mutex_unlock(&session->lock);
	return ours;
}

/*
 * One revoked lease takes the session with it: its pages are lost either way,
 * and the reader of a state has one thing to handle. A lease that we closed
 * meanwhile is none; one that is being opened may be the one.
 */
static void on_revoked(struct ferryi_session *session, const Farferry__RevokedNotice *notice)
{
	if (!is_ours(session, notice->lease_id)) {
		ferryi_debug("session %s: notice of a closed lease ignored", session->name);
		return;
	}
	ferryi_connection_lose(session, FERRYI_LOST_REVOKED, "the server revoked lease %llu: %s",
			       (unsigned long long)notice->lease_id, notice->reason);
}

/* A lease that we closed meanwhile is none of ours; one that is being opened may be the one. */
static void on_failed(struct ferryi_session *session, const Farferry__FailedNotice *notice)
{
	const struct ferryi_failure failure = {.lease_id = notice->lease_id,
					       .extent_id = notice->extent_id,
					       .off = notice->off,
					       .len_bytes = notice->len_bytes};

	if (!is_ours(session, notice->lease_id)) {
		ferryi_debug("session %s: notice of a closed lease ignored", session->name);
		return;
	}
	if (ferryi_failure_add(session, &failure) < 0)
		ferryi_connection_lose(session, FERRYI_LOST_REVOKED,
				       "more of the server's memory has failed than can be kept track of");
}

static int on_notice(struct ferryi_session *session, const Farferry__Envelope *envelope, char *why,
		     size_t why_len)
{
	switch (envelope->body_case) {
	case FARFERRY__ENVELOPE__BODY_DRAIN:
		on_drain(session, envelope->drain);
		return 0;
	case FARFERRY__ENVELOPE__BODY_REVOKED:
		on_revoked(session, envelope->revoked);
		return 0;
	case FARFERRY__ENVELOPE__BODY_FAILED:
		on_failed(session, envelope->failed);
		return 0;
	case FARFERRY__ENVELOPE__BODY_KEEPALIVE:
		return 0;
	case FARFERRY__ENVELOPE__BODY_ERROR:
		/* The connection ends next; this is what it will be said to have ended of. */
		ferryi_mutex_lock(&session->lock);
		session->server_err = ferryi_code_to_errno(envelope->error->code);
		snprintf(session->why, sizeof(session->why), "%s", envelope->error->text);
		ferryi_mutex_unlock(&session->lock);
		return 0;
	default:
		snprintf(why, why_len, "it sent \"%s\" unasked", ferryi_body_name(envelope->body_case));
		return -EPROTO;
	}
}

/* ---- the connection ---- */

static int take_frame(struct ferryi_session *session, struct evbuffer *input, size_t len, char *why,
		      size_t why_len)
{
	Farferry__Envelope *envelope = NULL;
	const uint8_t *bytes = evbuffer_pullup(input, (ev_ssize_t)len);

	if (bytes == NULL) {
		snprintf(why, why_len, "out of memory for a frame");
		return -ENOMEM;
	}
	int rc = ferryi_frame_decode(FERRYI_ROLE_CLIENT, bytes, len, &envelope, why, why_len);

	if (rc < 0)
		return rc;
	evbuffer_drain(input, len);
	session->heard_ns = ferryi_now_ns();
	if (envelope->body_case == FARFERRY__ENVELOPE__BODY_ACCESS)
		return ferryi_export_access(session, envelope, why, why_len);
	if (envelope->request_id == 0) {
		rc = on_notice(session, envelope, why, why_len);
		ferryi_envelope_free(&envelope);
		return rc;
	}
	return ferryi_request_answer(session, envelope, why, why_len);
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct ferryi_session *session = arg;
	struct evbuffer *input = bufferevent_get_input(bev);

	ferryi_session_get(session); /* a notice may lead to ferryi_session_close in on_state */
	while (session->bev != NULL) {
		uint8_t head[FERRYI_FRAME_HEADER] = {0};
		char why[FERRYI_MAX_TEXT] = "";
		ev_ssize_t have = evbuffer_copyout(input, head, sizeof(head));
		long len = ferryi_frame_peek(head, have < 0 ? 0 : (size_t)have);
		int rc = 0;

		if (len < 0 && head[0] == 0x15 && head[1] == 3) /* an alert of TLS */
			snprintf(why, sizeof(why), "it speaks TLS: set FERRY_AUTH=tls, or write ?auth=tls");
		else if (len == -EMSGSIZE)
			snprintf(why, sizeof(why), "a frame of it is longer than %u bytes", FERRYI_FRAME_MAX);
		else if (len < 0)
			snprintf(why, sizeof(why), "its bytes are not the farferry protocol");
		if (len < 0)
			rc = (int)len;
		else if (len == 0 || evbuffer_get_length(input) < (size_t)len)
			break;
		else
			rc = take_frame(session, input, (size_t)len, why, sizeof(why));
		if (rc < 0)
			ferryi_connection_lose(session, FERRYI_LOST_PROTOCOL,
					       "the server broke the protocol: %s", why);
	}
	ferryi_session_put(session);
}

/* A handshake that failed, or a connection that was garbled: nobody who may be one of ours. */
static void lose_tls(struct ferryi_session *session, struct bufferevent *bev)
{
#ifdef FERRYI_HAVE_TLS
	char why[256];

	ferryi_tls_why(bufferevent_openssl_get_ssl(bev), bufferevent_get_openssl_error(bev), why,
		       sizeof(why));
	ferryi_mutex_lock(&session->lock);
	session->server_err = -EACCES;
	ferryi_mutex_unlock(&session->lock);
	ferryi_connection_lose(session, FERRYI_LOST_CLOSED, "TLS: %s", why);
#else
	(void)session;
	(void)bev;
#endif
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct ferryi_session *session = arg;
	int err = errno;
	char said[sizeof(session->why)];

	/*
	 * A write fails first when the peer has hung up; what it said before that is still to be read. But
	 * the first error of TLS is its last.
	 */
	if (((what & BEV_EVENT_WRITING) != 0 && !session->is_tls) ||
	    (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) == 0)
		return;
	ferryi_mutex_lock(&session->lock);
	snprintf(said, sizeof(said), "%s", session->why);
	ferryi_mutex_unlock(&session->lock);
	if (said[0] != '\0')
		ferryi_connection_lose(session, FERRYI_LOST_CLOSED, "the server closed the connection: %s",
				       said);
	else if (session->is_tls && (what & BEV_EVENT_ERROR) != 0)
		lose_tls(session, bev);
	else if ((what & BEV_EVENT_EOF) != 0)
		ferryi_connection_lose(session, FERRYI_LOST_CLOSED, "the server closed the connection");
	else
		ferryi_connection_lose(session, FERRYI_LOST_CLOSED, "the connection failed: %s",
				       ferryi_strerror(err));
}

void ferryi_connection_flush(struct ferryi_session *session)
{
	ferryi_mutex_lock(&session->lock);
	while (!STAILQ_EMPTY(&session->out)) {
		struct ferryi_frame *frame = STAILQ_FIRST(&session->out);

		STAILQ_REMOVE_HEAD(&session->out, link);
		/* Out of memory: the request times out, which is what its caller is told. */
		if (session->bev != NULL && bufferevent_write(session->bev, frame->bytes, frame->len) < 0)
			ferryi_error("session %s: a frame could not be sent: out of memory", session->name);
		free(frame->bytes);
		free(frame);
	}
	ferryi_mutex_unlock(&session->lock);
}

/* A notice says more than a dead data connection does; one that has come already is read first. */
void ferryi_connection_data_ended(struct ferryi_session *session)
{
	char byte;

	if (session->bev == NULL)
		return;
	if (!session->data_ended && recv(session->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
		session->data_ended = true;
		return;
	}
	ferryi_connection_lose(session, FERRYI_LOST_CLOSED, "its data connection ended: the server is gone");
}

/* ---- keep-alive ---- */

static void arm_timer(struct ferryi_session *session)
{
	uint64_t now = ferryi_now_ns();
	uint64_t next = session->sent_ns + session->keepalive_ms * FERRYI_NS_PER_MS;
	uint64_t lost = session->heard_ns + session->timeout_ms * FERRYI_NS_PER_MS;
	uint64_t wait_us = (ferryi_max_u64(ferryi_min_u64(next, lost), now) - now) / FERRYI_NS_PER_US + 1;
	struct timeval tv = {.tv_sec = (time_t)(wait_us / 1000000),
			     .tv_usec = (suseconds_t)(wait_us % 1000000)};

	session->due_ns = now + wait_us * FERRYI_NS_PER_US;
	evtimer_add(session->timer, &tv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct ferryi_session *session = arg;
	uint64_t now = ferryi_now_ns();

	(void)fd;
	(void)what;
	/* We were stopped or starved, not the server: what it sent meanwhile is yet to be read. */
	if (now > session->due_ns && now - session->due_ns >= session->keepalive_ms * FERRYI_NS_PER_MS)
		session->heard_ns = now;
	if (now - session->heard_ns >= session->timeout_ms * FERRYI_NS_PER_MS) {
		ferryi_connection_lose(session, FERRYI_LOST_KEEPALIVE,
				       "no answer for %u ms: the server is stopped, or cut off",
				       session->timeout_ms);
		return;
	}
	if (now - session->sent_ns >= session->keepalive_ms * FERRYI_NS_PER_MS) {
		Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
		Farferry__KeepAlive body = FARFERRY__KEEP_ALIVE__INIT;

		body.epoch = session->epoch;
		envelope.body_case = FARFERRY__ENVELOPE__BODY_KEEPALIVE;
		envelope.keepalive = &body;
		if (ferryi_request_post(session, &envelope, FARFERRY__ENVELOPE__BODY_KEEPALIVE) < 0)
			ferryi_error("session %s: no keep-alive sent: out of memory", session->name);
		session->sent_ns = now;
	}
	arm_timer(session);
}

int ferryi_connection_keepalive(struct ferryi_session *session)
{
	if (session->bev == NULL)
		return 0; /* lost already: the opener is about to see it */
	session->timer = evtimer_new(ferryi_loop_base(session->control->loop), on_timer, session);
	if (session->timer == NULL)
		return -ENOMEM;
	session->heard_ns = ferryi_now_ns();
	session->sent_ns = session->heard_ns;
	arm_timer(session);
	return 0;
}

/* ---- start and end ---- */

static struct bufferevent *bev_new(struct ferryi_session *session)
{
	struct event_base *base = ferryi_loop_base(session->control->loop);
	struct bufferevent *bev = NULL;

	if (!session->is_tls)
		return bufferevent_socket_new(base, session->fd, BEV_OPT_CLOSE_ON_FREE);
#ifdef FERRYI_HAVE_TLS
	bev = bufferevent_openssl_socket_new(base, session->fd, session->tls, BUFFEREVENT_SSL_CONNECTING,
					     BEV_OPT_CLOSE_ON_FREE);
	if (bev != NULL) {
		session->tls = NULL;
		bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
	}
#endif
	return bev;
}

int ferryi_connection_start(struct ferryi_session *session)
{
	struct bufferevent *bev = bev_new(session);

	if (bev == NULL)
		return -ENOMEM;
	/* Nothing more is read than one frame of the largest size and the head of the next. */
	bufferevent_setwatermark(bev, EV_READ, 0, FERRYI_FRAME_MAX + 2 * FERRYI_FRAME_HEADER);
	bufferevent_setcb(bev, on_read, NULL, on_event, session);
	if (bufferevent_enable(bev, EV_READ | EV_WRITE) < 0) {
		/* The descriptor goes with it. */
		ferryi_inherit_forget(session->fd);
		bufferevent_free(bev);
		session->fd = -1;
		return -ENOMEM;
	}
	session->bev = bev;
	session->heard_ns = ferryi_now_ns();
	ferryi_session_get(session);
	TAILQ_INSERT_TAIL(&session->control->sessions, session, link);
	ferryi_mutex_lock(&session->lock);
	session->attached = true;
	ferryi_mutex_unlock(&session->lock);
	return 0;
}

void ferryi_connection_end(struct ferryi_session *session)
{
	bool announced;

	if (!session->attached)
		return;
	mark_lost(session, FERRYI_LOST_CLOSED, "this process closed it", &announced);
	unwatch_leases(session);
	hang_up(session);
	TAILQ_REMOVE(&session->control->sessions, session, link);
	ferryi_mutex_lock(&session->lock);
	session->attached = false;
	ferryi_mutex_unlock(&session->lock);
	ferryi_session_put(session);
}
