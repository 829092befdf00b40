/*
 * Memory that fails: the kernel takes the page away and says so by SIGBUS
 * (BUS_MCEERR_AO: a page somewhere; BUS_MCEERR_AR: the one that is being
 * touched). The handler notes the place for the control thread; a touch outside
 * of a guard cannot be lived through, and ends the process.
 */
#ifndef FERRYI_POOL_MCE_H
#define FERRYI_POOL_MCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Failed memory of this process, one page or one huge page: both multiples of 4 KiB. */
struct ferryi_mce {
	uintptr_t addr;
	size_t len_bytes;
};

/* Takes SIGBUS, and asks the kernel to tell early. Main thread, once. 0 with a descriptor that is readable
 * when there is something to take (never closed), or negative errno. */
int ferryi_mce_open(int *fd);
/* The next one: 1, or 0: none now. A flood is cut off at some thousands. */
int ferryi_mce_take(struct ferryi_mce *out);

/*
 * work(ctx), in a thread that may touch failed memory: what it returns, or
 * -EHWPOISON when it did (it was left where it was: ASSUMPTION: it holds no
 * lock). Unblocks SIGBUS for the thread, for good. Not nested.
 */
int ferryi_mce_guard(int (*work)(void *ctx), void *ctx);

/* For tests: the kernel tells this thread that the page at addr has failed (touched: as if by a touch of it).
 * 0 or negative errno. */
int ferryi_mce_inject(void *addr, bool touched);

#endif
