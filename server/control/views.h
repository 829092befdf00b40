/*
 * Exports and views of one session: a mirror that this session's process has published, and mirrors of others
 * that it looks at. An access of a reader goes to the exporter as a notice, under a number of the server's
 * own, and its answer back:
 *
 *   reader             server                                        exporter
 *   view_access  --->  access in the exporter's list, notice  --->   its own thread reads or writes
 *   reply        <---  looked up by its number, taken off     <---   access_answer
 *
 * An access stays in the list until it is answered or the exporter ends, even when its reader has gone: the
 * list's limit bounds what an exporter that does not read can make the server hold for it.
 *
 * Context: control thread. What the exporter's pages in a pool need is done by the exporter's worker
 * (grants.h).
 */
#ifndef FERRYI_CONTROL_VIEWS_H
#define FERRYI_CONTROL_VIEWS_H

#include "grants.h"
#include "hub.h"
#include "reply.h"

#define FERRYI_VIEW_ACCESSES 16u /* under way at one exporter; 64 KiB each to write */
#define FERRYI_VIEW_ASKED    4u	 /* of one reader, who is not to take all of an exporter's */

struct ferryi_views;

struct ferryi_views_attr {
	struct ferryi_hub *hub;
	uint64_t session_id;
	struct ferryi_user *user;     /* sees his own exports alone */
	struct ferryi_grants *grants; /* outlives the views: its closing is a later job of the same worker */
	const char *label;	      /* copied */
	/* Takes the reply (empty: there was no memory for one). Never called after close. */
	void (*put)(void *ctx, struct ferryi_reply *reply);
	void *ctx;
};

/* 0 or -ENOMEM. */
int ferryi_views_open(const struct ferryi_views_attr *attr, struct ferryi_views **out);
/* The exports are gone for who views them, the views are closed. NULL allowed; nulls *views. */
void ferryi_views_close(struct ferryi_views **views);

/* Is it one of theirs? Then it was done, or refused with an error. */
bool ferryi_views_request(struct ferryi_views *views, const Farferry__Envelope *request);

#endif
