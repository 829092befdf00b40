/* See peek.h. */
#include "peek.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "folio.h"
#include "pager_priv.h"
#include "uapi.h"

#define REGIONS 64u /* that one ioctl gives back */

bool ferryi_pager_is_coherent_pfn(struct ferryi_pager *pager, uint64_t pfn)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);

	return sub && sub->memfd >= 0;
}

void ferryi_pager_peek(struct ferryi_pager *pager, uintptr_t va, struct ferryi_peek *peek)
{
	struct ferryi_page_ref ref;
	struct ferryi_remote remote;
	uint64_t off;

	*peek = (struct ferryi_peek){ .place = FERRYI_PEEK_UNMANAGED };
	ferryi_areas_read_lock(&pager->areas);
	if (ferryi_areas_find_locked(&pager->areas, va, &ref)) {
		switch (ferryi_page_state(ferryi_page_load(ferryi_ref_word(&ref)))) {
		case FERRYI_PAGE_ABSENT:
		case FERRYI_PAGE_EXCLUSIVE: /* as to all but its holder */
			peek->place = FERRYI_PEEK_NOWHERE;
			break;
		case FERRYI_PAGE_RESIDENT:
			peek->place = FERRYI_PEEK_RAM;
			break;
		case FERRYI_PAGE_COHERENT:
			peek->pfn = ferryi_object_pfn(ref.object, ref.index);
			peek->place = FERRYI_PEEK_COHERENT;
			peek->owner = ferryi_pool_owner(ferryi_locate(pager, peek->pfn, &remote, &off));
			break;
		case FERRYI_PAGE_AWAY:
			peek->pfn = ferryi_object_pfn(ref.object, ref.index);
			peek->order = ferryi_folio_order(ferryi_pfn_to_page(pager->model, peek->pfn - peek->pfn % FERRYI_FOLIO_PAGES));
			peek->place = FERRYI_PEEK_POOL;
			peek->owner = ferryi_pool_owner(ferryi_locate(pager, peek->pfn, &remote, &off));
			break;
		case FERRYI_PAGE_POISONED:
			peek->place = FERRYI_PEEK_LOST;
			break;
		default:
			peek->place = FERRYI_PEEK_MOVING;
		}
	}
	ferryi_areas_read_unlock(&pager->areas);
}

int ferryi_pager_scan(struct ferryi_pager *pager, uintptr_t start, size_t nr, uint8_t *bits)
{
	struct ferryi_page_region region[REGIONS];
	uintptr_t end = start + nr * FERRYI_PAGE_SIZE, at = start;

	memset(bits, 0, nr);
	if (pager->pagemap_fd < 0)
		return -EACCES;
	while (at < end) {
		struct ferryi_pm_scan_arg arg = {
			.size = sizeof(arg), .start = at, .end = end, .vec = (uintptr_t)region, .vec_len = REGIONS,
			.category_mask = FERRYI_PAGE_IS_PRESENT,
			.return_mask = FERRYI_PAGE_IS_PRESENT | FERRYI_PAGE_IS_PFNZERO | FERRYI_PAGE_IS_HUGE,
		};
		int n = ioctl(pager->pagemap_fd, FERRYI_PAGEMAP_SCAN, &arg);

		if (n < 0)
			return -errno;
		for (int i = 0; i < n; i++) {
			uint8_t bit = FERRYI_SCAN_PRESENT;

			bit |= region[i].categories & FERRYI_PAGE_IS_PFNZERO ? FERRYI_SCAN_ZERO : 0;
			bit |= region[i].categories & FERRYI_PAGE_IS_HUGE ? FERRYI_SCAN_HUGE : 0;
			memset(bits + (region[i].start - start) / FERRYI_PAGE_SIZE, bit,
			       (region[i].end - region[i].start) / FERRYI_PAGE_SIZE);
		}
		if (arg.walk_end <= at)
			break;
		at = arg.walk_end;
	}
	return 0;
}
