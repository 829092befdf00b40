/* Life of the pager: descriptors, staging, threads, pools. */
#include "pager.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "clock.h"
#include "error.h"
#include "exclusive.h"
#include "log.h"
#include "pager_priv.h"
#include "thread.h"
#include "uapi.h"
#include "uffd.h"

#define NEEDED_FEATURES                                                                                                \
	(FERRYI_UFFD_FEATURE_EVENT_REMAP | FERRYI_UFFD_FEATURE_EVENT_REMOVE | FERRYI_UFFD_FEATURE_EVENT_UNMAP |        \
	 FERRYI_UFFD_FEATURE_THREAD_ID | FERRYI_UFFD_FEATURE_WP_UNPOPULATED | FERRYI_UFFD_FEATURE_POISON |             \
	 FERRYI_UFFD_FEATURE_MOVE)

#define COHERENT_FEATURES (FERRYI_UFFD_FEATURE_MISSING_SHMEM | FERRYI_UFFD_FEATURE_MINOR_SHMEM)

static int open_descriptors(struct ferryi_pager *pager)
{
	bool kernel_faults;
	uint64_t offered = 0;
	int rc = ferryi_uffd_probe(&offered);

	if (rc == -EPERM)
		return ferryi_control_fail(rc, "no right to userfaultfd: allow it with the udev rule for /dev/userfaultfd, or "
					       "sysctl vm.unprivileged_userfaultfd=1, or run as root");
	if (rc == -EOPNOTSUPP || (!rc && (offered & NEEDED_FEATURES) != NEEDED_FEATURES))
		return ferryi_control_fail(-EOPNOTSUPP, "this kernel's userfaultfd lacks UFFDIO_MOVE or another needed feature: "
							"Linux 6.8 or later is needed (ferry doctor lists them)");
	if (rc)
		return ferryi_control_fail(rc, "userfaultfd: %s", ferryi_strerror(rc));
	pager->uffd = ferryi_uffd_open(NEEDED_FEATURES | (offered & COHERENT_FEATURES), &kernel_faults);
	if (pager->uffd < 0)
		return ferryi_control_fail(pager->uffd, "userfaultfd: %s", ferryi_strerror(pager->uffd));
	pager->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	pager->features = offered;
	pager->caps = FERRY_CAP_MOVE | FERRY_CAP_POISON | (kernel_faults ? FERRY_CAP_KERNEL_FAULT : 0) |
		      (offered & FERRYI_UFFD_FEATURE_WP_ASYNC ? FERRY_CAP_WP_ASYNC | FERRY_CAP_PAGEMAP_SCAN : 0) |
		      (kernel_faults && (offered & FERRYI_UFFD_FEATURE_EVENT_FORK) ? FERRY_CAP_EVENT_FORK : 0);
	return 0;
}

/*
 * Slots of every evictor (the eviction threads', the service's, the migrator), of which nothing is resident but pages
 * under way; more of the kind, for what goes round (strip.h); then those of exclusive pages; where a memory cgroup has a limit, the reserve's frames; and those of one
 * huge page.
 */
