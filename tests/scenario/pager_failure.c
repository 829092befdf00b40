/*
 * Promises 1, 2 and 5 when the server fails: pages that are away raise SIGBUS
 * within the deadline and ferry_fault_query says why; never a zero, never a
 * hang, and what is in RAM stays usable.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "clock.h"
#include "fabric.h"
#include "pager_kit.h"

#define PAGES      (16 * FERRYT_MIB / FERRYT_PAGE)
#define PROBE_PAGES 1024u
#define TIMEOUT_MS 2000u
#define SLACK_MS   60000u /* "did end", on a machine that may be slow */

static const char *row_arg;

static struct ferry *open_with_timeout(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	cfg.fault_timeout_ms = TIMEOUT_MS;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

/* Touches every 64th page: right data or SIGBUS with a reason, never anything else. How many raised SIGBUS. */
static size_t touch_all(struct ferry *ferry, const uint8_t *p, uint64_t seed, enum ferry_fault_reason *reason)
{
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS);
	size_t nr_sigbus = 0;

	for (size_t i = 0; i < PAGES; i += 64) {
		const uint8_t *page = p + i * FERRYT_PAGE;
		uint8_t byte;
		int sig = ferryt_touch(page, &byte);

		CHECK(ferryi_now_ns() < deadline_ns);
		if (!sig) {
			ferryt_verify(page, i, 1, seed);
			continue;
		}
		CHECK_INT(sig, SIGBUS);
		nr_sigbus++;
		struct ferry_fault_info info = { .size = sizeof(info) };

		CHECK_INT(ferry_fault_query(ferry, (uintptr_t)page + 5, &info), 0);
		CHECK(info.va == (uintptr_t)page);
		CHECK(info.reason != FERRY_FAULT_NONE && info.reason != FERRY_FAULT_NOT_MANAGED);
		CHECK(info.server[0] != '\0');
		CHECK(ferry_fault_reason_text(info.reason)[0] != '\0');
		*reason = info.reason;
		/* Poison stays: the second touch does not wait, nor give a zero. */
		CHECK_INT(ferryt_touch(page, &byte), SIGBUS);
	}
	return nr_sigbus;
}

/*
 * Kills the server and waits until the library has noticed: over the local
 * fabric the data outlives the server until then. Pages of `probe`, all away,
 * are touched one after the other until one raises SIGBUS.
 */
static void kill_server_and_wait(const uint8_t *probe)
{
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS);
	uint8_t byte;

	ferryt_child_signal(ferryt_server(), SIGKILL);
	for (size_t i = 0; !ferryt_touch(probe + i * FERRYT_PAGE, &byte); i = (i + 1) % PROBE_PAGES) {
		CHECK(ferryi_now_ns() < deadline_ns);
		poll(NULL, 0, 1);
	}
}

