/* Reads /proc/self/maps with a buffer on the stack; PROCMAP_QUERY would need Linux 6.11. */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct check {
	uintptr_t next, end; /* [next, end) is still to be seen */
	int rc;
};

static int judge(const char *perms, unsigned long inode, const char *name)
{
	bool heap_or_named = name[0] == '[' && strcmp(name, "[vdso]") != 0 && strcmp(name, "[vvar]") != 0;

	if (inode || perms[3] != 'p' || (name[0] && !heap_or_named))
		return -EOPNOTSUPP;
	return perms[0] == 'r' && perms[1] == 'w' ? 0 : -EACCES;
}

/* One line of the file; true when the verdict is there. */
static bool feed(struct check *c, const char *line)
{
	unsigned long start, end, inode;
	char perms[5] = "", name[64] = "";

	if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu %63s", &start, &end, perms, &inode, name) < 4)
		return false;
	if (end <= c->next)
		return false;
	if (start > c->next) {
		c->rc = -EFAULT;
		return true;
	}
	c->rc = judge(perms, inode, name);
	if (c->rc)
		return true;
	c->next = end;
	return c->next >= c->end;
}

int ferryi_maps_check(uintptr_t start, uintptr_t end, uintptr_t *at)
{
	struct check c = { .next = start, .end = end, .rc = -EFAULT };
	char buf[4096];
	size_t have = 0;
	bool done = false;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (!done) {
		ssize_t n = read(fd, buf + have, sizeof(buf) - 1 - have);

		if (n <= 0)
			break;
		have += (size_t)n;
		buf[have] = '\0';
		char *line = buf, *nl;

		while (!done && (nl = strchr(line, '\n'))) {
			*nl = '\0';
			done = feed(&c, line);
			line = nl + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == sizeof(buf) - 1)
			have = 0; /* a path longer than our buffer: not ours to adopt either way */
	}
	close(fd);
	if (!done)
		c.rc = -EFAULT;
	*at = c.next;
	return c.rc;
}
