/*
 * Frames kept back, so that a page can be brought in while the memory cgroup is
 * at its limit: UFFDIO_COPY allocates a frame there, and may wake the OOM
 * killer; UFFDIO_MOVE of a frame that this process has been charged for already
 * allocates none. What a refill takes, the next eviction gives: its frame moves
 * from staging to the reserve and not back to the kernel.
 *
 *   who brings a page in                   who has written pages away
 *   ------------------------------------   --------------------------------------
 *   cas FULL -> BUSY: the frame is ours    cas EMPTY -> BUSY: the slot is ours
 *   copies the page to the frame           moves the frame from staging there
 *   moves the frame to its place           FULL
 *   EMPTY; or FULL again if it cannot
 *
 * Only where a memory cgroup has a limit. The frames are outside of the budget:
 * FERRYI_RESERVE_FRAMES in RAM at most. Lock-free; fault path.
 */
#ifndef FERRYI_PAGER_RESERVE_H
#define FERRYI_PAGER_RESERVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ferryi_pager;

#define FERRYI_RESERVE_FRAMES 256u /* 1 MiB */

struct ferryi_reserve {
	uint32_t first_slot; /* immutable: in the pager's staging area */
	_Atomic uint32_t nr_full;
	_Atomic uint32_t state[FERRYI_RESERVE_FRAMES];
};

/* Fills it, as far as there is room. Start-up code. */
void ferryi_reserve_open(struct ferryi_pager *pager);
/*
 * One page from src to dst, of that userfaultfd, by a frame of the reserve; as ferryi_uffd_copy: FERRYI_PAGE_SIZE, and wakes; -ENOMEM: the
 * reserve is empty; -EEXIST, -ENOENT, -EAGAIN.
 */
long ferryi_reserve_copy(struct ferryi_pager *pager, int uffd, void *dst, const void *src);
/* Takes the frames of nr staging slots that nobody needs any more, as far as it lacks some. true: it has taken any. */
bool ferryi_reserve_refill(struct ferryi_pager *pager, uint8_t *staging, unsigned nr);
/* Less than half of it is there. */
int ferryi_reserve_is_low(struct ferryi_pager *pager);

#endif
