/* See rebuild.h. */
#include "rebuild.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "copies.h"
#include "log.h"
#include "pager_priv.h"
#include "thread.h"

#define RUN_PAGES 64u /* copied by one read and one write */
#define RUN_BYTES ((size_t)RUN_PAGES * FERRYI_PAGE_SIZE)
#define PAUSE_MS  1
#define SLICE_MS  50	/* of a longer pause, so that a stop is seen */
#define AGAIN_MS  5000	/* no server was found, or copying failed: try again */
#define IDLE_MS	  60000

static bool must_stop(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	return atomic_load(&pager->rebuild.stopping) || ferryi_pool_lost(pool) ||
	       atomic_load(&pager->pools[ferryi_pool_index(pool)]) != pool; /* about to be detached */
}

/* ---- one sub-section ---- */

/* One operation, to its end. -EAGAIN: the channel took it not. */
static int run_op_locked(struct ferryi_channel *channel, struct ferryi_op *op)
{
	struct ferryi_op *p = op;
	int n;

	if (ferryi_channel_submit(channel, &p, 1) != 1)
		return -EAGAIN;
	while ((n = ferryi_channel_poll(channel, &p, 1)) == 0)
		poll(NULL, 0, 0); /* no hurry: others have the CPU first */
	return n < 0 ? n : op->status;
}

/* Locations are taken off by this thread, or once it does not use the pool any more: they stay. */
static int read_run_locked(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, unsigned nr)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	struct ferryi_lines *lines = &pager->rebuild.lines;
	struct ferryi_location from;
	bool is_there;

	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS; k++) {
		if (ferryi_pool_location(pool, sub, pfn, k, &from) && from.is_read_from)
			ferryi_lines_need(lines, from.lender);
	}
	struct ferryi_channel *channel = ferryi_copies_source(lines, pool, sub, pfn, &from, &is_there);

	if (!channel)
		return is_there ? -EAGAIN : -EHWPOISON;
	struct ferryi_op op = { .kind = FERRYI_OP_READ,
				.local = pager->rebuild.buf,
				.len_bytes = (size_t)nr * FERRYI_PAGE_SIZE,
				.remote = from.remote,
				.remote_off = from.off };

	op.deadline_ns = ferryi_copies_deadline(pager, pool, sub, pfn, &from,
						ferryi_deadline_ms(pager->attr.fault_timeout_ms));
	int rc = run_op_locked(channel, &op);

	if (rc)
		ferryi_copies_avoid(pool, from.lender->index);
	return rc ? -EAGAIN : 0; /* from another location, or the same once more, until the deadline */
}

static int write_run_locked(struct ferryi_pager *pager, struct ferryi_replica *replica, uint64_t nr_sub, unsigned first,
			    unsigned nr)
{
	struct ferryi_channel *channel = ferryi_lines_need(&pager->rebuild.lines, &replica->lender);
	const struct ferryi_replica_place *place = &replica->place[nr_sub];
	struct ferryi_op op = { .kind = FERRYI_OP_WRITE,
				.local = pager->rebuild.buf,
				.len_bytes = (size_t)nr * FERRYI_PAGE_SIZE,
				.remote = place->remote,
				.remote_off = place->off + (uint64_t)first * FERRYI_PAGE_SIZE,
				.deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms) };

	return channel && run_op_locked(channel, &op) == 0 ? 0 : -EAGAIN;
}

static bool is_given_up(const struct ferryi_replica *replica)
{
	return atomic_load(&replica->state) != FERRYI_REPLICA_FILLING;
}

/* Pages [first, first + nr) of a sub-section that nobody writes to. 0, -ETIMEDOUT, -EHWPOISON, -ECANCELED. */
static int copy_run(struct ferryi_pager *pager, struct ferryi_replica *replica, uint64_t nr_sub, uint64_t pfn,
		    unsigned first, unsigned nr)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	bool has_read = false;

	for (;;) {
		ferryi_mutex_lock(&pager->rebuild.lock);
		int rc = has_read ? 0 : read_run_locked(pager, replica->pool, pfn + first, nr);

		has_read = !rc;
		if (!rc)
			rc = write_run_locked(pager, replica, nr_sub, first, nr);
		ferryi_mutex_unlock(&pager->rebuild.lock);
		if (rc != -EAGAIN)
			return rc;
		if (must_stop(pager, replica->pool) || is_given_up(replica))
			return -ECANCELED;
		if (ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		poll(NULL, 0, PAUSE_MS);
	}
}

