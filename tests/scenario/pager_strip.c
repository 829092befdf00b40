/* Frames that go round: pages read ahead into those of pages that have left, over one row (argument: local, tcp or
 * embedded). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pager_kit.h"

#define DATA	   (96 * FERRYT_MIB)
#define DATA_PAGES (DATA / FERRYT_PAGE)
#define BUDGET	   (32 * FERRYT_MIB)
#define STEP	   32 /* pages */

static struct ferry *open_away(uint8_t **p, size_t pages, uint64_t seed)
{
	struct ferry *ferry = ferryt_open(BUDGET);

	*p = ferryt_mmap(ferry, pages * FERRYT_PAGE);
	ferryt_fill_away(ferry, *p, pages, seed);
	return ferry;
}

static uint64_t moved(struct ferry *ferry)
{
	return ferryt_stats(ferry).pages_moved;
}

/* How many depends on who is faster, the reader or eviction. But some come that way each time. */
#define MANY 64u

static void body_stream(void)
{
	uint8_t *p;
	struct ferry *ferry = open_away(&p, DATA_PAGES, 1);

	ferryt_verify(p, 0, DATA_PAGES, 1);
	struct ferry_stats after = ferryt_stats(ferry);

	CHECK(after.pages_moved >= MANY);
	CHECK(after.pages_moved <= after.pages_in);
	CHECK(after.peak_resident_bytes <= BUDGET);
	/* What has come by a moved frame is written back, and found again, like all else. */
	for (size_t i = 0; i < DATA_PAGES; i += STEP)
		ferryt_fill_page(p + i * FERRYT_PAGE, 2, i);
	for (size_t i = 0; i < DATA_PAGES; i++)
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, i % STEP ? 1 : 2);
	CHECK(moved(ferry) >= after.pages_moved + MANY);
	CHECK_INT(ferry_close(ferry), 0);
	for (size_t i = 0; i < DATA_PAGES; i++)
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, i % STEP ? 1 : 2);
}

static void stream__longer_than_the_budget__lands_in_frames_of_pages_that_left(void **state)
{
	(void)state;
	RUN(body_stream);
}

/* ---- where no page can be moved to ---- */

static void body_read_only(void)
{
	const size_t part = 8 * FERRYT_MIB, pages = part / FERRYT_PAGE;
	uint8_t *p, *q;
	struct ferry *ferry = open_away(&p, DATA_PAGES, 3);

	q = ferryt_mmap(ferry, part);
	ferryt_fill_away(ferry, q, pages, 4);
	CHECK_INT(mprotect(q, part, PROT_READ), 0);
	ferryt_verify(p, 0, DATA_PAGES, 3); /* frames are there now */
	uint64_t before = moved(ferry);

	CHECK(before >= MANY);
	ferryt_verify(q, 0, pages, 4);
	CHECK_INT(moved(ferry), before);
	CHECK_INT(mprotect(q, part, PROT_READ | PROT_WRITE), 0);
	ferryt_fill(q, pages, 5); /* nothing was left behind that a write would stumble over */
	ferryt_verify(p, 0, DATA_PAGES, 3);
	ferryt_verify(q, 0, pages, 5);
	CHECK(moved(ferry) >= before + MANY);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stream__of_read_only_memory__is_copied(void **state)
{
	(void)state;
	RUN(body_read_only);
}

/* ---- fork: the frames are the child's too ---- */

static void body_fork(void)
{
	uint8_t *p;
	struct ferry *ferry = open_away(&p, DATA_PAGES, 6);
	int go[2];

	ferryt_verify(p, 0, DATA_PAGES, 6);
	CHECK_INT(pipe(go), 0);
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		char byte;

		close(go[1]);
		ferryt_verify(p, 0, DATA_PAGES / 2, 6);
		if (read(go[0], &byte, 1) < 0)
			_exit(1);
		ferryt_verify(p + DATA / 2, DATA_PAGES / 2, DATA_PAGES / 2, 6);
		_exit(0);
	}
	close(go[0]);
	uint64_t before = moved(ferry);

	for (size_t i = 0; i < DATA_PAGES; i++) {
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, 6);
		ferryt_fill_page(p + i * FERRYT_PAGE, 7, i);
	}
	ferryt_verify(p, 0, DATA_PAGES, 7);
	CHECK(moved(ferry) >= before + MANY);
	close(go[1]);
	CHECK_INT(ferryt_wait_child(child, FERRYT_BODY_MS), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork__with_frames_about__both_have_their_own_data(void **state)
{
	(void)state;
	RUN(body_fork);
}

/* ---- the application's own changes, beside a reader ---- */

#define ROUNDS 3

static struct {
	uint8_t *p;
	_Atomic size_t at; /* page that is read now */
	_Atomic bool done;
} reader;

/* Data or, where it has been dropped, zeros: nothing else, and not mixed. */
static void verify_or_zero(const uint8_t *page, size_t i, uint64_t seed)
{
	uint64_t got;

	if (ferryt_is_word(*(const volatile uint64_t *)page, i, 0, &got) && got == seed)
		ferryt_verify(page, i, 1, seed);
	else
		ferryt_verify_zero(page, 1);
}

static void *read_all(void *arg)
{
	(void)arg;
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < DATA_PAGES; i++) {
			atomic_store(&reader.at, i);
			if (i % 256 < 128) /* the others may be dropped while they are read */
				verify_or_zero(reader.p + i * FERRYT_PAGE, i, 8);
			else
				*(volatile uint8_t *)(reader.p + i * FERRYT_PAGE);
		}
	}
	atomic_store(&reader.done, true);
	return NULL;
}

