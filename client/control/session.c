/* See session.h. Runs in the callers' threads; what the control thread does is in connection.c. */
#include "session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "connect.h"
#include "connection.h"
#include "control_priv.h"
#include "error.h"
#include "handshake.h"
#include "inherit.h"
#include "lease.h"
#include "log.h"
#include "loop.h"
#include "request.h"

int ferryi_session_fail_lost(struct ferryi_session *session)
{
	char why[sizeof(session->why)];

	ferryi_mutex_lock(&session->lock);
	snprintf(why, sizeof(why), "%s", session->why);
	ferryi_mutex_unlock(&session->lock);
	return ferryi_control_fail(-ENOTCONN, "the session with ferryd at %s is lost: %s", session->name,
				   why);
}

static struct ferryi_session *session_new(struct ferryi_control *control, const struct ferryi_url *url)
{
	struct ferryi_session *session = calloc(1, sizeof(*session));

	if (session == NULL)
		return NULL;
	session->magic = FERRYI_SESSION_MAGIC;
	session->control = control;
	session->url = *url;
	session->auth = ferryi_trust_auth(&control->trust, url, &session->auth_named);
	session->request_ms = control->request_ms;
	snprintf(session->name, sizeof(session->name), strchr(url->host, ':') != NULL ? "[%s]:%u" : "%s:%u",
		 url->host, (unsigned)url->port);
	session->fd = -1;
	session->next_id = 1;
	atomic_init(&session->state, (int)FERRYI_SESSION_LIVE);
	atomic_init(&session->reason, (int)FERRYI_LOST_NONE);
	atomic_init(&session->refs, 1);
	ferryi_mutex_init(&session->lock, FERRYI_RANK_SESSION);
	ferryi_mutex_init(&session->failure_lock, FERRYI_RANK_FAILURES);
	TAILQ_INIT(&session->pending);
	STAILQ_INIT(&session->out);
	TAILQ_INIT(&session->leases);
	return session;
}

void ferryi_session_get(struct ferryi_session *session)
{
	atomic_fetch_add(&session->refs, 1);
}

void ferryi_session_put(struct ferryi_session *session)
{
	if (atomic_fetch_sub(&session->refs, 1) > 1)
		return;
	/* ASSUMPTION: detached, which ended all requests and closed fd; every lease held a reference. */
	ferryi_tls_close(&session->tls);
	ferryi_mutex_fini(&session->failure_lock);
	ferryi_mutex_fini(&session->lock);
	session->magic = 0;
	free(session);
}

struct start_call {
	struct ferryi_session *session;
	int rc;
};

static void start_connection(void *arg)
{
	struct start_call *call = arg;

	call->rc = ferryi_connection_start(call->session);
}

static void start_keepalive(void *arg)
{
	struct start_call *call = arg;

	call->rc = ferryi_connection_keepalive(call->session);
}

static void end_connection(void *arg)
{
	ferryi_connection_end(arg);
}

static int connect_session(struct ferryi_session *session, uint64_t deadline_ns)
{
	struct start_call call = {.session = session, .rc = -ETIMEDOUT};

	/* Before anybody is bothered: what is wrong with our own files. */
	if (session->auth == FERRYI_AUTH_TLS) {
		int err = ferryi_trust_tls(&session->control->trust, session->url.host, &session->tls);

		if (err < 0)
			return err;
	}
	session->fd = ferryi_connect(session->url.host, session->url.port, session->name, deadline_ns);
	if (session->fd < 0)
		return session->fd;
	session->is_tls = session->auth == FERRYI_AUTH_TLS;
	ferryi_inherit_not(session->fd);
	int rc = ferryi_loop_call(session->control->loop, start_connection, &call, deadline_ns);

	if (rc == 0)
		rc = call.rc;
	if (rc == 0)
		return 0;
	if (session->fd >= 0) {
		ferryi_inherit_forget(session->fd);
		close(session->fd);
		session->fd = -1;
	}
	return ferryi_control_fail(rc, "session %s: the control thread did not take it: %s", session->name,
				   ferryi_strerror(rc));
}

/* From here on a loss is told by on_state; before, by the opener's return. */
static int announce(struct ferryi_session *session)
{
	ferryi_mutex_lock(&session->lock);
	bool lost = atomic_load(&session->state) == FERRYI_SESSION_LOST;

	session->announced = !lost;
	ferryi_mutex_unlock(&session->lock);
	if (!lost)
		return 0;
	ferryi_session_fail_lost(session);
	return -EPROTO;
}

int ferryi_session_open(struct ferryi_control *control, const char *url_text, struct ferryi_session **out)
{
	uint64_t deadline_ns = ferryi_deadline_ms(control->connect_ms);
	struct ferryi_session *session;
	struct ferryi_url url;
	char err[512];

	if (ferryi_url_parse(url_text, &url, err, sizeof(err)) < 0)
		return ferryi_control_fail(-EINVAL, "%s", err);
	session = session_new(control, &url);
	if (session == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory");
	int rc = connect_session(session, deadline_ns);

	if (rc == 0)
		rc = ferryi_handshake(session, &control->trust, deadline_ns);
	if (rc == 0) {
		struct start_call call = {.session = session};

		rc = ferryi_loop_call(control->loop, start_keepalive, &call, deadline_ns);
		if (rc == 0)
			rc = call.rc;
		if (rc < 0)
			ferryi_control_fail(rc, "session %s: no keep-alive timer: %s", session->name,
					    ferryi_strerror(rc));
	}
	if (rc == 0)
		rc = announce(session);
	if (rc < 0) {
		ferryi_session_close(&session);
		return rc;
	}
	ferryi_info("session %s: open, server %s, fabrics %s%s", session->name, session->server_id,
		    session->offered, session->same_host ? ", same host" : "");
	*out = session;
	return 0;
}

int ferryi_session_detach(struct ferryi_session *session)
{
	ferryi_mutex_lock(&session->lock);
	bool attached = session->attached;

	session->announced = false;
	ferryi_mutex_unlock(&session->lock);
	if (!attached)
		return 0;
	return ferryi_loop_call(session->control->loop, end_connection, session,
				ferryi_deadline_ms(FERRYI_CONTROL_CALL_MS));
}

void ferryi_session_close(struct ferryi_session **session_ptr)
{
	struct ferryi_session *session = *session_ptr;

	*session_ptr = NULL;
	if (session == NULL)
		return;
	/* Attached still: it holds its own reference, so nothing is used after it is freed. */
	if (ferryi_session_detach(session) < 0)
		ferryi_error("session %s: the control thread does not answer; left behind", session->name);
	ferryi_session_put(session);
}

enum ferryi_session_state ferryi_session_state(const struct ferryi_session *session)
{
	return (enum ferryi_session_state)atomic_load(&session->state);
}

enum ferryi_lost_reason ferryi_session_lost_reason(const struct ferryi_session *session)
{
	return (enum ferryi_lost_reason)atomic_load(&session->reason);
}

const char *ferryi_session_name(const struct ferryi_session *session)
{
	return session->name;
}

const char *ferryi_session_server_id(const struct ferryi_session *session)
{
	return session->server_id;
}
