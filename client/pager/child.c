/* Records of children: made at the fork, looked up, ended. See child.h. */
#include "child.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bitmap.h"
#include "callback.h"
#include "clock.h"
#include "exclusive.h"
#include "log.h"
#include "pager_priv.h"

#define PAUSE_MS 1

static struct ferryi_child_object *find_copy(struct ferryi_child *child, const struct ferryi_object *of)
{
	/* Areas of one object are often neighbours: the last one made is the likely one. */
	for (unsigned i = child->nr_objects; i-- > 0;) {
		if (child->objects[i].of == of)
			return &child->objects[i];
	}
	return NULL;
}

static bool is_first_of_object(const struct ferryi_area_table *table, unsigned i)
{
	for (unsigned k = 0; k < i; k++) {
		if (table->areas[k].object == table->areas[i].object)
			return false;
	}
	return true;
}

static size_t object_bytes(const struct ferryi_object *object)
{
	return sizeof(struct ferryi_child_object) + 2 * FERRYI_BITMAP_WORDS(object->nr_pages) * sizeof(uint64_t) +
	       object->nr_blocks * sizeof(uint64_t) +
	       ferryi_align_up(object->nr_blocks * sizeof(uint32_t), sizeof(uint64_t));
}

static struct ferryi_child *allocate(struct ferryi_pager *pager)
{
	const struct ferryi_area_table *table = &pager->areas;
	size_t bytes = ferryi_align_up(sizeof(struct ferryi_child), sizeof(uint64_t)) +
		       FERRYI_MAX_AREAS * sizeof(struct ferryi_area);

	for (unsigned i = 0; i < table->nr_areas; i++) {
		if (is_first_of_object(table, i))
			bytes += object_bytes(table->areas[i].object);
	}
	struct ferryi_child *child = ferryi_arena_alloc(pager->arena, bytes);

	if (!child)
		return NULL;
	child->bytes = bytes;
	child->self = (uintptr_t)child;
	child->uffd = child->sock = -1;
	/* Last, so that what is not used of it is never touched. */
	child->areas.areas = (struct ferryi_area *)((uint8_t *)child + bytes) - FERRYI_MAX_AREAS;
	return child;
}

/* *at: free memory behind the record, which the copy takes its tables from. */
static void copy_object(struct ferryi_child_object *copy, struct ferryi_object *of, uint8_t **at)
{
	size_t words = FERRYI_BITMAP_WORDS(of->nr_pages);

	copy->of = of;
	copy->as_object.nr_pages = of->nr_pages;
	copy->as_object.nr_blocks = of->nr_blocks;
	copy->needed = (uint64_t *)*at;
	copy->lost = copy->needed + words;
	copy->place = copy->lost + words;
	copy->subsection = (uint32_t *)(copy->place + of->nr_blocks);
	*at += (2 * words + of->nr_blocks) * sizeof(uint64_t) + ferryi_align_up(of->nr_blocks * sizeof(uint32_t), sizeof(uint64_t));
}

struct ferryi_child *ferryi_child_create(struct ferryi_pager *pager)
{
	const struct ferryi_area_table *table = &pager->areas;
	struct ferryi_child *child = allocate(pager);
	unsigned nr = 0;

	if (!child)
		return NULL;
	for (unsigned i = 0; i < table->nr_areas; i++)
		nr += is_first_of_object(table, i);
	child->objects = (struct ferryi_child_object *)((uint8_t *)child + ferryi_align_up(sizeof(*child), sizeof(uint64_t)));
	uint8_t *at = (uint8_t *)(child->objects + nr);

	for (unsigned i = 0; i < table->nr_areas; i++) {
		struct ferryi_area area = table->areas[i];
		struct ferryi_child_object *copy = find_copy(child, area.object);

		if (!copy) {
			copy = &child->objects[child->nr_objects++];
			copy_object(copy, area.object, &at);
		}
		area.object = &copy->as_object;
		ferryi_areas_insert_locked(&child->areas, &area); /* it is as large as the parent's */
	}
	return child;
}

