/*
 * For the tests of the public API: a ferryd with a large pool, bodies that run
 * in a forked child each (so that they may leave the library in any state),
 * expected SIGBUS, pages of checkable data. Bodies use the CHECK macros, which
 * print and end the child; cmocka's asserts belong to the parent.
 */
#ifndef FERRYT_PAGER_KIT_H
#define FERRYT_PAGER_KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "control_child.h"
#include "ferry.h"

#define FERRYT_PAGE	((size_t)FERRY_PAGE_SIZE)
#define FERRYT_MIB	((size_t)1 << 20)
#define FERRYT_BIG_POOL (640 * FERRYT_MIB) /* "big"; "test" has 64 MiB */
#define FERRYT_BUDGET	(8 * FERRYT_MIB)
#define FERRYT_BODY_MS	240000

/* ---- checks of a body ---- */

_Noreturn void ferryt_die(const char *file, int line, const char *what);
void ferryt_check_int(const char *file, int line, const char *what, long long got, long long want);
/* The call failed with `want` and left one line that contains `word`. */
void ferryt_check_fails(const char *file, int line, const char *what, long long got, long long want,
			const char *word);

#define CHECK(cond) ((cond) ? (void)0 : ferryt_die(__FILE__, __LINE__, #cond))
#define CHECK_INT(call, want) \
	ferryt_check_int(__FILE__, __LINE__, #call, (long long)(call), (long long)(want))
#define CHECK_FAILS(call, want, word) \
	ferryt_check_fails(__FILE__, __LINE__, #call, (long long)(call), (long long)(want), word)

/* ---- the parent ---- */

/* 0, or 77 after it has printed why this kernel or user cannot run the tests. */
int ferryt_needs_uffd(void);
/* Starts the server for the row ("local", "tcp"; "embedded" has none) and writes its token to a file. */
void ferryt_server_start(const char *row);
/* The same with other options than --pool name=big,... */
void ferryt_server_start_with(const char *row, const char *const *args);
void ferryt_server_end(void);
struct ferryt_child *ferryt_server(void);
/* "tcp", ... as given to ferryt_server_start. */
const char *ferryt_row(void);
const char *ferryt_server_url(void);
const char *ferryt_token_file(void);

#define NOBODY 65534
/* This process goes on without any privilege, but that it may signal the server. */
void ferryt_become_nobody(void);

/*
 * Runs body in a forked child (as nobody, with FERRYT_AS_NOBODY in the
 * environment): its exit status, 128 + signal, or -1 when it was not done within FERRYT_BODY_MS.
 */
int ferryt_in_child(void (*body)(void));
#define RUN(body) assert_int_equal(ferryt_in_child(body), 0)
/* Waits for a child of the caller: as ferryt_in_child's result. */
int ferryt_wait_child(pid_t pid, int timeout_ms);

/* ---- in the child ---- */

/* Configuration of the row: pool "big" (or the embedded server's), this budget; mode: FERRYT_MODE in the environment. */
struct ferry_config ferryt_config(size_t budget);
struct ferry *ferryt_open(size_t budget);
/* The figures, once they have come to rest. */
struct ferry_stats ferryt_stats(struct ferry *ferry);
uint8_t *ferryt_mmap(struct ferry *ferry, size_t len);

/* Page i of p gets the data of (seed, i). */
void ferryt_fill(void *p, size_t pages, uint64_t seed);
void ferryt_fill_page(void *page, uint64_t seed, size_t i);
/* Is this word k of a page of the data of (some seed, i)? *seed: that. Seeds differ in FERRYT_SEED_MASK. */
bool ferryt_is_word(uint64_t word, size_t i, size_t k, uint64_t *seed);
#define FERRYT_SEED_MASK 0xffffffffULL
/* Dies at the first difference. first: number of the first page. */
void ferryt_verify(const void *p, size_t first, size_t pages, uint64_t seed);
void ferryt_verify_zero(const void *p, size_t pages);

/* Fills, and has every page moved out; dies unless they are. */
void ferryt_fill_away(struct ferry *ferry, void *p, size_t pages, uint64_t seed);
/* Pages of the range that are present in this process's page table. */
size_t ferryt_present(const void *p, size_t pages);

/* Reads a byte: 0 and *out, or the signal that this raised (SIGBUS, SIGSEGV). */
int ferryt_touch(const void *p, uint8_t *out);

#endif
