/*
 * What of a pool is free: one bitmap word per 128 MiB section, one bit per
 * 2 MiB sub-section. Pure code; the pool's lock guards it.
 */
#ifndef FERRYI_POOL_SECTIONS_H
#define FERRYI_POOL_SECTIONS_H

#include <stddef.h>
#include <stdint.h>

#define FERRYI_SECTION_SUBSECTIONS 64u /* FERRYI_SECTION_SIZE / FERRYI_SUBSECTION_SIZE: one bitmap word */

struct ferryi_sections {
	uint64_t *used; /* one word a section; bits past the pool's end are set for good */
	size_t nsections;
	size_t nsubsections; /* of the pool */
	size_t nfree;	     /* sub-sections */
	size_t cursor;	     /* section at which the next search begins */
};

/* 0 or -ENOMEM. ASSUMPTION: nsubsections > 0. */
int ferryi_sections_init(struct ferryi_sections *sections, size_t nsubsections);
void ferryi_sections_fini(struct ferryi_sections *sections);

/*
 * Takes one run of at most `want` sub-sections, inside one section: next-fit
 * for a run of min(want, 64), else the longest run there is.
 * Returns its length (0: nothing is free) and its first sub-section in *first.
 */
size_t ferryi_sections_take(struct ferryi_sections *sections, size_t want, size_t *first);
/* The first sub-section at or after `from` that is not free; nsubsections: none. */
size_t ferryi_sections_next_used(const struct ferryi_sections *sections, size_t from);
/*
 * The pool has so many sub-sections now: new ones are free. 0 or -ENOMEM (it
 * stays as it was). ASSUMPTION: those that go are free; nsubsections > 0.
 */
int ferryi_sections_resize(struct ferryi_sections *sections, size_t nsubsections);

/* Takes just this run, inside one section. ASSUMPTION: it is free. */
void ferryi_sections_take_at(struct ferryi_sections *sections, size_t first, size_t n);
/* ASSUMPTION: the run was taken, whole or in parts. */
void ferryi_sections_release(struct ferryi_sections *sections, size_t first, size_t n);

#endif
