/*
 * MUNGE, with a munged of the test's own: who gets in, who does not, and what
 * one user's sessions can reach of another's. What needs a second user runs as
 * root only.
 */
#include "munge_kit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control_client.h"

#define MIB	  ((uint64_t)1 << 20)
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define POOL	  "--pool", "name=hot,size=16M"

static struct ferryt_server server;

/* FERRY_MUNGE_SOCKET is not the server's: that has an option. */
static int setup(void **state)
{
	(void)state;
	ferryt_server_start(&server, ARGS(POOL, "--fabric", "tcp", "--listen", "127.0.0.1:0,auth=munge",
					  "--munge-socket", ferryt_munge_socket(), "--log-level", "info"));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end(&server);
	return 0;
}

static void need_root(void)
{
	if (geteuid() != 0)
		skip();
}

static void expect_auth_error(Farferry__Envelope *reply, const char *text)
{
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_AUTH);
	if (!strstr(reply->error->text, text)) {
		print_error("wanted '%s', got: %s\n", text, reply->error->text);
		fail();
	}
	ferryi_envelope_free(&reply);
}

/* ---- credentials ---- */

static void login__good_credential__is_its_user(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	ferryt_munge_login(&conn, &server, geteuid());
	assert_true(ferryt_keepalive(&conn));
	assert_int_equal(ferryt_stat(&conn, "c_auth_failures_total"), 0);
	ferryt_conn_close(&conn);
}

static void login__token__is_told_what_is_wanted(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	ferryt_conn_open(&conn, &server);
	/* The token is the right one: it is not what counts here. */
	expect_auth_error(ferryt_conn_auth(&conn, server.token), "wants a MUNGE credential");
	ferryt_conn_expect_end(&conn);
	ferryt_conn_close(&conn);
}

static char *garbage(void *ctx, const struct ferryi_munge_binding *binding)
{
	(void)binding;
	return strdup(ctx);
}

static void login__no_credential__is_refused(void **state)
{
	static const char *const texts[] = {"MUNGE:AwQDAAC1:", "rubbish", "MUNGE::"};
	struct ferryt_conn conn;

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		ferryt_conn_open(&conn, &server);
		expect_auth_error(ferryt_munge_auth(&conn, garbage, (void *)texts[i]), "MUNGE:");
		ferryt_conn_expect_end(&conn);
		ferryt_conn_close(&conn);
	}
}

static char *kept_credential;

static char *make_and_keep(void *ctx, const struct ferryi_munge_binding *binding)
{
	(void)ctx;
	kept_credential = ferryt_munge_credential(geteuid(), binding);
	return strdup(kept_credential);
}

static void login__used_credential__is_refused_elsewhere(void **state)
{
	struct ferryt_conn conn, thief;
	Farferry__Envelope *reply;

	(void)state;
	ferryt_conn_open(&conn, &server);
	reply = ferryt_munge_auth(&conn, make_and_keep, NULL);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	ferryi_envelope_free(&reply);
	ferryt_conn_open(&thief, &server);
	expect_auth_error(ferryt_munge_auth(&thief, garbage, kept_credential), "Replayed credential");
	ferryt_conn_close(&thief);
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
	free(kept_credential);
}

enum change { OTHER_SERVER_NONCE, OTHER_CLIENT_NONCE, OTHER_ADDRESS, NO_ADDRESS };

/* Unused, and by the right user, but of another handshake: munged lets it pass, we do not. */
static char *make_changed(void *ctx, const struct ferryi_munge_binding *binding)
{
	static const uint8_t other[FERRYI_NONCE_LEN] = {1, 2, 3};
	struct ferryi_munge_binding changed = *binding;

	switch (*(const enum change *)ctx) {
	case OTHER_SERVER_NONCE:
		changed.server_nonce = other;
		break;
	case OTHER_CLIENT_NONCE:
		changed.client_nonce = other;
		break;
	case OTHER_ADDRESS:
		changed.address = "192.0.2.7:7470";
		break;
	case NO_ADDRESS:
		changed.address = "";
		break;
	}
	return ferryt_munge_credential(geteuid(), &changed);
}

static void login__credential_for_another_handshake__is_refused(void **state)
{
	static const char *const texts[] = {"made for another connection", "made for another connection",
					    "is for a server at 192.0.2.7:7470", "is for a server at , this"};
	struct ferryt_conn conn;

	(void)state;
	for (enum change change = OTHER_SERVER_NONCE; change <= NO_ADDRESS; change++) {
		ferryt_conn_open(&conn, &server);
		expect_auth_error(ferryt_munge_auth(&conn, make_changed, &change), texts[change]);
		ferryt_conn_expect_end(&conn);
		ferryt_conn_close(&conn);
	}
}

