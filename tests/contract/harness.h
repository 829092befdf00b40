/*
 * What every contract test starts from: the row under test, a living server, a
 * tenant of its own, a peer. Helpers fail the running test (cmocka) when the
 * machinery breaks, so they are for the test's own thread; those called from
 * helper threads say so and return instead.
 */
#ifndef FERRYT_HARNESS_H
#define FERRYT_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "clock.h"
#include "fabric.h"
#include "node.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

/* Longest wait of a step that should end by itself: only a hang reaches it. */
#define FERRYT_PATIENCE_MS 60000

#define FERRYT_RW (FERRYI_ACCESS_READ | FERRYI_ACCESS_WRITE)

extern const struct ferryi_fabric_row *ferryt_row; /* under test */
extern struct ferryt_node ferryt_node;		   /* the server that lives across tests */

static inline bool ferryt_row_has(unsigned flag)
{
	return (ferryt_row->flags & flag) != 0;
}

/* libfabric rows: neither on one host only nor fake. */
static inline bool ferryt_row_is_libfabric(void)
{
	return !ferryt_row_has(FERRYI_FABRIC_SAME_HOST | FERRYI_FABRIC_TEST_ONLY);
}

/* ---- tenants and regions on the server ---- */

struct ferryt_tenant {
	uint64_t id;
	uint8_t token[FERRYI_TOKEN_LEN];
	char addr[FERRYI_FABRIC_ADDR_LEN];
};

struct ferryt_region {
	uint64_t id;
	uint64_t seed;
	struct ferryi_remote remote;
};

struct ferryt_tenant ferryt_tenant_open(void);
void ferryt_tenant_close(const struct ferryt_tenant *tenant);
/* A region filled with the pattern of `seed`. */
struct ferryt_region ferryt_region_open(const struct ferryt_tenant *tenant, size_t len_bytes, unsigned access,
					uint64_t seed);
void ferryt_region_revoke(const struct ferryt_region *region);
/* Revokes, and puts another pattern into the memory before anybody can do anything. */
void ferryt_region_reuse(const struct ferryt_region *region, uint64_t seed);
void ferryt_region_drop(const struct ferryt_region *region);
/* The server looks: true when [off, off + len) of the region's memory is the pattern of `seed`. */
bool ferryt_region_holds(const struct ferryt_region *region, uint64_t off, uint64_t len, uint64_t seed);
void ferryt_region_fill(const struct ferryt_region *region, uint64_t off, uint64_t len, uint64_t seed);
struct ferryt_rep ferryt_stats(void);
/* CPU time of the server process so far, microseconds. */
uint64_t ferryt_server_cpu_us(void);

/* ---- client side ---- */

struct ferryi_peer *ferryt_peer_open(const struct ferryt_tenant *tenant);
/* Also for helper threads: 0 or negative errno. */
int ferryt_peer_try(const struct ferryt_tenant *tenant, struct ferryi_peer **out);
void ferryt_import(struct ferryi_peer *peer, const struct ferryt_region *region);
struct ferryi_channel *ferryt_channel_open(struct ferryi_peer *peer, unsigned depth, void *buf,
					   size_t len_bytes);
/* Shutdown, take back what is outstanding, close. Any thread. */
void ferryt_channel_end(struct ferryi_channel **channel);

struct ferryi_op ferryt_op(enum ferryi_op_kind kind, const struct ferryt_region *region, uint64_t off,
			   void *local, size_t len_bytes);
/* Sleeps until the channel may have something, or the deadline. Any thread. */
void ferryt_channel_wait(struct ferryi_channel *channel, uint64_t deadline_ns);
/*
 * One operation from submit to completion: its status, or -ENOTCONN when the
 * channel took nothing, or -ETIME when nothing came within FERRYT_PATIENCE_MS.
 * Nothing else may be outstanding. Any thread.
 */
int ferryt_run(struct ferryi_channel *channel, struct ferryi_op *op);
/* Submits all n, however often the queue is full, and waits for all; fails the test unless each comes back
 * once. */
void ferryt_run_all(struct ferryi_channel *channel, struct ferryi_op *ops, unsigned n);
/* Waits for n operations that are outstanding; fails the test unless each of them comes back once. */
void ferryt_drain(struct ferryi_channel *channel, struct ferryi_op *ops, unsigned n);
int ferryt_read(struct ferryi_channel *channel, const struct ferryt_region *region, uint64_t off, void *local,
		size_t len_bytes);
int ferryt_write(struct ferryi_channel *channel, const struct ferryt_region *region, uint64_t off,
		 void *local, size_t len_bytes);

/* A refused key: -EACCES where the row is exact, else also the codes of a dead connection. */
void ferryt_assert_refused(int status);

/* ---- a test's usual world ---- */

struct ferryt_world {
	struct ferryt_tenant tenant;
	struct ferryt_region region; /* FERRYT_WORLD_LEN, read and write, seed 1, imported */
	struct ferryi_peer *peer;
	struct ferryi_channel *channel; /* depth 16, buf registered */
	uint8_t *buf;
};

#define FERRYT_WORLD_LEN (4 * MIB)
#define FERRYT_BUF_LEN	 (8 * MIB)

int ferryt_world_setup(void **state);
int ferryt_world_teardown(void **state);
/* Opens the world's channel again, after the first died. */
void ferryt_world_reconnect(struct ferryt_world *world);

#define FERRYT_TEST(name) cmocka_unit_test_setup_teardown(name, ferryt_world_setup, ferryt_world_teardown)

/* ---- the groups: test_*.c, one function each, number of failures ---- */

int ferryt_group_data(void);
int ferryt_group_rights(void);
int ferryt_group_failure(void);
int ferryt_group_load(void);
int ferryt_group_wait(void);
int ferryt_group_hostile(void);
int ferryt_group_fault(void);
int ferryt_group_host(void);

/* Before anything may have started libfabric: what test_host.c compares with afterwards. */
void ferryt_host_remember(void);

#endif
