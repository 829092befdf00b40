/* Protocol of one control connection. See session.h. Control thread only, but for what request_run says. */
#include "session_priv.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "grants.h"
#include "log.h"
#include "reply.h"

#define FRAME_MAX_UNAUTHENTICATED 4096u	 /* bytes of payload */
#define REQUESTS_MAX		  64u	 /* under way at once */
#define INPUT_KEEP		  65536u /* a larger input buffer is freed when empty */

/* ---- output ---- */

void ferryi_server_session_put(struct ferryi_server_session *session, struct ferryi_reply *reply)
{
	if (reply->bytes && !session->closed)
		session->io.output(session->io.ctx, reply->bytes, reply->len);
	free(reply->bytes);
	*reply = (struct ferryi_reply){0};
}

void ferryi_server_session_put_envelope(struct ferryi_server_session *session,
					const Farferry__Envelope *envelope)
{
	struct ferryi_reply reply = {0};

	ferryi_reply_encode(&reply, envelope);
	ferryi_server_session_put(session, &reply);
}

void ferryi_server_session_put_error(struct ferryi_server_session *session, uint64_t request_id,
				     Farferry__Code code, const char *text)
{
	struct ferryi_reply reply = {0};

	ferryi_reply_error(&reply, request_id, code, "%s", text);
	ferryi_server_session_put(session, &reply);
}

static void put_revoked(struct ferryi_server_session *session, uint64_t lease_id, const char *reason)
{
	Farferry__RevokedNotice notice = FARFERRY__REVOKED_NOTICE__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	notice.lease_id = lease_id;
	notice.reason = (char *)reason;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_REVOKED;
	envelope.revoked = &notice;
	ferryi_server_session_put_envelope(session, &envelope);
}

void ferryi_server_session_put_drain(struct ferryi_server_session *session, uint64_t deadline_ms)
{
	Farferry__DrainNotice notice = FARFERRY__DRAIN_NOTICE__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	notice.deadline_ms = (uint32_t)ferryi_min_u64(deadline_ms, UINT32_MAX);
	notice.reason = (char *)"the server is shutting down";
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DRAIN;
	envelope.drain = &notice;
	ferryi_server_session_put_envelope(session, &envelope);
}

/* Logs and answers what ends the connection. */
int ferryi_server_session_fail(struct ferryi_server_session *session, uint64_t request_id,
			       Farferry__Code code, int rc, const char *text)
{
	ferryi_warn("%s: closed: %s", session->label, text);
	ferryi_server_session_put_error(session, request_id, code, text);
	return rc;
}

/* ---- jobs: what leases need ---- */

struct request_job {
	struct ferryi_job job;
	struct ferryi_server_session *session;
	Farferry__Envelope *request;
	struct ferryi_reply reply;
	struct ferryi_grants_change change;
};

/* Context: the session's worker; touches session->grants only. */
static void request_run(struct ferryi_job *job)
{
	struct request_job *r = (struct request_job *)job;

	ferryi_grants_request(r->session->grants, r->request, &r->reply, &r->change);
}

static void lease_forget(struct ferryi_server_session *session, uint64_t id)
{
	for (size_t i = 0; i < session->nleases; i++) {
		if (session->leases[i] == id)
			session->leases[i] = session->leases[--session->nleases];
	}
}

/* Notices are a courtesy: one that finds no memory is left out. */
static void lease_note(struct ferryi_server_session *session, uint64_t id)
{
	if (session->nleases == session->leases_size) {
		size_t size = session->leases_size ? 2 * session->leases_size : 4;
		uint64_t *leases = realloc(session->leases, size * sizeof(*leases));

		if (!leases)
			return;
		session->leases = leases;
		session->leases_size = size;
	}
	session->leases[session->nleases++] = id;
}

static void request_done(struct ferryi_job *job)
{
	struct request_job *r = (struct request_job *)job;
	struct ferryi_server_session *session = r->session;

	session->nrequests--;
	if (r->change.lease_removed)
		lease_forget(session, r->change.lease_removed);
	if (r->change.lease_added)
		lease_note(session, r->change.lease_added);
	ferryi_server_session_put(session, &r->reply);
	ferryi_envelope_free(&r->request);
	free(r);
}

