/*
 * The page word: one atomic 64-bit word per managed page holds its whole state.
 * It is also the page's lock: whoever moves it into a transient state (FETCHING,
 * ISOLATING, STAGED, RESCUING) owns the page until he moves it out again.
 *
 *   state      where the data is              who may leave it, and to what
 *   ---------  -----------------------------  -------------------------------------------------
 *   ABSENT     nowhere: hole, reads as zero   any fetcher: FETCHING (zero fill), POISONED (no memory)
 *   RESIDENT   application's page in RAM      any evictor: ISOLATING
 *   ISOLATING  being moved out                its evictor: STAGED, RESIDENT (not movable), ABSENT (was dropped)
 *   STAGED     staging slot; write under way  its evictor: AWAY (write done), RESIDENT (put back)
 *                                             any fetcher: RESCUING
 *   RESCUING   staging slot, being put back   its fetcher: RESIDENT
 *   AWAY       pool only; marked hole         any fetcher: FETCHING, POISONED (lost)
 *   FETCHING   pool; read under way           its fetcher: RESIDENT, AWAY (failed); COHERENT
 *   POISONED   lost; touching raises SIGBUS   MADV_DONTNEED, munmap: ABSENT
 *   EXCLUSIVE  a frame of ours; hole          its holder: ISOLATING; any fetcher: RESCUING (exclusive.h)
 *   COHERENT   pool; mapped there             who replaces the mapping, a device: FETCHING (coherent.h)
 *
 * All moves are compare-and-swap on the word. An application's MADV_DONTNEED
 * (EVENT_REMOVE) moves AWAY and POISONED to ABSENT at once; in a transient
 * state it sets DROPPED, and the owner honours that when it leaves the state;
 * a COHERENT page keeps DROPPED until it is looked at.
 *
 * Rescue against the end of a write-back:
 *
 *   fetcher (fault on STAGED)              evictor (write of the slot is done)
 *   ------------------------------------   --------------------------------------
 *   cas STAGED(slot) -> RESCUING(slot)     cas STAGED(slot) -> AWAY
 *   UFFDIO_COPY from slot                    if it lost: wait while RESCUING(slot),
 *   word = RESIDENT | DIRTY                  bounded by one UFFDIO_COPY, then
 *        | WRITEBACK(slot)  (release)        take WRITEBACK(slot) off   (acquire)
 *                                          slot is free again
 *
 * Only one cas wins; the slot is reused only after the loser has seen the end,
 * by whomsoever (strip.h). The write may read the slot itself: no frame leaves
 * it before the write has completed.
 * Until WRITEBACK is off (the kernel's PG_writeback) the page may not be written
 * again, by another evictor or a flush, nor may its place in the pool be given
 * to anyone: the write under way carries old data and could land last. A page
 * that is shared with a child of fork has it while its evictor has the kernel
 * make a copy, with the page in place: it must not leave by another's hand.
 *
 * The kernel tells of an MADV_DONTNEED (or MADV_FREE) before it takes the pages
 * away, and does not tell when it has:
 *
 *   madvise(MADV_DONTNEED)                 evictor
 *   ------------------------------------   --------------------------------------
 *   event REMOVE is queued and read:
 *     RESIDENT gets ZAPPING(tick)
 *                                          ZAPPING: a hole? then ABSENT
 *                                            there, and young: left where it is
 *   the kernel takes the page away
 *   returns; a touch: RESIDENT but a hole,
 *     filled with zeros, ZAPPING is off
 *
 * Moved out in that window, the dropped data would come back with the next
 * fault. A page that is still there after FERRYI_ZAP_TICKS was MADV_FREEd.
 */
#ifndef FERRYI_PAGER_PAGE_H
#define FERRYI_PAGER_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum ferryi_page_state {
	FERRYI_PAGE_ABSENT = 0, /* must be 0: fresh tables are zeroed */
	FERRYI_PAGE_RESIDENT,
	FERRYI_PAGE_ISOLATING,
	FERRYI_PAGE_STAGED,
	FERRYI_PAGE_RESCUING,
	FERRYI_PAGE_AWAY,
	FERRYI_PAGE_FETCHING,
	FERRYI_PAGE_POISONED,
	FERRYI_PAGE_EXCLUSIVE,
	FERRYI_PAGE_COHERENT,
};

