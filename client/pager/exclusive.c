/* See exclusive.h. */
#include "exclusive.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "access.h"
#include "clock.h"
#include "fetch_priv.h"
#include "pager_priv.h"
#include "service.h"
#include "uffd.h"

#define PAUSE_MS   1
#define BUSY_TRIES 8u /* the kernel holds a page for a moment; one that is pinned stays so */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

enum { FREE = 0, USED, STALE, SWEEPING };

static struct ferryi_exclusive_slot *slot_of(struct ferryi_pager *pager, uint32_t slot)
{
	return &pager->exclusive->slot[slot % ferryi_nr_slots(pager) - pager->exclusive->first_slot];
}

static uint64_t word_exclusive(uint32_t slot)
{
	return (uint64_t)slot << FERRYI_PAGE_ARG_SHIFT | FERRYI_PAGE_EXCLUSIVE;
}

/* ---- slots ---- */

static void sweep(struct ferryi_pager *pager)
{
	struct ferryi_exclusive *e = pager->exclusive;

	for (uint32_t i = 0; i < FERRYI_EXCLUSIVE_SLOTS; i++) {
		uint32_t stale = STALE;

		if (atomic_load_explicit(&e->slot[i].state, memory_order_relaxed) != STALE ||
		    !atomic_compare_exchange_strong(&e->slot[i].state, &stale, SWEEPING))
			continue;
		ferryi_staging_release(pager, ferryi_slot_addr(pager, e->first_slot + i), FERRYI_PAGE_SIZE);
		if (ferryi_inline_is_on(&pager->inline_mode))
			ferryi_staging_release(pager, ferryi_slot_addr(pager, ferryi_nr_slots(pager) + e->first_slot + i),
					       FERRYI_PAGE_SIZE);
		atomic_store(&e->slot[i].state, FREE);
	}
}

static bool take_slot(struct ferryi_pager *pager, uint32_t *hand, uint32_t *slot)
{
	struct ferryi_exclusive *e = pager->exclusive;

	for (uint32_t n = 0; n < FERRYI_EXCLUSIVE_SLOTS; n++) {
		uint32_t i = *hand, none = FREE;

		*hand = (*hand + 1) % FERRYI_EXCLUSIVE_SLOTS;
		if (atomic_compare_exchange_strong(&e->slot[i].state, &none, USED)) {
			atomic_fetch_add(&e->nr_used, 1);
			*slot = e->first_slot + i;
			return true;
		}
	}
	return false;
}

static void leave_slot(struct ferryi_pager *pager, uint32_t slot, uint32_t state)
{
	atomic_store(&slot_of(pager, slot)->state, state);
	atomic_fetch_sub(&pager->exclusive->nr_used, 1);
}

void ferryi_exclusive_drop(struct ferryi_pager *pager, uint32_t slot)
{
	ferryi_budget_uncharge(&pager->budget, 1);
	leave_slot(pager, slot, STALE);
}

/* ---- acquire ---- */

/* RESIDENT, and for us to take now: 0. -EAGAIN: not yet; -EBUSY. */
static int isolate(const struct ferryi_page_ref *ref, uint64_t old)
{
	if (ferryi_page_pins(old))
		return -EBUSY;
	if ((old & FERRYI_PAGE_WRITEBACK) || ferryi_page_is_young_zap(old, ferryi_now_ns()))
		return -EAGAIN;
	if (!ferryi_page_cas(ferryi_ref_word(ref), &old,
			     ferryi_page_with(ferryi_page_not_zapping(old), FERRYI_PAGE_ISOLATING)))
		return -EAGAIN;
	atomic_fetch_sub_explicit(&ferryi_ref_block(ref)->nr_resident, 1, memory_order_relaxed);
	return 0;
}

/* ISOLATING (ours) -> RESIDENT as it was. */
static void give_back(const struct ferryi_page_ref *ref)
{
	uint64_t now = ferryi_page_load(ferryi_ref_word(ref)), back;

	ferryi_place_count(ref->object, ref->index);
	do {
		back = ferryi_page_with(now & ~FERRYI_PAGE_DROPPED, FERRYI_PAGE_RESIDENT);
		if (now & FERRYI_PAGE_DROPPED)
			back = ferryi_page_zapping(back, ferryi_now_ns());
	} while (!ferryi_page_cas(ferryi_ref_word(ref), &now, back));
}

