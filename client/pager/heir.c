/* The parent's side of the heir: its start, and what it is told. See heir.h. */
#include "heir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitmap.h"
#include "child.h"
#include "clock.h"
#include "log.h"
#include "orphan.h"
#include "pager_priv.h"
#include "program_path.h"

extern char **environ;

/* ThreadSanitizer's own clone(2) takes the new process for a fork, and cleans up in it what is ours. glibc's other name. */
#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(UNDER_TSAN)
extern int __clone(int (*fn)(void *arg), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

/* ---- start ---- */

/* For the two processes on the way there; the memory is ours, but we sleep until the second has exec'ed. */
struct launch {
	char *path;
	char **env;
	int sock, parent_fd, null;
	uint8_t *inner_stack;
	int err;
};

/* One copy of a string list and its strings, in the arena: what the application does to its own is nothing to us. */
static char **copy_environment(struct ferryi_arena *arena)
{
	size_t n = 0, bytes = 0;

	for (; environ && environ[n]; n++)
		bytes += strlen(environ[n]) + 1;
	char **copy = ferryi_arena_alloc(arena, (n + 1) * sizeof(*copy) + bytes);
	char *at = copy ? (char *)(copy + n + 1) : NULL;

	for (size_t i = 0, kept = 0; copy && i < n; i++) {
		size_t len = strlen(environ[i]) + 1;

		if (strncmp(environ[i], "LD_PRELOAD=", strlen("LD_PRELOAD=")) == 0)
			continue;
		copy[kept++] = memcpy(at, environ[i], len);
		at += len;
	}
	return copy;
}

void ferryi_heir_open(struct ferryi_pager *pager)
{
	struct ferryi_heir *heir = &pager->children.heir;

	heir->path = ferryi_arena_alloc(pager->arena, PATH_MAX);
	heir->env = copy_environment(pager->arena);
	if (!heir->path || !heir->env || ferryi_heir_path(heir->path, PATH_MAX))
		heir->path = NULL; /* the arena's end frees it */
}

/*
 * The two processes share our memory, and the state that a sanitizer has of our thread: bare system calls only, as what
 * a sanitizer puts in place of the C library's would note calls there that never return.
 */
#define NOT_SANITIZED __attribute__((no_sanitize("address", "thread", "undefined")))

/* In the second process. */
NOT_SANITIZED static int launch_inner(void *arg)
{
	struct launch *launch = arg;
	char *const argv[] = { launch->path, NULL };

	syscall(SYS_setsid); /* a signal to the program's process group is not meant for it */
	if (syscall(SYS_dup3, launch->null, 0, 0) >= 0 && syscall(SYS_dup3, launch->null, 1, 0) >= 0 &&
	    syscall(SYS_dup3, launch->sock, FERRYI_HEIR_SOCK, 0) >= 0 &&
	    syscall(SYS_dup3, launch->parent_fd, FERRYI_HEIR_PARENT, 0) >= 0) {
		syscall(SYS_close_range, (unsigned)FERRYI_HEIR_FDS, ~0u, 0u);
		syscall(SYS_execve, launch->path, argv, launch->env);
	}
	launch->err = errno;
	return (int)syscall(SYS_exit_group, 127);
}

/* In the first process: ends at once, so that the second is nobody's child here. */
NOT_SANITIZED static int launch_outer(void *arg)
{
	struct launch *launch = arg;

	if (clone(launch_inner, launch->inner_stack, CLONE_VM | CLONE_VFORK | SIGCHLD, launch) < 0)
		launch->err = errno;
	return (int)syscall(SYS_exit_group, 0);
}

/* Above the descriptors that the heir gets, so that no dup2 there overwrites a source. */
static int move_up(int fd)
{
	if (fd < 0 || fd >= FERRYI_HEIR_FDS)
		return fd;
	int up = fcntl(fd, F_DUPFD_CLOEXEC, FERRYI_HEIR_FDS);

	close(fd);
	return up;
}

/* vfork twice, on stacks that only children of fork use. 0 or negative errno. */
static int launch_both(struct ferryi_pager *pager, struct launch *launch)
{
	uint8_t *stack = pager->children.orphan_stack;
	sigset_t all, old;

	launch->inner_stack = stack + FERRYI_ORPHAN_STACK_BYTES / 2;
	launch->err = 0;
	/* A handler of the application's must not run there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t pid = clone(launch_outer, stack + FERRYI_ORPHAN_STACK_BYTES, CLONE_VM | CLONE_VFORK, launch);
	int rc = pid < 0 ? -errno : -launch->err;

	while (pid > 0 && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

static int start_locked(struct ferryi_pager *pager)
{
	struct ferryi_heir *heir = &pager->children.heir;
	struct launch launch = { .path = heir->path, .env = heir->env, .sock = -1, .parent_fd = -1, .null = -1 };
	int sock[2], rc = -ENOENT;

	if (!heir->path)
		return rc;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock))
		return -errno;
	launch.sock = move_up(sock[1]);
	launch.parent_fd = move_up((int)syscall(SYS_pidfd_open, getpid(), 0));
	launch.null = move_up(open("/dev/null", O_RDWR | O_CLOEXEC));
	rc = launch.sock < 0 || launch.parent_fd < 0 || launch.null < 0 ? -errno : launch_both(pager, &launch);
	if (launch.null >= 0)
		close(launch.null);
	if (launch.parent_fd >= 0)
		close(launch.parent_fd);
	if (launch.sock >= 0)
		close(launch.sock);
	if (rc) {
		close(sock[0]);
		return rc;
	}
	heir->sock = sock[0];
	memset(heir->knows, 0, sizeof(heir->knows));
	return 0;
}

/* ---- talk ---- */

static int send_message(struct ferryi_heir *heir, const struct ferryi_heir_message *message, const int *fds, unsigned nr)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)message, sizeof(*message) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr) {
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
	}
	return sendmsg(heir->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(*message) ? 0 : -errno;
}

