/* Exports and views. See views.h. Control thread, but for what runs as a job. */
#include "views.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

struct view;

struct ferryi_export {
	struct ferryi_export *next, **pprev; /* on hub->exports */
	struct ferryi_views *owner;
	uint64_t id; /* the client's number */
	char name[FERRYI_MAX_NAME + 1];
	uint32_t perms;
	struct view *views; /* linked by next_of_export */
};

struct view {
	struct ferryi_job
		drop; /* first member: the view ends as a job of the exporter's worker, which cannot fail */
	struct view *next; /* of its reader */
	struct view *next_of_export;
	struct ferryi_views *reader;
	struct ferryi_export *export; /* NULL: withdrawn, or its process gone */
	struct ferryi_grants *grants; /* the exporter's, for drop */
	uint64_t id;
};

/* One access at its exporter. */
struct access {
	struct access *next; /* on its exporter's list */
	uint64_t id;
	uint64_t export_id;
	struct ferryi_views *reader; /* NULL: nobody waits any more */
	uint64_t request_id;
};

struct ferryi_views {
	/* immutable */
	struct ferryi_hub *hub;
	uint64_t session_id;
	struct ferryi_user *user;
	struct ferryi_grants *grants;
	char label[96];
	void (*put)(void *ctx, struct ferryi_reply *reply);
	void *ctx;
	/* owned by the control thread */
	struct ferryi_views *next, **pprev; /* on hub->views */
	unsigned nexports, nviews;
	struct view *views;
	struct access *accesses; /* at this session's exports */
	unsigned naccesses;	 /* of them */
	unsigned nasked;	 /* accesses and extents that this session waits for, as a reader */
};

/* ---- replies ---- */

static void put_envelope(struct ferryi_views *views, const Farferry__Envelope *envelope)
{
	struct ferryi_reply reply = {0};

	ferryi_reply_encode(&reply, envelope);
	views->put(views->ctx, &reply);
}

static void put_error(struct ferryi_views *views, uint64_t request_id, Farferry__Code code, const char *text)
{
	struct ferryi_reply reply = {0};

	ferryi_reply_error(&reply, request_id, code, "%s", text);
	views->put(views->ctx, &reply);
}

static void put_done(struct ferryi_views *views, uint64_t request_id)
{
	struct ferryi_reply reply = {0};

	ferryi_reply_done(&reply, request_id);
	views->put(views->ctx, &reply);
}

static void put_gone(struct ferryi_views *views, uint64_t request_id)
{
	put_error(views, request_id, FARFERRY__CODE__CODE_GONE,
		  "the mirror is exported no more: it was withdrawn, or its process has ended");
}

static void put_no_memory(struct ferryi_views *views, uint64_t request_id)
{
	put_error(views, request_id, FARFERRY__CODE__CODE_INTERNAL, "the server is out of memory");
}

/* One more is charged to the user; true: it cannot be, and the request is answered. */
static bool over_quota(struct ferryi_views *views, uint64_t request_id, enum ferryi_quota_kind kind)
{
	char why[256];

	if (!ferryi_user_charge(views->user, kind, 1, 0, why, sizeof(why)))
		return false;
	put_error(views, request_id, FARFERRY__CODE__CODE_LIMIT, why);
	return true;
}

/* ---- exports ---- */

/* Of the same user: nobody reaches another one's memory by knowing a name. */
static struct ferryi_export *export_by_name(const struct ferryi_views *views, const char *name)
{
	struct ferryi_export *export = views->hub->exports;

	while (export && (export->owner->user != views->user || strcmp(export->name, name) != 0))
		export = export->next;
	return export;
}

static struct ferryi_export *export_by_id(const struct ferryi_views *views, uint64_t id)
{
	struct ferryi_export *export = views->hub->exports;

	while (export && (export->owner != views || export->id != id))
		export = export->next;
	return export;
}

