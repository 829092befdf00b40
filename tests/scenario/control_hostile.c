/*
 * The client's control plane against servers that lie, stop, garble and hang
 * up, played by control_peer.c in this process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control_client.h"
#include "control_peer.h"

static void client_open(struct ferryt_client *client, const struct ferryt_peer *peer, uint64_t connect_ms,
			uint64_t request_ms)
{
	assert_int_equal(ferryt_client_open(client, peer->token, connect_ms, request_ms), 0);
}

static int open_session(struct ferryt_client *client, const struct ferryt_peer *peer,
			struct ferryi_session **session)
{
	return ferryt_client_session(client, peer->url, session);
}

/* Opening fails with this code, and the line is one line. */
static void expect_refused(struct ferryt_terms terms, ferryt_script script, int err)
{
	struct ferryt_peer peer = {.terms = terms};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;

	ferryt_peer_start(&peer, script, NULL);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	assert_int_equal(open_session(&client, &peer, &session), err);
	assert_null(session);
	assert_true(strlen(ferryi_control_last_error()) > 10);
	assert_null(strchr(ferryi_control_last_error(), '\n'));
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
	assert_int_equal(client.states.count, 0); /* a session that never was is no news */
}

/* ---- during the handshake ---- */

static void say_garbage(struct ferryt_peer *peer, void *ctx)
{
	(void)ctx;
	ferryt_peer_raw(peer, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	ferryt_peer_idle(peer, false);
}

static void session_open__garbage__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, say_garbage, -EPROTO);
}

static void say_huge(struct ferryt_peer *peer, void *ctx)
{
	static const uint8_t head[] = {'F', 'F', 'R', 'Y', 0x7f, 0xff, 0xff, 0xff};

	(void)ctx;
	ferryt_peer_raw(peer, head, sizeof(head));
	ferryt_peer_idle(peer, false);
}

static void session_open__huge_frame__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, say_huge, -EPROTO);
}

static void say_half(struct ferryt_peer *peer, void *ctx)
{
	static const uint8_t half[] = {'F', 'F', 'R', 'Y', 0, 0, 0, 40, 1, 2, 3};

	(void)ctx;
	ferryt_peer_raw(peer, half, sizeof(half));
}

static void session_open__truncated_frame__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, say_half, -EPROTO);
}

static void say_invalid(struct ferryt_peer *peer, void *ctx)
{
	static const uint8_t invalid[] = {'F', 'F', 'R', 'Y', 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff};

	(void)ctx;
	ferryt_peer_raw(peer, invalid, sizeof(invalid));
	ferryt_peer_idle(peer, false);
}

static void session_open__invalid_payload__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, say_invalid, -EPROTO);
}

static void hang_up(struct ferryt_peer *peer, void *ctx)
{
	(void)peer;
	(void)ctx;
}

static void session_open__closed_at_once__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, hang_up, -EPROTO);
}

static void answer_other_request(struct ferryt_peer *peer, void *ctx)
{
	uint64_t id;

	(void)ctx;
	if (ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_HELLO, &id))
		ferryt_peer_error(peer, id + 5, FARFERRY__CODE__CODE_INTERNAL, "to nobody");
	ferryt_peer_idle(peer, false);
}

static void session_open__wrong_request_id__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, answer_other_request, -EPROTO);
}

static void answer_other_body(struct ferryt_peer *peer, void *ctx)
{
	uint64_t id;

	(void)ctx;
	if (ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_HELLO, &id))
		ferryt_peer_done(peer, id);
	ferryt_peer_idle(peer, false);
}

static void session_open__wrong_body__protocol_error(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, answer_other_body, -EPROTO);
}

static void welcome(struct ferryt_peer *peer, void *ctx)
{
	(void)ctx;
	if (ferryt_peer_welcome(peer))
		ferryt_peer_idle(peer, true);
}

static void session_open__server_cannot_prove_token__refused(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){.wrong_mac = true}, welcome, -EACCES);
}

static void session_open__server_wants_no_token_but_one_is_named__refused(void **state)
{
	(void)state;
	/* Else whoever answers first gets the pages. */
	expect_refused((struct ferryt_terms){.no_auth = true, .wrong_mac = true}, welcome, -EACCES);
}

