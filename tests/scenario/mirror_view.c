/*
 * Mirrors seen from other processes: reading, writing, rights, and a reader beside whatever else goes on. See view_kit.h.
 * argv[1]: the fabric row; argv[2]: a filter of test names.
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
#define WORDS (FERRYT_PAGE / 8)

/* ---- reading ---- */

#define UNTOUCHED 8u /* the last pages */

static void places_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	uint8_t *plain = mmap(NULL, FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(plain != MAP_FAILED);
	ferryt_fill(p + AWAY * FERRYT_PAGE, PAGES - AWAY - UNTOUCHED, 2);
	ferryt_fill_away(ferry, p, AWAY, 1);
	ferryt_fill_page(plain, 3, 0);
	ferryt_export(ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	atomic_store(&ferryt_shared->other, (uintptr_t)plain);
	ferryt_reach(1);
	ferryt_await(2);
	/* Reading has moved nothing. */
	CHECK_INT(ferryt_present(p, AWAY), 0);
	ferryt_verify(p, 0, AWAY, 1);
	ferryt_verify_zero(p + (PAGES - UNTOUCHED) * FERRYT_PAGE, UNTOUCHED);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	ferryt_end(ferry);
}

static void places_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	uint8_t *buf = aligned_alloc(FERRYT_PAGE, LEN + FERRYT_PAGE);

	CHECK(buf);
	ferryt_await(1);
	uintptr_t base = atomic_load(&ferryt_shared->base);
	struct ferry_mirror_view *view = ferryt_open_view(ferry);

	CHECK_INT(ferry_view_read(view, base, buf, LEN, &stats), 0);
	ferryt_verify(buf, 0, AWAY, 1);
	ferryt_verify(buf + AWAY * FERRYT_PAGE, 0, PAGES - AWAY - UNTOUCHED, 2);
	ferryt_verify_zero(buf + (PAGES - UNTOUCHED) * FERRYT_PAGE, UNTOUCHED);
	CHECK_INT(stats.bytes, LEN);
	CHECK_INT(stats.pages_pool, AWAY);
	CHECK_INT(stats.pages_ram, PAGES - AWAY);
	CHECK_INT(stats.pages_rma, ferryt_one_sided() ? AWAY : 0);
	CHECK(stats.pages_populated <= UNTOUCHED); /* fewer where neighbours were filled at once */

	/* Of no alignment, over the border between pool and RAM, and longer than one piece. */
	for (size_t off = 1; off < 3 * FERRYT_PAGE; off += 1021) {
		size_t len = 25 * FERRYT_PAGE + off;
		uint8_t *whole = buf + LEN + FERRYT_PAGE - len;

		memset(buf, 0xee, LEN + FERRYT_PAGE - len);
		CHECK_INT(ferry_view_read(view, base + 20 * FERRYT_PAGE + off, whole, len, NULL), 0);
		for (size_t i = 0; i < len; i += 509) {
			size_t at = 20 * FERRYT_PAGE + off + i, page = at / FERRYT_PAGE;
			static uint8_t want[4096];

			ferryt_fill_page(want, page < AWAY ? 1 : 2, page < AWAY ? page : page - AWAY);
			CHECK_INT(whole[i], want[at % FERRYT_PAGE]);
		}
		CHECK_INT(buf[LEN + FERRYT_PAGE - len - 1], 0xee);
	}
	CHECK_INT(ferry_view_read(view, base, buf, 0, NULL), 0);
	CHECK_INT(ferry_view_read(view, atomic_load(&ferryt_shared->other), buf, FERRYT_PAGE, NULL), 0);
	ferryt_verify(buf, 0, 1, 3);
	CHECK_FAILS(ferry_view_write(view, base, buf, 1, NULL), -EPERM, "not exported for writing");
	CHECK_FAILS(ferry_view_read(view, base, NULL, 1, NULL), -EINVAL, "view_read");
	CHECK_FAILS(ferry_view_read(view, UINTPTR_MAX - 1, buf, 8, NULL), -EINVAL, "wraps");
	stats.size = 8;
	CHECK_FAILS(ferry_view_read(view, base, buf, 1, &stats), -EINVAL, "stats.size");
	CHECK_FAILS(ferry_close(ferry), -EBUSY, "view");
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_reach(2);
}

static void view_read__each_page_where_it_is__nothing_moves(void **state)
{
	(void)state;
	ferryt_run_both(places_exporter, places_reader);
}

/* ---- writing ---- */

