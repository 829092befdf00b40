/*
 * Coherent pools (FERRY_MEM_COHERENT): pages that live in a pool of this host
 * and are mapped for the CPU where they are. Their addresses show the pool's
 * memfd, shared, in place of anonymous memory; no access faults.
 *
 * A page gets there by a migration alone, which first sends it to the pool as
 * to any other (AWAY, or ABSENT for zeros); then all such pages of the block are
 * mapped at once. On the way back the mapping is replaced by marked holes, and
 * the pages are AWAY: their data lies at their PFNs already. Both replacements
 * are one mremap(2) of a mapping that was prepared in a window of ours, so
 * nobody sees an unmarked hole or an address that is not armed:
 *
 *   replacing (service lock held)          other threads of the process
 *   ------------------------------------   --------------------------------------
 *   words: AWAY, ABSENT, COHERENT ->       a fault on them waits; a store through
 *     FETCHING                               the old mapping lands in the pool
 *   window: mapped, armed, holes marked
 *   mirrors are told
 *   mremap(window -> block)                whoever stored before it did so in the
 *                                            pool; whoever comes after it faults
 *                                            and waits
 *   waits until its events are read        fault thread: words = COHERENT, or AWAY;
 *                                            no hash is claimed for these, so that
 *                                            a store up to the mremap is not missed
 *   wakes who waits                        fault again: by the new state
 *
 * The words are settled by who reads the event, before any later fault: the
 * thread that replaces may have its own stack in these pages, and could not.
 *
 * The way in maps no page yet: MADV_DONTNEED may have come before it, of which
 * the kernel tells only by an event. It is mapped after the words say COHERENT,
 * as a fault would, under the events lock:
 *
 *   madvise(MADV_DONTNEED)                 mapping a page (a fault, or the way in)
 *   ------------------------------------   --------------------------------------
 *   event REMOVE is queued and read:       events lock; an event is unread? EAGAIN
 *     COHERENT gets DROPPED                 DROPPED? the pool's page is zeroed
 *   the kernel takes the mapping away      UFFDIO_CONTINUE
 *   returns; a touch faults                word = COHERENT
 *
 * The memory of a shared file stays when its mapping is dropped, so DROPPED is
 * what makes the next look find zeros. Dropped and not looked at, it is still
 * the pool's.
 *
 * While a block is on its way in (`entering`), the CPU's faults on its pages
 * wait, or threads at work on them would take them back one by one.
 *
 * The kernel replaces a mapping whatever it is: between our look at an address
 * and the mremap, an munmap, mremap or mprotect of just these pages by another
 * thread would be undone. ferry.h forbids that.
 */
#ifndef FERRYI_PAGER_COHERENT_H
#define FERRYI_PAGER_COHERENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "area.h"
#include "notify.h"

struct ferryi_pager;
struct ferryi_access;
struct ferryi_fault;

/* Pages of one block with neighbouring addresses, mapped alike. */
struct ferryi_coherent_run {
	struct ferryi_object *object;
	size_t index;
	uintptr_t va;
	size_t nr;
};

struct ferryi_coherent {
	/* immutable once a coherent pool is attached */
	int maps_fd; /* /proc/self/maps */

	/* atomic: one block of address space; NULL: there has been no coherent pool */
	_Atomic(uint8_t *) window;

	/* owned by whoever holds the service lock; not on his stack, which may be what is replaced: fault threads read it */
	struct ferryi_notice notice;

	/* atomic: set and taken off under events_lock; read without it by who waits for its end */
	_Atomic bool remap_to_come;

	/* protected by events_lock: the replacement under way, as its events will name it; its pages, which are FETCHING */
	bool unmap_to_come;
	bool to_shared;
	struct ferryi_coherent_run run;
};

/* Before the first coherent pool is used. ASSUMPTION: ferry lock held. -EOPNOTSUPP (kernel), -ENOMEM, -EACCES, .... */
int ferryi_coherent_prepare(struct ferryi_pager *pager);
void ferryi_coherent_close(struct ferryi_pager *pager);

/*
 * Pages of [ref->va, + nr pages), all of one block that is bound to the coherent
 * pool: those that are AWAY or ABSENT get mapped. Others stay as they are.
 * ASSUMPTION: service lock held; the range is not unmapped meanwhile. 0, -ENOMEM, -EKEYREVOKED, -ETIMEDOUT.
 */
int ferryi_coherent_enter_locked(struct ferryi_pager *pager, struct ferry_pool *pool, const struct ferryi_page_ref *ref,
				 size_t nr);

/* Which pages leave: all of these that are not NULL, 0 or UINTPTR_MAX. */
struct ferryi_coherent_part {
	uintptr_t start, end;
	const struct ferry_pool *pool;
	const struct ferryi_object *object; /* with block: this block of it, wherever it is mapped */
	size_t block;
};

/*
 * The coherent pages of the part are AWAY afterwards (those that were dropped: ABSENT). At once where there is none.
 * owner: whose migration it is, for the mirrors. ASSUMPTION: service lock held.
 * 0, -ENOMEM (no mapping more is allowed), -ETIMEDOUT: some are still coherent.
 */
int ferryi_coherent_leave_locked(struct ferryi_pager *pager, const struct ferryi_coherent_part *part, const void *owner);
/* The same; takes the service lock. */
int ferryi_coherent_leave(struct ferryi_pager *pager, const struct ferryi_coherent_part *part);

/* The event is of a replacement of ours, and of no change by the application. ASSUMPTION: events_lock held. */
bool ferryi_coherent_own_unmap_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
bool ferryi_coherent_own_remap_locked(struct ferryi_pager *pager, uintptr_t from);

/*
 * Reads or writes bytes [off, off + len) of a page of a coherent pool, in the memfd: with its server gone, too. The
 * buffer is the library's. 0, -EKEYREVOKED (the server has taken the memory back), -EINVAL (no such page), else as
 * pread, pwrite. Fault path; the page word is ours.
 */
int ferryi_coherent_io(struct ferryi_pager *pager, uint64_t pfn, size_t off, void *read_to, const void *write_from,
		       size_t len);
/* Async-signal-safe: its memory was taken back. */
bool ferryi_coherent_is_revoked(struct ferryi_pager *pager, uint64_t pfn);

/* A fault on a page whose word was COHERENT. Fault path, fetch lock held. 0, or -EAGAIN: not now. */
int ferryi_coherent_fault(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word);

/* A device's access to such a page. 0, -EAGAIN (look again), else as ferryi_coherent_io. */
int ferryi_coherent_access(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word,
			   struct ferryi_access *access);

/* The pool is coherent, and neither this owner's migration nor another is under way that sends the block there. Fault path. */
bool ferryi_coherent_is_unasked(const struct ferry_pool *pool, const struct ferryi_block *block, const void *owner);
/* The CPU's faults on pages of the block wait until _end, but for those of the caller's thread. */
void ferryi_coherent_entry_begin(struct ferryi_block *block);
void ferryi_coherent_entry_end(struct ferryi_pager *pager, struct ferryi_block *block);
/* Fault path. */
bool ferryi_coherent_entry_blocks(struct ferryi_pager *pager, const struct ferryi_block *block,
				  const struct ferryi_fault *fault);

#endif
