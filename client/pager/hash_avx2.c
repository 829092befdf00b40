/* hash.c by AVX2: compiled with -mavx2, and called only where the CPU has it. */
#ifdef __AVX2__
#include "hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "arith.h"

uint64_t ferryi_hash_page_avx2(const void *page)
{
	return XXH3_64bits(page, FERRYI_PAGE_SIZE);
}
#else
typedef int ferryi_no_avx2; /* another architecture: ISO C wants something here */
#endif
