/*
 * Children of fork, as their parent keeps them. What was in RAM at the fork the
 * kernel shares, copy on write. What was away, the child still needs from the
 * pool: its record says which pages these are, and holds their sub-sections,
 * so that nobody else's pages come there. The child's faults come to the
 * parent over the child's own userfaultfd, and `ferry-fork` answers them.
 *
 *   page of a child     what it is                    a fault in the child gives
 *   ------------------  ----------------------------  ----------------------------
 *   needed              in the pool, at its old place the data; not needed any more
 *   lost                poisoned in the parent, ...   SIGBUS
 *   neither             came with the fork, or never  zeros (the child dropped it,
 *                       was                           or it is its first touch)
 *
 * Who overwrites a place in the pool that a child needs, saves it first:
 *
 *   evictor, flush, device access          ferry-fork
 *   ------------------------------------   --------------------------------------
 *   owns the parent's page
 *   sub-section held? no: nobody needs it
 *   lock                                   lock
 *   needed? read, copy it to the child     needed? read, copy it to the child
 *   not needed any more                    not needed any more
 *   unlock                                 unlock
 *   write
 *
 * The lock is held across the read: only children and those who overwrite what
 * they need wait for it, and the read has a deadline. A fork holds it from the
 * snapshot until the child has its descriptor here, so nothing is overwritten
 * between. The RAM of a child is its own: no budget counts it.
 *
 * The parent may be killed at any instruction. So that its heir (heir.h) finds
 * the truth, a record that an heir knows of lies in memory which both map, and
 * each step leaves it usable:
 *
 *   step of the parent                     killed before it: the heir finds
 *   ------------------------------------   --------------------------------------
 *   reads events, into the record          they are unread, and come to the heir
 *   drops pages (bits cleared)             the event in the record: drops them
 *   table_busy; cuts, moves areas; not     the event in the record: does the same;
 *                                            while it was busy: gives SIGBUS
 *   event in the record = 0                the same again: nothing is left to do
 *   a page is copied to the child          needed, and its place is untouched
 *   not needed any more (bit cleared)      needed: the copy says EEXIST, or it
 *                                            was dropped, by an unread event
 *   its place in the pool is overwritten   not needed: nobody looks there
 */
#ifndef FERRYI_PAGER_CHILD_H
#define FERRYI_PAGER_CHILD_H

#include "area.h"
#include "heir.h"
#include "link.h"
#include "uapi.h"

#define FERRYI_MAX_CHILDREN   64u /* with pages away, at a time; one more gets SIGBUS */
#define FERRYI_CHILD_RUN      32u /* pages read at once */
#define FERRYI_FORK_LOG       128u

struct ferryi_pager;

/* An object of the parent, as it was at the fork. */
struct ferryi_child_object {
	struct ferryi_object as_object; /* what the child's areas refer to; it has no page words and no blocks */
	struct ferryi_object *of;       /* the parent's: may be gone, or another one by now */
	uint32_t *subsection; /* of each block: number + 1, held; 0: no page of it was away */
	uint64_t *place;      /* of each block, for an heir: heir.h */
	uint64_t *needed;     /* bitmaps, a bit a page */
	uint64_t *lost;
};

#define FERRYI_CHILD_EVENTS 16u /* read at once */

/* All members: protected by the children's lock, but in the child itself, which has one thread then, and in its heir. */
struct ferryi_child {
	size_t bytes; /* with all that the pointers point to */
	uintptr_t self; /* where it was when the pointers were made */
	bool is_shared; /* memory of a memfd is mapped over the arena's */
	int uffd; /* of the child's address space */
	int sock; /* its end is a sign of the child's life, and ours of our own */
	bool gone;
	bool table_busy; /* areas are being changed */
	struct uffd_msg events[2][FERRYI_CHILD_EVENTS]; /* read last; in the middle of an answer: the second row. 0: done */
	struct ferryi_area_table areas; /* its lock is not used */
	uint64_t nr_needed, nr_lost; /* pages */
	unsigned nr_objects;
	struct ferryi_child_object *objects;
};

/* How pages come to a child: from its parent, or from its heir. */
struct ferryi_child_giver {
	/* immutable */
	uint8_t *buf; /* FERRYI_CHILD_RUN pages */
	uint32_t timeout_ms; /* of one read, and of one copy */
	void *ctx;
	/*
	 * What was at the place of needed pages [index, index + nr), all of one block, into buf. 0; -EHWPOISON: one of
	 * them is not to be had; else none is. Blocks, within the timeout.
	 */
	int (*read)(void *ctx, const struct ferryi_child_object *copy, size_t index, size_t nr);
};

