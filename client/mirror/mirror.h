/*
 * The mirrors of a process, and the changes under way. The pager announces each
 * change with a notice (pager/notify.h); from begin to end it is in a list
 * here, so that a look at a span can tell whether anything there is changing,
 * and a count of changes tells whether anything has changed since.
 *
 *   pager                                  device driver
 *   ------------------------------------   --------------------------------------
 *                                          seq = read_begin: waits until no change
 *                                            of the span is under way
 *                                          takes its snapshot
 *   begin: changes++, notice in the list
 *     invalidate: the driver takes its
 *     lock, forgets its entries
 *   the change
 *   end: notice off the list
 *                                          its own lock; read_retry(seq): true, for
 *                                            changes != seq: do it again
 *
 * The count of changes is a range's own: those that overlap it. A change that a
 * mirror has refused (it may not sleep, and would have to) counts too.
 */
#ifndef FERRYI_MIRROR_H
#define FERRYI_MIRROR_H

#include <stdatomic.h>

#include "ferry.h"
#include "lock.h"
#include "notify.h"
#include "pager.h"

struct ferryi_mirrors {
	struct ferryi_notifier notifier; /* must be first */
	/* immutable after open */
	struct ferry *ferry;
	struct ferryi_pager *pager;
	int maps_fd; /* /proc/self/maps, for vma.h */
	/* atomic */
	_Atomic bool has_complained; /* of a mirror's answer */
	/* protected by lock */
	struct ferryi_mutex lock;
	pthread_cond_t changed; /* a change has ended, or a callback has returned */
	struct ferry_mirror *mirror[FERRY_MAX_MIRRORS];
	unsigned running[FERRY_MAX_MIRRORS]; /* callbacks of that mirror */
	bool leaving[FERRY_MAX_MIRRORS]; /* being unregistered: told no more, and its place is its own until the last returns */
	struct ferryi_notice *under_way;
	struct ferry_range *ranges; /* linked by ferryi_range_next */
	bool closing;
	unsigned nr_views; /* open ones of this process (view.c) */
};

/* Before the pager opens; its attr.notifier is &mirrors->notifier. 0, negative errno. */
int ferryi_mirrors_open(struct ferryi_mirrors *mirrors, struct ferry *ferry);
/* The process exits with the library open: release of each mirror is called, and no callback of it afterwards. */
void ferryi_mirrors_exit(struct ferryi_mirrors *mirrors);
/* Calls release of each mirror that is still registered. ASSUMPTION: the pager is closed. */
void ferryi_mirrors_close(struct ferryi_mirrors *mirrors);

/* As the public calls. */
int ferryi_mirror_register(struct ferryi_mirrors *mirrors, struct ferry_mirror *mirror);
int ferryi_mirror_unregister(struct ferryi_mirrors *mirrors, struct ferry_mirror *mirror);
/* Does this thread run a mirror's callback? What waits for callbacks or accesses to end must not be called there. */
bool ferryi_mirror_in_callback(void);
/* -EINVAL with a line unless it is registered here. */
int ferryi_mirror_check(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, const char *call);

/* Before the pager closes: no range may be registered from here on. -EBUSY: some are, or a view is open. Undone when the close fails. */
int ferryi_mirrors_begin_close(struct ferryi_mirrors *mirrors);
void ferryi_mirrors_undo_close(struct ferryi_mirrors *mirrors);

/* access.c: as the public calls */
int ferryi_mirror_read(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, void *buf,
		       size_t len, struct ferry_mirror_stats *stats);
int ferryi_mirror_write(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, const void *buf,
			size_t len, struct ferry_mirror_stats *stats);
int ferryi_mirror_peek(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, void *buf,
		       size_t len);

/* exclusive.c: as the public calls */
int ferryi_mirror_exclusive_acquire(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len);
long ferryi_mirror_exclusive_query(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len);
int ferryi_mirror_exclusive_release(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len);
int ferryi_mirror_exclusive_update(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len,
				   void (*update)(void *arg, void *bytes, size_t len), void *arg);

/* access.c, for exports.c: one page's part of an access; unmanaged memory by the kernel. As ferryi_pager_access. */
struct ferryi_access;
int ferryi_mirror_access_page(struct ferryi_mirrors *mirrors, struct ferryi_access *access);
/* May the CPU read, or write, every page of it? 0, -EFAULT, -EPERM with the call's line. */
int ferryi_mirror_check_rights(struct ferryi_mirrors *mirrors, const char *call, uintptr_t va, size_t len, bool write);
/* The line of an access that failed at va. Returns rc. */
int ferryi_mirror_access_fail(const char *call, int rc, uintptr_t va, bool write);

#endif
