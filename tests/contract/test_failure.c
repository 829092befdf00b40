/*
 * Servers that die, stop, come back; deadlines; channels that are shut down.
 */
#include <poll.h>

#include "harness.h"

#define BIG (512 * KIB) /* 16 of them fill the world's buffer */

static void fill_reads(struct ferryt_world *w, struct ferryi_op *ops, struct ferryi_op **list, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		ops[i] = ferryt_op(FERRYI_OP_READ, &w->region, (i % 8) * BIG, w->buf + i * BIG, BIG);
		list[i] = &ops[i];
	}
}

/* After completion nothing may write to the buffer: leaves a mark and looks for a while. */
static void assert_buffer_at_rest(struct ferryt_world *w)
{
	struct ferryi_op *done;

	memset(w->buf, 0xa5, FERRYT_BUF_LEN);
	for (uint64_t until = ferryi_deadline_ms(100); ferryi_now_ns() < until;) {
		poll(NULL, 0, 5);
		(void)ferryi_peer_events(w->peer);
		assert_true(ferryi_channel_poll(w->channel, &done, 1) <= 0);
	}
	for (size_t i = 0; i < FERRYT_BUF_LEN; i++) {
		if (w->buf[i] != 0xa5)
			fail_msg("byte %zu of the buffer changed after its operation had completed", i);
	}
}

/* The client comes to know that the server is gone, by whatever way the row has, and says -ENOTCONN from then
 * on. */
static void assert_end_is_noticed(struct ferryt_world *w)
{
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);

	for (;;) {
		struct ferryi_op op = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, 4096);

		op.deadline_ns = ferryi_deadline_ms(2000);
		(void)ferryi_peer_events(w->peer);
		if (ferryt_run(w->channel, &op) == -ENOTCONN)
			break;
		assert_true(ferryi_now_ns() < until);
	}
	struct ferryi_op *done;

	assert_int_equal(ferryi_channel_poll(w->channel, &done, 1), -ENOTCONN);
	assert_true(ferryi_channel_is_dead(w->channel));
	assert_int_equal(ferryi_channel_outstanding(w->channel), 0);
}

static void assert_ended(const struct ferryi_op *op)
{
	if (op->status != 0 && op->status != -ECANCELED && op->status != -ENOTCONN &&
	    op->status != -ETIMEDOUT && op->status != -EACCES)
		fail_msg("operation ended with %d (%s)", op->status,
			 strerror(op->status < 0 ? -op->status : 0));
}

static void server__killed_with_reads_outstanding__all_complete_once(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[16], *list[16];

	fill_reads(w, ops, list, 16);
	for (unsigned i = 0; i < 16; i++)
		ops[i].deadline_ns = ferryi_deadline_ms(10000);
	int taken = ferryi_channel_submit(w->channel, list, 16);

	assert_in_range(taken, 1, 16);
	ferryt_node_kill(&ferryt_node);
	ferryt_drain(w->channel, ops, (unsigned)taken);
	for (int i = 0; i < taken; i++)
		assert_ended(&ops[i]);
	assert_end_is_noticed(w);
	assert_buffer_at_rest(w);
}

/* No deadline on the operations: the row must find out by itself or by the peer's events. */
static void server__killed__reads_without_deadline_end_too(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[8], *list[8];
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	int back = 0;

	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_node_kill(&ferryt_node);
	fill_reads(w, ops, list, 8);
	int taken = ferryi_channel_submit(w->channel, list, 8);

	while (back < taken) {
		struct ferryi_op *done[8];
		int n = ferryi_channel_poll(w->channel, done, 8);

		assert_true(n >= 0);
		back += n;
		for (int i = 0; i < n; i++)
			assert_ended(done[i]);
		(void)ferryi_peer_events(w->peer);
		assert_true(ferryi_now_ns() < until);
	}
	assert_end_is_noticed(w);
	assert_buffer_at_rest(w);
}

static void server__killed__peer_has_news(void **state)
{
	struct ferryt_world *w = *state;
	struct pollfd pfd = {.fd = ferryi_peer_event_fd(w->peer), .events = POLLIN};
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	struct ferryi_op *done;

	if (pfd.fd == -ENOTSUP)
		skip();
	assert_true(pfd.fd >= 0);
	assert_int_equal(ferryi_peer_events(w->peer), 0);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_node_kill(&ferryt_node);
	while (ferryi_peer_events(w->peer) != -ENOTCONN) {
		assert_true(ferryi_now_ns() < until);
		assert_true(poll(&pfd, 1, ferryi_remaining_ms(until)) > 0);
	}
	assert_true(ferryi_peer_is_failed(w->peer));
	assert_int_equal(ferryi_channel_poll(w->channel, &done, 1), -ENOTCONN);
}

