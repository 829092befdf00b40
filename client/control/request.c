/* See request.h. */
#include "request.h"

#include <errno.h>
#include <event2/bufferevent.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "control_priv.h"
#include "error.h"
#include "log.h"
#include "loop.h"

static struct ferryi_request *request_new(Farferry__Envelope__BodyCase asked,
					  Farferry__Envelope__BodyCase expects)
{
	struct ferryi_request *request = calloc(1, sizeof(*request));

	if (request == NULL)
		return NULL;
	request->asked = asked;
	request->expects = expects;
	ferryi_cond_init(&request->cond);
	return request;
}

static void request_free(struct ferryi_request *request)
{
	if (request->reply != NULL)
		ferryi_envelope_free(&request->reply);
	pthread_cond_destroy(&request->cond);
	free(request);
}

/* Numbers the envelope and lists its request; *bytes is the frame to send. */
static int enlist_locked(struct ferryi_session *session, struct ferryi_request *request,
			 Farferry__Envelope *envelope, uint8_t **bytes, size_t *len)
{
	ferryi_assert_held(&session->lock);
	if (atomic_load(&session->state) == FERRYI_SESSION_LOST)
		return -ENOTCONN;
	envelope->request_id = session->next_id;
	int rc = ferryi_frame_encode(envelope, bytes, len);

	if (rc < 0)
		return rc;
	request->id = session->next_id++;
	TAILQ_INSERT_TAIL(&session->pending, request, link);
	return 0;
}

static int submit(struct ferryi_session *session, struct ferryi_request *request,
		  Farferry__Envelope *envelope)
{
	struct ferryi_frame *frame = calloc(1, sizeof(*frame));

	if (frame == NULL)
		return -ENOMEM;
	ferryi_mutex_lock(&session->lock);
	int rc = enlist_locked(session, request, envelope, &frame->bytes, &frame->len);

	if (rc == 0)
		STAILQ_INSERT_TAIL(&session->out, frame, link);
	ferryi_mutex_unlock(&session->lock);
	if (rc < 0) {
		free(frame);
		return rc;
	}
	ferryi_loop_wake(session->control->loop);
	return 0;
}

static int submit_fail(struct ferryi_session *session, const char *what, int rc)
{
	if (rc == -ENOTCONN)
		return ferryi_session_fail_lost(session);
	if (rc == -EMSGSIZE)
		return ferryi_control_fail(-EINVAL, "request \"%s\" to ferryd at %s is too long", what,
					   session->name);
	return ferryi_control_fail(rc, "request \"%s\" to ferryd at %s: %s", what, session->name,
				   ferryi_strerror(rc));
}

/* What the caller makes of a reply; takes it over. */
static int conclude(struct ferryi_session *session, Farferry__Envelope *envelope, Farferry__Envelope **reply)
{
	if (envelope->body_case != FARFERRY__ENVELOPE__BODY_ERROR) {
		*reply = envelope;
		return 0;
	}
	int rc = ferryi_control_fail(ferryi_code_to_errno(envelope->error->code), "ferryd at %s: %s",
				     session->name, envelope->error->text);

	ferryi_envelope_free(&envelope);
	return rc < 0 ? rc : -EIO;
}

