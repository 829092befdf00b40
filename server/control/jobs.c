/* Worker threads. See jobs.h. */
#include "jobs.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "lock.h"

struct queue {
	struct ferryi_job *head, **tail;
};

struct worker {
	/* immutable */
	struct ferryi_jobs *jobs;
	pthread_t thread;
	struct ferryi_mutex lock; /* FERRYI_RANK_LEAF: held for queue operations only */
	/* protected by lock */
	struct queue todo;
	bool stop;
	pthread_cond_t work;
};

struct ferryi_jobs {
	/* immutable */
	int event_fd;
	struct ferryi_mutex lock; /* FERRYI_RANK_LEAF */
	/* protected by lock */
	struct queue finished;
	/* owned by the control thread */
	unsigned pending;
	/* immutable */
	unsigned nworkers;
	struct worker workers[];
};

static void queue_init(struct queue *queue)
{
	queue->head = NULL;
	queue->tail = &queue->head;
}

static void queue_push(struct queue *queue, struct ferryi_job *job)
{
	job->next = NULL;
	*queue->tail = job;
	queue->tail = &job->next;
}

static struct ferryi_job *queue_pop(struct queue *queue)
{
	struct ferryi_job *job = queue->head;

	if (job) {
		queue->head = job->next;
		if (!queue->head)
			queue->tail = &queue->head;
	}
	return job;
}

static void finish(struct ferryi_jobs *jobs, struct ferryi_job *job)
{
	const uint64_t one = 1;

	ferryi_mutex_lock(&jobs->lock);
	queue_push(&jobs->finished, job);
	ferryi_mutex_unlock(&jobs->lock);
	/* Fails only when the counter is full, and then the descriptor is readable anyway. */
	if (write(jobs->event_fd, &one, sizeof(one)) < 0)
		return;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;

	pthread_setname_np(pthread_self(), "ferry-worker");
	ferryi_mutex_lock(&worker->lock);
	for (;;) {
		struct ferryi_job *job = queue_pop(&worker->todo);

		if (!job) {
			if (worker->stop)
				break;
			/* Bounded only because every wait is; nothing is missed. */
			ferryi_cond_wait_until(&worker->work, &worker->lock, ferryi_deadline_ms(60 * 1000));
			continue;
		}
		ferryi_mutex_unlock(&worker->lock);
		job->run(job);
		finish(worker->jobs, job);
		ferryi_mutex_lock(&worker->lock);
	}
	ferryi_mutex_unlock(&worker->lock);
	return NULL;
}

static int start_worker(struct ferryi_jobs *jobs, struct worker *worker)
{
	sigset_t all, before;
	int rc;

	worker->jobs = jobs;
	ferryi_mutex_init(&worker->lock, FERRYI_RANK_LEAF);
	ferryi_cond_init(&worker->work);
	queue_init(&worker->todo);
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		pthread_cond_destroy(&worker->work);
		ferryi_mutex_fini(&worker->lock);
	}
	return -rc;
}

static void stop_worker(struct worker *worker)
{
	ferryi_mutex_lock(&worker->lock);
	worker->stop = true;
	pthread_cond_signal(&worker->work);
	ferryi_mutex_unlock(&worker->lock);
	pthread_join(worker->thread, NULL);
	pthread_cond_destroy(&worker->work);
	ferryi_mutex_fini(&worker->lock);
}

int ferryi_jobs_create(unsigned nworkers, struct ferryi_jobs **out)
{
	struct ferryi_jobs *jobs;

	*out = NULL;
	jobs = calloc(1, sizeof(*jobs) + nworkers * sizeof(jobs->workers[0]));
	if (!jobs)
		return -ENOMEM;
	ferryi_mutex_init(&jobs->lock, FERRYI_RANK_LEAF);
	queue_init(&jobs->finished);
	jobs->event_fd = -1;
	if (nworkers) {
		jobs->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (jobs->event_fd < 0) {
			int rc = -errno;

			ferryi_jobs_destroy(&jobs);
			return rc;
		}
	}
	while (jobs->nworkers < nworkers) {
		int rc = start_worker(jobs, &jobs->workers[jobs->nworkers]);

		if (rc) {
			ferryi_jobs_destroy(&jobs);
			return rc;
		}
		jobs->nworkers++;
	}
	*out = jobs;
	return 0;
}

void ferryi_jobs_destroy(struct ferryi_jobs **jobsp)
{
	struct ferryi_jobs *jobs = *jobsp;

	if (!jobs)
		return;
	*jobsp = NULL;
	for (unsigned i = 0; i < jobs->nworkers; i++)
		stop_worker(&jobs->workers[i]);
	ferryi_jobs_reap(jobs);
	if (jobs->event_fd >= 0)
		close(jobs->event_fd);
	ferryi_mutex_fini(&jobs->lock);
	free(jobs);
}

void ferryi_jobs_submit(struct ferryi_jobs *jobs, uint64_t key, struct ferryi_job *job)
{
	struct worker *worker;

	if (!jobs->nworkers) {
		job->run(job);
		job->done(job);
		return;
	}
	jobs->pending++;
	worker = &jobs->workers[key % jobs->nworkers];
	ferryi_mutex_lock(&worker->lock);
	queue_push(&worker->todo, job);
	pthread_cond_signal(&worker->work);
	ferryi_mutex_unlock(&worker->lock);
}

int ferryi_jobs_fd(const struct ferryi_jobs *jobs)
{
	return jobs->event_fd;
}

void ferryi_jobs_reap(struct ferryi_jobs *jobs)
{
	struct ferryi_job *job;
	uint64_t count;

	if (jobs->event_fd >= 0 && read(jobs->event_fd, &count, sizeof(count)) < 0)
		count = 0;
	for (;;) {
		ferryi_mutex_lock(&jobs->lock);
		job = queue_pop(&jobs->finished);
		ferryi_mutex_unlock(&jobs->lock);
		if (!job)
			break;
		jobs->pending--;
		job->done(job);
	}
}

unsigned ferryi_jobs_pending(const struct ferryi_jobs *jobs)
{
	return jobs->pending;
}
