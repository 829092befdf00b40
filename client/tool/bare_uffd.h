/*
 * userfaultfd without ferry: what this node allows (for `ferry doctor`), and
 * what a fault costs when a handler thread, or the faulting thread itself,
 * answers it with local data (for `ferry bench`). Beside the pager the only user of userfaultfd: a yardstick
 * must not depend on what it measures.
 */
#ifndef FERRYI_BARE_UFFD_H
#define FERRYI_BARE_UFFD_H

#include <stdbool.h>
#include <stdint.h>

#include "tool.h"

struct ferryi_uffd_rights {
	uint64_t features; /* FERRYI_UFFD_FEATURE_* that the kernel offers */
	uint64_t ioctls;
	bool by_syscall;				  /* userfaultfd(2) with kernel-mode faults */
	bool by_device;					  /* /dev/userfaultfd */
	bool user_mode;					  /* userfaultfd(2) with UFFD_USER_MODE_ONLY */
	int syscall_errno, device_errno, user_mode_errno; /* 0 where it worked */
};

/* 0, or a negative errno when there is no way to a userfaultfd at all. */
int ferryi_uffd_probe(struct ferryi_uffd_rights *out);

/*
 * count faults at random places of an area of len_bytes, as the pager's are
 * measured (page tables and frames are as cold), answered with UFFDIO_COPY: by a
 * handler thread, which spins for the next fault as the pager's does, or in the
 * faulting thread by UFFD_FEATURE_SIGBUS. Adds the toucher's latencies to
 * samples. count: at most the area's pages. random: the generator's state. 0 or
 * a negative errno. Main thread; SIGBUS is the measurement's meanwhile.
 */
int ferryi_uffd_measure(unsigned count, size_t len_bytes, bool by_sigbus, uint64_t *random,
			struct ferryi_samples *samples);

#endif