static int open_staging(struct ferryi_pager *pager)
{
	size_t pages = (size_t)(pager->nr_evict_threads + 2) * FERRYI_EVICT_SLOTS;
	unsigned nr_extra = ferryi_strips_extra(pager->attr.budget_bytes >> FERRYI_PAGE_SHIFT);

	if (ferryi_strips_open(pager, (unsigned)pages / FERRYI_EVICT_BATCH, nr_extra))
		return -ENOMEM;
	pages += (size_t)nr_extra * FERRYI_EVICT_BATCH;
	pager->exclusive->first_slot = (uint32_t)pages;
	pages += FERRYI_EXCLUSIVE_SLOTS;
	ferryi_memcg_open(&pager->memcg);
	pager->reserve->first_slot = (uint32_t)pages;
	pages += pager->memcg.nr_levels ? FERRYI_RESERVE_FRAMES : 0;
	/* Address space for a huge page at any alignment of the rest. */
	pager->staging_bytes = pages * FERRYI_PAGE_SIZE + 2 * FERRYI_SUBSECTION_SIZE;
	pager->staging = ferryi_arena_alloc(pager->arena, 2 * pager->staging_bytes); /* the second half: inline.h */
	pager->zeros = ferryi_arena_alloc(pager->arena, FERRYI_ZERO_PAGES * FERRYI_PAGE_SIZE);
	if (!pager->staging || !pager->zeros)
		return -ENOMEM;
	madvise(pager->staging, 2 * pager->staging_bytes, MADV_NOHUGEPAGE);
	uintptr_t folio = ferryi_align_up((uintptr_t)ferryi_slot_addr(pager, (uint32_t)pages), FERRYI_SUBSECTION_SIZE);

	pager->folio_move->first_slot = (uint32_t)((folio - (uintptr_t)pager->staging) >> FERRYI_PAGE_SHIFT);
	pager->zero_hash = XXH3_64bits(pager->zeros, FERRYI_PAGE_SIZE);
	int rc = ferryi_uffd_register(pager->uffd, pager->staging, pager->staging_bytes, false);

	if (!rc && pager->memcg.nr_levels)
		ferryi_reserve_open(pager);
	return rc;
}

void ferryi_staging_release(struct ferryi_pager *pager, uint8_t *addr, size_t len)
{
	int uffd = addr < pager->staging + pager->staging_bytes ? pager->uffd : pager->inline_mode.uffd;

	ferryi_uffd_unregister(uffd, addr, len);
	madvise(addr, len, MADV_DONTNEED);
	int rc = ferryi_uffd_register(uffd, addr, len, false);

	if (rc) /* no more mappings allowed: these slots take no page any more, and the pages stay in RAM */
		ferryi_error("staging: cannot be armed again (%s): raise vm.max_map_count", ferryi_strerror(rc));
}

static int start_handlers(struct ferryi_pager *pager)
{
	for (unsigned i = 0; i < pager->nr_handlers; i++) {
		struct ferryi_handler *h = &pager->handlers[i];

		h->pager = pager;
		h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (h->wake_fd < 0)
			return -errno;
		int rc = ferryi_fetcher_init(&h->fetcher, pager, h->wake_fd);

		if (!rc)
			rc = ferryi_thread_start(&h->thread, ferryi_handler_main, h);
		if (rc)
			return rc;
		h->started = true;
	}
	return 0;
}

static int start_evictors(struct ferryi_pager *pager)
{
	for (unsigned i = 0; i < pager->nr_evict_threads; i++) {
		struct ferryi_evict_thread *t = &pager->evict_threads[i];
		uint32_t slot = i * FERRYI_EVICT_SLOTS;

		t->pager = pager;
		t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (t->wake_fd < 0)
			return -errno;
		int rc = ferryi_evictor_init(&t->evictor, pager, ferryi_slot_addr(pager, slot), slot, t->wake_fd);

		if (!rc)
			rc = ferryi_thread_start(&t->thread, ferryi_evict_thread_main, t);
		if (rc)
			return rc;
		t->started = true;
	}
	return 0;
}

/* The keeper's rounds: what may block or allocate, on behalf of the threads that may not. */
static void keep(void *ctx)
{
	ferryi_zombies_reap(ctx);
	ferryi_bind_reserve_ahead(ctx);
}

static int start(struct ferryi_pager *pager)
{
	uint32_t service_slot = pager->nr_evict_threads * FERRYI_EVICT_SLOTS;
	uint32_t migrator_slot = service_slot + FERRYI_EVICT_SLOTS;
	int rc = ferryi_guard_start(&pager->guard, pager->uffd);

	if (!rc)
		rc = ferryi_keeper_start(pager->arena, keep, pager, &pager->counters, &pager->keeper);
	if (!rc)
		rc = ferryi_fetcher_init(pager->service_fetcher, pager, -1);
	if (!rc)
		rc = ferryi_evictor_init(pager->service_evictor, pager, ferryi_slot_addr(pager, service_slot), service_slot,
					 -1);
	ferryi_evictor_init_unwired(pager->migrator, pager, ferryi_slot_addr(pager, migrator_slot), migrator_slot);
	if (!rc && pager->attr.fork_copies)
		rc = ferryi_children_open(pager);
	if (!rc)
		rc = start_handlers(pager);
	return rc ? rc : start_evictors(pager);
}

