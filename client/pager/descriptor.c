/* See descriptor.h. */
#include "descriptor.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "service.h"

#define PAUSE_MS     1
#define DRAIN_ROUNDS 64u /* that one drain writes at most: others may go on making changes */

/* ---- writing ---- */

static void end_round(struct ferryi_desc_round *round)
{
	struct ferryi_altmap *altmap = round->altmap;

	round->altmap = NULL;
	ferryi_altmap_end_write(altmap);
}

static void end_write(struct ferryi_desc_round *round, const struct ferryi_desc_write *write)
{
	for (unsigned i = 0; write->op.status && i < write->nr; i++)
		ferryi_altmap_mark(round->altmap, round->group[write->first + i]);
	round->failed |= write->op.status != 0;
	if (--round->nr_outstanding == 0)
		end_round(round);
}

bool ferryi_descriptors_complete(struct ferryi_evictor *ev, struct ferryi_op *op)
{
	struct ferryi_desc_round *round = &ev->descriptors;
	struct ferryi_desc_write *write = (struct ferryi_desc_write *)op;

	if (write < round->write || write >= round->write + FERRYI_DESC_GROUPS)
		return false;
	end_write(round, write);
	return true;
}

static void start_write(struct ferryi_evictor *ev, struct ferry_pool *pool, unsigned first, unsigned nr)
{
	struct ferryi_channel *channel = ferryi_lines_channel(&ev->lines, ferryi_pool_index(pool));
	struct ferryi_desc_round *round = &ev->descriptors;
	struct ferryi_desc_write *write = &round->write[first];
	struct ferryi_op *op = &write->op;
	uint64_t off = ferryi_altmap_group_off(round->altmap, round->group[first]), extent_off;

	*write = (struct ferryi_desc_write){ .first = first, .nr = nr };
	op->kind = FERRYI_OP_WRITE;
	op->local = round->buf + (size_t)first * FERRYI_GROUP_BYTES;
	op->len_bytes = (size_t)nr * FERRYI_GROUP_BYTES;
	op->deadline_ns = ferryi_deadline_ms(ev->pager->attr.fault_timeout_ms);
	round->nr_outstanding++;
	bool placed = ferryi_pool_place(pool, off >> FERRYI_PAGE_SHIFT, &op->remote, &extent_off);

	op->remote_off = extent_off + off % FERRYI_PAGE_SIZE;
	if (!placed || !channel || ferryi_channel_submit(channel, &op, 1) != 1) {
		op->status = -ENOTCONN;
		end_write(round, write);
	}
}

/*
 * Groups from *cursor on, those that one round can take. Writes do not cross a
 * page, nor so an extent. ASSUMPTION: the pool stays.
 */
static void start_round(struct ferryi_evictor *ev, struct ferry_pool *pool, uint64_t *cursor)
{
	struct ferryi_desc_round *round = &ev->descriptors;

	round->altmap = ferryi_pool_altmap(pool);
	round->failed = false;
	unsigned nr = ferryi_altmap_collect(round->altmap, cursor, round->group, FERRYI_DESC_GROUPS);

	for (unsigned i = 0; i < nr; i++)
		ferryi_altmap_encode(round->altmap, round->group[i], round->buf + (size_t)i * FERRYI_GROUP_BYTES);
	round->nr_outstanding = 1; /* ours: it must not end before every write has begun */
	for (unsigned i = 0, n; i < nr; i += n) {
		uint64_t page = ferryi_altmap_group_off(round->altmap, round->group[i]) >> FERRYI_PAGE_SHIFT;

		for (n = 1; i + n < nr && round->group[i + n] == round->group[i] + n &&
			    ferryi_altmap_group_off(round->altmap, round->group[i + n]) >> FERRYI_PAGE_SHIFT == page; n++)
			;
		start_write(ev, pool, i, n);
	}
	if (--round->nr_outstanding == 0)
		end_round(round);
}

/* true: the evictor is the writer now. */
static bool wants_round(struct ferryi_evictor *ev, struct ferry_pool *pool)
{
	struct ferryi_altmap *altmap = ferryi_pool_altmap(pool);

	if (!altmap || ferryi_pool_lost(pool) || !ferryi_altmap_is_dirty(altmap))
		return false;
	struct ferryi_channel *channel = ferryi_lines_channel(&ev->lines, ferryi_pool_index(pool));

	return channel && ferryi_channel_outstanding(channel) + FERRYI_DESC_GROUPS <= FERRYI_EVICT_SLOTS &&
	       ferryi_altmap_try_write(altmap);
}

