/*
 * Private mappings of files, managed: a file some of whose pages were written,
 * the program's own variables. argv[1]: the fabric row.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "pager_kit.h"

#define PAGES (3 * FERRYT_BUDGET / FERRYT_PAGE)
#define LEN   (PAGES * FERRYT_PAGE)
#define FEW   64u

/* A file of so many pages with the data of seed. */
static int make_file(size_t pages, uint64_t seed)
{
	char path[] = "/tmp/ferryt-file-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	uint8_t page[FERRYT_PAGE];

	CHECK(fd >= 0 && unlink(path) == 0);
	for (size_t i = 0; i < pages; i++) {
		ferryt_fill_page(page, seed, i);
		CHECK(pwrite(fd, page, sizeof(page), (off_t)(i * FERRYT_PAGE)) == (ssize_t)sizeof(page));
	}
	return fd;
}

static void check_file(int fd, size_t pages, uint64_t seed)
{
	uint8_t page[FERRYT_PAGE];

	for (size_t i = 0; i < pages; i++) {
		CHECK(pread(fd, page, sizeof(page), (off_t)(i * FERRYT_PAGE)) == (ssize_t)sizeof(page));
		ferryt_verify(page, i, 1, seed);
	}
}

static uint8_t *map_file(void *at, size_t pages, int prot, int fd)
{
	uint8_t *p = mmap(at, pages * FERRYT_PAGE, prot, MAP_PRIVATE | (at ? MAP_FIXED : 0), fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

#define RW (PROT_READ | PROT_WRITE)

/* Page i was written when i % 3 == 0. */
static void write_third(uint8_t *p, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i += 3)
		ferryt_fill_page(p + i * FERRYT_PAGE, seed, i);
}

static void verify_thirds(const uint8_t *p, size_t pages, uint64_t written, uint64_t of_file)
{
	for (size_t i = 0; i < pages; i++)
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, i % 3 ? of_file : written);
}

