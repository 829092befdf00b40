/*
 * Fuzz target: a whole control connection. The input is a script that is fed
 * to one server session, with pools of this process and the fake fabric, no
 * sockets and no worker threads:
 *   byte 0      bit 0: a token is required; bit 1: the rest is raw bytes
 *   byte 1      seed of the sizes of the pieces in which the stream arrives
 *   then        raw bytes, or records of a 2-byte length and a payload, each
 *               made a frame with a right header
 * Whatever comes in, what goes out is frames that a client accepts, and once
 * the session is closed the server holds nothing for it.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "pool.h"
#include "replay.h"
#include "session.h"

#define STREAM_MAX (1u << 20)

static struct ferryi_hub hub;

/* What one run saw. */
struct seen {
	unsigned frames;
	bool authenticated, anonymous;
};

static void start(void)
{
	static const struct ferryi_hub_limits limits = {
		.sessions = 4,
		.unauthenticated = 4,
		.leases = 4,
		.extents = 16,
		.exports = 2,
		.views = 2,
		.output_bytes = 1 << 20,
		.handshake_ms = 10000,
		.keepalive_ms = 1000,
		.timeout_ms = 5000,
		.keep_ms = 1,
	};
	const struct ferryi_listener_attr attr = {
		.row = ferryi_fabric_find("fake"), .host = "", .label = "fuzz"};
	static const char *const specs[] = {"name=hot,size=16M", "name=cold,size=4M"};
	char err[256] = "";

	ferryi_log_set_level(FERRYI_LOG_ERROR);
	FERRYT_MUST(ferryi_hub_init(&hub, &limits) == 0);
	FERRYT_MUST(ferryi_jobs_create(0, &hub.jobs) == 0);
	for (size_t i = 0; i < 2; i++) {
		struct ferryi_pool_spec spec;

		FERRYT_MUST(ferryi_pool_spec_parse(&spec, specs[i], err, sizeof(err)) == 0);
		FERRYT_MUST(ferryi_pool_spec_resolve(&spec, false, false, err, sizeof(err)) == 0);
		FERRYT_MUST(ferryi_pool_open(&spec, &hub.pools[hub.npools++], err, sizeof(err)) == 0);
	}
	hub.fabrics[0].row = attr.row;
	FERRYT_MUST(ferryi_listener_open(&attr, &hub.fabrics[0].listener) == 0);
	hub.nfabrics = 1;
}

static void on_output(void *ctx, const uint8_t *bytes, size_t len)
{
	struct seen *seen = ctx;
	Farferry__Envelope *envelope = NULL;
	char why[256] = "";

	FERRYT_MUST(ferryi_frame_peek(bytes, len) == (long)len);
	if (ferryi_frame_decode(FERRYI_ROLE_CLIENT, bytes, len, &envelope, why, sizeof(why)) != 0) {
		fprintf(stderr, "the server sent what a client refuses: %s\n", why);
		abort();
	}
	/* Before authentication nothing is told but the handshake's own answers. */
	FERRYT_MUST(seen->authenticated || envelope->body_case == FARFERRY__ENVELOPE__BODY_HELLO_REPLY ||
		    envelope->body_case == FARFERRY__ENVELOPE__BODY_AUTH_REPLY ||
		    envelope->body_case == FARFERRY__ENVELOPE__BODY_ERROR);
	if (envelope->body_case == FARFERRY__ENVELOPE__BODY_AUTH_REPLY) {
		FERRYT_MUST(seen->anonymous); /* nobody here knows the token */
		seen->authenticated = true;
	}
	seen->frames++;
	ferryi_envelope_free(&envelope);
}

/* The records of a script as frames, in out; returns the bytes written. */
static size_t frames_of(const uint8_t *data, size_t size, uint8_t *out)
{
	size_t n = 0;

	while (size >= 2) {
		size_t len = (size_t)data[0] << 8 | data[1];

		data += 2;
		size -= 2;
		if (len > size)
			len = size;
		if (n + FERRYI_FRAME_HEADER + len > STREAM_MAX)
			break;
		memcpy(out + n, "FFRY\0\0", 6);
		out[n + 6] = (uint8_t)(len >> 8);
		out[n + 7] = (uint8_t)len;
		memcpy(out + n + FERRYI_FRAME_HEADER, data, len);
		n += FERRYI_FRAME_HEADER + len;
		data += len;
		size -= len;
	}
	return n;
}

