/*
 * The embedded server: ferryd as a child process, for programs that name no
 * server. It ends with this process, however that ends: its life line is a
 * pipe whose other end only we hold. Runs in the caller's threads; no thread of
 * its own. The child is started by posix_spawn (no fork handlers, no copy of
 * the address space) in a process group of its own, so that Ctrl-C reaches the
 * program alone. It is waited for by pidfd and no signal handler is touched;
 * an application that reaps all children, or ignores SIGCHLD, may reap it first.
 */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "error.h"
#include "program_path.h"
#include "inherit.h"
#include "log.h"
#include "proto.h"
#include "url.h"

#define STOP_MS	  5000
#define GRACE_MS  500	/* for one that failed to start */
#define WORDS_LEN 65536 /* bytes of the child's stderr that are kept */
#define MAX_ARGS  24

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* The child's descriptors, above stderr; everything from CHILD_FDS on is closed in it. */
enum { CHILD_TOKEN = 3, CHILD_LIFELINE, CHILD_READY, CHILD_FDS };

struct ferryi_embedded {
	/* immutable once started */
	pid_t pid;
	int pidfd;
	int lifeline; /* our end; closed: the child ends */
	int words;    /* memfd: the child's stderr */
	char url[64];
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
};

/* What the child gets, as descriptors of ours above those that it will have. */
struct ends {
	int token;
	int lifeline;
	int ready;
	int null;
	int ready_read; /* ours */
};

extern char **environ;

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void close_ends(struct ends *ends)
{
	close_fd(&ends->token);
	close_fd(&ends->lifeline);
	close_fd(&ends->ready);
	close_fd(&ends->null);
	close_fd(&ends->ready_read);
}

/* Moves a descriptor above those of the child, so that no dup2 there overwrites a source. */
static int move_up(int fd)
{
	if (fd < 0 || fd >= CHILD_FDS)
		return fd;
	int up = fcntl(fd, F_DUPFD_CLOEXEC, CHILD_FDS);

	close(fd);
	return up;
}

static int open_pipe(int *read_end, int *write_end)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	*read_end = move_up(fds[0]);
	*write_end = move_up(fds[1]);
	return *read_end < 0 || *write_end < 0 ? -EMFILE : 0;
}

/* The token waits in the pipe, so it is never on a command line, in the environment or in a file. */
static int write_token(int fd, const uint8_t token[FERRYI_AUTH_TOKEN_LEN])
{
	char text[2 * FERRYI_AUTH_TOKEN_LEN + 1];
	ssize_t want = 2 * FERRYI_AUTH_TOKEN_LEN;

	ferryi_token_format(token, text);
	ssize_t n = write(fd, text, (size_t)want);

	explicit_bzero(text, sizeof(text));
	return n == want ? 0 : -EIO;
}

static int open_ends(struct ferryi_embedded *embedded, struct ends *ends)
{
	int token_write = -1;
	int rc = open_pipe(&ends->token, &token_write);

	if (rc == 0)
		rc = write_token(token_write, embedded->token);
	close_fd(&token_write);
	if (rc == 0)
		rc = open_pipe(&ends->lifeline, &embedded->lifeline);
	if (rc == 0)
		rc = open_pipe(&ends->ready_read, &ends->ready);
	if (rc < 0)
		return rc;
	ends->null = move_up(open("/dev/null", O_RDWR | O_CLOEXEC));
	embedded->words = move_up(memfd_create("ferryd-stderr", MFD_CLOEXEC | MFD_ALLOW_SEALING));
	/* A fixed size: a server that goes on complaining fills no memory. */
	if (ends->null < 0 || embedded->words < 0 || ftruncate(embedded->words, WORDS_LEN) < 0 ||
	    fcntl(embedded->words, F_ADD_SEALS, F_SEAL_GROW) < 0)
		return -errno;
	return 0;
}

/* The environment without what would load this library, or a checker of the program's, into the server. */
static char **child_environment(void)
{
	size_t n = 0, kept = 0;

	while (environ[n] != NULL)
		n++;
	char **copy = calloc(n + 1, sizeof(*copy));

	for (size_t i = 0; copy != NULL && i < n; i++)
		if (strncmp(environ[i], "LD_PRELOAD=", strlen("LD_PRELOAD=")) != 0)
			copy[kept++] = environ[i];
	return copy;
}

static int child_actions(posix_spawn_file_actions_t *actions, const struct ferryi_embedded *embedded,
			 const struct ends *ends)
{
	int rc = posix_spawn_file_actions_adddup2(actions, ends->null, 0);

	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, ends->null, 1);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, embedded->words, 2);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, ends->token, CHILD_TOKEN);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, ends->lifeline, CHILD_LIFELINE);
	if (rc == 0)
		rc = posix_spawn_file_actions_adddup2(actions, ends->ready, CHILD_READY);
	/* Also what the application holds without CLOEXEC: its sockets and locks are not ours to keep alive.
	 */
	if (rc == 0)
		rc = posix_spawn_file_actions_addclosefrom_np(actions, CHILD_FDS);
	return -rc;
}

