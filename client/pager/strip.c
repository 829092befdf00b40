/* See strip.h. */
#include "strip.h"

#include <errno.h>

#include "pager_priv.h"

#define STRIP_BYTES ((size_t)FERRYI_STRIP_PAGES * FERRYI_PAGE_SIZE)
_Static_assert(FERRYI_STRIP_SHEETS * FERRYI_EVICT_BATCH * FERRYI_PAGE_SIZE == FERRY_FRAMES_RESERVE, "as ferry.h says");
_Static_assert(FERRYI_EVICT_BATCH % FERRYI_STRIP_PAGES == 0, "a sheet is whole strips");

enum { EMPTY = 0, FULL, PART, STALE, BUSY };

static uint8_t *frames_of(struct ferryi_pager *pager, uint32_t i)
{
	uint32_t half = pager->strips.strip[i].in_inline_half ? ferryi_nr_slots(pager) : 0;

	return ferryi_slot_addr(pager, half + i * FERRYI_STRIP_PAGES);
}

unsigned ferryi_strips_extra(uint64_t budget_pages)
{
	return (unsigned)ferryi_min_u64(FERRYI_STRIP_SHEETS, budget_pages / FERRYI_STRIP_SHARE / FERRYI_EVICT_BATCH);
}

int ferryi_strips_open(struct ferryi_pager *pager, unsigned nr_held, unsigned nr_extra)
{
	struct ferryi_strips *s = &pager->strips;

	s->nr_sheets = nr_held + nr_extra;
	s->nr_extra = nr_extra;
	s->strip = ferryi_arena_alloc(pager->arena, s->nr_sheets * FERRYI_STRIPS_PER_SHEET * sizeof(*s->strip));
	if (!s->strip)
		return -ENOMEM;
	for (unsigned i = 0; i < nr_held * FERRYI_STRIPS_PER_SHEET; i++)
		atomic_store(&s->strip[i].state, BUSY);
	return 0;
}

/* ---- sheets ---- */

/* Would an evictor take it? clean: without giving frames to the kernel. */
static bool is_free(uint32_t state, bool clean)
{
	return state == EMPTY || (!clean && (state == PART || state == STALE));
}

/* Every strip of it, or none. */
static bool take_sheet(struct ferryi_pager *pager, unsigned sheet, bool clean)
{
	uint32_t first = sheet * FERRYI_STRIPS_PER_SHEET, was[FERRYI_STRIPS_PER_SHEET];
	struct ferryi_strip *strip = &pager->strips.strip[first];
	unsigned n;

	for (n = 0; n < FERRYI_STRIPS_PER_SHEET; n++) {
		was[n] = atomic_load_explicit(&strip[n].state, memory_order_relaxed);
		if (!is_free(was[n], clean) || !atomic_compare_exchange_strong(&strip[n].state, &was[n], BUSY))
			break;
	}
	if (n < FERRYI_STRIPS_PER_SHEET) {
		while (n) {
			n--;
			atomic_store(&strip[n].state, was[n]);
		}
		return false;
	}
	bool any_frame = false;

	for (n = 0; n < FERRYI_STRIPS_PER_SHEET; n++) {
		any_frame = any_frame || was[n] != EMPTY;
		if (was[n] == PART)
			atomic_fetch_sub(&pager->strips.nr_strips, 1);
	}
	if (any_frame) /* all in the same half, as one batch has left them */
		ferryi_staging_release(pager, frames_of(pager, first), FERRYI_STRIPS_PER_SHEET * STRIP_BYTES);
	return true;
}

static bool take_any_sheet(struct ferryi_pager *pager, unsigned *sheet)
{
	for (unsigned pass = 0; pass < 2; pass++) {
		for (*sheet = 0; *sheet < pager->strips.nr_sheets; (*sheet)++) {
			if (take_sheet(pager, *sheet, pass == 0))
				return true;
		}
	}
	return false;
}

static void give_strip(struct ferryi_pager *pager, uint32_t i, bool in_inline_half, unsigned frames)
{
	struct ferryi_strip *strip = &pager->strips.strip[i];

	strip->in_inline_half = in_inline_half;
	atomic_store_explicit(&strip->first, 0, memory_order_relaxed);
	if (frames == FERRYI_STRIP_PAGES) {
		atomic_fetch_add(&pager->strips.nr_strips, 1);
		atomic_store(&strip->state, FULL);
		return;
	}
	if (frames)
		ferryi_staging_release(pager, frames_of(pager, i), STRIP_BYTES);
	atomic_store(&strip->state, EMPTY);
}

