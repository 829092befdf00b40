/* Private file memory made anonymous: what is written meanwhile, and an mremap that fails half-way. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "anon.h"
#include "arith.h"
#include "uapi.h"
#include "uffd.h"

#define PAGE  FERRYI_PAGE_SIZE
#define PAGES 700u /* two pieces and a part of a third */
#define LEN   ((size_t)PAGES * PAGE)

/* ---- the kernel, as the test wants it ---- */

static unsigned nr_copies, write_after; /* this many of the first copies are followed by a write to what was copied */
static uint8_t *written_page;
static enum { WELL, REFUSES, UNMAPS } mremap_does;

ssize_t __real_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal, const struct iovec *remote,
				unsigned long nremote, unsigned long flags);
ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal, const struct iovec *remote,
				unsigned long nremote, unsigned long flags);
void *__real_mremap(void *old, size_t old_len, size_t new_len, int flags, ...);
void *__wrap_mremap(void *old, size_t old_len, size_t new_len, int flags, ...);

ssize_t __wrap_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long nlocal, const struct iovec *remote,
				unsigned long nremote, unsigned long flags)
{
	ssize_t n = __real_process_vm_readv(pid, local, nlocal, remote, nremote, flags);

	if (++nr_copies <= write_after)
		written_page[nr_copies] = (uint8_t)(100 + nr_copies);
	return n;
}

void *__wrap_mremap(void *old, size_t old_len, size_t new_len, int flags, ...)
{
	va_list args;

	va_start(args, flags);
	void *to = va_arg(args, void *);

	va_end(args);
	if (mremap_does == WELL)
		return __real_mremap(old, old_len, new_len, flags, to);
	if (mremap_does == UNMAPS)
		assert_int_equal(munmap(to, old_len), 0);
	errno = ENOMEM;
	return MAP_FAILED;
}

/* ---- a file, mapped ---- */

static struct ferryi_arena *arena;
static int pagemap;

static uint8_t byte_of(size_t i)
{
	return (uint8_t)(i * 7 / PAGE + i);
}

static uint8_t *map_file(void)
{
	uint8_t *p, *bytes = malloc(LEN);
	FILE *f = tmpfile();

	assert_non_null(bytes);
	assert_non_null(f);
	for (size_t i = 0; i < LEN; i++)
		bytes[i] = byte_of(i);
	assert_int_equal(fwrite(bytes, 1, LEN, f), LEN);
	fflush(f);
	free(bytes);
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	fclose(f);
	return p;
}

static long make_all(uint8_t *p)
{
	uintptr_t va = (uintptr_t)p, end = va + LEN, at;
	struct ferryi_anon anon;
	long n = 1;

	assert_int_equal(ferryi_anon_check(va, end, &at), 0);
	assert_int_equal(ferryi_anon_begin(&anon, arena, pagemap, va, end), 0);
	nr_copies = 0;
	for (; n > 0 && va < end; va += (uintptr_t)n) {
		n = ferryi_anon_next(&anon, va);
		if (n < 0)
			break;
		assert_true(n % (long)PAGE == 0 && (size_t)n <= FERRYI_ANON_PIECE && (uintptr_t)n <= end - va);
	}
	ferryi_anon_end(&anon);
	return n < 0 ? n : 0;
}

/* How many mappings [p, p + LEN) is made of, and that each is anonymous (or a file's). */
static unsigned mappings(const uint8_t *p, bool file)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	unsigned n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end, inode;

		if (sscanf(line, "%lx-%lx %*s %*x %*x:%*x %lu", &start, &end, &inode) != 3 || end <= (uintptr_t)p ||
		    start >= (uintptr_t)p + LEN)
			continue;
		assert_int_equal(inode != 0, file);
		n++;
	}
	fclose(f);
	return n;
}

static void anon__file_some_pages_written__one_anonymous_mapping_with_its_content(void **state)
{
	uint8_t *p = map_file();

	(void)state;
	for (size_t i = 0; i < PAGES; i += 3)
		p[i * PAGE + 5] = 0xee;
	assert_int_equal(mappings(p, true), 1);
	assert_int_equal(make_all(p), 0);
	for (size_t i = 0; i < LEN; i++)
		assert_int_equal(p[i], i % (3 * PAGE) == 5 ? 0xee : byte_of(i));
	assert_true(mappings(p, false) <= 2); /* the kernel may merge it with a neighbour */
	memset(p, 1, LEN);
	munmap(p, LEN);
}

