/* The client's control plane against a real ferryd: leases over local and tcp, refusals, and how sessions
 * end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control_child.h"
#include "control_client.h"

#define MIB	  (1u << 20)
#define POOL_SIZE (64u * MIB)
#define CHUNK	  (256u << 10)

/* A server, a client of it, and what most tests open. */
struct fixture {
	struct ferryt_child child;
	struct ferryt_client client;
	struct ferryi_session *session;
	struct ferryi_lease *lease;
	struct ferryi_channel *channel;
	uint8_t *buf; /* CHUNK bytes, registered with channel */
};

static void start(struct fixture *f, const char *const *args)
{
	memset(f, 0, sizeof(*f));
	ferryt_child_start(&f->child, args);
	assert_int_equal(ferryt_client_open(&f->client, f->child.token, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
}

static void open_session(struct fixture *f, const char *fabric)
{
	char url[192];

	snprintf(url, sizeof(url), "%s?fabric=%s", f->child.url, fabric);
	assert_int_equal(ferryt_client_session(&f->client, url, &f->session), 0);
}

static void open_lease(struct fixture *f, const char *fabric, uint64_t size_bytes)
{
	open_session(f, fabric);
	int rc = ferryi_lease_open(f->session, "test", size_bytes, &f->lease);

	if (rc < 0)
		print_message("    %s\n", ferryi_control_last_error());
	assert_int_equal(rc, 0);
	atomic_store(&f->client.lease, f->lease);
}

static void open_channel(struct fixture *f)
{
	f->buf = aligned_alloc(4096, CHUNK);
	assert_non_null(f->buf);
	assert_int_equal(ferryt_client_channel(f->lease, f->buf, CHUNK, &f->channel), 0);
}

static void close_channel(struct fixture *f)
{
	if (f->channel != NULL) {
		ferryi_channel_shutdown(f->channel);
		ferryi_channel_close(&f->channel);
	}
	free(f->buf);
	f->buf = NULL;
}

static void finish(struct fixture *f)
{
	close_channel(f);
	atomic_store(&f->client.lease, NULL);
	ferryi_lease_close(&f->lease);
	ferryi_session_close(&f->session);
	ferryi_control_close(&f->client.control);
	ferryt_child_end(&f->child);
}

static int move(struct fixture *f, enum ferryi_op_kind kind, unsigned extent, uint64_t off)
{
	struct ferryi_op op = {
		.kind = kind,
		.local = f->buf,
		.len_bytes = CHUNK,
		.remote = ferryi_lease_extent(f->lease, extent)->remote,
		.remote_off = off,
		.deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS),
	};

	return ferryt_client_op(f->channel, &op);
}

static uint64_t lease_bytes(const struct ferryi_lease *lease)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < ferryi_lease_extent_count(lease); i++)
		sum += ferryi_lease_extent(lease, i)->len_bytes;
	return sum;
}

/* Giving an extent back may take the tenant's connections down (tcp): then the operation goes again on a new
 * one. */
static void move_or_reconnect(struct fixture *f, enum ferryi_op_kind kind, unsigned extent, uint64_t off,
			      uint8_t mark)
{
	for (int attempt = 0;; attempt++) {
		if (f->channel == NULL)
			open_channel(f);
		memset(f->buf, mark, CHUNK);
		int rc = move(f, kind, extent, off);

		if (rc == 0)
			return;
		assert_int_equal(attempt, 0);
		assert_true(rc == -ECANCELED || rc == -ENOTCONN);
		assert_true(ferryi_channel_is_dead(f->channel));
		close_channel(f);
	}
}

/* Fills every extent with its number, reads all back. */
static void write_and_verify(struct fixture *f)
{
	for (int pass = 0; pass < 2; pass++)
		for (unsigned i = 0; i < ferryi_lease_extent_count(f->lease); i++)
			for (uint64_t off = 0; off < ferryi_lease_extent(f->lease, i)->len_bytes;
			     off += CHUNK) {
				uint8_t mark = (uint8_t)(i * 31 + off / CHUNK + 1);

				move_or_reconnect(f, pass == 0 ? FERRYI_OP_WRITE : FERRYI_OP_READ, i, off,
						  pass == 0 ? mark : 0);
				assert_int_equal(f->buf[0], mark);
				assert_int_equal(f->buf[CHUNK - 1], mark);
			}
}

