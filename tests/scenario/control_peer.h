/*
 * A control server of the tests' own, for what ferryd never does: one
 * connection at a time, served by a script in a thread. Its waits end when the
 * client goes, when the test stops it, or after WAIT_MS.
 */
#ifndef FERRYT_CONTROL_PEER_H
#define FERRYT_CONTROL_PEER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "control_client.h"
#include "fabric.h"
#include "proto.h"

struct ferryt_peer;

/* Runs once for each connection; returning closes it. */
typedef void (*ferryt_script)(struct ferryt_peer *peer, void *ctx);

/* What the server says of itself. */
struct ferryt_terms {
	uint32_t version; /* 0: 1 */
	uint32_t keepalive_ms, timeout_ms;
	bool no_auth;
	bool wrong_mac;
	const char *fabrics[4];
};

struct ferryt_peer {
	struct ferryt_terms terms;
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
	char url[64];
	/* the thread's */
	ferryt_script script;
	void *ctx;
	int listen_fd, fd, stop_fd;
	pthread_t thread;
	/* memory to lend, once ferryt_peer_lend was called */
	struct ferryi_listener *listener;
	struct ferryi_tenant *tenant;
	struct ferryi_region *region;
	uint8_t *memory;
	size_t memory_len;
	int memory_fd;
	uint8_t data_token[FERRYI_TOKEN_LEN];
};

void ferryt_peer_start(struct ferryt_peer *peer, ferryt_script script, void *ctx);
void ferryt_peer_stop(struct ferryt_peer *peer);

/* Prepares one region of len bytes over a row. */
void ferryt_peer_lend(struct ferryt_peer *peer, const char *row, size_t len);

/* Script side. NULL: the client is gone, or the test stops. */
Farferry__Envelope *ferryt_peer_recv(struct ferryt_peer *peer);
/* Skips keep-alives, which it answers. */
Farferry__Envelope *ferryt_peer_next(struct ferryt_peer *peer);
/* The next message is this one. */
bool ferryt_peer_expect(struct ferryt_peer *peer, Farferry__Envelope__BodyCase body, uint64_t *request_id);
void ferryt_peer_send(struct ferryt_peer *peer, const Farferry__Envelope *envelope);
void ferryt_peer_raw(struct ferryt_peer *peer, const void *bytes, size_t len);
void ferryt_peer_error(struct ferryt_peer *peer, uint64_t request_id, Farferry__Code code, const char *text);
void ferryt_peer_done(struct ferryt_peer *peer, uint64_t request_id);
void ferryt_peer_drain(struct ferryt_peer *peer);
void ferryt_peer_revoke(struct ferryt_peer *peer, uint64_t lease_id);
/* One page of the extent has failed. */
void ferryt_peer_failed(struct ferryt_peer *peer, uint64_t lease_id, uint64_t extent_id, uint64_t off);
/* len bytes of the lent region as lease 7, extent 1, its key off by key_error. */
void ferryt_peer_grant(struct ferryt_peer *peer, uint64_t request_id, uint64_t len, uint64_t key_error);
/* Hello and Auth by the terms; false when the client left. */
bool ferryt_peer_welcome(struct ferryt_peer *peer);
/* Answers keep-alives (if so told) until the client goes. */
void ferryt_peer_idle(struct ferryt_peer *peer, bool answer);

#endif
