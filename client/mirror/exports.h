/*
 * Mirrors that this process exports. Accesses of readers come to the control thread, which may not block; they wait here in
 * a queue for the export thread, which serves one after another: it may fault pages in, and wait for a pool.
 *
 * The thread begins with the first export, on a stack of the arena's, and ends with the struct ferry. Its accesses are those
 * of a device: access.h of the pager, the mirror's owner.
 */
#ifndef FERRYI_MIRROR_EXPORTS_H
#define FERRYI_MIRROR_EXPORTS_H

#include "mirror.h"

#define FERRYI_EXPORT_QUEUE 64u /* accesses that wait; the server lets 16 through */

struct ferryi_export {
	const struct ferry_mirror *mirror; /* NULL: free */
	struct ferryi_session *session;
	uint64_t id; /* never used again: it names this export in the session */
	unsigned perms;
	bool leaving; /* being withdrawn: its place is its own until the access under way has ended */
};

struct ferryi_exports {
	/* immutable after open */
	struct ferryi_mirrors *mirrors;
	struct ferryi_arena *arena;
	/* owned by the export thread */
	uint8_t *data; /* FERRYI_ACCESS_MAX */
	/* protected by `life`, which is held across a start */
	struct ferryi_mutex life;
	bool started;
	uint8_t *stack;
	pthread_t thread;
	/* protected by lock */
	struct ferryi_mutex lock;
	pthread_cond_t changed;
	struct ferryi_export export[FERRY_MAX_MIRRORS];
	uint64_t next_id;
	struct ferryi_access_call *head, **tail;
	unsigned nqueued;
	const struct ferryi_export *running; /* an access to it is under way */
	bool paused, stopped;
};

void ferryi_exports_open(struct ferryi_exports *exports, struct ferryi_mirrors *mirrors, struct ferryi_arena *arena);
/* Ends the thread; what waits, and what still comes, is refused. */
void ferryi_exports_stop(struct ferryi_exports *exports);
/* ASSUMPTION: stopped, and the control thread has ended. */
void ferryi_exports_close(struct ferryi_exports *exports);

/* Between these nothing is served, and what comes waits. Returns when no access is under way. */
void ferryi_exports_pause(struct ferryi_exports *exports);
void ferryi_exports_resume(struct ferryi_exports *exports);

/* ferryi_control_attr.on_access, ctx the exports. Control thread. */
void ferryi_exports_on_access(void *ctx, struct ferryi_access_call *call);

/* As the public calls. */
int ferryi_mirror_export(struct ferryi_exports *exports, struct ferryi_session *session, struct ferry_mirror *mirror,
			 const char *name, unsigned perms);
int ferryi_mirror_unexport(struct ferryi_exports *exports, const struct ferry_mirror *mirror);
bool ferryi_mirror_is_exported(struct ferryi_exports *exports, const struct ferry_mirror *mirror);

#endif
