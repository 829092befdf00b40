/* The control protocol of a real ferryd: who gets in, what is refused, when a session ends. */
#include "server_kit.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"

#define MIB ((uint64_t)1 << 20)

static struct ferryt_server server;

static void start(const char *const *args)
{
	ferryt_server_start(&server, args);
}

static const char *const plain[] = {
	"--pool",   "name=hot,size=16M", "--pool",	"name=cold,size=4M,reserve=no",
	"--fabric", "tcp,local",	 "--log-level", "info",
	NULL};

static int setup(void **state)
{
	(void)state;
	start(plain);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end(&server);
	return 0;
}

/* The server still serves others. */
static void expect_serving(void)
{
	struct ferryt_conn conn;

	ferryt_conn_login(&conn, &server);
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
}

/* ---- getting in ---- */

static void handshake__right_token__gives_session(void **state)
{
	struct ferryt_conn a, b;

	(void)state;
	ferryt_conn_login(&a, &server);
	ferryt_conn_login(&b, &server);
	assert_int_equal(a.keepalive_ms, 2000);
	assert_int_equal(a.timeout_ms, FERRYT_TIMEOUT_MS);
	assert_true(b.epoch > a.epoch);
	assert_true(b.session_id != a.session_id);
	assert_true(ferryt_keepalive(&a));
	assert_true(ferryt_keepalive(&b));
	ferryt_conn_close(&a);
	ferryt_conn_close(&b);
}

static void handshake__wrong_token__is_refused(void **state)
{
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	Farferry__Envelope *reply;
	struct ferryt_conn conn;

	(void)state;
	memcpy(token, server.token, sizeof(token));
	token[31] ^= 1;
	ferryt_conn_open(&conn, &server);
	reply = ferryt_conn_auth(&conn, token);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_AUTH);
	assert_non_null(strstr(reply->error->text, "wrong token"));
	ferryi_envelope_free(&reply);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	expect_serving();
}

static void handshake__other_version__is_refused(void **state)
{
	Farferry__Envelope *reply;
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_open(&conn, &server);
	reply = ferryt_conn_hello(&conn, 7, 9);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_VERSION);
	assert_non_null(strstr(reply->error->text, "7 to 9"));
	ferryi_envelope_free(&reply);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static void handshake__newer_client__negotiates(void **state)
{
	Farferry__Envelope *reply;
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_open(&conn, &server);
	reply = ferryt_conn_hello(&conn, 1, 9);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_HELLO_REPLY);
	assert_int_equal(reply->hello_reply->version, FERRYI_PROTO_VERSION_MAX);
	ferryi_envelope_free(&reply);
	ferryt_conn_close(&conn);
}

