/*
 * Away pages under the kernel's own hands: system calls, direct I/O, io_uring
 * and futexes work for root; for an unprivileged user they fail with EFAULT,
 * and lose nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef FERRYT_HAVE_URING
#include <liburing.h>
#endif

#include "pager_kit.h"

#define LEN	    (16 * FERRYT_MIB)
#define PAGES	    (LEN / FERRYT_PAGE)
#define CHUNK	    FERRYT_MIB
#define CHUNK_PAGES (CHUNK / FERRYT_PAGE)

/* What a body exits with when this kernel cannot do what it tests. */
#define SKIP 77

static int temporary(void)
{
	char path[] = "/var/tmp/ferryt-file-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	CHECK(fd >= 0 && unlink(path) == 0);
	return fd;
}

static void away(struct ferry *ferry, void *p, size_t len)
{
	for (unsigned i = 0; i < 1000 && ferryt_present(p, len / FERRYT_PAGE); i++)
		CHECK_INT(ferry_advise(ferry, p, len, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, len / FERRYT_PAGE), 0);
}

/* ---- as root ---- */

/* Through a file, from away pages into away pages; all of LEN, which is twice the budget. */
static void through_file(struct ferry *ferry, int fd, uint8_t *from, uint8_t *to, uint64_t seed)
{
	ferryt_fill_away(ferry, from, PAGES, seed);
	ferryt_fill_away(ferry, to, PAGES, seed + 1);
	for (size_t off = 0; off < LEN; off += CHUNK)
		CHECK_INT(pwrite(fd, from + off, CHUNK, (off_t)off), CHUNK);
	for (size_t off = 0; off < LEN; off += CHUNK)
		CHECK_INT(pread(fd, to + off, CHUNK, (off_t)off), CHUNK);
	ferryt_verify(to, 0, PAGES, seed);
	away(ferry, to, LEN);
	ferryt_verify(to, 0, PAGES, seed);
	ferryt_verify(from, 0, PAGES, seed);
}

static void body_read_write(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *from = ferryt_mmap(ferry, LEN), *to = ferryt_mmap(ferry, LEN);
	int fd = temporary(), pipe_fd[2];

	CHECK(ferry_caps(ferry) & FERRY_CAP_KERNEL_FAULT);
	through_file(ferry, fd, from, to, 1);
	close(fd);
	/* vectors over several pages, through a pipe */
	CHECK_INT(pipe(pipe_fd), 0);
	away(ferry, from, LEN);
	away(ferry, to, LEN);
	struct iovec out[2] = {{from + 100, 3000}, {from + FERRYT_MIB, 3 * FERRYT_PAGE}};
	struct iovec in[2] = {{to + 100, 3000}, {to + FERRYT_MIB, 3 * FERRYT_PAGE}};

	ferryt_fill_page(from + FERRYT_MIB + FERRYT_PAGE, 3, 0);
	away(ferry, from, LEN);
	CHECK_INT(writev(pipe_fd[1], out, 2), 3000 + 3 * FERRYT_PAGE);
	CHECK_INT(readv(pipe_fd[0], in, 2), 3000 + 3 * FERRYT_PAGE);
	ferryt_verify(to + FERRYT_MIB + FERRYT_PAGE, 0, 1, 3);
	ferryt_verify(to, 0, 256, 1);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void read_write__away_buffers_as_root__data_right(void **state)
{
	(void)state;
	RUN(body_read_write);
}

static void body_direct(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *from = ferryt_mmap(ferry, LEN), *to = ferryt_mmap(ferry, LEN);
	int fd = temporary();

	if (fcntl(fd, F_SETFL, O_DIRECT) != 0)
		_exit(SKIP);
	through_file(ferry, fd, from, to, 10);
	close(fd);
	CHECK_INT(ferry_close(ferry), 0);
}

/* 0, or skips the test when that is what the body said. */
static void run_or_skip(void (*body)(void), const char *why)
{
	int rc = ferryt_in_child(body);

	if (rc == SKIP) {
		print_message("    skipped: %s\n", why);
		skip();
	}
	assert_int_equal(rc, 0);
}

static void direct_io__away_buffers_as_root__data_right(void **state)
{
	(void)state;
	run_or_skip(body_direct, "the file system has no direct I/O");
}

#ifdef FERRYT_HAVE_URING
static void uring_move(struct io_uring *ring, bool is_write, int fd, uint8_t *p)
{
	struct io_uring_cqe *cqe;

	for (size_t off = 0; off < 4 * CHUNK; off += CHUNK) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

		CHECK(sqe != NULL);
		if (is_write)
			io_uring_prep_write(sqe, fd, p + off, (unsigned)CHUNK, off);
		else
			io_uring_prep_read(sqe, fd, p + off, (unsigned)CHUNK, off);
	}
	CHECK_INT(io_uring_submit(ring), 4);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_INT(io_uring_wait_cqe(ring, &cqe), 0);
		CHECK_INT(cqe->res, CHUNK);
		io_uring_cqe_seen(ring, cqe);
	}
}

