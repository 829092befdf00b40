/* Putting pages in place: fetch_priv.h. Fault path. */
#include "fetch_priv.h"

#include <errno.h>

#include "callback.h"
#include "pager_priv.h"
#include "uffd.h"

/*
 * Fills [va, va + nr pages) from src; pages that are there already count as
 * done. *done says how many, the result why it stopped: 0, -EAGAIN, -ENOENT, -ENOMEM, ....
 */
int ferryi_place_run(struct ferryi_pager *pager, uintptr_t va, const uint8_t *src, uint32_t nr, uint32_t *done)
{
	*done = 0;
	while (*done < nr) {
		size_t at = (size_t)*done * FERRYI_PAGE_SIZE;
		long rc = ferryi_uffd_copy(pager->uffd, (void *)(va + at), src + at,
					   (size_t)(nr - *done) * FERRYI_PAGE_SIZE);

		if (rc > 0) {
			*done += (uint32_t)((size_t)rc / FERRYI_PAGE_SIZE);
		} else if (rc == -EEXIST) {
			ferryi_uffd_wake(pager->uffd, (void *)(va + at), FERRYI_PAGE_SIZE);
			(*done)++;
		} else {
			return (int)rc;
		}
	}
	return 0;
}

int ferryi_place_announced(struct ferryi_pager *pager, uintptr_t va, const uint8_t *src, uint32_t nr, uint32_t *done)
{
	struct ferryi_notice notice;

	ferryi_notify_begin(pager->attr.notifier, &notice, va, (size_t)nr * FERRYI_PAGE_SIZE, FERRY_UPDATE_MIGRATE, NULL);
	int rc = ferryi_place_run(pager, va, src, nr, done);

	ferryi_notify_end(&notice);
	return rc;
}

void ferryi_place_count(struct ferryi_object *object, size_t index)
{
	atomic_fetch_add_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

void ferryi_place_uncount(struct ferryi_object *object, size_t index)
{
	atomic_fetch_sub_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

/* The application dropped a page while we were putting it in place: take it out of its memory again. */
void ferryi_place_take_out(struct ferryi_fetcher *f, uintptr_t va)
{
	struct ferryi_notice notice;

	ferryi_notify_begin(f->pager->attr.notifier, &notice, va, FERRYI_PAGE_SIZE, FERRY_UPDATE_REMOVE, NULL);
	if (ferryi_uffd_move(f->pager->uffd, f->scratch, (void *)va, FERRYI_PAGE_SIZE) > 0)
		ferryi_staging_release(f->pager, f->scratch, FERRYI_PAGE_SIZE);
	ferryi_notify_end(&notice);
}

/* The page is in place: FETCHING (ours) -> RESIDENT with these flags. */
void ferryi_place_finish(struct ferryi_fetcher *f, struct ferryi_object *object, size_t index, uintptr_t va, uint64_t flags)
{
	ferryi_page_word *word = &object->words[index];
	uint64_t old = ferryi_page_load(word);

	ferryi_place_count(object, index);
	do {
		if (old & FERRYI_PAGE_DROPPED) {
			ferryi_place_uncount(object, index);
			ferryi_place_take_out(f, va);
			atomic_store(word, FERRYI_PAGE_ABSENT);
			ferryi_budget_uncharge(&f->pager->budget, 1);
			ferryi_uffd_wake(f->pager->uffd, (void *)va, FERRYI_PAGE_SIZE);
			return;
		}
	} while (!ferryi_page_cas(word, &old, flags | FERRYI_PAGE_RESIDENT));
}

/* A claimed page could not be brought in: back to what it was, unless the application dropped it. */
void ferryi_place_unclaim(struct ferryi_fetcher *f, struct ferryi_object *object, size_t index, uint64_t back)
{
	if (ferryi_page_state(back) == FERRYI_PAGE_AWAY)
		ferryi_page_stays_away(f->pager, object, index);
	else
		ferryi_page_release(&object->words[index], back);
	ferryi_budget_uncharge(&f->pager->budget, 1);
}

