/* See fetch.h: the fault path. The order within a fault is the faulting page first, then what read-ahead wants. */
#include "fetch.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"

#define POLL_BATCH 16u

enum outcome { DONE, WAIT };

int ferryi_fetcher_init(struct ferryi_fetcher *f, struct ferryi_pager *pager, void *scratch, int wake_fd)
{
	f->pager = pager;
	f->scratch = scratch;
	f->buf = ferryi_arena_alloc(pager->arena, FERRYI_FETCH_BUF_BYTES);
	if (!f->buf)
		return -ENOMEM;
	ferryi_streams_init(&f->streams, pager->attr.readahead_pages - 1);

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

/* ---- putting pages in place ---- */

/*
 * Fills [va, va + nr pages) from src; pages that are there already count as
 * done. *done says how many, the result why it stopped: 0, -EAGAIN, -ENOENT, -ENOMEM, ....
 */
static int copy_run(struct ferryi_pager *pager, uintptr_t va, const uint8_t *src, uint32_t nr, uint32_t *done)
{
	*done = 0;
	while (*done < nr) {
		size_t at = (size_t)*done * FERRYI_PAGE_SIZE;
		long rc = ferryi_uffd_copy(pager->uffd, (void *)(va + at), src + at,
					   (size_t)(nr - *done) * FERRYI_PAGE_SIZE);

		if (rc > 0) {
			*done += (uint32_t)((size_t)rc / FERRYI_PAGE_SIZE);
		} else if (rc == -EEXIST) {
			ferryi_uffd_wake(pager->uffd, (void *)(va + at), FERRYI_PAGE_SIZE);
			(*done)++;
		} else {
			return (int)rc;
		}
	}
	return 0;
}

static void resident_add(struct ferryi_object *object, size_t index)
{
	atomic_fetch_add_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

static void resident_sub(struct ferryi_object *object, size_t index)
{
	atomic_fetch_sub_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

/* The application dropped a page while we were putting it in place: take it out of its memory again. */
static void take_out(struct ferryi_fetcher *f, uintptr_t va)
{
	if (ferryi_uffd_move(f->pager->staging_uffd, f->scratch, (void *)va, FERRYI_PAGE_SIZE) > 0)
		madvise(f->scratch, FERRYI_PAGE_SIZE, MADV_DONTNEED);
}

/* The page is in place: FETCHING (ours) -> RESIDENT with these flags. */
static void finish_page(struct ferryi_fetcher *f, struct ferryi_object *object, size_t index, uintptr_t va, uint64_t flags)
{
	ferryi_page_word *word = &object->words[index];
	uint64_t old = ferryi_page_load(word);

	resident_add(object, index);
	do {
		if (old & FERRYI_PAGE_DROPPED) {
			resident_sub(object, index);
			take_out(f, va);
			atomic_store(word, FERRYI_PAGE_ABSENT);
			ferryi_budget_uncharge(&f->pager->budget, 1);
			ferryi_uffd_wake(f->pager->uffd, (void *)va, FERRYI_PAGE_SIZE);
			return;
		}
	} while (!ferryi_page_cas(word, &old, flags | FERRYI_PAGE_RESIDENT));
}

/* A claimed page could not be brought in: back to what it was, unless the application dropped it. */
static void unclaim_page(struct ferryi_fetcher *f, struct ferryi_object *object, size_t index, uint64_t back)
{
	bool dropped = ferryi_page_release(&object->words[index], back);

	if (!dropped && ferryi_page_state(back) == FERRYI_PAGE_AWAY)
		ferryi_count(&f->pager->counters.g_away_pages, 1);
	ferryi_budget_uncharge(&f->pager->budget, 1);
}

/* ---- waiting ---- */

static void wait_later(struct ferryi_fetcher *f, const struct ferryi_fault *fault)
{
	if (f->nr_waiting == FERRYI_FETCH_WAITING) {
		/* Let the thread fault again: its event comes back when there is room. */
		ferryi_uffd_wake(f->pager->uffd, (void *)fault->va, FERRYI_PAGE_SIZE);
		return;
	}
	f->waiting[f->nr_waiting++] = *fault;
	atomic_fetch_add(&f->pager->budget_waiters, 1);
}

static bool charge(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_pager *pager = f->pager;
	bool ok = ferryi_budget_charge(&pager->budget, 1);

	if (ferryi_budget_is_low(&pager->budget))
		ferryi_pager_need_memory(pager);
	if (!ok) {
		if (fault->last_error != -ENOMEM)
			ferryi_count(&pager->counters.c_budget_waits, 1);
		fault->last_error = -ENOMEM;
	}
	return ok;
}

static void count_fault(struct ferryi_fetcher *f, const struct ferryi_fault *fault, bool major)
{
	struct ferryi_counters *c = &f->pager->counters;
	uint64_t ns = ferryi_now_ns() - fault->start_ns;

	if (fault->forced)
		return;
	ferryi_count(&c->c_faults, 1);
	ferryi_hist_add(&c->fault, ns);
	if (major) {
		ferryi_count(&c->c_faults_major, 1);
		ferryi_hist_add(&c->fault_major, ns);
	}
}

/* ---- poison ---- */

static unsigned reason_of(const struct ferryi_fault *fault, const struct ferry_pool *pool)
{
	if (pool && ferryi_pool_lost(pool))
		return ferryi_pool_lost(pool) == FERRYI_LOST_REVOKED ? FERRY_FAULT_REVOKED : FERRY_FAULT_SERVER_LOST;
	switch (fault->last_error) {
	case -ENOMEM:
		return FERRY_FAULT_NO_MEMORY;
	case -EACCES:
	case -ERANGE:
	case -EIO:
		return FERRY_FAULT_IO;
	default:
		return FERRY_FAULT_TIMEOUT;
	}
}

static enum outcome poison(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
			   const struct ferry_pool *pool)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint64_t old = ferryi_page_load(word);

	if (ferryi_page_state(old) != FERRYI_PAGE_AWAY && ferryi_page_state(old) != FERRYI_PAGE_ABSENT)
		return WAIT; /* somebody has it; look again */
	/* The reason first: the thread that the ioctl wakes may ask for it at once, from its SIGBUS handler. */
	bool away = ferryi_page_state(old) == FERRYI_PAGE_AWAY;
	unsigned reason = reason_of(fault, away ? pool : NULL); /* a first touch only wants room */
	uint64_t poisoned = ferryi_page_poisoned(reason, fault->last_error);

	if (!ferryi_page_cas(word, &old, poisoned))
		return WAIT;
	int rc = ferryi_uffd_poison(f->pager->uffd, (void *)ref->va);

	if (rc && rc != -EEXIST) { /* the address space is changing, or the range is gone */
		ferryi_page_cas(word, &poisoned, old);
		if (rc == -EAGAIN)
			return WAIT;
		ferryi_uffd_wake(f->pager->uffd, (void *)ref->va, FERRYI_PAGE_SIZE);
		return DONE;
	}
	if (away)
		ferryi_uncount(&f->pager->counters.g_away_pages, 1);
	if (ferryi_counter_read(&f->pager->counters.c_faults_poisoned) == 0)
		ferryi_error("page %#lx: poisoned, %s (%s)", (unsigned long)ref->va,
			     ferry_fault_reason_text((enum ferry_fault_reason)reason), ferryi_strerror(fault->last_error));
	ferryi_count(&f->pager->counters.c_faults_poisoned, 1);
	count_fault(f, fault, false);
	return DONE;
}

/* ---- one page, by state ---- */

/* Claims neighbours of `from` state after ref, up to `want`, within chunk and area; charges them. */
static uint32_t claim_ahead(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, size_t first_off, uint32_t want,
			    enum ferryi_page_state from)
{
	uint32_t got = 0;
	uint64_t charged = want ? ferryi_budget_charge_spare(&f->pager->budget, want) : 0;

	while (got < charged && first_off + got < ref->area_pages_left) {
		uint64_t old = ferryi_page_load(&ref->object->words[ref->index + first_off + got]);

		if (ferryi_page_state(old) != from ||
		    !ferryi_page_cas(&ref->object->words[ref->index + first_off + got], &old,
				     ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
			break;
		got++;
	}
	if (charged > got)
		ferryi_budget_uncharge(&f->pager->budget, charged - got);
	return got;
}

static enum outcome fault_absent(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				 uint64_t old)
{
	struct ferryi_stream_advice advice;
	uint32_t ahead = 0, done;

	if (!charge(f, fault))
		return WAIT;
	if (!ferryi_page_cas(ferryi_ref_word(ref), &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING))) {
		ferryi_budget_uncharge(&f->pager->budget, 1);
		return WAIT;
	}
	if (!fault->forced && !(ref->area_flags & FERRYI_AREA_RANDOM)) {
		ferryi_streams_fault(&f->streams, ref->object, ref->index, ref->area_flags & FERRYI_AREA_SEQUENTIAL,
				     &advice);
		ahead = claim_ahead(f, ref, 1, advice.ahead, FERRYI_PAGE_ABSENT);
		ferryi_streams_done(&advice, ref->index, ahead);
	}

	int rc = copy_run(f->pager, ref->va, f->pager->zeros, 1 + ahead, &done);

	for (uint32_t i = 0; i < done; i++)
		finish_page(f, ref->object, ref->index + i, ref->va + i * FERRYI_PAGE_SIZE,
			    FERRYI_PAGE_DIRTY | (i ? 0 : FERRYI_PAGE_REFERENCED));
	for (uint32_t i = done; i < 1 + ahead; i++) {
		unclaim_page(f, ref->object, ref->index + i, FERRYI_PAGE_ABSENT);
		if (i || (rc != -EAGAIN && rc != -ENOMEM))
			ferryi_uffd_wake(f->pager->uffd, (void *)(ref->va + i * FERRYI_PAGE_SIZE), FERRYI_PAGE_SIZE);
	}
	if (!done && (rc == -EAGAIN || rc == -ENOMEM)) {
		fault->last_error = rc;
		return WAIT;
	}
	if (done) {
		if (!fault->forced)
			ferryi_count(&f->pager->counters.c_faults_zero, 1);
		count_fault(f, fault, false);
	}
	return DONE;
}

/* A fault on a page that should be there: woken late, or dropped by the application and not seen yet. */
static enum outcome fault_resident(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				   uint64_t old)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint64_t keep = old & ~FERRYI_PAGE_STATE_MASK;

	if (fault->forced)
		return DONE;
	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
		return WAIT;
	long rc = ferryi_uffd_copy(f->pager->uffd, (void *)ref->va, f->pager->zeros, FERRYI_PAGE_SIZE);

	if (rc > 0) {
		keep = (keep & ~FERRYI_PAGE_COPIED) | FERRYI_PAGE_DIRTY;
		ferryi_count(&f->pager->counters.c_faults_zero, 1);
		count_fault(f, fault, false);
	}
	/* The page keeps its charge and its place in nr_resident; a drop meanwhile is found the same way, later. */
	atomic_store_explicit(word, keep | FERRYI_PAGE_RESIDENT, memory_order_release);
	if (rc == -EAGAIN || rc == -ENOMEM) {
		fault->last_error = (int)rc;
		return WAIT;
	}
	if (rc < 0)
		ferryi_uffd_wake(f->pager->uffd, (void *)ref->va, FERRYI_PAGE_SIZE);
	return DONE;
}

static enum outcome fault_staged(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				 uint64_t old)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint64_t staged = old;
	uint32_t done;

	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_RESCUING)))
		return WAIT;
	bool dropped = staged & FERRYI_PAGE_DROPPED;
	const uint8_t *src = dropped ? f->pager->zeros : ferryi_slot_addr(f->pager, ferryi_page_arg(staged));

	ferryi_budget_charge_slack(&f->pager->budget, 1);
	int rc = copy_run(f->pager, ref->va, src, 1, &done);

	if (rc) {
		ferryi_budget_uncharge(&f->pager->budget, 1);
		/* STAGED again, with a DROPPED that may have come meanwhile. */
		uint64_t now = ferryi_page_load(word);

		while (!ferryi_page_cas(word, &now, ferryi_page_with(now, FERRYI_PAGE_STAGED)))
			;
		if (rc == -EAGAIN || rc == -ENOMEM) {
			fault->last_error = rc;
			return WAIT;
		}
		ferryi_uffd_wake(f->pager->uffd, (void *)ref->va, FERRYI_PAGE_SIZE);
		return DONE;
	}
	uint64_t rescued = (staged & FERRYI_PAGE_ARG_MASK) | FERRYI_PAGE_WRITEBACK | FERRYI_PAGE_DIRTY |
			   FERRYI_PAGE_REFERENCED | FERRYI_PAGE_RESIDENT;

	resident_add(ref->object, ref->index);
	for (uint64_t now = ferryi_page_load(word); !ferryi_page_cas(word, &now, rescued);) {
		if (!(now & FERRYI_PAGE_DROPPED) || dropped)
			continue;
		/* Dropped while we copied: out with it; STAGED again, for the evictor to end and the next touch to zero. */
		resident_sub(ref->object, ref->index);
		take_out(f, ref->va);
		ferryi_budget_uncharge(&f->pager->budget, 1);
		atomic_store(word, ferryi_page_with(now, FERRYI_PAGE_STAGED));
		ferryi_uffd_wake(f->pager->uffd, (void *)ref->va, FERRYI_PAGE_SIZE);
		return DONE;
	}
	if (!fault->forced)
		ferryi_count(&f->pager->counters.c_faults_rescued, 1);
	count_fault(f, fault, false);
	return DONE;
}

