/* See area.h. The array is copied in place under the sequence count; it is small. */
#include "area.h"

#include <errno.h>
#include <string.h>

int ferryi_areas_init(struct ferryi_area_table *table, struct ferryi_arena *arena)
{
	pthread_rwlockattr_t attr;

	memset(table, 0, sizeof(*table));
	table->arena = arena;
	table->areas = ferryi_arena_alloc(arena, FERRYI_MAX_AREAS * sizeof(struct ferryi_area));
	if (!table->areas)
		return -ENOMEM;
	pthread_rwlockattr_init(&attr);
	/* Faults never stop under load; a writer must get through all the same. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&table->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return 0;
}

void ferryi_areas_fini(struct ferryi_area_table *table)
{
	if (!table->areas)
		return;
	pthread_rwlock_destroy(&table->lock);
	ferryi_arena_free(table->arena, table->areas, FERRYI_MAX_AREAS * sizeof(struct ferryi_area));
	table->areas = NULL;
}

void ferryi_areas_write_lock(struct ferryi_area_table *table)
{
	pthread_rwlock_wrlock(&table->lock);
	/* odd: peekers retry; pairs with the acquire loads in ferryi_areas_peek */
	atomic_fetch_add_explicit(&table->seq, 1, memory_order_acq_rel);
}

void ferryi_areas_write_unlock(struct ferryi_area_table *table)
{
	atomic_fetch_add_explicit(&table->seq, 1, memory_order_acq_rel);
	pthread_rwlock_unlock(&table->lock);
}

static size_t object_bytes(size_t nr_pages)
{
	size_t nr_blocks = (nr_pages + FERRYI_PAGES_PER_BLOCK - 1) / FERRYI_PAGES_PER_BLOCK;

	return sizeof(struct ferryi_object) + nr_blocks * sizeof(struct ferryi_block) +
	       nr_pages * sizeof(ferryi_page_word);
}

struct ferryi_object *ferryi_object_create(struct ferryi_area_table *table, size_t nr_pages)
{
	struct ferryi_object *object = ferryi_arena_alloc(table->arena, object_bytes(nr_pages));

	if (!object)
		return NULL;
	object->nr_pages = nr_pages;
	object->nr_blocks = (nr_pages + FERRYI_PAGES_PER_BLOCK - 1) / FERRYI_PAGES_PER_BLOCK;
	object->blocks = (struct ferryi_block *)(object + 1);
	object->words = (ferryi_page_word *)(object->blocks + object->nr_blocks);
	atomic_fetch_add(&table->table_bytes, object_bytes(nr_pages));
	return object;
}

void ferryi_object_destroy(struct ferryi_area_table *table, struct ferryi_object **object_p)
{
	struct ferryi_object *object = *object_p;

	if (!object)
		return;
	*object_p = NULL;
	atomic_fetch_sub(&table->table_bytes, object_bytes(object->nr_pages));
	ferryi_arena_free(table->arena, object, object_bytes(object->nr_pages));
}

/*
 * Readers under the sequence count look at areas that are being changed, and
 * drop what they saw: a race by design, which ThreadSanitizer cannot know.
 */
#define SEQUENCE_READER __attribute__((no_sanitize("thread")))

/* Index of the first area that ends after va. */
SEQUENCE_READER static unsigned lower_bound(const struct ferryi_area *areas, unsigned n, uintptr_t va)
{
	unsigned lo = 0, hi = n;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (areas[mid].end <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

SEQUENCE_READER static void fill_ref(const struct ferryi_area *area, uintptr_t va, struct ferryi_page_ref *ref)
{
	ref->va = va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	ref->object = area->object;
	ref->index = area->first_page + ((ref->va - area->start) >> FERRYI_PAGE_SHIFT);
	ref->area_pages_left = (area->end - ref->va) >> FERRYI_PAGE_SHIFT;
	ref->area_pages_before = (ref->va - area->start) >> FERRYI_PAGE_SHIFT;
	ref->area_flags = area->flags;
}

bool ferryi_areas_find_locked(struct ferryi_area_table *table, uintptr_t va, struct ferryi_page_ref *ref)
{
	unsigned i = lower_bound(table->areas, table->nr_areas, va);

	if (i == table->nr_areas || table->areas[i].start > va)
		return false;
	fill_ref(&table->areas[i], va, ref);
	return true;
}

bool ferryi_areas_va_locked(struct ferryi_area_table *table, const struct ferryi_object *object, size_t index,
			    uintptr_t *va)
{
	for (unsigned i = 0; i < table->nr_areas; i++) {
		const struct ferryi_area *area = &table->areas[i];
		size_t nr = (area->end - area->start) >> FERRYI_PAGE_SHIFT;

		if (area->object == object && index >= area->first_page && index - area->first_page < nr) {
			*va = area->start + ((index - area->first_page) << FERRYI_PAGE_SHIFT);
			return true;
		}
	}
	return false;
}

bool ferryi_areas_cover_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end)
{
	unsigned i = lower_bound(table->areas, table->nr_areas, start);

	for (; start < end; i++) {
		if (i == table->nr_areas || table->areas[i].start > start)
			return false;
		start = table->areas[i].end;
	}
	return true;
}

bool ferryi_areas_overlap_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end)
{
	unsigned i = lower_bound(table->areas, table->nr_areas, start);

	return i < table->nr_areas && table->areas[i].start < end;
}

