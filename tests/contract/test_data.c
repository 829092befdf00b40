/*
 * What a read and a write do to the bytes: sizes, places, batches, bounds.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "harness.h"

static void read__whole_region__returns_its_bytes(void **state)
{
	struct ferryt_world *w = *state;

	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, FERRYT_WORLD_LEN), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, FERRYT_WORLD_LEN), FERRYT_WORLD_LEN);
}

static void read__one_page__leaves_the_rest_of_the_buffer(void **state)
{
	struct ferryt_world *w = *state;

	memset(w->buf, 0xee, 3 * 4096);
	assert_int_equal(ferryt_read(w->channel, &w->region, 40960, w->buf + 4096, 4096), 0);
	assert_int_equal(ferryt_pattern_check(w->buf + 4096, 1, 40960, 4096), 4096);
	for (size_t i = 0; i < 4096; i++) {
		assert_int_equal(w->buf[i], 0xee);
		assert_int_equal(w->buf[8192 + i], 0xee);
	}
}

static void write__then_read__returns_what_was_written(void **state)
{
	struct ferryt_world *w = *state;

	ferryt_pattern_fill(w->buf, 2, 0, MIB);
	assert_int_equal(ferryt_write(w->channel, &w->region, 12288, w->buf, MIB), 0);
	assert_int_equal(ferryt_read(w->channel, &w->region, 12288, w->buf + MIB, MIB), 0);
	assert_memory_equal(w->buf, w->buf + MIB, MIB);
}

static void write__completed__is_in_the_servers_memory(void **state)
{
	struct ferryt_world *w = *state;

	for (uint64_t i = 0; i < 32; i++) {
		uint64_t off = i * 4096;

		ferryt_pattern_fill(w->buf, 100 + i, off, 4096);
		assert_int_equal(ferryt_write(w->channel, &w->region, off, w->buf, 4096), 0);
		assert_true(ferryt_region_holds(&w->region, off, 4096, 100 + i));
	}
	assert_true(ferryt_region_holds(&w->region, 32 * 4096, FERRYT_WORLD_LEN - 32 * 4096, 1));
}

/* What the pager does with its staging area: other frames at a registered address, between the operations there. */
static void op__in_local_memory_with_new_frames__works_on_these(void **state)
{
	struct ferryt_world *w = *state;

	if (!ferryi_channel_is_unpinned(w->channel))
		skip();
	for (uint64_t i = 0; i < 8; i++) {
		uint64_t off = i * 8192;

		assert_int_equal(madvise(w->buf, 16384, MADV_DONTNEED), 0);
		ferryt_pattern_fill(w->buf, 200 + i, off, 8192);
		assert_int_equal(ferryt_write(w->channel, &w->region, off, w->buf, 8192), 0);
		assert_true(ferryt_region_holds(&w->region, off, 8192, 200 + i));
		assert_int_equal(madvise(w->buf, 16384, MADV_DONTNEED), 0);
		memset(w->buf, 0, 16384);
		assert_int_equal(ferryt_read(w->channel, &w->region, off, w->buf + 8192, 8192), 0);
		assert_int_equal(ferryt_pattern_check(w->buf + 8192, 200 + i, off, 8192), 8192);
	}
}

/* A server that stands still has not got the bytes, so the write must not say that it has. */
static void write__to_a_stopped_server__completes_only_when_delivered(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op *done;
	struct ferryi_op op, *list = &op;
	int n = 0;

	if (ferryt_row_has(FERRYI_FABRIC_DATA_OUTLIVES_STOP))
		skip();
	/* the first operation of a connection may have to set things up */
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	ferryt_pattern_fill(w->buf, 3, 4096, 4096);
	op = ferryt_op(FERRYI_OP_WRITE, &w->region, 4096, w->buf, 4096);
	ferryt_node_stop(&ferryt_node);
	assert_int_equal(ferryi_channel_submit(w->channel, &list, 1), 1);
	for (uint64_t until = ferryi_deadline_ms(200); ferryi_now_ns() < until && n == 0;) {
		n = ferryi_channel_poll(w->channel, &done, 1);
		ferryt_channel_wait(w->channel, until);
	}
	assert_int_equal(n, 0);
	ferryt_node_cont(&ferryt_node);
	ferryt_drain(w->channel, &op, 1);
	assert_int_equal(op.status, 0);
	assert_true(ferryt_region_holds(&w->region, 4096, 4096, 3));
}

