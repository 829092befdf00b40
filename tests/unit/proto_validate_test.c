/* proto/validate: every rule is broken once, through encode and decode. One thread. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "messages.h"

#define MIB ((uint64_t)1 << 20)

static char long_text[2048];
static const char name64[] = "n234567890123456789012345678901234567890123456789012345678901234";

static int setup(void **state)
{
	(void)state;
	memset(long_text, 'x', sizeof(long_text) - 1);
	return 0;
}

static int decode(const Farferry__Envelope *e, char *why, size_t why_len)
{
	Farferry__Envelope *back = NULL;
	uint8_t *frame = NULL;
	size_t len = 0;
	int rc;

	assert_int_equal(ferryi_frame_encode(e, &frame, &len), 0);
	rc = ferryi_frame_decode(ferryt_receiver(e->body_case), frame, len, &back, why, why_len);
	assert_int_equal(rc == 0, back != NULL);
	ferryi_envelope_free(&back);
	free(frame);
	return rc;
}

static void check_refused(Farferry__Envelope *e, const char *word, int line)
{
	char why[256] = "";
	int rc = decode(e, why, sizeof(why));

	if (rc != -EINVAL || !strstr(why, word) || strncmp(why, ferryi_body_name(e->body_case), 4) != 0)
		fail_msg("line %d: rc %d, '%s' is not in: %s", line, rc, word, why);
	assert_null(strchr(why, '\n'));
	assert_int_equal(decode(e, NULL, 0), -EINVAL);
	ferryi_envelope_free(&e);
}

static void check_accepted(Farferry__Envelope *e, int line)
{
	char why[256] = "";

	if (decode(e, why, sizeof(why)) != 0)
		fail_msg("line %d: %s", line, why);
	ferryi_envelope_free(&e);
}

/* The valid message, changed by the statements (which know it as e), is refused with that word in the reason.
 */
#define REFUSED(BODY, word, ...)                                                         \
	do {                                                                             \
		Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_##BODY); \
		__VA_ARGS__;                                                             \
		check_refused(e, word, __LINE__);                                        \
	} while (0)

#define ACCEPTED(BODY, ...)                                                              \
	do {                                                                             \
		Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_##BODY); \
		__VA_ARGS__;                                                             \
		check_accepted(e, __LINE__);                                             \
	} while (0)

static void request_id__wrong_for_the_kind__refused(void **state)
{
	(void)state;
	for (Farferry__Envelope__BodyCase body = FERRYT_BODY_FIRST; body <= FERRYT_BODY_LAST; body++) {
		Farferry__Envelope *e = ferryt_message(body);

		e->request_id = e->request_id ? 0 : 1;
		if (body == FARFERRY__ENVELOPE__BODY_ERROR)
			check_accepted(e, __LINE__);
		else
			check_refused(e, "request_id", __LINE__);
	}
}

static void error__fields__checked(void **state)
{
	(void)state;
	REFUSED(ERROR, "without a code", e->error->code = FARFERRY__CODE__CODE_OK);
	REFUSED(ERROR, "text is 2047 characters", ferryt_set_text(&e->error->text, long_text));
	REFUSED(ERROR, "control character", ferryt_set_text(&e->error->text, "two\nlines"));
	ACCEPTED(ERROR, e->error->code = (Farferry__Code)1234);
	ACCEPTED(ERROR,
		 ferryt_set_text(&e->error->text, long_text + sizeof(long_text) - 1 - FERRYI_MAX_TEXT));
	ACCEPTED(ERROR, ferryt_set_text(&e->error->text, ""));
}

static void hello__fields__checked(void **state)
{
	(void)state;
	REFUSED(HELLO, "no range", e->hello->version_min = 0);
	REFUSED(HELLO, "versions 3 to 2", e->hello->version_min = 3; e->hello->version_max = 2);
	REFUSED(HELLO, "client", ferryt_set_text(&e->hello->client, name64));
	REFUSED(HELLO, "client", ferryt_set_text(&e->hello->client, "a\tb"));
	REFUSED(HELLO, "client", ferryt_set_text(&e->hello->client, "a\x7f"));
	REFUSED(HELLO, "host", ferryt_set_text(&e->hello->host, long_text + sizeof(long_text) - 1 - 128));
	/* A range that this version is not in is well-formed: the server answers CODE_VERSION. */
	ACCEPTED(HELLO, e->hello->version_min = 7; e->hello->version_max = 9);
	ACCEPTED(HELLO, ferryt_set_text(&e->hello->client, name64 + 1));
	ACCEPTED(HELLO, ferryt_set_text(&e->hello->client, ""));
	ACCEPTED(HELLO, ferryt_set_text(&e->hello->client, "h\xc3\xa9las"));
}