/* Signals as in a fresh process, and a group of its own. */
static int child_attributes(posix_spawnattr_t *attr)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	int rc = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
							POSIX_SPAWN_SETPGROUP);

	if (rc == 0)
		rc = posix_spawnattr_setsigmask(attr, &none);
	if (rc == 0)
		rc = posix_spawnattr_setsigdefault(attr, &all);
	if (rc == 0)
		rc = posix_spawnattr_setpgroup(attr, 0);
	return -rc;
}

static int spawn(struct ferryi_embedded *embedded, const struct ends *ends, char *path, uint64_t size_bytes)
{
	char pool[128], token[12], lifeline[12], ready[12];
	char *argv[MAX_ARGS] = {path,	       "--pool",      pool,   "--fabric",      "local",	 "--listen",
				"127.0.0.1:0", "--token-fd",  token,  "--lifeline-fd", lifeline, "--ready-fd",
				ready,	       "--log-level", "warn", "--keep",	       "0",	 NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char **env = child_environment();

	if (env == NULL)
		return -ENOMEM;
	snprintf(pool, sizeof(pool), "name=embedded,size=%llu,backing=memfd,reserve=no",
		 (unsigned long long)size_bytes);
	snprintf(token, sizeof(token), "%d", CHILD_TOKEN);
	snprintf(lifeline, sizeof(lifeline), "%d", CHILD_LIFELINE);
	snprintf(ready, sizeof(ready), "%d", CHILD_READY);
	int rc = -posix_spawn_file_actions_init(&actions);

	if (rc < 0)
		goto out_env;
	rc = -posix_spawnattr_init(&attr);
	if (rc < 0)
		goto out_actions;
	rc = child_actions(&actions, embedded, ends);
	if (rc == 0)
		rc = child_attributes(&attr);
	if (rc == 0)
		rc = -posix_spawn(&embedded->pid, path, &actions, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
out_actions:
	posix_spawn_file_actions_destroy(&actions);
out_env:
	free(env);
	return rc;
}

static int open_pidfd(struct ferryi_embedded *embedded)
{
	embedded->pidfd = (int)syscall(SYS_pidfd_open, embedded->pid, 0);
	/* ESRCH: gone, and reaped by the application. The ready pipe tells. */
	if (embedded->pidfd >= 0 || errno == ESRCH)
		return 0;
	int rc = -errno;

	kill(embedded->pid, SIGKILL);
	while (waitpid(embedded->pid, NULL, 0) < 0 && errno == EINTR)
		;
	return rc;
}

/* The child's own last line, for a line of ours; false when it said nothing. */
static bool last_words(const struct ferryi_embedded *embedded, char *buf, size_t buf_len)
{
	char text[1024];
	off_t end = lseek(embedded->words, 0, SEEK_CUR); /* the offset is shared with the child */
	off_t from = end > (off_t)sizeof(text) - 1 ? end - ((off_t)sizeof(text) - 1) : 0;
	ssize_t n = end > 0 ? pread(embedded->words, text, (size_t)(end - from), from) : 0;

	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\0'))
		n--;
	if (n <= 0) {
		snprintf(buf, buf_len, "it said nothing");
		return false;
	}
	text[n] = '\0';
	const char *line = strrchr(text, '\n');

	snprintf(buf, buf_len, "%s", line != NULL ? line + 1 : text);
	return true;
}

static int wait_gone(const struct ferryi_embedded *embedded, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd pfd = {.fd = embedded->pidfd, .events = POLLIN};
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));

		if (n < 0 && errno == EINTR)
			continue;
		return n > 0 ? 0 : -ETIMEDOUT;
	}
}

/* The life line, then force. Leaves no zombie; one that the application reaped (ECHILD) is gone as well. */
static void end_child(struct ferryi_embedded *embedded, uint64_t deadline_ns)
{
	siginfo_t info;

	if (embedded->lifeline >= 0)
		ferryi_inherit_forget(embedded->lifeline);
	close_fd(&embedded->lifeline);
	if (embedded->pidfd < 0)
		return;
	if (wait_gone(embedded, deadline_ns) < 0) {
		ferryi_warn("embedded ferryd %d: killed: it went on after its life line had ended",
			    (int)embedded->pid);
		/* By pidfd: never somebody else who got the number. */
		syscall(SYS_pidfd_send_signal, embedded->pidfd, SIGKILL, NULL, 0);
		wait_gone(embedded, ferryi_deadline_ms(STOP_MS));
	}
	while (waitid((idtype_t)P_PIDFD, (id_t)embedded->pidfd, &info, WEXITED | WNOHANG) < 0 &&
	       errno == EINTR)
		;
	close_fd(&embedded->pidfd);
}

