/*
 * A session's connection as the control thread drives it: frames in and out,
 * keep-alive, notices, and the end. Everything here runs in the control thread
 * with no lock held.
 */
#ifndef FERRYI_CONTROL_CONNECTION_H
#define FERRYI_CONTROL_CONNECTION_H

#include "session.h"

/* Takes session->fd over (also on failure, then fd may be -1) and attaches the session. 0 or -ENOMEM. */
int ferryi_connection_start(struct ferryi_session *session);
/* Starts the keep-alive timer with the times that the server gave. 0 or -ENOMEM. */
int ferryi_connection_keepalive(struct ferryi_session *session);
/* Ends it from our side, without on_state, and detaches the session. */
void ferryi_connection_end(struct ferryi_session *session);

/* Moves queued frames into the connection. */
void ferryi_connection_flush(struct ferryi_session *session);

/*
 * The session is gone. First call wins: fails its peers and requests, closes
 * the connection, then tells on_state. The session may be freed on return.
 */
void ferryi_connection_lose(struct ferryi_session *session, enum ferryi_lost_reason reason, const char *fmt,
			    ...) __attribute__((format(printf, 3, 4)));
/* The same, for a data connection that ended; what the server said about it comes first. */
void ferryi_connection_data_ended(struct ferryi_session *session);

#endif