static void hello_reply__fields__checked(void **state)
{
	(void)state;
	REFUSED(HELLO_REPLY, "version", e->hello_reply->version = 0);
	REFUSED(HELLO_REPLY, "server_nonce is 31 bytes", ferryt_set_len(&e->hello_reply->server_nonce, 31));
	REFUSED(HELLO_REPLY, "server_nonce is 0 bytes", ferryt_set_len(&e->hello_reply->server_nonce, 0));
	REFUSED(HELLO_REPLY, "server_id", ferryt_set_text(&e->hello_reply->server_id, ""));
	REFUSED(HELLO_REPLY, "server_id",
		ferryt_set_text(&e->hello_reply->server_id, "0123456789ABCDEF0123456789ABCDEF"));
	REFUSED(HELLO_REPLY, "server_id",
		ferryt_set_text(&e->hello_reply->server_id, "0123456789abcdef0123456789abcdef0"));
	REFUSED(HELLO_REPLY, "host", ferryt_set_text(&e->hello_reply->host, long_text));
	ACCEPTED(HELLO_REPLY, e->hello_reply->auth_required = 0);
	ACCEPTED(HELLO_REPLY, ferryt_set_text(&e->hello_reply->auth, "of-a-later-version"));
	REFUSED(HELLO_REPLY, "auth holds a character", ferryt_set_text(&e->hello_reply->auth, "a b"));
	REFUSED(HELLO_REPLY, "auth is 64 characters", ferryt_set_text(&e->hello_reply->auth, name64));
}

static void pools_reply__quotas__checked(void **state)
{
	(void)state;
	REFUSED(POOLS_REPLY, "user holds a control character",
		ferryt_set_text(&e->pools_reply->user, "a\tb"));
	ACCEPTED(POOLS_REPLY, ferryt_set_text(&e->pools_reply->user, "tls:CN=alice; O=site"));
	REFUSED(POOLS_REPLY, "quota is empty", ferryt_set_text(&e->pools_reply->quotas[0]->name, ""));
	REFUSED(POOLS_REPLY, "quota is 64", ferryt_set_text(&e->pools_reply->quotas[0]->name, name64));
}

static void set_credential(ProtobufCBinaryData *field, size_t len)
{
	ferryt_set_len(field, len);
	memset(field->data, 'x', len);
}

static void auth__fields__checked(void **state)
{
	(void)state;
	REFUSED(AUTH, "client_nonce is 33 bytes", ferryt_set_len(&e->auth->client_nonce, 33));
	REFUSED(AUTH, "mac is 0 bytes", ferryt_set_len(&e->auth->mac, 0));
	ACCEPTED(AUTH, set_credential(&e->auth->credential, 0));
	ACCEPTED(AUTH, set_credential(&e->auth->credential, FERRYI_CREDENTIAL_MAX));
	REFUSED(AUTH, "credential is 2049 bytes",
		set_credential(&e->auth->credential, FERRYI_CREDENTIAL_MAX + 1));
	REFUSED(AUTH, "credential holds a character", ferryt_set_len(&e->auth->credential, 7));
}

static void auth_reply__fields__checked(void **state)
{
	(void)state;
	REFUSED(AUTH_REPLY, "mac", ferryt_set_len(&e->auth_reply->mac, 16));
	REFUSED(AUTH_REPLY, "session_id", e->auth_reply->session_id = 0);
	REFUSED(AUTH_REPLY, "epoch", e->auth_reply->epoch = 0);
	REFUSED(AUTH_REPLY, "credential is",
		set_credential(&e->auth_reply->credential, FERRYI_CREDENTIAL_MAX + 1));
	REFUSED(AUTH_REPLY, "user holds a control character",
		ferryt_set_text(&e->auth_reply->user, "uid:1\n"));
	REFUSED(AUTH_REPLY, "keepalive_ms", e->auth_reply->keepalive_ms = 0);
	REFUSED(AUTH_REPLY, "keepalive_ms 5000", e->auth_reply->keepalive_ms = 5000);
	REFUSED(AUTH_REPLY, "timeout_ms", e->auth_reply->timeout_ms = UINT32_MAX);
	REFUSED(AUTH_REPLY, "fabric", ferryt_set_text(&e->auth_reply->fabrics[1], ""));
	REFUSED(AUTH_REPLY, "fabric", ferryt_set_text(&e->auth_reply->fabrics[1], "t cp"));
	REFUSED(AUTH_REPLY, "fabric", ferryt_set_text(&e->auth_reply->fabrics[0], name64));
}

