/*
 * Many at once: channels, threads, regions; every byte checked against a model.
 */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "harness.h"

static unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void channels__64_over_four_tenants__all_work_together(void **state)
{
	enum { TENANTS = 4, EACH = 16, LEN = 16384 };
	struct ferryt_world *w = *state;
	struct ferryt_tenant tenant[TENANTS];
	struct ferryt_region region[TENANTS];
	struct ferryi_peer *peer[TENANTS];
	struct ferryi_channel *channel[TENANTS][EACH];
	struct ferryi_op op[TENANTS][EACH];

	for (unsigned t = 0; t < TENANTS; t++) {
		tenant[t] = ferryt_tenant_open();
		region[t] = ferryt_region_open(&tenant[t], EACH * LEN, FERRYT_RW, 300 + t);
		peer[t] = ferryt_peer_open(&tenant[t]);
		ferryt_import(peer[t], &region[t]);
		for (unsigned c = 0; c < EACH; c++)
			channel[t][c] = ferryt_channel_open(peer[t], 4, w->buf + (t * EACH + c) * LEN, LEN);
	}
	for (int kind = FERRYI_OP_READ; kind <= FERRYI_OP_WRITE; kind++) {
		for (unsigned t = 0; t < TENANTS; t++) {
			for (unsigned c = 0; c < EACH; c++) {
				struct ferryi_op *list = &op[t][c];
				uint8_t *buf = w->buf + (t * EACH + c) * LEN;

				if (kind == FERRYI_OP_WRITE) {
					assert_int_equal(ferryt_pattern_check(buf, 300 + t, c * LEN, LEN),
							 LEN);
					ferryt_pattern_fill(buf, 400 + t, c * LEN, LEN);
				}
				op[t][c] =
					ferryt_op((enum ferryi_op_kind)kind, &region[t], c * LEN, buf, LEN);
				assert_int_equal(ferryi_channel_submit(channel[t][c], &list, 1), 1);
			}
		}
		for (unsigned t = 0; t < TENANTS; t++) {
			for (unsigned c = 0; c < EACH; c++) {
				ferryt_drain(channel[t][c], &op[t][c], 1);
				assert_int_equal(op[t][c].status, 0);
			}
		}
	}
	for (unsigned t = 0; t < TENANTS; t++) {
		assert_true(ferryt_region_holds(&region[t], 0, EACH * LEN, 400 + t));
		for (unsigned c = 0; c < EACH; c++)
			ferryt_channel_end(&channel[t][c]);
		ferryi_peer_close(&peer[t]);
		ferryt_tenant_close(&tenant[t]);
		ferryt_region_drop(&region[t]);
	}
}

static void channel__opened_and_closed_often__leaves_nothing_behind(void **state)
{
	struct ferryt_world *w = *state;
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	uint64_t connections;
	unsigned descriptors = 0;

	connections = ferryt_stats().val[2];
	for (int i = 0; i < 40; i++) {
		struct ferryi_peer *peer = ferryt_peer_open(&w->tenant);

		ferryt_import(peer, &w->region);
		struct ferryi_channel *channel = ferryt_channel_open(peer, 8, w->buf, MIB);

		assert_int_equal(ferryt_read(channel, &w->region, 0, w->buf, 4096), 0);
		ferryt_channel_end(&channel);
		ferryi_peer_close(&peer);
		/* the first rounds may set up what stays */
		if (i == 4)
			descriptors = open_descriptors();
	}
	assert_true(open_descriptors() <= descriptors);
	/* the server learns of each end in its own time */
	while (ferryt_stats().val[2] > connections) {
		assert_true(ferryi_now_ns() < until);
		poll(NULL, 0, 10);
	}
}

static void regions__many_come_and_go__keys_stay_apart(void **state)
{
	enum { N = 100, LEN = 8192, ROUNDS = 3 };
	struct ferryt_world *w = *state;
	struct ferryt_region *region = test_calloc(N, sizeof(*region));

	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < N; i++) {
			region[i] = ferryt_region_open(&w->tenant, LEN, FERRYT_RW, round * N + i);
			ferryt_import(w->peer, &region[i]);
		}
		for (unsigned i = 0; i < N; i++) {
			assert_int_equal(ferryt_read(w->channel, &region[i], 0, w->buf, LEN), 0);
			assert_int_equal(ferryt_pattern_check(w->buf, region[i].seed, 0, LEN), LEN);
		}
		/* every second one goes first: the others must not notice, except by a new connection */
		for (unsigned i = 0; i < N; i += 2) {
			ferryi_peer_forget(w->peer, &region[i].remote);
			ferryt_region_drop(&region[i]);
		}
		ferryt_world_reconnect(w);
		for (unsigned i = 1; i < N; i += 2) {
			assert_int_equal(ferryt_read(w->channel, &region[i], 0, w->buf, LEN), 0);
			assert_int_equal(ferryt_pattern_check(w->buf, region[i].seed, 0, LEN), LEN);
		}
		for (unsigned i = 1; i < N; i += 2) {
			ferryi_peer_forget(w->peer, &region[i].remote);
			ferryt_region_drop(&region[i]);
		}
		ferryt_world_reconnect(w);
	}
	test_free(region);
}

/* ---- random mixed load ---- */