/* Pages close ahead of the reader, on their way most likely, are dropped: zeros from then on. */
static void body_dropped(void)
{
	struct ferry *ferry = open_away(&reader.p, DATA_PAGES, 8);
	bool *dropped = calloc(DATA_PAGES, sizeof(*dropped));
	uint64_t x = 88172645463325252ULL, before = moved(ferry);
	pthread_t thread;
	size_t drops = 0;

	CHECK(dropped != NULL);
	CHECK_INT(pthread_create(&thread, NULL, read_all, NULL), 0);
	while (!atomic_load(&reader.done)) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		size_t i = atomic_load(&reader.at) + x % 512, nr = 1 + (x >> 16) % 8;

		if (i % 256 < 128 || (i + nr) % 256 < 128 || i + nr > DATA_PAGES || dropped[i])
			continue;
		CHECK_INT(madvise(reader.p + i * FERRYT_PAGE, nr * FERRYT_PAGE, MADV_DONTNEED), 0);
		memset(dropped + i, true, nr);
		drops += nr;
		ferryt_verify_zero(reader.p + i * FERRYT_PAGE, nr);
	}
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK(drops > 0);
	CHECK(moved(ferry) > before);
	for (size_t i = 0; i < DATA_PAGES; i++) {
		if (dropped[i])
			ferryt_verify_zero(reader.p + i * FERRYT_PAGE, 1);
		else
			ferryt_verify(reader.p + i * FERRYT_PAGE, i, 1, 8);
	}
	free(dropped);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stream__pages_ahead_dropped__read_as_zeros(void **state)
{
	(void)state;
	RUN(body_dropped);
}

/* What a read is on its way to is mapped elsewhere meanwhile, or nowhere. */
static void body_remapped(void)
{
	const size_t piece = 2 * FERRYT_MIB, pages = piece / FERRYT_PAGE;
	uint8_t *p;
	struct ferry *ferry = open_away(&p, DATA_PAGES, 9);
	uint64_t before = moved(ferry);

	for (size_t i = 0; i + pages <= DATA_PAGES; i += pages) {
		uint8_t *from = p + i * FERRYT_PAGE;

		ferryt_verify(from, i, pages / 2, 9); /* the rest is on its way, or there */
		if (i / pages % 4 == 3) {
			CHECK_INT(munmap(from, piece), 0);
			continue;
		}
		uint8_t *to = mmap(NULL, piece, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(to != MAP_FAILED);
		CHECK(mremap(from, piece, piece, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		ferryt_verify(to, i, pages, 9);
	}
	CHECK(moved(ferry) > before);
	CHECK_INT(ferry_close(ferry), 0);
}

static void stream__moved_and_unmapped_ahead__follows_its_data(void **state)
{
	(void)state;
	RUN(body_remapped);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stream__longer_than_the_budget__lands_in_frames_of_pages_that_left),
		cmocka_unit_test(stream__of_read_only_memory__is_copied),
		cmocka_unit_test(fork__with_frames_about__both_have_their_own_data),
		cmocka_unit_test(stream__pages_ahead_dropped__read_as_zeros),
		cmocka_unit_test(stream__moved_and_unmapped_ahead__follows_its_data),
	};
	int rc = ferryt_needs_uffd();

	if (rc != 0)
		return rc;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	ferryt_server_end();
	return rc;
}
