/*
 * What an access gets when the network, or a part of it, is gone, with one
 * copy of each page: its data, or SIGBUS with a reason before the deadline;
 * never a zero, never another's bytes, never a hang. The server is at the end
 * of a cable in a network of the test's own (../chaos/member.h). Each test
 * prints how long the outcome took.
 *
 * usage: failure_net ROW [FILTER]; row local: what needs no network
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "arith.h"
#include "clock.h"
#include "member.h"
#include "pager_kit.h"

#define PAGES	   512u
#define DETECT_MS  1000u
#define LONG_MS	   20000u /* detection, where it is not to strike */
#define CUT_MS	   300u
#define FAULT_MS   4000u
#define SLACK_MS   60000u /* "did end", on a machine that may be slow */
#define POOL_BYTES (64 * FERRYT_MIB)

static struct ferryt_net net = {.token_file = "/tmp/ferryt-net-token", .pool_bytes = POOL_BYTES};
static struct ferryt_member member;

static struct ferry *open_client(void)
{
	struct ferry_config cfg = {.size = sizeof(cfg),
				   .servers = member.url,
				   .token_file = net.token_file,
				   .local_bytes = FERRYT_BUDGET,
				   .fault_timeout_ms = FAULT_MS};
	struct ferry *ferry;

	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

/* Pages that are away, each read by itself. */
static uint8_t *make_away(struct ferry *ferry, size_t pages, uint64_t seed)
{
	uint8_t *p = ferryt_mmap(ferry, pages * FERRYT_PAGE);

	CHECK_INT(ferry_advise(ferry, p, pages * FERRYT_PAGE, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill_away(ferry, p, pages, seed);
	return p;
}

/* Touches pages until one raises SIGBUS; the others have their data. *reason: why. */
static void touch_until_lost(struct ferry *ferry, const uint8_t *p, size_t pages, uint64_t seed,
			     const char *what)
{
	uint64_t start = ferryi_now_ns(), deadline_ns = ferryi_deadline_ms(SLACK_MS);
	struct ferry_fault_info info = {.size = sizeof(info)};
	uint64_t longest = 0;
	uint8_t byte;

	for (size_t i = 0;; i = (i + 1) % pages) {
		uint64_t began = ferryi_now_ns();
		int sig = ferryt_touch(p + i * FERRYT_PAGE, &byte);

		longest = ferryi_max_u64(longest, ferryi_now_ns() - began);
		CHECK(ferryi_now_ns() < deadline_ns);
		if (!sig) {
			ferryt_verify(p + i * FERRYT_PAGE, i, 1, seed);
			CHECK(i + 1 < pages); /* every page came: nothing was cut */
			poll(NULL, 0, 5);
			continue;
		}
		CHECK_INT(sig, SIGBUS);
		CHECK_INT(ferry_fault_query(ferry, (uintptr_t)p + i * FERRYT_PAGE, &info), 0);
		CHECK(info.reason != FERRY_FAULT_NONE && info.reason != FERRY_FAULT_NOT_MANAGED);
		break;
	}
	printf("# %s: SIGBUS (%s) after %llu ms, longest access %llu ms; detection %u ms, fault timeout %u "
	       "ms\n",
	       what, ferry_fault_reason_text(info.reason),
	       (unsigned long long)((ferryi_now_ns() - start) / FERRYI_NS_PER_MS),
	       (unsigned long long)(longest / FERRYI_NS_PER_MS), DETECT_MS, FAULT_MS);
}

static void cut_body(enum ferryt_cut cut, const char *what)
{
	struct ferry *ferry = open_client();
	uint8_t *p = make_away(ferry, PAGES, 1);

	ferryt_member_cut(&member, cut);
	touch_until_lost(ferry, p, PAGES, 1, what);
}

static void cut_both_body(void)
{
	cut_body(FERRYT_CUT_BOTH, "cable cut");
}

static void cut_answers_body(void)
{
	cut_body(FERRYT_CUT_ANSWERS, "answers cut");
}

static void cut_requests_body(void)
{
	cut_body(FERRYT_CUT_REQUESTS, "requests cut");
}

/* Each test has an address of its own, whatever the one before has left cut. */
static void with_cable(void (*body)(void), unsigned detect_ms)
{
	static unsigned number;

	if (!net.has_cables) {
		print_message("skipped: network namespaces need root\n");
		skip();
	}
	net.detect_ms = detect_ms;
	ferryt_member_open(&member, &net, number++);
	ferryt_member_start(&member, &net);
	RUN(body);
	ferryt_member_close(&member);
}

static void away_page__cable_cut__sigbus_in_time(void **state)
{
	(void)state;
	with_cable(cut_both_body, DETECT_MS);
}

static void away_page__answers_cut__sigbus_in_time(void **state)
{
	(void)state;
	with_cable(cut_answers_body, DETECT_MS);
}

static void away_page__requests_cut__sigbus_in_time(void **state)
{
	(void)state;
	with_cable(cut_requests_body, DETECT_MS);
}

/* ---- cut for a moment ---- */

static void *mend(void *arg)
{
	(void)arg;
	poll(NULL, 0, CUT_MS);
	ferryt_member_cut(&member, FERRYT_CUT_NONE);
	return NULL;
}

static void short_cut_body(void)
{
	struct ferry *ferry = open_client();
	uint8_t *p = make_away(ferry, PAGES, 1);
	pthread_t thread;

	ferryt_member_cut(&member, FERRYT_CUT_ANSWERS); /* a link that goes down takes its routes, and so the
							   connection, along */
	uint64_t start = ferryi_now_ns();

	CHECK_INT(pthread_create(&thread, NULL, mend, NULL), 0);
	ferryt_verify(p, 0, 1, 1);
	printf("# cut for %u ms: data after %llu ms\n", CUT_MS,
	       (unsigned long long)((ferryi_now_ns() - start) / FERRYI_NS_PER_MS));
	pthread_join(thread, NULL);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK_INT(ferry_close(ferry), 0);
}

static void away_page__cut_for_a_moment__has_its_data(void **state)
{
	(void)state;
	with_cable(short_cut_body, LONG_MS);
}

/* ---- one of the two connections ---- */

static void data_cut_body(void)
{
	struct ferry *ferry = open_client();
	uint8_t *p = make_away(ferry, PAGES, 1), byte;

	ferryt_member_cut_service(&member, true, true);
	uint64_t start = ferryi_now_ns();

	/* The server lives, as far as can be told: the page is tried again until its deadline. */
	CHECK_INT(ferryt_touch(p, &byte), SIGBUS);
	printf("# data cut, control alive: SIGBUS after %llu ms; fault timeout %u ms\n",
	       (unsigned long long)((ferryi_now_ns() - start) / FERRYI_NS_PER_MS), FAULT_MS);
	ferryt_member_cut_service(&member, true, false);
	/* The others have lost nothing. */
	ferryt_verify(p + FERRYT_PAGE, 1, PAGES - 1, 1);
}

static void data_connection__cut__pages_in_time_lost_others_come_back(void **state)
{
	(void)state;
	with_cable(data_cut_body, LONG_MS);
}

static void control_cut_body(void)
{
	struct ferry *ferry = open_client();
	uint8_t *p = make_away(ferry, 16 * PAGES, 1);

	ferryt_member_cut_service(&member, false, true);
	/* Data flows on until both sides take each other for dead; then the keys are void. */
	touch_until_lost(ferry, p, 16 * PAGES, 1, "control cut, data alive");
}

static void control_connection__cut__fenced(void **state)
{
	(void)state;
	with_cable(control_cut_body, DETECT_MS);
}

/* ---- a client that is stopped for too long ---- */

#define LARGE_PAGES (40 * FERRYT_MIB / FERRYT_PAGE) /* more than half of the pool */

/* SIGSTOPs itself with all its pages away; after that, whatever it touches is its own data or SIGBUS. */
static void stopped_client(int ready_fd)
{
	struct ferry *ferry = open_client();
	uint8_t *p = make_away(ferry, LARGE_PAGES, 1), byte;
	size_t nr_lost = 0;

	CHECK_INT(write(ready_fd, "", 1), 1);
	raise(SIGSTOP);
	for (size_t i = 0; i < LARGE_PAGES; i += 8) {
		int sig = ferryt_touch(p + i * FERRYT_PAGE, &byte);

		if (sig)
			nr_lost++;
		else
			ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);
	}
	CHECK(nr_lost > 0);
	printf("# client stopped past its lease: %zu of %zu pages raise SIGBUS, the others have their data\n",
	       nr_lost, (size_t)LARGE_PAGES / 8);
	fflush(NULL);
	_exit(0);
}

/* Memory that is there only once the other client's is free. */
static uint8_t *take_over(struct ferry *ferry)
{
	uint64_t deadline_ns = ferryi_deadline_ms(SLACK_MS);
	uint8_t *q;

	while ((q = ferry_mmap(ferry, NULL, LARGE_PAGES * FERRYT_PAGE, PROT_READ | PROT_WRITE, 0)) ==
	       MAP_FAILED) {
		CHECK(ferryi_now_ns() < deadline_ns);
		poll(NULL, 0, 20);
	}
	return q;
}

static void fenced_body(void)
{
	int ready[2], status;
	char byte;

	CHECK_INT(pipe(ready), 0);
	pid_t pid = fork();

	if (!pid)
		stopped_client(ready[1]);
	CHECK_INT(read(ready[0], &byte, 1), 1);
	CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));

