/*
 * Private mappings of files (a program's .data, MAP_PRIVATE of a file) made
 * anonymous, so that they can be managed: userfaultfd tells of missing pages in
 * anonymous memory only. Piece by piece the content is copied into a window in
 * the library's own address space, and the window's pages are moved over the
 * application's with mremap(2), which other threads see as one step:
 *
 *   here                                   another thread of the application
 *   ------------------------------------   --------------------------------------
 *   copies the piece to the window         reads the file's page
 *                                          a write to a page copied already:
 *   what was written is copied again         lost, unless it is found here
 *   mremap: window -> its place            a write from here on: kept
 *
 * Writes are found where the kernel tracks them (WP_ASYNC, Linux 6.7), which
 * leaves the moment between the last look and the mremap. Nothing can close it:
 * no fault on a file's page can be held up.
 *
 * Context: the caller's thread, no lock held; reads the file, so it may block.
 */
#ifndef FERRYI_PAGER_ANON_H
#define FERRYI_PAGER_ANON_H

#include <stddef.h>
#include <stdint.h>

#include "arena.h"

#define FERRYI_ANON_PIECE ((size_t)1 << 20) /* bytes; RAM outside the budget meanwhile */

struct ferryi_anon {
	struct ferryi_arena *arena;
	int pagemap_fd, track_fd; /* track_fd -1: writes are not tracked */
	uintptr_t start, end;     /* of the application's memory */
	uint8_t *window;
	size_t window_bytes;
};

/*
 * Can [start, end), part of one private mapping of a file, be made anonymous?
 * 0, -EFAULT (it goes beyond the file's end, or cannot be read), -EOPNOTSUPP
 * (hugetlb, device, locked in RAM). *at: the address concerned.
 */
int ferryi_anon_check(uintptr_t start, uintptr_t end, uintptr_t *at);

/* For all of [start, end), one mapping's, from start upwards. 0, -ENOMEM. */
int ferryi_anon_begin(struct ferryi_anon *anon, struct ferryi_arena *arena, int pagemap_fd, uintptr_t start, uintptr_t end);
/*
 * Makes memory from va on anonymous, with its content and rights: how many
 * bytes. Or nothing has changed: -EFAULT (the file has become shorter, or
 * cannot be read), -ENOMEM (also: a resource limit is exceeded already), -EOPNOTSUPP (sealed).
 */
long ferryi_anon_next(struct ferryi_anon *anon, uintptr_t va);
void ferryi_anon_end(struct ferryi_anon *anon);

#endif