static void request__before_authentication__is_refused(void **state)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__PoolsRequest pools = FARFERRY__POOLS_REQUEST__INIT;
	Farferry__Envelope *reply;
	struct ferryt_conn conn;

	(void)state;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &pools;
	ferryt_conn_open(&conn, &server);
	ferryt_conn_send(&conn, &envelope);
	ferryt_conn_expect_error(&conn, FARFERRY__CODE__CODE_AUTH, "before authentication");
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);

	/* Nor between hello and auth. */
	ferryt_conn_open(&conn, &server);
	reply = ferryt_conn_hello(&conn, 1, 1);
	ferryi_envelope_free(&reply);
	ferryt_conn_send(&conn, &envelope);
	ferryt_conn_expect_error(&conn, FARFERRY__CODE__CODE_AUTH, "before authentication");
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static void hello__sent_twice__ends_session(void **state)
{
	Farferry__Envelope *reply;
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_login(&conn, &server);
	reply = ferryt_conn_hello(&conn, 1, 1);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	ferryi_envelope_free(&reply);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static void handshake__not_finished_in_time__is_closed(void **state)
{
	const char *const args[] = {
		"--pool", "name=hot,size=2M", "--fabric", "local", "--handshake-timeout", "50ms", NULL};
	struct ferryt_conn conn;

	(void)state;
	start(args);
	ferryt_conn_open(&conn, &server);
	ferryt_conn_expect_error(&conn, FARFERRY__CODE__CODE_AUTH, "not authenticated within 50 ms");
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static void strangers__more_than_the_limit__wait_their_turn(void **state)
{
	const char *const args[] = {
		"--pool", "name=hot,size=2M",	   "--fabric", "local", "--handshake-timeout",
		"2s",	  "--max-unauthenticated", "8",	       NULL};
	struct ferryt_conn strangers[8], conn;

	(void)state;
	start(args);
	for (size_t i = 0; i < 8; i++)
		ferryt_conn_open(&strangers[i], &server);
	/* Behind them in the queue, and served once they have timed out. */
	ferryt_conn_login(&conn, &server);
	assert_true(ferryt_keepalive(&conn));
	for (size_t i = 0; i < 8; i++)
		ferryt_conn_close(&strangers[i]);
	ferryt_conn_close(&conn);
}

static void sessions__more_than_the_limit__are_refused(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=2M", "--fabric", "local", "--max-sessions", "2",
				    NULL};
	struct ferryt_conn a, b, c;
	Farferry__Envelope *reply;
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	bool in = false;

	(void)state;
	start(args);
	ferryt_conn_login(&a, &server);
	ferryt_conn_login(&b, &server);
	ferryt_conn_open(&c, &server);
	reply = ferryt_conn_auth(&c, server.token);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_LIMIT);
	ferryi_envelope_free(&reply);
	ferryt_conn_close(&c);
	ferryt_conn_close(&a);
	/* Its place is free as soon as the server has seen it go. */
	while (!in && ferryi_remaining_ms(deadline)) {
		ferryt_conn_open(&c, &server);
		reply = ferryt_conn_auth(&c, server.token);
		in = reply && reply->body_case == FARFERRY__ENVELOPE__BODY_AUTH_REPLY;
		ferryi_envelope_free(&reply);
		ferryt_conn_close(&c);
	}
	assert_true(in);
	ferryt_conn_close(&b);
}

static void no_auth__any_token__gets_in(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=2M", "--fabric", "local", "--no-auth", NULL};
	Farferry__Envelope *reply;
	struct ferryt_conn conn;
	uint8_t any[FERRYI_AUTH_TOKEN_LEN];

	(void)state;
	start(args);
	memset(any, 0x77, sizeof(any));
	ferryt_conn_open(&conn, &server);
	reply = ferryt_conn_auth(&conn, any);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	ferryi_envelope_free(&reply);
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
}

/* ---- bytes that are no request ---- */

static void expect_protocol_error(const void *bytes, size_t len, const char *text)
{
	struct ferryt_conn conn;

	ferryt_conn_open(&conn, &server);
	ferryt_conn_raw(&conn, bytes, len);
	ferryt_conn_expect_error(&conn, FARFERRY__CODE__CODE_INVALID, text);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	expect_serving();
}

static void input__garbage__is_refused(void **state)
{
	char bytes[100000];

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	expect_protocol_error("GET / HTTP/1.1\r\n\r\n", 18, "no frame");
	expect_protocol_error(bytes, sizeof(bytes), "no frame");
	expect_protocol_error("FFRY\0\0\0\4abcd", 12, "envelope");
	expect_protocol_error("FFRY\0\0\0\0", 8, "no frame");
}

