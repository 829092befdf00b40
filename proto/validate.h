/* Private to proto/: what each message may hold. Pure functions; control threads (may malloc). */
#ifndef FERRYI_PROTO_VALIDATE_H
#define FERRYI_PROTO_VALIDATE_H

#include "proto.h"

/*
 * Checks every field of a decoded envelope as its receiver must. 0, -EPROTO (no
 * body), -EINVAL (body not for this receiver, a field out of range), -ENOMEM;
 * why (may be NULL) gets one sentence on failure.
 */
int ferryi_validate(enum ferryi_role receiver, const Farferry__Envelope *envelope, char *why, size_t why_len);

#endif
