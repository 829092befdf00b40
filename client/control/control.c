/*
 * Life of the control object. The thread itself is in loop.c, what it does for
 * one connection in session.c.
 */
#include "control_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "connection.h"
#include "error.h"
#include "log.h"
#include "loop.h"

static void on_wake(void *ctx)
{
	struct ferryi_control *control = ctx;
	struct ferryi_session *session, *next;

	for (session = TAILQ_FIRST(&control->sessions); session != NULL; session = next) {
		next = TAILQ_NEXT(session, link);
		ferryi_connection_flush(session);
	}
}

int ferryi_control_open(const struct ferryi_control_attr *attr, struct ferryi_control **out)
{
	struct ferryi_control *control = calloc(1, sizeof(*control));

	if (control == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory");
	TAILQ_INIT(&control->sessions);
	control->connect_ms = attr->connect_ms != 0 ? attr->connect_ms : FERRYI_CONTROL_CONNECT_MS;
	control->request_ms = attr->request_ms != 0 ? attr->request_ms : FERRYI_CONTROL_REQUEST_MS;
	control->on_state = attr->on_state;
	control->on_access = attr->on_access;
	control->ctx = attr->ctx;
	int rc = ferryi_trust_find(attr->token, attr->token_file, &control->trust);

	if (rc < 0)
		goto err_free;
	rc = ferryi_loop_start(on_wake, control, &control->loop);
	if (rc < 0) {
		ferryi_control_fail(rc, "the control thread cannot be started: %s", ferryi_strerror(rc));
		goto err_free;
	}
	*out = control;
	return 0;

err_free:
	ferryi_trust_wipe(&control->trust);
	free(control);
	return rc;
}

struct first_call {
	struct ferryi_control *control;
	struct ferryi_session *session;
};

static void first_session(void *arg)
{
	struct first_call *call = arg;

	call->session = TAILQ_FIRST(&call->control->sessions);
}

void ferryi_control_close(struct ferryi_control **control_ptr)
{
	struct ferryi_control *control = *control_ptr;

	*control_ptr = NULL;
	if (control == NULL)
		return;
	for (;;) {
		struct first_call call = {.control = control};

		int rc = ferryi_loop_call(control->loop, first_session, &call,
					  ferryi_deadline_ms(FERRYI_CONTROL_CALL_MS));

		if (rc == 0 && call.session == NULL)
			break;
		if (rc == 0)
			rc = ferryi_session_detach(call.session);
		if (rc < 0) {
			/* A callback does not return: what it may still use is left to it. */
			ferryi_error("control: the control thread does not answer; left behind");
			return;
		}
		ferryi_session_put(call.session);
	}
	ferryi_loop_stop(&control->loop);
	ferryi_trust_wipe(&control->trust);
	free(control);
}
