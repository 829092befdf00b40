/*
 * Changes announced: whatever the pager does to what the CPU sees of a page, a
 * notifier is told before it (begin) and after it (end), as by the kernel's
 * mmu_notifier_invalidate_range_start/_end (Documentation/mm/hmm.rst). The
 * mirror room sets it; with no mirror it costs one load.
 *
 * Rule: begin comes after the page word is in a transient state, and before the
 * ioctl. A mirror that registers at that moment is then either told, or finds
 * the word transient and waits:
 *
 *   pager                                  mirror being registered
 *   ------------------------------------   --------------------------------------
 *   word: RESIDENT -> ISOLATING            users = 1
 *   users == 0? nobody is told             looks at the word: ISOLATING
 *   UFFDIO_MOVE                              waits until it has settled
 *   word: ... -> AWAY                      looks again: AWAY
 *
 * What the application does (munmap, mremap, MADV_DONTNEED) is announced by the
 * library's own calls before, and else when its event is read: the kernel has
 * changed the address space by then, and no earlier moment is to be had.
 *
 * Near a memory cgroup's limit eviction asks, as the kernel's OOM reaper does
 * (mmu_notifier_invalidate_range_start_nonblock): a mirror that would have to
 * sleep may refuse, and nothing changes. All else is told, and goes ahead.
 *
 * Context: any thread of the pager, also with the events lock and the area
 * table's read lock held. The fault path; see fetch.h for what it may call.
 */
#ifndef FERRYI_PAGER_NOTIFY_H
#define FERRYI_PAGER_NOTIFY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "ferry.h"

struct ferryi_notifier;

/* One change under way; lives where it is made, until its end. */
struct ferryi_notice {
	struct ferryi_notifier *notifier; /* NULL: nobody was told */
	struct ferry_update update;
	struct ferryi_notice *next, *prev; /* the notifier's */
};

struct ferryi_notifier {
	_Atomic unsigned users; /* mirrors; 0: begin and end are not called */
	/* 0; -EAGAIN, if !blockable: a mirror has refused, and there is no end to it. */
	int (*begin)(struct ferryi_notifier *notifier, struct ferryi_notice *notice);
	void (*end)(struct ferryi_notifier *notifier, struct ferryi_notice *notice);
};

/* notifier NULL: none. owner: whose call it is, NULL the pager's own doing. -EAGAIN, if !blockable: refused. */
static inline int ferryi_notify_ask(struct ferryi_notifier *notifier, struct ferryi_notice *notice, uintptr_t start,
				    size_t len, enum ferry_update_event event, const void *owner, bool blockable)
{
	notice->notifier = NULL;
	if (!notifier || !atomic_load(&notifier->users))
		return 0;
	notice->update = (struct ferry_update){
		.start = start, .end = start + len, .event = event, .blockable = blockable, .owner = owner
	};
	int rc = notifier->begin(notifier, notice);

	if (!rc)
		notice->notifier = notifier;
	return rc;
}

static inline void ferryi_notify_begin(struct ferryi_notifier *notifier, struct ferryi_notice *notice, uintptr_t start,
				       size_t len, enum ferry_update_event event, const void *owner)
{
	ferryi_notify_ask(notifier, notice, start, len, event, owner, true);
}

static inline void ferryi_notify_end(struct ferryi_notice *notice)
{
	if (notice->notifier)
		notice->notifier->end(notice->notifier, notice);
	notice->notifier = NULL;
}

#endif
