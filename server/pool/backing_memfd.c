/*
 * Memory of memfds, for the same-host row. Each lent extent is a memfd of its
 * own, so that truncating it takes the memory from a client that has it mapped
 * and leaves everyone else's alone. What is not lent is held by one reserve
 * memfd a section (reserve=yes): an extent's range is punched out of it when it
 * is lent and allocated again when it is back. See backing.h.
 */
#include "backing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arith.h"
#include "log.h"

struct section_reserve {
	int fd;
	size_t len_bytes;
};

struct memfds {
	/* immutable */
	bool reserve;
	int numa_node;
	char name[FERRYI_POOL_NAME_LEN];
	size_t nsections; /* 0 without a reservation */
	struct section_reserve sections[];
};

/* A shared mapping bound to the node: shmem keeps the policy with the file, so that fallocate follows it. */
static int bind_file(int fd, size_t len_bytes, int numa_node)
{
	void *map;
	int rc;

	if (numa_node < 0)
		return 0;
	map = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	rc = ferryi_backing_bind(map, len_bytes, numa_node);
	munmap(map, len_bytes);
	return rc;
}

static int allocate(int fd, int mode, uint64_t off, uint64_t len_bytes)
{
	while (fallocate(fd, mode, (off_t)off, (off_t)len_bytes)) {
		if (errno != EINTR)
			return errno == ENOSPC ? -ENOMEM : -errno;
	}
	return 0;
}

/* One section's reserve memfd; several threads do this at once, each for its own. */
static int reserve_section(void *ctx, size_t i)
{
	struct memfds *memfds = ctx;
	struct section_reserve *section = &memfds->sections[i];
	int rc;

	section->fd = memfd_create("ferryd-reserve", MFD_CLOEXEC);
	if (section->fd < 0)
		return -errno;
	rc = ftruncate(section->fd, (off_t)section->len_bytes) ? -errno : 0;
	if (!rc)
		rc = bind_file(section->fd, section->len_bytes, memfds->numa_node);
	return rc ? rc : allocate(section->fd, 0, 0, section->len_bytes);
}

static void memfds_close(void *handle)
{
	struct memfds *memfds = handle;

	for (size_t i = 0; i < memfds->nsections; i++) {
		if (memfds->sections[i].fd >= 0)
			close(memfds->sections[i].fd);
	}
	free(memfds);
}

static int memfds_open(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len)
{
	size_t n = spec->reserve ? (spec->size_bytes + FERRYI_SECTION_SIZE - 1) >> FERRYI_SECTION_SHIFT : 0;
	struct memfds *memfds;
	int rc;

	memfds = calloc(1, sizeof(*memfds) + n * sizeof(memfds->sections[0]));
	if (!memfds) {
		snprintf(err, err_len, "pool %s: out of memory", spec->name);
		return -ENOMEM;
	}
	memfds->reserve = spec->reserve;
	memfds->numa_node = spec->numa_node;
	snprintf(memfds->name, sizeof(memfds->name), "%s", spec->name);
	memfds->nsections = n;
	for (size_t i = 0; i < n; i++) {
		uint64_t off = (uint64_t)i << FERRYI_SECTION_SHIFT;

		memfds->sections[i] = (struct section_reserve){
			.fd = -1,
			.len_bytes = ferryi_min_u64(FERRYI_SECTION_SIZE, spec->size_bytes - off),
		};
	}
	rc = ferryi_backing_parallel(n, reserve_section, memfds);
	if (rc) {
		snprintf(err, err_len, "pool %s: reserving %llu bytes of shared memory failed: %s%s",
			 spec->name, (unsigned long long)spec->size_bytes, ferryi_strerror(rc),
			 rc == -EMFILE ? " (raise the limit of open files, LimitNOFILE or ulimit -n)" : "");
		memfds_close(memfds);
		return rc;
	}
	*handle = memfds;
	return 0;
}

static struct section_reserve *reserve_of(struct memfds *memfds, const struct ferryi_pool_extent *extent,
					  uint64_t *off)
{
	*off = extent->pool_off & (FERRYI_SECTION_SIZE - 1);
	return &memfds->sections[extent->pool_off >> FERRYI_SECTION_SHIFT];
}

static int memfds_grant(void *handle, struct ferryi_pool_extent *extent)
{
	struct memfds *memfds = handle;
	size_t len_bytes = extent->memory.len_bytes;
	struct section_reserve *section = NULL;
	uint64_t off = 0;
	int rc;

	rc = ferryi_local_memfd("ferryd-extent", len_bytes, &extent->memory.fd);
	if (rc)
		return rc;
	extent->memory.fd_off = 0;
	extent->memory.base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, extent->memory.fd, 0);
	if (extent->memory.base == MAP_FAILED) {
		rc = -errno;
		goto err_close;
	}
	madvise(extent->memory.base, len_bytes, MADV_DONTDUMP);
	madvise(extent->memory.base, len_bytes, MADV_DONTFORK);
	rc = ferryi_backing_bind(extent->memory.base, len_bytes, memfds->numa_node);
	if (rc)
		goto err_unmap;
	if (memfds->reserve) {
		section = reserve_of(memfds, extent, &off);
		rc = allocate(section->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len_bytes);
		if (rc)
			goto err_unmap;
		rc = allocate(extent->memory.fd, 0, 0, len_bytes);
		if (rc)
			goto err_refill;
	}
	return 0;

err_refill:
	ferryi_warn("pool %s: an extent of %zu bytes cannot be allocated: %s", memfds->name, len_bytes,
		    ferryi_strerror(rc));
	if (ftruncate(extent->memory.fd, 0) || allocate(section->fd, 0, off, len_bytes))
		ferryi_error("pool %s: %zu bytes of the reservation are lost until they are lent again",
			     memfds->name, len_bytes);
err_unmap:
	munmap(extent->memory.base, len_bytes);
err_close:
	close(extent->memory.fd);
	extent->memory.fd = -1;
	extent->memory.base = NULL;
	return rc;
}

static int memfds_scrub(void *handle, struct ferryi_pool_extent *extent)
{
	struct memfds *memfds = handle;
	struct section_reserve *section;
	uint64_t off;

	/* A second call after a failed refill finds these done already. */
	if (extent->memory.base) {
		munmap(extent->memory.base, extent->memory.len_bytes);
		extent->memory.base = NULL;
	}
	if (extent->memory.fd >= 0) {
		/* Truncated, not only closed: a client may hold the file still. */
		if (ftruncate(extent->memory.fd, 0))
			ferryi_error("pool %s: truncating an extent failed: %s", memfds->name,
				     ferryi_strerror(errno));
		close(extent->memory.fd);
		extent->memory.fd = -1;
	}
	if (!memfds->reserve)
		return 0;
	section = reserve_of(memfds, extent, &off);
	return allocate(section->fd, 0, off, extent->memory.len_bytes);
}

const struct ferryi_backing ferryi_backing_memfd = {
	.name = "memfd",
	.gives_fd = true,
	.open = memfds_open,
	.close = memfds_close,
	.grant = memfds_grant,
	.scrub = memfds_scrub,
};
