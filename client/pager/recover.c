/* See recover.h. One at a time works on kept pages: under leave_lock, which is let go between windows. */
#include "recover.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "access.h"
#include "error.h"
#include "log.h"
#include "migrate.h"
#include "service.h"

#define WINDOW FERRYI_PAGES_PER_BLOCK /* pages of the target that are flushed together */
#define READ   64u		      /* pages that are read at a time */

struct recovery {
	struct ferryi_pager *pager;
	struct ferry_pool *pool;
	struct ferryi_altmap *altmap;
	uintptr_t old_va, start;
	size_t nr_pages;
	uint64_t *pfn; /* of the kept page for each page of the target; 0: none */
	uint8_t *buf;  /* READ pages */
	struct ferry_recover_stats *stats;
};

static uint64_t kept_first(const struct ferry_pool *pool)
{
	return ferryi_pool_pfn_first(pool) + ferryi_altmap_kept_first(ferryi_pool_altmap(pool)) * FERRYI_GROUP_PAGES;
}

static uint64_t kept_end(const struct ferry_pool *pool)
{
	return ferryi_pool_pfn_first(pool) + ferryi_altmap_kept_end(ferryi_pool_altmap(pool)) * FERRYI_GROUP_PAGES;
}

/* Its place is not needed any more. ASSUMPTION: leave_lock held; it is a kept page. */
static void drop(struct ferry_pool *pool, uint64_t pfn)
{
	if (ferryi_altmap_drop_kept(ferryi_pool_altmap(pool), pfn))
		ferryi_pool_release_kept(pool, (uint32_t)(pfn / FERRYI_PAGES_PER_SUBSECTION));
}

long ferryi_pager_kept(struct ferryi_pager *pager, struct ferry_pool *pool, struct ferry_kept_page *pages, size_t max,
		       uint64_t *cursor)
{
	struct ferryi_kept_page kept;
	uint64_t pfn = kept_first(pool) + *cursor;
	size_t n = 0;

	ferryi_mutex_lock(&pager->leave_lock);
	for (; pfn < kept_end(pool) && n < max; pfn++) {
		if (ferryi_altmap_kept_page(ferryi_pool_altmap(pool), pfn, &kept))
			pages[n++] = (struct ferry_kept_page){ .va = kept.va, .pfn = pfn, .drvdata = kept.drvdata };
	}
	ferryi_mutex_unlock(&pager->leave_lock);
	*cursor = pfn - kept_first(pool);
	return (long)n;
}

long ferryi_pager_drop_kept(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct ferryi_kept_page kept;
	long n = 0;

	ferryi_mutex_lock(&pager->leave_lock);
	for (uint64_t pfn = kept_first(pool); pfn < kept_end(pool); pfn++) {
		if (!ferryi_altmap_kept_page(ferryi_pool_altmap(pool), pfn, &kept))
			continue;
		drop(pool, pfn);
		n++;
	}
	ferryi_mutex_unlock(&pager->leave_lock);
	return n;
}

/* ---- recovery ---- */

/* Which kept page is whose. Of several of one address, the latest; the others are nobody's any more. true: there are any. */
static bool pick_pages_locked(struct recovery *r)
{
	struct ferryi_kept_page kept, other;
	bool any = false;

	for (uint64_t pfn = kept_first(r->pool); pfn < kept_end(r->pool); pfn++) {
		if (!ferryi_altmap_kept_page(r->altmap, pfn, &kept))
			continue;
		any = true;
		uint64_t i = (kept.va - r->old_va) >> FERRYI_PAGE_SHIFT;

		if (kept.va < r->old_va || i >= r->nr_pages)
			continue;
		if (!r->pfn[i]) {
			r->pfn[i] = pfn;
			continue;
		}
		ferryi_altmap_kept_page(r->altmap, r->pfn[i], &other);
		bool later = ferryi_altmap_is_later(kept.seq, other.seq);

		drop(r->pool, later ? r->pfn[i] : pfn);
		r->pfn[i] = later ? pfn : r->pfn[i];
	}
	return any;
}

static void verdict(struct recovery *r, size_t i, enum ferry_recovered verdict)
{
	if (r->stats->which)
		r->stats->which[i] = (uint8_t)verdict;
	r->stats->recovered += verdict == FERRY_RECOVERED;
	r->stats->missing += verdict == FERRY_RECOVER_MISSING;
	r->stats->lost += verdict == FERRY_RECOVER_LOST;
}

/* Pages from i on whose kept places are neighbours. */
static size_t run_of(const struct recovery *r, size_t i, size_t end)
{
	size_t n = 1;

	while (i + n < end && n < READ && r->pfn[i + n] == r->pfn[i] + n && r->pfn[i + n] % FERRYI_PAGES_PER_SUBSECTION)
		n++;
	return n;
}

/* 0, or why the target cannot take the page. */
static int put_page(struct recovery *r, size_t i, const uint8_t *data)
{
	struct ferryi_access a = { .va = r->start + i * FERRYI_PAGE_SIZE, .len = FERRYI_PAGE_SIZE, .write_from = data };

	return ferryi_pager_access(r->pager, &a);
}

