/* See bench_server.h. */
#include "bench_server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "program_path.h"
#include "proto.h"

#define START_MS 20000u /* the pool is reserved and registered by then */
#define STOP_MS	 5000u

extern char **environ;

static int make_token(struct ferryi_bench_server *server, char *why, size_t why_len)
{
	const char *tmp = getenv("TMPDIR");
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	int rc;

	if (tmp == NULL || strlen(tmp) > 32)
		tmp = "/tmp";
	snprintf(server->dir, sizeof(server->dir), "%s/ferry-bench-XXXXXX", tmp);
	if (mkdtemp(server->dir) == NULL) {
		rc = -errno;
		snprintf(why, why_len, "%s: %s; set TMPDIR to a directory that can be written", server->dir,
			 strerror(-rc));
		server->dir[0] = '\0';
		return rc;
	}
	snprintf(server->token_file, sizeof(server->token_file), "%s/token", server->dir);
	rc = ferryi_token_create(server->token_file, token, why, why_len);
	explicit_bzero(token, sizeof(token));
	return rc;
}

/*
 * The child gets the read end of the life line and the write end of the ready
 * pipe under their own numbers: a dup2 onto itself clears CLOEXEC in the child.
 */
static int spawn(struct ferryi_bench_server *server, const char *path, const char *fabric,
		 uint64_t pool_bytes, int lifeline, int ready)
{
	char pool[96], lifeline_text[12], ready_text[12];
	/* memfd also serves the local fabric, and pages are there before the first read is timed. */
	char *argv[] = {(char *)path,	    "--pool",	     pool,	    "--fabric",
			(char *)fabric,	    "--listen",	     "127.0.0.1:0", "--token-file",
			server->token_file, "--lifeline-fd", lifeline_text, "--ready-fd",
			ready_text,	    "--log-level",   "warn",	    NULL};
	posix_spawn_file_actions_t actions;
	int rc;

	snprintf(pool, sizeof(pool), "name=bench,size=%llu,backing=memfd", (unsigned long long)pool_bytes);
	snprintf(lifeline_text, sizeof(lifeline_text), "%d", lifeline);
	snprintf(ready_text, sizeof(ready_text), "%d", ready);
	rc = posix_spawn_file_actions_init(&actions);
	if (rc != 0)
		return -rc;
	rc = posix_spawn_file_actions_adddup2(&actions, lifeline, lifeline);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(&actions, ready, ready);
	if (rc == 0)
		rc = posix_spawn(&server->pid, path, &actions, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (rc != 0)
		server->pid = -1;
	return -rc;
}

/* Reads one line: the server's URL. 0, -ECHILD (it ended), -ETIMEDOUT, -EPROTO. */
static int read_ready(int fd, char *line, size_t len)
{
	uint64_t deadline = ferryi_deadline_ms(START_MS);
	size_t have = 0;

	while (have < len - 1) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -ETIMEDOUT;
		ssize_t got = read(fd, line + have, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -ECHILD;
		if (line[have] == '\n') {
			line[have] = '\0';
			return 0;
		}
		have++;
	}
	return -EPROTO;
}

int ferryi_bench_server_start(const char *fabric, uint64_t pool_bytes, struct ferryi_bench_server *out,
			      char *why, size_t why_len)
{
	int life[2] = {-1, -1}, ready[2] = {-1, -1}, rc;
	char path[PATH_MAX], address[80];

	*out = (struct ferryi_bench_server){.pid = -1, .pidfd = -1, .lifeline = -1};
	rc = ferryi_ferryd_path(path, sizeof(path));
	if (rc != 0) {
		snprintf(why, why_len, "%s", ferryi_control_last_error());
		return rc;
	}
	rc = make_token(out, why, why_len);
	if (rc != 0)
		goto err;
	if (pipe2(life, O_CLOEXEC) != 0 || pipe2(ready, O_CLOEXEC) != 0)
		rc = -errno;
	if (rc == 0)
		rc = spawn(out, path, fabric, pool_bytes, life[0], ready[1]);
	if (rc != 0) {
		snprintf(why, why_len, "%s cannot be started: %s", path, strerror(-rc));
		goto err_pipes;
	}
	out->lifeline = life[1];
	life[1] = -1;
	out->pidfd = (int)syscall(SYS_pidfd_open, out->pid, 0);
	close(ready[1]);
	ready[1] = -1;
	rc = read_ready(ready[0], address, sizeof(address));
	if (rc == 0 && strncmp(address, "ferry://", 8) != 0)
		rc = -EPROTO;
	if (rc != 0) {
		snprintf(why, why_len, "the benchmark's own ferryd (%s) %s", path,
			 rc == -ECHILD	    ? "ended at once; its words are above"
			 : rc == -ETIMEDOUT ? "was not ready in time"
					    : "is of another version; check FERRY_FERRYD");
		goto err_pipes;
	}
	snprintf(out->url, sizeof(out->url), "%s?fabric=%s", address, fabric);
err_pipes:
	for (int i = 0; i < 2; i++) {
		if (life[i] >= 0)
			close(life[i]);
		if (ready[i] >= 0)
			close(ready[i]);
	}
err:
	if (rc != 0)
		ferryi_bench_server_stop(out);
	return rc;
}

void ferryi_bench_server_stop(struct ferryi_bench_server *server)
{
	if (server->lifeline >= 0)
		close(server->lifeline);
	server->lifeline = -1;
	if (server->pid > 0) {
		struct pollfd pfd = {.fd = server->pidfd, .events = POLLIN};
		uint64_t deadline = ferryi_deadline_ms(STOP_MS);
		int n;

		do
			n = poll(&pfd, 1, ferryi_remaining_ms(deadline));
		while (n < 0 && errno == EINTR);
		if (n <= 0)
			kill(server->pid, SIGKILL);
		while (waitpid(server->pid, NULL, 0) < 0 && errno == EINTR)
			;
		close(server->pidfd);
	}
	server->pid = -1;
	if (server->token_file[0] != '\0')
		unlink(server->token_file);
	if (server->dir[0] != '\0')
		rmdir(server->dir);
	server->token_file[0] = server->dir[0] = '\0';
}
