/* See copies.h. */
#include "copies.h"

#include <errno.h>
#include <poll.h>

#include "clock.h"
#include "evict_priv.h"
#include "pager_priv.h"
#include "service.h"

#define PAUSE_MS  1
#define AVOID_MS  2000u
#define TRY_SHARE 4u /* of the fault's time: what one location has, as long as there is another */

/* ---- reading ---- */

static bool is_avoided(const struct ferryi_lender *lender)
{
	uint64_t until = atomic_load_explicit(&lender->avoid_ns, memory_order_relaxed);

	return until && ferryi_now_ns() < until;
}

struct ferryi_channel *ferryi_copies_source(struct ferryi_lines *lines, struct ferry_pool *pool,
					    const struct ferryi_subsection *sub, uint64_t pfn, struct ferryi_location *from,
					    bool *is_there)
{
	struct ferryi_channel *channel = NULL;
	struct ferryi_location one;

	*is_there = false;
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS && !ferryi_pool_lost(pool); k++) {
		if (!ferryi_pool_location(pool, sub, pfn, k, &one) || !one.is_read_from)
			continue;
		*is_there = true;
		struct ferryi_channel *its = ferryi_lines_channel(lines, one.lender->index);

		if (!its || (channel && is_avoided(one.lender)))
			continue;
		bool is_better = !channel || is_avoided(from->lender);

		if (is_better) {
			channel = its;
			*from = one;
		}
		if (!is_avoided(from->lender))
			break;
	}
	return channel;
}

uint64_t ferryi_copies_deadline(const struct ferryi_pager *pager, const struct ferry_pool *pool,
				const struct ferryi_subsection *sub, uint64_t pfn, const struct ferryi_location *from,
				uint64_t deadline_ns)
{
	struct ferryi_location other;

	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS && ferryi_pool_is_replicated(pool); k++) {
		if (ferryi_pool_location(pool, sub, pfn, k, &other) && other.is_read_from && other.lender != from->lender)
			return ferryi_min_u64(deadline_ns, ferryi_deadline_ms(pager->attr.fault_timeout_ms / TRY_SHARE));
	}
	return deadline_ns;
}

void ferryi_copies_avoid(struct ferry_pool *pool, unsigned index)
{
	if (ferryi_pool_is_replicated(pool))
		ferryi_lender_avoid(pool, index, ferryi_deadline_ms(AVOID_MS));
}

/* ---- writing ---- */

int ferryi_copies_can_write(struct ferryi_evictor *ev, struct ferry_pool *pool, const struct ferryi_subsection *sub,
			    uint64_t pfn)
{
	struct ferryi_location location;
	bool is_kept = false;
	int rc = 0;

	if (ferryi_pool_is_copying(pool, pfn))
		return -EAGAIN;
	if (ferryi_pool_lost(pool))
		return -ENOTCONN;
	if (ev->is_unwired)
		return 0;
	ferryi_pool_locations_begin(pool);
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS && !rc; k++) {
		if (!ferryi_pool_location(pool, sub, pfn, k, &location))
			continue;
		is_kept = is_kept || location.is_read_from;
		if (!ferryi_lines_channel(&ev->lines, location.lender->index))
			rc = -ENOTCONN;
	}
	ferryi_pool_locations_end(pool);
	return rc ? rc : is_kept ? 0 : -ENOTCONN;
}

static bool finish_if_last(struct ferryi_evict_write *write)
{
	if (--write->nr_under_way)
		return false;
	write->op.status = write->error ? write->error : write->is_kept ? 0 : -ENOTCONN;
	ferryi_pool_write_end(write->pool, write->pfn);
	return true;
}

/* One operation of the write has ended. true: it was the last one, and op.status says how it went. */
static bool end_one(struct ferryi_evict_write *write, const struct ferryi_lender *lender, bool is_read_from, int status)
{
	if (!status)
		write->is_kept = write->is_kept || is_read_from;
	else if (!ferryi_lender_is_lost(lender))
		write->error = status;
	return finish_if_last(write);
}

static bool post(struct ferryi_evictor *ev, struct ferryi_evict_write *write, struct ferryi_op *op,
		 const struct ferryi_location *location)
{
	struct ferryi_channel *channel = ferryi_lines_channel(&ev->lines, location->lender->index);

	op->remote = location->remote;
	op->remote_off = location->off;
	write->nr_under_way++;
	if (!channel)
		return false;
	op->local = ferryi_evict_source(ev, write, channel);
	return ferryi_channel_submit(channel, &op, 1) == 1;
}