/* Takes the request. */
static void request_submit(struct ferryi_server_session *session, Farferry__Envelope **request)
{
	struct request_job *r;

	if (session->nrequests >= REQUESTS_MAX) {
		ferryi_server_session_put_error(session, (*request)->request_id, FARFERRY__CODE__CODE_LIMIT,
						"too many requests under way; wait for replies");
		return;
	}
	r = calloc(1, sizeof(*r));
	if (!r) {
		ferryi_server_session_put_error(session, (*request)->request_id,
						FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
		return;
	}
	r->job.run = request_run;
	r->job.done = request_done;
	r->session = session;
	r->request = *request;
	*request = NULL;
	session->nrequests++;
	ferryi_jobs_submit(session->hub->jobs, session->id, &r->job);
}

static void close_run(struct ferryi_job *job)
{
	struct ferryi_server_session *session = (struct ferryi_server_session *)job;

	ferryi_grants_close(&session->grants);
}

static void close_done(struct ferryi_job *job)
{
	struct ferryi_server_session *session = (struct ferryi_server_session *)job;

	if (session->charged)
		ferryi_user_refund(session->user, FERRYI_QUOTA_SESSIONS, 1);
	if (session->counted)
		ferryi_uncount(&session->hub->status.g_sessions, 1);
	free(session->leases);
	free(session->input);
	free(session);
}

/* ---- requests that need no lease ---- */

struct quota_list {
	Farferry__QuotaInfo infos[FERRYI_QUOTA_KINDS];
	Farferry__QuotaInfo *pointers[FERRYI_QUOTA_KINDS];
};

/* What the asking user holds and may hold; other users' is not his business. */
static void list_quotas(const struct ferryi_server_session *session, struct quota_list *list)
{
	const struct ferryi_user *user = session->user;

	for (unsigned i = 0; i < FERRYI_QUOTA_KINDS; i++) {
		Farferry__QuotaInfo *info = &list->infos[i];
		uint64_t limit = atomic_load(&user->limit[i]);

		farferry__quota_info__init(info);
		info->name = (char *)ferryi_quota_name((enum ferryi_quota_kind)i);
		info->used = ferryi_user_used(user, (enum ferryi_quota_kind)i);
		if (i == FERRYI_QUOTA_BYTES)
			info->used += atomic_load(&user->booked);
		info->limited = limit != FERRYI_QUOTA_NONE;
		info->limit = info->limited ? limit : 0;
		list->pointers[i] = info;
	}
}

static void on_pools(struct ferryi_server_session *session, uint64_t request_id)
{
	struct ferryi_hub *hub = session->hub;
	Farferry__PoolsReply reply = FARFERRY__POOLS_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__PoolInfo *infos = calloc(hub->npools + 1, sizeof(*infos));
	Farferry__PoolInfo **pointers = calloc(hub->npools + 1, sizeof(Farferry__PoolInfo *));
	struct quota_list quotas;

	if (!infos || !pointers) {
		ferryi_server_session_put_error(session, request_id, FARFERRY__CODE__CODE_INTERNAL,
						"the server is out of memory");
		goto out;
	}
	for (unsigned i = 0; i < hub->npools; i++) {
		const struct ferryi_pool_spec *spec = ferryi_pool_spec(hub->pools[i]);
		struct ferryi_pool_usage usage;

		ferryi_pool_usage(hub->pools[i], &usage);
		farferry__pool_info__init(&infos[i]);
		infos[i].name = (char *)spec->name;
		infos[i].type = (char *)ferryi_pool_type_name(spec->type);
		infos[i].size_bytes = usage.size_bytes;
		infos[i].free_bytes = usage.free_bytes;
		infos[i].leased_bytes = usage.leased_bytes;
		infos[i].scrub_bytes = usage.scrub_bytes;
		infos[i].numa_node = spec->numa_node;
		infos[i].huge_page_bytes = spec->huge_page_bytes;
		infos[i].backing = (char *)ferryi_pool_backing_name(hub->pools[i]);
		pointers[i] = &infos[i];
	}
	list_quotas(session, &quotas);
	reply.n_pools = hub->npools;
	reply.pools = pointers;
	reply.user = session->user->name;
	reply.n_quotas = FERRYI_QUOTA_KINDS;
	reply.quotas = quotas.pointers;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS_REPLY;
	envelope.pools_reply = &reply;
	ferryi_server_session_put_envelope(session, &envelope);
out:
	free(pointers);
	free(infos);
}

struct stats_list {
	size_t n;
	Farferry__Stat stats[FERRYI_MAX_STATS];
	Farferry__Stat *pointers[FERRYI_MAX_STATS];
	char names[FERRYI_MAX_STATS][FERRYI_MAX_NAME + 1];
};

static void add_stat(void *ctx, const char *name, uint64_t value, bool gauge, const char *text)
{
	struct stats_list *list = ctx;
	Farferry__Stat *stat;

	if (list->n == FERRYI_MAX_STATS)
		return;
	stat = &list->stats[list->n];
	farferry__stat__init(stat);
	snprintf(list->names[list->n], sizeof(list->names[0]), "%s", name);
	stat->name = list->names[list->n];
	stat->value = value;
	stat->gauge = gauge;
	stat->text = (char *)text; /* the tables' own */
	list->pointers[list->n++] = stat;
}

static void add_pool_stats(const struct ferryi_hub *hub, struct stats_list *list)
{
	struct ferryi_pool_usage sum = {0};

	for (unsigned i = 0; i < hub->npools; i++) {
		struct ferryi_pool_usage usage;

		ferryi_pool_usage(hub->pools[i], &usage);
		sum.size_bytes += usage.size_bytes;
		sum.free_bytes += usage.free_bytes;
		sum.scrub_bytes += usage.scrub_bytes;
		sum.kept_bytes += usage.kept_bytes;
		sum.scrubbed_bytes_total += usage.scrubbed_bytes_total;
		sum.scrub_ns_total += usage.scrub_ns_total;
	}
	add_stat(list, "g_pool_bytes", sum.size_bytes, true, "bytes of all pools");
	add_stat(list, "g_free_bytes", sum.free_bytes, true, "bytes that can be lent now");
	add_stat(list, "g_kept_bytes", sum.kept_bytes, true,
		 "bytes of leases with a name, or for an heir, that nobody has now");
	add_stat(list, "g_scrub_bytes", sum.scrub_bytes, true, "bytes given back and not zeroed yet");
	add_stat(list, "c_scrubbed_bytes_total", sum.scrubbed_bytes_total, false, "bytes zeroed after use");
	add_stat(list, "c_scrub_ns_total", sum.scrub_ns_total, false, "time spent on zeroing them");
}

static void on_stats(struct ferryi_server_session *session, uint64_t request_id)
{
	struct ferryi_hub *hub = session->hub;
	Farferry__StatsReply reply = FARFERRY__STATS_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	struct stats_list *list = malloc(sizeof(*list));

	if (!list) {
		ferryi_server_session_put_error(session, request_id, FARFERRY__CODE__CODE_INTERNAL,
						"the server is out of memory");
		return;
	}
	list->n = 0;
	ferryi_status_each(&hub->status, add_stat, list);
	add_pool_stats(hub, list);
	for (unsigned i = 0; i < hub->nfabrics; i++)
		ferryi_status_each_fabric(hub->fabrics[i].row->name,
					  ferryi_listener_stats(hub->fabrics[i].listener), add_stat, list);
	reply.n_stats = list->n;
	reply.stats = list->pointers;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_STATS_REPLY;
	envelope.stats_reply = &reply;
	ferryi_server_session_put_envelope(session, &envelope);
	free(list);
}

/* Those who could end the server otherwise: who know its secret, root, and whom it runs as. */
static bool may_drain(const struct ferryi_user *user)
{
	char own[32];

	snprintf(own, sizeof(own), "uid:%u", (unsigned)geteuid());
	return strcmp(user->name, "token") == 0 || strcmp(user->name, "uid:0") == 0 || strcmp(user->name, own) == 0;
}

static void on_drain_request(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	Farferry__DoneReply done = FARFERRY__DONE_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	struct ferryi_hub *hub = session->hub;
	char text[320];

	if (!may_drain(session->user) || !hub->drain) {
		snprintf(text, sizeof(text), "%s may not drain this server: who knows its token may, or root; or send SIGTERM to ferryd",
			 session->user->name);
		ferryi_server_session_put_error(session, request->request_id, FARFERRY__CODE__CODE_PERM, text);
		return;
	}
	envelope.request_id = request->request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DONE;
	envelope.done = &done;
	ferryi_server_session_put_envelope(session, &envelope);
	hub->drain(hub->drain_ctx, request->drain_request->deadline_ms, session->label);
}

static void on_keepalive(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	Farferry__KeepAlive keepalive = FARFERRY__KEEP_ALIVE__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	if (request->keepalive->epoch != session->epoch) {
		ferryi_server_session_put_error(session, request->request_id, FARFERRY__CODE__CODE_EPOCH,
						"keep-alive with the epoch of another session");
		return;
	}
	keepalive.epoch = session->epoch;
	envelope.request_id = request->request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_KEEPALIVE;
	envelope.keepalive = &keepalive;
	ferryi_server_session_put_envelope(session, &envelope);
}

/* ---- input ---- */

static int out_of_order(struct ferryi_server_session *session, const Farferry__Envelope *request)
{
	char text[160];

	if (session->state == LIVE) {
		snprintf(text, sizeof(text), "'%s' comes once, at the beginning",
			 ferryi_body_name(request->body_case));
		ferryi_count(&session->hub->status.c_protocol_errors_total, 1);
		return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_INVALID,
						  -EPROTO, text);
	}
	snprintf(text, sizeof(text), "'%s' before authentication: send hello, then auth",
		 ferryi_body_name(request->body_case));
	ferryi_count(&session->hub->status.c_auth_failures_total, 1);
	return ferryi_server_session_fail(session, request->request_id, FARFERRY__CODE__CODE_AUTH, -EACCES,
					  text);
}

