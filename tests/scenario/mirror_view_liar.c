/*
 * What a view makes of an exporter that says what is not so: the exporter is this test's own, on client/control alone, and
 * answers as it is told. Its pages lie in a lease of its own, over the row of argv[1], which must be a one-sided one;
 * argv[2]: a filter of test names.
 */
#include <errno.h>
#include <pthread.h>
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
#include <xxhash.h>

#include <cmocka.h>

#include "clock.h"
#include "control_client.h"
#include "pager_kit.h"

#define NAME	 "liar"
#define VA	 ((uintptr_t)0x10000000)
#define TRIES	 3u /* view.c: answers with places before the exporter has to read */
#define WAIT_MS	 120000
#define MINE	 1u /* seeds of pages */
#define STRANGER 2u

/* How it answers the accesses of one test, by their number from 0. */
enum lie {
	TRUTH,
	MOVED_ONCE,   /* at the first the place holds a stranger's page by the time of the answer */
	MOVED_ALWAYS, /* whenever places are asked for */
	GIVEN_BACK,   /* the second answer names a place whose extent has been given back; then the truth */
	NO_EXTENT,    /* an extent that is not its own, whenever places are asked for */
	BEYOND,	      /* past the end of the extent */
	TOO_FEW,      /* pages */
	TOO_LONG,     /* data */
	UNASKED,      /* a place where bytes were asked for */
};

static struct shared {
	_Atomic int lie;
	_Atomic bool ready, stop;
	_Atomic unsigned asked, asked_places;
} *shared;

/* ---- the exporter ---- */

static struct exporter {
	struct ferryi_control *control;
	struct ferryi_session *session;
	struct ferryi_lease *lease;
	struct ferryi_channel *channel;
	uint8_t *page; /* registered */
	uint8_t data[FERRYI_ACCESS_MAX];
	struct ferryi_access_call *_Atomic call;
} liar;

static void on_access(void *ctx, struct ferryi_access_call *call)
{
	(void)ctx;
	atomic_store(&liar.call, call); /* one reader, one access at a time */
}

static void on_state(void *ctx, struct ferryi_session *session, enum ferryi_session_state state)
{
	(void)ctx;
	(void)session;
	(void)state;
}

/* Writes the page to its place in the first extent, or the second. Giving one back may cost the connection. */
static void put_page(unsigned extent, size_t nr, uint64_t seed)
{
	struct ferryi_op op = { .kind = FERRYI_OP_WRITE,
				.local = liar.page,
				.len_bytes = FERRYT_PAGE,
				.remote = ferryi_lease_extent(liar.lease, extent)->remote,
				.remote_off = nr * FERRYT_PAGE };

	if (liar.channel && ferryi_channel_is_dead(liar.channel))
		ferryi_channel_close(&liar.channel);
	if (!liar.channel)
		CHECK_INT(ferryt_client_channel(liar.lease, liar.page, FERRYT_PAGE, &liar.channel), 0);
	ferryt_fill_page(liar.page, seed, nr);
	CHECK_INT(ferryt_client_op(liar.channel, &op), 0);
}

static uint64_t hash_of(size_t nr)
{
	static uint8_t page[4096];

	ferryt_fill_page(page, MINE, nr);
	return XXH3_64bits(page, sizeof(page));
}

static void place_page(struct ferryi_access_result *result, unsigned extent, size_t nr, uint64_t seed)
{
	put_page(extent, nr, seed);
	result->page[result->npages++] = (struct ferryi_access_page){ .extent_id = ferryi_lease_extent(liar.lease, extent)->id,
								      .off = nr * FERRYT_PAGE,
								      .hash = hash_of(nr) };
}