static void stop_threads(struct ferryi_pager *pager)
{
	uint64_t one = 1;

	atomic_store(&pager->stopping, true);
	for (unsigned i = 0; i < pager->nr_evict_threads; i++) {
		struct ferryi_evict_thread *t = &pager->evict_threads[i];

		if (!t->started)
			continue;
		if (write(t->wake_fd, &one, sizeof(one)) < 0)
			ferryi_debug("evict thread %u: awake already", i);
		pthread_join(t->thread, NULL);
		t->started = false;
	}
	ferryi_pager_wake_handlers(pager);
	for (unsigned i = 0; i < pager->nr_handlers; i++) {
		if (pager->handlers[i].started)
			pthread_join(pager->handlers[i].thread, NULL);
		pager->handlers[i].started = false;
	}
}

/* Whatever open got so far; memory is the arena's and goes with it. */
static void destroy(struct ferryi_pager *pager)
{
	if (pager->fork_guard_fd >= 0)
		ferryi_fork_guard_close(pager);
	ferryi_rebuild_stop(pager);
	ferryi_rebuild_close(pager);
	ferryi_children_close(pager);
	ferryi_inline_stop(pager);
	stop_threads(pager);
	ferryi_keeper_stop(&pager->keeper);
	if (pager->children.kick_fd >= 0)
		close(pager->children.kick_fd);
	for (unsigned i = 0; i < pager->nr_handlers; i++) {
		if (pager->handlers[i].wake_fd >= 0)
			close(pager->handlers[i].wake_fd);
	}
	for (unsigned i = 0; i < pager->nr_evict_threads; i++) {
		if (pager->evict_threads[i].wake_fd >= 0)
			close(pager->evict_threads[i].wake_fd);
	}
	ferryi_guard_stop(&pager->guard);
	ferryi_guard_stop(&pager->inline_mode.guard);
	if (pager->uffd >= 0)
		close(pager->uffd);
	if (pager->inline_mode.uffd >= 0)
		close(pager->inline_mode.uffd);
	if (pager->pagemap_fd >= 0)
		close(pager->pagemap_fd);
	ferryi_coherent_close(pager);
	ferryi_memcg_close(&pager->memcg);
	ferryi_areas_fini(&pager->areas);
	ferryi_mutex_fini(&pager->leave_lock);
	ferryi_mutex_fini(&pager->service_lock);
	ferryi_mutex_fini(&pager->children.lock);
	ferryi_mutex_fini(&pager->events_lock);
	ferryi_mutex_fini(&pager->zombies_lock);
}

static struct ferryi_pager *allocate(const struct ferryi_pager_attr *attr)
{
	struct ferryi_pager *pager = ferryi_arena_alloc(attr->arena, sizeof(*pager));

