/*
 * Sequential read-ahead: recognises streams among the faults of one fetcher
 * (several interleaved ones, a k-way merge for example) and says how far to
 * read ahead. A window doubles each time that its stream goes on past it and
 * starts small. Owned by one thread; fault path; no allocation.
 */
#ifndef FERRYI_PAGER_STREAM_H
#define FERRYI_PAGER_STREAM_H

#include <stddef.h>
#include <stdint.h>

#define FERRYI_NR_STREAMS 128u

struct ferryi_object;

struct ferryi_stream {
	const struct ferryi_object *object;
	size_t next;      /* page whose fault continues the stream */
	uint32_t window;  /* pages read ahead last time; 0: a single fault so far */
	uint32_t last_use;
};

struct ferryi_streams {
	uint32_t tick;
	uint32_t max_window;
	struct ferryi_stream stream[FERRYI_NR_STREAMS];
};

struct ferryi_stream_advice {
	uint32_t ahead;       /* pages to read after the faulting one */
	uint32_t hits;        /* pages of the last window that the stream went past */
	struct ferryi_stream *stream; /* to be told where reading ended */
};

void ferryi_streams_init(struct ferryi_streams *streams, uint32_t max_window);
/* A fault on page `index`. sequential: the user advised so, begin with the largest window. */
void ferryi_streams_fault(struct ferryi_streams *streams, const struct ferryi_object *object, size_t index,
			  int sequential, struct ferryi_stream_advice *advice);
/*
 * A fault on a page that is on its way already: the reader has caught up. True
 * when it is inside the window of a stream that has earned a large one:
 * *from is the page where the next window begins, to be read now, without
 * waiting for the fault there.
 */
int ferryi_streams_joined(struct ferryi_streams *streams, const struct ferryi_object *object, size_t index,
			  struct ferryi_stream_advice *advice, size_t *from);
/* Pages [index + 1, index + 1 + got) are on their way: the stream goes on at index + 1 + got. */
void ferryi_streams_done(struct ferryi_stream_advice *advice, size_t index, uint32_t got);

#endif