static void auth_reply__number_of_fabrics__checked(void **state)
{
	char *many[17];

	(void)state;
	for (size_t i = 0; i < 17; i++)
		many[i] = "tcp";
	for (size_t n = 0; n <= 17; n++) {
		Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
		char **old = e->auth_reply->fabrics;
		char why[256] = "";
		int rc;

		e->auth_reply->fabrics = many;
		e->auth_reply->n_fabrics = n;
		rc = decode(e, why, sizeof(why));
		e->auth_reply->fabrics = old;
		e->auth_reply->n_fabrics = 2;
		ferryi_envelope_free(&e);
		assert_int_equal(rc, n >= 1 && n <= 16 ? 0 : -EINVAL);
		if (rc)
			assert_non_null(strstr(why, n ? "at most 16" : "no fabric"));
	}
}

static void pools_reply__fields__checked(void **state)
{
	(void)state;
	REFUSED(POOLS_REPLY, "pool name is empty", ferryt_set_text(&e->pools_reply->pools[0]->name, ""));
	REFUSED(POOLS_REPLY, "pool name", ferryt_set_text(&e->pools_reply->pools[1]->name, "a,b"));
	REFUSED(POOLS_REPLY, "pool name", ferryt_set_text(&e->pools_reply->pools[1]->name, name64));
	REFUSED(POOLS_REPLY, "pool type", ferryt_set_text(&e->pools_reply->pools[1]->type, ""));
	REFUSED(POOLS_REPLY, "pool backing", ferryt_set_text(&e->pools_reply->pools[1]->backing, "a b"));
	REFUSED(POOLS_REPLY, "size_bytes", e->pools_reply->pools[0]->size_bytes = 0);
	REFUSED(POOLS_REPLY, "multiple of 2 MiB", e->pools_reply->pools[0]->size_bytes += 4096);
	REFUSED(POOLS_REPLY, "exceed its size", e->pools_reply->pools[0]->free_bytes = 65 * MIB);
	REFUSED(POOLS_REPLY, "exceed its size", e->pools_reply->pools[0]->leased_bytes = 33 * MIB);
	REFUSED(POOLS_REPLY, "exceed its size", e->pools_reply->pools[0]->scrub_bytes = 3 * MIB);
	REFUSED(POOLS_REPLY, "exceed its size", e->pools_reply->pools[0]->leased_bytes = UINT64_MAX);
	REFUSED(POOLS_REPLY, "exceed its size", e->pools_reply->pools[0]->scrub_bytes = UINT64_MAX);
	REFUSED(POOLS_REPLY, "numa_node -2", e->pools_reply->pools[0]->numa_node = -2);
	REFUSED(POOLS_REPLY, "numa_node", e->pools_reply->pools[0]->numa_node = 4096);
	REFUSED(POOLS_REPLY, "page size", e->pools_reply->pools[0]->huge_page_bytes = 3 * MIB);
	REFUSED(POOLS_REPLY, "page size", e->pools_reply->pools[0]->huge_page_bytes = 4096);
	ACCEPTED(POOLS_REPLY, e->pools_reply->pools[0]->huge_page_bytes = 1024 * MIB);
	ACCEPTED(POOLS_REPLY, e->pools_reply->pools[0]->scrub_bytes = 0);
}

static void attach__fields__checked(void **state)
{
	(void)state;
	REFUSED(ATTACH, "pool", ferryt_set_text(&e->attach->pool, "no such/pool"));
	REFUSED(ATTACH, "pool", ferryt_set_text(&e->attach->pool, name64));
	REFUSED(ATTACH, "fabric is empty", ferryt_set_text(&e->attach->fabric, ""));
	REFUSED(ATTACH, "fabric", ferryt_set_text(&e->attach->fabric, "a=b"));
	REFUSED(ATTACH, "size_bytes of 4096 is not a multiple of 2 MiB", e->attach->size_bytes = 4096);
	REFUSED(ATTACH, "multiple of 2 MiB", e->attach->size_bytes = UINT64_MAX);
	REFUSED(ATTACH, "lease name", ferryt_set_text(&e->attach->name, "a/b"));
	REFUSED(ATTACH, "lease name", ferryt_set_text(&e->attach->name, name64));
	ACCEPTED(ATTACH, ferryt_set_text(&e->attach->name, "db.1"));
	REFUSED(ATTACH, "type", ferryt_set_text(&e->attach->type, "fs dax"));
	ACCEPTED(ATTACH, ferryt_set_text(&e->attach->type, "fs_dax"));
	ACCEPTED(ATTACH, e->attach->size_bytes = 0);
	ACCEPTED(ATTACH, ferryt_set_text(&e->attach->pool, ""));
	ACCEPTED(ATTACH, ferryt_set_text(&e->attach->fabric, "tcp;ofi_rxm"));
}

