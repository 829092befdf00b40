/* Putting pages in place: fetch_priv.h. Fault path. */
#include "fetch_priv.h"

#include <errno.h>

#include "callback.h"
#include "pager_priv.h"
#include "uffd.h"

long ferryi_place_frame(int uffd, void *dst, void *frame)
{
	ferryi_uffd_mark(uffd, dst, FERRYI_PAGE_SIZE, false); /* a page moves to an unmarked hole only */
	long rc = ferryi_uffd_move(uffd, dst, frame, FERRYI_PAGE_SIZE);

	if (rc > 0)
		ferryi_uffd_wake(uffd, dst, FERRYI_PAGE_SIZE);
	return rc;
}

int ferryi_place_frames(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, uint8_t *frames,
			uint32_t nr, uint32_t *done)
{
	int uffd = ferryi_uffd_of(pager, object);
	size_t len = (size_t)nr * FERRYI_PAGE_SIZE;
	int rc = ferryi_uffd_mark(uffd, (void *)va, len, false);

	*done = 0;
	if (rc)
		return rc;
	long moved = ferryi_uffd_move(uffd, (void *)va, frames, len);
	size_t gone = moved > 0 ? (size_t)moved : 0;

	if (gone)
		ferryi_wake_at(pager, object, va, gone);
	if (gone < len)
		ferryi_uffd_mark(uffd, (void *)(va + gone), len - gone, true);
	*done = (uint32_t)(gone / FERRYI_PAGE_SIZE);
	return gone ? 0 : (int)moved;
}

long ferryi_place_copy(struct ferryi_pager *pager, int uffd, void *dst, const void *src, size_t len)
{
	if (ferryi_memcg_is_tight(&pager->memcg))
		return ferryi_reserve_copy(pager, uffd, dst, src);
	return ferryi_uffd_copy(uffd, dst, src, len);
}

/*
 * Fills [va, va + nr pages) from src; pages that are there already count as
 * done. *done says how many, the result why it stopped: 0, -EAGAIN, -ENOENT, -ENOMEM, ....
 */
int ferryi_place_run(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, const uint8_t *src,
		     uint32_t nr, uint32_t *done)
{
	int uffd = ferryi_uffd_of(pager, object);

	*done = 0;
	while (*done < nr) {
		size_t at = (size_t)*done * FERRYI_PAGE_SIZE;
		long rc = ferryi_place_copy(pager, uffd, (void *)(va + at), src + at, (size_t)(nr - *done) * FERRYI_PAGE_SIZE);

		if (rc > 0) {
			*done += (uint32_t)((size_t)rc / FERRYI_PAGE_SIZE);
		} else if (rc == -EEXIST) {
			ferryi_wake_at(pager, object, va + at, FERRYI_PAGE_SIZE);
			(*done)++;
		} else {
			return (int)rc;
		}
	}
	return 0;
}

int ferryi_place_announced(struct ferryi_pager *pager, const struct ferryi_object *object, uintptr_t va, const uint8_t *src,
			   uint32_t nr, uint32_t *done)
{
	struct ferryi_notice notice;

	ferryi_notify_begin(pager->attr.notifier, &notice, va, (size_t)nr * FERRYI_PAGE_SIZE, FERRY_UPDATE_MIGRATE, NULL);
	int rc = ferryi_place_run(pager, object, va, src, nr, done);

	ferryi_notify_end(&notice);
	return rc;
}

void ferryi_place_count(struct ferryi_object *object, size_t index)
{
	atomic_fetch_add_explicit(&object->blocks[index / FERRYI_PAGES_PER_BLOCK].nr_resident, 1, memory_order_relaxed);
}

/* The page is in place: FETCHING (ours) -> RESIDENT with these flags. */
void ferryi_place_finish(struct ferryi_object *object, size_t index, uint64_t flags)
{
	ferryi_place_count(object, index);
	atomic_store_explicit(&object->words[index], flags | FERRYI_PAGE_RESIDENT, memory_order_release);
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

