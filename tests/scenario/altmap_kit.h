/*
 * What the tests of pools with a name and an altmap share: a server with "big"
 * and "test" (private) and "disk" (fs_dax, a file), what one process tells the
 * next, and the body whose pages the next one finds.
 */
#ifndef FERRYT_ALTMAP_KIT_H
#define FERRYT_ALTMAP_KIT_H

#include <stdatomic.h>

#include "pager_kit.h"

#define BUDGET	FERRY_BUDGET_MIN
#define PAGES	(10 * FERRYT_MIB / FERRYT_PAGE) /* more than twice the budget */
#define RESERVE 3
#define FREE	(1 + 4 * 12) /* descriptors of 12 sub-sections: 24 MiB */
#define NAME	"job-7"

struct ferryt_shared {
	uintptr_t va;  /* where the pages were */
	uintptr_t va2; /* where others are */
	uint64_t seed;
	_Atomic uint64_t ready;
	_Atomic uint64_t begun[PAGES]; /* version that a page was being given last */
};
extern struct ferryt_shared *shared;

/* Set back before each test. */
extern enum ferry_mem_type type;
extern const char *pool_name;
extern const char *timeout; /* of sessions; NULL: the server's default */

extern struct ferry_altmap altmap; /* of attach */

bool is_local(void);
struct ferry_pool_info info_of(struct ferry_pool *pool);
int try_attach(struct ferry *ferry, struct ferry_altmap *map, struct ferry_pool **pool);
/* Also when the server has not noticed yet that who had it has ended. */
int attach_when_free(struct ferry *ferry, struct ferry_altmap *map, struct ferry_pool **pool);
/* With RESERVE and FREE; dies unless it works. */
struct ferry_pool *attach(struct ferry *ferry);
/* Everything goes to the named pool from now on. */
void kill_first(struct ferry *ferry);
uint8_t *map_there(struct ferry *ferry, size_t pages);
struct ferry_recover_stats recover(struct ferry_pool *pool, uintptr_t old_va, void *addr, size_t pages, uint8_t *which);
long count_kept(struct ferry_pool *pool);
void expect_killed(void (*body)(void));

/* PAGES pages of seed 5, flushed, with drvdata; then it kills itself. */
void flushed_body(void);
uint64_t drvdata_of(size_t i);
/* A new name: nothing is kept. */
void nothing_body(void);

void start_server(const char *row, const char *keep);
int ferryt_altmap_setup(void **state);
int ferryt_altmap_teardown(void **state);
int ferryt_altmap_make_dir(void **state);
int ferryt_altmap_remove_dir(void **state);

#define ROW_TEST(f) cmocka_unit_test_prestate_setup_teardown(f, ferryt_altmap_setup, ferryt_altmap_teardown, row)

#endif
