/*
 * Kernel ABI of userfaultfd that Debian 12's headers (6.1) lack, under our own
 * names so that newer headers do not collide. Numbers are those of
 * include/uapi/linux/userfaultfd.h; the release that brought each is beside it.
 */
#ifndef FERRYI_PAGER_UAPI_H
#define FERRYI_PAGER_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

#define FERRYI_UFFD_FEATURE_PAGEFAULT_FLAG_WP (1ULL << 0)
#define FERRYI_UFFD_FEATURE_EVENT_FORK        (1ULL << 1)
#define FERRYI_UFFD_FEATURE_EVENT_REMAP       (1ULL << 2)
#define FERRYI_UFFD_FEATURE_EVENT_REMOVE      (1ULL << 3)
#define FERRYI_UFFD_FEATURE_MISSING_SHMEM     (1ULL << 5)
#define FERRYI_UFFD_FEATURE_EVENT_UNMAP       (1ULL << 6)
#define FERRYI_UFFD_FEATURE_SIGBUS            (1ULL << 7)
#define FERRYI_UFFD_FEATURE_THREAD_ID         (1ULL << 8)
#define FERRYI_UFFD_FEATURE_MINOR_SHMEM       (1ULL << 10) /* 5.14 */
#define FERRYI_UFFD_FEATURE_EXACT_ADDRESS     (1ULL << 11) /* 5.18 */
#define FERRYI_UFFD_FEATURE_WP_UNPOPULATED    (1ULL << 13) /* 6.4 */
#define FERRYI_UFFD_FEATURE_POISON            (1ULL << 14) /* 6.6 */
#define FERRYI_UFFD_FEATURE_WP_ASYNC          (1ULL << 15) /* 6.7 */
#define FERRYI_UFFD_FEATURE_MOVE              (1ULL << 16) /* 6.8 */

#define FERRYI_UFFD_USER_MODE_ONLY 1 /* 5.11 */

/* ioctl of /dev/userfaultfd (6.1): a new userfaultfd with the file's permissions. */
#define FERRYI_USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)

struct ferryi_uffdio_move { /* 6.8 */
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move; /* out: bytes moved, or negative errno */
};
#define FERRYI_UFFDIO_MOVE_MODE_DONTWAKE        (1ULL << 0)
#define FERRYI_UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES (1ULL << 1)
#define FERRYI_UFFDIO_MOVE                      _IOWR(UFFDIO, 0x05, struct ferryi_uffdio_move)

struct ferryi_uffdio_poison { /* 6.6 */
	struct uffdio_range range;
	__u64 mode;
	__s64 updated;
};
#define FERRYI_UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct ferryi_uffdio_poison)

/* PAGEMAP_SCAN, 6.7 (include/uapi/linux/fs.h) */
struct ferryi_page_region {
	__u64 start, end, categories;
};
struct ferryi_pm_scan_arg {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define FERRYI_PAGEMAP_SCAN    _IOWR('f', 16, struct ferryi_pm_scan_arg)
#define FERRYI_PM_SCAN_WP_MATCHING   (1ULL << 0)
#define FERRYI_PM_SCAN_CHECK_WPASYNC (1ULL << 1)
#define FERRYI_PAGE_IS_WRITTEN (1ULL << 1)
#define FERRYI_PAGE_IS_PRESENT (1ULL << 3)
#define FERRYI_PAGE_IS_SWAPPED (1ULL << 4)
#define FERRYI_PAGE_IS_PFNZERO (1ULL << 5)
#define FERRYI_PAGE_IS_HUGE    (1ULL << 6)

#endif
