/* Page descriptors in the pool: a process crashes, the next one finds its pages. argv[1]: the fabric row. */
#include <errno.h>
#include <poll.h>
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
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "altmap_kit.h"
#include "clock.h"

/* ---- after a flush ---- */

static void found_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	struct ferry_kept_page kept[64];
	static uint8_t seen[PAGES], which[PAGES];
	uint64_t cursor = 0;
	long n;

	CHECK(info_of(pool).kept_bytes > PAGES * FERRYT_PAGE);
	while ((n = ferry_pool_kept(pool, kept, 64, &cursor)) > 0) {
		for (long k = 0; k < n; k++) {
			size_t i = (kept[k].va - shared->va) / FERRYT_PAGE;
			uint8_t page[FERRY_PAGE_SIZE];

			CHECK(i < PAGES && !seen[i]++);
			CHECK_INT(kept[k].drvdata, drvdata_of(i));
			CHECK_INT(ferry_device_read(ferry, kept[k].pfn, page, sizeof(page)), 0);
			ferryt_verify(page, i, 1, 5);
		}
	}
	CHECK_INT(n, 0);
	CHECK(memchr(seen, 0, PAGES) == NULL);
	/* Somewhere else in memory, and a part of it only. */
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES + 1);
	struct ferry_recover_stats stats = recover(pool, shared->va - FERRYT_PAGE, p, PAGES / 2 + 1, which);

	CHECK_INT(stats.recovered, PAGES / 2);
	CHECK_INT(stats.missing, 1);
	CHECK(which[0] == FERRY_RECOVER_MISSING && which[1] == FERRY_RECOVERED && which[PAGES / 2] == FERRY_RECOVERED);
	CHECK_INT(count_kept(pool), PAGES / 2);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= BUDGET);
	stats = recover(pool, shared->va + PAGES / 2 * FERRYT_PAGE, p + (PAGES / 2 + 1) * FERRYT_PAGE, PAGES / 2, NULL);
	CHECK_INT(stats.recovered, PAGES / 2);
	ferryt_verify(p + FERRYT_PAGE, 0, PAGES, 5);
	ferryt_verify_zero(p, 1);
	CHECK_INT(count_kept(pool), 0);
	CHECK_FAILS(ferry_pool_recover(pool, shared->va, p, FERRYT_PAGE, NULL), -ENOENT, "no page of an earlier");
	/* The kept places are memory of the pool like any other again, and the numbers have gone along. */
	CHECK_INT(ferry_flush(ferry, p, (PAGES + 1) * FERRYT_PAGE), 0);
	CHECK_INT(info_of(pool).used_bytes, FERRY_SUBSECTION + PAGES * FERRYT_PAGE);
	uint64_t numbers = 0, pfn = info_of(pool).pfn_first;

	for (; pfn <= info_of(pool).pfn_last; pfn++) {
		if (ferry_pfn_valid(ferry, pfn))
			numbers += ferry_page_get_drvdata(ferry_pfn_to_page(ferry, pfn)) != 0;
	}
	CHECK_INT(numbers, (PAGES + 2) / 3);
	CHECK_INT(ferry_close(ferry), 0);
}

static void altmap__killed_after_flush__next_finds_every_byte_and_drvdata(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	RUN(found_body);
	RUN(nothing_body);
}

static void altmap__pool_in_a_file_and_server_killed__found_as_well(void **state)
{
	(void)state;
	if (is_local())
		skip(); /* that row lends no file */
	type = FERRY_MEM_FS_DAX;
	pool_name = "disk";
	expect_killed(flushed_body);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	ferryt_server_end();
	start_server(ferryt_row(), "600s");
	RUN(found_body);
	RUN(nothing_body);
}

static void altmap__server_killed__nothing_is_kept_and_the_line_says_so(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	ferryt_server_end();
	start_server(ferryt_row(), "600s");
	RUN(nothing_body);
}

/* ---- changes until the crash ---- */

