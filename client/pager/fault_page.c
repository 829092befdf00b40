/*
 * One fault on one page, by the state of its page word (page.h), and the faults
 * that have to wait. Fault path: fetch.h lists what may be called.
 */
#include "fetch_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "callback.h"
#include "clock.h"
#include "copies.h"
#include "exclusive.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"

enum outcome { DONE, WAIT };

/* ---- waiting ---- */

void ferryi_fault_wait(struct ferryi_fetcher *f, const struct ferryi_fault *fault)
{
	if (f->nr_waiting == FERRYI_FETCH_WAITING) {
		/* Let the thread fault again: its event comes back when there is room. */
		ferryi_uffd_wake(f->pager->uffd, (void *)fault->va, FERRYI_PAGE_SIZE);
		return;
	}
	f->waiting[f->nr_waiting] = *fault;
	f->waiting[f->nr_waiting++].has_waited = true;
	atomic_fetch_add(&f->pager->budget_waiters, 1);
}

/*
 * No room is made before this thread goes on: the one that forks just now, as eviction rests until it has; an evictor,
 * which has touched an address where another page has come meanwhile (MADV_POPULATE_WRITE in evict.c).
 */
static bool room_waits_for(struct ferryi_pager *pager, int tid)
{
	bool is = tid && tid == atomic_load(&pager->forking_tid);

	for (unsigned i = 0; tid && i < pager->nr_evict_threads; i++)
		is = is || tid == atomic_load(&pager->evict_threads[i].tid);
	return is;
}

static bool charge(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_pager *pager = f->pager;
	bool ok = ferryi_budget_charge(&pager->budget, 1);

	if (ferryi_budget_is_low(&pager->budget) || ferryi_memcg_is_pressed(&pager->memcg))
		ferryi_pager_need_memory(pager);
	if (!ok && room_waits_for(pager, f->lane ? (int)syscall(SYS_gettid) : fault->tid)) {
		ferryi_budget_charge_slack(&pager->budget, 1);
		ok = true;
	}
	if (!ok) {
		if (fault->last_error != -ENOMEM)
			ferryi_count(&pager->counters.c_budget_waits, 1);
		fault->last_error = -ENOMEM;
	}
	return ok;
}

void ferryi_fault_count(struct ferryi_fetcher *f, const struct ferryi_fault *fault, bool major)
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
	if (pool && ferryi_pool_lost(pool) && fault->last_error != -EKEYREVOKED)
		return ferryi_pool_lost(pool) == FERRYI_LOST_REVOKED ? FERRY_FAULT_REVOKED : FERRY_FAULT_SERVER_LOST;
	switch (fault->last_error) {
	case -ENOMEM:
		return FERRY_FAULT_NO_MEMORY;
	case -EKEYREVOKED:
		return FERRY_FAULT_REVOKED;
	case -EACCES:
	case -EHWPOISON:
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

	struct ferryi_block *block = ferryi_ref_block(ref);

	ferryi_block_use_away(block); /* POISONED is settled; its place is ours until the pool knows, or it is AWAY again */
	if (!ferryi_page_cas(word, &old, poisoned)) {
		ferryi_block_use_end(block);
		return WAIT;
	}
	struct ferryi_notice notice;

	ferryi_notify_begin(f->pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_POISON, NULL);
	int rc = ferryi_uffd_poison(ferryi_uffd_of(f->pager, ref->object), (void *)ref->va);

	ferryi_notify_end(&notice);

	if (rc && rc != -EEXIST) { /* the address space is changing, or the range is gone */
		ferryi_page_cas(word, &poisoned, old);
		ferryi_block_use_end(block);
		if (rc == -EAGAIN)
			return WAIT;
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
		return DONE;
	}
	if (away) {
		ferryi_uncount(&f->pager->counters.g_away_pages, 1);
		ferryi_page_freed(f->pager, ferryi_object_pfn(ref->object, ref->index));
	}
	ferryi_block_use_end(block);
	if (ferryi_counter_read(&f->pager->counters.c_faults_poisoned) == 0)
		ferryi_error("page %#lx: poisoned, %s%s%s", (unsigned long)ref->va,
			     ferry_fault_reason_text((enum ferry_fault_reason)reason), fault->last_error ? ": " : "",
			     fault->last_error ? ferryi_strerror(fault->last_error) : "");
	ferryi_count(&f->pager->counters.c_faults_poisoned, 1);
	ferryi_fault_count(f, fault, false);
	return DONE;
}

/* ---- one page, by state ---- */