static void write_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	uint8_t *fixed = mmap(NULL, 2 * FERRYT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(fixed != MAP_FAILED);
	ferryt_fill(p, PAGES, 1);
	ferryt_fill_away(ferry, p, AWAY, 1);
	CHECK_INT(mprotect(fixed + FERRYT_PAGE, FERRYT_PAGE, PROT_READ), 0);
	ferryt_export(ferry, FERRY_EXPORT_WRITE);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	atomic_store(&ferryt_shared->other, (uintptr_t)fixed);
	ferryt_reach(1);
	ferryt_await(2);
	/* [100, end of page 40) of (7, ...), the rest as it was. */
	static uint8_t was[4096];

	ferryt_fill_page(was, 1, 0);
	CHECK(memcmp(p, was, 100) == 0);
	for (size_t i = 100; i < 40 * FERRYT_PAGE; i++)
		CHECK_INT(p[i], (uint8_t)(i * 7));
	ferryt_verify(p + 40 * FERRYT_PAGE, 40, PAGES - 40, 1);
	CHECK_INT(fixed[0], 9);
	CHECK_INT(fixed[FERRYT_PAGE], 0);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	ferryt_end(ferry);
}

static void write_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	/* From managed memory that is away itself. */
	uint8_t *buf = ferryt_mmap(ferry, LEN);

	for (size_t i = 0; i < LEN; i++)
		buf[i] = (uint8_t)(i * 7);
	CHECK_INT(ferry_advise(ferry, buf, LEN, FERRY_ADVICE_COLD), 0);
	ferryt_await(1);
	uintptr_t base = atomic_load(&ferryt_shared->base), fixed = atomic_load(&ferryt_shared->other);
	struct ferry_mirror_view *view = ferryt_open_view(ferry);

	CHECK_INT(ferry_view_write(view, base + 100, buf + 100, 40 * FERRYT_PAGE - 100, &stats), 0);
	CHECK_INT(stats.bytes, 40 * FERRYT_PAGE - 100);
	CHECK_INT(stats.pages_rma, 0);
	CHECK_FAILS(ferry_view_read(view, base, buf, 1, NULL), -EPERM, "not exported for reading");
	buf[0] = 9;
	CHECK_FAILS(ferry_view_write(view, fixed, buf, FERRYT_PAGE + 1, NULL), -EPERM, "not writable");
	CHECK_INT(ferry_view_write(view, fixed, buf, 1, NULL), 0);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_FAILS(ferry_view_close(NULL), -EINVAL, "view");
	CHECK_INT(ferry_munmap(ferry, buf, LEN), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_reach(2);
}

static void view_write__pool_ram_and_rights__seen_by_the_exporter(void **state)
{
	(void)state;
	ferryt_run_both(write_exporter, write_reader);
}

/* ---- beside a writer, an evictor and one who reuses places ---- */

/* Every word of a page says which page it is of which array, and of which generation. */
static uint64_t word_of(unsigned array, uint32_t page, uint32_t generation)
{
	return (uint64_t)array << 60 | (uint64_t)page << 32 | generation;
}

static struct ferry *busy_ferry;
static uint64_t *busy;

static void write_page(uint64_t *page, unsigned array, uint32_t nr, uint32_t generation)
{
	volatile uint64_t *word = page;

	for (size_t k = 0; k < WORDS; k++)
		word[k] = word_of(array, nr, generation);
}

/* What readers see while this writes is what any concurrent reader of the memory would see: a race by design. */
__attribute__((no_sanitize("thread"))) static void *busy_writer(void *arg)
{
	uint32_t x = 12345;

	(void)arg;
	while (!atomic_load(&ferryt_shared->stop)) {
		x = x * 1664525u + 1013904223u;
		uint32_t nr = (x >> 8) % FERRYT_BIG_PAGES, generation = atomic_load(&ferryt_shared->begun[nr]) + 1;

		atomic_store(&ferryt_shared->begun[nr], generation);
		write_page(busy + nr * WORDS, 1, nr, generation);
		atomic_store(&ferryt_shared->done[nr], generation);
	}
	return NULL;
}

