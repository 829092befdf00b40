/*
 * PFN space: two-level section table (root of rows, rows of sections on
 * demand) and the vmemmap array. Readers are lock-free: a sub-section's pool
 * pointer is published last (release) and read first (acquire); its other
 * members do not change while it is valid.
 */
#include "device.h"

#include <errno.h>
#include <sys/mman.h>

#include "bitmap.h"
#include "log.h"

#define SECTION_BITS   (FERRYI_PFN_BITS - (FERRYI_SECTION_SHIFT - FERRYI_PAGE_SHIFT)) /* 19 */
#define NR_SECTIONS    (1u << SECTION_BITS)
#define ROW_SECTIONS   64u
#define NR_ROWS        (NR_SECTIONS / ROW_SECTIONS)
#define VMEMMAP_BYTES  ((size_t)sizeof(struct ferry_page) << FERRYI_PFN_BITS)
#define SUBSECTION_DESCRIPTOR_BYTES ((size_t)FERRYI_PAGES_PER_SUBSECTION * sizeof(struct ferry_page))

struct section {
	struct ferryi_subsection sub[FERRYI_SUBSECTIONS_PER_SECTION];
};

struct row {
	struct section section[ROW_SECTIONS];
};

struct ferryi_memory_model {
	/* immutable */
	struct ferryi_arena *arena;
	struct ferry_page *vmemmap;
	uint64_t nr_pfns; /* what the reservation covers */

	/* protected by lock */
	struct ferryi_mutex lock;
	uint64_t window_map[FERRYI_BITMAP_WORDS(NR_SECTIONS)]; /* sections given to pool windows */

	/* atomic: published with release, read on the fault path */
	_Atomic(struct row *) rows[NR_ROWS];
	_Atomic uint64_t valid_subsections;
	_Atomic uint64_t table_bytes;
};

int ferryi_memory_model_open(struct ferryi_arena *arena, struct ferryi_memory_model **out)
{
	struct ferryi_memory_model *model = ferryi_arena_alloc(arena, sizeof(*model));
	size_t len = VMEMMAP_BYTES;
	void *vmemmap = MAP_FAILED;

	if (!model)
		return -ENOMEM;
	/* RLIMIT_AS may forbid the whole of it: half, and half again, down to 64 GiB of pools. */
	for (; len >= ((size_t)sizeof(struct ferry_page) << 24); len /= 2) {
		vmemmap = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (vmemmap != MAP_FAILED)
			break;
	}
	if (vmemmap == MAP_FAILED) {
		ferryi_arena_free(arena, model, sizeof(*model));
		return -ENOMEM;
	}
	madvise(vmemmap, len, MADV_DONTDUMP);
	ferryi_mutex_init(&model->lock, FERRYI_RANK_SECTIONS);
	model->arena = arena;
	model->vmemmap = vmemmap;
	model->nr_pfns = len / sizeof(struct ferry_page);
	ferryi_bitmap_set(model->window_map, 0);
	*out = model;
	return 0;
}

void ferryi_memory_model_close(struct ferryi_memory_model **model_p)
{
	struct ferryi_memory_model *model = *model_p;

	if (!model)
		return;
	*model_p = NULL;
	for (unsigned i = 0; i < NR_ROWS; i++)
		ferryi_arena_free(model->arena, atomic_load(&model->rows[i]), sizeof(struct row));
	munmap(model->vmemmap, model->nr_pfns * sizeof(struct ferry_page));
	ferryi_mutex_fini(&model->lock);
	ferryi_arena_free(model->arena, model, sizeof(*model));
}

static struct ferryi_subsection *subsection_slot(const struct ferryi_memory_model *model, uint64_t pfn)
{
	if (pfn >= model->nr_pfns)
		return NULL;
	uint64_t section = pfn / FERRYI_PAGES_PER_SECTION;
	/* pairs with the release in subsection_populate */
	struct row *row = atomic_load_explicit(&model->rows[section / ROW_SECTIONS], memory_order_acquire);

	if (!row)
		return NULL;
	return &row->section[section % ROW_SECTIONS]
			.sub[pfn / FERRYI_PAGES_PER_SUBSECTION % FERRYI_SUBSECTIONS_PER_SECTION];
}

const struct ferryi_subsection *ferryi_subsection_of(const struct ferryi_memory_model *model, uint64_t pfn)
{
	struct ferryi_subsection *sub = subsection_slot(model, pfn);

	/* pairs with the release store in populate: a pool seen means the rest is seen */
	if (!sub || !ferryi_subsection_pool(sub))
		return NULL;
	return sub;
}

