/* See hash.h. */
#include "hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "arith.h"

uint64_t ferryi_hash_page_baseline(const void *page)
{
	return XXH3_64bits(page, FERRYI_PAGE_SIZE);
}

uint64_t ferryi_hash_page(const void *page)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return ferryi_hash_page_avx2(page);
#endif
	return ferryi_hash_page_baseline(page);
}