void ferryi_descriptors_write_some(struct ferryi_evictor *ev)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED && !ev->descriptors.altmap; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(ev->pager, i);
		uint64_t cursor = 0;

		if (!pool)
			continue;
		if (wants_round(ev, pool))
			start_round(ev, pool, &cursor);
		ferryi_pager_pool_end(ev->pager, i);
	}
}

void ferryi_descriptors_wait(struct ferryi_evictor *ev)
{
	while (ev->descriptors.altmap) {
		if (!ferryi_evict_poll(ev))
			ferryi_cpu_relax();
	}
}

static void wait_until_idle(struct ferryi_evictor *ev)
{
	while (!ferryi_evict_is_idle(ev)) {
		if (!ferryi_evict_poll(ev))
			ferryi_cpu_relax();
	}
}

void ferryi_evict_drain(struct ferryi_evictor *ev)
{
	wait_until_idle(ev);
	ev->descriptors.failed = false;
	/* Nothing goes on while eviction is to rest; it is written later. */
	for (unsigned i = 0; i < DRAIN_ROUNDS && !ev->descriptors.failed && !atomic_load(&ev->pager->evict_paused); i++) {
		ferryi_descriptors_write_some(ev);
		if (!ev->descriptors.altmap)
			break;
		wait_until_idle(ev);
	}
}

/* One round, from its claim to its end. ASSUMPTION: service lock held. */
static int write_round(struct ferryi_pager *pager, struct ferry_pool *pool, uint64_t *cursor)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferryi_evictor *ev = pager->service_evictor;

	while (!ferryi_altmap_try_write(ferryi_pool_altmap(pool))) { /* an eviction thread's round has a deadline, too */
		if (ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		poll(NULL, 0, PAUSE_MS);
	}
	start_round(ev, pool, cursor);
	ferryi_descriptors_wait(ev);
	return ev->descriptors.failed ? -ENOTCONN : 0;
}

/* A connection may end under it though the server is well: what was not written is dirty again. */
static int flush_pool(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	int rc;

	do {
		uint64_t cursor = 0;

		rc = 0;
		while (cursor != UINT64_MAX && !ferryi_pool_lost(pool) && rc != -ETIMEDOUT) {
			int one = write_round(pager, pool, &cursor);

			rc = one ? one : rc;
		}
		if (rc)
			poll(NULL, 0, PAUSE_MS);
	} while (rc && !ferryi_pool_lost(pool) && ferryi_now_ns() < deadline_ns);
	return ferryi_pool_lost(pool) ? -ENOTCONN : rc;
}

int ferryi_descriptors_flush(struct ferryi_pager *pager)
{
	int rc = 0;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		if (ferryi_pool_altmap(pool) && !ferryi_pool_lost(pool)) {
			ferryi_mutex_lock(&pager->service_lock);
			int one = flush_pool(pager, pool);

			ferryi_mutex_unlock(&pager->service_lock);
			rc = one ? one : rc;
		}
		ferryi_pager_pool_end(pager, i);
	}
	return rc;
}

/* ---- at attach ---- */

/* [off, off + len) of the window's bytes, inside one extent. */
static int head_io(struct ferryi_pager *pager, struct ferry_pool *pool, enum ferryi_op_kind kind, uint64_t off,
		   uint8_t *bytes, size_t len)
{
	uint8_t *bounce = pager->service_evictor->batch[0].bounce;
	struct ferryi_op op = { .kind = kind, .local = bounce, .len_bytes = len,
				.deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms) };

	if (!ferryi_pool_place(pool, off >> FERRYI_PAGE_SHIFT, &op.remote, &op.remote_off))
		return -EIO;
	op.remote_off += off % FERRYI_PAGE_SIZE;
	ferryi_mutex_lock(&pager->service_lock);
	if (kind == FERRYI_OP_WRITE)
		memcpy(bounce, bytes, len);
	int rc = ferryi_service_op(pager, ferryi_pool_lender(pool), &op);

	if (!rc && kind == FERRYI_OP_READ)
		memcpy(bytes, bounce, len);
	ferryi_mutex_unlock(&pager->service_lock);
	return rc == -ENOLINK ? -ENOTCONN : rc;
}

