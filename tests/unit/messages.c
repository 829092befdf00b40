#include "messages.h"

#include <stdlib.h>
#include <string.h>

#define MIB ((uint64_t)1 << 20)

static char server_id[] = "0123456789abcdef0123456789abcdef";
static uint8_t bytes32[32] = {1, 2, 3, 0, 255};

#define BYTES32                          \
	{                                \
		sizeof(bytes32), bytes32 \
	}
#define BYTES16                                   \
	{                                         \
		16, (uint8_t *)"0123456789abcdef" \
	}

/* A message on the stack to one on the heap, by way of its bytes. */
static Farferry__Envelope *copy(Farferry__Envelope *e)
{
	size_t len = farferry__envelope__get_packed_size(e);
	uint8_t *packed = malloc(len);

	if (!packed)
		abort();
	farferry__envelope__pack(e, packed);

	Farferry__Envelope *result = farferry__envelope__unpack(NULL, len, packed);

	free(packed);
	if (!result)
		abort();
	return result;
}

static Farferry__Envelope *message_lease_reply(Farferry__Envelope *e)
{
	Farferry__Location locations[3];
	Farferry__Location *location_list[3];
	Farferry__Extent extents[2];
	Farferry__Extent *extent_list[2] = {&extents[0], &extents[1]};
	Farferry__LeaseReply m = FARFERRY__LEASE_REPLY__INIT;

	for (size_t i = 0; i < 3; i++) {
		farferry__location__init(&locations[i]);
		locations[i].server_id = server_id;
		locations[i].key = 77 + i;
		locations[i].addr = 0x7f0000000000 + i * 64 * MIB;
		location_list[i] = &locations[i];
	}
	for (size_t i = 0; i < 2; i++) {
		farferry__extent__init(&extents[i]);
		extents[i].id = i;
		extents[i].pool_off = 64 * MIB - i * 32 * MIB; /* in no order */
		extents[i].len_bytes = 32 * MIB;
	}
	extents[0].n_locations = 1;
	extents[0].locations = location_list;
	extents[1].n_locations = 2;
	extents[1].locations = location_list + 1;

	m.lease_id = 4;
	m.epoch = 9;
	m.fabric = "tcp";
	m.fabric_addr = "127.0.0.1:40000";
	m.data_token = (ProtobufCBinaryData)BYTES32;
	m.n_extents = 2;
	m.extents = extent_list;
	m.pool_size_bytes = 128 * MIB;
	e->lease_reply = &m;
	return copy(e);
}

static Farferry__Envelope *message_pools_reply(Farferry__Envelope *e)
{
	Farferry__PoolInfo pools[2] = {FARFERRY__POOL_INFO__INIT, FARFERRY__POOL_INFO__INIT};
	Farferry__PoolInfo *list[2] = {&pools[0], &pools[1]};
	Farferry__PoolsReply m = FARFERRY__POOLS_REPLY__INIT;

	for (size_t i = 0; i < 2; i++) {
		pools[i].name = i ? "cold-1" : "hot";
		pools[i].type = "private";
		pools[i].backing = "memfd";
		pools[i].size_bytes = 64 * MIB;
		pools[i].free_bytes = 32 * MIB;
		pools[i].leased_bytes = 30 * MIB;
		pools[i].scrub_bytes = 2 * MIB;
		pools[i].numa_node = i ? -1 : 3;
		pools[i].huge_page_bytes = i ? 0 : 2 * MIB;
	}
	Farferry__QuotaInfo quota = FARFERRY__QUOTA_INFO__INIT, *quotas = &quota;

	quota.name = "bytes";
	quota.used = 2 * MIB;
	m.n_pools = 2;
	m.pools = list;
	m.user = "uid:1000";
	m.n_quotas = 1;
	m.quotas = &quotas;
	e->pools_reply = &m;
	return copy(e);
}

static Farferry__Envelope *message_stats_reply(Farferry__Envelope *e)
{
	Farferry__Stat stats[2] = {FARFERRY__STAT__INIT, FARFERRY__STAT__INIT};
	Farferry__Stat *list[2] = {&stats[0], &stats[1]};
	Farferry__StatsReply m = FARFERRY__STATS_REPLY__INIT;

	stats[0].name = "c_session_total";
	stats[0].value = UINT64_MAX;
	stats[0].text = "Sessions since start.";
	stats[1].name = "g_leased_bytes";
	stats[1].gauge = 1;
	m.n_stats = 2;
	m.stats = list;
	e->stats_reply = &m;
	return copy(e);
}

