/*
 * Which of several pools a stripe of a mapping goes to. Pure arithmetic: any
 * thread, no locks; the binder (bind.c) says what pools there are.
 */
#ifndef FERRYI_PAGER_STRIPE_H
#define FERRYI_PAGER_STRIPE_H

#include <stdint.h>

enum ferryi_policy {
	FERRYI_POLICY_ROUND_ROBIN, /* one stripe each, in turn */
	FERRYI_POLICY_WEIGHTED,	   /* stripes in proportion to the room there is */
	FERRYI_POLICY_NEAREST,	   /* the nearest, in turn where several are */
	FERRYI_POLICY_FILL,	   /* the first, until it is full */
};

#define FERRYI_DISTANCE_UNKNOWN UINT32_MAX

/* A pool that can be chosen. */
struct ferryi_choice {
	unsigned index;	     /* of the pool in the process */
	uint64_t room_bytes; /* what this process could still put there */
	uint32_t distance;   /* any unit, the same for all; FERRYI_DISTANCE_UNKNOWN: farther than any that is known */
};

/*
 * Which of choices[0 .. n) stripe number `stripe` goes to. The same answer for
 * the same arguments. Weighted: of N stripes in a row each gets its share of
 * N but for a few. ASSUMPTION: n > 0.
 */
unsigned ferryi_stripe_pick(enum ferryi_policy policy, uint64_t stripe, const struct ferryi_choice *choices, unsigned n);

#endif