static void lease_reply__fields__checked(void **state)
{
	(void)state;
	REFUSED(LEASE_REPLY, "lease_id", e->lease_reply->lease_id = 0);
	REFUSED(LEASE_REPLY, "epoch", e->lease_reply->epoch = 0);
	REFUSED(LEASE_REPLY, "fabric", ferryt_set_text(&e->lease_reply->fabric, ""));
	REFUSED(LEASE_REPLY, "fabric_addr is empty", ferryt_set_text(&e->lease_reply->fabric_addr, ""));
	REFUSED(LEASE_REPLY, "fabric_addr", ferryt_set_text(&e->lease_reply->fabric_addr, "a\n"));
	REFUSED(LEASE_REPLY, "fabric_addr",
		ferryt_set_text(&e->lease_reply->fabric_addr, long_text + sizeof(long_text) - 1 - 256));
	REFUSED(LEASE_REPLY, "data_token", ferryt_set_len(&e->lease_reply->data_token, 31));
	REFUSED(LEASE_REPLY, "lease name", ferryt_set_text(&e->lease_reply->name, "a b"));
	ACCEPTED(LEASE_REPLY, ferryt_set_text(&e->lease_reply->name, "db.1"));
	REFUSED(LEASE_REPLY, "kept_extents 3 of 2", e->lease_reply->kept_extents = 3);
	ACCEPTED(LEASE_REPLY, e->lease_reply->kept_extents = 2);
	REFUSED(LEASE_REPLY, "keep_ms of a lease without a name", e->lease_reply->keep_ms = 1);
	ACCEPTED(LEASE_REPLY,
		 (ferryt_set_text(&e->lease_reply->name, "db.1"), e->lease_reply->keep_ms = UINT32_MAX));
	REFUSED(LEASE_REPLY, "pool_type", ferryt_set_text(&e->lease_reply->pool_type, "a/b"));
	ACCEPTED(LEASE_REPLY, ferryt_set_text(&e->lease_reply->pool_type, "generic"));
	REFUSED(LEASE_REPLY, "pool_size_bytes", e->lease_reply->pool_size_bytes = 0);
	REFUSED(LEASE_REPLY, "pool_size_bytes", e->lease_reply->pool_size_bytes += 1);
	ACCEPTED(LEASE_REPLY,
		 ferryt_set_text(&e->lease_reply->fabric_addr, long_text + sizeof(long_text) - 1 - 255));
}

static void lease_reply__extents__checked(void **state)
{
	(void)state;
	REFUSED(LEASE_REPLY, "pool_off", e->lease_reply->extents[0]->pool_off += 4096);
	REFUSED(LEASE_REPLY, "len_bytes is 0", e->lease_reply->extents[0]->len_bytes = 0);
	REFUSED(LEASE_REPLY, "len_bytes", e->lease_reply->extents[0]->len_bytes = 4096);
	REFUSED(LEASE_REPLY, "outside its pool", e->lease_reply->extents[0]->pool_off = 128 * MIB);
	REFUSED(LEASE_REPLY, "outside its pool", e->lease_reply->extents[0]->len_bytes = -(2 * MIB));
	REFUSED(LEASE_REPLY, "outside its pool", e->lease_reply->pool_size_bytes = 94 * MIB);
	REFUSED(LEASE_REPLY, "two extents hold pool offset",
		e->lease_reply->extents[0]->pool_off = e->lease_reply->extents[1]->pool_off + 30 * MIB);
	REFUSED(LEASE_REPLY, "two extents",
		e->lease_reply->extents[0]->pool_off = e->lease_reply->extents[1]->pool_off);
	REFUSED(LEASE_REPLY, "extent id 1 is there twice", e->lease_reply->extents[0]->id = 1);
	REFUSED(LEASE_REPLY, "server_id",
		ferryt_set_text(&e->lease_reply->extents[1]->locations[1]->server_id, "me"));
	REFUSED(LEASE_REPLY, "wraps", e->lease_reply->extents[1]->locations[0]->addr = UINT64_MAX - 4096);
	ACCEPTED(LEASE_REPLY, e->lease_reply->pool_size_bytes = 96 * MIB);
	ACCEPTED(LEASE_REPLY, e->lease_reply->extents[1]->locations[0]->addr = 0);
}