static void post(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, struct ferryi_channel *channel)
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

static void prepare(struct ferryi_fetch *fetch, const struct ferryi_page_ref *ref, size_t off, uint32_t nr,
		    const struct ferryi_remote *remote, uint64_t remote_off, unsigned pool_index)
{
	fetch->object = ref->object;
	fetch->index = ref->index + off;
	fetch->fault.va = ref->va + off * FERRYI_PAGE_SIZE;
	fetch->nr_pages = nr;
	fetch->nr_copied = 0;
	fetch->landed = false;
	fetch->pool_index = pool_index;
	fetch->op.kind = FERRYI_OP_READ;
	fetch->op.len_bytes = (size_t)nr * FERRYI_PAGE_SIZE;
	fetch->op.remote = *remote;
	fetch->op.remote_off = remote_off;
	fetch->op.deadline_ns = fetch->fault.deadline_ns;
}

/* Reads pages [at, end) after ref that are away, in chunks of neighbours; where it stopped. */
static uint32_t read_ahead(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint32_t at, uint32_t end,
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
		struct ferryi_channel *channel =
			pool && !ferryi_pool_lost(pool) ? ferryi_lines_channel(&f->lines, ferryi_pool_index(pool)) : NULL;
		uint64_t to_block_end = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;
		uint64_t nr = ferryi_min_u64(ferryi_min_u64(end - at, FERRYI_FETCH_CHUNK_PAGES), to_block_end);

		if (!channel)
			break;
		uint32_t got = claim_ahead(f, ref, at, (uint32_t)nr, FERRYI_PAGE_AWAY);

		if (!got)
			break;
		ferryi_uncount(&f->pager->counters.g_away_pages, got);
		struct ferryi_fetch *fetch = f->free_chunks;

		f->free_chunks = fetch->next;
		fetch->fault = *fault;
		prepare(fetch, ref, at, got, &remote, off, ferryi_pool_index(pool));
		post(f, fetch, channel);
		at += got;
	}
	return at;
}

