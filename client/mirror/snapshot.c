/*
 * What each page of a range is, for the device: the library's own table for
 * managed pages, the kernel's page table and mappings for the rest. And
 * bringing in what the device asks for.
 */
#include <errno.h>
#include <poll.h>

#include "access.h"
#include "error.h"
#include "peek.h"
#include "range.h"
#include "vma.h"

#define CHUNK      512u /* pages looked at together */
#define FAULT_TRIES 16u
#define SNAPSHOT_TRIES 64u
#define PAUSE_MS       1

/* One base page. */
struct look {
	enum ferry_entry_kind kind;
	bool writable;
	unsigned order;
	bool moving; /* between RAM and a pool just now */
	uint64_t pfn;
};

/* A walk over the range; the mapping and the page table bits of the chunk at hand. */
struct walk {
	struct ferry_range *range;
	struct ferryi_mirrors *mirrors;
	struct ferryi_vma vma;
	bool has_vma;
	uintptr_t chunk;
	size_t nr;
	uint8_t bits[CHUNK];
};

static int walk_to(struct walk *w, uintptr_t va)
{
	int rc = 0;

	if (!w->nr || va < w->chunk || va >= w->chunk + w->nr * FERRY_PAGE_SIZE) {
		size_t left = (w->range->end - va) / FERRY_PAGE_SIZE;

		w->chunk = va;
		w->nr = left < CHUNK ? left : CHUNK;
		rc = ferryi_pager_scan(w->mirrors->pager, va, w->nr, w->bits);
		w->has_vma = false;
	}
	if (!rc && (!w->has_vma || va < w->vma.start || va >= w->vma.end)) {
		rc = ferryi_vma_query(w->mirrors->maps_fd, va, &w->vma);
		if (rc == -ENOENT) {
			w->vma = (struct ferryi_vma){ .start = UINTPTR_MAX, .end = UINTPTR_MAX };
			rc = 0;
		}
		w->has_vma = !rc;
	}
	return rc;
}

static struct look look_at(struct walk *w, uintptr_t va)
{
	uint8_t bits = w->bits[(va - w->chunk) / FERRY_PAGE_SIZE];
	struct look look = { .kind = FERRY_ENTRY_NONE };
	struct ferryi_peek peek;

	if (va < w->vma.start || !w->vma.readable) {
		look.kind = FERRY_ENTRY_ERROR;
		return look;
	}
	if (w->vma.special) {
		look.kind = FERRY_ENTRY_SPECIAL;
		return look;
	}
	look.writable = w->vma.writable;
	look.order = bits & FERRYI_SCAN_HUGE ? 9 : 0;
	ferryi_pager_peek(w->mirrors->pager, va, &peek);
	switch (peek.place) {
	case FERRYI_PEEK_LOST:
		look.kind = FERRY_ENTRY_ERROR;
		break;
	case FERRYI_PEEK_POOL:
		look.kind = peek.owner == w->range->mirror->owner ? FERRY_ENTRY_DEVICE_OWN : FERRY_ENTRY_DEVICE_OTHER;
		look.pfn = peek.pfn;
		look.order = peek.order;
		break;
	case FERRYI_PEEK_COHERENT:
		look.kind = FERRY_ENTRY_COHERENT;
		look.pfn = peek.pfn;
		break;
	case FERRYI_PEEK_MOVING:
		look.moving = true;
		break;
	case FERRYI_PEEK_NOWHERE:
		break;
	default: /* in RAM, if the page table has it */
		if (bits & FERRYI_SCAN_ZERO)
			look.kind = FERRY_ENTRY_ZERO;
		else if (bits & FERRYI_SCAN_PRESENT)
			look.kind = FERRY_ENTRY_RAM;
		look.writable = look.writable && look.kind == FERRY_ENTRY_RAM;
		look.pfn = FERRY_PFN_RAM | va / FERRY_PAGE_SIZE;
	}
	return look;
}