	if (!pager)
		return NULL;
	pager->attr = *attr;
	pager->arena = attr->arena;
	pager->model = attr->model;
	pager->uffd = pager->pagemap_fd = pager->fork_guard_fd = pager->children.kick_fd = -1;
	pager->children.heir.sock = -1;
	atomic_store(&pager->rebuild.kick_fd, -1);
	pager->coherent.maps_fd = pager->inline_mode.uffd = -1;
	ferryi_mutex_init(&pager->leave_lock, FERRYI_RANK_LEAVE);
	ferryi_mutex_init(&pager->service_lock, FERRYI_RANK_SERVICE);
	ferryi_mutex_init(&pager->children.lock, FERRYI_RANK_CHILDREN);
	ferryi_mutex_init(&pager->events_lock, FERRYI_RANK_EVENTS);
	ferryi_mutex_init(&pager->zombies_lock, FERRYI_RANK_LEAF);
	pager->handlers = ferryi_arena_alloc(attr->arena, attr->fault_threads * sizeof(*pager->handlers));
	pager->evict_threads = ferryi_arena_alloc(attr->arena, attr->evict_threads * sizeof(*pager->evict_threads));
	pager->service_fetcher = ferryi_arena_alloc(attr->arena, sizeof(*pager->service_fetcher));
	pager->service_evictor = ferryi_arena_alloc(attr->arena, sizeof(*pager->service_evictor));
	pager->migrator = ferryi_arena_alloc(attr->arena, sizeof(*pager->migrator));
	pager->exclusive = ferryi_arena_alloc(attr->arena, sizeof(*pager->exclusive));
	pager->reserve = ferryi_arena_alloc(attr->arena, sizeof(*pager->reserve));
	pager->folio_move = ferryi_arena_alloc(attr->arena, sizeof(*pager->folio_move));
	if (!pager->handlers || !pager->evict_threads || !pager->service_fetcher || !pager->service_evictor ||
	    !pager->migrator || !pager->exclusive || !pager->reserve || !pager->folio_move)
		return NULL;
	pager->nr_handlers = attr->fault_threads;
	pager->nr_evict_threads = attr->evict_threads;
	for (unsigned i = 0; i < pager->nr_handlers; i++)
		pager->handlers[i].wake_fd = -1;
	for (unsigned i = 0; i < pager->nr_evict_threads; i++)
		pager->evict_threads[i].wake_fd = -1;
	return pager;
}

int ferryi_pager_open(const struct ferryi_pager_attr *attr, struct ferryi_pager **out)
{
	uint64_t slots = (uint64_t)(attr->evict_threads + 1) * FERRYI_EVICT_SLOTS;
	int rc;

	if ((attr->budget_bytes >> FERRYI_PAGE_SHIFT) < 2 * slots)
		return ferryi_control_fail(-EINVAL, "a budget of %llu bytes is too small for %u eviction threads: at least %llu",
					   (unsigned long long)attr->budget_bytes, attr->evict_threads,
					   (unsigned long long)(2 * slots << FERRYI_PAGE_SHIFT));
	struct ferryi_pager *pager = allocate(attr);

	if (!pager)
		return ferryi_control_fail(-ENOMEM, "no address space left for the pager's tables");
	/* A staged page that is rescued is in RAM twice for a moment: as many as there are slots. */
	ferryi_budget_init(&pager->budget, attr->budget_bytes >> FERRYI_PAGE_SHIFT, slots);
	rc = ferryi_areas_init(&pager->areas, pager->arena);
	if (!rc)
		rc = open_descriptors(pager);
	if (!rc)
		rc = ferryi_fork_guard_open(pager);
	if (!rc)
		rc = open_staging(pager);
	if (!rc)
		rc = start(pager);
	if (rc) {
		destroy(pager);
		return rc;
	}
	*out = pager;
	return 0;
}

void ferryi_home_begin(struct ferryi_pager *pager)
{
	atomic_fetch_add(&pager->evict_paused, 1);
	atomic_fetch_add(&pager->budget.unlimited, 1);
}

void ferryi_home_end(struct ferryi_pager *pager)
{
	atomic_fetch_sub(&pager->budget.unlimited, 1);
	atomic_fetch_sub(&pager->evict_paused, 1);
	ferryi_pager_need_memory(pager);
}

int ferryi_pager_release(struct ferryi_pager *pager)
{
	if (ferryi_counter_read(&pager->counters.g_pinned_pages))
		return ferryi_control_fail(-EBUSY, "close: pages are pinned; unpin them first");
	int rc = ferryi_pager_release_all(pager);

	if (rc)
		return ferryi_control_fail(rc, "close: a page cannot be had back (its server is gone, or it is poisoned); "
					       "everything stays as it was");
	ferryi_descriptors_flush(pager); /* names that are kept for good: that nothing is there any more */
	return 0;
}

void ferryi_pager_close(struct ferryi_pager **pager_p)
{
	struct ferryi_pager *pager = *pager_p;

	*pager_p = NULL;
	destroy(pager);
}

void ferryi_pager_exit(struct ferryi_pager *pager)
{
	ferryi_children_give_all(pager);
}

int ferryi_pager_inline_start(struct ferryi_pager *pager)
{
	return ferryi_inline_start(pager);
}