static enum outcome fault_away(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
			       uint64_t old)
{
	struct ferryi_remote remote;
	struct ferryi_stream_advice advice;
	uint64_t off;
	struct ferry_pool *pool = ferryi_locate(f->pager, ferryi_object_pfn(ref->object, ref->index), &remote, &off);

	if (!pool || ferryi_pool_lost(pool))
		return poison(f, fault, ref, pool);
	struct ferryi_channel *channel = ferryi_lines_channel(&f->lines, ferryi_pool_index(pool));

	if (!channel) {
		fault->last_error = -ENOTCONN;
		return WAIT;
	}
	if (!f->free_small)
		return WAIT;
	if (!charge(f, fault))
		return WAIT;
	if (!ferryi_page_cas(ferryi_ref_word(ref), &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING))) {
		ferryi_budget_uncharge(&f->pager->budget, 1);
		return WAIT;
	}
	ferryi_uncount(&f->pager->counters.g_away_pages, 1);
	struct ferryi_fetch *fetch = f->free_small;

	f->free_small = fetch->next;
	fetch->fault = *fault;
	prepare(fetch, ref, 0, 1, &remote, off, ferryi_pool_index(pool));
	post(f, fetch, channel);

	if (fault->forced || (ref->area_flags & FERRYI_AREA_RANDOM))
		return DONE;
	ferryi_streams_fault(&f->streams, ref->object, ref->index, ref->area_flags & FERRYI_AREA_SEQUENTIAL, &advice);
	ferryi_count(&f->pager->counters.c_readahead_hits, advice.hits);
	ferryi_streams_done(&advice, ref->index, read_ahead(f, ref, 1, 1 + advice.ahead, fault) - 1);
	return DONE;
}

