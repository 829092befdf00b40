/* See bench_raw.h. Main thread only. */
#include "bench_raw.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arith.h"
#include "clock.h"

#define DEPTH	    16u
#define CHUNK	    ((size_t)64 << 10)
#define DEADLINE_MS 10000u
#define MAX_EXTENTS (unsigned)(FERRYI_RAW_MAX / FERRYI_SUBSECTION_SIZE)

struct ferryi_raw {
	struct ferryi_control *control;
	struct ferryi_session *session;
	struct ferryi_lease *lease;
	struct ferryi_channel *channel;
	unsigned char *buf; /* DEPTH chunks */
	struct ferryi_op ops[DEPTH];
	const struct ferryi_extent *extents[MAX_EXTENTS];
	unsigned nextents;
	uint64_t len_bytes; /* of all extents */
};

/* The place that `off` of the whole lease is at. Extents are whole multiples of 2 MiB: no chunk crosses their
 * ends. */
static void op_place(const struct ferryi_raw *raw, struct ferryi_op *op, uint64_t off)
{
	unsigned i = 0;

	off %= raw->len_bytes;
	while (off >= raw->extents[i]->len_bytes)
		off -= raw->extents[i++]->len_bytes;
	op->remote = raw->extents[i]->remote;
	op->remote_off = off;
}

static int op_submit(struct ferryi_raw *raw, struct ferryi_op *op)
{
	int n;

	op->deadline_ns = ferryi_deadline_ms(DEADLINE_MS);
	while ((n = ferryi_channel_submit(raw->channel, &op, 1)) == 0) {
		/* Not taken: our own depth never exceeds the queue, so this is a provider that is busy for a
		 * moment. */
		if (ferryi_now_ns() > op->deadline_ns)
			return -ETIMEDOUT;
		ferryi_cpu_relax();
	}
	return n < 0 ? n : 0;
}

/* Spins until one operation is done. */
static int op_wait(struct ferryi_raw *raw, struct ferryi_op **out)
{
	uint64_t deadline = ferryi_deadline_ms(2 * DEADLINE_MS);

	for (unsigned spins = 0;; spins++) {
		int n = ferryi_channel_poll(raw->channel, out, 1);

		if (n == 1)
			return (*out)->status;
		if (n < 0)
			return n;
		if (spins % 1024 == 1023 && ferryi_now_ns() > deadline)
			return -ETIMEDOUT;
		ferryi_cpu_relax();
	}
}

/* Failed operations leave others outstanding: they must be back before the channel may go. */
static void drain(struct ferryi_raw *raw)
{
	struct ferryi_op *done;
	uint64_t deadline = ferryi_deadline_ms(DEADLINE_MS);

	ferryi_channel_shutdown(raw->channel);
	while (ferryi_channel_outstanding(raw->channel) > 0 && ferryi_now_ns() < deadline)
		ferryi_channel_poll(raw->channel, &done, 1);
}

int ferryi_raw_latency(struct ferryi_raw *raw, unsigned count, uint64_t *random,
		       struct ferryi_samples *samples)
{
	struct ferryi_op *op = &raw->ops[0], *done;

	for (unsigned i = 0; i < count; i++) {
		*op = (struct ferryi_op){
			.kind = FERRYI_OP_READ, .local = raw->buf, .len_bytes = FERRYI_PAGE_SIZE};
		op_place(raw, op, ferryi_align_down(ferryi_tool_random(random) >> 1, FERRYI_PAGE_SIZE));

		uint64_t start = ferryi_now_ns();
		int rc = op_submit(raw, op);

		if (rc == 0)
			rc = op_wait(raw, &done);
		if (rc != 0) {
			drain(raw);
			return rc;
		}
		ferryi_samples_add(samples, ferryi_now_ns() - start);
	}
	return 0;
}

