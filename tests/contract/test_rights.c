/*
 * Who may touch what: keys, tokens, access rights, revocation.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "harness.h"

/* After a refusal the connection may be gone; whatever it was, a new one works. */
static void assert_usable_again(struct ferryt_world *w)
{
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

static void key__wrong__is_refused(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_region forged = w->region;
	uint64_t flips[] = {1, 0x10, 0x100, 0xffffff, UINT64_MAX};

	for (size_t i = 0; i < sizeof(flips) / sizeof(flips[0]); i++) {
		forged.remote.key = w->region.remote.key ^ flips[i];
		memset(w->buf, 0, 4096);
		ferryt_assert_refused(ferryt_read(w->channel, &forged, 0, w->buf, 4096));
		assert_usable_again(w);
		ferryt_pattern_fill(w->buf, 66, 0, 4096);
		ferryt_assert_refused(ferryt_write(w->channel, &forged, 0, w->buf, 4096));
		assert_usable_again(w);
	}
	assert_true(ferryt_region_holds(&w->region, 0, FERRYT_WORLD_LEN, 1));
}

/* A client that lies about the length passes the channel's own check; the server's side must hold. */
static void key__with_forged_length__reaches_nothing_beyond(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_region forged = w->region;

	forged.remote.len_bytes = 1024 * FERRYT_WORLD_LEN;
	ferryt_assert_refused(ferryt_read(w->channel, &forged, FERRYT_WORLD_LEN + 65536, w->buf, 4096));
	assert_usable_again(w);
	ferryt_assert_refused(ferryt_write(w->channel, &forged, FERRYT_WORLD_LEN, w->buf, 4096));
	assert_usable_again(w);
	ferryt_assert_refused(ferryt_write(w->channel, &forged, FERRYT_WORLD_LEN - 2048, w->buf, 4096));
	assert_usable_again(w);
}

static void key__of_another_tenant__is_refused(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_tenant other = ferryt_tenant_open();
	struct ferryt_region secret = ferryt_region_open(&other, MIB, FERRYT_RW, 50);
	int err = ferryi_peer_import(w->peer, &secret.remote, ferryi_deadline_ms(FERRYT_PATIENCE_MS));

	assert_true(err == 0 || err == -EACCES);
	memset(w->buf, 0, MIB);
	ferryt_assert_refused(ferryt_read(w->channel, &secret, 0, w->buf, MIB));
	assert_true(ferryt_pattern_check(w->buf, 50, 0, MIB) < 64);
	assert_usable_again(w);
	ferryt_assert_refused(ferryt_write(w->channel, &secret, 0, w->buf, MIB));
	assert_true(ferryt_region_holds(&secret, 0, MIB, 50));
	assert_usable_again(w);
	ferryt_region_drop(&secret);
	ferryt_tenant_close(&other);
}

static int open_with_token(struct ferryt_tenant tenant, uint64_t patience_ms)
{
	struct ferryi_channel *channel = NULL;
	struct ferryi_peer *peer = NULL;
	int err = ferryt_peer_try(&tenant, &peer);

	if (err)
		return err;
	err = ferryi_channel_open(peer, 4, ferryi_deadline_ms(patience_ms), &channel);
	if (!err)
		ferryt_channel_end(&channel);
	ferryi_peer_close(&peer);
	return err;
}

static void token__wrong__is_refused(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_tenant forged = w->tenant;
	uint64_t refused = ferryt_stats().val[1];

	assert_int_equal(open_with_token(w->tenant, FERRYT_PATIENCE_MS), 0);
	forged.token[FERRYI_TOKEN_LEN - 1] ^= 1;
	assert_int_equal(open_with_token(forged, FERRYT_PATIENCE_MS), -EACCES);
	memset(forged.token, 0, sizeof(forged.token));
	assert_int_equal(open_with_token(forged, FERRYT_PATIENCE_MS), -EACCES);
	assert_true(ferryt_stats().val[1] >= refused + 2);
	assert_usable_again(w);
}

static void region__read_only__cannot_be_written(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_region region = ferryt_region_open(&w->tenant, MIB, FERRYI_ACCESS_READ, 60);

	ferryt_import(w->peer, &region);
	assert_int_equal(ferryt_read(w->channel, &region, 0, w->buf, MIB), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 60, 0, MIB), MIB);
	ferryt_pattern_fill(w->buf, 61, 0, MIB);
	ferryt_assert_refused(ferryt_write(w->channel, &region, 0, w->buf, 4096));
	assert_true(ferryt_region_holds(&region, 0, MIB, 60));
	ferryt_world_reconnect(w);
	ferryt_assert_refused(ferryt_write(w->channel, &region, 0, w->buf, MIB));
	assert_true(ferryt_region_holds(&region, 0, MIB, 60));
	ferryt_world_reconnect(w);
	assert_int_equal(ferryt_read(w->channel, &region, 0, w->buf, MIB), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 60, 0, MIB), MIB);
	ferryi_peer_forget(w->peer, &region.remote);
	ferryt_region_drop(&region);
}