static uint64_t encode(const struct ferry_range *range, const struct look *look)
{
	switch (look->kind) {
	case FERRY_ENTRY_ERROR:
		return range->values[FERRY_PFN_ERROR];
	case FERRY_ENTRY_SPECIAL:
		return range->values[FERRY_PFN_SPECIAL];
	case FERRY_ENTRY_RAM:
	case FERRY_ENTRY_COHERENT:
	case FERRY_ENTRY_ZERO:
		return ferryi_entry_make(range, look->pfn, look->writable, false);
	case FERRY_ENTRY_DEVICE_OWN:
		return ferryi_entry_make(range, look->pfn, look->writable, true);
	default:
		return range->values[FERRY_PFN_NONE];
	}
}

/* One entry: a larger device page is valid when its pages follow one another in one place. *moving: some page is. */
static int take_entry(struct walk *w, uintptr_t va, uint64_t *entry, bool *moving)
{
	size_t nr = ((size_t)1 << w->range->page_shift) / FERRY_PAGE_SIZE;
	struct look first = { 0 };

	for (size_t i = 0; i < nr; i++) {
		int rc = walk_to(w, va + i * FERRY_PAGE_SIZE);

		if (rc)
			return rc == -EACCES ? -EPERM : rc;
		struct look look = look_at(w, va + i * FERRY_PAGE_SIZE);

		*moving |= look.moving;
		if (i == 0)
			first = look;
		else if (look.kind != first.kind || (look.pfn && look.pfn != first.pfn + i))
			first = (struct look){ .kind = look.kind == FERRY_ENTRY_ERROR ? look.kind : FERRY_ENTRY_NONE };
		first.writable = first.writable && look.writable;
	}
	*entry = encode(w->range, &first);
	return 0;
}

static size_t entries_of(const struct ferry_range *range)
{
	return (range->end - range->start) >> range->page_shift;
}

/* v5.2: all or nothing where it is not mapped or not readable. */
static int check_strict(struct walk *w)
{
	uintptr_t at;
	int rc = 0;

	if (w->range->options & FERRY_RANGE_STRICT)
		rc = ferryi_vma_check(w->mirrors->maps_fd, w->range->start, w->range->end, false, &at);
	for (size_t i = 0; rc && i < entries_of(w->range); i++)
		w->range->pfns[i] = w->range->values[FERRY_PFN_NONE];
	return rc;
}

/* Takes every entry; how many are valid. -EAGAIN: something changed meanwhile, or is changing. The requests in pfns are overwritten. */
static long take_entries(struct ferry_range *range)
{
	struct walk w = { .range = range, .mirrors = ferryi_range_room(range) };
	uint64_t seq = ferryi_range_read_begin(range);
	bool moving = false;
	long valid = 0;
	int rc = check_strict(&w);

	for (size_t i = 0; !rc && i < entries_of(range); i++) {
		rc = take_entry(&w, range->start + ((uintptr_t)i << range->page_shift), &range->pfns[i], &moving);
		valid += ferry_entry_to_pfn(range, range->pfns[i]) != UINT64_MAX;
	}
	if (rc)
		return rc;
	if (moving || ferryi_range_read_retry(range, seq))
		return -EAGAIN;
	ferryi_range_note_seen(range, seq);
	return valid;
}

long ferryi_range_snapshot(struct ferry_range *range)
{
	long n = take_entries(range);

	/* A page between RAM and a pool is in neither: it soon is, as the kernel waits for a migration entry. */
	for (unsigned i = 0; n == -EAGAIN && i < SNAPSHOT_TRIES; i++) {
		poll(NULL, 0, PAUSE_MS);
		n = take_entries(range);
	}
	if (n == -EAGAIN)
		ferryi_control_fail(-EAGAIN, "range_snapshot: the range changed meanwhile");
	else if (n < 0)
		ferryi_control_fail((int)n, "range_snapshot: part of the range is not mapped or not readable");
	return n;
}

/* ---- fault ---- */

/* What is brought in, over what the entries ask for. */
enum want { WANT_AS_ASKED, WANT_RAM /* to be pinned: no device page, coherent or not */ };