/* ---- views ---- */

static Farferry__Envelope *message_view_extent_reply(Farferry__Envelope *e)
{
	Farferry__Location location = FARFERRY__LOCATION__INIT;
	Farferry__Location *list[1] = {&location};
	Farferry__ViewExtentReply m = FARFERRY__VIEW_EXTENT_REPLY__INIT;

	location.server_id = server_id;
	location.key = 78;
	location.addr = 0x7f0000000000;
	m.fabric = "tcp";
	m.fabric_addr = "127.0.0.1:40000";
	m.data_token = (ProtobufCBinaryData)BYTES32;
	m.len_bytes = 32 * MIB;
	m.n_locations = 1;
	m.locations = list;
	e->view_extent_reply = &m;
	return copy(e);
}

/* Two pages: one in the pool, one in data. As a reply, or in an answer. */
static Farferry__Envelope *message_accessed(Farferry__Envelope *e, bool answer)
{
	Farferry__ViewPage pages[2] = {FARFERRY__VIEW_PAGE__INIT, FARFERRY__VIEW_PAGE__INIT};
	Farferry__ViewPage *list[2] = {&pages[0], &pages[1]};
	Farferry__ViewAccessReply m = FARFERRY__VIEW_ACCESS_REPLY__INIT;
	Farferry__AccessAnswer a = FARFERRY__ACCESS_ANSWER__INIT;

	pages[0].extent_id = 3;
	pages[0].off = 5 * 4096;
	pages[0].hash = UINT64_MAX;
	m.n_pages = 2;
	m.pages = list;
	m.data = (ProtobufCBinaryData)BYTES32;
	m.rounds = 2;
	m.pages_ram = 1;
	a.access_id = 11;
	a.reply = &m;
	if (answer)
		e->access_answer = &a;
	else
		e->view_access_reply = &m;
	return copy(e);
}

/* NULL: not one of these. */
static Farferry__Envelope *message_view(Farferry__Envelope *e)
{
	Farferry__ExportRequest export_request = FARFERRY__EXPORT_REQUEST__INIT;
	Farferry__UnexportRequest unexport = FARFERRY__UNEXPORT_REQUEST__INIT;
	Farferry__ViewOpenRequest open = FARFERRY__VIEW_OPEN_REQUEST__INIT;
	Farferry__ViewReply reply = FARFERRY__VIEW_REPLY__INIT;
	Farferry__ViewCloseRequest close = FARFERRY__VIEW_CLOSE_REQUEST__INIT;
	Farferry__ViewAccessRequest access = FARFERRY__VIEW_ACCESS_REQUEST__INIT;
	Farferry__ViewExtentRequest extent = FARFERRY__VIEW_EXTENT_REQUEST__INIT;
	Farferry__AccessNotice notice = FARFERRY__ACCESS_NOTICE__INIT;

	access.view_id = 6;
	access.va = 0x7f0000001ff0;
	access.len_bytes = sizeof(bytes32);
	access.data = (ProtobufCBinaryData)BYTES32;
	access.timeout_ms = 10000;
	switch (e->body_case) {
	case FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST:
		export_request.export_id = 1;
		export_request.name = "job-7.heat_2";
		export_request.perms = 3;
		e->export_request = &export_request;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_UNEXPORT:
		unexport.export_id = 1;
		e->unexport = &unexport;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_OPEN:
		open.name = "job-7.heat_2";
		e->view_open = &open;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_REPLY:
		reply.view_id = 6;
		reply.perms = 1;
		e->view_reply = &reply;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_CLOSE:
		close.view_id = 6;
		e->view_close = &close;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_ACCESS:
		e->view_access = &access;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY:
		return message_accessed(e, false);
	case FARFERRY__ENVELOPE__BODY_VIEW_EXTENT:
		extent.view_id = 6;
		extent.extent_id = 3;
		e->view_extent = &extent;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_VIEW_EXTENT_REPLY:
		return message_view_extent_reply(e);
	case FARFERRY__ENVELOPE__BODY_ACCESS:
		e->request_id = 0;
		notice.access_id = 11;
		notice.export_id = 1;
		notice.access = &access;
		e->access = &notice;
		return copy(e);
	case FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER:
		e->request_id = 0;
		return message_accessed(e, true);
	default:
		return NULL;
	}
}

