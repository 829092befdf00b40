/*
 * Anonymous memory: a window, mapped (and by default populated) at start;
 * extents are parts of it. See backing.h.
 */
#include "backing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arith.h"
#include "log.h"
#include "window.h"

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

struct anon {
	/* immutable */
	int flags; /* of mmap */
	bool reserve;
	/* its own lock */
	struct ferryi_window window;
};

static void anon_close(void *handle)
{
	struct anon *anon = handle;

	ferryi_window_fini(&anon->window);
	free(anon);
}

/* Maps and, with a reservation, populates [from, to). 0, or negative errno with one line in err. */
static int add_memory(struct anon *anon, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to,
		      char *err, size_t err_len)
{
	const char *what = "mapping";
	int rc = ferryi_window_map(&anon->window, from, to, anon->flags, -1);

	if (!rc) {
		what = "binding to its NUMA node";
		rc = ferryi_window_bind(&anon->window, from, to, spec->numa_node);
	}
	if (!rc && anon->reserve) {
		what = "populating";
		rc = ferryi_window_populate(&anon->window, from, to);
	}
	if (!rc)
		return 0;
	snprintf(err, err_len, "pool %s: %s %llu bytes failed: %s", spec->name, what,
		 (unsigned long long)(to - from), ferryi_strerror(rc));
	ferryi_window_unmap(&anon->window, from, to);
	return rc;
}

static int anon_open(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len)
{
	struct anon *anon = calloc(1, sizeof(*anon));
	int rc;

	if (!anon) {
		snprintf(err, err_len, "pool %s: out of memory", spec->name);
		return -ENOMEM;
	}
	anon->reserve = spec->reserve;
	anon->flags = MAP_PRIVATE | MAP_ANONYMOUS;
	if (spec->huge_page_bytes)
		anon->flags |= MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	if (!spec->reserve)
		anon->flags |= MAP_NORESERVE;
	ferryi_window_init(&anon->window);
	rc = add_memory(anon, spec, 0, spec->size_bytes, err, err_len);
	if (rc) {
		anon_close(anon);
		return rc;
	}
	*handle = anon;
	return 0;
}

static int anon_grant(void *handle, struct ferryi_pool_extent *extent)
{
	struct anon *anon = handle;

	extent->memory.base = ferryi_window_at(&anon->window, extent->pool_off);
	extent->memory.fd = -1;
	extent->memory.fd_off = 0;
	return 0;
}

static bool anon_find(void *handle, uintptr_t addr, uint64_t *pool_off)
{
	struct anon *anon = handle;

	return ferryi_window_find(&anon->window, addr, pool_off);
}

/* The kernel has taken failed pages out of use: what comes in their place is good, and zero. */
static int renew(struct anon *anon, struct ferryi_pool_extent *extent)
{
	if (madvise(extent->memory.base, extent->memory.len_bytes, MADV_DONTNEED))
		return -EHWPOISON; /* huge pages, before Linux 5.18 */
	return anon->reserve ? ferryi_window_populate(&anon->window, extent->pool_off,
						      extent->pool_off + extent->memory.len_bytes)
			     : 0;
}

static int anon_scrub(void *handle, struct ferryi_pool_extent *extent)
{
	struct anon *anon = handle;

	if (extent->failed)
		return renew(anon, extent);
	/* Without a reservation the pages go back to the system and come anew, zero, on the next use. */
	if (!anon->reserve && madvise(extent->memory.base, extent->memory.len_bytes, MADV_DONTNEED) == 0)
		return 0;
	memset(extent->memory.base, 0, extent->memory.len_bytes);
	return 0;
}

static int anon_resize(void *handle, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to,
		       char *err, size_t err_len)
{
	struct anon *anon = handle;
	int rc = 0;

	if (to > from)
		rc = add_memory(anon, spec, from, to, err, err_len);
	else
		ferryi_window_unmap(&anon->window, to, from);
	return rc;
}

const struct ferryi_backing ferryi_backing_anon = {
	.name = "anon",
	.gives_fd = false,
	.open = anon_open,
	.close = anon_close,
	.resize = anon_resize,
	.grant = anon_grant,
	.scrub = anon_scrub,
	.find = anon_find,
};
