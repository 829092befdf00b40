/*
 * fork with pages away, and a parent that is killed: the child's heir (ferry-heir) has its pages from the server. How
 * the heir itself can be missing, late or killed, and what then is left: SIGBUS, never zeros, never a hang.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "fork_kit.h"

#define SEED 17

static const char *row;

/* ---- the processes ---- */

/* Shared by all processes of a test. */
static struct shared {
	_Atomic unsigned sigbus, seen; /* pages that a child found so */
} *shared;

/* In a process of its own, which `then` ends: pages away, and a child for each of `child`. Returns its pid. */
static pid_t start_parent(struct talk *t, unsigned nr, void (*child)(uint8_t *p, struct talk *t), void (*then)(uint8_t *p))
{
	pid_t parent = fork();

	if (parent)
		return parent;
	CHECK_INT(prctl(PR_SET_PDEATHSIG, SIGKILL), 0); /* a test that fails leaves nothing behind */
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
	uint8_t *p = ferryt_mmap(ferry, LEN);

	ferryt_fill(p, PAGES, SEED);
	for (unsigned i = 0; i < nr; i++) {
		if (fork() == 0) {
			child(p, t);
			say(t->to_parent);
			_exit(0);
		}
	}
	say(t->to_parent);
	then(p);
	_exit(9);
}

static void rest(uint8_t *p)
{
	(void)p;
	for (;;)
		pause();
}

static void end_parent(pid_t parent)
{
	CHECK_INT(kill(parent, SIGKILL), 0);
	CHECK_INT(ferryt_wait_child(parent, FERRYT_BODY_MS / 2), 128 + SIGKILL);
}

/* Those that look for the heir's process. */
#define NEEDS_ROOT()                                               \
	do {                                                       \
		if (getenv("FERRYT_AS_NOBODY") || geteuid() != 0) \
			skip();                                    \
	} while (0)

/* ---- what a child finds ---- */

static void expect_all(uint8_t *p, struct talk *t)
{
	hear(t->to_child);
	ferryt_verify(p, 0, PAGES, SEED);
}

/* Each page is right, or raises SIGBUS, which ferry_fault_query explains. */
static void expect_right_or_sigbus(uint8_t *p, struct talk *t)
{
	struct ferry_fault_info info = {.size = sizeof(info)};
	uint8_t byte;

	hear(t->to_child);
	for (size_t i = 0; i < PAGES; i++) {
		const uint8_t *page = p + i * FERRYT_PAGE;
		int rc = ferryt_touch(page, &byte);

		atomic_fetch_add(&shared->seen, 1);
		if (rc == 0) {
			ferryt_verify(page, i, 1, SEED);
			continue;
		}
		CHECK_INT(rc, SIGBUS);
		CHECK_INT(ferry_fault_query(NULL, (uintptr_t)page, &info), 0);
		CHECK_INT(info.reason, FERRY_FAULT_FORKED);
		atomic_fetch_add(&shared->sigbus, 1);
	}
}

static void start_counting(void)
{
	atomic_store(&shared->seen, 0);
	atomic_store(&shared->sigbus, 0);
}

/* All of it was looked at; most was lost. */
static void expect_lost(void)
{
	CHECK_INT(atomic_load(&shared->seen), PAGES);
	CHECK(atomic_load(&shared->sigbus) > PAGES / 2);
}

/* ---- the server's view ---- */

/* All of the pool is free, within that time. */
static bool is_free_within(uint64_t timeout_ms)
{
	const struct ferryi_control_attr attr = {.token = ferryt_server()->token};
	uint64_t deadline_ns = ferryi_deadline_ms(timeout_ms);
	struct ferryi_pool_info info[4];
	struct ferryi_control *control;
	struct ferryi_session *session;
	bool is_free = false;

	CHECK_INT(ferryi_control_open(&attr, &control), 0);
	CHECK_INT(ferryi_session_open(control, ferryt_server_url(), &session), 0);
	do {
		int n = ferryi_session_pools(session, info, 4);

		is_free = n > 0;
		for (int i = 0; i < n && i < 4; i++)
			is_free = is_free && info[i].free_bytes == info[i].size_bytes;
	} while (!is_free && ferryi_now_ns() < deadline_ns && poll(NULL, 0, 1) == 0);
	ferryi_session_close(&session);
	ferryi_control_close(&control);
	return is_free;
}