/* Scrubbing takes its time: asks until the whole pool is free. */
static void expect_pool_free(struct fixture *f)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS);
	struct ferryi_pool_info pool;

	do {
		assert_true(ferryi_now_ns() < deadline_ns);
		assert_int_equal(ferryi_session_pools(f->session, &pool, 1), 1);
	} while (pool.free_bytes != POOL_SIZE);
	assert_string_equal(pool.name, "test");
	assert_int_equal(pool.size_bytes, POOL_SIZE);
}

static void check_lease_life(const char *fabric)
{
	unsigned first = 99, count = 0;
	struct fixture f;

	start(&f, NULL);
	open_lease(&f, fabric, 0);
	assert_int_equal(ferryi_lease_extent_count(f.lease), 0);
	assert_int_equal(ferryi_lease_pool_size(f.lease), POOL_SIZE);
	assert_string_equal(ferryi_lease_row(f.lease)->name, fabric);
	assert_int_equal(ferryi_lease_grow(f.lease, 4 * MIB, &first, &count), 0);
	assert_int_equal(first, 0);
	assert_true(count >= 1);
	assert_int_equal(lease_bytes(f.lease), 4 * MIB);
	write_and_verify(&f);
	assert_int_equal(ferryi_lease_grow(f.lease, 6 * MIB, &first, &count), 0);
	assert_int_equal(lease_bytes(f.lease), 10 * MIB);
	write_and_verify(&f);
	const struct ferryi_extent *given_back = ferryi_lease_extent(f.lease, 0);
	uint64_t len = given_back->len_bytes;

	assert_int_equal(ferryi_lease_shrink(f.lease, 0), 0);
	assert_int_equal(given_back->len_bytes, 0);
	assert_int_equal(ferryi_lease_shrink(f.lease, 0), -EINVAL);
	assert_int_equal(lease_bytes(f.lease), 10 * MIB - len);
	assert_int_equal(ferryi_session_state(f.session), FERRYI_SESSION_LIVE);
	write_and_verify(&f);
	close_channel(&f);
	atomic_store(&f.client.lease, NULL);
	ferryi_lease_close(&f.lease);
	expect_pool_free(&f);
	assert_int_equal(f.client.states.count, 0);
	finish(&f);
}

static void lease__local__grows_shrinks_and_holds_data(void **state)
{
	(void)state;
	check_lease_life("local");
}

static void lease__tcp__grows_shrinks_and_holds_data(void **state)
{
	(void)state;
	check_lease_life("tcp");
}

#define GROWERS 4
#define ROUNDS	8

struct grower {
	struct fixture *f;
	pthread_t thread;
	uint64_t kept; /* bytes */
	int rc;
};

/* Grows by 2 MiB and gives every other extent back. */
static void *grow_and_shrink(void *arg)
{
	struct grower *grower = arg;
	struct ferryi_lease *lease = grower->f->lease;
	unsigned first, count;

	for (int i = 0; i < ROUNDS && grower->rc == 0; i++) {
		grower->rc = ferryi_lease_grow(lease, 2 * MIB, &first, &count);
		if (grower->rc == 0 && ferryi_lease_extent(lease, first)->len_bytes != 2 * MIB)
			grower->rc = -EPROTO;
		if (grower->rc == 0 && i % 2 == 0)
			grower->rc = ferryi_lease_shrink(lease, first);
		else if (grower->rc == 0)
			grower->kept += 2 * MIB;
	}
	return NULL;
}

