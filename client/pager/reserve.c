/* See reserve.h. */
#include "reserve.h"

#include <errno.h>
#include <string.h>

#include "fetch_priv.h"
#include "pager_priv.h"
#include "uffd.h"

enum { EMPTY = 0, FULL, BUSY };

static void *frame_addr(struct ferryi_pager *pager, uint32_t i)
{
	return ferryi_slot_addr(pager, pager->reserve->first_slot + i);
}

void ferryi_reserve_open(struct ferryi_pager *pager)
{
	struct ferryi_reserve *r = pager->reserve;

	for (uint32_t i = 0; i < FERRYI_RESERVE_FRAMES && !ferryi_memcg_is_tight(&pager->memcg); i++) {
		if (ferryi_uffd_copy(pager->uffd, frame_addr(pager, i), pager->zeros, FERRYI_PAGE_SIZE) < 0)
			return;
		atomic_store(&r->state[i], FULL);
		atomic_fetch_add(&r->nr_full, 1);
	}
}

static bool take(struct ferryi_reserve *r, uint32_t wanted, uint32_t *frame)
{
	for (uint32_t i = 0; i < FERRYI_RESERVE_FRAMES; i++) {
		uint32_t state = wanted;

		if (atomic_load_explicit(&r->state[i], memory_order_relaxed) == wanted &&
		    atomic_compare_exchange_strong(&r->state[i], &state, BUSY)) {
			*frame = i;
			return true;
		}
	}
	return false;
}

long ferryi_reserve_copy(struct ferryi_pager *pager, int uffd, void *dst, const void *src)
{
	struct ferryi_reserve *r = pager->reserve;
	uint32_t i;

	if (!take(r, FULL, &i))
		return -ENOMEM;
	memcpy(frame_addr(pager, i), src, FERRYI_PAGE_SIZE);
	long rc = ferryi_place_frame(uffd, dst, frame_addr(pager, i));

	if (rc > 0) {
		atomic_fetch_sub(&r->nr_full, 1);
		atomic_store(&r->state[i], EMPTY);
		ferryi_count(&pager->counters.c_pages_reserve, 1);
		return rc;
	}
	atomic_store(&r->state[i], FULL);
	if (rc == -EINVAL) /* the range is read-only: pages do not move there */
		return ferryi_uffd_copy(uffd, dst, src, FERRYI_PAGE_SIZE);
	return rc == -EBUSY ? -ENOMEM : rc; /* the frame is shared after a fork */
}

bool ferryi_reserve_refill(struct ferryi_pager *pager, uint8_t *staging, unsigned nr)
{
	struct ferryi_reserve *r = pager->reserve;
	bool any = false;
	uint32_t i;

	for (unsigned slot = 0; slot < nr && atomic_load(&r->nr_full) < FERRYI_RESERVE_FRAMES; slot++) {
		if (!take(r, EMPTY, &i))
			break;
		if (ferryi_uffd_move(pager->uffd, frame_addr(pager, i), staging + (size_t)slot * FERRYI_PAGE_SIZE,
				     FERRYI_PAGE_SIZE) > 0) {
			atomic_fetch_add(&r->nr_full, 1);
			atomic_store(&r->state[i], FULL);
			any = true;
		} else { /* no frame in that slot */
			atomic_store(&r->state[i], EMPTY);
		}
	}
	return any;
}

int ferryi_reserve_is_low(struct ferryi_pager *pager)
{
	return atomic_load(&pager->reserve->nr_full) < FERRYI_RESERVE_FRAMES / 2;
}
