/*
 * A real ferryd of the tests' own, on a free port of the loopback, which ends
 * with the test (its life line is a pipe of ours). Test thread only; failures
 * of the machinery itself end the test. FERRYT_LISTEN and FERRYT_FABRICS in the
 * environment: another address, other transports (the soft-RoCE tests).
 */
#ifndef FERRYT_CONTROL_CHILD_H
#define FERRYT_CONTROL_CHILD_H

#include <stdint.h>
#include <sys/types.h>

#include "proto.h"

struct ferryt_child {
	pid_t pid;
	int pidfd;
	int lifeline;
	char url[128]; /* without a fabric */
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
};

/* args: more options, NULL-terminated; at most 16. The pool is "test", of 64 MiB, over local and tcp. */
void ferryt_child_start(struct ferryt_child *child, const char *const *args);
/* One with the other's token: a client of both knows one. */
void ferryt_child_start_beside(struct ferryt_child *child, const struct ferryt_child *other);
void ferryt_child_start_beside_with(struct ferryt_child *child, const struct ferryt_child *other, const char *const *args);
/* One that wants no token. */
void ferryt_child_start_open(struct ferryt_child *child);
void ferryt_child_signal(struct ferryt_child *child, int sig);
/* SIGSTOP, and waits until every thread of it has stopped: kill() returns before the signal is taken. */
void ferryt_child_stop(struct ferryt_child *child);
/* Waits for its end and reaps it: the wait status, or -1 after FERRYT_WAIT_MS. */
int ferryt_child_wait(struct ferryt_child *child);
/* Kills and reaps it, if it is still there. */
void ferryt_child_end(struct ferryt_child *child);

#endif
