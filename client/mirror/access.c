/* A device's access by address: rights first, then page by page (pager/access.h), unmanaged memory by the kernel. */

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#include "access.h"
#include "error.h"
#include "log.h"
#include "mirror.h"
#include "vma.h"

struct span {
	struct ferryi_mirrors *mirrors;
	const struct ferry_mirror *mirror;
	const char *call;
	uintptr_t va;
	size_t len;
	uint8_t *read_to;
	const uint8_t *write_from;
	bool pool_only;
	struct ferry_mirror_stats *stats;
};

int ferryi_mirror_access_fail(const char *call, int rc, uintptr_t va, bool write)
{
	const char *why = rc == -EFAULT ? "is not mapped" :
			  rc == -EPERM	? (write ? "is not writable" : "is not readable") :
			  rc == -EIO	? "is lost" :
			  rc == -ENOENT ? "is not in a pool of this owner" :
					  "could not be had in time";

	return ferryi_control_fail(rc, "%s: %#lx %s (%s)", call, (unsigned long)va, why, ferryi_strerror(rc));
}

static int fail(const struct span *s, int rc, uintptr_t va)
{
	return ferryi_mirror_access_fail(s->call, rc, va, s->write_from != NULL);
}

int ferryi_mirror_check_rights(struct ferryi_mirrors *mirrors, const char *call, uintptr_t va, size_t len, bool write)
{
	uintptr_t at;
	int rc = ferryi_vma_check(mirrors->maps_fd, va, va + len, write, &at);

	return rc ? ferryi_mirror_access_fail(call, rc, at, write) : 0;
}

static int access_unmanaged(const struct ferryi_access *a)
{
	struct iovec mine = { .iov_base = a->read_to ? a->read_to : (void *)(uintptr_t)a->write_from, .iov_len = a->len };
	struct iovec theirs = { .iov_base = (void *)a->va, .iov_len = a->len };
	ssize_t n = a->read_to ? process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) :
				 process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0);

	return n == (ssize_t)a->len ? 0 : -EFAULT;
}

static void count(struct ferry_mirror_stats *stats, const struct ferryi_access *a)
{
	if (!stats)
		return;
	stats->rounds += a->rounds;
	stats->pages_ram += a->place == FERRYI_ACCESS_RAM;
	stats->pages_pool += a->place == FERRYI_ACCESS_POOL;
	stats->pages_populated += a->populated;
	stats->pages_home += a->came_home;
	stats->bytes += a->len;
}

int ferryi_mirror_access_page(struct ferryi_mirrors *mirrors, struct ferryi_access *a)
{
	int rc = ferryi_pager_access(mirrors->pager, a);

	if (rc == -ENOENT && !a->pool_only) {
		a->place = FERRYI_ACCESS_RAM;
		rc = access_unmanaged(a);
	}
	return rc;
}

static int access_page(struct span *s, uintptr_t va, size_t done, size_t len)
{
	struct ferryi_access a = { .va = va,
				   .len = len,
				   .read_to = s->read_to ? s->read_to + done : NULL,
				   .write_from = s->write_from ? s->write_from + done : NULL,
				   .owner = s->mirror->owner,
				   .holder = s->mirror,
				   .pool_only = s->pool_only };
	int rc = ferryi_mirror_access_page(s->mirrors, &a);

	if (!rc)
		count(s->stats, &a);
	return rc;
}

static int access_span(struct span *s)
{
	uintptr_t end = s->va + s->len;
	int rc = ferryi_mirror_check(s->mirrors, s->mirror, s->call);

	if (rc)
		return rc;
	if (!s->len)
		return 0;
	if ((!s->read_to && !s->write_from) || end < s->va)
		return ferryi_control_fail(-EINVAL, "%s: no buffer, or the range wraps round", s->call);
	if (s->stats && s->stats->size < sizeof(*s->stats))
		return ferryi_control_fail(-EINVAL, "%s: set stats.size to sizeof(struct ferry_mirror_stats)", s->call);
	/* Rights of all of it before a byte is moved: mprotect has no event, so they are looked up each time. */
	rc = ferryi_mirror_check_rights(s->mirrors, s->call, s->va, s->len, s->write_from != NULL);
	if (rc)
		return rc;
	for (size_t done = 0; done < s->len;) {
		size_t in_page = FERRY_PAGE_SIZE - (s->va + done) % FERRY_PAGE_SIZE;
		size_t n = in_page < s->len - done ? in_page : s->len - done;

		rc = access_page(s, s->va + done, done, n);
		if (rc)
			return fail(s, rc, s->va + done);
		done += n;
	}
	return 0;
}

int ferryi_mirror_read(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, void *buf,
		       size_t len, struct ferry_mirror_stats *stats)
{
	return access_span(&(struct span){ .mirrors = mirrors, .mirror = mirror, .call = "mirror_read", .va = va, .len = len,
					   .read_to = buf, .stats = stats });
}

int ferryi_mirror_write(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, const void *buf,
			size_t len, struct ferry_mirror_stats *stats)
{
	return access_span(&(struct span){ .mirrors = mirrors, .mirror = mirror, .call = "mirror_write", .va = va, .len = len,
					   .write_from = buf, .stats = stats });
}

int ferryi_mirror_peek(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, uintptr_t va, void *buf,
		       size_t len)
{
	return access_span(&(struct span){ .mirrors = mirrors, .mirror = mirror, .call = "mirror_peek", .va = va, .len = len,
					   .read_to = buf, .pool_only = true });
}
