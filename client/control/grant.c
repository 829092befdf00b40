/* See grant.h. */
#include "grant.h"

#include <errno.h>
#include <string.h>

#include "error.h"
#include "request.h"

static bool is_offered(const char *offered, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = offered; at != NULL && *at != '\0'; at = strchr(at, ',')) {
		if (*at == ',')
			at++;
		if (strncmp(at, name, len) == 0 && (at[len] == '\0' || at[len] == ','))
			return true;
	}
	return false;
}

const struct ferryi_fabric_row *ferryi_grant_row(const struct ferryi_session *session)
{
	const char *wanted = session->url.fabric;
	const struct ferryi_fabric_row *row;
	char why[256] = "";

	if (strcmp(wanted, "auto") == 0) {
		row = ferryi_fabric_auto(session->url.host, session->same_host, session->offered);
		if (row == NULL)
			ferryi_control_fail(
				-ENODEV,
				"no fabric in common with ferryd at %s, which offers %s: see ferry doctor",
				session->name, session->offered);
		return row;
	}
	row = ferryi_fabric_find(wanted);
	if (row == NULL || !is_offered(session->offered, row->name)) {
		ferryi_control_fail(-ENODEV, "ferryd at %s does not offer fabric %s: it offers %s",
				    session->name, wanted, session->offered);
		return NULL;
	}
	if ((row->flags & FERRYI_FABRIC_SAME_HOST) != 0 && !session->same_host) {
		ferryi_control_fail(
			-ENODEV,
			"fabric %s reaches servers of this host only, and %s is another: use tcp or verbs",
			row->name, session->name);
		return NULL;
	}
	if (ferryi_fabric_usable(row, why, sizeof(why)) < 0) {
		ferryi_control_fail(-ENODEV, "fabric %s cannot be used here: %s", row->name, why);
		return NULL;
	}
	return row;
}

int ferryi_grant_attach(struct ferryi_session *session, const struct ferryi_lease_want *want,
			const struct ferryi_fabric_row *row, uint8_t *secret, uint64_t deadline_ns,
			Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__AttachRequest body = FARFERRY__ATTACH_REQUEST__INIT;

	body.pool = (char *)(want->pool != NULL ? want->pool : "");
	body.fabric = (char *)row->name;
	body.size_bytes = want->size_bytes;
	body.type = (char *)(want->type != NULL ? want->type : "");
	body.name = (char *)(want->name != NULL ? want->name : "");
	if (body.name[0] == '\0')
		body.heir_secret = (ProtobufCBinaryData){.len = FERRYI_LEASE_SECRET_LEN, .data = secret};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ATTACH;
	envelope.attach = &body;
	return ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_LEASE_REPLY, deadline_ns,
				   reply);
}

int ferryi_grant_stand_by(struct ferryi_session *session, uint8_t *secret, bool renounce,
			  uint64_t deadline_ns)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__HeirRequest body = FARFERRY__HEIR_REQUEST__INIT;

	body.secret = (ProtobufCBinaryData){.len = FERRYI_LEASE_SECRET_LEN, .data = secret};
	body.renounce = renounce;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HEIR;
	envelope.heir = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE, deadline_ns, &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_grant_claim(struct ferryi_session *session, uint8_t *secret, const struct ferryi_fabric_row *row,
		       uint64_t deadline_ns, Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ClaimRequest body = FARFERRY__CLAIM_REQUEST__INIT;

	body.secret = (ProtobufCBinaryData){.len = FERRYI_LEASE_SECRET_LEN, .data = secret};
	body.fabric = (char *)row->name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_CLAIM;
	envelope.claim = &body;
	return ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_LEASE_REPLY, deadline_ns,
				   reply);
}

int ferryi_grant_grow(struct ferryi_lease *lease, uint64_t size_bytes, uint64_t deadline_ns,
		      Farferry__Envelope **reply)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__GrowRequest body = FARFERRY__GROW_REQUEST__INIT;

	body.lease_id = lease->id;
	body.epoch = lease->epoch;
	body.size_bytes = size_bytes;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_GROW;
	envelope.grow = &body;
	return ferryi_request_call(lease->session, &envelope, FARFERRY__ENVELOPE__BODY_LEASE_REPLY,
				   deadline_ns, reply);
}

int ferryi_grant_shrink(struct ferryi_lease *lease, uint64_t *ids, size_t n, uint64_t deadline_ns)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ShrinkRequest body = FARFERRY__SHRINK_REQUEST__INIT;

	body.lease_id = lease->id;
	body.epoch = lease->epoch;
	body.extent_ids = ids;
	body.n_extent_ids = n;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_SHRINK;
	envelope.shrink = &body;
	int rc = ferryi_request_call(lease->session, &envelope, FARFERRY__ENVELOPE__BODY_DONE, deadline_ns,
				     &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_grant_inject(struct ferryi_lease *lease, uint64_t extent_id, uint64_t off, uint64_t deadline_ns)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__InjectRequest body = FARFERRY__INJECT_REQUEST__INIT;

	body.lease_id = lease->id;
	body.epoch = lease->epoch;
	body.extent_id = extent_id;
	body.off = off;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_INJECT;
	envelope.inject = &body;
	int rc = ferryi_request_call(lease->session, &envelope, FARFERRY__ENVELOPE__BODY_DONE, deadline_ns,
				     &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_grant_detach(struct ferryi_session *session, uint64_t lease_id, uint64_t epoch, bool forget,
			uint64_t deadline_ns)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__DetachRequest body = FARFERRY__DETACH_REQUEST__INIT;

	body.lease_id = lease_id;
	body.epoch = epoch;
	body.forget = forget;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DETACH;
	envelope.detach = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE, deadline_ns, &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}
