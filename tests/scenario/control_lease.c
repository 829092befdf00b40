/*
 * Leases of a server that revokes, drains, grants nonsense or grants too late,
 * played by control_peer.c in this process over the local fabric.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control_client.h"
#include "control_peer.h"

#define MIB (1u << 20)

/* The script of one lease: grants, then what the step says, once the gate opens. */
struct lease_script {
	struct ferryt_gate go;	 /* opened by the test */
	struct ferryt_gate back; /* opened by the script: the lease, or part of it, was given back */
	uint64_t grant_len;
	uint64_t key_error;
	bool wait_before_grant;
	void (*then)(struct ferryt_peer *peer);
};

static void serve_lease(struct ferryt_peer *peer, void *ctx)
{
	struct lease_script *script = ctx;
	Farferry__Envelope *envelope;
	uint64_t id;

	if (!ferryt_peer_welcome(peer) || !ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_ATTACH, &id))
		return;
	if (script->wait_before_grant)
		ferryt_gate_wait(&script->go, 1);
	ferryt_peer_grant(peer, id, script->grant_len, script->key_error);
	if (script->then != NULL) {
		ferryt_gate_wait(&script->go, 1);
		script->then(peer);
	}
	while ((envelope = ferryt_peer_next(peer)) != NULL) {
		if (envelope->body_case == FARFERRY__ENVELOPE__BODY_DETACH ||
		    envelope->body_case == FARFERRY__ENVELOPE__BODY_SHRINK) {
			ferryt_peer_done(peer, envelope->request_id);
			ferryt_gate_open(&script->back);
		} else if (envelope->body_case == FARFERRY__ENVELOPE__BODY_GROW) {
			ferryt_peer_grant(peer, envelope->request_id, script->grant_len, 99);
		}
		ferryi_envelope_free(&envelope);
	}
}

struct lease_case {
	struct ferryt_peer peer;
	struct ferryt_client client;
	struct lease_script script;
	struct ferryi_session *session;
	struct ferryi_lease *lease;
};

static void lease_setup(struct lease_case *c, uint64_t request_ms)
{
	ferryt_gate_init(&c->script.go);
	ferryt_gate_init(&c->script.back);
	ferryt_peer_lend(&c->peer, "local", 4 * MIB);
	ferryt_peer_start(&c->peer, serve_lease, &c->script);
	assert_int_equal(ferryt_client_open(&c->client, c->peer.token, FERRYT_WAIT_MS, request_ms), 0);
	assert_int_equal(ferryt_client_session(&c->client, c->peer.url, &c->session), 0);
}

static void lease_teardown(struct lease_case *c)
{
	ferryi_session_close(&c->session);
	ferryi_control_close(&c->client.control);
	ferryt_peer_stop(&c->peer);
}

static void revoke_lease(struct ferryt_peer *peer)
{
	ferryt_peer_revoke(peer, 7);
}

static void lease__revoked__session_lost_and_data_fails(void **state)
{
	struct lease_case c = {.script = {.grant_len = 4 * MIB, .then = revoke_lease}};
	struct ferryi_channel *channel;
	static uint8_t buf[4096];

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 4 * MIB, &c.lease), 0);
	atomic_store(&c.client.lease, c.lease);
	assert_int_equal(ferryi_lease_extent_count(c.lease), 1);
	assert_int_equal(ferryt_client_channel(c.lease, buf, sizeof(buf), &channel), 0);
	struct ferryi_op op = {.kind = FERRYI_OP_WRITE,
			       .local = buf,
			       .len_bytes = sizeof(buf),
			       .remote = ferryi_lease_extent(c.lease, 0)->remote,
			       .remote_off = MIB};

	memset(buf, 0xa5, sizeof(buf));
	assert_int_equal(ferryt_client_op(channel, &op), 0);
	assert_int_equal(c.peer.memory[MIB + 17], 0xa5);
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.client.states, 1));
	assert_true(c.client.peer_failed_first);
	assert_int_equal(ferryi_session_lost_reason(c.session), FERRYI_LOST_REVOKED);
	assert_int_equal(ferryt_client_op(channel, &op), -ENOTCONN);
	ferryi_channel_close(&channel);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

/* Notices of this lease and of others, once before the client has heard of it; a drain notice, which is read
 * last. */
static void fail_pages(struct ferryt_peer *peer)
{
	ferryt_peer_failed(peer, 7, 1, 8192);
	ferryt_peer_failed(peer, 12345, 1, 0);
	ferryt_peer_failed(peer, 7, 2, 0); /* an extent that is not there yet */
	ferryt_peer_failed(peer, 7, 1, 4096);
	ferryt_peer_drain(peer);
}