static void op__odd_sizes_and_places__touches_exactly_its_bytes(void **state)
{
	static const size_t lens[] = {1, 2, 3, 7, 8, 63, 65, 127, 129, 255, 257, 4095, 4097, 65537};
	struct ferryt_world *w = *state;
	uint64_t off = 1;

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		size_t len = lens[i];
		uint8_t *local = w->buf + 3 + i;

		ferryt_pattern_fill(local, 7, off, len);
		assert_int_equal(ferryt_write(w->channel, &w->region, off, local, len), 0);
		assert_true(ferryt_region_holds(&w->region, off, len, 7));
		assert_true(ferryt_region_holds(&w->region, off - 1, 1, 1));
		assert_true(ferryt_region_holds(&w->region, off + len, 2, 1));

		memset(w->buf, 0x55, len + 64);
		assert_int_equal(ferryt_read(w->channel, &w->region, off, local, len), 0);
		assert_int_equal(ferryt_pattern_check(local, 7, off, len), len);
		assert_int_equal(local[-1], 0x55);
		assert_int_equal(local[len], 0x55);
		off += len + 1;
	}
}

static void op__of_no_bytes__completes(void **state)
{
	struct ferryt_world *w = *state;

	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 0), 0);
	assert_int_equal(ferryt_write(w->channel, &w->region, FERRYT_WORLD_LEN, w->buf, 0), 0);
	assert_true(ferryt_region_holds(&w->region, 0, FERRYT_WORLD_LEN, 1));
}

static void op__last_byte__is_inside(void **state)
{
	struct ferryt_world *w = *state;

	w->buf[0] = (uint8_t)~ferryt_pattern(1, FERRYT_WORLD_LEN - 1);
	assert_int_equal(ferryt_write(w->channel, &w->region, FERRYT_WORLD_LEN - 1, w->buf, 1), 0);
	assert_int_equal(ferryt_read(w->channel, &w->region, FERRYT_WORLD_LEN - 1, w->buf + 1, 1), 0);
	assert_int_equal(w->buf[0], w->buf[1]);
}

static void op__out_of_range__ends_with_erange_and_sends_nothing(void **state)
{
	static const struct {
		uint64_t off;
		size_t len;
	} bad[] = {
		{FERRYT_WORLD_LEN, 1},
		{FERRYT_WORLD_LEN - 1, 2},
		{0, FERRYT_WORLD_LEN + 1},
		{UINT64_MAX, 1},
		{UINT64_MAX - 10, 4096},
		{FERRYT_WORLD_LEN + 4096, 4096},
		{UINT64_MAX - FERRYT_WORLD_LEN, FERRYT_WORLD_LEN},
	};
	struct ferryt_world *w = *state;

	memset(w->buf, 0x77, FERRYT_BUF_LEN);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ferryt_read(w->channel, &w->region, bad[i].off, w->buf, bad[i].len),
				 -ERANGE);
		assert_int_equal(ferryt_write(w->channel, &w->region, bad[i].off, w->buf, bad[i].len),
				 -ERANGE);
	}
	for (size_t i = 0; i < FERRYT_BUF_LEN; i++)
		assert_int_equal(w->buf[i], 0x77);
	assert_false(ferryi_channel_is_dead(w->channel));
	assert_true(ferryt_region_holds(&w->region, 0, FERRYT_WORLD_LEN, 1));
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void op__local_memory_not_registered__ends_with_einval(void **state)
{
	struct ferryt_world *w = *state;
	uint8_t stranger[64];

	assert_int_equal(ferryt_read(w->channel, &w->region, 0, stranger, sizeof(stranger)), -EINVAL);
	assert_int_equal(ferryt_write(w->channel, &w->region, 0, w->buf + FERRYT_BUF_LEN - 1, 2), -EINVAL);
	assert_false(ferryi_channel_is_dead(w->channel));
	assert_true(ferryt_region_holds(&w->region, 0, FERRYT_WORLD_LEN, 1));
}