/* One decoded request; takes it when it becomes a job. */
static int dispatch(struct ferryi_server_session *session, Farferry__Envelope **request)
{
	const uint64_t id = (*request)->request_id;
	const enum state state = session->state;
	char why[256];

	ferryi_count(&session->hub->status.c_requests_total, 1);
	switch ((*request)->body_case) {
	case FARFERRY__ENVELOPE__BODY_HELLO:
		return state == AWAIT_HELLO ? ferryi_server_session_hello(session, *request)
					    : out_of_order(session, *request);
	case FARFERRY__ENVELOPE__BODY_AUTH:
		return state == AWAIT_AUTH ? ferryi_server_session_auth(session, *request)
					   : out_of_order(session, *request);
	default:
		break;
	}
	if (state != LIVE)
		return out_of_order(session, *request);
	/* Not keep-alives, without which the session would end, nor the answers that others wait for. */
	if ((*request)->body_case != FARFERRY__ENVELOPE__BODY_KEEPALIVE && id &&
	    ferryi_user_request(session->user, ferryi_now_ns(), why, sizeof(why))) {
		ferryi_server_session_put_error(session, id, FARFERRY__CODE__CODE_LIMIT, why);
		return 0;
	}
	switch ((*request)->body_case) {
	case FARFERRY__ENVELOPE__BODY_POOLS:
		on_pools(session, id);
		break;
	case FARFERRY__ENVELOPE__BODY_STATS:
		on_stats(session, id);
		break;
	case FARFERRY__ENVELOPE__BODY_KEEPALIVE:
		on_keepalive(session, *request);
		break;
	case FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST:
		on_drain_request(session, *request);
		break;
	case FARFERRY__ENVELOPE__BODY_ATTACH:
	case FARFERRY__ENVELOPE__BODY_GROW:
	case FARFERRY__ENVELOPE__BODY_SHRINK:
	case FARFERRY__ENVELOPE__BODY_DETACH:
	case FARFERRY__ENVELOPE__BODY_INJECT:
	case FARFERRY__ENVELOPE__BODY_HEIR:
	case FARFERRY__ENVELOPE__BODY_CLAIM:
		request_submit(session, request);
		break;
	default:
		if (!ferryi_views_request(session->views, *request))
			ferryi_server_session_put_error(session, id, FARFERRY__CODE__CODE_INVALID,
							"this server does not know that request");
		break;
	}
	return 0;
}

