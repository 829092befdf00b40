/*
 * The pager's own struct, for the files of this room. Members are grouped by
 * what protects them.
 */
#ifndef FERRYI_PAGER_PRIV_H
#define FERRYI_PAGER_PRIV_H

#include <pthread.h>

#include "altmap.h"
#include "area.h"
#include "budget.h"
#include "child.h"
#include "choose.h"
#include "coherent.h"
#include "counters.h"
#include "evict.h"
#include "fetch.h"
#include "folio_move.h"
#include "guard.h"
#include "inline.h"
#include "link.h"
#include "memcg.h"
#include "pager.h"
#include "rebuild.h"
#include "reserve.h"
#include "strip.h"
#include "uffd.h"

#define FERRYI_MAX_THREADS 16u
#define FERRYI_MAX_ZOMBIES 1024u
#define FERRYI_MAX_LATE_MOVES 64u
#define FERRYI_ZERO_PAGES  16u /* filled by one ioctl */

struct ferryi_handler {
	struct ferryi_pager *pager;
	pthread_t thread;
	bool started;
	int wake_fd;
	_Atomic bool is_asleep; /* partner: ferryi_lane_want_ahead */
	struct ferryi_fetcher fetcher;
};

struct ferryi_evict_thread {
	struct ferryi_pager *pager;
	pthread_t thread;
	bool started;
	int wake_fd;
	_Atomic bool asleep; /* partner: ferryi_pager_need_memory */
	_Atomic bool busy;   /* partner: fork.c */
	_Atomic int tid;     /* its faults do not wait for room */
	uint64_t refused_ns; /* owned by the thread: since then mirrors have kept all that was asked for; 0: they have not */
	struct ferryi_evictor evictor;
};

/* What the application changes while it forks: see fork.c. */
struct ferryi_fork_change {
	uintptr_t start, end;
	bool is_drop; /* MADV_DONTNEED; else the range was unmapped, or is an end of an mremap */
};

/* An mremap of the application. */
struct ferryi_move {
	uintptr_t from, to;
	uint64_t len;
};

struct ferryi_pager {
	/* immutable after open */
	struct ferryi_pager_attr attr;
	struct ferryi_arena *arena;
	struct ferryi_memory_model *model;
	struct ferryi_keeper *keeper;
	int uffd; /* the application's ranges, and staging: UFFDIO_MOVE between them sees pending events (EAGAIN) */
	int pagemap_fd; /* /proc/self/pagemap; -1: may not be read (non-dumpable) */
	int fork_guard_fd; /* empty memfd: what a forked child gets in place of managed memory */
	uint64_t caps;
	uint64_t features;
	uint8_t *zeros;   /* FERRYI_ZERO_PAGES pages */
	uint64_t zero_hash;
	uint8_t *staging; /* slots of handler memory, then as many of inline memory */
	size_t staging_bytes; /* of one of these halves */
	unsigned nr_handlers, nr_evict_threads;
	struct ferryi_guard guard; /* its own */
	struct ferryi_handler *handlers;
	struct ferryi_evict_thread *evict_threads;

	/* its own groups: inline.h */
	struct ferryi_inline inline_mode;

	/* own locks */
	struct ferryi_area_table areas;

	/* owned by whoever has set `migrating`: a migration in three steps */
	_Atomic bool migrating;
	struct ferryi_evictor *migrator;

	/* its own groups: coherent.h */
	struct ferryi_coherent coherent;

	/* atomic: exclusive.h */
	struct ferryi_exclusive *exclusive;

	/* atomic: memcg.h, reserve.h */
	struct ferryi_memcg memcg;
	struct ferryi_reserve *reserve;

	/* atomic: strip.h */
	struct ferryi_strips strips;

