/*
 * The application's own changes to managed memory, as the kernel reports them:
 * MADV_DONTNEED, munmap, mremap. Applied by the fault thread that read them,
 * before any later event is read (events_lock). Fault path rules.
 *
 * The kernel changes the address space under its own lock, and queues the event
 * after it has let that go, so the events of two threads may come in the other
 * order than their changes:
 *
 *   thread 1                              thread 2
 *   -----------------------------------   ---------------------------------------
 *   munmap(A): A is free in the kernel
 *                                         mmap gives A; mremap(B -> A)
 *                                         event REMAP(B -> A) is queued and read
 *   event UNMAP(A) is queued and read
 *
 * Applied as they come, UNMAP(A) would drop B's pages. So a move to a place that
 * the area table has in use is late: it waits until the event is applied that
 * makes its place free, and so do faults there. That event is on its way for
 * certain as long as the kernel answers EAGAIN (mmap_changing, raised together
 * with the change). A MADV_DONTNEED there meanwhile is of the pages that were
 * moved, which the table still has at their old address. The same holds for the
 * second event of an mremap itself:
 *
 *   mremap(A -> B)
 *   event REMAP(A -> B) is queued and read
 *                                         mmap gives A; it is adopted, written
 *   event UNMAP(A) is queued and read
 *
 * So a move leaves a vacated range behind, and the one UNMAP of just that range
 * is not applied. Not covered: thread 2 moving its memory away from A again
 * before thread 1 has come to queue its event; the two are not to be told apart.
 */
#include <errno.h>
#include <sched.h>

#include "callback.h"
#include "clock.h"
#include "exclusive.h"
#include "folio.h"
#include "log.h"
#include "pager_priv.h"
#include "uffd.h"

void ferryi_events_settle(struct ferryi_pager *pager)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	bool settled;

	do {
		ferryi_mutex_lock(&pager->events_lock);
		settled = !pager->nr_late_moves;
		ferryi_mutex_unlock(&pager->events_lock);
	} while (!settled && ferryi_now_ns() < deadline_ns && sched_yield() == 0);
}

bool ferryi_pager_covers(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	ferryi_events_settle(pager);
	ferryi_areas_read_lock(&pager->areas);
	bool covers = ferryi_areas_cover_locked(&pager->areas, start, end);

	ferryi_areas_read_unlock(&pager->areas);
	return covers;
}

/* events_lock is held, so no fault looks at the page meanwhile: nobody is to be woken. */
static void drop_page(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t now)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint64_t old = ferryi_page_load(word);

	for (;;) {
		switch (ferryi_page_state(old)) {
		case FERRYI_PAGE_ABSENT:
			return;
		case FERRYI_PAGE_RESIDENT: /* the hole is found by the next touch, or by eviction */
			if (ferryi_page_cas(word, &old, ferryi_page_zapping(old, now)))
				return;
			break;
		case FERRYI_PAGE_AWAY:
			if (ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING))) {
				ferryi_uncount(&pager->counters.g_away_pages, 1);
				ferryi_page_freed(pager, ferryi_object_pfn(ref->object, ref->index));
				ferryi_page_void(pager->model, ferryi_object_pfn(ref->object, ref->index));
				ferryi_page_release(word, FERRYI_PAGE_ABSENT);
				return;
			}
			break;
		case FERRYI_PAGE_POISONED:
			if (ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT))
				return;
			break;
		case FERRYI_PAGE_EXCLUSIVE:
			if (ferryi_page_cas(word, &old, FERRYI_PAGE_ABSENT)) {
				ferryi_exclusive_drop(pager, ferryi_page_arg(old));
				return;
			}
			break;
		default: /* transient: its owner ends it; COHERENT: who looks at it zeroes it */
			if (ferryi_page_cas(word, &old, old | FERRYI_PAGE_DROPPED))
				return;
		}
	}
}

/* The late move that brings the memory at va there, or NULL. */
static const struct ferryi_move *late_move_to(const struct ferryi_pager *pager, uintptr_t va)
{
	for (unsigned i = 0; i < pager->nr_late_moves; i++) {
		if (va >= pager->late_moves[i].to && va - pager->late_moves[i].to < pager->late_moves[i].len)
			return &pager->late_moves[i];
	}
	return NULL;
}

/* Where the area table has the memory at va. */
static uintptr_t table_va(const struct ferryi_pager *pager, uintptr_t va)
{
	const struct ferryi_move *move = late_move_to(pager, va);

	return move ? va - move->to + move->from : va;
}

/* Of the n pages from ref on, the first 512 are a folio, and go as a whole. */
static bool drop_folio(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, size_t n)
{
	return ref->index % FERRYI_FOLIO_PAGES == 0 && n >= FERRYI_FOLIO_PAGES &&
	       ferryi_folio_free(pager, ref->object, ref->index);
}

void ferryi_event_remove_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	uint64_t now = ferryi_now_ns();
	struct ferryi_page_ref ref;

	ferryi_assert_held(&pager->events_lock);
	ferryi_areas_read_lock(&pager->areas);
	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_areas_find_locked(&pager->areas, table_va(pager, va), &ref))
			continue;
		size_t n = pager->nr_late_moves ? 1 : ferryi_min_u64(ref.area_pages_left, (end - va) >> FERRYI_PAGE_SHIFT);

		for (size_t nr; n; n -= nr, ref.index += nr, va += nr * FERRYI_PAGE_SIZE) {
			nr = drop_folio(pager, &ref, n) ? FERRYI_FOLIO_PAGES : 1;
			if (nr == 1)
				drop_page(pager, &ref, now);
		}
		va -= FERRYI_PAGE_SIZE;
	}
	ferryi_areas_read_unlock(&pager->areas);
}

