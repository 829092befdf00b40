/* SIGBUS. See mce.h. */
#include "mce.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arith.h"

/* Before the handler is installed; then immutable. Written in the handler: a whole report at once, or none.
 */
static int note_fd = -1, take_fd = -1;
/* Of the thread: where its guard goes on. */
static __thread sigjmp_buf *guard;

/* Async-signal-safe. */
static void note(const siginfo_t *info)
{
	unsigned shift = info->si_addr_lsb >= FERRYI_PAGE_SHIFT && info->si_addr_lsb < 48
				 ? (unsigned)info->si_addr_lsb
				 : FERRYI_PAGE_SHIFT;
	struct ferryi_mce mce = {.len_bytes = (size_t)1 << shift};

	mce.addr = (uintptr_t)info->si_addr & ~(mce.len_bytes - 1);
	if (write(note_fd, &mce, sizeof(mce)) < 0)
		return; /* a flood */
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	static const char text[] =
		"ferryd: error: SIGBUS: memory that has failed was touched: the server ends\n";
	const bool is_failure = info->si_code == BUS_MCEERR_AO || info->si_code == BUS_MCEERR_AR;
	const int err = errno;

	(void)context;
	if (is_failure)
		note(info);
	if (info->si_code == BUS_MCEERR_AO) {
		errno = err;
		return;
	}
	if (is_failure && guard)
		siglongjmp(*guard, 1);
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		errno = err;
	/* Raised again, by the instruction or here, it ends the process. */
	signal(sig, SIG_DFL);
	raise(sig);
}

int ferryi_mce_open(int *fd)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_RESTART};
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
		return -errno;
	take_fd = ends[0];
	note_fd = ends[1];
	if (sigaction(SIGBUS, &action, NULL))
		return -errno;
	/* A kernel that does not know it tells late, by a touch. */
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
	*fd = take_fd;
	return 0;
}

int ferryi_mce_take(struct ferryi_mce *out)
{
	return read(take_fd, out, sizeof(*out)) == (ssize_t)sizeof(*out);
}

static void unblock(sigset_t *before)
{
	sigset_t sigbus;

	sigemptyset(&sigbus);
	sigaddset(&sigbus, SIGBUS);
	pthread_sigmask(SIG_UNBLOCK, &sigbus, before);
}

int ferryi_mce_guard(int (*work)(void *ctx), void *ctx)
{
	sigjmp_buf back;
	int rc;

	unblock(NULL);
	if (sigsetjmp(back, 1)) {
		guard = NULL;
		return -EHWPOISON;
	}
	guard = &back;
	rc = work(ctx);
	guard = NULL;
	return rc;
}

int ferryi_mce_inject(void *addr, bool touched)
{
	siginfo_t info;
	sigset_t before;
	int rc;

	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_code = touched ? BUS_MCEERR_AR : BUS_MCEERR_AO;
	info.si_addr = addr;
	info.si_addr_lsb = FERRYI_PAGE_SHIFT;
	unblock(&before);
	rc = syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info) ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}
