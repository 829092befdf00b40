/*
 * The calls of struct ferry_pool_ops (ferry.h: what a callback may do), and the
 * reference that they follow: ferry_page.refs is 1 from the page's becoming AWAY
 * until it is in RAM, dropped or poisoned, 0 else. It is changed by whoever owns
 * the page word at that moment, so no two threads do.
 *
 *   page_free       once for each time refs goes from 1 to 0, by the owner of the
 *                   word, before he lets go: the device page is nobody else's
 *                   during the call. The library's locks may be held (events,
 *                   areas), as for a mirror's invalidate: an mremap or munmap
 *                   could else come between the page's two places.
 *   page_split      by who is about to take a page of a folio from the others
 *                   (folio.h): as page_free.
 *   migrate_to_ram  with no lock held; the word is FETCHING (ours), the slot
 *   memory_failure  is the fetcher's own. What it returns becomes the read's status.
 *
 * A pool with callbacks for its pages keeps no copy of a page that is in RAM:
 * the device page is the driver's again.
 */
#ifndef FERRYI_PAGER_CALLBACK_H
#define FERRYI_PAGER_CALLBACK_H

#include <stdbool.h>
#include <stdint.h>

#include "fetch.h"

struct ferryi_pager;

/* The pool's pages come home by the caller's own engine. Fault path. */
bool ferryi_callback_has_engine(const struct ferry_pool *pool);
/* There is somebody to ask for a replica. */
bool ferryi_callback_has_replica(const struct ferry_pool *pool);
/* A page of this pool that is in RAM may have a valid copy in it. */
bool ferryi_callback_keeps_copies(const struct ferry_pool *pool);

/* The page at pfn is about to be AWAY (the word is ours); undo: it was rescued instead. */
void ferryi_page_store(struct ferryi_pager *pager, uint64_t pfn);
void ferryi_page_store_undo(struct ferryi_pager *pager, uint64_t pfn);
/*
 * It does not live there any more: the word is ours and will not be AWAY again for this use. Splits the folio that the
 * page is of (folio.h), then calls page_free.
 */
void ferryi_page_freed(struct ferryi_pager *pager, uint64_t pfn);
/* The same for all pages of a folio, by its head: page_free once. ASSUMPTION: it is BUSY, and all its words are ours. */
void ferryi_folio_freed(struct ferryi_pager *pager, uint64_t pfn);

/* The word is FETCHING (ours): AWAY again, or ABSENT if the application has dropped the page meanwhile. */
void ferryi_page_stays_away(struct ferryi_pager *pager, struct ferryi_object *object, size_t index);

/*
 * Asks the pool's driver for the page's content, to the fetch's slot: 0, or the
 * error to fail the fetch with; its fault is then told to give up where there is
 * no use in asking again.
 */
int ferryi_callback_fill(struct ferryi_pager *pager, struct ferryi_fetch *fetch);

#endif
