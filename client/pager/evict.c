/* See evict.h: decide, write, end; picking and moving are next door. */
#include "evict.h"

#include <errno.h>
#include <string.h>

#include "callback.h"
#include "clock.h"
#include "copies.h"
#include "evict_priv.h"
#include "fetch_priv.h"
#include "hash.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"

#define POLL_BATCH 32u

static void assign_slots(struct ferryi_evictor *ev, uint8_t *staging, uint32_t first_slot)
{
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
		ev->batch[i].staging = staging + (size_t)i * FERRYI_EVICT_BATCH * FERRYI_PAGE_SIZE;
		ev->batch[i].first_slot = first_slot + i * FERRYI_EVICT_BATCH;
	}
}

void ferryi_evictor_init_unwired(struct ferryi_evictor *ev, struct ferryi_pager *pager, uint8_t *staging, uint32_t first_slot)
{
	ev->pager = pager;
	ev->is_unwired = true;
	assign_slots(ev, staging, first_slot);
}

int ferryi_evictor_init(struct ferryi_evictor *ev, struct ferryi_pager *pager, uint8_t *staging, uint32_t first_slot,
			int wake_fd)
{
	const size_t len = FERRYI_EVICT_BUF_BYTES + FERRYI_DESC_BUF_BYTES;
	uint8_t *bounce = ferryi_arena_alloc(pager->arena, len);

	if (!bounce)
		return -ENOMEM;
	ev->copies = ferryi_arena_alloc(pager->arena, sizeof(*ev->copies));
	if (!ev->copies)
		return -ENOMEM;
	ev->pager = pager;
	assign_slots(ev, staging, first_slot);
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++)
		ev->batch[i].bounce = bounce + (size_t)i * FERRYI_EVICT_BATCH * FERRYI_PAGE_SIZE;
	ev->descriptors.buf = bounce + FERRYI_EVICT_BUF_BYTES;
	ev->lines.staging = pager->staging;
	ev->lines.staging_len = 2 * pager->staging_bytes; /* of inline memory, too */
	return ferryi_lines_init(&ev->lines, pager->keeper, bounce, len, FERRYI_EVICT_SLOTS, wake_fd);
}

/* ---- ending ---- */

bool ferryi_evict_end(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot, uint64_t to)
{
	uint64_t old = ferryi_page_load(ferryi_evict_word(page));

	page->staged = false;
	while (ferryi_page_arg(old) == slot) {
		if (ferryi_page_state(old) == FERRYI_PAGE_RESCUING) {
			ferryi_cpu_relax(); /* bounded by one UFFDIO_COPY */
			old = ferryi_page_load(ferryi_evict_word(page));
		} else if (ferryi_page_state(old) != FERRYI_PAGE_STAGED) {
			break;
		} else if (old & FERRYI_PAGE_DROPPED) {
			ferryi_page_void(ev->pager->model, ferryi_object_pfn(page->object, page->index));
			if (ferryi_page_cas(ferryi_evict_word(page), &old, FERRYI_PAGE_ABSENT))
				return false;
		} else if (ferryi_page_state(to) != FERRYI_PAGE_AWAY) {
			if (ferryi_page_cas(ferryi_evict_word(page), &old, to))
				return true;
		} else {
			uint64_t pfn = ferryi_object_pfn(page->object, page->index);

			ferryi_page_store(ev->pager, pfn); /* before: a fetcher may take it back at once */
			if (ferryi_page_cas(ferryi_evict_word(page), &old, to)) {
				ferryi_count(&ev->pager->counters.g_away_pages, 1);
				return true;
			}
			ferryi_page_store_undo(ev->pager, pfn);
		}
	}
	page->rescued = true;
	ferryi_evict_end_writeback(ferryi_evict_word(page), slot);
	return false;
}

/* The frames go round, if somebody wants them: the batch has other slots then. */
static bool exchange_slots(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	unsigned frames[FERRYI_STRIPS_PER_SHEET] = { 0 };

	if (ev->is_unwired)
		return false;
	for (unsigned i = 0; i < batch->nr_pages; i++)
		frames[i / FERRYI_STRIP_PAGES] += batch->page[i].has_frame;
	return ferryi_strips_exchange(ev->pager, batch, frames);
}