static void server__killed__opening_fails_in_time(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_channel *channel = NULL;
	struct ferryi_peer *peer = NULL;

	ferryt_node_kill(&ferryt_node);
	struct ferryi_peer_attr attr = {
		.row = ferryt_row,
		.addr = w->tenant.addr,
		.control_host = ferryt_host(),
	};
	memcpy(attr.token, w->tenant.token, sizeof(attr.token));
	int err = ferryi_peer_open(&attr, ferryi_deadline_ms(5000), &peer);

	if (!err) {
		err = ferryi_channel_open(peer, 4, ferryi_deadline_ms(5000), &channel);
		ferryi_peer_close(&peer);
	}
	if (err != -ECONNREFUSED && err != -EHOSTUNREACH && err != -ETIMEDOUT && err != -ENOTCONN)
		fail_msg("opening ended with %d (%s)", err, strerror(-err));
	err = ferryi_channel_open(w->peer, 4, ferryi_deadline_ms(5000), &channel);
	if (!err) /* local: only the peer's events tell it */
		ferryt_channel_end(&channel);
}

static void server__restarted__client_starts_again(void **state)
{
	struct ferryt_world *w = *state;

	for (int round = 0; round < 3; round++) {
		assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, FERRYT_WORLD_LEN), 0);
		assert_int_equal(ferryt_pattern_check(w->buf, w->region.seed, 0, FERRYT_WORLD_LEN),
				 FERRYT_WORLD_LEN);
		ferryt_node_kill(&ferryt_node);
		ferryt_channel_end(&w->channel);
		ferryi_peer_close(&w->peer);
		assert_int_equal(ferryt_node_start(&ferryt_node, ferryt_row), 0);
		w->tenant = ferryt_tenant_open();
		w->region =
			ferryt_region_open(&w->tenant, FERRYT_WORLD_LEN, FERRYT_RW, 200 + (unsigned)round);
		w->peer = ferryt_peer_open(&w->tenant);
		ferryt_import(w->peer, &w->region);
		w->channel = ferryt_channel_open(w->peer, 16, w->buf, FERRYT_BUF_LEN);
	}
}

static void server__stopped__operations_end_at_their_deadline(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[4], *list[4];
	struct ferryi_op *done;

	if (ferryt_row_has(FERRYI_FABRIC_DATA_OUTLIVES_STOP))
		skip();
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_node_stop(&ferryt_node);
	fill_reads(w, ops, list, 4);
	ops[1].kind = FERRYI_OP_WRITE;
	ops[2].deadline_ns = ferryi_deadline_ms(300);
	assert_int_equal(ferryi_channel_submit(w->channel, list, 4), 4);
	ferryt_drain(w->channel, ops, 4);
	assert_int_equal(ops[0].status, -ECANCELED);
	assert_int_equal(ops[1].status, -ECANCELED);
	assert_int_equal(ops[2].status, -ETIMEDOUT);
	assert_int_equal(ops[3].status, -ECANCELED);
	assert_true(ferryi_now_ns() >= ops[2].deadline_ns);
	assert_true(ferryi_channel_is_dead(w->channel));
	assert_int_equal(ferryi_channel_submit(w->channel, list, 1), -ENOTCONN);
	assert_int_equal(ferryi_channel_poll(w->channel, &done, 1), -ENOTCONN);
	/* what the server does when it goes on must not reach the buffer */
	memset(w->buf, 0, FERRYT_BUF_LEN);
	ferryt_node_cont(&ferryt_node);
	assert_buffer_at_rest(w);
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, 4096), 4096);
}

static void server__stopped__data_still_flows(void **state)
{
	struct ferryt_world *w = *state;

	if (!ferryt_row_has(FERRYI_FABRIC_DATA_OUTLIVES_STOP))
		skip();
	ferryt_node_stop(&ferryt_node);
	ferryt_pattern_fill(w->buf, 6, 0, MIB);
	assert_int_equal(ferryt_write(w->channel, &w->region, 0, w->buf, MIB), 0);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf + MIB, MIB), 0);
	assert_memory_equal(w->buf, w->buf + MIB, MIB);
	ferryt_node_cont(&ferryt_node);
	assert_true(ferryt_region_holds(&w->region, 0, MIB, 6));
}