Farferry__Envelope *ferryt_message(Farferry__Envelope__BodyCase body)
{
	Farferry__Envelope e = FARFERRY__ENVELOPE__INIT;
	Farferry__Error error = FARFERRY__ERROR__INIT;
	Farferry__Hello hello = FARFERRY__HELLO__INIT;
	Farferry__HelloReply hello_reply = FARFERRY__HELLO_REPLY__INIT;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;
	Farferry__AuthReply auth_reply = FARFERRY__AUTH_REPLY__INIT;
	Farferry__PoolsRequest pools = FARFERRY__POOLS_REQUEST__INIT;
	Farferry__AttachRequest attach = FARFERRY__ATTACH_REQUEST__INIT;
	Farferry__GrowRequest grow = FARFERRY__GROW_REQUEST__INIT;
	Farferry__ShrinkRequest shrink = FARFERRY__SHRINK_REQUEST__INIT;
	Farferry__DetachRequest detach = FARFERRY__DETACH_REQUEST__INIT;
	Farferry__DoneReply done = FARFERRY__DONE_REPLY__INIT;
	Farferry__KeepAlive keepalive = FARFERRY__KEEP_ALIVE__INIT;
	Farferry__StatsRequest stats = FARFERRY__STATS_REQUEST__INIT;
	Farferry__RevokedNotice revoked = FARFERRY__REVOKED_NOTICE__INIT;
	Farferry__FailedNotice failed = FARFERRY__FAILED_NOTICE__INIT;
	Farferry__InjectRequest inject = FARFERRY__INJECT_REQUEST__INIT;
	Farferry__HeirRequest heir = FARFERRY__HEIR_REQUEST__INIT;
	Farferry__ClaimRequest claim = FARFERRY__CLAIM_REQUEST__INIT;
	Farferry__DrainRequest drain_request = FARFERRY__DRAIN_REQUEST__INIT;
	Farferry__DrainNotice drain = FARFERRY__DRAIN_NOTICE__INIT;
	char *fabrics[] = {"tcp", "tcp;ofi_rxm"};
	uint64_t ids[] = {7, 0, 3};

	e.request_id = 5;
	e.body_case = body;
	switch (body) {
	case FARFERRY__ENVELOPE__BODY_ERROR:
		error.code = FARFERRY__CODE__CODE_FULL;
		error.text = "pool 'hot' is full: 2M are free";
		e.error = &error;
		break;
	case FARFERRY__ENVELOPE__BODY_HELLO:
		hello.version_min = FERRYI_PROTO_VERSION_MIN;
		hello.version_max = FERRYI_PROTO_VERSION_MAX;
		hello.client = "a program";
		hello.host = "node1/0f3d8a52-7d0b-4e6e-a7a3-0d8d4a2f8a11";
		hello.pid = 4711;
		e.hello = &hello;
		break;
	case FARFERRY__ENVELOPE__BODY_HELLO_REPLY:
		hello_reply.version = 1;
		hello_reply.server_nonce = (ProtobufCBinaryData)BYTES32;
		hello_reply.server_id = server_id;
		hello_reply.host = "node2/x";
		hello_reply.auth_required = 1;
		e.hello_reply = &hello_reply;
		break;
	case FARFERRY__ENVELOPE__BODY_AUTH:
		auth.client_nonce = (ProtobufCBinaryData)BYTES32;
		auth.mac = (ProtobufCBinaryData)BYTES32;
		e.auth = &auth;
		break;
	case FARFERRY__ENVELOPE__BODY_AUTH_REPLY:
		auth_reply.mac = (ProtobufCBinaryData)BYTES32;
		auth_reply.session_id = 12;
		auth_reply.epoch = 9;
		auth_reply.keepalive_ms = 1000;
		auth_reply.timeout_ms = 5000;
		auth_reply.n_fabrics = 2;
		auth_reply.fabrics = fabrics;
		e.auth_reply = &auth_reply;
		break;
	case FARFERRY__ENVELOPE__BODY_POOLS:
		e.pools = &pools;
		break;
	case FARFERRY__ENVELOPE__BODY_POOLS_REPLY:
		return message_pools_reply(&e);
	case FARFERRY__ENVELOPE__BODY_ATTACH:
		attach.pool = "hot";
		attach.fabric = "tcp";
		attach.size_bytes = 64 * MIB;
		e.attach = &attach;
		break;
	case FARFERRY__ENVELOPE__BODY_LEASE_REPLY:
		return message_lease_reply(&e);
	case FARFERRY__ENVELOPE__BODY_GROW:
		grow.lease_id = 4;
		grow.epoch = 9;
		grow.size_bytes = 2 * MIB;
		e.grow = &grow;
		break;
	case FARFERRY__ENVELOPE__BODY_SHRINK:
		shrink.lease_id = 4;
		shrink.epoch = 9;
		shrink.n_extent_ids = 3;
		shrink.extent_ids = ids;
		e.shrink = &shrink;
		break;
	case FARFERRY__ENVELOPE__BODY_DETACH:
		detach.lease_id = 4;
		detach.epoch = 9;
		e.detach = &detach;
		break;
	case FARFERRY__ENVELOPE__BODY_DONE:
		e.done = &done;
		break;
	case FARFERRY__ENVELOPE__BODY_KEEPALIVE:
		keepalive.epoch = 9;
		e.keepalive = &keepalive;
		break;
	case FARFERRY__ENVELOPE__BODY_STATS:
		e.stats = &stats;
		break;
	case FARFERRY__ENVELOPE__BODY_STATS_REPLY:
		return message_stats_reply(&e);
	case FARFERRY__ENVELOPE__BODY_REVOKED:
		e.request_id = 0;
		revoked.lease_id = 4;
		revoked.reason = "no keep-alive for 5000 ms";
		e.revoked = &revoked;
		break;
	case FARFERRY__ENVELOPE__BODY_DRAIN:
		e.request_id = 0;
		drain.deadline_ms = 30000;
		drain.reason = "SIGTERM";
		e.drain = &drain;
		break;
	case FARFERRY__ENVELOPE__BODY_FAILED:
		e.request_id = 0;
		failed.lease_id = 4;
		failed.extent_id = 5;
		failed.off = 8192;
		failed.len_bytes = 4096;
		e.failed = &failed;
		break;
	case FARFERRY__ENVELOPE__BODY_INJECT:
		inject.lease_id = 4;
		inject.epoch = 9;
		inject.extent_id = 5;
		inject.off = 8192;
		e.inject = &inject;
		break;
	case FARFERRY__ENVELOPE__BODY_HEIR:
		heir.secret = (ProtobufCBinaryData)BYTES16;
		e.heir = &heir;
		break;
	case FARFERRY__ENVELOPE__BODY_CLAIM:
		claim.secret = (ProtobufCBinaryData)BYTES16;
		claim.fabric = "tcp";
		e.claim = &claim;
		break;
	case FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST:
		drain_request.deadline_ms = 30000;
		e.drain_request = &drain_request;
		break;
	default: {
		Farferry__Envelope *view = message_view(&e);

		if (!view)
			abort();
		return view;
	}
	}
	return copy(&e);
}

