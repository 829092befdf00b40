/*
 * Pages for a child of fork, and what the child itself does to its ranges. The
 * same for its parent and for its heir. See child.h.
 */
#include "child.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "bitmap.h"
#include "clock.h"
#include "log.h"
#include "uffd.h"

#define PAUSE_MS 1

static struct ferryi_child_object *copy_of(const struct ferryi_page_ref *ref)
{
	return (struct ferryi_child_object *)ref->object;
}

/* ---- pages ---- */

static void not_needed(struct ferryi_child *child, struct ferryi_child_object *copy, size_t index)
{
	if (ferryi_bitmap_test(copy->needed, index))
		child->nr_needed--;
	ferryi_bitmap_clear(copy->needed, index);
}

static void set_lost(struct ferryi_child *child, struct ferryi_child_object *copy, size_t index)
{
	not_needed(child, copy, index);
	if (!ferryi_bitmap_test(copy->lost, index))
		child->nr_lost++;
	ferryi_bitmap_set(copy->lost, index);
}

uint64_t ferryi_child_pfn(const struct ferryi_child_object *copy, size_t index)
{
	return (uint64_t)(copy->subsection[index / FERRYI_PAGES_PER_BLOCK] - 1) * FERRYI_PAGES_PER_SUBSECTION +
	       index % FERRYI_PAGES_PER_BLOCK;
}

/* Needed pages from index on: neighbours in one block, at most FERRYI_CHILD_RUN. */
static size_t run_of(const struct ferryi_child_object *copy, size_t index, size_t max)
{
	size_t n = 0;

	max = ferryi_min_u64(max, FERRYI_PAGES_PER_BLOCK - index % FERRYI_PAGES_PER_BLOCK);
	max = ferryi_min_u64(ferryi_min_u64(max, FERRYI_CHILD_RUN), copy->as_object.nr_pages - index);
	while (n < max && ferryi_bitmap_test(copy->needed, index + n))
		n++;
	return n;
}

void ferryi_child_drop(struct ferryi_child *child, uintptr_t start, uintptr_t end)
{
	struct ferryi_page_ref ref;

	for (uintptr_t va = start; va < end; va += FERRYI_PAGE_SIZE) {
		if (!ferryi_areas_find_locked(&child->areas, va, &ref))
			continue;
		struct ferryi_child_object *copy = (struct ferryi_child_object *)ref.object;

		child->nr_needed -= ferryi_bitmap_test(copy->needed, ref.index);
		child->nr_lost -= ferryi_bitmap_test(copy->lost, ref.index);
		ferryi_bitmap_clear(copy->needed, ref.index);
		ferryi_bitmap_clear(copy->lost, ref.index);
	}
}

/* ---- into the child ---- */

static void read_events(struct ferryi_child_giver *giver, struct ferryi_child *child, bool answer);

/* One page; what cannot be given is lost. `from` NULL: poison. false: it could not be, and is a hole still. */
static bool put_page(struct ferryi_child_giver *giver, struct ferryi_child *child, struct ferryi_child_object *copy,
			    size_t index, const uint8_t *from)
{
	uint64_t deadline_ns = ferryi_deadline_ms(giver->timeout_ms);
	uintptr_t va;
	long rc = -EAGAIN;

	/* The child's own munmap or mremap moves the page under way: its events say where it is now. */
	while ((rc == -EAGAIN || rc == -ENOMEM) && !child->gone && ferryi_now_ns() < deadline_ns) {
		if (!ferryi_areas_va_locked(&child->areas, &copy->as_object, index, &va) ||
		    (from && !ferryi_bitmap_test(copy->needed, index)))
			return true; /* unmapped or dropped by the child: who waits for it is woken by on_fault */
		rc = from ? ferryi_uffd_copy(child->uffd, (void *)va, from, FERRYI_PAGE_SIZE) :
			    ferryi_uffd_poison(child->uffd, (void *)va);
		if (rc == -EAGAIN || rc == -ENOMEM) {
			read_events(giver, child, false);
			poll(NULL, 0, rc == -ENOMEM ? PAUSE_MS : 0);
		}
	}
	if (rc == -ESRCH)
		child->gone = true;
	if (from && (rc > 0 || rc == -EEXIST))
		not_needed(child, copy, index);
	else if (from)
		set_lost(child, copy, index);
	if (rc == -EEXIST)
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
	return rc >= 0 || rc == -EEXIST;
}

