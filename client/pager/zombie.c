/*
 * Areas that have left the table while pages of theirs may still be on their
 * way in or out. Reaped by the keeper, or by the API call that removed them,
 * once every page has settled; only then are tables and pool memory reused.
 */
#include <errno.h>

#include "callback.h"
#include "exclusive.h"
#include "folio.h"
#include "log.h"
#include "pager_priv.h"

void ferryi_zombies_add(struct ferryi_pager *pager, const struct ferryi_area *area)
{
	ferryi_mutex_lock(&pager->zombies_lock);
	if (pager->nr_zombies < FERRYI_MAX_ZOMBIES) {
		area->object->nr_areas++; /* under the area table's write lock */
		pager->zombies[pager->nr_zombies++] = *area;
	} else {
		ferryi_error("unmap: more than %u areas wait to be freed, the tables of %#lx-%#lx are lost",
			     FERRYI_MAX_ZOMBIES, (unsigned long)area->start, (unsigned long)area->end);
	}
	ferryi_mutex_unlock(&pager->zombies_lock);
}

/* Ends one page whose memory is unmapped; false: its owner has to let go first. */
static bool bury_page(struct ferryi_pager *pager, struct ferryi_object *object, size_t index)
{
	ferryi_page_word *word = &object->words[index];
	uint64_t old = ferryi_page_load(word), pfn = ferryi_object_pfn(object, index);

	if (!old && !pfn) /* never touched: nor is its word, whose memory would be taken for it */
		return true;
	if (ferryi_page_is_transient(old)) {
		atomic_fetch_or(word, FERRYI_PAGE_DROPPED);
		/* It may have settled between the two: look again, and take the flag off a settled word. */
		old = ferryi_page_load(word);
		if (ferryi_page_is_transient(old))
			return false;
	}
	if (old & FERRYI_PAGE_WRITEBACK)
		return false; /* its place in the pool is being written */
	if (ferryi_page_state(old) == FERRYI_PAGE_RESIDENT) {
		atomic_fetch_sub_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1,
					  memory_order_relaxed);
		ferryi_budget_uncharge(&pager->budget, 1);
		if (ferryi_page_pins(old))
			ferryi_uncount(&pager->counters.g_pinned_pages, 1);
	} else if (ferryi_page_state(old) == FERRYI_PAGE_AWAY) {
		ferryi_uncount(&pager->counters.g_away_pages, 1);
		ferryi_page_freed(pager, ferryi_object_pfn(object, index));
	} else if (ferryi_page_state(old) == FERRYI_PAGE_COHERENT) {
		if (!ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT))
			return false; /* a device is at it */
		ferryi_uncount(&pager->counters.g_coherent_pages, 1);
		ferryi_page_freed(pager, ferryi_object_pfn(object, index));
	} else if (ferryi_page_state(old) == FERRYI_PAGE_EXCLUSIVE) {
		if (!ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT))
			return false; /* its holder is at it */
		ferryi_exclusive_drop(pager, ferryi_page_arg(old));
	}
	ferryi_page_void(pager->model, pfn);
	atomic_store(word, FERRYI_PAGE_ABSENT);
	return true;
}

static bool bury_area(struct ferryi_pager *pager, const struct ferryi_area *area)
{
	size_t nr = (area->end - area->start) >> FERRYI_PAGE_SHIFT;
	size_t end = area->first_page + nr;
	bool settled = true;

	for (size_t i = ferryi_align_up(area->first_page, FERRYI_FOLIO_PAGES); i + FERRYI_FOLIO_PAGES <= end; i += FERRYI_FOLIO_PAGES)
		ferryi_folio_free(pager, area->object, i);
	for (size_t i = 0; i < nr; i++)
		settled &= bury_page(pager, area->object, area->first_page + i);
	return settled;
}

unsigned ferryi_zombies_reap(struct ferryi_pager *pager)
{
	struct ferryi_area area;
	unsigned i = 0, left;

	for (;;) {
		ferryi_mutex_lock(&pager->zombies_lock);
		left = pager->nr_zombies;
		if (i < left && atomic_load(&pager->forking)) { /* a fork looks at the pages of objects: none goes now */
			i = left;
		} else if (i < left) { /* taken out while we work on it, so that nobody else does */
			area = pager->zombies[i];
			pager->zombies[i] = pager->zombies[--pager->nr_zombies];
			pager->nr_reaping++;
		}
		ferryi_mutex_unlock(&pager->zombies_lock);
		if (i >= left)
			break;
		bool settled = bury_area(pager, &area);

		if (settled) {
			struct ferryi_object *object = area.object;

			ferryi_unbind_pages(pager, object, area.first_page, (area.end - area.start) >> FERRYI_PAGE_SHIFT, false);
			ferryi_areas_write_lock(&pager->areas);
			bool last = --object->nr_areas == 0;

			ferryi_areas_write_unlock(&pager->areas);
			if (last) {
				ferryi_unbind_pages(pager, object, 0, object->nr_pages, true);
				ferryi_object_destroy(&pager->areas, &object);
			}
		}
		ferryi_mutex_lock(&pager->zombies_lock);
		pager->nr_reaping--;
		if (!settled) {
			pager->zombies[pager->nr_zombies++] = area;
			i++;
		}
		ferryi_mutex_unlock(&pager->zombies_lock);
	}
	ferryi_mutex_lock(&pager->zombies_lock);
	left = pager->nr_zombies + pager->nr_reaping;
	ferryi_mutex_unlock(&pager->zombies_lock);
	return left;
}