/*
 *   peeker (any thread, signal handler)     writer
 *   -------------------------------------   ---------------------------
 *   s = seq (acquire); odd: try again       seq++ (odd)
 *   copy the area that it finds             change the array
 *   seq == s ? use it : try again           seq++ (even, release)
 *
 * Page words live in the arena, which stays mapped until close, so a word read
 * through a stale area is garbage at worst, and the second look at seq drops it.
 */
SEQUENCE_READER bool ferryi_areas_peek(struct ferryi_area_table *table, uintptr_t va, uint64_t *word, uint64_t *pfn)
{
	for (unsigned tries = 0; tries < 1000; tries++) {
		uint32_t seq = atomic_load_explicit(&table->seq, memory_order_acquire);
		struct ferryi_page_ref ref;
		bool found = false;

		if (seq & 1)
			continue;
		unsigned n = *(volatile unsigned *)&table->nr_areas;
		unsigned i = lower_bound(table->areas, n <= FERRYI_MAX_AREAS ? n : 0, va);

		if (i < n && table->areas[i].start <= va) {
			fill_ref(&table->areas[i], va, &ref);
			found = true;
		}
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&table->seq, memory_order_relaxed) != seq)
			continue;
		if (found) {
			*word = ferryi_page_load(ferryi_ref_word(&ref));
			*pfn = ferryi_object_pfn(ref.object, ref.index);
		}
		return found;
	}
	return false;
}

static int insert_at(struct ferryi_area_table *table, unsigned i, const struct ferryi_area *area)
{
	if (table->nr_areas == FERRYI_MAX_AREAS)
		return -ENOSPC;
	memmove(&table->areas[i + 1], &table->areas[i], (table->nr_areas - i) * sizeof(*area));
	table->areas[i] = *area;
	table->nr_areas++;
	area->object->nr_areas++;
	return 0;
}

static uint64_t area_pages(const struct ferryi_area *area)
{
	return (area->end - area->start) >> FERRYI_PAGE_SHIFT;
}

int ferryi_areas_insert_locked(struct ferryi_area_table *table, const struct ferryi_area *area)
{
	int rc = insert_at(table, lower_bound(table->areas, table->nr_areas, area->start), area);

	if (!rc)
		atomic_fetch_add(&table->managed_pages, area_pages(area));
	return rc;
}

/* Makes `va` a boundary between areas, if it is inside one. */
static int split_at(struct ferryi_area_table *table, uintptr_t va)
{
	unsigned i = lower_bound(table->areas, table->nr_areas, va);

	if (i == table->nr_areas || table->areas[i].start >= va)
		return 0;
	struct ferryi_area tail = table->areas[i];

	tail.first_page += (va - tail.start) >> FERRYI_PAGE_SHIFT;
	tail.start = va;
	int rc = insert_at(table, i + 1, &tail);

	if (!rc)
		table->areas[i].end = va;
	return rc;
}

int ferryi_areas_cut_first_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end,
				  struct ferryi_area *out)
{
	int rc = split_at(table, start);

	if (!rc)
		rc = split_at(table, end);
	if (rc)
		return rc;
	unsigned i = lower_bound(table->areas, table->nr_areas, start);

	if (i == table->nr_areas || table->areas[i].start >= end)
		return 0;
	*out = table->areas[i];
	out->object->nr_areas--;
	atomic_fetch_sub(&table->managed_pages, area_pages(out));
	memmove(&table->areas[i], &table->areas[i + 1], (table->nr_areas - i - 1) * sizeof(*out));
	table->nr_areas--;
	return 1;
}

int ferryi_areas_flag_locked(struct ferryi_area_table *table, uintptr_t start, uintptr_t end, unsigned set, unsigned clear)
{
	int rc = split_at(table, start);

	if (!rc)
		rc = split_at(table, end);
	if (rc)
		return rc;
	for (unsigned i = lower_bound(table->areas, table->nr_areas, start);
	     i < table->nr_areas && table->areas[i].start < end; i++)
		table->areas[i].flags = (table->areas[i].flags & ~clear) | set;
	return 0;
}