static void session_open__newer_version__not_supported(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){.version = 99}, welcome, -EPROTONOSUPPORT);
}

static void refuse_version(struct ferryt_peer *peer, void *ctx)
{
	uint64_t id;

	(void)ctx;
	if (ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_HELLO, &id))
		ferryt_peer_error(peer, id, FARFERRY__CODE__CODE_VERSION, "versions 7 to 9 are spoken here");
}

static void session_open__version_refused__not_supported(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, refuse_version, -EPROTONOSUPPORT);
}

static void refuse_all(struct ferryt_peer *peer, void *ctx)
{
	uint64_t id;

	(void)ctx;
	if (ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_HELLO, &id))
		ferryt_peer_error(peer, 0, FARFERRY__CODE__CODE_LIMIT,
				  "too many sessions: raise --max-sessions");
}

static void session_open__error_notice__code_and_sentence_kept(void **state)
{
	(void)state;
	expect_refused((struct ferryt_terms){0}, refuse_all, -EDQUOT);
	assert_non_null(strstr(ferryi_control_last_error(), "raise --max-sessions"));
}

static void keep_silent(struct ferryt_peer *peer, void *ctx)
{
	(void)ctx;
	ferryt_peer_idle(peer, false);
}

static void session_open__silent_server__times_out(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;

	(void)state;
	ferryt_peer_start(&peer, keep_silent, NULL);
	client_open(&client, &peer, 200, FERRYT_WAIT_MS);
	uint64_t start = ferryi_now_ns();

	assert_int_equal(open_session(&client, &peer, &session), -ETIMEDOUT);
	assert_true(ferryi_now_ns() - start >= 200 * FERRYI_NS_PER_MS);
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
}

static void session_open__nothing_listens__refused_at_once(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;

	(void)state;
	ferryt_peer_start(&peer, keep_silent, NULL);
	ferryt_peer_stop(&peer); /* a port that is free now */
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	assert_int_equal(open_session(&client, &peer, &session), -ECONNREFUSED);
	assert_non_null(strstr(ferryi_control_last_error(), "start ferryd"));
	ferryi_control_close(&client.control);
}

static void session_open__bad_url__invalid(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;

	(void)state;
	client_open(&client, &peer, 1000, 1000);
	assert_int_equal(ferryi_session_open(client.control, "http://localhost", &session), -EINVAL);
	assert_int_equal(ferryi_session_open(client.control, "ferry://host:99999", &session), -EINVAL);
	assert_string_not_equal(ferryi_control_last_error(), "");
	ferryi_control_close(&client.control);
}

static void session_open__name_unknown__unreachable_or_out_of_time(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;

	(void)state;
	client_open(&client, &peer, 1000, 1000);
	int rc = ferryi_session_open(client.control, "ferry://nobody.invalid:7470", &session);

	/* Without a name service the resolver itself may take longer than the deadline. */
	assert_true(rc == -EHOSTUNREACH || rc == -ETIMEDOUT);
	assert_non_null(strstr(ferryi_control_last_error(), "nobody.invalid"));
	ferryi_control_close(&client.control);
}

static void session_open__name__resolved(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session = NULL;
	struct ferryt_client client;
	char url[64];

	(void)state;
	ferryt_peer_start(&peer, welcome, NULL);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	/* May resolve to ::1 first, where nobody listens. */
	snprintf(url, sizeof(url), "ferry://localhost:%s", strrchr(peer.url, ':') + 1);
	assert_int_equal(ferryi_session_open(client.control, url, &session), 0);
	ferryi_session_close(&session);
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
}

/* ---- a session that ends ---- */

