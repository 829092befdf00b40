/*
 * Processes that end in every way while pages are away and threads use them:
 * nobody, to the last moment, reads a zero in their place. What the library's
 * own threads are to signals, and what is left when one of them crashes.
 * argv[1]: the fabric row.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
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
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "exits_open.h"
#include "fork_kit.h"

#define READERS	 3u
#define ENOUGH	 150u /* pages that each has read before the end comes */
#define ROUNDS	 3u
#define AWAIT_MS (FERRYT_BODY_MS / 4)

/* What the ending process has seen; its parent's too. */
static struct seen {
	_Atomic unsigned pages[READERS];
	_Atomic unsigned wrong; /* pages with other data than they should have */
	char thread[16];        /* that crashed */
} *seen;

struct reader {
	unsigned number;
	const uint8_t *pages;
};

static void *read_on(void *arg)
{
	const struct reader *r = arg;
	uint8_t page[FERRYT_PAGE];

	for (size_t i = r->number * 997;; i = (i * 5 + 1) % PAGES) {
		ferryt_fill_page(page, 1, i);
		if (memcmp(r->pages + i * FERRYT_PAGE, page, FERRYT_PAGE) != 0)
			atomic_fetch_add(&seen->wrong, 1);
		atomic_fetch_add(&seen->pages[r->number], 1);
	}
	return NULL;
}

static bool all_read(void)
{
	for (unsigned i = 0; i < READERS; i++) {
		if (atomic_load(&seen->pages[i]) < ENOUGH)
			return false;
	}
	return true;
}

/* Most pages are away, and threads read them all the time from here on. */
static struct ferry *open_busy(uint8_t **p)
{
	static struct reader reader[READERS];
	uint64_t deadline_ns = ferryi_deadline_ms(AWAIT_MS);
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	pthread_t thread;

	*p = ferryt_mmap(ferry, LEN);
	ferryt_fill(*p, PAGES, 1);
	for (unsigned i = 0; i < READERS; i++) {
		reader[i] = (struct reader){.number = i, .pages = *p};
		CHECK_INT(pthread_create(&thread, NULL, read_on, &reader[i]), 0);
	}
	while (!all_read()) {
		CHECK(ferryi_now_ns() < deadline_ns);
		poll(NULL, 0, 1);
	}
	return ferry;
}

/* ---- ends ---- */

static void by_signal(void)
{
	raise(SIGSEGV);
}

static void by_kill(void)
{
	kill(getpid(), SIGKILL);
}

static void by_exit(void)
{
	FERRYT_EXITS_OPEN();
	exit(3);
}

static void by_exit_at_once(void)
{
	_exit(4);
}

static void by_exec(void)
{
	char *const args[] = {(char *)"true", NULL};

	execv("/bin/true", args);
}

/* All descriptors are gone, the userfaultfd's too: the next fault must not be answered with zeros, nor wait for ever. */
static void by_closing_all(void)
{
	closefrom(STDERR_FILENO + 1);
	for (;;)
		pause();
}

static const struct {
	void (*end)(void);
	int status;
} ends[] = {
	{by_signal, 128 + SIGSEGV}, {abort, 128 + SIGABRT}, {by_kill, 128 + SIGKILL},
	{by_exit, 3},		    {by_exit_at_once, 4},   {by_exec, 0},
	{by_closing_all, 128 + SIGABRT},
};

static void look_again(void)
{
	memset(seen, 0, sizeof(*seen));
}

static void body_ends(void)
{
	for (unsigned i = 0; i < ROUNDS * sizeof(ends) / sizeof(ends[0]); i++) {
		look_again();
		pid_t pid = fork();

		if (pid == 0) {
			uint8_t *p;

			signal(SIGSEGV, SIG_DFL); /* a sanitizer has its own idea of it */
			signal(SIGABRT, SIG_DFL);
			open_busy(&p);
			ends[i / ROUNDS].end();
			_exit(9);
		}
		CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), ends[i / ROUNDS].status);
		CHECK(all_read());
		CHECK_INT(atomic_load(&seen->wrong), 0);
	}
}

