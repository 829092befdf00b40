/* See stream.h. Linear search of a small table that stays in the first-level cache. */
#include "stream.h"

#include <string.h>


#define FIRST_WINDOW 4u /* pages: what a second fault in a row is worth */

void ferryi_streams_init(struct ferryi_streams *streams, uint32_t max_window)
{
	memset(streams, 0, sizeof(*streams));
	streams->max_window = max_window;
}

void ferryi_streams_fault(struct ferryi_streams *streams, const struct ferryi_object *object, size_t index,
			  int sequential, struct ferryi_stream_advice *advice)
{
	struct ferryi_stream *oldest = &streams->stream[0];
	uint32_t tick = ++streams->tick;

	advice->ahead = 0;
	advice->hits = 0;
	for (unsigned i = 0; i < FERRYI_NR_STREAMS; i++) {
		struct ferryi_stream *s = &streams->stream[i];

		if (s->object == object && s->next == index) {
			advice->hits = s->window;
			advice->ahead = s->window ? s->window * 2 : FIRST_WINDOW;
			if (advice->ahead > streams->max_window)
				advice->ahead = streams->max_window;
			s->last_use = tick;
			advice->stream = s;
			return;
		}
		if (tick - s->last_use > tick - oldest->last_use)
			oldest = s;
	}
	if (sequential)
		advice->ahead = streams->max_window;
	*oldest = (struct ferryi_stream){ .object = object, .last_use = tick };
	advice->stream = oldest;
}

int ferryi_streams_joined(struct ferryi_streams *streams, const struct ferryi_object *object, size_t index,
			  struct ferryi_stream_advice *advice, size_t *from)
{
	for (unsigned i = 0; i < FERRYI_NR_STREAMS; i++) {
		struct ferryi_stream *s = &streams->stream[i];

		if (s->object != object || index >= s->next || s->next - index > s->window)
			continue;
		if (s->window < streams->max_window / 2)
			return 0;
		s->last_use = ++streams->tick;
		advice->stream = s;
		advice->hits = s->window;
		advice->ahead = streams->max_window;
		*from = s->next;
		return 1;
	}
	return 0;
}

void ferryi_streams_done(struct ferryi_stream_advice *advice, size_t index, uint32_t got)
{
	advice->stream->next = index + 1 + got;
	advice->stream->window = got;
}