static void lease__many_threads__each_gets_its_own(void **state)
{
	struct grower growers[GROWERS];
	struct ferryi_pool_info pool;
	uint64_t kept = 0;
	struct fixture f;

	(void)state;
	start(&f, (const char *const[]){"--pool", "name=large,size=256M,backing=memfd,reserve=no", NULL});
	open_session(&f, "local");
	assert_int_equal(ferryi_lease_open(f.session, "large", 0, &f.lease), 0);
	for (int i = 0; i < GROWERS; i++) {
		growers[i] = (struct grower){.f = &f};
		assert_int_equal(pthread_create(&growers[i].thread, NULL, grow_and_shrink, &growers[i]), 0);
	}
	for (int i = 0; i < 2 * ROUNDS; i++)
		assert_int_equal(ferryi_session_pools(f.session, &pool, 1), 2);
	for (int i = 0; i < GROWERS; i++) {
		pthread_join(growers[i].thread, NULL);
		assert_int_equal(growers[i].rc, 0);
		kept += growers[i].kept;
	}
	assert_int_equal(ferryi_lease_extent_count(f.lease), GROWERS * ROUNDS);
	assert_int_equal(lease_bytes(f.lease), kept);
	finish(&f);
}

/* Requests are under way while the server dies: all end, none hangs. */
static void *grow_until_lost(void *arg)
{
	struct grower *grower = arg;
	unsigned first, count;

	do
		grower->rc = ferryi_lease_grow(grower->f->lease, 2 * MIB, &first, &count);
	while (grower->rc == 0 || grower->rc == -ENOMEM);
	return NULL;
}

static void session__server_killed_in_requests__all_end(void **state)
{
	struct grower growers[GROWERS];
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_lease(&f, "local", 2 * MIB);
	for (int i = 0; i < GROWERS; i++) {
		growers[i] = (struct grower){.f = &f};
		assert_int_equal(pthread_create(&growers[i].thread, NULL, grow_until_lost, &growers[i]), 0);
	}
	ferryt_child_signal(&f.child, SIGKILL);
	assert_true(ferryt_gate_wait(&f.client.states, 1));
	for (int i = 0; i < GROWERS; i++) {
		pthread_join(growers[i].thread, NULL);
		/* Or the grant came, and the data plane was gone when it was to be imported. */
		assert_true(growers[i].rc < 0 && growers[i].rc != -ETIMEDOUT);
	}
	finish(&f);
}

static void lease_open__auto_on_one_host__local(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_lease(&f, "auto", 2 * MIB);
	/* Or verbs, where this machine has an active device. */
	assert_int_not_equal(strcmp(ferryi_lease_row(f.lease)->name, "tcp"), 0);
	finish(&f);
}

static void lease_open__pool_unknown__says_which_there_are(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_session(&f, "local");
	assert_int_equal(ferryi_lease_open(f.session, "nosuch", 2 * MIB, &f.lease), -ENXIO);
	assert_non_null(strstr(ferryi_control_last_error(), "test"));
	finish(&f);
}

static void lease_open__pool_full__says_what_is_free(void **state)
{
	unsigned first, count;
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_lease(&f, "local", POOL_SIZE - 2 * MIB);
	assert_int_equal(ferryi_lease_grow(f.lease, 4 * MIB, &first, &count), -ENOMEM);
	print_message("    %s\n", ferryi_control_last_error());
	assert_non_null(strstr(ferryi_control_last_error(), "2097152 bytes are free"));
	assert_int_equal(ferryi_lease_grow(f.lease, 2 * MIB, &first, &count), 0);
	finish(&f);
}

static void lease_open__fabric_not_offered__says_what_is(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, (const char *const[]){"--fabric", "tcp", NULL});
	open_session(&f, "local");
	assert_int_equal(ferryi_lease_open(f.session, "test", 2 * MIB, &f.lease), -ENODEV);
	assert_non_null(strstr(ferryi_control_last_error(), "it offers tcp"));
	finish(&f);
}

static void session_stats__live__some(void **state)
{
	static struct ferryi_session_stat stats[256];
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_session(&f, "local");
	assert_true(ferryi_session_stats(f.session, stats, 256) > 0);
	assert_true(stats[0].name[0] != '\0');
	assert_int_equal(strlen(ferryi_session_server_id(f.session)), 32);
	finish(&f);
}

