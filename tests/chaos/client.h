/*
 * A client process that checks every byte it reads: pages are a function of
 * (client, page, version), and the versions are kept in plain memory.
 */
#ifndef FERRYT_CHAOS_CLIENT_H
#define FERRYT_CHAOS_CLIENT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Shared with the killer. Atomics: written by the client, but for `stop`, and worst_ns, which the killer
 * takes back. */
struct ferryt_board {
	_Atomic bool is_ready;	     /* it has filled its memory */
	_Atomic bool stop;	     /* check all that there is, and end */
	_Atomic uint64_t nr_checked; /* pages */
	_Atomic uint64_t began_ns;   /* of the access under way, CLOCK_MONOTONIC */
	_Atomic uint64_t worst_ns;   /* longest access that has ended */
	_Atomic uint64_t copies_missing, copies_lost, copies_rebuilt; /* ferry_stats, every 10 ms */
};

struct ferryt_client_attr {
	const char *servers, *token_file;
	uint64_t size_bytes, budget_bytes;
	unsigned replicas;
	unsigned long long seed;
	struct ferryt_board *board;
};

/* Runs until board->stop: 0; 1: wrong data, with a line; 2: the library failed, with a line. In a process of
 * its own. */
int ferryt_client_main(const struct ferryt_client_attr *attr);

#endif