/* Opens a session that the script then breaks, and waits for the news. */
static void expect_lost(struct ferryt_terms terms, ferryt_script script, enum ferryi_lost_reason reason)
{
	struct ferryt_peer peer = {.terms = terms};
	struct ferryi_session *session;
	struct ferryi_pool_info pool;
	struct ferryt_gate go;
	struct ferryt_client client;

	ferryt_gate_init(&go);
	ferryt_peer_start(&peer, script, &go);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	assert_int_equal(open_session(&client, &peer, &session), 0);
	assert_int_equal(ferryi_session_state(session), FERRYI_SESSION_LIVE);
	assert_int_equal(ferryi_session_lost_reason(session), FERRYI_LOST_NONE);
	ferryt_gate_open(&go);
	assert_true(ferryt_gate_wait(&client.states, 1));
	assert_int_equal(client.last_state, FERRYI_SESSION_LOST);
	assert_int_equal(ferryi_session_state(session), FERRYI_SESSION_LOST);
	assert_int_equal(ferryi_session_lost_reason(session), reason);
	assert_int_equal(ferryi_session_pools(session, &pool, 1), -ENOTCONN);
	print_message("    %s\n", ferryi_control_last_error());
	ferryi_session_close(&session);
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
	assert_int_equal(client.states.count, 1);
}

static void welcome_then_close(struct ferryt_peer *peer, void *ctx)
{
	if (ferryt_peer_welcome(peer))
		ferryt_gate_wait(ctx, 1);
}

static void session__server_closes__lost_closed(void **state)
{
	(void)state;
	expect_lost((struct ferryt_terms){0}, welcome_then_close, FERRYI_LOST_CLOSED);
}

static void welcome_then_garbage(struct ferryt_peer *peer, void *ctx)
{
	if (!ferryt_peer_welcome(peer))
		return;
	ferryt_gate_wait(ctx, 1);
	ferryt_peer_raw(peer, "garbage!garbage!", 16);
	ferryt_peer_idle(peer, true);
}

static void session__garbage__lost_protocol(void **state)
{
	(void)state;
	expect_lost((struct ferryt_terms){0}, welcome_then_garbage, FERRYI_LOST_PROTOCOL);
}

static void welcome_then_unasked(struct ferryt_peer *peer, void *ctx)
{
	if (!ferryt_peer_welcome(peer))
		return;
	ferryt_gate_wait(ctx, 1);
	ferryt_peer_done(peer, 12345);
	ferryt_peer_idle(peer, true);
}

static void session__reply_to_nothing__lost_protocol(void **state)
{
	(void)state;
	expect_lost((struct ferryt_terms){0}, welcome_then_unasked, FERRYI_LOST_PROTOCOL);
}

static void welcome_then_silence(struct ferryt_peer *peer, void *ctx)
{
	(void)ctx;
	if (ferryt_peer_welcome(peer))
		ferryt_peer_idle(peer, false);
}

static void session__no_keepalive_reply__lost_keepalive(void **state)
{
	uint64_t start = ferryi_now_ns();

	(void)state;
	expect_lost((struct ferryt_terms){.keepalive_ms = 700, .timeout_ms = 2000}, welcome_then_silence,
		    FERRYI_LOST_KEEPALIVE);
	assert_true(ferryi_now_ns() - start >= 2000 * FERRYI_NS_PER_MS);
}

static void count_keepalives(struct ferryt_peer *peer, void *ctx)
{
	if (!ferryt_peer_welcome(peer))
		return;
	for (;;) {
		Farferry__Envelope *envelope = ferryt_peer_recv(peer);

		if (envelope == NULL)
			return;
		if (envelope->body_case == FARFERRY__ENVELOPE__BODY_KEEPALIVE) {
			ferryt_peer_send(peer, envelope);
			ferryt_gate_open(ctx);
		}
		ferryi_envelope_free(&envelope);
	}
}

static void session__keepalives_answered__stays_live(void **state)
{
	struct ferryt_peer peer = {.terms = {.keepalive_ms = 100, .timeout_ms = 3000}};
	struct ferryi_session *session;
	struct ferryt_gate seen;
	struct ferryt_client client;

	(void)state;
	ferryt_gate_init(&seen);
	ferryt_peer_start(&peer, count_keepalives, &seen);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	assert_int_equal(open_session(&client, &peer, &session), 0);
	assert_true(ferryt_gate_wait(&seen, 35)); /* longer than the timeout */
	assert_int_equal(ferryi_session_state(session), FERRYI_SESSION_LIVE);
	ferryi_session_close(&session);
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
	assert_int_equal(client.states.count, 0); /* closing one's own session is no news */
}