/* ---- the token ---- */

static void session_open__wrong_token__says_which_to_set(void **state)
{
	uint8_t wrong[FERRYI_AUTH_TOKEN_LEN] = {1};
	struct ferryt_client client;
	struct ferryt_child child;
	struct ferryi_session *session;

	(void)state;
	ferryt_child_start(&child, NULL);
	assert_int_equal(ferryt_client_open(&client, wrong, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, child.url, &session), -EACCES);
	assert_non_null(strstr(ferryi_control_last_error(), "FERRY_TOKEN_FILE"));
	ferryi_control_close(&client.control);
	ferryt_child_end(&child);
}

static void write_token(const char *path, const uint8_t token[FERRYI_AUTH_TOKEN_LEN], mode_t mode)
{
	char text[2 * FERRYI_AUTH_TOKEN_LEN + 1];
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	ferryi_token_format(token, text);
	fprintf(file, "%s\n", text);
	fclose(file);
	assert_int_equal(chmod(path, mode), 0);
}

static void session_open__token_file__found_and_checked(void **state)
{
	char dir[] = "/tmp/ferryt-token-XXXXXX", path[64];
	struct ferryt_client client;
	struct ferryi_session *session;
	struct ferryt_child child;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/token", dir);
	ferryt_child_start(&child, NULL);
	write_token(path, child.token, 0600);
	setenv("FERRY_TOKEN_FILE", path, 1);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, child.url, &session), 0);
	ferryi_control_close(&client.control);
	chmod(path, 0644);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), -EPERM);
	print_message("    %s\n", ferryi_control_last_error());
	unlink(path);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), -ENOENT);
	unsetenv("FERRY_TOKEN_FILE");
	rmdir(dir);
	ferryt_child_end(&child);
}

static void session_open__token_where_ferryd_leaves_it__found(void **state)
{
	char dir[] = "/tmp/ferryt-state-XXXXXX", sub[64], path[80];
	struct ferryt_client client;
	struct ferryi_session *session;
	struct ferryt_child child;

	(void)state;
	if (geteuid() == 0 && access("/var/lib/farferry/token", F_OK) == 0)
		skip(); /* a server of this machine has left one, which comes first */
	assert_non_null(mkdtemp(dir));
	snprintf(sub, sizeof(sub), "%s/farferry", dir);
	snprintf(path, sizeof(path), "%s/token", sub);
	assert_int_equal(mkdir(sub, 0700), 0);
	setenv("XDG_STATE_HOME", dir, 1);
	ferryt_child_start(&child, NULL);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, child.url, &session), -EACCES);
	assert_non_null(strstr(ferryi_control_last_error(), "wants a token"));
	ferryi_control_close(&client.control);
	write_token(path, child.token, 0600);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, child.url, &session), 0);
	ferryi_control_close(&client.control);
	ferryt_child_end(&child);
	unsetenv("XDG_STATE_HOME");
	unlink(path);
	rmdir(sub);
	rmdir(dir);
}

static void session_open__server_without_auth__no_token_needed(void **state)
{
	char dir[] = "/tmp/ferryt-state-XXXXXX";
	struct ferryt_client client;
	struct ferryi_session *session;
	struct ferryt_child child;

	(void)state;
	assert_non_null(mkdtemp(dir));
	setenv("XDG_STATE_HOME", dir, 1);
	ferryt_child_start_open(&child);
	assert_int_equal(ferryt_client_open(&client, NULL, FERRYT_WAIT_MS, FERRYT_WAIT_MS), 0);
	assert_int_equal(ferryt_client_session(&client, child.url, &session), 0);
	ferryi_control_close(&client.control);
	ferryt_child_end(&child);
	unsetenv("XDG_STATE_HOME");
	rmdir(dir);
}

/* ---- how sessions end ---- */

static void expect_dead_data(struct fixture *f)
{
	assert_true(f->client.peer_failed_first);
	assert_int_equal(move(f, FERRYI_OP_READ, 0, 0), -ENOTCONN);
}

