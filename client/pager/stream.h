/*
 * Read-ahead: recognises streams among the faults of one fetcher and says what
 * to read ahead. A stream is an arithmetic progression of pages of an object:
 * any step, up or down, many of them interleaved, with other faults between.
 *
 * A fault that belongs to no stream is kept as a point. A stream is born when
 * enough points of its thread lie in a progression with the faulting page:
 * within FERRYI_MAX_STEP all recent points are looked at (noise and other
 * streams between them do not matter, which a majority vote over the last
 * deltas would not stand); for longer steps the thread's latest, which must be such all. From
 * then on it is the object's: a thread may go on where another has stopped.
 *
 * How many points it takes, and how far windows grow, follows from what is
 * known of the windows before. Known as used: the pages that a stream went past
 * (its fault on the page after the window, or on one that was still on its
 * way). Known as wasted: pages ahead of a stream that was not seen again until
 * its row was needed, or that had left RAM before they were touched. A touch of
 * a page that is there tells nobody, so neither is exact.
 *
 * Owned by one thread; fault path; allocates nothing. Steps per fault, at most:
 * FERRYI_NR_STREAMS rows (of those that end right before the page, four page
 * words each are looked at), then FERRYI_NR_POINTS points and
 * 2 * FERRYI_MAX_STEP distances.
 */
#ifndef FERRYI_PAGER_STREAM_H
#define FERRYI_PAGER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_NR_STREAMS 128u
#define FERRYI_NR_POINTS  128u
#define FERRYI_MAX_STEP   64 /* pages: steps that are found among all points of a thread */
/* Pages: largest window of a stream whose pages are no neighbours: each is a read of its own. */
#define FERRYI_STEP_WINDOW 32u

struct ferryi_object;

/* A fault that no stream had expected. */
struct ferryi_point {
	const struct ferryi_object *object; /* NULL: none */
	size_t index;
	int tid;
};

struct ferryi_stream {
	const struct ferryi_object *object; /* NULL: a free row */
	size_t seen;    /* the furthest page that is known to be touched */
	size_t next;    /* page whose fault continues the stream; those between are there, or on their way */
	ptrdiff_t step; /* pages from one to the next; not 0 */
	uint32_t window; /* pages that are worth reading ahead at a time, as it last was; 0: none yet */
	uint32_t last_use;
	size_t run;     /* pages that it is known to have touched */
	uint32_t joins; /* windows read ahead since the last fault at the end of one */
	bool is_proved; /* it has gone past a window */
};

struct ferryi_streams {
	uint32_t tick; /* faults so far */
	uint32_t max_window;
	int trust; /* of births: windows that were gone past, less those that were begun */
	uint64_t used, wasted; /* pages read ahead, as far as it is known; they fade */
	unsigned next_point;
	struct ferryi_stream stream[FERRYI_NR_STREAMS];
	struct ferryi_point point[FERRYI_NR_POINTS]; /* ring, latest before next_point */
};

/* Pages from + step, from + 2 * step, ... are to be read: `ahead` of them. */
struct ferryi_stream_advice {
	size_t from;
	ptrdiff_t step;
	uint32_t ahead;
	uint32_t hits;                /* pages read ahead that are known to be used since the last time */
	struct ferryi_stream *stream; /* NULL: none */
	bool is_new;                  /* begun on a guess */
};

void ferryi_streams_init(struct ferryi_streams *streams, uint32_t max_window);

struct ferryi_stream_fault {
	const struct ferryi_object *object;
	size_t index;
	int tid;         /* of the thread; 0: unknown */
	bool is_first;   /* a first touch: there is nothing to be read */
	bool sequential; /* the user advised so: begin with the largest window */
	bool is_relayed; /* another thread reads ahead, and may not have come to what it was asked for (inline.h) */
	/* Is this page of the object in RAM (neither away nor on its way)? A few are asked for. */
	bool (*is_there)(const struct ferryi_object *object, size_t index);
};

/* A fault on a page that is not there, nor on its way. */
void ferryi_streams_fault(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault,
			  struct ferryi_stream_advice *advice);
/*
 * A fault on a page that is on its way already: the reader has caught up. A
 * stream that has earned large windows is to have its next one read now,
 * without waiting for the fault there; else advice->ahead is 0. Every now and
 * then that fault is waited for, to see that the stream still has this step.
 */
void ferryi_streams_joined(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault,
			   struct ferryi_stream_advice *advice);
/* After either: the first `got` pages of the advice are there, or on their way. The stream goes on after them. */
void ferryi_streams_done(struct ferryi_streams *streams, const struct ferryi_stream_advice *advice, uint32_t got);

#endif
