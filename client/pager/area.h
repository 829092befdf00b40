/*
 * Areas and objects: what is managed, as the kernel's VMAs and VM objects.
 *
 * An object owns the page words of one ferry_mmap or ferry_adopt, and binds
 * each of its 2 MiB blocks to one sub-section of a pool, so that neighbours in
 * memory are neighbours in the pool. Where adopted memory has whole 2 MiB of
 * address space, these are its blocks (so that a huge page is one), and the
 * object may begin with pages that are mapped nowhere. An area maps a span of
 * addresses to pages of an object; munmap, mremap and unadopt cut, move and drop
 * areas, page words stay where they are. An object goes with its last area.
 *
 * Readers (fault, evict) hold the table's read lock from look-up until the page
 * word is in a transient state; a writer removes an area first and then waits
 * for its transient pages to settle. ferry_fault_query reads the table without
 * a lock, under its sequence count.
 */
#ifndef FERRYI_PAGER_AREA_H
#define FERRYI_PAGER_AREA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device.h"
#include "page.h"
#include "stripe.h"

#define FERRYI_PAGES_PER_BLOCK FERRYI_PAGES_PER_SUBSECTION
#define FERRYI_MAX_AREAS       16384u

/* 2 MiB of an object. */
struct ferryi_block {
	_Atomic uint32_t subsection; /* sub-section number + 1, or FERRYI_BLOCK_LEAVING | that; 0: not bound (bind.c) */
	_Atomic uint32_t nr_resident; /* RESIDENT pages: lets the clock hand skip the block */
	_Atomic int entering;   /* tid of who moves pages of it to a coherent pool (coherent.h), or 0 */
	_Atomic uint32_t users; /* who needs its pages' places while they are settled (flush, poison): bind.c */
};

#define FERRYI_BLOCK_LEAVING (1u << 31) /* about to be taken off its sub-section: no page of it may leave */

struct ferryi_object {
	/* immutable */
	size_t nr_pages;
	size_t nr_blocks;
	ferryi_page_word *words;
	struct ferryi_block *blocks;
	enum ferryi_policy policy;  /* its blocks go to pools by stripes (choose.h) ... */
	uint32_t stripe_blocks;	    /* ... of so many blocks, at least 1 */
	uint64_t first_stripe;	    /* number of its first one */
	bool is_inline; /* faults on it are served in the faulting thread, by a userfaultfd of its own (inline.h) */
	/* protected by the table's write lock */
	unsigned nr_areas;
};

enum ferryi_area_flags {
	FERRYI_AREA_OWN_MAPPING = 1u << 0, /* ferry_mmap made it: munmap it when it goes */
	FERRYI_AREA_SEQUENTIAL = 1u << 1,
	FERRYI_AREA_RANDOM = 1u << 2,
};

struct ferryi_area {
	uintptr_t start, end; /* [start, end) */
	struct ferryi_object *object;
	size_t first_page; /* of the object, at start */
	unsigned flags;
};

/* One managed page, as found by its address. */
struct ferryi_page_ref {
	uintptr_t va;
	struct ferryi_object *object;
	size_t index; /* page of the object */
	size_t area_pages_left; /* pages from this one to the area's end, itself included */
	size_t area_pages_before; /* pages from the area's start to this one */
	unsigned area_flags;
};

struct ferryi_area_table {
	/* immutable */
	struct ferryi_arena *arena;
	/* protected by lock (readers: shared) */
	pthread_rwlock_t lock;
	struct ferryi_area *areas; /* sorted by start, disjoint; room for FERRYI_MAX_AREAS */
	unsigned nr_areas;
	/* atomic: odd while a writer is changing the array; partner of ferryi_areas_peek */
	_Atomic uint32_t seq;
	_Atomic uint64_t managed_pages;
	_Atomic uint64_t table_bytes; /* page words and blocks of living objects */
};

int ferryi_areas_init(struct ferryi_area_table *table, struct ferryi_arena *arena);
void ferryi_areas_fini(struct ferryi_area_table *table);

