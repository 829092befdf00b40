/* Questions to a server: its pools, its figures. Runs in the caller's thread. */
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "control_priv.h"
#include "request.h"

int ferryi_session_pools(struct ferryi_session *session, struct ferryi_pool_info *out, unsigned max)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__PoolsRequest body = FARFERRY__POOLS_REQUEST__INIT;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_POOLS_REPLY,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc < 0)
		return rc;
	const Farferry__PoolsReply *pools = reply->pools_reply;

	for (size_t i = 0; i < pools->n_pools && i < max; i++) {
		const Farferry__PoolInfo *from = pools->pools[i];
		struct ferryi_pool_info *to = &out[i];

		memset(to, 0, sizeof(*to));
		snprintf(to->name, sizeof(to->name), "%s", from->name);
		snprintf(to->type, sizeof(to->type), "%s", from->type);
		snprintf(to->backing, sizeof(to->backing), "%s", from->backing);
		to->size_bytes = from->size_bytes;
		to->free_bytes = from->free_bytes;
		to->leased_bytes = from->leased_bytes;
		to->scrub_bytes = from->scrub_bytes;
		to->huge_page_bytes = from->huge_page_bytes;
		to->numa_node = from->numa_node;
	}
	rc = (int)pools->n_pools;
	ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_session_user(struct ferryi_session *session, struct ferryi_session_user *out)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__PoolsRequest body = FARFERRY__POOLS_REQUEST__INIT;

	memset(out, 0, sizeof(*out));
	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_POOLS_REPLY,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc < 0)
		return rc;
	const Farferry__PoolsReply *pools = reply->pools_reply;

	snprintf(out->name, sizeof(out->name), "%s", pools->user);
	for (size_t i = 0; i < pools->n_quotas && i < FERRYI_SESSION_QUOTAS; i++) {
		struct ferryi_session_quota *to = &out->quotas[out->nquotas++];

		snprintf(to->name, sizeof(to->name), "%s", pools->quotas[i]->name);
		to->used = pools->quotas[i]->used;
		to->limit = pools->quotas[i]->limit;
		to->limited = pools->quotas[i]->limited;
	}
	ferryi_envelope_free(&reply);
	return 0;
}

int ferryi_session_stats(struct ferryi_session *session, struct ferryi_session_stat *out, unsigned max)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__StatsRequest body = FARFERRY__STATS_REQUEST__INIT;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_STATS;
	envelope.stats = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_STATS_REPLY,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc < 0)
		return rc;
	const Farferry__StatsReply *stats = reply->stats_reply;

	for (size_t i = 0; i < stats->n_stats && i < max; i++) {
		snprintf(out[i].name, sizeof(out[i].name), "%s", stats->stats[i]->name);
		out[i].value = stats->stats[i]->value;
		out[i].gauge = stats->stats[i]->gauge;
	}
	rc = (int)stats->n_stats;
	ferryi_envelope_free(&reply);
	return rc;
}

int ferryi_session_drain(struct ferryi_session *session, uint32_t deadline_ms)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__DrainRequest body = FARFERRY__DRAIN_REQUEST__INIT;

	body.deadline_ms = deadline_ms;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST;
	envelope.drain_request = &body;
	int rc = ferryi_request_call(session, &envelope, FARFERRY__ENVELOPE__BODY_DONE,
				     ferryi_deadline_ms(session->request_ms), &reply);

	if (rc < 0)
		return rc;
	ferryi_envelope_free(&reply);
	return 0;
}
