/*
 * The servers that FERRY_SERVERS stands for: named ones, and those that are
 * found (common/discover). At open in the caller's thread; afterwards a thread
 * of its own, ferry-scout, looks for more where there may be some: it attaches
 * what has appeared, and never takes anything away.
 */
#ifndef FERRYI_LIFE_SCOUT_H
#define FERRYI_LIFE_SCOUT_H

#include <pthread.h>
#include <stdbool.h>

struct ferry;

struct ferryi_scout {
	/* owned by who opens and closes the ferry */
	bool is_running;
	pthread_t thread;
	int stop_fd; /* readable: the end; valid while it runs */
	/* owned by the thread */
	unsigned nr_told; /* servers that a line has said cannot be attached ... */
	char told[16][320]; /* ... these */
	int wait_ms;	    /* until the next look, where nobody tells of changes */
	bool is_amiss;	    /* in this look: something cannot be attached */
	bool list_failed; /* a line has said that a source does not answer */
};

/*
 * Attaches the servers of the configuration. 0, or why one that has to be there is not (FERRY_SERVERS_OPTIONAL), or
 * none is. ASSUMPTION: nobody else has the ferry yet.
 */
int ferryi_scout_attach(struct ferry *ferry);
/* Starts the thread where servers may still appear. Without it (-EAGAIN, no descriptor) all goes on, with a line. */
void ferryi_scout_start(struct ferry *ferry);
/* Returns when the thread has ended; a request that is under way is waited for. ASSUMPTION: the ferry lock is not held. */
void ferryi_scout_stop(struct ferry *ferry);

#endif
