/*
 * Looking without touching: what the pager knows of a page, and what the
 * kernel's page table has of it. Any thread; does not block but for the area
 * table's lock, faults nothing.
 */
#ifndef FERRYI_PAGER_PEEK_H
#define FERRYI_PAGER_PEEK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pager.h"

enum ferryi_peek_place {
	FERRYI_PEEK_UNMANAGED,
	FERRYI_PEEK_NOWHERE, /* never touched, or dropped: zeros */
	FERRYI_PEEK_RAM,     /* the application may have dropped it unseen: the kernel's page table decides */
	FERRYI_PEEK_POOL,
	FERRYI_PEEK_COHERENT, /* in a pool, and mapped there */
	FERRYI_PEEK_MOVING,  /* between the two at this moment */
	FERRYI_PEEK_LOST,
};

struct ferryi_peek {
	enum ferryi_peek_place place;
	uint64_t pfn;      /* POOL, COHERENT */
	unsigned order;    /* POOL: of the folio that it is in */
	const void *owner; /* POOL, COHERENT: of the pool */
};

/* A page of a coherent pool. Lock-free. */
bool ferryi_pager_is_coherent_pfn(struct ferryi_pager *pager, uint64_t pfn);
void ferryi_pager_peek(struct ferryi_pager *pager, uintptr_t va, struct ferryi_peek *peek);

/* What the kernel's page table has: bits of one page. */
#define FERRYI_SCAN_PRESENT 1u
#define FERRYI_SCAN_ZERO    2u /* the shared zero page */
#define FERRYI_SCAN_HUGE    4u /* part of a huge page */

/* nr pages from start. 0, -EACCES (/proc/self/pagemap may not be read), negative errno. */
int ferryi_pager_scan(struct ferryi_pager *pager, uintptr_t start, size_t nr, uint8_t *bits);

#endif
