/* Hello and authentication, both ways. Runs in the thread of ferryi_session_open. */
#ifndef FERRYI_CONTROL_HANDSHAKE_H
#define FERRYI_CONTROL_HANDSHAKE_H

#include "session.h"
#include "trust.h"

/* -EACCES, -EPROTONOSUPPORT, -EPROTO, -ETIMEDOUT, -ENOMEM, with the error line set. */
int ferryi_handshake(struct ferryi_session *session, const struct ferryi_trust *trust, uint64_t deadline_ns);

#endif
