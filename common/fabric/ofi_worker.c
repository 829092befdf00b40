/*
 * Progress threads for providers that need the target's CPU (tcp): a worker
 * sleeps on the descriptors of its sources, serves what is ready, and goes on
 * looking without sleeping for spin_us after the last work.
 *
 * Whoever opens or closes endpoints of a source holds the worker's lock, so
 * progress never meets half an endpoint. Sources are named by slot and
 * generation in the event, never by pointer: one that left while its event was
 * on the way is not found any more. Adding and removing needs no wake-up: the
 * kernel takes a changed epoll set into account while a thread sleeps in it.
 */
#include "ofi.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define EVENTS_A_WAIT 32
#define WAKE_EVENT    UINT64_MAX

struct worker_slot {
	struct ferryi_ofi_source *source; /* NULL: free */
	uint32_t generation;
};

struct ferryi_ofi_worker {
	/* immutable after create */
	int epfd, wake_fd;
	uint64_t spin_ns;
	pthread_t thread;
	/* atomic: threads that want the lock; the worker lets them go first */
	_Atomic unsigned nwaiting;
	/* atomic: read without the lock to choose a worker */
	_Atomic unsigned nsources;
	/* atomic: changed with the lock held, read without it before sleeping */
	_Atomic unsigned nbusy;	 /* sources with is_busy: data in the provider's own buffers */
	_Atomic unsigned nblind; /* sources without a descriptor */
	_Atomic bool stop;
	struct ferryi_mutex lock; /* FERRYI_RANK_LEAF */
	/* protected by lock */
	struct worker_slot *slots;
	uint32_t nslots;
};

void ferryi_ofi_worker_lock(struct ferryi_ofi_worker *worker)
{
	if (!worker)
		return;
	atomic_fetch_add(&worker->nwaiting, 1);
	ferryi_mutex_lock(&worker->lock);
	atomic_fetch_sub(&worker->nwaiting, 1);
}

void ferryi_ofi_worker_unlock(struct ferryi_ofi_worker *worker)
{
	if (worker)
		ferryi_mutex_unlock(&worker->lock);
}

/* A mutex is not fair, and a busy worker would take it again at once, for ever. */
static void lock_last(struct ferryi_ofi_worker *worker)
{
	while (atomic_load_explicit(&worker->nwaiting, memory_order_relaxed))
		sched_yield();
	ferryi_mutex_lock(&worker->lock);
}

static void drive_locked(struct ferryi_ofi_worker *worker, struct ferryi_ofi_source *source)
{
	bool was_busy = source->is_busy;

	source->is_busy = source->drive(source);
	if (source->is_busy && !was_busy)
		atomic_fetch_add(&worker->nbusy, 1);
	if (!source->is_busy && was_busy)
		atomic_fetch_sub(&worker->nbusy, 1);
}

/* True when something was there to be done. */
static bool serve(struct ferryi_ofi_worker *worker, const struct epoll_event *events, int n)
{
	bool worked = n > 0;
	uint64_t count;

	lock_last(worker);
	for (int i = 0; i < n; i++) {
		uint64_t name = events[i].data.u64;
		uint32_t slot = (uint32_t)name;

		if (name == WAKE_EVENT)
			(void)!read(worker->wake_fd, &count, sizeof(count));
		else if (slot < worker->nslots && worker->slots[slot].source &&
			 worker->slots[slot].generation == name >> 32)
			drive_locked(worker, worker->slots[slot].source);
	}
	if (atomic_load(&worker->nbusy) || atomic_load(&worker->nblind)) {
		for (uint32_t i = 0; i < worker->nslots; i++) {
			struct ferryi_ofi_source *source = worker->slots[i].source;

			if (source && (source->is_busy || source->fd < 0)) {
				worked |= source->is_busy;
				drive_locked(worker, source);
			}
		}
	}
	ferryi_mutex_unlock(&worker->lock);
	return worked;
}

static void *worker_main(void *arg)
{
	struct ferryi_ofi_worker *worker = arg;
	struct epoll_event events[EVENTS_A_WAIT];
	uint64_t spin_until_ns = 0;

	while (!atomic_load_explicit(&worker->stop, memory_order_relaxed)) {
		bool spins = spin_until_ns && ferryi_now_ns() < spin_until_ns;
		/* A source turns busy in this thread only, and one that comes without a descriptor wakes it.
		 */
		bool is_busy = atomic_load(&worker->nbusy), is_blind = atomic_load(&worker->nblind);
		int n = epoll_wait(worker->epfd, events, EVENTS_A_WAIT,
				   spins || is_busy ? 0
				   : is_blind	    ? 1
						    : -1);

		if (n < 0 && errno != EINTR) {
			ferryi_error("fabric: progress thread: epoll_wait: %s", ferryi_strerror(errno));
			break;
		}
		if (n <= 0 && !is_busy && !is_blind) {
			ferryi_cpu_relax();
			continue;
		}
		if (serve(worker, events, n))
			spin_until_ns = ferryi_now_ns() + worker->spin_ns;
	}
	return NULL;
}

