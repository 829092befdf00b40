/*
 * A thread that does nothing but hold the userfaultfd, in a descriptor table of
 * its own. When the last descriptor of a userfaultfd goes, the kernel makes
 * plain memory of its ranges, and what is away reads as zeros: an application
 * that closes all descriptors it finds (closefrom(3), as daemons do) would lose
 * its data without a sign. With the guard the next touch of an away page finds
 * the fault thread without its descriptor, which ends the process (fault.c).
 */
#ifndef FERRYI_PAGER_GUARD_H
#define FERRYI_PAGER_GUARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ferryi_guard {
	/* owned by who opens and closes the pager */
	pthread_t thread;
	bool started;
	/* immutable while it runs */
	int fd;
	/* atomic: futexes */
	_Atomic uint32_t is_ready; /* it holds the descriptor, or never will */
	_Atomic uint32_t stop;
};

/* Returns when the guard holds fd; a process that may not have one goes without, with a line in the log. 0, -EAGAIN (no thread). */
int ferryi_guard_start(struct ferryi_guard *guard, int fd);
/* Lets go of it. */
void ferryi_guard_stop(struct ferryi_guard *guard);

#endif