/* Pages [i, i + n), of one run. A page that is not what its descriptor says is given up. */
static int put_run_locked(struct recovery *r, size_t i, size_t n)
{
	struct ferryi_kept_page kept;
	int rc = ferryi_pager_device_io(r->pager, r->pfn[i], r->buf, NULL, n * FERRYI_PAGE_SIZE);

	for (size_t k = 0; k < n && !rc; k++) {
		uint8_t *data = r->buf + k * FERRYI_PAGE_SIZE;

		/* Another recovery may have had it meanwhile. */
		if (!ferryi_altmap_kept_page(r->altmap, r->pfn[i + k], &kept) || kept.va != r->old_va + (i + k) * FERRYI_PAGE_SIZE) {
			r->pfn[i + k] = 0;
			continue;
		}
		if (kept.is_zero)
			memset(data, 0, FERRYI_PAGE_SIZE);
		if (XXH3_64bits(data, FERRYI_PAGE_SIZE) != kept.hash) {
			drop(r->pool, r->pfn[i + k]);
			r->pfn[i + k] = UINT64_MAX;
			continue;
		}
		rc = put_page(r, i + k, data);
		if (rc)
			ferryi_control_fail(rc == -ENOENT ? -EINVAL : rc, "recover: page %#lx cannot be written: %s",
					    (unsigned long)(r->start + (i + k) * FERRYI_PAGE_SIZE), ferryi_strerror(rc));
	}
	return rc == -ENOENT ? -EINVAL : rc;
}

/* It has its new place: the driver's number goes along, and the old place goes. */
static void end_page_locked(struct recovery *r, size_t i)
{
	struct ferryi_kept_page kept;
	struct ferryi_page_ref ref;
	uint64_t word;

	ferryi_altmap_kept_page(r->altmap, r->pfn[i], &kept);
	if (kept.drvdata && ferryi_service_look(r->pager, r->start + i * FERRYI_PAGE_SIZE, &ref, &word)) {
		struct ferry_page *page = ferryi_pfn_to_page(r->pager->model, ferryi_object_pfn(ref.object, ref.index));

		if (page) {
			atomic_store(&page->drvdata, kept.drvdata);
			ferryi_page_changed(r->pager->model, page);
		}
	}
	drop(r->pool, r->pfn[i]);
}

static int window_locked(struct recovery *r, size_t first, size_t end)
{
	bool any = false;
	int rc = 0;

	for (size_t i = first, n; i < end && !rc; i += n) {
		n = 1;
		if (!r->pfn[i])
			continue;
		n = run_of(r, i, end);
		rc = put_run_locked(r, i, n);
		any = true;
	}
	if (any && !rc)
		rc = ferryi_pager_flush(r->pager, r->start + first * FERRYI_PAGE_SIZE, r->start + end * FERRYI_PAGE_SIZE);
	for (size_t i = first; i < end && !rc; i++) {
		if (r->pfn[i] && r->pfn[i] != UINT64_MAX)
			end_page_locked(r, i);
		verdict(r, i, !r->pfn[i] ? FERRY_RECOVER_MISSING : r->pfn[i] == UINT64_MAX ? FERRY_RECOVER_LOST : FERRY_RECOVERED);
	}
	return rc;
}

int ferryi_pager_recover_kept(struct ferryi_pager *pager, struct ferry_pool *pool, uintptr_t old_va, uintptr_t start,
			      size_t nr_pages, struct ferry_recover_stats *stats)
{
	struct recovery r = { .pager = pager, .pool = pool, .altmap = ferryi_pool_altmap(pool), .old_va = old_va,
			      .start = start, .nr_pages = nr_pages, .stats = stats };
	int rc = -ENOMEM;

	if (!ferryi_pager_covers(pager, start, start + nr_pages * FERRYI_PAGE_SIZE))
		return ferryi_control_fail(-EINVAL, "recover: the range is not all managed");
	r.pfn = ferryi_arena_alloc(pager->arena, nr_pages * sizeof(*r.pfn));
	r.buf = ferryi_arena_alloc(pager->arena, READ * FERRYI_PAGE_SIZE);
	if (!r.pfn || !r.buf) {
		ferryi_control_fail(rc, "recover: no address space left for the tables of %zu pages", nr_pages);
		goto out;
	}
	ferryi_mutex_lock(&pager->leave_lock);
	rc = pick_pages_locked(&r) ? 0 : ferryi_control_fail(-ENOENT, "recover: the pool holds no page of an earlier process");
	ferryi_mutex_unlock(&pager->leave_lock);
	for (size_t i = 0; i < nr_pages && !rc; i += WINDOW) {
		ferryi_mutex_lock(&pager->leave_lock);
		rc = window_locked(&r, i, ferryi_min_u64(i + WINDOW, nr_pages));
		ferryi_mutex_unlock(&pager->leave_lock);
	}
out:
	ferryi_arena_free(pager->arena, r.buf, READ * FERRYI_PAGE_SIZE);
	ferryi_arena_free(pager->arena, r.pfn, nr_pages * sizeof(*r.pfn));
	return rc;
}
