/*
 * Views whose exporter, or server, ends: killed, stopped, withdrawn. See view_kit.h. argv[1]: the fabric row; argv[2]: a
 * filter of test names.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "view_kit.h"

#define PAGES FERRYT_VIEW_PAGES
#define LEN   FERRYT_VIEW_LEN
#define AWAY  FERRYT_VIEW_AWAY /* the first pages */

/* ---- the exporter's end ---- */

static void plain_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, AWAY, 1);
	ferryt_fill(p, AWAY, 1);
	ferryt_export(ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	ferryt_reach(1);
	ferryt_await(9);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	ferryt_end(ferry);
}

/* Reads until the exporter is no more. */
static void killed_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror_view *view, *none = NULL;
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);
	static uint8_t buf[LEN];
	int rc;

	ferryt_await(1);
	view = ferryt_open_view(ferry);
	atomic_fetch_add(&ferryt_shared->readers, 1);
	while ((rc = ferry_view_read(view, atomic_load(&ferryt_shared->base), buf, LEN, NULL)) == 0) {
		ferryt_verify(buf, 0, AWAY, 1);
		atomic_fetch_add(&ferryt_shared->reads, 1);
		CHECK(ferryi_now_ns() < deadline_ns);
	}
	CHECK_FAILS(rc, -ESHUTDOWN, "exported no more");
	CHECK_FAILS(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &none), -ENOENT, "no mirror");
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void await_reads(unsigned readers, uint64_t n)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_AWAIT_MS);

	while (atomic_load(&ferryt_shared->readers) < readers || atomic_load(&ferryt_shared->reads) < n) {
		CHECK(ferryi_now_ns() < deadline_ns);
		sched_yield();
	}
}

static void view_read__exporter_killed__shutdown_and_name_free(void **state)
{
	(void)state;
	ferryt_start_over();
	pid_t e = ferryt_spawn(plain_exporter), r1 = ferryt_spawn(killed_reader), r2 = ferryt_spawn(killed_reader);

	await_reads(2, 8);
	kill(e, SIGKILL);
	assert_int_equal(ferryt_wait_child(e, FERRYT_BODY_MS), 128 + SIGKILL);
	assert_int_equal(ferryt_wait_child(r1, FERRYT_BODY_MS), 0);
	assert_int_equal(ferryt_wait_child(r2, FERRYT_BODY_MS), 0);
}

static void withdraw_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, AWAY, 1);
	ferryt_fill_away(ferry, p, AWAY, 1);
	ferryt_export(ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	ferryt_reach(1);
	await_reads(1, 8);
	CHECK_INT(ferry_mirror_unexport(&ferryt_mirror), 0);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	ferryt_end(ferry);
}

static void view_read__export_withdrawn__shutdown_in_mid_access(void **state)
{
	(void)state;
	ferryt_run_both(withdraw_exporter, killed_reader);
}

/* A reader with little patience, on a machine that may be slow: -ETIMEDOUT is asked again, but where it is awaited. */
#define PATIENCE_MS 1500u

static int read_patiently(struct ferry_mirror_view *view, uint8_t *buf)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_AWAIT_MS);
	int rc;

	do
		rc = ferry_view_read(view, atomic_load(&ferryt_shared->base), buf, LEN, NULL);
	while (rc == -ETIMEDOUT && ferryi_now_ns() < deadline_ns);
	return rc;
}

static void open_impatiently(struct ferry **ferry, struct ferry_mirror_view **view)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_AWAIT_MS);
	int rc;

	cfg.request_timeout_ms = PATIENCE_MS;
	do
		rc = ferry_open(&cfg, ferry);
	while (rc == -ETIMEDOUT && ferryi_now_ns() < deadline_ns);
	CHECK_INT(rc, 0);
	ferryt_await(1);
	do
		rc = ferry_mirror_open(*ferry, FERRYT_VIEW_NAME, view);
	while (rc == -ETIMEDOUT && ferryi_now_ns() < deadline_ns);
	CHECK_INT(rc, 0);
}

static void stopped_reader(void)
{
	struct ferry_mirror_view *view = NULL;
	struct ferry *ferry = NULL;
	static uint8_t buf[LEN];
	uint64_t begin_ns;

	open_impatiently(&ferry, &view);
	CHECK_INT(read_patiently(view, buf), 0);
	ferryt_reach(2);
	ferryt_await(3);
	begin_ns = ferryi_now_ns();
	CHECK_FAILS(ferry_view_read(view, atomic_load(&ferryt_shared->base), buf, LEN, NULL), -ETIMEDOUT, "");
	CHECK(ferryi_now_ns() - begin_ns >= (PATIENCE_MS - 100) * FERRYI_NS_PER_MS);
	CHECK(ferryi_now_ns() - begin_ns < 60000 * FERRYI_NS_PER_MS);
	ferryt_reach(4);
	ferryt_await(5);
	/* It goes on: so does the view. */
	CHECK_INT(read_patiently(view, buf), 0);
	ferryt_verify(buf, 0, AWAY, 1);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_reach(9);
}

static void view_read__exporter_stopped__timeout_and_goes_on(void **state)
{
	(void)state;
	ferryt_start_over();
	pid_t e = ferryt_spawn(plain_exporter), r = ferryt_spawn(stopped_reader);
	struct ferryt_child exporter = { .pid = e };

	ferryt_await(2);
	ferryt_child_stop(&exporter);
	ferryt_reach(3);
	ferryt_await(4);
	kill(e, SIGCONT);
	ferryt_reach(5);
	assert_int_equal(ferryt_wait_child(r, FERRYT_BODY_MS), 0);
	assert_int_equal(ferryt_wait_child(e, FERRYT_BODY_MS), 0);
}

/* ---- the server's end: last of all ---- */

static void lost_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = mmap(NULL, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	ferryt_export(ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	ferryt_reach(1);
	ferryt_await(3);
	CHECK_INT(ferry_mirror_unexport(&ferryt_mirror), 0);
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, FERRY_EXPORT_READ), -ENOTCONN, "");
	CHECK_FAILS(ferry_mirror_unexport(&ferryt_mirror), -EINVAL, "not exported");
	ferryt_end(ferry);
}

static void lost_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror_view *view, *none = NULL;
	uint8_t byte = 1;

	ferryt_await(1);
	view = ferryt_open_view(ferry);
	CHECK_INT(ferry_view_read(view, atomic_load(&ferryt_shared->base), &byte, 1, NULL), 0);
	CHECK_INT(byte, 0);
	ferryt_reach(2);
	ferryt_await(3);
	CHECK_FAILS(ferry_view_read(view, atomic_load(&ferryt_shared->base), &byte, 1, NULL), -ENOTCONN, "");
	CHECK_FAILS(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &none), -ENOTCONN, "");
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void view_read__server_killed__not_connected_and_all_closes(void **state)
{
	(void)state;
	ferryt_start_over();
	pid_t e = ferryt_spawn(lost_exporter), r = ferryt_spawn(lost_reader);

	ferryt_await(2);
	ferryt_child_end(ferryt_server());
	ferryt_reach(3);
	assert_int_equal(ferryt_wait_child(r, FERRYT_BODY_MS), 0);
	assert_int_equal(ferryt_wait_child(e, FERRYT_BODY_MS), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(view_read__exporter_killed__shutdown_and_name_free),
		cmocka_unit_test(view_read__export_withdrawn__shutdown_in_mid_access),
		cmocka_unit_test(view_read__exporter_stopped__timeout_and_goes_on),
		cmocka_unit_test(view_read__server_killed__not_connected_and_all_closes),
	};

	return FERRYT_VIEW_MAIN(argc, argv, tests);
}
