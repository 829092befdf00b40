/* What the system does with memory: limits, huge pages, swap, overcommit, memory cgroup. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arith.h"
#include "doctor.h"

#define BUDGET_DEFAULT ((uint64_t)256 << 20)
#define MEMLOCK_WANTED                                                                      \
	((uint64_t)64 << 20) /* landing slots of the fault and eviction threads, over verbs \
			      */

/* First line of a small file, without its newline; false if there is none. */
static bool read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "r");
	bool ok;

	if (f == NULL)
		return false;
	ok = fgets(buf, (int)len, f) != NULL;
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

static void check_memlock(struct ferryi_report *report)
{
	struct rlimit limit;
	char size[32];

	if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0)
		return;
	if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= MEMLOCK_WANTED || geteuid() == 0) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "memlock", NULL, "%s%s",
				  limit.rlim_cur == RLIM_INFINITY
					  ? "unlimited"
					  : ferryi_format_size(limit.rlim_cur, size, sizeof(size)),
				  geteuid() == 0 ? " (root is not bound by it)" : "");
		return;
	}
	ferryi_format_size(limit.rlim_cur, size, sizeof(size));
	ferryi_doctor_add(
		report, report->rdma_device ? FERRYI_DOCTOR_WARN : FERRYI_DOCTOR_NOTE, "memlock",
		report->rdma_device
			? "ulimit -l unlimited (limits.conf: memlock; systemd: LimitMEMLOCK=infinity; "
			  "Slurm: PropagateResourceLimitsExcept=MEMLOCK)"
			: NULL,
		"%s: RDMA registers about 64M in each process; tcp and local need none", size);
}

static void check_thp(struct ferryi_report *report)
{
	char line[128];

	if (!read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line)))
		return;
	ferryi_doctor_add(report, FERRYI_DOCTOR_NOTE, "thp", NULL,
			  strstr(line, "[always]") != NULL
				  ? "always: huge pages of adopted memory are split when they are evicted"
				  : "transparent huge pages: %s",
			  line);
}

static void check_swap(struct ferryi_report *report)
{
	FILE *f = fopen("/proc/swaps", "r");
	char line[256];
	unsigned areas = 0;

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL)
		areas++;
	fclose(f);
	if (areas > 1)
		ferryi_doctor_add(report, FERRYI_DOCTOR_NOTE, "swap", NULL,
				  "%u swap area%s: budgets that together exceed RAM are swapped as well, "
				  "slower than ferried",
				  areas - 1, areas == 2 ? "" : "s");
	else
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "swap", NULL, "none");
}

static void check_overcommit(struct ferryi_report *report)
{
	char line[32];

	if (!read_line("/proc/sys/vm/overcommit_memory", line, sizeof(line)))
		return;
	if (strcmp(line, "2") == 0)
		ferryi_doctor_add(
			report, FERRYI_DOCTOR_WARN, "overcommit",
			"sysctl vm.overcommit_memory=0 (or raise vm.overcommit_ratio)",
			"strict: managed ranges count in full against the commit limit, away or not");
	else
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "overcommit", NULL, "vm.overcommit_memory=%s",
				  line);
}

static void check_ram(struct ferryi_report *report)
{
	FILE *f = fopen("/proc/meminfo", "r");
	unsigned long long kib = 0;
	char line[128], size[32];

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL && sscanf(line, "MemAvailable: %llu", &kib) != 1)
		;
	fclose(f);
	ferryi_format_size((uint64_t)kib << 10, size, sizeof(size));
	if ((uint64_t)kib << 10 >= 2 * BUDGET_DEFAULT)
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "ram", NULL, "%s available", size);
	else
		ferryi_doctor_add(report, FERRYI_DOCTOR_WARN, "ram",
				  "set FERRY_LOCAL (say 64M), and use a server on another node",
				  "%s available: little beside the default budget of 256M", size);
}

/* The tightest memory.max between this process's cgroup and the root (version 2). */
static void check_cgroup(struct ferryi_report *report)
{
	FILE *f = fopen("/proc/self/cgroup", "r");
	char line[2048], path[2200], value[64], size[32];
	char *dir = NULL;
	uint64_t best = UINT64_MAX, max;

	if (f == NULL)
		return;
	while (dir == NULL && fgets(line, sizeof(line), f) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "0::", 3) == 0)
			dir = line + 3;
	}
	fclose(f);
	while (dir != NULL && dir[0] != '\0') {
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", dir);
		if (read_line(path, value, sizeof(value)) && ferryi_parse_u64(value, &max) == 0)
			best = ferryi_min_u64(best, max);
		char *slash = strrchr(dir, '/');

		if (slash == NULL)
			break;
		*slash = '\0';
	}
	if (best == UINT64_MAX) {
		ferryi_doctor_add(report, FERRYI_DOCTOR_OK, "cgroup", NULL, "no memory limit");
		return;
	}
	ferryi_format_size(best, size, sizeof(size));
	if (best < BUDGET_DEFAULT + ((uint64_t)64 << 20))
		ferryi_doctor_add(report, FERRYI_DOCTOR_WARN, "cgroup",
				  "set FERRY_LOCAL well below memory.max, or raise memory.max",
				  "memory.max %s is below the default budget of 256M and 64M for the rest",
				  size);
	else
		ferryi_doctor_add(report, FERRYI_DOCTOR_NOTE, "cgroup", NULL,
				  "memory.max %s: keep FERRY_LOCAL below it; an embedded server's memory "
				  "counts as well",
				  size);
}

void ferryi_doctor_system(struct ferryi_report *report)
{
	check_memlock(report);
	check_ram(report);
	check_cgroup(report);
	check_thp(report);
	check_swap(report);
	check_overcommit(report);
}
