/* The control object: what its sessions share. See control.h for the thread model. */
#ifndef FERRYI_CONTROL_PRIV_H
#define FERRYI_CONTROL_PRIV_H

#include "control.h"
#include "session.h"
#include "trust.h"

struct ferryi_loop;

#define FERRYI_CONTROL_CONNECT_MS 10000 /* defaults of ferryi_control_attr */
#define FERRYI_CONTROL_REQUEST_MS 10000
#define FERRYI_CONTROL_CALL_MS	  5000 /* for the control thread to take something up */

struct ferryi_control {
	/* immutable */
	struct ferryi_loop *loop;
	struct ferryi_trust trust;
	uint64_t connect_ms;
	uint64_t request_ms;
	void (*on_state)(void *ctx, struct ferryi_session *session, enum ferryi_session_state state);
	void (*on_access)(void *ctx, struct ferryi_access_call *call);
	void *ctx;
	/* owned by the control thread */
	TAILQ_HEAD(, ferryi_session) sessions; /* attached ones */
};

#endif