/* Pages [1, ahead] after ref, claimed as first touches of a stream: filled in runs, so that the reader may follow. */
static void zero_ahead(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint32_t ahead)
{
	uint32_t at = 1, done;
	int rc = 0;

	for (; at <= ahead && !rc; at += done) {
		uintptr_t va = ref->va + (uintptr_t)at * FERRYI_PAGE_SIZE;
		uint32_t nr = (uint32_t)ferryi_min_u64(ahead + 1 - at, FERRYI_ZERO_PAGES);

		rc = ferryi_place_announced(f->pager, ref->object, va, f->pager->zeros, nr, &done);
		for (uint32_t i = 0; i < done; i++)
			ferryi_place_finish(ref->object, ref->index + at + i, FERRYI_PAGE_DIRTY);
	}
	for (; at <= ahead; at++) {
		ferryi_place_unclaim(f, ref->object, ref->index + at, FERRYI_PAGE_ABSENT);
		ferryi_wake_at(f->pager, ref->object, ref->va + (uintptr_t)at * FERRYI_PAGE_SIZE, FERRYI_PAGE_SIZE);
	}
}

static bool is_there(const struct ferryi_object *object, size_t index)
{
	switch (ferryi_page_state(ferryi_page_load(&object->words[index]))) {
	case FERRYI_PAGE_ABSENT:
	case FERRYI_PAGE_AWAY:
	case FERRYI_PAGE_FETCHING:
		return false;
	default:
		return true;
	}
}

static struct ferryi_stream_fault stream_fault(const struct ferryi_fetcher *f, const struct ferryi_fault *fault,
					       const struct ferryi_page_ref *ref)
{
	return (struct ferryi_stream_fault){
		.object = ref->object,
		.index = ref->index,
		.tid = fault->tid,
		.sequential = ref->area_flags & FERRYI_AREA_SEQUENTIAL,
		.is_relayed = f->lane,
		.is_there = is_there,
	};
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
		struct ferryi_stream_fault of = stream_fault(f, fault, ref);

		of.is_first = true;
		ferryi_streams_fault(&f->streams, &of, &advice);
		if (f->lane) /* the toucher itself fills them: one ioctl's worth */
			advice.ahead = (uint32_t)ferryi_min_u64(advice.ahead, FERRYI_ZERO_PAGES);
		if (advice.step == 1) /* neighbours upwards only: filled as one */
			ahead = ferryi_fetch_claim(f, ref, 1, advice.ahead, FERRYI_PAGE_ABSENT);
		ferryi_streams_done(&f->streams, &advice, ahead);
	}

	int rc = ferryi_place_announced(f->pager, ref->object, ref->va, f->pager->zeros, 1, &done);

	if (done) {
		ferryi_place_finish(ref->object, ref->index, FERRYI_PAGE_DIRTY | FERRYI_PAGE_REFERENCED);
		if (!fault->forced)
			ferryi_count(&f->pager->counters.c_faults_zero, 1);
		ferryi_fault_count(f, fault, false);
	} else {
		ferryi_place_unclaim(f, ref->object, ref->index, FERRYI_PAGE_ABSENT);
	}
	zero_ahead(f, ref, ahead);
	if (rc == -EAGAIN || rc == -ENOMEM) {
		fault->last_error = rc;
		return WAIT;
	}
	if (rc)
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
	return DONE;
}