uint64_t ferryi_pager_caps(const struct ferryi_pager *pager)
{
	return pager->caps;
}

bool ferryi_pager_is_forked(const struct ferryi_pager *pager)
{
	return atomic_load(&pager->forked);
}

/* ---- pools ---- */

/* Every thread's lines, then the service's, then the lanes'; NULL past the end. */
static struct ferryi_lines *lines_at(struct ferryi_pager *pager, unsigned i)
{
	if (i < pager->nr_handlers)
		return &pager->handlers[i].fetcher.lines;
	i -= pager->nr_handlers;
	if (i < pager->nr_evict_threads)
		return &pager->evict_threads[i].evictor.lines;
	i -= pager->nr_evict_threads;
	if (i < 2)
		return i == 0 ? &pager->service_fetcher->lines : &pager->service_evictor->lines;
	i -= 2;
	return i < pager->inline_mode.nr_lanes ? &pager->inline_mode.lanes[i].fetcher.lines : NULL;
}

static int close_lines(struct ferryi_pager *pager, unsigned index)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	unsigned nr_threads = pager->nr_handlers + pager->nr_evict_threads;
	struct ferryi_lines *lines;
	int rc = 0;

	for (unsigned i = 0; (lines = lines_at(pager, i)); i++) {
		bool service = i >= nr_threads && i < nr_threads + 2, lane = i >= nr_threads + 2;

		if (service)
			ferryi_mutex_lock(&pager->service_lock);
		if (lane)
			ferryi_inline_seat_lock(i - nr_threads - 2);
		int one = ferryi_lines_close_pool(lines, index, service || lane, deadline_ns);

		if (lane)
			ferryi_inline_seat_unlock(i - nr_threads - 2);
		if (service)
			ferryi_mutex_unlock(&pager->service_lock);
		rc = rc ? rc : one;
	}
	if (pager->attr.fork_copies) {
		ferryi_mutex_lock(&pager->children.lock);
		int one = ferryi_lines_close_pool(&pager->children.lines, index, true, deadline_ns);

		ferryi_mutex_unlock(&pager->children.lock);
		rc = rc ? rc : one;
	}
	if (atomic_load(&pager->rebuild.started)) {
		ferryi_mutex_lock(&pager->rebuild.lock);
		int one = ferryi_lines_close_pool(&pager->rebuild.lines, index, true, deadline_ns);

		ferryi_mutex_unlock(&pager->rebuild.lock);
		rc = rc ? rc : one;
	}
	return rc;
}

/* A channel of every thread's to the lender; else none of them stays. -ETIMEDOUT, -ENOTCONN, with a line. */
static int open_lines(struct ferryi_pager *pager, const struct ferryi_lender *lender)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferryi_lines *lines;
	int rc = 0;

	for (unsigned i = 0; (lines = lines_at(pager, i)); i++)
		ferryi_lines_want(lines, lender);
	for (unsigned i = 0; !rc && (lines = lines_at(pager, i)); i++)
		rc = ferryi_lines_wait(lines, lender->index, deadline_ns);
	if (!rc)
		return 0;
	close_lines(pager, lender->index);
	return ferryi_control_fail(rc, "%s: the data connection cannot be opened (%s)",
				   ferryi_session_name(ferryi_lease_session(lender->lease)), ferryi_strerror(rc));
}

/*
 * Who works with a pool outside the area table's lock, against its detaching:
 *
 *   ferryi_pager_pool_begin                ferryi_pager_remove_pool
 *   ------------------------------------   --------------------------------------
 *   users++                                pools[index] = NULL
 *   pools[index]: NULL? users--, none      users == 0? else wait
 *
 * Who works under that lock, by a block's sub-section: once no sub-section of
 * the pool is in use, no block names it, and a writer's turn at the lock ends
 * the last reader that has seen one.
 */
struct ferry_pool *ferryi_pager_pool_begin(struct ferryi_pager *pager, unsigned index)
{
	atomic_fetch_add(&pager->pool_users[index], 1);
	struct ferry_pool *pool = atomic_load(&pager->pools[index]);