static uint8_t *make_probe(struct ferry *ferry)
{
	uint8_t *probe = ferryt_mmap(ferry, PROBE_PAGES * FERRYT_PAGE);

	CHECK_INT(ferry_advise(ferry, probe, PROBE_PAGES * FERRYT_PAGE, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill_away(ferry, probe, PROBE_PAGES, 9);
	return probe;
}

static void server_killed_body(void)
{
	struct ferry *ferry = open_with_timeout();
	uint8_t *probe = make_probe(ferry);
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE), *hot = ferryt_mmap(ferry, FERRYT_MIB);
	enum ferry_fault_reason reason = FERRY_FAULT_NONE;

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_fill(hot, FERRYT_MIB / FERRYT_PAGE, 2);
	CHECK_INT(ferry_pin(ferry, hot, FERRYT_MIB), 0);
	kill_server_and_wait(probe);
	CHECK(touch_all(ferry, p, 1, &reason) > 0);
	CHECK(reason == FERRY_FAULT_SERVER_LOST || reason == FERRY_FAULT_IO || reason == FERRY_FAULT_TIMEOUT);
	/* What is in RAM is as it was. */
	ferryt_verify(hot, 0, FERRYT_MIB / FERRYT_PAGE, 2);
	CHECK_INT(ferry_unpin(ferry, hot, FERRYT_MIB), 0);
	/* Close must not turn what is lost into zeros: it refuses, and all is as it was. */
	CHECK_FAILS(ferry_close(ferry), -EIO, "close");
	ferryt_verify(hot, 0, FERRYT_MIB / FERRYT_PAGE, 2);
	CHECK(touch_all(ferry, p, 1, &reason) > 0);
	/* Dropping the range gives it up, and then the library can close. */
	CHECK_INT(ferry_munmap(ferry, p, PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_munmap(ferry, probe, PROBE_PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(hot, 0, FERRYT_MIB / FERRYT_PAGE, 2);
}

static void pages_away__server_killed__sigbus_with_a_reason(void **state)
{
	(void)state;
	ferryt_server_start(row_arg);
	RUN(server_killed_body);
	ferryt_server_end();
}

static void dontneed_heals_body(void)
{
	struct ferry *ferry = open_with_timeout();
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	enum ferry_fault_reason reason = FERRY_FAULT_NONE;

	uint8_t *probe = make_probe(ferry);

	ferryt_fill_away(ferry, p, PAGES, 1);
	kill_server_and_wait(probe);
	CHECK(touch_all(ferry, p, 1, &reason) > 0);
	/* The application gives the content up in so many words: zeros are right from then on. */
	CHECK_INT(madvise(p, FERRYT_MIB, MADV_DONTNEED), 0);
	ferryt_verify_zero(p, FERRYT_MIB / FERRYT_PAGE);
	struct ferry_fault_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p, &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NONE);
}

static void poison__dontneed__reads_zeros_again(void **state)
{
	(void)state;
	ferryt_server_start(row_arg);
	RUN(dontneed_heals_body);
	ferryt_server_end();
}

static void server_stopped_body(void)
{
	const struct ferryi_fabric_row *row = ferryi_fabric_find(ferryt_row());
	struct ferry *ferry = open_with_timeout();
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	enum ferry_fault_reason reason = FERRY_FAULT_NONE;

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_child_stop(ferryt_server());
	size_t nr_sigbus = touch_all(ferry, p, 1, &reason);

	if (row->flags & FERRYI_FABRIC_DATA_OUTLIVES_STOP)
		CHECK_INT(reason == FERRY_FAULT_NONE ? 0 : nr_sigbus > 0, reason == FERRY_FAULT_NONE ? 0 : 1);
	else
		CHECK(nr_sigbus > 0);
	ferryt_child_signal(ferryt_server(), SIGCONT);
}

static void pages_away__server_stopped__no_hang(void **state)
{
	(void)state;
	ferryt_server_start(row_arg);
	RUN(server_stopped_body);
	ferryt_server_end();
}

/* Half of a range twice the budget is being rewritten when the server dies: each page is whole or SIGBUS. */
static void killed_while_evicting_body(void)
{
	struct ferry *ferry = open_with_timeout();
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	size_t done = 0;

	ferryt_fill(p, PAGES, 1);
	for (size_t i = 0; i < PAGES; i++) {
		uint8_t byte;

		if (i == PAGES / 4)
			ferryt_child_signal(ferryt_server(), SIGKILL);
		if (ferryt_touch(p + i * FERRYT_PAGE, &byte))
			break; /* from here on there is no room to write to either */
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);
		done = i;
	}
	CHECK(done + 1 >= PAGES / 4);
	enum ferry_fault_reason reason = FERRY_FAULT_NONE;

	touch_all(ferry, p, 1, &reason);
	struct ferry_stats stats = ferryt_stats(ferry);

	CHECK(stats.peak_resident_bytes <= FERRYT_BUDGET);
}

static void eviction__server_killed__whole_pages_or_sigbus(void **state)
{
	(void)state;
	ferryt_server_start(row_arg);
	RUN(killed_while_evicting_body);
	ferryt_server_end();
}

/* First touches need room, and nothing can leave: SIGBUS with NO_MEMORY within the deadline, not a hang. */
static void no_room_body(void)
{
	struct ferry *ferry = open_with_timeout();
	uint8_t *p = ferryt_mmap(ferry, PAGES * FERRYT_PAGE);
	struct ferry_fault_info info = { .size = sizeof(info) };
	size_t i = 0;
	int sig = 0;

	kill_server_and_wait(make_probe(ferry));
	for (; i < PAGES && !sig; i++) {
		uint8_t byte;

		sig = ferryt_touch(p + i * FERRYT_PAGE, &byte);
	}
	CHECK_INT(sig, SIGBUS);
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)(p + (i - 1) * FERRYT_PAGE), &info), 0);
	CHECK_INT(info.reason, FERRY_FAULT_NO_MEMORY);
}

static void first_touch__nothing_can_leave__sigbus_no_memory(void **state)
{
	(void)state;
	ferryt_server_start(row_arg);
	RUN(no_room_body);
	ferryt_server_end();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_away__server_killed__sigbus_with_a_reason),
		cmocka_unit_test(poison__dontneed__reads_zeros_again),
		cmocka_unit_test(pages_away__server_stopped__no_hang),
		cmocka_unit_test(eviction__server_killed__whole_pages_or_sigbus),
		cmocka_unit_test(first_touch__nothing_can_leave__sigbus_no_memory),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	row_arg = argc > 1 ? argv[1] : "local";
	return cmocka_run_group_tests(tests, NULL, NULL);
}