/* Gives the child pages [index, index + nr), all needed, all of one block. */
static void give_run(struct ferryi_child_giver *giver, struct ferryi_child *child, struct ferryi_child_object *copy,
			    size_t index, size_t nr)
{
	int rc = giver->read(giver->ctx, copy, index, nr);

	if (rc == -EHWPOISON && nr > 1) { /* one bad page is not to spoil its neighbours */
		for (size_t i = 0; i < nr; i++)
			give_run(giver, child, copy, index + i, 1);
		return;
	}
	if (rc && !child->nr_lost)
		ferryi_warn("fork: pages that a child needs cannot be had (%s)", ferryi_strerror(rc));
	for (size_t i = 0; i < nr; i++) {
		if (rc)
			set_lost(child, copy, index + i);
		put_page(giver, child, copy, index + i,
				rc ? NULL : giver->buf + i * FERRYI_PAGE_SIZE);
	}
}

void ferryi_child_give_pages(struct ferryi_child_giver *giver, struct ferryi_child *child, struct ferryi_child_object *copy,
			      size_t index, size_t end)
{
	while (index < end && !child->gone) {
		index = ferryi_bitmap_next_set(copy->needed, end, index);
		if (index < end)
			give_run(giver, child, copy, index, run_of(copy, index, end - index));
	}
}

/* ---- the child's events ---- */

static void on_fault(struct ferryi_child_giver *giver, struct ferryi_child *child, uintptr_t va)
{
	struct ferryi_page_ref ref;

	if (!ferryi_areas_find_locked(&child->areas, va, &ref)) {
		ref.object = NULL; /* the old end of an mremap, or growth in place: zeros */
	} else if (ferryi_bitmap_test(copy_of(&ref)->needed, ref.index)) {
		size_t nr = run_of(copy_of(&ref), ref.index, ref.area_pages_left);

		give_run(giver, child, copy_of(&ref), ref.index, nr);
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE); /* it may have been moved meanwhile */
		return;
	} else if (ferryi_bitmap_test(copy_of(&ref)->lost, ref.index)) {
		put_page(giver, child, copy_of(&ref), ref.index, NULL);
		return;
	}
	/* EAGAIN, EEXIST, ...: let it fault again, the answer is another one then. */
	if (ferryi_uffd_zero(child->uffd, (void *)va, FERRYI_PAGE_SIZE))
		ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
}

static void cut(struct ferryi_child *child, uintptr_t start, uintptr_t end)
{
	struct ferryi_area piece;

	while (ferryi_areas_cut_first_locked(&child->areas, start, end, &piece) == 1)
		;
}

static void move(struct ferryi_child *child, uintptr_t from, uintptr_t to, size_t len)
{
	struct ferryi_area piece;

	cut(child, to, to + len); /* what was there is unmapped: its event may come late, and then finds this */
	while (ferryi_areas_cut_first_locked(&child->areas, from, from + len, &piece) == 1) {
		piece.start = piece.start - from + to;
		piece.end = piece.end - from + to;
		if (ferryi_areas_insert_locked(&child->areas, &piece))
			ferryi_error("fork: a child has more than %u separate ranges", FERRYI_MAX_AREAS);
	}
}

/* A store before this is in the record before a store after it, if we are killed between: the table in child.h. */
static void step(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

static void set_busy(struct ferryi_child *child, bool busy)
{
	step();
	*(volatile bool *)&child->table_busy = busy;
	step();
}

/* Dropping is done before the table changes: twice is as good as once. */
static void on_change(struct ferryi_child *child, struct uffd_msg *msg)
{
	uintptr_t start = (uintptr_t)msg->arg.remove.start, end = (uintptr_t)msg->arg.remove.end;
	uintptr_t from = (uintptr_t)msg->arg.remap.from, to = (uintptr_t)msg->arg.remap.to;
	size_t len = (size_t)msg->arg.remap.len;

	switch (msg->event) {
	case UFFD_EVENT_REMOVE:
		ferryi_child_drop(child, start, end);
		break;
	case UFFD_EVENT_UNMAP:
		ferryi_child_drop(child, start, end);
		set_busy(child, true);
		cut(child, start, end);
		break;
	case UFFD_EVENT_REMAP:
		ferryi_child_drop(child, to, to + len);
		set_busy(child, true);
		move(child, from, to, len);
		break;
	default:
		return;
	}
	step();
	msg->event = 0;
	set_busy(child, false);
}

static void read_events(struct ferryi_child_giver *giver, struct ferryi_child *child, bool answer)
{
	struct uffd_msg *msgs = child->events[answer ? 0 : 1];

	memset(msgs, 0, sizeof(child->events[0]));
	step();
	ssize_t len = read(child->uffd, msgs, sizeof(child->events[0]));
	unsigned n = len > 0 ? (unsigned)((size_t)len / sizeof(msgs[0])) : 0;

	/* Changes first: a fault that follows a MADV_DONTNEED must not find what that dropped. */
	for (unsigned i = 0; i < n; i++)
		on_change(child, &msgs[i]);
	for (unsigned i = 0; i < n && !child->gone; i++) {
		uintptr_t va = (uintptr_t)msgs[i].arg.pagefault.address & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);

		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		if (answer)
			on_fault(giver, child, va);
		else /* in the middle of an answer: this one comes again */
			ferryi_uffd_wake(child->uffd, (void *)va, FERRYI_PAGE_SIZE);
	}
}