static int hear(const struct ferryi_heir *heir, uint64_t deadline_ns)
{
	struct pollfd pfd = { .fd = heir->sock, .events = POLLIN };
	int n, answer;

	do {
		n = poll(&pfd, 1, ferryi_remaining_ms(deadline_ns));
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return -ETIMEDOUT;
	return recv(heir->sock, &answer, sizeof(answer), MSG_DONTWAIT) == (ssize_t)sizeof(answer) ? answer : -EPIPE;
}

void ferryi_heir_close_locked(struct ferryi_pager *pager)
{
	struct ferryi_heir *heir = &pager->children.heir;
	const struct ferryi_heir_message bye = { .kind = FERRYI_HEIR_BYE };

	if (heir->sock < 0)
		return;
	send_message(heir, &bye, NULL, 0); /* else the end of the socket would look like ours */
	close(heir->sock);
	heir->sock = -1;
}

void ferryi_heir_rest_locked(struct ferryi_pager *pager)
{
	const struct ferryi_heir_message rest = { .kind = FERRYI_HEIR_REST };
	struct ferryi_heir *heir = &pager->children.heir;
	bool stands_by = false;

	ferryi_assert_held(&pager->children.lock);
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++)
		stands_by = stands_by || heir->knows[i];
	for (unsigned c = 0; c < pager->children.nr && stands_by; c++)
		stands_by = !pager->children.child[c]->nr_needed;
	if (heir->sock < 0 || !stands_by)
		return;
	memset(heir->knows, 0, sizeof(heir->knows));
	if (send_message(heir, &rest, NULL, 0) || hear(heir, ferryi_deadline_ms(pager->attr.fault_timeout_ms)))
		ferryi_heir_close_locked(pager); /* another one, at the next fork */
}

/* One line for each struct ferry: this is said at the first fork, and holds for all. */
static void warn_once(struct ferryi_heir *heir, const char *what, int rc)
{
	if (!heir->has_warned)
		ferryi_warn("fork: %s (%s): children get SIGBUS for what is away if this process is killed", what,
			    ferryi_strerror(rc));
	heir->has_warned = true;
}

/* ---- what it is told ---- */

