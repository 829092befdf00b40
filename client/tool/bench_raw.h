/*
 * The raw transport, as a yardstick: a session, a lease and a channel of its
 * own to a server, used from one thread that spins. No pager, no userfaultfd.
 */
#ifndef FERRYI_BENCH_RAW_H
#define FERRYI_BENCH_RAW_H

#include <stdint.h>

#include "control.h"
#include "tool.h"

/* Bytes of the server's pool that the yardstick uses at most: several times what a CPU's caches hold. */
#define FERRYI_RAW_MAX ((uint64_t)256 << 20)

struct ferryi_raw;

/*
 * Connects, leases len_bytes (multiple of 2 MiB) and writes all of it once, so
 * that no first touch is measured. token_file and pool may be NULL. 0 or a
 * negative errno, with one line in why.
 */
int ferryi_raw_open(const char *url, const char *token_file, const char *pool, uint64_t len_bytes,
		    struct ferryi_raw **out, char *why, size_t why_len);
void ferryi_raw_close(struct ferryi_raw **raw);

/* The fabric in use, the host:port of the server, and the bytes of it that are used. */
const char *ferryi_raw_fabric(const struct ferryi_raw *raw);
const char *ferryi_raw_server(const struct ferryi_raw *raw);
uint64_t ferryi_raw_len_bytes(const struct ferryi_raw *raw);

/* count reads of 4 KiB at random places, one after another; latencies to samples. 0 or a negative errno. */
int ferryi_raw_latency(struct ferryi_raw *raw, unsigned count, uint64_t *random,
		       struct ferryi_samples *samples);

/* 64 KiB reads or writes, 16 outstanding, for about duration_ms: *out_mbps in 10^6 bytes a second. */
int ferryi_raw_stream(struct ferryi_raw *raw, enum ferryi_op_kind kind, uint64_t duration_ms,
		      double *out_mbps);

#endif
