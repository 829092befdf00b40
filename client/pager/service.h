/* What API callers have done to pages, in their own thread; may block, bounded by fault_timeout_ms a page. */
#ifndef FERRYI_PAGER_SERVICE_H
#define FERRYI_PAGER_SERVICE_H

#include "pager_priv.h"

/*
 * Every page of [start, end) that is away comes home. 0, or -EIO when one is
 * poisoned, lost or late. only_what_fits: as much as the budget allows, 0.
 */
int ferryi_service_bring(struct ferryi_pager *pager, uintptr_t start, uintptr_t end, bool only_what_fits);
/* Every page that can leave does. */
void ferryi_service_send_away(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);
bool ferryi_service_any_pinned(struct ferryi_pager *pager, uintptr_t start, uintptr_t end);

#endif
