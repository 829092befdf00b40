/* Quotas of users and of the server: what is over one is refused with a line, and what is given back is free
 * again. */
#include "server_kit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "url.h"

#define MIB	  ((uint64_t)1 << 20)
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define POOL	  "--pool", "name=hot,size=32M", "--fabric", "tcp"

static struct ferryt_server server;

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end(&server);
	return 0;
}

static void expect_limit(Farferry__Code code, const char *text, const char *want)
{
	assert_int_equal(code, FARFERRY__CODE__CODE_LIMIT);
	if (!strstr(text, want)) {
		print_error("wanted '%s', got: %s\n", want, text);
		fail();
	}
}

/* As another user: by a second listener, where nobody is asked. */
static void login_anonymous(struct ferryt_conn *conn)
{
	struct ferryt_server door = server;
	static const uint8_t any[FERRYI_AUTH_TOKEN_LEN];
	char err[256], text[64];
	const char *at;
	struct ferryi_url url;
	Farferry__Envelope *reply;

	assert_true(ferryt_server_says(&server, "(auth=anonymous)"));
	at = strstr(ferryt_server_words(&server), "(auth=anonymous)");
	while (strncmp(at, "ferry://", 8) != 0)
		at--;
	snprintf(text, sizeof(text), "%.*s", (int)strcspn(at, " "), at);
	assert_int_equal(ferryi_url_parse(text, &url, err, sizeof(err)), 0);
	door.port = url.port;
	ferryt_conn_open(conn, &door);
	reply = ferryt_conn_auth(conn, any);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	assert_string_equal(reply->auth_reply->user, "anonymous");
	ferryi_envelope_free(&reply);
}

/* What the server says that the asking user has of this. */
static uint64_t used(struct ferryt_conn *conn, const char *name)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__PoolsRequest pools = FARFERRY__POOLS_REQUEST__INIT;
	uint64_t value = UINT64_MAX;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &pools;
	reply = ferryt_conn_call(conn, &envelope);
	assert_non_null(reply);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_POOLS_REPLY);
	for (size_t i = 0; i < reply->pools_reply->n_quotas; i++) {
		if (strcmp(reply->pools_reply->quotas[i]->name, name) == 0)
			value = reply->pools_reply->quotas[i]->used;
	}
	ferryi_envelope_free(&reply);
	assert_true(value != UINT64_MAX);
	return value;
}

static bool wait_used(struct ferryt_conn *conn, const char *name, uint64_t want)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	while (used(conn, name) != want) {
		if (!ferryi_remaining_ms(deadline))
			return false;
	}
	return true;
}

static void bytes__of_all_sessions__are_limited(void **state)
{
	struct ferryt_conn a, b, other;
	struct ferryt_lease lease, more;
	char text[512];

	(void)state;
	ferryt_server_start(&server, ARGS(POOL, "--listen", "127.0.0.1:0", "--listen",
					  "127.0.0.1:0,auth=anonymous", "--quota", "user=token,bytes=6M"));
	ferryt_conn_login(&a, &server);
	ferryt_conn_login(&b, &server);
	login_anonymous(&other);
	assert_int_equal(ferryt_attach(&a, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	expect_limit(ferryt_attach(&b, "hot", "tcp", 4 * MIB, &more, text, sizeof(text)), text,
		     "quota of user token: bytes=6M, 4M used, 4M more asked for");
	assert_int_equal(ferryt_attach(&b, "hot", "tcp", 2 * MIB, &more, NULL, 0), 0);
	expect_limit(ferryt_grow(&a, &lease, 2 * MIB, text, sizeof(text)), text, "6M used, 2M more");
	assert_int_equal(used(&a, "bytes"), 6 * MIB);
	/* Another user has his own, which is none. */
	assert_int_equal(ferryt_attach(&other, "hot", "tcp", 8 * MIB, &more, NULL, 0), 0);
	assert_int_equal(used(&other, "bytes"), 8 * MIB);
	/* A session that ends gives all of it back. */
	ferryt_conn_close(&b);
	assert_true(wait_used(&a, "bytes", 4 * MIB));
	assert_int_equal(ferryt_grow(&a, &lease, 2 * MIB, NULL, 0), 0);
	assert_int_equal(ferryt_shrink(&a, &lease, 0), 0);
	assert_true(used(&a, "bytes") < 6 * MIB);
	/* What was refused for another reason costs nothing. */
	assert_int_equal(ferryt_detach(&a, lease.id, a.epoch), 0);
	assert_int_equal(used(&a, "bytes"), 0);
	ferryt_conn_close(&a);
	ferryt_conn_close(&other);
}

static void bytes__pool_full__cost_nothing(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;

	(void)state;
	ferryt_server_start(&server, ARGS(POOL, "--quota", "default,bytes=1G"));
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 64 * MIB, &lease, NULL, 0),
			 FARFERRY__CODE__CODE_FULL);
	assert_int_equal(used(&conn, "bytes"), 0);
	assert_int_equal(used(&conn, "leases"), 0);
	ferryt_conn_close(&conn);
}

