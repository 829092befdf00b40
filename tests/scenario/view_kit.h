/*
 * For the tests of views: an exporter and its readers are processes of their own, with one ferryd between them, which keep
 * in step by a page of shared memory. Each has one mirror at most, which does nothing when it is told of a change.
 */
#ifndef FERRYT_VIEW_KIT_H
#define FERRYT_VIEW_KIT_H

#include <stdatomic.h>

#include "pager_kit.h"

#define FERRYT_VIEW_NAME  "job-7.heat"
#define FERRYT_VIEW_PAGES 64u
#define FERRYT_VIEW_AWAY  32u /* of them, that are in the pool */
#define FERRYT_VIEW_LEN	  (FERRYT_VIEW_PAGES * FERRYT_PAGE)
#define FERRYT_BIG_PAGES  4096u /* 16 MiB: twice the budget */
#define FERRYT_AWAIT_MS	  120000

/* Zero when a test begins. */
extern struct ferryt_shared {
	_Atomic int stage; /* what the exporter, or the reader, has come to */
	_Atomic uintptr_t base;
	_Atomic uintptr_t other;
	_Atomic bool stop;
	_Atomic uint64_t reads;
	_Atomic unsigned readers; /* that have opened their view */
	_Atomic uint32_t begun[FERRYT_BIG_PAGES], done[FERRYT_BIG_PAGES]; /* generations of each page */
} *ferryt_shared;

extern const struct ferry_mirror_ops ferryt_quiet;
extern struct ferry_mirror ferryt_mirror;

/* ---- the parent ---- */

/* Starts the server for argv[1], runs the tests that argv[2] (may be absent) lets through, ends it. main's result. */
#define FERRYT_VIEW_MAIN(argc, argv, tests) ferryt_view_main(argc, argv, tests, sizeof(tests) / sizeof((tests)[0]))
struct CMUnitTest;
int ferryt_view_main(int argc, char **argv, const struct CMUnitTest *tests, size_t ntests);
void ferryt_start_over(void);
pid_t ferryt_spawn(void (*body)(void));
/* From the start, and asserts that both end well. */
void ferryt_run_both(void (*exporter)(void), void (*reader)(void));

/* ---- in a process ---- */

void ferryt_reach(int stage);
/* Dies after FERRYT_AWAIT_MS. */
void ferryt_await(int stage);
/* Registers and exports ferryt_mirror. */
void ferryt_export(struct ferry *ferry, unsigned perms);
struct ferry_mirror_view *ferryt_open_view(struct ferry *ferry);
/* May the row's pool be read by a view itself? */
bool ferryt_one_sided(void);
/* The exporter's. */
void ferryt_end(struct ferry *ferry);

#endif