/* With the events lock and the area table's: the page is where it was, or -EAGAIN. */
static long move_out_locked(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint32_t slot, const void *owner)
{
	struct ferryi_page_ref now;
	struct ferryi_notice notice;

	if (!ferryi_areas_find_locked(&pager->areas, ref->va, &now) || now.object != ref->object || now.index != ref->index)
		return -EAGAIN;
	ferryi_notify_begin(pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_EXCLUSIVE, owner);
	long rc = ferryi_uffd_move(ferryi_uffd_of(pager, ref->object), ferryi_slot_addr(pager, slot), (void *)ref->va,
				   FERRYI_PAGE_SIZE);

	ferryi_notify_end(&notice);
	return rc;
}

/* ISOLATING (ours) -> EXCLUSIVE, or back. 0; -ENOENT: the application had dropped it, and it is ABSENT. */
static int move_out(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint32_t slot, const void *owner)
{
	ferryi_page_word *word = ferryi_ref_word(ref);

	ferryi_mutex_lock(&pager->events_lock);
	ferryi_areas_read_lock(&pager->areas);
	long rc = move_out_locked(pager, ref, slot, owner);

	ferryi_areas_read_unlock(&pager->areas);
	ferryi_mutex_unlock(&pager->events_lock);
	if (rc > 0) {
		if (!ferryi_page_release(word, word_exclusive(slot)))
			return 0;
		ferryi_exclusive_drop(pager, slot); /* and who acquires takes another */
		return -ESTALE;
	}
	if (rc == -ENOENT) {
		atomic_store_explicit(word, FERRYI_PAGE_ABSENT, memory_order_release);
		ferryi_budget_uncharge(&pager->budget, 1);
	} else {
		give_back(ref);
	}
	return rc == -EINVAL ? -EPERM : (int)rc; /* it has lost its rights meanwhile */
}

/* One look at the page; -EAGAIN: look again. */
static int try_take(struct ferryi_pager *pager, uintptr_t va, uint32_t slot, const void *holder, const void *owner)
{
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc;

	if (!ferryi_service_look(pager, va, &ref, &word))
		return -EINVAL;
	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_RESIDENT:
		rc = isolate(&ref, word);
		if (rc)
			break;
		if (atomic_load(&pager->forking)) { /* partner: ferryi_exclusive_revoke_locked */
			give_back(&ref);
			rc = -EAGAIN;
			break;
		}
		atomic_store(&slot_of(pager, slot)->holder, holder);
		atomic_store(&slot_of(pager, slot)->object, ref.object);
		atomic_store(&slot_of(pager, slot)->index, ref.index);
		return move_out(pager, &ref, ferryi_slot_for(pager, ref.object, slot), owner);
	case FERRYI_PAGE_ABSENT:
	case FERRYI_PAGE_COHERENT:
	case FERRYI_PAGE_AWAY:
		rc = ferryi_pager_want(pager, va, true) ? -EIO : -EAGAIN;
		return rc;
	case FERRYI_PAGE_POISONED:
		return -EIO;
	case FERRYI_PAGE_EXCLUSIVE:
		return -EBUSY;
	default: /* on its way in or out: that ends by itself */
		rc = -EAGAIN;
	}
	if (rc == -EAGAIN)
		poll(NULL, 0, PAUSE_MS);
	return rc;
}

/* The kernel moves no page that is shared with a child of fork: it makes a copy. */
static void stop_sharing(struct ferryi_pager *pager, uintptr_t va)
{
	if (atomic_load(&pager->has_forked))
		madvise((void *)va, FERRYI_PAGE_SIZE, MADV_POPULATE_WRITE);
}

static int take_page(struct ferryi_pager *pager, uintptr_t va, uint32_t *hand, const void *holder, const void *owner)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	unsigned busy = 0;
	uint32_t slot;
	int rc;

	if (!take_slot(pager, hand, &slot))
		return -ENOMEM;
	for (;;) {
		rc = try_take(pager, va, slot, holder, owner);
		if (rc == -ESTALE) { /* its frame is left there */
			if (!take_slot(pager, hand, &slot))
				return -ENOMEM;
		} else if (rc == -EBUSY && busy++ < BUSY_TRIES) {
			stop_sharing(pager, va);
			poll(NULL, 0, PAUSE_MS);
		} else if (rc != -EAGAIN && rc != -ENOENT) {
			break;
		}
		if (ferryi_now_ns() >= deadline_ns) {
			rc = -ETIMEDOUT;
			break;
		}
	}
	if (rc)
		leave_slot(pager, slot, FREE);
	return rc;
}

