/*
 * What API callers have done to pages: brought home, pinned, flushed, sent
 * away. Each takes the service lock and works with the service fetcher or
 * evictor in its own thread, beside the fault and eviction threads.
 */
#include "service.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "callback.h"
#include "clock.h"
#include "copies.h"
#include "error.h"
#include "log.h"

#define SEND_ROUNDS 8u
#define PAUSE_MS 1 /* between looks at something that another thread ends */

static uint64_t deadline_of(const struct ferryi_pager *pager)
{
	return ferryi_deadline_ms(pager->attr.fault_timeout_ms);
}

bool ferryi_service_look(struct ferryi_pager *pager, uintptr_t va, struct ferryi_page_ref *ref, uint64_t *word)
{
	ferryi_areas_read_lock(&pager->areas);
	bool found = ferryi_areas_find_locked(&pager->areas, va, ref);

	if (found)
		*word = ferryi_page_load(ferryi_ref_word(ref));
	ferryi_areas_read_unlock(&pager->areas);
	return found;
}

static void fetch_until_idle(struct ferryi_fetcher *f)
{
	unsigned quiet = 0;

	while (!ferryi_fetch_is_idle(f)) { /* every read and every wait has a deadline */
		if (ferryi_fetch_poll(f))
			quiet = 0;
		else if (++quiet > 10000)
			poll(NULL, 0, PAUSE_MS);
		else
			ferryi_cpu_relax();
	}
}

/* As much as can be had in chunks; what cannot (no budget, no link) is left to the page by page way, which tells why. */
static void read_range(struct ferryi_fetcher *f, uintptr_t start, uintptr_t end, uint64_t deadline_ns)
{
	while (start < end && ferryi_now_ns() < deadline_ns) {
		uintptr_t stopped = ferryi_fetch_ahead(f, start, end, deadline_ns);

		if (stopped == start && ferryi_fetch_is_idle(f))
			break;
		start = stopped;
		do {
			ferryi_fetch_poll(f);
		} while (!f->free_chunks);
	}
	fetch_until_idle(f);
}

void ferryi_service_fault_locked(struct ferryi_pager *pager, const struct ferryi_fault *fault)
{
	ferryi_assert_held(&pager->service_lock);
	ferryi_fetch_fault(pager->service_fetcher, fault);
	fetch_until_idle(pager->service_fetcher);
}

void ferryi_service_fault(struct ferryi_pager *pager, const struct ferryi_fault *fault)
{
	ferryi_mutex_lock(&pager->service_lock);
	ferryi_service_fault_locked(pager, fault);
	ferryi_mutex_unlock(&pager->service_lock);
}

int ferryi_service_bring(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, bool only_what_fits)
{
	struct ferryi_fetcher *f = pager->service_fetcher;
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc = 0;

	ferryi_mutex_lock(&pager->service_lock);
	if (!only_what_fits && /* else they stay where the CPU reaches them */
	    ferryi_coherent_leave_locked(pager, &(struct ferryi_coherent_part){ .start = start, .end = end }, NULL))
		rc = -EIO;
	read_range(f, start, end, deadline_of(pager));
	for (uintptr_t va = start; va < end && !only_what_fits && !rc; va += FERRYI_PAGE_SIZE) {
		uint64_t deadline_ns = deadline_of(pager);

		for (;;) {
			if (!ferryi_service_look(pager, va, &ref, &word))
				break;
			enum ferryi_page_state state = ferryi_page_state(word);

			if (state == FERRYI_PAGE_RESIDENT || state == FERRYI_PAGE_ABSENT)
				break;
			if (state == FERRYI_PAGE_POISONED || ferryi_now_ns() >= deadline_ns) {
				rc = -EIO;
				break;
			}
			struct ferryi_remote remote;
			uint64_t off;
			struct ferry_pool *pool = ferryi_locate(pager, ferryi_object_pfn(ref.object, ref.index), &remote, &off);

			if (state == FERRYI_PAGE_AWAY && pool && ferryi_pool_lost(pool) && !ferryi_pool_is_coherent(pool) &&
			    !ferryi_callback_has_replica(pool)) {
				rc = -EIO;
				break;
			}
			ferryi_fetch_fault(f, &(struct ferryi_fault){ .va = va, .forced = true, .deadline_ns = deadline_ns });
			fetch_until_idle(f);
		}
	}
	ferryi_mutex_unlock(&pager->service_lock);
	return rc;
}

