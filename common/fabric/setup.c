/*
 * Starts libfabric for this process with its registration cache and memory
 * monitors off, and leaves the environment as it was.
 *
 * With the cache on, the verbs provider registers every buffer with all rights
 * and keeps keys alive after close; with a monitor on, it patches mmap and
 * munmap of the whole process or registers memory with a userfaultfd of its
 * own. Both settings are read once, by the first libfabric call of a process:
 * an application that made that call earlier keeps what it chose, and the
 * listener's self-test finds out whether that is safe to serve.
 *
 * Merely being linked with libfabric can cost a process its signals: see below.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fabric.h"
#include "log.h"

static const struct {
	const char *name;
	const char *value;
	int overwrite;
} settings[] = {
	{"FI_MR_CACHE_MAX_COUNT", "0", 1},
	{"FI_MR_CACHE_MONITOR", "disabled", 1},
	/* ofi_rxm sizes its queues by it; with the default 256 they exceed what soft-RoCE offers. */
	{"FI_UNIVERSE_SIZE", "64", 0},
};

#define NSETTINGS (sizeof(settings) / sizeof(settings[0]))

/*
 * Distributions link libfabric with the PSM library of long-gone adapters
 * (libinfinipath), whose constructor takes these signals in every process that
 * loads it, prints a backtrace and exits with status 1: a SIGTERM is no longer
 * a SIGTERM, nor a SIGBUS a SIGBUS. Give them back, and only where the handler
 * is that library's. Runs after its constructor and before main().
 */
static __attribute__((constructor)) void release_signals(void)
{
	static const int signals[] = {SIGINT, SIGILL, SIGABRT, SIGBUS, SIGSEGV, SIGTERM};

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction action;
		Dl_info where = {0};

		if (sigaction(signals[i], NULL, &action) || action.sa_handler == SIG_DFL ||
		    action.sa_handler == SIG_IGN)
			continue;
		if (dladdr((void *)(uintptr_t)action.sa_handler, &where) && where.dli_fname &&
		    strstr(where.dli_fname, "libinfinipath"))
			signal(signals[i], SIG_DFL);
	}
}

static void setup_once(void)
{
	char *saved[NSETTINGS];
	struct fi_info *info = NULL;

	for (size_t i = 0; i < NSETTINGS; i++) {
		const char *old = getenv(settings[i].name);

		saved[i] = old ? strdup(old) : NULL;
		if (setenv(settings[i].name, settings[i].value, settings[i].overwrite))
			ferryi_warn("fabric: cannot set %s: out of memory", settings[i].name);
	}
	/* Loads the providers; what it finds does not matter here. */
	if (!fi_getinfo(FI_VERSION(1, 17), NULL, NULL, 0, NULL, &info))
		fi_freeinfo(info);
	for (size_t i = 0; i < NSETTINGS; i++) {
		if (saved[i])
			setenv(settings[i].name, saved[i], 1);
		else
			unsetenv(settings[i].name);
		free(saved[i]);
	}
}

void ferryi_fabric_setup(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, setup_once);
}
