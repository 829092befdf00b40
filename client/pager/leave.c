/*
 * A pool's end, as seen by the pages that live in it: blocks are taken off a
 * killed pool one by one (evict, drain), or what is there is given up (poison).
 * In the caller's thread, one such call at a time (leave_lock).
 *
 *   evict, one block of 2 MiB            eviction threads, faults meanwhile
 *   ----------------------------------   -----------------------------------------
 *   a sub-section elsewhere is taken
 *   LEAVING (bind.c)                     no page of the block leaves; a fault on a
 *                                          page that is away fetches it, as ever
 *   its away pages are brought home      pages of other blocks make room
 *   all settled: off its sub-section
 *   bound to the other one               its pages may leave again: to the new place
 *
 * So a budget that holds one block is enough for any pool.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "log.h"
#include "pager_priv.h"
#include "service.h"

#define PAUSE_MS     1
#define MAX_PAUSE_MS 20 /* drain: between its walks over all blocks */

/* The part of a block that one area maps, in a pool that is left. */
struct part {
	uintptr_t va, end;
	struct ferryi_object *object; /* while the area table's lock is held */
	size_t block;                 /* of the object */
};

static struct ferry_pool *pool_of_block(struct ferryi_pager *pager, const struct ferryi_object *object, size_t block)
{
	uint64_t pfn = ferryi_object_pfn(object, block * FERRYI_PAGES_PER_BLOCK);
	const struct ferryi_subsection *sub = pfn ? ferryi_subsection_of(pager->model, pfn) : NULL;

	return sub ? ferryi_subsection_pool(sub) : NULL;
}

/* The first part at or after va whose block is bound to the pool. */
static bool find_part_locked(struct ferryi_pager *pager, const struct ferry_pool *pool, uintptr_t va, struct part *part)
{
	for (unsigned i = 0; i < pager->areas.nr_areas; i++) {
		const struct ferryi_area *area = &pager->areas.areas[i];
		uintptr_t at = va > area->start ? va : area->start;

		for (; at < area->end; at = part->end) {
			size_t index = area->first_page + ((at - area->start) >> FERRYI_PAGE_SHIFT);
			size_t left = FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK;

			part->va = at;
			part->end = ferryi_min_u64(area->end, at + left * FERRYI_PAGE_SIZE);
			part->object = area->object;
			part->block = index / FERRYI_PAGES_PER_BLOCK;
			if (pool_of_block(pager, area->object, part->block) == pool)
				return true;
		}
	}
	return false;
}

static bool find_part(struct ferryi_pager *pager, const struct ferry_pool *pool, uintptr_t va, struct part *part)
{
	ferryi_areas_read_lock(&pager->areas);
	bool found = find_part_locked(pager, pool, va, part);

	ferryi_areas_read_unlock(&pager->areas);
	return found;
}

/* ---- evict ---- */

/* One block on its way out of the pool. */
struct leaving {
	const struct ferry_pool *pool;
	struct part part;
	const struct ferryi_block *begun; /* compared only: it is LEAVING, by us */
	bool is_elsewhere;   /* an mremap has taken it, or it is unmapped */
	bool has_place;      /* a sub-section elsewhere, for it */
	uint32_t place;
	uintptr_t away_va;   /* of a page that is away; 0: of none that is mapped */
};

/* The first page of the block that is away, wherever it is mapped. */
static uintptr_t away_page_locked(struct ferryi_pager *pager, const struct part *part)
{
	size_t first = part->block * FERRYI_PAGES_PER_BLOCK;
	size_t end = ferryi_min_u64(first + FERRYI_PAGES_PER_BLOCK, part->object->nr_pages);
	uintptr_t va;

	for (size_t i = first; i < end; i++) {
		if (ferryi_page_state(ferryi_page_load(&part->object->words[i])) == FERRYI_PAGE_AWAY &&
		    ferryi_areas_va_locked(&pager->areas, part->object, i, &va))
			return va;
	}
	return 0;
}

static void bind_to_place(struct ferryi_block *block, struct leaving *l)
{
	uint32_t none = 0;

	if (l->has_place && atomic_compare_exchange_strong(&block->subsection, &none, l->place + 1))
		l->has_place = false; /* the block's now */
}

/* The block that is at the part's address now, if it is bound to the pool, and the one that was begun, if any was. */
static struct ferryi_block *block_there_locked(struct ferryi_pager *pager, struct leaving *l, struct part *now)
{
	if (!find_part_locked(pager, l->pool, l->part.va, now) || now->va != l->part.va)
		return NULL;
	struct ferryi_block *block = &now->object->blocks[now->block];