void ferryi_child_serve(struct ferryi_child_giver *giver, struct ferryi_child *child)
{
	read_events(giver, child, true);
}

/* ---- the end ---- */

bool ferryi_child_has_ended(const struct ferryi_child *child)
{
	struct pollfd pfd = { .fd = child->sock, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

bool ferryi_child_disarm(struct ferryi_child_giver *giver, struct ferryi_child *child)
{
	bool all = true;

	for (unsigned o = 0; o < child->nr_objects && child->nr_lost; o++) {
		struct ferryi_child_object *copy = &child->objects[o];
		size_t nr = copy->as_object.nr_pages;

		for (size_t i = 0; (i = ferryi_bitmap_next_set(copy->lost, nr, i)) < nr; i++)
			all = put_page(giver, child, copy, i, NULL) && all;
	}
	for (unsigned i = 0; i < child->areas.nr_areas && all && !child->gone; i++) {
		const struct ferryi_area *area = &child->areas.areas[i];

		ferryi_uffd_unregister(child->uffd, (void *)area->start, area->end - area->start);
	}
	return all;
}

/* ---- an heir begins ---- */

/* A pointer into the record, from where that was to where it is; n bytes are there, or it makes no sense. */
static bool move_pointer(void *at, const struct ferryi_child *child, size_t bytes, uint64_t n)
{
	uintptr_t pointer;

	memcpy(&pointer, at, sizeof(pointer));
	uint64_t off = pointer - child->self;

	if (pointer < child->self || !ferryi_range_ok(off, n, bytes))
		return false;
	pointer = (uintptr_t)child + off;
	memcpy(at, &pointer, sizeof(pointer));
	return true;
}

static bool move_object(struct ferryi_child_object *copy, const struct ferryi_child *child, size_t bytes)
{
	uint64_t words = FERRYI_BITMAP_WORDS(copy->as_object.nr_pages), blocks = copy->as_object.nr_blocks;

	/* No product below overflows. */
	return copy->as_object.nr_pages / 8 <= bytes && blocks <= bytes &&
	       copy->as_object.nr_pages <= blocks * FERRYI_PAGES_PER_BLOCK &&
	       move_pointer(&copy->needed, child, bytes, words * sizeof(uint64_t)) &&
	       move_pointer(&copy->lost, child, bytes, words * sizeof(uint64_t)) &&
	       move_pointer(&copy->place, child, bytes, blocks * sizeof(uint64_t)) &&
	       move_pointer(&copy->subsection, child, bytes, blocks * sizeof(uint32_t));
}

bool ferryi_child_moved(struct ferryi_child *child, size_t bytes)
{
	if (bytes < sizeof(*child) || child->bytes != bytes || child->areas.nr_areas > FERRYI_MAX_AREAS ||
	    child->nr_objects > FERRYI_MAX_AREAS ||
	    !move_pointer(&child->objects, child, bytes, child->nr_objects * sizeof(*child->objects)) ||
	    !move_pointer(&child->areas.areas, child, bytes, FERRYI_MAX_AREAS * sizeof(*child->areas.areas)))
		return false;
	for (unsigned i = 0; i < child->nr_objects; i++) {
		if (!move_object(&child->objects[i], child, bytes))
			return false;
	}
	for (unsigned i = 0; i < child->areas.nr_areas; i++) {
		if (!move_pointer(&child->areas.areas[i].object, child, bytes, sizeof(struct ferryi_child_object)))
			return false;
	}
	child->self = (uintptr_t)child;
	return true;
}

static void count_anew(struct ferryi_child *child, bool is_sound)
{
	child->nr_needed = child->nr_lost = 0;
	for (unsigned o = 0; o < child->nr_objects; o++) {
		struct ferryi_child_object *copy = &child->objects[o];

		for (size_t w = 0; w < FERRYI_BITMAP_WORDS(copy->as_object.nr_pages); w++) {
			if (!is_sound) {
				copy->lost[w] |= copy->needed[w];
				copy->needed[w] = 0;
			}
			child->nr_needed += (unsigned)__builtin_popcountll(copy->needed[w]);
			child->nr_lost += (unsigned)__builtin_popcountll(copy->lost[w]);
		}
	}
}

bool ferryi_child_resume(struct ferryi_child *child)
{
	bool is_sound = !child->table_busy;

	child->gone = false;
	for (unsigned i = 0; i < FERRYI_CHILD_EVENTS * 2 && is_sound; i++)
		on_change(child, &child->events[i / FERRYI_CHILD_EVENTS][i % FERRYI_CHILD_EVENTS]);
	count_anew(child, is_sound);
	return is_sound;
}