struct ferry_page *ferryi_pfn_to_page(const struct ferryi_memory_model *model, uint64_t pfn)
{
	return ferryi_subsection_of(model, pfn) ? model->vmemmap + pfn : NULL;
}

uint64_t ferryi_page_to_pfn(const struct ferryi_memory_model *model, const struct ferry_page *page)
{
	return (uint64_t)(page - model->vmemmap);
}

struct ferry_page *ferryi_memory_model_map(const struct ferryi_memory_model *model)
{
	return model->vmemmap;
}

static uint64_t sections_for(uint64_t nr_subsections)
{
	return (nr_subsections + FERRYI_SUBSECTIONS_PER_SECTION - 1) / FERRYI_SUBSECTIONS_PER_SECTION;
}

int ferryi_pfn_window_alloc(struct ferryi_memory_model *model, uint64_t nr_subsections, uint64_t *pfn_first)
{
	size_t nr = model->nr_pfns / FERRYI_PAGES_PER_SECTION;
	size_t want = sections_for(nr_subsections), start = 0;

	if (!want || want > nr)
		return -ENOMEM;
	ferryi_mutex_lock(&model->lock);
	size_t got = ferryi_bitmap_find_run(model->window_map, nr, 0, want, &start);

	if (got == want)
		ferryi_bitmap_set_range(model->window_map, start, want);
	ferryi_mutex_unlock(&model->lock);
	if (got != want)
		return -ENOMEM;
	*pfn_first = start * FERRYI_PAGES_PER_SECTION;
	return 0;
}

void ferryi_pfn_window_free(struct ferryi_memory_model *model, uint64_t pfn_first, uint64_t nr_subsections)
{
	ferryi_mutex_lock(&model->lock);
	ferryi_bitmap_clear_range(model->window_map, pfn_first / FERRYI_PAGES_PER_SECTION, sections_for(nr_subsections));
	ferryi_mutex_unlock(&model->lock);
}

static struct row *row_of_locked(struct ferryi_memory_model *model, uint64_t pfn)
{
	_Atomic(struct row *) *slot = &model->rows[pfn / FERRYI_PAGES_PER_SECTION / ROW_SECTIONS];
	struct row *row = atomic_load_explicit(slot, memory_order_relaxed);

	ferryi_assert_held(&model->lock);
	if (!row) {
		row = ferryi_arena_alloc(model->arena, sizeof(*row));
		if (!row)
			return NULL;
		atomic_fetch_add(&model->table_bytes, sizeof(*row));
		atomic_store_explicit(slot, row, memory_order_release);
	}
	return row;
}

int ferryi_subsection_populate(struct ferryi_memory_model *model, uint64_t pfn, const struct ferryi_subsection *info)
{
	int rc = -ENOMEM;

	if (pfn % FERRYI_PAGES_PER_SUBSECTION || pfn + FERRYI_PAGES_PER_SUBSECTION > model->nr_pfns)
		return -EINVAL;
	ferryi_mutex_lock(&model->lock);
	if (!row_of_locked(model, pfn))
		goto out;
	if (subsection_slot(model, pfn)->pool) /* a conflict: memremap_pages() says the same */
		goto out;
	if (mprotect(model->vmemmap + pfn, SUBSECTION_DESCRIPTOR_BYTES, PROT_READ | PROT_WRITE))
		goto out;

	struct ferryi_subsection *sub = subsection_slot(model, pfn);

	sub->remote = info->remote;
	sub->remote_off = info->remote_off;
	sub->memfd = info->memfd;
	__atomic_store_n(&sub->pool, info->pool, __ATOMIC_RELEASE);
	atomic_fetch_add(&model->valid_subsections, 1);
	rc = 0;
out:
	ferryi_mutex_unlock(&model->lock);
	return rc;
}

void ferryi_subsection_depopulate(struct ferryi_memory_model *model, uint64_t pfn)
{
	ferryi_mutex_lock(&model->lock);
	struct ferryi_subsection *sub = subsection_slot(model, pfn);

	if (sub && sub->pool) {
		__atomic_store_n(&sub->pool, NULL, __ATOMIC_RELEASE);
		madvise(model->vmemmap + pfn, SUBSECTION_DESCRIPTOR_BYTES, MADV_DONTNEED);
		mprotect(model->vmemmap + pfn, SUBSECTION_DESCRIPTOR_BYTES, PROT_NONE);
		atomic_fetch_sub(&model->valid_subsections, 1);
	}
	ferryi_mutex_unlock(&model->lock);
}

uint64_t ferryi_memory_model_bytes(const struct ferryi_memory_model *model)
{
	return sizeof(*model) + atomic_load(&model->table_bytes) +
	       atomic_load(&model->valid_subsections) * SUBSECTION_DESCRIPTOR_BYTES;
}