/* The request id of a frame whose fields were refused, so that its sender can match the error; 0: cannot
 * tell. */
static uint64_t refused_id(const uint8_t *frame, size_t len)
{
	Farferry__Envelope *envelope;
	uint64_t id = 0;

	/* Decoding may take fifty times the frame's length of heap: short ones only. */
	if (len > 64 * 1024)
		return 0;
	envelope = farferry__envelope__unpack(NULL, len - FERRYI_FRAME_HEADER, frame + FERRYI_FRAME_HEADER);
	if (envelope)
		id = envelope->request_id;
	ferryi_envelope_free(&envelope);
	return id;
}

static int on_frame(struct ferryi_server_session *session, const uint8_t *frame, size_t len)
{
	Farferry__Envelope *request = NULL;
	char why[256] = "not a valid message";
	int rc;

	rc = ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, len, &request, why, sizeof(why));
	if (rc) {
		ferryi_count(&session->hub->status.c_protocol_errors_total, 1);
		/* A known client whose one field is wrong loses that request, not its memory. */
		if (rc == -EINVAL && session->state == LIVE) {
			ferryi_info("%s: refused: %s", session->label, why);
			ferryi_server_session_put_error(session, refused_id(frame, len),
							FARFERRY__CODE__CODE_INVALID, why);
			session->deadline_ns = ferryi_deadline_ms(session->hub->limits.timeout_ms);
			return 0;
		}
		return ferryi_server_session_fail(session, rc == -EINVAL ? refused_id(frame, len) : 0,
						  FARFERRY__CODE__CODE_INVALID, -EPROTO, why);
	}
	rc = dispatch(session, &request);
	ferryi_envelope_free(&request);
	if (!rc && session->state == LIVE)
		session->deadline_ns = ferryi_deadline_ms(session->hub->limits.timeout_ms);
	return rc;
}

