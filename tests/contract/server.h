/*
 * Server half of the contract suite: one listener, its tenants and regions,
 * driven by ferryt_req. Single-threaded; runs in a child process (or, for the
 * fake row, in the test itself).
 */
#ifndef FERRYT_SERVER_H
#define FERRYT_SERVER_H

#include "wire.h"

struct ferryt_server;

struct ferryt_server *ferryt_server_create(const struct ferryi_fabric_row *row);
void ferryt_server_destroy(struct ferryt_server **server);
void ferryt_server_exec(struct ferryt_server *server, const struct ferryt_req *req, struct ferryt_rep *rep);

/* Child's main loop: requests on descriptor in, replies on descriptor out; returns the exit status. */
int ferryt_serve(const char *row_name, int in, int out);

#endif