/* ---- the library ---- */

static void url_of(char url[128], const char *query)
{
	snprintf(url, 128, "ferry://%s:%u%s", server.host, server.port, query);
}

static void expect_refused(const char *query, int err, const char *text)
{
	struct ferryi_session *session = NULL;
	struct ferryt_client client;
	char url[128];

	url_of(url, query);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryi_session_open(client.control, url, &session), err);
	assert_null(session);
	if (!strstr(ferryi_control_last_error(), text)) {
		print_error("wanted '%s', got: %s\n", text, ferryi_control_last_error());
		fail();
	}
	ferryi_control_close(&client.control);
}

static void expect_in(const char *query)
{
	struct ferryi_session *session = NULL;
	struct ferryi_lease *lease;
	struct ferryt_client client;
	char url[128];

	url_of(url, query);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, url, &session), 0);
	assert_int_equal(ferryi_lease_open(session, "hot", 2 * MIB, &lease), 0);
	ferryi_lease_close(&lease);
	ferryi_session_close(&session);
	ferryi_control_close(&client.control);
}

static void library__method_by_url_or_environment__gets_in(void **state)
{
	(void)state;
	expect_in("?fabric=tcp&auth=munge");
	setenv("FERRY_AUTH", "munge", 1);
	expect_in("?fabric=tcp");
	setenv("FERRY_AUTH", "token", 1);
	expect_in("?fabric=tcp&auth=munge"); /* the URL wins */
	unsetenv("FERRY_AUTH");
}

static void library__other_method__one_line_and_no_secret_sent(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	expect_refused("", -EACCES,
		       "wants auth=munge, and this client is to use auth=token: set FERRY_AUTH=munge");
	expect_refused("?auth=anonymous", -EACCES, "wants auth=munge");
	ferryt_munge_login(&conn, &server, geteuid());
	/* They went before they showed anything. */
	assert_int_equal(ferryt_stat(&conn, "c_auth_failures_total"), 0);
	ferryt_conn_close(&conn);
}

static void library__wrong_method_name__one_line(void **state)
{
	struct ferryt_client client;

	(void)state;
	setenv("FERRY_AUTH", "kerberos", 1);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), -EINVAL);
	assert_non_null(strstr(ferryi_control_last_error(), "FERRY_AUTH=kerberos: there is no such way"));
	unsetenv("FERRY_AUTH");
	expect_refused("?auth=kerberos", -EINVAL, "use token, munge, tls or anonymous");
}

static void library__no_munged__one_line(void **state)
{
	(void)state;
	setenv("FERRY_MUNGE_SOCKET", "/nonexistent/munge.socket", 1);
	expect_refused("?auth=munge", -EACCES, "munged does not answer");
	setenv("FERRY_MUNGE_SOCKET", ferryt_munge_socket(), 1);
}

static void library__munge_at_a_token_server__is_not_sent(void **state)
{
	struct ferryt_conn conn;

	(void)state;
	ferryt_server_end(&server);
	ferryt_server_start(&server, ARGS(POOL, "--fabric", "tcp"));
	expect_refused("?auth=munge", -EACCES, "wants auth=token, and this client is to use auth=munge");
	ferryt_conn_open(&conn, &server);
	expect_auth_error(ferryt_munge_auth(&conn, make_and_keep, NULL), "wants its token");
	ferryt_conn_close(&conn);
	free(kept_credential);
}

static void start__no_munged__one_line(void **state)
{
	char out[4096], err[4096];

	(void)state;
	assert_int_equal(ferryt_server_run(ARGS(POOL, "--fabric", "tcp", "--listen", "127.0.0.1:0,auth=munge",
						"--munge-socket", "/nonexistent/munge.socket"),
					   out, sizeof(out), err, sizeof(err)),
			 1);
	assert_non_null(strstr(err, "--listen with auth=munge: munged does not answer"));
	assert_ptr_equal(strchr(err, '\n') + 1, err + strlen(err));
}

/* ---- users ---- */

static Farferry__Envelope *attach_by_name(struct ferryt_conn *conn, const char *name)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__AttachRequest attach = FARFERRY__ATTACH_REQUEST__INIT;

	attach.pool = (char *)"hot";
	attach.fabric = (char *)"tcp";
	attach.size_bytes = 2 * MIB;
	attach.name = (char *)name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ATTACH;
	envelope.attach = &attach;
	reply = ferryt_conn_call(conn, &envelope);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_LEASE_REPLY);
	assert_string_equal(reply->lease_reply->name, name);
	return reply;
}

