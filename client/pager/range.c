/* Ranges: mapped, adopted, given up. In the caller's thread. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "anon.h"
#include "clock.h"
#include "error.h"
#include "exclusive.h"
#include "log.h"
#include "maps.h"
#include "service.h"
#include "uffd.h"

#define PAUSE_MS      1
#define ADOPT_WAIT_MS 20 /* an overlap may be a munmap whose event is still on its way */
#define PAGEMAP_BATCH 256u

static unsigned long long in_mib(uint64_t bytes)
{
	return (unsigned long long)(bytes >> 20);
}

/* Why pool memory for `bytes` was not to be had: our pools end, or (the control room has left its line) the server's do. */
static int no_room(struct ferryi_pager *pager, uint64_t bytes, int rc)
{
	uint64_t room = 0;

	for (unsigned i = 0; i < FERRYI_MAX_POOLS_ATTACHED; i++) {
		struct ferry_pool *pool = ferryi_pager_pool_begin(pager, i);

		if (!pool)
			continue;
		if (!ferryi_pool_lost(pool) && ferryi_pool_is_paged_to(pool))
			room += ferryi_pool_room_bytes(pool);
		ferryi_pager_pool_end(pager, i);
	}
	if (rc == -ENXIO)
		return ferryi_control_fail(-ENOMEM, "no pool is attached, or the servers of all of them are gone");
	if (rc != -ENOMEM || room >= bytes)
		return rc;
	char text[512];

	return ferryi_control_fail(rc, "the pools are full: %llu MiB asked for, %llu MiB would fit (in use: %s)", in_mib(bytes),
				   in_mib(room), ferryi_choose_text(pager, text, sizeof(text)));
}

/* Where its blocks go, by the flags. Stripes are counted through all mappings: a small one begins where the last ended. */
static void set_stripes(struct ferryi_pager *pager, struct ferryi_object *object, unsigned flags)
{
	unsigned shift = flags >> FERRY_MAP_STRIPE_SHIFT;
	uint64_t bytes = shift ? 1ULL << shift : pager->attr.stripe_bytes;

	object->policy = flags & FERRY_MAP_ROUND_ROBIN ? FERRYI_POLICY_ROUND_ROBIN :
			 flags & FERRY_MAP_WEIGHTED    ? FERRYI_POLICY_WEIGHTED :
			 flags & FERRY_MAP_NEAREST     ? FERRYI_POLICY_NEAREST :
			 flags & FERRY_MAP_FILL	       ? FERRYI_POLICY_FILL :
							 pager->attr.policy;
	object->stripe_blocks = (uint32_t)ferryi_max_u64(1, ferryi_min_u64(bytes >> FERRYI_SUBSECTION_SHIFT, UINT32_MAX));
	object->first_stripe = atomic_fetch_add(&pager->chooser.next_stripe,
						(object->nr_blocks - 1) / object->stripe_blocks + 1);
}

/* Tables and pool memory for a new object. */
static int create_object(struct ferryi_pager *pager, size_t nr_pages, unsigned flags, struct ferryi_object **out)
{
	struct ferryi_object *object = ferryi_object_create(&pager->areas, nr_pages);

	if (!object)
		return ferryi_control_fail(-ENOMEM, "no address space left for the tables of %llu MiB",
					   in_mib((uint64_t)nr_pages << FERRYI_PAGE_SHIFT));
	set_stripes(pager, object, flags);
	int rc = flags & FERRY_MAP_NORESERVE ? 0 : ferryi_bind_pages(pager, object, 0, nr_pages);

	if (rc) {
		ferryi_unbind_pages(pager, object, 0, nr_pages, true);
		ferryi_object_destroy(&pager->areas, &object);
		return no_room(pager, (uint64_t)nr_pages << FERRYI_PAGE_SHIFT, rc);
	}
	object->is_inline = flags & FERRY_MAP_INLINE;
	if (flags & FERRY_MAP_NORESERVE) {
		atomic_store(&pager->binds_late, true);
		ferryi_keeper_kick(pager->keeper); /* it leases ahead */
	}
	*out = object;
	return 0;
}

