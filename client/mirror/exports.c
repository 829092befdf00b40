/* See exports.h. */
#include "exports.h"

#include <errno.h>
#include <string.h>

#include "access.h"
#include "arith.h"
#include "clock.h"
#include "error.h"
#include "log.h"
#include "thread.h"

_Static_assert(FERRYI_EXPORT_READ == FERRY_EXPORT_READ && FERRYI_EXPORT_WRITE == FERRY_EXPORT_WRITE, "as ferry.h has them");

#define STACK_BYTES ((size_t)1 << 20)
#define NAME_CHARS  "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
#define NAME_MAX_LEN 63u

/* ---- one access: export thread ---- */

static void count(struct ferryi_access_result *result, const struct ferryi_access *a)
{
	result->rounds += a->rounds;
	result->pages_ram += a->place == FERRYI_ACCESS_RAM;
	result->pages_pool += a->place != FERRYI_ACCESS_RAM;
	result->pages_populated += a->populated;
	result->pages_home += a->came_home;
}

static int serve_page(struct ferryi_exports *exports, const struct ferryi_export *export, const struct ferryi_access_call *call,
		      size_t done, size_t len, struct ferryi_access_result *result)
{
	struct ferryi_access a = { .va = call->va + done,
				   .len = len,
				   .read_to = call->data ? NULL : exports->data + result->data_len,
				   .write_from = call->data ? call->data + done : NULL,
				   .owner = export->mirror->owner,
				   .holder = export->mirror,
				   .place_for = call->places ? call->session : NULL };
	int rc = ferryi_mirror_access_page(exports->mirrors, &a);

	if (rc == -ENOTCONN)
		return ferryi_control_fail(-EIO, "view: %#lx is in a pool whose server the exporter cannot reach",
					   (unsigned long)a.va);
	if (rc)
		return ferryi_mirror_access_fail("view", rc, a.va, call->data != NULL);
	count(result, &a);
	if (call->data)
		return 0;
	if (a.place == FERRYI_ACCESS_PLACED)
		result->page[result->npages] =
			(struct ferryi_access_page){ .extent_id = a.extent_id, .off = a.extent_off, .hash = a.hash };
	else
		result->data_len += len;
	result->npages++;
	return 0;
}

static int serve(struct ferryi_exports *exports, const struct ferryi_export *export, const struct ferryi_access_call *call,
		 struct ferryi_access_result *result)
{
	unsigned need = call->data ? FERRYI_EXPORT_WRITE : FERRYI_EXPORT_READ;
	int rc;

	if (!(export->perms & need))
		return ferryi_control_fail(-EPERM, "view: the mirror is not exported for that");
	if (call->va + call->len < call->va)
		return ferryi_control_fail(-EFAULT, "view: the range wraps round");
	rc = ferryi_mirror_check_rights(exports->mirrors, "view", call->va, call->len, call->data != NULL);
	for (size_t done = 0; !rc && done < call->len;) {
		if (ferryi_now_ns() >= call->deadline_ns) /* nobody waits for it: others do */
			return ferryi_control_fail(-ETIMEDOUT, "view: the exporter could not do the access in time");
		size_t in_page = FERRYI_PAGE_SIZE - (call->va + done) % FERRYI_PAGE_SIZE;
		size_t n = ferryi_min_u64(in_page, call->len - done);

		rc = serve_page(exports, export, call, done, n, result);
		done += n;
	}
	return rc;
}

static const struct ferryi_export *find_call_locked(const struct ferryi_exports *exports, const struct ferryi_access_call *call)
{
	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++) {
		const struct ferryi_export *export = &exports->export[i];

		if (export->mirror && !export->leaving && export->id == call->export_id && export->session == call->session)
			return export;
	}
	return NULL;
}

static void work(struct ferryi_exports *exports, const struct ferryi_export *export, struct ferryi_access_call *call)
{
	struct ferryi_access_result result = { .data = exports->data };
	int rc;

	if (export)
		rc = serve(exports, export, call, &result);
	else
		rc = ferryi_control_fail(-ESHUTDOWN, "view: the mirror is exported no more");
	ferryi_access_answer(&call, rc, ferryi_control_last_error(), &result);
}

static struct ferryi_access_call *pop_locked(struct ferryi_exports *exports)
{
	struct ferryi_access_call *call = exports->head;

	if (!call)
		return NULL;
	exports->head = call->next;
	if (!exports->head)
		exports->tail = &exports->head;
	exports->nqueued--;
	return call;
}

