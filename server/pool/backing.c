/* The table of backings, and what they share. See backing.h. */
#include "backing.h"

#include <errno.h>
#include <numaif.h>
#include <string.h>
#include <sys/mman.h>

#include "arith.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

static const struct ferryi_backing *const backings[] = {&ferryi_backing_anon, &ferryi_backing_memfd, NULL};

const struct ferryi_backing *ferryi_backing_find(const char *name)
{
	for (unsigned i = 0; backings[i]; i++) {
		if (strcmp(backings[i]->name, name) == 0)
			return backings[i];
	}
	return NULL;
}

const struct ferryi_backing *ferryi_backing_at(unsigned index)
{
	return index < sizeof(backings) / sizeof(backings[0]) ? backings[index] : NULL;
}

int ferryi_backing_bind(void *base, size_t len_bytes, int numa_node)
{
	unsigned long mask[16] = {0};
	const unsigned long bits = 8 * sizeof(mask[0]);

	if (numa_node < 0)
		return 0;
	if ((unsigned long)numa_node >= bits * (sizeof(mask) / sizeof(mask[0])))
		return -EINVAL;
	mask[(unsigned long)numa_node / bits] = 1UL << ((unsigned long)numa_node % bits);
	return mbind(base, len_bytes, MPOL_BIND, mask, bits * (sizeof(mask) / sizeof(mask[0])), 0) ? -errno
												   : 0;
}

int ferryi_backing_populate(void *base, size_t len_bytes)
{
	while (madvise(base, len_bytes, MADV_POPULATE_WRITE)) {
		if (errno == EINTR || errno == EAGAIN)
			continue;
		if (errno != EINVAL)
			return -errno;
		/* Kernel older than 5.14: touch every page (a huge one is touched more than once, which does
		 * no harm). */
		for (size_t off = 0; off < len_bytes; off += FERRYI_PAGE_SIZE)
			((volatile char *)base)[off] = 0;
		return 0;
	}
	return 0;
}
