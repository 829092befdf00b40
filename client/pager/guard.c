/* See guard.h. */
#include "guard.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "thread.h"

static void set(_Atomic uint32_t *flag)
{
	atomic_store(flag, 1);
	syscall(SYS_futex, flag, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void wait_for(_Atomic uint32_t *flag)
{
	while (!atomic_load(flag))
		syscall(SYS_futex, flag, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

/* All descriptors but one: the application's files, pipes and sockets must not stay open for us. */
static int close_all_but(unsigned fd)
{
	if (fd > 0 && syscall(SYS_close_range, 0, fd - 1, 0))
		return -errno;
	return syscall(SYS_close_range, fd + 1, ~0u, 0) ? -errno : 0;
}

static void *guard_main(void *arg)
{
	struct ferryi_guard *guard = arg;

	pthread_setname_np(pthread_self(), "ferry-guard");
	int rc = unshare(CLONE_FILES) ? -errno : close_all_but((unsigned)guard->fd);

	if (rc)
		ferryi_warn("no guard of the userfaultfd (%s): its descriptor must not be closed", ferryi_strerror(rc));
	set(&guard->is_ready);
	if (!rc)
		wait_for(&guard->stop);
	return NULL; /* and the table goes with the thread */
}

int ferryi_guard_start(struct ferryi_guard *guard, int fd)
{
	guard->fd = fd;
	int rc = ferryi_thread_start(&guard->thread, guard_main, guard);

	if (rc)
		return rc;
	guard->started = true;
	wait_for(&guard->is_ready);
	return 0;
}

void ferryi_guard_stop(struct ferryi_guard *guard)
{
	if (!guard->started)
		return;
	set(&guard->stop);
	pthread_join(guard->thread, NULL);
	guard->started = false;
}