static void *export_main(void *arg)
{
	struct ferryi_exports *exports = arg;
	struct ferryi_access_call *call;

	pthread_setname_np(pthread_self(), "ferry-export");
	ferryi_mutex_lock(&exports->lock);
	while (!exports->stopped) {
		call = exports->paused ? NULL : pop_locked(exports);
		if (!call) {
			ferryi_cond_wait_until(&exports->changed, &exports->lock, UINT64_MAX);
			continue;
		}
		const struct ferryi_export *export = find_call_locked(exports, call);

		exports->running = export;
		ferryi_mutex_unlock(&exports->lock);
		work(exports, export, call);
		ferryi_mutex_lock(&exports->lock);
		exports->running = NULL;
		pthread_cond_broadcast(&exports->changed);
	}
	ferryi_mutex_unlock(&exports->lock);
	return NULL;
}

/* ---- control thread ---- */

void ferryi_exports_on_access(void *ctx, struct ferryi_access_call *call)
{
	struct ferryi_exports *exports = ctx;
	int rc = 0;

	ferryi_mutex_lock(&exports->lock);
	if (exports->stopped) {
		rc = -ESHUTDOWN;
	} else if (exports->nqueued >= FERRYI_EXPORT_QUEUE) {
		rc = -EBUSY;
	} else {
		call->next = NULL;
		*exports->tail = call;
		exports->tail = &call->next;
		exports->nqueued++;
		pthread_cond_broadcast(&exports->changed);
	}
	ferryi_mutex_unlock(&exports->lock);
	if (rc)
		ferryi_access_answer(&call, rc,
				     rc == -EBUSY ? "view: the exporter has too many accesses under way" :
						    "view: the exporter ends",
				     NULL);
}

/* ---- life ---- */

void ferryi_exports_open(struct ferryi_exports *exports, struct ferryi_mirrors *mirrors, struct ferryi_arena *arena)
{
	memset(exports, 0, sizeof(*exports));
	exports->mirrors = mirrors;
	exports->arena = arena;
	exports->next_id = 1;
	exports->tail = &exports->head;
	ferryi_mutex_init(&exports->life, FERRYI_RANK_EXPORTS);
	ferryi_mutex_init(&exports->lock, FERRYI_RANK_LEAF);
	ferryi_cond_init(&exports->changed);
}

static int start_locked(struct ferryi_exports *exports)
{
	int rc;

	ferryi_assert_held(&exports->life);
	if (exports->started)
		return 0;
	if (!exports->data)
		exports->data = ferryi_arena_alloc(exports->arena, FERRYI_ACCESS_MAX);
	if (!exports->stack)
		exports->stack = ferryi_arena_alloc(exports->arena, STACK_BYTES);
	if (!exports->data || !exports->stack)
		return ferryi_control_fail(-ENOMEM, "mirror_export: no memory for the library's own tables");
	rc = ferryi_thread_start_on(&exports->thread, exports->stack, STACK_BYTES, export_main, exports);
	if (rc)
		return ferryi_control_fail(rc, "mirror_export: no thread to serve it: %s", ferryi_strerror(rc));
	exports->started = true;
	return 0;
}

void ferryi_exports_stop(struct ferryi_exports *exports)
{
	struct ferryi_access_call *call;

	ferryi_mutex_lock(&exports->lock);
	exports->stopped = true;
	pthread_cond_broadcast(&exports->changed);
	ferryi_mutex_unlock(&exports->lock);
	if (exports->started)
		pthread_join(exports->thread, NULL);
	exports->started = false;
	/* Nothing comes to the queue any more. */
	while ((call = pop_locked(exports)))
		ferryi_access_answer(&call, -ESHUTDOWN, "view: the exporter ends", NULL);
}

void ferryi_exports_close(struct ferryi_exports *exports)
{
	pthread_cond_destroy(&exports->changed);
	ferryi_mutex_fini(&exports->lock);
	ferryi_mutex_fini(&exports->life);
}

void ferryi_exports_pause(struct ferryi_exports *exports)
{
	ferryi_mutex_lock(&exports->lock);
	exports->paused = true;
	while (exports->running)
		ferryi_cond_wait_until(&exports->changed, &exports->lock, UINT64_MAX);
	ferryi_mutex_unlock(&exports->lock);
}

void ferryi_exports_resume(struct ferryi_exports *exports)
{
	ferryi_mutex_lock(&exports->lock);
	exports->paused = false;
	pthread_cond_broadcast(&exports->changed);
	ferryi_mutex_unlock(&exports->lock);
}

/* ---- exporting ---- */

