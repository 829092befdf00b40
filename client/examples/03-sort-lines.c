/* See 03-sort-lines.h. */
#include "03-sort-lines.h"

#include <endian.h>
#include <string.h>

#define SMALL 16 /* lines: insertion sort below */

static uint64_t line_prefix(const unsigned char *text, size_t len)
{
	uint64_t raw = 0;

	memcpy(&raw, text, len < sizeof raw ? len : sizeof raw);
	return be64toh(raw);
}

bool line_cursor_next(struct line_cursor *cursor)
{
	size_t left = (size_t)(cursor->end - cursor->next);

	if (left == 0)
		return false;
	const unsigned char *newline = memchr(cursor->next, '\n', left);
	size_t len = newline != NULL ? (size_t)(newline - cursor->next) : left;

	cursor->line = (struct line){line_prefix(cursor->next, len), cursor->next, len};
	cursor->next += newline != NULL ? len + 1 : len;
	return true;
}

int line_compare(const struct line *a, const struct line *b)
{
	if (a->prefix != b->prefix)
		return a->prefix < b->prefix ? -1 : 1;

	size_t len = a->len < b->len ? a->len : b->len;
	/* Equal prefixes: the first eight bytes need no second look. */
	int order = len > 8 ? memcmp(a->text + 8, b->text + 8, len - 8) : 0;

	if (order != 0)
		return order;
	return (a->len > b->len) - (a->len < b->len);
}

static void swap(struct line *a, struct line *b)
{
	struct line t = *a;

	*a = *b;
	*b = t;
}

static void sort_small(struct line *v, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct line t = v[i];
		size_t j = i;

		for (; j > 0 && line_compare(&t, &v[j - 1]) < 0; j--)
			v[j] = v[j - 1];
		v[j] = t;
	}
}

static void sift_down(struct line *v, size_t n, size_t i)
{
	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && line_compare(&v[child], &v[child + 1]) < 0)
			child++;
		if (line_compare(&v[i], &v[child]) >= 0)
			return;
		swap(&v[i], &v[child]);
	}
}

static void sort_heap(struct line *v, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		sift_down(v, n, i);
	for (size_t last = n; last-- > 1;) {
		swap(&v[0], &v[last]);
		sift_down(v, last, 0);
	}
}

static const struct line *median(const struct line *a, const struct line *b, const struct line *c)
{
	if (line_compare(a, b) < 0)
		return line_compare(b, c) < 0 ? b : line_compare(a, c) < 0 ? c : a;
	return line_compare(a, c) < 0 ? a : line_compare(b, c) < 0 ? c : b;
}

/*
 * Quicksort into three parts (text has many equal lines); the larger part is
 * the loop's, so that the stack stays small, and a run of bad pivots ends in
 * a heap sort.
 */
static void sort_range(struct line *v, size_t n, unsigned depth)
{
	while (n > SMALL) {
		if (depth-- == 0) {
			sort_heap(v, n);
			return;
		}
		struct line pivot = *median(&v[n / 4], &v[n / 2], &v[n - n / 4 - 1]);
		size_t less = 0, i = 0, more = n; /* [0,less) < pivot, [less,i) equal, [more,n) > pivot */

		while (i < more) {
			int order = line_compare(&v[i], &pivot);

			if (order < 0)
				swap(&v[less++], &v[i++]);
			else if (order > 0)
				swap(&v[i], &v[--more]);
			else
				i++;
		}
		if (less < n - more) {
			sort_range(v, less, depth);
			v += more;
			n -= more;
		} else {
			sort_range(v + more, n - more, depth);
			n = less;
		}
	}
	sort_small(v, n);
}

void lines_sort(struct line *lines, size_t n)
{
	unsigned depth = 2;

	for (size_t rest = n; rest > 1; rest /= 2)
		depth += 2;
	sort_range(lines, n, depth);
}

static void merge_down(struct line_cursor *heap, size_t n, size_t i)
{
	struct line_cursor moving = heap[i];

	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && line_compare(&heap[child + 1].line, &heap[child].line) < 0)
			child++;
		if (line_compare(&moving.line, &heap[child].line) <= 0)
			break;
		heap[i] = heap[child];
	}
	heap[i] = moving;
}

void merge_init(struct line_cursor *heap, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		merge_down(heap, n, i);
}

void merge_sift(struct line_cursor *heap, size_t n)
{
	if (n > 1)
		merge_down(heap, n, 0);
}
