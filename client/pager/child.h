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
 */
#ifndef FERRYI_PAGER_CHILD_H
#define FERRYI_PAGER_CHILD_H

#include "area.h"
#include "link.h"

#define FERRYI_MAX_CHILDREN   64u /* with pages away, at a time; one more gets SIGBUS */
#define FERRYI_CHILD_RUN      32u /* pages read at once */
#define FERRYI_FORK_LOG       128u

struct ferryi_pager;

/* An object of the parent, as it was at the fork. */
struct ferryi_child_object {
	struct ferryi_object as_object; /* what the child's areas refer to; it has no page words and no blocks */
	struct ferryi_object *of;       /* the parent's: may be gone, or another one by now */
	uint32_t *subsection; /* of each block: number + 1, held; 0: no page of it was away */
	uint64_t *needed;     /* bitmaps, a bit a page */
	uint64_t *lost;
};

/* All members: protected by the children's lock, but in the child itself, which has one thread then. */
struct ferryi_child {
	size_t bytes;
	int uffd; /* of the child's address space */
	int sock; /* its end is a sign of the child's life, and ours of our own */
	bool gone;
	struct ferryi_area_table areas;
	uint64_t nr_needed, nr_lost; /* pages */
	unsigned nr_objects;
	struct ferryi_child_object *objects;
};

struct ferryi_children {
	/* immutable after open */
	bool started;
	pthread_t thread;
	int kick_fd;
	uint8_t *buf; /* FERRYI_CHILD_RUN pages, registered with the lines */
	void *orphan_stack; /* for a thread of a child: nothing is to be mapped there just now */
	/* atomic: set once */
	_Atomic bool stopping;

	/* protected by lock */
	struct ferryi_mutex lock;
	struct ferryi_lines lines;
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
/* Its pages of [start, end) are read as zeros by whoever faults: dropped. */
void ferryi_child_drop(struct ferryi_child *child, uintptr_t start, uintptr_t end);
/* The child has come up: its faults are answered from now on. ASSUMPTION: lock held. */
void ferryi_children_add_locked(struct ferryi_pager *pager, struct ferryi_child *child);

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
