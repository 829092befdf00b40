/*
 * Lines of bytes in the order of LC_ALL=C sort: unsigned bytes, a prefix
 * first; NUL is a byte like any other. One thread; nothing here allocates or
 * knows whether the memory is managed.
 */
#ifndef SORT_LINES_H
#define SORT_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct line {
	uint64_t prefix; /* first eight bytes, big-endian, zeros after the end: settles most comparisons by
			    itself */
	const unsigned char *text;
	size_t len; /* without its newline */
};

/* What a line is until the text ends: a cursor over sorted or unsorted text. */
struct line_cursor {
	struct line line;
	const unsigned char *next, *end;
};

/* Steps to the next line; false at the end. A last line without newline counts. */
bool line_cursor_next(struct line_cursor *cursor);

/* <0, 0, >0 */
int line_compare(const struct line *a, const struct line *b);

/* In place, O(n log n) at worst, no memory of its own. */
void lines_sort(struct line *lines, size_t n);

/* A heap of cursors with the smallest line on top: the k-way merge. */
void merge_init(struct line_cursor *heap, size_t n);
/* After the top cursor was stepped, or replaced by the last one. */
void merge_sift(struct line_cursor *heap, size_t n);

#endif
