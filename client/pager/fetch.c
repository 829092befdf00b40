/* Reads under way: posted, completed, failed. Fault path; see fetch.h. */
#include "fetch_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "callback.h"
#include "clock.h"
#include "copies.h"
#include "folio.h"
#include "pager_priv.h"
#include "uffd.h"

#define POLL_BATCH      16u
#define WINDOW_SHARE    64u /* a read-ahead window is at most this part of the budget */
#define SMALLEST_WINDOW 16u /* pages */
_Static_assert(FERRYI_FETCH_SMALL + FERRYI_FETCH_SINGLES + FERRYI_FETCH_CHUNKS <= 256, "operations outstanding on one channel (fabric.h)");

/* Slots of so many pages each, from buf on, all free; where their memory ends. */
static uint8_t *init_slots(struct ferryi_fetch *slot, unsigned n, unsigned pages, uint8_t *buf, struct ferryi_fetch **free_list)
{
	for (unsigned i = 0; i < n; i++, buf += (size_t)pages * FERRYI_PAGE_SIZE) {
		slot[i].op.local = slot[i].buf = buf;
		slot[i].free_list = free_list;
		slot[i].next = *free_list;
		*free_list = &slot[i];
	}
	return buf;
}

static int init(struct ferryi_fetcher *f, struct ferryi_pager *pager, unsigned nr_small, unsigned nr_singles, unsigned nr_chunks,
		int wake_fd)
{
	size_t len = ((size_t)nr_small + nr_singles + nr_chunks * FERRYI_FETCH_CHUNK_PAGES) * FERRYI_PAGE_SIZE;

	f->pager = pager;
	f->buf = ferryi_arena_alloc(pager->arena, len);
	if (!f->buf)
		return -ENOMEM;
	/* Windows of a small budget stay small: a k-way merge has dozens of them open at a time. */
	uint64_t share = ferryi_max_u64((pager->attr.budget_bytes >> FERRYI_PAGE_SHIFT) / WINDOW_SHARE, SMALLEST_WINDOW);

	ferryi_streams_init(&f->streams, (uint32_t)ferryi_min_u64(pager->attr.readahead_pages, share) - 1);

	uint8_t *buf = f->buf;

	if (nr_chunks) {
		f->lines.staging = pager->staging;
		f->lines.staging_len = 2 * pager->staging_bytes;
	}
	for (unsigned i = 0; i < nr_small; i++)
		f->small[i].demand = true;
	buf = init_slots(f->small, nr_small, 1, buf, &f->free_small);
	buf = init_slots(f->single, nr_singles, 1, buf, &f->free_singles);
	init_slots(f->chunk, nr_chunks, FERRYI_FETCH_CHUNK_PAGES, buf, &f->free_chunks);
	return ferryi_lines_init(&f->lines, pager->keeper, f->buf, len, nr_small + nr_singles + nr_chunks, wake_fd);
}

int ferryi_fetcher_init(struct ferryi_fetcher *f, struct ferryi_pager *pager, int wake_fd)
{
	f->locks_events = wake_fd < 0 || pager->nr_handlers > 1; /* the service's, or one of several */
	return init(f, pager, FERRYI_FETCH_SMALL, FERRYI_FETCH_SINGLES, FERRYI_FETCH_CHUNKS, wake_fd);
}

int ferryi_fetcher_init_lane(struct ferryi_fetcher *f, struct ferryi_pager *pager, struct ferryi_lane *lane)
{
	f->lane = lane;
	return init(f, pager, 1, 0, 0, -1);
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
	/* Read-ahead alone may run for long. */
	if (ferryi_budget_is_low(&f->pager->budget) || ferryi_strips_are_few(f->pager))
		ferryi_pager_need_memory(f->pager);
	if (charged > got)
		ferryi_budget_uncharge(&f->pager->budget, charged - got);
	return got;
}