/* Each page's place, or its bytes. Accesses of these tests are whole pages. */
static void answer_pages(struct ferryi_access_result *result, const struct ferryi_access_call *call, bool places, unsigned extent,
			 uint64_t seed)
{
	for (size_t nr = (call->va - VA) / FERRYT_PAGE; result->npages < call->len / FERRYT_PAGE; nr++) {
		if (places) {
			place_page(result, extent, nr, seed);
			continue;
		}
		ferryt_fill_page(liar.data + result->data_len, MINE, nr);
		result->data_len += FERRYT_PAGE;
		result->npages++;
	}
}

static void give_back_second(struct ferryi_access_result *result, const struct ferryi_access_call *call)
{
	const struct ferryi_extent *extent = ferryi_lease_extent(liar.lease, 1);
	uint64_t id = extent->id;

	answer_pages(result, call, true, 1, MINE);
	ferryi_channel_close(&liar.channel);
	CHECK_INT(ferryi_lease_shrink(liar.lease, 1), 0);
	for (unsigned i = 0; i < result->npages; i++)
		result->page[i].extent_id = id;
}

static void answer(struct ferryi_access_call *call)
{
	struct ferryi_access_result result = { .data = liar.data };
	unsigned nr = atomic_fetch_add(&shared->asked, 1);
	bool places = call->places;

	atomic_fetch_add(&shared->asked_places, places);
	switch ((enum lie)atomic_load(&shared->lie)) {
	case TRUTH:
		answer_pages(&result, call, places, 0, MINE);
		break;
	case MOVED_ONCE:
		answer_pages(&result, call, places, 0, nr == 0 ? STRANGER : MINE);
		break;
	case MOVED_ALWAYS:
		answer_pages(&result, call, places, 0, STRANGER);
		break;
	case GIVEN_BACK:
		if (nr == 1)
			give_back_second(&result, call);
		else
			answer_pages(&result, call, places, nr == 0, MINE);
		break;
	case NO_EXTENT:
		answer_pages(&result, call, places, 0, MINE);
		for (unsigned i = 0; places && i < result.npages; i++)
			result.page[i].extent_id += 1000;
		break;
	case BEYOND:
		answer_pages(&result, call, places, 0, MINE);
		result.page[0].off = FERRY_SUBSECTION;
		break;
	case TOO_FEW:
		answer_pages(&result, call, places, 0, MINE);
		result.npages--;
		break;
	case TOO_LONG:
		answer_pages(&result, call, false, 0, MINE);
		result.data_len -= 8;
		break;
	case UNASKED:
		answer_pages(&result, call, true, 0, places ? STRANGER : MINE);
		break;
	}
	ferryi_access_answer(&call, 0, NULL, &result);
}

