/* The public memory calls: arguments are checked here, the pager does the work. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "life.h"

#define MAX_STRIPE_SHIFT 40u

/* A usable ferry and a page-aligned, non-empty range that does not wrap. */
static int check_range(struct ferry *ferry, const char *call, const void *addr, size_t len)
{
	int rc = ferryi_ferry_check(ferry, call);

	if (rc)
		return rc;
	if (!ferryi_is_aligned((uintptr_t)addr, FERRYI_PAGE_SIZE) || !ferryi_is_aligned(len, FERRYI_PAGE_SIZE))
		return ferryi_control_fail(-EINVAL, "%s: address %p and length %zu must be multiples of 4096", call, addr, len);
	if (!len || (uintptr_t)addr + len < (uintptr_t)addr)
		return ferryi_control_fail(-EINVAL, "%s: length %zu at %p is no range", call, len, addr);
	return 0;
}

static uintptr_t end_of(const void *addr, size_t len)
{
	return (uintptr_t)addr + len;
}

/* Flags of mmap and adopt, with the process's mode in place of none; inline memory is set up when it is wanted first. */
static int check_flags(struct ferry *ferry, const char *call, unsigned *flags)
{
	const unsigned modes = FERRY_MAP_INLINE | FERRY_MAP_HANDLER;
	const unsigned policies = FERRY_MAP_ROUND_ROBIN | FERRY_MAP_WEIGHTED | FERRY_MAP_NEAREST | FERRY_MAP_FILL;
	unsigned policy = *flags & policies, stripe = *flags >> FERRY_MAP_STRIPE_SHIFT;
	int rc = 0;

	if ((*flags & ~(FERRY_MAP_NORESERVE | modes | policies | FERRY_MAP_STRIPE(63))) || (*flags & modes) == modes)
		return ferryi_control_fail(-EINVAL, "%s: unknown flags %#x", call, *flags);
	if (policy & (policy - 1))
		return ferryi_control_fail(-EINVAL, "%s: flags %#x name more than one policy", call, *flags);
	if (stripe && (stripe < FERRYI_SUBSECTION_SHIFT || stripe > MAX_STRIPE_SHIFT))
		return ferryi_control_fail(-EINVAL, "%s: a stripe of 1 << %u bytes; 1 << %u to 1 << %u can be", call, stripe,
					   FERRYI_SUBSECTION_SHIFT, MAX_STRIPE_SHIFT);
	ferryi_placement_look(ferry, *flags);
	if (!(*flags & modes))
		*flags |= ferry->config.mode == FERRYI_MODE_INLINE ? FERRY_MAP_INLINE : 0;
	if (*flags & FERRY_MAP_INLINE) {
		ferryi_mutex_lock(&ferry->lock);
		rc = ferryi_pager_inline_start(ferry->pager);
		ferryi_mutex_unlock(&ferry->lock);
	}
	return rc;
}

void *ferry_mmap(struct ferry *ferry, void *hint, size_t len, int prot, unsigned flags)
{
	void *addr = MAP_FAILED;
	int rc = ferryi_ferry_check(ferry, "mmap");

	if (!rc && (!len || len > SIZE_MAX / 2))
		rc = ferryi_control_fail(-EINVAL, "mmap: length %zu", len);
	if (!rc && (prot & (PROT_READ | PROT_WRITE)) != (PROT_READ | PROT_WRITE))
		rc = ferryi_control_fail(-EINVAL, "mmap: prot must include PROT_READ | PROT_WRITE");
	int inline_rc = rc ? 0 : check_flags(ferry, "mmap", &flags);

	rc = rc ? rc : inline_rc;
	if (!rc)
		rc = ferryi_pager_map(ferry->pager, hint, ferryi_align_up(len, FERRYI_PAGE_SIZE), prot, flags, &addr);
	if (rc)
		errno = rc == -EINVAL ? EINVAL : inline_rc ? -inline_rc : ENOMEM;
	return rc ? MAP_FAILED : addr;
}

int ferry_munmap(struct ferry *ferry, void *addr, size_t len)
{
	size_t pages = ferryi_align_up(len, FERRYI_PAGE_SIZE); /* as munmap(2) takes any length */
	int rc = check_range(ferry, "munmap", addr, pages);

	return rc ? rc : ferryi_pager_unmap(ferry->pager, (uintptr_t)addr, end_of(addr, pages));
}