static void server__stopped__opening_ends_at_its_deadline(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_channel *channel = NULL;

	ferryt_node_stop(&ferryt_node);
	int err = ferryi_channel_open(w->peer, 4, ferryi_deadline_ms(400), &channel);

	/* where connections need no server a channel may open; imports do need it */
	if (!err)
		ferryt_channel_end(&channel);
	else
		assert_int_equal(err, -ETIMEDOUT);
	if (ferryt_row_has(FERRYI_FABRIC_SAME_HOST) && !ferryt_row_has(FERRYI_FABRIC_TEST_ONLY)) {
		struct ferryi_remote unknown = {.key = 42, .len_bytes = 4096};

		assert_int_equal(ferryi_peer_import(w->peer, &unknown, ferryi_deadline_ms(200)), -ETIMEDOUT);
		ferryt_node_cont(&ferryt_node);
		/* the late answer to that one is not taken for the next one's */
		assert_int_equal(ferryi_peer_import(w->peer, &w->region.remote, ferryi_deadline_ms(20000)),
				 0);
		unknown.key = 43;
		assert_int_equal(ferryi_peer_import(w->peer, &unknown, ferryi_deadline_ms(20000)), -EACCES);
	} else {
		ferryt_node_cont(&ferryt_node);
	}
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void deadline__already_past__operation_ends(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op op = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, 4096);

	op.deadline_ns = 1;
	int status = ferryt_run(w->channel, &op);

	/* it may come through first, or even while the channel is being shut down for it */
	assert_true(status == 0 || (status == -ETIMEDOUT && ferryi_channel_is_dead(w->channel)));
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void deadline__far_off__changes_nothing(void **state)
{
	struct ferryt_world *w = *state;

	for (int i = 0; i < 100; i++) {
		struct ferryi_op op = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, 4096);

		op.deadline_ns = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
		assert_int_equal(ferryt_run(w->channel, &op), 0);
	}
}

static void channel__shut_down__completes_everything(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[16], *list[16], *done;

	fill_reads(w, ops, list, 16);
	int taken = ferryi_channel_submit(w->channel, list, 16);

	assert_in_range(taken, 1, 16);
	ferryi_channel_shutdown(w->channel);
	ferryt_drain(w->channel, ops, (unsigned)taken);
	for (int i = 0; i < taken; i++)
		assert_true(ops[i].status == 0 || ops[i].status == -ECANCELED);
	assert_int_equal(ferryi_channel_submit(w->channel, list, 1), -ENOTCONN);
	assert_int_equal(ferryi_channel_poll(w->channel, &done, 1), -ENOTCONN);
	assert_buffer_at_rest(w);
	/* twice is harmless, and the peer is well */
	ferryi_channel_shutdown(w->channel);
	assert_false(ferryi_peer_is_failed(w->peer));
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void channel__one_of_two_shut_down__spares_the_other(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_channel *other = ferryt_channel_open(w->peer, 4, w->buf + 4 * MIB, MIB);

	ferryi_channel_shutdown(other);
	ferryt_channel_end(&other);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void peer__declared_dead__its_channels_end(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[16], *list[16], *done;
	struct ferryi_channel *second = NULL;

	fill_reads(w, ops, list, 16);
	int taken = ferryi_channel_submit(w->channel, list, 16);

	assert_in_range(taken, 1, 16);
	ferryi_peer_fail(w->peer);
	ferryt_drain(w->channel, ops, (unsigned)taken);
	for (int i = 0; i < taken; i++)
		assert_true(ops[i].status == 0 || ops[i].status == -ECANCELED);
	assert_int_equal(ferryi_channel_submit(w->channel, list, 1), -ENOTCONN);
	assert_int_equal(ferryi_channel_poll(w->channel, &done, 1), -ENOTCONN);
	assert_true(ferryi_peer_is_failed(w->peer));
	assert_int_equal(ferryi_peer_events(w->peer), -ENOTCONN);
	assert_int_equal(ferryi_channel_open(w->peer, 4, ferryi_deadline_ms(5000), &second), -ENOTCONN);
	assert_buffer_at_rest(w);
}

int ferryt_group_failure(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(server__killed_with_reads_outstanding__all_complete_once),
		FERRYT_TEST(server__killed__reads_without_deadline_end_too),
		FERRYT_TEST(server__killed__peer_has_news),
		FERRYT_TEST(server__killed__opening_fails_in_time),
		FERRYT_TEST(server__restarted__client_starts_again),
		FERRYT_TEST(server__stopped__operations_end_at_their_deadline),
		FERRYT_TEST(server__stopped__data_still_flows),
		FERRYT_TEST(server__stopped__opening_ends_at_its_deadline),
		FERRYT_TEST(deadline__already_past__operation_ends),
		FERRYT_TEST(deadline__far_off__changes_nothing),
		FERRYT_TEST(channel__shut_down__completes_everything),
		FERRYT_TEST(channel__one_of_two_shut_down__spares_the_other),
		FERRYT_TEST(peer__declared_dead__its_channels_end),
	};

	return cmocka_run_group_tests_name("failure", tests, NULL, NULL);
}