static void on_export(struct ferryi_views *views, uint64_t request_id, const Farferry__ExportRequest *request)
{
	struct ferryi_export *export;

	if (views->nexports >= views->hub->limits.exports) {
		put_error(
			views, request_id, FARFERRY__CODE__CODE_LIMIT,
			"this session exports as many mirrors as the server's limit (--max-exports) allows");
		return;
	}
	if (export_by_name(views, request->name)) {
		put_error(views, request_id, FARFERRY__CODE__CODE_EXISTS,
			  "a mirror of that name is exported already; choose another name");
		return;
	}
	if (export_by_id(views, request->export_id)) {
		put_error(views, request_id, FARFERRY__CODE__CODE_INVALID,
			  "this session has an export of that number already");
		return;
	}
	if (over_quota(views, request_id, FERRYI_QUOTA_EXPORTS))
		return;
	export = calloc(1, sizeof(*export));
	if (!export) {
		ferryi_user_refund(views->user, FERRYI_QUOTA_EXPORTS, 1);
		put_no_memory(views, request_id);
		return;
	}
	export->owner = views;
	export->id = request->export_id;
	export->perms = request->perms;
	snprintf(export->name, sizeof(export->name), "%s", request->name);
	export->next = views->hub->exports;
	export->pprev = &views->hub->exports;
	if (export->next)
		export->next->pprev = &export->next;
	views->hub->exports = export;
	views->nexports++;
	ferryi_count(&views->hub->status.g_exports, 1);
	ferryi_info("%s: exports mirror '%s'%s%s", views->label, export->name,
		    export->perms & FERRYI_PERM_READ ? " to read" : "",
		    export->perms & FERRYI_PERM_WRITE ? " to write" : "");
	put_done(views, request_id);
}

static void drop_run(struct ferryi_job *job)
{
	struct view *view = (struct view *)job;

	ferryi_grants_view_drop(view->grants, view->id);
}

static void drop_done(struct ferryi_job *job)
{
	free(job);
}

/* From now on the view says that the mirror is gone. What it may read of the pool ends in the background. */
static void view_cut(struct view *view)
{
	struct ferryi_export *export = view->export;

	if (!export)
		return;
	for (struct view **at = &export->views; *at; at = &(*at)->next_of_export) {
		if (*at == view) {
			*at = view->next_of_export;
			break;
		}
	}
	view->export = NULL;
}

static void drop_begin(struct ferryi_jobs *jobs, uint64_t exporter_id, struct view *view)
{
	view->drop.run = drop_run;
	view->drop.done = drop_done;
	ferryi_jobs_submit(jobs, exporter_id, &view->drop);
}

/* The export is gone for who views it. What its views were lent of the pool is the caller's to take back. */
static void export_end(struct ferryi_export *export)
{
	struct ferryi_views *views = export->owner;

	while (export->views)
		view_cut(export->views);
	for (struct access *access = views->accesses; access; access = access->next) {
		if (!access->reader || access->export_id != export->id)
			continue;
		access->reader->nasked--;
		put_gone(access->reader, access->request_id);
		access->reader = NULL;
	}
	ferryi_info("%s: mirror '%s' is exported no more", views->label, export->name);
	*export->pprev = export->next;
	if (export->next)
		export->next->pprev = export->pprev;
	views->nexports--;
	ferryi_user_refund(views->user, FERRYI_QUOTA_EXPORTS, 1);
	ferryi_uncount(&views->hub->status.g_exports, 1);
	free(export);
}

/* An export that is withdrawn: its views' keys are revoked, and then it is done. The readers keep their
 * handles. */
struct unexport_job {
	struct ferryi_job job;
	struct ferryi_hub *hub;
	struct ferryi_grants *grants;
	uint64_t session_id; /* it may be gone when the job is done */
	uint64_t request_id;
	size_t nviews;
	uint64_t view_ids[];
};

/* Context: the exporter's worker. */
static void unexport_run(struct ferryi_job *job)
{
	struct unexport_job *u = (struct unexport_job *)job;

	for (size_t i = 0; i < u->nviews; i++)
		ferryi_grants_view_drop(u->grants, u->view_ids[i]);
}

static struct ferryi_views *views_find(struct ferryi_hub *hub, uint64_t session_id)
{
	struct ferryi_views *views = hub->views;

	while (views && views->session_id != session_id)
		views = views->next;
	return views;
}

static void unexport_done(struct ferryi_job *job)
{
	struct unexport_job *u = (struct unexport_job *)job;
	struct ferryi_views *views = views_find(u->hub, u->session_id);

	if (views)
		put_done(views, u->request_id);
	free(u);
}

