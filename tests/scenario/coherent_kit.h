/*
 * For the tests of coherent pools: a server with one, "hot", of 256 MiB, that
 * takes its leases back 100 ms after SIGTERM (the embedded one has none, and
 * lends its private pool), and memory that is put there.
 */
#ifndef FERRYT_COHERENT_KIT_H
#define FERRYT_COHERENT_KIT_H

#include "pager_kit.h"

#define FERRYT_COHERENT_PAGES 1200u /* three blocks of 2 MiB, the last one in part */
extern const char ferryt_me[]; /* the owner */

int ferryt_coherent_setup(void **state);
int ferryt_coherent_teardown(void **state);

struct ferry_pool_attr ferryt_coherent_attr(const void *owner, const struct ferry_pool_ops *ops);
struct ferry_pool *ferryt_coherent_attach_as(struct ferry *ferry, const void *owner, const struct ferry_pool_ops *ops);
/* Of ferryt_me, with no callbacks. */
struct ferry_pool *ferryt_coherent_attach(struct ferry *ferry);
uint64_t ferryt_used(struct ferry_pool *pool);
struct ferry_migrate_stats ferryt_no_stats(void);
/* All of it goes to the pool, with no page skipped. */
void ferryt_go(struct ferry_pool *pool, void *p, size_t pages);
uint64_t ferryt_coherent_pages(struct ferry *ferry);
/* FERRYT_COHERENT_PAGES of mapped memory, filled and in the pool. */
uint8_t *ferryt_fill_there(struct ferry *ferry, struct ferry_pool *pool, uint64_t seed);

/* A mirror's callback that does nothing. */
int ferryt_ignore(struct ferry_mirror *mirror, const struct ferry_update *update);
/* Writes the byte at p anew: 0, or the signal that this raised. */
int ferryt_write_signal(uint8_t *p);
/* The device page of the page at p, by every way to ask; dies if it is not in a coherent pool, or a fault moves it. */
uint64_t ferryt_pfn_at(struct ferry *ferry, const void *owner, const void *p);

#endif