static void end_batch(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	if (batch->nr_staged) {
		bool some_gone = ev->pager->memcg.nr_levels &&
				 ferryi_reserve_refill(ev->pager, batch->staging, batch->nr_pages);

		if (some_gone || !exchange_slots(ev, batch))
			ferryi_staging_release(ev->pager, batch->staging, (size_t)batch->nr_pages * FERRYI_PAGE_SIZE);
		ferryi_budget_uncharge(&ev->pager->budget, batch->nr_staged);
	}
	batch->in_use = false;
	if (atomic_load(&ev->pager->budget_waiters))
		ferryi_pager_wake_handlers(ev->pager);
}

/*
 * A page of ours (RESCUING) from its slot to where it is mapped now; 0, or why not. -EAGAIN: an event is to be read
 * first. As no event is applied meanwhile, the application has not dropped it when it is RESIDENT again.
 */
static long put_in_place_locked(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint8_t *frame)
{
	struct ferryi_notice notice;
	uintptr_t va;

	ferryi_assert_held(&ev->pager->events_lock);
	if ((ferryi_page_load(ferryi_evict_word(page)) & FERRYI_PAGE_DROPPED) ||
	    !ferryi_areas_va_locked(&ev->pager->areas, page->object, page->index, &va))
		return -ENOENT;
	ferryi_notify_begin(ev->pager->attr.notifier, &notice, va, FERRYI_PAGE_SIZE, FERRY_UPDATE_MIGRATE, ev->owner);
	int uffd = ferryi_uffd_of(ev->pager, page->object);
	long rc = ferryi_place_copy(ev->pager, uffd, (void *)va, frame, FERRYI_PAGE_SIZE);

	if (rc == -ENOMEM) { /* no frame is to be had, and this one is the only copy */
		rc = ferryi_place_frame(uffd, (void *)va, frame);
		page->has_frame = rc <= 0;
	}
	if (rc == -EINVAL) /* read-only by now: pages do not move there */
		rc = ferryi_uffd_copy(uffd, (void *)va, frame, FERRYI_PAGE_SIZE);
	ferryi_notify_end(&notice);
	if (rc < 0 && rc != -EEXIST)
		return rc;
	ferryi_place_finish(page->object, page->index, FERRYI_PAGE_DIRTY | FERRYI_PAGE_REFERENCED);
	return 0;
}

void ferryi_evict_put_page_back(struct ferryi_evictor *ev, struct ferryi_evict_page *page, uint32_t slot)
{
	long rc;

	if (!ferryi_evict_end(ev, page, slot, (uint64_t)slot << FERRYI_PAGE_ARG_SHIFT | FERRYI_PAGE_RESCUING))
		return;
	page->rescued = true;
	ferryi_rescue_charge(ev->pager, slot);
	do {
		ferryi_mutex_lock(&ev->pager->events_lock);
		ferryi_areas_read_lock(&ev->pager->areas);
		rc = put_in_place_locked(ev, page, ferryi_slot_addr(ev->pager, slot));
		ferryi_areas_read_unlock(&ev->pager->areas);
		ferryi_mutex_unlock(&ev->pager->events_lock);
	} while (rc == -EAGAIN); /* ends when the fault threads have read the event */
	if (rc) { /* dropped, or the range is gone and its data with it */
		ferryi_evict_forget(ev, page);
		ferryi_fetch_wake(ev->pager, page->object, page->index, 1);
	}
}

static void complete_write(struct ferryi_evictor *ev, struct ferryi_evict_write *write)
{
	struct ferryi_evict_batch *batch = write->batch;
	struct ferryi_counters *c = &ev->pager->counters;
	unsigned written = 0;

	for (unsigned i = write->first; i < write->first + write->nr; i++) {
		struct ferryi_evict_page *page = &batch->page[i];

		if (write->op.status) {
			ferryi_evict_put_page_back(ev, page, batch->first_slot + i);
			continue;
		}
		ferryi_page_describe(ev->pager->model, ferryi_object_pfn(page->object, page->index), page->va, page->hash);
		if (ferryi_evict_end(ev, page, batch->first_slot + i, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED))
			written++;
	}
	ferryi_count(&c->c_pages_evicted, written);
	ferryi_count(&c->c_pages_written, written);
	if (write->op.status)
		ev->error = write->op.status;
	else
		ev->bytes_written += write->op.len_bytes;
	ferryi_count(&c->c_bytes_out, write->op.status ? 0 : write->op.len_bytes);
	if (--batch->nr_outstanding == 0)
		end_batch(ev, batch);
}

