/*
 * Pools: named spans of this machine's memory, lent in extents. An extent is a
 * run of 2 MiB sub-sections inside one 128 MiB section; it is zero when lent,
 * and after it was given back the pool's scrubber thread zeroes it before it is
 * free again.
 * Context: any thread, unless stated; one lock a pool (FERRYI_RANK_SERVER_POOL).
 */
#ifndef FERRYI_SERVER_POOL_H
#define FERRYI_SERVER_POOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fabric.h"

#define FERRYI_POOL_NAME_LEN 64	  /* with its NUL */
#define FERRYI_POOL_PATH_LEN 1024 /* with its NUL */
#define FERRYI_POOL_SECRET_LEN 16 /* bytes */

struct ferryi_backing;
struct ferryi_pool;

/* ---- what the operator asked for ---- */

/* As enum ferry_mem_type of ferry.h. */
enum ferryi_pool_type {
	FERRYI_POOL_PRIVATE = 1,
	FERRYI_POOL_COHERENT, /* mapped by clients of this host: lent by the same-host row alone */
	FERRYI_POOL_FS_DAX,   /* a file: what it holds outlives the server */
	FERRYI_POOL_GENERIC,  /* a character device (/dev/dax), or huge pages */
	FERRYI_POOL_P2PDMA,   /* memory of a device: none so far */
};

struct ferryi_pool_spec {
	char name[FERRYI_POOL_NAME_LEN];
	char path[FERRYI_POOL_PATH_LEN]; /* "": none */
	enum ferryi_pool_type type;
	uint64_t size_bytes;		      /* multiple of 2 MiB; of a pool: when it was opened */
	int numa_node;			      /* -1: any */
	uint64_t huge_page_bytes;	      /* 0: normal pages */
	const struct ferryi_backing *backing; /* NULL: to be chosen */
	bool reserve;			      /* taken from the system at start, not on first use */
	unsigned given;			      /* keys seen, to refuse one given twice */
};

/* "private", "fs_dax", ...: as in type=. */
const char *ferryi_pool_type_name(enum ferryi_pool_type type);

void ferryi_pool_spec_init(struct ferryi_pool_spec *spec);
/* One key=value. 0 or -EINVAL with one line in err. */
int ferryi_pool_spec_set(struct ferryi_pool_spec *spec, const char *key, const char *value, char *err,
			 size_t err_len);
/* "name=NAME,size=4G,...", or one key at a time by _set and then _check. 0 or -EINVAL with one line in err.
 */
int ferryi_pool_spec_parse(struct ferryi_pool_spec *spec, const char *text, char *err, size_t err_len);
int ferryi_pool_spec_check(const struct ferryi_pool_spec *spec, char *err, size_t err_len);
/*
 * Picks the backing where none was given, and refuses what cannot be had:
 * local_served: the same-host row is served; local_named: the operator asked
 * for it. 0, -EINVAL or -ENXIO (memory that this machine has not) with one line in err.
 */
int ferryi_pool_spec_resolve(struct ferryi_pool_spec *spec, bool local_served, bool local_named, char *err,
			     size_t err_len);
/*
 * Whether the memory would fit beside `taken_bytes` that other pools will take.
 * 0 or -ENOMEM, with the bytes that would fit in err; what is wrong with a path.
 */
int ferryi_pool_spec_fits(const struct ferryi_pool_spec *spec, uint64_t taken_bytes, char *err,
			  size_t err_len);

/* ---- a pool ---- */

/*
 * Takes the memory (reserve=yes: populates it, which may last) and starts the
 * scrubber. ASSUMPTION: spec was checked and resolved.
 * Returns 0, -ENOMEM, or another errno, with one line in err.
 */
int ferryi_pool_open(const struct ferryi_pool_spec *spec, struct ferryi_pool **out, char *err,
		     size_t err_len);
/* Every extent must have been given back. Joins the scrubber. NULL allowed; nulls *pool. */
void ferryi_pool_close(struct ferryi_pool **pool);

const struct ferryi_pool_spec *ferryi_pool_spec(const struct ferryi_pool *pool);
uint64_t ferryi_pool_size(struct ferryi_pool *pool); /* bytes, now */
/*
 * Memory is added at the end, or taken away from there: what is free of it, at
 * once; what is being zeroed is waited for until the deadline.
 * 0; -EBUSY (leased memory is beyond to_bytes: nothing changes), -ENOMEM, or
 * another errno, with one line in err.
 * ASSUMPTION: to_bytes is a multiple of 2 MiB, not 0; one resize of a pool at a time.
 * Context: blocks; not the control thread.
 */
int ferryi_pool_resize(struct ferryi_pool *pool, uint64_t to_bytes, uint64_t deadline_ns, char *err,
		       size_t err_len);
const char *ferryi_pool_backing_name(const struct ferryi_pool *pool);
bool ferryi_pool_gives_fd(const struct ferryi_pool *pool); /* extents have a memfd */

/* Who is charged for lent memory until it is given back; and the next in the chain likewise. */
struct ferryi_payer {
	struct ferryi_payer *next;
	_Atomic uint64_t bytes; /* atomic: any thread adds, the pool's threads take off */
};

/* Lent memory. Owned by whoever took it until it is given back; then the pool's. */
struct ferryi_pool_extent {
	struct ferryi_pool_extent *next;
	uint64_t pool_off; /* bytes from the pool's start */
	struct ferryi_memory memory;
	struct ferryi_memory saved; /* ferryi_pool_save: where its content is, or all 0 */
	struct ferryi_payer *payer; /* NULL: nobody. Set by who has taken it; kept memory has it still */
	bool failed;		    /* part of it has; set by who has taken it, before it is given back */
};

