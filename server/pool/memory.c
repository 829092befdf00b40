/* How much memory would fit. See memory.h. */
#include "memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

/* The number in a one-number file; "max" and what cannot be read leave it untouched. */
static bool read_number(const char *path, uint64_t *out)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fscanf(f, "%" SCNu64, out) == 1;
	fclose(f);
	return ok;
}

/* Value of "key <number>" in a file of such lines; key is matched as a whole word anywhere in the line. */
static bool read_keyed(const char *path, const char *key, uint64_t *out)
{
	FILE *f = fopen(path, "re");
	char line[256];
	size_t key_len = strlen(key);
	bool found = false;

	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, key);

		if (at && (at[key_len] == ' ' || at[key_len] == '\t'))
			found = sscanf(at + key_len, "%" SCNu64, out) == 1;
	}
	fclose(f);
	return found;
}

/* What one cgroup directory leaves; inactive page cache counts as free, the kernel drops it first. */
static void bound_by_cgroup(const char *dir, const char *limit_file, const char *usage_file,
			    const char *cache_key, uint64_t *fits, const char **what)
{
	char path[PATH_MAX + 64];
	uint64_t limit, usage, cache = 0, room;

	snprintf(path, sizeof(path), "%s/%s", dir, limit_file);
	if (!read_number(path, &limit))
		return;
	snprintf(path, sizeof(path), "%s/%s", dir, usage_file);
	if (!read_number(path, &usage))
		return;
	snprintf(path, sizeof(path), "%s/memory.stat", dir);
	read_keyed(path, cache_key, &cache);
	usage -= cache < usage ? cache : usage;
	room = limit > usage ? limit - usage : 0;
	if (room < *fits) {
		*fits = room;
		*what = "the cgroup's memory limit";
	}
}

static void bound_by_cgroups(uint64_t *fits, const char **what)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		char dir[PATH_MAX + 64];
		char *path;
		bool v2 = strncmp(line, "0::", 3) == 0;
		size_t root_len;

		line[strcspn(line, "\n")] = '\0';
		if (v2) {
			path = line + 3;
			root_len = strlen(CGROUP_ROOT);
			snprintf(dir, sizeof(dir), CGROUP_ROOT "%s", path);
		} else if ((path = strstr(line, ":memory:"))) {
			path += strlen(":memory:");
			root_len = strlen(CGROUP_ROOT "/memory");
			snprintf(dir, sizeof(dir), CGROUP_ROOT "/memory%s", path);
		} else {
			continue;
		}
		/* The limit of every parent holds too. */
		for (;;) {
			char *slash;

			if (v2)
				bound_by_cgroup(dir, "memory.max", "memory.current", "inactive_file", fits,
						what);
			else
				bound_by_cgroup(dir, "memory.limit_in_bytes", "memory.usage_in_bytes",
						"total_inactive_file", fits, what);
			slash = strrchr(dir, '/');
			if (!slash || (size_t)(slash - dir) < root_len)
				break;
			*slash = '\0';
		}
	}
	fclose(f);
}

uint64_t ferryi_memory_fits(int numa_node, const char **what)
{
	const char *bound = "MemAvailable";
	uint64_t fits = 0, kib;

	if (read_keyed("/proc/meminfo", "MemAvailable:", &kib))
		fits = kib * 1024;
	if (numa_node >= 0) {
		char path[96];
		uint64_t cache_kib = 0;

		snprintf(path, sizeof(path), "/sys/devices/system/node/node%d/meminfo", numa_node);
		if (read_keyed(path, "MemFree:", &kib)) {
			read_keyed(path, "Inactive(file):", &cache_kib);
			if ((kib + cache_kib) * 1024 < fits) {
				fits = (kib + cache_kib) * 1024;
				bound = "free memory of the NUMA node";
			}
		}
	}
	bound_by_cgroups(&fits, &bound);
	if (what)
		*what = bound;
	return ferryi_align_down(fits - fits / 64, FERRYI_SUBSECTION_SIZE);
}

uint64_t ferryi_memory_free_huge_pages(int numa_node, uint64_t page_bytes)
{
	char path[128];
	uint64_t n = 0;

	if (numa_node >= 0)
		snprintf(path, sizeof(path),
			 "/sys/devices/system/node/node%d/hugepages/hugepages-%" PRIu64 "kB/free_hugepages",
			 numa_node, page_bytes / 1024);
	else
		snprintf(path, sizeof(path),
			 "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/free_hugepages",
			 page_bytes / 1024);
	read_number(path, &n);
	return n;
}