static void input__frame_too_long__is_refused(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	expect_protocol_error("FFRY\0\0\x20\0", 8, "too long before authentication: at most 4096");
	expect_protocol_error("FFRY\x7f\0\0\0", 8, "too long: at most 1048576");

	ferryt_conn_login(&conn, &server);
	ferryt_conn_raw(&conn, "FFRY\0\x10\0\1", 8);
	ferryt_conn_expect_error(&conn, FARFERRY__CODE__CODE_INVALID, "too long: at most 1048576");
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static void input__truncated_then_closed__is_forgotten(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	for (size_t len = 1; len < 12; len++) {
		ferryt_conn_open(&conn, &server);
		ferryt_conn_raw(&conn, "FFRY\0\0\0\x20zzzz", len);
		ferryt_conn_close(&conn);
	}
	expect_serving();
}

static void input__one_byte_at_a_time__is_understood(void **state)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__StatsRequest stats = FARFERRY__STATS_REQUEST__INIT;
	struct ferryt_conn conn;
	uint8_t *frame;
	size_t len;

	(void)state;
	ferryt_conn_login(&conn, &server);
	envelope.request_id = 77;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_STATS;
	envelope.stats = &stats;
	assert_int_equal(ferryi_frame_encode(&envelope, &frame, &len), 0);
	for (size_t i = 0; i < len; i++)
		ferryt_conn_raw(&conn, frame + i, 1);
	free(frame);
	reply = ferryt_conn_recv(&conn);
	assert_non_null(reply);
	assert_int_equal(reply->request_id, 77);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_STATS_REPLY);
	ferryi_envelope_free(&reply);
	ferryt_conn_close(&conn);
}

static void request__bad_field__loses_that_request_only(void **state)
{
	struct ferryt_lease lease, other;
	struct ferryt_conn conn;
	char text[256];

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 3 * MIB, &other, text, sizeof(text)),
			 FARFERRY__CODE__CODE_INVALID);
	assert_non_null(strstr(text, "2 MiB"));
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	ferryt_conn_close(&conn);
}

/* ---- leases ---- */

static void attach__unknown_pool_or_fabric__is_refused(void **state)
{
	struct ferryt_lease lease;
	struct ferryt_conn conn;
	char text[256];

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "warm", "tcp", 2 * MIB, &lease, text, sizeof(text)),
			 FARFERRY__CODE__CODE_NO_POOL);
	assert_non_null(strstr(text, "hot, cold"));
	assert_int_equal(ferryt_attach(&conn, "hot", "rdm", 2 * MIB, &lease, text, sizeof(text)),
			 FARFERRY__CODE__CODE_FABRIC);
	assert_non_null(strstr(text, "tcp, local"));
	ferryt_conn_close(&conn);
}

static void attach__more_than_free__tells_what_is_free(void **state)
{
	struct ferryt_lease lease, other;
	struct ferryt_conn conn;
	char text[256];

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 10 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(lease.pool_size, 16 * MIB);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 8 * MIB, &other, text, sizeof(text)),
			 FARFERRY__CODE__CODE_FULL);
	assert_non_null(strstr(text, "6291456 bytes are free"));
	assert_int_equal(ferryt_grow(&conn, &lease, 8 * MIB, text, sizeof(text)), FARFERRY__CODE__CODE_FULL);
	/* All or nothing: what is free can still be had. */
	assert_int_equal(ferryt_grow(&conn, &lease, 6 * MIB, text, sizeof(text)), 0);
	assert_int_equal(ferryt_stat(&conn, "g_leased_bytes"), 16 * MIB);
	assert_int_equal(ferryt_stat(&conn, "c_grants_refused_total"), 2);
	ferryt_conn_close(&conn);
}

static void lease__empty__grows_later(void **state)
{
	struct ferryt_lease lease;
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "local", 0, &lease, NULL, 0), 0);
	assert_int_equal(lease.nextents, 0);
	assert_int_equal(ferryt_grow(&conn, &lease, 2 * MIB, NULL, 0), 0);
	assert_int_equal(lease.nextents, 1);
	ferryt_conn_close(&conn);
}

