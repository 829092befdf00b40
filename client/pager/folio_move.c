/* See folio_move.h. */
#include "folio_move.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "evict_priv.h"
#include "log.h"
#include "pager_priv.h"
#include "peek.h"
#include "service.h"
#include "uffd.h"

#define WRITE_PAGES FERRYI_EVICT_SLOTS /* at a time: what the bounce buffer holds */

static uint8_t *slots(const struct ferryi_pager *pager)
{
	return ferryi_slot_addr(pager, pager->folio_move->first_slot);
}

bool ferryi_folio_move_can(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, size_t nr)
{
	const struct ferryi_subsection *sub =
		ferryi_subsection_of(pager->model, ferryi_object_pfn(ref->object, ref->index));
	const struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;
	uint8_t bits[FERRYI_FOLIO_PAGES];

	if (ref->object->is_inline || nr != FERRYI_FOLIO_PAGES || ref->va % FERRYI_SUBSECTION_SIZE || !pool ||
	    !ferryi_folio_is_for(pool) || ferryi_pager_scan(pager, ref->va, nr, bits))
		return false;
	for (size_t i = 0; i < nr; i++) {
		if (!(bits[i] & FERRYI_SCAN_HUGE) || (bits[i] & FERRYI_SCAN_ZERO))
			return false;
	}
	return true;
}

/* ---- taking it ---- */

static bool is_well(const struct ferryi_pager *pager, uint64_t pfn)
{
	const struct ferry_pool *pool = ferryi_subsection_of(pager->model, pfn)->pool;

	return ferryi_folio_is_for(pool) && !ferryi_pool_is_killed(pool) && !ferryi_pool_lost(pool) &&
	       !(ferryi_pool_any_failed(pool) && ferryi_pool_subsection_failed(pool, pfn));
}

static bool is_there_locked(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	struct ferryi_page_ref now;

	return ferryi_areas_find_locked(&pager->areas, ref->va, &now) && now.object == ref->object &&
	       now.index == ref->index && now.area_pages_left >= FERRYI_FOLIO_PAGES;
}

/* All its words are ISOLATING (ours), or none: 0, -EBUSY. The block: as in evict.c, see the race diagram in
 * bind.c. */
static int take_locked(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	struct ferryi_evict_page *page = pager->folio_move->page;
	struct ferryi_block *block = ferryi_ref_block(ref);
	uint32_t bound = atomic_load_explicit(&block->subsection, memory_order_acquire);
	unsigned n = 0;
	bool all = bound && !(bound & FERRYI_BLOCK_LEAVING) &&
		   is_well(pager, ferryi_object_pfn(ref->object, ref->index));

	for (; all && n < FERRYI_FOLIO_PAGES; n++) {
		if (!ferryi_evict_isolate(&page[n], ref->object, ref->index + n,
					  ref->va + n * FERRYI_PAGE_SIZE, false))
			break;
		all = !(page[n].flags & FERRYI_PAGE_ZAPPING);
	}
	if (all && n == FERRYI_FOLIO_PAGES && ferryi_block_is_still(block, bound))
		return 0;
	while (n)
		ferryi_evict_keep(&page[--n]);
	return -EBUSY;
}

static int take(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	ferryi_areas_read_lock(&pager->areas);
	int rc = is_there_locked(pager, ref) ? take_locked(pager, ref) : -EBUSY;

	ferryi_areas_read_unlock(&pager->areas);
	return rc;
}