/* A fault on a page that should be there: woken late, or dropped by the application and not seen yet. */
static enum outcome fault_resident(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				   uint64_t old)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint64_t keep = old & ~FERRYI_PAGE_STATE_MASK;

	/* A lane's: it was under way then, or has come since the touch; one that is touched in vain again was dropped. */
	if (fault->forced || (f->lane && (fault->has_waited || fault->is_first)))
		return DONE;
	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
		return WAIT;
	struct ferryi_notice notice;

	ferryi_notify_begin(f->pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_REMOVE, NULL);
	long rc = ferryi_place_copy(f->pager, ferryi_uffd_of(f->pager, ref->object), (void *)ref->va,
				    f->pager->zeros, FERRYI_PAGE_SIZE);

	ferryi_notify_end(&notice);
	if (rc == -EEXIST && f->lane) /* only holes are marked: what is left over from a lost race raises SIGBUS too */
		ferryi_uffd_mark(ferryi_uffd_of(f->pager, ref->object), (void *)ref->va, FERRYI_PAGE_SIZE, false);
	if (rc > 0) {
		keep = ferryi_page_not_zapping(keep & ~FERRYI_PAGE_COPIED) | FERRYI_PAGE_DIRTY;
		ferryi_page_void(f->pager->model, ferryi_object_pfn(ref->object, ref->index));
		ferryi_count(&f->pager->counters.c_faults_zero, 1);
		ferryi_fault_count(f, fault, false);
	}
	/* The page keeps its charge and its place in nr_resident; a drop meanwhile is found the same way, later. */
	uint64_t now = ferryi_page_load(word), back;

	do {
		back = now & FERRYI_PAGE_DROPPED ? ferryi_page_zapping(keep, ferryi_now_ns()) : keep;
	} while (!ferryi_page_cas(word, &now, back | FERRYI_PAGE_RESIDENT));
	if (rc == -EAGAIN || rc == -ENOMEM) {
		fault->last_error = (int)rc;
		return WAIT;
	}
	if (rc < 0)
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
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

	ferryi_rescue_charge(f->pager, ferryi_page_arg(staged));
	int rc = ferryi_place_announced(f->pager, ref->object, ref->va, src, 1, &done);

	if (rc) {
		ferryi_rescue_uncharge(f->pager, ferryi_page_arg(staged));
		/* STAGED again, with a DROPPED that may have come meanwhile. */
		uint64_t now = ferryi_page_load(word);

		while (!ferryi_page_cas(word, &now, ferryi_page_with(now, FERRYI_PAGE_STAGED)))
			;
		if (rc == -EAGAIN || rc == -ENOMEM) {
			fault->last_error = rc;
			return WAIT;
		}
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
		return DONE;
	}
	uint64_t rescued = (staged & FERRYI_PAGE_ARG_MASK) | FERRYI_PAGE_WRITEBACK | FERRYI_PAGE_DIRTY |
			   FERRYI_PAGE_REFERENCED | FERRYI_PAGE_RESIDENT;

	ferryi_place_count(ref->object, ref->index);
	/* Not dropped meanwhile: no event is applied under the fetch lock. */
	atomic_store_explicit(word, rescued, memory_order_release);
	if (!fault->forced)
		ferryi_count(&f->pager->counters.c_faults_rescued, 1);
	ferryi_fault_count(f, fault, false);
	return DONE;
}

/* The poison may not be in place yet. */
static enum outcome fault_poisoned(struct ferryi_fetcher *f, const struct ferryi_fault *fault, const struct ferryi_page_ref *ref)
{
	int rc = fault->forced ? 0 : ferryi_uffd_poison(ferryi_uffd_of(f->pager, ref->object), (void *)ref->va);

	if (rc)
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
	if (rc == -EEXIST && f->lane) /* it is, and has raised the signal */
		f->lane->verdict = FERRYI_LANE_POISON;
	return DONE;
}

static enum outcome fault_coherent(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				   uint64_t old)
{
	if (fault->forced) /* who wants it in RAM has the mapping replaced first */
		return DONE;
	int rc = ferryi_coherent_fault(f->pager, ref, old);

	if (rc) {
		fault->last_error = rc;
		return WAIT;
	}
	ferryi_fault_count(f, fault, false);
	return DONE;
}