/* All zero now: what was there before must not come back; and what moved by mremap is found where it is. */
static void changed_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);

	attach(ferry);
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES), *q = map_there(ferry, 512);

	ferryt_fill_away(ferry, p, PAGES, 6);
	ferryt_fill_away(ferry, q, 512, 7);
	memset(p, 0, 512 * FERRYT_PAGE);
	CHECK_INT(madvise(p + 512 * FERRYT_PAGE, 512 * FERRYT_PAGE, MADV_DONTNEED), 0);
	CHECK_INT(ferry_munmap(ferry, p + 1024 * FERRYT_PAGE, 512 * FERRYT_PAGE), 0);
	CHECK(mremap(q, 512 * FERRYT_PAGE, 512 * FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 1024 * FERRYT_PAGE) ==
	      p + 1024 * FERRYT_PAGE);
	ferryt_fill(p + 1536 * FERRYT_PAGE, 512, 8);
	CHECK_INT(ferry_advise(ferry, p, 512 * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	ferryt_verify(p + 1024 * FERRYT_PAGE, 0, 512, 7);
	CHECK_INT(ferry_flush(ferry, p, PAGES * FERRYT_PAGE), 0);
	shared->va = (uintptr_t)p;
	raise(SIGKILL);
}

static void changed_found_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, PAGES);
	struct ferry_recover_stats stats = recover(pool, shared->va, p, PAGES, NULL);

	CHECK_INT(stats.lost, 0);
	ferryt_verify_zero(p, 1024);
	ferryt_verify(p + 1024 * FERRYT_PAGE, 0, 512, 7);
	ferryt_verify(p + 1536 * FERRYT_PAGE, 0, 512, 8);
	ferryt_verify(p + 2048 * FERRYT_PAGE, 2048, PAGES - 2048, 6);
}

static void altmap__zeroed_dropped_moved_then_flushed__as_it_was_last(void **state)
{
	(void)state;
	expect_killed(changed_body);
	RUN(changed_found_body);
}

/* ---- places that are not the pages' any more ---- */

static void left_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry), *first = ferry_pool_at(ferry, 0);
	uint8_t *p = map_there(ferry, 1024), *q = map_there(ferry, 512);

	ferryt_fill(p, 1024, 1);
	ferryt_fill(q, 512, 1);
	CHECK_INT(ferry_migrate_to_device(pool, p, 1024 * FERRYT_PAGE, 0, NULL), 0);
	CHECK_INT(ferry_migrate_to_device(pool, q, 512 * FERRYT_PAGE, 0, NULL), 0);
	CHECK_INT(ferry_flush(ferry, p, 1024 * FERRYT_PAGE), 0);
	CHECK_INT(info_of(pool).used_bytes, 1536 * FERRYT_PAGE);
	/* One block goes to another pool, one to nowhere; what was there is still in the memory of this one. */
	CHECK_INT(ferry_migrate_to_device(first, p, 512 * FERRYT_PAGE, 0, NULL), 0);
	CHECK_INT(ferry_munmap(ferry, q, 512 * FERRYT_PAGE), 0);
	CHECK_INT(ferry_flush(ferry, p, 1024 * FERRYT_PAGE), 0);
	CHECK_INT(info_of(pool).used_bytes, 512 * FERRYT_PAGE);
	shared->va = (uintptr_t)p;
	raise(SIGKILL);
}

static void left_found_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, 1024);

	CHECK_INT(count_kept(pool), 512);
	CHECK_INT(recover(pool, shared->va, p, 1024, NULL).recovered, 512);
	ferryt_verify_zero(p, 512);
	ferryt_verify(p + 512 * FERRYT_PAGE, 512, 512, 1);
}

static void altmap__blocks_left_the_pool_or_unmapped__not_found_there(void **state)
{
	(void)state;
	expect_killed(left_body);
	RUN(left_found_body);
}

/* Memory at the address of what is kept, and that is not recovered: of one address there are two then. */
static void same_address_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);

	attach(ferry);
	kill_first(ferry);
	uint8_t *p = ferry_mmap(ferry, (void *)shared->va, 64 * FERRYT_PAGE, PROT_READ | PROT_WRITE, FERRY_MAP_NORESERVE);

	CHECK((uintptr_t)p == shared->va);
	ferryt_fill(p, 64, 9);
	CHECK_INT(ferry_flush(ferry, p, 64 * FERRYT_PAGE), 0);
	raise(SIGKILL);
}

