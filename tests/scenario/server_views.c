/*
 * Exported mirrors and views of them, by the bare protocol: what the server passes on to whom, what it
 * refuses, and what a view is lent of the pool. The exporter and the readers are this test's own connections.
 * Over tcp.
 */
#include "server_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "clock.h"

#define MIB	 ((uint64_t)1 << 20)
#define NAME	 "job-7.heat"
#define EXPORT	 5u  /* the exporter's number of it */
#define ACCESSES 16u /* views.h: FERRYI_VIEW_ACCESSES */
#define ASKED	 4u  /* views.h: FERRYI_VIEW_ASKED */
#define WORDS	 "0123456789abcdef"

static struct ferryt_server server;

static int setup(void **state)
{
	const char *args[] = {"--pool", "name=hot,size=16M", "--fabric", "tcp,local", "--timeout", "600s",
			      NULL};

	(void)state;
	ferryt_server_start(&server, args);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end(&server);
	return 0;
}

/* ---- requests ---- */

/* The code of the answer, OK if it has the body that is wanted; *out (may be NULL) gets it. */
static Farferry__Code call(struct ferryt_conn *conn, Farferry__Envelope *envelope,
			   Farferry__Envelope__BodyCase want, Farferry__Envelope **out)
{
	Farferry__Envelope *reply = ferryt_conn_call(conn, envelope);
	Farferry__Code code = FARFERRY__CODE__CODE_OK;

	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR)
		code = reply->error->code;
	else
		assert_int_equal(reply->body_case, want);
	if (out && code == FARFERRY__CODE__CODE_OK)
		*out = reply;
	else
		ferryi_envelope_free(&reply);
	return code;
}

static Farferry__Code publish(struct ferryt_conn *conn, uint64_t id, const char *name, uint32_t perms)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ExportRequest body = FARFERRY__EXPORT_REQUEST__INIT;

	body.export_id = id;
	body.name = (char *)name;
	body.perms = perms;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST;
	envelope.export_request = &body;
	return call(conn, &envelope, FARFERRY__ENVELOPE__BODY_DONE, NULL);
}

static Farferry__Code withdraw(struct ferryt_conn *conn, uint64_t id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__UnexportRequest body = FARFERRY__UNEXPORT_REQUEST__INIT;

	body.export_id = id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_UNEXPORT;
	envelope.unexport = &body;
	return call(conn, &envelope, FARFERRY__ENVELOPE__BODY_DONE, NULL);
}

static uint64_t view_open(struct ferryt_conn *conn)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply = NULL;
	Farferry__ViewOpenRequest body = FARFERRY__VIEW_OPEN_REQUEST__INIT;

	body.name = (char *)NAME;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_OPEN;
	envelope.view_open = &body;
	assert_int_equal(call(conn, &envelope, FARFERRY__ENVELOPE__BODY_VIEW_REPLY, &reply), 0);
	uint64_t id = reply->view_reply->view_id;

	ferryi_envelope_free(&reply);
	return id;
}

static Farferry__Code view_close(struct ferryt_conn *conn, uint64_t id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ViewCloseRequest body = FARFERRY__VIEW_CLOSE_REQUEST__INIT;

	body.view_id = id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_CLOSE;
	envelope.view_close = &body;
	return call(conn, &envelope, FARFERRY__ENVELOPE__BODY_DONE, NULL);
}

/* Sends an access of the words' length. */
static uint64_t ask(struct ferryt_conn *conn, uint64_t view_id, bool write)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ViewAccessRequest body = FARFERRY__VIEW_ACCESS_REQUEST__INIT;

	body.view_id = view_id;
	body.va = 0x7f0000001000;
	body.len_bytes = sizeof(WORDS) - 1;
	body.timeout_ms = 60000;
	if (write)
		body.data = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)WORDS, .len = body.len_bytes};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_ACCESS;
	envelope.view_access = &body;
	return ferryt_conn_send(conn, &envelope);
}

/* The exporter's: the next notice. Its number. */
static uint64_t take_access(struct ferryt_conn *conn)
{
	Farferry__Envelope *notice = ferryt_conn_recv(conn);

	assert_non_null(notice);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_ACCESS);
	assert_int_equal(notice->request_id, 0);
	assert_int_equal(notice->access->export_id, EXPORT);
	assert_int_equal(notice->access->access->va, 0x7f0000001000);
	assert_int_equal(notice->access->access->len_bytes, sizeof(WORDS) - 1);
	uint64_t id = notice->access->access_id;

	ferryi_envelope_free(&notice);
	return id;
}

