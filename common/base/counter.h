/*
 * Counter tables: a struct of _Atomic uint64_t and a table that says what each
 * member is. `ferry stats`, the STATISTICS message and the man pages read the
 * table. Counters (c_) only grow; gauges (g_) go both ways.
 */
#ifndef FERRYI_BASE_COUNTER_H
#define FERRYI_BASE_COUNTER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum ferryi_counter_kind { FERRYI_COUNTER, FERRYI_GAUGE };

struct ferryi_counter_desc {
	const char *name; /* ends with its unit: "c_fault_total", "g_resident_bytes"; NULL ends the table */
	enum ferryi_counter_kind kind;
	size_t offset;
	const char *text;
};

typedef _Atomic uint64_t ferryi_counter_t;

static inline void ferryi_count(ferryi_counter_t *c, uint64_t n)
{
	atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static inline void ferryi_uncount(ferryi_counter_t *c, uint64_t n)
{
	atomic_fetch_sub_explicit(c, n, memory_order_relaxed);
}

static inline uint64_t ferryi_counter_read(const ferryi_counter_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

#endif
