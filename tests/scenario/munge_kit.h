/*
 * A munged of the test's own: socket, key and files in a folder that goes with
 * it. And MUNGE users on a bare connection: the test's own, and, where it runs
 * as root, any other.
 */
#ifndef FERRYT_MUNGE_KIT_H
#define FERRYT_MUNGE_KIT_H

#include "server_kit.h"

#define FERRYT_OTHER_UID 65534u

/* Starts it, for the whole program, and sets FERRY_MUNGE_SOCKET. Exits with 77 and a reason where there is no
 * munged. */
void ferryt_munge_start(void);
void ferryt_munge_end(void);
const char *ferryt_munge_socket(void);

/* A credential that a process of that user makes; free(3) it. Another user than the test's own: as root only.
 */
char *ferryt_munge_credential(uid_t uid, const struct ferryi_munge_binding *binding);

/* Says hello, then sends Auth with what credential() makes of the handshake's binding; the answer. NULL:
 * closed. */
Farferry__Envelope *ferryt_munge_auth(struct ferryt_conn *conn,
				      char *(*credential)(void *ctx,
							  const struct ferryi_munge_binding *binding),
				      void *ctx);
/* Opens, and logs in as that user; asserts that it worked. */
void ferryt_munge_login(struct ferryt_conn *conn, const struct ferryt_server *server, uid_t uid);

#endif
