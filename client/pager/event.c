/*
 * The application's own changes to managed memory, as the kernel reports them:
 * MADV_DONTNEED, munmap, mremap. Applied by the fault thread that read them,
 * before any later event is read (events_lock). Fault path rules.
 */
#include <errno.h>

#include "log.h"
#include "pager_priv.h"

void ferryi_events_settle(struct ferryi_pager *pager)
{
	ferryi_mutex_lock(&pager->events_lock);
	ferryi_mutex_unlock(&pager->events_lock);
}

bool ferryi_pager_covers(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	ferryi_events_settle(pager);
	ferryi_areas_read_lock(&pager->areas);
	bool covers = ferryi_areas_cover_locked(&pager->areas, start, end);

	ferryi_areas_read_unlock(&pager->areas);
	return covers;
}

static void drop_page(struct ferryi_pager *pager, ferryi_page_word *word)
{
	uint64_t old = ferryi_page_load(word);

	for (;;) {
		switch (ferryi_page_state(old)) {
		case FERRYI_PAGE_ABSENT:
		case FERRYI_PAGE_RESIDENT: /* the hole is found by the next touch, or by eviction */
			return;
		case FERRYI_PAGE_AWAY:
			if (ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT)) {
				ferryi_uncount(&pager->counters.g_away_pages, 1);
				return;
			}
			break;
		case FERRYI_PAGE_POISONED:
			if (ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT))
				return;
			break;
		default: /* transient: its owner ends it */
			if (ferryi_page_cas(word, &old, old | FERRYI_PAGE_DROPPED))
				return;
		}
	}
}

void ferryi_event_remove_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;

	ferryi_assert_held(&pager->events_lock);
	ferryi_areas_read_lock(&pager->areas);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_areas_find_locked(&pager->areas, va, &ref))
			continue;
		for (; ref.area_pages_left && va < end; ref.area_pages_left--, ref.index++, va += FERRYI_PAGE_SIZE)
			drop_page(pager, ferryi_ref_word(&ref));
		va -= FERRYI_PAGE_SIZE;
	}
	ferryi_areas_read_unlock(&pager->areas);
}

void ferryi_event_unmap_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_area piece;

	ferryi_assert_held(&pager->events_lock);
	ferryi_areas_write_lock(&pager->areas);
	while (ferryi_areas_cut_first_locked(&pager->areas, start, end, &piece) == 1)
		ferryi_zombies_add(pager, &piece);
	ferryi_areas_write_unlock(&pager->areas);
	ferryi_keeper_kick(pager->keeper);
}

void ferryi_event_remap_locked(struct ferryi_pager *pager, uintptr_t from, uintptr_t to, uint64_t len)
{
	struct ferryi_area piece;

	ferryi_assert_held(&pager->events_lock);
	ferryi_areas_write_lock(&pager->areas);
	while (ferryi_areas_cut_first_locked(&pager->areas, from, from + len, &piece) == 1) {
		piece.start = piece.start - from + to;
		piece.end = piece.end - from + to;
		if (ferryi_areas_insert_locked(&pager->areas, &piece)) {
			ferryi_error("mremap: area table full, %#lx-%#lx is not managed any more",
				     (unsigned long)piece.start, (unsigned long)piece.end);
			ferryi_zombies_add(pager, &piece);
		}
	}
	ferryi_areas_write_unlock(&pager->areas);
}