static void answer(struct ferryt_conn *conn, uint64_t access_id, const char *words)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__AccessAnswer body = FARFERRY__ACCESS_ANSWER__INIT;
	Farferry__ViewAccessReply reply = FARFERRY__VIEW_ACCESS_REPLY__INIT;
	Farferry__ViewPage page = FARFERRY__VIEW_PAGE__INIT, *pages[1] = {&page};
	uint8_t *frame;
	size_t len;

	reply.n_pages = 1;
	reply.pages = pages;
	reply.data = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)words, .len = strlen(words)};
	body.access_id = access_id;
	body.reply = &reply;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER;
	envelope.access_answer = &body;
	assert_int_equal(ferryi_frame_encode(&envelope, &frame, &len), 0);
	ferryt_conn_raw(conn, frame, len);
	free(frame);
}

static void expect_words(struct ferryt_conn *conn, uint64_t request_id, const char *words)
{
	Farferry__Envelope *reply = ferryt_conn_recv(conn);

	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY);
	assert_int_equal(reply->request_id, request_id);
	assert_int_equal(reply->view_access_reply->data.len, strlen(words));
	assert_memory_equal(reply->view_access_reply->data.data, words, strlen(words));
	ferryi_envelope_free(&reply);
}

/* *as is filled like a lease of that one extent. */
static Farferry__Code lend(struct ferryt_conn *conn, uint64_t view_id, uint64_t extent_id,
			   struct ferryt_lease *as)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply = NULL;
	Farferry__ViewExtentRequest body = FARFERRY__VIEW_EXTENT_REQUEST__INIT;

	body.view_id = view_id;
	body.extent_id = extent_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_EXTENT;
	envelope.view_extent = &body;
	Farferry__Code code = call(conn, &envelope, FARFERRY__ENVELOPE__BODY_VIEW_EXTENT_REPLY, &reply);

	if (code != FARFERRY__CODE__CODE_OK)
		return code;
	const Farferry__ViewExtentReply *got = reply->view_extent_reply;

	*as = (struct ferryt_lease){.nextents = 1};
	snprintf(as->fabric, sizeof(as->fabric), "%s", got->fabric);
	snprintf(as->addr, sizeof(as->addr), "%s", got->fabric_addr);
	memcpy(as->token, got->data_token.data, sizeof(as->token));
	as->extents[0] = (struct ferryt_extent){.id = extent_id,
						.remote = {.key = got->locations[0]->key,
							   .addr = got->locations[0]->addr,
							   .len_bytes = got->len_bytes}};
	ferryi_envelope_free(&reply);
	return code;
}

/* ---- who gets what ---- */

static void access__of_two_readers__each_gets_its_own_answer(void **state)
{
	struct ferryt_conn exporter, one, two;

	(void)state;
	ferryt_conn_login(&exporter, &server);
	ferryt_conn_login(&one, &server);
	ferryt_conn_login(&two, &server);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ | FERRYI_PERM_WRITE), 0);
	uint64_t v1 = view_open(&one), v2 = view_open(&two);
	uint64_t r1 = ask(&one, v1, false), a1 = take_access(&exporter);
	uint64_t r2 = ask(&two, v2, true), a2 = take_access(&exporter);

	assert_true(v1 != v2 && a1 != a2);
	/* Numbers that are not its own, or none: nobody hears of it. */
	answer(&two, a1, "a stranger's....");
	assert_true(ferryt_keepalive(&two)); /* it has been taken */
	answer(&exporter, a2 + 1000, "nobody's........");
	answer(&exporter, a2, "two's...........");
	answer(&exporter, a1, "one's...........");
	answer(&exporter, a1, "again...........");
	expect_words(&one, r1, "one's...........");
	expect_words(&two, r2, "two's...........");
	assert_true(ferryt_keepalive(&one));
	assert_true(ferryt_keepalive(&exporter));
	assert_int_equal(ferryt_stat(&one, "c_view_accesses_total"), 2);
	ferryt_conn_close(&one);
	ferryt_conn_close(&two);
	ferryt_conn_close(&exporter);
}

