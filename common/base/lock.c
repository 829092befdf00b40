/*
 * Ranked mutexes. With FERRYI_LOCK_DEBUG each thread keeps the list of the
 * locks that it holds and aborts, with both ranks, at the first acquisition out
 * of order; without it these are pthread calls and nothing else.
 */
#include "lock.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "log.h"

#ifdef FERRYI_LOCK_DEBUG

#define HELD_MAX 16

/* owned by each thread */
static _Thread_local const struct ferryi_mutex *held[HELD_MAX];
static _Thread_local unsigned nheld;

static void note_order(const struct ferryi_mutex *mutex)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i]->rank >= mutex->rank) {
			ferryi_error(
				"lock %p of rank %d: taken while lock %p of rank %d is held (order: lock.h)",
				(const void *)mutex, (int)mutex->rank, (const void *)held[i],
				(int)held[i]->rank);
			abort();
		}
	}
}

static void note_taken(const struct ferryi_mutex *mutex)
{
	if (nheld == HELD_MAX) {
		ferryi_error("lock %p of rank %d: one thread holds more than %d locks", (const void *)mutex,
			     (int)mutex->rank, HELD_MAX);
		abort();
	}
	held[nheld++] = mutex;
}

static unsigned find_held(const struct ferryi_mutex *mutex)
{
	for (unsigned i = 0; i < nheld; i++) {
		if (held[i] == mutex)
			return i;
	}
	ferryi_error("lock %p of rank %d: not held by this thread", (const void *)mutex, (int)mutex->rank);
	abort();
}

static void note_released(const struct ferryi_mutex *mutex)
{
	unsigned i = find_held(mutex);

	held[i] = held[--nheld];
}

#else

static inline void note_order(const struct ferryi_mutex *mutex)
{
	(void)mutex;
}

static inline void note_taken(const struct ferryi_mutex *mutex)
{
	(void)mutex;
}

static inline void note_released(const struct ferryi_mutex *mutex)
{
	(void)mutex;
}

#endif

void ferryi_mutex_init(struct ferryi_mutex *mutex, enum ferryi_lock_rank rank)
{
	pthread_mutex_init(&mutex->m, NULL); /* cannot fail without attributes */
	mutex->rank = rank;
}

void ferryi_mutex_fini(struct ferryi_mutex *mutex)
{
	pthread_mutex_destroy(&mutex->m);
}

void ferryi_mutex_lock(struct ferryi_mutex *mutex)
{
	note_order(mutex); /* before blocking: a report instead of a deadlock */
	pthread_mutex_lock(&mutex->m);
	note_taken(mutex);
}

bool ferryi_mutex_trylock(struct ferryi_mutex *mutex)
{
	/* Out of order is fine here: what does not wait cannot deadlock. */
	if (pthread_mutex_trylock(&mutex->m) != 0)
		return false;
	note_taken(mutex);
	return true;
}

void ferryi_mutex_unlock(struct ferryi_mutex *mutex)
{
	note_released(mutex);
	pthread_mutex_unlock(&mutex->m);
}

void ferryi_assert_held(const struct ferryi_mutex *mutex)
{
#ifdef FERRYI_LOCK_DEBUG
	find_held(mutex);
#else
	(void)mutex;
#endif
}

void ferryi_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

int ferryi_cond_wait_until(pthread_cond_t *cond, struct ferryi_mutex *mutex, uint64_t deadline_ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(deadline_ns / FERRYI_NS_PER_S),
		.tv_nsec = (long)(deadline_ns % FERRYI_NS_PER_S),
	};

	/* The list of held locks keeps the mutex: this thread does nothing while it is released. */
	ferryi_assert_held(mutex);
	return pthread_cond_timedwait(cond, &mutex->m, &ts) == ETIMEDOUT ? -ETIMEDOUT : 0;
}
