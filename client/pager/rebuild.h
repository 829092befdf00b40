/*
 * Lost copies made anew, and those moved whose server drains: the thread `ferry-rebuild`, which has servers found for
 * what the pools lack, copies what is in use there to each replica that is
 * FILLING, a sub-section at a time and no faster than it was told, and then has
 * it read from too. How its copying and the writes of others keep apart:
 * device/replica.h. It touches no managed memory and no page word.
 */
#ifndef FERRYI_PAGER_REBUILD_H
#define FERRYI_PAGER_REBUILD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "link.h"

struct ferryi_pager;

struct ferryi_rebuild {
	/* atomic: set once, by start, when all else is there; cleared by stop */
	_Atomic bool started;
	/* immutable from start to stop */
	pthread_t thread;
	uint8_t *buf;
	/* atomic: -1 before start */
	_Atomic int kick_fd;
	/* atomic: set once */
	_Atomic bool stopping;
	/* owned by the thread */
	uint64_t next_ns; /* the next sub-section is not copied before */
	/* protected by lock: the thread's while it copies, or of who closes channels */
	struct ferryi_mutex lock;
	struct ferryi_lines lines;
};

/* Unless it was started, or stopped, before; once pools are attached. One caller at a time. 0, -ENOMEM, -EMFILE, .... */
int ferryi_rebuild_start(struct ferryi_pager *pager);
/* Before the keeper stops; waits for what is under way, within the fault timeout. Nothing happens if it was not started. */
void ferryi_rebuild_stop(struct ferryi_pager *pager);
/* After stop, once nobody kicks any more. */
void ferryi_rebuild_close(struct ferryi_pager *pager);
/* Something may be missing. Any thread. */
void ferryi_rebuild_kick(struct ferryi_pager *pager);

#endif