static Farferry__Code attach_by_name(struct ferryt_conn *conn, const char *pool, const char *name,
				     uint64_t size_bytes, uint64_t *lease_id, char *text, size_t text_size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__AttachRequest attach = FARFERRY__ATTACH_REQUEST__INIT;
	Farferry__Code code = FARFERRY__CODE__CODE_OK;

	attach.pool = (char *)pool;
	attach.fabric = (char *)"tcp";
	attach.size_bytes = size_bytes;
	attach.name = (char *)name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ATTACH;
	envelope.attach = &attach;
	reply = ferryt_conn_call(conn, &envelope);
	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR) {
		code = reply->error->code;
		snprintf(text, text_size, "%s", reply->error->text);
	} else {
		*lease_id = reply->lease_reply->lease_id;
	}
	ferryi_envelope_free(&reply);
	return code;
}

static void bytes__kept_under_a_name__count(void **state)
{
	char dir[] = "/tmp/ferryt-quota-XXXXXX", pool[128], file[64], text[512];
	struct ferryt_conn conn;
	uint64_t id;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/file", dir);
	snprintf(pool, sizeof(pool), "name=disk,size=16M,type=fs_dax,path=%s", file);
	ferryt_server_start(&server,
			    ARGS(POOL, "--pool", pool, "--keep", "1000s", "--quota", "default,bytes=8M"));
	ferryt_conn_login(&conn, &server);
	/* In memory, and in a file: nobody has them, and they are his. */
	assert_int_equal(attach_by_name(&conn, "hot", "a", 2 * MIB, &id, text, sizeof(text)), 0);
	assert_int_equal(ferryt_detach(&conn, id, conn.epoch), 0);
	assert_int_equal(used(&conn, "bytes"), 2 * MIB);
	assert_int_equal(attach_by_name(&conn, "disk", "b", 4 * MIB, &id, text, sizeof(text)), 0);
	assert_int_equal(ferryt_detach(&conn, id, conn.epoch), 0);
	assert_int_equal(used(&conn, "bytes"), 6 * MIB);
	expect_limit(attach_by_name(&conn, "hot", "c", 4 * MIB, &id, text, sizeof(text)), text,
		     "bytes=8M, 6M used, 4M more");
	/* Taken up again, they cost nothing more. */
	assert_int_equal(attach_by_name(&conn, "hot", "a", 2 * MIB, &id, text, sizeof(text)), 0);
	assert_int_equal(attach_by_name(&conn, "disk", "b", 4 * MIB, &id, text, sizeof(text)), 0);
	assert_int_equal(used(&conn, "bytes"), 6 * MIB);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
	/* A new server knows what the file has. */
	ferryt_server_start(&server, ARGS("--pool", pool, "--fabric", "tcp", "--quota", "default,bytes=8M"));
	ferryt_conn_login(&conn, &server);
	assert_int_equal(used(&conn, "bytes"), 4 * MIB);
	ferryt_conn_close(&conn);
	unlink(file);
	strcat(file, ".leases");
	unlink(file);
	assert_int_equal(rmdir(dir), 0);
}