/* Length of the frame at the front: 0 when more bytes are needed, negative (answered) when there never will
 * be one. */
static long frame_at(struct ferryi_server_session *session, const uint8_t *bytes, size_t have)
{
	char text[160];
	long len = ferryi_frame_peek(bytes, have);

	if (len >= 0 &&
	    (session->state == LIVE || len <= (long)(FRAME_MAX_UNAUTHENTICATED + FERRYI_FRAME_HEADER)))
		return len;
	ferryi_count(&session->hub->status.c_protocol_errors_total, 1);
	if (len == -EPROTO)
		snprintf(text, sizeof(text), "not a farferry client: the bytes are no frame");
	else if (len == -EMSGSIZE)
		snprintf(text, sizeof(text), "frame too long: at most %u bytes are taken", FERRYI_FRAME_MAX);
	else
		snprintf(text, sizeof(text),
			 "frame of %ld bytes too long before authentication: at most %u are taken",
			 len - (long)FERRYI_FRAME_HEADER, FRAME_MAX_UNAUTHENTICATED);
	return ferryi_server_session_fail(session, 0, FARFERRY__CODE__CODE_INVALID, -EPROTO, text);
}

static int input_append(struct ferryi_server_session *session, const uint8_t *bytes, size_t len)
{
	size_t need = session->input_len + len;

	if (need > session->input_size) {
		size_t size = session->input_size ? session->input_size : 1024;
		uint8_t *input;

		while (size < need)
			size *= 2;
		input = realloc(session->input, size);
		if (!input)
			return -ENOMEM;
		session->input = input;
		session->input_size = size;
	}
	memcpy(session->input + session->input_len, bytes, len);
	session->input_len = need;
	return 0;
}

int ferryi_server_session_input(struct ferryi_server_session *session, const uint8_t *bytes, size_t len)
{
	size_t used = 0;
	int rc = 0;

	assert(!session->closed);
	if (session->refused)
		return -EACCES;
	if (len && input_append(session, bytes, len))
		return ferryi_server_session_fail(session, 0, FARFERRY__CODE__CODE_INTERNAL, -ENOMEM,
						  "the server is out of memory");
	while (used < session->input_len) {
		long frame = frame_at(session, session->input + used, session->input_len - used);

		if (frame < 0) {
			rc = (int)frame;
			break;
		}
		if (!frame || (size_t)frame > session->input_len - used)
			break;
		rc = on_frame(session, session->input + used, (size_t)frame);
		if (rc)
			break;
		used += (size_t)frame;
	}
	if (rc)
		return rc;
	session->input_len -= used;
	if (used && session->input_len)
		memmove(session->input, session->input + used, session->input_len);
	if (!session->input_len && session->input_size > INPUT_KEEP) {
		free(session->input);
		session->input = NULL;
		session->input_size = 0;
	}
	return 0;
}

/* ---- interface ---- */

int ferryi_server_session_open(struct ferryi_hub *hub, const struct ferryi_server_session_io *io,
			       const char *label, struct ferryi_server_session **out)
{
	struct ferryi_server_session *session = calloc(1, sizeof(*session));

	*out = session;
	if (!session)
		return -ENOMEM;
	session->hub = hub;
	session->io = *io;
	session->id = hub->next_session_id++;
	session->deadline_ns = ferryi_deadline_ms(hub->limits.handshake_ms);
	snprintf(session->peer, sizeof(session->peer), "%s", label);
	snprintf(session->label, sizeof(session->label), "session %" PRIu64 " (%s)", session->id,
		 session->peer);
	session->next = hub->sessions;
	session->pprev = &hub->sessions;
	if (session->next)
		session->next->pprev = &session->next;
	hub->sessions = session;
	return 0;
}

void ferryi_server_session_identify(struct ferryi_server_session *session, const char *user)
{
	snprintf(session->certified, sizeof(session->certified), "%s", user);
}