static int try_insert(struct ferryi_pager *pager, const struct ferryi_area *area)
{
	int rc = -EINVAL;

	ferryi_events_settle(pager);
	ferryi_areas_write_lock(&pager->areas);
	if (!ferryi_areas_overlap_locked(&pager->areas, area->start, area->end))
		rc = ferryi_areas_insert_locked(&pager->areas, area);
	ferryi_areas_write_unlock(&pager->areas);
	return rc;
}

/*
 * The kernel may give an address out again before the event of its munmap, by
 * another thread, has been read: an overlap is one only if it stays for wait_ms.
 */
static int insert_area(struct ferryi_pager *pager, const struct ferryi_area *area, uint64_t wait_ms)
{
	uint64_t deadline_ns = ferryi_deadline_ms(wait_ms);
	int rc = try_insert(pager, area);

	while (rc == -EINVAL && ferryi_now_ns() < deadline_ns) {
		poll(NULL, 0, PAUSE_MS);
		rc = try_insert(pager, area);
	}
	if (rc == -EINVAL)
		return ferryi_control_fail(rc, "%#lx-%#lx overlaps a managed range", (unsigned long)area->start,
					   (unsigned long)area->end);
	if (rc)
		return ferryi_control_fail(-ENOMEM, "more than %u separate managed ranges", FERRYI_MAX_AREAS);
	return 0;
}

static void cut_range(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_area piece;

	ferryi_areas_write_lock(&pager->areas);
	while (ferryi_areas_cut_first_locked(&pager->areas, start, end, &piece) == 1)
		ferryi_zombies_add(pager, &piece);
	ferryi_areas_write_unlock(&pager->areas);
}

/* Buries what was cut; what has not settled within the deadline is left to the keeper. */
static void reap(struct ferryi_pager *pager)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);

	while (ferryi_zombies_reap(pager) && ferryi_now_ns() < deadline_ns)
		poll(NULL, 0, PAUSE_MS);
}

/*
 * munmap(2) returns once a fault thread has read its event, and that thread may
 * want the area table's lock: so no lock is held here. The event alone cuts the
 * range out of the table: by now the address may be somebody else's new range.
 */
static void unmap_range(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_notice notice;

	bool may_be_replaced = atomic_load(&pager->coherent.window) != NULL;

	/* Not while a mapping of a coherent pool is replaced by a call of another thread's. */
	if (may_be_replaced)
		ferryi_mutex_lock(&pager->service_lock);
	ferryi_notify_begin(pager->attr.notifier, &notice, start, end - start, FERRY_UPDATE_UNMAP, NULL);
	munmap((void *)start, end - start);
	ferryi_events_settle(pager);
	ferryi_notify_end(&notice);
	if (may_be_replaced)
		ferryi_mutex_unlock(&pager->service_lock);
	reap(pager);
}

int ferryi_pager_map(struct ferryi_pager *pager, void *hint, size_t len, int prot, unsigned flags, void **out)
{
	struct ferryi_object *object;
	int rc = create_object(pager, len >> FERRYI_PAGE_SHIFT, flags, &object);

	if (rc)
		return rc;
	void *addr = mmap(hint, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED) {
		rc = ferryi_control_fail(-errno, "mmap of %llu MiB: %s", in_mib(len), ferryi_strerror(errno));
		goto err_object;
	}
	madvise(addr, len, MADV_DONTFORK);
	madvise(addr, len, MADV_NOHUGEPAGE);

	struct ferryi_area area = { .start = (uintptr_t)addr,
				    .end = (uintptr_t)addr + len,
				    .object = object,
				    .flags = FERRYI_AREA_OWN_MAPPING };

	const int uffd = ferryi_uffd_of(pager, object); /* once it is in the table, an munmap may end the object */

	rc = insert_area(pager, &area, pager->attr.fault_timeout_ms);
	if (rc)
		goto err_map;
	rc = ferryi_uffd_register(uffd, addr, len, true);
	if (rc) {
		ferryi_control_fail(rc, "userfaultfd: cannot register %llu MiB: %s", in_mib(len), ferryi_strerror(rc));
		cut_range(pager, area.start, area.end); /* never armed: no event would do it */
		munmap(addr, len);
		reap(pager);
		return rc;
	}
	*out = addr;
	return 0;

err_map:
	munmap(addr, len);
err_object:
	ferryi_unbind_pages(pager, object, 0, object->nr_pages, true);
	ferryi_object_destroy(&pager->areas, &object);
	return rc;
}