/* The page is on its way. A stream that has caught up with its window has the next one read already. */
static enum outcome fault_fetching(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref)
{
	struct ferryi_stream_advice advice;
	size_t from;

	if (fault->forced) /* a request of ours: no wake tells it when the page is there */
		return WAIT;
	if (!(ref->area_flags & FERRYI_AREA_RANDOM) &&
	    ferryi_streams_joined(&f->streams, ref->object, ref->index, &advice, &from)) {
		uint32_t at = (uint32_t)(from - ref->index);
		uint32_t got = read_ahead(f, ref, at, at + advice.ahead, fault) - at;

		if (got) {
			ferryi_count(&f->pager->counters.c_readahead_hits, advice.hits);
			ferryi_streams_done(&advice, from - 1, got);
		}
	}
	return DONE; /* its owner copies, or wakes if it cannot: either ends this fault too */
}

/* Armed memory that is in no area: the old end of an mremap(MREMAP_DONTUNMAP), or growth in place. It reads as zeros. */
static enum outcome fault_unmanaged(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	void *page = (void *)(fault->va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1));
	int rc = ferryi_uffd_zero(f->pager->uffd, page, FERRYI_PAGE_SIZE);

	/* An evictor may have marked the hole after mremap had taken its page: only a copy fills that. */
	if (rc == -EEXIST)
		rc = (int)ferryi_uffd_copy(f->pager->uffd, page, f->pager->zeros, FERRYI_PAGE_SIZE);
	if (rc == -EAGAIN) /* an event is on its way that will tell whose page this is */
		return WAIT;
	if (rc)
		ferryi_uffd_wake(f->pager->uffd, page, FERRYI_PAGE_SIZE);
	return DONE;
}

