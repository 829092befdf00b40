/*
 * Checked arithmetic: every length and offset that crosses a boundary (peer,
 * user, kernel) goes through one of these. Pure functions.
 */
#ifndef FERRYI_BASE_ARITH_H
#define FERRYI_BASE_ARITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_PAGE_SHIFT       12
#define FERRYI_PAGE_SIZE        ((size_t)1 << FERRYI_PAGE_SHIFT)       /* 4 KiB */
#define FERRYI_SUBSECTION_SHIFT 21
#define FERRYI_SUBSECTION_SIZE  ((size_t)1 << FERRYI_SUBSECTION_SHIFT) /* 2 MiB: unit of lease */
#define FERRYI_SECTION_SHIFT    27
#define FERRYI_SECTION_SIZE     ((size_t)1 << FERRYI_SECTION_SHIFT)    /* 128 MiB */

/* [off, off + len) lies inside [0, size), with no overflow; len 0 is inside when off <= size. */
static inline bool ferryi_range_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

static inline bool ferryi_is_aligned(uint64_t value, uint64_t align)
{
	return (value & (align - 1)) == 0;
}

/* ASSUMPTION: align is a power of two and value + align does not overflow. */
static inline uint64_t ferryi_align_up(uint64_t value, uint64_t align)
{
	return (value + align - 1) & ~(align - 1);
}

static inline uint64_t ferryi_align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

static inline uint64_t ferryi_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t ferryi_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Narrow to 32 bits: 0, or -ERANGE and *out untouched. */
int ferryi_u32(uint64_t value, uint32_t *out);

/*
 * "4096", "64K", "2G", "1T" (binary multiples, one letter, either case) to
 * bytes. Returns 0, -EINVAL (not a number, unknown unit, trailing text) or
 * -ERANGE (does not fit 64 bits); *out_bytes is untouched on failure.
 */
int ferryi_parse_size(const char *text, uint64_t *out_bytes);

/* Bytes as the shortest exact or one-decimal text ("2G", "1.5M", "4K", "1000"); returns buf. buf of 16 suffices. */
const char *ferryi_format_size(uint64_t bytes, char *buf, size_t buf_len);

/* Decimal (or 0x hexadecimal) text to a number; 0, -EINVAL, -ERANGE. */
int ferryi_parse_u64(const char *text, uint64_t *out);

#endif