static void latest_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	CHECK_INT(count_kept(pool), PAGES + 64);
	CHECK_INT(recover(pool, shared->va, p, PAGES, NULL).recovered, PAGES);
	ferryt_verify(p, 0, 64, 9);
	ferryt_verify(p + 64 * FERRYT_PAGE, 64, PAGES - 64, 5);
	CHECK_INT(count_kept(pool), 0);
}

static void altmap__an_address_twice__the_later_is_recovered(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	expect_killed(same_address_body);
	RUN(latest_body);
}

/* ---- killed at any moment ---- */

/* Page i in its version v, which its first word names; 0: zeros. */
static void make_version(uint64_t *words, size_t i, uint64_t v)
{
	if (v)
		ferryt_fill_page(words, v, i);
	else
		memset(words, 0, FERRYT_PAGE);
	words[0] = v;
}

/* Word by word from the first on: a page that leaves meanwhile is the beginning of one version over another. */
static void write_version(uint8_t *page, size_t i, uint64_t v)
{
	uint64_t words[FERRY_PAGE_SIZE / sizeof(uint64_t)];
	volatile uint64_t *to = (volatile uint64_t *)page;

	make_version(words, i, v);
	atomic_store(&shared->begun[i], v);
	for (size_t k = 0; k < FERRY_PAGE_SIZE / sizeof(uint64_t); k++)
		to[k] = words[k];
}

/* All of it is version v, or the beginning is and the rest an older one. */
static bool is_version(const uint8_t *page, size_t i, uint64_t v)
{
	uint64_t words[FERRY_PAGE_SIZE / sizeof(uint64_t)];
	const uint8_t *want = (const uint8_t *)words;
	size_t same = 0;

	make_version(words, i, v);
	while (same < FERRY_PAGE_SIZE && page[same] == want[same])
		same++;
	for (uint64_t older = v; same < FERRY_PAGE_SIZE && older-- > 0;) {
		make_version(words, i, older);
		if (memcmp(page + same, want + same, FERRY_PAGE_SIZE - same) == 0)
			return true;
	}
	return same == FERRY_PAGE_SIZE;
}

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* The first quarter is written and flushed once, the rest again and again. */
static void writing_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	uint64_t x = shared->seed;

	attach(ferry);
	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	shared->va = (uintptr_t)p;
	for (size_t i = 0; i < PAGES; i++)
		write_version(p + i * FERRYT_PAGE, i, 1);
	CHECK_INT(ferry_flush(ferry, p, PAGES / 4 * FERRYT_PAGE), 0);
	atomic_store(&shared->ready, 1);
	for (uint64_t v = 2;; v++) {
		for (size_t n = 0; n < PAGES / 8; n++) {
			size_t i = PAGES / 4 + next(&x) % (PAGES * 3 / 4);

			write_version(p + i * FERRYT_PAGE, i, v);
		}
		if (next(&x) % 8 == 0)
			CHECK_INT(ferry_flush(ferry, p + PAGES / 2 * FERRYT_PAGE, 64 * FERRYT_PAGE), 0);
		if (next(&x) % 4 == 0)
			CHECK_INT(madvise(p + PAGES / 4 * 3 * FERRYT_PAGE, 64 * FERRYT_PAGE, MADV_DONTNEED), 0);
	}
}

static uint64_t all_recovered, all_lost, all_missing;

static void check_versions_body(void)
{
	static uint8_t which[PAGES];
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, PAGES);
	struct ferry_recover_stats stats = recover(pool, shared->va, p, PAGES, which);

	for (size_t i = 0; i < PAGES; i++) {
		const uint8_t *page = p + i * FERRYT_PAGE;
		uint64_t v;

		memcpy(&v, page, sizeof(v));
		if (i < PAGES / 4)
			CHECK(which[i] == FERRY_RECOVERED && v == 1);
		if (which[i] != FERRY_RECOVERED) {
			ferryt_verify_zero(page, 1);
			continue;
		}
		if (v == 0) { /* a page that was dropped, not written anew, and evicted */
			ferryt_verify_zero(page, 1);
			continue;
		}
		CHECK(v <= atomic_load(&shared->begun[i]));
		CHECK(is_version(page, i, v));
	}
	shared->begun[0] = stats.recovered;
	shared->begun[1] = stats.lost;
	shared->begun[2] = stats.missing;
	CHECK_INT(ferry_close(ferry), 0);
}