/* Brings in one base page as asked; 0 when it is, or will be at the next look. -EAGAIN: it would have to wait. */
static int want_page(struct walk *w, uintptr_t va, uint64_t request, enum want want, bool block)
{
	const uint64_t *flags = w->range->flags;
	bool write = request & flags[FERRY_PFN_WRITE];
	int rc = walk_to(w, va);

	if (rc)
		return rc == -EACCES ? -EPERM : rc;
	struct look look = look_at(w, va);

	if (look.kind == FERRY_ENTRY_ERROR || look.kind == FERRY_ENTRY_SPECIAL)
		return -EFAULT;
	if (write && !w->vma.writable)
		return -EPERM;
	bool stays = look.kind == FERRY_ENTRY_DEVICE_OWN && want != WANT_RAM && !(request & flags[FERRY_PFN_DEVICE_PRIVATE]);

	stays |= look.kind == FERRY_ENTRY_COHERENT && want != WANT_RAM;
	if (stays || (look.kind == FERRY_ENTRY_RAM && (look.writable || !write)) ||
	    (look.kind == FERRY_ENTRY_ZERO && !write))
		return 0;
	if (!block)
		return -EAGAIN;
	w->nr = 0; /* what was seen of the page table is of the past */
	return ferryi_pager_want(w->mirrors->pager, va, write);
}

static int want_all(struct ferry_range *range, const uint64_t *request, enum want want, bool block)
{
	struct walk w = { .range = range, .mirrors = ferryi_range_room(range) };
	size_t nr = ((size_t)1 << range->page_shift) / FERRY_PAGE_SIZE;
	int rc = 0;

	for (size_t i = 0; !rc && i < entries_of(range); i++) {
		uint64_t asked = (request[i] & range->pfn_flags_mask) | range->default_flags;

		if (!(asked & range->flags[FERRY_PFN_VALID]))
			continue;
		for (size_t k = 0; !rc && k < nr; k++)
			rc = want_page(&w, range->start + ((uintptr_t)i << range->page_shift) + k * FERRY_PAGE_SIZE, asked,
				       want, block);
	}
	return rc;
}

static int fail_fault(int rc)
{
	const char *why = rc == -EPERM	? "a page is not writable" :
			  rc == -EFAULT ? "a page is not mapped, not readable, lost, or no memory of its own" :
			  rc == -EAGAIN ? "it would have to wait" :
			  rc == -ENOMEM ? "no memory" :
					  "the range changed meanwhile";

	return ferryi_control_fail(rc, "range_fault: %s", why);
}

/* Requests are read from pfns and may be overwritten by a try that fails: each one goes by a walk of its own first. */
static long fault(struct ferry_range *range, enum want want, bool block)
{
	for (unsigned i = 0; i < FAULT_TRIES; i++) {
		int rc = want_all(range, range->pfns, want, block);

		if (rc)
			return fail_fault(rc);
		uint64_t seq = ferryi_range_read_begin(range);

		rc = want_all(range, range->pfns, want, false); /* are they all there now? */
		if (rc && rc != -EAGAIN)
			return fail_fault(rc);
		if (rc || ferryi_range_read_retry(range, seq))
			continue;
		long n = take_entries(range);

		if (n != -EAGAIN || ferryi_range_read_retry(range, seq))
			return n == -EAGAIN ? fail_fault(-EBUSY) : n;
	}
	return fail_fault(-EBUSY);
}

long ferryi_range_fault(struct ferry_range *range, bool block)
{
	return fault(range, WANT_AS_ASKED, block);
}

/* ---- for RMA ---- */

static void unpin(struct ferry_range *range, uintptr_t *addrs, size_t entries)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);
	struct ferryi_peek peek;

	for (size_t i = 0; i < entries; i++) {
		if (!addrs[i])
			continue;
		for (uintptr_t va = addrs[i]; va < addrs[i] + ((uintptr_t)1 << range->page_shift); va += FERRY_PAGE_SIZE) {
			ferryi_pager_peek(mirrors->pager, va, &peek);
			if (peek.place != FERRYI_PEEK_UNMANAGED)
				ferryi_pager_unpin(mirrors->pager, va, va + FERRY_PAGE_SIZE);
		}
		addrs[i] = 0;
	}
}