struct ferryi_children {
	/* immutable after open */
	bool started;
	struct ferryi_child_giver giver;
	pthread_t thread;
	int kick_fd;
	void *orphan_stack; /* for a thread of a child: nothing is to be mapped there just now */
	/* atomic: set once */
	_Atomic bool stopping;

	/* protected by lock */
	struct ferryi_mutex lock;
	struct ferryi_lines lines;
	struct ferryi_heir heir;
	unsigned nr;
	struct ferryi_child *child[FERRYI_MAX_CHILDREN];
};

int ferryi_children_open(struct ferryi_pager *pager);
/* Gives every child what it still needs, as far as that can be had: it does without this process from now on. May block for long. */
void ferryi_children_give_all(struct ferryi_pager *pager);
/* The same, and stops. kick_fd: the keeper may still use it. */
void ferryi_children_close(struct ferryi_pager *pager);

/*
 * A record of the areas as they are now. ASSUMPTION: events_lock and the area table's lock (either way) held.
 * NULL: no memory for it.
 */
struct ferryi_child *ferryi_child_create(struct ferryi_pager *pager);
/*
 * Notes what is away and holds its sub-sections; exclusive pages come home. ASSUMPTION: service lock held; no page
 * leaves RAM, no object goes meanwhile.
 * false: a page did not settle by the deadline.
 */
bool ferryi_child_sample(struct ferryi_pager *pager, struct ferryi_child *child, uint64_t deadline_ns);
/* Gives back what it holds, closes its descriptors. NULL allowed. */
void ferryi_child_destroy(struct ferryi_pager *pager, struct ferryi_child **child);
/*
 * The record into memory of a memfd, so that another process can map it: *memfd is the caller's. -ENOMEM, -EFBIG, ...:
 * it is where it was.
 */
int ferryi_child_share(struct ferryi_pager *pager, struct ferryi_child **child, int *memfd);
/* The child has come up: its faults are answered from now on. ASSUMPTION: lock held. */
void ferryi_children_add_locked(struct ferryi_pager *pager, struct ferryi_child *child);

/*
 * ---- child_page.c: giving pages, following the child's changes ----
 * ASSUMPTION: nobody else has the record (in the parent: the children's lock is held).
 */

/* Its pages of [start, end) are read as zeros by whoever faults: dropped. */
void ferryi_child_drop(struct ferryi_child *child, uintptr_t start, uintptr_t end);
/* A record of `bytes` bytes was copied to here, or mapped: its pointers point here from now on. false: it makes no sense. */
bool ferryi_child_moved(struct ferryi_child *child, size_t bytes);
/* The place of a page at the fork. ASSUMPTION: needed. */
uint64_t ferryi_child_pfn(const struct ferryi_child_object *copy, size_t index);
/* All that the child needs of pages [index, end) of one of its objects, all in one block. */
void ferryi_child_give_pages(struct ferryi_child_giver *giver, struct ferryi_child *child,
			     struct ferryi_child_object *copy, size_t index, size_t end);
/* Reads the child's events, if there are any: changes are applied, faults answered. Sets gone. */
void ferryi_child_serve(struct ferryi_child_giver *giver, struct ferryi_child *child);
/*
 * Poison where data is lost; then holes read as zeros, without us: there is nothing left that they could hide.
 * If there is (false), they stay armed. ASSUMPTION: no page is needed.
 */
bool ferryi_child_disarm(struct ferryi_child_giver *giver, struct ferryi_child *child);
/*
 * In an heir, with a record that its writer has left in whatever he was doing: what he had read is done, what is
 * counted anew. false: it cannot be told where pages are, so all that is needed is lost.
 */
bool ferryi_child_resume(struct ferryi_child *child);
/* Its end of the socket is closed: it has exited, or execs. It never writes. */
bool ferryi_child_has_ended(const struct ferryi_child *child);

/*
 * Pages [index, index + nr) of the object, all in one block, are about to be overwritten in the pool: children get
 * what they need of them. May block, within the fault timeout; at once when no child of fork needs that block.
 */
void ferryi_children_save(struct ferryi_pager *pager, const struct ferryi_object *object, size_t index, size_t nr);
/* The same by PFN. */
void ferryi_children_save_pfn(struct ferryi_pager *pager, uint64_t pfn);
/* The pool is left: children get all they need of it, and hold nothing of it afterwards. May block for long. */
void ferryi_children_leave_pool(struct ferryi_pager *pager, const struct ferry_pool *pool);

#endif
