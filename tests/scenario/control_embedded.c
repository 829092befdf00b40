/* The embedded server: started, used, stopped, missing, broken, orphaned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control_client.h"

#define MIB (1u << 20)

static bool readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	int n;

	do
		n = poll(&pfd, 1, FERRYT_WAIT_MS);
	while (n < 0 && errno == EINTR);
	return n > 0;
}

static int start(uint64_t size_bytes, struct ferryi_embedded **embedded)
{
	int rc = ferryi_embedded_start(size_bytes, ferryi_deadline_ms(FERRYT_WAIT_MS), embedded);

	if (rc < 0)
		print_message("    %s\n", ferryi_control_last_error());
	return rc;
}

static bool is_gone(pid_t pid)
{
	return kill(pid, 0) < 0 && errno == ESRCH;
}

/* The kernel takes a child that nobody waits for out of its table a moment after its end is seen. */
static bool is_gone_soon(pid_t pid)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS);

	while (!is_gone(pid) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, 1);
	return is_gone(pid);
}

static int setup(void **state)
{
	(void)state;
	return setenv("FERRY_FERRYD", FERRYT_FERRYD, 1);
}

static void embedded__used_and_stopped__leaves_nothing(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	struct ferryi_session *session;
	struct ferryi_channel *channel;
	struct ferryi_lease *lease;
	struct ferryt_client client;
	static uint8_t buf[8192];

	(void)state;
	assert_int_equal(start(64 * MIB, &embedded), 0);
	pid_t pid = ferryi_embedded_pid(embedded);

	assert_int_equal(getpgid(pid), pid); /* Ctrl-C is for the program, not for its memory */
	assert_int_equal(
		ferryt_client_open(&client, ferryi_embedded_token(embedded), FERRYT_WAIT_MS, FERRYT_WAIT_MS),
		0);
	assert_int_equal(ferryt_client_session(&client, ferryi_embedded_url(embedded), &session), 0);
	assert_int_equal(ferryi_lease_open(session, NULL, 32 * MIB, &lease), 0);
	assert_string_equal(ferryi_lease_row(lease)->name, "local");
	assert_int_equal(ferryi_lease_pool_size(lease), 64 * MIB);
	assert_int_equal(ferryt_client_channel(lease, buf, sizeof(buf), &channel), 0);
	struct ferryi_op op = {.kind = FERRYI_OP_WRITE,
			       .local = buf,
			       .len_bytes = 4096,
			       .remote = ferryi_lease_extent(lease, 0)->remote,
			       .remote_off = 2 * MIB - 4096};

	memset(buf, 0x77, 4096);
	assert_int_equal(ferryt_client_op(channel, &op), 0);
	op.kind = FERRYI_OP_READ;
	op.local = buf + 4096;
	assert_int_equal(ferryt_client_op(channel, &op), 0);
	assert_memory_equal(buf, buf + 4096, 4096);
	ferryi_channel_close(&channel);
	ferryi_lease_close(&lease);
	ferryi_control_close(&client.control);
	ferryi_embedded_stop(&embedded);
	assert_null(embedded);
	assert_true(is_gone(pid));
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie */
	assert_int_equal(client.states.count, 0);
}

static void embedded__killed__session_lost(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	struct ferryi_session *session;
	struct ferryt_client client;

	(void)state;
	assert_int_equal(start(4 * MIB, &embedded), 0);
	assert_int_equal(
		ferryt_client_open(&client, ferryi_embedded_token(embedded), FERRYT_WAIT_MS, FERRYT_WAIT_MS),
		0);
	assert_int_equal(ferryt_client_session(&client, ferryi_embedded_url(embedded), &session), 0);
	kill(ferryi_embedded_pid(embedded), SIGKILL);
	assert_true(ferryt_gate_wait(&client.states, 1));
	assert_int_equal(ferryi_session_lost_reason(session), FERRYI_LOST_CLOSED);
	ferryi_control_close(&client.control);
	ferryi_embedded_stop(&embedded);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void embedded__application_ignores_sigchld__stops_all_the_same(void **state)
{
	struct ferryi_embedded *embedded = NULL;

	(void)state;
	signal(SIGCHLD, SIG_IGN);
	assert_int_equal(start(4 * MIB, &embedded), 0);
	pid_t pid = ferryi_embedded_pid(embedded);

	ferryi_embedded_stop(&embedded);
	signal(SIGCHLD, SIG_DFL);
	assert_true(is_gone_soon(pid));
}

static void embedded__application_reaps_all__stops_all_the_same(void **state)
{
	struct ferryi_embedded *embedded = NULL;

	(void)state;
	assert_int_equal(start(4 * MIB, &embedded), 0);
	pid_t pid = ferryi_embedded_pid(embedded);

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(-1, NULL, 0), pid);
	ferryi_embedded_stop(&embedded);
}

static void embedded__application_descriptors__not_inherited(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	int fds[2];
	char byte;

	(void)state;
	assert_int_equal(pipe(fds), 0); /* no CLOEXEC, as in many a program */
	assert_int_equal(start(4 * MIB, &embedded), 0);
	close(fds[1]);
	assert_true(readable(fds[0]));
	assert_int_equal(read(fds[0], &byte, 1), 0);
	close(fds[0]);
	ferryi_embedded_stop(&embedded);
}

/* A process that has started a server, and waits to be killed; its server's pid comes through the pipe. */
static pid_t fork_owner(int report[2])
{
	pid_t owner = fork();

	if (owner != 0)
		return owner;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* should the test fail before it kills us */
	struct ferryi_embedded *embedded = NULL;
	pid_t pid = start(4 * MIB, &embedded) == 0 ? ferryi_embedded_pid(embedded) : 0;

	if (write(report[1], &pid, sizeof(pid)) != (ssize_t)sizeof(pid))
		_exit(1);
	for (;;)
		pause();
}

