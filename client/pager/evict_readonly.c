/*
 * Pages of a read-only mapping, moved out: the kernel's UFFDIO_MOVE takes
 * writable ones only. So the mapping is writable for a moment, with its pages
 * write-protected by the userfaultfd before:
 *
 *   a thread that may not write            who moves (events lock held)
 *   ------------------------------------   --------------------------------------
 *                                          write-protect the pages
 *                                          mprotect: writable
 *   write: faults, waits to be answered
 *                                          UFFDIO_MOVE, or -EBUSY: pinned, shared
 *                                          mprotect: as it was
 *                                          take the protection off what stayed
 *   is woken, and tries again: SIGSEGV
 *
 * There is no such way that the library could go by itself: by address, without
 * a word from whoever changes the mapping meanwhile, the second mprotect may hit
 * rights that the application has just given (or memory that it has mapped
 * there). So only a migration does this, whose caller keeps others from that.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "evict_priv.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"
#include "vma.h"

static int query(uintptr_t va, struct ferryi_vma *vma)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	int rc = ferryi_vma_query(fd, va, vma);

	close(fd);
	return rc;
}

static long move_writable(int uffd, void *slot, void *va, size_t len, int prot)
{
	if (mprotect(va, len, PROT_READ | PROT_WRITE))
		return -errno; /* vm.max_map_count, ... */
	long moved = ferryi_uffd_move(uffd, slot, va, len);

	if (mprotect(va, len, prot))
		ferryi_error("%p + %zu: read-only before, and writable now: mprotect: %s", va, len, strerror(errno));
	return moved;
}

long ferryi_evict_move_readonly(struct ferryi_pager *pager, int uffd, void *slot, uintptr_t va, size_t len)
{
	struct ferryi_vma vma;

	ferryi_assert_held(&pager->events_lock);
	if (query(va, &vma) || vma.start > va || vma.writable || !vma.readable || vma.shared)
		return -EINVAL;
	len = ferryi_min_u64(len, vma.end - va);
	int rc = ferryi_uffd_mark(uffd, (void *)va, len, true);

	if (rc)
		return rc;
	long moved = move_writable(uffd, slot, (void *)va, len, PROT_READ | (vma.executable ? PROT_EXEC : 0));
	size_t gone = moved > 0 ? (size_t)moved : 0;

	if (gone < len)
		ferryi_uffd_mark(uffd, (void *)(va + gone), len - gone, false);
	return moved;
}