static void op__unknown_kind__ends_with_einval(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op op = ferryt_op((enum ferryi_op_kind)9, &w->region, 0, w->buf, 4096);

	assert_int_equal(ferryt_run(w->channel, &op), -EINVAL);
	assert_false(ferryi_channel_is_dead(w->channel));
}

static void batch__longer_than_the_queue__each_completes_once(void **state)
{
	enum { N = 200 };
	struct ferryt_world *w = *state;
	struct ferryi_op *ops = test_calloc(N, sizeof(*ops));

	for (unsigned i = 0; i < N; i++) {
		ferryt_pattern_fill(w->buf + i * 4096, 5, i * 4096, 4096);
		ops[i] = ferryt_op(FERRYI_OP_WRITE, &w->region, i * 4096, w->buf + i * 4096, 4096);
		ops[i].cookie = &ops[i];
	}
	ferryt_run_all(w->channel, ops, N);
	assert_true(ferryt_region_holds(&w->region, 0, N * 4096, 5));
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(ops[i].status, 0);
		assert_ptr_equal(ops[i].cookie, &ops[i]);
		ops[i].kind = FERRYI_OP_READ;
		ops[i].local = w->buf + 4 * MIB + (N - 1 - i) * 4096;
	}
	ferryt_run_all(w->channel, ops, N);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(ops[i].status, 0);
		assert_int_equal(ferryt_pattern_check(ops[i].local, 5, i * 4096, 4096), 4096);
	}
	test_free(ops);
}

static void batch__more_than_fits__is_taken_from_the_front(void **state)
{
	enum { N = 40, DEPTH = 16 };
	struct ferryt_world *w = *state;
	struct ferryi_op ops[N], *list[N];

	for (unsigned i = 0; i < N; i++) {
		ops[i] = ferryt_op(FERRYI_OP_READ, &w->region, i * 4096, w->buf + i * 4096, 4096);
		list[i] = &ops[i];
	}
	int taken = ferryi_channel_submit(w->channel, list, N);

	assert_in_range(taken, 1, DEPTH);
	assert_int_equal(ferryi_channel_outstanding(w->channel), taken);
	ferryt_drain(w->channel, ops, (unsigned)taken);
	assert_int_equal(ferryi_channel_outstanding(w->channel), 0);
	for (int i = 0; i < taken; i++)
		assert_int_equal(ferryt_pattern_check(ops[i].local, 1, (unsigned)i * 4096, 4096), 4096);
}

static void batch__with_bad_ones__spares_the_good_ones(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[4];

	ops[0] = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, 4096);
	ops[1] = ferryt_op(FERRYI_OP_READ, &w->region, FERRYT_WORLD_LEN, w->buf + 4096, 4096);
	ops[2] = ferryt_op(FERRYI_OP_READ, &w->region, 8192, &w, 1);
	ops[3] = ferryt_op(FERRYI_OP_READ, &w->region, 12288, w->buf + 8192, 4096);
	ferryt_run_all(w->channel, ops, 4);
	assert_int_equal(ops[0].status, 0);
	assert_int_equal(ops[1].status, -ERANGE);
	assert_int_equal(ops[2].status, -EINVAL);
	assert_int_equal(ops[3].status, 0);
	assert_int_equal(ferryt_pattern_check(w->buf + 8192, 1, 12288, 4096), 4096);
}