void ferryi_service_send_away(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_evictor *ev = pager->service_evictor;

	for (unsigned round = 0; round < SEND_ROUNDS; round++) {
		ferryi_mutex_lock(&pager->service_lock);
		ev->error = 0;
		for (uintptr_t va = start; va < end;) {
			if (!ferryi_evict_range(ev, &va, end) && va < end)
				break;
			ferryi_evict_poll(ev);
		}
		ferryi_evict_drain(ev);
		int error = ev->error;

		ferryi_mutex_unlock(&pager->service_lock);
		if (error != -EAGAIN && error != -EBUSY)
			break;
		poll(NULL, 0, PAUSE_MS); /* the kernel holds a page for the moment, or an event is unread */
	}
}

/* ---- pins ---- */

int ferryi_service_pin_resident(struct ferryi_pager *pager, uintptr_t va)
{
	struct ferryi_page_ref ref;
	int rc = -EAGAIN;

	ferryi_areas_read_lock(&pager->areas);
	if (ferryi_areas_find_locked(&pager->areas, va, &ref)) {
		uint64_t old = ferryi_page_load(ferryi_ref_word(&ref));

		while (ferryi_page_state(old) == FERRYI_PAGE_RESIDENT) {
			if ((old & FERRYI_PAGE_PIN_MASK) == FERRYI_PAGE_PIN_MASK) {
				rc = -EOVERFLOW;
				break;
			}
			if (ferryi_page_cas(ferryi_ref_word(&ref), &old, old + FERRYI_PAGE_PIN_ONE)) {
				if (!ferryi_page_pins(old))
					ferryi_count(&pager->counters.g_pinned_pages, 1);
				rc = 0;
				break;
			}
		}
	}
	ferryi_areas_read_unlock(&pager->areas);
	return rc;
}

void ferryi_service_unpin(struct ferryi_pager *pager, uintptr_t va)
{
	struct ferryi_page_ref ref;

	ferryi_areas_read_lock(&pager->areas);
	if (ferryi_areas_find_locked(&pager->areas, va, &ref)) {
		uint64_t old = ferryi_page_load(ferryi_ref_word(&ref));

		/* A pinned page is RESIDENT, or FETCHING for the blink of a fault on a dropped page. */
		while (ferryi_page_pins(old)) {
			if (ferryi_page_state(old) != FERRYI_PAGE_RESIDENT) {
				ferryi_cpu_relax();
				old = ferryi_page_load(ferryi_ref_word(&ref));
			} else if (ferryi_page_cas(ferryi_ref_word(&ref), &old, old - FERRYI_PAGE_PIN_ONE)) {
				if (ferryi_page_pins(old) == 1)
					ferryi_uncount(&pager->counters.g_pinned_pages, 1);
				break;
			}
		}
	}
	ferryi_areas_read_unlock(&pager->areas);
}

static int pin_page(struct ferryi_pager *pager, uintptr_t va)
{
	uint64_t deadline_ns = deadline_of(pager);
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc;

	while ((rc = ferryi_service_pin_resident(pager, va)) == -EAGAIN) {
		if (!ferryi_service_look(pager, va, &ref, &word))
			return -EINVAL;
		if (ferryi_page_state(word) == FERRYI_PAGE_POISONED || ferryi_now_ns() >= deadline_ns)
			return -EIO;
		ferryi_service_fault(pager, &(struct ferryi_fault){ .va = va, .forced = true, .deadline_ns = deadline_ns });
	}
	return rc;
}

/*
 * The application may have dropped the page unseen: a touch puts one there, the
 * pin keeps it. Nothing is made of the value, so that a writer beside does no
 * harm; ThreadSanitizer cannot know that.
 */
__attribute__((no_sanitize("thread"))) static void touch(uintptr_t va)
{
	(void)*(volatile char *)va;
}

