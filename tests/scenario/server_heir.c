/*
 * Leases that another session inherits: who may, once, and what becomes of the
 * memory when nobody does.
 */
#include "server_kit.h"

#include <stdio.h>
#include <string.h>

#define MIB    ((uint64_t)1 << 20)
#define POOL   (32 * MIB)
#define SIZE   (8 * MIB)
#define SECRET "0123456789abcdef"

static const struct {
	const char *pool, *fabric;
} rows[] = {
	{"name=hot,size=32M,backing=memfd", "local"},
	{"name=hot,size=32M,backing=memfd", "tcp"},
	{"name=hot,size=32M,backing=anon", "tcp"},
};
#define NROWS (sizeof(rows) / sizeof(rows[0]))

static struct ferryt_server server;
static struct ferryt_conn parent, heir, other;
static struct ferryt_lease lease;
static struct ferryt_data data;

static ProtobufCBinaryData bytes(const char *secret)
{
	return (ProtobufCBinaryData){.len = strlen(secret), .data = (uint8_t *)(uintptr_t)secret};
}

static void take(struct ferryt_lease *to, const Farferry__LeaseReply *reply)
{
	*to = (struct ferryt_lease){
		.id = reply->lease_id, .epoch = reply->epoch, .pool_size = reply->pool_size_bytes};
	snprintf(to->fabric, sizeof(to->fabric), "%s", reply->fabric);
	snprintf(to->addr, sizeof(to->addr), "%s", reply->fabric_addr);
	memcpy(to->token, reply->data_token.data, sizeof(to->token));
	for (size_t i = 0; i < reply->n_extents && i < FERRYT_EXTENTS_MAX; i++)
		to->extents[to->nextents++] =
			(struct ferryt_extent){.id = reply->extents[i]->id,
					       .pool_off = reply->extents[i]->pool_off,
					       .remote = {.key = reply->extents[i]->locations[0]->key,
							  .addr = reply->extents[i]->locations[0]->addr,
							  .len_bytes = reply->extents[i]->len_bytes}};
}

/* The code of the answer; of a lease_reply, the lease too. */
static Farferry__Code call(struct ferryt_conn *conn, Farferry__Envelope *envelope, struct ferryt_lease *to,
			   bool *takes_heir)
{
	Farferry__Envelope *reply = ferryt_conn_call(conn, envelope);
	Farferry__Code code = FARFERRY__CODE__CODE_OK;

	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR) {
		code = reply->error->code;
	} else if (reply->body_case == FARFERRY__ENVELOPE__BODY_LEASE_REPLY) {
		take(to, reply->lease_reply);
		if (takes_heir)
			*takes_heir = reply->lease_reply->takes_heir;
	}
	ferryi_envelope_free(&reply);
	return code;
}

static bool attach(struct ferryt_conn *conn, const char *fabric, uint64_t size, const char *secret)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__AttachRequest body = FARFERRY__ATTACH_REQUEST__INIT;
	bool takes_heir = false;

	body.pool = "hot";
	body.fabric = (char *)fabric;
	body.size_bytes = size;
	body.heir_secret = bytes(secret);
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ATTACH;
	envelope.attach = &body;
	assert_int_equal(call(conn, &envelope, &lease, &takes_heir), 0);
	return takes_heir;
}

static Farferry__Code heir_request(struct ferryt_conn *conn, const char *secret, bool renounce)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__HeirRequest body = FARFERRY__HEIR_REQUEST__INIT;

	body.secret = bytes(secret);
	body.renounce = renounce;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HEIR;
	envelope.heir = &body;
	return call(conn, &envelope, NULL, NULL);
}

static Farferry__Code stand_by(struct ferryt_conn *conn, const char *secret)
{
	return heir_request(conn, secret, false);
}

static Farferry__Code claim_once(struct ferryt_conn *conn, const char *fabric, const char *secret,
				 struct ferryt_lease *to)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ClaimRequest body = FARFERRY__CLAIM_REQUEST__INIT;

	body.secret = bytes(secret);
	body.fabric = (char *)fabric;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_CLAIM;
	envelope.claim = &body;
	return call(conn, &envelope, to, NULL);
}

/* As an heir does: until the server has ended the other session. Each answer is a wait. */
static Farferry__Code claim(struct ferryt_conn *conn, const char *fabric, struct ferryt_lease *to)
{
	Farferry__Code code;

	while ((code = claim_once(conn, fabric, SECRET, to)) == FARFERRY__CODE__CODE_BUSY)
		;
	return code;
}

