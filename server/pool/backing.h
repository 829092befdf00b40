/*
 * Where a pool's memory comes from: one row and one file each. A row's handle
 * is its own; grant and scrub are called without the pool's lock, never twice
 * at once for overlapping extents, but by several threads.
 */
#ifndef FERRYI_POOL_BACKING_H
#define FERRYI_POOL_BACKING_H

#include "pool.h"

struct ferryi_backing {
	const char *name;
	bool gives_fd; /* extents have a memfd: the same-host row can serve them */
	/* Takes (and, reserve, populates) the memory. 0, or negative errno with one line in err and *handle
	 * untouched. */
	int (*open)(const struct ferryi_pool_spec *spec, void **handle, char *err, size_t err_len);
	void (*close)(void *handle);
	/*
	 * The pool has `to` bytes now and not `from`: takes, or gives to the system,
	 * what is between. 0, or negative errno with one line in err and nothing
	 * changed; a smaller size does not fail. Never twice at once; grant and scrub
	 * of extents below both go on meanwhile.
	 */
	int (*resize)(void *handle, const struct ferryi_pool_spec *spec, uint64_t from, uint64_t to,
		      char *err, size_t err_len);
	/* May hold what somebody left there: it is scrubbed before it is lent. NULL: never. */
	bool (*is_dirty)(const void *handle);
	/*
	 * pool_off and memory.len_bytes are set; fills the rest of memory, which reads
	 * as zeros. 0, or negative errno with memory.base still NULL.
	 */
	int (*grant)(void *handle, struct ferryi_pool_extent *extent);
	/*
	 * Takes the memory back and leaves it zero; pages of an extent that has failed
	 * are replaced. On failure it may be called again: the extent stays out of use
	 * until it succeeds, after -EHWPOISON for good. Slow; the scrubber's thread,
	 * which may leave it by a jump where failed memory is touched: no lock is held there.
	 */
	int (*scrub)(void *handle, struct ferryi_pool_extent *extent);
	/*
	 * As ferryi_pool_save: fills extent->saved, and takes the content away from memory; then, once no key
	 * names memory, it is what saved was. NULL, both: a revoked key is enough. save may fail, with the
	 * content lost.
	 */
	int (*save)(void *handle, struct ferryi_pool_extent *extent);
	void (*use_saved)(void *handle, struct ferryi_pool_extent *extent);
	/* Which byte of the pool is at that address, lent or not; false: none. NULL: what is not lent has no
	 * address. */
	bool (*find)(void *handle, uintptr_t addr, uint64_t *pool_off);
};

extern const struct ferryi_backing ferryi_backing_anon;
extern const struct ferryi_backing ferryi_backing_memfd;
extern const struct ferryi_backing ferryi_backing_file;

/* NULL when there is no such backing; names, for error lines, come from _at (NULL past the end). */
const struct ferryi_backing *ferryi_backing_find(const char *name);
const struct ferryi_backing *ferryi_backing_at(unsigned index);

/* What path= names is fit to be that pool, as far as can be told without taking it. 0 or negative errno with
 * one line in err. */
int ferryi_backing_file_check(const struct ferryi_pool_spec *spec, char *err, size_t err_len);

/* Binds [base, base + len) to a node (strictly); node -1: nothing. 0 or negative errno. */
int ferryi_backing_bind(void *base, size_t len_bytes, int numa_node);

/*
 * Calls work(ctx, i) once for each i in [0, n), in several threads: a large
 * pool is taken at the speed of the memory and not of one core. Returns the
 * first error (what was not begun by then is left out), or 0.
 */
int ferryi_backing_parallel(size_t n, int (*work)(void *ctx, size_t i), void *ctx);

#endif
