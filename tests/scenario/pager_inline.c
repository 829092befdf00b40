/*
 * Inline memory (FERRY_MAP_INLINE): faults served in the faulting thread by
 * SIGBUS. The data, beside changes of the address space, and what it is to
 * system calls, other handlers of SIGBUS and forks. argv[1]: the row.
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
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "fork_kit.h"

#define THREADS 4u
#define CHANGES 100u
#define FEW	64u

static uint8_t *map_inline(struct ferry *ferry, size_t len)
{
	uint8_t *p = ferry_mmap(ferry, NULL, len, PROT_READ | PROT_WRITE, FERRY_MAP_INLINE);

	CHECK(p != MAP_FAILED);
	return p;
}

/* ---- an application's own handler, there before the library's ---- */

static sigjmp_buf jump;
static volatile sig_atomic_t nr_seen;
static void *volatile seen_at;
static int volatile seen_code;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	(void)context;
	nr_seen++;
	seen_at = info->si_addr;
	seen_code = info->si_code;
	siglongjmp(jump, sig);
}

static void handle_sigbus(void)
{
	struct sigaction act = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};

	sigemptyset(&act.sa_mask);
	CHECK_INT(sigaction(SIGBUS, &act, NULL), 0);
}

/* Reads a byte; 0, or SIGBUS, which our handler got. */
static int touch(const uint8_t *p, uint8_t *out)
{
	int sig = sigsetjmp(jump, 1);

	if (sig == 0)
		*out = *(const volatile uint8_t *)p;
	return sig;
}

/* ---- data ---- */

static void body_data(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN + FERRYT_MIB);

	ferryt_fill(p, PAGES, 1);
	CHECK(ferryt_present(p, PAGES) < PAGES / 2);
	ferryt_verify(p, 0, PAGES, 1);
	for (size_t i = 0, k = 1; i < PAGES;
	     i++, k = (k * 5 + 1) % PAGES) /* in no order, dirty and clean in turn */
		i % 2 ? ferryt_fill_page(p + k * FERRYT_PAGE, 1, k)
		      : ferryt_verify(p + k * FERRYT_PAGE, k, 1, 1);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_verify_zero(p + LEN, FERRYT_MIB / FERRYT_PAGE);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.faults_major > 0 && s.pages_evicted > PAGES);
	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 1); /* plain memory now */
}

static void data__four_budgets__comes_back_right(void **state)
{
	(void)state;
	RUN(body_data);
}

static void body_sequential(void)
{
	struct ferry *ferry = ferryt_open(4 * LEN);
	uint8_t *p = map_inline(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 1);
	uint64_t before = ferryt_stats(ferry).pages_readahead;

	ferryt_verify(p, 0, PAGES, 1);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.pages_readahead - before >
	      PAGES / 2); /* by the fault thread; the toucher reads only what it waits for */
	CHECK_INT(s.pages_in, PAGES);
	CHECK_INT(ferry_close(ferry), 0);
}

static void data__read_in_order__is_read_ahead(void **state)
{
	(void)state;
	RUN(body_sequential);
}

/* Handler memory and inline memory of one process, evicted by the same threads. */
static void body_both(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN), *q = ferryt_mmap(ferry, LEN);

	for (size_t i = 0; i < PAGES; i++) {
		ferryt_fill_page(p + i * FERRYT_PAGE, 1, i);
		ferryt_fill_page(q + i * FERRYT_PAGE, 2, i);
	}
	for (size_t i = 0; i < PAGES; i++) {
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);
		ferryt_verify(q + i * FERRYT_PAGE, i, 1, 2);
	}
	CHECK_INT(ferry_munmap(ferry, q, LEN), 0);
	ferryt_verify(p, 0, PAGES, 1);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void data__inline_and_handler_memory__each_right(void **state)
{
	(void)state;
	RUN(body_both);
}

static void body_adopted(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	ferryt_fill(p, PAGES, 3);
	CHECK_INT(ferry_adopt(ferry, p, LEN, FERRY_MAP_INLINE), 0);
	CHECK(ferryt_present(p, PAGES) < PAGES);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_unadopt(ferry, p, LEN), 0);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	CHECK_INT(ferry_close(ferry), 0);
}

