/* Reads /proc/self/maps with a buffer on the stack; PROCMAP_QUERY would need Linux 6.11. */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int judge(const char *perms, bool is_file, const char *name)
{
	bool heap_or_named = name[0] == '[' && strcmp(name, "[vdso]") != 0 && strcmp(name, "[vvar]") != 0;

	if (perms[3] != 'p' || (is_file ? perms[2] == 'x' : name[0] && !heap_or_named))
		return -EOPNOTSUPP;
	return perms[0] == 'r' && perms[1] == 'w' ? 0 : -EACCES;
}

static bool parse(const char *line, struct ferryi_mapping *out)
{
	unsigned long start, end, inode;
	char perms[5] = "", name[64] = "";

	if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu %63s", &start, &end, perms, &inode, name) < 4)
		return false;
	out->start = start;
	out->end = end;
	out->is_file = inode != 0;
	out->verdict = judge(perms, out->is_file, name);
	return true;
}

/* Calls next for each mapping, lowest first, until it returns true or there is none left. 0, negative errno. */
static int walk(bool (*next)(void *ctx, const struct ferryi_mapping *mapping), void *ctx)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), rc = 0;
	struct ferryi_mapping mapping;
	char buf[4096];
	size_t have = 0;
	bool done = false, in_long = false;

	if (fd < 0)
		return -errno;
	while (!done) {
		ssize_t n = read(fd, buf + have, sizeof(buf) - 1 - have);

		if (n <= 0) {
			rc = n < 0 ? -errno : 0;
			break;
		}
		have += (size_t)n;
		buf[have] = '\0';
		char *line = buf, *nl;

		while (!done && (nl = strchr(line, '\n'))) {
			*nl = '\0';
			done = !in_long && parse(line, &mapping) && next(ctx, &mapping);
			in_long = false;
			line = nl + 1;
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
		if (have == sizeof(buf) - 1) { /* a path longer than the buffer: what comes before it is here */
			buf[have] = '\0';
			done = !in_long && parse(buf, &mapping) && next(ctx, &mapping);
			in_long = true;
			have = 0;
		}
	}
	close(fd);
	return rc;
}

struct find {
	uintptr_t va;
	struct ferryi_mapping *out;
	bool found;
};

static bool is_it(void *ctx, const struct ferryi_mapping *mapping)
{
	struct find *f = ctx;

	if (mapping->end <= f->va)
		return false;
	f->found = mapping->start <= f->va;
	*f->out = *mapping;
	return true;
}

int ferryi_maps_find(uintptr_t va, struct ferryi_mapping *out)
{
	struct find f = { .va = va, .out = out };
	int rc = walk(is_it, &f);

	return rc || f.found ? rc : -EFAULT;
}

struct check {
	uintptr_t next, end; /* [next, end) is still to be seen */
	bool any_file;
	int rc;
};

/* True when the verdict is there. */
static bool check_one(void *ctx, const struct ferryi_mapping *mapping)
{
	struct check *c = ctx;

	if (mapping->end <= c->next)
		return false;
	c->rc = mapping->start > c->next ? -EFAULT : mapping->verdict;
	if (c->rc)
		return true;
	c->any_file |= mapping->is_file;
	c->next = mapping->end;
	c->rc = c->next >= c->end ? 0 : -EFAULT;
	return !c->rc;
}

int ferryi_maps_check(uintptr_t start, uintptr_t end, bool *any_file, uintptr_t *at)
{
	struct check c = { .next = start, .end = end, .rc = -EFAULT };
	int rc = walk(check_one, &c);

	*any_file = c.any_file;
	*at = c.next;
	return rc ? rc : c.rc;
}
