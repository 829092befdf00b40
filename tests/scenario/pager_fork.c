/* Children of a process with managed memory, FERRY_FORK=guard: they never see zeros in its place, and the parent
 * stays whole. What is the same either way: raw clone, vfork, posix_spawn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pager_kit.h"

#define LEN   (16 * FERRYT_MIB)
#define PAGES (LEN / FERRYT_PAGE)

extern char **environ;

/* With FERRY_FORK=guard. */
static struct ferry *open_guarded(void)
{
	struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
	struct ferry *ferry;

	cfg.fork = "guard";
	CHECK_INT(ferry_open(&cfg, &ferry), 0);
	return ferry;
}

/* What a child of fork finds at an address: exits 0 when it is SIGBUS and the query says FORKED. */
static int look_in_child(const uint8_t *p)
{
	struct ferry_fault_info info = {.size = sizeof(info)};
	uint8_t byte;

	if (ferryt_touch(p, &byte) != SIGBUS)
		return 2;
	if (ferry_fault_query(NULL, (uintptr_t)p, &info) != 0 || info.reason != FERRY_FAULT_FORKED)
		return 3;
	return 0;
}

static void check_fork(const uint8_t *p)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0)
		_exit(look_in_child(p));
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
}

static void body_fork(void)
{
	struct ferry *ferry = open_guarded();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	void *adopted = NULL;

	CHECK_INT(posix_memalign(&adopted, FERRYT_PAGE, LEN), 0);
	ferryt_fill(adopted, PAGES, 2);
	CHECK_INT(ferry_adopt(ferry, adopted, LEN, 0), 0);
	ferryt_fill_away(ferry, p, PAGES, 1);
	ferryt_verify(p, 0, 10, 1);
	check_fork(p);		 /* resident */
	check_fork(p + LEN / 2); /* away */
	check_fork(p + LEN - 1); /* the last byte */
	check_fork((uint8_t *)adopted + LEN / 2);
	ferryt_verify(p, 0, PAGES, 1);
	ferryt_verify(adopted, 0, PAGES, 2);
	/* and goes on: pages that were resident during the fork can leave */
	ferryt_fill_away(ferry, p, PAGES, 3);
	ferryt_verify(p, 0, PAGES, 3);
	/* given up, memory is inherited as ever */
	CHECK_INT(ferry_unadopt(ferry, adopted, LEN), 0);
	pid_t pid = fork();

	if (pid == 0) {
		ferryt_verify(adopted, 0, PAGES, 2);
		_exit(0);
	}
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_guard__pages_away__sigbus_in_the_child_and_parent_whole(void **state)
{
	(void)state;
	RUN(body_fork);
}

static void body_write_in_child(void)
{
	struct ferry *ferry = open_guarded();
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 4);
	pid_t pid = fork();

	if (pid == 0) {
		p[123] = 1;
		_exit(0);
	}
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 128 + SIGBUS);
	ferryt_verify(p, 0, PAGES, 4);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_guard__child_writes__dies_of_sigbus(void **state)
{
	(void)state;
	RUN(body_write_in_child);
}

static void body_calls_in_child(void)
{
	struct ferry *ferry = open_guarded();
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, 5);
	pid_t pid = fork();

	if (pid == 0) {
		/* The child may open anew, and its own memory works. */
		struct ferry_config cfg = ferryt_config(FERRYT_BUDGET);
		struct ferry *mine = NULL;
		uint8_t byte;

		CHECK_INT(ferry_open(&cfg, &mine), 0);
		uint8_t *q = ferryt_mmap(mine, LEN);

		ferryt_fill(q, PAGES, 6);
		ferryt_verify(q, 0, PAGES, 6);
		CHECK(ferryt_touch(p, &byte) != 0);
		CHECK_INT(ferry_close(mine), 0);
		ferryt_verify(q, 0, PAGES, 6);
		_exit(0);
	}
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
	ferryt_verify(p, 0, PAGES, 5);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_guard__child_opens_anew__works_beside_the_parent(void **state)
{
	(void)state;
	RUN(body_calls_in_child);
}

