/*
 * Fixture of the contract suite: see harness.h.
 */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "harness.h"

const struct ferryi_fabric_row *ferryt_row;
struct ferryt_node ferryt_node;

/* ---- server side, by request ---- */

static int ask(uint32_t cmd, uint64_t id, uint64_t a, uint64_t b, uint64_t c, struct ferryt_rep *rep)
{
	struct ferryt_req req = {.cmd = cmd, .id = id, .arg = {a, b, c}};

	return ferryt_node_ask(&ferryt_node, &req, rep);
}

struct ferryt_tenant ferryt_tenant_open(void)
{
	struct ferryt_req req = {.cmd = FERRYT_TENANT_OPEN};
	struct ferryt_tenant tenant = {0};
	struct ferryt_rep rep;

	assert_int_equal(getrandom(tenant.token, sizeof(tenant.token), 0), sizeof(tenant.token));
	memcpy(req.token, tenant.token, sizeof(req.token));
	assert_int_equal(ferryt_node_ask(&ferryt_node, &req, &rep), 0);
	tenant.id = rep.val[0];
	snprintf(tenant.addr, sizeof(tenant.addr), "%s", rep.text);
	return tenant;
}

void ferryt_tenant_close(const struct ferryt_tenant *tenant)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_TENANT_CLOSE, tenant->id, 0, 0, 0, &rep), 0);
}

struct ferryt_region ferryt_region_open(const struct ferryt_tenant *tenant, size_t len_bytes, unsigned access,
					uint64_t seed)
{
	struct ferryt_region region = {.seed = seed};
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_OPEN, tenant->id, len_bytes, access, seed, &rep), 0);
	region.id = rep.val[0];
	region.remote = rep.remote;
	assert_int_equal(region.remote.len_bytes, len_bytes);
	return region;
}

void ferryt_region_revoke(const struct ferryt_region *region)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_REVOKE, region->id, 0, 0, 0, &rep), 0);
}

void ferryt_region_reuse(const struct ferryt_region *region, uint64_t seed)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_REUSE, region->id, seed, 0, 0, &rep), 0);
}

void ferryt_region_drop(const struct ferryt_region *region)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_DROP, region->id, 0, 0, 0, &rep), 0);
}

bool ferryt_region_holds(const struct ferryt_region *region, uint64_t off, uint64_t len, uint64_t seed)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_CHECK, region->id, off, len, seed, &rep), 0);
	return rep.val[0] == len;
}

void ferryt_region_fill(const struct ferryt_region *region, uint64_t off, uint64_t len, uint64_t seed)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_REGION_FILL, region->id, off, len, seed, &rep), 0);
}

struct ferryt_rep ferryt_stats(void)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_STATS, 0, 0, 0, 0, &rep), 0);
	return rep;
}

uint64_t ferryt_server_cpu_us(void)
{
	struct ferryt_rep rep;

	assert_int_equal(ask(FERRYT_CPU, 0, 0, 0, 0, &rep), 0);
	return rep.val[0];
}

/* ---- client side ---- */

int ferryt_peer_try(const struct ferryt_tenant *tenant, struct ferryi_peer **out)
{
	struct ferryi_peer_attr attr = {
		.row = ferryt_row,
		.addr = tenant->addr,
		.control_host = ferryt_host(),
		.label = "contract",
	};

	memcpy(attr.token, tenant->token, sizeof(attr.token));
	return ferryi_peer_open(&attr, ferryi_deadline_ms(FERRYT_PATIENCE_MS), out);
}

struct ferryi_peer *ferryt_peer_open(const struct ferryt_tenant *tenant)
{
	struct ferryi_peer *peer = NULL;

	assert_int_equal(ferryt_peer_try(tenant, &peer), 0);
	return peer;
}

void ferryt_import(struct ferryi_peer *peer, const struct ferryt_region *region)
{
	assert_int_equal(ferryi_peer_import(peer, &region->remote, ferryi_deadline_ms(FERRYT_PATIENCE_MS)),
			 0);
}

