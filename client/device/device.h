/*
 * Device memory of this process: PFN space, sections, page descriptors, pools.
 * Documentation/mm/memory-model.rst, SPARSEMEM with vmemmap: descriptors form
 * one virtually contiguous array indexed by PFN; sections of 128 MiB in a
 * two-level table populated on demand; 2 MiB sub-sections are the unit of
 * lease and of validity (ZONE_DEVICE's memremap_pages).
 *
 * A page's remote place is (extent, index): ferryi_subsection says which
 * extent of which pool backs 512 consecutive PFNs; replica.h, where else
 * these pages are.
 */
#ifndef FERRYI_DEVICE_H
#define FERRYI_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "arith.h"
#include "control.h"
#include "lock.h"
#include "replica.h"

#define FERRYI_PFN_BITS              34u /* 64 TiB of pools: MAX_PHYSMEM_BITS 46 */
#define FERRYI_PAGES_PER_SUBSECTION  512u
#define FERRYI_SUBSECTIONS_PER_SECTION 64u
#define FERRYI_PAGES_PER_SECTION     (FERRYI_PAGES_PER_SUBSECTION * FERRYI_SUBSECTIONS_PER_SECTION)
#define FERRYI_MAX_POOLS_ATTACHED    16u

struct ferry_pool;
struct ferry_pool_ops; /* ferry.h */
struct ferry_altmap;
struct ferryi_altmap; /* altmap.h */

/* Descriptor of one device page: struct page. Zeroed when its sub-section is populated. */
struct ferry_page {
	uint64_t hash;    /* XXH3 of the page's content in the pool; owned by whoever owns the page word: altmap.h */
	_Atomic uint64_t drvdata; /* the device driver's: set by its threads, read for its callbacks */
	uint64_t va;      /* process address whose data it holds, or 0; set with the hash */
	_Atomic uint32_t refs;
	_Atomic uint32_t folio; /* of the first page of a sub-section: the state of its folio, client/pager/folio.h */
};
_Static_assert(sizeof(struct ferry_page) == 32, "at most 64 bytes a page; 32 keep bookkeeping under 1 %");

/* What backs 512 PFNs. Immutable from population until the pool is detached. */
struct ferryi_subsection {
	struct ferry_pool *pool; /* NULL: not valid; ferryi_subsection_pool */
	struct ferryi_remote remote;
	uint64_t remote_off;     /* bytes from the extent's start */
	int memfd;               /* coherent pools: the extent's, open as long as the pool; else -1 */
};

struct ferryi_memory_model;

/* PFN space of the process; tables from the arena. -ENOMEM. */
int ferryi_memory_model_open(struct ferryi_arena *arena, struct ferryi_memory_model **out);
void ferryi_memory_model_close(struct ferryi_memory_model **model);

/* Lock-free; NULL when no valid sub-section covers pfn. Fault path. */
const struct ferryi_subsection *ferryi_subsection_of(const struct ferryi_memory_model *model, uint64_t pfn);
/*
 * Its pool; NULL when it was detached meanwhile, which cannot be while a page or block of the caller's is there. Pool
 * structs are type-stable: a stale one is some pool's. Fault path.
 */
static inline struct ferry_pool *ferryi_subsection_pool(const struct ferryi_subsection *sub)
{
	return __atomic_load_n(&sub->pool, __ATOMIC_ACQUIRE);
}
struct ferry_page *ferryi_pfn_to_page(const struct ferryi_memory_model *model, uint64_t pfn);
/* ASSUMPTION: page came from ferryi_pfn_to_page. */
uint64_t ferryi_page_to_pfn(const struct ferryi_memory_model *model, const struct ferry_page *page);

/* The whole array: descriptor of PFN 0. What is not valid may not be touched. */
struct ferry_page *ferryi_memory_model_map(const struct ferryi_memory_model *model);

/* Reserves a window of `nr` sub-sections in PFN space, section aligned; -ENOMEM. Start-up and attach only. */
int ferryi_pfn_window_alloc(struct ferryi_memory_model *model, uint64_t nr_subsections, uint64_t *pfn_first);
void ferryi_pfn_window_free(struct ferryi_memory_model *model, uint64_t pfn_first, uint64_t nr_subsections);
/*
 * Makes one sub-section valid (memory hot-add) or invalid (hot-remove).
 * -EINVAL (not aligned, or outside), -ENOMEM (also when it is valid already: nothing is changed).
 */
int ferryi_subsection_populate(struct ferryi_memory_model *model, uint64_t pfn, const struct ferryi_subsection *info);
void ferryi_subsection_depopulate(struct ferryi_memory_model *model, uint64_t pfn);
/* Bytes of RAM that tables and descriptors of valid sub-sections can take at most. */
uint64_t ferryi_memory_model_bytes(const struct ferryi_memory_model *model);

/* ---- pools ---- */

struct ferryi_pool_attr {
	struct ferryi_lease *lease; /* becomes the pool's */
	unsigned index;             /* 0 .. FERRYI_MAX_POOLS_ATTACHED - 1, unique in the process */
	unsigned type; /* enum ferry_mem_type */
	const void *owner;
	void *data;
	const struct ferry_pool_ops *ops; /* may be NULL */
	struct ferry_altmap *altmap;      /* the caller's, or NULL */
	unsigned copies; /* locations that each page is to have, replica.h; 0: its own, and no replica ever */
};

