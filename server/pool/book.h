/*
 * The leases with a name of one pool in a file: which parts of it are whose,
 * kept beside it in PATH.leases so that they outlive the server. The catalogue
 * is replaced as a whole (temporary file, fsync, rename) before a change is
 * told to anybody, and carries a checksum.
 * Context: any thread; one lock, held while the file is written.
 */
#ifndef FERRYI_POOL_BOOK_H
#define FERRYI_POOL_BOOK_H

#include <stddef.h>
#include <stdint.h>

#define FERRYI_BOOK_NAME_LEN   128 /* with its NUL; who may have it, a slash, and its name */
#define FERRYI_BOOK_LEASES_MAX 4096u

struct ferryi_book;

/* Part of a pool, inside one section; multiples of 2 MiB. */
struct ferryi_span {
	uint64_t off, len_bytes;
};

/*
 * Reads PATH.leases if it is there. 0; -EBADMSG (not a catalogue, or damaged,
 * or not of a pool of that size), -ENOMEM, or what the file system says, with
 * one line in err that begins with the file's name.
 */
int ferryi_book_open(const char *path, uint64_t pool_size, struct ferryi_book **out, char *err,
		     size_t err_len);
/* NULL allowed; nulls *book. */
void ferryi_book_close(struct ferryi_book **book);

/* Every span of every lease. Nothing else may be under way. */
void ferryi_book_each(struct ferryi_book *book, void (*visit)(void *ctx, const struct ferryi_span *span),
		      void *ctx);

/* Bytes of the names of that scope ("uid:1000/"; "": names without any) that nobody holds. */
uint64_t ferryi_book_unheld(struct ferryi_book *book, const char *scope);

/*
 * Takes the name for the caller, until _put or _erase: its spans, in order
 * (malloc'ed, the caller's), none for a new name.
 * -EBUSY (somebody has it), -EDQUOT (FERRYI_BOOK_LEASES_MAX are there), -ENOMEM.
 */
int ferryi_book_hold(struct ferryi_book *book, const char *name, struct ferryi_span **spans, size_t *nspans);
/* Lets go of it. A name that was never written is gone. */
void ferryi_book_put(struct ferryi_book *book, const char *name);

/*
 * What a name that the caller holds has from now on. 0 once it is on disk, or
 * negative errno with nothing changed.
 */
int ferryi_book_write(struct ferryi_book *book, const char *name, const struct ferryi_span *spans,
		      size_t nspans);
/* The name and its hold are gone. 0 once that is on disk, or negative errno with nothing changed. */
int ferryi_book_erase(struct ferryi_book *book, const char *name);

#endif
