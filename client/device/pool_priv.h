/* struct ferry_pool, for the files of this room. Members are grouped by what protects them. */
#ifndef FERRYI_DEVICE_POOL_PRIV_H
#define FERRYI_DEVICE_POOL_PRIV_H

#include "device.h"

struct ferry_pool {
	/* immutable */
	struct ferryi_memory_model *model;
	struct ferryi_arena *arena;
	struct ferryi_lender lender; /* its own lease, whose extents the window began with */
	unsigned copies; /* locations that each page is to have: 1 to FERRYI_MAX_COPIES */
	unsigned type; /* enum ferry_mem_type */
	const void *owner;
	void *data;
	const struct ferry_pool_ops *ops; /* may be NULL */
	uint64_t pfn_first;
	uint64_t nr_reserved; /* sub-sections of the window: the server's pool may grow so far */
	uint64_t nr_aside;    /* of these, at the start: before the altmap's offset, no page of the pool */
	uint64_t nr_kept;     /* and these: they hold what was left there under the lease's name */
	struct ferryi_altmap *descriptors; /* in the pool's memory; or NULL */
	size_t map_bytes;

	/* serialises growth, and the coming of a replica; held across the control request, so never with lock */
	struct ferryi_mutex grow_lock;
	uint64_t ask_ns; /* protected by it: the server was full, do not ask for more than there was before then */

	/* protected by lock: held shortly, never across I/O */
	struct ferryi_mutex lock;
	uint64_t nr_leased; /* sub-sections populated, from the window's start */
	uint64_t nr_used;
	uint64_t nr_released; /* of nr_kept */
	uint64_t nr_retired; /* never taken (again): failed pages in them, set aside, or without descriptors */
	struct ferry_altmap *altmap; /* the caller's, or NULL: alloc */
	uint64_t next;       /* next-fit position */
	uint64_t *used_map;  /* bit set: in use, retired, or not leased */

	/* atomic: sub-sections of the window that the server has, as its last reply says; at least nr_leased */
	_Atomic uint64_t nr_window;
	_Atomic uint32_t *holds; /* of each sub-section, by ferryi_pool_hold; changed under lock, read without */

	/* atomic: replica.h; changed under lock, read without */
	_Atomic(struct ferryi_replica *) replica[FERRYI_MAX_REPLICAS];
	_Atomic uint32_t *gates; /* of each sub-section; NULL: it has no replicas, ever */
	_Atomic unsigned nr_samplers; /* between ferryi_pool_locations_begin and _end */

	/* atomic: references and KILLED; an event that happens once; a table, bits are only set (release: pool_set_failed) */
	_Atomic unsigned refs;
	_Atomic int lost;
	_Atomic(_Atomic uint64_t *) failed_map; /* a bit a page of the window; NULL while none has failed */
};

#define KILLED (1u << 31) /* in refs: no new reference, as percpu_ref_kill() */

#endif