static int check_args(struct ferryi_exports *exports, const struct ferry_mirror *mirror, const char *name, unsigned perms)
{
	int rc = ferryi_mirror_check(exports->mirrors, mirror, "mirror_export");

	if (rc)
		return rc;
	if (!name || !name[0] || strlen(name) > NAME_MAX_LEN || name[strspn(name, NAME_CHARS)])
		return ferryi_control_fail(-EINVAL, "mirror_export: a name is 1 to %u letters, digits, '.', '_' and '-'",
					   NAME_MAX_LEN);
	if (!perms || (perms & ~(FERRYI_EXPORT_READ | FERRYI_EXPORT_WRITE)))
		return ferryi_control_fail(-EINVAL, "mirror_export: perms are FERRY_EXPORT_READ, FERRY_EXPORT_WRITE, or both");
	return 0;
}

static struct ferryi_export *find_mirror_locked(struct ferryi_exports *exports, const struct ferry_mirror *mirror)
{
	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++) {
		if (exports->export[i].mirror == mirror)
			return &exports->export[i];
	}
	return NULL;
}

bool ferryi_mirror_is_exported(struct ferryi_exports *exports, const struct ferry_mirror *mirror)
{
	ferryi_mutex_lock(&exports->lock);
	bool is = find_mirror_locked(exports, mirror);

	ferryi_mutex_unlock(&exports->lock);
	return is;
}

/* In the table before the server knows it: the first access may be here before the server's answer is. */
static int enlist(struct ferryi_exports *exports, struct ferryi_session *session, const struct ferry_mirror *mirror,
		  unsigned perms, struct ferryi_export **out)
{
	struct ferryi_export *free_one;
	int rc = 0;

	ferryi_mutex_lock(&exports->lock);
	free_one = find_mirror_locked(exports, NULL);
	if (find_mirror_locked(exports, mirror))
		rc = ferryi_control_fail(-EBUSY, "mirror_export: it is exported already; ferry_mirror_unexport ends that");
	else if (!free_one)
		rc = ferryi_control_fail(-EBUSY, "mirror_export: exports of other mirrors are being withdrawn");
	else
		*free_one = (struct ferryi_export){ .mirror = mirror, .session = session, .id = exports->next_id++, .perms = perms };
	ferryi_mutex_unlock(&exports->lock);
	*out = free_one;
	return rc;
}

/* No access to it begins or goes on after this. */
static void delist(struct ferryi_exports *exports, struct ferryi_export *export)
{
	ferryi_mutex_lock(&exports->lock);
	export->leaving = true;
	while (exports->running == export)
		ferryi_cond_wait_until(&exports->changed, &exports->lock, UINT64_MAX);
	export->mirror = NULL;
	ferryi_mutex_unlock(&exports->lock);
}

int ferryi_mirror_export(struct ferryi_exports *exports, struct ferryi_session *session, struct ferry_mirror *mirror,
			 const char *name, unsigned perms)
{
	struct ferryi_export *export;
	int rc = check_args(exports, mirror, name, perms);

	if (rc)
		return rc;
	ferryi_mutex_lock(&exports->life);
	rc = start_locked(exports);
	ferryi_mutex_unlock(&exports->life);
	if (!rc)
		rc = enlist(exports, session, mirror, perms, &export);
	if (rc)
		return rc;
	rc = ferryi_session_export(session, export->id, name, perms);
	if (!rc)
		return 0;
	if (rc == -ETIMEDOUT) { /* the server may do it yet */
		ferryi_session_unexport(session, export->id);
		ferryi_control_fail(rc, "mirror_export: ferryd at %s did not answer in time", ferryi_session_name(session));
	}
	delist(exports, export);
	return rc;
}

int ferryi_mirror_unexport(struct ferryi_exports *exports, const struct ferry_mirror *mirror)
{
	struct ferryi_export *export = NULL;

	if (ferryi_mirror_in_callback())
		return ferryi_control_fail(-EDEADLK, "mirror_unexport: called by a callback, which it could wait for");
	ferryi_mutex_lock(&exports->lock);
	if (mirror)
		export = find_mirror_locked(exports, mirror);
	if (export && export->leaving)
		export = NULL; /* another thread is at it */
	if (export)
		export->leaving = true;
	ferryi_mutex_unlock(&exports->lock);
	if (!export)
		return ferryi_control_fail(-EINVAL, "mirror_unexport: it is not exported");
	/* Refused here from now on; the server tells the readers, and takes their keys back. */
	if (ferryi_session_unexport(export->session, export->id))
		ferryi_warn("mirror_unexport: readers are refused, but the server was not told: %s",
			    ferryi_control_last_error());
	delist(exports, export);
	return 0;
}