	return !l->begun || l->begun == block ? block : NULL;
}

/* One step under the lock: 0 (it has left, or is not there any more), -EAGAIN, -EBUSY (away_va). */
static int try_leave(struct ferryi_pager *pager, struct leaving *l)
{
	struct part now;
	int rc = 0;

	ferryi_areas_read_lock(&pager->areas);
	struct ferryi_block *block = block_there_locked(pager, l, &now);

	if (block) {
		/* An evictor has done it and bound it here anew, or a new object is there: begin again. */
		if (!(atomic_load(&block->subsection) & FERRYI_BLOCK_LEAVING))
			l->begun = NULL;
		if (!l->begun && ferryi_block_leave_begin(block))
			l->begun = block;
		rc = l->begun ? ferryi_block_leave_commit(pager, now.object, now.block) : -EAGAIN;
		if (rc == 0)
			bind_to_place(block, l);
		else if (rc == -EBUSY)
			l->away_va = away_page_locked(pager, &now);
	} else {
		l->is_elsewhere = true;
	}
	ferryi_areas_read_unlock(&pager->areas);
	return rc;
}

/* No block of the pool is on its way out any more: also one that an mremap has taken elsewhere meanwhile. */
static void abort_all(struct ferryi_pager *pager, const struct ferry_pool *pool)
{
	struct part part;

	ferryi_areas_read_lock(&pager->areas);
	for (uintptr_t va = 0; find_part_locked(pager, pool, va, &part); va = part.end)
		ferryi_block_leave_abort(&part.object->blocks[part.block]);
	ferryi_areas_read_unlock(&pager->areas);
}

static int bring_page(struct ferryi_pager *pager, const struct ferry_pool *pool, uintptr_t va)
{
	int rc = ferryi_service_bring(pager, va, va + FERRYI_PAGE_SIZE, false);

	return rc == -EIO && !ferryi_pool_lost(pool) && !ferryi_budget_free(&pager->budget) ? -ENOMEM : rc;
}