/* ---- deciding and writing ---- */

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, FERRYI_PAGE_SIZE - 1) == 0;
}

/* true: nothing to write. The page's hash is taken either way. */
static bool end_if_clean(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned i)
{
	struct ferryi_evict_page *page = &batch->page[i];
	const uint8_t *data = batch->staging + (size_t)i * FERRYI_PAGE_SIZE;
	uint64_t to;

	uint64_t pfn = ferryi_object_pfn(page->object, page->index);
	ferryi_hash_prefetch(data + FERRYI_PAGE_SIZE); /* most likely the next one's */
	page->hash = ferryi_hash_page(data);
	if (page->flags & FERRYI_PAGE_COPIED) {
		struct ferry_page *desc = ferryi_pfn_to_page(ev->pager->model, pfn);

		if (desc->hash != page->hash)
			return false;
		if (desc->va != page->va) /* an mremap */
			ferryi_page_describe(ev->pager->model, pfn, page->va, page->hash);
		to = FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED;
	} else if (page->hash == ev->pager->zero_hash && is_zero(data)) {
		ferryi_page_describe(ev->pager->model, pfn, page->va | FERRYI_DESCRIPTOR_ZERO, page->hash);
		to = FERRYI_PAGE_ABSENT;
	} else {
		return false;
	}
	if (ferryi_evict_end(ev, page, batch->first_slot + i, to)) {
		ferryi_count(&ev->pager->counters.c_pages_evicted, 1);
		ferryi_count(&ev->pager->counters.c_pages_dropped, 1);
	}
	return true;
}

static bool follows(const struct ferryi_evict_page *a, const struct ferryi_evict_page *b)
{
	return a->object == b->object && a->index + 1 == b->index && b->index % FERRYI_PAGES_PER_BLOCK != 0;
}

void *ferryi_evict_source(struct ferryi_evictor *ev, const struct ferryi_evict_write *write, const struct ferryi_channel *channel)
{
	const struct ferryi_evict_batch *batch = write->batch;
	size_t off = (size_t)write->first * FERRYI_PAGE_SIZE;

	if (ferryi_lines_reach_staging(&ev->lines, channel))
		return batch->staging + off;
	return memcpy(batch->bounce + off, batch->staging + off, (size_t)write->nr * FERRYI_PAGE_SIZE);
}

/* Writes dirty pages [first, first + nr), neighbours in one block. */
static void start_write(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch, unsigned first, unsigned nr)
{
	struct ferryi_evict_write *write = &batch->write[first];
	struct ferryi_evict_page *page = &batch->page[first];
	struct ferryi_op *op = &write->op;

	ferryi_children_save(ev->pager, page->object, page->index, nr);
	write->batch = batch;
	write->first = first;
	write->nr = nr;
	op->kind = FERRYI_OP_WRITE;
	op->len_bytes = (size_t)nr * FERRYI_PAGE_SIZE;
	op->deadline_ns = ferryi_deadline_ms(ev->pager->attr.fault_timeout_ms);
	batch->nr_outstanding++;
	if (ferryi_copies_write(ev, write, ferryi_object_pfn(page->object, page->index)))
		complete_write(ev, write);
}

static unsigned run_batch(struct ferryi_evictor *ev, struct ferryi_evict_batch *batch)
{
	unsigned moved = batch->nr_staged;

	ferryi_descriptors_wait(ev); /* the channel takes two batches' writes, and no more */
	batch->nr_outstanding = 1; /* ours: the batch must not end before every write has begun */
	for (unsigned i = 0, n; i < batch->nr_pages; i += n) {
		n = 1;
		if (!batch->page[i].staged || end_if_clean(ev, batch, i))
			continue;
		/* A dirty page; take its dirty neighbours along. */
		bool last_clean = false;

		while (i + n < batch->nr_pages && batch->page[i + n].staged &&
		       follows(&batch->page[i + n - 1], &batch->page[i + n])) {
			last_clean = end_if_clean(ev, batch, i + n);
			if (last_clean)
				break;
			n++;
		}
		start_write(ev, batch, i, n);
		n += last_clean;
	}
	if (--batch->nr_outstanding == 0)
		end_batch(ev, batch);
	return moved;
}

