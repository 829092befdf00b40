/*
 * Address space of a pool's memory. Every section of 128 MiB has a span of its
 * own, reserved whole, so that a pool can grow at its end, also in the middle
 * of a section, without moving; an extent lies in one section and is
 * contiguous. What is not mapped is PROT_NONE.
 * Context: one thread maps and unmaps at a time; any thread looks up.
 */
#ifndef FERRYI_POOL_WINDOW_H
#define FERRYI_POOL_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lock.h"

struct ferryi_window {
	struct ferryi_mutex lock; /* FERRYI_RANK_LEAF */
	/* protected by lock */
	char **sections; /* where each begins */
	size_t nsections;
};

void ferryi_window_init(struct ferryi_window *window);
/* Unmaps everything. */
void ferryi_window_fini(struct ferryi_window *window);

/*
 * Maps [from, to) bytes of the pool, multiples of 2 MiB, with mmap's prot
 * READ | WRITE, these flags and this descriptor (at the same offset; -1: none).
 * Not dumped, not inherited. 0 or negative errno, with the range unmapped.
 */
int ferryi_window_map(struct ferryi_window *window, uint64_t from, uint64_t to, int flags, int fd);
/* The memory goes back to the system, the addresses stay reserved. */
void ferryi_window_unmap(struct ferryi_window *window, uint64_t from, uint64_t to);

/* Where that byte of the pool is. ASSUMPTION: it was mapped once. */
void *ferryi_window_at(struct ferryi_window *window, uint64_t off);

/* Which byte of the pool is there; false: none. */
bool ferryi_window_find(struct ferryi_window *window, uintptr_t addr, uint64_t *off);

/* Binds [from, to) to a node (strictly); node -1: nothing. 0 or negative errno. */
int ferryi_window_bind(struct ferryi_window *window, uint64_t from, uint64_t to, int numa_node);
/* Populates writable memory, in several threads where it is large; 0, -ENOMEM, -EHWPOISON, ... */
int ferryi_window_populate(struct ferryi_window *window, uint64_t from, uint64_t to);

#endif
