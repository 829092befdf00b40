/*
 * The listening socket of the control protocol and its connections, on
 * libevent. Context: control thread (the one that runs the event base).
 */
#ifndef FERRYI_CONTROL_DOOR_H
#define FERRYI_CONTROL_DOOR_H

#include <stddef.h>
#include <stdint.h>

#include "hub.h"
#include "url.h"

struct event_base;
struct ferryi_door;

struct ferryi_door_attr {
	struct ferryi_hub *hub;
	struct event_base *base;
	const char *host;	     /* name or address; "": everywhere */
	uint16_t port;		     /* 0: any free one */
	enum ferryi_auth auth;	     /* of its clients */
	struct ssl_ctx_st *tls;	     /* for auth=tls; the caller's, as long as the door */
	void (*on_quiet)(void *ctx); /* after ferryi_door_shut: the last connection is gone */
	void *ctx;
};

/* Binds, without accepting anybody yet. 0, or negative errno with one line in err. */
int ferryi_door_open(const struct ferryi_door_attr *attr, struct ferryi_door **out, char *err,
		     size_t err_len);
/* Numeric address and port that it listens on. */
const char *ferryi_door_host(const struct ferryi_door *door);
uint16_t ferryi_door_port(const struct ferryi_door *door);
/* Begins to accept. 0 or -ENOMEM. */
int ferryi_door_serve(struct ferryi_door *door);
/* Accepts nobody any more and ends every session; on_quiet is called when their last bytes are out (about a
 * second at most). */
void ferryi_door_shut(struct ferryi_door *door, const char *reason);
/* NULL allowed; nulls *door. */
void ferryi_door_close(struct ferryi_door **door);

#endif