static void altmap__killed_in_mid_eviction__whole_versions_only(void **state)
{
	const char *text = getenv("FERRYT_ROUNDS");
	unsigned rounds = text ? (unsigned)atoi(text) : 12;
	uint64_t x = getenv("FERRYT_SEED") ? strtoull(getenv("FERRYT_SEED"), NULL, 0) : 0x5eed;

	(void)state;
	for (unsigned round = 0; round < rounds; round++) {
		uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_BODY_MS);

		memset(shared, 0, sizeof(*shared));
		shared->seed = next(&x);
		fflush(NULL);
		pid_t pid = fork();

		if (pid == 0) {
			writing_body();
			_exit(1);
		}
		while (!atomic_load(&shared->ready) && ferryi_now_ns() < deadline_ns && waitpid(pid, NULL, WNOHANG) == 0)
			poll(NULL, 0, 1);
		assert_int_equal(atomic_load(&shared->ready), 1);
		poll(NULL, 0, (int)(next(&x) % 60)); /* the moment of the crash */
		kill(pid, SIGKILL);
		assert_int_equal(ferryt_wait_child(pid, FERRYT_BODY_MS), 128 + SIGKILL);
		RUN(check_versions_body);
		all_recovered += shared->begun[0];
		all_lost += shared->begun[1];
		all_missing += shared->begun[2];
	}
	printf("%u rounds: %llu pages recovered, %llu lost, %llu missing\n", rounds, (unsigned long long)all_recovered,
	       (unsigned long long)all_lost, (unsigned long long)all_missing);
}

/* ---- killed while it recovers ---- */

static void half_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);

	kill_first(ferry);
	uint8_t *p = map_there(ferry, PAGES);

	CHECK_INT(recover(pool, shared->va, p, PAGES / 2 + 100, NULL).recovered, PAGES / 2 + 100);
	/* At its own address from here on: a page that is found twice is the later one. */
	shared->va2 = (uintptr_t)p;
	ferryt_fill(p, 64, 9);
	CHECK_INT(ferry_flush(ferry, p, 64 * FERRYT_PAGE), 0);
	raise(SIGKILL);
}

static void both_halves_body(void)
{
	struct ferry *ferry = ferryt_open(BUDGET);
	struct ferry_pool *pool = attach(ferry);
	uint8_t *p = map_there(ferry, PAGES);
	const size_t half = PAGES / 2 + 100;

	CHECK_INT(recover(pool, shared->va2, p, half, NULL).recovered, half);
	CHECK_INT(recover(pool, shared->va + half * FERRYT_PAGE, p + half * FERRYT_PAGE, PAGES - half, NULL).recovered,
		  PAGES - half);
	ferryt_verify(p, 0, 64, 9);
	ferryt_verify(p + 64 * FERRYT_PAGE, 64, PAGES - 64, 5);
}

static void altmap__killed_after_half_a_recovery__the_next_finds_both_halves(void **state)
{
	(void)state;
	expect_killed(flushed_body);
	expect_killed(half_body);
	RUN(both_halves_body);
}

int main(int argc, char **argv)
{
	char *row = argc > 1 ? argv[1] : "local";
	const struct CMUnitTest tests[] = {
		ROW_TEST(altmap__killed_after_flush__next_finds_every_byte_and_drvdata),
		ROW_TEST(altmap__pool_in_a_file_and_server_killed__found_as_well),
		ROW_TEST(altmap__server_killed__nothing_is_kept_and_the_line_says_so),
		ROW_TEST(altmap__zeroed_dropped_moved_then_flushed__as_it_was_last),
		ROW_TEST(altmap__blocks_left_the_pool_or_unmapped__not_found_there),
		ROW_TEST(altmap__an_address_twice__the_later_is_recovered),
		ROW_TEST(altmap__killed_in_mid_eviction__whole_versions_only),
		ROW_TEST(altmap__killed_after_half_a_recovery__the_next_finds_both_halves),
	};
	int skip_all = ferryt_needs_uffd();

	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return skip_all ? skip_all : cmocka_run_group_tests(tests, ferryt_altmap_make_dir, ferryt_altmap_remove_dir);
}
