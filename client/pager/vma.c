/* See vma.h. The kernel's structs, under our own names: Debian 12's headers lack them (include/uapi/linux/fs.h). */
#include "vma.h"

#include <errno.h>
#include <linux/ioctl.h>
#include <linux/types.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

struct procmap_query {
	__u64 size, query_flags, query_addr;
	__u64 vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
	__u32 dev_major, dev_minor, vma_name_size, build_id_size;
	__u64 vma_name_addr, build_id_addr;
};
#define FERRYI_PROCMAP_QUERY           _IOWR('f', 17, struct procmap_query)
#define FERRYI_PROCMAP_READABLE        0x01u
#define FERRYI_PROCMAP_WRITABLE        0x02u
#define FERRYI_PROCMAP_EXECUTABLE      0x04u
#define FERRYI_PROCMAP_SHARED          0x08u
#define FERRYI_PROCMAP_COVERING_OR_NEXT 0x10u

/*
 * The kernel tells VM_IO and VM_PFNMAP only in smaps, whose reading walks all
 * pages; these are the mappings that have them: the kernel's own clock pages,
 * and character devices, but for the two whose pages are ordinary memory.
 */
static bool is_special(const char *name)
{
	if (strncmp(name, "[vvar", 5) == 0 || strcmp(name, "[vsyscall]") == 0)
		return true;
	return strncmp(name, "/dev/", 5) == 0 && strncmp(name, "/dev/shm/", 9) != 0 && strcmp(name, "/dev/zero") != 0;
}

/* One line of the text; true when it is the one looked for. */
static bool feed(const char *line, uintptr_t va, struct ferryi_vma *vma)
{
	unsigned long start, end;
	char perms[5] = "", name[256] = "";

	if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %*u %255[^\n]", &start, &end, perms, name) < 3 || end <= va)
		return false;
	*vma = (struct ferryi_vma){ .start = start,
				    .end = end,
				    .readable = perms[0] == 'r',
				    .writable = perms[1] == 'w',
				    .executable = perms[2] == 'x',
				    .shared = perms[3] == 's',
				    .special = is_special(name) };
	return true;
}

/* pread keeps no place in the file, so threads may do this side by side. */
static int query_text(int maps_fd, uintptr_t va, struct ferryi_vma *vma)
{
	char buf[4096];
	size_t have = 0;
	off_t at = 0;

	for (;;) {
		ssize_t n = pread(maps_fd, buf + have, sizeof(buf) - 1 - have, at);

		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENOENT;
		at += n;
		have += (size_t)n;
		buf[have] = '\0';
		char *line = buf, *nl;

		while ((nl = strchr(line, '\n'))) {
			*nl = '\0';
			if (feed(line, va, vma))
				return 0;
			line = nl + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == sizeof(buf) - 1)
			have = 0; /* the rest of a long path */
	}
}

int ferryi_vma_query(int maps_fd, uintptr_t va, struct ferryi_vma *vma)
{
	static _Atomic bool no_ioctl;
	char name[256] = "";
	struct procmap_query q = { .size = sizeof(q), .query_flags = FERRYI_PROCMAP_COVERING_OR_NEXT, .query_addr = va,
				   .vma_name_addr = (uintptr_t)name, .vma_name_size = sizeof(name) };

	if (!atomic_load_explicit(&no_ioctl, memory_order_relaxed)) {
		if (ioctl(maps_fd, FERRYI_PROCMAP_QUERY, &q) == 0) {
			*vma = (struct ferryi_vma){ .start = q.vma_start,
						    .end = q.vma_end,
						    .readable = q.vma_flags & FERRYI_PROCMAP_READABLE,
						    .writable = q.vma_flags & FERRYI_PROCMAP_WRITABLE,
						    .executable = q.vma_flags & FERRYI_PROCMAP_EXECUTABLE,
						    .shared = q.vma_flags & FERRYI_PROCMAP_SHARED,
						    .special = is_special(name) };
			return 0;
		}
		if (errno != ENOTTY)
			return -errno;
		atomic_store_explicit(&no_ioctl, true, memory_order_relaxed);
	}
	return query_text(maps_fd, va, vma);
}

int ferryi_vma_check(int maps_fd, uintptr_t start, uintptr_t end, bool write, uintptr_t *at)
{
	struct ferryi_vma vma;

	for (*at = start; *at < end; *at = vma.end) {
		int rc = ferryi_vma_query(maps_fd, *at, &vma);

		if (rc == -ENOENT || (!rc && vma.start > *at))
			return -EFAULT;
		if (rc)
			return rc;
		if (write ? !vma.writable : !vma.readable)
			return -EPERM;
	}
	return 0;
}