static void destroy(struct ferryi_embedded **embedded_ptr, uint64_t deadline_ns)
{
	struct ferryi_embedded *embedded = *embedded_ptr;

	*embedded_ptr = NULL;
	end_child(embedded, deadline_ns);
	close_fd(&embedded->words);
	explicit_bzero(embedded->token, sizeof(embedded->token));
	free(embedded);
}

/* Reads the line that says where it listens: its URL. 0, -ECHILD, -ETIMEDOUT, -EPROTO. */
static int read_ready(struct ferryi_embedded *embedded, int fd, uint64_t deadline_ns)
{
	char line[sizeof(embedded->url) - sizeof("?fabric=local")];
	size_t have = 0;

	for (;;) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		int n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -ETIMEDOUT;
		ssize_t got = read(fd, line + have, sizeof(line) - 1 - have);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -ECHILD; /* the pipe ends with the child */
		have += (size_t)got;
		line[have] = '\0';
		char *end = strchr(line, '\n');

		if (end == NULL && have < sizeof(line) - 1)
			continue;
		if (end == NULL)
			return -EPROTO;
		*end = '\0';
		snprintf(embedded->url, sizeof(embedded->url), "%s?fabric=local", line);
		return 0;
	}
}

static int start_fail(const struct ferryi_embedded *embedded, int rc, const char *path)
{
	char words[1024];

	switch (rc) {
	case -ECHILD:
		last_words(embedded, words, sizeof(words));
		return ferryi_control_fail(rc, "the embedded server (%s) ended at once: %s", path, words);
	case -ETIMEDOUT:
		last_words(embedded, words, sizeof(words));
		return ferryi_control_fail(rc, "the embedded server (%s) was not ready in time: %s", path,
					   words);
	case -EPROTO:
		return ferryi_control_fail(
			rc, "the embedded server (%s) is no ferryd of this version: check FERRY_FERRYD",
			path);
	default:
		return ferryi_control_fail(rc, "the embedded server (%s) cannot be started: %s", path,
					   ferryi_strerror(rc));
	}
}

int ferryi_embedded_start(uint64_t size_bytes, uint64_t deadline_ns, struct ferryi_embedded **out)
{
	struct ends ends = {-1, -1, -1, -1, -1};
	struct ferryi_embedded *embedded;
	struct ferryi_url url;
	char path[PATH_MAX], err[256];
	int rc;

	if (size_bytes == 0 || !ferryi_is_aligned(size_bytes, FERRYI_SUBSECTION_SIZE))
		return ferryi_control_fail(-EINVAL,
					   "an embedded server of %llu bytes: not a multiple of 2 MiB",
					   (unsigned long long)size_bytes);
	rc = ferryi_ferryd_path(path, sizeof(path));
	if (rc < 0)
		return rc;
	embedded = calloc(1, sizeof(*embedded));
	if (embedded == NULL)
		return ferryi_control_fail(-ENOMEM, "out of memory");
	embedded->pidfd = embedded->lifeline = embedded->words = -1;
	rc = ferryi_random(embedded->token, sizeof(embedded->token));
	if (rc == 0)
		rc = open_ends(embedded, &ends);
	if (rc < 0)
		goto err;
	ferryi_inherit_not(embedded->lifeline);
	rc = spawn(embedded, &ends, path, size_bytes);
	if (rc < 0)
		goto err;
	close_fd(&ends.ready);
	rc = open_pidfd(embedded);
	if (rc < 0)
		goto err;
	rc = read_ready(embedded, ends.ready_read, deadline_ns);
	if (rc == 0 && ferryi_url_parse(embedded->url, &url, err, sizeof(err)) < 0)
		rc = -EPROTO;
	if (rc < 0)
		goto err;
	close_ends(&ends);
	ferryi_info("embedded ferryd %d: started, %s", (int)embedded->pid, embedded->url);
	*out = embedded;
	return 0;

err:
	start_fail(embedded, rc, path);
	close_ends(&ends);
	destroy(&embedded, ferryi_deadline_ms(GRACE_MS));
	return rc;
}

void ferryi_embedded_stop(struct ferryi_embedded **embedded_ptr)
{
	char words[1024];

	if (*embedded_ptr == NULL)
		return;
	/* It logs warnings and worse only, and nobody else reads them. */
	if (last_words(*embedded_ptr, words, sizeof(words)))
		ferryi_warn("embedded ferryd %d: its last words: %s", (int)(*embedded_ptr)->pid, words);
	destroy(embedded_ptr, ferryi_deadline_ms(STOP_MS));
}

const char *ferryi_embedded_url(const struct ferryi_embedded *embedded)
{
	return embedded->url;
}

const uint8_t *ferryi_embedded_token(const struct ferryi_embedded *embedded)
{
	return embedded->token;
}

pid_t ferryi_embedded_pid(const struct ferryi_embedded *embedded)
{
	return embedded->pid;
}