/*
 * Takes size_bytes in at most max_extents extents, all or nothing, in a list.
 * Waits up to deadline_ns for the scrubber where that would make enough free.
 * Context: blocks; not the control thread.
 * Returns 0, -ENOMEM (*free_bytes says how much is free), -E2BIG (more than
 * max_extents), or what the backing met. *list is NULL on failure.
 */
int ferryi_pool_take(struct ferryi_pool *pool, uint64_t size_bytes, unsigned max_extents,
		     uint64_t deadline_ns, struct ferryi_pool_extent **list, unsigned *count,
		     uint64_t *free_bytes);
/* Hands a list to the scrubber. ASSUMPTION: no key names this memory any more. Does not block. */
void ferryi_pool_give_back(struct ferryi_pool *pool, struct ferryi_pool_extent *list);
/*
 * The page at addr has failed (mce.h). What is free there is replaced, or taken
 * out of use; what is lent is for its lessee, who marks his extent.
 * Context: any thread; does not block.
 */
void ferryi_pool_failed(struct ferryi_pool *pool, uintptr_t addr);

/*
 * ---- leases with a name ----
 *
 * What they hold stays when nobody has it: of a file (fs_dax) for good, also
 * over the server's end; of other pools in memory, for a time. A hold is one
 * session's at a time. Memory that a name has is neither free nor given back; it
 * counts as leased. A name of which nothing is kept does not exist.
 */

/* The extent costs nobody anything any more. For the pool's own use, and for who charged it in vain. */
void ferryi_pool_refund(struct ferryi_pool_extent *extent);
/* Bytes that leases with a name of that scope (see users.h) have for good, and nobody holds. Any thread. */
uint64_t ferryi_pool_booked(const struct ferryi_pool *pool, const char *scope);
bool ferryi_pool_keeps_for_good(const struct ferryi_pool *pool);
/*
 * Takes the name for the caller, with what it has, in order; NULL for a new
 * one. Until _keep or _forget.
 * -EBUSY (somebody has it), -EDQUOT (too many names), -ENOMEM.
 * Context: as ferryi_pool_take, for all of these.
 */
int ferryi_pool_hold(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent **list,
		     unsigned *count);
/*
 * From now on the name has these extents, which the caller has taken, and no
 * other: those that it had before are the caller's to give back. 0 once that is
 * on disk (of a file), or negative errno with nothing changed.
 */
int ferryi_pool_record(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent *const *extents,
		       size_t n);
/*
 * Before the keys of an extent that is to be kept are revoked, on the same-host
 * row: where that would destroy the content, or where a client reaches it
 * without a key (a memfd that it has mapped), the content goes elsewhere. Not
 * where the server's transport may still write to it. 0, or negative errno: it is gone,
 * and the extent can only be given back. Blocks; copies.
 */
int ferryi_pool_save(struct ferryi_pool *pool, struct ferryi_pool_extent *extent);
/*
 * The caller lets go of the name; list is what it has, each extent saved. Unless
 * it is kept for good, it is given up at until_ns (ferryi_now_ns), by the pool.
 * ASSUMPTION: no key names this memory any more.
 */
void ferryi_pool_keep(struct ferryi_pool *pool, const char *name, struct ferryi_pool_extent *list,
		      uint64_t until_ns);
/* The name is gone, its extents are the caller's to give back. Or negative errno with nothing changed. */
int ferryi_pool_forget(struct ferryi_pool *pool, const char *name);

/*
 * ---- leases that may have an heir ----
 *
 * Known by a secret. What such a lease holds when it is lost waits for the heir
 * who stood by, for a time, in memory, whatever the pool's type. It counts as
 * kept, and as leased. heir.c; context as above.
 */

/* -EEXIST (the secret is in use), -ENOMEM. */
int ferryi_pool_bequeath(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN]);
/* The session `heir` (not 0) stands by. -ENOENT (no such lease), -EBUSY (another one does). */
int ferryi_pool_stand_by(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir);
/* Somebody does. */
bool ferryi_pool_has_heir(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN]);
/*
 * The lease has ended. list is what its heir gets, each extent saved; if there is
 * no heir, or none comes until until_ns, it is given back.
 * ASSUMPTION: no key names this memory any more.
 */
void ferryi_pool_leave(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
		       struct ferryi_pool_extent *list, uint64_t until_ns);
/* What waits is the caller's, once. -ENOENT (nothing does for this heir), -EBUSY (the lease has not ended). */
int ferryi_pool_claim(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir,
		      struct ferryi_pool_extent **list, unsigned *count);
/* It stands by no more; what waits for it is given back. */
void ferryi_pool_renounce(struct ferryi_pool *pool, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir);

struct ferryi_pool_usage {
	uint64_t size_bytes, free_bytes;
	uint64_t leased_bytes;	       /* kept ones included */
	uint64_t kept_bytes;	       /* leases with a name, or for an heir, that nobody has now */
	uint64_t scrub_bytes;	       /* given back, not zeroed yet */
	uint64_t scrubbed_bytes_total; /* counters since start */
	uint64_t scrub_ns_total;
};
void ferryi_pool_usage(struct ferryi_pool *pool, struct ferryi_pool_usage *out);

#endif