static void on_unexport(struct ferryi_views *views, uint64_t request_id,
			const Farferry__UnexportRequest *request)
{
	struct ferryi_export *export = export_by_id(views, request->export_id);
	struct unexport_job *u;
	size_t n = 0;

	if (!export) {
		put_error(views, request_id, FARFERRY__CODE__CODE_NO_LEASE,
			  "this session has no export of that number");
		return;
	}
	for (struct view *view = export->views; view; view = view->next_of_export)
		n++;
	u = calloc(1, sizeof(*u) + n * sizeof(u->view_ids[0]));
	if (!u) {
		put_no_memory(views, request_id);
		return;
	}
	u->job.run = unexport_run;
	u->job.done = unexport_done;
	u->hub = views->hub;
	u->grants = views->grants;
	u->session_id = views->session_id;
	u->request_id = request_id;
	for (struct view *view = export->views; view; view = view->next_of_export)
		u->view_ids[u->nviews++] = view->id;
	export_end(export);
	ferryi_jobs_submit(views->hub->jobs, views->session_id, &u->job);
}

/* ---- views ---- */

static struct view *view_find(const struct ferryi_views *views, uint64_t id)
{
	struct view *view = views->views;

	while (view && view->id != id)
		view = view->next;
	return view;
}

static void on_view_open(struct ferryi_views *views, uint64_t request_id,
			 const Farferry__ViewOpenRequest *request)
{
	struct ferryi_export *export = export_by_name(views, request->name);
	Farferry__ViewReply message = FARFERRY__VIEW_REPLY__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	struct view *view;

	if (!export) {
		put_error(views, request_id, FARFERRY__CODE__CODE_NO_LEASE,
			  "no mirror of that name is exported here");
		return;
	}
	if (views->nviews >= views->hub->limits.views) {
		put_error(views, request_id, FARFERRY__CODE__CODE_LIMIT,
			  "this session has as many views as the server's limit (--max-views) allows");
		return;
	}
	if (over_quota(views, request_id, FERRYI_QUOTA_VIEWS))
		return;
	view = calloc(1, sizeof(*view));
	if (!view) {
		ferryi_user_refund(views->user, FERRYI_QUOTA_VIEWS, 1);
		put_no_memory(views, request_id);
		return;
	}
	view->id = atomic_fetch_add(&views->hub->next_id, 1);
	view->reader = views;
	view->export = export;
	view->grants = export->owner->grants;
	view->next = views->views;
	views->views = view;
	view->next_of_export = export->views;
	export->views = view;
	views->nviews++;
	ferryi_count(&views->hub->status.g_views, 1);
	ferryi_info("%s: views mirror '%s' of %s", views->label, export->name, export->owner->label);
	message.view_id = view->id;
	message.perms = export->perms;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_REPLY;
	envelope.view_reply = &message;
	put_envelope(views, &envelope);
}

/* Takes the view off its reader's list and frees it, now or as a job. */
static void view_end(struct view **at)
{
	struct view *view = *at;
	struct ferryi_views *views = view->reader;
	struct ferryi_export *export = view->export;

	*at = view->next;
	views->nviews--;
	ferryi_user_refund(views->user, FERRYI_QUOTA_VIEWS, 1);
	ferryi_uncount(&views->hub->status.g_views, 1);
	if (!export) {
		free(view);
		return;
	}
	view_cut(view);
	drop_begin(views->hub->jobs, export->owner->session_id, view);
}

static void on_view_close(struct ferryi_views *views, uint64_t request_id,
			  const Farferry__ViewCloseRequest *request)
{
	for (struct view **at = &views->views; *at; at = &(*at)->next) {
		if ((*at)->id != request->view_id)
			continue;
		view_end(at);
		put_done(views, request_id);
		return;
	}
	put_error(views, request_id, FARFERRY__CODE__CODE_NO_LEASE, "this session has no such view");
}

/* The view and its export, or NULL with the request answered. */
static struct view *view_live(struct ferryi_views *views, uint64_t request_id, uint64_t view_id)
{
	struct view *view = view_find(views, view_id);