static int check_record(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_altmap *altmap = ferryi_pool_altmap(pool);
	uint64_t off = ferryi_altmap_record_page(altmap) << FERRYI_PAGE_SHIFT, reserve, free_pfns;
	const char *name = ferryi_lease_name(ferryi_pool_lease(pool));
	uint8_t record[FERRYI_ALTMAP_RECORD_BYTES];
	int rc = head_io(pager, pool, FERRYI_OP_READ, off, record, sizeof(record));

	if (rc)
		return ferryi_control_fail(rc, "attach: the head of lease '%s' cannot be read: %s", name, ferryi_strerror(rc));
	rc = ferryi_altmap_record_check(altmap, record, &reserve, &free_pfns);
	if (rc == -EBADMSG)
		ferryi_control_fail(rc, "attach: lease '%s' has no page descriptors after its first %llu PFNs, or they are garbled; "
					"without an altmap it is attached as it is", name,
				    (unsigned long long)ferryi_altmap_record_page(altmap));
	else if (rc)
		ferryi_control_fail(rc, "attach: lease '%s' was laid out for an altmap of reserve %llu, free %llu", name,
				    (unsigned long long)reserve, (unsigned long long)free_pfns);
	return rc;
}

static int read_kept(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_altmap *altmap = ferryi_pool_altmap(pool);
	const uint64_t per_page = FERRYI_PAGE_SIZE / FERRYI_GROUP_BYTES;
	uint8_t page[FERRYI_PAGE_SIZE];
	uint64_t bad = 0;

	for (uint64_t group = ferryi_altmap_kept_first(altmap); group < ferryi_altmap_kept_end(altmap); group += per_page) {
		if (!ferryi_pfn_to_page(pager->model, ferryi_pool_pfn_first(pool) + group * FERRYI_GROUP_PAGES))
			break; /* nothing beyond what `free` grants */
		int rc = head_io(pager, pool, FERRYI_OP_READ, ferryi_altmap_group_off(altmap, group), page, sizeof(page));

		if (rc)
			return ferryi_control_fail(rc, "attach: the page descriptors of lease '%s' cannot be read: %s",
						   ferryi_lease_name(ferryi_pool_lease(pool)), ferryi_strerror(rc));
		for (unsigned i = 0; i < per_page; i++)
			bad += ferryi_altmap_decode(altmap, group + i, page + (size_t)i * FERRYI_GROUP_BYTES);
	}
	if (bad)
		ferryi_warn("lease '%s': %llu page descriptors are garbled, their pages are lost",
			    ferryi_lease_name(ferryi_pool_lease(pool)), (unsigned long long)bad);
	return 0;
}

static void release_empty(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_altmap *altmap = ferryi_pool_altmap(pool);
	uint32_t first = (uint32_t)(ferryi_pool_pfn_first(pool) / FERRYI_PAGES_PER_SUBSECTION);

	for (uint64_t group = ferryi_altmap_kept_first(altmap); group < ferryi_altmap_kept_end(altmap);
	     group += FERRYI_PAGES_PER_SUBSECTION / FERRYI_GROUP_PAGES) {
		uint32_t ssn = first + (uint32_t)(group * FERRYI_GROUP_PAGES / FERRYI_PAGES_PER_SUBSECTION);

		if (ferryi_subsection_of(pager->model, (uint64_t)ssn * FERRYI_PAGES_PER_SUBSECTION) &&
		    !ferryi_altmap_kept_left(altmap, ssn))
			ferryi_pool_release_kept(pool, ssn);
	}
}

int ferryi_descriptors_load(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_altmap *altmap = ferryi_pool_altmap(pool);
	uint8_t record[FERRYI_ALTMAP_RECORD_BYTES];
	int rc;

	if (!altmap)
		return 0;
	if (!ferryi_pool_kept_bytes(pool)) {
		ferryi_altmap_record_encode(altmap, record);
		rc = head_io(pager, pool, FERRYI_OP_WRITE, ferryi_altmap_record_page(altmap) << FERRYI_PAGE_SHIFT, record,
			     sizeof(record));
		return rc ? ferryi_control_fail(rc, "attach: the head record cannot be written: %s", ferryi_strerror(rc)) : 0;
	}
	rc = check_record(pager, pool);
	if (!rc)
		rc = read_kept(pager, pool);
	if (!rc)
		release_empty(pager, pool);
	return rc;
}