static void start(const char *pool, const char *keep, bool may_inject)
{
	const char *const args[] = {"--pool",
				    pool,
				    "--fabric",
				    "local,tcp",
				    "--timeout",
				    "600s",
				    "--keep",
				    keep,
				    "--log-level",
				    "info",
				    may_inject ? "--inject-failures" : NULL,
				    NULL};

	ferryt_server_start(&server, args);
	ferryt_conn_login(&parent, &server);
	ferryt_conn_login(&heir, &server);
	ferryt_conn_login(&other, &server);
}

static void end(void)
{
	ferryt_conn_close(&other);
	ferryt_server_end(&server);
}

/* A lease full of data. */
static void fill(const char *fabric)
{
	assert_true(attach(&parent, fabric, SIZE, SECRET));
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 7);
	ferryt_data_close(&data);
}

/* All of the pool is free, and zero. */
static void expect_zeroed(const char *fabric)
{
	struct ferryt_lease whole;

	assert_true(ferryt_wait_free(&other, POOL));
	assert_int_equal(ferryt_attach(&other, "hot", fabric, POOL, &whole, NULL, 0), 0);
	ferryt_data_open(&data, &server, &whole);
	ferryt_data_expect_zero(&data, &whole);
	ferryt_data_close(&data);
	assert_int_equal(ferryt_detach(&other, whole.id, whole.epoch), 0);
}

static void heir__holder_lost__has_it_to_read_until_it_ends(void **state)
{
	struct ferryt_lease got;

	(void)state;
	for (unsigned i = 0; i < NROWS; i++) {
		start(rows[i].pool, "10s", false);
		fill(rows[i].fabric);
		assert_int_equal(stand_by(&heir, SECRET), 0);
		ferryt_conn_close(&parent);
		assert_int_equal(claim(&heir, rows[i].fabric, &got), 0);
		ferryt_data_open(&data, &server, &got);
		ferryt_data_expect(&data, &got, 7);
		assert_int_not_equal(
			ferryt_data_move(&data, FERRYI_OP_WRITE, &got.extents[0].remote, 0, 4096), 0);
		ferryt_data_reconnect(&data);
		ferryt_data_expect(&data, &got, 7);
		ferryt_data_close(&data);
		assert_int_equal(ferryt_stat(&other, "g_kept_bytes"), 0);
		ferryt_conn_close(&heir);
		expect_zeroed(rows[i].fabric);
		end();
	}
}