int ferryi_pager_unmap(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	if (!ferryi_pager_covers(pager, start, end))
		return ferryi_control_fail(-EINVAL, "munmap: the range is not all managed");
	if (ferryi_service_any_pinned(pager, start, end))
		return ferryi_control_fail(-EBUSY, "munmap: pages are pinned; unpin them first");
	unmap_range(pager, start, end);
	return 0;
}

int ferryi_pager_protect(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, int prot)
{
	struct ferryi_notice notice;

	if (atomic_load(&pager->exclusive->nr_used))
		ferryi_exclusive_release(pager, start, end, NULL, NULL);
	ferryi_notify_begin(pager->attr.notifier, &notice, start, end - start, FERRY_UPDATE_PROTECT, NULL);
	bool may_be_replaced = atomic_load(&pager->coherent.window) != NULL; /* as in unmap_range */

	if (may_be_replaced)
		ferryi_mutex_lock(&pager->service_lock);
	int rc = mprotect((void *)start, end - start, prot) ? -errno : 0;

	if (may_be_replaced)
		ferryi_mutex_unlock(&pager->service_lock);

	ferryi_notify_end(&notice);
	if (rc)
		return ferryi_control_fail(rc, "mprotect: %#lx-%#lx: %s", (unsigned long)start, (unsigned long)end,
					   ferryi_strerror(rc));
	return 0;
}

/* ---- adopt ---- */

static int charge_waiting(struct ferryi_pager *pager, uint64_t deadline_ns)
{
	while (!ferryi_budget_charge(&pager->budget, 1)) {
		if (ferryi_now_ns() >= deadline_ns)
			return ferryi_control_fail(-ENOMEM, "adopt: resident pages did not fit the budget in time");
		ferryi_pager_need_memory(pager);
		poll(NULL, 0, PAUSE_MS);
	}
	if (ferryi_budget_is_low(&pager->budget))
		ferryi_pager_need_memory(pager);
	return 0;
}

/* Pages of [start, end) that are in RAM (or in swap) are RESIDENT from now on, and charged one by one as room is made. */
static int count_resident(struct ferryi_pager *pager, const struct ferryi_area *area, uintptr_t start, uintptr_t end, int pagemap)
{
	struct ferryi_object *object = area->object;
	size_t last = (end - area->start) >> FERRYI_PAGE_SHIFT;
	uint64_t entry[PAGEMAP_BATCH];
	int rc = 0;

	for (size_t i = (start - area->start) >> FERRYI_PAGE_SHIFT; i < last && !rc; i += PAGEMAP_BATCH) {
		size_t n = last - i < PAGEMAP_BATCH ? last - i : PAGEMAP_BATCH;
		off_t off = (off_t)((area->start >> FERRYI_PAGE_SHIFT) + i) * 8;

		if (pread(pagemap, entry, n * 8, off) != (ssize_t)(n * 8))
			return ferryi_control_fail(-EIO, "adopt: cannot read /proc/self/pagemap");
		for (size_t k = 0; k < n && !rc; k++) {
			size_t index = area->first_page + i + k;
			uint64_t absent = FERRYI_PAGE_ABSENT;

			if (!(entry[k] >> 62)) /* bits 63 present, 62 swapped */
				continue;
			rc = charge_waiting(pager, ferryi_deadline_ms(pager->attr.fault_timeout_ms));
			if (rc)
				break;
			atomic_fetch_add(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1);
			if (!ferryi_page_cas(&object->words[index], &absent, FERRYI_PAGE_RESIDENT | FERRYI_PAGE_DIRTY)) {
				/* a fault came first and has counted it */
				atomic_fetch_sub(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1);
				ferryi_budget_uncharge(&pager->budget, 1);
			}
		}
	}
	return rc;
}