struct heard {
	unsigned n;
	uint64_t offs[8];
};

static void on_heard(void *ctx, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes)
{
	struct heard *heard = ctx;

	assert_int_equal(extent_index, 0);
	assert_int_equal(len_bytes, 4096);
	assert_true(heard->n < 8);
	heard->offs[heard->n++] = off_bytes;
}

static void lease__pages_failed__receiver_hears_of_each_once(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB, .then = fail_pages}};
	struct heard heard = {0};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), 0);
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.client.states, 1));
	assert_int_equal(ferryi_session_state(c.session), FERRYI_SESSION_DRAINING);
	/* They came before anybody asked. */
	ferryi_lease_on_failure(c.lease, on_heard, &heard);
	assert_int_equal(heard.n, 2);
	assert_int_equal(heard.offs[0], 8192);
	assert_int_equal(heard.offs[1], 4096);
	ferryi_lease_on_failure(c.lease, on_heard, &heard);
	assert_int_equal(heard.n, 2);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

static void fail_too_many(struct ferryt_peer *peer)
{
	for (unsigned i = 0; i < 1000; i++)
		ferryt_peer_failed(peer, 7, 2, 0);
}

static void lease__more_failures_than_can_be_kept__session_lost(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB, .then = fail_too_many}};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), 0);
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.client.states, 1));
	assert_int_equal(ferryi_session_lost_reason(c.session), FERRYI_LOST_REVOKED);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

static void revoke_other(struct ferryt_peer *peer)
{
	ferryt_peer_revoke(peer, 12345);
	ferryt_peer_drain(peer); /* read after it */
}

static void session__closed_lease_revoked__stays_live(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB, .then = revoke_other}};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), 0);
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.client.states, 1));
	assert_int_equal(ferryi_session_state(c.session), FERRYI_SESSION_DRAINING);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

static void lease_open__draining__shut_down(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB, .then = ferryt_peer_drain}};
	struct ferryi_lease *second = NULL;
	unsigned first, count;

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), 0);
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.client.states, 1));
	assert_int_equal(c.client.last_state, FERRYI_SESSION_DRAINING);
	assert_int_equal(ferryi_session_state(c.session), FERRYI_SESSION_DRAINING);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &second), -ESHUTDOWN);
	assert_int_equal(ferryi_lease_grow(c.lease, 2 * MIB, &first, &count), -ESHUTDOWN);
	assert_false(ferryi_peer_is_failed(ferryi_lease_peer(c.lease))); /* data still flows */
	ferryi_lease_close(&c.lease);
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	lease_teardown(&c);
}

static void lease_open__grant_too_small__refused_and_given_back(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB}};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 4 * MIB, &c.lease), -EPROTO);
	print_message("    %s\n", ferryi_control_last_error());
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	assert_null(c.lease);
	lease_teardown(&c);
}

/* The peer's reply has no name, as that of a server which has not looked at it. */
static void lease_open__name_at_a_server_of_0_1__not_supported_and_given_back(void **state)
{
	struct lease_case c = {.script = {.grant_len = 4 * MIB}};
	const struct ferryi_lease_want want = {.name = "job-7", .size_bytes = 4 * MIB};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open_as(c.session, &want, &c.lease), -EOPNOTSUPP);
	assert_non_null(strstr(ferryi_control_last_error(), "knows no leases with a name: upgrade it"));
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	assert_null(c.lease);
	lease_teardown(&c);
}

static void lease_open__key_of_nothing__refused_and_given_back(void **state)
{
	struct lease_case c = {.script = {.grant_len = 4 * MIB, .key_error = 99}};

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_true(ferryi_lease_open(c.session, NULL, 4 * MIB, &c.lease) < 0);
	print_message("    %s\n", ferryi_control_last_error());
	assert_non_null(strstr(ferryi_control_last_error(), "cannot be reached over local"));
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	assert_null(c.lease);
	assert_int_equal(ferryi_session_state(c.session), FERRYI_SESSION_LIVE);
	lease_teardown(&c);
}

