/*
 * Address space reserved once, at ferry_open: at run time the library maps
 * nothing at addresses that the application could own (design promise 7).
 * Page-granular first fit; untouched pages cost nothing; freed ones go back to
 * the kernel. Memory comes zeroed.
 *
 * Context: any thread; a leaf lock; madvise/mprotect only, never malloc.
 * Not called on the fault path.
 */
#ifndef FERRYI_DEVICE_ARENA_H
#define FERRYI_DEVICE_ARENA_H

#include <stddef.h>
#include <stdint.h>

struct ferryi_arena;

/* Reserves up to `want` bytes, halving down to `least` where limits forbid. -ENOMEM. */
int ferryi_arena_open(size_t want, size_t least, struct ferryi_arena **out);
/* Unmaps everything that came from it, itself included. NULL allowed; nulls. */
void ferryi_arena_close(struct ferryi_arena **arena);

/* Zeroed, page-aligned; NULL when the reservation or its 4096 holes are used up. */
void *ferryi_arena_alloc(struct ferryi_arena *arena, size_t len_bytes);
/* len_bytes as given to alloc. NULL allowed. */
void ferryi_arena_free(struct ferryi_arena *arena, void *ptr, size_t len_bytes);

#endif
