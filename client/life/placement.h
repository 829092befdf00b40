/* What the policies want to know of the pools: the room at their servers, how far they are. Caller's thread; may block. */
#ifndef FERRYI_LIFE_PLACEMENT_H
#define FERRYI_LIFE_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "device.h"

struct ferry;

/* Protected by the ferry lock, like the pools that it is about. */
struct ferryi_placement {
	uint64_t asked_ns; /* when the servers were asked for their room last; 0: not yet */
	struct {
		char name[64]; /* at its server; "": that one's first of the type */
		uint64_t capacity_bytes;
		uint32_t distance;
		bool is_measured;
	} pool[FERRYI_MAX_POOLS_ATTACHED];
};

/* A pool has come to this index. ASSUMPTION: the ferry lock is held, or nobody else has the ferry yet. */
void ferryi_placement_add(struct ferry *ferry, unsigned index, const char *pool_name);
/*
 * Finds out what the policy of a mapping with these flags needs and is not known, or has been for more than a second.
 * What cannot be had (a server that does not answer) stays unknown.
 */
void ferryi_placement_look(struct ferry *ferry, unsigned flags);

#endif