	struct ferry *ferry = open_client();
	uint8_t *q = take_over(ferry);

	ferryt_fill_away(ferry, q, LARGE_PAGES, 2);
	CHECK_INT(kill(pid, SIGCONT), 0);
	CHECK_INT(ferryt_wait_child(pid, SLACK_MS), 0);
	/* Nor has the first written to what is another's now. */
	ferryt_verify(q, 0, LARGE_PAGES, 2);
	CHECK_INT(ferry_munmap(ferry, q, LARGE_PAGES * FERRYT_PAGE), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void client__stopped_past_its_lease__fenced(void **state)
{
	(void)state;
	net.detect_ms = DETECT_MS;
	ferryt_member_open(&member, &net, 99);
	ferryt_member_start(&member, &net);
	RUN(fenced_body);
	ferryt_member_close(&member);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(away_page__cable_cut__sigbus_in_time),
		cmocka_unit_test(away_page__answers_cut__sigbus_in_time),
		cmocka_unit_test(away_page__requests_cut__sigbus_in_time),
		cmocka_unit_test(away_page__cut_for_a_moment__has_its_data),
		cmocka_unit_test(data_connection__cut__pages_in_time_lost_others_come_back),
		cmocka_unit_test(control_connection__cut__fenced),
		cmocka_unit_test(client__stopped_past_its_lease__fenced),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	char token_file[64];

	snprintf(token_file, sizeof(token_file), "/tmp/ferryt-net-token-%d", (int)getpid());
	net.token_file = token_file;
	net.fabric = argc > 1 ? argv[1] : "tcp";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	ferryt_net_open(&net);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(token_file);
	return rc;
}