static Farferry__Code say(struct ferryt_conn *conn, Farferry__Envelope *envelope, char *text,
			  size_t text_size)
{
	Farferry__Envelope *reply = ferryt_conn_call(conn, envelope);
	Farferry__Code code = FARFERRY__CODE__CODE_OK;

	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR) {
		code = reply->error->code;
		snprintf(text, text_size, "%s", reply->error->text);
	}
	ferryi_envelope_free(&reply);
	return code;
}

static Farferry__Code export_mirror(struct ferryt_conn *conn, uint64_t id, const char *name, char *text,
				    size_t size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ExportRequest request = FARFERRY__EXPORT_REQUEST__INIT;

	request.export_id = id;
	request.name = (char *)name;
	request.perms = FERRYI_PERM_READ;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST;
	envelope.export_request = &request;
	return say(conn, &envelope, text, size);
}

static Farferry__Code unexport_mirror(struct ferryt_conn *conn, uint64_t id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__UnexportRequest request = FARFERRY__UNEXPORT_REQUEST__INIT;
	char text[256];

	request.export_id = id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_UNEXPORT;
	envelope.unexport = &request;
	return say(conn, &envelope, text, sizeof(text));
}

static Farferry__Code view_mirror(struct ferryt_conn *conn, const char *name, char *text, size_t size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__ViewOpenRequest request = FARFERRY__VIEW_OPEN_REQUEST__INIT;

	request.name = (char *)name;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_OPEN;
	envelope.view_open = &request;
	return say(conn, &envelope, text, size);
}

static void counts__over_the_quota__are_refused(void **state)
{
	struct ferryt_conn a, b, c;
	struct ferryt_lease first, second, third;
	Farferry__Envelope *reply;
	char text[512];

	(void)state;
	ferryt_server_start(&server, ARGS(POOL, "--quota", "default,leases=2,sessions=2,exports=1,views=1"));
	ferryt_conn_login(&a, &server);
	ferryt_conn_login(&b, &server);
	ferryt_conn_open(&c, &server);
	reply = ferryt_conn_auth(&c, server.token);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	expect_limit(reply->error->code, reply->error->text, "sessions=2, 2 used, 1 more");
	ferryi_envelope_free(&reply);
	ferryt_conn_close(&c);

	assert_int_equal(ferryt_attach(&a, "hot", "tcp", 2 * MIB, &first, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&b, "hot", "tcp", 2 * MIB, &second, NULL, 0), 0);
	expect_limit(ferryt_attach(&b, "hot", "tcp", 2 * MIB, &third, text, sizeof(text)), text,
		     "leases=2, 2 used");
	assert_int_equal(ferryt_detach(&a, first.id, a.epoch), 0);
	assert_int_equal(ferryt_attach(&b, "hot", "tcp", 2 * MIB, &third, NULL, 0), 0);

	assert_int_equal(export_mirror(&a, 1, "x", text, sizeof(text)), 0);
	expect_limit(export_mirror(&b, 1, "y", text, sizeof(text)), text, "exports=1, 1 used");
	assert_int_equal(view_mirror(&b, "x", text, sizeof(text)), 0);
	expect_limit(view_mirror(&a, "x", text, sizeof(text)), text, "views=1, 1 used");
	assert_int_equal(unexport_mirror(&a, 1), 0);
	assert_int_equal(export_mirror(&b, 1, "y", text, sizeof(text)), 0);
	ferryt_conn_close(&b);
	assert_true(wait_used(&a, "sessions", 1));
	assert_int_equal(used(&a, "exports"), 0);
	assert_int_equal(used(&a, "views"), 0);
	assert_int_equal(used(&a, "leases"), 0);
	ferryt_conn_login(&c, &server);
	ferryt_conn_close(&c);
	ferryt_conn_close(&a);
}

