/* More memory than the budget, over one row (argument: local, tcp or embedded): data, figures, advice,
 * budget, close. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "pager_kit.h"

#define DATA	   (64 * FERRYT_MIB)
#define DATA_PAGES (DATA / FERRYT_PAGE)
#define MANAGED	   (512 * FERRYT_MIB)

/* ---- the main job ---- */

static void body_fill_and_verify(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, MANAGED);

	ferryt_fill(p, DATA_PAGES, 1);
	ferryt_verify(p, 0, DATA_PAGES, 1);
	/* In an order that no read-ahead helps: 16411 is prime and does not divide the number of pages. */
	for (size_t i = 0, k = 0; k < 2000; k++, i = (i + 16411) % DATA_PAGES)
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);

	struct ferry_stats s = ferryt_stats(ferry);

	CHECK_INT(s.managed_bytes, MANAGED);
	CHECK_INT(s.budget_bytes, FERRYT_BUDGET);
	CHECK(s.leased_bytes >= MANAGED);
	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK(s.resident_bytes <= s.peak_resident_bytes);
	CHECK(s.bookkeeping_bytes > 0 && s.bookkeeping_bytes <= MANAGED / 50);
	/* The kernel's view agrees: what is present is what is counted as resident, or staged. */
	CHECK(ferryt_present(p, MANAGED / FERRYT_PAGE) * FERRYT_PAGE <= FERRYT_BUDGET);
	CHECK(s.away_bytes + FERRYT_BUDGET >= DATA);
	CHECK(s.pages_evicted * FERRYT_PAGE >= DATA - FERRYT_BUDGET);
	CHECK(s.bytes_in >= DATA - FERRYT_BUDGET && s.bytes_out >= DATA - FERRYT_BUDGET);
	CHECK_INT(s.bytes_in, s.pages_in * FERRYT_PAGE);
	CHECK(s.pages_evicted >= s.pages_written && s.pages_evicted >= s.pages_dropped);
	CHECK(s.faults >= s.faults_major + s.faults_zero);
	CHECK(s.fault_major.count == s.faults_major && s.fault.count >= s.fault_major.count);
	CHECK(s.fault_major.p50_ns > 0 && s.fault_major.p50_ns <= s.fault_major.p99_ns);
	CHECK(s.fault_major.p99_ns <= s.fault_major.max_ns + s.fault_major.max_ns / 8);
	CHECK_INT(s.faults_poisoned, 0);
	CHECK_INT(s.pinned_bytes, 0);
	CHECK_INT(ferry_munmap(ferry, p, MANAGED), 0);
	s = ferryt_stats(ferry);
	CHECK_INT(s.managed_bytes, 0);
	CHECK_INT(s.resident_bytes, 0);
	CHECK_INT(s.away_bytes, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mmap__eight_times_the_budget__verified_and_budget_kept(void **state)
{
	(void)state;
	RUN(body_fill_and_verify);
}

static void body_read_only_pass(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, DATA);

	ferryt_fill_away(ferry, p, DATA_PAGES, 2);
	struct ferry_stats before = ferryt_stats(ferry);

	ferryt_verify(p, 0, DATA_PAGES, 2);
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_COLD), 0);
	struct ferry_stats after = ferryt_stats(ferry);

	CHECK(after.pages_in - before.pages_in >= DATA_PAGES);
	CHECK(after.pages_dropped - before.pages_dropped >= DATA_PAGES - FERRYT_BUDGET / FERRYT_PAGE);
	/* A page that is touched while it is on its way out comes back as a dirty one; nothing else is
	 * written. */
	uint64_t rescued = after.faults_rescued - before.faults_rescued;

	CHECK(rescued < DATA_PAGES / 16);
	CHECK(after.pages_written - before.pages_written <= rescued);
	CHECK(after.bytes_out - before.bytes_out <= rescued * FERRYT_PAGE);
	CHECK_INT(ferry_close(ferry), 0);
}

static void read__of_clean_pages__writes_nothing(void **state)
{
	(void)state;
	RUN(body_read_only_pass);
}