static void check_killed(const char *fabric)
{
	unsigned first, count;
	struct fixture f;

	start(&f, NULL);
	open_lease(&f, fabric, 4 * MIB);
	open_channel(&f);
	assert_int_equal(move(&f, FERRYI_OP_WRITE, 0, 0), 0);
	ferryt_child_signal(&f.child, SIGKILL);
	assert_true(ferryt_gate_wait(&f.client.states, 1));
	assert_int_equal(f.client.last_state, FERRYI_SESSION_LOST);
	assert_int_equal(ferryi_session_state(f.session), FERRYI_SESSION_LOST);
	assert_int_equal(ferryi_session_lost_reason(f.session), FERRYI_LOST_CLOSED);
	expect_dead_data(&f);
	assert_int_equal(ferryi_lease_grow(f.lease, 2 * MIB, &first, &count), -ENOTCONN);
	finish(&f);
	assert_int_equal(f.client.states.count, 1);
}

static void session__server_killed_local__lost_and_data_fails(void **state)
{
	(void)state;
	check_killed("local");
}

static void session__server_killed_tcp__lost_and_data_fails(void **state)
{
	(void)state;
	check_killed("tcp");
}

static void session__server_stopped__lost_keepalive(void **state)
{
	struct fixture f;

	(void)state;
	start(&f, (const char *const[]){"--keepalive", "1000", "--timeout", "4000", NULL});
	open_lease(&f, "local", 4 * MIB);
	open_channel(&f);
	ferryt_child_stop(&f.child);
	assert_true(ferryt_gate_wait(&f.client.states, 1));
	assert_int_equal(ferryi_session_lost_reason(f.session), FERRYI_LOST_KEEPALIVE);
	expect_dead_data(&f);
	finish(&f);
}

static void session__server_drains__told_and_server_ends_when_given_back(void **state)
{
	struct ferryi_lease *second = NULL;
	struct fixture f;

	(void)state;
	start(&f, NULL);
	open_lease(&f, "local", 4 * MIB);
	open_channel(&f);
	ferryt_child_signal(&f.child, SIGTERM);
	assert_true(ferryt_gate_wait(&f.client.states, 1));
	assert_int_equal(f.client.last_state, FERRYI_SESSION_DRAINING);
	assert_int_equal(ferryi_lease_open(f.session, "test", 2 * MIB, &second), -ESHUTDOWN);
	assert_int_equal(move(&f, FERRYI_OP_WRITE, 0, 0), 0); /* data still flows */
	close_channel(&f);
	atomic_store(&f.client.lease, NULL);
	ferryi_lease_close(&f.lease);
	assert_int_equal(ferryt_child_wait(&f.child), 0);
	finish(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lease__local__grows_shrinks_and_holds_data),
		cmocka_unit_test(lease__tcp__grows_shrinks_and_holds_data),
		cmocka_unit_test(lease__many_threads__each_gets_its_own),
		cmocka_unit_test(session__server_killed_in_requests__all_end),
		cmocka_unit_test(lease_open__auto_on_one_host__local),
		cmocka_unit_test(lease_open__pool_unknown__says_which_there_are),
		cmocka_unit_test(lease_open__pool_full__says_what_is_free),
		cmocka_unit_test(lease_open__fabric_not_offered__says_what_is),
		cmocka_unit_test(session_stats__live__some),
		cmocka_unit_test(session_open__wrong_token__says_which_to_set),
		cmocka_unit_test(session_open__token_file__found_and_checked),
		cmocka_unit_test(session_open__token_where_ferryd_leaves_it__found),
		cmocka_unit_test(session_open__server_without_auth__no_token_needed),
		cmocka_unit_test(session__server_killed_local__lost_and_data_fails),
		cmocka_unit_test(session__server_killed_tcp__lost_and_data_fails),
		cmocka_unit_test(session__server_stopped__lost_keepalive),
		cmocka_unit_test(session__server_drains__told_and_server_ends_when_given_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
