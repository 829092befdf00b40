/* See stream.h. Linear search of small tables that stay in the first-level cache. */
#include "stream.h"

#include <string.h>

#define FIRST_WINDOW 4u   /* pages: what a stream just found is worth */
#define STALE_FAULTS 512u /* after as many of others, and some for its window, a stream has to begin anew */
#define STALE_NEW    256u /* ... one that has not gone past a window yet */
#define SLACK	     4   /* pages: the fault after the window may come so much later, where those before are there anyway */
#define FIRST_TOUCHES 16u /* pages: filled after a first touch among pages that are read ahead */
#define STEP_WINDOW   16u /* pages: largest window of a short stream that is not of neighbours: it may end any time */
#define STEP_SHARE    16u /* ... of a longer one: this part of it */
#define JOINS_MAX     8u  /* windows that a stream is given before it has to fault at the end of one */
#define RECENT	     8u   /* faults: a stream that is read just now */
#define LATEST	     7u   /* points of a thread, the faulting page not included, that a longer step takes: all its latest */

/*
 * Trust says how many points in a row a stream takes, the faulting page included: 3, or 2 of neighbours; without trust
 * 3, 4, then 5.
 */
#define TRUST_MAX  16
#define TRUST_STEP 8
#define TRUST_MIN  (-24)

#define WASTE_SHARE 8u /* read-ahead wastes too much when this part of what is used is */
#define WASTE_SPARE 64u /* pages of waste that prove nothing */
#define FADE_PAGES  65536u

#define REACH (4 * FERRYI_MAX_STEP) /* of the points that matter for steps up to FERRYI_MAX_STEP */