/* All base pages of one entry, or none. Memory that is not managed stays where it is: nothing moves it. */
static int pin_entry(struct ferry_range *range, uintptr_t start)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);
	uintptr_t end = start + ((uintptr_t)1 << range->page_shift);
	struct ferryi_peek peek;
	int rc = 0;

	for (uintptr_t va = start; va < end; va += FERRY_PAGE_SIZE) {
		ferryi_pager_peek(mirrors->pager, va, &peek);
		if (peek.place == FERRYI_PEEK_UNMANAGED)
			continue;
		rc = ferryi_pager_pin(mirrors->pager, va, va + FERRY_PAGE_SIZE);
		if (!rc)
			continue;
		while (va > start) {
			va -= FERRY_PAGE_SIZE;
			ferryi_pager_peek(mirrors->pager, va, &peek);
			if (peek.place != FERRYI_PEEK_UNMANAGED)
				ferryi_pager_unpin(mirrors->pager, va, va + FERRY_PAGE_SIZE);
		}
		break;
	}
	return rc;
}

long ferryi_range_rma_map(struct ferry_range *range, uintptr_t *addrs, bool block)
{
	long mapped = 0, rc = fault(range, WANT_RAM, block);

	for (size_t i = 0; i < entries_of(range); i++)
		addrs[i] = 0;
	for (size_t i = 0; rc >= 0 && i < entries_of(range); i++) {
		uintptr_t va = range->start + ((uintptr_t)i << range->page_shift);
		uint64_t pfn = ferry_entry_to_pfn(range, range->pfns[i]);

		if (pfn == UINT64_MAX || !(pfn & FERRY_PFN_RAM))
			continue;
		rc = pin_entry(range, va);
		if (rc)
			break;
		addrs[i] = va;
		mapped++;
	}
	if (rc >= 0 && !ferryi_range_valid(range))
		rc = ferryi_control_fail(-EBUSY, "range_rma_map: the range changed meanwhile");
	if (rc < 0)
		unpin(range, addrs, entries_of(range));
	return rc < 0 ? rc : mapped;
}

long ferryi_range_rma_unmap(struct ferry_range *range, uintptr_t *addrs, bool dirty)
{
	long n = 0;

	/* Dirty or not shows in the content, by which write-back decides; there is no bit to set. */
	(void)dirty;
	for (size_t i = 0; i < entries_of(range); i++) {
		n += addrs[i] != 0;
		if (addrs[i])
			range->pfns[i] = range->values[FERRY_PFN_NONE];
	}
	unpin(range, addrs, entries_of(range));
	return n;
}

int ferryi_entry_info(struct ferry_range *range, uintptr_t va, struct ferry_entry_info *info)
{
	struct walk w = { .range = range, .mirrors = ferryi_range_room(range) };

	if (va < range->start || va >= range->end || info->size < sizeof(*info))
		return ferryi_control_fail(-EINVAL, "entry_info: %#lx is not in the range, or info.size is not set",
					   (unsigned long)va);
	int rc = walk_to(&w, va & ~(uintptr_t)(FERRY_PAGE_SIZE - 1));

	if (rc)
		return ferryi_control_fail(rc, "entry_info: the page table cannot be read");
	struct look look = look_at(&w, va & ~(uintptr_t)(FERRY_PAGE_SIZE - 1));

	info->kind = look.kind;
	info->writable = look.writable;
	info->order = look.order;
	info->pfn = look.kind == FERRY_ENTRY_DEVICE_OWN || look.kind == FERRY_ENTRY_DEVICE_OTHER ||
				    look.kind == FERRY_ENTRY_COHERENT ? look.pfn : 0;
	return 0;
}