static void adopted__and_given_up__keeps_its_data(void **state)
{
	(void)state;
	RUN(body_adopted);
}

/* ---- threads ---- */

struct reader {
	pthread_t thread;
	uint8_t *p;
	size_t pages;
	uint64_t random;
	_Atomic bool *stop;
};

static size_t next_random(struct reader *r)
{
	r->random = r->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (size_t)(r->random >> 33);
}

static void *read_some(void *arg)
{
	struct reader *r = arg;

	for (unsigned n = 0; n < 4 * PAGES / THREADS; n++) {
		size_t i = next_random(r) % r->pages;

		ferryt_verify(r->p + i * FERRYT_PAGE, i, 1, 1);
	}
	return NULL;
}

static void body_threads(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);
	struct reader reader[THREADS];

	ferryt_fill(p, PAGES, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		reader[i] = (struct reader){
			.p = p, .pages = PAGES, .random = i < 2 ? 1 : i}; /* two touch the same pages */
		CHECK_INT(pthread_create(&reader[i].thread, NULL, read_some, &reader[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(reader[i].thread, NULL), 0);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferry_close(ferry), 0);
}

static void threads__fault_at_once__all_right(void **state)
{
	(void)state;
	RUN(body_threads);
}

static void *read_until_stopped(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(r->stop)) {
		size_t i = next_random(r) % r->pages;

		ferryt_verify(r->p + i * FERRYT_PAGE, i, 1, 1);
	}
	return NULL;
}

/* One round of changes on a range beside what is read: dropped, moved, unmapped in part, with pages of it
 * away. */