static void view__of_another_session__is_refused(void **state)
{
	struct ferryt_conn exporter, reader, thief;
	struct ferryt_lease lease, got;

	(void)state;
	ferryt_conn_login(&exporter, &server);
	ferryt_conn_login(&reader, &server);
	ferryt_conn_login(&thief, &server);
	assert_int_equal(ferryt_attach(&exporter, "hot", "tcp", 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ), 0);
	uint64_t view = view_open(&reader);

	ask(&thief, view, false);
	ferryt_conn_expect_error(&thief, FARFERRY__CODE__CODE_NO_LEASE, "no such view");
	assert_int_equal(lend(&thief, view, lease.extents[0].id, &got), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(view_close(&thief, view), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(withdraw(&thief, EXPORT), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(publish(&thief, EXPORT, NAME, FERRYI_PERM_READ), FARFERRY__CODE__CODE_EXISTS);
	assert_int_equal(publish(&exporter, EXPORT, "another", FERRYI_PERM_READ),
			 FARFERRY__CODE__CODE_INVALID);
	ask(&reader, view, true);
	ferryt_conn_expect_error(&reader, FARFERRY__CODE__CODE_PERM, "not exported for writing");
	assert_int_equal(view_close(&reader, view), 0);
	ask(&reader, view, false);
	ferryt_conn_expect_error(&reader, FARFERRY__CODE__CODE_NO_LEASE, "no such view");
	assert_true(ferryt_keepalive(&exporter)); /* it has not been told of any of this */
	ferryt_conn_close(&thief);
	ferryt_conn_close(&reader);
	ferryt_conn_close(&exporter);
}

/* ---- limits and ends ---- */

static void accesses__more_than_the_limit__busy_until_answered(void **state)
{
	struct ferryt_conn exporter, reader[ACCESSES / ASKED], last;
	uint64_t ids[ACCESSES], request;

	(void)state;
	ferryt_conn_login(&exporter, &server);
	ferryt_conn_login(&last, &server);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ), 0);
	uint64_t view = view_open(&last);

	for (unsigned i = 0; i < ACCESSES / ASKED; i++) {
		ferryt_conn_login(&reader[i], &server);
		uint64_t its = view_open(&reader[i]);

		for (unsigned k = 0; k < ASKED; k++)
			ask(&reader[i], its, false);
		ask(&reader[i], its, false);
		ferryt_conn_expect_error(&reader[i], FARFERRY__CODE__CODE_BUSY, "this session");
	}
	ask(&last, view, false);
	ferryt_conn_expect_error(&last, FARFERRY__CODE__CODE_BUSY, "the exporter");
	for (unsigned i = 0; i < ACCESSES; i++)
		ids[i] = take_access(&exporter);
	/* A reader that goes does not free its own: the exporter has them still. */
	ferryt_conn_close(&reader[0]);
	assert_true(ferryt_keepalive(&last));
	ask(&last, view, false);
	ferryt_conn_expect_error(&last, FARFERRY__CODE__CODE_BUSY, "the exporter");
	for (unsigned i = 0; i < ACCESSES; i++)
		answer(&exporter, ids[i], WORDS);
	assert_true(ferryt_keepalive(&exporter));
	request = ask(&last, view, false);
	answer(&exporter, take_access(&exporter), WORDS);
	expect_words(&last, request, WORDS);
	for (unsigned i = 1; i < ACCESSES / ASKED; i++)
		ferryt_conn_close(&reader[i]);
	ferryt_conn_close(&last);
	ferryt_conn_close(&exporter);
}

static void exporter__ends_or_withdraws_in_mid_access__reader_is_told(void **state)
{
	struct ferryt_conn exporter, reader;

	(void)state;
	ferryt_conn_login(&reader, &server);
	for (unsigned round = 0; round < 2; round++) {
		ferryt_conn_login(&exporter, &server);
		assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ), 0);
		uint64_t view = view_open(&reader);

		ask(&reader, view, false);
		uint64_t access = take_access(&exporter);

		if (round == 0)
			assert_int_equal(withdraw(&exporter, EXPORT), 0);
		else
			ferryt_conn_close(&exporter);
		ferryt_conn_expect_error(&reader, FARFERRY__CODE__CODE_GONE, "exported no more");
		ask(&reader, view, false);
		ferryt_conn_expect_error(&reader, FARFERRY__CODE__CODE_GONE, "exported no more");
		if (round == 0) { /* too late, and no harm */
			answer(&exporter, access, WORDS);
			assert_true(ferryt_keepalive(&exporter));
			ferryt_conn_close(&exporter);
		}
		assert_int_equal(view_close(&reader, view), 0);
	}
	assert_int_equal(ferryt_stat(&reader, "g_exports"), 0);
	assert_int_equal(ferryt_stat(&reader, "g_views"), 0);
	ferryt_conn_close(&reader);
}

/* ---- what a view is lent of the pool ---- */

static bool can_move(struct ferryt_data *data, enum ferryi_op_kind kind, const struct ferryi_remote *remote)
{
	return !ferryi_channel_is_dead(data->channel) &&
	       ferryt_data_move(data, kind, remote, 4096, 4096) == 0;
}