	if (!view) {
		put_error(views, request_id, FARFERRY__CODE__CODE_NO_LEASE, "this session has no such view");
		return NULL;
	}
	if (!view->export) {
		put_gone(views, request_id);
		return NULL;
	}
	if (views->nasked >= FERRYI_VIEW_ASKED) {
		put_error(views, request_id, FARFERRY__CODE__CODE_BUSY,
			  "this session has too many accesses to views under way; wait for replies");
		return NULL;
	}
	return view;
}

/* ---- accesses ---- */

static int notify_exporter(struct ferryi_export *export, const struct access *access,
			   Farferry__ViewAccessRequest *request)
{
	Farferry__AccessNotice notice = FARFERRY__ACCESS_NOTICE__INIT;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	struct ferryi_reply frame = {0};

	notice.access_id = access->id;
	notice.export_id = export->id;
	notice.access = request;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ACCESS;
	envelope.access = &notice;
	if (ferryi_frame_encode(&envelope, &frame.bytes, &frame.len))
		return -ENOMEM;
	export->owner->put(export->owner->ctx, &frame);
	return 0;
}

static void on_view_access(struct ferryi_views *views, uint64_t request_id,
			   Farferry__ViewAccessRequest *request)
{
	struct view *view = view_live(views, request_id, request->view_id);
	const bool write = request->data.len != 0;
	struct ferryi_views *exporter;
	struct access *access;

	if (!view)
		return;
	if (!(view->export->perms & (write ? FERRYI_PERM_WRITE : FERRYI_PERM_READ))) {
		put_error(views, request_id, FARFERRY__CODE__CODE_PERM,
			  write ? "the mirror is not exported for writing"
				: "the mirror is not exported for reading");
		return;
	}
	exporter = view->export->owner;
	if (exporter->naccesses >= FERRYI_VIEW_ACCESSES) {
		put_error(views, request_id, FARFERRY__CODE__CODE_BUSY,
			  "the exporter has too many accesses under way; ask again");
		return;
	}
	access = calloc(1, sizeof(*access));
	if (!access) {
		put_no_memory(views, request_id);
		return;
	}
	access->id = atomic_fetch_add(&views->hub->next_id, 1);
	access->export_id = view->export->id;
	access->reader = views;
	access->request_id = request_id;
	if (notify_exporter(view->export, access, request)) {
		free(access);
		put_no_memory(views, request_id);
		return;
	}
	access->next = exporter->accesses;
	exporter->accesses = access;
	exporter->naccesses++;
	views->nasked++;
	ferryi_count(&views->hub->status.c_view_accesses_total, 1);
}

static void on_access_answer(struct ferryi_views *views, const Farferry__AccessAnswer *answer)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	struct access **at = &views->accesses, *access;

	while (*at && (*at)->id != answer->access_id)
		at = &(*at)->next;
	access = *at;
	if (!access) {
		ferryi_debug("%s: answers access %" PRIu64 ", which is none", views->label,
			     answer->access_id);
		return;
	}
	*at = access->next;
	views->naccesses--;
	if (access->reader) {
		access->reader->nasked--;
		envelope.request_id = access->request_id;
		if (answer->reply) {
			envelope.body_case = FARFERRY__ENVELOPE__BODY_VIEW_ACCESS_REPLY;
			envelope.view_access_reply = answer->reply;
		} else {
			envelope.body_case = FARFERRY__ENVELOPE__BODY_ERROR;
			envelope.error = answer->error;
		}
		put_envelope(access->reader, &envelope);
	}
	free(access);
}

/* ---- extents ---- */

struct extent_job {
	struct ferryi_job job;
	struct ferryi_hub *hub;
	struct ferryi_grants *grants;
	uint64_t reader_id; /* session: it may be gone when the job is done */
	uint64_t view_id, extent_id, request_id;
	struct ferryi_reply reply;
};

/* Context: the exporter's worker. */
static void extent_run(struct ferryi_job *job)
{
	struct extent_job *e = (struct extent_job *)job;

	ferryi_grants_view_extent(e->grants, e->view_id, e->extent_id, e->request_id, &e->reply);
}