const char *ferryi_server_session_label(const struct ferryi_server_session *session)
{
	return session->label;
}

void ferryi_server_session_close(struct ferryi_server_session **sessionp, const char *reason)
{
	struct ferryi_server_session *session = *sessionp;

	if (!session)
		return;
	*sessionp = NULL;
	ferryi_info("%s: ended: %s", session->label, reason);
	session->closed = true;
	ferryi_views_close(&session->views);
	*session->pprev = session->next;
	if (session->next)
		session->next->pprev = session->pprev;
	session->closing.run = close_run;
	session->closing.done = close_done;
	ferryi_jobs_submit(session->hub->jobs, session->id, &session->closing);
}

int ferryi_server_session_tick(struct ferryi_server_session *session, uint64_t now_ns, uint64_t *next_ns)
{
	struct ferryi_hub *hub = session->hub;
	char text[160];

	if (session->refused)
		return -ETIMEDOUT;
	if (now_ns < session->deadline_ns) {
		*next_ns = session->deadline_ns;
		return 0;
	}
	if (session->state == LIVE) {
		snprintf(text, sizeof(text), "no keep-alive for %" PRIu64 " ms", hub->limits.timeout_ms);
		ferryi_count(&hub->status.c_keepalives_missed_total, 1);
		ferryi_warn("%s: revoked: %s", session->label, text);
		for (size_t i = 0; i < session->nleases; i++)
			put_revoked(session, session->leases[i], text);
	} else {
		snprintf(text, sizeof(text), "not authenticated within %" PRIu64 " ms",
			 hub->limits.handshake_ms);
		ferryi_count(&hub->status.c_handshake_timeouts_total, 1);
		ferryi_server_session_fail(session, 0, FARFERRY__CODE__CODE_AUTH, -ETIMEDOUT, text);
	}
	return -ETIMEDOUT;
}

/* ---- memory that fails ---- */

struct failed_job {
	struct ferryi_job job;
	struct ferryi_server_session *session;
	struct ferryi_mce mce;
	bool found;
	struct ferryi_grants_failure failure;
};

/* Context: the session's worker; touches session->grants only. */
static void failed_run(struct ferryi_job *job)
{
	struct failed_job *f = (struct failed_job *)job;

	f->found = ferryi_grants_failed(f->session->grants, &f->mce, &f->failure);
}

static void failed_done(struct ferryi_job *job)
{
	struct failed_job *f = (struct failed_job *)job;
	Farferry__FailedNotice notice = FARFERRY__FAILED_NOTICE__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	if (f->found) {
		notice.lease_id = f->failure.lease_id;
		notice.extent_id = f->failure.extent_id;
		notice.off = f->failure.off;
		notice.len_bytes = f->failure.len_bytes;
		envelope.body_case = FARFERRY__ENVELOPE__BODY_FAILED;
		envelope.failed = &notice;
		ferryi_server_session_put_envelope(f->session, &envelope);
	}
	free(f);
}

void ferryi_server_sessions_failed(struct ferryi_hub *hub, const struct ferryi_mce *mce)
{
	ferryi_count(&hub->status.c_memory_failures_total, 1);
	/* Pools first: what is not free now is lent, and its session's job comes after that grant. */
	for (unsigned i = 0; i < hub->npools; i++)
		ferryi_pool_failed(hub->pools[i], mce->addr);
	for (struct ferryi_server_session *session = hub->sessions; session; session = session->next) {
		struct failed_job *f = session->grants ? calloc(1, sizeof(*f)) : NULL;

		if (!f) {
			if (session->grants)
				ferryi_error("%s: not told of failed memory: out of memory", session->label);
			continue;
		}
		f->job.run = failed_run;
		f->job.done = failed_done;
		f->session = session;
		f->mce = *mce;
		ferryi_jobs_submit(hub->jobs, session->id, &f->job);
	}
}

void ferryi_server_sessions_drain(struct ferryi_hub *hub, uint64_t deadline_ms)
{
	for (struct ferryi_server_session *session = hub->sessions; session; session = session->next) {
		if (session->state == LIVE)
			ferryi_server_session_put_drain(session, deadline_ms);
	}
}

void ferryi_server_sessions_revoke(struct ferryi_hub *hub, const char *reason)
{
	for (struct ferryi_server_session *session = hub->sessions; session; session = session->next) {
		for (size_t i = 0; i < session->nleases; i++)
			put_revoked(session, session->leases[i], reason);
	}
}