/* ---- the heir as a process ---- */

static bool is_heir_of(const char *pid_text, pid_t parent)
{
	char name[64], line[64];
	int of = 0;

	snprintf(name, sizeof(name), "/proc/%.16s/comm", pid_text);
	FILE *f = fopen(name, "re");

	if (!f || !fgets(line, sizeof(line), f) || strcmp(line, "ferry-heir\n") != 0)
		line[0] = '\0';
	if (f)
		fclose(f);
	if (!line[0])
		return false;
	snprintf(name, sizeof(name), "/proc/%.16s/fdinfo/4", pid_text);
	f = fopen(name, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Pid: %d", &of) == 1)
			break;
	}
	if (f)
		fclose(f);
	return of == parent;
}

/* By the pidfd of its parent that it has; 0: there is none. Root's view: its secrets are no other user's. */
static pid_t find_heir(pid_t parent)
{
	DIR *dir = opendir("/proc");
	const struct dirent *entry;
	pid_t found = 0;

	CHECK(dir != NULL);
	while (!found && (entry = readdir(dir))) {
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && is_heir_of(entry->d_name, parent))
			found = (pid_t)atoi(entry->d_name);
	}
	closedir(dir);
	return found;
}

/* Gone, or a zombie that its new parent has not reaped. */
static bool has_ended_within(pid_t pid, uint64_t timeout_ms)
{
	uint64_t deadline_ns = ferryi_deadline_ms(timeout_ms);
	char name[32], text[256], state;

	snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
	for (;;) {
		FILE *f = fopen(name, "re");
		bool ended = !f || !fgets(text, sizeof(text), f) || !strrchr(text, ')') ||
			     sscanf(strrchr(text, ')'), ") %c", &state) != 1 || state == 'Z' || state == 'X';

		if (f)
			fclose(f);
		if (ended || ferryi_now_ns() >= deadline_ns)
			return ended;
		poll(NULL, 0, 1);
	}
}

/* ---- a parent that dies ---- */

static void body_killed(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_all, rest);

	hear(t.to_parent);
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__parent_killed__child_has_every_byte(void **state)
{
	(void)state;
	RUN(body_killed);
}

static void leave(uint8_t *p)
{
	(void)p;
	_exit(7);
}

static void body_exit(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_all, leave);

	CHECK_INT(ferryt_wait_child(parent, FERRYT_BODY_MS / 2), 7);
	say(t.to_child);
	hear(t.to_parent);
	hear(t.to_parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__parent_calls__exit__child_has_every_byte(void **state)
{
	(void)state;
	RUN(body_exit);
}

static void become_cat(uint8_t *p)
{
	(void)p;
	execl("/bin/cat", "cat", "/dev/stdin", (char *)NULL);
}

/* Its process goes on, as another program. */
static void body_exec(void)
{
	struct talk t = talk_open();
	int keep[2];

	CHECK_INT(pipe(keep), 0);
	CHECK_INT(dup2(keep[0], 0), 0);
	CHECK_INT(fcntl(keep[1], F_SETFD, FD_CLOEXEC), 0);
	pid_t parent = start_parent(&t, 1, expect_all, become_cat);

	hear(t.to_parent);
	say(t.to_child);
	hear(t.to_parent);
	CHECK_INT(waitpid(parent, NULL, WNOHANG), 0);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
	end_parent(parent);
}

static void heir__parent_execs__child_has_every_byte(void **state)
{
	(void)state;
	RUN(body_exec);
}

static void expect_all_at_once(uint8_t *p, struct talk *t)
{
	(void)t;
	ferryt_verify(p, 0, PAGES, SEED);
}

static void stop_self(uint8_t *p)
{
	(void)p;
	kill(getpid(), SIGSTOP);
}

/* A fault waits for the stopped parent when that is killed. */
static void body_killed_in_a_fault(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_all_at_once, stop_self);
	siginfo_t info;

	CHECK_INT(waitid(P_PID, (id_t)parent, &info, WSTOPPED), 0);
	end_parent(parent);
	hear(t.to_parent);
	hear(t.to_parent);
}