	/* atomic */
	struct ferryi_budget budget;
	struct ferryi_counters counters;
	_Atomic bool stopping;
	_Atomic unsigned evict_paused; /* close and unadopt, counted: nothing leaves */
	_Atomic unsigned budget_waiters;
	_Atomic bool forked;          /* this is a child of fork */
	_Atomic bool has_forked;      /* pages may be shared with a child */
	_Atomic bool forking;         /* a fork's window is open: no object goes, changes are noted */
	_Atomic int forking_tid;      /* by this thread: its faults do not wait for room */
	_Atomic(struct ferry_pool *) pools[FERRYI_MAX_POOLS_ATTACHED]; /* NULL holes; changed under the ferry lock */
	_Atomic unsigned pool_users[FERRYI_MAX_POOLS_ATTACHED];        /* between ferryi_pager_pool_begin and _end */
	struct ferryi_chooser chooser; /* and its own group: choose.h */
	_Atomic bool binds_late; /* some object is NORESERVE: its blocks are bound at first eviction */

	struct ferryi_children children; /* its own lock */
	struct ferryi_rebuild rebuild;   /* its own lock */

	struct ferryi_mutex leave_lock; /* one evict, drain or poison of a pool at a time (leave.c) */

	/* protected by service_lock: the service fetcher and evictor */
	struct ferryi_mutex service_lock;
	struct ferryi_fetcher *service_fetcher;
	struct ferryi_evictor *service_evictor;
	struct ferryi_folio_move *folio_move; /* but its slots, which are immutable */

	/*
	 * protected by events_lock: reading the userfaultfd, until its non-fault events have been applied. Who
	 * moves or copies a page by its address holds it too, from the look-up of the address on: an munmap or
	 * mremap is then either applied, or unread, and the kernel answers EAGAIN. A lone fault thread reads the
	 * events itself and need not hold it to copy; the lanes of inline memory keep its gate instead (inline.h).
	 */
	struct ferryi_mutex events_lock;
	/* protected by events_lock (the first count is read without): event.c */
	_Atomic unsigned nr_late_moves; /* moves whose event came early */
	struct ferryi_move late_moves[FERRYI_MAX_LATE_MOVES];
	unsigned nr_vacated; /* moves whose UNMAP of the old range is to come */
	struct ferryi_move vacated[FERRYI_MAX_LATE_MOVES];
	unsigned nr_changes; /* while forking; FERRYI_FORK_LOG + 1: too many */
	struct ferryi_fork_change change[FERRYI_FORK_LOG];

	/* protected by zombies_lock: cut areas whose pages have to settle; reaped by the keeper or by munmap */
	struct ferryi_mutex zombies_lock;
	unsigned nr_zombies;
	unsigned nr_reaping; /* taken out, being worked on */
	struct ferryi_area zombies[FERRYI_MAX_ZOMBIES];
};

/* fault.c: the fault threads */
void *ferryi_handler_main(void *arg);
/* Wakes every fault thread (memory became free, a pool was lost). Async-signal-safe. */
void ferryi_pager_wake_handlers(struct ferryi_pager *pager);

/* evict_thread.c */
void *ferryi_evict_thread_main(void *arg);
/* Fault path: fewer pages than the low mark are free. */
void ferryi_pager_need_memory(struct ferryi_pager *pager);

/* event.c: the application's own changes, as the kernel reports them. ASSUMPTION: events_lock held. */
void ferryi_event_remove_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
void ferryi_event_unmap_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
void ferryi_event_remap_locked(struct ferryi_pager *pager, uintptr_t from, uintptr_t to, uint64_t len);
/* While nr_late_moves: moves that wait for nothing any more are applied. */
void ferryi_event_late_locked(struct ferryi_pager *pager);
/* The memory at va was moved there, but the area table does not know yet. By an event reader, or events_lock held. */
bool ferryi_event_is_late_locked(const struct ferryi_pager *pager, uintptr_t va);
/*
 * Returns when events that have been read are applied. The kernel lets an munmap or mremap return once its event
 * is read, so a caller of ours may be ahead of the area table. Not the fault path.
 */
void ferryi_events_settle(struct ferryi_pager *pager);
/* Every page of [start, end) is managed, as of the caller's own last munmap or mremap. Not the fault path. */
bool ferryi_pager_covers(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);

