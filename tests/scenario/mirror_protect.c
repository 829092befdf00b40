/*
 * Rights that change: mirrors and ranges over ferry_mprotect, and over a plain
 * mprotect, of which nobody is told. argv[1]: the fabric row.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define PAGES	64u
#define LEN	(PAGES * FERRYT_PAGE)
#define WAIT_MS 60000

/* What the mirror has been told of rights, and whether it stays in there. */
static struct {
	_Atomic unsigned nr;
	_Atomic uintptr_t start, end;
	_Atomic bool inside, hold, blockable;
} told;

static int on_update(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	if (update->event != FERRY_UPDATE_PROTECT)
		return 0;
	atomic_store(&told.start, update->start);
	atomic_store(&told.end, update->end);
	atomic_store(&told.blockable, update->blockable && !update->owner);
	atomic_fetch_add(&told.nr, 1);
	atomic_store(&told.inside, true);
	while (atomic_load(&told.hold))
		;
	return 0;
}

static const struct ferry_mirror_ops ops = { .invalidate = on_update };
static struct ferry_mirror mirror = { .ops = &ops };

static struct ferry *ferry;

static void *read_only(void *p)
{
	CHECK_INT(ferry_mprotect(ferry, p, LEN / 2 - 100, PROT_READ), 0); /* any length */
	return NULL;
}

/* The first half of [p, p + LEN) becomes read-only; its pages have the data of seed. */
static void check_told(uint8_t *p, uint64_t seed)
{
	uint64_t pfns[PAGES] = { 0 }, deadline_ns = ferryi_deadline_ms(WAIT_MS);
	struct ferry_range range = { .pfns = pfns };
	unsigned before = atomic_load(&told.nr);
	uint8_t byte = 7;
	pthread_t thread;

	CHECK_INT(ferry_range_register(&range, &mirror, (uintptr_t)p, (uintptr_t)p + LEN, 12), 0);
	CHECK(ferry_range_snapshot(&range) > 0);
	uint64_t seq = ferry_range_read_begin(&range);

	CHECK(ferry_range_valid(&range));
	atomic_store(&told.inside, false);
	atomic_store(&told.hold, true);
	CHECK_INT(pthread_create(&thread, NULL, read_only, p), 0);
	while (!atomic_load(&told.inside))
		CHECK(ferryi_now_ns() < deadline_ns);
	CHECK(atomic_load(&told.start) == (uintptr_t)p && atomic_load(&told.end) == (uintptr_t)p + LEN / 2);
	CHECK(atomic_load(&told.blockable));
	/* nothing has changed yet, and whoever looks knows that it will */
	ferryt_fill(p, PAGES, seed);
	CHECK(!ferry_range_valid(&range) && ferry_range_read_retry(&range, seq));
	CHECK(!ferry_range_wait_until_valid(&range, 20));
	atomic_store(&told.hold, false);
	CHECK_INT(pthread_join(thread, NULL), 0);

	CHECK_INT(atomic_load(&told.nr), before + 1);
	CHECK(ferry_range_wait_until_valid(&range, WAIT_MS));
	CHECK(!ferry_range_valid(&range)); /* the entries are of the time before */
	CHECK_FAILS(ferry_mirror_write(&mirror, (uintptr_t)p, &byte, 1, NULL), -EPERM, "not writable");
	CHECK_INT(ferry_range_snapshot(&range), PAGES);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(!(pfns[i] & ferry_default_pfn_flags[FERRY_PFN_WRITE]) == (i < PAGES / 2));

	/* Not through the library: nobody is told, but each access and each snapshot finds the rights as they are. */
	CHECK_INT(mprotect(p, LEN, PROT_READ), 0);
	CHECK(ferry_range_valid(&range));
	CHECK_INT(atomic_load(&told.nr), before + 1);
	CHECK_FAILS(ferry_mirror_write(&mirror, (uintptr_t)p + LEN / 2, &byte, 1, NULL), -EPERM, "not writable");
	CHECK_INT(ferry_range_snapshot(&range), PAGES);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(!(pfns[i] & ferry_default_pfn_flags[FERRY_PFN_WRITE]));
	ferry_range_unregister(&range);
	ferryt_verify(p, 0, PAGES, seed);
	CHECK_INT(ferry_mprotect(ferry, p, LEN, PROT_READ | PROT_WRITE), 0);
	ferryt_fill(p, PAGES, seed + 1);
}

static void body_told(void)
{
	ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *managed = ferryt_mmap(ferry, LEN);
	uint8_t *plain = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(plain != MAP_FAILED);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	ferryt_fill_away(ferry, managed, PAGES, 1);
	check_told(managed, 1);
	ferryt_fill(plain, PAGES, 3);
	check_told(plain, 3);

	/* Away while it is protected: rights stay with the address. */
	CHECK_INT(ferry_advise(ferry, managed, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferry_mprotect(ferry, managed, LEN, PROT_NONE), 0);
	uint8_t byte;

	CHECK_INT(ferryt_touch(managed, &byte), SIGSEGV);
	CHECK_INT(ferry_mprotect(ferry, managed, LEN, PROT_READ | PROT_WRITE), 0);
	ferryt_verify(managed, 0, PAGES, 2);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror__ferry_mprotect__told_before_and_ranges_changed(void **state)
{
	(void)state;
	RUN(body_told);
}

static void body_errors(void)
{
	ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	void *file = mmap(NULL, FERRYT_PAGE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(fd >= 0 && file != MAP_FAILED);
	ferryt_fill(p, PAGES, 5);
	CHECK_FAILS(ferry_mprotect(NULL, p, LEN, PROT_READ), -EINVAL, "ferry");
	CHECK_FAILS(ferry_mprotect(ferry, p + 1, LEN, PROT_READ), -EINVAL, "multiple of 4096");
	CHECK_FAILS(ferry_mprotect(ferry, p, LEN, 0x4000), -EINVAL, "mprotect");
	CHECK_FAILS(ferry_mprotect(ferry, p, SIZE_MAX, PROT_READ), -ENOMEM, "wraps");
	CHECK_FAILS(ferry_mprotect(ferry, p, SIZE_MAX - FERRYT_PAGE, PROT_READ), -ENOMEM, "wraps");
	CHECK_FAILS(ferry_mprotect(ferry, file, FERRYT_PAGE, PROT_READ | PROT_WRITE), -EACCES, "mprotect");
	CHECK_INT(ferry_mprotect(ferry, p, 0, PROT_NONE), 0);
	ferryt_fill(p, PAGES, 6); /* its rights are as they were */
	CHECK_INT(munmap(p + LEN / 2, LEN / 2), 0);
	CHECK_FAILS(ferry_mprotect(ferry, p, LEN, PROT_READ), -ENOMEM, "mprotect");
	ferryt_verify(p, 0, PAGES / 2, 6);
	CHECK_INT(ferry_mprotect(ferry, p, LEN / 2, PROT_READ | PROT_WRITE), 0);
	CHECK_INT(ferry_close(ferry), 0);
	close(fd);
}

static void ferry_mprotect__bad_arguments__errors_of_mprotect(void **state)
{
	(void)state;
	RUN(body_errors);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mirror__ferry_mprotect__told_before_and_ranges_changed),
		cmocka_unit_test(ferry_mprotect__bad_arguments__errors_of_mprotect),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