static void embedded__owner_killed__ends(void **state)
{
	int report[2];
	pid_t server = 0;

	(void)state;
	assert_int_equal(pipe2(report, O_CLOEXEC), 0);
	pid_t owner = fork_owner(report);

	assert_true(owner > 0);
	assert_true(readable(report[0]));
	assert_int_equal(read(report[0], &server, sizeof(server)), (ssize_t)sizeof(server));
	assert_true(server > 0);
	int pidfd = (int)syscall(SYS_pidfd_open, server, 0);

	assert_true(pidfd >= 0);
	kill(owner, SIGKILL);
	assert_true(readable(pidfd));
	assert_int_equal(waitpid(owner, NULL, 0), owner);
	close(pidfd);
	close(report[0]);
	close(report[1]);
}

static void embedded__forked_child_of_owner_lives_on__stops_all_the_same(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	int hold[2];
	char byte;

	(void)state;
	assert_int_equal(start(4 * MIB, &embedded), 0);
	int pidfd = (int)syscall(SYS_pidfd_open, ferryi_embedded_pid(embedded), 0);

	assert_true(pidfd >= 0);
	assert_int_equal(pipe(hold), 0);
	pid_t child = fork();

	if (child == 0) {
		close(hold[1]);
		_exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
	}
	uint64_t begin = ferryi_now_ns();

	ferryi_embedded_stop(&embedded);
	/* By its life line, not by force after its time was up. */
	print_message("    stopped after %llu ms\n",
		      (unsigned long long)((ferryi_now_ns() - begin) / FERRYI_NS_PER_MS));
	assert_true(readable(pidfd));
	close(hold[0]);
	close(hold[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(pidfd);
}

/* ---- when it cannot be ---- */

static void embedded_start__no_ferryd__says_where_to_name_it(void **state)
{
	struct ferryi_embedded *embedded = NULL;

	(void)state;
	setenv("FERRY_FERRYD", "/nonexistent/ferryd", 1);
	assert_int_equal(start(4 * MIB, &embedded), -ENOENT);
	assert_non_null(strstr(ferryi_control_last_error(), "FERRY_FERRYD"));
	assert_null(embedded);
}

static void embedded_start__not_named__found_in_build_tree(void **state)
{
	struct ferryi_embedded *embedded = NULL;

	(void)state;
	unsetenv("FERRY_FERRYD");
	assert_int_equal(start(4 * MIB, &embedded), 0);
	ferryi_embedded_stop(&embedded);
}

static void embedded_start__bad_size__invalid(void **state)
{
	struct ferryi_embedded *embedded = NULL;

	(void)state;
	assert_int_equal(start(4 * MIB + 4096, &embedded), -EINVAL);
	assert_int_equal(start(0, &embedded), -EINVAL);
}

/* A program in the place of ferryd. */
static void fake_ferryd(const char *script, char path[64])
{
	snprintf(path, 64, "/tmp/ferryt-ferryd-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, script, strlen(script)), (ssize_t)strlen(script));
	assert_int_equal(fchmod(fd, 0700), 0);
	close(fd);
	setenv("FERRY_FERRYD", path, 1);
}

static void embedded_start__ends_at_once__line_has_its_words(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	char path[64];

	(void)state;
	fake_ferryd("#!/bin/sh\necho first line >&2\necho 'error: no memory for you' >&2\nexit 1\n", path);
	assert_int_equal(start(4 * MIB, &embedded), -ECHILD);
	assert_non_null(strstr(ferryi_control_last_error(), "error: no memory for you"));
	assert_null(strstr(ferryi_control_last_error(), "first line"));
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	unlink(path);
}

static void embedded_start__never_ready__times_out_and_is_gone(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	char path[64];

	(void)state;
	fake_ferryd("#!/bin/sh\nexec tail -f /dev/null\n", path); /* deaf to its life line, too */
	assert_int_equal(ferryi_embedded_start(4 * MIB, ferryi_deadline_ms(200), &embedded), -ETIMEDOUT);
	print_message("    %s\n", ferryi_control_last_error());
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	unlink(path);
}

static void embedded_start__not_a_ferryd__protocol_error(void **state)
{
	struct ferryi_embedded *embedded = NULL;
	char path[64];

	(void)state;
	fake_ferryd("#!/bin/sh\necho 'ready now' >&5\nexec cat <&4\n", path);
	assert_int_equal(start(4 * MIB, &embedded), -EPROTO);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(embedded__used_and_stopped__leaves_nothing, setup),
		cmocka_unit_test_setup(embedded__killed__session_lost, setup),
		cmocka_unit_test_setup(embedded__application_ignores_sigchld__stops_all_the_same, setup),
		cmocka_unit_test_setup(embedded__application_reaps_all__stops_all_the_same, setup),
		cmocka_unit_test_setup(embedded__application_descriptors__not_inherited, setup),
		cmocka_unit_test_setup(embedded__owner_killed__ends, setup),
		cmocka_unit_test_setup(embedded__forked_child_of_owner_lives_on__stops_all_the_same, setup),
		cmocka_unit_test_setup(embedded_start__no_ferryd__says_where_to_name_it, setup),
		cmocka_unit_test_setup(embedded_start__not_named__found_in_build_tree, setup),
		cmocka_unit_test_setup(embedded_start__bad_size__invalid, setup),
		cmocka_unit_test_setup(embedded_start__ends_at_once__line_has_its_words, setup),
		cmocka_unit_test_setup(embedded_start__never_ready__times_out_and_is_gone, setup),
		cmocka_unit_test_setup(embedded_start__not_a_ferryd__protocol_error, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
