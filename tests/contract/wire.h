/*
 * What the client half of a contract test asks of its server half. One fixed
 * struct each way over a pipe between two copies of the same program, so host
 * layout is fine. The fake row runs both halves in one process and passes the
 * same structs by call.
 */
#ifndef FERRYT_WIRE_H
#define FERRYT_WIRE_H

#include <stdint.h>

#include "fabric.h"

enum ferryt_cmd {
	FERRYT_LISTEN, /* arg[0]: spin_us; text: host */
	FERRYT_SELF_TEST,
	FERRYT_TENANT_OPEN,   /* token -> val[0]: tenant, text: address */
	FERRYT_TENANT_CLOSE,  /* tenant */
	FERRYT_REGION_OPEN,   /* tenant; arg: len_bytes, access, seed -> val[0]: region, remote */
	FERRYT_REGION_REVOKE, /* region */
	FERRYT_REGION_REUSE,  /* region; arg: seed. Revoke, then at once fill the memory with another pattern
			       */
	FERRYT_REGION_DROP,   /* region: revoke if need be, free the memory */
	FERRYT_REGION_CHECK,  /* region; arg: off, len, seed -> val[0]: first byte that differs, or len */
	FERRYT_REGION_FILL,   /* region; arg: off, len, seed */
	FERRYT_STATS, /* val: connections total, refused total, connections now, registrations, revocations */
	FERRYT_CPU, /* val[0]: microseconds of CPU that this process used so far; val[1]: its open descriptors
		     */
	FERRYT_EXIT,
};

struct ferryt_req {
	uint32_t cmd;
	uint32_t pad;
	uint64_t id; /* tenant or region */
	uint64_t arg[4];
	uint8_t token[FERRYI_TOKEN_LEN];
	char text[FERRYI_FABRIC_ADDR_LEN];
};

struct ferryt_rep {
	int32_t status; /* 0 or negative errno */
	uint32_t pad;
	uint64_t val[6];
	struct ferryi_remote remote;
	char text[FERRYI_FABRIC_ADDR_LEN];
};

/* The byte at `index` of a pattern; two seeds differ nearly everywhere. */
static inline uint8_t ferryt_pattern(uint64_t seed, uint64_t index)
{
	uint64_t x = (index >> 3) * 0x9e3779b97f4a7c15ULL + seed * 0xc2b2ae3d27d4eb4fULL;

	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 32;
	return (uint8_t)(x >> ((index & 7) * 8));
}

void ferryt_pattern_fill(void *buf, uint64_t seed, uint64_t first_index, uint64_t len_bytes);
/* Index (from 0) of the first byte that is not the pattern's, or len_bytes. */
uint64_t ferryt_pattern_check(const void *buf, uint64_t seed, uint64_t first_index, uint64_t len_bytes);

#endif
