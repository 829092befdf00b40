/* See export.h. An access holds its session, and its envelope, until it is answered. */
#include "export.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "control_priv.h"
#include "error.h"
#include "log.h"
#include "request.h"

/* ---- accesses of readers ---- */

int ferryi_export_access(struct ferryi_session *session, Farferry__Envelope *envelope, char *why,
			 size_t why_len)
{
	const Farferry__ViewAccessRequest *access = envelope->access->access;
	struct ferryi_access_call *call = calloc(1, sizeof(*call));

	if (call == NULL) {
		ferryi_envelope_free(&envelope);
		snprintf(why, why_len, "out of memory for an access to an exported mirror");
		return -ENOMEM;
	}
	call->export_id = envelope->access->export_id;
	call->access_id = envelope->access->access_id;
	call->va = (uintptr_t)access->va;
	call->len = access->len_bytes;
	call->data = access->data.len != 0 ? access->data.data : NULL;
	call->places = access->places;
	call->deadline_ns = ferryi_deadline_ms(access->timeout_ms);
	call->envelope = envelope;
	call->session = session;
	ferryi_session_get(session);
	if (session->control->on_access != NULL)
		session->control->on_access(session->control->ctx, call);
	else
		ferryi_access_answer(&call, -ESHUTDOWN, "nothing is exported here", NULL);
	return 0;
}

static void fill_reply(Farferry__ViewAccessReply *reply, Farferry__ViewPage *pages, Farferry__ViewPage **list,
		       const struct ferryi_access_result *result)
{
	for (unsigned i = 0; i < result->npages; i++) {
		farferry__view_page__init(&pages[i]);
		pages[i].extent_id = result->page[i].extent_id;
		pages[i].off = result->page[i].off;
		pages[i].hash = result->page[i].hash;
		list[i] = &pages[i];
	}
	reply->n_pages = result->npages;
	reply->pages = list;
	reply->data.data = result->data;
	reply->data.len = result->data_len;
	reply->rounds = result->rounds;
	reply->pages_ram = result->pages_ram;
	reply->pages_pool = result->pages_pool;
	reply->pages_populated = result->pages_populated;
	reply->pages_home = result->pages_home;
}

void ferryi_access_answer(struct ferryi_access_call **call_ptr, int rc, const char *line,
			  const struct ferryi_access_result *result)
{
	struct ferryi_access_call *call = *call_ptr;
	Farferry__Envelope *asked = call->envelope;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__AccessAnswer answer = FARFERRY__ACCESS_ANSWER__INIT;
	Farferry__Error error = FARFERRY__ERROR__INIT;
	Farferry__ViewAccessReply reply = FARFERRY__VIEW_ACCESS_REPLY__INIT;
	Farferry__ViewPage pages[FERRYI_ACCESS_PAGES], *list[FERRYI_ACCESS_PAGES];
	char text[FERRYI_MAX_TEXT + 1];

	*call_ptr = NULL;
	if (rc < 0) {
		snprintf(text, sizeof(text), "%s", line);
		error.code = ferryi_code_from_errno(rc);
		error.text = text;
		answer.error = &error;
	} else {
		fill_reply(&reply, pages, list, result);
		answer.reply = &reply;
	}
	answer.access_id = call->access_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER;
	envelope.access_answer = &answer;
	rc = ferryi_request_notify(call->session, &envelope);
	if (rc < 0 && rc != -ENOTCONN)
		ferryi_error("session %s: an access to an exported mirror is not answered: %s",
			     call->session->name, ferryi_strerror(rc));
	ferryi_envelope_free(&asked);
	ferryi_session_put(call->session);
	free(call);
}

/* ---- requests ---- */

static int call_done(struct ferryi_session *session, Farferry__Envelope *envelope)
{
	Farferry__Envelope *reply;
	int rc = ferryi_request_call(session, envelope, FARFERRY__ENVELOPE__BODY_DONE,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_session_export(struct ferryi_session *session, uint64_t export_id, const char *name,
			  unsigned perms)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ExportRequest body = FARFERRY__EXPORT_REQUEST__INIT;

	body.export_id = export_id;
	body.name = (char *)name;
	body.perms = perms;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST;
	envelope.export_request = &body;
	return call_done(session, &envelope);
}

int ferryi_session_unexport(struct ferryi_session *session, uint64_t export_id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__UnexportRequest body = FARFERRY__UNEXPORT_REQUEST__INIT;

	body.export_id = export_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_UNEXPORT;
	envelope.unexport = &body;
	return call_done(session, &envelope);
}
