/* Bitmaps a word at a time. Pure functions over the caller's words; no locks. */
#include "bitmap.h"

static uint64_t bits_from(size_t bit)
{
	return ~0ULL << (bit % 64);
}

/* Bits below `bit` of its word. */
static uint64_t bits_below(size_t bit)
{
	return ~bits_from(bit);
}

static void fill_range(uint64_t *map, size_t start, size_t n, bool value)
{
	size_t end = start + n;

	while (start < end) {
		size_t word = start / 64;
		uint64_t mask = bits_from(start);

		if (end / 64 == word)
			mask &= bits_below(end);
		if (value)
			map[word] |= mask;
		else
			map[word] &= ~mask;
		start = (word + 1) * 64;
	}
}

void ferryi_bitmap_set_range(uint64_t *map, size_t start, size_t n)
{
	fill_range(map, start, n, true);
}

void ferryi_bitmap_clear_range(uint64_t *map, size_t start, size_t n)
{
	fill_range(map, start, n, false);
}

size_t ferryi_bitmap_count(const uint64_t *map, size_t nbits)
{
	size_t count = 0;

	for (size_t i = 0; i < nbits / 64; i++)
		count += (size_t)__builtin_popcountll(map[i]);
	if (nbits % 64)
		count += (size_t)__builtin_popcountll(map[nbits / 64] & bits_below(nbits));
	return count;
}

/* `flip` all ones looks for a clear bit, 0 for a set one. */
static size_t next_bit(const uint64_t *map, size_t nbits, size_t from, uint64_t flip)
{
	if (from >= nbits)
		return nbits;

	uint64_t mask = bits_from(from);

	for (size_t word = from / 64; word < FERRYI_BITMAP_WORDS(nbits); word++) {
		uint64_t hits = (map[word] ^ flip) & mask;

		if (hits) {
			size_t bit = word * 64 + (size_t)__builtin_ctzll(hits);

			return bit < nbits ? bit : nbits;
		}
		mask = ~0ULL;
	}
	return nbits;
}

size_t ferryi_bitmap_next_clear(const uint64_t *map, size_t nbits, size_t from)
{
	return next_bit(map, nbits, from, ~0ULL);
}

size_t ferryi_bitmap_next_set(const uint64_t *map, size_t nbits, size_t from)
{
	return next_bit(map, nbits, from, 0);
}

struct run {
	size_t start;
	size_t len;
};

/* Runs that begin in [from, to); they may end after `to`. True once one of `want` is found. */
static bool find_in(const uint64_t *map, size_t nbits, size_t from, size_t to, size_t want, struct run *best)
{
	while (from < to) {
		size_t start = ferryi_bitmap_next_clear(map, nbits, from);

		if (start >= to)
			return false;

		size_t end = ferryi_bitmap_next_set(map, nbits, start);
		size_t len = end - start < want ? end - start : want;

		if (len > best->len) {
			best->start = start;
			best->len = len;
			if (len == want)
				return true;
		}
		from = end;
	}
	return false;
}

size_t ferryi_bitmap_find_run(const uint64_t *map, size_t nbits, size_t from, size_t want, size_t *start)
{
	struct run best = {0, 0};

	if (want == 0)
		return 0;
	if (from >= nbits)
		from = 0;
	if (!find_in(map, nbits, from, nbits, want, &best))
		find_in(map, nbits, 0, from, want, &best);
	if (best.len)
		*start = best.start;
	return best.len;
}