static void heir__parent_killed_in_a_fault__it_is_answered(void **state)
{
	(void)state;
	RUN(body_killed_in_a_fault);
}

/* The parent overwrites what the child needs, all the time. */
static void *refill(void *arg)
{
	for (uint64_t round = 0;; round++)
		ferryt_fill(arg, PAGES, 100 + round);
	return NULL;
}

static void overwrite(uint8_t *p)
{
	pthread_t thread;

	CHECK_INT(pthread_create(&thread, NULL, refill, p), 0);
	rest(p);
}

/* Drops pages all the time, so that the parent reads events as it dies; then looks at the others. */
static void drop_and_expect(uint8_t *p, struct talk *t)
{
	struct pollfd pfd = {.fd = t->to_child[0], .events = POLLIN};
	size_t i = 0;

	while (poll(&pfd, 1, 0) == 0) {
		uint8_t *page = p + (i++ % (PAGES / 4)) * 4 * FERRYT_PAGE;

		CHECK_INT(madvise(page, FERRYT_PAGE, MADV_DONTNEED), 0);
		ferryt_verify_zero(page, 1);
	}
	hear(t->to_child);
	for (size_t k = 0; k < PAGES; k++) {
		if (k % 4)
			ferryt_verify(p + k * FERRYT_PAGE, k, 1, SEED);
		else if (k / 4 < i)
			ferryt_verify_zero(p + k * FERRYT_PAGE, 1);
		else
			ferryt_verify(p + k * FERRYT_PAGE, k, 1, SEED);
	}
}