int ferryi_exclusive_acquire(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder,
			     const void *owner)
{
	uint64_t nr = (end - start) >> FERRYI_PAGE_SHIFT;
	uint64_t held = atomic_load(&pager->exclusive->nr_used) + nr;
	uint32_t hand = 0;
	uintptr_t va = start;
	int rc = 0;

	if (held > FERRYI_EXCLUSIVE_SLOTS || held > atomic_load(&pager->budget.limit) / 2)
		return -ENOMEM;
	ferryi_events_settle(pager);
	sweep(pager);
	while (va < end && !(rc = take_page(pager, va, &hand, holder, owner)))
		va += FERRYI_PAGE_SIZE;
	if (rc)
		ferryi_exclusive_release(pager, start, va, holder, owner);
	return rc;
}

/* ---- the holder ---- */

/* holder NULL: anybody's. */
static bool is_holders(struct ferryi_pager *pager, uint64_t word, const void *holder)
{
	return ferryi_page_state(word) == FERRYI_PAGE_EXCLUSIVE &&
	       (!holder || atomic_load(&slot_of(pager, ferryi_page_arg(word))->holder) == holder);
}

/* EXCLUSIVE -> ISOLATING, if it is the holder's: 0, -EAGAIN, -ENOENT. */
static int claim(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t old, const void *holder)
{
	ferryi_page_word *word = ferryi_ref_word(ref);

	if (ferryi_page_state(old) != FERRYI_PAGE_EXCLUSIVE)
		return ferryi_page_is_transient(old) ? -EAGAIN : -ENOENT;
	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_ISOLATING)))
		return -EAGAIN;
	return atomic_load(&slot_of(pager, ferryi_page_arg(old))->holder) == holder ? 0 : -ENOENT;
}

static void unclaim(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint32_t slot)
{
	if (ferryi_page_release(ferryi_ref_word(ref), word_exclusive(slot)))
		ferryi_exclusive_drop(pager, slot);
	if (atomic_load(&pager->budget_waiters))
		ferryi_pager_wake_handlers(pager);
}

int ferryi_exclusive_access(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word,
			    struct ferryi_access *a)
{
	uint32_t slot = ferryi_page_arg(word);
	uint8_t *bytes = ferryi_slot_addr(pager, slot) + a->va % FERRYI_PAGE_SIZE;
	int rc = claim(pager, ref, word, a->holder);

	if (rc == -EAGAIN)
		return rc;
	if (!rc && a->read_to)
		memcpy(a->read_to, bytes, a->len);
	else if (!rc)
		memcpy(bytes, a->write_from, a->len);
	unclaim(pager, ref, slot);
	a->place = FERRYI_ACCESS_RAM;
	return rc;
}

int ferryi_exclusive_update(struct ferryi_pager *pager, uintptr_t va, size_t len, const void *holder,
			    void (*update)(void *arg, void *bytes, size_t len), void *arg)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	uintptr_t page = va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc;

	if (!ferryi_service_look(pager, page, &ref, &word))
		ferryi_events_settle(pager); /* it has been moved there just now */
	do {
		if (!ferryi_service_look(pager, page, &ref, &word))
			return -ENOENT;
		rc = claim(pager, &ref, word, holder);
		if (rc == -EAGAIN)
			ferryi_cpu_relax(); /* another update, or a page on its way home */
	} while (rc == -EAGAIN && ferryi_now_ns() < deadline_ns);
	if (rc == -EAGAIN)
		return -ETIMEDOUT;
	if (ferryi_page_state(word) != FERRYI_PAGE_EXCLUSIVE)
		return rc;
	if (!rc)
		update(arg, ferryi_slot_addr(pager, ferryi_page_arg(word)) + (va - page), len);
	unclaim(pager, &ref, ferryi_page_arg(word));
	return rc;
}

