/*
 * Fuzz target: the frame decoder, for both receivers. The input is taken as it
 * is, and once more as the payload of a frame with a right header, so that
 * mutations reach the messages and not only the length check.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "proto.h"
#include "replay.h"

/* Fields of later versions, anywhere in the message. */
static bool has_unknown(const ProtobufCMessage *m)
{
	if (m->n_unknown_fields)
		return true;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &m->descriptor->fields[i];
		const char *base = (const char *)m;
		const void *member = base + field->offset;

		if (field->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		if (field->label == PROTOBUF_C_LABEL_REPEATED) {
			size_t n = *(const size_t *)(const void *)(base + field->quantifier_offset);
			ProtobufCMessage *const *list = *(ProtobufCMessage *const *const *)member;

			for (size_t k = 0; k < n; k++) {
				if (has_unknown(list[k]))
					return true;
			}
		} else if (*(const uint32_t *)(const void *)(base + field->quantifier_offset) == field->id &&
			   has_unknown(*(ProtobufCMessage *const *)member)) {
			return true; /* the body: the only message that is not in a list */
		}
	}
	return false;
}

/* What was accepted can be sent on, and arrives as the same message. */
static void round_trip(enum ferryi_role receiver, const Farferry__Envelope *envelope)
{
	uint8_t *first = NULL;
	uint8_t *second = NULL;
	size_t first_len = 0;
	size_t second_len = 0;
	Farferry__Envelope *again = NULL;
	char why[256] = "";
	int rc = ferryi_frame_encode(envelope, &first, &first_len);

	/* A packed list may be larger than what it was read from. */
	if (rc == -EMSGSIZE)
		return;
	FERRYT_MUST(rc == 0);
	rc = ferryi_frame_decode(receiver, first, first_len, &again, why, sizeof(why));
	/* protobuf-c takes the invalid field number 0 in a long form, and not in the short one that it
	 * writes. */
	if (rc == -EPROTO && has_unknown(&envelope->base)) {
		free(first);
		return;
	}
	if (rc != 0)
		fprintf(stderr, "decoded, encoded, and now refused: %s\n", why);
	FERRYT_MUST(rc == 0);
	FERRYT_MUST(again->body_case == envelope->body_case && again->request_id == envelope->request_id);
	FERRYT_MUST(ferryi_frame_encode(again, &second, &second_len) == 0);
	FERRYT_MUST(first_len == second_len && memcmp(first, second, first_len) == 0);
	ferryi_envelope_free(&again);
	free(first);
	free(second);
}

static void decode_both(const uint8_t *frame, size_t size)
{
	static const enum ferryi_role roles[] = {FERRYI_ROLE_SERVER, FERRYI_ROLE_CLIENT};

	for (size_t i = 0; i < 2; i++) {
		Farferry__Envelope *envelope = NULL;
		char why[200];
		int rc;

		memset(why, 0, sizeof(why));
		rc = ferryi_frame_decode(roles[i], frame, size, &envelope, why, sizeof(why));
		FERRYT_MUST(rc == 0 || rc == -EPROTO || rc == -EINVAL);
		FERRYT_MUST((rc == 0) == (envelope != NULL));
		/* A refusal has a reason, of one line, that nobody can forge. */
		FERRYT_MUST((rc != 0) == (why[0] != '\0'));
		for (const char *c = why; *c; c++)
			FERRYT_MUST((unsigned char)*c >= 0x20 && *c != 0x7f);
		if (envelope)
			round_trip(roles[i], envelope);
		ferryi_envelope_free(&envelope);
	}
}

static void peek(const uint8_t *data, size_t size)
{
	long whole = ferryi_frame_peek(data, size);

	FERRYT_MUST(whole == 0 || whole == -EPROTO || whole == -EMSGSIZE ||
		    (whole > (long)FERRYI_FRAME_HEADER &&
		     whole <= (long)(FERRYI_FRAME_HEADER + FERRYI_FRAME_MAX)));
	FERRYT_MUST(whole != 0 || size < FERRYI_FRAME_HEADER);
	/* More bytes never change a verdict. */
	for (size_t have = 0; have < size && have <= FERRYI_FRAME_HEADER; have++) {
		long early = ferryi_frame_peek(data, have);

		FERRYT_MUST(early == 0 || early == whole);
	}
	if (whole > 0 && (size_t)whole <= size)
		decode_both(data, (size_t)whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *payload = data;
	size_t len = size;

	peek(data, size);
	decode_both(data, size);

	if (size >= FERRYI_FRAME_HEADER && memcmp(data, "FFRY", 4) == 0) {
		payload += FERRYI_FRAME_HEADER;
		len -= FERRYI_FRAME_HEADER;
	}

	uint8_t *frame = malloc(FERRYI_FRAME_HEADER + len);

	FERRYT_MUST(frame);
	memcpy(frame, "FFRY", 4);
	for (unsigned i = 0; i < 4; i++)
		frame[4 + i] = (uint8_t)(len >> (24 - 8 * i));
	memcpy(frame + FERRYI_FRAME_HEADER, payload, len);
	decode_both(frame, FERRYI_FRAME_HEADER + len);
	free(frame);
	return 0;
}