int ferryi_pager_pin(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	uint64_t nr = (end - start) >> FERRYI_PAGE_SHIFT;
	uint64_t pinned = ferryi_counter_read(&pager->counters.g_pinned_pages);
	uint64_t limit = atomic_load(&pager->budget.limit) - (FERRY_BUDGET_MIN >> FERRYI_PAGE_SHIFT);

	if (!ferryi_pager_covers(pager, start, end))
		return ferryi_control_fail(-EINVAL, "pin: the range is not all managed");
	if (pinned + nr > limit)
		return ferryi_control_fail(-ENOMEM, "pin: %llu pages would leave less than %u MiB of the budget unpinned",
					   (unsigned long long)nr, FERRY_BUDGET_MIN >> 20);
	int left = ferryi_coherent_leave(pager, &(struct ferryi_coherent_part){ .start = start, .end = end });

	if (left)
		return ferryi_control_fail(-EIO, "pin: a page of a coherent pool did not come home (%s)", ferryi_strerror(left));
	ferryi_service_bring(pager, start, end, true);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		int rc = pin_page(pager, va);

		if (rc) {
			while (va > start) {
				va -= FERRYI_PAGE_SIZE;
				ferryi_service_unpin(pager, va);
			}
			return ferryi_control_fail(rc, "pin: page %#lx is lost or did not come in time", (unsigned long)va);
		}
		touch(va);
	}
	return 0;
}

int ferryi_pager_unpin(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;
	uint64_t word;

	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_service_look(pager, va, &ref, &word) || !ferryi_page_pins(word))
			return ferryi_control_fail(-EINVAL, "unpin: page %#lx is not pinned", (unsigned long)va);
	}
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE)
		ferryi_service_unpin(pager, va);
	return 0;
}

/* ---- flush ---- */

/* The pool's copy is about to be overwritten: until that has succeeded there is none. */
static void note_writing(const struct ferryi_page_ref *ref)
{
	uint64_t old = ferryi_page_load(ferryi_ref_word(ref));

	while (!ferryi_page_cas(ferryi_ref_word(ref), &old, (old & ~FERRYI_PAGE_COPIED) | FERRYI_PAGE_DIRTY))
		;
}

/* The pool has this content of the page now; what was written to it since shows in its hash. */
static void note_copied(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t hash)
{
	uint64_t old = ferryi_page_load(ferryi_ref_word(ref));

	/* The page is pinned by us: nobody else changes this. */
	ferryi_page_describe(pager->model, ferryi_object_pfn(ref->object, ref->index), ref->va, hash);
	while (!ferryi_page_cas(ferryi_ref_word(ref), &old, (old | FERRYI_PAGE_COPIED) & ~FERRYI_PAGE_DIRTY))
		;
}

/* By one connection: as the operation ended, or -ENOLINK: nothing was sent. */
static int io_once(struct ferryi_pager *pager, const struct ferryi_lender *lender, struct ferryi_op *op)
{
	struct ferryi_lines *lines = &pager->service_evictor->lines;
	unsigned index = lender->index;
	struct ferryi_channel *channel;
	struct ferryi_op *p = op;
	int n;

	while (!(channel = ferryi_lines_channel(lines, index)) || ferryi_channel_submit(channel, &p, 1) != 1) {
		if (ferryi_lender_is_lost(lender) || ferryi_now_ns() >= op->deadline_ns)
			return -ENOLINK;
		ferryi_evict_poll(pager->service_evictor);
		poll(NULL, 0, PAUSE_MS);
	}
	while ((n = ferryi_channel_poll(channel, &p, 1)) == 0)
		ferryi_cpu_relax();
	return n < 0 ? n : op->status;
}

int ferryi_service_op(struct ferryi_pager *pager, const struct ferryi_lender *lender, struct ferryi_op *op)
{
	int last = -ENOLINK, rc;

	/* A connection may end under it though the server is well: over tcp when another pool of its is detached. */
	do {
		rc = ferryi_lender_is_lost(lender) ? -ENOLINK : io_once(pager, lender, op);
		last = rc == -ENOLINK ? last : rc;
	} while ((rc == -ECANCELED || rc == -ENOTCONN) && ferryi_now_ns() < op->deadline_ns);
	return rc ? last : 0;
}

