/* Ranges, for the files of this room: what is in a struct ferry_range's private members, and who holds it. */
#ifndef FERRYI_MIRROR_RANGE_H
#define FERRYI_MIRROR_RANGE_H

#include "mirror.h"

/* Indices of ferry_range.private_; protected by the mirrors' lock. */
enum {
	FERRYI_RANGE_CHANGES, /* that have begun and overlap it */
	FERRYI_RANGE_SEEN,    /* of these, when the entries were taken */
	FERRYI_RANGE_NEXT,    /* struct ferry_range * */
	FERRYI_RANGE_ROOM,    /* struct ferryi_mirrors *; 0: not registered */
};

static inline struct ferry_range *ferryi_range_next(const struct ferry_range *range)
{
	return (struct ferry_range *)(uintptr_t)range->private_[FERRYI_RANGE_NEXT];
}

/* NULL: not registered. */
static inline struct ferryi_mirrors *ferryi_range_room(const struct ferry_range *range)
{
	return (struct ferryi_mirrors *)(uintptr_t)range->private_[FERRYI_RANGE_ROOM];
}

/* ASSUMPTION for _locked: the mirrors' lock is held. */
void ferryi_ranges_changed_locked(struct ferryi_mirrors *mirrors, const struct ferry_update *update);
bool ferryi_ranges_any_of_locked(const struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror);

/* As the public calls; the range is registered. */
int ferryi_range_register(struct ferryi_mirrors *mirrors, struct ferry_range *range, struct ferry_mirror *mirror,
			  uintptr_t start, uintptr_t end, unsigned page_shift);
void ferryi_range_unregister(struct ferry_range *range);
bool ferryi_range_valid(struct ferry_range *range);
bool ferryi_range_wait(struct ferry_range *range, unsigned timeout_ms);
uint64_t ferryi_range_read_begin(struct ferry_range *range);
bool ferryi_range_read_retry(struct ferry_range *range, uint64_t seq);
/* The entries are of this moment. */
void ferryi_range_note_seen(struct ferry_range *range, uint64_t seq);

/* snapshot.c */
long ferryi_range_snapshot(struct ferry_range *range);
long ferryi_range_fault(struct ferry_range *range, bool block);
long ferryi_range_rma_map(struct ferry_range *range, uintptr_t *addrs, bool block);
long ferryi_range_rma_unmap(struct ferry_range *range, uintptr_t *addrs, bool dirty);
int ferryi_entry_info(struct ferry_range *range, uintptr_t va, struct ferry_entry_info *info);

/* entry.c: -EINVAL with a line when flags, values and pfn_shift cannot tell the entries apart */
int ferryi_entry_check_format(const struct ferry_range *range);
uint64_t ferryi_entry_make(const struct ferry_range *range, uint64_t pfn, bool write, bool device);

#endif
