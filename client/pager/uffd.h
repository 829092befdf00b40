/*
 * userfaultfd(2): opening with the best rights there are, and its ioctls as
 * functions that return 0 (or bytes) or a negative errno. Async-signal-safe,
 * no allocation: fault path.
 */
#ifndef FERRYI_PAGER_UFFD_H
#define FERRYI_PAGER_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Non-blocking, close-on-exec descriptor with the wanted features enabled.
 * *kernel_faults: system calls may touch away pages too.
 * -EPERM (no right at all), -EOPNOTSUPP (kernel lacks userfaultfd or one of
 * `features`), -EMFILE.
 */
int ferryi_uffd_open(uint64_t features, bool *kernel_faults);
/* Feature bits that this kernel offers; 0 or negative errno. */
int ferryi_uffd_probe(uint64_t *features);

/* Arms [addr, addr + len) for missing pages and markers. -EINVAL not anonymous..., -EBUSY another userfaultfd's, -ENOMEM. */
int ferryi_uffd_register(int fd, void *addr, size_t len, bool markers);
/* The same for a shared mapping of a memfd, whose pages are mapped by _continue. */
int ferryi_uffd_register_shared(int fd, void *addr, size_t len);
int ferryi_uffd_unregister(int fd, void *addr, size_t len);
/*
 * Memory of any kind, for a userfaultfd opened with WP_ASYNC: PAGEMAP_SCAN tells which pages are written from now on.
 * -EBUSY: another userfaultfd's.
 */
int ferryi_uffd_track(int fd, void *addr, size_t len);

/*
 * Fills holes (marked ones too) and wakes. Returns bytes copied if any, else
 * -EEXIST (a page is there), -ENOENT (not a registered range any more),
 * -EAGAIN (the address space is changing: read the events, try again), -ENOMEM.
 */
long ferryi_uffd_copy(int fd, void *dst, const void *src, size_t len);
/*
 * Maps pages that are in the memfd behind a shared mapping, and wakes. Returns
 * bytes mapped if any, else -EEXIST (it is mapped), -EFAULT (no page there in
 * the file), -EINVAL (no such mapping any more, or the file is shorter by now), -EAGAIN.
 */
long ferryi_uffd_continue(int fd, void *addr, size_t len);
/* The shared zero page into an unmarked hole. 0, -EEXIST also for a marked hole, else as copy. */
int ferryi_uffd_zero(int fd, void *dst, size_t len);
/*
 * Moves pages out of src, which becomes holes; no wake. Returns bytes moved,
 * from the front, if any, else -ENOENT (a hole), -EBUSY (pinned, or shared
 * after a fork), -EINVAL (not writable, not anonymous), -EAGAIN, -EEXIST.
 */
long ferryi_uffd_move(int fd, void *dst, void *src, size_t len);
/* Marks (or unmarks) holes: the device-private entry. */
int ferryi_uffd_mark(int fd, void *addr, size_t len, bool marked);
/* Turns a hole, marked or not, into poison: a touch raises SIGBUS. Wakes. */
int ferryi_uffd_poison(int fd, void *addr);
int ferryi_uffd_wake(int fd, void *addr, size_t len);

#endif