static void body_same_content(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 4 * FERRYT_MIB);

	ferryt_fill_away(ferry, p, 1024, 3);
	struct ferry_stats before = ferryt_stats(ferry);

	ferryt_fill(p, 1024, 3); /* written, with what was there */
	p[17 * FERRYT_PAGE] ^= 1;
	CHECK_INT(ferry_advise(ferry, p, 4 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	struct ferry_stats after = ferryt_stats(ferry);

	CHECK_INT(after.pages_written - before.pages_written, 1);
	p[17 * FERRYT_PAGE] ^= 1;
	ferryt_verify(p, 0, 1024, 3);
	CHECK_INT(ferry_close(ferry), 0);
}

static void write__of_equal_data__only_changed_pages_are_sent(void **state)
{
	(void)state;
	RUN(body_same_content);
}

static void body_zero_pages(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, DATA);

	memset(p, 0, DATA);
	ferryt_verify_zero(p, DATA_PAGES);
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_COLD), 0);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK_INT(s.pages_written, 0);
	CHECK_INT(s.bytes_out, 0);
	CHECK_INT(s.away_bytes, 0);
	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void evict__pages_of_zeros__no_traffic(void **state)
{
	(void)state;
	RUN(body_zero_pages);
}

/* ---- read-ahead ---- */

static void body_read_ahead(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, DATA);

	ferryt_fill_away(ferry, p, DATA_PAGES, 4);
	struct ferry_stats s0 = ferryt_stats(ferry);

	ferryt_verify(p, 0, DATA_PAGES, 4);
	struct ferry_stats s1 = ferryt_stats(ferry);

	CHECK(s1.pages_readahead - s0.pages_readahead > DATA_PAGES / 4);
	CHECK(s1.readahead_hits > s0.readahead_hits);
	CHECK(s1.faults_major - s0.faults_major < DATA_PAGES / 2);

	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_RANDOM), 0);
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_COLD), 0);
	s1 = ferryt_stats(ferry);
	ferryt_verify(p, 0, 2048, 4);
	struct ferry_stats s2 = ferryt_stats(ferry);

	CHECK_INT(s2.pages_readahead, s1.pages_readahead);
	CHECK(s2.faults_major - s1.faults_major >= 2048);

	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_SEQUENTIAL), 0);
	s1 = ferryt_stats(ferry);
	ferryt_verify(p + 32 * FERRYT_MIB, 8192, 1, 4); /* one touch: the largest window at once */
	ferryt_verify(p + 32 * FERRYT_MIB, 8192, 2048, 4);
	s2 = ferryt_stats(ferry);
	CHECK(s2.faults_major - s1.faults_major < 512);
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_NORMAL), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void read_ahead__sequential_and_random__as_advised(void **state)
{
	(void)state;
	RUN(body_read_ahead);
}

static void body_no_read_ahead(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	cfg.readahead_pages = 1;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = ferryt_mmap(ferry, 4 * FERRYT_MIB);

	ferryt_fill_away(ferry, p, 1024, 5);
	ferryt_verify(p, 0, 1024, 5);
	CHECK_INT(ferryt_stats(ferry).pages_readahead, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void read_ahead__of_one_page__none(void **state)
{
	(void)state;
	RUN(body_no_read_ahead);
}

/* ---- advice ---- */

static void body_willneed(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, DATA);
	const size_t pages = 2 * FERRYT_MIB / FERRYT_PAGE;

	ferryt_fill_away(ferry, p, DATA_PAGES, 6);
	CHECK_INT(ferry_advise(ferry, p, 2 * FERRYT_MIB, FERRY_ADVICE_WILLNEED), 0);
	CHECK_INT(ferryt_present(p, pages), pages);
	struct ferry_stats before = ferryt_stats(ferry);

	ferryt_verify(p, 0, pages, 6);
	CHECK_INT(ferryt_stats(ferry).faults_major, before.faults_major);
	/* More than fits: no error, the budget holds. */
	CHECK_INT(ferry_advise(ferry, p, DATA, FERRY_ADVICE_WILLNEED), 0);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	ferryt_verify(p, 0, DATA_PAGES, 6);
	CHECK_INT(ferry_close(ferry), 0);
}

static void advise__willneed__present_without_faults(void **state)
{
	(void)state;
	RUN(body_willneed);
}

static void body_dontneed(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 4 * FERRYT_MIB);

	/* away */
	ferryt_fill_away(ferry, p, 1024, 7);
	CHECK_INT(ferry_advise(ferry, p, 2 * FERRYT_MIB, FERRY_ADVICE_DONTNEED), 0);
	ferryt_verify_zero(p, 512);
	ferryt_verify(p + 2 * FERRYT_MIB, 512, 512, 7);
	/* resident */
	ferryt_fill(p, 512, 8);
	CHECK_INT(ferry_advise(ferry, p, 2 * FERRYT_MIB, FERRY_ADVICE_DONTNEED), 0);
	ferryt_verify_zero(p, 512);
	/* the application's own, away and resident */
	ferryt_fill_away(ferry, p, 1024, 9);
	ferryt_verify(p, 0, 100, 9);
	CHECK_INT(madvise(p, 2 * FERRYT_MIB, MADV_DONTNEED), 0);
	ferryt_verify_zero(p, 512);
	ferryt_verify(p + 2 * FERRYT_MIB, 512, 512, 9);
	/* and the range goes on as ever */
	ferryt_fill_away(ferry, p, 1024, 10);
	ferryt_verify(p, 0, 1024, 10);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, 1024, 10);
}