int ferryi_pool_open(struct ferryi_memory_model *model, struct ferryi_arena *arena, const struct ferryi_pool_attr *attr,
		     struct ferry_pool **out);
/* ASSUMPTION: no sub-section in use, no channel of its peer open. Closes the lease; what has a name waits there. */
void ferryi_pool_close(struct ferry_pool **pool);
/* The same, and the lease's name is given up: what the server said to that; the pool is closed in any case. */
int ferryi_pool_forget(struct ferry_pool **pool);

/*
 * Takes `want` free sub-sections, neighbours where possible: their numbers
 * (PFN / 512). With `may_grow`, leases more when too few are free (blocks on
 * the server); without, never blocks. All or nothing: 0, -ENOMEM (pool full),
 * -ESHUTDOWN, -ENOTCONN, -ETIMEDOUT.
 */
int ferryi_pool_take(struct ferry_pool *pool, unsigned want, bool may_grow, uint32_t *subsections);
/*
 * Leases ahead, so that up to `want` sub-sections are free: 0 once some were leased or that many are there.
 * Blocks on the server; a full one is asked again after a moment only. Errors as take.
 */
int ferryi_pool_reserve(struct ferry_pool *pool, unsigned want);
void ferryi_pool_give(struct ferry_pool *pool, uint32_t subsection);
/*
 * One user more of a sub-section: it is free again when each user has given it. ASSUMPTION: it is in use.
 * is_held: has a user besides the one who took it. Lock-free; fault path.
 */
void ferryi_pool_hold(struct ferry_pool *pool, uint32_t subsection);
bool ferryi_pool_is_held(const struct ferry_pool *pool, uint32_t subsection);

unsigned ferryi_pool_index(const struct ferry_pool *pool);
struct ferryi_lease *ferryi_pool_lease(const struct ferry_pool *pool);
unsigned ferryi_pool_type(const struct ferry_pool *pool);
const void *ferryi_pool_owner(const struct ferry_pool *pool);
/* The caller's callbacks, or NULL. */
const struct ferry_pool_ops *ferryi_pool_ops(const struct ferry_pool *pool);
uint64_t ferryi_pool_pfn_first(const struct ferry_pool *pool);
uint64_t ferryi_pool_pfn_last(const struct ferry_pool *pool);
/* Its lease has a name; what an earlier process left there is not taken, until it is released. */
bool ferryi_pool_is_named(const struct ferry_pool *pool);
/* Pages that leave RAM for want of room go there, and not only when it is told to: not to a name without descriptors, nor a coherent pool. */
bool ferryi_pool_is_paged_to(const struct ferry_pool *pool);
/* Descriptors are kept in its memory; or NULL. Fault path. */
struct ferryi_altmap *ferryi_pool_altmap(const struct ferry_pool *pool);
/* Where page `nr` of the window is, valid or set aside; false: not leased. Walks the extents. */
bool ferryi_pool_place(const struct ferry_pool *pool, uint64_t nr, struct ferryi_remote *remote, uint64_t *off);
/* A sub-section that was kept is free. */
void ferryi_pool_release_kept(struct ferry_pool *pool, uint32_t subsection);
/* Its pages are mapped for the CPU (FERRY_MEM_COHERENT). */
bool ferryi_pool_is_coherent(const struct ferry_pool *pool);
uint64_t ferryi_pool_kept_bytes(const struct ferry_pool *pool); /* ... from the window's start */
uint64_t ferryi_pool_leased_bytes(struct ferry_pool *pool);
uint64_t ferryi_pool_used_bytes(struct ferry_pool *pool);
/* What the pool could still give, were this process its only tenant. */
uint64_t ferryi_pool_room_bytes(struct ferry_pool *pool);

/* References as of get_dev_pagemap(); the opener holds one. try_get fails once the pool is killed or closed. */
bool ferryi_pool_try_get(struct ferry_pool *pool);
/* The pool of a valid PFN with a reference, or NULL: also while it is being detached. Lock-free. */
struct ferry_pool *ferryi_pool_get_of(const struct ferryi_memory_model *model, uint64_t pfn);
void ferryi_pool_put_ref(struct ferry_pool *pool);
unsigned ferryi_pool_refs(const struct ferry_pool *pool);

/* percpu_ref_kill(): from its return on nothing is taken from the pool (-ESHUTDOWN) and try_get fails. For good. */
void ferryi_pool_kill(struct ferry_pool *pool);
bool ferryi_pool_is_killed(const struct ferry_pool *pool);

/*
 * The server reports [off_bytes, off_bytes + len_bytes) of an extent of this pool's lease as failed: its pages are
 * not read any more, and nothing is put there. What is not within the extent is ignored. Control thread.
 */
void ferryi_pool_set_failed(struct ferry_pool *pool, unsigned extent_index, uint64_t off_bytes, uint64_t len_bytes);
/* Lock-free; fault path. ASSUMPTION: pfn is valid and the pool's. */
bool ferryi_pool_page_failed(const struct ferry_pool *pool, uint64_t pfn);
/* Some page of its sub-section has. */
bool ferryi_pool_subsection_failed(const struct ferry_pool *pool, uint64_t pfn);
bool ferryi_pool_any_failed(const struct ferry_pool *pool);

/* Set once, when no location of its pages is left (replica.h), or it is given up. Any thread, lock-free. */
void ferryi_pool_set_lost(struct ferry_pool *pool, enum ferryi_lost_reason reason);
enum ferryi_lost_reason ferryi_pool_lost(const struct ferry_pool *pool);

#endif
