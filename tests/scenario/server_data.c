/*
 * One-sided data through a real ferryd, on every row that this machine has:
 * leases carry bytes, tenants cannot reach each other, nobody sees what another left.
 * Run as `... client HOST PORT TOKEN ROW` it is a client that waits to be killed.
 */
#include "server_kit.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"

#define MIB  ((uint64_t)1 << 20)
#define POOL (16 * MIB)

extern char **environ;

static struct ferryt_server server;
static const char *row; /* of the test being run */
static char self[4096];

static int setup(void **state)
{
	const char *args[] = {"--pool", "name=hot,size=16M", "--fabric", *state, "--log-level", "info", NULL};

	row = *state;
	ferryt_server_start(&server, args);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ferryt_server_end(&server);
	return 0;
}

static void attach_all(struct ferryt_conn *conn, struct ferryt_lease *lease)
{
	char text[512] = "";

	if (ferryt_attach(conn, "hot", row, POOL, lease, text, sizeof(text))) {
		print_error("attach over %s: %s\n", row, text);
		fail();
	}
}

static void lease__written__reads_back(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", row, 4 * MIB, &lease, NULL, 0), 0);
	assert_string_equal(lease.fabric, row);
	assert_int_equal(lease.pool_size, POOL);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_expect_zero(&data, &lease);
	ferryt_data_fill(&data, &lease, 1);
	ferryt_data_expect(&data, &lease, 1);

	/* More beside it, without harm to what is there. */
	assert_int_equal(ferryt_grow(&conn, &lease, 8 * MIB, NULL, 0), 0);
	ferryt_data_import(&data, &lease);
	ferryt_data_expect(&data, &(struct ferryt_lease){.extents = {lease.extents[0]}, .nextents = 1}, 1);
	ferryt_data_fill(&data, &lease, 2);
	ferryt_data_expect(&data, &lease, 2);

	/* Less of it: the rest stays. */
	ferryi_peer_forget(data.peer, &lease.extents[0].remote);
	assert_int_equal(ferryt_shrink(&conn, &lease, 0), 0);
	ferryt_data_reconnect(&data);
	ferryt_data_expect(&data, &lease, 2);
	assert_true(ferryt_keepalive(&conn));
	ferryt_data_close(&data);
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	assert_true(ferryt_wait_free(&conn, POOL));
	ferryt_conn_close(&conn);
}

static void extent__shrunk_away__cannot_be_reached(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;
	struct ferryi_remote gone;

	(void)state;
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", row, 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_grow(&conn, &lease, 2 * MIB, NULL, 0), 0);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 3);
	gone = lease.extents[0].remote;
	assert_int_equal(ferryt_shrink(&conn, &lease, 0), 0);
	assert_int_not_equal(ferryt_data_move(&data, FERRYI_OP_READ, &gone, 0, 4096), 0);
	assert_int_not_equal(ferryt_data_move(&data, FERRYI_OP_WRITE, &gone, 0, 4096), 0);
	/* A refused key may cost the connection, never the lease. */
	ferryt_data_expect(&data, &lease, 3);
	ferryt_data_close(&data);
	ferryt_conn_close(&conn);
}

static void tenant__key_of_another__is_refused(void **state)
{
	struct ferryt_conn owner, thief;
	struct ferryt_lease lease, other;
	struct ferryt_data data, stolen;
	const struct ferryi_remote *target = &lease.extents[0].remote;
	int rc;

	(void)state;
	ferryt_conn_login(&owner, &server);
	ferryt_conn_login(&thief, &server);
	assert_int_equal(ferryt_attach(&owner, "hot", row, 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&thief, "hot", row, 2 * MIB, &other, NULL, 0), 0);
	assert_memory_not_equal(lease.token, other.token, sizeof(lease.token));
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_open(&stolen, &server, &other);
	ferryt_data_fill(&data, &lease, 4);
	ferryt_data_fill(&stolen, &other, 5);

	/* The thief knows the key and the address, but not the owner's token. */
	rc = ferryi_peer_import(stolen.peer, target, ferryi_deadline_ms(FERRYT_WAIT_MS));
	if (!rc) {
		memset(stolen.buffer, 0xff, FERRYT_BUFFER_LEN);
		assert_int_not_equal(ferryt_data_move(&stolen, FERRYI_OP_WRITE, target, 0, 4096), 0);
		assert_int_not_equal(ferryt_data_move(&stolen, FERRYI_OP_READ, target, 0, 4096), 0);
	}
	ferryt_data_expect(&data, &lease, 4);
	ferryt_data_expect(&stolen, &other, 5);
	ferryt_data_close(&data);
	ferryt_data_close(&stolen);
	ferryt_conn_close(&owner);
	ferryt_conn_close(&thief);
}