int ferry_mprotect(struct ferry *ferry, void *addr, size_t len, int prot)
{
	size_t pages = ferryi_align_up(len, FERRYI_PAGE_SIZE); /* as mprotect(2) takes any length */
	int rc = ferryi_ferry_check(ferry, "mprotect");

	if (!rc && !ferryi_is_aligned((uintptr_t)addr, FERRYI_PAGE_SIZE))
		rc = ferryi_control_fail(-EINVAL, "mprotect: address %p must be a multiple of 4096", addr);
	if (!rc && (pages < len || end_of(addr, pages) < (uintptr_t)addr))
		rc = ferryi_control_fail(-ENOMEM, "mprotect: length %zu at %p wraps round", len, addr);
	return rc || !len ? rc : ferryi_pager_protect(ferry->pager, (uintptr_t)addr, end_of(addr, pages), prot);
}

int ferry_adopt(struct ferry *ferry, void *addr, size_t len, unsigned flags)
{
	int rc = check_range(ferry, "adopt", addr, len);

	if (!rc)
		rc = check_flags(ferry, "adopt", &flags);
	return rc ? rc : ferryi_pager_adopt(ferry->pager, (uintptr_t)addr, end_of(addr, len), flags);
}

int ferry_unadopt(struct ferry *ferry, void *addr, size_t len)
{
	int rc = check_range(ferry, "unadopt", addr, len);

	return rc ? rc : ferryi_pager_unadopt(ferry->pager, (uintptr_t)addr, end_of(addr, len));
}

int ferry_advise(struct ferry *ferry, void *addr, size_t len, enum ferry_advice advice)
{
	int rc = check_range(ferry, "advise", addr, len);

	return rc ? rc : ferryi_pager_advise(ferry->pager, (uintptr_t)addr, end_of(addr, len), advice);
}

int ferry_pin(struct ferry *ferry, void *addr, size_t len)
{
	int rc = check_range(ferry, "pin", addr, len);

	return rc ? rc : ferryi_pager_pin(ferry->pager, (uintptr_t)addr, end_of(addr, len));
}

int ferry_unpin(struct ferry *ferry, void *addr, size_t len)
{
	int rc = check_range(ferry, "unpin", addr, len);

	return rc ? rc : ferryi_pager_unpin(ferry->pager, (uintptr_t)addr, end_of(addr, len));
}

int ferry_flush(struct ferry *ferry, void *addr, size_t len)
{
	int rc = check_range(ferry, "flush", addr, len);

	return rc ? rc : ferryi_pager_flush(ferry->pager, (uintptr_t)addr, end_of(addr, len));
}

int ferry_set_budget(struct ferry *ferry, size_t bytes)
{
	int rc = ferryi_ferry_check(ferry, "set_budget");

	return rc ? rc : ferryi_pager_set_budget(ferry->pager, bytes);
}

int ferry_stats(struct ferry *ferry, struct ferry_stats *stats)
{
	int rc = ferryi_ferry_check(ferry, "stats");
	struct ferry_stats all = { 0 };

	if (rc)
		return rc;
	if (!stats || stats->size < sizeof(stats->size))
		return ferryi_control_fail(-EINVAL, "stats: set size to sizeof(struct ferry_stats)");
	ferryi_pager_stats(ferry->pager, &all);
	all.size = stats->size;
	memcpy(stats, &all, stats->size < sizeof(all) ? stats->size : sizeof(all));
	return 0;
}

int ferry_fault_query(struct ferry *ferry, uintptr_t va, struct ferry_fault_info *info)
{
	struct ferry_fault_info all = { 0 };

	if (!ferry)
		ferry = ferryi_the_ferry();
	if (!ferry || !info || info->size < sizeof(info->size))
		return -EINVAL;
	all.size = info->size;
	ferryi_pager_fault_query(ferry->pager, va, &all);
	memcpy(info, &all, info->size < sizeof(all) ? info->size : sizeof(all));
	return 0;
}

const char *ferry_fault_reason_text(enum ferry_fault_reason reason)
{
	switch (reason) {
	case FERRY_FAULT_NONE:
		return "nothing is wrong with the page";
	case FERRY_FAULT_NOT_MANAGED:
		return "not an address that ferry manages";
	case FERRY_FAULT_SERVER_LOST:
		return "its memory server is gone";
	case FERRY_FAULT_TIMEOUT:
		return "its memory server did not answer in time";
	case FERRY_FAULT_REVOKED:
		return "its memory server took the lease back";
	case FERRY_FAULT_IO:
		return "the transport failed or refused the key";
	case FERRY_FAULT_NO_MEMORY:
		return "no local memory: eviction could not go on";
	case FERRY_FAULT_FORKED:
		return "the page stayed with the parent of this fork";
	}
	return "unknown";
}
