/* See stripe.h. */
#include "stripe.h"

#include <assert.h>
#include <stdbool.h>

#define GOLDEN 0x9e3779b97f4a7c15ULL /* 2^64 / golden ratio */

/*
 * Multiples of the golden ratio, mod 1, lie as evenly as points can on a
 * circle, whatever their number: cut into arcs as long as the rooms, each arc
 * gets its share of any run of them.
 */
static unsigned pick_weighted(uint64_t stripe, const struct ferryi_choice *choices, unsigned n)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < n; i++)
		total += choices[i].room_bytes;
	if (!total)
		return (unsigned)(stripe % n);
	uint64_t at = (uint64_t)(((unsigned __int128)(stripe * GOLDEN) * total) >> 64);

	for (unsigned i = 0; i < n; i++) {
		if (at < choices[i].room_bytes)
			return i;
		at -= choices[i].room_bytes;
	}
	return n - 1;
}

/* A quarter farther is as near: what is measured is never the same twice. */
static bool is_near(uint32_t distance, uint32_t least)
{
	return distance <= least || (distance != FERRYI_DISTANCE_UNKNOWN && distance - least <= least / 4);
}

static unsigned pick_nearest(uint64_t stripe, const struct ferryi_choice *choices, unsigned n)
{
	uint32_t least = FERRYI_DISTANCE_UNKNOWN;
	unsigned nr_near = 0;

	for (unsigned i = 0; i < n; i++)
		least = choices[i].distance < least ? choices[i].distance : least;
	for (unsigned i = 0; i < n; i++)
		nr_near += is_near(choices[i].distance, least);
	unsigned turn = (unsigned)(stripe % nr_near);

	for (unsigned i = 0; i < n; i++) {
		if (is_near(choices[i].distance, least) && turn-- == 0)
			return i;
	}
	return 0;
}

unsigned ferryi_stripe_pick(enum ferryi_policy policy, uint64_t stripe, const struct ferryi_choice *choices, unsigned n)
{
	assert(n > 0);
	switch (policy) {
	case FERRYI_POLICY_ROUND_ROBIN:
		return (unsigned)(stripe % n);
	case FERRYI_POLICY_WEIGHTED:
		return pick_weighted(stripe, choices, n);
	case FERRYI_POLICY_NEAREST:
		return pick_nearest(stripe, choices, n);
	case FERRYI_POLICY_FILL:
		break;
	}
	return 0;
}
