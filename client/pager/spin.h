/*
 * How long a thread spins for a read, or the next fault, before it sleeps. A
 * spin that does not end what it waits for may be what that waits for: the
 * server's thread, or another of ours, wants this CPU. So after one that failed
 * the next ones are short, but for a probe now and then. Owner thread only.
 */
#ifndef FERRYI_PAGER_SPIN_H
#define FERRYI_PAGER_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"

#define FERRYI_SPIN_NS	     (50 * FERRYI_NS_PER_US) /* what takes longer is worth a sleep */
#define FERRYI_SPIN_LEAST_NS (3 * FERRYI_NS_PER_US)
#define FERRYI_SPIN_PROBE    16u /* spins: one of so many is a long one all the same */

struct ferryi_spin {
	uint64_t limit_ns; /* of the one under way; 0: none is */
	bool is_trial;	   /* whether it ends what it waits for tells of the next ones */
	bool has_failed;   /* the last trial */
	unsigned nr_short; /* since then */
};

/* for_read: or for a fault to come, which nobody is kept from by the spin. */
static inline void ferryi_spin_begin(struct ferryi_spin *spin, bool for_read)
{
	bool is_long = !for_read || !spin->has_failed || ++spin->nr_short % FERRYI_SPIN_PROBE == 0;

	spin->limit_ns = is_long ? FERRYI_SPIN_NS : FERRYI_SPIN_LEAST_NS;
	spin->is_trial = for_read && is_long;
}

/* What was waited for is there (ok), or the owner sleeps now; also where there was no spin. */
static inline void ferryi_spin_end(struct ferryi_spin *spin, bool ok)
{
	if (spin->is_trial)
		spin->has_failed = !ok;
	spin->is_trial = false;
	spin->limit_ns = 0;
}

#endif