int ferryi_ofi_worker_create(uint64_t spin_us, const char *label, struct ferryi_ofi_worker **out)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = WAKE_EVENT};
	struct ferryi_ofi_worker *worker = calloc(1, sizeof(*worker));
	int rc;

	if (!worker)
		return -ENOMEM;
	worker->spin_ns = spin_us * FERRYI_NS_PER_US;
	ferryi_mutex_init(&worker->lock, FERRYI_RANK_LEAF);
	worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	worker->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (worker->wake_fd < 0 || worker->epfd < 0 ||
	    epoll_ctl(worker->epfd, EPOLL_CTL_ADD, worker->wake_fd, &event)) {
		rc = -errno;
		goto err_fds;
	}
	rc = -pthread_create(&worker->thread, NULL, worker_main, worker);
	if (rc)
		goto err_fds;
	pthread_setname_np(worker->thread, "ferry-progress");
	*out = worker;
	return 0;

err_fds:
	ferryi_error("%s: progress thread: %s", label, ferryi_strerror(rc));
	if (worker->epfd >= 0)
		close(worker->epfd);
	if (worker->wake_fd >= 0)
		close(worker->wake_fd);
	ferryi_mutex_fini(&worker->lock);
	free(worker);
	return rc;
}

static void wake(struct ferryi_ofi_worker *worker)
{
	uint64_t one = 1;

	while (write(worker->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void ferryi_ofi_worker_destroy(struct ferryi_ofi_worker **workerp)
{
	struct ferryi_ofi_worker *worker = *workerp;

	if (!worker)
		return;
	*workerp = NULL;
	atomic_store(&worker->stop, true);
	wake(worker);
	pthread_join(worker->thread, NULL);
	close(worker->epfd);
	close(worker->wake_fd);
	ferryi_mutex_fini(&worker->lock);
	free(worker->slots);
	free(worker);
}

static int find_slot_locked(struct ferryi_ofi_worker *worker, uint32_t *out)
{
	uint32_t i, grown = worker->nslots ? worker->nslots * 2 : 16;
	struct worker_slot *slots;

	for (i = 0; i < worker->nslots; i++)
		if (!worker->slots[i].source)
			break;
	if (i == worker->nslots) {
		slots = realloc(worker->slots, grown * sizeof(*slots));
		if (!slots)
			return -ENOMEM;
		memset(slots + worker->nslots, 0, (grown - worker->nslots) * sizeof(*slots));
		worker->slots = slots;
		worker->nslots = grown;
	}
	*out = i;
	return 0;
}

int ferryi_ofi_worker_add_locked(struct ferryi_ofi_worker *worker, struct ferryi_ofi_source *source)
{
	struct epoll_event event = {.events = EPOLLIN};
	uint32_t slot;
	int rc;

	ferryi_assert_held(&worker->lock);
	rc = find_slot_locked(worker, &slot);
	if (rc)
		return rc;
	event.data.u64 = (uint64_t)worker->slots[slot].generation << 32 | slot;
	if (source->fd >= 0 && epoll_ctl(worker->epfd, EPOLL_CTL_ADD, source->fd, &event))
		return -errno;
	worker->slots[slot].source = source;
	source->worker = worker;
	source->slot = slot;
	source->is_busy = false;
	atomic_fetch_add(&worker->nsources, 1);
	if (source->fd < 0) {
		/* The sleeper must learn that it may not sleep without end any more. */
		atomic_fetch_add(&worker->nblind, 1);
		wake(worker);
	}
	return 0;
}

void ferryi_ofi_worker_del_locked(struct ferryi_ofi_source *source)
{
	struct ferryi_ofi_worker *worker = source->worker;

	if (!worker)
		return;
	ferryi_assert_held(&worker->lock);
	if (source->fd >= 0)
		epoll_ctl(worker->epfd, EPOLL_CTL_DEL, source->fd, NULL);
	if (source->fd < 0)
		atomic_fetch_sub(&worker->nblind, 1);
	if (source->is_busy)
		atomic_fetch_sub(&worker->nbusy, 1);
	worker->slots[source->slot].source = NULL;
	worker->slots[source->slot].generation++;
	source->worker = NULL;
	atomic_fetch_sub(&worker->nsources, 1);
}

struct ferryi_ofi_worker *ferryi_ofi_worker_pick(struct ferryi_ofi_worker *const *workers, unsigned n)
{
	struct ferryi_ofi_worker *best = NULL;

	for (unsigned i = 0; i < n; i++)
		if (!best || atomic_load(&workers[i]->nsources) < atomic_load(&best->nsources))
			best = workers[i];
	return best;
}