/* Into the slot, in one step as seen by events and faults: bytes moved, or what the kernel said. */
static long move_out(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, const void *owner)
{
	struct ferryi_notice notice;
	long rc = -EBUSY;

	ferryi_mutex_lock(&pager->events_lock);
	ferryi_areas_read_lock(&pager->areas);
	if (is_there_locked(pager, ref)) {
		ferryi_notify_begin(pager->attr.notifier, &notice, ref->va, FERRYI_SUBSECTION_SIZE,
				    FERRY_UPDATE_MIGRATE, owner);
		rc = ferryi_uffd_move(pager->uffd, slots(pager), (void *)ref->va, FERRYI_SUBSECTION_SIZE);
		if (rc > 0)
			ferryi_uffd_mark(pager->uffd, (void *)ref->va, (size_t)rc, true);
		ferryi_notify_end(&notice);
	}
	ferryi_areas_read_unlock(&pager->areas);
	ferryi_mutex_unlock(&pager->events_lock);
	return rc;
}

/* The first `moved` pages are STAGED from now on: a fault takes them from their slots. The others stay. */
static void stage(struct ferryi_pager *pager, unsigned moved)
{
	struct ferryi_folio_move *m = pager->folio_move;

	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES; i++) {
		ferryi_page_word *word = &m->page[i].object->words[m->page[i].index];
		uint64_t slot = (uint64_t)(m->first_slot + i) << FERRYI_PAGE_ARG_SHIFT, old;

		m->page[i].staged = i < moved;
		if (i >= moved) {
			ferryi_evict_keep(&m->page[i]);
			continue;
		}
		old = ferryi_page_load(word);
		while (!ferryi_page_cas(word, &old, slot | (old & FERRYI_PAGE_DROPPED) | FERRYI_PAGE_STAGED))
			;
	}
	if (atomic_load(&pager->budget_waiters))
		ferryi_pager_wake_handlers(pager);
}

/* ---- sending it ---- */

static int write_all(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t *bytes)
{
	uint8_t *bounce = pager->service_evictor->batch[0].bounce;
	size_t len = (size_t)WRITE_PAGES * FERRYI_PAGE_SIZE;
	int rc = 0;

	ferryi_children_save(pager, ref->object, ref->index, FERRYI_FOLIO_PAGES);
	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES && !rc; i += WRITE_PAGES) {
		memcpy(bounce, slots(pager) + (size_t)i * FERRYI_PAGE_SIZE, len);
		rc = ferryi_service_io_pfn(pager, pager->folio_move->pfn + i, FERRYI_OP_WRITE, bounce, len);
		if (!rc) {
			*bytes += len;
			ferryi_count(&pager->counters.c_bytes_out, len);
		}
	}
	return rc;
}

/* The pages are still neighbours, wherever an mremap has taken them. */
static bool is_in_one_piece_locked(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	struct ferryi_page_ref now;
	uintptr_t va;

	return ferryi_areas_va_locked(&pager->areas, ref->object, ref->index, &va) &&
	       ferryi_areas_find_locked(&pager->areas, va, &now) && now.area_pages_left >= FERRYI_FOLIO_PAGES;
}

int ferryi_folio_move_commit(struct ferryi_pager *pager, const struct ferryi_page_ref *ref)
{
	struct ferryi_folio_move *m = pager->folio_move;
	const uint64_t pfn = m->pfn;
	struct ferry_page *desc = ferryi_pfn_to_page(pager->model, pfn);
	unsigned away = 0;

	/* Before a word lets any fault to them. */
	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES; i++) {
		desc[i].hash = XXH3_64bits(slots(pager) + (size_t)i * FERRYI_PAGE_SIZE, FERRYI_PAGE_SIZE);
		desc[i].va = m->page[i].va;
	}
	/* No mremap parts them until they are a folio; and once the last word is let go, this keeps the pool attached. */
	ferryi_areas_read_lock(&pager->areas);
	if (is_in_one_piece_locked(pager, ref))
		ferryi_folio_begin(pager, pfn);
	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES; i++) {
		if (ferryi_evict_end(m->evictor, &m->page[i], m->first_slot + i,
				     FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED))
			away++;
		else
			ferryi_folio_split(pager, pfn);
	}
	bool formed = ferryi_folio_form(pager, pfn);

	ferryi_areas_read_unlock(&pager->areas);
	ferryi_count(&pager->counters.c_pages_evicted, away);
	ferryi_count(&pager->counters.c_pages_written, away);
	return formed ? 0 : -EBUSY;
}

