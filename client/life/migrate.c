/* The public calls of migration: arguments are checked here, the pager does the work. */
#include "migrate.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "error.h"
#include "life.h"

#define SELECT_ALL                                                                                                     \
	(FERRY_MIGRATE_SELECT_SYSTEM | FERRY_MIGRATE_SELECT_DEVICE_PRIVATE | FERRY_MIGRATE_SELECT_DEVICE_COHERENT)

static int check_range(const void *addr, size_t len, const char *call)
{
	uintptr_t start = (uintptr_t)addr;

	if (!len || start % FERRY_PAGE_SIZE || len % FERRY_PAGE_SIZE || start + len < start)
		return ferryi_control_fail(-EINVAL, "%s: %p + %zu is not a range of whole pages", call, addr, len);
	return 0;
}

static int check_flags(unsigned flags, const struct ferry_migrate_stats *stats, const char *call)
{
	if (flags & ~SELECT_ALL)
		return ferryi_control_fail(-EINVAL, "%s: unknown flag in %#x", call, flags);
	if (stats && stats->size < offsetof(struct ferry_migrate_stats, folios))
		return ferryi_control_fail(-EINVAL, "%s: set stats.size to sizeof(struct ferry_migrate_stats)", call);
	return 0;
}

/* Callers of an older library have fewer members; of a newer one, more. */
static void take_stats(struct ferry_migrate_stats *all, const struct ferry_migrate_stats *stats)
{
	*all = (struct ferry_migrate_stats){ 0 };
	if (stats)
		memcpy(all, stats, ferryi_min_u64(stats->size, sizeof(*all)));
}

static void give_stats(struct ferry_migrate_stats *stats, const struct ferry_migrate_stats *all)
{
	if (stats)
		memcpy(stats, all, ferryi_min_u64(all->size, sizeof(*all)));
}

/* One of the process's own; holding it is the caller's affair. */
static bool is_attached(struct ferry *ferry, const struct ferry_pool *pool)
{
	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		if (pool && atomic_load(&ferry->pools[i]) == pool)
			return true;
	}
	return false;
}

static int check_pool(struct ferry *ferry, struct ferry_pool *pool, const char *call)
{
	int rc = ferryi_ferry_check(ferry, call);

	if (!rc && !is_attached(ferry, pool))
		rc = ferryi_control_fail(-EINVAL, "%s: no such pool", call);
	if (!rc && ferryi_pool_lost(pool))
		rc = ferryi_control_fail(-ENOTCONN, "%s: the pool's server is gone", call);
	return rc;
}

int ferry_migrate_to_device(struct ferry_pool *pool, void *addr, size_t len, unsigned flags,
			    struct ferry_migrate_stats *stats)
{
	struct ferry *ferry = ferryi_the_ferry();
	struct ferry_migrate_stats all;
	int rc = check_pool(ferry, pool, "migrate_to_device");

	rc = rc ? rc : check_range(addr, len, "migrate_to_device");
	rc = rc ? rc : check_flags(flags, stats, "migrate_to_device");
	if (rc)
		return rc;
	take_stats(&all, stats);
	rc = ferryi_pager_migrate_to_device(ferry->pager, pool, (uintptr_t)addr, (uintptr_t)addr + len, flags, &all);
	give_stats(stats, &all);
	return rc;
}

int ferry_migrate_to_ram(struct ferry *ferry, void *addr, size_t len, const void *owner, unsigned flags,
			 struct ferry_migrate_stats *stats)
{
	struct ferry_migrate_stats all;
	int rc = ferryi_ferry_check(ferry, "migrate_to_ram");

	rc = rc ? rc : check_range(addr, len, "migrate_to_ram");
	rc = rc ? rc : check_flags(flags, stats, "migrate_to_ram");
	if (rc)
		return rc;
	take_stats(&all, stats);
	rc = ferryi_pager_migrate_to_ram(ferry->pager, (uintptr_t)addr, (uintptr_t)addr + len, owner, flags, &all);
	give_stats(stats, &all);
	return rc;
}