static void check_raw_clone(const volatile uint8_t *p)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

	CHECK(pid >= 0);
	if (pid == 0) /* no atfork handler ran, so no library call here */
		syscall(SYS_exit_group, *p == 0 ? 1 : 2);
	int rc = ferryt_wait_child(pid, FERRYT_BODY_MS);

	CHECK(rc == 128 + SIGSEGV || rc == 128 + SIGBUS);
}

static void body_raw_clone(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 7);
	check_raw_clone(p);
	ferryt_verify(p, 0, 10, 7);
	check_raw_clone(p);
	ferryt_verify(p, 0, PAGES, 7);
	CHECK_INT(ferry_close(ferry), 0);
}

static void raw_clone__child_touches__signal_never_zeros(void **state)
{
	(void)state;
	RUN(body_raw_clone);
}

static void body_programs(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	char *const args[] = {(char *)"true", NULL};
	pid_t pid;

	ferryt_fill_away(ferry, p, PAGES, 8);
	for (unsigned i = 0; i < 5; i++) {
		CHECK_INT(system("true"), 0);
		CHECK_INT(posix_spawn(&pid, "/bin/true", NULL, NULL, args, environ), 0);
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
		pid = vfork();
		if (pid == 0) {
			execv("/bin/true", args);
			_exit(9);
		}
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
		pid = fork();
		if (pid == 0) {
			execv("/bin/true", args);
			_exit(9);
		}
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS), 0);
	}
	ferryt_verify(p, 0, PAGES, 8);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 8);
}

static void programs__system_spawn_vfork__parent_whole(void **state)
{
	(void)state;
	RUN(body_programs);
}

/* ---- under load ---- */

static _Atomic bool stop;

struct worker {
	uint8_t *p;
	uint64_t seed;
};

/* Rewrites and checks its part for as long as it may. */
static void *work(void *arg)
{
	struct worker *w = arg;
	const size_t pages = 2048;

	for (uint64_t round = 0; !atomic_load(&stop) || round < 2; round++) {
		ferryt_fill(w->p, pages, w->seed + round);
		ferryt_verify(w->p, 0, pages, w->seed + round);
	}
	return NULL;
}

static void body_fork_under_load(void)
{
	enum { THREADS = 3 };
	struct ferry *ferry = open_guarded();
	uint8_t *p = ferryt_mmap(ferry, (THREADS + 1) * 8 * FERRYT_MIB);
	pthread_t thread[THREADS];
	struct worker w[THREADS];

	ferryt_fill(p, 2048, 9);
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct worker){p + (i + 1) * 8 * FERRYT_MIB, 1000 * (i + 1)};
		CHECK_INT(pthread_create(&thread[i], NULL, work, &w[i]), 0);
	}
	for (unsigned i = 0; i < 20; i++)
		check_fork(p + (i * 97 % 2048) * FERRYT_PAGE);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		CHECK_INT(pthread_join(thread[i], NULL), 0);
	ferryt_verify(p, 0, 2048, 9);
	struct ferry_stats s = ferryt_stats(ferry);

	CHECK(s.peak_resident_bytes <= FERRYT_BUDGET);
	CHECK(s.pages_evicted > 2048);
	CHECK_INT(s.faults_poisoned, 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_guard__twenty_times_under_eviction__all_whole(void **state)
{
	(void)state;
	RUN(body_fork_under_load);
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
		cmocka_unit_test(fork_guard__pages_away__sigbus_in_the_child_and_parent_whole),
		cmocka_unit_test(fork_guard__child_writes__dies_of_sigbus),
		cmocka_unit_test(fork_guard__child_opens_anew__works_beside_the_parent),
		cmocka_unit_test(raw_clone__child_touches__signal_never_zeros),
		cmocka_unit_test(programs__system_spawn_vfork__parent_whole),
		cmocka_unit_test(fork_guard__twenty_times_under_eviction__all_whole),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
