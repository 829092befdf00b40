/*
 * Sleeping: a client that waits is woken, and nobody burns CPU while idle.
 */
#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

#include "harness.h"

/* Sleeps without any time of its own: only the row can wake it. */
static void sleep_until_done(struct ferryi_channel *channel, struct ferryi_op *op)
{
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	struct ferryi_op *done = NULL;
	int n;

	while ((n = ferryi_channel_poll(channel, &done, 1)) == 0) {
		int armed = ferryi_channel_arm(channel);

		assert_true(armed == 0 || armed == -EAGAIN);
		if (armed == 0) {
			struct pollfd pfd = {.fd = ferryi_channel_wait_fd(channel), .events = POLLIN};

			assert_true(pfd.fd >= 0);
			assert_true(poll(&pfd, 1, ferryi_remaining_ms(until)) > 0);
		}
		assert_true(ferryi_now_ns() < until);
	}
	assert_int_equal(n, 1);
	assert_ptr_equal(done, op);
}

static bool can_sleep(const struct ferryt_world *w)
{
	return ferryi_channel_arm(w->channel) != -ENOTSUP;
}

static void wait__for_reads_and_writes__wakes_each_time(void **state)
{
	struct ferryt_world *w = *state;

	if (!can_sleep(w))
		skip();
	for (unsigned i = 0; i < 200; i++) {
		size_t len = i % 10 == 0 ? MIB : 4096;
		struct ferryi_op op =
			ferryt_op(i % 2 ? FERRYI_OP_WRITE : FERRYI_OP_READ, &w->region, 0, w->buf, len);
		struct ferryi_op *list = &op;

		assert_int_equal(ferryi_channel_submit(w->channel, &list, 1), 1);
		sleep_until_done(w->channel, &op);
		assert_int_equal(op.status, 0);
	}
}

static void *cont_main(void *arg)
{
	(void)arg;
	poll(NULL, 0, 50);
	ferryt_node_cont(&ferryt_node);
	return NULL;
}

static void wait__for_a_stopped_server__wakes_when_it_goes_on(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op op = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, MIB);
	struct ferryi_op *list = &op;
	pthread_t thread;

	if (!can_sleep(w) || ferryt_row_has(FERRYI_FABRIC_DATA_OUTLIVES_STOP))
		skip();
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_node_stop(&ferryt_node);
	assert_int_equal(ferryi_channel_submit(w->channel, &list, 1), 1);
	assert_int_equal(pthread_create(&thread, NULL, cont_main, NULL), 0);
	sleep_until_done(w->channel, &op);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(op.status, 0);
}

static void *fail_main(void *arg)
{
	struct ferryt_world *w = arg;

	poll(NULL, 0, 50);
	ferryi_peer_fail(w->peer);
	return NULL;
}

/* Nothing outstanding: what wakes the sleeper is the end of the peer. */
static void wait__peer_declared_dead__wakes(void **state)
{
	struct ferryt_world *w = *state;
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	struct ferryi_op *done;
	pthread_t thread;

	if (!can_sleep(w))
		skip();
	assert_int_equal(pthread_create(&thread, NULL, fail_main, w), 0);
	while (ferryi_channel_poll(w->channel, &done, 1) != -ENOTCONN) {
		if (ferryi_channel_arm(w->channel) == 0) {
			struct pollfd pfd = {.fd = ferryi_channel_wait_fd(w->channel), .events = POLLIN};

			assert_true(poll(&pfd, 1, ferryi_remaining_ms(until)) > 0);
		}
		assert_true(ferryi_now_ns() < until);
	}
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static uint64_t own_cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* A second of nothing, after some work; 5 % of a core is far above idle and far below spinning. */
static void idle__after_work__costs_no_cpu(void **state)
{
	struct ferryt_world *w = *state;

	for (int i = 0; i < 50; i++)
		assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	/* the server spins a while after work, by design */
	poll(NULL, 0, 50);

	uint64_t server = ferryt_server_cpu_us();
	uint64_t client = own_cpu_us();

	poll(NULL, 0, 1000);
	client = own_cpu_us() - client;
	server = ferryt_server_cpu_us() - server;
	if (client >= 50000)
		fail_msg("an idle client used %llu us of CPU in a second", (unsigned long long)client);
	if (server >= 50000)
		fail_msg("an idle server used %llu us of CPU in a second", (unsigned long long)server);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

int ferryt_group_wait(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(wait__for_reads_and_writes__wakes_each_time),
		FERRYT_TEST(wait__for_a_stopped_server__wakes_when_it_goes_on),
		FERRYT_TEST(wait__peer_declared_dead__wakes),
		FERRYT_TEST(idle__after_work__costs_no_cpu),
	};

	return cmocka_run_group_tests_name("wait", tests, NULL, NULL);
}