static enum outcome try_fault(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_page_ref ref;
	enum outcome outcome = WAIT;

	ferryi_areas_read_lock(&f->pager->areas);
	if (!ferryi_areas_find_locked(&f->pager->areas, fault->va, &ref)) {
		ferryi_areas_read_unlock(&f->pager->areas);
		return fault->forced ? DONE : fault_unmanaged(f, fault);
	}
	uint64_t word = ferryi_page_load(ferryi_ref_word(&ref));

	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_ABSENT:
		outcome = fault_absent(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_RESIDENT:
		outcome = fault_resident(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_STAGED:
		outcome = fault_staged(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_AWAY:
		outcome = fault_away(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_FETCHING:
	case FERRYI_PAGE_RESCUING:
		outcome = fault_fetching(f, fault, &ref);
		break;
	case FERRYI_PAGE_POISONED:
		if (!fault->forced && ferryi_uffd_poison(f->pager->uffd, (void *)ref.va))
			ferryi_uffd_wake(f->pager->uffd, (void *)ref.va, FERRYI_PAGE_SIZE);
		outcome = DONE;
		break;
	case FERRYI_PAGE_ISOLATING:
		break;
	}
	ferryi_areas_read_unlock(&f->pager->areas);
	return outcome;
}

/* Past its deadline: poison, if the page is still in a state to be poisoned. */
static enum outcome expire(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_page_ref ref;
	struct ferryi_remote remote;
	uint64_t off;
	enum outcome outcome = WAIT;

	ferryi_areas_read_lock(&f->pager->areas);
	if (!ferryi_areas_find_locked(&f->pager->areas, fault->va, &ref))
		outcome = DONE;
	else if (fault->forced)
		outcome = DONE; /* the caller looks at the page's state and reports */
	else
		outcome = poison(f, fault, &ref,
				 ferryi_locate(f->pager, ferryi_object_pfn(ref.object, ref.index), &remote, &off));
	ferryi_areas_read_unlock(&f->pager->areas);
	return outcome;
}

void ferryi_fetch_fault(struct ferryi_fetcher *f, const struct ferryi_fault *fault)
{
	struct ferryi_fault mine = *fault;

	if (try_fault(f, &mine) == WAIT)
		wait_later(f, &mine);
}

uintptr_t ferryi_fetch_ahead(struct ferryi_fetcher *f, uintptr_t start, uintptr_t end, uint64_t deadline_ns)
{
	struct ferryi_fault fault = { .forced = true, .start_ns = 0, .deadline_ns = deadline_ns };
	struct ferryi_page_ref ref;

	ferryi_areas_read_lock(&f->pager->areas);
	while (start < end && ferryi_areas_find_locked(&f->pager->areas, start, &ref)) {
		uint64_t want = ferryi_min_u64((end - start) >> FERRYI_PAGE_SHIFT, ref.area_pages_left);
		uint32_t got = read_ahead(f, &ref, 0, (uint32_t)ferryi_min_u64(want, UINT32_MAX / 2), &fault);

		start += (uintptr_t)got * FERRYI_PAGE_SIZE;
		if (got < want)
			break;
	}
	ferryi_areas_read_unlock(&f->pager->areas);
	return start;
}

static unsigned retry_waiting(struct ferryi_fetcher *f)
{
	unsigned n = f->nr_waiting, done = 0;
	uint64_t now = n ? ferryi_now_ns() : 0;

	f->nr_waiting = 0;
	for (unsigned i = 0; i < n; i++) {
		struct ferryi_fault *fault = &f->waiting[i];
		enum outcome outcome = try_fault(f, fault);

		if (outcome == WAIT && now >= fault->deadline_ns)
			outcome = expire(f, fault);
		if (outcome == WAIT) {
			f->waiting[f->nr_waiting++] = *fault;
		} else {
			atomic_fetch_sub(&f->pager->budget_waiters, 1);
			done++;
		}
	}
	return done;
}

/* ---- completions ---- */

static void free_fetch(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	struct ferryi_fetch **list = fetch->demand ? &f->free_small : &f->free_chunks;

	fetch->next = *list;
	*list = fetch;
	f->nr_outstanding--;
}

/* Wakes who waits for pages of the object, wherever mremap has taken them since the read began. */
static void wake_pages(struct ferryi_fetcher *f, const struct ferryi_object *object, size_t index, size_t nr)
{
	struct ferryi_area_table *table = &f->pager->areas;

	ferryi_areas_read_lock(table);
	for (unsigned i = 0; i < table->nr_areas; i++) {
		const struct ferryi_area *area = &table->areas[i];
		size_t area_end = area->first_page + ((area->end - area->start) >> FERRYI_PAGE_SHIFT);
		size_t from = ferryi_max_u64(index, area->first_page), to = ferryi_min_u64(index + nr, area_end);

		if (area->object == object && from < to)
			ferryi_uffd_wake(f->pager->uffd,
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
		unclaim_page(f, fetch->object, fetch->index + fetch->nr_copied + i, FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED);
	if (fetch->demand && err != -ENOENT) {
		fetch->fault.last_error = err;
		wait_later(f, &fetch->fault);
	} else if (left) {
		ferryi_uffd_wake(f->pager->uffd, (void *)va, (size_t)left * FERRYI_PAGE_SIZE);
		wake_pages(f, fetch->object, fetch->index + fetch->nr_copied, left);
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

static void complete(struct ferryi_fetcher *f, struct ferryi_fetch *fetch)
{
	struct ferryi_counters *c = &f->pager->counters;
	uint32_t done;

	if (fetch->op.status) {
		fail_fetch(f, fetch, fetch->op.status);
		return;
	}
	uint32_t first = fetch->nr_copied, left = fetch->nr_pages - first;
	uintptr_t va = fetch->fault.va + (uintptr_t)first * FERRYI_PAGE_SIZE;
	uint64_t flags = FERRYI_PAGE_COPIED;

	/*
	 * Under the lock, so that an mremap or munmap is seen whole or not at all: a copy to the old address would
	 * be lost there, or hit memory that has come to the place since.
	 */
	ferryi_areas_read_lock(&f->pager->areas);
	if (!still_there_locked(f, fetch)) {
		ferryi_areas_read_unlock(&f->pager->areas);
		fail_fetch(f, fetch, -ENOENT);
		return;
	}
	int rc = copy_run(f->pager, va, (uint8_t *)fetch->op.local + (size_t)first * FERRYI_PAGE_SIZE, left, &done);

	if (fetch->demand && done) {
		count_fault(f, &fetch->fault, true);
		flags |= FERRYI_PAGE_REFERENCED | (fetch->fault.write ? FERRYI_PAGE_DIRTY : 0);
	}
	for (uint32_t i = 0; i < done; i++)
		finish_page(f, fetch->object, fetch->index + first + i, va + (uintptr_t)i * FERRYI_PAGE_SIZE, flags);
	ferryi_areas_read_unlock(&f->pager->areas);
	fetch->nr_copied += done;
	ferryi_count(&c->c_pages_in, done);
	ferryi_count(&c->c_bytes_in, (uint64_t)done * FERRYI_PAGE_SIZE);
	if (!fetch->demand)
		ferryi_count(&c->c_pages_readahead, done);
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

		complete(f, landed);
		landed = next;
	}
	if (f->nr_waiting)
		done += retry_waiting(f);
	ferryi_lines_tend(&f->lines);
	return done;
}