static void post(struct ferryi_fetcher *f, struct ferryi_op *const *ops, unsigned n, struct ferryi_channel *channel)
{
	f->nr_outstanding += n;

	int taken = ferryi_channel_submit(channel, ops, n);

	/* Depth equals our slots, so the queue is never full: of what was not taken, the channel has died. */
	for (unsigned i = taken > 0 ? (unsigned)taken : 0; i < n; i++) {
		struct ferryi_fetch *fetch = (struct ferryi_fetch *)ops[i];

		fetch->op.status = -ENOTCONN;
		fetch->landed = true;
		fetch->next = f->landed;
		f->landed = fetch;
	}
}

void ferryi_fetch_post(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, struct ferryi_channel *channel)
{
	struct ferryi_op *op = &fetch->op;

	post(f, &op, 1, channel);
}

void ferryi_fetch_prepare(struct ferryi_notifier *notifier, struct ferryi_fetch *fetch, const struct ferryi_page_ref *ref,
			  size_t off, uint32_t nr, const struct ferryi_location *from)
{
	fetch->object = ref->object;
	fetch->index = ref->index + off;
	fetch->fault.va = ref->va + off * FERRYI_PAGE_SIZE;
	fetch->nr_pages = nr;
	fetch->nr_copied = 0;
	fetch->landed = fetch->minor = fetch->no_copy = false;
	fetch->fill = FERRYI_FILL_READ;
	fetch->is_inline = ref->object->is_inline;
	fetch->lender_index = from->lender ? from->lender->index : 0;
	fetch->op.kind = FERRYI_OP_READ;
	fetch->op.len_bytes = (size_t)nr * FERRYI_PAGE_SIZE;
	fetch->op.remote = from->remote;
	fetch->op.remote_off = from->off;
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

/* Where pages that are to be read ahead come from. */
struct ahead {
	struct ferry_pool *pool;
	struct ferryi_location from;
	uint64_t deadline_ns;
};

/* Where the page is to be read ahead from, in its pool; NULL: it is not to be read ahead, or cannot be now. */
static struct ferryi_channel *channel_ahead(struct ferryi_fetcher *f, const struct ferryi_object *object, size_t index,
					    uint64_t deadline_ns, struct ahead *ahead)
{
	uint64_t pfn = ferryi_object_pfn(object, index);
	const struct ferryi_subsection *sub = ferryi_subsection_of(f->pager->model, pfn);
	struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;
	bool is_there;

	/* The driver's engine is asked for the faulting page only; so is everything where memory has failed, or is ours. */
	if (!pool || ferryi_callback_has_engine(pool) || ferryi_pool_any_failed(pool) || ferryi_pool_is_coherent(pool))
		return NULL;
	struct ferryi_channel *channel = ferryi_copies_source(&f->lines, pool, sub, pfn, &ahead->from, &is_there);

	ahead->pool = pool;
	if (channel)
		ahead->deadline_ns = ferryi_copies_deadline(f->pager, pool, sub, pfn, &ahead->from, deadline_ns);
	return channel;
}

/* Takes a slot from its free list for pages that have just been claimed. */
static struct ferryi_fetch *begin_ahead(struct ferryi_fetcher *f, struct ferryi_fetch **free_list,
					const struct ferryi_page_ref *ref, uint32_t at, uint32_t nr,
					const struct ahead *ahead, const struct ferryi_fault *fault)
{
	struct ferryi_fetch *fetch = *free_list;

	ferryi_uncount(&f->pager->counters.g_away_pages, nr);
	*free_list = fetch->next;
	fetch->fault = *fault;
	ferryi_fetch_prepare(f->pager->attr.notifier, fetch, ref, at, nr, &ahead->from);
	fetch->op.deadline_ns = ahead->deadline_ns;
	fetch->no_copy = !ferryi_callback_keeps_copies(ahead->pool);
	return fetch;
}

/* Where a chunk lands: in frames that only have to be moved to their places, if there are as many as it has pages. */
static void choose_landing(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, const struct ferryi_channel *channel)
{
	fetch->nr_moved = 0;
	if (ferryi_lines_reach_staging(&f->lines, channel))
		fetch->frames = ferryi_strip_take(f->pager, fetch->nr_pages, &fetch->strip);
	fetch->op.local = fetch->frames ? fetch->frames : fetch->buf;
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
		struct ahead ahead;
		struct ferryi_channel *channel = channel_ahead(f, ref->object, index, fault->deadline_ns, &ahead);
		uint64_t to_block_end = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;
		uint64_t nr = ferryi_min_u64(ferryi_min_u64(end - at, FERRYI_FETCH_CHUNK_PAGES), to_block_end);

		if (!channel)
			break;
		uint32_t got = ferryi_fetch_claim(f, ref, at, (uint32_t)nr, FERRYI_PAGE_AWAY);

		if (!got)
			break;
		struct ferryi_fetch *fetch = begin_ahead(f, &f->free_chunks, ref, at, got, &ahead, fault);

		choose_landing(f, fetch, channel);
		ferryi_fetch_post(f, fetch, channel);
		at += got;
	}
	return at;
}