	if (!pool)
		ferryi_pager_pool_end(pager, index);
	return pool;
}

void ferryi_pager_pool_end(struct ferryi_pager *pager, unsigned index)
{
	atomic_fetch_sub(&pager->pool_users[index], 1);
}

static bool wait_for_users(struct ferryi_pager *pager, unsigned index)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);

	while (atomic_load(&pager->pool_users[index])) {
		if (ferryi_now_ns() >= deadline_ns)
			return false;
		poll(NULL, 0, 1);
	}
	return true;
}

int ferryi_pager_add_pool(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	unsigned index = ferryi_pool_index(pool);
	int rc = ferryi_pool_is_coherent(pool) ? ferryi_coherent_prepare(pager) : 0;

	if (!rc)
		rc = open_lines(pager, ferryi_pool_lender(pool));
	if (rc)
		return rc;
	ferryi_choose_reset(pager, index);
	rc = ferryi_descriptors_load(pager, pool);
	if (rc) {
		close_lines(pager, index);
		return rc;
	}
	atomic_store(&pager->pools[index], pool);
	return 0;
}

void ferryi_pager_pool_tell(struct ferryi_pager *pager, unsigned index, uint64_t capacity_bytes, uint32_t distance)
{
	ferryi_choose_tell(pager, index, capacity_bytes, distance);
}

int ferryi_pager_remove_pool(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	unsigned index = ferryi_pool_index(pool);

	if (ferryi_pool_altmap(pool))
		ferryi_descriptors_flush(pager); /* where it is kept: that nothing is there any more */
	atomic_store(&pager->pools[index], NULL); /* no block is bound to it from now on */
	if (!wait_for_users(pager, index)) {
		atomic_store(&pager->pools[index], pool);
		return ferryi_control_fail(-EBUSY, "detach: a request for the pool's memory is still under way");
	}
	if (ferryi_pool_used_bytes(pool)) {
		atomic_store(&pager->pools[index], pool);
		return ferryi_control_fail(-EBUSY, "detach: pages of this process live in the pool");
	}
	ferryi_areas_write_lock(&pager->areas);
	ferryi_areas_write_unlock(&pager->areas);
	int rc = close_lines(pager, index);

	for (unsigned k = 0; k < FERRYI_MAX_REPLICAS; k++) {
		struct ferryi_replica *replica = ferryi_pool_replica(pool, k);
		int one = replica ? close_lines(pager, replica->lender.index) : 0;

		rc = rc ? rc : one;
	}
	if (rc)
		ferryi_control_fail(rc, "detach: a connection did not close in time");
	return rc;
}

int ferryi_pager_add_replica(struct ferryi_pager *pager, struct ferryi_replica *replica, bool is_new)
{
	int rc = open_lines(pager, &replica->lender);

	if (rc)
		return rc;
	rc = ferryi_replica_join(replica, is_new);
	if (rc)
		close_lines(pager, replica->lender.index);
	else
		ferryi_rebuild_kick(pager);
	return rc;
}

int ferryi_pager_remove_replica(struct ferryi_pager *pager, struct ferryi_replica *replica)
{
	ferryi_areas_write_lock(&pager->areas); /* as in ferryi_pager_remove_pool: no fault has a location of it any more */
	ferryi_areas_write_unlock(&pager->areas);
	return close_lines(pager, replica->lender.index);
}

void ferryi_pager_pool_lost(struct ferryi_pager *pager)
{
	ferryi_keeper_kick(pager->keeper);
	ferryi_pager_wake_handlers(pager);
	ferryi_rebuild_kick(pager);
}

void ferryi_pager_copies_lost(struct ferryi_pager *pager, unsigned nr)
{
	ferryi_count(&pager->counters.c_copies_lost, nr);
}

int ferryi_pager_rebuild_start(struct ferryi_pager *pager)
{
	int rc = ferryi_rebuild_start(pager);

	ferryi_rebuild_kick(pager);
	return rc;
}

void ferryi_pager_rebuild_stop(struct ferryi_pager *pager)
{
	ferryi_rebuild_stop(pager);
}
