/* See inherit.h. */
#include "inherit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#define SLOTS 256

/* atomic: read by the handler in a forked child, where a lock could be held for ever. Descriptor + 1; 0:
 * free. */
static _Atomic int slots[SLOTS];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
	for (size_t i = 0; i < SLOTS; i++) {
		int fd = atomic_exchange(&slots[i], 0) - 1;

		if (fd >= 0)
			close(fd);
	}
}

static void install(void)
{
	pthread_atfork(NULL, NULL, close_in_child);
}

void ferryi_inherit_not(int fd)
{
	pthread_once(&once, install);
	for (size_t i = 0; i < SLOTS; i++) {
		int expected = 0;

		if (atomic_compare_exchange_strong(&slots[i], &expected, fd + 1))
			return;
	}
}

void ferryi_inherit_forget(int fd)
{
	for (size_t i = 0; i < SLOTS; i++) {
		int expected = fd + 1;

		if (atomic_compare_exchange_strong(&slots[i], &expected, 0))
			return;
	}
}