static void extent_done(struct ferryi_job *job)
{
	struct extent_job *e = (struct extent_job *)job;
	struct ferryi_views *reader = views_find(e->hub, e->reader_id);

	if (reader) {
		reader->nasked--;
		reader->put(reader->ctx, &e->reply);
	}
	free(e->reply.bytes);
	free(e);
}

static void on_view_extent(struct ferryi_views *views, uint64_t request_id,
			   const Farferry__ViewExtentRequest *request)
{
	struct view *view = view_live(views, request_id, request->view_id);
	struct extent_job *e;

	if (!view)
		return;
	if (!(view->export->perms & FERRYI_PERM_READ)) {
		put_error(views, request_id, FARFERRY__CODE__CODE_PERM,
			  "the mirror is not exported for reading");
		return;
	}
	e = calloc(1, sizeof(*e));
	if (!e) {
		put_no_memory(views, request_id);
		return;
	}
	e->job.run = extent_run;
	e->job.done = extent_done;
	e->hub = views->hub;
	e->grants = view->export->owner->grants;
	e->reader_id = views->session_id;
	e->view_id = view->id;
	e->extent_id = request->extent_id;
	e->request_id = request_id;
	views->nasked++;
	ferryi_count(&views->hub->status.c_view_extents_total, 1);
	ferryi_jobs_submit(views->hub->jobs, view->export->owner->session_id, &e->job);
}

/* ---- interface ---- */

int ferryi_views_open(const struct ferryi_views_attr *attr, struct ferryi_views **out)
{
	struct ferryi_views *views = calloc(1, sizeof(*views));

	*out = views;
	if (!views)
		return -ENOMEM;
	views->hub = attr->hub;
	views->session_id = attr->session_id;
	views->user = attr->user;
	views->grants = attr->grants;
	views->put = attr->put;
	views->ctx = attr->ctx;
	snprintf(views->label, sizeof(views->label), "%s", attr->label);
	views->next = views->hub->views;
	views->pprev = &views->hub->views;
	if (views->next)
		views->next->pprev = &views->next;
	views->hub->views = views;
	return 0;
}

/* Whoever still works on an access of this reader's answers nobody. */
static void forget_reader(struct ferryi_views *reader)
{
	for (struct ferryi_views *exporter = reader->hub->views; exporter; exporter = exporter->next) {
		for (struct access *access = exporter->accesses; access; access = access->next) {
			if (access->reader == reader)
				access->reader = NULL;
		}
	}
}

void ferryi_views_close(struct ferryi_views **viewsp)
{
	struct ferryi_views *views = *viewsp;
	struct ferryi_export *next;

	if (!views)
		return;
	*viewsp = NULL;
	forget_reader(views);
	while (views->views)
		view_end(&views->views);
	for (struct ferryi_export *export = views->hub->exports; export; export = next) {
		next = export->next;
		if (export->owner == views)
			export_end(export); /* its tenants, those of views too, end with its grants */
	}
	while (views->accesses) {
		struct access *access = views->accesses;

		views->accesses = access->next;
		free(access);
	}
	*views->pprev = views->next;
	if (views->next)
		views->next->pprev = views->pprev;
	free(views);
}

bool ferryi_views_request(struct ferryi_views *views, const Farferry__Envelope *request)
{
	const uint64_t id = request->request_id;

	switch (request->body_case) {
	case FARFERRY__ENVELOPE__BODY_EXPORT_REQUEST:
		on_export(views, id, request->export_request);
		return true;
	case FARFERRY__ENVELOPE__BODY_UNEXPORT:
		on_unexport(views, id, request->unexport);
		return true;
	case FARFERRY__ENVELOPE__BODY_VIEW_OPEN:
		on_view_open(views, id, request->view_open);
		return true;
	case FARFERRY__ENVELOPE__BODY_VIEW_CLOSE:
		on_view_close(views, id, request->view_close);
		return true;
	case FARFERRY__ENVELOPE__BODY_VIEW_ACCESS:
		on_view_access(views, id, request->view_access);
		return true;
	case FARFERRY__ENVELOPE__BODY_VIEW_EXTENT:
		on_view_extent(views, id, request->view_extent);
		return true;
	case FARFERRY__ENVELOPE__BODY_ACCESS_ANSWER:
		on_access_answer(views, request->access_answer);
		return true;
	default:
		return false;
	}
}