size_t ferryi_exclusive_count(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder)
{
	struct ferryi_page_ref ref;
	uint64_t word;
	size_t n = 0;

	ferryi_events_settle(pager);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE)
		n += ferryi_service_look(pager, va, &ref, &word) && is_holders(pager, word, holder);
	return n;
}

/* ---- the way home ---- */

int ferryi_exclusive_restore(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t old,
			     const struct ferryi_fault *fault)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint32_t slot = ferryi_page_arg(old), done;
	uint8_t *frame = ferryi_slot_addr(pager, slot);
	struct ferryi_notice notice;

	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_RESCUING)))
		return -EAGAIN;
	ferryi_notify_begin(pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_EXCLUSIVE, fault->owner);
	long rc = ferryi_uffd_move(ferryi_uffd_of(pager, ref->object), (void *)ref->va, frame, FERRYI_PAGE_SIZE);
	bool moved = rc > 0;

	if (moved)
		ferryi_wake_at(pager, ref->object, ref->va, FERRYI_PAGE_SIZE);
	else if (rc != -EAGAIN) /* the range's rights have changed, or the frame is shared after a fork */
		rc = ferryi_place_run(pager, ref->object, ref->va, frame, 1, &done);
	ferryi_notify_end(&notice);
	if (rc < 0) {
		uint64_t now = ferryi_page_load(word);

		while (!ferryi_page_cas(word, &now, ferryi_page_with(now, FERRYI_PAGE_EXCLUSIVE)))
			;
		return (int)rc;
	}
	ferryi_place_finish(ref->object, ref->index, FERRYI_PAGE_DIRTY | FERRYI_PAGE_REFERENCED);
	leave_slot(pager, slot, moved ? FREE : STALE);
	return 0;
}

static void bring_home(struct ferryi_pager *pager, uintptr_t va, const void *holder, const void *owner)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferryi_page_ref ref;
	uint64_t word;

	while (ferryi_service_look(pager, va, &ref, &word) && is_holders(pager, word, holder) &&
	       ferryi_now_ns() < deadline_ns)
		ferryi_service_fault(pager, &(struct ferryi_fault){ .va = va,
								    .forced = true,
								    .owner = owner,
								    .start_ns = ferryi_now_ns(),
								    .deadline_ns = deadline_ns });
}

void ferryi_exclusive_release(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder,
			      const void *owner)
{
	ferryi_events_settle(pager);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE)
		bring_home(pager, va, holder, owner);
}

/* Where the page of a slot in use is; false: nowhere any more, or on its way. */
static bool find_page(struct ferryi_pager *pager, const struct ferryi_exclusive_slot *slot, uintptr_t *va)
{
	if (atomic_load(&slot->state) != USED)
		return false;
	ferryi_areas_read_lock(&pager->areas);
	bool mapped = ferryi_areas_va_locked(&pager->areas, atomic_load(&slot->object), atomic_load(&slot->index), va);

	ferryi_areas_read_unlock(&pager->areas);
	return mapped;
}

void ferryi_exclusive_release_all(struct ferryi_pager *pager, const void *holder, const void *owner)
{
	for (uint32_t i = 0; i < FERRYI_EXCLUSIVE_SLOTS; i++) {
		struct ferryi_exclusive_slot *slot = &pager->exclusive->slot[i];
		uintptr_t va;

		if (atomic_load(&slot->holder) == holder && find_page(pager, slot, &va))
			bring_home(pager, va, holder, owner);
	}
}

void ferryi_exclusive_revoke_locked(struct ferryi_pager *pager, uint64_t deadline_ns)
{
	for (uint32_t i = 0; i < FERRYI_EXCLUSIVE_SLOTS; i++) {
		struct ferryi_page_ref ref;
		uint64_t word;
		uintptr_t va;

		if (find_page(pager, &pager->exclusive->slot[i], &va) && ferryi_service_look(pager, va, &ref, &word) &&
		    ferryi_page_state(word) == FERRYI_PAGE_EXCLUSIVE)
			ferryi_service_fault_locked(pager, &(struct ferryi_fault){ .va = va,
										   .forced = true,
										   .start_ns = ferryi_now_ns(),
										   .deadline_ns = deadline_ns });
	}
}
