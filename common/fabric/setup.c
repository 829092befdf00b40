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
 */
#include <errno.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <stdlib.h>
#include <string.h>

#include "fabric.h"
#include "log.h"

static const struct {
	const char *name;
	const char *value;
	int overwrite;
} settings[] = {
	{ "FI_MR_CACHE_MAX_COUNT", "0", 1 },
	{ "FI_MR_CACHE_MONITOR", "disabled", 1 },
	/* ofi_rxm sizes its queues by it; with the default 256 they exceed what soft-RoCE offers. */
	{ "FI_UNIVERSE_SIZE", "64", 0 },
};

#define NSETTINGS (sizeof(settings) / sizeof(settings[0]))

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
