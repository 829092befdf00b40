/* See memcg.h. */
#include "memcg.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"

#define NO_LIMIT     (1ULL << 60) /* v1 writes "none" as a number near 2^63 */
#define STAT_BYTES   8192u
#define NEAR_BYTES   (1ULL << 30)
#define SLOW_LOOK_NS (10 * FERRYI_NS_PER_MS)
#define LOOK_NS	     FERRYI_NS_PER_MS
#define FAST_LOOK_NS (200 * FERRYI_NS_PER_US)

/* ---- at start ---- */

/* The file system that shows memory cgroups: where it is mounted, and which cgroup its root is. */
static bool find_mount(bool *is_v2, char mount[PATH_MAX], char root[PATH_MAX])
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	/* v1's controller first: where both are mounted, it is the one that has the limits. */
	while (f && getline(&line, &size, f) > 0) {
		char at[PATH_MAX], from[PATH_MAX], type[32], options[256];
		const char *rest = strstr(line, " - ");

		if (!rest || sscanf(line, "%*s %*s %*s %4095s %4095s", from, at) != 2 ||
		    sscanf(rest, " - %31s %*s %255s", type, options) != 2)
			continue;
		bool v1 = !strcmp(type, "cgroup") && strstr(options, "memory");

		if (!v1 && (found || strcmp(type, "cgroup2")))
			continue;
		memcpy(mount, at, sizeof(at));
		memcpy(root, from, sizeof(from));
		*is_v2 = !v1;
		found = true;
		if (v1)
			break;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

/* This process's cgroup, as /proc/self/cgroup names it. */
static bool find_cgroup(bool is_v2, char path[PATH_MAX])
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (f && !found && getline(&line, &size, f) > 0) {
		char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!at)
			continue;
		*at = '\0';
		if (is_v2 ? controllers[1] != '\0' : !strstr(controllers + 1, "memory"))
			continue;
		at[1 + strcspn(at + 1, "\n")] = '\0';
		found = snprintf(path, PATH_MAX, "%s", at + 1) < PATH_MAX;
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

static int open_in(const char *dir, const char *name)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof(path), "%s/%s", dir, name) < (int)sizeof(path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

/* "max" is no number, and no limit. */
static uint64_t read_number(int fd)
{
	char text[32];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return UINT64_MAX;
	text[n] = '\0';
	return text[0] >= '0' && text[0] <= '9' ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static void close_level(struct ferryi_memcg_level *level)
{
	int fds[] = { level->limit_fd, level->usage_fd, level->stat_fd };

	for (unsigned i = 0; i < 3; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
	}
}

static void open_level(struct ferryi_memcg *memcg, const char *dir)
{
	struct ferryi_memcg_level *level = &memcg->level[memcg->nr_levels];

	level->limit_fd = open_in(dir, memcg->is_v2 ? "memory.max" : "memory.limit_in_bytes");
	level->usage_fd = open_in(dir, memcg->is_v2 ? "memory.current" : "memory.usage_in_bytes");
	level->stat_fd = open_in(dir, "memory.stat");
	if (level->limit_fd >= 0 && level->usage_fd >= 0 && level->stat_fd >= 0 && read_number(level->limit_fd) < NO_LIMIT)
		memcg->nr_levels++;
	else
		close_level(level);
}

void ferryi_memcg_open(struct ferryi_memcg *memcg)
{
	char mount[PATH_MAX], root[PATH_MAX], path[PATH_MAX], dir[PATH_MAX];
	size_t root_len;

	memcg->nr_levels = 0;
	atomic_store(&memcg->room, UINT64_MAX);
	atomic_store(&memcg->next_ns, 0);
	if (!find_mount(&memcg->is_v2, mount, root) || !find_cgroup(memcg->is_v2, path))
		return;
	root_len = strcmp(root, "/") ? strlen(root) : 0; /* in a container the mount may show a part only */
	if (strncmp(path, root, root_len))
		return;
	if (snprintf(dir, sizeof(dir), "%s%s", mount, path + root_len) >= (int)sizeof(dir))
		return;
	while (strlen(dir) >= strlen(mount) && memcg->nr_levels < FERRYI_MEMCG_LEVELS) {
		open_level(memcg, dir);
		*strrchr(dir, '/') = '\0';
	}
}

void ferryi_memcg_close(struct ferryi_memcg *memcg)
{
	while (memcg->nr_levels)
		close_level(&memcg->level[--memcg->nr_levels]);
}

/* ---- looking ---- */

static uint64_t number_of(const char *stat, const char *name)
{
	const char *at = strstr(stat, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* Page cache that the kernel takes back before it kills. */
static uint64_t file_bytes(const struct ferryi_memcg *memcg, int fd)
{
	char stat[STAT_BYTES];
	ssize_t n = pread(fd, stat + 1, sizeof(stat) - 2, 0);

	if (n <= 0)
		return 0;
	stat[0] = '\n';
	stat[1 + n] = '\0';
	return memcg->is_v2 ? number_of(stat, "\ninactive_file ") + number_of(stat, "\nactive_file ") :
			      number_of(stat, "\ntotal_inactive_file ") + number_of(stat, "\ntotal_active_file ");
}

static uint64_t room_of(const struct ferryi_memcg *memcg, const struct ferryi_memcg_level *level)
{
	uint64_t limit = read_number(level->limit_fd), usage = read_number(level->usage_fd);

	if (limit >= NO_LIMIT || usage == UINT64_MAX)
		return UINT64_MAX;
	uint64_t room = limit > usage ? limit - usage : 0;

	return room < FERRYI_MEMCG_PRESSED ? room + file_bytes(memcg, level->stat_fd) : room;
}

static uint64_t look_again_after(uint64_t room)
{
	return room >= NEAR_BYTES ? SLOW_LOOK_NS : room >= 2 * FERRYI_MEMCG_PRESSED ? LOOK_NS : FAST_LOOK_NS;
}

/* Several threads may come at once: one looks, the others take what it saw last. */
uint64_t ferryi_memcg_room(struct ferryi_memcg *memcg)
{
	uint64_t now = ferryi_now_ns(), next = atomic_load_explicit(&memcg->next_ns, memory_order_relaxed);
	uint64_t room = UINT64_MAX;

	if (now < next || !atomic_compare_exchange_strong(&memcg->next_ns, &next, now + FAST_LOOK_NS))
		return atomic_load_explicit(&memcg->room, memory_order_relaxed);
	for (unsigned i = 0; i < memcg->nr_levels; i++)
		room = ferryi_min_u64(room, room_of(memcg, &memcg->level[i]));
	atomic_store_explicit(&memcg->room, room, memory_order_relaxed);
	atomic_store_explicit(&memcg->next_ns, now + look_again_after(room), memory_order_relaxed);
	return room;
}
