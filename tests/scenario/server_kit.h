/*
 * What the server's scenario tests share: a real ferryd as a child process, and
 * a bare client of the control protocol and of one-sided data, on proto.h and
 * fabric.h alone. Every wait is bounded; asserts end the test.
 */
#ifndef FERRYT_SERVER_KIT_H
#define FERRYT_SERVER_KIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "fabric.h"
#include "proto.h"

#define FERRYT_WAIT_MS	60000 /* bound of every wait that is expected to end soon */
#define FERRYT_TIMEOUT	"600s" /* of sessions, where the test names none */
#define FERRYT_TIMEOUT_MS 600000
#define FERRYT_ARGS_MAX 32

/* ---- the server process ---- */

struct ferryt_server {
	pid_t pid;
	int pid_fd, lifeline_fd, words_fd; /* words: a pipe from its stderr */
	char words[65536];		   /* read from it so far */
	size_t words_len;
	char host[64];
	uint16_t port;
	uint8_t token[FERRYI_AUTH_TOKEN_LEN];
};

/*
 * Starts ferryd with these arguments (NULL ends) and --listen (where they have none), --token-fd
 * (but with --no-auth), --ready-fd, --lifeline-fd of the kit's own; waits until it serves.
 */
void ferryt_server_start(struct ferryt_server *server, const char *const *args);
/* Waits for its end; the wait status, or -1 when it did not end in time. */
int ferryt_server_wait(struct ferryt_server *server);
/* Kills it if it runs still; prints what it said when the test failed. */
void ferryt_server_end(struct ferryt_server *server);
/* What it wrote to stderr so far. */
const char *ferryt_server_words(struct ferryt_server *server);
/* Waits until its stderr holds the text. */
bool ferryt_server_says(struct ferryt_server *server, const char *text);

/*
 * Runs ferryd to its end with exactly these arguments. Returns its exit status
 * (-1: killed, or still running after the wait); out and err get what it wrote.
 */
int ferryt_server_run(const char *const *args, char *out, size_t out_size, char *err, size_t err_size);

/* ---- a control connection ---- */

struct ferryt_conn {
	int fd;
	uint64_t next_id, epoch, session_id;
	uint32_t timeout_ms, keepalive_ms;
	uint8_t *input;
	size_t input_len, input_size;
};

void ferryt_conn_open(struct ferryt_conn *conn, const struct ferryt_server *server);
void ferryt_conn_close(struct ferryt_conn *conn);
void ferryt_conn_raw(struct ferryt_conn *conn, const void *bytes, size_t len);
/* Sets the request id and sends. */
uint64_t ferryt_conn_send(struct ferryt_conn *conn, Farferry__Envelope *envelope);
/* The next message; NULL: the server closed the connection. */
Farferry__Envelope *ferryt_conn_recv(struct ferryt_conn *conn);
/* Sends and waits for the answer to it, passing over notices. NULL: closed. */
Farferry__Envelope *ferryt_conn_call(struct ferryt_conn *conn, Farferry__Envelope *envelope);
/* The next message is an error of this code whose text holds `text`. */
void ferryt_conn_expect_error(struct ferryt_conn *conn, Farferry__Code code, const char *text);
/* The server closes the connection, whatever comes before. */
void ferryt_conn_expect_end(struct ferryt_conn *conn);

Farferry__Envelope *ferryt_conn_hello(struct ferryt_conn *conn, uint32_t version_min, uint32_t version_max);
/* Hello and auth with the given token; the answer to auth. NULL: closed. */
Farferry__Envelope *ferryt_conn_auth(struct ferryt_conn *conn, const uint8_t token[FERRYI_AUTH_TOKEN_LEN]);
/* Opens, says hello, authenticates; asserts that it worked. */
void ferryt_conn_login(struct ferryt_conn *conn, const struct ferryt_server *server);

/* ---- leases ---- */

#define FERRYT_EXTENTS_MAX 64

struct ferryt_extent {
	uint64_t id, pool_off;
	struct ferryi_remote remote;
};

struct ferryt_lease {
	uint64_t id, epoch, pool_size;
	char fabric[FERRYI_MAX_NAME + 1], addr[FERRYI_FABRIC_ADDR_LEN];
	uint8_t token[FERRYI_TOKEN_LEN];
	struct ferryt_extent extents[FERRYT_EXTENTS_MAX];
	unsigned nextents;
};

/* 0 with *lease filled (grow adds to it), or the code of the error; text (may be NULL) gets its sentence. */
Farferry__Code ferryt_attach(struct ferryt_conn *conn, const char *pool, const char *fabric,
			     uint64_t size_bytes, struct ferryt_lease *lease, char *text, size_t text_size);
Farferry__Code ferryt_grow(struct ferryt_conn *conn, struct ferryt_lease *lease, uint64_t size_bytes,
			   char *text, size_t text_size);
Farferry__Code ferryt_shrink(struct ferryt_conn *conn, struct ferryt_lease *lease, unsigned extent);
Farferry__Code ferryt_detach(struct ferryt_conn *conn, uint64_t lease_id, uint64_t epoch);
void ferryt_pool_info(struct ferryt_conn *conn, unsigned index, Farferry__PoolInfo *out);
/* Asks until this many bytes of the first pool are free; false: not in time. */
bool ferryt_wait_free(struct ferryt_conn *conn, uint64_t free_bytes);
uint64_t ferryt_stat(struct ferryt_conn *conn, const char *name);
bool ferryt_keepalive(struct ferryt_conn *conn);

/* ---- data ---- */

#define FERRYT_BUFFER_LEN ((size_t)2 << 20)

struct ferryt_data {
	struct ferryi_peer *peer;
	struct ferryi_channel *channel;
	uint8_t *buffer; /* FERRYT_BUFFER_LEN, registered */
};

void ferryt_data_open(struct ferryt_data *data, const struct ferryt_server *server,
		      const struct ferryt_lease *lease);
void ferryt_data_close(struct ferryt_data *data);
/* A new channel: where a key was revoked, the row may have closed the old one (fabric.h,
 * ferryi_region_revoke). */
void ferryt_data_reconnect(struct ferryt_data *data);
/* Imports every extent of the lease. */
void ferryt_data_import(struct ferryt_data *data, const struct ferryt_lease *lease);
/* One operation between the buffer's start and the region; its status. Opens a new channel where the last one
 * died. */
int ferryt_data_move(struct ferryt_data *data, enum ferryi_op_kind kind, const struct ferryi_remote *remote,
		     uint64_t off, size_t len);
/* Fills, or checks, every byte of every extent. */
void ferryt_data_fill(struct ferryt_data *data, const struct ferryt_lease *lease, uint8_t seed);
void ferryt_data_expect(struct ferryt_data *data, const struct ferryt_lease *lease, uint8_t seed);
void ferryt_data_expect_zero(struct ferryt_data *data, const struct ferryt_lease *lease);

#endif