static void anon__written_while_it_is_copied__copied_again(void **state)
{
	uint64_t features = 0;
	uint8_t *p = map_file();

	(void)state;
	if (ferryi_uffd_probe(&features) || !(features & FERRYI_UFFD_FEATURE_WP_ASYNC)) {
		print_message("no asynchronous write-protection here\n");
		skip();
	}
	/* A page that was private before and one that was the file's. The second write comes during the second copy. */
	p[0] = 1;
	for (size_t page = 0; page < 2; page++) {
		written_page = p + page * PAGE;
		write_after = 2;
		assert_int_equal(make_all(p), 0);
		write_after = 0;
		assert_int_equal(written_page[1], 101);
		assert_int_equal(written_page[2], 102);
		assert_int_equal(written_page[3], byte_of(page * PAGE + 3));
		if (page == 0) {
			munmap(p, LEN);
			p = map_file();
		}
	}
	munmap(p, LEN);
}

static void anon__mremap_fails__content_stays(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *p = map_file();

		p[PAGE] = 0x33;
		mremap_does = i == 0 ? REFUSES : UNMAPS;
		assert_int_equal(make_all(p), i == 0 ? -ENOMEM : 0);
		mremap_does = WELL;
		assert_true(mappings(p, i == 0) > 0);
		for (size_t k = 0; k < LEN; k++)
			assert_int_equal(p[k], k == PAGE ? 0x33 : byte_of(k));
		munmap(p, LEN);
	}
}

static void anon__beyond_the_file_locked_or_sealed__refused(void **state)
{
	uint8_t *p = map_file();
	FILE *f = tmpfile();
	uintptr_t at;

	(void)state;
	assert_int_equal(ftruncate(fileno(f), 2 * PAGE + 1), 0);
	uint8_t *q = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(f), 0);

	assert_ptr_not_equal(q, MAP_FAILED);
	assert_int_equal(ferryi_anon_check((uintptr_t)q, (uintptr_t)q + 3 * PAGE, &at), 0);
	assert_int_equal(ferryi_anon_check((uintptr_t)q, (uintptr_t)q + 4 * PAGE, &at), -EFAULT);
	assert_true(at == (uintptr_t)q + 3 * PAGE);
	if (syscall(SYS_mlock, p, PAGE) == 0) { /* a sanitizer makes nothing of mlock */
		assert_int_equal(ferryi_anon_check((uintptr_t)p, (uintptr_t)p + PAGE, &at), -EOPNOTSUPP);
		assert_true(at == (uintptr_t)p);
		assert_int_equal(syscall(SYS_munlock, p, PAGE), 0);
	}
	/* It becomes shorter in the middle: what has been done stays, the rest is the file's. */
	struct ferryi_anon anon;

	assert_int_equal(ferryi_anon_begin(&anon, arena, pagemap, (uintptr_t)q, (uintptr_t)q + 3 * PAGE), 0);
	assert_int_equal(ftruncate(fileno(f), PAGE), 0);
	assert_int_equal(ferryi_anon_next(&anon, (uintptr_t)q), -EFAULT);
	assert_int_equal(q[0], 0);
	ferryi_anon_end(&anon);
	fclose(f);
	munmap(q, 4 * PAGE);
	/* Sealed (mseal, Linux 6.10): nobody may replace it. */
	p[PAGE] = 0x44;
	if (syscall(462, p, LEN, 0) == 0) {
		assert_int_equal(make_all(p), -EOPNOTSUPP);
		assert_true(mappings(p, true) > 0);
		for (size_t k = 0; k < LEN; k++)
			assert_int_equal(p[k], k == PAGE ? 0x44 : byte_of(k));
	}
	munmap(p, LEN);
}

static int setup(void **state)
{
	(void)state;
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return pagemap < 0 || ferryi_arena_open((size_t)1 << 28, (size_t)1 << 26, &arena);
}

static int teardown(void **state)
{
	(void)state;
	ferryi_arena_close(&arena);
	close(pagemap);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(anon__file_some_pages_written__one_anonymous_mapping_with_its_content),
		cmocka_unit_test(anon__written_while_it_is_copied__copied_again),
		cmocka_unit_test(anon__mremap_fails__content_stays),
		cmocka_unit_test(anon__beyond_the_file_locked_or_sealed__refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