static void lease_name__of_another_user__is_another_lease(void **state)
{
	struct ferryt_conn mine, other;
	Farferry__Envelope *reply, *theirs;

	(void)state;
	need_root();
	ferryt_munge_login(&mine, &server, 0);
	ferryt_munge_login(&other, &server, FERRYT_OTHER_UID);
	reply = attach_by_name(&mine, "checkpoint");
	assert_int_equal(reply->lease_reply->kept_extents, 0);
	/* Not busy: it is not the same. */
	theirs = attach_by_name(&other, "checkpoint");
	assert_int_equal(theirs->lease_reply->kept_extents, 0);
	assert_true(theirs->lease_reply->extents[0]->pool_off != reply->lease_reply->extents[0]->pool_off);
	assert_int_equal(ferryt_detach(&mine, reply->lease_reply->lease_id, mine.epoch), 0);
	assert_int_equal(ferryt_detach(&other, theirs->lease_reply->lease_id, other.epoch), 0);
	/* Each finds his own again. */
	uint64_t off = theirs->lease_reply->extents[0]->pool_off;

	ferryi_envelope_free(&theirs);
	theirs = attach_by_name(&other, "checkpoint");
	assert_int_equal(theirs->lease_reply->kept_extents, 1);
	assert_int_equal(theirs->lease_reply->extents[0]->pool_off, off);
	ferryi_envelope_free(&theirs);
	ferryi_envelope_free(&reply);
	ferryt_conn_close(&mine);
	ferryt_conn_close(&other);
}

static Farferry__Code say(struct ferryt_conn *conn, Farferry__Envelope *envelope)
{
	Farferry__Envelope *reply = ferryt_conn_call(conn, envelope);
	Farferry__Code code;

	assert_non_null(reply);
	code = reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR ? reply->error->code
								  : FARFERRY__CODE__CODE_OK;
	ferryi_envelope_free(&reply);
	return code;
}

static Farferry__Code export_mirror(struct ferryt_conn *conn, const char *name)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ExportRequest request = FARFERRY__EXPORT_REQUEST__INIT;

	request.export_id = 1;
	request.name = (char *)name;
	request.perms = FERRYI_PERM_READ;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST;
	envelope.export_request = &request;
	return say(conn, &envelope);
}

static Farferry__Code view_mirror(struct ferryt_conn *conn, const char *name)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ViewOpenRequest request = FARFERRY__VIEW_OPEN_REQUEST__INIT;

	request.name = (char *)name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_OPEN;
	envelope.view_open = &request;
	return say(conn, &envelope);
}

static void mirror__of_another_user__is_not_seen(void **state)
{
	struct ferryt_conn mine, also_mine, other;

	(void)state;
	need_root();
	ferryt_munge_login(&mine, &server, 0);
	ferryt_munge_login(&also_mine, &server, 0);
	ferryt_munge_login(&other, &server, FERRYT_OTHER_UID);
	assert_int_equal(export_mirror(&mine, "secrets"), FARFERRY__CODE__CODE_OK);
	assert_int_equal(view_mirror(&other, "secrets"), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(view_mirror(&also_mine, "secrets"), FARFERRY__CODE__CODE_OK);
	/* The name is not taken for others. */
	assert_int_equal(export_mirror(&other, "secrets"), FARFERRY__CODE__CODE_OK);
	assert_int_equal(export_mirror(&also_mine, "secrets"), FARFERRY__CODE__CODE_EXISTS);
	ferryt_conn_close(&mine);
	ferryt_conn_close(&also_mine);
	ferryt_conn_close(&other);
}

#define ON_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_SERVER(login__good_credential__is_its_user),
		ON_SERVER(login__token__is_told_what_is_wanted),
		ON_SERVER(login__no_credential__is_refused),
		ON_SERVER(login__used_credential__is_refused_elsewhere),
		ON_SERVER(login__credential_for_another_handshake__is_refused),
		ON_SERVER(library__method_by_url_or_environment__gets_in),
		ON_SERVER(library__other_method__one_line_and_no_secret_sent),
		ON_SERVER(library__wrong_method_name__one_line),
		ON_SERVER(library__no_munged__one_line),
		ON_SERVER(library__munge_at_a_token_server__is_not_sent),
		cmocka_unit_test(start__no_munged__one_line),
		ON_SERVER(lease_name__of_another_user__is_another_lease),
		ON_SERVER(mirror__of_another_user__is_not_seen),
	};
	int rc;

	unsetenv("FERRY_AUTH");
	unsetenv("FERRY_TOKEN_FILE");
	ferryt_munge_start();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_munge_end();
	return rc;
}
