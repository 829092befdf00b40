/*
 * A server half as the client half holds it: a child process (the same program
 * with --serve) that can be killed and stopped, or, for the fake row, this
 * process. Test thread only. Failures of the machinery itself end the test.
 */
#ifndef FERRYT_NODE_H
#define FERRYT_NODE_H

#include <stdbool.h>
#include <sys/types.h>

#include "wire.h"

struct ferryt_server;

struct ferryt_node {
	const struct ferryi_fabric_row *row;
	pid_t pid; /* 0: in this process, or not running */
	int to, from;
	bool running, stopped;
	struct ferryt_server *server; /* fake row */
};

/* Where servers listen: FERRY_CONTRACT_HOST, else 127.0.0.1. */
const char *ferryt_host(void);

/* Starts it and opens its listener. 0 or negative errno. */
int ferryt_node_start(struct ferryt_node *node, const struct ferryi_fabric_row *row);
/* Asks it to exit and waits (a killed one is only reaped). */
void ferryt_node_end(struct ferryt_node *node);
/* One request; the reply's status. -EPIPE when the child is gone, -ETIMEDOUT when it does not answer. */
int ferryt_node_ask(struct ferryt_node *node, const struct ferryt_req *req, struct ferryt_rep *rep);

/* SIGKILL and its like; returns when it is dead. */
void ferryt_node_kill(struct ferryt_node *node);
/* SIGSTOP; returns when it is stopped. */
void ferryt_node_stop(struct ferryt_node *node);
void ferryt_node_cont(struct ferryt_node *node);

#endif
