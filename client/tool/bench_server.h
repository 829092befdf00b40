/*
 * A ferryd of the benchmark's own, on loopback, for any fabric (the library's
 * embedded server knows only `local`). It ends with this process, through a
 * pipe that it watches. Main thread.
 */
#ifndef FERRYI_BENCH_SERVER_H
#define FERRYI_BENCH_SERVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ferryi_bench_server {
	pid_t pid; /* -1: none */
	int pidfd;
	int lifeline; /* closed: it ends */
	char url[128];
	char dir[64]; /* private, holds the token */
	char token_file[96];
};

/* One pool of pool_bytes (a multiple of 2 MiB). 0, or a negative errno with one line in why. */
int ferryi_bench_server_start(const char *fabric, uint64_t pool_bytes, struct ferryi_bench_server *out,
			      char *why, size_t why_len);
/* Ends it and removes its files; nothing to do for pid -1. */
void ferryi_bench_server_stop(struct ferryi_bench_server *server);

#endif