static void *busy_evictor(void *arg)
{
	uint32_t x = 99;

	(void)arg;
	while (!atomic_load(&ferryt_shared->stop)) {
		x = x * 1664525u + 1013904223u;
		size_t at = (x >> 8) % (FERRYT_BIG_PAGES - 64);

		CHECK_INT(ferry_advise(busy_ferry, busy + at * WORDS, 64 * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	}
	return NULL;
}

/* Takes sub-sections of the pool, puts pages of its own there, gives them back. */
static void *busy_stranger(void *arg)
{
	(void)arg;
	while (!atomic_load(&ferryt_shared->stop)) {
		uint64_t *p = (uint64_t *)ferryt_mmap(busy_ferry, FERRY_SUBSECTION);

		for (uint32_t i = 0; i < 64; i++)
			write_page(p + i * WORDS, 2, i, 1);
		CHECK_INT(ferry_advise(busy_ferry, p, 64 * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
		CHECK_INT(ferry_munmap(busy_ferry, p, FERRY_SUBSECTION), 0);
	}
	return NULL;
}

static void busy_exporter(void)
{
	void *(*const mains[])(void *) = { busy_writer, busy_evictor, busy_stranger };
	pthread_t thread[3];

	busy_ferry = ferryt_open(FERRYT_BUDGET);
	busy = (uint64_t *)ferryt_mmap(busy_ferry, FERRYT_BIG_PAGES * FERRYT_PAGE);
	for (uint32_t i = 0; i < FERRYT_BIG_PAGES; i++) {
		write_page(busy + i * WORDS, 1, i, 1);
		atomic_store(&ferryt_shared->begun[i], 1);
		atomic_store(&ferryt_shared->done[i], 1);
	}
	ferryt_export(busy_ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)busy);
	for (unsigned i = 0; i < 3; i++)
		CHECK(pthread_create(&thread[i], NULL, mains[i], NULL) == 0);
	ferryt_reach(1);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	CHECK_INT(ferry_munmap(busy_ferry, busy, FERRYT_BIG_PAGES * FERRYT_PAGE), 0);
	ferryt_end(busy_ferry);
}

#define READS 400u

static void check_page(const uint64_t *word, uint32_t nr, uint32_t least, uint32_t most)
{
	for (size_t k = 0; k < WORDS; k++) {
		uint32_t generation = (uint32_t)word[k];

		if (word[k] == word_of(1, nr, generation) && generation >= least && generation <= most)
			continue;
		fprintf(stderr, "page %u, word %zu: %#llx, of generation %u to %u\n", nr, k, (unsigned long long)word[k], least,
			most);
		ferryt_die(__FILE__, __LINE__, "a page is itself, old or new");
	}
}

static void busy_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror_stats stats = { .size = sizeof(stats) };
	static uint64_t buf[24 * 4096 / 8];
	uint32_t x = (uint32_t)getpid(), least[24];

	ferryt_await(1);
	uintptr_t base = atomic_load(&ferryt_shared->base);
	struct ferry_mirror_view *view = ferryt_open_view(ferry);

	for (unsigned n = 0; n < READS; n++) {
		x = x * 1664525u + 1013904223u;
		uint32_t pages = 1 + (x >> 28), first = (x >> 8) % (FERRYT_BIG_PAGES - pages);

		for (uint32_t i = 0; i < pages; i++)
			least[i] = atomic_load(&ferryt_shared->done[first + i]);
		CHECK_INT(ferry_view_read(view, base + first * FERRYT_PAGE, buf, pages * FERRYT_PAGE, &stats), 0);
		for (uint32_t i = 0; i < pages; i++)
			check_page(buf + i * WORDS, first + i, least[i], atomic_load(&ferryt_shared->begun[first + i]));
	}
	CHECK(stats.pages_pool > 0);
	CHECK(!ferryt_one_sided() || stats.pages_rma > 0);
	CHECK_INT(stats.pages_pool + stats.pages_ram, stats.bytes / FERRYT_PAGE);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void view_read__writer_evictor_two_readers__pages_never_mixed(void **state)
{
	(void)state;
	ferryt_start_over();
	pid_t e = ferryt_spawn(busy_exporter), r1 = ferryt_spawn(busy_reader), r2 = ferryt_spawn(busy_reader);
	int first = ferryt_wait_child(r1, FERRYT_BODY_MS), second = ferryt_wait_child(r2, FERRYT_BODY_MS);

	atomic_store(&ferryt_shared->stop, true);
	assert_int_equal(first, 0);
	assert_int_equal(second, 0);
	assert_int_equal(ferryt_wait_child(e, FERRYT_BODY_MS), 0);
}

/* ---- names and rights ---- */

static void errors_body(void)
{
	static const char name64[] = "n234567890123456789012345678901234567890123456789012345678901234";
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror second = { .ops = &ferryt_quiet }, third = { .ops = &ferryt_quiet };
	struct ferry_mirror_view *view = NULL, *other = NULL, *more[2];
	uint8_t byte = 1, *p = ferryt_mmap(ferry, LEN);

	CHECK_FAILS(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &view), -ENOENT, "no mirror of that name");
	CHECK_FAILS(ferry_mirror_open(ferry, "", &view), -EINVAL, "no name");
	CHECK_FAILS(ferry_mirror_open(ferry, "a b", &view), -EINVAL, "name");
	CHECK_FAILS(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, NULL), -EINVAL, "no place");
	CHECK(view == NULL);
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, FERRY_EXPORT_READ), -EINVAL, "not registered");
	CHECK_INT(ferry_mirror_register(&ferryt_mirror, ferry), 0);
	CHECK_INT(ferry_mirror_register(&second, ferry), 0);
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, "", FERRY_EXPORT_READ), -EINVAL, "name");
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, "a/b", FERRY_EXPORT_READ), -EINVAL, "name");
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, name64, FERRY_EXPORT_READ), -EINVAL, "name");
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, 0), -EINVAL, "perms");
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, 4), -EINVAL, "perms");
	CHECK_FAILS(ferry_mirror_unexport(&ferryt_mirror), -EINVAL, "not exported");
	CHECK_INT(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, FERRY_EXPORT_READ | FERRY_EXPORT_WRITE), 0);
	CHECK_FAILS(ferry_mirror_export(&ferryt_mirror, "again", FERRY_EXPORT_READ), -EBUSY, "exported already");
	CHECK_FAILS(ferry_mirror_export(&second, FERRYT_VIEW_NAME, FERRY_EXPORT_READ), -EEXIST, "exported already");
	CHECK_INT(ferry_mirror_export(&second, name64 + 1, FERRY_EXPORT_READ), 0);
	CHECK_INT(ferry_mirror_register(&third, ferry), 0);
	CHECK_FAILS(ferry_mirror_export(&third, "third", FERRY_EXPORT_READ), -EDQUOT, "--max-exports");

	/* A process may look at itself. */
	CHECK_INT(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &view), 0);
	CHECK_INT(ferry_view_write(view, (uintptr_t)p, &byte, 1, NULL), 0);
	CHECK_INT(p[0], 1);
	byte = 0;
	CHECK_INT(ferry_view_read(view, (uintptr_t)p, &byte, 1, NULL), 0);
	CHECK_INT(byte, 1);

	CHECK_INT(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &more[0]), 0);
	CHECK_INT(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &more[1]), 0);
	CHECK_FAILS(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &other), -EDQUOT, "--max-views");
	CHECK(other == NULL);
	CHECK_INT(ferry_view_close(more[0]), 0);
	CHECK_INT(ferry_view_close(more[1]), 0);

	/* What is withdrawn stays so for its views; a new export of the name is another. */
	CHECK_INT(ferry_mirror_unexport(&ferryt_mirror), 0);
	CHECK_FAILS(ferry_view_read(view, (uintptr_t)p, &byte, 1, NULL), -ESHUTDOWN, "exported no more");
	CHECK_INT(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, FERRY_EXPORT_READ), 0);
	CHECK_FAILS(ferry_view_read(view, (uintptr_t)p, &byte, 1, NULL), -ESHUTDOWN, "exported no more");
	CHECK_INT(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &other), 0);
	CHECK_INT(ferry_view_read(other, (uintptr_t)p, &byte, 1, NULL), 0);
	CHECK_INT(ferry_mirror_unregister(&ferryt_mirror), 0);
	CHECK_FAILS(ferry_view_read(other, (uintptr_t)p, &byte, 1, NULL), -ESHUTDOWN, "exported no more");
	CHECK_FAILS(ferry_mirror_unexport(&ferryt_mirror), -EINVAL, "not registered");
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_view_close(other), 0);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferry_close(ferry), 0); /* the second one's export goes with it */
}