static void lease__wrong_id_or_epoch__is_refused(void **state)
{
	struct ferryt_lease lease, wrong;
	struct ferryt_conn conn, other;

	(void)state;
	ferryt_conn_login(&conn, &server);
	ferryt_conn_login(&other, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 2 * MIB, &lease, NULL, 0), 0);
	wrong = lease;
	wrong.epoch++;
	assert_int_equal(ferryt_grow(&conn, &wrong, 2 * MIB, NULL, 0), FARFERRY__CODE__CODE_EPOCH);
	assert_int_equal(ferryt_detach(&conn, wrong.id, wrong.epoch), FARFERRY__CODE__CODE_EPOCH);
	wrong = lease;
	wrong.id += 1000;
	assert_int_equal(ferryt_grow(&conn, &wrong, 2 * MIB, NULL, 0), FARFERRY__CODE__CODE_NO_LEASE);
	wrong = lease;
	wrong.extents[0].id += 1000;
	assert_int_equal(ferryt_shrink(&conn, &wrong, 0), FARFERRY__CODE__CODE_NO_LEASE);
	/* Another session's lease is no lease of this one. */
	assert_int_equal(ferryt_detach(&other, lease.id, other.epoch), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), FARFERRY__CODE__CODE_NO_LEASE);
	ferryt_conn_close(&conn);
	ferryt_conn_close(&other);
}

static void lease__given_back__is_free_again(void **state)
{
	struct ferryt_lease lease;
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_login(&conn, &server);
	/* Each takes all there is, so each must find the last one's memory zeroed and free: the server waits
	 * for it. */
	for (int i = 0; i < 20; i++) {
		assert_int_equal(
			ferryt_attach(&conn, "hot", i % 2 ? "tcp" : "local", 16 * MIB, &lease, NULL, 0), 0);
		assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	}
	assert_true(ferryt_wait_free(&conn, 16 * MIB));
	assert_int_equal(ferryt_stat(&conn, "c_scrubbed_bytes_total"), 20 * 16 * MIB);
	assert_int_equal(ferryt_stat(&conn, "g_leases"), 0);
	assert_int_equal(ferryt_stat(&conn, "g_extents"), 0);
	assert_true(ferryt_stat(&conn, "tcp.c_registrations_total") >= 10);
	ferryt_conn_close(&conn);
}

static void leases__more_than_the_limit__are_refused(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=16M", "--fabric", "tcp", "--max-leases",
				    "2",      "--max-extents",	   "2",	       NULL};
	struct ferryt_lease a, b, c;
	struct ferryt_conn conn;
	char text[256];

	(void)state;
	start(args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 2 * MIB, &a, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 2 * MIB, &b, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&conn, "", "tcp", 2 * MIB, &c, text, sizeof(text)),
			 FARFERRY__CODE__CODE_LIMIT);
	assert_non_null(strstr(text, "--max-leases"));
	assert_int_equal(ferryt_grow(&conn, &a, 2 * MIB, text, sizeof(text)), FARFERRY__CODE__CODE_LIMIT);
	ferryt_conn_close(&conn);
}

/* ---- how sessions end ---- */

static void session__silent__is_revoked(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=16M", "--fabric", "tcp,local", "--keepalive",
				    "500ms",  "--timeout",	   "2s",       NULL};
	struct ferryt_conn conn, watcher;
	struct ferryt_lease lease;
	Farferry__Envelope *notice;

	(void)state;
	start(args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	notice = ferryt_conn_recv(&conn);
	assert_non_null(notice);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_REVOKED);
	assert_int_equal(notice->revoked->lease_id, lease.id);
	assert_non_null(strstr(notice->revoked->reason, "keep-alive"));
	ferryi_envelope_free(&notice);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	/* Asking keeps this one alive meanwhile. */
	ferryt_conn_login(&watcher, &server);
	assert_true(ferryt_wait_free(&watcher, 16 * MIB));
	assert_int_equal(ferryt_stat(&watcher, "c_keepalives_missed_total"), 1);
	ferryt_conn_close(&watcher);
}

static void session__connection_closed__is_revoked_at_once(void **state)
{
	struct ferryt_conn conn, watcher;
	struct ferryt_lease lease;

	(void)state;
	ferryt_conn_login(&watcher, &server);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	assert_true(ferryt_wait_free(&watcher, 12 * MIB));
	ferryt_conn_close(&conn);
	assert_true(ferryt_wait_free(&watcher, 16 * MIB));
	assert_int_equal(ferryt_stat(&watcher, "c_keepalives_missed_total"), 0);
	ferryt_conn_close(&watcher);
}

