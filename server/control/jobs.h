/*
 * Worker threads for what may block. A job runs on the worker of its key, in
 * order with the other jobs of that key; its done() is then called by
 * ferryi_jobs_reap in the control thread.
 */
#ifndef FERRYI_CONTROL_JOBS_H
#define FERRYI_CONTROL_JOBS_H

#include <stdbool.h>
#include <stdint.h>

struct ferryi_jobs;

/* Embedded in the caller's struct; lent from submit until done() is called. */
struct ferryi_job {
	void (*run)(struct ferryi_job *job);  /* worker thread; may block */
	void (*done)(struct ferryi_job *job); /* control thread; may free the job */
	struct ferryi_job *next;
};

/*
 * nworkers 0: no threads at all, run() and done() happen inside submit (tests).
 * 0, -ENOMEM, -EAGAIN (threads), -EMFILE.
 */
int ferryi_jobs_create(unsigned nworkers, struct ferryi_jobs **out);
/* Waits for what was submitted, calls its done(). NULL allowed; nulls *jobs. */
void ferryi_jobs_destroy(struct ferryi_jobs **jobs);

/* Context: control thread; does not block (bar nworkers 0). */
void ferryi_jobs_submit(struct ferryi_jobs *jobs, uint64_t key, struct ferryi_job *job);
/* Readable when there is something to reap; -1 with nworkers 0. */
int ferryi_jobs_fd(const struct ferryi_jobs *jobs);
/* Calls done() of what has run. Context: control thread. */
void ferryi_jobs_reap(struct ferryi_jobs *jobs);
/* Submitted and not reaped yet. Context: control thread. */
unsigned ferryi_jobs_pending(const struct ferryi_jobs *jobs);

#endif
