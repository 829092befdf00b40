/*
 * The raw transport, as a yardstick: a session, a lease and a channel of its
 * own to a server, used from one thread that spins. No pager, no userfaultfd.
 */
#ifndef FERRYI_BENCH_RAW_H
#define FERRYI_BENCH_RAW_H

#include <stdint.h>

#include "control.h"
#include "tool.h"

#define FERRYI_RAW_LEASE ((uint64_t)32 << 20) /* bytes of the server's pool that the yardstick uses */

struct ferryi_raw;

/*
 * Connects, leases FERRYI_RAW_LEASE and writes all of it once, so that no first
 * touch is measured. token_file and pool may be NULL. 0 or a negative errno,
 * with one line in why.
 */
int ferryi_raw_open(const char *url, const char *token_file, const char *pool, struct ferryi_raw **out,
		    char *why, size_t why_len);
void ferryi_raw_close(struct ferryi_raw **raw);

/* The fabric in use, and the size and host:port of the server. */
const char *ferryi_raw_fabric(const struct ferryi_raw *raw);
const char *ferryi_raw_server(const struct ferryi_raw *raw);

/* count reads of 4 KiB at random places, one after another; latencies to samples. 0 or a negative errno. */
int ferryi_raw_latency(struct ferryi_raw *raw, unsigned count, uint64_t *random,
		       struct ferryi_samples *samples);

/* 64 KiB reads or writes, 16 outstanding, for about duration_ms: *out_mbps in 10^6 bytes a second. */
int ferryi_raw_stream(struct ferryi_raw *raw, enum ferryi_op_kind kind, uint64_t duration_ms,
		      double *out_mbps);

#endif