static void region__revoked__is_neither_readable_nor_writable(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_region region = ferryt_region_open(&w->tenant, MIB, FERRYT_RW, 70);

	ferryt_import(w->peer, &region);
	assert_int_equal(ferryt_read(w->channel, &region, 0, w->buf, MIB), 0);
	ferryt_region_reuse(&region, 71);
	memset(w->buf, 0, MIB);
	for (int i = 0; i < 3; i++) {
		int status = ferryt_read(w->channel, &region, 0, w->buf, MIB);

		ferryt_assert_refused(status);
		ferryt_world_reconnect(w);
		ferryt_assert_refused(ferryt_write(w->channel, &region, 0, w->buf, MIB));
		ferryt_world_reconnect(w);
	}
	assert_true(ferryt_pattern_check(w->buf, 71, 0, MIB) < 64);
	assert_true(ferryt_region_holds(&region, 0, MIB, 71));
	/* the tenant's other region is as it was */
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, FERRYT_WORLD_LEN), 0);
	assert_int_equal(ferryt_pattern_check(w->buf, 1, 0, FERRYT_WORLD_LEN), FERRYT_WORLD_LEN);
	ferryi_peer_forget(w->peer, &region.remote);
	ferryt_region_drop(&region);
}

/* ---- revocation under load ---- */

#define STORM_LEN (256 * KIB)
#define STORM_OPS 8

struct storm {
	const struct ferryt_world *world;
	const struct ferryt_region *region;
	uint8_t *buf;		  /* STORM_OPS times STORM_LEN, this thread's half of the world's */
	_Atomic unsigned rounds;  /* batches that went through */
	_Atomic unsigned strange; /* reads that brought neither the old data nor what was written */
	_Atomic int last;
};

/* Reads and writes the region until it is refused; every write is of pattern 81, and so may every read be. */
static void *storm_main(void *arg)
{
	struct storm *s = arg;
	struct ferryi_channel *channel = NULL;
	struct ferryi_op ops[STORM_OPS];
	int status = 0;

	status = ferryi_channel_open(s->world->peer, STORM_OPS, ferryi_deadline_ms(FERRYT_PATIENCE_MS),
				     &channel);
	if (!status)
		status = ferryi_channel_register(channel, s->buf, STORM_OPS * STORM_LEN);
	while (!status) {
		unsigned taken = 0, back = 0;

		for (unsigned i = 0; i < STORM_OPS; i++) {
			struct ferryi_op *list = &ops[i];
			uint64_t off = i * STORM_LEN;

			ops[i] = ferryt_op(i % 2 ? FERRYI_OP_WRITE : FERRYI_OP_READ, s->region, off,
					   s->buf + i * STORM_LEN, STORM_LEN);
			if (i % 2)
				ferryt_pattern_fill(ops[i].local, 81, off, 4096);
			int n = ferryi_channel_submit(channel, &list, 1);

			if (n < 0)
				status = n;
			if (n <= 0)
				break;
			taken++;
		}
		while (back < taken) {
			struct ferryi_op *done[STORM_OPS];
			int n = ferryi_channel_poll(channel, done, STORM_OPS);

			if (n < 0) {
				status =
					-EPROTO; /* operations outstanding and the channel says it has none */
				break;
			}
			for (int i = 0; i < n; i++) {
				uint64_t off = done[i]->remote_off;

				if (done[i]->status)
					status = done[i]->status;
				else if (done[i]->kind == FERRYI_OP_READ &&
					 ferryt_pattern_check(done[i]->local, 80, off, STORM_LEN) !=
						 STORM_LEN)
					atomic_fetch_add(&s->strange, 1);
			}
			back += (unsigned)n;
			if (n == 0)
				ferryt_channel_wait(channel, ferryi_deadline_ms(1000));
		}
		if (!status)
			atomic_fetch_add(&s->rounds, 1);
	}
	ferryt_channel_end(&channel);
	atomic_store(&s->last, status);
	return NULL;
}

