/*
 * Memory that a path names, mapped shared: a file, whose content outlives the
 * server (type=fs_dax), or a character device such as /dev/dax0.0
 * (type=generic). A file is locked while it is served, and has all its blocks:
 * a full disk is met here and not by a client. See backing.h.
 */
#include "backing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "arith.h"
#include "log.h"
#include "window.h"

struct file {
	/* immutable */
	char name[FERRYI_POOL_NAME_LEN]; /* of the pool */
	int fd;
	bool is_device;
	bool is_dirty; /* it was there before */
	/* its own lock */
	struct ferryi_window window;
};

static int fail(const struct ferryi_pool_spec *spec, int rc, const char *what, char *err, size_t err_len)
{
	snprintf(err, err_len, "pool %s: path=%s: %s", spec->name, spec->path, what);
	return rc;
}

static int allocate(int fd, int mode, uint64_t off, uint64_t len_bytes)
{
	while (fallocate(fd, mode, (off_t)off, (off_t)len_bytes)) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* The bytes of a character device; false: it does not say. */
static bool device_size(const struct stat *st, unsigned long long *have)
{
	char path[64];
	FILE *f;
	bool told;

	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/size", major(st->st_rdev), minor(st->st_rdev));
	f = fopen(path, "re");
	if (!f)
		return false;
	told = fscanf(f, "%llu", have) == 1;
	fclose(f);
	return told;
}

/* The kernel maps more of a /dev/dax than there is, and raises SIGBUS later. */
static int check_device_size(const struct ferryi_pool_spec *spec, const struct stat *st, uint64_t size_bytes,
			     char *err, size_t err_len)
{
	unsigned long long have;
	char what[128];

	if (!device_size(st, &have) || size_bytes <= have)
		return 0;
	snprintf(what, sizeof(what), "the device has %llu bytes, fewer than size= says", have);
	return fail(spec, -EINVAL, what, err, err_len);
}

int ferryi_backing_file_check(const struct ferryi_pool_spec *spec, char *err, size_t err_len)
{
	const bool is_device = spec->type == FERRYI_POOL_GENERIC;
	char what[160];
	struct stat st;

	if (stat(spec->path, &st)) {
		if (errno == ENOENT && !is_device)
			return 0; /* it will be made */
		return fail(spec, -errno, ferryi_strerror(errno), err, err_len);
	}
	if (is_device && !S_ISCHR(st.st_mode))
		return fail(spec, -EINVAL, "not a character device, as /dev/dax0.0 is", err, err_len);
	if (!is_device && !S_ISREG(st.st_mode))
		return fail(spec, -EINVAL, "not a file", err, err_len);
	if (is_device)
		return check_device_size(spec, &st, spec->size_bytes, err, err_len);
	if (st.st_size == 0 || (uint64_t)st.st_size == spec->size_bytes)
		return 0;
	snprintf(what, sizeof(what),
		 "it is there with %lld bytes, and size= says %llu; give its own size, or another path",
		 (long long)st.st_size, (unsigned long long)spec->size_bytes);
	return fail(spec, -EINVAL, what, err, err_len);
}

/* Its blocks, and the lock against a second server. Files only. */
static int take_file(struct file *file, const struct ferryi_pool_spec *spec, char *err, size_t err_len)
{
	struct stat st;
	int rc;

	if (flock(file->fd, LOCK_EX | LOCK_NB))
		return fail(spec, -EBUSY, "another ferryd serves it", err, err_len);
	if (fstat(file->fd, &st))
		return fail(spec, -errno, ferryi_strerror(errno), err, err_len);
	file->is_dirty = st.st_size != 0;
	rc = allocate(file->fd, 0, 0, spec->size_bytes);
	if (rc == -EOPNOTSUPP)
		return fail(spec, rc,
			    "its file system cannot reserve blocks (fallocate); use ext4, xfs or tmpfs", err,
			    err_len);
	return rc ? fail(spec, rc, ferryi_strerror(rc), err, err_len) : 0;
}

static void file_close(void *handle)
{
	struct file *file = handle;

	ferryi_window_fini(&file->window);
	if (file->fd >= 0)
		close(file->fd);
	free(file);
}

static int file_open(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len)
{
	struct file *file;
	int rc = ferryi_backing_file_check(spec, err, err_len);

	if (rc)
		return rc;
	file = calloc(1, sizeof(*file));
	if (!file)
		return fail(spec, -ENOMEM, "out of memory", err, err_len);
	ferryi_window_init(&file->window);
	snprintf(file->name, sizeof(file->name), "%s", spec->name);
	file->is_device = spec->type == FERRYI_POOL_GENERIC;
	file->is_dirty = file->is_device;
	file->fd = open(spec->path, O_RDWR | O_CLOEXEC | (file->is_device ? 0 : O_CREAT), 0600);
	if (file->fd < 0)
		rc = fail(spec, -errno, ferryi_strerror(errno), err, err_len);
	if (!rc && !file->is_device)
		rc = take_file(file, spec, err, err_len);
	if (!rc) {
		rc = ferryi_window_map(&file->window, 0, spec->size_bytes, MAP_SHARED, file->fd);
		if (rc)
			fail(spec, rc, ferryi_strerror(rc), err, err_len);
	}
	if (rc) {
		file_close(file);
		return rc;
	}
	*handle = file;
	return 0;
}

/* Past its end there is SIGBUS, so its end must be known. */
static int check_device_grows(const struct file *file, const struct ferryi_pool_spec *spec, uint64_t to,
			      char *err, size_t err_len)
{
	unsigned long long have;
	struct stat st;

	if (fstat(file->fd, &st))
		return fail(spec, -errno, ferryi_strerror(errno), err, err_len);
	if (!device_size(&st, &have))
		return fail(spec, -EOPNOTSUPP, "the device does not say what it has, so the pool cannot grow",
			    err, err_len);
	return check_device_size(spec, &st, to, err, err_len);
}

/* New memory of a device may hold what somebody left there: it is zeroed here. */
static int grow(struct file *file, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to, char *err,
		size_t err_len)
{
	int rc = file->is_device ? check_device_grows(file, spec, to, err, err_len) : 0;

	if (rc)
		return rc;
	if (!file->is_device)
		rc = allocate(file->fd, 0, from, to - from);
	if (!rc)
		rc = ferryi_window_map(&file->window, from, to, MAP_SHARED, file->fd);
	if (rc) {
		if (!file->is_device && ftruncate(file->fd, (off_t)from))
			ferryi_error("pool %s: the file keeps its new size: %s", file->name,
				     ferryi_strerror(errno));
		return fail(spec, rc, ferryi_strerror(rc), err, err_len);
	}
	for (uint64_t at = from; file->is_device && at < to; at += FERRYI_SUBSECTION_SIZE)
		memset(ferryi_window_at(&file->window, at), 0, FERRYI_SUBSECTION_SIZE);
	return 0;
}

static int file_resize(void *handle, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to,
		       char *err, size_t err_len)
{
	struct file *file = handle;

	if (to > from)
		return grow(file, spec, from, to, err, err_len);
	ferryi_window_unmap(&file->window, to, from);
	if (!file->is_device && ftruncate(file->fd, (off_t)to))
		ferryi_error("pool %s: the file keeps its old size: %s", file->name, ferryi_strerror(errno));
	return 0;
}

static bool file_is_dirty(const void *handle)
{
	const struct file *file = handle;

	return file->is_dirty;
}

static int file_grant(void *handle, struct ferryi_pool_extent *extent)
{
	struct file *file = handle;

	extent->memory.base = ferryi_window_at(&file->window, extent->pool_off);
	extent->memory.fd = -1;
	extent->memory.fd_off = 0;
	return 0;
}

static bool file_find(void *handle, uintptr_t addr, uint64_t *pool_off)
{
	struct file *file = handle;

	return ferryi_window_find(&file->window, addr, pool_off);
}

static int file_scrub(void *handle, struct ferryi_pool_extent *extent)
{
	struct file *file = handle;
	const size_t len_bytes = extent->memory.len_bytes;
	int rc = -EOPNOTSUPP;

	if (file->is_device && extent->failed)
		return -EHWPOISON; /* nothing can come in its place */
	/* New blocks are cheaper than zeros. */
	if (!file->is_device)
		rc = allocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, extent->pool_off,
			      len_bytes);
	if (!rc)
		return allocate(file->fd, 0, extent->pool_off, len_bytes);
	memset(extent->memory.base, 0, len_bytes);
	return 0;
}

const struct ferryi_backing ferryi_backing_file = {
	.name = "file",
	.gives_fd = false,
	.open = file_open,
	.close = file_close,
	.resize = file_resize,
	.is_dirty = file_is_dirty,
	.grant = file_grant,
	.scrub = file_scrub,
	.find = file_find,
};
