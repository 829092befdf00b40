/*
 * Frames: length-prefixed envelopes. What a peer sends is bounded three times:
 * bytes of the frame, bytes of heap that decoding may take, and each field
 * (validate.c). Pure functions; control threads (they malloc).
 */
#include "proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "err.h"
#include "validate.h"

static const uint8_t magic[4] = {'F', 'F', 'R', 'Y'};

/*
 * Heap for one decoded message. The largest valid one, FERRYI_MAX_EXTENTS
 * extents, takes under 2 MiB; a megabyte of empty submessages would take 50.
 */
#define DECODE_HEAP_MAX ((size_t)8 << 20)
#define DECODE_OVERHEAD ((size_t)16) /* of malloc, per block */

struct decode_heap {
	size_t left;
	bool exhausted; /* the message asked for more than the bound */
	bool no_memory; /* malloc failed */
};

static void *decode_alloc(void *data, size_t size)
{
	struct decode_heap *heap = data;

	if (size > heap->left || DECODE_OVERHEAD > heap->left - size) {
		heap->exhausted = true;
		return NULL;
	}
	heap->left -= size + DECODE_OVERHEAD;

	void *block = malloc(size ? size : 1);

	if (!block)
		heap->no_memory = true;
	return block;
}

static void decode_free(void *data, void *block)
{
	(void)data; /* freed blocks are not given back: the bound is on what was asked for */
	free(block);
}

long ferryi_frame_peek(const uint8_t *bytes, size_t have)
{
	/* A wrong protocol is told by its first byte, before eight have come. */
	for (size_t i = 0; i < sizeof(magic) && i < have; i++) {
		if (bytes[i] != magic[i])
			return -EPROTO;
	}
	if (have < FERRYI_FRAME_HEADER)
		return 0;

	uint32_t len =
		(uint32_t)bytes[4] << 24 | (uint32_t)bytes[5] << 16 | (uint32_t)bytes[6] << 8 | bytes[7];

	if (len == 0)
		return -EPROTO;
	if (len > FERRYI_FRAME_MAX)
		return -EMSGSIZE;
	return (long)(FERRYI_FRAME_HEADER + len);
}

int ferryi_frame_decode(enum ferryi_role receiver, const uint8_t *frame, size_t len, Farferry__Envelope **out,
			char *why, size_t why_len)
{
	long whole = ferryi_frame_peek(frame, len);

	if (whole == -EMSGSIZE)
		return ferryi_err(-EPROTO, why, why_len, "frame is longer than the limit of %u bytes",
				  FERRYI_FRAME_MAX);
	if (whole < 0)
		return ferryi_err(-EPROTO, why, why_len, "not a farferry frame: wrong magic or length 0");
	if (whole == 0)
		return ferryi_err(-EPROTO, why, why_len,
				  "frame of %zu bytes is shorter than its header of %u", len,
				  FERRYI_FRAME_HEADER);
	if ((size_t)whole != len)
		return ferryi_err(-EPROTO, why, why_len, "frame says %ld bytes, but has %zu", whole, len);

	struct decode_heap heap = {.left = DECODE_HEAP_MAX};
	ProtobufCAllocator allocator = {.alloc = decode_alloc, .free = decode_free, .allocator_data = &heap};
	Farferry__Envelope *envelope = farferry__envelope__unpack(&allocator, len - FERRYI_FRAME_HEADER,
								  frame + FERRYI_FRAME_HEADER);

	if (!envelope && heap.no_memory)
		return ferryi_err(-ENOMEM, why, why_len, "out of memory");
	if (!envelope && heap.exhausted)
		return ferryi_err(-EPROTO, why, why_len, "message has more fields than any valid one");
	if (!envelope)
		return ferryi_err(-EPROTO, why, why_len, "payload of %zu bytes is not an envelope",
				  len - FERRYI_FRAME_HEADER);

	int rc = ferryi_validate(receiver, envelope, why, why_len);

	if (rc)
		ferryi_envelope_free(&envelope);
	else
		*out = envelope;
	return rc;
}

void ferryi_envelope_free(Farferry__Envelope **envelope)
{
	/* NULL: the default allocator, whose free is the one of decode_free. */
	if (*envelope)
		farferry__envelope__free_unpacked(*envelope, NULL);
	*envelope = NULL;
}

int ferryi_frame_encode(const Farferry__Envelope *envelope, uint8_t **out, size_t *out_len)
{
	if (envelope->body_case == FARFERRY__ENVELOPE__BODY__NOT_SET)
		return -EINVAL;

	size_t payload = farferry__envelope__get_packed_size(envelope);

	if (payload > FERRYI_FRAME_MAX)
		return -EMSGSIZE;

	uint8_t *frame = malloc(FERRYI_FRAME_HEADER + payload);

	if (!frame)
		return -ENOMEM;
	memcpy(frame, magic, sizeof(magic));
	for (unsigned i = 0; i < 4; i++)
		frame[4 + i] = (uint8_t)(payload >> (24 - 8 * i));
	farferry__envelope__pack(envelope, frame + FERRYI_FRAME_HEADER);
	*out = frame;
	*out_len = FERRYI_FRAME_HEADER + payload;
	return 0;
}

static const struct {
	Farferry__Code code;
	int err;
} codes[] = {
	{FARFERRY__CODE__CODE_OK, 0},
	{FARFERRY__CODE__CODE_INVALID, EINVAL},
	{FARFERRY__CODE__CODE_VERSION, EPROTONOSUPPORT},
	{FARFERRY__CODE__CODE_AUTH, EACCES},
	{FARFERRY__CODE__CODE_NO_POOL, ENXIO},
	{FARFERRY__CODE__CODE_FULL, ENOMEM},
	{FARFERRY__CODE__CODE_DRAINING, ESHUTDOWN},
	{FARFERRY__CODE__CODE_NO_LEASE, ENOENT},
	{FARFERRY__CODE__CODE_FABRIC, ENODEV},
	{FARFERRY__CODE__CODE_LIMIT, EDQUOT},
	{FARFERRY__CODE__CODE_INTERNAL, EIO},
	{FARFERRY__CODE__CODE_EPOCH, ESTALE},
	{FARFERRY__CODE__CODE_BUSY, EBUSY},
	{FARFERRY__CODE__CODE_FAULT, EFAULT},
	{FARFERRY__CODE__CODE_PERM, EPERM},
	{FARFERRY__CODE__CODE_EXISTS, EEXIST},
	{FARFERRY__CODE__CODE_TIMEOUT, ETIMEDOUT},
	{FARFERRY__CODE__CODE_GONE, ESHUTDOWN}, /* the other way DRAINING is found first */
};

#define NCODES (sizeof(codes) / sizeof(codes[0]))

int ferryi_code_to_errno(Farferry__Code code)
{
	for (size_t i = 0; i < NCODES; i++) {
		if (codes[i].code == code)
			return -codes[i].err;
	}
	return -EIO;
}

Farferry__Code ferryi_code_from_errno(int err)
{
	for (size_t i = 0; i < NCODES; i++) {
		if (codes[i].err == err || -codes[i].err == err)
			return codes[i].code;
	}
	return FARFERRY__CODE__CODE_INTERNAL;
}
