/* What a span of the process's address space is made of, as far as adopt has to know. */
#ifndef FERRYI_PAGER_MAPS_H
#define FERRYI_PAGER_MAPS_H

#include <stdint.h>

/*
 * Checks that [start, end) is private anonymous memory, readable and writable.
 * 0, -EFAULT (a hole), -EOPNOTSUPP (file, shared, special), -EACCES, or what
 * reading /proc/self/maps gave. *at: the first address concerned.
 * Any thread; no allocation; stack use 4 KiB.
 */
int ferryi_maps_check(uintptr_t start, uintptr_t end, uintptr_t *at);

#endif