static enum outcome fault_exclusive(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
				    uint64_t old)
{
	int rc = ferryi_exclusive_restore(f->pager, ref, old, fault);

	if (rc == -EAGAIN || rc == -ENOMEM) {
		fault->last_error = rc;
		return WAIT;
	}
	if (rc)
		ferryi_wake_at(f->pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
	ferryi_fault_count(f, fault, false);
	return DONE;
}

/* Where the data of an away page is to be had. */
static enum ferryi_fill fill_of(const struct ferry_pool *pool, uint64_t pfn, bool is_there)
{
	bool coherent = ferryi_pool_is_coherent(pool); /* its memory is this process's too, and outlives the server */
	bool failed = ferryi_pool_any_failed(pool) && ferryi_pool_page_failed(pool, pfn);

	if (!is_there && (failed || !coherent))
		return FERRYI_FILL_REPLICA;
	return ferryi_callback_has_engine(pool) ? FERRYI_FILL_ENGINE : coherent ? FERRYI_FILL_MEMFD : FERRYI_FILL_READ;
}

/* What is written once the page is in place was another CPU's last: it comes while the page is on its way. */
static void prefetch_for_placing(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint64_t pfn)
{
	const struct ferry_page *page = ferryi_pfn_to_page(f->pager->model, pfn);

	__builtin_prefetch(page, 1);
	__builtin_prefetch(page - pfn % FERRYI_PAGES_PER_BLOCK);
	__builtin_prefetch(&ferryi_ref_block(ref)->nr_resident, 1);
	__builtin_prefetch(&f->pager->counters.c_pages_in, 1);
}

static enum outcome fault_away(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
			       uint64_t old)
{
	struct ferryi_location from = { 0 };
	struct ferryi_stream_advice advice;
	bool is_there = false;
	uint64_t pfn = ferryi_object_pfn(ref->object, ref->index);
	const struct ferryi_subsection *sub = ferryi_subsection_of(f->pager->model, pfn);
	struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;
	struct ferryi_channel *channel = pool ? ferryi_copies_source(&f->lines, pool, sub, pfn, &from, &is_there) : NULL;
	enum ferryi_fill fill = pool ? fill_of(pool, pfn, is_there) : FERRYI_FILL_READ;

	if (!pool || (fill == FERRYI_FILL_REPLICA && !ferryi_callback_has_replica(pool))) {
		fault->last_error = pool && !ferryi_pool_lost(pool) ? -EHWPOISON : fault->last_error;
		return poison(f, fault, ref, pool);
	}
	if (!channel && fill == FERRYI_FILL_READ) {
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
	ferryi_fetch_prepare(f->pager->attr.notifier, fetch, ref, 0, 1, &from);
	/* The CPU writes to a coherent page by itself: no hash is known of what is there. */
	fetch->no_copy = fill == FERRYI_FILL_REPLICA || !ferryi_callback_keeps_copies(pool) || ferryi_pool_is_coherent(pool);
	if (fill != FERRYI_FILL_READ) {
		ferryi_fetch_fill(f, fetch, fill);
		return DONE;
	}
	fetch->op.deadline_ns = ferryi_copies_deadline(f->pager, pool, sub, pfn, &from, fault->deadline_ns);
	ferryi_count(&f->pager->counters.c_reads_retried, fault->read_failed);
	fetch->fault.read_failed = false;
	ferryi_fetch_post(f, fetch, channel);
	prefetch_for_placing(f, ref, pfn);

	if (fault->forced || (ref->area_flags & FERRYI_AREA_RANDOM))
		return DONE;
	const struct ferryi_stream_fault of = stream_fault(f, fault, ref);

	ferryi_streams_fault(&f->streams, &of, &advice);
	ferryi_count(&f->pager->counters.c_readahead_hits, advice.hits);
	ferryi_streams_done(&f->streams, &advice, ferryi_fetch_stream(f, ref, &advice, fault));
	return DONE;
}

/* The page is on its way. A stream that has caught up with its window has the next one read already. */
static enum outcome fault_fetching(struct ferryi_fetcher *f, struct ferryi_fault *fault, const struct ferryi_page_ref *ref)
{
	struct ferryi_stream_advice advice;

	if (fault->forced) /* a request of ours: no wake tells it when the page is there */
		return WAIT;
	if (!(ref->area_flags & FERRYI_AREA_RANDOM)) {
		const struct ferryi_stream_fault of = stream_fault(f, fault, ref);

		ferryi_streams_joined(&f->streams, &of, &advice);
		ferryi_count(&f->pager->counters.c_readahead_hits, advice.hits);
		ferryi_streams_done(&f->streams, &advice, ferryi_fetch_stream(f, ref, &advice, fault));
	}
	return f->lane ? WAIT : DONE; /* its owner copies, or wakes if it cannot: either ends this fault too */
}

/*
 * Armed memory that is in no area: the old end of an mremap(MREMAP_DONTUNMAP), or growth in place. It reads as zeros;
 * of a coherent page, where the file behind it still has what is another address's now, it raises SIGBUS.
 */
static enum outcome fault_unmanaged(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	void *page = (void *)(fault->va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1));
	int rc = ferryi_uffd_zero(f->pager->uffd, page, FERRYI_PAGE_SIZE);

	/* An evictor may have marked the hole after mremap had taken its page: only a copy fills that. */
	if (rc == -EEXIST)
		rc = (int)ferryi_uffd_copy(f->pager->uffd, page, f->pager->zeros, FERRYI_PAGE_SIZE);
	if (rc == -EEXIST && fault->minor)
		rc = ferryi_uffd_poison(f->pager->uffd, page);
	if (rc == -EAGAIN) /* an event is on its way that will tell whose page this is */
		return WAIT;
	if (rc)
		ferryi_uffd_wake(f->pager->uffd, page, FERRYI_PAGE_SIZE);
	return DONE;
}

/* No inline memory, as far as the area table knows; an event on its way may tell more. */
static enum outcome fault_strange(struct ferryi_fetcher *f)
{
	if (ferryi_events_to_come(f->pager))
		return WAIT;
	f->lane->verdict = FERRYI_LANE_STRANGE;
	return DONE;
}

/* Its block is being moved to a coherent pool: the page soon is there, and this would take it back. */
static bool waits_for_entry(struct ferryi_fetcher *f, const struct ferryi_fault *fault, const struct ferryi_page_ref *ref,
			    uint64_t word)
{
	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_ABSENT:
	case FERRYI_PAGE_AWAY:
	case FERRYI_PAGE_STAGED:
		return ferryi_coherent_entry_blocks(f->pager, ferryi_ref_block(ref), fault);
	default:
		return false;
	}
}

