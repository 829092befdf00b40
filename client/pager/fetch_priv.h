/* What the files of the fault path share: place.c, fetch.c, fault_page.c. */
#ifndef FERRYI_PAGER_FETCH_PRIV_H
#define FERRYI_PAGER_FETCH_PRIV_H

#include "fetch.h"

/* ---- place.c ---- */

/* Moves a staging slot's frame to dst, which is of that userfaultfd, and wakes: nothing is allocated. As ferryi_uffd_move. */
long ferryi_place_frame(int uffd, void *dst, void *frame);
/* As ferryi_uffd_copy; at a memory cgroup's limit one page at a time, by the reserve (-ENOMEM: it is empty). */
long ferryi_place_copy(struct ferryi_pager *pager, int uffd, void *dst, const void *src, size_t len);

/*
 * Fills [va, va + nr pages), the object's, from src; pages that are there already count as
 * done. *done says how many, the result why it stopped: 0, -EAGAIN, -ENOENT, -ENOMEM, ....
 */
int ferryi_place_run(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, const uint8_t *src,
		     uint32_t nr, uint32_t *done);
/* The same, announced: for pages whose fetch was not. */
int ferryi_place_announced(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, const uint8_t *src,
			   uint32_t nr, uint32_t *done);
/*
 * Moves nr frames of staging to the marked holes [va, va + nr pages), as many as can be, and wakes. *done: from the
 * front; 0 when there are any. Else none, and the holes are marked as before (-EAGAIN: or soon filled, or known by
 * their page words alone): -EAGAIN; anything else: they are to be copied from there.
 */
int ferryi_place_frames(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, uint8_t *frames,
			uint32_t nr, uint32_t *done);
void ferryi_place_count(struct ferryi_object *object, size_t index);
/*
 * The page is in place: FETCHING (ours) -> RESIDENT with these flags.
 * ASSUMPTION: the fetch lock is held since before the page was found not to be
 * DROPPED; only an event could make it so.
 */
void ferryi_place_finish(struct ferryi_object *object, size_t index, uint64_t flags);
/* A claimed page could not be brought in: back to what it was, unless the application dropped it. */
void ferryi_place_unclaim(struct ferryi_fetcher *f, struct ferryi_object *object, size_t index, uint64_t back);

/* ---- fetch.c ---- */

/* From the look-up of an address until the page there is in place: the area table, and events where others read them. */
void ferryi_fetch_lock(struct ferryi_fetcher *f);
void ferryi_fetch_unlock(struct ferryi_fetcher *f);

/* Claims neighbours of `from` state after ref, up to `want`, within the area; charges them. How many. */
uint32_t ferryi_fetch_claim(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, size_t first_off, uint32_t want,
			    enum ferryi_page_state from);
void ferryi_fetch_prepare(struct ferryi_notifier *notifier, struct ferryi_fetch *fetch, const struct ferryi_page_ref *ref,
			  size_t off, uint32_t nr, const struct ferryi_location *from);
void ferryi_fetch_post(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, struct ferryi_channel *channel);
/* In place of post: the pool's driver fills the page, at the next poll. */
void ferryi_fetch_fill(struct ferryi_fetcher *f, struct ferryi_fetch *fetch, enum ferryi_fill fill);
/* Reads pages [at, end) after ref that are away, in chunks of neighbours; where it stopped. */
uint32_t ferryi_fetch_chunks(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref, uint32_t at, uint32_t end,
			     const struct ferryi_fault *fault);
/* Reads what is away of the pages that a stream advises, those next to ref's first; how many are there, or on their way (a lane's: or soon). */
uint32_t ferryi_fetch_stream(struct ferryi_fetcher *f, const struct ferryi_page_ref *ref,
			     const struct ferryi_stream_advice *advice, const struct ferryi_fault *fault);

/* Wakes who waits for pages of the object, wherever mremap has taken them. Takes the area table's read lock. */
void ferryi_fetch_wake(struct ferryi_pager *pager, const struct ferryi_object *object, size_t index, size_t nr);

/* ---- fault_page.c ---- */

/* It cannot go on now: tried again at each poll until its deadline. */
void ferryi_fault_wait(struct ferryi_fetcher *f, const struct ferryi_fault *fault);
void ferryi_fault_count(struct ferryi_fetcher *f, const struct ferryi_fault *fault, bool major);
/* Tries what waits; how many faults ended. */
unsigned ferryi_fault_retry(struct ferryi_fetcher *f);

#endif