enum ferryi_role ferryt_receiver(Farferry__Envelope__BodyCase body)
{
	switch (body) {
	case FARFERRY__ENVELOPE__BODY_HELLO:
	case FARFERRY__ENVELOPE__BODY_AUTH:
	case FARFERRY__ENVELOPE__BODY_POOLS:
	case FARFERRY__ENVELOPE__BODY_ATTACH:
	case FARFERRY__ENVELOPE__BODY_GROW:
	case FARFERRY__ENVELOPE__BODY_SHRINK:
	case FARFERRY__ENVELOPE__BODY_DETACH:
	case FARFERRY__ENVELOPE__BODY_KEEPALIVE:
	case FARFERRY__ENVELOPE__BODY_STATS:
	case FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST:
	case FARFERRY__ENVELOPE__BODY_UNEXPORT:
	case FARFERRY__ENVELOPE__BODY_VIEW_OPEN:
	case FARFERRY__ENVELOPE__BODY_VIEW_CLOSE:
	case FARFERRY__ENVELOPE__BODY_VIEW_ACCESS:
	case FARFERRY__ENVELOPE__BODY_VIEW_EXTENT:
	case FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER:
	case FARFERRY__ENVELOPE__BODY_INJECT:
	case FARFERRY__ENVELOPE__BODY_HEIR:
	case FARFERRY__ENVELOPE__BODY_CLAIM:
	case FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST:
		return FERRYI_ROLE_SERVER;
	default:
		return FERRYI_ROLE_CLIENT;
	}
}

void ferryt_set_text(char **field, const char *text)
{
	if (*field != protobuf_c_empty_string)
		free(*field);
	*field = strdup(text);
	if (!*field)
		abort();
}

void ferryt_set_len(ProtobufCBinaryData *field, size_t len)
{
	free(field->data);
	field->data = calloc(1, len ? len : 1);
	if (!field->data)
		abort();
	field->len = len;
}