struct ferryi_channel *ferryt_channel_open(struct ferryi_peer *peer, unsigned depth, void *buf,
					   size_t len_bytes)
{
	struct ferryi_channel *channel = NULL;

	assert_int_equal(ferryi_channel_open(peer, depth, ferryi_deadline_ms(FERRYT_PATIENCE_MS), &channel),
			 0);
	assert_int_equal(ferryi_channel_register(channel, buf, len_bytes), 0);
	return channel;
}

void ferryt_channel_end(struct ferryi_channel **channel)
{
	struct ferryi_op *done[16];

	if (!*channel)
		return;
	ferryi_channel_shutdown(*channel);
	while (ferryi_channel_poll(*channel, done, 16) >= 0)
		;
	ferryi_channel_close(channel);
}

struct ferryi_op ferryt_op(enum ferryi_op_kind kind, const struct ferryt_region *region, uint64_t off,
			   void *local, size_t len_bytes)
{
	return (struct ferryi_op){
		.kind = kind,
		.local = local,
		.len_bytes = len_bytes,
		.remote = region->remote,
		.remote_off = off,
	};
}

/* Also wakes for the nearest 10 ms, because a row's deadlines are looked at by poll() alone. */
void ferryt_channel_wait(struct ferryi_channel *channel, uint64_t deadline_ns)
{
	int armed = ferryi_channel_arm(channel);
	struct pollfd pfd = {.events = POLLIN};
	int ms = ferryi_remaining_ms(deadline_ns);

	if (armed == 0) {
		pfd.fd = ferryi_channel_wait_fd(channel);
		poll(&pfd, 1, ms > 10 ? 10 : ms);
	} else if (armed == -ENOTSUP) {
		sched_yield();
	}
}

int ferryt_run(struct ferryi_channel *channel, struct ferryi_op *op)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	struct ferryi_op *done;
	int n;

	do {
		n = ferryi_channel_submit(channel, &op, 1);
		if (n < 0)
			return -ENOTCONN;
		if (n == 0)
			ferryi_channel_poll(channel, &done, 1);
	} while (n == 0 && ferryi_now_ns() < deadline);
	while (ferryi_now_ns() < deadline) {
		n = ferryi_channel_poll(channel, &done, 1);
		if (n == 1)
			return done == op ? op->status : -EPROTO;
		if (n < 0)
			return -EPROTO;
		ferryt_channel_wait(channel, deadline);
	}
	return -ETIME;
}

/* Marks one that came back; fails when it is none of ours or came before. */
static void account(struct ferryi_op *ops, unsigned n, uint8_t *seen, const struct ferryi_op *done)
{
	size_t index = (size_t)(done - ops);

	assert_true(done >= ops && index < n);
	assert_int_equal(seen[index], 0);
	seen[index] = 1;
}

static void run_some(struct ferryi_channel *channel, struct ferryi_op *ops, unsigned n, unsigned submitted)
{
	uint64_t deadline = ferryi_deadline_ms(FERRYT_PATIENCE_MS);
	uint8_t *seen = test_calloc(n, 1);
	struct ferryi_op **list = test_calloc(n, sizeof(struct ferryi_op *));
	unsigned back = 0;

	for (unsigned i = 0; i < n; i++)
		list[i] = &ops[i];
	while (back < n) {
		struct ferryi_op *done[8];

		assert_true(ferryi_now_ns() < deadline);
		if (submitted < n) {
			int taken = ferryi_channel_submit(channel, list + submitted, n - submitted);

			assert_true(taken >= 0 && (unsigned)taken <= n - submitted);
			submitted += (unsigned)taken;
		}
		int got = ferryi_channel_poll(channel, done, 8);

		assert_true(got >= 0);
		for (int i = 0; i < got; i++)
			account(ops, n, seen, done[i]);
		back += (unsigned)got;
		assert_int_equal(ferryi_channel_outstanding(channel), submitted - back);
		if (got == 0)
			ferryt_channel_wait(channel, deadline);
	}
	test_free(list);
	test_free(seen);
}

