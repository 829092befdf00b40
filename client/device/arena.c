/*
 * The reservation is one PROT_NONE mapping; pieces are opened with mprotect.
 * Free pieces are a sorted array of holes at its head, merged on free.
 */
#include "arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "arith.h"
#include "lock.h"
#include "log.h"

#define MAX_HOLES 4096

struct hole {
	uintptr_t start, end;
};

struct ferryi_arena {
	/* immutable */
	uintptr_t base, end;

	/* protected by lock */
	struct ferryi_mutex lock;
	unsigned n_holes;
	struct hole holes[MAX_HOLES]; /* sorted, never adjacent */
};

int ferryi_arena_open(size_t want, size_t least, struct ferryi_arena **out)
{
	size_t head = ferryi_align_up(sizeof(struct ferryi_arena), FERRYI_PAGE_SIZE);
	void *base = MAP_FAILED;
	size_t len = want;

	for (; len >= least; len /= 2) {
		base = mmap(NULL, head + len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (base != MAP_FAILED)
			break;
	}
	if (base == MAP_FAILED)
		return -ENOMEM;
	if (mprotect(base, head, PROT_READ | PROT_WRITE)) {
		munmap(base, head + len);
		return -ENOMEM;
	}
	/* Page words of a forked child would be stale anyway; a core dump would drown in them. */
	madvise(base, head + len, MADV_DONTDUMP);

	struct ferryi_arena *arena = base;

	ferryi_mutex_init(&arena->lock, FERRYI_RANK_LEAF);
	arena->base = (uintptr_t)base;
	arena->end = arena->base + head + len;
	arena->n_holes = 1;
	arena->holes[0] = (struct hole){ arena->base + head, arena->end };
	*out = arena;
	return 0;
}

void ferryi_arena_close(struct ferryi_arena **arena_p)
{
	struct ferryi_arena *arena = *arena_p;

	if (!arena)
		return;
	*arena_p = NULL;
	ferryi_mutex_fini(&arena->lock);
	munmap((void *)arena->base, arena->end - arena->base);
}

static void *take_hole_locked(struct ferryi_arena *arena, size_t len)
{
	ferryi_assert_held(&arena->lock);
	for (unsigned i = 0; i < arena->n_holes; i++) {
		struct hole *h = &arena->holes[i];

		if (h->end - h->start < len)
			continue;
		void *ptr = (void *)h->start;

		h->start += len;
		if (h->start == h->end) {
			memmove(h, h + 1, (arena->n_holes - i - 1) * sizeof(*h));
			arena->n_holes--;
		}
		return ptr;
	}
	return NULL;
}

/* -ENOSPC when the hole table is full: the piece stays reserved for good. */
static int give_hole_locked(struct ferryi_arena *arena, uintptr_t start, uintptr_t end)
{
	unsigned i = 0;

	ferryi_assert_held(&arena->lock);
	while (i < arena->n_holes && arena->holes[i].start < start)
		i++;

	bool joins_prev = i > 0 && arena->holes[i - 1].end == start;
	bool joins_next = i < arena->n_holes && arena->holes[i].start == end;

	if (joins_prev && joins_next) {
		arena->holes[i - 1].end = arena->holes[i].end;
		memmove(&arena->holes[i], &arena->holes[i + 1], (arena->n_holes - i - 1) * sizeof(struct hole));
		arena->n_holes--;
	} else if (joins_prev) {
		arena->holes[i - 1].end = end;
	} else if (joins_next) {
		arena->holes[i].start = start;
	} else {
		if (arena->n_holes == MAX_HOLES)
			return -ENOSPC;
		memmove(&arena->holes[i + 1], &arena->holes[i], (arena->n_holes - i) * sizeof(struct hole));
		arena->holes[i] = (struct hole){ start, end };
		arena->n_holes++;
	}
	return 0;
}

void *ferryi_arena_alloc(struct ferryi_arena *arena, size_t len_bytes)
{
	size_t len = ferryi_align_up(len_bytes ? len_bytes : 1, FERRYI_PAGE_SIZE);

	ferryi_mutex_lock(&arena->lock);
	void *ptr = take_hole_locked(arena, len);

	ferryi_mutex_unlock(&arena->lock);
	if (!ptr)
		return NULL;
	if (mprotect(ptr, len, PROT_READ | PROT_WRITE)) {
		ferryi_arena_free(arena, ptr, len_bytes);
		return NULL;
	}
	return ptr;
}

void ferryi_arena_free(struct ferryi_arena *arena, void *ptr, size_t len_bytes)
{
	size_t len = ferryi_align_up(len_bytes ? len_bytes : 1, FERRYI_PAGE_SIZE);

	if (!ptr)
		return;
	/* Back to PROT_NONE as well: a stale pointer faults, and the mappings merge again. */
	madvise(ptr, len, MADV_DONTNEED);
	mprotect(ptr, len, PROT_NONE);

	ferryi_mutex_lock(&arena->lock);
	int rc = give_hole_locked(arena, (uintptr_t)ptr, (uintptr_t)ptr + len);

	ferryi_mutex_unlock(&arena->lock);
	if (rc)
		ferryi_warn("arena: hole table full, %zu bytes of address space stay unused", len);
}