/* zombie.c */
/* Takes an area that was cut from the table. ASSUMPTION: the area table's write lock is held. */
void ferryi_zombies_add(struct ferryi_pager *pager, const struct ferryi_area *area);
/* Frees those whose pages have settled; how many are left. Not the fault path. */
unsigned ferryi_zombies_reap(struct ferryi_pager *pager);

/* range.c: every page home, every range given up (ferry_close). 0, -EIO. */
int ferryi_pager_release_all(struct ferryi_pager *pager);
/* pager.c: gives the RAM of staging pages back. Without events meanwhile: our own madvise would wait for us. */
void ferryi_staging_release(struct ferryi_pager *pager, uint8_t *addr, size_t len);
/* pager.c: between these nothing leaves and the budget does not apply; they nest */
void ferryi_home_begin(struct ferryi_pager *pager);
void ferryi_home_end(struct ferryi_pager *pager);

/* fork.c */
int ferryi_fork_guard_open(struct ferryi_pager *pager);
void ferryi_fork_guard_close(struct ferryi_pager *pager);
/* Notes a change that the application makes while it forks. ASSUMPTION: events_lock held. */
void ferryi_fork_note_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, bool is_drop);
/* event.c: some change of the address space has an event that is not read yet. */
bool ferryi_events_to_come(struct ferryi_pager *pager);

/* bind.c: blocks of objects to sub-sections of pools */
/* All blocks of pages [first, first + n). May block. 0, -ENOMEM, -ENOTCONN, -ENXIO (no pool at all). */
int ferryi_bind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n);
/* Keeper thread: has pool memory leased before late-bound blocks need it; may block on a server. */
void ferryi_bind_reserve_ahead(struct ferryi_pager *pager);
/* Block `nr` from memory leased already; never blocks. */
int ferryi_bind_block_now(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr);
/* Gives back the blocks that lie wholly in [first, first + n), or all (whole). ASSUMPTION: pages settled. */
void ferryi_unbind_pages(struct ferryi_pager *pager, struct ferryi_object *object, size_t first, size_t n, bool whole);

/*
 * Taking block `nr` of an object off its sub-section (race diagram: bind.c). Any thread, does not block; fault path.
 * ASSUMPTION: the object cannot go: the area table's read lock is held, or an area of it is the caller's.
 * begin: from now on no page of the block leaves RAM; false: it is not bound, or somebody else has begun.
 * commit: 0 (unbound; the sub-section is its pool's again, pages in RAM have no copy any more); -EBUSY: a page is
 * away, bring it home; -EAGAIN: a page is under way or being flushed, look again. After an error commit again, or abort.
 */
bool ferryi_block_leave_begin(struct ferryi_block *block);
int ferryi_block_leave_commit(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr);
void ferryi_block_leave_abort(struct ferryi_block *block);
/* All three for a block that has settled already: 0 (also when it was not bound), -EBUSY, -EAGAIN. */
int ferryi_unbind_block(struct ferryi_pager *pager, struct ferryi_object *object, size_t nr);
/*
 * Its sub-section, of that pool, is no place for its pages (any more): they are to be bound elsewhere. pfn: of any of
 * them; owner: whose migration this is, or NULL.
 */
bool ferryi_block_is_misplaced(const struct ferry_pool *pool, const struct ferryi_block *block, uint64_t pfn,
			       const void *owner);
/* A sub-section of some pool that is well, for a block to come; blocks on the server. Errors as ferryi_bind_pages. */
int ferryi_bind_take(struct ferryi_pager *pager, uint32_t *subsection);
void ferryi_bind_give(struct ferryi_pager *pager, uint32_t subsection);
/* Binds an unbound block to this pool. -EAGAIN: somebody has bound it meanwhile; else as ferryi_pool_take. */
int ferryi_bind_block_to(struct ferryi_pager *pager, struct ferryi_block *block, struct ferry_pool *pool, bool may_grow);
/* After isolating pages of the block: it is bound as it was before (`subsection`, without LEAVING). */
bool ferryi_block_is_still(const struct ferryi_block *block, uint32_t subsection);
/* Who writes to the place of a RESIDENT page (a flush) does so between these; false: not now, it is leaving. */
bool ferryi_block_use_begin(struct ferryi_block *block);
/* Keeps the place of a page that is AWAY for the caller, whatever its word becomes, until _use_end. */
void ferryi_block_use_away(struct ferryi_block *block);
void ferryi_block_use_end(struct ferryi_block *block);