/* 9 MiB is more than soft-RoCE takes in one message; 64 MiB more than any socket buffer. */
static void transfer__huge_in_one_op__is_whole(void **state)
{
	static const size_t lens[] = {9 * MIB, 64 * MIB};
	struct ferryt_world *w = *state;

	for (size_t i = 0; i < 2; i++) {
		size_t len = lens[i];
		struct ferryt_region region = ferryt_region_open(&w->tenant, len, FERRYT_RW, 20 + i);
		uint8_t *big = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		assert_true(big != MAP_FAILED);
		ferryt_import(w->peer, &region);
		struct ferryi_channel *channel = ferryt_channel_open(w->peer, 4, big, len);

		assert_int_equal(ferryt_read(channel, &region, 0, big, len), 0);
		assert_int_equal(ferryt_pattern_check(big, 20 + i, 0, len), len);
		ferryt_pattern_fill(big, 30 + i, 0, len);
		assert_int_equal(ferryt_write(channel, &region, 0, big, len), 0);
		assert_true(ferryt_region_holds(&region, 0, len, 30 + i));
		ferryt_channel_end(&channel);
		ferryi_peer_forget(w->peer, &region.remote);
		ferryt_region_drop(&region);
		munmap(big, len);
	}
}

static void register__more_than_eight_ranges__is_refused(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_channel *channel = NULL;

	assert_int_equal(ferryi_channel_open(w->peer, 1, ferryi_deadline_ms(FERRYT_PATIENCE_MS), &channel),
			 0);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(ferryi_channel_register(channel, w->buf + i * 8192, 4096), 0);
	assert_true(ferryi_channel_register(channel, w->buf + 8 * 8192, 4096) < 0);
	/* each of them works, and the gaps between them do not */
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(ferryt_read(channel, &w->region, 0, w->buf + i * 8192, 4096), 0);
	assert_int_equal(ferryt_read(channel, &w->region, 0, w->buf + 4096, 4096), -EINVAL);
	ferryt_channel_end(&channel);
}

static void channel__bad_depth__is_refused(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_channel *channel = NULL;
	uint64_t deadline = ferryi_deadline_ms(FERRYT_PATIENCE_MS);

	assert_int_equal(ferryi_channel_open(w->peer, 0, deadline, &channel), -EINVAL);
	assert_int_equal(ferryi_channel_open(w->peer, 257, deadline, &channel), -EINVAL);
	assert_null(channel);
}

static void channel__deepest__takes_256(void **state)
{
	enum { N = 256 };
	struct ferryt_world *w = *state;
	struct ferryi_channel *channel = ferryt_channel_open(w->peer, N, w->buf, FERRYT_BUF_LEN);
	struct ferryi_op *ops = test_calloc(N, sizeof(*ops));

	for (unsigned i = 0; i < N; i++)
		ops[i] = ferryt_op(FERRYI_OP_READ, &w->region, i * 4096, w->buf + i * 4096, 4096);
	ferryt_run_all(channel, ops, N);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, N * 4096), N * 4096);
	ferryt_channel_end(&channel);
	test_free(ops);
}

int ferryt_group_data(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(read__whole_region__returns_its_bytes),
		FERRYT_TEST(read__one_page__leaves_the_rest_of_the_buffer),
		FERRYT_TEST(write__then_read__returns_what_was_written),
		FERRYT_TEST(write__completed__is_in_the_servers_memory),
		FERRYT_TEST(op__in_local_memory_with_new_frames__works_on_these),
		FERRYT_TEST(write__to_a_stopped_server__completes_only_when_delivered),
		FERRYT_TEST(op__odd_sizes_and_places__touches_exactly_its_bytes),
		FERRYT_TEST(op__of_no_bytes__completes),
		FERRYT_TEST(op__last_byte__is_inside),
		FERRYT_TEST(op__out_of_range__ends_with_erange_and_sends_nothing),
		FERRYT_TEST(op__local_memory_not_registered__ends_with_einval),
		FERRYT_TEST(op__unknown_kind__ends_with_einval),
		FERRYT_TEST(batch__longer_than_the_queue__each_completes_once),
		FERRYT_TEST(batch__more_than_fits__is_taken_from_the_front),
		FERRYT_TEST(batch__with_bad_ones__spares_the_good_ones),
		FERRYT_TEST(transfer__huge_in_one_op__is_whole),
		FERRYT_TEST(register__more_than_eight_ranges__is_refused),
		FERRYT_TEST(channel__bad_depth__is_refused),
		FERRYT_TEST(channel__deepest__takes_256),
	};

	return cmocka_run_group_tests_name("data", tests, NULL, NULL);
}
