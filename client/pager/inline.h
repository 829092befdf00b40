/*
 * Inline memory: a fault on it is served in the faulting thread. Its areas are
 * registered with a userfaultfd of their own, opened with UFFD_FEATURE_SIGBUS:
 * no message is queued and nobody is woken, the kernel raises SIGBUS, and the
 * handler here reads the page by a lane, puts it in place and returns, so that
 * the instruction is executed again. A system call that is given an address
 * there gets EFAULT while the page is away.
 *
 * A lane is a fetcher (fetch.h) of one slot, with its own channel to each pool.
 * It is taken for one fault by a compare-and-swap. The page words' states are
 * what the fault threads see, so both may be at neighbouring pages. Neighbours
 * are never read by a lane: it leaves the range in its mailbox, and a fault
 * thread reads ahead.
 *
 * What the handler may call, as it runs in any computing thread: what fetch.h
 * lists for the fault path, that is atomics, ioctl(2), read(2), write(2),
 * pread(2), poll(2), sched_yield(2), clock_gettime(2), the transport's submit
 * and poll on the lane's own channel, and the area table's lock for reading. All
 * but the transport and that lock are async-signal-safe by POSIX; these two are
 * here because the signal is a synchronous one, of an instruction of the
 * application, which holds neither. (Where a provider allocates in them, so does
 * the handler: tcp may, so the allocator's own memory must not be inline.) All
 * other signals are blocked meanwhile, and errno is kept.
 *
 * An asynchronous handler of the application that touches inline memory works
 * as long as it has not interrupted a ferry_ call: then it may wait for a lock
 * of the thread that it stands on, and after the fault timeout gets SIGBUS by
 * the application's handler. Pin (ferry_pin) what such a handler needs.
 *
 * The application's changes (munmap, mremap, MADV_DONTNEED) come as events, and
 * are applied with the gate closed, so that a lane sees them whole or unread
 * (the kernel says EAGAIN then). No lane waits for another:
 *
 *   lane                                   event reader (events_lock held)
 *   ------------------------------------   --------------------------------------
 *   inside = true (seq_cst)                is_closed = true (seq_cst)
 *   is_closed? inside = false, try later   inside of each lane? wait: one ioctl
 *   area lock, look-up, page word, ioctl   read(2), change applied
 *   inside = false (release)               is_closed = false (release)
 *
 * Either the lane sees the gate closed, or the reader sees the lane inside.
 *
 * A lane whose page is under way by somebody else, or waits for room, spins and
 * then sleeps until a page has been placed (or for PAUSE_MS):
 *
 *   lane                                   who has placed a page, or made room
 *   ------------------------------------   --------------------------------------
 *   nr_sleepers++ (seq_cst)                page word: RESIDENT
 *   seen = nr_placed                       fence (seq_cst)
 *   looks at the page word                 nr_sleepers? none: done
 *   futex_wait(nr_placed, seen)            nr_placed++, futex_wake
 *
 * The end: ferryi_inline_stop takes the pager away, then each seat once.
 *
 *   handler                                stop
 *   ------------------------------------   --------------------------------------
 *   seat: free -> taken (seq_cst)          the_pager = NULL (seq_cst)
 *   the_pager? NULL: touch again           each seat: wait until it is free
 *   ... seat = free (release)              lanes may go
 */
#ifndef FERRYI_PAGER_INLINE_H
#define FERRYI_PAGER_INLINE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fetch.h"
#include "guard.h"
#include "spin.h"

#define FERRYI_MAX_LANES 16u

enum ferryi_lane_verdict {
	FERRYI_LANE_SERVED = 0, /* try the instruction again */
	FERRYI_LANE_STRANGE,	/* no inline memory is there, nor on its way there */
	FERRYI_LANE_POISON,	/* the page is poisoned: the SIGBUS is the application's */
};

struct ferryi_lane {
	/* owned by who has the seat */
	struct ferryi_fetcher fetcher;
	enum ferryi_lane_verdict verdict; /* on the fault that it had last */
	struct ferryi_spin spin;
	/* atomic: the gate */
	_Alignas(64) _Atomic bool inside;
	/*
	 * atomic: the mailbox, 0: empty. A later request takes an older one's place. Number of the first page (36 bits:
	 * 48 of an address), pages (12), step (16, signed).
	 */
	_Atomic uint64_t ahead;
};

struct ferryi_inline {
	/* set once, under the ferry lock, before there is inline memory */
	_Atomic bool is_on;
	int uffd;
	struct ferryi_guard guard; /* of uffd */
	unsigned nr_lanes;
	struct ferryi_lane *lanes;
	/* written with events_lock held; read by lanes */
	_Atomic bool is_closed;
	/* atomic: futex; partners: see the diagram above */
	_Atomic uint32_t nr_placed;
	_Atomic uint32_t nr_sleepers;
	/* atomic: some mailbox is not empty; partner of ferryi_handler.is_asleep */
	_Atomic bool is_ahead_wanted;
};

static inline bool ferryi_inline_is_on(const struct ferryi_inline *inl)
{
	return atomic_load_explicit(&inl->is_on, memory_order_acquire);
}

/*
 * Opens all of it, if it is not open: lanes are connected to the attached pools,
 * SIGBUS is ours. 0; -EOPNOTSUPP, -EMFILE, -ENOMEM, -ETIMEDOUT, -ENOTCONN with a
 * line. ASSUMPTION: the ferry lock is held. May block.
 */
int ferryi_inline_start(struct ferryi_pager *pager);
/* SIGBUS is the application's again. ASSUMPTION: no inline memory is left. Waits for handlers that are on
 * their way. */
void ferryi_inline_stop(struct ferryi_pager *pager);
/* In a child of fork: no fault is ours. */
void ferryi_inline_forked(void);

/* Lane i is the caller's between these: to close its lines. May block for a fault's time. */
void ferryi_inline_seat_lock(unsigned i);
void ferryi_inline_seat_unlock(unsigned i);

/* The lane's side of the gate; enter waits while it is closed. Fault path. */
void ferryi_lane_enter(struct ferryi_lane *lane);
void ferryi_lane_leave(struct ferryi_lane *lane);
/* The event reader's. ASSUMPTION: events_lock held, inline is on. */
void ferryi_inline_close_gate_locked(struct ferryi_pager *pager);
void ferryi_inline_open_gate_locked(struct ferryi_pager *pager);

/* A page of inline memory is in place, or back, or there is room: wakes lanes that sleep. Any thread; fault
 * path. */
void ferryi_inline_wake(struct ferryi_inline *inl);
/* A lane wants nr pages to be read ahead, from va on and `step` pages apart: as many as it asks for, or 0. Fault path. */
uint32_t ferryi_lane_want_ahead(struct ferryi_lane *lane, uintptr_t va, ptrdiff_t step, uint32_t nr);
/* Fault thread: reads what lanes want. How many requests there were. */
unsigned ferryi_inline_read_ahead(struct ferryi_fetcher *fetcher);

#endif