static void session__replies_not_read__is_cut_off(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=2M", "--fabric", "local", "--max-output", "2M",
				    NULL};
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__StatsRequest stats = FARFERRY__STATS_REQUEST__INIT;
	struct ferryt_conn conn, watcher;
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	(void)state;
	start(args);
	ferryt_conn_login(&conn, &server);
	ferryt_conn_login(&watcher, &server);
	envelope.body_case = FARFERRY__ENVELOPE__BODY_STATS;
	envelope.stats = &stats;
	/* Each asks for a few KiB and reads none of it. */
	while (ferryt_stat(&watcher, "c_slow_readers_total") == 0 && ferryi_remaining_ms(deadline)) {
		for (int i = 0; i < 100; i++)
			ferryt_conn_send(&conn, &envelope);
	}
	assert_int_equal(ferryt_stat(&watcher, "c_slow_readers_total"), 1);
	ferryt_conn_close(&conn);
	ferryt_conn_close(&watcher);
}

/* ---- how the server ends ---- */

static void sigterm__no_lease__exits_0(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_login(&conn, &server);
	kill(server.pid, SIGTERM);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	assert_int_equal(ferryt_server_wait(&server), 0);
}

static void sigterm__leases_held__waits_for_them(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease, other;
	Farferry__Envelope *notice;
	char text[256];

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	kill(server.pid, SIGTERM);
	notice = ferryt_conn_recv(&conn);
	assert_non_null(notice);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_DRAIN);
	assert_true(notice->drain->deadline_ms > 0);
	ferryi_envelope_free(&notice);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 2 * MIB, &other, text, sizeof(text)),
			 FARFERRY__CODE__CODE_DRAINING);
	assert_int_equal(ferryt_grow(&conn, &lease, 2 * MIB, text, sizeof(text)),
			 FARFERRY__CODE__CODE_DRAINING);
	assert_true(ferryt_keepalive(&conn));
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	assert_int_equal(ferryt_server_wait(&server), 0);
}

/* The answer to a request to drain within a minute: its body. */
static Farferry__Envelope *ask_to_drain(struct ferryt_conn *conn)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__DrainRequest body = FARFERRY__DRAIN_REQUEST__INIT;

	body.deadline_ms = 60000;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DRAIN_REQUEST;
	envelope.drain_request = &body;
	return ferryt_conn_call(conn, &envelope);
}

static void drain_request__by_one_who_knows_the_token__as_sigterm(void **state)
{
	struct ferryt_conn conn, asker;
	struct ferryt_lease lease;
	Farferry__Envelope *message;

	(void)state;
	ferryt_conn_login(&conn, &server);
	ferryt_conn_login(&asker, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	message = ask_to_drain(&asker);
	assert_non_null(message);
	assert_int_equal(message->body_case, FARFERRY__ENVELOPE__BODY_DONE);
	ferryi_envelope_free(&message);
	message = ferryt_conn_recv(&conn);
	assert_non_null(message);
	assert_int_equal(message->body_case, FARFERRY__ENVELOPE__BODY_DRAIN);
	assert_in_range(message->drain->deadline_ms, 30001, 60000); /* what was asked for, not what it is set up for */
	ferryi_envelope_free(&message);
	assert_true(ferryt_keepalive(&conn));
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	ferryt_conn_close(&asker);
	assert_int_equal(ferryt_server_wait(&server), 0);
}

static void drain_request__by_anybody__refused(void **state)
{
	const char *const args[] = {"--pool", "name=hot,size=2M", "--fabric", "local", "--no-auth", NULL};
	struct ferryt_conn conn;
	Farferry__Envelope *message;
	uint8_t any[FERRYI_AUTH_TOKEN_LEN] = {0};

	(void)state;
	start(args);
	ferryt_conn_open(&conn, &server);
	message = ferryt_conn_auth(&conn, any);
	assert_non_null(message);
	ferryi_envelope_free(&message);
	message = ask_to_drain(&conn);
	assert_non_null(message);
	assert_int_equal(message->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(message->error->code, FARFERRY__CODE__CODE_PERM);
	assert_non_null(strstr(message->error->text, "may not drain"));
	ferryi_envelope_free(&message);
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
}

static void sigterm__leases_kept__revokes_them_at_the_limit(void **state)
{
	const char *const args[] = {
		"--pool", "name=hot,size=16M", "--fabric", "tcp", "--drain-timeout", "100ms", NULL};
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	Farferry__Envelope *notice;

	(void)state;
	start(args);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	kill(server.pid, SIGTERM);
	notice = ferryt_conn_recv(&conn);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_DRAIN);
	ferryi_envelope_free(&notice);
	notice = ferryt_conn_recv(&conn);
	assert_non_null(notice);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_REVOKED);
	assert_int_equal(notice->revoked->lease_id, lease.id);
	ferryi_envelope_free(&notice);
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
	assert_int_equal(ferryt_server_wait(&server), 0);
}

