/*
 * Exclusive device access (make_device_exclusive; Documentation/mm/hmm.rst,
 * "Exclusive access memory"): the page leaves the application's address space
 * for a frame of ours, where only its holder reaches it; the hole's next touch
 * brings it back and ends that.
 *
 *   the holder's access                    a CPU's fault on the page
 *   ------------------------------------   --------------------------------------
 *   cas EXCLUSIVE(slot) -> ISOLATING(slot) cas EXCLUSIVE(slot) -> RESCUING(slot)
 *   the slot is still mine? else back        tells the mirrors
 *   reads or writes the frame                UFFDIO_MOVE home
 *   word = EXCLUSIVE (or ABSENT if dropped)  word = RESIDENT | DIRTY
 *   wakes faults that wait                   ISOLATING: looks again when woken
 *
 * One cas wins. A slot's holder is written before its word says EXCLUSIVE, and
 * looked at only by who has the word: it cannot change under him.
 *
 * Slots: FREE -> USED (who acquires) -> FREE (its frame went home), or STALE (a
 * frame is left in it: the page was dropped, or came home as a copy because the
 * range's rights had changed) -> SWEEPING -> FREE (the next who acquires; never
 * the fault path, which may not unmap).
 */
#ifndef FERRYI_PAGER_EXCLUSIVE_H
#define FERRYI_PAGER_EXCLUSIVE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "area.h"

struct ferryi_pager;
struct ferryi_access;
struct ferryi_fault;

#define FERRYI_EXCLUSIVE_SLOTS 1024u /* FERRY_EXCLUSIVE_MAX */

struct ferryi_exclusive_slot {
	_Atomic uint32_t state;
	/* written by who took the slot; a hint to all but who has the page word */
	_Atomic(const void *) holder;
	_Atomic(struct ferryi_object *) object; /* compared only: it may be gone */
	_Atomic size_t index;
};

struct ferryi_exclusive {
	uint32_t first_slot; /* immutable: in the pager's staging area */
	_Atomic uint32_t nr_used;
	struct ferryi_exclusive_slot slot[FERRYI_EXCLUSIVE_SLOTS];
};

/*
 * All of [start, end) for the holder; mirrors are told, with this owner. The
 * caller's thread; may block, bounded by fault_timeout_ms a page. 0, or nothing
 * is held: -EINVAL (not managed), -EBUSY (a page is pinned or held), -ENOMEM
 * (slots; or more than half of the budget would be held), -EPERM (not writable any more), -EIO (a page is lost), -ETIMEDOUT.
 */
int ferryi_exclusive_acquire(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder,
			     const void *owner);
/* Pages of the range that are still the holder's. Any thread; blocks while events are read. */
size_t ferryi_exclusive_count(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder);
/* Brings home what is still the holder's (NULL: anybody's), in the range or anywhere. Mirrors are told, with this owner. As acquire. */
void ferryi_exclusive_release(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, const void *holder,
			      const void *owner);
void ferryi_exclusive_release_all(struct ferryi_pager *pager, const void *holder, const void *owner);
/*
 * For a fork, whose child must find the pages: everybody's come home.
 * ASSUMPTION: service lock held, `forking` set, so that no other is taken:
 *
 *   who acquires                           fork.c
 *   ------------------------------------   --------------------------------------
 *   cas RESIDENT -> ISOLATING              forking = true
 *   forking? back to RESIDENT              looks at the word: ISOLATING is waited
 *   UFFDIO_MOVE, EXCLUSIVE                   for, EXCLUSIVE brought home by this
 */
void ferryi_exclusive_revoke_locked(struct ferryi_pager *pager, uint64_t deadline_ns);

/*
 * Runs update(arg, bytes, len) on the holder's bytes [va, va + len) of one page, while nobody else can reach them.
 * 0, -ENOENT (not the holder's any more, or not managed), -ETIMEDOUT.
 */
int ferryi_exclusive_update(struct ferryi_pager *pager, uintptr_t va, size_t len, const void *holder,
			    void (*update)(void *arg, void *bytes, size_t len), void *arg);

/* A device's access to a page whose word was `word`, EXCLUSIVE: 0, -EAGAIN (look again), -ENOENT (another's). */
int ferryi_exclusive_access(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word,
			    struct ferryi_access *access);

/* Fault path, fetch lock held: the page comes home. 0; -EAGAIN, -ENOMEM: not now; else the range is going. */
int ferryi_exclusive_restore(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word,
			     const struct ferryi_fault *fault);
/* The word was EXCLUSIVE(slot) and is ABSENT now: its frame and charge go. Fault path. */
void ferryi_exclusive_drop(struct ferryi_pager *pager, uint32_t slot);

#endif