static void lease_grow__key_of_nothing__all_or_nothing(void **state)
{
	struct lease_case c = {.script = {.grant_len = 4 * MIB}};
	unsigned first, count;

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 4 * MIB, &c.lease), 0);
	assert_true(ferryi_lease_grow(c.lease, 4 * MIB, &first, &count) <
		    0); /* the script grants it a wrong key */
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	assert_int_equal(ferryi_lease_extent_count(c.lease), 1);
	assert_int_equal(ferryi_lease_extent(c.lease, 0)->len_bytes, 4 * MIB);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

static void lease_open__granted_too_late__times_out_and_given_back(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB, .wait_before_grant = true}};

	(void)state;
	lease_setup(&c, 200);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), -ETIMEDOUT);
	print_message("    %s\n", ferryi_control_last_error());
	ferryt_gate_open(&c.script.go);
	assert_true(ferryt_gate_wait(&c.script.back, 1));
	assert_int_equal(ferryi_session_state(c.session), FERRYI_SESSION_LIVE);
	lease_teardown(&c);
}

static void lease_open__misaligned__invalid(void **state)
{
	struct lease_case c = {.script = {.grant_len = 0}};
	unsigned first, count;

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 4096, &c.lease), -EINVAL);
	assert_int_equal(ferryi_lease_open(c.session, "no such\nname", 2 * MIB, &c.lease), -ENXIO);
	assert_null(strchr(ferryi_control_last_error(), '\n'));
	assert_int_equal(ferryi_lease_open(c.session, NULL, 0, &c.lease), 0); /* nothing yet */
	assert_int_equal(ferryi_lease_extent_count(c.lease), 0);
	assert_null(ferryi_lease_extent(c.lease, 0));
	assert_int_equal(ferryi_lease_grow(c.lease, 0, &first, &count), -EINVAL);
	assert_int_equal(ferryi_lease_grow(c.lease, MIB, &first, &count), -EINVAL);
	assert_int_equal(ferryi_lease_shrink(c.lease, 0), -EINVAL);
	ferryi_lease_close(&c.lease);
	lease_teardown(&c);
}

static void lease_open__fabric_not_offered__says_what_is(void **state)
{
	struct lease_case c = {.script = {.grant_len = 0}};
	struct ferryi_session *session;
	char url[64];

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	ferryi_session_close(&c.session);
	snprintf(url, sizeof(url), "%.*s?fabric=tcp", (int)strcspn(c.peer.url, "?"), c.peer.url);
	assert_int_equal(ferryi_session_open(c.client.control, url, &session), 0);
	assert_int_equal(ferryi_lease_open(session, NULL, 2 * MIB, &c.lease), -ENODEV);
	assert_non_null(strstr(ferryi_control_last_error(), "it offers local"));
	ferryi_session_close(&session);
	lease_teardown(&c);
}

static void session_close__lease_open__lease_ends_cleanly(void **state)
{
	struct lease_case c = {.script = {.grant_len = 2 * MIB}};
	unsigned first, count;

	(void)state;
	lease_setup(&c, FERRYT_WAIT_MS);
	assert_int_equal(ferryi_lease_open(c.session, NULL, 2 * MIB, &c.lease), 0);
	ferryi_session_close(&c.session);
	ferryi_control_close(&c.client.control);
	assert_true(ferryi_peer_is_failed(ferryi_lease_peer(c.lease)));
	assert_int_equal(ferryi_lease_grow(c.lease, 2 * MIB, &first, &count), -ENOTCONN);
	assert_int_equal(ferryi_session_state(ferryi_lease_session(c.lease)), FERRYI_SESSION_LOST);
	ferryi_lease_close(&c.lease);
	ferryt_peer_stop(&c.peer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(session__closed_lease_revoked__stays_live),
		cmocka_unit_test(lease__pages_failed__receiver_hears_of_each_once),
		cmocka_unit_test(lease__more_failures_than_can_be_kept__session_lost),
		cmocka_unit_test(lease__revoked__session_lost_and_data_fails),
		cmocka_unit_test(lease_open__draining__shut_down),
		cmocka_unit_test(lease_open__grant_too_small__refused_and_given_back),
		cmocka_unit_test(lease_open__key_of_nothing__refused_and_given_back),
		cmocka_unit_test(lease_open__name_at_a_server_of_0_1__not_supported_and_given_back),
		cmocka_unit_test(lease_grow__key_of_nothing__all_or_nothing),
		cmocka_unit_test(lease_open__granted_too_late__times_out_and_given_back),
		cmocka_unit_test(lease_open__misaligned__invalid),
		cmocka_unit_test(lease_open__fabric_not_offered__says_what_is),
		cmocka_unit_test(session_close__lease_open__lease_ends_cleanly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
