/* TLS with certificates of both sides: who gets in, who does not, and that nobody goes on without it. */
#include "server_kit.h"
#include "tls_kit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control_client.h"
#include "url.h"

#define MIB	  ((uint64_t)1 << 20)
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define POOL	  "--pool", "name=hot,size=16M", "--fabric", "tcp"

static struct ferryt_server server;
static bool running;

static void start(const char *const *args)
{
	ferryt_server_start(&server, args);
	running = true;
}

static void start_tls(void)
{
	start(ARGS(POOL, "--listen", "127.0.0.1:0,auth=tls", "--tls-cert", ferryt_tls_file("server.pem"),
		   "--tls-key", ferryt_tls_file("server.key"), "--tls-ca", ferryt_tls_file("ca.pem"),
		   "--log-level", "info"));
}

static int setup(void **state)
{
	(void)state;
	running = false;
	ferryt_tls_use("alice", "ca");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (running)
		ferryt_server_end(&server);
	return 0;
}

static int open_session(struct ferryt_client *client, const char *host, const char *query,
			struct ferryi_session **session)
{
	char url[128];

	snprintf(url, sizeof(url), "ferry://%s:%u%s", host, server.port, query);
	assert_int_equal(ferryt_client_open(client, server.token, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	return ferryi_session_open(client->control, url, session);
}

static void expect_refused_by(const char *host, const char *query, int err, const char *text)
{
	struct ferryi_session *session = NULL;
	struct ferryt_client client;
	int rc = open_session(&client, host, query, &session);

	if (rc != err || !strstr(ferryi_control_last_error(), text)) {
		print_error("wanted %d and '%s', got %d: %s\n", err, text, rc, ferryi_control_last_error());
		fail();
	}
	assert_null(session);
	ferryi_control_close(&client.control);
}

static void expect_refused(const char *query, int err, const char *text)
{
	expect_refused_by("127.0.0.1", query, err, text);
}

static void expect_in(const char *query)
{
	struct ferryi_session *session = NULL;
	struct ferryi_lease *lease;
	struct ferryt_client client;
	int rc = open_session(&client, "127.0.0.1", query, &session);

	if (rc)
		print_error("%s\n", ferryi_control_last_error());
	assert_int_equal(rc, 0);
	assert_int_equal(ferryi_lease_open(session, "hot", 2 * MIB, &lease), 0);
	ferryi_lease_close(&lease);
	ferryi_session_close(&session);
	ferryi_control_close(&client.control);
}

/* ---- getting in ---- */

static void certificate__of_the_authority__is_the_user(void **state)
{
	(void)state;
	start_tls();
	expect_in("?auth=tls&fabric=tcp");
	assert_true(ferryt_server_says(&server, "authenticated, user tls:CN=alice; O=site"));
}

static void certificate__of_another_authority__is_refused(void **state)
{
	(void)state;
	start_tls();
	ferryt_tls_use("mallory", "ca");
	expect_refused("?auth=tls", -EACCES, "the peer refuses our certificate");
	assert_true(ferryt_server_says(&server, "TLS: the peer's certificate is refused"));
	ferryt_tls_use("alice", "ca");
	expect_in("?auth=tls&fabric=tcp");
}

static void server__of_another_authority__is_refused(void **state)
{
	(void)state;
	start_tls();
	ferryt_tls_use("alice", "other-ca");
	expect_refused("?auth=tls", -EACCES, "the peer's certificate is refused");
}

static void server__for_another_name__is_refused(void **state)
{
	(void)state;
	start_tls();
	/* The certificate is for 127.0.0.1. */
	expect_refused_by("localhost", "?auth=tls", -EACCES, "ostname mismatch");
}

/* ---- not both sides speak it ---- */

static void client__tls_at_a_plain_server__does_not_fall_back(void **state)
{
	(void)state;
	start(ARGS(POOL));
	expect_refused("?auth=tls", -EACCES, "does not speak TLS");
	/* The server never got a hello. */
	assert_true(ferryt_server_says(&server, "not a farferry client"));
}

static void client__plain_at_a_tls_server__is_told(void **state)
{
	(void)state;
	start_tls();
	expect_refused("", -EACCES, "this server wants TLS: set FERRY_AUTH=tls");
	expect_in("?auth=tls&fabric=tcp");
}

static void listeners__several__each_its_own_method(void **state)
{
	const char *second;
	struct ferryi_url url;
	char err[256], text[64];

	(void)state;
	start(ARGS(POOL, "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0,auth=tls", "--listen",
		   "127.0.0.1:0,auth=anonymous", "--tls-cert", ferryt_tls_file("server.pem"), "--tls-key",
		   ferryt_tls_file("server.key"), "--tls-ca", ferryt_tls_file("ca.pem")));
	expect_in("?fabric=tcp"); /* that of the ready line: the first, by its token */
	expect_refused("?auth=anonymous", -EACCES, "wants auth=token");
	assert_true(ferryt_server_says(&server, ", to clients with a certificate"));
	assert_true(ferryt_server_says(&server, ", to anybody (auth=anonymous)"));
	second = strstr(ferryt_server_words(&server), "to clients with a certificate");
	while (strncmp(second, "ferry://", 8) != 0)
		second--;
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(second, " "), second);
	assert_int_equal(ferryi_url_parse(text, &url, err, sizeof(err)), 0);
	assert_int_not_equal(url.port, server.port);
	server.port = url.port;
	expect_in("?auth=tls&fabric=tcp");
}

/* ---- files ---- */

static void client__files__one_line_each(void **state)
{
	(void)state;
	start_tls();
	unsetenv("FERRY_TLS_CA");
	expect_refused("?auth=tls", -EINVAL, "FERRY_TLS_CA is not set");
	unsetenv("FERRY_TLS_CERT");
	expect_refused("?auth=tls", -EINVAL, "FERRY_TLS_CERT is not set");
	ferryt_tls_use("nobody", "ca");
	expect_refused("?auth=tls", -ENOENT, "nobody.pem': No such file");
	ferryt_tls_use("alice", "ca");
	setenv("FERRY_TLS_KEY", ferryt_tls_file("server.key"), 1);
	expect_refused("?auth=tls", -EINVAL, "key values mismatch");
	setenv("FERRY_TLS_KEY", ferryt_tls_file("alice.pem"), 1);
	expect_refused("?auth=tls", -EPERM, "can be read by everybody");
	setenv("FERRY_TLS_KEY", ferryt_tls_file("alice.key"), 1);
	setenv("FERRY_TLS_CERT", ferryt_tls_file("openssl.log"), 1);
	expect_refused("?auth=tls", -EINVAL, "certificate '");
}

static void expect_start_fails(int status, const char *text, const char *const *args)
{
	char out[4096], err[4096];
	int rc = ferryt_server_run(args, out, sizeof(out), err, sizeof(err));

	if (rc != status || !strstr(err, text) || strchr(err, '\n') != err + strlen(err) - 1) {
		print_error("wanted status %d and one line with '%s', got %d and:\n%s", status, text, rc,
			    err);
		fail();
	}
}

static void start__files__one_line_each(void **state)
{
	(void)state;
	expect_start_fails(
		2, "needs --tls-cert, --tls-key and --tls-ca",
		ARGS(POOL, "--listen", ":0,auth=tls", "--tls-cert", ferryt_tls_file("server.pem")));
	expect_start_fails(2, "no --listen has auth=tls", ARGS(POOL, "--tls-ca", ferryt_tls_file("ca.pem")));
	expect_start_fails(1, "nobody.pem': No such file",
			   ARGS(POOL, "--listen", "127.0.0.1:0,auth=tls", "--tls-cert",
				ferryt_tls_file("nobody.pem"), "--tls-key", ferryt_tls_file("server.key"),
				"--tls-ca", ferryt_tls_file("ca.pem")));
	expect_start_fails(2, "key values mismatch",
			   ARGS(POOL, "--listen", "127.0.0.1:0,auth=tls", "--tls-cert",
				ferryt_tls_file("server.pem"), "--tls-key", ferryt_tls_file("alice.key"),
				"--tls-ca", ferryt_tls_file("ca.pem"), "--check"));
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(certificate__of_the_authority__is_the_user),
		TEST(certificate__of_another_authority__is_refused),
		TEST(server__of_another_authority__is_refused),
		TEST(server__for_another_name__is_refused),
		TEST(client__tls_at_a_plain_server__does_not_fall_back),
		TEST(client__plain_at_a_tls_server__is_told),
		TEST(listeners__several__each_its_own_method),
		TEST(client__files__one_line_each),
		TEST(start__files__one_line_each),
	};
	int rc;

	unsetenv("FERRY_AUTH");
	umask(022);
	ferryt_tls_begin();
	ferryt_tls_authority("ca");
	ferryt_tls_authority("other-ca");
	ferryt_tls_certificate("server", "ca", "/CN=server", "IP:127.0.0.1");
	ferryt_tls_certificate("alice", "ca", "/O=site/CN=alice", NULL);
	ferryt_tls_certificate("mallory", "other-ca", "/O=site/CN=alice", NULL);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_tls_end();
	return rc;
}