/* ---- the snapshot ---- */

/* Holds the place of a page that is away; false: its block has been bound elsewhere meanwhile, look again. */
static bool hold_block(struct ferryi_pager *pager, struct ferryi_child_object *copy, size_t index)
{
	size_t nr = index / FERRYI_PAGES_PER_BLOCK;

	if (copy->subsection[nr])
		return true;
	struct ferryi_block *block = &copy->of->blocks[nr];
	uint32_t sub = atomic_load(&block->subsection) & ~FERRYI_BLOCK_LEAVING;
	const struct ferryi_subsection *info =
		sub ? ferryi_subsection_of(pager->model, (uint64_t)(sub - 1) * FERRYI_PAGES_PER_SUBSECTION) : NULL;
	struct ferry_pool *pool = info ? ferryi_subsection_pool(info) : NULL;

	if (!pool)
		return false;
	ferryi_pool_hold(pool, sub - 1);
	if ((atomic_load(&block->subsection) & ~FERRYI_BLOCK_LEAVING) != sub) {
		ferryi_pool_give(pool, sub - 1);
		return false;
	}
	copy->subsection[nr] = sub;
	return true;
}

/* The driver of a pool may use a page's place anew as soon as the page is home: then there is nothing to hold. */
static bool keeps_its_place(struct ferryi_pager *pager, const struct ferryi_child_object *copy, size_t index)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, ferryi_object_pfn(copy->of, index));

	return sub && ferryi_callback_keeps_copies(ferryi_subsection_pool(sub));
}

/* Unmapped since the record was made: a change of that range is noted (fork.c), so the child does without it anyway. */
static bool is_unmapped(struct ferryi_pager *pager, const struct ferryi_child_object *copy, size_t index)
{
	uintptr_t va;

	return !ferryi_areas_va_locked(&pager->areas, copy->of, index, &va);
}

static void note_lost(struct ferryi_child *child, struct ferryi_child_object *copy, size_t index)
{
	ferryi_bitmap_set(copy->lost, index);
	child->nr_lost++;
}

/* false: look again, the page is under way. */
static bool sample_page(struct ferryi_pager *pager, struct ferryi_child *child, struct ferryi_child_object *copy,
			size_t index)
{
	uint64_t word = ferryi_page_load(&copy->of->words[index]);

	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_AWAY:
		if (!keeps_its_place(pager, copy, index)) {
			note_lost(child, copy, index);
			return true;
		}
		if (!hold_block(pager, copy, index))
			return false;
		/* Not taken off its sub-section before that was held? Then it is there still. */
		if (ferryi_page_state(ferryi_page_load(&copy->of->words[index])) != FERRYI_PAGE_AWAY)
			return false;
		ferryi_bitmap_set(copy->needed, index);
		child->nr_needed++;
		return true;
	case FERRYI_PAGE_POISONED:
	case FERRYI_PAGE_STAGED: /* evictors rest: a migration in three steps has it, and a child has no such thing */
		note_lost(child, copy, index);
		return true;
	case FERRYI_PAGE_RESIDENT:
	case FERRYI_PAGE_ABSENT:
		return true;
	case FERRYI_PAGE_EXCLUSIVE:
		if (!is_unmapped(pager, copy, index))
			return false; /* to be brought home */
		note_lost(child, copy, index);
		return true;
	default:
		return false;
	}
}

/* Samples from page *i of the area on, with the area table's lock, which keeps pools attached; where it stopped. */
static size_t sample_some(struct ferryi_pager *pager, struct ferryi_child *child, const struct ferryi_area *area, size_t i)
{
	size_t nr = (area->end - area->start) >> FERRYI_PAGE_SHIFT;
	struct ferryi_child_object *copy = (struct ferryi_child_object *)area->object;

	ferryi_areas_read_lock(&pager->areas);
	while (i < nr && sample_page(pager, child, copy, area->first_page + i))
		i++;
	ferryi_areas_read_unlock(&pager->areas);
	return i;
}

