/* See control_child.h. */
#include "control_child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control_client.h"

#define MAX_ARGS 32

#define MUST(cond)                                                                                   \
	do {                                                                                         \
		if (!(cond)) {                                                                       \
			fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno); \
			abort();                                                                     \
		}                                                                                    \
	} while (0)

extern char **environ;

static bool readable(int fd, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));

		if (n < 0 && errno == EINTR)
			continue;
		return n > 0;
	}
}

static void read_url(struct ferryt_child *child, int fd)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS);
	size_t have = 0;

	while (have == 0 || child->url[have - 1] != '\n') {
		MUST(readable(fd, deadline_ns));
		ssize_t n = read(fd, child->url + have, sizeof(child->url) - 1 - have);

		MUST(n > 0); /* else ferryd said why on stderr */
		have += (size_t)n;
	}
	child->url[have - 1] = '\0';
}

/* An end of a pipe that the child keeps: a dup2 onto itself is how a file action clears CLOEXEC. */
static void keep(posix_spawn_file_actions_t *actions, int fd, char text[12])
{
	MUST(posix_spawn_file_actions_adddup2(actions, fd, fd) == 0);
	snprintf(text, 12, "%d", fd);
}

static const char *env_or(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value ? value : otherwise;
}

/* ASSUMPTION: with auth, child->token is set. */
static void start(struct ferryt_child *child, const char *const *args, bool auth)
{
	char token_fd[12], lifeline_fd[12], ready_fd[12];
	const char *argv[MAX_ARGS] = {FERRYT_FERRYD,
				      "--pool",
				      "name=test,size=64M,backing=memfd",
				      "--fabric",
				      env_or("FERRYT_FABRICS", "local,tcp"),
				      "--listen",
				      env_or("FERRYT_LISTEN", "127.0.0.1:0"),
				      "--lifeline-fd",
				      lifeline_fd,
				      "--ready-fd",
				      ready_fd,
				      "--log-level",
				      "warn",
				      auth ? "--token-fd" : "--no-auth",
				      auth ? token_fd : NULL};
	int token[2], lifeline[2], ready[2];
	posix_spawn_file_actions_t actions;
	size_t n = 0;

	while (argv[n] != NULL)
		n++;
	for (; args != NULL && *args != NULL && n < MAX_ARGS - 1; args++)
		argv[n++] = *args;
	MUST(pipe2(token, O_CLOEXEC) == 0 && pipe2(lifeline, O_CLOEXEC) == 0 && pipe2(ready, O_CLOEXEC) == 0);
	MUST(write(token[1], child->token, sizeof(child->token)) == (ssize_t)sizeof(child->token));
	close(token[1]);
	MUST(posix_spawn_file_actions_init(&actions) == 0);
	keep(&actions, token[0], token_fd);
	keep(&actions, lifeline[0], lifeline_fd);
	keep(&actions, ready[1], ready_fd);
	MUST(posix_spawn(&child->pid, argv[0], &actions, NULL, (char *const *)argv, environ) == 0);
	posix_spawn_file_actions_destroy(&actions);
	child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	MUST(child->pidfd >= 0);
	child->lifeline = lifeline[1];
	close(token[0]);
	close(lifeline[0]);
	close(ready[1]);
	read_url(child, ready[0]);
	close(ready[0]);
}

void ferryt_child_start(struct ferryt_child *child, const char *const *args)
{
	MUST(ferryi_random(child->token, sizeof(child->token)) == 0);
	start(child, args, true);
}

void ferryt_child_start_beside_with(struct ferryt_child *child, const struct ferryt_child *other, const char *const *args)
{
	memcpy(child->token, other->token, sizeof(child->token));
	start(child, args, true);
}

void ferryt_child_start_beside(struct ferryt_child *child, const struct ferryt_child *other)
{
	ferryt_child_start_beside_with(child, other, NULL);
}

void ferryt_child_start_open(struct ferryt_child *child)
{
	start(child, NULL, false);
}

void ferryt_child_signal(struct ferryt_child *child, int sig)
{
	MUST(kill(child->pid, sig) == 0);
}

/* proc(5): the state follows the command's name, which ends with the last bracket. */
static bool thread_has_stopped(int tasks, const char *tid)
{
	char name[64], text[256];

	snprintf(name, sizeof(name), "%.16s/stat", tid);
	int fd = openat(tasks, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT || errno == ESRCH; /* it has ended */
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	if (n <= 0)
		return true;
	text[n] = '\0';
	const char *bracket = strrchr(text, ')');

	return bracket && strchr("TZX", bracket[2]);
}

static bool all_have_stopped(pid_t pid)
{
	char path[32];
	bool all = true;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);

	MUST(dir);
	for (struct dirent *e; all && (e = readdir(dir));)
		all = e->d_name[0] == '.' || thread_has_stopped(dirfd(dir), e->d_name);
	closedir(dir);
	return all;
}

void ferryt_child_stop(struct ferryt_child *child)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS);

	ferryt_child_signal(child, SIGSTOP);
	while (!all_have_stopped(child->pid)) {
		MUST(ferryi_now_ns() < deadline_ns);
		sched_yield();
	}
}

int ferryt_child_wait(struct ferryt_child *child)
{
	int status = -1;

	if (child->pid == 0 || !readable(child->pidfd, ferryi_deadline_ms(FERRYT_WAIT_MS)))
		return -1;
	MUST(waitpid(child->pid, &status, 0) == child->pid);
	close(child->pidfd);
	close(child->lifeline);
	child->pid = 0;
	return status;
}

void ferryt_child_end(struct ferryt_child *child)
{
	if (child->pid == 0)
		return;
	kill(child->pid, SIGKILL);
	ferryt_child_wait(child);
}
