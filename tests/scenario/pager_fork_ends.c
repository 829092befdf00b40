/*
 * fork with pages away: how children and parents end, and what is left of them. FERRY_FORK=copy, the default;
 * pager_fork_copy.c has the data, pager_fork_heir.c parents that are killed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exits_open.h"
#include "fork_kit.h"

static const char *row;

/* ---- forks beside threads that work, in numbers ---- */

static _Atomic bool stop;

static void *refill(void *arg)
{
	uint8_t *p = arg;

	for (uint64_t round = 0; !atomic_load(&stop) || round < 2; round++) {
		ferryt_fill(p, PART, 100 + round);
		ferryt_verify(p, 0, PART, 100 + round);
	}
	return NULL;
}

/* Moves, drops and unmaps managed memory of its own. */
static void *change(void *arg)
{
	struct ferry *ferry = arg;
	const size_t len = 64 * FERRYT_PAGE;

	while (!atomic_load(&stop)) {
		uint8_t *p = ferryt_mmap(ferry, len);

		ferryt_fill(p, 64, 5);
		CHECK_INT(ferry_advise(ferry, p, len, FERRY_ADVICE_COLD), 0);
		uint8_t *to = ferryt_mmap(ferry, len);

		p = mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		CHECK(p == to);
		ferryt_verify(p, 0, 64, 5);
		CHECK_INT(madvise(p, len, MADV_DONTNEED), 0);
		ferryt_verify_zero(p, 64);
		CHECK_INT(munmap(p, len), 0);
	}
	return NULL;
}

/* The parent has a userfaultfd of each child. Other descriptors come and go with connections. */
static bool is_of_child(int fd)
{
	char name[32], link[64] = "";

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	return readlink(name, link, sizeof(link) - 1) > 0 && strstr(link, "[userfaultfd]");
}

static unsigned count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;
	unsigned n = 0;

	CHECK(dir != NULL);
	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.' && is_of_child(atoi(entry->d_name));
	closedir(dir);
	return n;
}

/* Children that end in every way, each having looked at some pages or none. */
static void end_somehow(uint8_t *p, unsigned i)
{
	char *const args[] = {(char *)"true", NULL};

	if (i % 2)
		ferryt_verify(p + i * 16 * FERRYT_PAGE, i * 16, 32, 15);
	switch (i % 4) {
	case 0:
		execv("/bin/true", args);
		_exit(9);
	case 1:
		raise(SIGKILL);
		_exit(9);
	default:
		_exit(0);
	}
}

/* Records of ended children go by themselves, soon. */
static void wait_for_fds(unsigned want)
{
	for (unsigned i = 0; i < 30000 && count_fds() != want; i++)
		poll(NULL, 0, 1);
	CHECK_INT(count_fds(), want);
}

static void body_many(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN), *q = ferryt_mmap(ferry, PART * FERRYT_PAGE);
	pthread_t thread[2];

	ferryt_fill(p, PAGES, 15);
	unsigned fds = count_fds();

	CHECK_INT(pthread_create(&thread[0], NULL, refill, q), 0);
	CHECK_INT(pthread_create(&thread[1], NULL, change, ferry), 0);
	for (unsigned i = 0; i < 50; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (pid == 0)
			end_somehow(p, i);
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), i % 4 == 1 ? 128 + SIGKILL : 0);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		CHECK_INT(pthread_join(thread[i], NULL), 0);
	ferryt_verify(p, 0, PAGES, 15);
	CHECK(ferryt_stats(ferry).peak_resident_bytes <= FERRYT_BUDGET);
	CHECK_INT(ferryt_stats(ferry).faults_poisoned, 0);
	wait_for_fds(fds);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__fifty_that_exec_exit_die__parent_whole_nothing_leaked(void **state)
{
	(void)state;
	RUN(body_many);
}

/* Memory that only children held goes back: the pool has room for the range once, not twice. */
static void body_room(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	const size_t len = 400 * FERRYT_MIB;
	struct talk t = talk_open();
	uint8_t *p = ferryt_mmap(ferry, len);

	ferryt_fill(p, PAGES, 16);
	pid_t pid = fork();

	if (pid == 0) {
		hear(t.to_child);
		_exit(0);
	}
	CHECK_INT(ferry_munmap(ferry, p, len), 0);
	say(t.to_child);
	end_well(pid);
	for (unsigned i = 0; i < 10000 && p; i++) {
		void *again = ferry_mmap(ferry, NULL, 620 * FERRYT_MIB, PROT_READ | PROT_WRITE, 0);

		if (again != MAP_FAILED)
			p = NULL;
		else
			poll(NULL, 0, 1);
	}
	CHECK(p == NULL);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__child_ends__its_pool_memory_is_free_again(void **state)
{
	(void)state;
	if (strcmp(row, "local") != 0) /* the pool's size is this server's */
		skip();
	RUN(body_room);
}

/* ---- ends ---- */

/* exit(3), as a program does that goes on in its child. */
static void body_parent_exits(void)
{
	struct talk t = talk_open();
	pid_t parent = fork();

	if (parent == 0) {
		struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
		uint8_t *p = ferryt_mmap(ferry, LEN), *fresh = ferryt_mmap(ferry, FERRYT_PAGE);

		ferryt_fill(p, PAGES, 19);
		if (fork() == 0) {
			hear(t.to_child);
			ferryt_verify(p, 0, PAGES, 19);
			ferryt_verify_zero(fresh, 1);
			say(t.to_parent);
			_exit(0);
		}
		FERRYT_EXITS_OPEN();
		exit(7);
	}
	CHECK_INT(ferryt_wait_child(parent, FERRYT_BODY_MS / 2), 7);
	say(t.to_child);
	hear(t.to_parent);
}

static void fork_copy__parent_exits__child_has_everything(void **state)
{
	(void)state;
	RUN(body_parent_exits);
}

static void body_grandchild(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill_away(ferry, p, PAGES, 18);
	pid_t pid = fork();

	if (pid == 0) {
		pid_t grandchild = fork();
		uint8_t byte;

		if (grandchild == 0)
			_exit(ferryt_touch(p, &byte) == SIGBUS && ferryt_touch(p + LEN / 2, &byte) == SIGBUS ? 0 : 1);
		end_well(grandchild);
		ferryt_verify(p, 0, PAGES, 18);
		_exit(0);
	}
	end_well(pid);
	ferryt_verify(p, 0, PAGES, 18);
	CHECK_INT(ferry_close(ferry), 0);
}

static void fork_copy__childs_child__sigbus_and_the_others_whole(void **state)
{
	(void)state;
	RUN(body_grandchild);
}

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
		cmocka_unit_test(fork_copy__fifty_that_exec_exit_die__parent_whole_nothing_leaked),
		cmocka_unit_test(fork_copy__child_ends__its_pool_memory_is_free_again),
		cmocka_unit_test(fork_copy__parent_exits__child_has_everything),
		cmocka_unit_test(fork_copy__childs_child__sigbus_and_the_others_whole),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
