/* Map of free sub-sections. See sections.h. */
#include "sections.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "bitmap.h"

int ferryi_sections_init(struct ferryi_sections *sections, size_t nsubsections)
{
	size_t n = (nsubsections + FERRYI_SECTION_SUBSECTIONS - 1) / FERRYI_SECTION_SUBSECTIONS;
	size_t tail = n * FERRYI_SECTION_SUBSECTIONS - nsubsections;

	assert(nsubsections > 0);
	*sections =
		(struct ferryi_sections){.nsections = n, .nsubsections = nsubsections, .nfree = nsubsections};
	sections->used = calloc(n, sizeof(*sections->used));
	if (!sections->used)
		return -ENOMEM;
	if (tail)
		ferryi_bitmap_set_range(&sections->used[n - 1], FERRYI_SECTION_SUBSECTIONS - tail, tail);
	return 0;
}

void ferryi_sections_fini(struct ferryi_sections *sections)
{
	free(sections->used);
	*sections = (struct ferryi_sections){0};
}

size_t ferryi_sections_take(struct ferryi_sections *sections, size_t want, size_t *first)
{
	size_t goal = want < FERRYI_SECTION_SUBSECTIONS ? want : FERRYI_SECTION_SUBSECTIONS;
	size_t best = 0, best_section = 0, best_start = 0;

	for (size_t i = 0; i < sections->nsections && best < goal; i++) {
		size_t s = (sections->cursor + i) % sections->nsections;
		size_t start = 0;
		size_t run;

		if (sections->used[s] == UINT64_MAX)
			continue;
		run = ferryi_bitmap_find_run(&sections->used[s], FERRYI_SECTION_SUBSECTIONS, 0, goal, &start);
		if (run > best) {
			best = run;
			best_section = s;
			best_start = start;
		}
	}
	if (!best)
		return 0;
	ferryi_bitmap_set_range(&sections->used[best_section], best_start, best);
	sections->nfree -= best;
	sections->cursor = best_section;
	*first = best_section * FERRYI_SECTION_SUBSECTIONS + best_start;
	return best;
}

size_t ferryi_sections_next_used(const struct ferryi_sections *sections, size_t from)
{
	return ferryi_bitmap_next_set(sections->used, sections->nsubsections, from);
}

/* Bits of the last word past the pool's end. */
static uint64_t past_end(size_t nsubsections)
{
	size_t tail = nsubsections % FERRYI_SECTION_SUBSECTIONS;

	return tail ? UINT64_MAX << tail : 0;
}

int ferryi_sections_resize(struct ferryi_sections *sections, size_t nsubsections)
{
	size_t n = (nsubsections + FERRYI_SECTION_SUBSECTIONS - 1) / FERRYI_SECTION_SUBSECTIONS;
	uint64_t *used = realloc(sections->used, n * sizeof(*used));

	if (!used && n > sections->nsections)
		return -ENOMEM;
	sections->used =
		used ? used : sections->used; /* a smaller one that cannot be had: the larger is good */
	for (size_t i = sections->nsections; i < n; i++)
		used[i] = 0;
	if (nsubsections > sections->nsubsections)
		sections->used[sections->nsections - 1] &= ~past_end(sections->nsubsections);
	sections->used[n - 1] |= past_end(nsubsections);
	sections->nfree += nsubsections - sections->nsubsections; /* wraps where it shrinks, and back */
	sections->nsections = n;
	sections->nsubsections = nsubsections;
	if (sections->cursor >= n)
		sections->cursor = 0;
	return 0;
}

void ferryi_sections_take_at(struct ferryi_sections *sections, size_t first, size_t n)
{
	size_t s = first / FERRYI_SECTION_SUBSECTIONS;

	assert(n > 0 && first + n <= sections->nsubsections);
	assert(s == (first + n - 1) / FERRYI_SECTION_SUBSECTIONS);
	ferryi_bitmap_set_range(&sections->used[s], first % FERRYI_SECTION_SUBSECTIONS, n);
	sections->nfree -= n;
}

void ferryi_sections_release(struct ferryi_sections *sections, size_t first, size_t n)
{
	size_t s = first / FERRYI_SECTION_SUBSECTIONS;

	assert(n > 0 && first + n <= sections->nsubsections);
	assert(s == (first + n - 1) / FERRYI_SECTION_SUBSECTIONS);
	ferryi_bitmap_clear_range(&sections->used[s], first % FERRYI_SECTION_SUBSECTIONS, n);
	sections->nfree += n;
}