static inline void ferryi_areas_read_lock(struct ferryi_area_table *table)
{
	pthread_rwlock_rdlock(&table->lock);
}

static inline void ferryi_areas_read_unlock(struct ferryi_area_table *table)
{
	pthread_rwlock_unlock(&table->lock);
}

void ferryi_areas_write_lock(struct ferryi_area_table *table);
void ferryi_areas_write_unlock(struct ferryi_area_table *table);

/* Tables for nr_pages, all ABSENT, no block bound. NULL: no address space left. */
struct ferryi_object *ferryi_object_create(struct ferryi_area_table *table, size_t nr_pages);
/* ASSUMPTION: no area refers to it, its pages have settled, its blocks are unbound. NULL allowed. */
void ferryi_object_destroy(struct ferryi_area_table *table, struct ferryi_object **object);

static inline ferryi_page_word *ferryi_ref_word(const struct ferryi_page_ref *ref)
{
	return &ref->object->words[ref->index];
}

/* The page so many pages after (before) this one; false: it is not in the same area. */
static inline bool ferryi_ref_at(const struct ferryi_page_ref *ref, ptrdiff_t pages, struct ferryi_page_ref *out)
{
	if (pages < 0 ? (size_t)-pages > ref->area_pages_before : (size_t)pages >= ref->area_pages_left)
		return false;
	*out = *ref;
	out->va += (uintptr_t)pages * FERRYI_PAGE_SIZE;
	out->index += (size_t)pages;
	out->area_pages_left -= (size_t)pages;
	out->area_pages_before += (size_t)pages;
	return true;
}

static inline struct ferryi_block *ferryi_ref_block(const struct ferryi_page_ref *ref)
{
	return &ref->object->blocks[ref->index / FERRYI_PAGES_PER_BLOCK];
}

/* PFN that backs page `index` of the object; 0 when its block is not bound. */
static inline uint64_t ferryi_object_pfn(const struct ferryi_object *object, size_t index)
{
	uint32_t sub = atomic_load_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].subsection,
					    memory_order_acquire) &
		       ~FERRYI_BLOCK_LEAVING;

	return sub ? (uint64_t)(sub - 1) * FERRYI_PAGES_PER_SUBSECTION + index % FERRYI_PAGES_PER_BLOCK : 0;
}

/* false: not managed. ASSUMPTION: lock held, either way. */
bool ferryi_areas_find_locked(struct ferryi_area_table *table, uintptr_t va, struct ferryi_page_ref *ref);
/* Where page `index` of the object is mapped now; false: nowhere. ASSUMPTION: lock held, either way. */
bool ferryi_areas_va_locked(struct ferryi_area_table *table, const struct ferryi_object *object, size_t index,
			    uintptr_t *va);
/* Every page of [start, end) is in some area. ASSUMPTION: lock held, either way. */
bool ferryi_areas_cover_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end);
bool ferryi_areas_overlap_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end);
/* Lock-free look-up for signal handlers: state word of the page, or false. Bounded retries. */
bool ferryi_areas_peek(struct ferryi_area_table *table, uintptr_t va, uint64_t *word, uint64_t *pfn);

/* -ENOSPC: table full. ASSUMPTION: write lock held; no overlap. */
int ferryi_areas_insert_locked(struct ferryi_area_table *table, const struct ferryi_area *area);
/*
 * Cuts the first piece of [start, end) that is managed out of the table into
 * *out: 1, or 0 when there is none (left), or -ENOSPC. An object whose nr_areas
 * is then 0 is the caller's to destroy once its pages have settled.
 * ASSUMPTION: write lock held.
 */
int ferryi_areas_cut_first_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end,
				  struct ferryi_area *out);
/* Sets and clears flags on [start, end), cutting areas where needed. -ENOSPC. ASSUMPTION: write lock held. */
int ferryi_areas_flag_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end, unsigned set, unsigned clear);

#endif