static void body_uring(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *from = ferryt_mmap(ferry, LEN), *to = ferryt_mmap(ferry, LEN);
	struct io_uring ring;
	int fd = temporary();

	if (io_uring_queue_init(8, &ring, 0) != 0)
		_exit(SKIP);
	for (unsigned round = 0; round < 2; round++) {
		ferryt_fill_away(ferry, from, 4 * CHUNK_PAGES, 20 + round);
		ferryt_fill_away(ferry, to, 4 * CHUNK_PAGES, 30);
		uring_move(&ring, true, fd, from);
		uring_move(&ring, false, fd, to);
		ferryt_verify(to, 0, 4 * CHUNK_PAGES, 20 + round);
		/* again on the raw file, where it can */
		if (fcntl(fd, F_SETFL, O_DIRECT) != 0)
			break;
	}
	io_uring_queue_exit(&ring);
	close(fd);
	CHECK_INT(ferry_close(ferry), 0);
}
#endif

static void io_uring__away_buffers_as_root__data_right(void **state)
{
	(void)state;
#ifdef FERRYT_HAVE_URING
	run_or_skip(body_uring, "this kernel forbids io_uring");
#else
	print_message("    skipped: built without liburing\n");
	skip();
#endif
}

struct waiter {
	_Atomic uint32_t *word;
	_Atomic int waiting;
};

static void *wait_for_one(void *arg)
{
	struct waiter *w = arg;

	atomic_store(&w->waiting, 1);
	while (atomic_load(w->word) == 0) {
		struct timespec limit = {.tv_sec = 60};
		long rc = syscall(SYS_futex, w->word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);

		CHECK(rc == 0 || errno == EAGAIN || errno == EINTR);
	}
	return NULL;
}

static void body_futex(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, FERRYT_MIB);
	uint32_t *last = (uint32_t *)(p + 5 * FERRYT_PAGE);
	struct waiter w = {.word = (_Atomic uint32_t *)(p + 3 * FERRYT_PAGE)};
	pthread_t thread;

	/* The kernel itself compares a word of an away page. */
	ferryt_fill(p, 256, 40);
	*last = 7;
	away(ferry, p, FERRYT_MIB);
	CHECK(syscall(SYS_futex, last, FUTEX_WAIT_PRIVATE, 8, NULL, NULL, 0) == -1 && errno == EAGAIN);
	away(ferry, p, FERRYT_MIB);
	CHECK_INT(syscall(SYS_futex, last, FUTEX_WAKE, 1, NULL, NULL, 0), 0);

	for (unsigned round = 0; round < 20; round++) {
		atomic_store(w.word, 0);
		atomic_store(&w.waiting, 0);
		away(ferry, p, FERRYT_MIB);
		CHECK_INT(pthread_create(&thread, NULL, wait_for_one, &w), 0);
		while (!atomic_load(&w.waiting))
			sched_yield();
		/* The page may leave while the thread waits on it. */
		CHECK_INT(ferry_advise(ferry, p, FERRYT_MIB, FERRY_ADVICE_COLD), 0);
		atomic_store(w.word, 1);
		CHECK_INT(ferry_advise(ferry, p, FERRYT_MIB, FERRY_ADVICE_COLD), 0);
		CHECK(syscall(SYS_futex, w.word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) >= 0);
		CHECK_INT(pthread_join(thread, NULL), 0);
	}
	CHECK_INT(ferry_close(ferry), 0);
}