void ferryi_streams_init(struct ferryi_streams *streams, uint32_t max_window)
{
	memset(streams, 0, sizeof(*streams));
	streams->max_window = max_window;
	streams->trust = TRUST_MAX;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static ptrdiff_t distance(size_t from, size_t to)
{
	return (ptrdiff_t)(to - from); /* pages of one object: fits */
}

/* ---- what is known of windows ---- */

static void count(struct ferryi_streams *streams, size_t used, size_t wasted)
{
	streams->used += used;
	streams->wasted += wasted;
	if (streams->used + streams->wasted > FADE_PAGES) {
		streams->used /= 2;
		streams->wasted /= 2;
	}
}

static bool is_wasteful(const struct ferryi_streams *streams)
{
	return streams->wasted > streams->used / WASTE_SHARE + WASTE_SPARE;
}

static void change_trust(struct ferryi_streams *streams, int by)
{
	streams->trust += by;
	if (streams->trust > TRUST_MAX)
		streams->trust = TRUST_MAX;
	if (streams->trust < TRUST_MIN)
		streams->trust = TRUST_MIN;
}

/* ---- streams that are known ---- */

static uint32_t largest_window(const struct ferryi_streams *streams, const struct ferryi_stream *s)
{
	uint32_t largest = FERRYI_STEP_WINDOW;

	if (s->step == 1 || s->step == -1)
		return streams->max_window;
	if (s->run / STEP_SHARE < largest)
		largest = s->run / STEP_SHARE > STEP_WINDOW ? (uint32_t)(s->run / STEP_SHARE) : STEP_WINDOW;
	return min_u32(streams->max_window, largest);
}

/* Twice the last one; where too much has been wasted, no more than a part of what the stream has proved to be. */
static uint32_t next_window(const struct ferryi_streams *streams, const struct ferryi_stream *s)
{
	uint32_t window = s->window ? s->window * 2 : FIRST_WINDOW;

	if (is_wasteful(streams)) {
		size_t earned = s->run / WASTE_SHARE;

		if (earned < window)
			window = earned > FIRST_WINDOW ? (uint32_t)earned : min_u32(window, FIRST_WINDOW);
	}
	return min_u32(window, largest_window(streams, s));
}

/* How many steps after s->seen the page is, where that is at most s->next and SLACK; else 0. */
static size_t steps_to(const struct ferryi_stream *s, size_t index)
{
	ptrdiff_t done = distance(s->seen, index), left = distance(index, s->next) + SLACK * s->step;

	if (s->step > 0 ? done <= 0 || left < 0 : done >= 0 || left > 0)
		return 0;
	if (s->step != 1 && s->step != -1 && done % s->step)
		return 0;
	return (size_t)(done / s->step);
}

static bool is_stale(const struct ferryi_streams *streams, const struct ferryi_stream *s)
{
	return streams->tick - s->last_use > (s->is_proved ? STALE_FAULTS : STALE_NEW) + 4 * s->window;
}

/* Pages ahead of it that are not known to be used. */
static size_t pages_left(const struct ferryi_stream *s, size_t index)
{
	return (size_t)(distance(index, s->next) / s->step - 1);
}

/* The stream went on to the page: what was read ahead up to there is known to be used. Returns how many. */
static uint32_t advance(struct ferryi_streams *streams, struct ferryi_stream *s, size_t steps, size_t index)
{
	size_t ahead = pages_left(s, s->seen), hits = steps < ahead ? steps : ahead;

	s->seen = index;
	s->run += steps;
	s->last_use = streams->tick;
	if (hits) {
		change_trust(streams, s->is_proved ? 1 : 2);
		s->is_proved = true;
	}
	count(streams, hits, 0);
	return (uint32_t)hits;
}

/* The page is before the stream's next: it has been read ahead. */
static bool is_inside(const struct ferryi_stream *s, size_t index)
{
	return s->step > 0 ? distance(index, s->next) > 0 : distance(index, s->next) < 0;
}

/* The pages from the stream's next to before this one are there: it may have gone past them without a fault. */
static bool is_slack_there(const struct ferryi_stream *s, const struct ferryi_stream_fault *fault)
{
	if (is_inside(s, fault->index))
		return true;
	for (size_t page = s->next; page != fault->index; page += (size_t)s->step) { /* SLACK of them at most */
		if (!fault->is_there(fault->object, page))
			return false;
	}
	return true;
}

/*
 * The stream that expects the page, *steps after what is known of it: at its next, or (all: of any, else of those that
 * have proved to be streams, or are read just now and relayed) not far from there, the latest such. NULL: none; then *oldest is a row to take.
 */
static struct ferryi_stream *find(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault, bool all,
				  size_t *steps, struct ferryi_stream **oldest)
{
	struct ferryi_stream *near = NULL;

	*oldest = &streams->stream[0];
	for (unsigned i = 0; i < FERRYI_NR_STREAMS; i++) {
		struct ferryi_stream *s = &streams->stream[i];
		uint32_t age = streams->tick - s->last_use;
		size_t n = s->object == fault->object ? steps_to(s, fault->index) : 0;

		if (n && s->next == fault->index && (s->is_proved || !is_stale(streams, s))) {
			*steps = n;
			return s;
		}
		if (n && (all || s->is_proved || (fault->is_relayed && age < RECENT)) && !is_stale(streams, s) && is_slack_there(s, fault) &&
		    (!near || age < streams->tick - near->last_use)) {
			near = s;
			*steps = n;
		}
		if (age > streams->tick - (*oldest)->last_use)
			*oldest = s;
	}
	return near;
}

/* ---- streams that are not known yet ---- */

static unsigned points_needed(const struct ferryi_streams *streams)
{
	return 3 + (streams->trust < -TRUST_STEP) + (streams->trust < -2 * TRUST_STEP);
}

struct points {
	uint64_t near[(2 * REACH + 64) / 64]; /* bit REACH + d: a point of the thread at distance d */
	size_t latest[LATEST];
	unsigned nr_near, nr_latest;
	bool follows; /* a point of any thread right before the page */
};

static void gather(const struct ferryi_streams *streams, const struct ferryi_stream_fault *fault, struct points *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 1; i <= FERRYI_NR_POINTS; i++) {
		const struct ferryi_point *p = &streams->point[(streams->next_point - i) % FERRYI_NR_POINTS];

		if (p->object != fault->object)
			continue;
		ptrdiff_t d = distance(fault->index, p->index);

		out->follows = out->follows || d == -1;
		if (p->tid != fault->tid)
			continue;
		if (out->nr_latest < LATEST)
			out->latest[out->nr_latest++] = p->index;
		if (d >= -REACH && d <= REACH) {
			out->near[(size_t)(d + REACH) / 64] |= 1ULL << ((size_t)(d + REACH) % 64);
			out->nr_near++;
		}
	}
}