/* Why [start, end) cannot be adopted, before anything has changed. */
static int check_adoptable(uintptr_t start, uintptr_t end, bool *any_file)
{
	struct ferryi_mapping mapping;
	uintptr_t at = start;
	int rc = ferryi_maps_check(start, end, any_file, &at);

	for (uintptr_t va = start; *any_file && !rc && va < end; va = mapping.end) {
		rc = ferryi_maps_find(va, &mapping);
		if (!rc && mapping.is_file)
			rc = ferryi_anon_check(va, ferryi_min_u64(end, mapping.end), &at);
	}
	switch (rc) {
	case 0:
		return 0;
	case -EFAULT:
		return ferryi_control_fail(rc, "adopt: %#lx is not mapped, or beyond the end of the file that is mapped there",
					   (unsigned long)at);
	case -EOPNOTSUPP:
		return ferryi_control_fail(rc, "adopt: %#lx is shared, an executable file's, locked or special; only "
					       "private memory can be managed", (unsigned long)at);
	case -EACCES:
		return ferryi_control_fail(rc, "adopt: %#lx is not readable and writable", (unsigned long)at);
	default:
		return ferryi_control_fail(rc, "adopt: cannot read /proc/self/maps: %s", ferryi_strerror(rc));
	}
}

/* Arms anonymous memory [*done, end) of the area; *done moves on when that has been. */
static int arm(struct ferryi_pager *pager, const struct ferryi_area *area, uintptr_t *done, uintptr_t end, int pagemap)
{
	uintptr_t start = *done;
	int rc = ferryi_uffd_register(ferryi_uffd_of(pager, area->object), (void *)start, end - start, true);

	if (rc)
		return ferryi_control_fail(rc == -EBUSY ? rc : -EOPNOTSUPP,
					   rc == -EBUSY ? "adopt: the range belongs to another userfaultfd (%s)" :
							  "adopt: userfaultfd cannot take the range (%s)",
					   ferryi_strerror(rc));
	madvise((void *)start, end - start, MADV_DONTFORK);
	*done = end;
	return count_resident(pager, area, start, end, pagemap);
}

/* The same for a file's memory, piece by piece, so that no more of it than a piece is outside the budget. */
static int arm_file(struct ferryi_pager *pager, const struct ferryi_area *area, uintptr_t *done, uintptr_t end, int pagemap)
{
	struct ferryi_anon anon;
	long n = ferryi_anon_begin(&anon, pager->arena, pagemap, *done, end);
	int rc = (int)n;

	if (rc)
		return ferryi_control_fail(rc, "adopt: no address space left to copy a file's pages");
	while (!rc && *done < end) {
		n = ferryi_anon_next(&anon, *done);
		if (n < 0)
			rc = ferryi_control_fail((int)n, "adopt: %#lx, a file's, cannot be made anonymous (%s)",
						 (unsigned long)*done, ferryi_strerror((int)n));
		else
			rc = arm(pager, area, done, *done + (size_t)n, pagemap);
	}
	ferryi_anon_end(&anon);
	return rc;
}

static int arm_each(struct ferryi_pager *pager, const struct ferryi_area *area, uintptr_t *done, int pagemap)
{
	struct ferryi_mapping mapping;
	int rc = 0;

	while (!rc && *done < area->end) {
		rc = ferryi_maps_find(*done, &mapping);
		if (rc)
			return ferryi_control_fail(rc, "adopt: %#lx was unmapped meanwhile", (unsigned long)*done);
		rc = (mapping.is_file ? arm_file : arm)(pager, area, done, ferryi_min_u64(area->end, mapping.end), pagemap);
	}
	return rc;
}

/*
 * Pages of an object before the first one that is mapped: where there are whole 2 MiB of address space, as of a huge
 * page, blocks are to be these.
 */
static size_t pages_before(uintptr_t start, uintptr_t end)
{
	bool has_huge = ferryi_align_up(start, FERRYI_SUBSECTION_SIZE) + FERRYI_SUBSECTION_SIZE <= end;

	return has_huge ? (start >> FERRYI_PAGE_SHIFT) % FERRYI_PAGES_PER_BLOCK : 0;
}