static void lease_reply__number_of_extents_and_locations__checked(void **state)
{
	Farferry__Location *locations[9];
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_LEASE_REPLY);
	Farferry__Extent *extent = e->lease_reply->extents[0];
	Farferry__Location **old = extent->locations;
	char why[256] = "";

	(void)state;
	for (size_t i = 0; i < 9; i++)
		locations[i] = old[0];
	extent->locations = locations;
	extent->n_locations = 0;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "no location"));
	extent->n_locations = 9;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "at most 8"));
	extent->n_locations = 8;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	extent->locations = old;
	extent->n_locations = 1;

	/* None: an attach of size 0. */
	e->lease_reply->n_extents = 0;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	e->lease_reply->n_extents = 1;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	e->lease_reply->n_extents = 2;
	ferryi_envelope_free(&e);
}

static void grow__fields__checked(void **state)
{
	(void)state;
	REFUSED(GROW, "lease_id", e->grow->lease_id = 0);
	REFUSED(GROW, "epoch", e->grow->epoch = 0);
	REFUSED(GROW, "size_bytes is 0", e->grow->size_bytes = 0);
	REFUSED(GROW, "multiple of 2 MiB", e->grow->size_bytes = MIB);
}

static void shrink__fields__checked(void **state)
{
	(void)state;
	REFUSED(SHRINK, "lease_id", e->shrink->lease_id = 0);
	REFUSED(SHRINK, "epoch", e->shrink->epoch = 0);
	REFUSED(SHRINK, "no extent", e->shrink->n_extent_ids = 0);
	REFUSED(SHRINK, "extent id 7 is there twice", e->shrink->extent_ids[2] = 7);
	ACCEPTED(SHRINK, e->shrink->n_extent_ids = 1);
}

static void shrink__too_many_extents__refused(void **state)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_SHRINK);
	uint64_t *old = e->shrink->extent_ids;
	uint64_t *ids = calloc(FERRYI_MAX_EXTENTS + 1, sizeof(*ids));
	char why[256] = "";

	(void)state;
	assert_non_null(ids);
	for (size_t i = 0; i <= FERRYI_MAX_EXTENTS; i++)
		ids[i] = i;
	e->shrink->extent_ids = ids;
	e->shrink->n_extent_ids = FERRYI_MAX_EXTENTS;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	e->shrink->n_extent_ids = FERRYI_MAX_EXTENTS + 1;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "at most 8192"));
	e->shrink->extent_ids = old;
	ferryi_envelope_free(&e);
	free(ids);
}

static void detach__fields__checked(void **state)
{
	(void)state;
	REFUSED(DETACH, "lease_id", e->detach->lease_id = 0);
	REFUSED(DETACH, "epoch", e->detach->epoch = 0);
}

static void keepalive__fields__checked(void **state)
{
	(void)state;
	REFUSED(KEEPALIVE, "epoch", e->keepalive->epoch = 0);
}

static void stats_reply__fields__checked(void **state)
{
	(void)state;
	REFUSED(STATS_REPLY, "statistic name", ferryt_set_text(&e->stats_reply->stats[0]->name, ""));
	REFUSED(STATS_REPLY, "statistic name", ferryt_set_text(&e->stats_reply->stats[0]->name, "a b"));
	REFUSED(STATS_REPLY, "statistic text", ferryt_set_text(&e->stats_reply->stats[0]->text, long_text));
	REFUSED(STATS_REPLY, "statistic text", ferryt_set_text(&e->stats_reply->stats[0]->text, "\x1b[2J"));
}

