/*
 * Anonymous memory: one window, mapped (and by default populated) at start;
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

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

struct anon {
	/* immutable */
	char *window;
	size_t len_bytes;
	bool reserve;
};

static int anon_open(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	struct anon *anon;
	int rc;

	anon = calloc(1, sizeof(*anon));
	if (!anon) {
		snprintf(err, err_len, "pool %s: out of memory", spec->name);
		return -ENOMEM;
	}
	anon->len_bytes = spec->size_bytes;
	anon->reserve = spec->reserve;
	if (spec->huge_page_bytes)
		flags |= MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	if (!spec->reserve)
		flags |= MAP_NORESERVE;
	anon->window = mmap(NULL, anon->len_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	if (anon->window == MAP_FAILED) {
		rc = -errno;
		snprintf(err, err_len, "pool %s: mapping %zu bytes failed: %s", spec->name, anon->len_bytes,
			 ferryi_strerror(rc));
		goto err_free;
	}
	rc = ferryi_backing_bind(anon->window, anon->len_bytes, spec->numa_node);
	if (rc) {
		snprintf(err, err_len, "pool %s: binding to NUMA node %d failed: %s", spec->name,
			 spec->numa_node, ferryi_strerror(rc));
		goto err_unmap;
	}
	/* A pool must not end up in a core file, nor be seen by a forked child. */
	madvise(anon->window, anon->len_bytes, MADV_DONTDUMP);
	madvise(anon->window, anon->len_bytes, MADV_DONTFORK);
	if (spec->reserve) {
		rc = ferryi_backing_populate(anon->window, anon->len_bytes);
		if (rc) {
			snprintf(err, err_len, "pool %s: populating %zu bytes failed: %s", spec->name,
				 anon->len_bytes, ferryi_strerror(rc));
			goto err_unmap;
		}
	}
	*handle = anon;
	return 0;

err_unmap:
	munmap(anon->window, anon->len_bytes);
err_free:
	free(anon);
	return rc;
}

static void anon_close(void *handle)
{
	struct anon *anon = handle;

	munmap(anon->window, anon->len_bytes);
	free(anon);
}

static int anon_grant(void *handle, struct ferryi_pool_extent *extent)
{
	struct anon *anon = handle;

	extent->memory.base = anon->window + extent->pool_off;
	extent->memory.fd = -1;
	extent->memory.fd_off = 0;
	return 0;
}

static int anon_scrub(void *handle, struct ferryi_pool_extent *extent)
{
	struct anon *anon = handle;

	/* Without a reservation the pages go back to the system and come anew, zero, on the next use. */
	if (!anon->reserve && madvise(extent->memory.base, extent->memory.len_bytes, MADV_DONTNEED) == 0)
		return 0;
	memset(extent->memory.base, 0, extent->memory.len_bytes);
	return 0;
}

const struct ferryi_backing ferryi_backing_anon = {
	.name = "anon",
	.gives_fd = false,
	.open = anon_open,
	.close = anon_close,
	.grant = anon_grant,
	.scrub = anon_scrub,
};
