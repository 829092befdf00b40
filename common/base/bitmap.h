/*
 * Fixed-size bitmaps over caller-owned words, with next-fit search for runs.
 * Not thread-safe: the owner's lock guards them.
 */
#ifndef FERRYI_BASE_BITMAP_H
#define FERRYI_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_BITMAP_WORDS(nbits) (((nbits) + 63) / 64)

static inline bool ferryi_bitmap_test(const uint64_t *map, size_t bit)
{
	return (map[bit / 64] >> (bit % 64)) & 1;
}

static inline void ferryi_bitmap_set(uint64_t *map, size_t bit)
{
	map[bit / 64] |= 1ULL << (bit % 64);
}

static inline void ferryi_bitmap_clear(uint64_t *map, size_t bit)
{
	map[bit / 64] &= ~(1ULL << (bit % 64));
}

void ferryi_bitmap_set_range(uint64_t *map, size_t start, size_t n);
void ferryi_bitmap_clear_range(uint64_t *map, size_t start, size_t n);
size_t ferryi_bitmap_count(const uint64_t *map, size_t nbits);

/* First clear bit at or after `from`; nbits if there is none. */
size_t ferryi_bitmap_next_clear(const uint64_t *map, size_t nbits, size_t from);
size_t ferryi_bitmap_next_set(const uint64_t *map, size_t nbits, size_t from);

/*
 * The longest run of clear bits, at most `want`, that begins at or after
 * `from` (wrapping once); the first run of `want` wins at once.
 * Returns its length (0: map full) and its start in *start.
 */
size_t ferryi_bitmap_find_run(const uint64_t *map, size_t nbits, size_t from, size_t want, size_t *start);

#endif