static void exporter_open(void)
{
	struct ferryi_control_attr attr = { .token = ferryt_server()->token,
					    .connect_ms = WAIT_MS,
					    .request_ms = WAIT_MS,
					    .on_state = on_state,
					    .on_access = on_access };
	unsigned first, count;

	liar.page = mmap(NULL, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(liar.page != MAP_FAILED);
	CHECK_INT(ferryi_control_open(&attr, &liar.control), 0);
	CHECK_INT(ferryi_session_open(liar.control, ferryt_server_url(), &liar.session), 0);
	CHECK_INT(ferryi_lease_open(liar.session, "big", FERRY_SUBSECTION, &liar.lease), 0);
	CHECK_INT(ferryi_lease_grow(liar.lease, FERRY_SUBSECTION, &first, &count), 0);
	CHECK_INT(ferryi_lease_extent_count(liar.lease), 2);
	CHECK_INT(ferryi_session_export(liar.session, 1, NAME, FERRYI_EXPORT_READ), 0);
	atomic_store(&shared->ready, true);
}

static void exporter_body(void)
{
	exporter_open();
	while (!atomic_load(&shared->stop)) {
		struct ferryi_access_call *call = atomic_exchange(&liar.call, NULL);

		if (call)
			answer(call);
		else
			sched_yield();
	}
	if (liar.channel)
		ferryi_channel_close(&liar.channel);
	ferryi_lease_close(&liar.lease);
	ferryi_session_close(&liar.session);
	ferryi_control_close(&liar.control);
}

/* ---- the reader ---- */

static unsigned pages, reads, want_asked, want_places;
static uint64_t want_rma;
static int want_rc;

static void reader_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint64_t deadline_ns = ferryi_deadline_ms(WAIT_MS);
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	struct ferry_mirror_view *view = NULL;
	static uint8_t buf[4 * 4096];
	int rc = 0;

	while (!atomic_load(&shared->ready)) {
		CHECK(ferryi_now_ns() < deadline_ns);
		sched_yield();
	}
	CHECK_INT(ferry_mirror_open(ferry, NAME, &view), 0);
	for (unsigned i = 0; i < reads && rc == 0; i++) {
		memset(buf, 0xee, sizeof(buf));
		rc = ferry_view_read(view, VA + FERRYT_PAGE, buf, pages * FERRYT_PAGE, &stats);
		if (rc == 0)
			ferryt_verify(buf, 1, pages, MINE);
	}
	if (want_rc)
		CHECK_FAILS(rc, want_rc, "exporter");
	else
		CHECK_INT(rc, 0);
	CHECK_INT(atomic_load(&shared->asked), want_asked);
	CHECK_INT(atomic_load(&shared->asked_places), want_places);
	CHECK_INT(stats.pages_rma, want_rma);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void run(enum lie lie)
{
	memset(shared, 0, sizeof(*shared));
	atomic_store(&shared->lie, lie);
	fflush(NULL);
	pid_t exporter = fork();

	assert_true(exporter >= 0);
	if (exporter == 0) {
		signal(SIGABRT, SIG_DFL);
		signal(SIGSEGV, SIG_DFL);
		exporter_body();
		fflush(NULL);
		_exit(0);
	}
	int rc = ferryt_in_child(reader_body);

	atomic_store(&shared->stop, true);
	assert_int_equal(ferryt_wait_child(exporter, FERRYT_BODY_MS), 0);
	assert_int_equal(rc, 0);
}

static void expect(unsigned of_reads, unsigned asked, unsigned places, uint64_t rma, int rc)
{
	pages = 2;
	reads = of_reads;
	want_asked = asked;
	want_places = places;
	want_rma = rma;
	want_rc = rc;
}

/* ---- tests ---- */

static void view_read__place_holds_another_page__asked_again(void **state)
{
	(void)state;
	expect(1, 1, 1, 2, 0);
	run(TRUTH);
	expect(1, 2, 2, 2, 0);
	run(MOVED_ONCE);
}

static void view_read__place_never_right__exporter_reads(void **state)
{
	(void)state;
	expect(1, TRIES + 1, TRIES, 0, 0);
	run(MOVED_ALWAYS);
	run(NO_EXTENT);
}

static void view_read__extent_given_back__asked_again(void **state)
{
	(void)state;
	expect(2, 3, 3, 4, 0);
	run(GIVEN_BACK);
}

static void view_read__answer_of_a_wrong_shape__eproto(void **state)
{
	(void)state;
	expect(1, 1, 1, 0, -EPROTO);
	run(BEYOND);
	run(TOO_FEW);
	run(TOO_LONG);
	expect(1, TRIES + 1, TRIES, 0, -EPROTO);
	run(UNASKED);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(view_read__place_holds_another_page__asked_again),
		cmocka_unit_test(view_read__place_never_right__exporter_reads),
		cmocka_unit_test(view_read__extent_given_back__asked_again),
		cmocka_unit_test(view_read__answer_of_a_wrong_shape__eproto),
	};
	int rc = ferryt_needs_uffd();

	if (rc || argc < 2)
		return rc ? rc : 2;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	ferryt_server_start(argv[1]);
	rc = cmocka_run_group_tests_name(argv[1], tests, NULL, NULL);
	ferryt_server_end();
	return rc;
}
