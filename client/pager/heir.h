/*
 * The heir: a process of its own, `ferry-heir`, that stands by to answer the
 * faults of children of fork when their parent dies in whatever way. It is
 * started at the first fork that leaves pages away in a pool whose server keeps
 * leases for an heir (not an embedded one), and ends with the parent's children.
 *
 *   parent                                 ferry-heir
 *   ------------------------------------   --------------------------------------
 *   at a fork: LEASE (a pool's server,     opens a session of its own, stands by
 *     the lease's secret)         ---->      for the lease (HeirRequest)
 *   waits for the answer          <----    0, or why not
 *   CHILD: its record (child.h) in a
 *     memfd, its userfaultfd, a socket
 *     whose other end the child has ---->  keeps them; that socket's end: drops them
 *   goes on answering the child
 *   no child needs anything: REST ---->    stands by for nothing; what is lost then
 *   waits for the answer          <----      is free at once
 *   ferry_close: BYE              ---->    ends
 *   dies, or execs                         claims the leases as soon as the server
 *                                            has ended the parent's session, and
 *                                            answers the children from the records
 *
 * It is no child of the application's, so that nobody waits for it. The child
 * sees by its socket whether the heir is there (orphan.c).
 */
#ifndef FERRYI_PAGER_HEIR_H
#define FERRYI_PAGER_HEIR_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "device.h"

struct ferryi_pager;
struct ferryi_child;

/* Descriptors that it is started with; 2 is the parent's. */
enum { FERRYI_HEIR_SOCK = 3, FERRYI_HEIR_PARENT /* a pidfd */, FERRYI_HEIR_FDS };

enum ferryi_heir_kind { FERRYI_HEIR_LEASE = 1, FERRYI_HEIR_CHILD, FERRYI_HEIR_REST, FERRYI_HEIR_BYE };

/* From the parent, one packet. The answer to a LEASE and a REST is an int: 0 or negative errno. */
struct ferryi_heir_message {
	uint32_t kind;
	uint32_t pool; /* LEASE: index; it replaces what was there */
	uint32_t timeout_ms; /* of a fault */
	uint32_t log_level;
	uint64_t bytes; /* CHILD: of the record; with three descriptors */
	struct ferryi_lease_will will; /* LEASE */
};

/* Of a block of a child's record: where its pages are, for an heir. 0: nowhere. */
static inline uint64_t ferryi_heir_place(unsigned pool_index, uint64_t pool_off_bytes)
{
	return (uint64_t)(pool_index + 1) << 48 | pool_off_bytes >> FERRYI_SUBSECTION_SHIFT;
}

/* In the parent. */
struct ferryi_heir {
	/* immutable after open */
	char *path; /* the program; NULL: not found */
	char **env;
	/* protected by the children's lock */
	int sock; /* -1: none runs */
	bool has_warned;
	bool knows[FERRYI_MAX_POOLS_ATTACHED]; /* the lease of this secret */
	uint8_t secret[FERRYI_MAX_POOLS_ATTACHED][FERRYI_LEASE_SECRET_LEN];
};

/* Looks for the program; what it is to be started with. Where that fails there will be no heir. Allocates from the arena. */
void ferryi_heir_open(struct ferryi_pager *pager);
/* It ends. ASSUMPTION: children's lock held. */
void ferryi_heir_close_locked(struct ferryi_pager *pager);
/*
 * If no child needs anything, the heir need not stand by: so that nothing is kept, and maybe copied, for nobody when we
 * end. ASSUMPTION: children's lock held. Context: blocks for one request to each server, within the fault timeout.
 */
void ferryi_heir_rest_locked(struct ferryi_pager *pager);
/*
 * The child's record is the heir's too from now on, and may have moved. The socket by whose end the child sees that
 * the heir is gone, to be handed to the child; -1: it has none. ASSUMPTION: children's lock held, the child's
 * userfaultfd is there. Context: within an atfork handler: allocates nothing; blocks for one start of a process and
 * one request to each server of a lease that is new, within the fault timeout.
 */
int ferryi_heir_add_locked(struct ferryi_pager *pager, struct ferryi_child **child);

/* The process itself, with the descriptors above. Its exit status. */
int ferryi_heir_main(void);

#endif
