/*
 * Writes the seeds that are kept in corpus/: every valid message as a frame,
 * and conversations for fuzz_control. Run by hand after a change of the
 * protocol: make_corpus CORPUS_DIR
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "messages.h"

static const char *root;

static void put(const char *dir, const char *name, const uint8_t *data, size_t size)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/%s", root, dir, name);
	file = fopen(path, "wb");
	if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
		perror(path);
		exit(1);
	}
}

static uint8_t *encode(const Farferry__Envelope *envelope, size_t *len)
{
	uint8_t *frame = NULL;

	if (ferryi_frame_encode(envelope, &frame, len) != 0)
		abort();
	return frame;
}

/* ---- conversations ---- */

struct script {
	uint8_t bytes[8192];
	size_t len;
	bool raw;
	uint64_t request_id;
};

static void begin(struct script *s, unsigned flags, unsigned pieces)
{
	memset(s, 0, sizeof(*s));
	s->raw = flags & 2;
	s->bytes[s->len++] = (uint8_t)flags;
	s->bytes[s->len++] = (uint8_t)pieces;
}

static void say(struct script *s, Farferry__Envelope *envelope)
{
	size_t len = 0;
	uint8_t *frame;
	const uint8_t *from;

	envelope->request_id = ++s->request_id;
	frame = encode(envelope, &len);
	from = frame;
	if (!s->raw) {
		from += FERRYI_FRAME_HEADER;
		len -= FERRYI_FRAME_HEADER;
		s->bytes[s->len++] = (uint8_t)(len >> 8);
		s->bytes[s->len++] = (uint8_t)len;
	}
	memcpy(s->bytes + s->len, from, len);
	s->len += len;
	free(frame);
	ferryi_envelope_free(&envelope);
}

static void greet(struct script *s)
{
	say(s, ferryt_message(FARFERRY__ENVELOPE__BODY_HELLO));
	say(s, ferryt_message(FARFERRY__ENVELOPE__BODY_AUTH));
}

static void attach(struct script *s, const char *pool, unsigned mib)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_ATTACH);

	ferryt_set_text(&e->attach->pool, pool);
	ferryt_set_text(&e->attach->fabric, "fake");
	e->attach->size_bytes = (uint64_t)mib << 20;
	say(s, e);
}

/* The target numbers leases and extents from 1 and the session's epoch is 1. */
static void grow(struct script *s, uint64_t lease, unsigned mib)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_GROW);

	e->grow->lease_id = lease;
	e->grow->epoch = 1;
	e->grow->size_bytes = (uint64_t)mib << 20;
	say(s, e);
}

static void shrink(struct script *s, uint64_t lease, uint64_t extent)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_SHRINK);

	e->shrink->lease_id = lease;
	e->shrink->epoch = 1;
	e->shrink->n_extent_ids = 1;
	e->shrink->extent_ids[0] = extent;
	say(s, e);
}

static void detach(struct script *s, uint64_t lease)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_DETACH);

	e->detach->lease_id = lease;
	e->detach->epoch = 1;
	say(s, e);
}

static void keepalive(struct script *s, uint64_t epoch)
{
	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_KEEPALIVE);

	e->keepalive->epoch = epoch;
	say(s, e);
}

static void whole(struct script *s)
{
	greet(s);
	say(s, ferryt_message(FARFERRY__ENVELOPE__BODY_POOLS));
	say(s, ferryt_message(FARFERRY__ENVELOPE__BODY_STATS));
	attach(s, "", 2);
	keepalive(s, 1);
	grow(s, 1, 4);
	shrink(s, 1, 2);
	shrink(s, 1, 3);
	attach(s, "cold", 0);
	detach(s, 1);
	detach(s, 99);
}

static void conversations(void)
{
	static struct script s;

	for (unsigned raw = 0; raw < 2; raw++) {
		begin(&s, raw << 1, 17 * raw);
		whole(&s);
		put("control", raw ? "whole-raw" : "whole", s.bytes, s.len);
	}
	begin(&s, 1, 3);
	whole(&s);
	put("control", "wrong-token", s.bytes, s.len);

	begin(&s, 0, 5);
	attach(&s, "hot", 2);
	put("control", "attach-first", s.bytes, s.len);

	begin(&s, 0, 9);
	greet(&s);
	greet(&s);
	put("control", "hello-twice", s.bytes, s.len);

	begin(&s, 0, 1);
	greet(&s);
	attach(&s, "hot", 16);
	attach(&s, "hot", 2);
	attach(&s, "none", 2);
	for (unsigned i = 0; i < 5; i++)
		attach(&s, "cold", 0);
	grow(&s, 7, 2);
	keepalive(&s, 2);
	put("control", "limits", s.bytes, s.len);

	begin(&s, 0, 200);
	greet(&s);
	for (unsigned i = 0; i < 3; i++) {
		attach(&s, "cold", 2);
		detach(&s, 1 + 2 * i);
	}
	put("control", "attach-detach", s.bytes, s.len);

	Farferry__Envelope *e = ferryt_message(FARFERRY__ENVELOPE__BODY_HELLO);

	begin(&s, 0, 0);
	e->hello->version_min = 5;
	e->hello->version_max = 6;
	say(&s, e);
	put("control", "version", s.bytes, s.len);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s CORPUS_DIR\n", argv[0]);
		return 2;
	}
	root = argv[1];
	for (Farferry__Envelope__BodyCase body = FERRYT_BODY_FIRST; body <= FERRYT_BODY_LAST; body++) {
		Farferry__Envelope *envelope = ferryt_message(body);
		size_t len = 0;
		uint8_t *frame = encode(envelope, &len);

		put("decode", ferryi_body_name(body), frame, len);
		ferryi_envelope_free(&envelope);
		free(frame);
	}
	conversations();
	return 0;
}