/* The nr pages that end with ref's, from there down, in chunks of neighbours; how many from there. */
static uint32_t chunks_down(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint32_t nr,
			    const struct ferryi_fault *fault)
{
	struct ferryi_page_ref lowest;
	uint32_t got = 0, n;

	for (; got < nr; got += n) {
		n = (uint32_t)ferryi_min_u64(nr - got, FERRYI_FETCH_CHUNK_PAGES);
		if (!ferryi_ref_at(ref, -(ptrdiff_t)(got + n - 1), &lowest) ||
		    ferryi_fetch_chunks(f, &lowest, 0, n, fault) < n)
			break;
	}
	return got;
}

/* ref's page and those step, 2 * step, ... pages after it, each by itself, all posted at once; how many. */
static uint32_t singles(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, ptrdiff_t step, uint32_t nr,
			const struct ferryi_fault *fault)
{
	struct ferryi_op *ops[FERRYI_STEP_WINDOW];
	struct ferryi_channel *channel = NULL, *last = NULL;
	struct ferryi_page_ref page;
	uint32_t got = 0;
	unsigned n = 0;

	for (; got < nr && n < FERRYI_STEP_WINDOW && f->free_singles; got++) {
		struct ahead ahead;

		if (!ferryi_ref_at(ref, step * (ptrdiff_t)got, &page))
			break;
		if (ferryi_page_state(ferryi_page_load(ferryi_ref_word(&page))) != FERRYI_PAGE_AWAY)
			continue;
		channel = channel_ahead(f, page.object, page.index, fault->deadline_ns, &ahead);
		if (!channel || (last && channel != last) || !ferryi_fetch_claim(f, &page, 0, 1, FERRYI_PAGE_AWAY))
			break;
		last = channel;
		ops[n++] = &begin_ahead(f, &f->free_singles, &page, 0, 1, &ahead, fault)->op;
	}
	if (n)
		post(f, ops, n, last);
	return got;
}

/* ref's page and those step, 2 * step, ... pages after it; how many from there. */
static uint32_t steps(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, ptrdiff_t step, uint32_t nr,
		      const struct ferryi_fault *fault)
{
	if (step == 1)
		return ferryi_fetch_chunks(f, ref, 0, nr, fault);
	return step == -1 ? chunks_down(f, ref, nr, fault) : singles(f, ref, step, nr, fault);
}

void ferryi_fetch_steps(struct ferryi_fetcher *f, uintptr_t va, ptrdiff_t step, uint32_t nr, uint64_t deadline_ns)
{
	const struct ferryi_fault fault = { .forced = true, .deadline_ns = deadline_ns };
	struct ferryi_page_ref ref;

	ferryi_areas_read_lock(&f->pager->areas);
	if (ferryi_areas_find_locked(&f->pager->areas, va, &ref))
		steps(f, &ref, step, nr, &fault);
	ferryi_areas_read_unlock(&f->pager->areas);
}