#define THREADS	   4
#define SLOTS	   16
#define SLOT_LEN   (16 * KIB)
#define THREAD_OPS 2500

struct loader {
	/* set by the test before the thread starts */
	struct ferryi_channel *channel;
	struct ferryt_region region;
	uint64_t first_off; /* this thread's part of the region */
	uint8_t *buf;	    /* SLOTS times SLOT_LEN */
	uint64_t random;
	/* the thread's */
	uint8_t *model;
	struct ferryi_op op[SLOTS];
	bool busy[SLOTS];
	/* result */
	const char *wrong;
};

static uint64_t next_random(struct loader *l)
{
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->random;
}

static void loader_prepare(struct loader *l, unsigned slot)
{
	size_t from = (size_t)(next_random(l) % SLOT_LEN);
	size_t len = 1 + (size_t)(next_random(l) % (SLOT_LEN - from));
	bool is_write = next_random(l) % 2;
	uint8_t *local = l->buf + slot * SLOT_LEN + from;

	if (next_random(l) % 2) { /* a page, as a pager would */
		from = from & ~(size_t)4095;
		len = 4096;
		local = l->buf + slot * SLOT_LEN + from;
	}
	if (is_write)
		ferryt_pattern_fill(local, next_random(l), 0, len);
	else
		memset(local, 0xdb, len);
	l->op[slot] = ferryt_op(is_write ? FERRYI_OP_WRITE : FERRYI_OP_READ, &l->region,
				l->first_off + slot * SLOT_LEN + from, local, len);
	l->op[slot].cookie = (void *)(uintptr_t)(slot + 1);
}

static void loader_account(struct loader *l, struct ferryi_op *op)
{
	size_t slot = (size_t)(uintptr_t)op->cookie - 1;

	if (slot >= SLOTS || op != &l->op[slot] || !l->busy[slot]) {
		l->wrong = "an operation came back that was not outstanding";
		return;
	}
	l->busy[slot] = false;
	uint8_t *model = l->model + (op->remote_off - l->first_off);

	if (op->status)
		l->wrong = "an operation failed";
	else if (op->kind == FERRYI_OP_WRITE)
		memcpy(model, op->local, op->len_bytes);
	else if (memcmp(model, op->local, op->len_bytes))
		l->wrong = "a read returned other bytes than were written";
}

static void *loader_main(void *arg)
{
	struct loader *l = arg;
	uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	unsigned submitted = 0, back = 0;

	while (back < THREAD_OPS && !l->wrong) {
		struct ferryi_op *done[4];
		unsigned slot = (unsigned)(next_random(l) % SLOTS);

		if (submitted < THREAD_OPS && !l->busy[slot]) {
			struct ferryi_op *list = &l->op[slot];

			loader_prepare(l, slot);
			int n = ferryi_channel_submit(l->channel, &list, 1);

			if (n < 0)
				l->wrong = "the channel died";
			if (n == 1) {
				l->busy[slot] = true;
				submitted++;
				if (next_random(l) % 4)
					continue; /* let some pile up */
			}
		}
		int n = ferryi_channel_poll(l->channel, done, 4);

		if (n < 0)
			l->wrong = "the channel died";
		for (int i = 0; i < n; i++)
			loader_account(l, done[i]);
		if (n > 0)
			back += (unsigned)n;
		else if (submitted > back)
			ferryt_channel_wait(l->channel, until);
		if (ferryi_now_ns() > until)
			l->wrong = "it took too long";
	}
	return NULL;
}

static void threads__random_load_on_own_channels__matches_the_model(void **state)
{
	struct ferryt_world *w = *state;
	struct loader loader[THREADS] = {0};
	pthread_t thread[THREADS];
	size_t part = SLOTS * SLOT_LEN;

	for (unsigned i = 0; i < THREADS; i++) {
		struct loader *l = &loader[i];

		l->region = w->region;
		l->first_off = i * part;
		l->buf = w->buf + i * part;
		l->random = 88172645463325252ULL + i;
		l->model = malloc(part);
		assert_non_null(l->model);
		ferryt_pattern_fill(l->model, 1, l->first_off, part);
		l->channel = ferryt_channel_open(w->peer, 8, l->buf, part);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, loader_main, &loader[i]), 0);
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_join(thread[i], NULL), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		struct loader *l = &loader[i];

		if (l->wrong)
			fail_msg("thread %u: %s", i, l->wrong);
		assert_int_equal(ferryi_channel_outstanding(l->channel), 0);
		/* and the region as a whole, through another channel */
		assert_int_equal(ferryt_read(w->channel, &w->region, l->first_off, w->buf + 4 * MIB, part),
				 0);
		assert_memory_equal(w->buf + 4 * MIB, l->model, part);
		ferryt_channel_end(&l->channel);
		free(l->model);
	}
}

int ferryt_group_load(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(channels__64_over_four_tenants__all_work_together),
		FERRYT_TEST(channel__opened_and_closed_often__leaves_nothing_behind),
		FERRYT_TEST(regions__many_come_and_go__keys_stay_apart),
		FERRYT_TEST(threads__random_load_on_own_channels__matches_the_model),
	};

	return cmocka_run_group_tests_name("load", tests, NULL, NULL);
}
