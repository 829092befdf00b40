/* Views of mirrors that other processes export. Runs in the caller's thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"
#include "clock.h"
#include "control_priv.h"
#include "error.h"
#include "log.h"
#include "request.h"

_Static_assert(FERRYI_ACCESS_MAX == FERRYI_MAX_ACCESS && FERRYI_ACCESS_PAGES == FERRYI_MAX_ACCESS_PAGES,
	       "as the protocol has them");
_Static_assert(FERRYI_EXPORT_READ == FERRYI_PERM_READ && FERRYI_EXPORT_WRITE == FERRYI_PERM_WRITE,
	       "as the protocol has them");

uint64_t ferryi_session_request_ms(const struct ferryi_session *session)
{
	return session->request_ms;
}

int ferryi_session_view_open(struct ferryi_session *session, const char *name, uint64_t *view_id,
			     unsigned *perms)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ViewOpenRequest body = FARFERRY__VIEW_OPEN_REQUEST__INIT;

	body.name = (char *)name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_OPEN;
	envelope.view_open = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_VIEW_REPLY,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc < 0)
		return rc;
	*view_id = reply->view_reply->view_id;
	*perms = reply->view_reply->perms;
	ferryi_envelope_free(&reply);
	return 0;
}

int ferryi_session_view_close(struct ferryi_session *session, uint64_t view_id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ViewCloseRequest body = FARFERRY__VIEW_CLOSE_REQUEST__INIT;

	body.view_id = view_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_CLOSE;
	envelope.view_close = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc == 0)
		ferryi_envelope_free(&reply);
	return rc;
}

/* ---- an access ---- */

/* Every page of it is there once, and the data is exactly that of the pages without an extent. */
static bool is_whole(const Farferry__ViewAccessReply *reply, uintptr_t va, size_t len, bool write)
{
	size_t data_len = 0;
	unsigned n = 0;

	if (write)
		return reply->n_pages == 0 && reply->data.len == 0;
	for (uintptr_t at = va; at < va + len; n++) {
		uintptr_t end = ferryi_align_down(at, FERRYI_PAGE_SIZE) + FERRYI_PAGE_SIZE;

		if (end > va + len || end < at)
			end = va + len;
		if (n >= reply->n_pages)
			return false;
		if (reply->pages[n]->extent_id == 0)
			data_len += end - at;
		at = end;
	}
	return n == reply->n_pages && data_len == reply->data.len;
}

static void take_reply(struct ferryi_access_result *result, const Farferry__ViewAccessReply *reply)
{
	result->npages = (unsigned)reply->n_pages;
	for (size_t i = 0; i < reply->n_pages; i++)
		result->page[i] = (struct ferryi_access_page){
			.extent_id = reply->pages[i]->extent_id,
			.off = reply->pages[i]->off,
			.hash = reply->pages[i]->hash,
		};
	if (reply->data.len != 0)
		memcpy(result->data, reply->data.data, reply->data.len);
	result->data_len = reply->data.len;
	result->rounds = reply->rounds;
	result->pages_ram = reply->pages_ram;
	result->pages_pool = reply->pages_pool;
	result->pages_populated = reply->pages_populated;
	result->pages_home = reply->pages_home;
}

int ferryi_session_view_access(struct ferryi_session *session, uint64_t view_id, uintptr_t va, size_t len,
			       const uint8_t *write_from, bool places, uint64_t deadline_ns,
			       struct ferryi_access_result *result)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ViewAccessRequest body = FARFERRY__VIEW_ACCESS_REQUEST__INIT;

	body.view_id = view_id;
	body.va = va;
	body.len_bytes = (uint32_t)len;
	if (write_from != NULL) {
		body.data.data = (uint8_t *)(uintptr_t)write_from;
		body.data.len = len;
	}
	body.places = places && write_from == NULL;
	body.timeout_ms = (uint32_t)ferryi_max_u64((uint64_t)ferryi_remaining_ms(deadline_ns), 1);
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_ACCESS;
	envelope.view_access = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY,
				     deadline_ns, &reply);

	if (rc < 0)
		return rc;
	if (is_whole(reply->view_access_reply, va, len, write_from != NULL)) {
		take_reply(result, reply->view_access_reply);
		rc = 0;
	} else {
		rc = ferryi_control_fail(-EPROTO,
					 "the exporter's answer by ferryd at %s is not what was asked for",
					 session->name);
	}
	ferryi_envelope_free(&reply);
	return rc;
}

/* ---- extents ---- */

static int take_extent(struct ferryi_session *session, const Farferry__ViewExtentReply *reply,
		       struct ferryi_view_extent *out)
{
	char why[256] = "";

	out->row = ferryi_fabric_find(reply->fabric);
	if (out->row == NULL || ferryi_fabric_usable(out->row, why, sizeof(why)) < 0)
		return ferryi_control_fail(-ENODEV, "fabric %s of ferryd at %s cannot be used here: %s",
					   reply->fabric, session->name,
					   why[0] != '\0' ? why : "it is not known");
	if (reply->data_token.len != sizeof(out->token))
		return ferryi_control_fail(-EPROTO, "ferryd at %s sent a data token of a wrong length",
					   session->name);
	memcpy(out->token, reply->data_token.data, sizeof(out->token));
	snprintf(out->addr, sizeof(out->addr), "%s", reply->fabric_addr);
	out->remote = (struct ferryi_remote){
		.key = reply->locations[0]->key,
		.addr = reply->locations[0]->addr,
		.len_bytes = reply->len_bytes,
	};
	return 0;
}

int ferryi_session_view_extent(struct ferryi_session *session, uint64_t view_id, uint64_t extent_id,
			       uint64_t deadline_ns, struct ferryi_view_extent *out)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__ViewExtentRequest body = FARFERRY__VIEW_EXTENT_REQUEST__INIT;

	body.view_id = view_id;
	body.extent_id = extent_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_EXTENT;
	envelope.view_extent = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_VIEW_EXTENT_REPLY,
				     deadline_ns, &reply);

	if (rc < 0)
		return rc;
	rc = take_extent(session, reply->view_extent_reply, out);
	ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_session_view_peer(struct ferryi_session *session, const struct ferryi_view_extent *extent,
			     uint64_t deadline_ns, struct ferryi_peer **out)
{
	struct ferryi_peer_attr attr = {
		.row = extent->row,
		.addr = extent->addr,
		.control_host = session->url.host,
		.label = session->name,
	};

	memcpy(attr.token, extent->token, sizeof(attr.token));
	int rc = ferryi_peer_open(&attr, deadline_ns, out);

	explicit_bzero(attr.token, sizeof(attr.token));
	if (rc < 0)
		return ferryi_control_fail(rc, "ferryd at %s cannot be reached over %s (%s) for a view: %s",
					   session->name, extent->row->name, extent->addr,
					   ferryi_strerror(rc));
	return 0;
}