/*
 * The attached pool of this index, or NULL; while it is in use so, it is not detached (race diagram: pager.c). Any
 * thread, lock-free, async-signal-safe; what is done between the two may block, within the control requests' limits.
 */
struct ferry_pool *ferryi_pager_pool_begin(struct ferryi_pager *pager, unsigned index);
void ferryi_pager_pool_end(struct ferryi_pager *pager, unsigned index);

/* Pool by the PFN of a page, with its remote place; NULL when it is not valid. Fault path. */
static inline struct ferry_pool *ferryi_locate(struct ferryi_pager *pager, uint64_t pfn, struct ferryi_remote *remote,
					       uint64_t *off)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);

	if (!sub)
		return NULL;
	*remote = sub->remote;
	*off = sub->remote_off + (pfn % FERRYI_PAGES_PER_SUBSECTION) * FERRYI_PAGE_SIZE;
	return ferryi_subsection_pool(sub);
}

/* The userfaultfd that this object's areas are registered with. */
static inline int ferryi_uffd_of(const struct ferryi_pager *pager, const struct ferryi_object *object)
{
	return object->is_inline ? pager->inline_mode.uffd : pager->uffd;
}

/* Threads that wait for a page of the object; on inline memory none sleeps in the kernel. Any thread; fault path. */
static inline void ferryi_wake_at(const struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, size_t len)
{
	if (!object->is_inline)
		ferryi_uffd_wake(pager->uffd, (void *)va, len);
}

/* Of a slot: that many after it is the one for inline memory, as a page moves only within its userfaultfd. */
static inline uint32_t ferryi_nr_slots(const struct ferryi_pager *pager)
{
	return (uint32_t)(pager->staging_bytes >> FERRYI_PAGE_SHIFT);
}

static inline uint32_t ferryi_slot_for(const struct ferryi_pager *pager, const struct ferryi_object *object, uint32_t slot)
{
	return slot % ferryi_nr_slots(pager) + (object->is_inline ? ferryi_nr_slots(pager) : 0);
}

static inline uint8_t *ferryi_slot_addr(const struct ferryi_pager *pager, uint32_t slot)
{
	return pager->staging + (size_t)slot * FERRYI_PAGE_SIZE;
}

/* All pages of a batch are of handler memory, or all of inline memory: false, these must wait for another one. */
static inline bool ferryi_batch_takes(const struct ferryi_pager *pager, struct ferryi_evict_batch *batch,
				      const struct ferryi_object *object)
{
	uint32_t slot = ferryi_slot_for(pager, object, batch->first_slot);

	if (batch->nr_pages)
		return slot == batch->first_slot;
	batch->first_slot = slot;
	batch->staging = ferryi_slot_addr(pager, slot);
	return true;
}

/*
 * A page goes back from its slot: it is in RAM twice until the slot is released. What a folio may need for that has
 * been charged beforehand, and is settled at its end (folio_move.c).
 */
static inline void ferryi_rescue_charge(struct ferryi_pager *pager, uint32_t slot)
{
	if (!ferryi_folio_move_has_slot(pager->folio_move, slot))
		ferryi_budget_charge_slack(&pager->budget, 1);
}

static inline void ferryi_rescue_uncharge(struct ferryi_pager *pager, uint32_t slot)
{
	if (!ferryi_folio_move_has_slot(pager->folio_move, slot))
		ferryi_budget_uncharge(&pager->budget, 1);
}

#endif