void ferryt_run_all(struct ferryi_channel *channel, struct ferryi_op *ops, unsigned n)
{
	run_some(channel, ops, n, 0);
}

void ferryt_drain(struct ferryi_channel *channel, struct ferryi_op *ops, unsigned n)
{
	run_some(channel, ops, n, n);
}

int ferryt_read(struct ferryi_channel *channel, const struct ferryt_region *region, uint64_t off, void *local,
		size_t len_bytes)
{
	struct ferryi_op op = ferryt_op(FERRYI_OP_READ, region, off, local, len_bytes);

	return ferryt_run(channel, &op);
}

int ferryt_write(struct ferryi_channel *channel, const struct ferryt_region *region, uint64_t off,
		 void *local, size_t len_bytes)
{
	struct ferryi_op op = ferryt_op(FERRYI_OP_WRITE, region, off, local, len_bytes);

	return ferryt_run(channel, &op);
}

void ferryt_assert_refused(int status)
{
	if (ferryt_row_has(FERRYI_FABRIC_EXACT_ERRORS)) {
		assert_int_equal(status, -EACCES);
		return;
	}
	if (status != -EACCES && status != -ECANCELED && status != -ENOTCONN)
		fail_msg("refused operation ended with %d (%s)", status, strerror(status < 0 ? -status : 0));
}

/* ---- the world ---- */

int ferryt_world_setup(void **state)
{
	struct ferryt_world *world = calloc(1, sizeof(*world));

	if (!world)
		return -1;
	*state = world;
	if (!ferryt_node.running) {
		int err = ferryt_node_start(&ferryt_node, ferryt_row);

		if (err) {
			print_error("server did not start: %s\n", strerror(-err));
			return -1;
		}
	}
	world->buf = mmap(NULL, FERRYT_BUF_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (world->buf == MAP_FAILED)
		return -1;
	world->tenant = ferryt_tenant_open();
	world->region = ferryt_region_open(&world->tenant, FERRYT_WORLD_LEN, FERRYT_RW, 1);
	world->peer = ferryt_peer_open(&world->tenant);
	ferryt_import(world->peer, &world->region);
	world->channel = ferryt_channel_open(world->peer, 16, world->buf, FERRYT_BUF_LEN);
	return 0;
}

void ferryt_world_reconnect(struct ferryt_world *world)
{
	ferryt_channel_end(&world->channel);
	world->channel = ferryt_channel_open(world->peer, 16, world->buf, FERRYT_BUF_LEN);
}

/*
 * After a test that failed half-way a connection may be in any state: the
 * server is then replaced, so that the next test starts clean.
 */
int ferryt_world_teardown(void **state)
{
	struct ferryt_world *world = *state;
	struct ferryt_rep rep;

	if (ferryt_node.stopped)
		ferryt_node_cont(&ferryt_node);
	ferryi_fake_inject(FERRYI_FAKE_NONE, 0, 0);
	ferryt_channel_end(&world->channel);
	ferryi_peer_close(&world->peer);
	if (ferryt_node.running) {
		int err = ask(FERRYT_TENANT_CLOSE, world->tenant.id, 0, 0, 0, &rep);

		/* a test may have closed it itself; a server that died by itself has failed */
		if (err == -EPIPE || err == -ETIMEDOUT) {
			print_error("the server does not answer any more: %s\n", strerror(-err));
			ferryt_node_kill(&ferryt_node);
			return -1;
		}
		if (ask(FERRYT_REGION_DROP, world->region.id, 0, 0, 0, &rep) == -EPIPE)
			return -1;
	}
	if (world->buf)
		munmap(world->buf, FERRYT_BUF_LEN);
	free(world);
	return 0;
}
