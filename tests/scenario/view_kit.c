/* See view_kit.h. */
#include "view_kit.h"

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"

struct ferryt_shared *ferryt_shared;

void ferryt_reach(int stage)
{
	atomic_store(&ferryt_shared->stage, stage);
}

void ferryt_await(int stage)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_AWAIT_MS);

	while (atomic_load(&ferryt_shared->stage) < stage) {
		CHECK(ferryi_now_ns() < deadline_ns);
		sched_yield();
	}
}

pid_t ferryt_spawn(void (*body)(void))
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS };

	fflush(NULL);
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		signal(signals[i], SIG_DFL);
	if (getenv("FERRYT_AS_NOBODY") && geteuid() == 0)
		ferryt_become_nobody();
	body();
	fflush(NULL);
	_exit(0);
}

void ferryt_start_over(void)
{
	memset(ferryt_shared, 0, sizeof(*ferryt_shared));
}

void ferryt_run_both(void (*exporter)(void), void (*reader)(void))
{
	ferryt_start_over();
	pid_t e = ferryt_spawn(exporter), r = ferryt_spawn(reader);
	int rc = ferryt_wait_child(r, FERRYT_BODY_MS);

	if (rc)
		kill(e, SIGKILL);
	assert_int_equal(ferryt_wait_child(e, FERRYT_BODY_MS), rc ? 128 + SIGKILL : 0);
	assert_int_equal(rc, 0);
}

static int nothing(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

const struct ferry_mirror_ops ferryt_quiet = { .invalidate = nothing };

struct ferry_mirror ferryt_mirror = { .ops = &ferryt_quiet };

void ferryt_export(struct ferry *ferry, unsigned perms)
{
	CHECK_INT(ferry_mirror_register(&ferryt_mirror, ferry), 0);
	CHECK_INT(ferry_mirror_export(&ferryt_mirror, FERRYT_VIEW_NAME, perms), 0);
}

struct ferry_mirror_view *ferryt_open_view(struct ferry *ferry)
{
	struct ferry_mirror_view *view = NULL;

	CHECK_INT(ferry_mirror_open(ferry, FERRYT_VIEW_NAME, &view), 0);
	return view;
}

bool ferryt_one_sided(void)
{
	return strcmp(ferryt_row(), "local") != 0;
}

void ferryt_end(struct ferry *ferry)
{
	CHECK_INT(ferry_mirror_unregister(&ferryt_mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

int ferryt_view_main(int argc, char **argv, const struct CMUnitTest *tests, size_t ntests)
{
	/* A stopped exporter's session is to outlive the stop, however slow the machine. */
	static const char *const args[] = { "--pool", "name=big,size=640M,backing=memfd,reserve=no", "--timeout", "600s",
					    "--max-exports", "2", "--max-views", "3", NULL };
	int rc = ferryt_needs_uffd();

	if (rc || argc < 2)
		return rc ? rc : 2;
	if (argc > 2)
		cmocka_set_test_filter(argv[2]);
	ferryt_shared = mmap(NULL, sizeof(*ferryt_shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ferryt_shared == MAP_FAILED)
		return 1;
	ferryt_server_start_with(argv[1], args);
	rc = _cmocka_run_group_tests(argv[1], tests, ntests, NULL, NULL);
	ferryt_server_end();
	return rc;
}