static struct ferryi_copy_write *more_of(struct ferryi_evictor *ev, const struct ferryi_evict_write *write, unsigned n)
{
	return &ev->copies->more[write->batch - ev->batch][write->first][n];
}

bool ferryi_copies_write(struct ferryi_evictor *ev, struct ferryi_evict_write *write, uint64_t pfn)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(ev->pager->model, pfn);
	struct ferry_pool *pool = ferryi_subsection_pool(sub);
	const struct ferryi_op op = write->op;
	struct ferryi_location location;
	unsigned n = 0;

	write->pool = pool;
	write->pfn = pfn;
	write->error = 0;
	write->is_kept = false;
	write->lender = NULL;
	if (!ferryi_pool_write_begin(pool, pfn)) {
		write->op.status = -EAGAIN;
		return true;
	}
	write->nr_under_way = 1; /* ours: it must not end before it has begun everywhere */
	ferryi_pool_locations_begin(pool);
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS; k++) {
		if (!ferryi_pool_location(pool, sub, pfn, k, &location))
			continue;
		struct ferryi_op *its = &write->op;

		if (!write->lender) {
			write->lender = location.lender;
			write->is_read_from = location.is_read_from;
		} else {
			struct ferryi_copy_write *more = more_of(ev, write, n++);

			*more = (struct ferryi_copy_write){ .op = op, .write = write, .lender = location.lender,
							    .is_read_from = location.is_read_from };
			its = &more->op;
			ferryi_count(&ev->pager->counters.c_bytes_replicated, op.len_bytes);
		}
		if (!post(ev, write, its, &location))
			end_one(write, location.lender, location.is_read_from, -ENOTCONN);
	}
	ferryi_pool_locations_end(pool);
	return finish_if_last(write);
}

struct ferryi_evict_write *ferryi_copies_ended(struct ferryi_evictor *ev, struct ferryi_op *op)
{
	const char *at = (const char *)op, *copies = (const char *)ev->copies;
	bool is_more = at >= copies && at < copies + sizeof(*ev->copies);
	struct ferryi_copy_write *more = (struct ferryi_copy_write *)op;
	struct ferryi_evict_write *write = is_more ? more->write : (struct ferryi_evict_write *)op;
	bool ended = is_more ? end_one(write, more->lender, more->is_read_from, op->status) :
			       end_one(write, write->lender, write->is_read_from, op->status);

	return ended ? write : NULL;
}

/* ---- in the caller's thread ---- */

int ferryi_copies_read_now(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, struct ferryi_op *op)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	const uint64_t deadline_ns = op->deadline_ns;
	struct ferryi_location from;
	int rc = -ENOLINK;

	ferryi_pool_locations_begin(pool);
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS && rc; k++) {
		if (!ferryi_pool_location(pool, sub, pfn, k, &from) || !from.is_read_from)
			continue;
		op->remote = from.remote;
		op->remote_off = from.off;
		op->deadline_ns = ferryi_copies_deadline(pager, pool, sub, pfn, &from, deadline_ns);
		rc = ferryi_service_op(pager, from.lender, op);
	}
	ferryi_pool_locations_end(pool);
	return rc;
}

static bool begin_by(struct ferry_pool *pool, uint64_t pfn, uint64_t deadline_ns)
{
	while (!ferryi_pool_write_begin(pool, pfn)) { /* copied in a moment: a sub-section at a time */
		if (ferryi_now_ns() >= deadline_ns)
			return false;
		poll(NULL, 0, PAUSE_MS);
	}
	return true;
}

int ferryi_copies_write_now(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t pfn, struct ferryi_op *op)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	struct ferryi_location to;
	bool is_kept = false, is_sent = false;
	int rc = 0;

	if (!begin_by(pool, pfn, op->deadline_ns))
		return -ENOLINK;
	ferryi_pool_locations_begin(pool);
	for (unsigned k = 0; k < FERRYI_POOL_LOCATIONS; k++) {
		if (!ferryi_pool_location(pool, sub, pfn, k, &to))
			continue;
		op->remote = to.remote;
		op->remote_off = to.off;
		int one = ferryi_service_op(pager, to.lender, op);

		is_sent = is_sent || one != -ENOLINK;
		if (!one)
			is_kept = is_kept || to.is_read_from;
		else if (!rc && !ferryi_lender_is_lost(to.lender))
			rc = one;
	}
	ferryi_pool_locations_end(pool);
	ferryi_pool_write_end(pool, pfn);
	if (!rc && is_kept)
		return 0;
	if (!is_sent)
		return -ENOLINK;
	return rc && rc != -ENOLINK ? rc : -ENOTCONN;
}