static void mirror_export_open__bad_names_perms_order__own_code_each(void **state)
{
	(void)state;
	RUN(errors_body);
}

/* ---- where it may not be called ---- */

static int withdraw_rc;

static int withdraws(struct ferry_mirror *told, const struct ferry_update *update)
{
	(void)update;
	withdraw_rc = ferry_mirror_unexport(told);
	return 0;
}

static const struct ferry_mirror_ops withdrawing = { .invalidate = withdraws };

static void context_body(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_mirror told = { .ops = &withdrawing };
	uint8_t byte, *p = ferryt_mmap(ferry, LEN);
	struct ferry_mirror_view *view;

	ferryt_fill(p, PAGES, 1);
	CHECK_INT(ferry_mirror_register(&told, ferry), 0);
	CHECK_INT(ferry_mirror_export(&told, FERRYT_VIEW_NAME, FERRY_EXPORT_READ), 0);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(withdraw_rc, -EDEADLK);
	view = ferryt_open_view(ferry);
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		CHECK_FAILS(ferry_view_read(view, (uintptr_t)p, &byte, 1, NULL), -EINVAL, "the parent's");
		CHECK_FAILS(ferry_view_close(view), -EINVAL, "the parent's");
		CHECK_FAILS(ferry_mirror_unexport(&told), -EINVAL, "the parent's");
		_exit(0);
	}
	CHECK_INT(ferryt_wait_child(child, FERRYT_BODY_MS), 0);
	CHECK_INT(ferry_view_read(view, (uintptr_t)p, &byte, 1, NULL), 0);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_mirror_unregister(&told), 0);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void view__in_a_callback_or_a_forked_child__refused(void **state)
{
	(void)state;
	RUN(context_body);
}