static void on_state__closes_session__allowed(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session;
	struct ferryt_gate go;
	struct ferryt_client client;

	(void)state;
	ferryt_gate_init(&go);
	ferryt_peer_start(&peer, welcome_then_garbage, &go);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	atomic_store(&client.close_in_callback, true);
	assert_int_equal(open_session(&client, &peer, &session), 0);
	ferryt_gate_open(&go);
	assert_true(ferryt_gate_wait(&client.states, 1));
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
}

static void control_close__sessions_open__closes_them(void **state)
{
	struct ferryt_peer peers[2] = {{.fd = -1}, {.fd = -1}};
	struct ferryi_session *session;
	struct ferryt_client client;

	(void)state;
	for (int i = 0; i < 2; i++)
		ferryt_peer_start(&peers[i], welcome, NULL);
	client_open(&client, &peers[0], FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	for (int i = 0; i < 2; i++)
		assert_int_equal(open_session(&client, &peers[i], &session), 0);
	ferryi_control_close(&client.control);
	assert_null(client.control);
	for (int i = 0; i < 2; i++)
		ferryt_peer_stop(&peers[i]);
	assert_int_equal(client.states.count, 0);
}

static void welcome_until_gone(struct ferryt_peer *peer, void *ctx)
{
	if (ferryt_peer_welcome(peer))
		ferryt_peer_idle(peer, true);
	ferryt_gate_open(ctx);
}

static void session__forked_child_lives_on__connection_still_ends(void **state)
{
	struct ferryt_peer peer = {0};
	struct ferryi_session *session;
	struct ferryt_gate gone;
	struct ferryt_client client;
	int hold[2], status;
	char byte;

	(void)state;
	ferryt_gate_init(&gone);
	ferryt_peer_start(&peer, welcome_until_gone, &gone);
	client_open(&client, &peer, FERRYT_WAIT_MS, FERRYT_WAIT_MS);
	assert_int_equal(open_session(&client, &peer, &session), 0);
	assert_int_equal(pipe(hold), 0);
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		close(hold[1]);
		_exit(read(hold[0], &byte, 1) == 0 ? 0 : 1); /* until the test lets go */
	}
	close(hold[0]);
	ferryi_session_close(&session);
	assert_true(ferryt_gate_wait(&gone, 1));
	close(hold[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	ferryi_control_close(&client.control);
	ferryt_peer_stop(&peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(session_open__garbage__protocol_error),
		cmocka_unit_test(session_open__huge_frame__protocol_error),
		cmocka_unit_test(session_open__truncated_frame__protocol_error),
		cmocka_unit_test(session_open__invalid_payload__protocol_error),
		cmocka_unit_test(session_open__closed_at_once__protocol_error),
		cmocka_unit_test(session_open__wrong_request_id__protocol_error),
		cmocka_unit_test(session_open__wrong_body__protocol_error),
		cmocka_unit_test(session_open__server_cannot_prove_token__refused),
		cmocka_unit_test(session_open__server_wants_no_token_but_one_is_named__refused),
		cmocka_unit_test(session_open__newer_version__not_supported),
		cmocka_unit_test(session_open__version_refused__not_supported),
		cmocka_unit_test(session_open__error_notice__code_and_sentence_kept),
		cmocka_unit_test(session_open__silent_server__times_out),
		cmocka_unit_test(session_open__nothing_listens__refused_at_once),
		cmocka_unit_test(session_open__bad_url__invalid),
		cmocka_unit_test(session_open__name_unknown__unreachable_or_out_of_time),
		cmocka_unit_test(session_open__name__resolved),
		cmocka_unit_test(session__server_closes__lost_closed),
		cmocka_unit_test(session__garbage__lost_protocol),
		cmocka_unit_test(session__reply_to_nothing__lost_protocol),
		cmocka_unit_test(session__no_keepalive_reply__lost_keepalive),
		cmocka_unit_test(session__keepalives_answered__stays_live),
		cmocka_unit_test(session__forked_child_lives_on__connection_still_ends),
		cmocka_unit_test(on_state__closes_session__allowed),
		cmocka_unit_test(control_close__sessions_open__closes_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