static void crash__threads_read_away_pages__never_zeros_to_the_end(void **state)
{
	(void)state;
	RUN(body_ends);
}

/* ---- the library's own threads ---- */

static bool is_ours(const char *tid)
{
	char path[300], name[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%s/comm", tid);
	f = fopen(path, "re");
	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	return strncmp(name, "ferry-", 6) == 0;
}

static void on_any(int sig)
{
	(void)sig;
	_exit(7); /* in whichever thread: no library thread may run the application's handlers */
}

static void body_signals(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);
	DIR *dir = opendir("/proc/self/task");
	const struct dirent *entry;
	unsigned nr = 0;

	CHECK(dir);
	ferryt_fill(p, PAGES, 2);
	for (int sig = 1; sig < 32; sig++)
		signal(sig, sig % 2 ? on_any : SIG_DFL);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !is_ours(entry->d_name))
			continue;
		nr++;
		for (int sig = 1; sig < 32; sig++) {
			if (sig != SIGKILL && sig != SIGSTOP)
				CHECK_INT(syscall(SYS_tgkill, getpid(), atoi(entry->d_name), sig), 0);
		}
	}
	closedir(dir);
	CHECK(nr >= 3);
	ferryt_verify(p, 0, PAGES, 2);
	ferryt_fill(p, PAGES, 3);
	ferryt_verify(p, 0, PAGES, 3);
	CHECK_INT(ferry_close(ferry), 0);
	ferryt_verify(p, 0, PAGES, 3);
}

static void library_threads__every_signal_sent_to_them__serve_on(void **state)
{
	(void)state;
	RUN(body_signals);
}

static _Atomic bool armed;
static volatile char *no_access;

static int crash(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	if (atomic_exchange(&armed, false)) {
		prctl(PR_GET_NAME, seen->thread);
		*no_access = 1;
	}
	return 0;
}

/* In a child of the process that has crashed: an heir has each page for it, or, of an embedded server, it raises SIGBUS. */
static void look_after_crash(const uint8_t *p, struct talk *t)
{
	unsigned lost = 0;
	uint8_t byte;

	hear(t->to_child);
	for (size_t i = 0; i < PAGES; i++) {
		int rc = ferryt_touch(p + i * FERRYT_PAGE, &byte);

		CHECK(rc == 0 || rc == SIGBUS);
		lost += rc != 0;
		if (!rc)
			ferryt_verify(p + i * FERRYT_PAGE, i, 1, 1);
	}
	if (strcmp(ferryt_row(), "embedded"))
		CHECK_INT(lost, 0);
	else
		CHECK(lost > PAGES / 2);
	say(t->to_parent);
	_exit(0);
}

static void body_thread_crashes(void)
{
	static const struct ferry_mirror_ops ops = {.invalidate = crash};
	static struct ferry_mirror mirror = {.ops = &ops};
	struct talk t = talk_open();

	look_again();
	no_access = mmap(NULL, FERRYT_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(no_access != MAP_FAILED);
	pid_t pid = fork();

	if (pid == 0) {
		uint8_t *p;
		struct ferry *ferry = open_busy(&p);

		if (fork() == 0)
			look_after_crash(p, &t);
		signal(SIGSEGV, on_any); /* the application's handler is not for the library's threads */
		CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
		atomic_store(&armed, true);
		for (;;)
			pause();
	}
	CHECK_INT(ferryt_wait_child(pid, FERRYT_BODY_MS / 2), 128 + SIGSEGV); /* all of it, at once */
	CHECK(strncmp(seen->thread, "ferry-", 6) == 0);
	CHECK_INT(atomic_load(&seen->wrong), 0);
	say(t.to_child);
	hear(t.to_parent);
}

static void library_thread__crashes__process_dies_and_nobody_sees_zeros(void **state)
{
	(void)state;
	RUN(body_thread_crashes);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crash__threads_read_away_pages__never_zeros_to_the_end),
		cmocka_unit_test(library_threads__every_signal_sent_to_them__serve_on),
		cmocka_unit_test(library_thread__crashes__process_dies_and_nobody_sees_zeros),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seen == MAP_FAILED)
		return 1;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