static enum outcome try_fault(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_page_ref ref;
	enum outcome outcome = WAIT;

	ferryi_fetch_lock(f);
	if (ferryi_event_is_late_locked(f->pager, fault->va)) {
		ferryi_fetch_unlock(f);
		return WAIT;
	}
	bool found = ferryi_areas_find_locked(&f->pager->areas, fault->va, &ref);

	if (f->lane && !(found && ref.object->is_inline)) {
		ferryi_fetch_unlock(f);
		return fault_strange(f);
	}
	if (!found) {
		ferryi_fetch_unlock(f);
		return fault->forced ? DONE : fault_unmanaged(f, fault);
	}
	uint64_t word = ferryi_page_load(ferryi_ref_word(&ref));

	if (waits_for_entry(f, fault, &ref, word)) {
		ferryi_fetch_unlock(f);
		return WAIT;
	}
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
		outcome = fault_poisoned(f, fault, &ref);
		break;
	case FERRYI_PAGE_EXCLUSIVE:
		outcome = fault_exclusive(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_COHERENT:
		outcome = fault_coherent(f, fault, &ref, word);
		break;
	case FERRYI_PAGE_ISOLATING:
		break;
	}
	ferryi_fetch_unlock(f);
	return outcome;
}

/* Past its deadline: poison, if the page is still in a state to be poisoned. */
static enum outcome expire(struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	struct ferryi_page_ref ref;
	struct ferryi_remote remote;
	uint64_t off;
	enum outcome outcome = WAIT;

	ferryi_fetch_lock(f);
	if (!ferryi_areas_find_locked(&f->pager->areas, fault->va, &ref))
		outcome = DONE;
	else if (fault->give_up && ferryi_page_state(ferryi_page_load(ferryi_ref_word(&ref))) != FERRYI_PAGE_AWAY)
		outcome = DONE; /* somebody has it, and ends this too */
	else if (fault->forced && !fault->give_up)
		outcome = DONE; /* the caller looks at the page's state and reports */
	else
		outcome = poison(f, fault, &ref,
				 ferryi_locate(f->pager, ferryi_object_pfn(ref.object, ref.index), &remote, &off));
	ferryi_fetch_unlock(f);
	return outcome;
}

void ferryi_fetch_fault(struct ferryi_fetcher *f, const struct ferryi_fault *fault)
{
	struct ferryi_fault mine = *fault;

	if ((mine.give_up ? expire(f, &mine) : try_fault(f, &mine)) == WAIT)
		ferryi_fault_wait(f, &mine);
}

/* Past its deadline for want of memory alone: as the application has chosen (FERRY_OOM). */
static bool waits_on(const struct ferryi_fetcher *f, struct ferryi_fault *fault)
{
	if (fault->last_error != -ENOMEM || fault->forced || f->pager->attr.oom == FERRYI_OOM_POISON)
		return false;
	if (f->pager->attr.oom == FERRYI_OOM_ABORT) {
		ferryi_error("page %#lx: no memory for it in time, and FERRY_OOM=abort", (unsigned long)fault->va);
		abort();
	}
	fault->deadline_ns = ferryi_deadline_ms(f->pager->attr.fault_timeout_ms); /* of the read, once there is memory */
	return true;
}

unsigned ferryi_fault_retry(struct ferryi_fetcher *f)
{
	unsigned n = f->nr_waiting, done = 0;
	uint64_t now = n ? ferryi_now_ns() : 0;

	f->nr_waiting = 0;
	for (unsigned i = 0; i < n; i++) {
		struct ferryi_fault *fault = &f->waiting[i];
		enum outcome outcome = fault->give_up ? expire(f, fault) : try_fault(f, fault);

		if (outcome == WAIT && !fault->give_up && now >= fault->deadline_ns && !waits_on(f, fault))
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