/* Feeds the stream in pieces; 0, or why the session ended. */
static int feed(struct ferryi_server_session *session, const uint8_t *stream, size_t len, uint32_t seed)
{
	int rc = 0;

	while (len && rc == 0) {
		uint64_t next_ns = 0;
		size_t piece;

		seed = seed * 1664525u + 1013904223u;
		/* Seed 0 is one piece, others mix single bytes and long runs. */
		piece = seed >> 31 ? 1 + (seed >> 8) % 7 : 1 + (seed >> 8) % 4096;
		if (piece > len)
			piece = len;

		/* Exactly that many bytes: a read past the end is a sanitizer's to see. */
		uint8_t *copy = malloc(piece);

		FERRYT_MUST(copy);
		memcpy(copy, stream, piece);
		rc = ferryi_server_session_input(session, copy, piece);
		free(copy);
		FERRYT_MUST(rc <= 0);
		stream += piece;
		len -= piece;
		if (rc == 0)
			FERRYT_MUST(ferryi_server_session_tick(session, ferryi_now_ns(), &next_ns) == 0);
	}
	return rc;
}

static void holds_nothing(void)
{
	for (unsigned i = 0; i < hub.npools; i++) {
		struct ferryi_pool_usage usage;

		ferryi_pool_usage(hub.pools[i], &usage);
		FERRYT_MUST(usage.leased_bytes == usage.kept_bytes);
		FERRYT_MUST(usage.free_bytes + usage.scrub_bytes + usage.kept_bytes == usage.size_bytes);
	}
	FERRYT_MUST(hub.sessions == NULL);
	FERRYT_MUST(ferryi_jobs_pending(hub.jobs) == 0);
	FERRYT_MUST(ferryi_counter_read(&hub.status.g_sessions) == 0);
	FERRYT_MUST(ferryi_counter_read(&hub.status.g_extents) == 0);
	FERRYT_MUST(ferryi_counter_read(&hub.status.g_leased_bytes) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t stream[STREAM_MAX];
	struct seen seen = {0};
	struct ferryi_server_session_io io = {.output = on_output, .ctx = &seen, .address = "192.0.2.1:7470"};
	struct ferryi_server_session *session = NULL;
	uint64_t next_ns = 0;
	size_t len;
	int rc;

	if (!hub.jobs)
		start();
	if (size < 2)
		return 0;

	/* Every run begins with the same numbers, so that a script can name its leases. */
	hub.next_session_id = 1;
	hub.epoch = 0;
	atomic_store(&hub.next_id, 1);
	seen.anonymous = !(data[0] & 1);
	io.auth = seen.anonymous ? FERRYI_AUTH_ANONYMOUS : FERRYI_AUTH_TOKEN;
	memset(hub.token, seen.anonymous ? 0 : 0x5a, sizeof(hub.token));

	if (data[0] & 2) {
		len = size - 2 < STREAM_MAX ? size - 2 : STREAM_MAX;
		memcpy(stream, data + 2, len);
	} else {
		len = frames_of(data + 2, size - 2, stream);
	}

	FERRYT_MUST(ferryi_server_session_open(&hub, &io, "fuzz", &session) == 0);
	rc = feed(session, stream, len, data[1]);
	if (rc == 0 && size % 8 == 0) {
		/* Silence ends every session. */
		FERRYT_MUST(ferryi_server_session_tick(session, UINT64_MAX, &next_ns) == -ETIMEDOUT);
	} else if (rc == 0 && size % 8 == 1) {
		ferryi_server_sessions_drain(&hub, 1000);
		ferryi_server_sessions_revoke(&hub, "the test revokes it");
	}
	ferryi_server_session_close(&session, "end of input");
	FERRYT_MUST(session == NULL);
	holds_nothing();
	return 0;
}
