/*
 * Bringing pages in: the answer to a fault, and read-ahead. A fetcher belongs
 * to one thread (a fault thread, or whoever holds the service lock) and keeps
 * many reads under way. Everything here is the fault path; it may call:
 *
 *   page words (atomics), area look-up under the read lock, budget counters,
 *   memory-model look-up by PFN, page descriptors (altmap.h), ferryi_lines_channel/_broken,
 *   ferryi_channel_submit/_poll, ioctls on the userfaultfd, write(2) to an
 *   eventfd, pread(2) of a cgroup's figures (memcg.h), the frames of the reserve
 *   (reserve.h) and those that go round (strip.h),
 *   the clock, ferryi_log on failures, the notifier (notify.h),
 *   the callbacks of a pool (callback.h), pread(2) and pwrite(2) of a coherent
 *   pool's memfd (coherent.h).
 *
 * It may not: allocate, touch managed memory, wait for control I/O, sleep
 * without a deadline, take any lock but the area table's read lock and, where
 * several threads copy, the events lock (a lane of inline memory: its gate).
 */
#ifndef FERRYI_PAGER_FETCH_H
#define FERRYI_PAGER_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "area.h"
#include "link.h"
#include "notify.h"
#include "stream.h"

struct ferryi_pager;
struct ferryi_lane;

#define FERRYI_FETCH_SMALL      64u /* demand reads under way: one page each */
#define FERRYI_FETCH_CHUNKS     30u /* read-ahead chunks under way */
#define FERRYI_FETCH_SINGLES    160u /* read-ahead of pages that are no neighbours under way: one page each */
/*
 * 128 KiB: its copy overlaps the next one's transfer. A reader that has caught
 * up sleeps once a chunk, and a wake-up can cost as much as copying 64 KiB.
 */
#define FERRYI_FETCH_CHUNK_PAGES 32u
#define FERRYI_FETCH_BUF_BYTES \
	((size_t)(FERRYI_FETCH_SMALL + FERRYI_FETCH_SINGLES + FERRYI_FETCH_CHUNKS * FERRYI_FETCH_CHUNK_PAGES) * FERRYI_PAGE_SIZE)
#define FERRYI_FETCH_WAITING    1024u /* faults that cannot go on yet */

/* A fault (or a request of ours) for one page. */
struct ferryi_fault {
	uintptr_t va;
	bool write;
	bool minor;          /* of a shared mapping, whose file has a page there */
	bool forced;         /* ours: bring it in, no thread is waiting on it */
	const void *owner;   /* forced: whose mirrors know of it; NULL */
	int tid;             /* of the thread that waits for it, 0: none; a lane's: the caller */
	bool has_waited;     /* it could not go on at first */
	bool is_first;       /* a lane's: not the thread's last one once more */
	uint64_t start_ns;
	uint64_t deadline_ns;
	bool give_up;        /* an away page is poisoned, its data is not to be had: last_error says why */
	bool read_failed;    /* of an away page, just now: it is to be tried again */
	int last_error;      /* why it had to wait last: negative errno */
};

/* By whom the pages of a fetch are filled. */
enum ferryi_fill {
	FERRYI_FILL_READ = 0, /* the transport; also: filled already */
	FERRYI_FILL_ENGINE,   /* ferry_pool_ops.migrate_to_ram */
	FERRYI_FILL_MEMFD,    /* a coherent pool's memory */
	FERRYI_FILL_REPLICA,  /* ferry_pool_ops.memory_failure: what the pool has is lost */
};

/* One contiguous read under way. */
struct ferryi_fetch {
	struct ferryi_op op; /* must be first: completions give it back */
	struct ferryi_fault fault; /* demand: what waits for it */
	struct ferryi_object *object;
	size_t index;
	uint32_t nr_pages;
	uint32_t nr_copied; /* pages done already, when a copy had to be interrupted */
	unsigned lender_index; /* of the channel */
	bool demand;
	bool minor; /* the driver's engine had it at hand */
	bool no_copy; /* what the pool has of the pages is void from now on */
	enum ferryi_fill fill;
	bool is_inline; /* the object's, which may be gone once its pages are in place */
	uint8_t *buf; /* registered, as long as its reads may be; immutable */
	uint8_t *frames;   /* in place of buf: those of `strip`, which are moved to their places; NULL */
	uint32_t strip;    /* strip.h */
	uint32_t nr_moved; /* frames that have left it */
	struct ferryi_notice notice; /* from the claim until the pages are in place, or back */
	bool landed;        /* data is in the slot, the copy waits for the address space to settle */
	struct ferryi_fetch *next; /* free list, or landed list */
	struct ferryi_fetch **free_list; /* its own; immutable */
};

/* All members: owner thread only. */
struct ferryi_fetcher {
	struct ferryi_pager *pager;
	struct ferryi_lines lines;
	struct ferryi_streams streams;
	struct ferryi_lane *lane; /* of the inline memory, whose gate it keeps (inline.h); NULL: it is a pager's thread's */
	bool locks_events; /* other threads read events: hold events_lock while copying (pager_priv.h) */
	uint8_t *buf;
	struct ferryi_fetch small[FERRYI_FETCH_SMALL];
	struct ferryi_fetch single[FERRYI_FETCH_SINGLES];
	struct ferryi_fetch chunk[FERRYI_FETCH_CHUNKS];
	struct ferryi_fetch *free_small, *free_singles, *free_chunks, *landed;
	unsigned nr_waiting;
	unsigned nr_outstanding; /* reads under way or landed */
	struct ferryi_fault waiting[FERRYI_FETCH_WAITING];
};

/* Start-up. wake_fd: of the owner thread; -1: the service's. */
int ferryi_fetcher_init(struct ferryi_fetcher *fetcher, struct ferryi_pager *pager, int wake_fd);
/* The lane's: it has one slot, for the page that is waited for. */
int ferryi_fetcher_init_lane(struct ferryi_fetcher *fetcher, struct ferryi_pager *pager, struct ferryi_lane *lane);

/* Takes a fault on. It ends with the page in place, or poisoned, and its threads woken. */
void ferryi_fetch_fault(struct ferryi_fetcher *fetcher, const struct ferryi_fault *fault);
/*
 * Starts reading what is away in [start, end), as far as budget and slots allow;
 * where it stopped (end: all of it). Poll and call again for the rest.
 */
uintptr_t ferryi_fetch_ahead(struct ferryi_fetcher *fetcher, uintptr_t start, uintptr_t end, uint64_t deadline_ns);
/* Starts reading nr pages, from va on and `step` apart, as far as budget and slots allow. */
void ferryi_fetch_steps(struct ferryi_fetcher *fetcher, uintptr_t va, ptrdiff_t step, uint32_t nr, uint64_t deadline_ns);
/* Ends what has completed, tries again what waits. Returns how much was done. */
unsigned ferryi_fetch_poll(struct ferryi_fetcher *fetcher);
/* Nothing under way, nothing waiting. */
bool ferryi_fetch_is_idle(const struct ferryi_fetcher *fetcher);

#endif
