/*
 * Clients that mean harm, while a bystander computes on far memory: each test
 * ends with the bystander having gone through all of its pages, found them
 * right, and told how long its touches took (reported, not judged).
 */
#include "server_kit.h"
#include "tls_kit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "ferry.h"
#include "url.h"

#define MIB	  ((uint64_t)1 << 20)
#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define PAGES	  ((size_t)1536)
#define FLOOD	  48u /* connections; six times what may be unauthenticated at once */

static struct ferryt_server server;
static struct ferryt_conn watch; /* looks at the server's figures; logged in before any harm is done */
static char token_path[] = "/tmp/ferryt-hostile-XXXXXX";
static uint16_t tls_port;

/* ---- the bystander: a process of its own ---- */

struct bystander {
	pid_t pid;
	int ready_fd, stop_fd;
};

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Goes through the pages until it is told to stop, and once more. Ends the process. */
static void compute(int ready, int stop)
{
	static uint64_t took[1 << 18];
	struct ferry *ferry;
	size_t n = 0, at = 0;
	bool last = false;
	uint64_t *p;

	int rc = ferry_open(NULL, &ferry);

	if (rc) {
		fprintf(stderr, "bystander: %s\n", ferry_last_error());
		_exit(rc == -EPERM ? 77 : 1);
	}
	p = ferry_mmap(ferry, NULL, PAGES * FERRY_PAGE_SIZE, PROT_READ | PROT_WRITE, 0);
	if (p == MAP_FAILED)
		_exit(1);
	for (size_t i = 0; i < PAGES; i++)
		p[i * 512] = i ^ 0x5eed;
	if (write(ready, "r", 1) != 1)
		_exit(1);
	for (;;) {
		struct pollfd pfd = {.fd = stop, .events = POLLIN};
		bool end = last;

		last = last || poll(&pfd, 1, 0) != 0;
		for (size_t i = 0; i < PAGES; i++, at = (at + 1031) % PAGES) {
			uint64_t begin = ferryi_now_ns(), value = *(volatile uint64_t *)&p[at * 512];

			took[n++ % (sizeof(took) / sizeof(took[0]))] = ferryi_now_ns() - begin;
			if (value != (at ^ 0x5eed))
				_exit(2);
		}
		if (end)
			break;
	}
	n = ferryi_min_u64(n, sizeof(took) / sizeof(took[0]));
	qsort(took, n, sizeof(took[0]), by_size);
	printf("    bystander: %zu touches, p50 %.1f us, p99 %.1f us, most %.1f us\n", n,
	       (double)took[n / 2] / 1e3, (double)took[n - n / 100 - 1] / 1e3, (double)took[n - 1] / 1e3);
	fflush(stdout);
	_exit(ferry_close(ferry) ? 3 : 0);
}

static void bystander_start(struct bystander *b)
{
	int ready[2], stop[2];
	char url[128], byte;

	snprintf(url, sizeof(url), "ferry://%s:%u?fabric=tcp", server.host, server.port);
	setenv("FERRY_SERVERS", url, 1);
	setenv("FERRY_TOKEN_FILE", token_path, 1);
	setenv("FERRY_LOCAL", "4M", 1);
	setenv("FERRY_FAULT_TIMEOUT", "60000", 1);
	setenv("FERRY_REQUEST_TIMEOUT", "60000", 1);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(stop, O_CLOEXEC), 0);
	fflush(stdout);
	b->pid = fork();
	assert_true(b->pid >= 0);
	if (b->pid == 0) {
		close(stop[1]);
		close(ready[0]);
		compute(ready[1], stop[0]);
	}
	close(ready[1]);
	close(stop[0]);
	b->ready_fd = ready[0];
	b->stop_fd = stop[1];
	if (read(b->ready_fd, &byte, 1) != 1) {
		int status;

		waitpid(b->pid, &status, 0);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
			skip();
		fail();
	}
}