static void send_away(struct ferry *ferry, uint8_t *p, size_t pages)
{
	size_t present = pages;

	for (unsigned i = 0; present && i < 1000; i++) { /* an eviction thread may have some under way */
		CHECK_INT(ferry_advise(ferry, p, pages * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
		present = ferryt_present(p, pages);
	}
	CHECK_INT(present, 0);
}

static void body_file(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	int fd = make_file(PAGES, 1);
	uint8_t *p = map_file(NULL, PAGES, RW, fd), page[FERRYT_PAGE];

	write_third(p, PAGES, 2);
	CHECK_INT(ferry_adopt(ferry, p, LEN, 0), 0);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, LEN);
	verify_thirds(p, PAGES, 2, 1);
	/* The file is no longer behind it, either way. */
	ferryt_fill_page(page, 3, 1);
	CHECK(pwrite(fd, page, sizeof(page), FERRYT_PAGE) == (ssize_t)sizeof(page));
	send_away(ferry, p, PAGES);
	verify_thirds(p, PAGES, 2, 1);
	ferryt_fill(p, PAGES, 4);
	ferryt_verify(p, 0, PAGES, 4);
	struct ferry_stats stats = ferryt_stats(ferry);

	CHECK(stats.pages_evicted >= PAGES && stats.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_unadopt(ferry, p, LEN / 2), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 4);
	ferryt_fill_page(page, 1, 1);
	CHECK(pwrite(fd, page, sizeof(page), FERRYT_PAGE) == (ssize_t)sizeof(page));
	check_file(fd, PAGES, 1);
	close(fd);
}

static void adopt__private_file__content_of_file_and_of_writes(void **state)
{
	(void)state;
	RUN(body_file);
}

/* In .data, .bss, and the mapping that both may share. */
static _Alignas(4096) uint8_t data[FEW * 4096] = { 1 }, more[FEW * 4096] = { [FEW * 4096 - 1] = 2 };
static _Alignas(4096) uint8_t bss[FEW * 4096];

static void body_variables(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_migrate_stats stats = { .size = sizeof(stats) };
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK(pool);
	CHECK(data[0] == 1 && more[FEW * 4096 - 1] == 2); /* as the program came; most of it was never touched */
	data[5 * FERRYT_PAGE + 1] = 0x55;
	ferryt_fill(bss, FEW, 5);
	CHECK_INT(ferry_adopt(ferry, data, sizeof(data), 0), 0);
	CHECK_INT(ferry_migrate_to_device(pool, data, sizeof(data), 0, &stats), 0);
	CHECK_INT(stats.migrated + stats.zero, FEW);
	stats = (struct ferry_migrate_stats){ .size = sizeof(stats) };
	CHECK_INT(ferry_migrate_to_device(pool, more, sizeof(more), 0, &stats), 0); /* adopts on the way */
	CHECK_INT(stats.migrated, 1);
	CHECK_INT(stats.zero, FEW - 1);
	stats = (struct ferry_migrate_stats){ .size = sizeof(stats) };
	CHECK_INT(ferry_migrate_to_device(pool, bss, sizeof(bss), 0, &stats), 0);
	CHECK_INT(stats.migrated, FEW);
	CHECK_INT(ferryt_present(data, FEW) + ferryt_present(more, FEW) + ferryt_present(bss, FEW), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		CHECK(data[i] == (i == 0 ? 1 : i == 5 * FERRYT_PAGE + 1 ? 0x55 : 0));
	for (size_t i = 0; i < sizeof(more); i++)
		CHECK(more[i] == (i == sizeof(more) - 1 ? 2 : 0));
	ferryt_verify(bss, 0, FEW, 5);
	ferry_pool_put(pool);
	CHECK_INT(ferry_close(ferry), 0);
	CHECK(data[0] == 1 && more[FEW * 4096 - 1] == 2);
}

static void migrate__programs_own_variables__content_right_and_homed(void **state)
{
	(void)state;
	RUN(body_variables);
}

/* Files, plain memory and a file that was written, side by side. */
static void body_mixture(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	int a = make_file(FEW, 6), b = make_file(600, 7); /* b in three pieces */
	size_t pages = FEW + 600 + 2 * FEW;
	uint8_t *p = mmap(NULL, pages * FERRYT_PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ferry_migrate_stats stats = { .size = sizeof(stats) };
	struct ferry_pool *pool = ferry_pool_at(ferry, 0);

	CHECK(p != MAP_FAILED && pool);
	uint8_t *q = p + FEW * FERRYT_PAGE, *r = q + 600 * FERRYT_PAGE, *s = r + FEW * FERRYT_PAGE;

	map_file(p, FEW, RW, a);
	map_file(q, 600, RW, b);
	ferryt_fill(r, FEW, 8);
	map_file(s, FEW, RW, a);
	write_third(q, 600, 9);
	CHECK_INT(ferry_adopt(ferry, r, 8 * FERRYT_PAGE, 0), 0); /* managed already: migration adopts on both sides of it */
	CHECK_INT(ferry_migrate_to_device(pool, p, pages * FERRYT_PAGE, 0, &stats), 0);
	CHECK_INT(stats.migrated, pages);
	CHECK_INT(ferryt_present(p, pages), 0);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, pages * FERRYT_PAGE);
	for (unsigned round = 0; round < 2; round++) {
		ferryt_verify(p, 0, FEW, 6);
		verify_thirds(q, 600, 9, 7);
		ferryt_verify(r, 0, FEW, 8);
		ferryt_verify(s, 0, FEW, 6);
		send_away(ferry, p, pages);
	}
	CHECK_INT(ferry_munmap(ferry, q, 300 * FERRYT_PAGE), 0);
	ferryt_verify(r, 0, FEW, 8);
	check_file(a, FEW, 6);
	check_file(b, 600, 7);
	ferry_pool_put(pool);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopt__files_and_plain_memory_side_by_side__one_call(void **state)
{
	(void)state;
	RUN(body_mixture);
}

/* ---- errors ---- */

static void body_errors(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	int fd = make_file(FEW, 10);
	uint8_t *p = map_file(NULL, 2 * FEW, RW, fd), byte;
	uint8_t page[FERRYT_PAGE];

	ferryt_fill_page(p, 11, 0);
	CHECK_FAILS(ferry_adopt(ferry, p, (FEW + 1) * FERRYT_PAGE, 0), -EFAULT, "end of the file");
	CHECK_FAILS(ferry_adopt(ferry, p, 2 * FEW * FERRYT_PAGE, 0), -EFAULT, "end of the file");
	CHECK_FAILS(ferry_adopt(ferry, p + FEW * FERRYT_PAGE, FERRYT_PAGE, 0), -EFAULT, "end of the file");
	CHECK_FAILS(ferry_migrate_to_device(ferry_pool_at(ferry, 0), p, 2 * FEW * FERRYT_PAGE, 0, NULL), -EINVAL,
		    "end of the file");
	CHECK_INT(ferryt_touch(p + FEW * FERRYT_PAGE, &byte), SIGBUS); /* as before */
	/* Nothing has changed: it is the file's still. */
	ferryt_fill_page(page, 12, 1);
	CHECK(pwrite(fd, page, sizeof(page), FERRYT_PAGE) == (ssize_t)sizeof(page));
	ferryt_verify(p + FERRYT_PAGE, 1, 1, 12);
	ferryt_verify(p, 0, 1, 11);
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);

	uint8_t *fixed = map_file(NULL, FEW, PROT_READ, fd), *text = map_file(NULL, FEW, RW | PROT_EXEC, fd);

	CHECK_FAILS(ferry_adopt(ferry, fixed, FEW * FERRYT_PAGE, 0), -EACCES, "not readable and writable");
	CHECK_FAILS(ferry_adopt(ferry, text, FEW * FERRYT_PAGE, 0), -EOPNOTSUPP, "executable");
	CHECK_INT(mprotect(text, FEW * FERRYT_PAGE, PROT_READ | PROT_EXEC), 0);
	CHECK_FAILS(ferry_adopt(ferry, text, FEW * FERRYT_PAGE, 0), -EOPNOTSUPP, "executable");
	if (syscall(SYS_mlock, p, 4 * FERRYT_PAGE) == 0) { /* a sanitizer makes nothing of mlock */
		CHECK_FAILS(ferry_adopt(ferry, p, 4 * FERRYT_PAGE, 0), -EOPNOTSUPP, "locked");
		CHECK_INT(syscall(SYS_munlock, p, 4 * FERRYT_PAGE), 0);
	}
	void *huge = mmap(NULL, FERRY_SUBSECTION, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (huge != MAP_FAILED)
		CHECK_FAILS(ferry_adopt(ferry, huge, FERRY_SUBSECTION, 0), -EOPNOTSUPP, "special");
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	CHECK_INT(ferry_adopt(ferry, p, FEW * FERRYT_PAGE, 0), 0);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p + 2 * FERRYT_PAGE, 2, FEW - 2, 10);
}

static void adopt__unfit_file_memory__own_code_and_nothing_changed(void **state)
{
	(void)state;
	RUN(body_errors);
}

/* The file's part is anonymous by the time that the rest cannot be had. */
static void body_middle(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	int fd = make_file(FEW, 13), uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1 /* user mode only */);
	uint8_t *p = mmap(NULL, 2 * FEW * FERRYT_PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register other = { .range = { (uintptr_t)p + FEW * FERRYT_PAGE, FEW * FERRYT_PAGE },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct rlimit limit, small;

	CHECK(uffd >= 0 && p != MAP_FAILED && ioctl(uffd, UFFDIO_API, &api) == 0);
	ferryt_fill(p, 2 * FEW, 14);
	map_file(p, FEW, RW, fd);
	write_third(p, FEW, 14);
	CHECK_INT(ioctl(uffd, UFFDIO_REGISTER, &other), 0);
	CHECK_FAILS(ferry_adopt(ferry, p, 2 * FEW * FERRYT_PAGE, 0), -EBUSY, "another userfaultfd");
	CHECK_INT(ferryt_stats(ferry).managed_bytes, 0);
	CHECK_INT(ferryt_stats(ferry).resident_bytes, 0);
	verify_thirds(p, FEW, 14, 13);
	ferryt_verify(p + FEW * FERRYT_PAGE, FEW, FEW, 14);
	close(uffd);
	CHECK_INT(ferry_adopt(ferry, p, 2 * FEW * FERRYT_PAGE, 0), 0);
	send_away(ferry, p, 2 * FEW);
	verify_thirds(p, FEW, 14, 13);
	ferryt_verify(p + FEW * FERRYT_PAGE, FEW, FEW, 14);

	/* A limit on memory, set lower than what the process has: mremap would unmap, and then refuse. */
	uint8_t *q = map_file(NULL, FEW, RW, fd);

	write_third(q, FEW, 15);
	CHECK_INT(getrlimit(RLIMIT_AS, &limit), 0);
	small = limit;
	small.rlim_cur = 16 * FERRYT_MIB;
	CHECK_INT(setrlimit(RLIMIT_AS, &small), 0);
	int rc = ferry_adopt(ferry, q, FEW * FERRYT_PAGE, 0);

	CHECK_INT(setrlimit(RLIMIT_AS, &limit), 0);
	CHECK_INT(rc, -ENOMEM);
	CHECK(strstr(ferry_last_error(), "anonymous"));
	verify_thirds(q, FEW, 15, 13);
	CHECK_INT(ferry_adopt(ferry, q, FEW * FERRYT_PAGE, 0), 0);
	verify_thirds(q, FEW, 15, 13);
	CHECK_INT(ferry_close(ferry), 0);
	check_file(fd, FEW, 13);
}

static void adopt__fails_in_the_middle__content_stays(void **state)
{
	(void)state;
	RUN(body_middle);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(adopt__private_file__content_of_file_and_of_writes),
		cmocka_unit_test(migrate__programs_own_variables__content_right_and_homed),
		cmocka_unit_test(adopt__files_and_plain_memory_side_by_side__one_call),
		cmocka_unit_test(adopt__unfit_file_memory__own_code_and_nothing_changed),
		cmocka_unit_test(adopt__fails_in_the_middle__content_stays),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