static void lists__too_many_pools_and_statistics__refused(void **state)
{
	Farferry__PoolInfo *pools[FERRYI_MAX_POOLS + 1];
	Farferry__Stat *stats[FERRYI_MAX_STATS + 1];
	Farferry__Envelope *p = ferryt_message(FARFERRY__ENVELOPE__BODY_POOLS_REPLY);
	Farferry__Envelope *s = ferryt_message(FARFERRY__ENVELOPE__BODY_STATS_REPLY);
	Farferry__PoolInfo **old_pools = p->pools_reply->pools;
	Farferry__Stat **old_stats = s->stats_reply->stats;
	char why[256] = "";

	(void)state;
	for (size_t i = 0; i <= FERRYI_MAX_POOLS; i++)
		pools[i] = old_pools[0];
	for (size_t i = 0; i <= FERRYI_MAX_STATS; i++)
		stats[i] = old_stats[0];
	p->pools_reply->pools = pools;
	s->stats_reply->stats = stats;

	p->pools_reply->n_pools = FERRYI_MAX_POOLS;
	assert_int_equal(decode(p, why, sizeof(why)), 0);
	p->pools_reply->n_pools++;
	assert_int_equal(decode(p, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "257 pools: at most 256"));
	p->pools_reply->n_pools = 0;
	assert_int_equal(decode(p, why, sizeof(why)), 0);

	s->stats_reply->n_stats = FERRYI_MAX_STATS;
	assert_int_equal(decode(s, why, sizeof(why)), 0);
	s->stats_reply->n_stats++;
	assert_int_equal(decode(s, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "1025 statistics: at most 1024"));

	p->pools_reply->pools = old_pools;
	p->pools_reply->n_pools = 2;
	s->stats_reply->stats = old_stats;
	s->stats_reply->n_stats = 2;
	ferryi_envelope_free(&p);
	ferryi_envelope_free(&s);
}

static void set_heir_secret(Farferry__Envelope *e, size_t len)
{
	e->attach->heir_secret = (ProtobufCBinaryData){.len = len, .data = calloc(1, len)};
}

static void notices__fields__checked(void **state)
{
	(void)state;
	REFUSED(REVOKED, "lease_id", e->revoked->lease_id = 0);
	REFUSED(REVOKED, "reason", ferryt_set_text(&e->revoked->reason, long_text));
	REFUSED(DRAIN, "reason", ferryt_set_text(&e->drain->reason, "a\r"));
	REFUSED(DRAIN, "deadline_ms", e->drain->deadline_ms = UINT32_MAX);
	ACCEPTED(DRAIN, e->drain->deadline_ms = 0);
	REFUSED(DRAIN_REQUEST, "deadline_ms", e->drain_request->deadline_ms = UINT32_MAX);
	ACCEPTED(DRAIN_REQUEST, e->drain_request->deadline_ms = 0);
	REFUSED(FAILED, "lease_id", e->failed->lease_id = 0);
	REFUSED(FAILED, "extent_id", e->failed->extent_id = 0);
	REFUSED(FAILED, "0 bytes at 8192", e->failed->len_bytes = 0);
	REFUSED(FAILED, "whole pages", e->failed->len_bytes = 4095);
	REFUSED(FAILED, "whole pages", e->failed->off = 100);
	REFUSED(FAILED, "whole pages", e->failed->len_bytes = UINT64_MAX - 4095);
	REFUSED(FAILED, "whole pages", e->failed->off = 128 * MIB);
	ACCEPTED(FAILED, e->failed->off = 0; e->failed->len_bytes = 128 * MIB);
	REFUSED(INJECT, "lease_id", e->inject->lease_id = 0);
	REFUSED(INJECT, "epoch", e->inject->epoch = 0);
	REFUSED(INJECT, "extent_id", e->inject->extent_id = 0);
	REFUSED(INJECT, "whole pages", e->inject->off = 4097);
	REFUSED(INJECT, "whole pages", e->inject->off = UINT64_MAX - 4095);
	REFUSED(HEIR, "secret is 0 bytes", e->heir->secret.len = 0);
	REFUSED(HEIR, "secret is 15 bytes", e->heir->secret.len = 15);
	REFUSED(CLAIM, "secret is 15 bytes", e->claim->secret.len = 15);
	REFUSED(CLAIM, "fabric is empty", ferryt_set_text(&e->claim->fabric, ""));
	REFUSED(ATTACH, "heir_secret is 15 bytes", set_heir_secret(e, 15));
	REFUSED(ATTACH, "with a name has no heir",
		(ferryt_set_text(&e->attach->name, "job"), set_heir_secret(e, 16)));
	ACCEPTED(ATTACH, set_heir_secret(e, 16));
	ACCEPTED(LEASE_REPLY, e->lease_reply->takes_heir = true);
	REFUSED(LEASE_REPLY, "takes_heir of a lease with a name",
		(ferryt_set_text(&e->lease_reply->name, "job"), e->lease_reply->takes_heir = true));
}

/* ---- views ---- */

