/* Exclusive access, for a mirror: arguments and rights here, the pages in pager/exclusive.h. */
#include "exclusive.h"

#include <errno.h>

#include "error.h"
#include "log.h"
#include "mirror.h"
#include "vma.h"

static int check_span(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, const char *call, const void *addr,
		      size_t len)
{
	int rc = ferryi_mirror_check(mirrors, mirror, call);

	if (rc)
		return rc;
	if (((uintptr_t)addr | len) % FERRY_PAGE_SIZE || !len || (uintptr_t)addr + len < (uintptr_t)addr)
		return ferryi_control_fail(-EINVAL, "%s: address and length must be multiples of 4096, and not 0", call);
	return 0;
}

int ferryi_mirror_exclusive_acquire(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len)
{
	uintptr_t start = (uintptr_t)addr, at;
	int rc = check_span(mirrors, mirror, "exclusive_acquire", addr, len);

	if (rc)
		return rc;
	if (len > FERRY_EXCLUSIVE_MAX)
		return ferryi_control_fail(-ENOMEM, "exclusive_acquire: at most 4 MiB are held at a time");
	rc = ferryi_vma_check(mirrors->maps_fd, start, start + len, true, &at);
	if (rc)
		return ferryi_control_fail(rc == -EFAULT ? -EINVAL : rc, "exclusive_acquire: %#lx is not %s", (unsigned long)at,
					   rc == -EFAULT ? "mapped" : "writable");
	rc = ferryi_exclusive_acquire(mirrors->pager, start, start + len, mirror, mirror->owner);
	switch (rc) {
	case 0:
		return 0;
	case -EINVAL:
		return ferryi_control_fail(rc, "exclusive_acquire: the range is not all managed");
	case -EBUSY:
		return ferryi_control_fail(rc, "exclusive_acquire: a page is pinned, or held already");
	case -ENOMEM:
		return ferryi_control_fail(rc, "exclusive_acquire: 4 MiB, or half the budget, would be held");
	default:
		return ferryi_control_fail(rc, "exclusive_acquire: a page could not be had (%s)", ferryi_strerror(rc));
	}
}

long ferryi_mirror_exclusive_query(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len)
{
	int rc = check_span(mirrors, mirror, "exclusive_query", addr, len);

	return rc ? rc : (long)ferryi_exclusive_count(mirrors->pager, (uintptr_t)addr, (uintptr_t)addr + len, mirror);
}

int ferryi_mirror_exclusive_release(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len)
{
	int rc = check_span(mirrors, mirror, "exclusive_release", addr, len);

	if (!rc)
		ferryi_exclusive_release(mirrors->pager, (uintptr_t)addr, (uintptr_t)addr + len, mirror, mirror->owner);
	return rc;
}

int ferryi_mirror_exclusive_update(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, void *addr, size_t len,
				   void (*update)(void *arg, void *bytes, size_t len), void *arg)
{
	uintptr_t va = (uintptr_t)addr;
	int rc = ferryi_mirror_check(mirrors, mirror, "exclusive_update");

	if (rc)
		return rc;
	if (!update || !len || va % FERRY_PAGE_SIZE + len > FERRY_PAGE_SIZE)
		return ferryi_control_fail(-EINVAL, "exclusive_update: no function, or the bytes are not in one page");
	/* Often -ENOENT in good order: no line for that. */
	return ferryi_exclusive_update(mirrors->pager, va, len, mirror, update, arg);
}
