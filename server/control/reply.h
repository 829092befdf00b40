/* Frames that the server sends. Any thread; each allocates one frame with malloc. */
#ifndef FERRYI_CONTROL_REPLY_H
#define FERRYI_CONTROL_REPLY_H

#include <stddef.h>
#include <stdint.h>

#include "proto.h"

/* An encoded frame; free(bytes). bytes is NULL when memory ran out. */
struct ferryi_reply {
	uint8_t *bytes;
	size_t len;
};

/* Encodes; on failure the reply is an internal error, or empty. */
void ferryi_reply_encode(struct ferryi_reply *reply, const Farferry__Envelope *envelope);
void ferryi_reply_error(struct ferryi_reply *reply, uint64_t request_id, Farferry__Code code, const char *fmt,
			...) __attribute__((format(printf, 4, 5)));
void ferryi_reply_done(struct ferryi_reply *reply, uint64_t request_id);

#endif
