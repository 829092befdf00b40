/*
 * Memory of the server that fails while it is lent: who holds it is told, and
 * nobody gets it again as it is. The failures are injected; from the signal on
 * all is as with the kernel's own.
 */
#include "server_kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

#define MIB  ((uint64_t)1 << 20)
#define PAGE ((uint64_t)4096)
#define POOL (16 * MIB)

static struct ferryt_server server;

static Farferry__Code inject(struct ferryt_conn *conn, uint64_t lease_id, uint64_t epoch, uint64_t extent_id,
			     uint64_t off)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT, *reply;
	Farferry__InjectRequest body = FARFERRY__INJECT_REQUEST__INIT;
	Farferry__Code code = FARFERRY__CODE__CODE_OK;

	body.lease_id = lease_id;
	body.epoch = epoch;
	body.extent_id = extent_id;
	body.off = off;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_INJECT;
	envelope.inject = &body;
	reply = ferryt_conn_call(conn, &envelope);
	assert_non_null(reply);
	if (reply->body_case == FARFERRY__ENVELOPE__BODY_ERROR)
		code = reply->error->code;
	else
		assert_int_equal(reply->body_case, FARFERRY__ENVELOPE__BODY_DONE);
	ferryi_envelope_free(&reply);
	return code;
}

static void start(const char *pool, bool may_inject)
{
	/* Connections of the kit send no keep-alives while something else is waited for. */
	const char *const args[] = {"--pool",
				    pool,
				    "--fabric",
				    "local,tcp",
				    "--timeout",
				    "600s",
				    "--log-level",
				    "info",
				    may_inject ? "--inject-failures" : NULL,
				    NULL};

	ferryt_server_start(&server, args);
}

static void expect_failed(struct ferryt_conn *conn, const struct ferryt_lease *lease, unsigned extent,
			  uint64_t off)
{
	Farferry__Envelope *notice = ferryt_conn_recv(conn);

	assert_non_null(notice);
	assert_int_equal(notice->body_case, FARFERRY__ENVELOPE__BODY_FAILED);
	assert_int_equal(notice->request_id, 0);
	assert_int_equal(notice->failed->lease_id, lease->id);
	assert_int_equal(notice->failed->extent_id, lease->extents[extent].id);
	assert_int_equal(notice->failed->off, off);
	assert_int_equal(notice->failed->len_bytes, PAGE);
	ferryi_envelope_free(&notice);
}

/* The whole pool, zero, as if nothing had happened. */
static void expect_good_again(struct ferryt_conn *conn, const char *fabric)
{
	struct ferryt_lease lease;
	struct ferryt_data data;

	assert_int_equal(ferryt_attach(conn, "hot", fabric, POOL, &lease, NULL, 0), 0);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_expect_zero(&data, &lease);
	ferryt_data_fill(&data, &lease, 3);
	ferryt_data_expect(&data, &lease, 3);
	ferryt_data_close(&data);
	assert_int_equal(ferryt_detach(conn, lease.id, lease.epoch), 0);
}