int ferryi_service_io_pfn(struct ferryi_pager *pager, uint64_t pfn, enum ferryi_op_kind kind, uint8_t *bounce, size_t len)
{
	struct ferryi_op op = { .kind = kind, .local = bounce, .len_bytes = len, .deadline_ns = deadline_of(pager) };
	struct ferry_pool *pool = ferryi_locate(pager, pfn, &op.remote, &op.remote_off);

	if (!pool)
		return -EINVAL;
	if (kind == FERRYI_OP_WRITE && !ferryi_pool_lost(pool))
		ferryi_children_save_pfn(pager, pfn);
	if (ferryi_pool_is_coherent(pool))
		return ferryi_coherent_io(pager, pfn, 0, kind == FERRYI_OP_READ ? bounce : NULL, bounce, len);
	if (ferryi_pool_lost(pool))
		return -ENOLINK;
	return kind == FERRYI_OP_READ ? ferryi_copies_read_now(pager, pool, pfn, &op) :
					ferryi_copies_write_now(pager, pool, pfn, &op);
}

int ferryi_service_io(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, enum ferryi_op_kind kind,
		      uint8_t *bounce)
{
	if (!ferryi_object_pfn(ref->object, ref->index)) { /* NORESERVE: its block has no place yet */
		int rc = ferryi_bind_pages(pager, ref->object, ref->index, 1);

		if (rc)
			return rc;
	}
	return ferryi_service_io_pfn(pager, ferryi_object_pfn(ref->object, ref->index), kind, bounce, FERRYI_PAGE_SIZE);
}

/*
 * A copy of a page that the application may be writing to: torn then, which its
 * hash shows at eviction. A race by design, which ThreadSanitizer cannot know.
 */
__attribute__((no_sanitize("thread"))) static void copy_live(uint8_t *to, uintptr_t va)
{
	const volatile uint64_t *from = (const volatile uint64_t *)va;
	uint64_t *out = (uint64_t *)to;

	for (size_t i = 0; i < FERRYI_PAGE_SIZE / sizeof(*out); i++)
		out[i] = from[i];
}

static int flush_page(struct ferryi_pager *pager, uintptr_t va)
{
	uint8_t *bounce = pager->service_evictor->batch[0].bounce;
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc = 0;

	if (ferryi_service_pin_resident(pager, va))
		return -EAGAIN;
	bool found = ferryi_service_look(pager, va, &ref, &word);

	if (found && (word & FERRYI_PAGE_WRITEBACK)) {
		rc = -EAGAIN; /* its old content is being written: wait for that end */
	} else if (found && !ferryi_block_use_begin(ferryi_ref_block(&ref))) {
		rc = -EAGAIN; /* its block is changing its place */
	} else if (found) {
		word = ferryi_page_load(ferryi_ref_word(&ref)); /* a block that left just before took COPIED along */
		copy_live(bounce, va);
		uint64_t hash = XXH3_64bits(bounce, FERRYI_PAGE_SIZE);
		struct ferry_page *desc = ferryi_pfn_to_page(pager->model, ferryi_object_pfn(ref.object, ref.index));

		if (!desc || !(word & FERRYI_PAGE_COPIED) || desc->hash != hash || desc->va != va) {
			note_writing(&ref);
			rc = ferryi_service_io(pager, &ref, FERRYI_OP_WRITE, bounce);
			if (!rc) {
				note_copied(pager, &ref, hash);
				ferryi_count(&pager->counters.c_bytes_out, FERRYI_PAGE_SIZE);
			}
		}
		ferryi_block_use_end(ferryi_ref_block(&ref));
	}
	ferryi_service_unpin(pager, va);
	return rc;
}

int ferryi_pager_flush(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	int rc = 0;

	ferryi_events_settle(pager);
	for (uintptr_t va = start; va < end && !rc; va += FERRYI_PAGE_SIZE) {
		uint64_t deadline_ns = deadline_of(pager);
		struct ferryi_page_ref ref;
		uint64_t word;

		for (;;) {
			if (!ferryi_service_look(pager, va, &ref, &word))
				return ferryi_control_fail(-EINVAL, "flush: %#lx is not managed", (unsigned long)va);
			enum ferryi_page_state state = ferryi_page_state(word);

			if (state == FERRYI_PAGE_ABSENT || state == FERRYI_PAGE_AWAY || state == FERRYI_PAGE_COHERENT)
				break;
			if (state == FERRYI_PAGE_POISONED) {
				rc = -EIO;
				break;
			}
			if (state == FERRYI_PAGE_RESIDENT) {
				ferryi_mutex_lock(&pager->service_lock);
				rc = flush_page(pager, va);
				ferryi_mutex_unlock(&pager->service_lock);
				if (rc != -EAGAIN)
					break;
			}
			if (state == FERRYI_PAGE_EXCLUSIVE)
				ferryi_service_fault(pager, &(struct ferryi_fault){ .va = va, .forced = true, .deadline_ns = deadline_ns });
			if (ferryi_now_ns() >= deadline_ns) {
				rc = -EIO;
				break;
			}
			rc = 0;
			poll(NULL, 0, PAUSE_MS); /* on its way in or out: that ends by itself */
		}
	}
	if (!rc)
		rc = ferryi_descriptors_flush(pager);
	if (rc)
		return ferryi_control_fail(-EIO, "flush: the pool did not take a page (%s)", ferryi_strerror(rc));
	return 0;
}