static void bystander_end(struct bystander *b)
{
	int status;

	close(b->stop_fd);
	close(b->ready_fd);
	assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the server ---- */

static int setup(void **state)
{
	char text[2 * FERRYI_AUTH_TOKEN_LEN + 1], url_text[64], err[256];
	const char *at;
	struct ferryi_url url;
	int fd;

	(void)state;
	ferryt_server_start(&server,
			    ARGS("--pool", "name=hot,size=256M,reserve=no", "--fabric", "tcp", "--listen",
				 "127.0.0.1:0", "--listen", "127.0.0.1:0,auth=tls", "--tls-cert",
				 ferryt_tls_file("server.pem"), "--tls-key", ferryt_tls_file("server.key"),
				 "--tls-ca", ferryt_tls_file("ca.pem"), "--max-unauthenticated", "8",
				 "--handshake-timeout", "1s"));
	strcpy(token_path, "/tmp/ferryt-hostile-XXXXXX");
	fd = mkstemp(token_path);
	assert_true(fd >= 0);
	ferryi_token_format(server.token, text);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	assert_true(ferryt_server_says(&server, "to clients with a certificate"));
	at = strstr(ferryt_server_words(&server), "to clients with a certificate");
	while (strncmp(at, "ferry://", 8) != 0)
		at--;
	snprintf(url_text, sizeof(url_text), "%.*s", (int)strcspn(at, " "), at);
	assert_int_equal(ferryi_url_parse(url_text, &url, err, sizeof(err)), 0);
	tls_port = url.port;
	ferryt_conn_login(&watch, &server);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_conn_close(&watch);
	ferryt_server_end(&server);
	unlink(token_path);
	return 0;
}

static bool wait_stat(const char *name, uint64_t at_least)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);

	while (ferryt_stat(&watch, name) < at_least) {
		if (!ferryi_remaining_ms(deadline))
			return false;
		poll(NULL, 0, 5);
	}
	return true;
}

/* The harm is over: others get in. */
static void expect_serving(void)
{
	struct ferryt_conn conn;

	ferryt_conn_login(&conn, &server);
	assert_true(ferryt_keepalive(&conn));
	ferryt_conn_close(&conn);
}

static void open_at(struct ferryt_conn *conn, uint16_t port)
{
	struct ferryt_server door = server;

	door.port = port;
	ferryt_conn_open(conn, &door);
}

/* ---- before authentication ---- */

/* Connections at one port that send these bytes and then nothing. Each is cut off in time. */
static void flood(uint16_t port, const void *bytes, size_t len)
{
	static struct ferryt_conn conns[FLOOD];
	uint64_t before = ferryt_stat(&watch, "c_handshake_timeouts_total");
	struct bystander b;

	bystander_start(&b);
	for (unsigned i = 0; i < FLOOD; i++) {
		open_at(&conns[i], port);
		ferryt_conn_raw(&conns[i], bytes, len);
	}
	assert_true(wait_stat("c_handshake_timeouts_total", before + 8));
	for (unsigned i = 0; i < FLOOD; i++)
		ferryt_conn_close(&conns[i]);
	bystander_end(&b);
	expect_serving();
}

static void flood__silent_connections__others_go_on(void **state)
{
	(void)state;
	flood(server.port, "", 0);
}

static void flood__half_a_hello__others_go_on(void **state)
{
	(void)state;
	flood(server.port, "FFRY\0\0\0\100\22", 9);
}

static void flood__half_a_tls_handshake__others_go_on(void **state)
{
	(void)state;
	flood(tls_port, "\26\3\1\2\0\1\0\1\374\3\3", 11);
}

/* A byte now and then keeps nobody's place. */
static void senders__slow__are_cut_off(void **state)
{
	static const uint8_t head[] = {'F', 'F', 'R', 'Y', 0, 0, 12, 0}; /* 3 KiB: not to be sent in time */
	struct ferryt_conn conns[8];
	struct bystander b;
	uint64_t before = ferryt_stat(&watch, "c_handshake_timeouts_total");
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	unsigned sent = 0;

	(void)state;
	bystander_start(&b);
	for (unsigned i = 0; i < 8; i++)
		open_at(&conns[i], server.port);
	while (ferryt_stat(&watch, "c_handshake_timeouts_total") < before + 8) {
		assert_true(ferryi_remaining_ms(deadline));
		for (unsigned i = 0; i < 8; i++) {
			uint8_t byte = sent < sizeof(head) ? head[sent] : 1;

			send(conns[i].fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		}
		sent++;
		poll(NULL, 0, 10);
	}
	for (unsigned i = 0; i < 8; i++)
		ferryt_conn_close(&conns[i]);
	bystander_end(&b);
	expect_serving();
}

/* Gone as soon as they are there, with a reset. */
static void connections__reset_at_once__others_go_on(void **state)
{
	const struct linger hard = {.l_onoff = 1};
	struct bystander b;

	(void)state;
	bystander_start(&b);
	for (unsigned i = 0; i < 2 * FLOOD; i++) {
		struct ferryt_conn conn;

		open_at(&conn, i % 2 ? tls_port : server.port);
		setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		ferryt_conn_raw(&conn, "FFRY", i % 5);
		ferryt_conn_close(&conn);
	}
	bystander_end(&b);
	expect_serving();
}

/* ---- guesses, and what was overheard ---- */

static void token__guessed_often__is_refused_each_time(void **state)
{
	uint64_t before = ferryt_stat(&watch, "c_auth_failures_total");
	struct bystander b;

	(void)state;
	bystander_start(&b);
	for (unsigned i = 0; i < FLOOD; i++) {
		uint8_t guess[FERRYI_AUTH_TOKEN_LEN];
		Farferry__Envelope *reply;
		struct ferryt_conn conn;

		memcpy(guess, server.token, sizeof(guess));
		guess[i % sizeof(guess)] ^= (uint8_t)(1u << i % 8);
		open_at(&conn, server.port);
		reply = ferryt_conn_auth(&conn, guess);
		assert_true(reply && reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR);
		assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_AUTH);
		ferryi_envelope_free(&reply);
		ferryt_conn_close(&conn);
	}
	assert_true(wait_stat("c_auth_failures_total", before + FLOOD));
	bystander_end(&b);
	expect_serving();
}

