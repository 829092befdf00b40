/* Mirrors that this process exports: the server's notices of readers' accesses. */
#ifndef FERRYI_CONTROL_EXPORT_H
#define FERRYI_CONTROL_EXPORT_H

#include "session.h"

/* Control thread: takes the envelope, an access, over and hands it to on_access. 0, or -ENOMEM and why. */
int ferryi_export_access(struct ferryi_session *session, Farferry__Envelope *envelope, char *why,
			 size_t why_len);

#endif
