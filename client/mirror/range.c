/* Ranges: registered, valid or changed. The protocol with the pager is in mirror.h. */
#include "range.h"

#include <errno.h>

#include "clock.h"
#include "error.h"

static bool overlaps(const struct ferry_range *range, const struct ferry_update *update)
{
	return update->start < range->end && update->end > range->start;
}

void ferryi_ranges_changed_locked(struct ferryi_mirrors *mirrors, const struct ferry_update *update)
{
	for (struct ferry_range *range = mirrors->ranges; range; range = ferryi_range_next(range))
		range->private_[FERRYI_RANGE_CHANGES] += overlaps(range, update);
}

bool ferryi_ranges_any_of_locked(const struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror)
{
	for (const struct ferry_range *range = mirrors->ranges; range; range = ferryi_range_next(range)) {
		if (range->mirror == mirror)
			return true;
	}
	return false;
}

static bool is_changing_locked(const struct ferryi_mirrors *mirrors, const struct ferry_range *range)
{
	for (const struct ferryi_notice *n = mirrors->under_way; n; n = n->next) {
		if (overlaps(range, &n->update))
			return true;
	}
	return false;
}

/* ---- life ---- */

int ferryi_range_register(struct ferryi_mirrors *mirrors, struct ferry_range *range, struct ferry_mirror *mirror,
			  uintptr_t start, uintptr_t end, unsigned page_shift)
{
	int rc = ferryi_mirror_check(mirrors, mirror, "range_register");

	if (rc)
		return rc;
	if (page_shift < 12 || page_shift > 21 || start >= end || (start | end) & (((uintptr_t)1 << page_shift) - 1))
		return ferryi_control_fail(-EINVAL, "range_register: %#lx-%#lx with page_shift %u: whole device pages of 4 KiB "
						    "(12) to 2 MiB (21)", (unsigned long)start, (unsigned long)end, page_shift);
	if (!range->pfns)
		return ferryi_control_fail(-EINVAL, "range_register: pfns is NULL");
	range->flags = range->flags ? range->flags : ferry_default_pfn_flags;
	range->values = range->values ? range->values : ferry_default_pfn_values;
	range->pfn_shift = range->pfn_shift ? range->pfn_shift : 12;
	rc = ferryi_entry_check_format(range);
	if (rc)
		return rc;
	range->start = start;
	range->end = end;
	range->page_shift = (uint8_t)page_shift;
	range->mirror = mirror;
	ferryi_mutex_lock(&mirrors->lock);
	bool closing = mirrors->closing;

	if (!closing) {
		range->private_[FERRYI_RANGE_CHANGES] = 1;
		range->private_[FERRYI_RANGE_SEEN] = 0; /* no entries yet: not valid */
		range->private_[FERRYI_RANGE_NEXT] = (uintptr_t)mirrors->ranges;
		range->private_[FERRYI_RANGE_ROOM] = (uintptr_t)mirrors;
		mirrors->ranges = range;
	}
	ferryi_mutex_unlock(&mirrors->lock);
	return closing ? ferryi_control_fail(-EFAULT, "range_register: the struct ferry is closing") : 0;
}

void ferryi_range_unregister(struct ferry_range *range)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);

	ferryi_mutex_lock(&mirrors->lock);
	if (mirrors->ranges == range) {
		mirrors->ranges = ferryi_range_next(range);
	} else {
		struct ferry_range *r = mirrors->ranges;

		while (ferryi_range_next(r) != range)
			r = ferryi_range_next(r);
		r->private_[FERRYI_RANGE_NEXT] = range->private_[FERRYI_RANGE_NEXT];
	}
	range->private_[FERRYI_RANGE_ROOM] = 0;
	ferryi_mutex_unlock(&mirrors->lock);
}

/* ---- valid, or changed ---- */

bool ferryi_range_valid(struct ferry_range *range)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);

	ferryi_mutex_lock(&mirrors->lock);
	bool valid = range->private_[FERRYI_RANGE_CHANGES] == range->private_[FERRYI_RANGE_SEEN] &&
		     !is_changing_locked(mirrors, range);

	ferryi_mutex_unlock(&mirrors->lock);
	return valid;
}

bool ferryi_range_wait(struct ferry_range *range, unsigned timeout_ms)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);
	uint64_t deadline_ns = ferryi_deadline_ms(timeout_ms);
	bool changing;

	ferryi_mutex_lock(&mirrors->lock);
	while ((changing = is_changing_locked(mirrors, range))) {
		if (ferryi_cond_wait_until(&mirrors->changed, &mirrors->lock, deadline_ns))
			break;
	}
	ferryi_mutex_unlock(&mirrors->lock);
	return !changing;
}

uint64_t ferryi_range_read_begin(struct ferry_range *range)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);

	ferryi_range_wait(range, FERRY_RANGE_DEFAULT_TIMEOUT_MS); /* still changing after that: read_retry will say so */
	ferryi_mutex_lock(&mirrors->lock);
	uint64_t seq = range->private_[FERRYI_RANGE_CHANGES];

	ferryi_mutex_unlock(&mirrors->lock);
	return seq;
}

bool ferryi_range_read_retry(struct ferry_range *range, uint64_t seq)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);

	ferryi_mutex_lock(&mirrors->lock);
	bool changed = range->private_[FERRYI_RANGE_CHANGES] != seq || is_changing_locked(mirrors, range);

	ferryi_mutex_unlock(&mirrors->lock);
	return changed;
}

void ferryi_range_note_seen(struct ferry_range *range, uint64_t seq)
{
	struct ferryi_mirrors *mirrors = ferryi_range_room(range);

	ferryi_mutex_lock(&mirrors->lock);
	range->private_[FERRYI_RANGE_SEEN] = seq;
	ferryi_mutex_unlock(&mirrors->lock);
}