#define FERRYI_PAGE_STATE_MASK 0xfULL
#define FERRYI_PAGE_REFERENCED (1ULL << 4) /* second chance */
#define FERRYI_PAGE_DIRTY      (1ULL << 5) /* certainly differs from the pool's copy, or there is none */
#define FERRYI_PAGE_COPIED     (1ULL << 6) /* the pool holds a copy whose hash is in struct ferry_page */
#define FERRYI_PAGE_DROPPED    (1ULL << 7) /* dropped by the application during a transient state; COHERENT: and not zeroed yet */
#define FERRYI_PAGE_WRITEBACK  (1ULL << 8) /* RESIDENT, rescued: a write of its old content is still under way */
#define FERRYI_PAGE_ZAPPING    (1ULL << 9) /* RESIDENT: the application drops it, the kernel may not have done so yet */
#define FERRYI_PAGE_TICK_SHIFT 10          /* ... since this tick: see ferryi_page_zapping */
#define FERRYI_PAGE_TICK_MASK  (0x3fULL << FERRYI_PAGE_TICK_SHIFT)
#define FERRYI_PAGE_PIN_SHIFT  16
#define FERRYI_PAGE_PIN_ONE    (1ULL << FERRYI_PAGE_PIN_SHIFT)
#define FERRYI_PAGE_PIN_MASK   (0xffffULL << FERRYI_PAGE_PIN_SHIFT)
#define FERRYI_PAGE_ARG_MASK   0xffffffff00000000ULL
#define FERRYI_PAGE_ARG_SHIFT  32 /* STAGED, RESCUING, WRITEBACK, EXCLUSIVE: slot; POISONED: reason and errno */

typedef _Atomic uint64_t ferryi_page_word;

static inline enum ferryi_page_state ferryi_page_state(uint64_t word)
{
	return (enum ferryi_page_state)(word & FERRYI_PAGE_STATE_MASK);
}

static inline uint64_t ferryi_page_with(uint64_t word, enum ferryi_page_state state)
{
	return (word & ~FERRYI_PAGE_STATE_MASK) | (uint64_t)state;
}

static inline uint32_t ferryi_page_arg(uint64_t word)
{
	return (uint32_t)(word >> FERRYI_PAGE_ARG_SHIFT);
}

static inline unsigned ferryi_page_pins(uint64_t word)
{
	return (unsigned)((word & FERRYI_PAGE_PIN_MASK) >> FERRYI_PAGE_PIN_SHIFT);
}

static inline bool ferryi_page_is_transient(uint64_t word)
{
	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_ISOLATING:
	case FERRYI_PAGE_STAGED:
	case FERRYI_PAGE_RESCUING:
	case FERRYI_PAGE_FETCHING:
		return true;
	default:
		return false;
	}
}

static inline uint64_t ferryi_page_load(ferryi_page_word *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static inline bool ferryi_page_cas(ferryi_page_word *word, uint64_t *expected, uint64_t desired)
{
	return atomic_compare_exchange_strong_explicit(word, expected, desired, memory_order_acq_rel,
						       memory_order_acquire);
}

/*
 * The owner of a transient state leaves it for `desired`, or for ABSENT when the
 * application has dropped the page meanwhile; true if it had.
 */
static inline bool ferryi_page_release(ferryi_page_word *word, uint64_t desired)
{
	uint64_t old = ferryi_page_load(word);

	while (!ferryi_page_cas(word, &old, old & FERRYI_PAGE_DROPPED ? (uint64_t)FERRYI_PAGE_ABSENT : desired))
		;
	return old & FERRYI_PAGE_DROPPED;
}

#define FERRYI_ZAP_TICKS 30u /* of 134 ms: longer than a thread waits for a CPU and the mmap lock within one call */

static inline uint64_t ferryi_page_tick(uint64_t now_ns)
{
	return (now_ns >> 27 << FERRYI_PAGE_TICK_SHIFT) & FERRYI_PAGE_TICK_MASK;
}

/* The word of a RESIDENT page that the application drops now. */
static inline uint64_t ferryi_page_zapping(uint64_t word, uint64_t now_ns)
{
	return (word & ~FERRYI_PAGE_TICK_MASK) | FERRYI_PAGE_ZAPPING | ferryi_page_tick(now_ns);
}

static inline uint64_t ferryi_page_not_zapping(uint64_t word)
{
	return word & ~(FERRYI_PAGE_ZAPPING | FERRYI_PAGE_TICK_MASK);
}

/* The drop is so young that the kernel may not have come to it. Ticks wrap after 8 s: then it is young once more. */
static inline bool ferryi_page_is_young_zap(uint64_t word, uint64_t now_ns)
{
	/* Ticks alone: other bits below them would borrow one, and a drop of this very tick would be an old one. */
	uint64_t age = (ferryi_page_tick(now_ns) - (word & FERRYI_PAGE_TICK_MASK)) & FERRYI_PAGE_TICK_MASK;

	return (word & FERRYI_PAGE_ZAPPING) && age >> FERRYI_PAGE_TICK_SHIFT < FERRYI_ZAP_TICKS;
}

/* POISONED's argument: reason in the low byte, errno above it. */
static inline uint64_t ferryi_page_poisoned(unsigned reason, int err)
{
	return ((uint64_t)(reason | ((unsigned)(err < 0 ? -err : err) << 8)) << FERRYI_PAGE_ARG_SHIFT) |
	       FERRYI_PAGE_POISONED;
}

#endif