static void region__revoked_under_load__is_safe_to_reuse(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_region region = ferryt_region_open(&w->tenant, STORM_OPS * STORM_LEN, FERRYT_RW, 80);
	struct storm storms[2] = {0};
	pthread_t threads[2];

	ferryt_import(w->peer, &region);
	for (unsigned i = 0; i < 2; i++) {
		storms[i].world = w;
		storms[i].region = &region;
		storms[i].buf = w->buf + i * STORM_OPS * STORM_LEN;
		assert_int_equal(pthread_create(&threads[i], NULL, storm_main, &storms[i]), 0);
	}
	/* each has had traffic through; a thread that failed early says so below */
	for (uint64_t until = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	     (!atomic_load(&storms[0].rounds) || !atomic_load(&storms[1].rounds)) &&
	     !atomic_load(&storms[0].last) && !atomic_load(&storms[1].last) && ferryi_now_ns() < until;)
		(void)ferryt_stats();
	ferryt_region_reuse(&region, 90);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pthread_join(threads[i], NULL), 0);
		assert_int_not_equal(atomic_load(&storms[i].rounds), 0);
		ferryt_assert_refused(atomic_load(&storms[i].last));
		assert_int_equal(atomic_load(&storms[i].strange), 0);
	}
	assert_true(ferryt_region_holds(&region, 0, STORM_OPS * STORM_LEN, 90));
	assert_usable_again(w);
	assert_true(ferryt_region_holds(&region, 0, STORM_OPS * STORM_LEN, 90));
	ferryi_peer_forget(w->peer, &region.remote);
	ferryt_region_drop(&region);
}

/* ---- tenants ---- */

static void tenant__closed__loses_everything_and_others_nothing(void **state)
{
	struct ferryt_world *w = *state;
	struct ferryt_tenant other = ferryt_tenant_open();
	struct ferryt_region region = ferryt_region_open(&other, MIB, FERRYT_RW, 40);
	struct ferryi_peer *peer = ferryt_peer_open(&other);
	uint8_t *buf = w->buf + 4 * MIB;

	ferryt_import(peer, &region);
	struct ferryi_channel *channel = ferryt_channel_open(peer, 4, buf, MIB);

	assert_int_equal(ferryt_read(channel, &region, 0, buf, MIB), 0);
	ferryt_tenant_close(&other);
	memset(buf, 0, MIB);
	/* its connection is gone too, so the exact rows may say that instead */
	int status = ferryt_read(channel, &region, 0, buf, MIB);

	assert_true(status == -EACCES || status == -ECANCELED || status == -ENOTCONN);
	assert_true(ferryt_pattern_check(buf, 40, 0, MIB) < 64);
	ferryt_channel_end(&channel);
	ferryi_peer_close(&peer);

	/* where each tenant has an address of its own, nobody is there any more to say no */
	status = open_with_token(other, 3000);
	assert_true(status == -EACCES || status == -ETIMEDOUT || status == -ECONNREFUSED ||
		    status == -EHOSTUNREACH);
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
	assert_false(ferryi_channel_is_dead(w->channel));
	ferryt_region_drop(&region);
}

static void listener__self_test__passes(void **state)
{
	struct ferryt_req req = {.cmd = FERRYT_SELF_TEST};
	struct ferryt_world *w = *state;
	struct ferryt_rep rep;

	assert_int_equal(ferryt_node_ask(&ferryt_node, &req, &rep), 0);
	/* and leaves what is connected alone */
	assert_int_equal(ferryt_read(w->channel, &w->region, 0, w->buf, 4096), 0);
}

int ferryt_group_rights(void)
{
	const struct CMUnitTest tests[] = {
		FERRYT_TEST(key__wrong__is_refused),
		FERRYT_TEST(key__with_forged_length__reaches_nothing_beyond),
		FERRYT_TEST(key__of_another_tenant__is_refused),
		FERRYT_TEST(token__wrong__is_refused),
		FERRYT_TEST(region__read_only__cannot_be_written),
		FERRYT_TEST(region__revoked__is_neither_readable_nor_writable),
		FERRYT_TEST(region__revoked_under_load__is_safe_to_reuse),
		FERRYT_TEST(tenant__closed__loses_everything_and_others_nothing),
		FERRYT_TEST(listener__self_test__passes),
	};

	return cmocka_run_group_tests_name("rights", tests, NULL, NULL);
}