bool ferryi_strips_exchange(struct ferryi_pager *pager, struct ferryi_evict_batch *batch,
			    const unsigned frames[FERRYI_STRIPS_PER_SHEET])
{
	bool in_inline_half = batch->first_slot >= ferryi_nr_slots(pager), any_full = false;
	uint32_t first = batch->first_slot % ferryi_nr_slots(pager) / FERRYI_STRIP_PAGES;
	unsigned sheet;

	for (unsigned n = 0; n < FERRYI_STRIPS_PER_SHEET; n++)
		any_full = any_full || frames[n] == FERRYI_STRIP_PAGES;
	if (!any_full || !atomic_load_explicit(&pager->strips.are_wanted, memory_order_relaxed) ||
	    !take_any_sheet(pager, &sheet))
		return false;
	for (unsigned n = 0; n < FERRYI_STRIPS_PER_SHEET; n++)
		give_strip(pager, first + n, in_inline_half, frames[n]);
	batch->first_slot = sheet * FERRYI_EVICT_BATCH;
	batch->staging = ferryi_slot_addr(pager, batch->first_slot);
	return true;
}

bool ferryi_strips_are_few(struct ferryi_pager *pager)
{
	const struct ferryi_strips *s = &pager->strips;
	uint64_t half = (uint64_t)s->nr_extra * FERRYI_EVICT_BATCH / 2; /* pages: no thread is woken for less */

	return atomic_load_explicit(&s->are_wanted, memory_order_relaxed) &&
	       atomic_load_explicit(&s->nr_strips, memory_order_relaxed) < half / FERRYI_STRIP_PAGES &&
	       ferryi_budget_free(&pager->budget) + half < atomic_load_explicit(&pager->budget.high, memory_order_relaxed);
}

bool ferryi_strips_are_enough(struct ferryi_pager *pager)
{
	unsigned room = 0, needed = pager->strips.nr_extra < FERRYI_EVICT_BATCHES ? pager->strips.nr_extra : FERRYI_EVICT_BATCHES;

	if (!atomic_load_explicit(&pager->strips.are_wanted, memory_order_relaxed))
		return false;
	for (unsigned sheet = 0; sheet < pager->strips.nr_sheets && room < needed; sheet++) {
		struct ferryi_strip *strip = &pager->strips.strip[sheet * FERRYI_STRIPS_PER_SHEET];
		unsigned n = 0;

		while (n < FERRYI_STRIPS_PER_SHEET && is_free(atomic_load_explicit(&strip[n].state, memory_order_relaxed), false))
			n++;
		room += n == FERRYI_STRIPS_PER_SHEET;
	}
	return room < needed;
}

/* ---- strips ---- */

static bool take_strip(struct ferryi_strips *s, uint32_t wanted, unsigned nr, uint32_t *strip)
{
	unsigned nr_strips = s->nr_sheets * FERRYI_STRIPS_PER_SHEET, at = atomic_load_explicit(&s->hand, memory_order_relaxed);

	for (unsigned n = 0; n < nr_strips; n++) {
		unsigned i = (at + n) % nr_strips;
		struct ferryi_strip *this = &s->strip[i];
		uint32_t state = wanted;

		if (atomic_load_explicit(&this->state, memory_order_relaxed) != wanted ||
		    FERRYI_STRIP_PAGES - atomic_load_explicit(&this->first, memory_order_relaxed) < nr ||
		    !atomic_compare_exchange_strong(&this->state, &state, BUSY))
			continue;
		if (FERRYI_STRIP_PAGES - atomic_load_explicit(&this->first, memory_order_relaxed) < nr) {
			atomic_store(&this->state, wanted); /* it was another's between the look and the cas */
			continue;
		}
		atomic_fetch_sub(&s->nr_strips, 1);
		atomic_store_explicit(&s->hand, i + 1, memory_order_relaxed);
		*strip = i;
		return true;
	}
	return false;
}

uint8_t *ferryi_strip_take(struct ferryi_pager *pager, unsigned nr, uint32_t *strip)
{
	struct ferryi_strips *s = &pager->strips;

	if (nr < FERRYI_STRIP_LEAST)
		return NULL;
	if (!atomic_load_explicit(&s->are_wanted, memory_order_relaxed))
		atomic_store(&s->are_wanted, true);
	if (!atomic_load_explicit(&s->nr_strips, memory_order_relaxed))
		return NULL;
	if (!(nr < FERRYI_STRIP_PAGES && take_strip(s, PART, nr, strip)) && !take_strip(s, FULL, nr, strip))
		return NULL;
	return frames_of(pager, *strip) +
	       (size_t)atomic_load_explicit(&s->strip[*strip].first, memory_order_relaxed) * FERRYI_PAGE_SIZE;
}

void ferryi_strip_put(struct ferryi_pager *pager, uint32_t strip, unsigned nr, unsigned nr_moved)
{
	struct ferryi_strips *s = &pager->strips;
	uint32_t first = atomic_load_explicit(&s->strip[strip].first, memory_order_relaxed), state;

	if (nr_moved && nr_moved < nr) {
		atomic_store(&s->strip[strip].state, STALE);
		return;
	}
	first += nr_moved;
	atomic_store_explicit(&s->strip[strip].first, first, memory_order_relaxed);
	state = first == 0 ? FULL : first < FERRYI_STRIP_PAGES ? PART : EMPTY;
	if (state != EMPTY)
		atomic_fetch_add(&s->nr_strips, 1);
	atomic_store(&s->strip[strip].state, state);
}