static void dontneed__ours_and_the_applications__zeros(void **state)
{
	(void)state;
	RUN(body_dontneed);
}

static void body_dontneed_under_pressure(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 32 * FERRYT_MIB);
	const size_t half = 4096;

	/* Pages are dropped in every state while others are pushed out. */
	for (unsigned round = 0; round < 12; round++) {
		ferryt_fill(p, 2 * half, 20 + round);
		CHECK_INT(madvise(p, half * FERRYT_PAGE, MADV_DONTNEED), 0);
		ferryt_verify_zero(p, half);
		ferryt_verify(p + half * FERRYT_PAGE, half, half, 20 + round);
	}
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void dontneed__under_pressure__zeros_never_old_data(void **state)
{
	(void)state;
	RUN(body_dontneed_under_pressure);
}

/* ---- flush ---- */

static void body_flush(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 4 * FERRYT_MIB);

	ferryt_fill(p, 1024, 30);
	CHECK_INT(ferry_flush(ferry, p, 4 * FERRYT_MIB), 0);
	struct ferry_stats flushed = ferryt_stats(ferry);

	CHECK(flushed.bytes_out >= 4 * FERRYT_MIB);
	CHECK_INT(ferryt_present(p, 1024), 1024);
	CHECK_INT(ferry_flush(ferry, p, 4 * FERRYT_MIB), 0); /* nothing left to do */
	CHECK_INT(ferry_advise(ferry, p, 4 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, 1024), 0);
	struct ferry_stats cold = ferryt_stats(ferry);

	CHECK_INT(cold.bytes_out, flushed.bytes_out);
	CHECK_INT(cold.pages_written, flushed.pages_written);
	ferryt_verify(p, 0, 1024, 30);
	/* What is away is current already; a page written after a flush is not. */
	CHECK_INT(ferry_advise(ferry, p, 2 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	ferryt_fill_page(p, 31, 0);
	CHECK_INT(ferry_flush(ferry, p, 4 * FERRYT_MIB), 0);
	CHECK_INT(ferryt_stats(ferry).bytes_out, flushed.bytes_out + FERRYT_PAGE);
	ferryt_fill_page(p, 32, 0);
	CHECK_INT(ferry_advise(ferry, p, 4 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	ferryt_verify(p, 0, 1, 32);
	CHECK_INT(ferry_close(ferry), 0);
}

static void flush__then_cold__writes_nothing_more(void **state)
{
	(void)state;
	RUN(body_flush);
}

/* ---- budget, pins ---- */

static void body_set_budget(void)
{
	struct ferry *ferry = ferryt_open(64 * FERRYT_MIB);
	uint8_t *p = ferryt_mmap(ferry, 48 * FERRYT_MIB);
	const size_t pages = 48 * FERRYT_MIB / FERRYT_PAGE;

	ferryt_fill(p, pages, 40);
	CHECK_INT(ferry_set_budget(ferry, FERRYT_BUDGET), 0);
	CHECK(ferryt_stats(ferry).resident_bytes <= FERRYT_BUDGET);
	CHECK(ferryt_present(p, pages) * FERRYT_PAGE <= FERRYT_BUDGET);
	CHECK_INT(ferryt_stats(ferry).budget_bytes, FERRYT_BUDGET);
	ferryt_verify(p, 0, pages, 40);
	CHECK(ferryt_stats(ferry).resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_set_budget(ferry, 64 * FERRYT_MIB), 0);
	ferryt_verify(p, 0, pages, 40);
	ferryt_verify(p, 0, pages, 40);
	CHECK(ferryt_present(p, pages) > pages / 2);
	CHECK_INT(ferry_set_budget(ferry, FERRY_BUDGET_MIN), 0);
	ferryt_verify(p, 0, pages, 40);
	CHECK_INT(ferry_close(ferry), 0);
}

static void set_budget__lower__evicted_before_it_returns(void **state)
{
	(void)state;
	RUN(body_set_budget);
}

static void body_pin(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 32 * FERRYT_MIB);
	const size_t pages = 32 * FERRYT_MIB / FERRYT_PAGE;

	ferryt_fill_away(ferry, p, pages, 50);
	CHECK_INT(ferry_pin(ferry, p, FERRYT_MIB), 0);
	CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0); /* nests */
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, FERRYT_MIB);
	CHECK_INT(ferryt_present(p, 256), 256);
	ferryt_verify(p, 0, pages, 50); /* pressure */
	CHECK_INT(ferry_advise(ferry, p, 32 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, 256), 256);
	ferryt_verify(p, 0, pages, 50);
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_MIB), 0);
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, FERRYT_PAGE);
	CHECK_INT(ferry_advise(ferry, p, FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, 256), 1);
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 0);
	CHECK_INT(ferry_advise(ferry, p, FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, 256), 0);
	/* Never touched pages are pinned too. */
	uint8_t *fresh = ferryt_mmap(ferry, FERRYT_MIB);

	CHECK_INT(ferry_pin(ferry, fresh, FERRYT_MIB), 0);
	CHECK_INT(ferryt_present(fresh, 256), 256);
	ferryt_verify_zero(fresh, 256);
	CHECK_INT(ferry_unpin(ferry, fresh, FERRYT_MIB), 0);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void pin__under_pressure__stays_and_nests(void **state)
{
	(void)state;
	RUN(body_pin);
}

