/* Reads under way: posted, completed, failed. Fault path; see fetch.h. */
#include "fetch_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "callback.h"
#include "clock.h"
#include "folio.h"
#include "pager_priv.h"
#include "uffd.h"

#define POLL_BATCH      16u
#define WINDOW_SHARE    64u /* a read-ahead window is at most this part of the budget */
#define SMALLEST_WINDOW 16u /* pages */

int ferryi_fetcher_init(struct ferryi_fetcher *f, struct ferryi_pager *pager, int wake_fd)
{
	f->pager = pager;
	f->locks_events = wake_fd < 0 || pager->nr_handlers > 1; /* the service's, or one of several */
	f->buf = ferryi_arena_alloc(pager->arena, FERRYI_FETCH_BUF_BYTES);
	if (!f->buf)
		return -ENOMEM;
	/* Windows of a small budget stay small: a k-way merge has dozens of them open at a time. */
	uint64_t share = ferryi_max_u64((pager->attr.budget_bytes >> FERRYI_PAGE_SHIFT) / WINDOW_SHARE, SMALLEST_WINDOW);

	ferryi_streams_init(&f->streams, (uint32_t)ferryi_min_u64(pager->attr.readahead_pages, share) - 1);

	uint8_t *buf = f->buf;

	for (unsigned i = 0; i < FERRYI_FETCH_SMALL; i++, buf += FERRYI_PAGE_SIZE) {
		f->small[i].op.local = buf;
		f->small[i].demand = true;
		f->small[i].next = f->free_small;
		f->free_small = &f->small[i];
	}
	for (unsigned i = 0; i < FERRYI_FETCH_CHUNKS; i++, buf += FERRYI_FETCH_CHUNK_PAGES * FERRYI_PAGE_SIZE) {
		f->chunk[i].op.local = buf;
		f->chunk[i].next = f->free_chunks;
		f->free_chunks = &f->chunk[i];
	}
	return ferryi_lines_init(&f->lines, pager->keeper, f->buf, FERRYI_FETCH_BUF_BYTES,
				 FERRYI_FETCH_SMALL + FERRYI_FETCH_CHUNKS, wake_fd);
}

bool ferryi_fetch_is_idle(const struct ferryi_fetcher *f)
{
	return !f->nr_outstanding && !f->nr_waiting;
}

/* ---- reading ---- */

/* Claims neighbours of `from` state after ref, up to `want`, within chunk and area; charges them. */
uint32_t ferryi_fetch_claim(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, size_t first_off, uint32_t want,
			    enum ferryi_page_state from)
{
	uint32_t got = 0;
	uint64_t charged = 0;

	if (want && !ferryi_memcg_is_tight(&f->pager->memcg)) /* the reserve is for pages that somebody waits for */
		charged = ferryi_budget_charge_spare(&f->pager->budget, want);