static void heir__wrong_one__refused(void **state)
{
	struct ferryt_lease got;

	(void)state;
	start(rows[1].pool, "10s", false);
	fill("tcp");
	assert_int_equal(stand_by(&other, "0123456789abcdeF"), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(claim_once(&other, "tcp", SECRET, &got), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(stand_by(&heir, SECRET), 0);
	/* Also who knows the secret: there is one heir. */
	assert_int_equal(stand_by(&other, SECRET), FARFERRY__CODE__CODE_BUSY);
	assert_int_equal(stand_by(&heir, SECRET), FARFERRY__CODE__CODE_BUSY);
	assert_int_equal(claim_once(&heir, "tcp", SECRET, &got), FARFERRY__CODE__CODE_BUSY);
	ferryt_conn_close(&parent);
	assert_int_equal(claim_once(&other, "tcp", SECRET, &got), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(claim(&heir, "tcp", &got), 0);
	assert_int_equal(claim_once(&heir, "tcp", SECRET, &got), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(claim_once(&other, "tcp", SECRET, &got), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(stand_by(&other, SECRET), FARFERRY__CODE__CODE_NO_LEASE);
	ferryt_conn_close(&heir);
	expect_zeroed("tcp");
	end();
}

static void heir__secret_in_use__lease_has_none(void **state)
{
	struct ferryt_lease first;

	(void)state;
	start(rows[0].pool, "10s", false);
	fill("local");
	first = lease;
	assert_false(attach(&other, "local", 2 * MIB, SECRET));
	assert_int_equal(ferryt_detach(&other, lease.id, lease.epoch), 0);
	assert_int_equal(ferryt_detach(&parent, first.id, first.epoch), 0);
	assert_true(attach(&other, "local", 2 * MIB, SECRET)); /* free again */
	ferryt_conn_close(&parent);
	ferryt_conn_close(&heir);
	end();
}

static void heir__none_stands_by__free_at_once(void **state)
{
	(void)state;
	start(rows[0].pool, "3600s", false);
	fill("local");
	ferryt_conn_close(&parent);
	expect_zeroed("local");
	ferryt_conn_close(&heir);
	end();
}

static void heir__renounced__free_at_once_and_another_may(void **state)
{
	(void)state;
	start(rows[0].pool, "3600s", false);
	fill("local");
	assert_int_equal(heir_request(&heir, SECRET, true), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(stand_by(&heir, SECRET), 0);
	assert_int_equal(heir_request(&other, SECRET, true), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(heir_request(&heir, SECRET, true), 0);
	assert_int_equal(stand_by(&other, SECRET), 0);
	assert_int_equal(heir_request(&other, SECRET, true), 0);
	ferryt_conn_close(&parent);
	expect_zeroed("local");
	ferryt_conn_close(&heir);
	end();
}

static void heir__does_not_come__free_when_time_is_up(void **state)
{
	struct ferryt_lease got;

	(void)state;
	for (unsigned i = 0; i < NROWS; i++) {
		start(rows[i].pool, "200ms", false);
		fill(rows[i].fabric);
		assert_int_equal(stand_by(&heir, SECRET), 0);
		ferryt_conn_close(&parent);
		expect_zeroed(rows[i].fabric);
		assert_int_equal(claim_once(&heir, rows[i].fabric, SECRET, &got),
				 FARFERRY__CODE__CODE_NO_LEASE);
		ferryt_conn_close(&heir);
		end();
	}
}

static void heir__ends_before_or_after__free_at_once(void **state)
{
	(void)state;
	start(rows[1].pool, "3600s", false);
	fill("tcp");
	assert_int_equal(stand_by(&heir, SECRET), 0);
	ferryt_conn_close(&heir);
	/* Once the server has seen it, another one may. */
	while (stand_by(&other, SECRET) == FARFERRY__CODE__CODE_BUSY)
		;
	ferryt_conn_close(&parent);
	assert_true(ferryt_server_says(&server, "waits for its heir"));
	ferryt_conn_close(&other);
	ferryt_conn_login(&other, &server);
	expect_zeroed("tcp");
	end();
}

static void heir__lease_given_back__nothing_to_claim(void **state)
{
	struct ferryt_lease got;

	(void)state;
	start(rows[0].pool, "3600s", false);
	fill("local");
	assert_int_equal(stand_by(&heir, SECRET), 0);
	assert_int_equal(ferryt_detach(&parent, lease.id, lease.epoch), 0);
	assert_int_equal(claim_once(&heir, "local", SECRET, &got), FARFERRY__CODE__CODE_NO_LEASE);
	expect_zeroed("local");
	ferryt_conn_close(&parent);
	ferryt_conn_close(&heir);
	end();
}

static void heir__memory_failed__does_not_get_it(void **state)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__InjectRequest inject = FARFERRY__INJECT_REQUEST__INIT;
	struct ferryt_lease got;

	(void)state;
	start(rows[1].pool, "10s", true);
	fill("tcp");
	assert_int_equal(ferryt_grow(&parent, &lease, 2 * MIB, NULL, 0), 0);
	unsigned nextents = lease.nextents;

	inject.lease_id = lease.id;
	inject.epoch = lease.epoch;
	inject.extent_id = lease.extents[nextents - 1].id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_INJECT;
	envelope.inject = &inject;
	reply = ferryt_conn_call(&parent, &envelope);
	assert_non_null(reply);
	ferryi_envelope_free(&reply);
	reply = ferryt_conn_recv(&parent); /* the notice: it is known by now */
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_FAILED);
	ferryi_envelope_free(&reply);
	assert_int_equal(stand_by(&heir, SECRET), 0);
	ferryt_conn_close(&parent);
	assert_int_equal(claim(&heir, "tcp", &got), 0);
	assert_int_equal(got.nextents, nextents - 1);
	for (unsigned i = 0; i < got.nextents; i++)
		assert_int_not_equal(got.extents[i].pool_off, lease.extents[nextents - 1].pool_off);
	ferryt_conn_close(&heir);
	expect_zeroed("tcp");
	end();
}

static void heir__server_keeps_nothing__there_is_none(void **state)
{
	(void)state;
	start(rows[0].pool, "0", false);
	assert_false(attach(&parent, "local", SIZE, SECRET));
	assert_int_equal(stand_by(&heir, SECRET), FARFERRY__CODE__CODE_NO_LEASE);
	ferryt_conn_close(&parent);
	ferryt_conn_close(&heir);
	end();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heir__holder_lost__has_it_to_read_until_it_ends),
		cmocka_unit_test(heir__wrong_one__refused),
		cmocka_unit_test(heir__secret_in_use__lease_has_none),
		cmocka_unit_test(heir__none_stands_by__free_at_once),
		cmocka_unit_test(heir__renounced__free_at_once_and_another_may),
		cmocka_unit_test(heir__does_not_come__free_when_time_is_up),
		cmocka_unit_test(heir__ends_before_or_after__free_at_once),
		cmocka_unit_test(heir__lease_given_back__nothing_to_claim),
		cmocka_unit_test(heir__memory_failed__does_not_get_it),
		cmocka_unit_test(heir__server_keeps_nothing__there_is_none),
	};

	ferryi_fabric_setup();
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
