/* What API callers have done to pages, in their own thread; may block, bounded by fault_timeout_ms a page. */
#ifndef FERRYI_PAGER_SERVICE_H
#define FERRYI_PAGER_SERVICE_H

#include "pager_priv.h"

/*
 * Every page of [start, end) that is away, or in a coherent pool, comes home. 0, or -EIO when one is
 * poisoned, lost or late. only_what_fits: of what is away, as much as the budget allows, 0.
 */
int ferryi_service_bring(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, bool only_what_fits);
/* Every page that can leave does. */
void ferryi_service_send_away(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
bool ferryi_service_any_pinned(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);

/* The page at va and its word, as of now; false: not managed. */
bool ferryi_service_look(struct ferryi_pager *pager, uintptr_t va, struct ferryi_page_ref *ref, uint64_t *word);
/* One more pin on a resident page; 0, -EAGAIN (not resident), -EOVERFLOW. Unpin: a page pinned by us. */
int ferryi_service_pin_resident(struct ferryi_pager *pager, uintptr_t va);
void ferryi_service_unpin(struct ferryi_pager *pager, uintptr_t va);
/* Has the page brought in (forced), or a fault answered; returns when that has ended. */
void ferryi_service_fault(struct ferryi_pager *pager, const struct ferryi_fault *fault);
void ferryi_service_fault_locked(struct ferryi_pager *pager, const struct ferryi_fault *fault);
/*
 * Reads or writes the page's copies in the pool (op: at one lender, until op->deadline_ns), from or to a registered buffer
 * (the service evictor's bounce). -ENOLINK: nothing was sent, the pool is as
 * it was (its server is gone, or no channel came in time); else as the transport.
 * ASSUMPTION: service lock held, page word ours or pinned.
 */
int ferryi_service_op(struct ferryi_pager *pager, const struct ferryi_lender *lender, struct ferryi_op *op);
int ferryi_service_io_pfn(struct ferryi_pager *pager, uint64_t pfn, enum ferryi_op_kind kind, uint8_t *bounce, size_t len);
int ferryi_service_io(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, enum ferryi_op_kind kind,
		      uint8_t *bounce);

#endif