static int leave_block(struct ferryi_pager *pager, struct leaving *l)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	bool in_bulk = true;
	int rc;

	/* In turn: all that fits just now, by large reads; one page, which waits for room and tells what is wrong. */
	while ((rc = try_leave(pager, l)) != 0) {
		if (rc == -EBUSY && in_bulk) {
			ferryi_service_bring(pager, l->part.va, l->part.end, true);
			in_bulk = false;
		} else if (rc == -EBUSY && l->away_va) {
			rc = bring_page(pager, l->pool, l->away_va);
			if (rc)
				return rc;
			in_bulk = true;
		} else if (ferryi_now_ns() < deadline_ns) {
			ferryi_zombies_reap(pager); /* of memory that is unmapped nothing is left once it is buried */
			poll(NULL, 0, PAUSE_MS);
		} else {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

/* Pages that have nowhere to go but RAM: do one block's more fit, with enough of the budget left to work in? */
static bool fits_in_ram(struct ferryi_pager *pager, uint64_t homeless)
{
	uint64_t need = homeless + FERRYI_PAGES_PER_BLOCK + ferryi_counter_read(&pager->counters.g_pinned_pages) +
			(FERRY_BUDGET_MIN >> FERRYI_PAGE_SHIFT);

	return need <= atomic_load(&pager->budget.limit);
}

/* One block off the pool. homeless: pages so far that only RAM has room for. */
static int evict_block(struct ferryi_pager *pager, const struct ferry_pool *pool, const struct part *part, uint64_t *homeless)
{
	struct leaving l = { .pool = pool, .part = *part };
	int rc = 0;

	l.has_place = ferryi_bind_take(pager, &l.place) == 0;
	if (!l.has_place) {
		atomic_store(&pager->binds_late, true); /* the keeper leases as memory becomes free */
		rc = fits_in_ram(pager, *homeless) ? 0 : -ENOMEM;
		*homeless += FERRYI_PAGES_PER_BLOCK;
	}
	if (!rc)
		rc = leave_block(pager, &l);
	if (l.begun && l.is_elsewhere)
		abort_all(pager, pool); /* it is met again there, and begun anew */
	if (l.has_place)
		ferryi_bind_give(pager, l.place);
	return rc;
}

/* Of a coherent pool: its pages are away from now on, and leave like any others. It is killed: none enters again. */
static int unmap_coherent(struct ferryi_pager *pager, const struct ferry_pool *pool)
{
	if (!ferryi_pool_is_coherent(pool))
		return 0;
	return ferryi_coherent_leave(pager, &(struct ferryi_coherent_part){ .end = UINTPTR_MAX, .pool = pool });
}

/*
 * An mremap may take a block from where we have not been to where we have: it
 * is over when one look at all the areas finds none.
 */
int ferryi_pager_evict_pool(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	struct part part;
	uintptr_t va = 0;
	uint64_t homeless = 0;
	int rc = 0, lost = 0;

	ferryi_events_settle(pager);
	ferryi_children_leave_pool(pager, pool);
	ferryi_mutex_lock(&pager->leave_lock);
	rc = unmap_coherent(pager, pool);
	while (!rc) {
		if (find_part(pager, pool, va, &part)) {
			rc = evict_block(pager, pool, &part, &homeless);
			va = part.end;
		} else if (va && !lost) {
			va = 0;
		} else {
			break;
		}
		if (rc == -EIO) { /* the other blocks may still be well */
			lost = rc;
			rc = 0;
		}
	}
	abort_all(pager, pool);
	ferryi_mutex_unlock(&pager->leave_lock);
	return rc ? rc : lost;
}

/* ---- drain ---- */

/* Blocks that have settled need no calling home. */
static void take_off_settled(struct ferryi_pager *pager, const struct ferry_pool *pool)
{
	struct part part;

	ferryi_mutex_lock(&pager->leave_lock);
	ferryi_areas_read_lock(&pager->areas);
	for (uintptr_t va = 0; find_part_locked(pager, pool, va, &part); va = part.end)
		ferryi_unbind_block(pager, part.object, part.block);
	ferryi_areas_read_unlock(&pager->areas);
	ferryi_mutex_unlock(&pager->leave_lock);
}

int ferryi_pager_drain_pool(struct ferryi_pager *pager, struct ferry_pool *pool, int timeout_ms)
{
	uint64_t deadline_ns = ferryi_deadline_ms((uint64_t)timeout_ms);
	int pause_ms = PAUSE_MS;

	ferryi_events_settle(pager);
	for (;;) {
		ferryi_zombies_reap(pager);
		ferryi_children_leave_pool(pager, pool); /* each time: another may be forked meanwhile */
		take_off_settled(pager, pool);
		if (!ferryi_pool_used_bytes(pool) && ferryi_pool_refs(pool) <= 1)
			return 0;
		if (ferryi_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		poll(NULL, 0, pause_ms);
		pause_ms = pause_ms < MAX_PAUSE_MS ? 2 * pause_ms : MAX_PAUSE_MS;
	}
}

/* ---- poison ---- */

/* 1: the page is given up now; 0: its data is not in the pool. Waits while it is under way. */
static long give_up_page(struct ferryi_pager *pager, uintptr_t va, uint64_t deadline_ns)
{
	struct ferryi_page_ref ref;
	uint64_t word;
	bool was_away = false;

	while (ferryi_service_look(pager, va, &ref, &word)) {
		if (ferryi_page_state(word) == FERRYI_PAGE_AWAY) {
			was_away = true;
			ferryi_service_fault(pager, &(struct ferryi_fault){ .va = va,
									    .forced = true,
									    .give_up = true,
									    .last_error = -ESHUTDOWN,
									    .start_ns = ferryi_now_ns(),
									    .deadline_ns = deadline_ns });
		} else if (ferryi_page_is_transient(word)) {
			poll(NULL, 0, PAUSE_MS);
		} else {
			return was_away && ferryi_page_state(word) == FERRYI_PAGE_POISONED;
		}
		if (ferryi_now_ns() >= deadline_ns)
			return 0;
	}
	return 0;
}

long ferryi_pager_poison_pool(struct ferryi_pager *pager, struct ferry_pool *pool)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	struct part part;
	long poisoned = 0;

	ferryi_pool_set_lost(pool, FERRYI_LOST_REVOKED); /* a touch meanwhile does not wait, either */
	ferryi_pager_pool_lost(pager);
	ferryi_events_settle(pager);
	if (unmap_coherent(pager, pool))
		ferryi_error("pool_poison: pages of a coherent pool stay as they are");
	do { /* again for what an mremap took to where we had been */
		for (uintptr_t va = 0; find_part(pager, pool, va, &part); va = part.end) {
			for (uintptr_t page = part.va; page < part.end; page += FERRYI_PAGE_SIZE)
				poisoned += give_up_page(pager, page, deadline_ns);
		}
		take_off_settled(pager, pool);
	} while (find_part(pager, pool, 0, &part) && ferryi_now_ns() < deadline_ns);
	ferryi_children_leave_pool(pager, pool);
	take_off_settled(pager, pool);
	return poisoned;
}