/* Keeps DEPTH operations under way until total_bytes were done, or (0) until the time is up. */
static int stream(struct ferryi_raw *raw, enum ferryi_op_kind kind, uint64_t total_bytes,
		  uint64_t duration_ns, double *out_mbps)
{
	uint64_t start = ferryi_now_ns(), off = 0, done_bytes = 0;
	unsigned busy = 0;
	int rc = 0;

	for (unsigned i = 0; i < DEPTH || busy > 0;) {
		struct ferryi_op *op;
		bool more = total_bytes > 0 ? off < total_bytes : ferryi_now_ns() - start < duration_ns;

		if (i < DEPTH) {
			op = &raw->ops[i++];
		} else {
			rc = op_wait(raw, &op);
			if (rc != 0)
				break;
			busy--;
			done_bytes += CHUNK;
		}
		if (!more)
			continue;
		size_t slot = (size_t)(op - raw->ops);

		*op = (struct ferryi_op){.kind = kind, .local = raw->buf + slot * CHUNK, .len_bytes = CHUNK};
		op_place(raw, op, off);
		off += CHUNK;
		rc = op_submit(raw, op);
		if (rc != 0)
			break;
		busy++;
	}
	if (rc != 0) {
		drain(raw);
		return rc;
	}
	if (out_mbps != NULL)
		*out_mbps = (double)done_bytes * 1e3 / (double)(ferryi_now_ns() - start);
	return 0;
}

int ferryi_raw_stream(struct ferryi_raw *raw, enum ferryi_op_kind kind, uint64_t duration_ms,
		      double *out_mbps)
{
	return stream(raw, kind, 0, duration_ms * FERRYI_NS_PER_MS, out_mbps);
}

uint64_t ferryi_raw_len_bytes(const struct ferryi_raw *raw)
{
	return raw->len_bytes;
}

int ferryi_raw_open(const char *url, const char *token_file, const char *pool, uint64_t len_bytes,
		    struct ferryi_raw **out, char *why, size_t why_len)
{
	struct ferryi_control_attr attr = {
		.token_file = token_file, .connect_ms = DEADLINE_MS, .request_ms = DEADLINE_MS};
	struct ferryi_raw *raw = calloc(1, sizeof(*raw));
	int rc;

	if (raw == NULL)
		return -ENOMEM;
	rc = ferryi_control_open(&attr, &raw->control);
	if (rc == 0)
		rc = ferryi_session_open(raw->control, url, &raw->session);
	if (rc == 0)
		rc = ferryi_lease_open(raw->session, pool, len_bytes, &raw->lease);
	if (rc != 0) {
		snprintf(why, why_len, "%s", ferryi_control_last_error());
		goto err_close;
	}
	for (unsigned i = 0; i < ferryi_lease_extent_count(raw->lease) && raw->nextents < MAX_EXTENTS; i++) {
		raw->extents[raw->nextents] = ferryi_lease_extent(raw->lease, i);
		raw->len_bytes += raw->extents[raw->nextents++]->len_bytes;
	}
	raw->buf = mmap(NULL, DEPTH * CHUNK, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (raw->buf == MAP_FAILED) {
		raw->buf = NULL;
		rc = -ENOMEM;
		snprintf(why, why_len, "no memory for the transfer buffers");
		goto err_close;
	}
	memset(raw->buf, 0xa5, DEPTH * CHUNK);
	rc = ferryi_channel_open(ferryi_lease_peer(raw->lease), DEPTH, ferryi_deadline_ms(DEADLINE_MS),
				 &raw->channel);
	if (rc == 0)
		rc = ferryi_channel_register(raw->channel, raw->buf, DEPTH * CHUNK);
	if (rc == 0)
		rc = stream(raw, FERRYI_OP_WRITE, raw->len_bytes, 0, NULL);
	if (rc != 0) {
		snprintf(why, why_len, "%s: the %s transport failed: %s", ferryi_raw_server(raw),
			 ferryi_raw_fabric(raw), strerror(-rc));
		goto err_close;
	}
	*out = raw;
	return 0;
err_close:
	ferryi_raw_close(&raw);
	return rc;
}

void ferryi_raw_close(struct ferryi_raw **rawp)
{
	struct ferryi_raw *raw = *rawp;

	if (raw == NULL)
		return;
	if (raw->channel != NULL)
		ferryi_channel_close(&raw->channel);
	if (raw->lease != NULL)
		ferryi_lease_close(&raw->lease);
	if (raw->session != NULL)
		ferryi_session_close(&raw->session);
	if (raw->control != NULL)
		ferryi_control_close(&raw->control);
	if (raw->buf != NULL)
		munmap(raw->buf, DEPTH * CHUNK);
	free(raw);
	*rawp = NULL;
}

const char *ferryi_raw_fabric(const struct ferryi_raw *raw)
{
	return ferryi_lease_row(raw->lease)->name;
}

const char *ferryi_raw_server(const struct ferryi_raw *raw)
{
	return ferryi_session_name(raw->session);
}
