/*
 * Page descriptors that a pool with a name keeps in its own memory, at the head
 * of its window (vmem_altmap), so that another process finds the pages again
 * when this one has crashed: their layout, which of them have changed since they
 * were written there, and which are an earlier process's ("kept"). Writing and
 * reading is the pager's (pager/descriptor.c).
 *
 * Layout, little-endian; PFNs from the window's start:
 *   reserve            the head record, 64 bytes
 *   reserve + 1 + 4 i  512 descriptors of 32 bytes, of the i-th sub-section that holds pages
 *
 *   descriptor  u64 va | ZERO     0: void
 *               u64 drvdata
 *               u64 hash          XXH3 of the page's content
 *               u64 seq << 24 | check    check: of the rest and of the page's number in the window
 *
 * What a descriptor says is true when the content of its page has its hash: a
 * page that was being overwritten, and a place that another page's content had
 * come to before its descriptor did, do not. Of two descriptors of one address
 * the one with the later seq is right.
 *
 * In RAM a descriptor is struct ferry_page. Its owner (of the page word) changes
 * it while another thread may encode it; va is the lock:
 *
 *   ferryi_page_describe                   ferryi_altmap_encode
 *   ------------------------------------   --------------------------------------
 *   va = 0                                 va (acquire): v
 *   hash, seq      (release)               hash, seq (acquire)
 *   va = new       (release)               va == v? else void: its owner
 *   dirty                                  will mark it dirty
 */
#ifndef FERRYI_DEVICE_ALTMAP_H
#define FERRYI_DEVICE_ALTMAP_H

#include "device.h"

#define FERRYI_ALTMAP_RECORD_BYTES 64u
#define FERRYI_DESCRIPTOR_BYTES    32u
#define FERRYI_GROUP_PAGES         64u /* descriptors that are written together */
#define FERRYI_GROUP_BYTES         (FERRYI_GROUP_PAGES * FERRYI_DESCRIPTOR_BYTES)
#define FERRYI_DESCRIPTOR_ZERO     1ull /* in va: the page is zero, whatever its place holds */

struct ferryi_altmap_attr {
	struct ferryi_arena *arena;
	const struct ferryi_memory_model *model;
	uint64_t pfn_first;      /* of the window */
	uint64_t nr_subsections; /* of it; before nr_aside there are no pages */
	uint64_t nr_aside, nr_kept;
	uint64_t reserve, free; /* the caller's altmap */
};

struct ferryi_altmap;

/* -ENOMEM. */
int ferryi_altmap_open(const struct ferryi_altmap_attr *attr, struct ferryi_altmap **out);
/* NULL allowed; nulls. */
void ferryi_altmap_close(struct ferryi_altmap **altmap);

/* ---- the head record ---- */

/* PFN of it, from the window's start. */
uint64_t ferryi_altmap_record_page(const struct ferryi_altmap *altmap);
void ferryi_altmap_record_encode(const struct ferryi_altmap *altmap, uint8_t *to);
/* 0; -EBADMSG: none that this library can read; -EINVAL: of another reserve or free, which it sets. */
int ferryi_altmap_record_check(const struct ferryi_altmap *altmap, const uint8_t *from, uint64_t *reserve,
			       uint64_t *free_pfns);

/* ---- changes: by the owner of the page's word, lock-free, fault path. altmap NULL: the pool has none ---- */

/* Its place has that content now. Sets the page's descriptor, whether the pool has an altmap or not. */
void ferryi_page_describe(const struct ferryi_memory_model *model, uint64_t pfn, uint64_t va, uint64_t hash);
/* No page is there any more, or another content is going to be. pfn may be 0 (none). */
void ferryi_page_void(const struct ferryi_memory_model *model, uint64_t pfn);
/* The same for all pages of a sub-section that nobody uses any more. */
void ferryi_altmap_void(struct ferryi_altmap *altmap, uint32_t subsection);
/* Its drvdata has changed. Any thread. */
void ferryi_page_changed(const struct ferryi_memory_model *model, const struct ferry_page *page);

/* ---- writing: groups whose descriptors have changed ---- */

/* One writer at a time: an older image of a group must not land last. false: somebody else is. */
bool ferryi_altmap_try_write(struct ferryi_altmap *altmap);
void ferryi_altmap_end_write(struct ferryi_altmap *altmap);
bool ferryi_altmap_is_dirty(const struct ferryi_altmap *altmap);
/*
 * Takes up to max dirty groups from *cursor (0: the first) on, ascending, off the list; their number. *cursor moves;
 * UINT64_MAX: the end was reached. ASSUMPTION: the caller is the writer.
 */
unsigned ferryi_altmap_collect(struct ferryi_altmap *altmap, uint64_t *cursor, uint64_t *groups, unsigned max);
/* It could not be written. */
void ferryi_altmap_mark(struct ferryi_altmap *altmap, uint64_t group);
/* FERRYI_GROUP_BYTES. */
void ferryi_altmap_encode(const struct ferryi_altmap *altmap, uint64_t group, uint8_t *to);
/* Where they belong: bytes from the window's start. */
uint64_t ferryi_altmap_group_off(const struct ferryi_altmap *altmap, uint64_t group);

/* ---- what an earlier process has left ---- */

/* Groups [first, end) are of sub-sections that were kept. */
uint64_t ferryi_altmap_kept_first(const struct ferryi_altmap *altmap);
uint64_t ferryi_altmap_kept_end(const struct ferryi_altmap *altmap);
/* Takes the group's descriptors from there; how many were neither good nor void. At attach, group by group. */
unsigned ferryi_altmap_decode(struct ferryi_altmap *altmap, uint64_t group, const uint8_t *from);

struct ferryi_kept_page {
	uint64_t va, hash, drvdata, seq;
	bool is_zero;
};
/* The kept page at that PFN; false: none (any more). ASSUMPTION, for these: decoded; one thread. */
bool ferryi_altmap_kept_page(const struct ferryi_altmap *altmap, uint64_t pfn, struct ferryi_kept_page *page);
/* seq a is later than b. */
bool ferryi_altmap_is_later(uint64_t a, uint64_t b);
/*
 * The kept page there is not needed any more, or not what it should be. true: it was the last one of its
 * sub-section, which is free now (ferryi_pool_release_kept).
 */
bool ferryi_altmap_drop_kept(struct ferryi_altmap *altmap, uint64_t pfn);
/* Kept pages of a sub-section. */
unsigned ferryi_altmap_kept_left(const struct ferryi_altmap *altmap, uint32_t subsection);

#endif
