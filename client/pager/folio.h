/*
 * Device folios: the 512 pages of a sub-section that a huge page went to as one
 * (folio_move.h), until they part. The state is kept in the descriptor of the
 * first page, the head:
 *
 *   state     order  who may leave it, and to what
 *   --------  -----  -------------------------------------------------------------
 *   NONE      0      the migration, which has all its pages staged: FORMING
 *   FORMING   0      the migration, when all pages are AWAY: WHOLE
 *                    who frees a page, or has not got one there: NONE
 *   WHOLE     9      who frees a page, or parts it from its neighbours: BUSY
 *   BUSY      9      he has split it, or freed it as a whole: NONE
 *
 * Who brings one page home, drops, poisons or moves it parts it from the
 * others: the driver is told of all tails (page_split) before the first
 * page_free. Two pages that come home at a time, or one beside the migration:
 *
 *   owner of word 7                        owner of word 9, or the migration
 *   ------------------------------------   --------------------------------------
 *   word 7: AWAY -> FETCHING, ..           word 9: AWAY -> FETCHING, ..
 *   cas WHOLE -> BUSY                      cas WHOLE -> BUSY: lost, so he waits
 *   drvdata of the tails = the head's
 *   page_split(head, tail), 511 times
 *   NONE (release)                         sees NONE (acquire)
 *   page_free(7)                           page_free(9)
 *
 *   cas FORMING -> NONE                    cas FORMING -> WHOLE: lost, no folio
 *     or: the same is lost to WHOLE          won: the folio is split at once
 *
 * The wait is bounded by the driver's callbacks, which may not block; who is BUSY
 * takes no lock, so whatever is held by who waits does no harm.
 *
 * All of a folio is freed at once by who owns its 512 page words: nobody else
 * can then be about to split it.
 */
#ifndef FERRYI_PAGER_FOLIO_H
#define FERRYI_PAGER_FOLIO_H

#include <stdbool.h>
#include <stdint.h>

#include "area.h"

struct ferryi_pager;

#define FERRYI_FOLIO_ORDER 9u
#define FERRYI_FOLIO_PAGES FERRYI_PAGES_PER_SUBSECTION

/* The pool's pages may be folios: nobody is to be told, or its driver knows what to do when one is split. */
bool ferryi_folio_is_for(const struct ferry_pool *pool);
/* FERRYI_FOLIO_ORDER for the head of a folio, else 0. Any thread, lock-free. */
unsigned ferryi_folio_order(const struct ferry_page *page);

/* All pages from the head at pfn on are staged, and about to be AWAY. ASSUMPTION: service lock held. */
void ferryi_folio_begin(struct ferryi_pager *pager, uint64_t pfn);
/* They are: true, and they are a folio, unless one has been freed since begin. */
bool ferryi_folio_form(struct ferryi_pager *pager, uint64_t pfn);
/*
 * On return the page at pfn is none of a folio, nor will be of one that is
 * forming. Any thread, any lock; the fault path. ASSUMPTION: pfn is valid, and
 * its block cannot leave it.
 */
void ferryi_folio_split(struct ferryi_pager *pager, uint64_t pfn);
/* Pages [first, first + nr) of the object part from what is before and behind them. As split. */
void ferryi_folio_split_ends(struct ferryi_pager *pager, struct ferryi_object *object, size_t first,
			     size_t nr);
/*
 * The application has given up all pages of the block that begins with page
 * `first`: true when they were a folio, all AWAY; they are ABSENT now, freed by
 * one call. Else nothing has changed. The fault path.
 * ASSUMPTION: no fault looks at the pages meanwhile (events lock held, or they are not mapped any more).
 */
bool ferryi_folio_free(struct ferryi_pager *pager, struct ferryi_object *object, size_t first);

#endif