static void extent__lent_to_a_view__read_only_and_taken_back(void **state)
{
	struct ferryt_conn exporter, reader, other;
	struct ferryt_lease lease, foreign, lent, no;
	struct ferryt_data own, data;

	(void)state;
	ferryt_conn_login(&exporter, &server);
	ferryt_conn_login(&reader, &server);
	ferryt_conn_login(&other, &server);
	assert_int_equal(ferryt_attach(&exporter, "hot", "tcp", 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_grow(&exporter, &lease, 2 * MIB, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&other, "hot", "tcp", 2 * MIB, &foreign, NULL, 0), 0);
	ferryt_data_open(&own, &server, &lease);
	ferryt_data_fill(&own, &lease, 7);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ), 0);
	uint64_t view = view_open(&reader);

	assert_int_equal(lend(&reader, view, foreign.extents[0].id, &no), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(lend(&reader, view, lease.extents[1].id, &lent), 0);
	assert_memory_not_equal(lent.token, lease.token, sizeof(lent.token));
	ferryt_data_open(&data, &server, &lent);
	assert_true(can_move(&data, FERRYI_OP_READ, &lent.extents[0].remote));
	assert_true(can_move(&own, FERRYI_OP_READ, &lease.extents[1].remote));
	assert_memory_equal(data.buffer, own.buffer, 4096);
	assert_true(own.buffer[0] || own.buffer[1]);

	/* Neither written, nor its neighbour read by the owner's key. */
	memset(data.buffer, 0xee, FERRYT_BUFFER_LEN);
	assert_int_not_equal(ferryt_data_move(&data, FERRYI_OP_WRITE, &lent.extents[0].remote, 0, 4096), 0);
	if (!ferryi_peer_import(data.peer, &lease.extents[0].remote, ferryi_deadline_ms(FERRYT_WAIT_MS)))
		assert_int_not_equal(
			ferryt_data_move(&data, FERRYI_OP_READ, &lease.extents[0].remote, 0, 4096), 0);
	ferryt_data_expect(&own, &lease, 7);
	ferryt_data_reconnect(&data);
	assert_true(can_move(&data, FERRYI_OP_READ, &lent.extents[0].remote));

	/* The owner gives the extent back, or withdraws the mirror: once that is answered, nothing can be
	 * read. */
	assert_int_equal(ferryt_shrink(&exporter, &lease, 1), 0);
	assert_false(can_move(&data, FERRYI_OP_READ, &lent.extents[0].remote));
	assert_int_equal(lend(&reader, view, lent.extents[0].id, &no), FARFERRY__CODE__CODE_NO_LEASE);
	ferryt_data_close(&data);
	assert_int_equal(lend(&reader, view, lease.extents[0].id, &lent), 0);
	ferryt_data_open(&data, &server, &lent);
	assert_true(can_move(&data, FERRYI_OP_READ, &lent.extents[0].remote));
	assert_int_equal(withdraw(&exporter, EXPORT), 0);
	assert_false(can_move(&data, FERRYI_OP_READ, &lent.extents[0].remote));
	assert_int_equal(lend(&reader, view, lease.extents[0].id, &no), FARFERRY__CODE__CODE_GONE);
	ferryt_data_close(&data);
	ferryt_data_close(&own);
	ferryt_conn_close(&other);
	ferryt_conn_close(&reader);
	ferryt_conn_close(&exporter);
}

static void extent__of_a_writers_view_or_of_memfds__is_not_lent(void **state)
{
	struct ferryt_conn exporter, reader;
	struct ferryt_lease lease, local, no;
	uint64_t view;

	(void)state;
	ferryt_conn_login(&exporter, &server);
	ferryt_conn_login(&reader, &server);
	assert_int_equal(ferryt_attach(&exporter, "hot", "tcp", 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&exporter, "hot", "local", 2 * MIB, &local, NULL, 0), 0);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_WRITE), 0);
	view = view_open(&reader);
	assert_int_equal(lend(&reader, view, lease.extents[0].id, &no), FARFERRY__CODE__CODE_PERM);
	assert_int_equal(withdraw(&exporter, EXPORT), 0);
	assert_int_equal(publish(&exporter, EXPORT, NAME, FERRYI_PERM_READ), 0);
	assert_int_equal(lend(&reader, view, lease.extents[0].id, &no), FARFERRY__CODE__CODE_GONE);
	view = view_open(&reader);
	assert_int_equal(lend(&reader, view, local.extents[0].id, &no), FARFERRY__CODE__CODE_FABRIC);
	assert_int_equal(lend(&reader, view, lease.extents[0].id, &no), 0);
	ferryt_conn_close(&reader);
	ferryt_conn_close(&exporter);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(access__of_two_readers__each_gets_its_own_answer),
		TEST(view__of_another_session__is_refused),
		TEST(accesses__more_than_the_limit__busy_until_answered),
		TEST(exporter__ends_or_withdraws_in_mid_access__reader_is_told),
		TEST(extent__lent_to_a_view__read_only_and_taken_back),
		TEST(extent__of_a_writers_view_or_of_memfds__is_not_lent),
	};

	ferryi_fabric_setup();
	return cmocka_run_group_tests_name("server_views", tests, NULL, NULL);
}