static int copy_subsection(struct ferryi_pager *pager, struct ferryi_replica *replica, uint64_t nr_sub)
{
	struct ferry_pool *pool = replica->pool;
	uint64_t pfn = ferryi_pool_pfn_first(pool) + nr_sub * FERRYI_PAGES_PER_SUBSECTION;
	/* Where some page has failed, page by page: each from where it is well. */
	unsigned nr = ferryi_pool_any_failed(pool) && ferryi_pool_subsection_failed(pool, pfn) ? 1 : RUN_PAGES;
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	int rc = 0;

	if (!ferryi_subsection_of(pager->model, pfn))
		return 0;
	while (!ferryi_pool_copy_begin(pool, pfn) && !rc) { /* writes under way have a deadline */
		rc = must_stop(pager, pool) ? -ECANCELED : ferryi_now_ns() >= deadline_ns ? -ETIMEDOUT : 0;
		poll(NULL, 0, PAUSE_MS);
	}
	for (unsigned i = 0; i < FERRYI_PAGES_PER_SUBSECTION && !rc; i += nr)
		rc = copy_run(pager, replica, nr_sub, pfn, i, nr);
	ferryi_pool_copy_end(pool, pfn);
	return rc;
}

/* ---- one replica ---- */

/* Waits until as much may be copied again. */
static void pace(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_rebuild *rebuild = &pager->rebuild;
	uint64_t now = ferryi_now_ns();

	rebuild->next_ns = ferryi_max_u64(rebuild->next_ns, now) +
			   FERRYI_SUBSECTION_SIZE * FERRYI_NS_PER_MS * 1000 / pager->attr.rebuild_rate;
	while (now < rebuild->next_ns && !must_stop(pager, pool)) {
		uint64_t ms = (rebuild->next_ns - now) / FERRYI_NS_PER_MS;

		if (!ms)
			break; /* what is left is added to the next pause */
		poll(NULL, 0, (int)ferryi_min_u64(ms, SLICE_MS));
		now = ferryi_now_ns();
	}
}

static uint64_t used_bytes(struct ferry_pool *pool)
{
	uint64_t bytes = 0;

	for (uint64_t nr = 0; ferryi_pool_next_used(pool, &nr); nr++)
		bytes += FERRYI_SUBSECTION_SIZE;
	return bytes;
}

static int copy_all(struct ferryi_pager *pager, struct ferryi_replica *replica, uint64_t *left)
{
	struct ferryi_counters *c = &pager->counters;

	for (uint64_t nr = 0; ferryi_pool_next_used(replica->pool, &nr); nr++) {
		int rc = must_stop(pager, replica->pool) || is_given_up(replica) ? -ECANCELED :
										   copy_subsection(pager, replica, nr);

		if (rc)
			return rc;
		uint64_t done = ferryi_min_u64(*left, FERRYI_SUBSECTION_SIZE);

		*left -= done;
		ferryi_uncount(&c->g_rebuild_left_bytes, done);
		ferryi_count(&c->c_bytes_rebuilt, FERRYI_SUBSECTION_SIZE);
		pace(pager, replica->pool);
	}
	return 0;
}