static struct ferryi_evict_batch *free_batch(struct ferryi_evictor *ev)
{
	for (;;) {
		for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
			struct ferryi_evict_batch *batch = &ev->batch[i];

			if (!batch->in_use) {
				batch->nr_pages = batch->nr_staged = 0;
				batch->in_use = true;
				return batch;
			}
		}
		if (!ferryi_evict_poll(ev)) /* every write has a deadline */
			ferryi_cpu_relax();
	}
}

unsigned ferryi_evict_some(struct ferryi_evictor *ev)
{
	struct ferryi_evict_batch *batch = free_batch(ev);

	ev->error = 0;
	ferryi_areas_read_lock(&ev->pager->areas);
	ferryi_evict_pick_by_clock_locked(ev, batch);
	ferryi_areas_read_unlock(&ev->pager->areas);
	ferryi_evict_move(ev, batch);
	return run_batch(ev, batch);
}

unsigned ferryi_evict_range(struct ferryi_evictor *ev, uintptr_t *start, uintptr_t end)
{
	struct ferryi_evict_batch *batch = free_batch(ev);

	ferryi_areas_read_lock(&ev->pager->areas);
	ferryi_evict_pick_range_locked(ev, batch, start, end);
	ferryi_areas_read_unlock(&ev->pager->areas);
	ferryi_evict_move(ev, batch);
	return run_batch(ev, batch);
}

const struct ferryi_evict_batch *ferryi_evict_collect(struct ferryi_evictor *ev, uintptr_t start, uintptr_t end)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];

	batch->nr_pages = batch->nr_staged = 0;
	batch->in_use = true;
	ferryi_areas_read_lock(&ev->pager->areas);
	ferryi_evict_pick_range_locked(ev, batch, &start, end);
	ferryi_areas_read_unlock(&ev->pager->areas);
	ferryi_evict_move(ev, batch);
	return batch;
}

bool ferryi_evict_commit(struct ferryi_evictor *ev, unsigned k)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];
	struct ferryi_evict_page *page = &batch->page[k];

	if (!page->staged || !ferryi_pfn_to_page(ev->pager->model, ferryi_object_pfn(page->object, page->index)))
		return false;
	ferryi_page_describe(ev->pager->model, ferryi_object_pfn(page->object, page->index), page->va,
			     ferryi_hash_page(batch->staging + (size_t)k * FERRYI_PAGE_SIZE));
	if (!ferryi_evict_end(ev, page, batch->first_slot + k, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED))
		return false;
	ferryi_count(&ev->pager->counters.c_pages_evicted, 1);
	return true;
}

void ferryi_evict_put_back(struct ferryi_evictor *ev)
{
	struct ferryi_evict_batch *batch = &ev->batch[0];

	for (unsigned k = 0; k < batch->nr_pages; k++) {
		if (batch->page[k].staged)
			ferryi_evict_put_page_back(ev, &batch->page[k], batch->first_slot + k);
	}
	end_batch(ev, batch);
}

unsigned ferryi_evict_poll(struct ferryi_evictor *ev)
{
	struct ferryi_op *ops[POLL_BATCH];
	unsigned done = 0;

	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferryi_channel *channel = ev->lines.link[p].channel;

		if (!channel)
			continue;
		int n = ferryi_channel_poll(channel, ops, POLL_BATCH);

		for (int i = 0; i < n; i++) {
			struct ferryi_evict_write *write =
				ferryi_descriptors_complete(ev, ops[i]) ? NULL : ferryi_copies_ended(ev, ops[i]);

			if (write)
				complete_write(ev, write);
		}
		if (n > 0)
			done += (unsigned)n;
		else if (n < 0)
			ferryi_lines_broken(&ev->lines, p);
	}
	ferryi_lines_tend(&ev->lines);
	return done;
}

bool ferryi_evict_is_idle(const struct ferryi_evictor *ev)
{
	for (unsigned i = 0; i < FERRYI_EVICT_BATCHES; i++) {
		if (ev->batch[i].in_use)
			return false;
	}
	return !ev->descriptors.altmap;
}