static bool has_near(const struct points *points, ptrdiff_t d)
{
	return points->near[(size_t)(d + REACH) / 64] >> ((size_t)(d + REACH) % 64) & 1;
}

static bool is_step(const struct points *points, ptrdiff_t step, unsigned needed)
{
	for (unsigned k = 1; k < needed; k++) {
		if (!has_near(points, -step * (ptrdiff_t)k))
			return false;
	}
	return true;
}

/* All of the latest points, and the page: a walk along several arrays in turn has a few such, too. */
static ptrdiff_t latest_step(const struct points *points, size_t index)
{
	ptrdiff_t step = points->nr_latest == LATEST ? distance(points->latest[0], index) : 0;

	for (unsigned i = 0; step && i + 1 < LATEST; i++) {
		if (distance(points->latest[i + 1], points->latest[i]) != step)
			step = 0;
	}
	return step;
}

/* The step of a progression that ends in the page, or 0: the shortest. */
static ptrdiff_t find_step(const struct ferryi_streams *streams, const struct points *points, size_t index)
{
	unsigned needed = points_needed(streams);

	if (points->follows && streams->trust >= 0)
		return 1;
	for (ptrdiff_t d = 1; points->nr_near + 1 >= needed && d <= FERRYI_MAX_STEP; d++) {
		if (is_step(points, d, needed))
			return d;
		if (is_step(points, -d, needed))
			return -d;
	}
	return latest_step(points, index);
}

static void add_point(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault)
{
	streams->point[streams->next_point] = (struct ferryi_point){ fault->object, fault->index, fault->tid };
	streams->next_point = (streams->next_point + 1) % FERRYI_NR_POINTS;
}

/* A new stream in that row; what was read ahead for the one before, and is not known to be used, counts as wasted. */
static struct ferryi_stream *begin(struct ferryi_streams *streams, struct ferryi_stream *row,
				   const struct ferryi_stream_fault *fault, ptrdiff_t step)
{
	if (row->object)
		count(streams, 0, pages_left(row, row->seen));
	*row = (struct ferryi_stream){
		.object = fault->object, .seen = fault->index, .next = fault->index + (size_t)step, .step = step,
		.last_use = streams->tick, .run = 1,
	};
	return row;
}

/* The fault is the one that the stream goes on with. */
static void go_on(struct ferryi_streams *streams, struct ferryi_stream *s, size_t steps, size_t index,
		  struct ferryi_stream_advice *advice)
{
	if (is_stale(streams, s)) {
		count(streams, 0, pages_left(s, s->seen));
		s->window = 0;
		s->seen = index - (size_t)s->step;
		steps = 1;
	}
	s->joins = 0;
	advice->hits = advance(streams, s, steps, index);
	advice->ahead = next_window(streams, s);
}

/* A page that had been read ahead has left again before it was touched: that was too early, and too much. */
static void begin_again(struct ferryi_streams *streams, struct ferryi_stream *s, size_t index,
			struct ferryi_stream_advice *advice)
{
	count(streams, 0, pages_left(s, index) + 1);
	change_trust(streams, -1);
	s->window = s->window > 1 ? s->window / 2 : 1;
	s->seen = index;
	s->last_use = streams->tick;
	advice->ahead = s->window;
}