/* The heir stands by for the pool's lease. false: nobody does. */
static bool tell_lease_locked(struct ferryi_pager *pager, unsigned index, const struct ferry_pool *pool)
{
	struct ferryi_heir *heir = &pager->children.heir;
	struct ferryi_heir_message message = { .kind = FERRYI_HEIR_LEASE,
					       .pool = index,
					       .timeout_ms = (uint32_t)pager->attr.fault_timeout_ms,
					       .log_level = (uint32_t)ferryi_log_get_level() };
	int rc = 0;

	if (!ferryi_lease_bequest(ferryi_pool_lease(pool), &message.will))
		return false; /* named, embedded, ...: as the manual says */
	if (heir->sock >= 0 && heir->knows[index] &&
	    memcmp(heir->secret[index], message.will.secret, sizeof(message.will.secret)) == 0)
		goto out;
	if (heir->sock < 0)
		rc = start_locked(pager);
	if (rc) {
		warn_once(heir, "no ferry-heir", rc);
		goto out;
	}
	heir->knows[index] = false;
	rc = send_message(heir, &message, NULL, 0);
	if (!rc)
		rc = hear(heir, ferryi_deadline_ms(pager->attr.fault_timeout_ms));
	if (rc == -EPIPE || rc == -ETIMEDOUT || rc == -ECONNRESET) /* another one, at the next fork */
		ferryi_heir_close_locked(pager);
	if (rc) {
		warn_once(heir, "no heir for a lease", rc);
		goto out;
	}
	heir->knows[index] = true;
	memcpy(heir->secret[index], message.will.secret, sizeof(message.will.secret));
out:
	explicit_bzero(&message.will, sizeof(message.will));
	return !rc;
}

/* Bytes from the server pool's start, or false. */
static bool pool_offset(const struct ferry_pool *pool, const struct ferryi_subsection *sub, uint64_t *off)
{
	const struct ferryi_lease *lease = ferryi_pool_lease(pool);

	for (unsigned i = 0; i < ferryi_lease_extent_count(lease); i++) {
		const struct ferryi_extent *extent = ferryi_lease_extent(lease, i);

		if (extent->len_bytes && extent->remote.key == sub->remote.key && extent->remote.addr == sub->remote.addr) {
			*off = extent->pool_off + sub->remote_off;
			return true;
		}
	}
	return false;
}

/* Which pools an heir has been asked for, in one fork. */
struct asked {
	bool asked[FERRYI_MAX_POOLS_ATTACHED], told[FERRYI_MAX_POOLS_ATTACHED];
};

static bool place_block_locked(struct ferryi_pager *pager, struct asked *pools, struct ferryi_child_object *copy, size_t b)
{
	const struct ferryi_subsection *sub =
		copy->subsection[b] ? ferryi_subsection_of(pager->model, (uint64_t)(copy->subsection[b] - 1) *
										 FERRYI_PAGES_PER_SUBSECTION) :
				      NULL;
	struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL; /* held, so it stays */
	uint64_t off;

	copy->place[b] = 0;
	if (!pool || ferryi_pool_lost(pool) || ferryi_lender_is_lost(ferryi_pool_lender(pool))) /* an heir knows one location */
		return false;
	unsigned index = ferryi_pool_index(pool);

	if (!pools->asked[index])
		pools->told[index] = tell_lease_locked(pager, index, pool);
	pools->asked[index] = true;
	if (!pools->told[index] || !pool_offset(pool, sub, &off))
		return false;
	copy->place[b] = ferryi_heir_place(index, off);
	return true;
}

int ferryi_heir_add_locked(struct ferryi_pager *pager, struct ferryi_child **child)
{
	struct ferryi_heir *heir = &pager->children.heir;
	struct asked pools = { 0 };
	bool any = false;
	int sock[2], memfd;

	ferryi_assert_held(&pager->children.lock);
	for (unsigned o = 0; o < (*child)->nr_objects; o++) {
		for (size_t b = 0; b < (*child)->objects[o].as_object.nr_blocks; b++)
			any = place_block_locked(pager, &pools, &(*child)->objects[o], b) || any;
	}
	if (!any || heir->sock < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock)) {
		warn_once(heir, "no socket for the heir", -errno);
		return -1;
	}
	int rc = ferryi_child_share(pager, child, &memfd);

	if (!rc) {
		const struct ferryi_heir_message message = { .kind = FERRYI_HEIR_CHILD,
							     .timeout_ms = (uint32_t)pager->attr.fault_timeout_ms,
							     .bytes = (*child)->bytes };
		const int fds[3] = { memfd, (*child)->uffd, sock[1] };

		rc = send_message(heir, &message, fds, 3);
		close(memfd);
	}
	close(sock[1]);
	if (!rc)
		return sock[0];
	close(sock[0]);
	warn_once(heir, "the heir cannot be told of a child", rc);
	if (rc != -ENOMEM && rc != -EFBIG)
		ferryi_heir_close_locked(pager);
	return -1;
}