static void exports__names_perms_and_numbers__checked(void **state)
{
	(void)state;
	REFUSED(EXPORT_REQUEST, "export_id", e->export_request->export_id = 0);
	REFUSED(EXPORT_REQUEST, "name", ferryt_set_text(&e->export_request->name, ""));
	REFUSED(EXPORT_REQUEST, "name", ferryt_set_text(&e->export_request->name, "a/b"));
	REFUSED(EXPORT_REQUEST, "name", ferryt_set_text(&e->export_request->name, "a:b"));
	REFUSED(EXPORT_REQUEST, "name", ferryt_set_text(&e->export_request->name, name64));
	ACCEPTED(EXPORT_REQUEST, ferryt_set_text(&e->export_request->name, name64 + 1));
	REFUSED(EXPORT_REQUEST, "perms", e->export_request->perms = 0);
	REFUSED(EXPORT_REQUEST, "perms", e->export_request->perms = 4);
	REFUSED(UNEXPORT, "export_id", e->unexport->export_id = 0);
	REFUSED(VIEW_OPEN, "name", ferryt_set_text(&e->view_open->name, "a;b"));
	REFUSED(VIEW_OPEN, "name", ferryt_set_text(&e->view_open->name, ""));
	REFUSED(VIEW_REPLY, "view_id", e->view_reply->view_id = 0);
	REFUSED(VIEW_REPLY, "perms", e->view_reply->perms = 8);
	REFUSED(VIEW_CLOSE, "view_id", e->view_close->view_id = 0);
}

static void view_access__lengths_and_addresses__checked(void **state)
{
	(void)state;
	REFUSED(VIEW_ACCESS, "view_id", e->view_access->view_id = 0);
	REFUSED(VIEW_ACCESS, "len_bytes", e->view_access->len_bytes = 0);
	REFUSED(VIEW_ACCESS, "len_bytes", e->view_access->len_bytes = FERRYI_MAX_ACCESS + 1);
	REFUSED(VIEW_ACCESS, "wraps", e->view_access->va = UINT64_MAX - 8);
	REFUSED(VIEW_ACCESS, "data", e->view_access->len_bytes++);
	REFUSED(VIEW_ACCESS, "places", e->view_access->places = true);
	REFUSED(VIEW_ACCESS, "timeout_ms", e->view_access->timeout_ms = 0);
	REFUSED(VIEW_ACCESS, "timeout_ms", e->view_access->timeout_ms = UINT32_MAX);
	ACCEPTED(VIEW_ACCESS, ferryt_set_len(&e->view_access->data, 0); e->view_access->places = true);
	ACCEPTED(VIEW_ACCESS, ferryt_set_len(&e->view_access->data, FERRYI_MAX_ACCESS);
		 e->view_access->len_bytes = FERRYI_MAX_ACCESS);
	REFUSED(ACCESS, "access_id", e->access->access_id = 0);
	REFUSED(ACCESS, "export_id", e->access->export_id = 0);
	REFUSED(ACCESS, "len_bytes", e->access->access->len_bytes = 0);
	REFUSED(ACCESS, "missing", farferry__view_access_request__free_unpacked(e->access->access, NULL);
		e->access->access = NULL);
}

static void view_access_reply__pages_and_data__checked(void **state)
{
	(void)state;
	REFUSED(VIEW_ACCESS_REPLY, "off", e->view_access_reply->pages[0]->off = 4095);
	REFUSED(VIEW_ACCESS_REPLY, "off", e->view_access_reply->pages[0]->off = UINT64_MAX - 4095);
	REFUSED(VIEW_ACCESS_REPLY, "no extent", e->view_access_reply->pages[1]->hash = 1);
	REFUSED(VIEW_ACCESS_REPLY, "no extent", e->view_access_reply->pages[1]->off = 4096);
	REFUSED(VIEW_ACCESS_REPLY, "data",
		ferryt_set_len(&e->view_access_reply->data, FERRYI_MAX_ACCESS + 1));
	REFUSED(VIEW_ACCESS_REPLY, "counts", e->view_access_reply->pages_home = 18);
	REFUSED(ACCESS_ANSWER, "access_id", e->access_answer->access_id = 0);
	REFUSED(ACCESS_ANSWER, "off", e->access_answer->reply->pages[0]->off = 1);
	REFUSED(ACCESS_ANSWER, "either",
		farferry__view_access_reply__free_unpacked(e->access_answer->reply, NULL);
		e->access_answer->reply = NULL);

	Farferry__ViewPage page = FARFERRY__VIEW_PAGE__INIT, *pages[FERRYI_MAX_ACCESS_PAGES + 1];
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY);
	Farferry__ViewPage **old = e->view_access_reply->pages;
	char why[256] = "";

	for (size_t i = 0; i <= FERRYI_MAX_ACCESS_PAGES; i++)
		pages[i] = &page;
	e->view_access_reply->pages = pages;
	e->view_access_reply->n_pages = FERRYI_MAX_ACCESS_PAGES;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	e->view_access_reply->n_pages++;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "18 pages: at most 17"));
	e->view_access_reply->pages = old;
	e->view_access_reply->n_pages = 2;
	ferryi_envelope_free(&e);
}

