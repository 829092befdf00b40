/* How much memory this process may still take. Reads /proc, /sys and the cgroup files; start-up code. */
#ifndef FERRYI_POOL_MEMORY_H
#define FERRYI_POOL_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes of normal pages that would fit now, a multiple of 2 MiB: the least of
 * MemAvailable (or the node's free memory, numa_node >= 0) and what the limits
 * of this cgroup and its parents leave, less 1/64 for page tables and the
 * server itself. what (may be NULL) gets the name of the limit that bound.
 */
uint64_t ferryi_memory_fits(int numa_node, const char **what);

/* Free huge pages of page_bytes, on that node or (-1) anywhere. */
uint64_t ferryi_memory_free_huge_pages(int numa_node, uint64_t page_bytes);

#endif