static Farferry__Code ask_pools(struct ferryt_conn *conn, char *text, size_t text_size)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__PoolsRequest pools = FARFERRY__POOLS_REQUEST__INIT;

	envelope.body_case = FARFERRY__ENVELOPE__BODY_POOLS;
	envelope.pools = &pools;
	return say(conn, &envelope, text, text_size);
}

static void rate__over_the_quota__is_refused_for_a_while(void **state)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	struct ferryt_conn conn;
	char text[512] = "";
	unsigned n = 0;

	(void)state;
	ferryt_server_start(&server, ARGS(POOL, "--quota", "default,rate=5"));
	ferryt_conn_login(&conn, &server);
	while (ask_pools(&conn, text, sizeof(text)) == 0)
		assert_true(++n < 1000000 && ferryi_remaining_ms(deadline));
	assert_true(n >= 5);
	assert_non_null(strstr(text, "quota of user token: rate=5 requests a second"));
	/* The session lives on, and its turn comes. */
	for (int i = 0; i < 20; i++)
		assert_true(ferryt_keepalive(&conn));
	while (ask_pools(&conn, text, sizeof(text)) != 0)
		assert_true(ferryi_remaining_ms(deadline));
	ferryt_conn_close(&conn);
}

static void server__quota_of_all__counts_every_user(void **state)
{
	struct ferryt_conn conn, other;
	struct ferryt_lease lease;
	char text[512];

	(void)state;
	ferryt_server_start(&server,
			    ARGS(POOL, "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0,auth=anonymous",
				 "--quota", "server,bytes=8M,sessions=2"));
	ferryt_conn_login(&conn, &server);
	login_anonymous(&other);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 6 * MIB, &lease, NULL, 0), 0);
	expect_limit(ferryt_attach(&other, "hot", "tcp", 4 * MIB, &lease, text, sizeof(text)), text,
		     "quota of the server: bytes=8M, 6M used, 4M more");
	assert_int_equal(used(&other, "bytes"), 0);
	assert_int_equal(ferryt_attach(&other, "hot", "tcp", 2 * MIB, &lease, NULL, 0), 0);
	ferryt_conn_close(&conn);
	ferryt_conn_close(&other);
}

static void write_config(const char *path, const char *quota)
{
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	fprintf(f,
		"[server]\nfabric = tcp\nlog-level = notice\ntimeout = 600s\nquota = "
		"user=anonymous,leases=1\nquota = %s\n[pool hot]\nsize = 32M\n",
		quota);
	fclose(f);
}

static void reload__quota_changed__counts_from_now_on(void **state)
{
	char path[] = "/tmp/ferryt-quota-XXXXXX", text[512];
	struct ferryt_lease lease, more;
	struct ferryt_conn conn;

	(void)state;
	close(mkstemp(path));
	write_config(path, "default,bytes=4M");
	ferryt_server_start(&server, ARGS("--config", path));
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	expect_limit(ferryt_grow(&conn, &lease, 2 * MIB, text, sizeof(text)), text, "bytes=4M");
	write_config(path, "default,bytes=6M");
	kill(server.pid, SIGHUP);
	assert_true(ferryt_server_says(&server, "quotas"));
	assert_int_equal(ferryt_grow(&conn, &lease, 2 * MIB, NULL, 0), 0);
	/* Less than what is held: it stays, and nothing comes to it. */
	write_config(path, "default,bytes=2M");
	kill(server.pid, SIGHUP);
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	do {
		assert_true(ferryi_remaining_ms(deadline));
		expect_limit(ferryt_attach(&conn, "hot", "tcp", 2 * MIB, &more, text, sizeof(text)), text,
			     "6M used");
	} while (!strstr(text, "bytes=2M"));
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
	unlink(path);
}

#define TEST(test) cmocka_unit_test_teardown(test, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(bytes__of_all_sessions__are_limited),
		TEST(bytes__pool_full__cost_nothing),
		TEST(bytes__kept_under_a_name__count),
		TEST(counts__over_the_quota__are_refused),
		TEST(rate__over_the_quota__is_refused_for_a_while),
		TEST(server__quota_of_all__counts_every_user),
		TEST(reload__quota_changed__counts_from_now_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