static void change(struct ferry *ferry, unsigned round)
{
	uint8_t *q = map_inline(ferry, FEW * FERRYT_PAGE), *to;

	ferryt_fill(q, FEW, round + 2);
	CHECK_INT(ferry_advise(ferry, q, FEW * FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK_INT(madvise(q, FERRYT_PAGE * (FEW / 4), MADV_DONTNEED), 0);
	ferryt_verify_zero(q, FEW / 4);
	to = mremap(q, FEW * FERRYT_PAGE, FEW * FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    map_inline(ferry, FEW * FERRYT_PAGE));
	CHECK(to != MAP_FAILED);
	CHECK_INT(munmap(to + (FEW - 8) * FERRYT_PAGE, 8 * FERRYT_PAGE), 0);
	ferryt_verify_zero(to, FEW / 4);
	ferryt_verify(to + (FEW / 4) * FERRYT_PAGE, FEW / 4, FEW - 8 - FEW / 4, round + 2);
	CHECK_INT(munmap(to, (FEW - 8) * FERRYT_PAGE), 0);
}

static void body_changes(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);
	struct reader reader[THREADS];
	_Atomic bool stop = false;

	ferryt_fill(p, PAGES, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		reader[i] = (struct reader){.p = p, .pages = PAGES, .random = i, .stop = &stop};
		CHECK_INT(pthread_create(&reader[i].thread, NULL, read_until_stopped, &reader[i]), 0);
	}
	for (unsigned round = 0; round < CHANGES; round++)
		change(ferry, round);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(reader[i].thread, NULL), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void changes__under_inline_faults__seen_whole(void **state)
{
	(void)state;
	RUN(body_changes);
}

/* The same page dropped, and read by another thread: old content or zeros, and zeros once the drop has
 * returned. */
static void *drop_and_look(void *arg)
{
	struct reader *r = arg;

	for (unsigned n = 0; n < CHANGES; n++) {
		uint8_t *page = r->p + next_random(r) % r->pages * FERRYT_PAGE;

		memset(page, 0x77, FERRYT_PAGE);
		CHECK_INT(madvise(page, FERRYT_PAGE, MADV_DONTNEED), 0);
		ferryt_verify_zero(page, 1);
	}
	return NULL;
}

static void body_drops(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	size_t own = PAGES / THREADS;
	uint8_t *p = map_inline(ferry, LEN);
	struct reader reader[THREADS];

	ferryt_fill(p, PAGES, 1);
	for (unsigned i = 0; i < THREADS; i++) {
		reader[i] = (struct reader){.p = p + i * own * FERRYT_PAGE, .pages = own, .random = i};
		CHECK_INT(pthread_create(&reader[i].thread, NULL, drop_and_look, &reader[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(reader[i].thread, NULL), 0);
	CHECK_INT(ferry_munmap(ferry, p, LEN), 0);
	CHECK_INT(ferryt_stats(ferry).resident_bytes, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void dropped_pages__touched_again__zeros(void **state)
{
	(void)state;
	RUN(body_drops);
}

/* ---- SIGBUS ---- */

/* A page of a file beyond its end. */
static uint8_t *map_beyond_end(void)
{
	int fd = memfd_create("ferryt", MFD_CLOEXEC);
	uint8_t *p = mmap(NULL, FERRYT_PAGE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(fd >= 0 && p != MAP_FAILED);
	close(fd);
	return p;
}

static void body_chain(void)
{
	uint8_t *beyond = map_beyond_end(), byte = 0;

	handle_sigbus();
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);

	ferryt_fill_away(ferry, p, FEW, 1);
	for (int n = 1; n <= 3; n++) {
		CHECK_INT(touch(beyond + 100, &byte), SIGBUS);
		CHECK_INT(nr_seen, n);
		CHECK(seen_at == beyond + 100);
		CHECK_INT(seen_code, BUS_ADRERR);
		ferryt_verify(p + n * FERRYT_PAGE, (size_t)n, 1,
			      1); /* the mask is as it was: this one is served */
	}
	if (sigsetjmp(jump, 1) == 0)
		raise(SIGBUS);
	CHECK_INT(nr_seen, 4);
	CHECK(seen_code <= 0);
	ferryt_verify(p, 0, FEW, 1);
	CHECK_INT(nr_seen, 4); /* none of ours */
	CHECK_INT(ferry_close(ferry), 0);
	struct sigaction now;

	CHECK_INT(sigaction(SIGBUS, NULL, &now), 0);
	CHECK(now.sa_sigaction == on_sigbus);
}

static void sigbus__not_ours__goes_to_the_handler_before(void **state)
{
	(void)state;
	RUN(body_chain);
}

static void body_default(void)
{
	uint8_t *beyond = map_beyond_end(), byte = 0;
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);

	(void)map_inline(ferry, FERRYT_MIB);
	byte = *(volatile uint8_t *)beyond;
	_exit(byte);
}

static void sigbus__no_handler_before__ends_the_process(void **state)
{
	(void)state;
	assert_int_equal(ferryt_in_child(body_default), 128 + SIGBUS);
}

static void body_blocked_signals(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);
	sigset_t before = {0}, after = {0};

	ferryt_fill_away(ferry, p, FEW, 1);
	CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
	errno = EXDEV;
	uint8_t byte = *(volatile uint8_t *)p;

	CHECK_INT(errno, EXDEV);
	CHECK(byte == p[0]);
	CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	CHECK_INT(memcmp(&before, &after, sizeof(before)), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fault__errno_and_mask__kept(void **state)
{
	(void)state;
	RUN(body_blocked_signals);
}

static void body_server_dies(void)
{
	uint8_t byte = 0;

	handle_sigbus();
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry_fault_info info = {.size = sizeof(info)};
	struct ferry *ferry;

	cfg.fault_timeout_ms = 3000;
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	uint8_t *p = map_inline(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 1);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_verify(p, 0, 1, 1);
	ferryt_child_signal(ferryt_server(), SIGKILL);
	uint64_t start = ferryi_now_ns();
	size_t i = 1;

	for (; i < PAGES && touch(p + i * FERRYT_PAGE, &byte) == 0;
	     i++) /* until it is dead, or that is noticed */
		ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);
	CHECK(i < PAGES);
	CHECK(seen_at == p + i * FERRYT_PAGE);
	CHECK(ferryi_now_ns() - start < 20 * FERRYI_NS_PER_S);
	CHECK(seen_code == BUS_MCEERR_AR || seen_code == BUS_ADRERR); /* without CONFIG_MEMORY_FAILURE */
	CHECK_INT(ferry_fault_query(ferry, (uintptr_t)seen_at, &info), 0);
	CHECK(info.reason == FERRY_FAULT_SERVER_LOST || info.reason == FERRY_FAULT_TIMEOUT);
	ferryt_verify(p, 0, 1, 1); /* what is in RAM stays */
	_exit(0);
}

static void server__killed__sigbus_with_its_reason(void **state)
{
	(void)state;
	if (strcmp(ferryt_row(), "embedded") == 0)
		skip();
	RUN(body_server_dies); /* the last test: there is no server from here on */
}

/* ---- system calls ---- */

static void body_syscalls(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN), page[FERRYT_PAGE];
	int fd[2];

	CHECK_INT(pipe(fd), 0);
	ferryt_fill_away(ferry, p, FEW, 1);
	errno = 0;
	CHECK(write(fd[1], p, FERRYT_PAGE) < 0 && errno == EFAULT);
	CHECK_INT(ferry_pin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(write(fd[1], p, FERRYT_PAGE), FERRYT_PAGE);
	CHECK_INT(ferry_unpin(ferry, p, FERRYT_PAGE), 0);
	CHECK_INT(read(fd[0], page, FERRYT_PAGE), FERRYT_PAGE);
	ferryt_verify(page, 0, 1, 1);

	uint8_t *second = p + FERRYT_PAGE;

	ferryt_fill_page(page, 2, 1);
	CHECK_INT(write(fd[1], page, FERRYT_PAGE), FERRYT_PAGE);
	CHECK(read(fd[0], second, FERRYT_PAGE) < 0 && errno == EFAULT); /* into it */
	CHECK_INT(ferry_pin(ferry, second, FERRYT_PAGE), 0);
	CHECK_INT(read(fd[0], second, FERRYT_PAGE), FERRYT_PAGE);
	CHECK_INT(ferry_unpin(ferry, second, FERRYT_PAGE), 0);
	CHECK_INT(ferry_advise(ferry, second, FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	ferryt_verify(second, 1, 1, 2);
	ferryt_verify(p + 2 * FERRYT_PAGE, 2, FEW - 2, 1);
	CHECK_INT(ferry_close(ferry), 0);
}

static void syscall__on_an_away_page__efault_until_pinned(void **state)
{
	(void)state;
	RUN(body_syscalls);
}

/* ---- mirrors, exclusive pages ---- */

static void on_release(struct ferry_mirror *mirror)
{
	(void)mirror;
}

static int on_invalidate(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static void body_mirror(void)
{
	static const struct ferry_mirror_ops ops = {.release = on_release, .invalidate = on_invalidate};
	struct ferry_mirror mirror = {.ops = &ops};
	struct ferry_mirror_stats stats = {.size = sizeof(stats)};
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN), page[FERRYT_PAGE];

	ferryt_fill_away(ferry, p, FEW, 1);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	for (size_t i = 0; i < FEW; i++) {
		CHECK_INT(
			ferry_mirror_read(&mirror, (uintptr_t)p + i * FERRYT_PAGE, page, FERRYT_PAGE, &stats),
			0);
		ferryt_verify(page, i, 1, 1);
	}
	ferryt_fill_page(page, 9, 3);
	CHECK_INT(ferry_mirror_write(&mirror, (uintptr_t)p + 3 * FERRYT_PAGE, page, FERRYT_PAGE, &stats), 0);
	ferryt_verify(p + 3 * FERRYT_PAGE, 3, 1, 9);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void mirror__reads_and_writes_inline_memory__right(void **state)
{
	(void)state;
	RUN(body_mirror);
}

/* ---- fork ---- */

static void body_fork(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);

	ferryt_fill(p, PAGES, 1);
	CHECK(ferryt_present(p, PAGES) < PAGES / 2);
	pid_t pid = fork();

	if (pid == 0) {
		ferryt_verify(p, 0, PAGES, 1);
		_exit(0);
	}
	CHECK(pid > 0);
	for (size_t i = 0; i < PAGES; i++) /* pages that it shares with the child are moved too */
		ferryt_fill_page(p + i * FERRYT_PAGE, 2, i);
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 2);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork__pages_away__both_see_their_own(void **state)
{
	(void)state;
	RUN(body_fork);
}

/* ---- life ---- */

static void body_reopen(void)
{
	for (unsigned n = 1; n <= 3; n++) {
		struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
		struct ferry *ferry;

		cfg.mode = n == 3 ? "handler" : "inline"; /* as FERRY_MODE */
		CHECK_INT(ferry_open(&cfg, &ferry), 0);
		uint8_t *p =
			ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, n == 2 ? FERRY_MAP_HANDLER : 0);
		int fd[2];

		CHECK(p != MAP_FAILED);
		ferryt_fill_away(ferry, p, FEW, n);
		CHECK_INT(pipe(fd), 0);
		if (n == 1) /* that is how inline memory shows */
			CHECK(write(fd[1], p, FERRYT_PAGE) < 0 && errno == EFAULT);
		else if (ferry_caps(ferry) & FERRY_CAP_KERNEL_FAULT)
			CHECK_INT(write(fd[1], p, FERRYT_PAGE), FERRYT_PAGE);
		ferryt_verify(p, 0, FEW, n);
		CHECK_INT(ferry_close(ferry), 0);
		ferryt_verify(p, 0, FEW, n);
		CHECK_INT(munmap(p, LEN), 0);
		close(fd[0]);
		close(fd[1]);
	}
}

static void mode__of_the_process_and_of_a_mapping__as_asked(void **state)
{
	(void)state;
	RUN(body_reopen);
}

static void body_arguments(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);

	CHECK(ferry_mmap(ferry, NULL, LEN, PROT_READ | PROT_WRITE, FERRY_MAP_INLINE | FERRY_MAP_HANDLER) ==
	      MAP_FAILED);
	CHECK(errno == EINVAL && strstr(ferry_last_error(), "flags"));
	CHECK_INT(ferry_close(ferry), 0);
	cfg.mode = "sideways";
	CHECK_FAILS(ferry_open(&cfg, &ferry), -EINVAL, "sideways");
}

static void flags__that_contradict__einval(void **state)
{
	(void)state;
	RUN(body_arguments);
}

static void body_closed_descriptor(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = map_inline(ferry, LEN);

	ferryt_fill_away(ferry, p, FEW, 1);
	CHECK_INT(close_range(3, ~0u, 0), 0);
	ferryt_verify(p, 0, FEW, 1); /* never zeros: the process ends in here */
	_exit(0);
}

static void descriptors__all_closed__aborts_and_reads_no_zeros(void **state)
{
	(void)state;
	assert_int_equal(ferryt_in_child(body_closed_descriptor), 128 + SIGABRT);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(data__four_budgets__comes_back_right),
		cmocka_unit_test(data__read_in_order__is_read_ahead),
		cmocka_unit_test(data__inline_and_handler_memory__each_right),
		cmocka_unit_test(adopted__and_given_up__keeps_its_data),
		cmocka_unit_test(threads__fault_at_once__all_right),
		cmocka_unit_test(changes__under_inline_faults__seen_whole),
		cmocka_unit_test(dropped_pages__touched_again__zeros),
		cmocka_unit_test(sigbus__not_ours__goes_to_the_handler_before),
		cmocka_unit_test(sigbus__no_handler_before__ends_the_process),
		cmocka_unit_test(fault__errno_and_mask__kept),
		cmocka_unit_test(syscall__on_an_away_page__efault_until_pinned),
		cmocka_unit_test(mirror__reads_and_writes_inline_memory__right),
		cmocka_unit_test(fork__pages_away__both_see_their_own),
		cmocka_unit_test(mode__of_the_process_and_of_a_mapping__as_asked),
		cmocka_unit_test(flags__that_contradict__einval),
		cmocka_unit_test(descriptors__all_closed__aborts_and_reads_no_zeros),
		cmocka_unit_test(server__killed__sigbus_with_its_reason),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