static void sigterm__second_one__stops_at_once(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	int status;

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	kill(server.pid, SIGTERM);
	assert_true(ferryt_server_says(&server, "draining"));
	kill(server.pid, SIGTERM);
	status = ferryt_server_wait(&server);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	ferryt_conn_close(&conn);
}

static void sighup__log_level__is_reloaded(void **state)
{
	(void)state;
	kill(server.pid, SIGHUP);
	assert_true(ferryt_server_says(&server, "need a restart"));
	expect_serving();
}

static void lifeline__other_end_closed__exits(void **state)
{
	int status;

	(void)state;
	close(server.lifeline_fd);
	server.lifeline_fd = -1;
	status = ferryt_server_wait(&server);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define ON_PLAIN(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define ON_OWN(test)   cmocka_unit_test_teardown(test, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_PLAIN(handshake__right_token__gives_session),
		ON_PLAIN(handshake__wrong_token__is_refused),
		ON_PLAIN(handshake__other_version__is_refused),
		ON_PLAIN(handshake__newer_client__negotiates),
		ON_PLAIN(request__before_authentication__is_refused),
		ON_PLAIN(hello__sent_twice__ends_session),
		ON_OWN(handshake__not_finished_in_time__is_closed),
		ON_OWN(strangers__more_than_the_limit__wait_their_turn),
		ON_OWN(sessions__more_than_the_limit__are_refused),
		ON_OWN(no_auth__any_token__gets_in),
		ON_PLAIN(input__garbage__is_refused),
		ON_PLAIN(input__frame_too_long__is_refused),
		ON_PLAIN(input__truncated_then_closed__is_forgotten),
		ON_PLAIN(input__one_byte_at_a_time__is_understood),
		ON_PLAIN(request__bad_field__loses_that_request_only),
		ON_PLAIN(attach__unknown_pool_or_fabric__is_refused),
		ON_PLAIN(attach__more_than_free__tells_what_is_free),
		ON_PLAIN(lease__empty__grows_later),
		ON_PLAIN(lease__wrong_id_or_epoch__is_refused),
		ON_PLAIN(lease__given_back__is_free_again),
		ON_OWN(leases__more_than_the_limit__are_refused),
		ON_OWN(session__silent__is_revoked),
		ON_PLAIN(session__connection_closed__is_revoked_at_once),
		ON_OWN(session__replies_not_read__is_cut_off),
		ON_PLAIN(sigterm__no_lease__exits_0),
		ON_PLAIN(sigterm__leases_held__waits_for_them),
		ON_PLAIN(drain_request__by_one_who_knows_the_token__as_sigterm),
		ON_OWN(drain_request__by_anybody__refused),
		ON_OWN(sigterm__leases_kept__revokes_them_at_the_limit),
		ON_PLAIN(sigterm__second_one__stops_at_once),
		ON_PLAIN(sighup__log_level__is_reloaded),
		ON_PLAIN(lifeline__other_end_closed__exits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