static void access_answer__error__checked(void **state)
{
	Farferry__Error error = FARFERRY__ERROR__INIT;
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER);
	Farferry__ViewAccessReply *reply = e->access_answer->reply;
	char why[256] = "";

	(void)state;
	error.text = "not mapped";
	e->access_answer->error = &error;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL); /* both */
	e->access_answer->reply = NULL;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL); /* no code */
	error.code = FARFERRY__CODE__CODE_FAULT;
	assert_int_equal(decode(e, why, sizeof(why)), 0);
	error.text = long_text;
	assert_int_equal(decode(e, why, sizeof(why)), -EINVAL);
	e->access_answer->error = NULL;
	e->access_answer->reply = reply;
	ferryi_envelope_free(&e);
}

static void view_extent__fields__checked(void **state)
{
	(void)state;
	REFUSED(VIEW_EXTENT, "view_id", e->view_extent->view_id = 0);
	REFUSED(VIEW_EXTENT, "extent_id", e->view_extent->extent_id = 0);
	REFUSED(VIEW_EXTENT_REPLY, "fabric", ferryt_set_text(&e->view_extent_reply->fabric, ""));
	REFUSED(VIEW_EXTENT_REPLY, "fabric_addr", ferryt_set_text(&e->view_extent_reply->fabric_addr, ""));
	REFUSED(VIEW_EXTENT_REPLY, "fabric_addr",
		ferryt_set_text(&e->view_extent_reply->fabric_addr, long_text));
	REFUSED(VIEW_EXTENT_REPLY, "data_token", ferryt_set_len(&e->view_extent_reply->data_token, 31));
	REFUSED(VIEW_EXTENT_REPLY, "len_bytes", e->view_extent_reply->len_bytes = 0);
	REFUSED(VIEW_EXTENT_REPLY, "len_bytes", e->view_extent_reply->len_bytes = MIB);
	REFUSED(VIEW_EXTENT_REPLY, "addr", e->view_extent_reply->locations[0]->addr = UINT64_MAX);
	REFUSED(VIEW_EXTENT_REPLY, "server_id",
		ferryt_set_text(&e->view_extent_reply->locations[0]->server_id, "x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(request_id__wrong_for_the_kind__refused),
		cmocka_unit_test(error__fields__checked),
		cmocka_unit_test(hello__fields__checked),
		cmocka_unit_test(hello_reply__fields__checked),
		cmocka_unit_test(pools_reply__quotas__checked),
		cmocka_unit_test(auth__fields__checked),
		cmocka_unit_test(auth_reply__fields__checked),
		cmocka_unit_test(auth_reply__number_of_fabrics__checked),
		cmocka_unit_test(pools_reply__fields__checked),
		cmocka_unit_test(attach__fields__checked),
		cmocka_unit_test(lease_reply__fields__checked),
		cmocka_unit_test(lease_reply__extents__checked),
		cmocka_unit_test(lease_reply__number_of_extents_and_locations__checked),
		cmocka_unit_test(grow__fields__checked),
		cmocka_unit_test(shrink__fields__checked),
		cmocka_unit_test(shrink__too_many_extents__refused),
		cmocka_unit_test(detach__fields__checked),
		cmocka_unit_test(keepalive__fields__checked),
		cmocka_unit_test(stats_reply__fields__checked),
		cmocka_unit_test(lists__too_many_pools_and_statistics__refused),
		cmocka_unit_test(notices__fields__checked),
		cmocka_unit_test(exports__names_perms_and_numbers__checked),
		cmocka_unit_test(view_access__lengths_and_addresses__checked),
		cmocka_unit_test(view_access_reply__pages_and_data__checked),
		cmocka_unit_test(access_answer__error__checked),
		cmocka_unit_test(view_extent__fields__checked),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