/* ---- the exporter's address space changes ---- */

static void change_exporter(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	/* Above what follows: a sanitizer's own mapping goes to the highest hole, and is not to fill one that is looked at. */
	const size_t higher_len = 64 << 10;
	void *higher[8];

	for (unsigned i = 0; i < 8; i++)
		higher[i] = mmap(NULL, higher_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_export(ferry, FERRY_EXPORT_READ);
	atomic_store(&ferryt_shared->base, (uintptr_t)p);
	ferryt_reach(1);
	ferryt_await(2);
	for (unsigned i = 0; i < 8; i++)
		CHECK_INT(munmap(higher[i], higher_len), 0);
	CHECK_INT(ferry_munmap(ferry, p + 16 * FERRYT_PAGE, 16 * FERRYT_PAGE), 0);
	CHECK_INT(munmap(p + 32 * FERRYT_PAGE, 8 * FERRYT_PAGE), 0);
	CHECK_INT(mprotect(p + 40 * FERRYT_PAGE, FERRYT_PAGE, PROT_NONE), 0);
	CHECK_INT(ferry_advise(ferry, p + 48 * FERRYT_PAGE, FERRYT_PAGE, FERRY_ADVICE_DONTNEED), 0);
	ferryt_reach(3);
	ferryt_await(4);
	ferryt_end(ferry);
}

static void change_reader(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	static uint8_t buf[LEN];

	ferryt_await(1);
	uintptr_t base = atomic_load(&ferryt_shared->base);
	struct ferry_mirror_view *view = ferryt_open_view(ferry);

	CHECK_INT(ferry_view_read(view, base, buf, LEN, NULL), 0);
	ferryt_verify(buf, 0, PAGES, 1);
	ferryt_reach(2);
	ferryt_await(3);
	CHECK_INT(ferry_view_read(view, base, buf, 16 * FERRYT_PAGE, NULL), 0);
	ferryt_verify(buf, 0, 16, 1);
	CHECK_FAILS(ferry_view_read(view, base, buf, 16 * FERRYT_PAGE + 1, NULL), -EFAULT, "not mapped");
	CHECK_FAILS(ferry_view_read(view, base + 20 * FERRYT_PAGE, buf, 1, NULL), -EFAULT, "not mapped");
	CHECK_FAILS(ferry_view_read(view, base + 39 * FERRYT_PAGE, buf, 1, NULL), -EFAULT, "not mapped");
	CHECK_FAILS(ferry_view_read(view, base + 40 * FERRYT_PAGE, buf, 1, NULL), -EPERM, "not readable");
	CHECK_FAILS(ferry_view_read(view, 8, buf, 1, NULL), -EFAULT, "not mapped");
	CHECK_INT(ferry_view_read(view, base + 48 * FERRYT_PAGE, buf, 2 * FERRYT_PAGE, NULL), 0);
	ferryt_verify_zero(buf, 1);
	ferryt_verify(buf + FERRYT_PAGE, 49, 1, 1);
	CHECK_INT(ferry_view_close(view), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_reach(4);
}

static void view_read__unmapped_protected_dropped__as_the_exporter_has_it(void **state)
{
	(void)state;
	ferryt_run_both(change_exporter, change_reader);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(view_read__each_page_where_it_is__nothing_moves),
		cmocka_unit_test(view_write__pool_ram_and_rights__seen_by_the_exporter),
		cmocka_unit_test(mirror_export_open__bad_names_perms_order__own_code_each),
		cmocka_unit_test(view__in_a_callback_or_a_forked_child__refused),
		cmocka_unit_test(view_read__unmapped_protected_dropped__as_the_exporter_has_it),
		cmocka_unit_test(view_read__writer_evictor_two_readers__pages_never_mixed),
	};

	return FERRYT_VIEW_MAIN(argc, argv, tests);
}