static Farferry__Envelope *send_auth(struct ferryt_conn *conn, uint8_t *nonce, uint8_t *mac)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Auth auth = FARFERRY__AUTH__INIT;

	auth.client_nonce = (ProtobufCBinaryData){FERRYI_NONCE_LEN, nonce};
	auth.mac = (ProtobufCBinaryData){FERRYI_MAC_LEN, mac};
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH;
	envelope.auth = &auth;
	return ferryt_conn_call(conn, &envelope);
}

static void auth__overheard_and_sent_again__is_refused(void **state)
{
	uint8_t nonce[FERRYI_NONCE_LEN] = {7}, mac[FERRYI_MAC_LEN];
	struct ferryt_conn owner, thief;
	Farferry__Envelope *hello, *reply;

	(void)state;
	open_at(&owner, server.port);
	hello = ferryt_conn_hello(&owner, 1, 1);
	assert_int_equal(ferryi_auth_mac(FERRYI_ROLE_CLIENT, server.token,
					 hello->hello_reply->server_nonce.data, nonce, mac),
			 0);
	ferryi_envelope_free(&hello);
	reply = send_auth(&owner, nonce, mac);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_AUTH_REPLY);
	ferryi_envelope_free(&reply);
	/* The same bytes on another connection, which has a nonce of its own. */
	open_at(&thief, server.port);
	hello = ferryt_conn_hello(&thief, 1, 1);
	ferryi_envelope_free(&hello);
	reply = send_auth(&thief, nonce, mac);
	assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_ERROR);
	assert_int_equal(reply->error->code, FARFERRY__CODE__CODE_AUTH);
	ferryi_envelope_free(&reply);
	ferryt_conn_expect_end(&thief);
	ferryt_conn_close(&thief);
	ferryt_conn_close(&owner);
}

/* ---- a session that is in, and reaches for others' ---- */

static void leases__of_others__cannot_be_named(void **state)
{
	struct ferryt_lease own;
	struct bystander b;
	struct ferryt_conn conn;

	(void)state;
	bystander_start(&b);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 2 * MIB, &own, NULL, 0), 0);
	/* Numbers are small and in a row: all that there can be, with every epoch so far. */
	for (uint64_t id = 1; id < own.id + 8; id++) {
		struct ferryt_lease guess = {.id = id, .epoch = conn.epoch};

		if (id == own.id)
			continue;
		assert_int_equal(ferryt_grow(&conn, &guess, 2 * MIB, NULL, 0), FARFERRY__CODE__CODE_NO_LEASE);
		assert_int_equal(ferryt_detach(&conn, id, conn.epoch), FARFERRY__CODE__CODE_NO_LEASE);
		for (uint64_t epoch = 1; epoch < conn.epoch; epoch++)
			assert_int_equal(ferryt_detach(&conn, id, epoch), FARFERRY__CODE__CODE_EPOCH);
	}
	ferryt_conn_close(&conn);
	bystander_end(&b);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(flood__silent_connections__others_go_on),
		TEST(flood__half_a_hello__others_go_on),
		TEST(flood__half_a_tls_handshake__others_go_on),
		TEST(senders__slow__are_cut_off),
		TEST(connections__reset_at_once__others_go_on),
		TEST(token__guessed_often__is_refused_each_time),
		TEST(auth__overheard_and_sent_again__is_refused),
		TEST(leases__of_others__cannot_be_named),
	};
	int rc;

	unsetenv("FERRY_AUTH");
	ferryt_tls_begin();
	ferryt_tls_authority("ca");
	ferryt_tls_certificate("server", "ca", "/CN=server", "IP:127.0.0.1");
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_tls_end();
	return rc;
}
