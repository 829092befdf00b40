/*
 * SIGHUP: options and config file are read again. The log level and the sizes
 * of pools are taken over; the log says what else has changed and needs a
 * restart. Pools change on a worker of their own, one after the other.
 * Context: control thread.
 */
#ifndef FERRYI_RELOAD_H
#define FERRYI_RELOAD_H

#include "hub.h"

struct event_base;
struct ferryi_reload;

/* argv: of main, borrowed. 0, -ENOMEM, -EAGAIN (threads), -EMFILE. */
int ferryi_reload_create(struct ferryi_hub *hub, struct event_base *base, int argc, char **argv,
			 struct ferryi_reload **out);
/* Waits for the pools that are changing. NULL allowed; nulls *reload. */
void ferryi_reload_destroy(struct ferryi_reload **reload);

/* Does not block; what a pool comes to is in the log later. */
void ferryi_reload_run(struct ferryi_reload *reload);

#endif