/* ---- close ---- */

static void body_close(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, 32 * FERRYT_MIB), *q = ferryt_mmap(ferry, 2 * FERRYT_MIB);
	const size_t pages = 32 * FERRYT_MIB / FERRYT_PAGE;

	ferryt_fill_away(ferry, p, pages, 60);
	ferryt_fill(q, 512, 61);
	CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_close(ferry), -EBUSY, "pin");
	ferryt_verify(p, 0, 100, 60); /* all is as it was */
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(ferry_advise(ferry, p, 32 * FERRYT_MIB, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferry_close(ferry), 0);
	/* plain memory with the data, no server behind it */
	CHECK_INT(ferryt_present(p, pages), pages);
	ferryt_verify(p, 0, pages, 60);
	ferryt_verify(q, 0, 512, 61);
	ferryt_fill(q, 512, 62);
	CHECK_INT(madvise(q, FERRYT_MIB, MADV_DONTNEED), 0);
	ferryt_verify_zero(q, 256);
	CHECK_INT(munmap(q, 2 * FERRYT_MIB), 0);
	/* opened again, the same memory is managed anew */
	ferry = ferryt_open(FERRYT_BUDGET);
	CHECK_INT(ferry_adopt(ferry, p, 32 * FERRYT_MIB, 0), 0);
	CHECK(ferryt_stats(ferry).resident_bytes <= FERRYT_BUDGET);
	ferryt_verify(p, 0, pages, 60);
	CHECK_INT(ferry_munmap(ferry, p, 32 * FERRYT_MIB), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void close__pages_away__home_as_plain_memory_and_reopened(void **state)
{
	(void)state;
	RUN(body_close);
}

static void body_open_close(void)
{
	for (unsigned i = 0; i < 5; i++) {
		struct ferry *ferry = ferryt_open(FERRYT_BUDGET);

		CHECK(ferry_caps(ferry) & FERRY_CAP_MOVE);
		if (i % 2)
			ferryt_fill(ferryt_mmap(ferry, FERRYT_MIB), 256, i);
		CHECK_INT(ferry_close(ferry), 0);
	}
}

static void open__five_times__works_each_time(void **state)
{
	(void)state;
	RUN(body_open_close);
}

static const char *row;

static int group_setup(void **state)
{
	(void)state;
	ferryt_server_start(row);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	ferryt_server_end();
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mmap__eight_times_the_budget__verified_and_budget_kept),
		cmocka_unit_test(read__of_clean_pages__writes_nothing),
		cmocka_unit_test(write__of_equal_data__only_changed_pages_are_sent),
		cmocka_unit_test(evict__pages_of_zeros__no_traffic),
		cmocka_unit_test(read_ahead__sequential_and_random__as_advised),
		cmocka_unit_test(read_ahead__of_one_page__none),
		cmocka_unit_test(advise__willneed__present_without_faults),
		cmocka_unit_test(dontneed__ours_and_the_applications__zeros),
		cmocka_unit_test(dontneed__under_pressure__zeros_never_old_data),
		cmocka_unit_test(flush__then_cold__writes_nothing_more),
		cmocka_unit_test(set_budget__lower__evicted_before_it_returns),
		cmocka_unit_test(pin__under_pressure__stays_and_nests),
		cmocka_unit_test(close__pages_away__home_as_plain_memory_and_reopened),
		cmocka_unit_test(open__five_times__works_each_time),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