static void memory__of_closed_session__is_zero_for_the_next(void **state)
{
	struct ferryt_conn conn, next;
	struct ferryt_lease lease;
	struct ferryt_data data;

	(void)state;
	ferryt_conn_login(&conn, &server);
	attach_all(&conn, &lease);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 6);
	ferryt_data_close(&data);
	ferryt_conn_close(&conn);

	ferryt_conn_login(&next, &server);
	assert_true(ferryt_wait_free(&next, POOL));
	attach_all(&next, &lease);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_expect_zero(&data, &lease);
	ferryt_data_close(&data);
	ferryt_conn_close(&next);
}

static void memory__detached__is_zero_for_the_next(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;

	(void)state;
	ferryt_conn_login(&conn, &server);
	for (uint8_t round = 0; round < 3; round++) {
		attach_all(&conn, &lease);
		ferryt_data_open(&data, &server, &lease);
		ferryt_data_expect_zero(&data, &lease);
		ferryt_data_fill(&data, &lease, round);
		ferryt_data_close(&data);
		assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	}
	ferryt_conn_close(&conn);
}

/* ---- a client that is killed with its data connection open ---- */

static int client_main(char **argv)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;

	snprintf(server.host, sizeof(server.host), "%s", argv[0]);
	server.port = (uint16_t)strtoul(argv[1], NULL, 10);
	assert_int_equal(ferryi_token_parse(argv[2], server.token), 0);
	row = argv[3];
	ferryt_conn_login(&conn, &server);
	attach_all(&conn, &lease);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 7);
	if (write(STDOUT_FILENO, "filled\n", 7) != 7)
		return 1;
	/* Until killed; the bound is for a parent that died. */
	poll(NULL, 0, FERRYT_WAIT_MS);
	return 1;
}

static void read_line(int fd, char *line, size_t size)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_WAIT_MS);
	size_t len = 0;

	while (len < size - 1 && (!len || line[len - 1] != '\n')) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n = poll(&pfd, 1, ferryi_remaining_ms(deadline)) == 1 ? read(fd, line + len, 1) : 0;

		if (n <= 0)
			break;
		len++;
	}
	line[len] = '\0';
}

static void memory__of_killed_client__is_zero_for_the_next(void **state)
{
	char token[2 * FERRYI_AUTH_TOKEN_LEN + 1], port[8], line[32];
	char *argv[] = {self, (char *)"client", server.host, port, token, (char *)row, NULL};
	posix_spawn_file_actions_t actions;
	struct ferryt_conn conn;
	struct ferryt_lease lease;
	struct ferryt_data data;
	int out[2];
	pid_t pid;

	(void)state;
	ferryi_token_format(server.token, token);
	snprintf(port, sizeof(port), "%u", server.port);
	assert_int_equal(pipe(out), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
	assert_int_equal(posix_spawn(&pid, self, &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(out[1]);
	read_line(out[0], line, sizeof(line));
	close(out[0]);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_string_equal(line, "filled\n");

	ferryt_conn_login(&conn, &server);
	assert_true(ferryt_wait_free(&conn, POOL));
	attach_all(&conn, &lease);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_expect_zero(&data, &lease);
	ferryt_data_close(&data);
	ferryt_conn_close(&conn);
}

/* ---- the list of tests: each on each row ---- */

static const struct {
	const char *name;
	CMUnitTestFunction run;
} cases[] = {
	{"lease__written__reads_back", lease__written__reads_back},
	{"extent__shrunk_away__cannot_be_reached", extent__shrunk_away__cannot_be_reached},
	{"tenant__key_of_another__is_refused", tenant__key_of_another__is_refused},
	{"memory__of_closed_session__is_zero_for_the_next", memory__of_closed_session__is_zero_for_the_next},
	{"memory__detached__is_zero_for_the_next", memory__detached__is_zero_for_the_next},
	{"memory__of_killed_client__is_zero_for_the_next", memory__of_killed_client__is_zero_for_the_next},
};

#define NCASES (sizeof(cases) / sizeof(cases[0]))
#define NROWS  8

int main(int argc, char **argv)
{
	static struct CMUnitTest tests[NCASES * NROWS];
	static char names[NCASES * NROWS][96];
	ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
	size_t n = 0;
	char why[256];

	ferryi_fabric_setup();
	if (argc == 6 && strcmp(argv[1], "client") == 0)
		return client_main(argv + 2);
	if (len <= 0)
		return 1;
	for (unsigned i = 0; ferryi_fabric_at(i) && n < NCASES * NROWS; i++) {
		const struct ferryi_fabric_row *r = ferryi_fabric_at(i);

		if (r->flags & FERRYI_FABRIC_TEST_ONLY)
			continue;
		if (ferryi_fabric_usable(r, why, sizeof(why))) {
			printf("skipped on %s: %s\n", r->name, why);
			continue;
		}
		for (size_t c = 0; c < NCASES; c++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s:%s", r->name, cases[c].name);
			tests[n] = (struct CMUnitTest){
				.name = names[n],
				.test_func = cases[c].run,
				.setup_func = setup,
				.teardown_func = teardown,
				.initial_state = (void *)r->name,
			};
		}
	}
	return _cmocka_run_group_tests("server_data", tests, n, NULL, NULL);
}