static ferryi_page_word *word_of(const struct ferryi_area *area, size_t i)
{
	return &((struct ferryi_child_object *)area->object)->of->words[area->first_page + i];
}

bool ferryi_child_sample(struct ferryi_pager *pager, struct ferryi_child *child, uint64_t deadline_ns)
{
	for (unsigned a = 0; a < child->areas.nr_areas; a++) {
		const struct ferryi_area *area = &child->areas.areas[a];
		size_t nr = (area->end - area->start) >> FERRYI_PAGE_SHIFT, i = 0;

		while ((i = sample_some(pager, child, area, i)) < nr) {
			if (ferryi_now_ns() >= deadline_ns) {
				ferryi_warn("fork: page %#lx: still in state %d", (unsigned long)(area->start + (i << FERRYI_PAGE_SHIFT)),
					    (int)ferryi_page_state(ferryi_page_load(word_of(area, i))));
				return false;
			}
			ferryi_exclusive_revoke_locked(pager, deadline_ns);
			poll(NULL, 0, PAUSE_MS); /* a fault is answered meanwhile */
		}
	}
	return true;
}

/* ---- where it lies ---- */

static void free_record(struct ferryi_pager *pager, struct ferryi_child *child)
{
	size_t bytes = child->bytes;

	/* The arena's own memory is there again. */
	if (child->is_shared && mmap(child, ferryi_align_up(bytes, FERRYI_PAGE_SIZE), PROT_NONE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return; /* out of mappings: the address space is lost to the arena */
	ferryi_arena_free(pager->arena, child, bytes);
}

/* Memory of a new memfd over memory of the arena, so that no address is taken that the application could own. */
static struct ferryi_child *map_shared(struct ferryi_pager *pager, size_t bytes, int *memfd)
{
	size_t len = ferryi_align_up(bytes, FERRYI_PAGE_SIZE);
	void *at = ferryi_arena_alloc(pager->arena, bytes);

	*memfd = at ? memfd_create("ferry-child", MFD_CLOEXEC) : -1;
	if (*memfd < 0)
		goto err_free;
	if (!ftruncate(*memfd, (off_t)len) &&
	    mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, *memfd, 0) != MAP_FAILED)
		return at;
	close(*memfd);
	*memfd = -1;
err_free:
	ferryi_arena_free(pager->arena, at, bytes);
	return NULL;
}

int ferryi_child_share(struct ferryi_pager *pager, struct ferryi_child **child, int *memfd)
{
	struct ferryi_child *old = *child, *new = map_shared(pager, old->bytes, memfd);
	size_t used = (size_t)((uint8_t *)(old->areas.areas + old->areas.nr_areas) - (uint8_t *)old);

	if (!new)
		return -errno;
	memcpy(new, old, used);
	new->is_shared = true;
	if (!ferryi_child_moved(new, new->bytes)) {
		free_record(pager, new);
		close(*memfd);
		return -EPROTO;
	}
	free_record(pager, old);
	*child = new;
	return 0;
}

/* ---- the end ---- */

static void give_blocks(struct ferryi_pager *pager, struct ferryi_child_object *copy)
{
	for (size_t b = 0; b < copy->as_object.nr_blocks; b++) {
		if (copy->subsection[b])
			ferryi_bind_give(pager, copy->subsection[b] - 1);
		copy->subsection[b] = 0;
	}
}

void ferryi_child_destroy(struct ferryi_pager *pager, struct ferryi_child **child_p)
{
	struct ferryi_child *child = *child_p;

	if (!child)
		return;
	*child_p = NULL;
	for (unsigned i = 0; i < child->nr_objects; i++)
		give_blocks(pager, &child->objects[i]);
	if (child->uffd >= 0)
		close(child->uffd);
	if (child->sock >= 0)
		close(child->sock);
	free_record(pager, child);
}