uint32_t ferryi_fetch_stream(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref,
			     const struct ferryi_stream_advice *advice, const struct ferryi_fault *fault)
{
	ptrdiff_t step = advice->step, first = (ptrdiff_t)(advice->from - ref->index) + step;
	struct ferryi_page_ref page;

	if (!advice->ahead || !ferryi_ref_at(ref, first, &page))
		return 0;
	size_t room = step > 0 ? (page.area_pages_left - 1) / (size_t)step : page.area_pages_before / (size_t)-step;
	uint32_t nr = (uint32_t)ferryi_min_u64(advice->ahead, room + 1);

	return f->lane ? ferryi_lane_want_ahead(f->lane, page.va, step, nr) : steps(f, &page, step, nr, fault);
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
	if (f->lane)
		ferryi_lane_enter(f->lane);
	else if (f->locks_events)
		ferryi_mutex_lock(&f->pager->events_lock);
	ferryi_areas_read_lock(&f->pager->areas);
}

void ferryi_fetch_unlock(struct ferryi_fetcher *f)
{
	ferryi_areas_read_unlock(&f->pager->areas);
	if (f->lane)
		ferryi_lane_leave(f->lane);
	else if (f->locks_events)
		ferryi_mutex_unlock(&f->pager->events_lock);
}

/* ---- completions ---- */

static void free_fetch(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	if (fetch->frames)
		ferryi_strip_put(f->pager, fetch->strip, fetch->nr_pages, fetch->nr_moved);
	fetch->frames = NULL;
	if (fetch->is_inline)
		ferryi_inline_wake(&f->pager->inline_mode);
	ferryi_notify_end(&fetch->notice);
	fetch->next = *fetch->free_list;
	*fetch->free_list = fetch;
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
			ferryi_wake_at(pager, area->object, area->start + (from - area->first_page) * FERRYI_PAGE_SIZE,
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
		fetch->fault.read_failed = fetch->op.status != 0 && fetch->fill == FERRYI_FILL_READ;
		ferryi_fault_wait(f, &fetch->fault);
	} else if (left) {
		if (!fetch->is_inline)
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

/* Pages [first, first + nr) of the read; result and *done as of ferryi_place_run. */
static int place_some(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, uint32_t first, uint32_t nr, uint32_t *done)
{
	uintptr_t va = fetch->fault.va + (uintptr_t)first * FERRYI_PAGE_SIZE;
	uint8_t *src = (uint8_t *)fetch->op.local + (size_t)first * FERRYI_PAGE_SIZE;

	if (fetch->frames) {
		int rc = ferryi_place_frames(f->pager, fetch->object, va, src, nr, done);

		fetch->nr_moved += *done;
		ferryi_count(&f->pager->counters.c_pages_moved, *done);
		if (!rc || rc == -EAGAIN)
			return rc;
	}
	return ferryi_place_run(f->pager, fetch->object, va, src, nr, done);
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
			ferryi_wake_at(f->pager, fetch->object, va, FERRYI_PAGE_SIZE);
			fetch->nr_copied++;
			continue;
		}
		while (first + nr < fetch->nr_pages && !is_dropped(fetch, first + nr))
			nr++;
		ferryi_folio_split(f->pager, ferryi_object_pfn(fetch->object, fetch->index + first)); /* before it is seen */
		rc = place_some(f, fetch, first, nr, &done);
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

/* Its pages are FETCHING: their block is bound, and the pool stays. */
static void avoid_its_lender(struct ferryi_fetcher *f, const struct ferryi_fetch *fetch)
{
	const struct ferryi_subsection *sub =
		ferryi_subsection_of(f->pager->model, ferryi_object_pfn(fetch->object, fetch->index));

	if (sub)
		ferryi_copies_avoid(ferryi_subsection_pool(sub), fetch->lender_index);
}

static void complete(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	uint64_t flags = fetch->no_copy ? FERRYI_PAGE_DIRTY : FERRYI_PAGE_COPIED;

	if (fetch->op.status) {
		avoid_its_lender(f, fetch);
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