static void fill(struct ferryi_pager *pager, struct ferryi_replica *replica)
{
	const char *name = ferryi_session_name(ferryi_lease_session(replica->lender.lease));
	const char *of = ferryi_session_name(ferryi_lease_session(ferryi_pool_lease(replica->pool)));
	uint64_t left = used_bytes(replica->pool), all = left, start_ns = ferryi_now_ns();

	ferryi_count(&pager->counters.g_rebuild_left_bytes, left);
	int rc = copy_all(pager, replica, &left);

	ferryi_uncount(&pager->counters.g_rebuild_left_bytes, left);
	if (!rc && ferryi_replica_filled(replica)) {
		ferryi_count(&pager->counters.c_copies_rebuilt, 1);
		ferryi_notice("replica of %s at %s: filled, %llu MiB in %llu ms", of, name, (unsigned long long)all >> 20,
			      (unsigned long long)((ferryi_now_ns() - start_ns) / FERRYI_NS_PER_MS));
	} else if (rc != -ECANCELED && !is_given_up(replica)) {
		ferryi_warn("replica of %s at %s: given up, it cannot be filled (%s)", of, name, ferryi_strerror(rc));
		ferryi_replica_give_up(replica, FERRYI_LOST_CLOSED);
	}
}

/* ---- the thread ---- */

/* Fills what is to be filled; how many it tried. *is_missing: there should be more. */
static unsigned fill_all(struct ferryi_pager *pager, bool *is_missing)
{
	unsigned n = 0;

	*is_missing = false;
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		for (unsigned k = 0; k < FERRYI_MAX_REPLICAS && ferryi_pool_is_replicated(pool); k++) {
			struct ferryi_replica *replica = ferryi_pool_replica(pool, k);

			if (replica && !is_given_up(replica) && !must_stop(pager, pool)) {
				fill(pager, replica);
				n++;
			}
		}
		*is_missing = *is_missing || (ferryi_pool_is_replicated(pool) && ferryi_pool_missing(pool));
		ferryi_pager_pool_end(pager, i);
	}
	return n;
}

static void *rebuild_main(void *arg)
{
	struct ferryi_pager *pager = arg;
	struct ferryi_rebuild *rebuild = &pager->rebuild;
	struct pollfd pfd = { .fd = rebuild->kick_fd, .events = POLLIN };

	pthread_setname_np(pthread_self(), "ferry-rebuild");
	while (!atomic_load(&rebuild->stopping)) {
		uint64_t kicks;
		bool is_missing;

		pager->attr.find_servers(pager->attr.find_ctx);
		if (fill_all(pager, &is_missing)) /* what was to take the place of others does, or was given up */
			pager->attr.find_servers(pager->attr.find_ctx);
		if (poll(&pfd, 1, is_missing ? AGAIN_MS : IDLE_MS) > 0 && read(rebuild->kick_fd, &kicks, sizeof(kicks)) < 0)
			continue; /* EAGAIN: nothing was there after all */
	}
	return NULL;
}

int ferryi_rebuild_start(struct ferryi_pager *pager)
{
	struct ferryi_rebuild *rebuild = &pager->rebuild;

	if (atomic_load(&rebuild->started) || atomic_load(&rebuild->stopping))
		return 0;
	rebuild->buf = ferryi_arena_alloc(pager->arena, RUN_BYTES);
	if (!rebuild->buf)
		return -ENOMEM;
	ferryi_mutex_init(&rebuild->lock, FERRYI_RANK_REBUILD);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		return -errno;
	atomic_store(&rebuild->kick_fd, fd);
	int rc = ferryi_lines_init(&rebuild->lines, pager->keeper, rebuild->buf, RUN_BYTES, 1, -1);
	if (!rc)
		rc = ferryi_thread_start(&rebuild->thread, rebuild_main, pager);
	atomic_store(&rebuild->started, !rc);
	return rc;
}

void ferryi_rebuild_stop(struct ferryi_pager *pager)
{
	struct ferryi_rebuild *rebuild = &pager->rebuild;

	atomic_store(&rebuild->stopping, true);
	if (!atomic_load(&rebuild->started))
		return;
	ferryi_rebuild_kick(pager);
	pthread_join(rebuild->thread, NULL);
	atomic_store(&rebuild->started, false);
}

void ferryi_rebuild_close(struct ferryi_pager *pager)
{
	int fd = atomic_exchange(&pager->rebuild.kick_fd, -1);

	if (fd >= 0)
		close(fd);
}

void ferryi_rebuild_kick(struct ferryi_pager *pager)
{
	int fd = atomic_load(&pager->rebuild.kick_fd);
	uint64_t one = 1;

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
		return; /* EAGAIN: kicked already */
}
