/* What a span of the process's address space is made of, as far as adopt has to know. Any thread; no allocation; 4 KiB of stack. */
#ifndef FERRYI_PAGER_MAPS_H
#define FERRYI_PAGER_MAPS_H

#include <stdbool.h>
#include <stdint.h>

struct ferryi_mapping {
	uintptr_t start, end;
	bool is_file;
	int verdict; /* 0: private, readable and writable, anonymous or else a file's; -EOPNOTSUPP; -EACCES */
};

/* The mapping that covers va. 0, -EFAULT (none), or what reading /proc/self/maps gave. */
int ferryi_maps_find(uintptr_t va, struct ferryi_mapping *out);

/*
 * Checks that [start, end) is private memory, readable and writable, and where
 * it is a file's not executable. *any_file: some of it is a file's.
 * 0, -EFAULT (a hole), -EOPNOTSUPP (shared, special, a program's text), -EACCES,
 * or what reading /proc/self/maps gave. *at: the first address concerned.
 */
int ferryi_maps_check(uintptr_t start, uintptr_t end, bool *any_file, uintptr_t *at);

#endif