static void put_back(struct ferryi_pager *pager)
{
	struct ferryi_folio_move *m = pager->folio_move;

	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES; i++) {
		if (m->page[i].staged)
			ferryi_evict_put_page_back(m->evictor, &m->page[i], m->first_slot + i);
	}
}

/* The slots' RAM goes, with any page table that a huge page could not be moved to. */
static void release_slots(struct ferryi_pager *pager)
{
	void *addr = slots(pager);

	ferryi_uffd_unregister(pager->uffd, addr, FERRYI_SUBSECTION_SIZE);
	if (mmap(addr, FERRYI_SUBSECTION_SIZE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		madvise(addr, FERRYI_SUBSECTION_SIZE, MADV_DONTNEED);
	madvise(addr, FERRYI_SUBSECTION_SIZE, MADV_DONTDUMP);
	madvise(addr, FERRYI_SUBSECTION_SIZE, MADV_NOHUGEPAGE); /* as what is beside it: one mapping again */
	int rc = ferryi_uffd_register(pager->uffd, addr, FERRYI_SUBSECTION_SIZE, false);

	if (rc)
		ferryi_error("staging: no huge page can be taken as one any more (%s)", ferryi_strerror(rc));
}

static unsigned count_rescued(const struct ferryi_folio_move *m)
{
	unsigned n = 0;

	for (unsigned i = 0; i < FERRYI_FOLIO_PAGES; i++)
		n += m->page[i].rescued;
	return n;
}

/* No page of it is staged any more; the charge for those that went back is settled. */
static void end(struct ferryi_pager *pager)
{
	struct ferryi_folio_move *m = pager->folio_move;

	if (m->nr_staged)
		release_slots(pager);
	ferryi_budget_uncharge(&pager->budget, m->nr_staged + FERRYI_FOLIO_PAGES - count_rescued(m));
	m->evictor = NULL;
	if (atomic_load(&pager->budget_waiters))
		ferryi_pager_wake_handlers(pager);
}

int ferryi_folio_move_begin(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, struct ferryi_evictor *ev)
{
	struct ferryi_folio_move *m = pager->folio_move;

	ferryi_assert_held(&pager->service_lock);
	if (m->evictor)
		return -EBUSY;
	if (!ferryi_budget_charge(&pager->budget, FERRYI_FOLIO_PAGES)) /* for those that go back */
		return -ENOMEM;
	if (take(pager, ref)) {
		ferryi_budget_uncharge(&pager->budget, FERRYI_FOLIO_PAGES);
		return -EBUSY;
	}
	m->evictor = ev;
	m->pfn = ferryi_object_pfn(ref->object, ref->index); /* until the last word is let go */
	long moved = move_out(pager, ref, ev->owner);

	m->nr_staged = moved > 0 ? (unsigned)((size_t)moved / FERRYI_PAGE_SIZE) : 0;
	stage(pager, m->nr_staged);
	if (m->nr_staged == FERRYI_FOLIO_PAGES)
		return 0;
	put_back(pager);
	end(pager);
	return moved < 0 ? (int)moved : -EBUSY;
}

const uint8_t *ferryi_folio_move_data(const struct ferryi_pager *pager)
{
	return slots(pager);
}

void ferryi_folio_move_end(struct ferryi_pager *pager)
{
	put_back(pager);
	end(pager);
}

int ferryi_folio_move_send(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t *bytes)
{
	int rc = ferryi_folio_move_begin(pager, ref, pager->service_evictor);

	if (rc)
		return rc;
	rc = write_all(pager, ref, bytes);
	rc = rc ? rc : ferryi_folio_move_commit(pager, ref);
	ferryi_folio_move_end(pager);
	return rc;
}