	while (got < charged && first_off + got < ref->area_pages_left) {
		size_t index = ref->index + first_off + got;
		uint64_t old = ferryi_page_load(&ref->object->words[index]);

		if (ferryi_page_state(old) != from ||
		    atomic_load_explicit(&ref->object->blocks[index / FERRYI_PAGES_PER_BLOCK].entering, memory_order_relaxed) ||
		    !ferryi_page_cas(&ref->object->words[index], &old,
				     ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
			break;
		got++;
	}
	if (ferryi_budget_is_low(&f->pager->budget)) /* read-ahead alone may run for long */
		ferryi_pager_need_memory(f->pager);
	if (charged > got)
		ferryi_budget_uncharge(&f->pager->budget, charged - got);
	return got;
}

void ferryi_fetch_post(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, struct ferryi_channel *channel)
{
	struct ferryi_op *op = &fetch->op;

	f->nr_outstanding++;
	if (ferryi_channel_submit(channel, &op, 1) == 1)
		return;
	/* Depth equals our slots, so the queue is never full: the channel has died. */
	op->status = -ENOTCONN;
	fetch->landed = true;
	fetch->next = f->landed;
	f->landed = fetch;
}

void ferryi_fetch_prepare(struct ferryi_notifier *notifier, struct ferryi_fetch *fetch, const struct ferryi_page_ref *ref,
			  size_t off, uint32_t nr, const struct ferryi_remote *remote, uint64_t remote_off,
			  unsigned pool_index)
{
	fetch->object = ref->object;
	fetch->index = ref->index + off;
	fetch->fault.va = ref->va + off * FERRYI_PAGE_SIZE;
	fetch->nr_pages = nr;
	fetch->nr_copied = 0;
	fetch->landed = fetch->minor = fetch->no_copy = false;
	fetch->fill = FERRYI_FILL_READ;
	fetch->pool_index = pool_index;
	fetch->op.kind = FERRYI_OP_READ;
	fetch->op.len_bytes = (size_t)nr * FERRYI_PAGE_SIZE;
	fetch->op.remote = *remote;
	fetch->op.remote_off = remote_off;
	fetch->op.deadline_ns = fetch->fault.deadline_ns;
	/* Before the read: a device may write to the pages in the pool until it is told. */
	ferryi_notify_begin(notifier, &fetch->notice, fetch->fault.va, fetch->op.len_bytes, FERRY_UPDATE_MIGRATE, NULL);
}

void ferryi_fetch_fill(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, enum ferryi_fill fill)
{
	fetch->fill = fill;
	fetch->op.status = 0;
	fetch->landed = true;
	fetch->next = f->landed; /* filled by the next poll: no lock is held there */
	f->landed = fetch;
	f->nr_outstanding++;
}

/* Reads pages [at, end) after ref that are away, in chunks of neighbours; where it stopped. */
uint32_t ferryi_fetch_chunks(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint32_t at, uint32_t end,
			   const struct ferryi_fault *fault)
{
	while (at < end && at < ref->area_pages_left && f->free_chunks) {
		size_t index = ref->index + at;
		uint64_t word = ferryi_page_load(&ref->object->words[index]);

		if (ferryi_page_state(word) != FERRYI_PAGE_AWAY) {
			at++;
			continue;
		}
		struct ferryi_remote remote;
		uint64_t off;
		struct ferry_pool *pool = ferryi_locate(f->pager, ferryi_object_pfn(ref->object, index), &remote, &off);
		/* The driver's engine is asked for the faulting page only; so is everything where memory has failed, or is ours. */
		bool one_by_one = pool && (ferryi_callback_has_engine(pool) || ferryi_pool_any_failed(pool) ||
					   ferryi_pool_is_coherent(pool));
		struct ferryi_channel *channel =
			pool && !one_by_one && !ferryi_pool_lost(pool) ? ferryi_lines_channel(&f->lines, ferryi_pool_index(pool)) : NULL;
		uint64_t to_block_end = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;
		uint64_t nr = ferryi_min_u64(ferryi_min_u64(end - at, FERRYI_FETCH_CHUNK_PAGES), to_block_end);

		if (!channel)
			break;
		uint32_t got = ferryi_fetch_claim(f, ref, at, (uint32_t)nr, FERRYI_PAGE_AWAY);

		if (!got)
			break;
		ferryi_uncount(&f->pager->counters.g_away_pages, got);
		struct ferryi_fetch *fetch = f->free_chunks;

		f->free_chunks = fetch->next;
		fetch->fault = *fault;
		ferryi_fetch_prepare(f->pager->attr.notifier, fetch, ref, at, got, &remote, off, ferryi_pool_index(pool));
		fetch->no_copy = !ferryi_callback_keeps_copies(pool);
		ferryi_fetch_post(f, fetch, channel);
		at += got;
	}
	return at;
}

uintptr_t ferryi_fetch_ahead(struct ferryi_fetcher *f, uintptr_t start, uintptr_t end, uint64_t deadline_ns)
{
	struct ferryi_fault fault = { .forced = true, .start_ns = 0, .deadline_ns = deadline_ns };
	struct ferryi_page_ref ref;

	ferryi_areas_read_lock(&f->pager->areas);
	while (start < end && ferryi_areas_find_locked(&f->pager->areas, start, &ref)) {
		uint64_t want = ferryi_min_u64((end - start) >> FERRYI_PAGE_SHIFT, ref.area_pages_left);
		uint32_t got = ferryi_fetch_chunks(f, &ref, 0, (uint32_t)ferryi_min_u64(want, UINT32_MAX / 2), &fault);

		start += (uintptr_t)got * FERRYI_PAGE_SIZE;
		if (got < want)
			break;
	}
	ferryi_areas_read_unlock(&f->pager->areas);
	return start;
}

void ferryi_fetch_lock(struct ferryi_fetcher *f)
{
	if (f->locks_events)
		ferryi_mutex_lock(&f->pager->events_lock);
	ferryi_areas_read_lock(&f->pager->areas);
}

void ferryi_fetch_unlock(struct ferryi_fetcher *f)
{
	ferryi_areas_read_unlock(&f->pager->areas);
	if (f->locks_events)
		ferryi_mutex_unlock(&f->pager->events_lock);
}

/* ---- completions ---- */

static void free_fetch(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	struct ferryi_fetch **list = fetch->demand ? &f->free_small : &f->free_chunks;

	ferryi_notify_end(&fetch->notice);
	fetch->next = *list;
	*list = fetch;
	f->nr_outstanding--;
}

void ferryi_fetch_wake(struct ferryi_pager *pager, const struct ferryi_object *object, size_t index, size_t nr)
{
	struct ferryi_area_table *table = &pager->areas;

	ferryi_areas_read_lock(table);
	for (unsigned i = 0; i < table->nr_areas; i++) {
		const struct ferryi_area *area = &table->areas[i];
		size_t area_end = area->first_page + ((area->end - area->start) >> FERRYI_PAGE_SHIFT);
		size_t from = ferryi_max_u64(index, area->first_page), to = ferryi_min_u64(index + nr, area_end);

		if (area->object == object && from < to)
			ferryi_uffd_wake(pager->uffd,
					 (void *)(area->start + (from - area->first_page) * FERRYI_PAGE_SIZE),
					 (to - from) * FERRYI_PAGE_SIZE);
	}
	ferryi_areas_read_unlock(table);
}

/* The pages that were not copied go back to the pool's side; a demand fault tries again until its deadline. */
static void fail_fetch(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, int err)
{
	uintptr_t va = fetch->fault.va + (uintptr_t)fetch->nr_copied * FERRYI_PAGE_SIZE;
	uint32_t left = fetch->nr_pages - fetch->nr_copied;

	for (uint32_t i = 0; i < left; i++)
		ferryi_place_unclaim(f, fetch->object, fetch->index + fetch->nr_copied + i, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED);
	if (fetch->demand && err != -ENOENT) {
		fetch->fault.last_error = err;
		ferryi_fault_wait(f, &fetch->fault);
	} else if (left) {
		ferryi_uffd_wake(f->pager->uffd, (void *)va, (size_t)left * FERRYI_PAGE_SIZE);
		ferryi_fetch_wake(f->pager, fetch->object, fetch->index + fetch->nr_copied, left);
	}
	free_fetch(f, fetch);
}

/* Pages [first, nr_pages) of the read still belong where it was started for. */
static bool still_there_locked(struct ferryi_fetcher *f, const struct ferryi_fetch *fetch)
{
	uintptr_t va = fetch->fault.va + (uintptr_t)fetch->nr_copied * FERRYI_PAGE_SIZE;
	struct ferryi_page_ref ref;

	return ferryi_areas_find_locked(&f->pager->areas, va, &ref) && ref.object == fetch->object &&
	       ref.index == fetch->index + fetch->nr_copied && ref.area_pages_left >= fetch->nr_pages - fetch->nr_copied;
}

static bool is_dropped(const struct ferryi_fetch *fetch, uint32_t i)
{
	return ferryi_page_load(&fetch->object->words[fetch->index + i]) & FERRYI_PAGE_DROPPED;
}

/*
 * Puts the read's pages in place from nr_copied on, but those that the
 * application has dropped since it began: they become ABSENT. No event is
 * applied while the fetch lock is held, so none is dropped between the look and
 * the copy; and while one is unread, the copy says EAGAIN. Returns why it
 * stopped, or 0.
 */
static int place_locked(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, uint64_t flags)
{
	int rc = 0;

	while (!rc && fetch->nr_copied < fetch->nr_pages) {
		uint32_t first = fetch->nr_copied, nr = 0, done;
		uintptr_t va = fetch->fault.va + (uintptr_t)first * FERRYI_PAGE_SIZE;

		if (is_dropped(fetch, first)) {
			ferryi_place_unclaim(f, fetch->object, fetch->index + first, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED);
			ferryi_uffd_wake(f->pager->uffd, (void *)va, FERRYI_PAGE_SIZE);
			fetch->nr_copied++;
			continue;
		}
		while (first + nr < fetch->nr_pages && !is_dropped(fetch, first + nr))
			nr++;
		ferryi_folio_split(f->pager, ferryi_object_pfn(fetch->object, fetch->index + first)); /* before it is seen */
		rc = ferryi_place_run(f->pager, va, (uint8_t *)fetch->op.local + (size_t)first * FERRYI_PAGE_SIZE, nr, &done);
		for (uint32_t i = 0; i < done; i++) {
			ferryi_page_freed(f->pager, ferryi_object_pfn(fetch->object, fetch->index + first + i));
			ferryi_place_finish(fetch->object, fetch->index + first + i, flags);
		}
		fetch->nr_copied += done;
		ferryi_count(&f->pager->counters.c_pages_in, done);
		ferryi_count(&f->pager->counters.c_bytes_in, (uint64_t)done * FERRYI_PAGE_SIZE);
		if (!fetch->demand)
			ferryi_count(&f->pager->counters.c_pages_readahead, done);
	}
	return rc;
}

static void complete(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	uint64_t flags = fetch->no_copy ? FERRYI_PAGE_DIRTY : FERRYI_PAGE_COPIED;

	if (fetch->op.status) {
		fail_fetch(f, fetch, fetch->op.status);
		return;
	}
	if (fetch->demand)
		flags |= FERRYI_PAGE_REFERENCED | (fetch->fault.write ? FERRYI_PAGE_DIRTY : 0);
	/*
	 * Under the lock, so that an mremap or munmap is seen whole or not at all: a copy to the old address would
	 * be lost there, or hit memory that has come to the place since.
	 */
	ferryi_fetch_lock(f);
	if (!still_there_locked(f, fetch)) {
		ferryi_fetch_unlock(f);
		fail_fetch(f, fetch, -ENOENT);
		return;
	}
	int rc = place_locked(f, fetch, flags);

	if (fetch->demand && fetch->nr_copied)
		ferryi_fault_count(f, &fetch->fault, !fetch->minor);
	ferryi_fetch_unlock(f);
	if (rc == -EAGAIN || rc == -ENOMEM) {
		if (ferryi_now_ns() >= fetch->fault.deadline_ns) {
			fail_fetch(f, fetch, rc);
			return;
		}
		fetch->landed = true;
		fetch->next = f->landed;
		f->landed = fetch;
	} else if (rc) {
		fail_fetch(f, fetch, -ENOENT);
	} else {
		free_fetch(f, fetch);
	}
}

static unsigned poll_links(struct ferryi_fetcher *f)
{
	struct ferryi_op *ops[POLL_BATCH];
	unsigned done = 0;

	for (unsigned p = 0; p < FERRYI_MAX_POOLS_ATTACHED; p++) {
		struct ferryi_channel *channel = f->lines.link[p].channel;

		if (!channel)
			continue;
		int n = ferryi_channel_poll(channel, ops, POLL_BATCH);

		for (int i = 0; i < n; i++)
			complete(f, (struct ferryi_fetch *)ops[i]);
		if (n > 0)
			done += (unsigned)n;
		else if (n < 0)
			ferryi_lines_broken(&f->lines, p);
	}
	return done;
}

unsigned ferryi_fetch_poll(struct ferryi_fetcher *f)
{
	unsigned done = poll_links(f);
	struct ferryi_fetch *landed = f->landed;

	f->landed = NULL;
	while (landed) {
		struct ferryi_fetch *next = landed->next;

		if (landed->fill != FERRYI_FILL_READ) {
			landed->op.status = ferryi_callback_fill(f->pager, landed);
			landed->fill = FERRYI_FILL_READ;
		}
		complete(f, landed);
		landed = next;
	}
	if (f->nr_waiting)
		done += ferryi_fault_retry(f);
	ferryi_lines_tend(&f->lines);
	return done;
}