int ferryi_pager_adopt(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, unsigned flags)
{
	size_t before = pages_before(start, end);
	struct ferryi_object *object;
	uintptr_t done = start;
	bool any_file;
	int rc = check_adoptable(start, end, &any_file);

	if (rc)
		return rc;
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (pagemap < 0)
		return ferryi_control_fail(-errno, "adopt: cannot open /proc/self/pagemap: %s", ferryi_strerror(errno));
	rc = create_object(pager, before + ((end - start) >> FERRYI_PAGE_SHIFT), flags, &object);
	if (rc)
		goto out_pagemap;

	struct ferryi_area area = { .start = start, .end = end, .object = object, .first_page = before };

	rc = insert_area(pager, &area, ADOPT_WAIT_MS);
	if (rc) {
		ferryi_unbind_pages(pager, object, 0, object->nr_pages, true);
		ferryi_object_destroy(&pager->areas, &object);
		goto out_pagemap;
	}
	rc = any_file ? arm_each(pager, &area, &done, pagemap) : arm(pager, &area, &done, end, pagemap);
	if (rc) { /* the application's again, as plain memory; what was not armed is cut off without an event */
		if (done > start)
			ferryi_pager_unadopt(pager, start, done);
		cut_range(pager, done, end);
		reap(pager);
	}
out_pagemap:
	close(pagemap);
	return rc;
}

/* ---- giving up ---- */

/* ASSUMPTION: write lock held, so that nothing starts to leave. Every page is in RAM, or never was. */
static bool is_home_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;

	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_areas_find_locked(&pager->areas, va, &ref))
			continue;
		enum ferryi_page_state state = ferryi_page_state(ferryi_page_load(ferryi_ref_word(&ref)));

		if (state != FERRYI_PAGE_RESIDENT && state != FERRYI_PAGE_ABSENT)
			return false;
	}
	return true;
}

/*
 * Brings [start, end) home with eviction stopped and the budget lifted, then
 * stops managing it, in one step as seen by eviction and faults.
 */
static int release_range(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct ferryi_area piece;
	int rc;

	for (;;) {
		rc = ferryi_service_bring(pager, start, end, false);
		if (rc)
			return rc;
		ferryi_areas_write_lock(&pager->areas);
		if (is_home_locked(pager, start, end))
			break;
		ferryi_areas_write_unlock(&pager->areas);
		if (ferryi_now_ns() >= deadline_ns)
			return -EIO;
		poll(NULL, 0, PAUSE_MS);
	}
	madvise((void *)start, end - start, MADV_DOFORK);
	while (ferryi_areas_cut_first_locked(&pager->areas, start, end, &piece) == 1) {
		ferryi_uffd_unregister(ferryi_uffd_of(pager, piece.object), (void *)piece.start, piece.end - piece.start);
		ferryi_zombies_add(pager, &piece);
	}
	ferryi_areas_write_unlock(&pager->areas);
	reap(pager);
	return 0;
}

int ferryi_pager_unadopt(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	if (!ferryi_pager_covers(pager, start, end))
		return ferryi_control_fail(-EINVAL, "unadopt: the range is not all managed");
	if (ferryi_service_any_pinned(pager, start, end))
		return ferryi_control_fail(-EBUSY, "unadopt: pages are pinned; unpin them first");
	ferryi_home_begin(pager);
	int rc = release_range(pager, start, end);

	ferryi_home_end(pager);
	if (rc)
		return ferryi_control_fail(rc, "unadopt: a page is lost, the range stays managed");
	return 0;
}

int ferryi_pager_release_all(struct ferryi_pager *pager)
{
	int rc = 0;

	ferryi_home_begin(pager);
	while (!rc) {
		ferryi_areas_read_lock(&pager->areas);
		bool any = pager->areas.nr_areas > 0;
		struct ferryi_area first = any ? pager->areas.areas[0] : (struct ferryi_area){ 0 };

		ferryi_areas_read_unlock(&pager->areas);
		if (!any)
			break;
		/* All at home first, then given up one by one: a lost page is found before anything has changed. */
		for (uintptr_t va = first.start; !rc && va;) {
			struct ferryi_area area = { 0 };

			ferryi_areas_read_lock(&pager->areas);
			for (unsigned i = 0; i < pager->areas.nr_areas && !area.end; i++) {
				if (pager->areas.areas[i].start >= va)
					area = pager->areas.areas[i];
			}
			ferryi_areas_read_unlock(&pager->areas);
			if (area.end)
				rc = ferryi_service_bring(pager, area.start, area.end, false);
			va = area.end;
		}
		if (!rc)
			rc = release_range(pager, first.start, first.end);
	}
	ferryi_home_end(pager);
	return rc;
}
