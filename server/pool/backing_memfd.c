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
#include "lock.h"
#include "log.h"

struct section_reserve {
	int fd; /* -1: none yet */
	uint64_t len_bytes;
};

struct memfds {
	/* immutable */
	bool reserve;
	int numa_node;
	char name[FERRYI_POOL_NAME_LEN];
	struct ferryi_mutex lock; /* FERRYI_RANK_LEAF */
	/* protected by lock; whoever resizes reads without it */
	struct section_reserve *sections;
	size_t nsections; /* 0 without a reservation */
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

/* The part of a section that is below `end`. */
static uint64_t part_of_section(size_t section, uint64_t end)
{
	return ferryi_min_u64(FERRYI_SECTION_SIZE, end - ((uint64_t)section << FERRYI_SECTION_SHIFT));
}

struct enlarge {
	struct memfds *memfds;
	size_t first; /* section */
	uint64_t to;
};

/* One section's reserve memfd; several threads do this at once, each for its own. */
static int enlarge_section(void *ctx, size_t i)
{
	const struct enlarge *enlarge = ctx;
	struct memfds *memfds = enlarge->memfds;
	struct section_reserve *section = &memfds->sections[enlarge->first + i];
	uint64_t have = section->len_bytes, want = part_of_section(enlarge->first + i, enlarge->to);
	int rc;

	if (section->fd < 0)
		section->fd = memfd_create("ferryd-reserve", MFD_CLOEXEC);
	if (section->fd < 0)
		return -errno;
	if (ftruncate(section->fd, (off_t)want))
		return -errno;
	section->len_bytes = want;
	rc = bind_file(section->fd, want, memfds->numa_node);
	return rc ? rc : allocate(section->fd, 0, have, want - have);
}

/* What is beyond `to` goes back to the system. */
static void cut(struct memfds *memfds, uint64_t to)
{
	size_t n = (size_t)((to + FERRYI_SECTION_SIZE - 1) >> FERRYI_SECTION_SHIFT);

	for (size_t i = n; i < memfds->nsections; i++) {
		if (memfds->sections[i].fd >= 0)
			close(memfds->sections[i].fd);
	}
	ferryi_mutex_lock(&memfds->lock);
	memfds->nsections = (size_t)ferryi_min_u64(memfds->nsections, n);
	ferryi_mutex_unlock(&memfds->lock);
	if (!n || memfds->nsections < n || memfds->sections[n - 1].len_bytes <= part_of_section(n - 1, to))
		return;
	memfds->sections[n - 1].len_bytes = part_of_section(n - 1, to);
	if (memfds->sections[n - 1].fd >= 0 &&
	    ftruncate(memfds->sections[n - 1].fd, (off_t)memfds->sections[n - 1].len_bytes))
		ferryi_error("pool %s: the end of the reservation was not given back: %s", memfds->name,
			     ferryi_strerror(errno));
}

static int add_sections(struct memfds *memfds, size_t n)
{
	struct section_reserve *sections;

	ferryi_mutex_lock(&memfds->lock);
	sections = realloc(memfds->sections, n * sizeof(*sections));
	if (sections) {
		memfds->sections = sections;
		for (; memfds->nsections < n; memfds->nsections++)
			sections[memfds->nsections] = (struct section_reserve){.fd = -1};
	}
	ferryi_mutex_unlock(&memfds->lock);
	return sections ? 0 : -ENOMEM;
}

/* Reserves [from, to). On failure it is as it was, with one line in err. */
static int enlarge(struct memfds *memfds, uint64_t from, uint64_t to, char *err, size_t err_len)
{
	struct enlarge enlarge = {
		.memfds = memfds, .first = (size_t)(from >> FERRYI_SECTION_SHIFT), .to = to};
	size_t n = (size_t)((to + FERRYI_SECTION_SIZE - 1) >> FERRYI_SECTION_SHIFT);
	int rc = add_sections(memfds, n);

	if (!rc)
		rc = ferryi_backing_parallel(n - enlarge.first, enlarge_section, &enlarge);
	if (!rc)
		return 0;
	cut(memfds, from);
	snprintf(err, err_len, "pool %s: reserving %llu bytes of shared memory failed: %s%s", memfds->name,
		 (unsigned long long)(to - from), ferryi_strerror(rc),
		 rc == -EMFILE ? " (raise the limit of open files, LimitNOFILE or ulimit -n)" : "");
	return rc;
}

static int memfds_resize(void *handle, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to,
			 char *err, size_t err_len)
{
	struct memfds *memfds = handle;

	(void)spec;
	if (!memfds->reserve)
		return 0;
	if (to > from)
		return enlarge(memfds, from, to, err, err_len);
	cut(memfds, to);
	return 0;
}

static void memfds_close(void *handle)
{
	struct memfds *memfds = handle;

	for (size_t i = 0; i < memfds->nsections; i++) {
		if (memfds->sections[i].fd >= 0)
			close(memfds->sections[i].fd);
	}
	free(memfds->sections);
	ferryi_mutex_fini(&memfds->lock);
	free(memfds);
}

static int memfds_open(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len)
{
	struct memfds *memfds = calloc(1, sizeof(*memfds));
	int rc = 0;

	if (!memfds) {
		snprintf(err, err_len, "pool %s: out of memory", spec->name);
		return -ENOMEM;
	}
	ferryi_mutex_init(&memfds->lock, FERRYI_RANK_LEAF);
	memfds->reserve = spec->reserve;
	memfds->numa_node = spec->numa_node;
	snprintf(memfds->name, sizeof(memfds->name), "%s", spec->name);
	if (memfds->reserve)
		rc = enlarge(memfds, 0, spec->size_bytes, err, err_len);
	if (rc) {
		memfds_close(memfds);
		return rc;
	}
	*handle = memfds;
	return 0;
}

/* The reserve of the extent's section. */
static int reserve_of(struct memfds *memfds, const struct ferryi_pool_extent *extent, uint64_t *off)
{
	int fd;

	*off = extent->pool_off & (FERRYI_SECTION_SIZE - 1);
	ferryi_mutex_lock(&memfds->lock);
	fd = memfds->sections[extent->pool_off >> FERRYI_SECTION_SHIFT].fd;
	ferryi_mutex_unlock(&memfds->lock);
	return fd;
}

static void unmap(struct ferryi_memory *memory)
{
	if (memory->base)
		munmap(memory->base, memory->len_bytes);
	if (memory->fd >= 0)
		close(memory->fd);
	memory->base = NULL;
	memory->fd = -1;
}

/* A memfd of that length, mapped, on the pool's node; without any page. */
static int new_memfd(const struct memfds *memfds, size_t len_bytes, struct ferryi_memory *memory)
{
	int rc;

	*memory = (struct ferryi_memory){.len_bytes = len_bytes, .fd = -1};
	rc = ferryi_local_memfd("ferryd-extent", len_bytes, &memory->fd);
	if (rc)
		return rc;
	memory->base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
	if (memory->base == MAP_FAILED) {
		rc = -errno;
		memory->base = NULL;
	} else {
		madvise(memory->base, len_bytes, MADV_DONTDUMP);
		madvise(memory->base, len_bytes, MADV_DONTFORK);
		rc = ferryi_backing_bind(memory->base, len_bytes, memfds->numa_node);
	}
	if (rc)
		unmap(memory);
	return rc;
}

static int memfds_grant(void *handle, struct ferryi_pool_extent *extent)
{
	struct memfds *memfds = handle;
	size_t len_bytes = extent->memory.len_bytes;
	uint64_t off = 0;
	int rc, reserve = -1;

	rc = new_memfd(memfds, len_bytes, &extent->memory);
	if (rc || !memfds->reserve)
		return rc;
	reserve = reserve_of(memfds, extent, &off);
	rc = allocate(reserve, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len_bytes);
	if (rc)
		goto err_unmap;
	rc = allocate(extent->memory.fd, 0, 0, len_bytes);
	if (!rc)
		return 0;
	ferryi_warn("pool %s: an extent of %zu bytes cannot be allocated: %s", memfds->name, len_bytes,
		    ferryi_strerror(rc));
	if (ftruncate(extent->memory.fd, 0) || allocate(reserve, 0, off, len_bytes))
		ferryi_error("pool %s: %zu bytes of the reservation are lost until they are lent again",
			     memfds->name, len_bytes);
err_unmap:
	unmap(&extent->memory);
	return rc;
}

/* Not by the mapping: who has the file may shorten it. 0, -EIO (it is shorter). */
static int read_all(int fd, uint8_t *to, size_t len_bytes, uint64_t off)
{
	while (len_bytes) {
		ssize_t n = pread(fd, to, len_bytes, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		to += n;
		len_bytes -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

/* A part that was never written has no pages, and is to have none. */
static bool has_data(int fd, uint64_t off, size_t len_bytes)
{
	off_t at = lseek(fd, (off_t)off, SEEK_DATA);

	return at < 0 ? errno != ENXIO : (uint64_t)at < off + len_bytes;
}

/* To a memfd that no client has seen, from the end on: what has been copied is cut off, so both never have
 * all. */
static int memfds_save(void *handle, struct ferryi_pool_extent *extent)
{
	struct memfds *memfds = handle;
	const struct ferryi_memory *from = &extent->memory;
	struct ferryi_memory to;
	size_t off = from->len_bytes;
	int rc = new_memfd(memfds, from->len_bytes, &to);

	while (!rc && off) {
		off -= FERRYI_SUBSECTION_SIZE;
		if (memfds->reserve)
			rc = allocate(to.fd, 0, off, FERRYI_SUBSECTION_SIZE);
		if (!rc && has_data(from->fd, off, FERRYI_SUBSECTION_SIZE))
			rc = read_all(from->fd, (uint8_t *)to.base + off, FERRYI_SUBSECTION_SIZE, off);
		if (!rc && ftruncate(from->fd, (off_t)off))
			rc = -errno;
	}
	if (rc)
		unmap(&to);
	else
		extent->saved = to;
	return rc;
}

static void memfds_use_saved(void *handle, struct ferryi_pool_extent *extent)
{
	(void)handle;
	unmap(&extent->memory);
	extent->memory = extent->saved;
	extent->saved = (struct ferryi_memory){0};
}

static int memfds_scrub(void *handle, struct ferryi_pool_extent *extent)
{
	struct memfds *memfds = handle;
	uint64_t off;
	int reserve;

	if (extent->saved.base)
		memfds_use_saved(handle,
				 extent); /* it is not kept after all; the other one was cut to nothing */
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
	reserve = reserve_of(memfds, extent, &off);
	return allocate(reserve, 0, off, extent->memory.len_bytes);
}

const struct ferryi_backing ferryi_backing_memfd = {
	.name = "memfd",
	.gives_fd = true,
	.open = memfds_open,
	.close = memfds_close,
	.resize = memfds_resize,
	.grant = memfds_grant,
	.scrub = memfds_scrub,
	.save = memfds_save,
	.use_saved = memfds_use_saved,
};
