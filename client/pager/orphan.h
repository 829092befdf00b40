/*
 * In the child of a fork: a thread, `ferry-orphan`, that does nothing as long
 * as the parent lives, or its heir (heir.h). When both are gone (or exec), it
 * answers faults on inherited ranges: what they did not give in time is lost,
 * SIGBUS. It holds the userfaultfd, so that no hole can turn into zeros.
 *
 * The child's own children do not inherit what it has of its parent.
 */
#ifndef FERRYI_PAGER_ORPHAN_H
#define FERRYI_PAGER_ORPHAN_H

#include <sys/types.h>

#include "child.h"

#define FERRYI_ORPHAN_STACK_BYTES ((size_t)1 << 20) /* a sanitizer has much thread-local data there */

/* Takes uffd and the sockets over; heir_sock -1: there is no heir. In the atfork handler of a child, with all areas of the record armed. 0, -EAGAIN, ... */
int ferryi_orphan_start(struct ferryi_pager *pager, const struct ferryi_child *child, int uffd, int sock, int heir_sock,
			pid_t parent);
/* In the atfork handler of a child's child: closes what is its parent's, and guards the ranges. */
void ferryi_orphan_forked(void);

#endif