/* What was to be read ahead by now is not yet: the reader fetches it, and the window grows as if it had gone past. */
static void go_by_itself(struct ferryi_streams *streams, struct ferryi_stream *s, size_t steps, size_t index,
			 struct ferryi_stream_advice *advice)
{
	s->seen = index;
	s->run += steps;
	s->last_use = streams->tick;
	advice->ahead = next_window(streams, s);
}

static struct ferryi_stream *look_for_stream(struct ferryi_streams *streams, struct ferryi_stream *row,
					     const struct ferryi_stream_fault *fault, struct ferryi_stream_advice *advice)
{
	struct points points;

	gather(streams, fault, &points);

	ptrdiff_t step = find_step(streams, &points, fault->index);

	if (!step) {
		add_point(streams, fault);
		return NULL;
	}
	advice->ahead = min_u32(streams->trust >= 0 ? FIRST_WINDOW : FIRST_WINDOW / 2, streams->max_window);
	advice->is_new = true;
	return begin(streams, row, fault, step);
}

void ferryi_streams_fault(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault,
			  struct ferryi_stream_advice *advice)
{
	struct ferryi_stream *row;
	size_t steps = 0;

	streams->tick++;
	*advice = (struct ferryi_stream_advice){ .from = fault->index };
	if (!streams->max_window)
		return;
	struct ferryi_stream *s = find(streams, fault, false, &steps, &row);
	bool recent = s && streams->tick - s->last_use < RECENT;

	if (s && !is_inside(s, fault->index)) {
		go_on(streams, s, steps, fault->index, advice);
	} else if (s && fault->is_first) {
		/* What is read ahead has passed over this page: the stream is as it was. */
		advice->hits = advance(streams, s, steps, fault->index) - 1;
		advice->ahead = min_u32(FIRST_TOUCHES, (uint32_t)pages_left(s, fault->index));
		advice->step = s->step;
		return;
	} else if (s && fault->is_relayed && recent) {
		go_by_itself(streams, s, steps, fault->index, advice);
	} else if (s) {
		begin_again(streams, s, fault->index, advice);
	} else if (fault->sequential) {
		s = begin(streams, row, fault, 1);
		advice->ahead = streams->max_window;
	} else {
		s = look_for_stream(streams, row, fault, advice);
	}
	advice->stream = s;
	advice->step = s ? s->step : 0;
}

void ferryi_streams_joined(struct ferryi_streams *streams, const struct ferryi_stream_fault *fault,
			   struct ferryi_stream_advice *advice)
{
	struct ferryi_stream *row;
	size_t steps = 0;

	streams->tick++;
	*advice = (struct ferryi_stream_advice){ .from = fault->index };
	struct ferryi_stream *s = find(streams, fault, true, &steps, &row);

	if (!s || !is_inside(s, fault->index))
		return;
	if (!fault->is_there(fault->object, fault->index - (size_t)s->step)) {
		s->window /= 2; /* the one before it was passed over: it is another's, or the step is not right any more */
		return;
	}
	advice->hits = advance(streams, s, steps, fault->index);

	uint32_t largest = largest_window(streams, s);

	if (pages_left(s, fault->index) > s->window / 2 || s->window < largest / 2 || s->joins == JOINS_MAX)
		return;
	advice->stream = s;
	advice->from = s->next - (size_t)s->step;
	advice->step = s->step;
	advice->ahead = largest;
}

void ferryi_streams_done(struct ferryi_streams *streams, const struct ferryi_stream_advice *advice, uint32_t got)
{
	struct ferryi_stream *s = advice->stream;
	size_t next = advice->from + (size_t)advice->step * (got + 1);

	if (!s || s->next == next) /* the latter: it was joined, or is new, and got nothing */
		return;
	s->next = next;
	s->joins++;
	/* Memory or slots were short for a moment, or it is the end: no reason to begin anew. */
	s->window = got == advice->ahead ? got : advice->ahead / 2 > got ? advice->ahead / 2 : got;
	if (advice->is_new && got)
		change_trust(streams, -1);
}
