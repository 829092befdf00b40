/*
 * The memory cgroups that this process is in: how much may still be allocated
 * before one of them is at its limit, where an allocation wakes the OOM killer
 * (Documentation/admin-guide/cgroup-v2.rst, "memory.max"; cgroup-v1/memory.rst).
 * The library gives way before: under PRESSED its threads evict although the
 * budget would hold more; under TIGHT no page is brought in by a new frame
 * (reserve.h).
 */
#ifndef FERRYI_PAGER_MEMCG_H
#define FERRYI_PAGER_MEMCG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define FERRYI_MEMCG_LEVELS  8u            /* the process's own cgroup and its parents */
#define FERRYI_MEMCG_PRESSED (24ULL << 20) /* bytes of room */
#define FERRYI_MEMCG_TIGHT   (8ULL << 20)  /* more than all threads bring in between two looks */

struct ferryi_memcg_level {
	int limit_fd, usage_fd, stat_fd;
};

struct ferryi_memcg {
	/* immutable after open */
	unsigned nr_levels; /* 0: no limit, and nothing below costs anything */
	bool is_v2;
	struct ferryi_memcg_level level[FERRYI_MEMCG_LEVELS];
	/* atomic */
	_Atomic uint64_t room;    /* bytes, as of the last look */
	_Atomic uint64_t next_ns; /* of the next look */
	_Atomic bool told;        /* that pages leave because of it */
};

/* Finds the cgroups that have a limit now. Start-up code. What cannot be read counts as no limit. */
void ferryi_memcg_open(struct ferryi_memcg *memcg);
void ferryi_memcg_close(struct ferryi_memcg *memcg);

/* Bytes until the nearest limit, page cache that could go counted in; UINT64_MAX: none. Fault path: at most a few pread(2). */
uint64_t ferryi_memcg_room(struct ferryi_memcg *memcg);

static inline bool ferryi_memcg_is_pressed(struct ferryi_memcg *memcg)
{
	return memcg->nr_levels && ferryi_memcg_room(memcg) < FERRYI_MEMCG_PRESSED;
}

static inline bool ferryi_memcg_is_tight(struct ferryi_memcg *memcg)
{
	return memcg->nr_levels && ferryi_memcg_room(memcg) < FERRYI_MEMCG_TIGHT;
}

#endif