/* ---- advice, budget ---- */

static int set_flags(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, unsigned set, unsigned clear)
{
	ferryi_areas_write_lock(&pager->areas);
	int rc = ferryi_areas_flag_locked(&pager->areas, start, end, set, clear);

	ferryi_areas_write_unlock(&pager->areas);
	return rc;
}

bool ferryi_service_any_pinned(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;
	uint64_t word;

	if (!ferryi_counter_read(&pager->counters.g_pinned_pages))
		return false;
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (ferryi_service_look(pager, va, &ref, &word) && ferryi_page_pins(word))
			return true;
	}
	return false;
}

static int drop_range(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_notice notice;

	ferryi_notify_begin(pager->attr.notifier, &notice, start, end - start, FERRY_UPDATE_REMOVE, NULL);
	int rc = madvise((void *)start, end - start, MADV_DONTNEED) ? -errno : 0;

	ferryi_notify_end(&notice);
	return rc;
}

int ferryi_pager_advise(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, enum ferry_advice advice)
{
	if (!ferryi_pager_covers(pager, start, end))
		return ferryi_control_fail(-EINVAL, "advise: the range is not all managed");
	switch (advice) {
	case FERRY_ADVICE_NORMAL:
		return set_flags(pager, start, end, 0, FERRYI_AREA_RANDOM | FERRYI_AREA_SEQUENTIAL);
	case FERRY_ADVICE_SEQUENTIAL:
		return set_flags(pager, start, end, FERRYI_AREA_SEQUENTIAL, FERRYI_AREA_RANDOM);
	case FERRY_ADVICE_RANDOM:
		return set_flags(pager, start, end, FERRYI_AREA_RANDOM, FERRYI_AREA_SEQUENTIAL);
	case FERRY_ADVICE_WILLNEED:
		return ferryi_service_bring(pager, start, end, true);
	case FERRY_ADVICE_COLD:
		ferryi_service_send_away(pager, start, end);
		return 0;
	case FERRY_ADVICE_DONTNEED:
		if (ferryi_service_any_pinned(pager, start, end))
			return ferryi_control_fail(-EBUSY, "advise: DONTNEED on pinned pages; unpin them first");
		return drop_range(pager, start, end);
	}
	return ferryi_control_fail(-EINVAL, "advise: unknown advice %d", (int)advice);
}

int ferryi_pager_set_budget(struct ferryi_pager *pager, uint64_t bytes)
{
	uint64_t limit = bytes >> FERRYI_PAGE_SHIFT, old = atomic_load(&pager->budget.limit);
	uint64_t deadline_ns = deadline_of(pager);

	if (bytes < FERRY_BUDGET_MIN)
		return ferryi_control_fail(-EINVAL, "budget: %llu bytes is less than the smallest one, %u MiB",
					   (unsigned long long)bytes, FERRY_BUDGET_MIN >> 20);
	if (ferryi_counter_read(&pager->counters.g_pinned_pages) + (FERRY_BUDGET_MIN >> FERRYI_PAGE_SHIFT) > limit)
		return ferryi_control_fail(-ENOMEM, "budget: pinned pages do not fit into %llu bytes",
					   (unsigned long long)bytes);
	ferryi_budget_set_limit(&pager->budget, limit);
	while (atomic_load(&pager->budget.charged) > limit) {
		if (ferryi_now_ns() >= deadline_ns) {
			ferryi_budget_set_limit(&pager->budget, old);
			return ferryi_control_fail(-ETIMEDOUT, "budget: eviction did not get below %llu bytes in time",
						   (unsigned long long)bytes);
		}
		ferryi_pager_need_memory(pager);
		poll(NULL, 0, PAUSE_MS);
	}
	return 0;
}
