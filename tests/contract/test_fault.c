/*
 * The fake row's fault injection does what the tests of other rooms rely on.
 */
#include "harness.h"

static void submit_reads(struct ferryt_world *w, struct ferryi_op *ops, unsigned n)
{
	struct ferryi_op *list[16];

	for (unsigned i = 0; i < n; i++) {
		ops[i] = ferryt_op(FERRYI_OP_READ, &w->region, i * 4096, w->buf + i * 4096, 4096);
		list[i] = &ops[i];
	}
	assert_int_equal(ferryi_channel_submit(w->channel, list, n), n);
}

static void inject__error__hits_the_chosen_operations_alone(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[6];

	ferryi_fake_inject(FERRYI_FAKE_ERROR, 2, 2);
	submit_reads(w, ops, 6);
	ferryt_drain(w->channel, ops, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(ops[i].status, i == 2 || i == 3 ? -EIO : 0);
	assert_false(ferryi_channel_is_dead(w->channel));
}

static void inject__drop__ends_at_the_deadline(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op op = ferryt_op(FERRYI_OP_READ, &w->region, 0, w->buf, 4096);

	ferryi_fake_inject(FERRYI_FAKE_DROP, 0, 1);
	op.deadline_ns = ferryi_deadline_ms(50);
	assert_int_equal(ferryt_run(w->channel, &op), -ETIMEDOUT);
	assert_true(ferryi_channel_is_dead(w->channel));
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void inject__die__cancels_the_rest(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op ops[6];

	ferryi_fake_inject(FERRYI_FAKE_DIE, 3, 1);
	submit_reads(w, ops, 6);
	ferryt_drain(w->channel, ops, 6);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(ops[i].status, i < 3 ? 0 : -ECANCELED);
	assert_true(ferryi_channel_is_dead(w->channel));
	assert_false(ferryi_peer_is_failed(w->peer));
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void inject__corrupt__flips_what_a_read_brings(void **state)
{
	struct ferryt_world *w = *state;

	ferryi_fake_inject(FERRYI_FAKE_CORRUPT, 0, 1);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	assert_true(ferryt_pattern_check(w->buf, 1, 0, 4096) < 4096);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, 4096), 4096);
	assert_true(ferryt_region_holds(&w->region, 0, 4096, 1));
}

static void fake__not_polled__operation_stays_outstanding(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryi_op op = ferryt_op(FERRYI_OP_WRITE, &w->region, 0, w->buf, 4096);
	struct ferryi_op *list = &op;

	ferryt_pattern_fill(w->buf, 9, 0, 4096);
	assert_int_equal(ferryi_channel_submit(w->channel, &list, 1), 1);
	assert_int_equal(ferryi_channel_outstanding(w->channel), 1);
	assert_true(ferryt_region_holds(&w->region, 0, 4096, 1));
	ferryt_drain(w->channel, &op, 1);
	assert_true(ferryt_region_holds(&w->region, 0, 4096, 9));
}

int ferryt_group_fault(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(inject__error__hits_the_chosen_operations_alone),
		FERRYT_TEST(inject__drop__ends_at_the_deadline),
		FERRYT_TEST(inject__die__cancels_the_rest),
		FERRYT_TEST(inject__corrupt__flips_what_a_read_brings),
		FERRYT_TEST(fake__not_polled__operation_stays_outstanding),
	};

	return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}
