/* What the mappings of a span are. PROCMAP_QUERY (Linux 6.11), else the text of /proc/self/maps. Any thread; no allocation. */
#ifndef FERRYI_PAGER_VMA_H
#define FERRYI_PAGER_VMA_H

#include <stdbool.h>
#include <stdint.h>

struct ferryi_vma {
	uintptr_t start, end;
	bool readable, writable, executable, shared;
	bool special; /* device or kernel memory without pages of its own: VM_IO, VM_PFNMAP */
};

/* The mapping that covers va, or the next one above it. maps_fd: /proc/self/maps. 0, -ENOENT (none), negative errno. */
int ferryi_vma_query(int maps_fd, uintptr_t va, struct ferryi_vma *vma);

/*
 * May the CPU read, or write, every page of [start, end)? 0, -EFAULT (not all
 * mapped), -EPERM. *at: the first address concerned.
 */
int ferryi_vma_check(int maps_fd, uintptr_t start, uintptr_t end, bool write, uintptr_t *at);

#endif
