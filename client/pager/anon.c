/* See anon.h. */
#include "anon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include "arith.h"
#include "log.h"
#include "maps.h"
#include "uapi.h"
#include "uffd.h"

#ifndef MADV_COLD
#define MADV_COLD 20 /* Linux 5.4 */
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* Linux 5.7 */
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000 /* Linux 4.17 */
#endif

#define WINDOW_BYTES ((size_t)1 << 30) /* of address space: the kernel merges what is moved from neighbouring places */
#define REGIONS	     64u
#define COPY_ROUNDS  8u /* over what is written meanwhile */

/* What lies beyond the file's end gives EFAULT here, and would raise SIGBUS in a plain copy. */
static int copy(uint8_t *to, uintptr_t from, size_t len)
{
	struct iovec local = { .iov_base = to, .iov_len = len }, remote = { .iov_base = (void *)from, .iov_len = len };

	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)len ? 0 : -EFAULT;
}

int ferryi_anon_check(uintptr_t start, uintptr_t end, uintptr_t *at)
{
	uint8_t byte;

	*at = start;
	/* The kernel's own word for "ordinary pages": not for hugetlb, device memory, locked pages. It moves nothing. */
	if (madvise((void *)start, FERRYI_PAGE_SIZE, MADV_COLD))
		return -EOPNOTSUPP;
	*at = end - FERRYI_PAGE_SIZE;
	return copy(&byte, *at, 1);
}

int ferryi_anon_begin(struct ferryi_anon *anon, struct ferryi_arena *arena, int pagemap_fd, uintptr_t start, uintptr_t end)
{
	bool kernel_faults;

	*anon = (struct ferryi_anon){ .arena = arena, .pagemap_fd = pagemap_fd, .start = start, .end = end };
	anon->window_bytes = ferryi_min_u64(end - start, WINDOW_BYTES);
	while (!(anon->window = ferryi_arena_alloc(arena, anon->window_bytes))) {
		if (anon->window_bytes <= FERRYI_ANON_PIECE)
			return -ENOMEM;
		anon->window_bytes = ferryi_align_up(anon->window_bytes / 2, FERRYI_PAGE_SIZE);
	}
	anon->track_fd = ferryi_uffd_open(FERRYI_UFFD_FEATURE_PAGEFAULT_FLAG_WP | FERRYI_UFFD_FEATURE_WP_ASYNC, &kernel_faults);
	return 0;
}

void ferryi_anon_end(struct ferryi_anon *anon)
{
	if (anon->track_fd >= 0)
		close(anon->track_fd);
	ferryi_arena_free(anon->arena, anon->window, anon->window_bytes);
	anon->window = NULL;
}

/* Copies again what was written since it was copied last. *again: something was, so that more may have been since. */
static int copy_written(struct ferryi_anon *anon, uint8_t *to, uintptr_t va, size_t len, bool *again)
{
	struct ferryi_page_region region[REGIONS];
	uintptr_t at = va;

	*again = false;
	while (at < va + len) {
		struct ferryi_pm_scan_arg arg = {
			.size = sizeof(arg), .flags = FERRYI_PM_SCAN_WP_MATCHING | FERRYI_PM_SCAN_CHECK_WPASYNC,
			.start = at, .end = va + len, .vec = (uintptr_t)region, .vec_len = REGIONS,
			.category_mask = FERRYI_PAGE_IS_WRITTEN, .return_mask = FERRYI_PAGE_IS_WRITTEN,
		};
		int n = ioctl(anon->pagemap_fd, FERRYI_PAGEMAP_SCAN, &arg);

		if (n < 0 || arg.walk_end <= at)
			return 0; /* not tracked here: the window for lost writes is wider */
		for (int i = 0; i < n; i++) {
			int rc = copy(to + (region[i].start - va), region[i].start, region[i].end - region[i].start);

			if (rc)
				return rc;
		}
		*again |= n > 0;
		at = arg.walk_end;
	}
	return 0;
}

static int copy_piece(struct ferryi_anon *anon, uint8_t *to, uintptr_t va, size_t len)
{
	bool again = anon->track_fd >= 0 && !ferryi_uffd_track(anon->track_fd, (void *)va, len);
	int rc = copy(to, va, len);

	for (unsigned i = 0; !rc && again && i < COPY_ROUNDS; i++)
		rc = copy_written(anon, to, va, len, &again);
	return rc;
}

/*
 * mremap unmaps its target first, and then refuses where the process's memory
 * exceeds a limit that was set lower than what it has: asked before, as the
 * change as a whole adds nothing.
 */
static bool exceeds_limits(void)
{
	unsigned long pages = 0, data = 0;
	struct rlimit as, seg;
	char text[128];
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

	if (fd >= 0)
		close(fd);
	if (n <= 0 || getrlimit(RLIMIT_AS, &as) || getrlimit(RLIMIT_DATA, &seg))
		return false;
	text[n] = '\0';
	return sscanf(text, "%lu %*u %*u %*u %*u %lu", &pages, &data) == 2 &&
	       (pages > as.rlim_cur >> FERRYI_PAGE_SHIFT || data > seg.rlim_cur >> FERRYI_PAGE_SHIFT);
}

/* 0, or a negative errno and the application's memory is what it was, or a copy of it. */
static int put(uint8_t *from, uintptr_t va, size_t len)
{
	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, (void *)va) == (void *)va)
		return 0;
	int rc = -errno;

	/* It may have unmapped what was there before it failed: then the only copy is ours. */
	void *p = mmap((void *)va, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == (void *)va) {
		memcpy(p, from, len);
		return 0;
	}
	if (errno != EEXIST)
		ferryi_error("adopt: the kernel has unmapped %#lx-%#lx and cannot map it again (%s)", (unsigned long)va,
			     (unsigned long)(va + len), ferryi_strerror(errno));
	return rc;
}

long ferryi_anon_next(struct ferryi_anon *anon, uintptr_t va)
{
	size_t off = (va - anon->start) % anon->window_bytes;
	uint8_t *from = anon->window + off;
	struct ferryi_mapping own;
	int rc = ferryi_maps_find((uintptr_t)from, &own);

	if (rc)
		return rc;
	/* Within one mapping at both ends: mremap moves no more. */
	size_t len = ferryi_min_u64(FERRYI_ANON_PIECE, anon->end - va);

	len = ferryi_min_u64(len, anon->window_bytes - off);
	len = ferryi_min_u64(len, own.end - (uintptr_t)from);
	if (exceeds_limits())
		return -ENOMEM;
	rc = copy_piece(anon, from, va, len);
	if (!rc)
		rc = put(from, va, len);
	if (rc) {
		madvise(from, len, MADV_DONTNEED);
		if (anon->track_fd >= 0)
			ferryi_uffd_unregister(anon->track_fd, (void *)va, len);
		return rc == -EPERM ? -EOPNOTSUPP : rc;
	}
	madvise((void *)va, len, MADV_DODUMP); /* the arena's pages are in no core */
	return (long)len;
}