int ferryi_request_call(struct ferryi_session *session, Farferry__Envelope *envelope,
			Farferry__Envelope__BodyCase expects, uint64_t deadline_ns,
			Farferry__Envelope **reply)
{
	const char *what = ferryi_body_name(envelope->body_case);
	struct ferryi_request *request = request_new(envelope->body_case, expects);

	*reply = NULL;
	if (request == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory");
	int rc = submit(session, request, envelope);

	if (rc < 0) {
		request_free(request);
		return submit_fail(session, what, rc);
	}
	ferryi_mutex_lock(&session->lock);
	while (!request->done && rc == 0)
		rc = ferryi_cond_wait_until(&request->cond, &session->lock, deadline_ns);
	if (!request->done) {
		request->abandoned = true;
		ferryi_mutex_unlock(&session->lock);
		return ferryi_control_fail(
			-ETIMEDOUT,
			"ferryd at %s did not answer \"%s\" in time: it is stopped, cut off or overloaded",
			session->name, what);
	}
	ferryi_mutex_unlock(&session->lock);
	/* Off the list: ours alone. */
	Farferry__Envelope *answer = request->reply;

	rc = request->err;
	request->reply = NULL;
	request_free(request);
	return rc < 0 ? ferryi_session_fail_lost(session) : conclude(session, answer, reply);
}

int ferryi_request_post(struct ferryi_session *session, Farferry__Envelope *envelope,
			Farferry__Envelope__BodyCase expects)
{
	struct ferryi_request *request = request_new(envelope->body_case, expects);
	uint8_t *bytes;
	size_t len;

	if (request == NULL)
		return -ENOMEM;
	request->abandoned = true;
	ferryi_mutex_lock(&session->lock);
	int rc = enlist_locked(session, request, envelope, &bytes, &len);

	ferryi_mutex_unlock(&session->lock);
	if (rc < 0) {
		request_free(request);
		return rc;
	}
	if (session->bev == NULL || bufferevent_write(session->bev, bytes, len) < 0)
		rc = -ENOMEM;
	free(bytes);
	return rc;
}

int ferryi_request_notify(struct ferryi_session *session, Farferry__Envelope *envelope)
{
	struct ferryi_frame *frame = calloc(1, sizeof(*frame));

	if (frame == NULL)
		return -ENOMEM;
	envelope->request_id = 0;
	int rc = ferryi_frame_encode(envelope, &frame->bytes, &frame->len);

	if (rc < 0) {
		free(frame);
		return rc;
	}
	ferryi_mutex_lock(&session->lock);
	bool lost = atomic_load(&session->state) == FERRYI_SESSION_LOST;

	if (!lost)
		STAILQ_INSERT_TAIL(&session->out, frame, link);
	ferryi_mutex_unlock(&session->lock);
	if (lost) {
		free(frame->bytes);
		free(frame);
		return -ENOTCONN;
	}
	ferryi_loop_wake(session->control->loop);
	return 0;
}

/* ---- control thread: replies ---- */

/* A lease that came too late for its caller goes back at once. */
static void give_back(struct ferryi_session *session, Farferry__Envelope__BodyCase asked,
		      const Farferry__LeaseReply *lease)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__DetachRequest detach = FARFERRY__DETACH_REQUEST__INIT;
	Farferry__ShrinkRequest shrink = FARFERRY__SHRINK_REQUEST__INIT;
	uint64_t *ids = NULL;

	if (asked == FARFERRY__ENVELOPE__BODY_ATTACH) {
		detach.lease_id = lease->lease_id;
		detach.epoch = lease->epoch;
		envelope.body_case = FARFERRY__ENVELOPE__BODY_DETACH;
		envelope.detach = &detach;
	} else {
		ids = calloc(lease->n_extents + 1, sizeof(*ids));
		if (ids == NULL || lease->n_extents == 0) {
			free(ids);
			return;
		}
		for (size_t i = 0; i < lease->n_extents; i++)
			ids[i] = lease->extents[i]->id;
		shrink.lease_id = lease->lease_id;
		shrink.epoch = lease->epoch;
		shrink.extent_ids = ids;
		shrink.n_extent_ids = lease->n_extents;
		envelope.body_case = FARFERRY__ENVELOPE__BODY_SHRINK;
		envelope.shrink = &shrink;
	}
	if (ferryi_request_post(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE) < 0)
		ferryi_warn(
			"session %s: a lease that came too late stays with the server until the session ends",
			session->name);
	free(ids);
}

/* So does a view. */
static void close_view(struct ferryi_session *session, const Farferry__ViewReply *view)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ViewCloseRequest close = FARFERRY__VIEW_CLOSE_REQUEST__INIT;

	close.view_id = view->view_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_CLOSE;
	envelope.view_close = &close;
	if (ferryi_request_post(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE) < 0)
		ferryi_warn(
			"session %s: a view that came too late stays with the server until the session ends",
			session->name);
}

int ferryi_request_answer(struct ferryi_session *session, Farferry__Envelope *envelope, char *why,
			  size_t why_len)
{
	struct ferryi_request *request;
	int rc = 0;

	ferryi_mutex_lock(&session->lock);
	TAILQ_FOREACH(request, &session->pending, link)
	if (request->id == envelope->request_id)
		break;
	if (request == NULL) {
		snprintf(why, why_len, "its reply \"%s\" names request %llu, which is not under way",
			 ferryi_body_name(envelope->body_case), (unsigned long long)envelope->request_id);
		rc = -EPROTO;
	} else if (envelope->body_case != request->expects &&
		   envelope->body_case != FARFERRY__ENVELOPE__BODY_ERROR) {
		snprintf(why, why_len, "it answered \"%s\" with \"%s\"", ferryi_body_name(request->asked),
			 ferryi_body_name(envelope->body_case));
		rc = -EPROTO;
	}
	if (rc < 0) {
		ferryi_mutex_unlock(&session->lock);
		ferryi_envelope_free(&envelope);
		return rc;
	}
	TAILQ_REMOVE(&session->pending, request, link);
	bool abandoned = request->abandoned;

	if (!abandoned) {
		request->reply = envelope;
		request->done = true;
		/* Under the lock: the waiter frees the request as soon as it is released. */
		pthread_cond_signal(&request->cond);
	}
	ferryi_mutex_unlock(&session->lock);
	if (!abandoned)
		return 0;
	if (envelope->body_case == FARFERRY__ENVELOPE__BODY_LEASE_REPLY)
		give_back(session, request->asked, envelope->lease_reply);
	if (envelope->body_case == FARFERRY__ENVELOPE__BODY_VIEW_REPLY)
		close_view(session, envelope->view_reply);
	request->reply = envelope;
	request_free(request);
	return 0;
}

void ferryi_request_fail_all_locked(struct ferryi_session *session)
{
	struct ferryi_request *request;
	struct ferryi_frame *frame;

	ferryi_assert_held(&session->lock);
	while ((frame = STAILQ_FIRST(&session->out)) != NULL) {
		STAILQ_REMOVE_HEAD(&session->out, link);
		free(frame->bytes);
		free(frame);
	}
	while ((request = TAILQ_FIRST(&session->pending)) != NULL) {
		TAILQ_REMOVE(&session->pending, request, link);
		if (request->abandoned) {
			request_free(request);
			continue;
		}
		request->err = -ENOTCONN;
		request->done = true;
		pthread_cond_signal(&request->cond);
	}
}