int ferry_migrate_setup(struct ferry_migrate *migrate)
{
	struct ferry *ferry = ferryi_the_ferry();

	if (!migrate || migrate->size < sizeof(*migrate) || !migrate->src || !migrate->dst || !migrate->data)
		return ferryi_control_fail(-EINVAL, "migrate_setup: set size, src, dst and data");
	int rc = check_pool(ferry, migrate->pool, "migrate_setup");

	rc = rc ? rc : check_range((void *)migrate->start, migrate->end - migrate->start, "migrate_setup");
	bool compound = migrate->flags & FERRY_MIGRATE_SELECT_COMPOUND;

	rc = rc ? rc : check_flags(migrate->flags & ~(unsigned)FERRY_MIGRATE_SELECT_COMPOUND, NULL, "migrate_setup");
	if (!rc && compound && (migrate->start % FERRY_SUBSECTION || migrate->end - migrate->start != FERRY_SUBSECTION))
		rc = ferryi_control_fail(-EINVAL, "migrate_setup: SELECT_COMPOUND is for one huge page, aligned");
	if (!rc && !compound && (migrate->end - migrate->start) / FERRY_PAGE_SIZE > FERRY_MIGRATE_MAX_PAGES)
		rc = ferryi_control_fail(-EINVAL, "migrate_setup: more than %u pages", FERRY_MIGRATE_MAX_PAGES);
	return rc ? rc : ferryi_pager_migrate_setup(ferry->pager, migrate);
}

/* The steps after setup need the open struct ferry that setup had. */
static struct ferry *under_way(const struct ferry_migrate *migrate, const char *call)
{
	struct ferry *ferry = ferryi_the_ferry();

	if (!migrate) {
		ferryi_control_fail(-EINVAL, "%s: migrate is NULL", call);
		return NULL;
	}
	return ferryi_ferry_check(ferry, call) ? NULL : ferry;
}

int ferry_migrate_pages(struct ferry_migrate *migrate)
{
	struct ferry *ferry = under_way(migrate, "migrate_pages");

	return ferry ? ferryi_pager_migrate_pages(ferry->pager, migrate) : -EINVAL;
}

int ferry_migrate_finalize(struct ferry_migrate *migrate)
{
	struct ferry *ferry = under_way(migrate, "migrate_finalize");

	return ferry ? ferryi_pager_migrate_finalize(ferry->pager, migrate) : -EINVAL;
}

static int device_io(struct ferry *ferry, uint64_t pfn, void *read_to, const void *write_from, size_t len, const char *call)
{
	int rc = ferryi_ferry_check(ferry, call);

	if (!rc && ((!read_to && !write_from) || !len || len > FERRY_PAGE_SIZE))
		rc = ferryi_control_fail(-EINVAL, "%s: a buffer of 1 to %u bytes", call, FERRY_PAGE_SIZE);
	return rc ? rc : ferryi_pager_device_io(ferry->pager, pfn, read_to, write_from, len);
}

int ferry_device_write(struct ferry *ferry, uint64_t pfn, const void *buf, size_t len)
{
	return device_io(ferry, pfn, NULL, buf, len, "device_write");
}

int ferry_device_read(struct ferry *ferry, uint64_t pfn, void *buf, size_t len)
{
	return device_io(ferry, pfn, buf, NULL, len, "device_read");
}

int ferry_recover(struct ferry *ferry, uintptr_t va, const void *data, size_t len)
{
	int rc = ferryi_ferry_check(ferry, "recover");

	rc = rc ? rc : check_range((void *)va, len, "recover");
	if (!rc && !data)
		rc = ferryi_control_fail(-EINVAL, "recover: data is NULL");
	return rc ? rc : ferryi_pager_recover(ferry->pager, va, va + len, data);
}
