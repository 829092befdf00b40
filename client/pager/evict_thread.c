/*
 * Eviction threads: asleep until fewer pages than the low mark are free, then
 * evicting until the high mark is reached, or there are frames enough for what
 * is read ahead (strip.h). `asleep` against need_memory:
 *
 *   fault thread                          eviction thread
 *   -----------------------------------   --------------------------------------
 *   charge (free < low)                   asleep = true (seq_cst)
 *   asleep? (seq_cst) -> write eventfd    free < low? -> do not sleep
 *                                         poll(eventfd); asleep = false
 *
 * Either the thread sees the charge, or the charger sees it asleep. A fork that
 * wants eviction to rest does the same with `busy` and evict_paused.
 */
#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "pager_priv.h"

#define STUCK_MS      5    /* nothing could leave: look again */
#define CHECK_MS      1000 /* asleep: links may want tending */
#define PATIENCE_MS   100  /* with mirrors that let go of nothing, at a memory cgroup's limit */
#define TELL_MS       1000 /* after that */
#define MEMCG_MS      20   /* asleep, with a memory cgroup's limit: it may come near without a fault */

/* At a memory cgroup's limit pages leave down to the smallest budget; past that, one for one that comes by the reserve. */
static bool is_pressed(struct ferryi_pager *pager)
{
	if (!ferryi_memcg_is_pressed(&pager->memcg))
		return false;
	uint64_t charged = atomic_load_explicit(&pager->budget.charged, memory_order_relaxed);

	if (!atomic_exchange(&pager->memcg.told, true))
		ferryi_warn("memory cgroup: %llu MiB from its limit; pages leave though the budget would hold them",
			    (unsigned long long)ferryi_memcg_room(&pager->memcg) >> 20);
	return charged > FERRY_BUDGET_MIN >> FERRYI_PAGE_SHIFT ||
	       (charged && ferryi_memcg_is_tight(&pager->memcg) && ferryi_reserve_is_low(pager));
}

/* Past the low mark there is time: no more leaves at a time than can land again in its frames. */
static bool wants_room(struct ferryi_pager *pager)
{
	uint64_t free = ferryi_budget_free(&pager->budget);

	return free < atomic_load_explicit(&pager->budget.high, memory_order_relaxed) &&
	       (free < atomic_load_explicit(&pager->budget.low, memory_order_relaxed) || !ferryi_strips_are_enough(pager));
}

/* *pressed: for the sake of a memory cgroup, too. */
static bool has_work(struct ferryi_pager *pager, bool *pressed)
{
	*pressed = is_pressed(pager);
	return !atomic_load(&pager->evict_paused) && (wants_room(pager) || *pressed);
}

/*
 * Near a cgroup's limit another page will do, if a mirror would have to sleep to let go of this one. But faults may
 * wait for it: where all have been refused for PATIENCE_MS, mirrors are told, not asked, for TELL_MS.
 */
static bool may_be_refused(struct ferryi_evict_thread *t, bool pressed)
{
	uint64_t since = ferryi_now_ns() - t->refused_ns;

	if (since >= (PATIENCE_MS + TELL_MS) * FERRYI_NS_PER_MS)
		t->refused_ns = 0;
	return pressed && (!t->refused_ns || since < PATIENCE_MS * FERRYI_NS_PER_MS);
}

static unsigned evict_some(struct ferryi_evict_thread *t, bool pressed)
{
	t->evictor.is_urgent = may_be_refused(t, pressed);
	t->evictor.was_refused = false;
	unsigned moved = ferryi_evict_some(&t->evictor);

	if (t->evictor.is_urgent && moved)
		t->refused_ns = 0;
	else if (t->evictor.was_refused && !t->refused_ns)
		t->refused_ns = ferryi_now_ns();
	return moved;
}

static int idle_ms(struct ferryi_pager *pager)
{
	return pager->memcg.nr_levels ? MEMCG_MS : CHECK_MS;
}

static void sleep_until_needed(struct ferryi_evict_thread *t, int timeout_ms)
{
	struct pollfd pfd = { .fd = t->wake_fd, .events = POLLIN };
	uint64_t count;

	atomic_store(&t->asleep, true);
	if (timeout_ms != STUCK_MS && !atomic_load(&t->pager->evict_paused) && ferryi_budget_is_low(&t->pager->budget))
		timeout_ms = 0;
	if (poll(&pfd, 1, timeout_ms) > 0 && read(t->wake_fd, &count, sizeof(count)) < 0)
		count = 0; /* EAGAIN: nothing was there after all */
	atomic_store(&t->asleep, false);
}

static int evict_round(struct ferryi_evict_thread *t)
{
	bool pressed;

	while (has_work(t->pager, &pressed) && !atomic_load_explicit(&t->pager->stopping, memory_order_relaxed)) {
		if (!evict_some(t, pressed)) {
			ferryi_evict_drain(&t->evictor);
			if (t->evictor.error == -ENOMEM) /* a late-bound block: the keeper leases more */
				ferryi_keeper_kick(t->pager->keeper);
			return STUCK_MS;
		}
		ferryi_evict_poll(&t->evictor);
		ferryi_descriptors_write_some(&t->evictor);
	}
	ferryi_evict_drain(&t->evictor);
	return idle_ms(t->pager);
}

void *ferryi_evict_thread_main(void *arg)
{
	struct ferryi_evict_thread *t = arg;

	pthread_setname_np(pthread_self(), "ferry-evict");
	atomic_store(&t->tid, (int)syscall(SYS_gettid));
	while (!atomic_load(&t->pager->stopping)) {
		atomic_store(&t->busy, true);
		int timeout_ms = evict_round(t);

		ferryi_evict_poll(&t->evictor);
		atomic_store(&t->busy, false);
		sleep_until_needed(t, timeout_ms);
	}
	ferryi_evict_drain(&t->evictor);
	return NULL;
}

void ferryi_pager_need_memory(struct ferryi_pager *pager)
{
	uint64_t one = 1;

	for (unsigned i = 0; i < pager->nr_evict_threads; i++) {
		struct ferryi_evict_thread *t = &pager->evict_threads[i];

		if (atomic_load(&t->asleep) && write(t->wake_fd, &one, sizeof(one)) < 0)
			continue; /* EAGAIN: woken already */
	}
}