/* What is there is cut out and given up; who waits for its pages is told by the zombies' end. */
static void cut_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	struct ferryi_area piece;

	while (ferryi_areas_cut_first_locked(&pager->areas, start, end, &piece) == 1)
		ferryi_zombies_add(pager, &piece);
}

/* EAGAIN: some change of the address space has an event that is not read yet. */
bool ferryi_events_to_come(struct ferryi_pager *pager)
{
	uint8_t *of_inline = ferryi_slot_addr(pager, ferryi_nr_slots(pager));

	return ferryi_uffd_mark(pager->uffd, pager->staging, FERRYI_PAGE_SIZE, false) == -EAGAIN ||
	       (ferryi_inline_is_on(&pager->inline_mode) &&
		ferryi_uffd_mark(pager->inline_mode.uffd, of_inline, FERRYI_PAGE_SIZE, false) == -EAGAIN);
}

/* An mremap has been seen whose UNMAP of the old range is still to come; MREMAP_DONTUNMAP has none. */
static void note_vacated(struct ferryi_pager *pager, const struct ferryi_move *move)
{
	if (!ferryi_events_to_come(pager)) {
		pager->nr_vacated = 0; /* nor is any older one */
		return;
	}
	if (pager->nr_vacated == FERRYI_MAX_LATE_MOVES) /* so many threads between two instructions of the kernel? */
		ferryi_error("mremap: more than %u at a time", FERRYI_MAX_LATE_MOVES);
	else
		pager->vacated[pager->nr_vacated++] = *move;
}

/* That UNMAP, if it is one: then what is there now is not concerned. */
static bool take_vacated(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	for (unsigned i = 0; i < pager->nr_vacated; i++) {
		if (pager->vacated[i].from == start && pager->vacated[i].from + pager->vacated[i].len == end) {
			pager->vacated[i] = pager->vacated[--pager->nr_vacated];
			return true;
		}
	}
	return false;
}

static void move_area_locked(struct ferryi_pager *pager, const struct ferryi_move *move)
{
	struct ferryi_area piece;

	while (ferryi_areas_cut_first_locked(&pager->areas, move->from, move->from + move->len, &piece) == 1) {
		ferryi_folio_split_ends(pager, piece.object, piece.first_page, (piece.end - piece.start) >> FERRYI_PAGE_SHIFT);
		piece.start = piece.start - move->from + move->to;
		piece.end = piece.end - move->from + move->to;
		if (ferryi_areas_insert_locked(&pager->areas, &piece)) {
			ferryi_error("mremap: area table full, %#lx-%#lx is not managed any more",
				     (unsigned long)piece.start, (unsigned long)piece.end);
			ferryi_zombies_add(pager, &piece);
		}
	}
}

/* The late moves whose place has become free; with `all`, what is still in their way goes. */
static void apply_late_locked(struct ferryi_pager *pager, bool all)
{
	for (unsigned i = 0; i < pager->nr_late_moves;) {
		struct ferryi_move move = pager->late_moves[i];
		bool taken = ferryi_areas_overlap_locked(&pager->areas, move.to, move.to + move.len);

		if (taken && !all) {
			i++;
			continue;
		}
		if (taken)
			cut_locked(pager, move.to, move.to + move.len);
		move_area_locked(pager, &move);
		pager->late_moves[i] = pager->late_moves[pager->nr_late_moves - 1];
		atomic_store(&pager->nr_late_moves, pager->nr_late_moves - 1);
		i = 0; /* it may have made room for another */
	}
}

void ferryi_event_unmap_locked(struct ferryi_pager *pager, uintptr_t start, uintptr_t end)
{
	ferryi_assert_held(&pager->events_lock);
	if (take_vacated(pager, start, end))
		return;
	ferryi_areas_write_lock(&pager->areas);
	cut_locked(pager, start, end);
	apply_late_locked(pager, false);
	ferryi_areas_write_unlock(&pager->areas);
	ferryi_keeper_kick(pager->keeper);
}

void ferryi_event_remap_locked(struct ferryi_pager *pager, uintptr_t from, uintptr_t to, uint64_t len)
{
	struct ferryi_move move = { .from = from, .to = to, .len = len };

	ferryi_assert_held(&pager->events_lock);
	note_vacated(pager, &move);
	ferryi_areas_write_lock(&pager->areas);
	if (!ferryi_areas_overlap_locked(&pager->areas, to, to + len)) {
		move_area_locked(pager, &move);
		apply_late_locked(pager, false);
	} else if (ferryi_areas_overlap_locked(&pager->areas, from, from + len)) {
		if (pager->nr_late_moves == FERRYI_MAX_LATE_MOVES)
			apply_late_locked(pager, true);
		pager->late_moves[pager->nr_late_moves] = move;
		atomic_store(&pager->nr_late_moves, pager->nr_late_moves + 1);
	}
	ferryi_areas_write_unlock(&pager->areas);
}

void ferryi_event_late_locked(struct ferryi_pager *pager)
{
	ferryi_assert_held(&pager->events_lock);
	if (ferryi_events_to_come(pager))
		return;
	pager->nr_vacated = 0;
	ferryi_areas_write_lock(&pager->areas);
	apply_late_locked(pager, true);
	ferryi_areas_write_unlock(&pager->areas);
}

bool ferryi_event_is_late_locked(const struct ferryi_pager *pager, uintptr_t va)
{
	return late_move_to(pager, va);
}