static void fail_and_lend_again(const char *pool, const char *fabric)
{
	struct ferryt_conn conn, other;
	struct ferryt_lease lease, others;
	struct ferryt_data data;

	start(pool, true);
	ferryt_conn_login(&conn, &server);
	ferryt_conn_login(&other, &server);
	assert_int_equal(ferryt_attach(&other, "hot", fabric, 4 * MIB, &others, NULL, 0), 0);
	assert_int_equal(ferryt_attach(&conn, "hot", fabric, 4 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(ferryt_grow(&conn, &lease, 4 * MIB, NULL, 0), 0);
	ferryt_data_open(&data, &server, &lease);
	ferryt_data_fill(&data, &lease, 1);

	assert_int_equal(inject(&conn, lease.id, lease.epoch, lease.extents[1].id, MIB + 3 * PAGE), 0);
	expect_failed(&conn, &lease, 1, MIB + 3 * PAGE);
	assert_int_equal(inject(&conn, lease.id, lease.epoch, lease.extents[0].id, 0), 0);
	expect_failed(&conn, &lease, 0, 0);
	/* Its memory is still lent, and there. */
	ferryt_data_expect(&data, &lease, 1);
	ferryt_data_close(&data);
	assert_int_equal(ferryt_stat(&conn, "c_memory_failures_total"), 2);

	/* Nobody has another's memory fail. */
	assert_int_equal(inject(&conn, others.id, others.epoch, others.extents[0].id, 0),
			 FARFERRY__CODE__CODE_EPOCH);
	assert_int_equal(inject(&conn, others.id, lease.epoch, others.extents[0].id, 0),
			 FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(inject(&conn, lease.id, lease.epoch, 12345, 0), FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(inject(&conn, lease.id, lease.epoch, lease.extents[0].id, 4 * MIB),
			 FARFERRY__CODE__CODE_NO_LEASE);
	assert_int_equal(ferryt_stat(&conn, "c_memory_failures_total"), 2);

	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	/* The other has heard nothing of it: what it reads next is its own. */
	assert_int_equal(inject(&other, others.id, others.epoch, others.extents[0].id, PAGE), 0);
	expect_failed(&other, &others, 0, PAGE);
	ferryt_conn_close(&other);
	assert_true(ferryt_wait_free(&conn, POOL));
	expect_good_again(&conn, fabric);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static void failure__anon__holder_is_told_and_memory_replaced(void **state)
{
	(void)state;
	fail_and_lend_again("name=hot,size=16M,backing=anon", "tcp");
	fail_and_lend_again("name=hot,size=16M,backing=anon,reserve=no", "tcp");
}

static void failure__memfd__holder_is_told_and_memory_replaced(void **state)
{
	(void)state;
	fail_and_lend_again("name=hot,size=16M,backing=memfd", "local");
}

static void failure__file__holder_is_told_and_memory_replaced(void **state)
{
	char dir[] = "/tmp/ferryt-failure-XXXXXX", path[64], pool[128];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/pool", dir);
	snprintf(pool, sizeof(pool), "name=hot,size=16M,type=fs_dax,path=%s", path);
	fail_and_lend_again(pool, "tcp");
	unlink(path);
	assert_int_equal(rmdir(dir), 0);
}

static void failure__device__its_extent_is_lent_no_more(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;

	(void)state;
	start("name=hot,size=16M,type=generic,path=/dev/zero", true);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", 4 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(inject(&conn, lease.id, lease.epoch, lease.extents[0].id, 0), 0);
	expect_failed(&conn, &lease, 0, 0);
	assert_int_equal(ferryt_detach(&conn, lease.id, lease.epoch), 0);
	assert_true(ferryt_server_says(&server, "4194304 bytes at 0 have failed: out of use"));
	assert_true(ferryt_wait_free(&conn, POOL - 4 * MIB));
	assert_int_equal(ferryt_attach(&conn, "hot", "tcp", POOL - 4 * MIB, &lease, NULL, 0), 0);
	assert_true(lease.extents[0].pool_off >= 4 * MIB);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static void failure__not_allowed__refused(void **state)
{
	struct ferryt_conn conn;
	struct ferryt_lease lease;

	(void)state;
	start("name=hot,size=4M", false);
	ferryt_conn_login(&conn, &server);
	assert_int_equal(ferryt_attach(&conn, "hot", "local", 2 * MIB, &lease, NULL, 0), 0);
	assert_int_equal(inject(&conn, lease.id, lease.epoch, lease.extents[0].id, 0),
			 FARFERRY__CODE__CODE_INVALID);
	assert_true(ferryt_server_says(&server, "lets nobody inject failures"));
	assert_int_equal(ferryt_stat(&conn, "c_memory_failures_total"), 0);
	ferryt_conn_close(&conn);
	ferryt_server_end(&server);
}

static int setup(void **state)
{
	(void)state;
	ferryi_fabric_setup();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(failure__anon__holder_is_told_and_memory_replaced),
		cmocka_unit_test(failure__memfd__holder_is_told_and_memory_replaced),
		cmocka_unit_test(failure__file__holder_is_told_and_memory_replaced),
		cmocka_unit_test(failure__device__its_extent_is_lent_no_more),
		cmocka_unit_test(failure__not_allowed__refused),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