static void futex__on_away_page__wakes(void **state)
{
	(void)state;
	RUN(body_futex);
}

/* ---- as nobody ---- */

/* A copy of the token that nobody can read, by a descriptor that stays open. */
static void nobodys_token(char path[64])
{
	char text[256];
	int from = open(ferryt_token_file(), O_RDONLY | O_CLOEXEC), to;

	snprintf(path, 64, "/tmp/ferryt-nobody-XXXXXX");
	to = mkostemp(path, O_CLOEXEC);
	ssize_t n = read(from, text, sizeof(text));

	CHECK(from >= 0 && to >= 0 && n > 0 && write(to, text, (size_t)n) == n);
	CHECK_INT(fchown(to, NOBODY, NOBODY), 0);
	close(from);
	close(to);
}

static char nobody_token[64];

static struct ferry *open_as_nobody(const char *fabric, char url[192])
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	snprintf(url, 192, "%s?fabric=%s", ferryt_server()->url, fabric);
	cfg.servers = url;
	cfg.token_file = nobody_token;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

static void body_nobody(void)
{
	static const char *const fabrics[] = {"local", "tcp"};
	char url[192];

	ferryt_become_nobody();
	for (unsigned i = 0; i < 2; i++) {
		struct ferry *ferry = open_as_nobody(fabrics[i], url);
		uint8_t *p = ferryt_mmap(ferry, LEN);
		int fd[2];

		if (ferry_caps(ferry) & FERRY_CAP_KERNEL_FAULT)
			_exit(SKIP); /* vm.unprivileged_userfaultfd, or /dev/userfaultfd is open to all */
		CHECK(!(ferry_caps(ferry) & FERRY_CAP_EVENT_FORK));
		CHECK(ferry_caps(ferry) & FERRY_CAP_MOVE);
		ferryt_fill(p, PAGES, 50);
		ferryt_verify(p, 0, PAGES, 50);
		CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
		away(ferry, p, LEN);
		/* into an away buffer, and out of one */
		CHECK_INT(pipe(fd), 0);
		CHECK_INT(write(fd[1], url, 64), 64);
		CHECK(read(fd[0], p, 64) == -1 && errno == EFAULT);
		CHECK(write(fd[1], p, 64) == -1 && errno == EFAULT);
		ferryt_verify(p, 0, PAGES, 50);
		/* pinned, both work */
		CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0);
		CHECK_INT(write(fd[1], p, 64), 64);
		CHECK(read(fd[0], p, 64) == 64);
		CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
		ferryt_verify(p + FERRYT_PAGE, 1, PAGES - 1, 50);
		close(fd[0]);
		close(fd[1]);
		CHECK_INT(ferry_close(ferry), 0);
		ferryt_verify(p + FERRYT_PAGE, 1, PAGES - 1, 50);
	}
}

static void nobody__touches_work_and_read_gives_efault__pages_stay_right(void **state)
{
	(void)state;
	nobodys_token(nobody_token);
	int rc = ferryt_in_child(body_nobody);

	unlink(nobody_token);
	if (rc == SKIP) {
		print_message("    skipped: this kernel lets every user handle kernel faults\n");
		skip();
	}
	assert_int_equal(rc, 0);
}

static void body_nobody_token(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	ferryt_become_nobody();
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EACCES, ferryt_token_file());
}

static void nobody__token_of_root__eacces(void **state)
{
	(void)state;
	RUN(body_nobody_token);
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
		cmocka_unit_test(read_write__away_buffers_as_root__data_right),
		cmocka_unit_test(direct_io__away_buffers_as_root__data_right),
		cmocka_unit_test(io_uring__away_buffers_as_root__data_right),
		cmocka_unit_test(futex__on_away_page__wakes),
		cmocka_unit_test(nobody__touches_work_and_read_gives_efault__pages_stay_right),
		cmocka_unit_test(nobody__token_of_root__eacces),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	if (geteuid() != 0) {
		printf("skipped: kernel faults and another user need root\n");
		return 77;
	}
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