/* At moments that nobody has chosen: in the middle of a save, of an event, of an answer. */
static void body_killed_at_work(void)
{
	for (unsigned i = 0; i < 6; i++) {
		struct talk t = talk_open();
		pid_t parent = start_parent(&t, 1, drop_and_expect, overwrite);

		hear(t.to_parent);
		poll(NULL, 0, (int)(7 * i)); /* no wait for anything: any moment will do */
		end_parent(parent);
		say(t.to_child);
		hear(t.to_parent);
		for (unsigned k = 0; k < 2; k++) {
			close(t.to_child[k]);
			close(t.to_parent[k]);
		}
	}
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__parent_killed_while_it_overwrites__child_sees_the_old(void **state)
{
	(void)state;
	RUN(body_killed_at_work);
}

/* What the child did before and does after: its own content, dropped pages, moved pages. */
static void change_and_expect(uint8_t *p, struct talk *t)
{
	const size_t part = LEN / 4, n = PAGES / 4;
	uint8_t *to = mmap(NULL, 2 * part, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(to != MAP_FAILED);
	ferryt_fill(p, n / 2, 5);                                                        /* its own */
	CHECK_INT(madvise(p + part / 2, part / 2, MADV_DONTNEED), 0);                     /* dropped */
	CHECK(mremap(p + part, part, part, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);     /* moved before */
	say(t->to_parent);
	hear(t->to_child);
	CHECK(mremap(p + 2 * part, part, part, MREMAP_MAYMOVE | MREMAP_FIXED, to + part) == to + part); /* and after */
	CHECK_INT(madvise(p + 3 * part, part / 2, MADV_DONTNEED), 0);
	ferryt_verify(p, 0, n / 2, 5);
	ferryt_verify_zero(p + part / 2, n / 2);
	ferryt_verify(to, n, n, SEED);
	ferryt_verify(to + part, 2 * n, n, SEED);
	ferryt_verify_zero(p + 3 * part, n / 2);
	ferryt_verify(p + 3 * part + part / 2, 3 * n + n / 2, n / 2, SEED);
}

static void body_changed(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, change_and_expect, rest);

	hear(t.to_parent);
	hear(t.to_parent);
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
}

static void heir__child_changed_its_memory__sees_that(void **state)
{
	(void)state;
	RUN(body_changed);
}

static void body_several(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 3, expect_all, rest);

	hear(t.to_parent);
	end_parent(parent);
	for (unsigned i = 0; i < 3; i++)
		say(t.to_child);
	for (unsigned i = 0; i < 3; i++)
		hear(t.to_parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__several_children__each_has_every_byte(void **state)
{
	(void)state;
	RUN(body_several);
}

/* Children come and end, so that the heir rests and stands by again; the last one needs it. */
static void body_again(void)
{
	struct talk t = talk_open();
	pid_t parent = fork();

	if (parent == 0) {
		CHECK_INT(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
		struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
		uint8_t *p = ferryt_mmap(ferry, LEN);

		ferryt_fill(p, PAGES, SEED);
		for (unsigned i = 0; i < 20; i++) {
			pid_t pid = fork();

			if (pid == 0)
				_exit(0);
			end_well(pid);
			ferryt_verify(p, 0, PAGES / 8, SEED); /* the parent's thread for its children has a moment */
		}
		if (fork() == 0) {
			expect_all(p, &t);
			say(t.to_parent);
			_exit(0);
		}
		say(t.to_parent);
		rest(p);
	}
	hear(t.to_parent);
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__children_came_and_ended__the_last_has_every_byte(void **state)
{
	(void)state;
	RUN(body_again);
}

/* ---- when it ends ---- */

static void just_exit(uint8_t *p, struct talk *t)
{
	(void)p;
	hear(t->to_child);
}

/* Children that need nothing any more keep nothing. */
static void body_unused(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, just_exit, rest), heir;

	hear(t.to_parent);
	heir = find_heir(parent);
	CHECK(heir != 0);
	end_parent(parent);
	CHECK(!has_ended_within(heir, 0));
	CHECK(!is_free_within(0));
	say(t.to_child);
	hear(t.to_parent);
	CHECK(has_ended_within(heir, FERRYT_BODY_MS / 2));
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__child_exits__memory_is_free_again(void **state)
{
	(void)state;
	NEEDS_ROOT();
	RUN(body_unused);
}

static void body_close(void)
{
	struct talk t = talk_open();
	pid_t parent = fork();

	if (parent == 0) {
		struct ferry *ferry = ferryt_open(FERRYT_BUDGET);
		uint8_t *p = ferryt_mmap(ferry, LEN);

		ferryt_fill(p, PAGES, SEED);
		if (fork() == 0) {
			expect_all(p, &t);
			say(t.to_parent);
			_exit(0);
		}
		pid_t heir = find_heir(getpid());

		CHECK(heir != 0);
		CHECK_INT(ferry_close(ferry), 0);
		CHECK(has_ended_within(heir, FERRYT_BODY_MS / 2));
		/* It was never a child of this program: the one that there is lives. */
		CHECK_INT(waitpid(-1, NULL, WNOHANG), 0);
		_exit(0);
	}
	end_well(parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
	say(t.to_child);
	hear(t.to_parent);
}

static void heir__parent_closes__it_ends(void **state)
{
	(void)state;
	NEEDS_ROOT();
	RUN(body_close);
}

/* ---- when it cannot ---- */

static void body_heir_killed(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_right_or_sigbus, rest), heir;

	start_counting();
	hear(t.to_parent);
	heir = find_heir(parent);
	CHECK(heir != 0);
	CHECK_INT(kill(heir, SIGKILL), 0);
	CHECK(has_ended_within(heir, FERRYT_BODY_MS / 2));
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
	expect_lost();
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__killed_first__sigbus_never_zeros(void **state)
{
	(void)state;
	NEEDS_ROOT();
	RUN(body_heir_killed);
}

/* It is stopped until the server's patience (--keep 300ms) is over. */
static void body_late(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_right_or_sigbus, rest), heir;

	start_counting();
	hear(t.to_parent);
	heir = find_heir(parent);
	CHECK(heir != 0);
	CHECK_INT(kill(heir, SIGSTOP), 0);
	end_parent(parent);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
	CHECK_INT(kill(heir, SIGCONT), 0);
	say(t.to_child);
	hear(t.to_parent);
	expect_lost();
}

static void heir__comes_too_late__memory_is_free_and_sigbus(void **state)
{
	static const char *const args[] = {"--pool", "name=big,size=640M,backing=memfd,reserve=no", "--keep", "300ms", NULL};

	(void)state;
	NEEDS_ROOT();
	ferryt_server_end();
	ferryt_server_start_with(row, args);
	RUN(body_late);
	ferryt_server_end();
	ferryt_server_start(row);
}

static void body_server_killed(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_right_or_sigbus, rest);

	start_counting();
	hear(t.to_parent);
	end_parent(parent);
	CHECK_INT(kill(ferryt_server()->pid, SIGKILL), 0);
	say(t.to_child);
	hear(t.to_parent);
	CHECK_INT(atomic_load(&shared->seen), PAGES);
	CHECK(atomic_load(&shared->sigbus) > 0);
}

static void heir__server_killed_too__sigbus_never_zeros(void **state)
{
	(void)state;
	RUN(body_server_killed);
	ferryt_server_end();
	ferryt_server_start(row);
}

static unsigned count_of(const char *text, const char *what)
{
	unsigned n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

/* Two forks, one line. */
static void body_no_program(void)
{
	struct talk t = talk_open();
	char text[4096] = "";
	int words[2];

	CHECK_INT(pipe(words), 0);
	CHECK_INT(setenv("FERRY_HEIR", "/nonexistent/ferry-heir", 1), 0);
	int err = dup(2);

	CHECK(dup2(words[1], 2) == 2);
	start_counting();
	pid_t parent = start_parent(&t, 2, expect_right_or_sigbus, rest);

	CHECK(dup2(err, 2) == 2);
	close(words[1]);
	hear(t.to_parent);
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
	expect_lost();
	say(t.to_child);
	hear(t.to_parent);
	for (size_t n = 0; n < sizeof(text) - 1;) { /* until the last child has ended */
		ssize_t got = read(words[0], text + n, sizeof(text) - 1 - n);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	CHECK_INT(count_of(text, "no ferry-heir"), 1);
	CHECK(is_free_within(FERRYT_BODY_MS / 2));
}

static void heir__no_such_program__one_line_and_sigbus(void **state)
{
	(void)state;
	RUN(body_no_program);
}

/* An embedded server dies with its parent: no heir is started, and nothing said. */
static void body_embedded(void)
{
	struct talk t = talk_open();
	pid_t parent = start_parent(&t, 1, expect_right_or_sigbus, rest);

	start_counting();
	hear(t.to_parent);
	CHECK_INT(find_heir(parent), 0);
	end_parent(parent);
	say(t.to_child);
	hear(t.to_parent);
	expect_lost();
}

static void heir__embedded_server__sigbus_never_zeros(void **state)
{
	(void)state;
	if (strcmp(row, "embedded") != 0)
		skip();
	RUN(body_embedded);
}

static int group_setup(void **state)
{
	(void)state;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -1;
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
		cmocka_unit_test(heir__parent_killed__child_has_every_byte),
		cmocka_unit_test(heir__parent_calls__exit__child_has_every_byte),
		cmocka_unit_test(heir__parent_execs__child_has_every_byte),
		cmocka_unit_test(heir__parent_killed_in_a_fault__it_is_answered),
		cmocka_unit_test(heir__parent_killed_while_it_overwrites__child_sees_the_old),
		cmocka_unit_test(heir__child_changed_its_memory__sees_that),
		cmocka_unit_test(heir__several_children__each_has_every_byte),
		cmocka_unit_test(heir__children_came_and_ended__the_last_has_every_byte),
		cmocka_unit_test(heir__child_exits__memory_is_free_again),
		cmocka_unit_test(heir__parent_closes__it_ends),
		cmocka_unit_test(heir__killed_first__sigbus_never_zeros),
		cmocka_unit_test(heir__comes_too_late__memory_is_free_and_sigbus),
		cmocka_unit_test(heir__server_killed_too__sigbus_never_zeros),
		cmocka_unit_test(heir__no_such_program__one_line_and_sigbus),
		cmocka_unit_test(heir__embedded_server__sigbus_never_zeros),
	};
	int rc = ferryt_needs_uffd();

	if (rc)
		return rc;
	row = argc > 1 ? argv[1] : "local";
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
