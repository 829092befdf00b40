/*
 * XXH3 of a page, by the widest vectors that this CPU has: a distribution's
 * libxxhash is built for the oldest CPU. In eviction a page is in no cache, and
 * wider loads have more of it under way. Async-signal-safe.
 */
#ifndef FERRYI_PAGER_HASH_H
#define FERRYI_PAGER_HASH_H

#include <stdint.h>

/* As XXH3_64bits of FERRYI_PAGE_SIZE bytes; all three. */
uint64_t ferryi_hash_page(const void *page);
uint64_t ferryi_hash_page_baseline(const void *page);
#ifdef __x86_64__
uint64_t ferryi_hash_page_avx2(const void *page); /* ASSUMPTION: the CPU has AVX2 */
#endif

#define FERRYI_HASH_AHEAD 256u /* bytes: from there on the CPU goes by itself, and further than that pays no more */

/* The page is hashed next. It need not be mapped. */
static inline void ferryi_hash_prefetch(const uint8_t *page)
{
	for (unsigned i = 0; i < FERRYI_HASH_AHEAD; i += 64)
		__builtin_prefetch(page + i);
}

#endif
