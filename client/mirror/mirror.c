/* See mirror.h. */
#include "mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "exclusive.h"
#include "range.h"
#include "log.h"

#define EXIT_WAIT_MS 10000 /* for callbacks that run when the process exits */

/* A callback runs in this thread. */
static _Thread_local bool in_callback;

/* ---- the notifier: fault path ---- */

/* A driver's error: it counts as 0, as to the kernel, which says so once too. */
static void complain(struct ferryi_mirrors *mirrors, const struct ferry_update *update, int rc)
{
	if (!atomic_exchange(&mirrors->has_complained, true))
		ferryi_warn("mirror: invalidate of %#lx-%#lx returned %d (%s) %s: taken for 0", (unsigned long)update->start,
			    (unsigned long)update->end, rc, ferryi_strerror(rc),
			    rc == -EAGAIN ? "where it may sleep" : "instead of 0 or -EAGAIN");
}

/* 0, or -EAGAIN: a mirror has refused; those after it have not been asked. */
static int tell(struct ferryi_mirrors *mirrors, const struct ferry_update *update)
{
	int refused = 0;

	for (unsigned i = 0; i < FERRY_MAX_MIRRORS && !refused; i++) {
		ferryi_mutex_lock(&mirrors->lock);
		struct ferry_mirror *mirror = mirrors->leaving[i] ? NULL : mirrors->mirror[i];

		if (mirror)
			mirrors->running[i]++;
		ferryi_mutex_unlock(&mirrors->lock);
		if (!mirror)
			continue;
		bool outer = in_callback;

		in_callback = true;
		int rc = mirror->ops->invalidate(mirror, update);

		in_callback = outer;
		if (rc == -EAGAIN && !update->blockable)
			refused = rc;
		else if (rc)
			complain(mirrors, update, rc);
		ferryi_mutex_lock(&mirrors->lock);
		if (--mirrors->running[i] == 0)
			pthread_cond_broadcast(&mirrors->changed);
		ferryi_mutex_unlock(&mirrors->lock);
	}
	return refused;
}

static void end(struct ferryi_notifier *notifier, struct ferryi_notice *notice)
{
	struct ferryi_mirrors *mirrors = (struct ferryi_mirrors *)notifier;

	ferryi_mutex_lock(&mirrors->lock);
	if (notice->prev)
		notice->prev->next = notice->next;
	else
		mirrors->under_way = notice->next;
	if (notice->next)
		notice->next->prev = notice->prev;
	pthread_cond_broadcast(&mirrors->changed);
	ferryi_mutex_unlock(&mirrors->lock);
}

static int begin(struct ferryi_notifier *notifier, struct ferryi_notice *notice)
{
	struct ferryi_mirrors *mirrors = (struct ferryi_mirrors *)notifier;

	ferryi_mutex_lock(&mirrors->lock);
	notice->prev = NULL;
	notice->next = mirrors->under_way;
	if (notice->next)
		notice->next->prev = notice;
	mirrors->under_way = notice;
	ferryi_ranges_changed_locked(mirrors, &notice->update);
	ferryi_mutex_unlock(&mirrors->lock);
	int rc = tell(mirrors, &notice->update);

	if (rc)
		end(notifier, notice);
	return rc;
}

/* ---- life ---- */

int ferryi_mirrors_open(struct ferryi_mirrors *mirrors, struct ferry *ferry)
{
	memset(mirrors, 0, sizeof(*mirrors));
	mirrors->notifier.begin = begin;
	mirrors->notifier.end = end;
	mirrors->ferry = ferry;
	mirrors->maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (mirrors->maps_fd < 0)
		return ferryi_control_fail(-errno, "cannot open /proc/self/maps: %s", ferryi_strerror(errno));
	ferryi_mutex_init(&mirrors->lock, FERRYI_RANK_MIRRORS);
	ferryi_cond_init(&mirrors->changed);
	return 0;
}

void ferryi_mirrors_close(struct ferryi_mirrors *mirrors)
{
	for (unsigned i = 0; i < FERRY_MAX_MIRRORS; i++) {
		struct ferry_mirror *mirror = mirrors->mirror[i];

		if (!mirror)
			continue;
		if (mirror->ops->release && !mirrors->leaving[i]) /* else it was told at exit */
			mirror->ops->release(mirror);
		mirror->ferry = NULL;
	}
	pthread_cond_destroy(&mirrors->changed);
	ferryi_mutex_fini(&mirrors->lock);
	close(mirrors->maps_fd);
}

void ferryi_mirrors_exit(struct ferryi_mirrors *mirrors)
{
	uint64_t deadline_ns = ferryi_deadline_ms(EXIT_WAIT_MS);

	for (unsigned i = 0; i < FERRY_MAX_MIRRORS && !in_callback; i++) {
		ferryi_mutex_lock(&mirrors->lock);
		struct ferry_mirror *mirror = mirrors->leaving[i] ? NULL : mirrors->mirror[i];

		mirrors->leaving[i] = mirrors->leaving[i] || mirror; /* and stays so: no callback begins any more */
		while (mirror && mirrors->running[i] &&
		       !ferryi_cond_wait_until(&mirrors->changed, &mirrors->lock, deadline_ns))
			;
		ferryi_mutex_unlock(&mirrors->lock);
		if (mirror && mirror->ops->release)
			mirror->ops->release(mirror);
	}
}

int ferryi_mirrors_begin_close(struct ferryi_mirrors *mirrors)
{
	ferryi_mutex_lock(&mirrors->lock);
	bool busy = mirrors->ranges, viewing = mirrors->nr_views;

	mirrors->closing = !busy && !viewing;
	ferryi_mutex_unlock(&mirrors->lock);
	if (viewing)
		return ferryi_control_fail(-EBUSY, "close: views are open; close them first (ferry_view_close)");
	return busy ? ferryi_control_fail(-EBUSY, "close: ranges are registered; unregister them first") : 0;
}

void ferryi_mirrors_undo_close(struct ferryi_mirrors *mirrors)
{
	ferryi_mutex_lock(&mirrors->lock);
	mirrors->closing = false;
	ferryi_mutex_unlock(&mirrors->lock);
}

/* ---- registration ---- */

static int find_locked(const struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror)
{
	for (int i = 0; i < (int)FERRY_MAX_MIRRORS; i++) {
		if (mirrors->mirror[i] == mirror && !mirrors->leaving[i])
			return i;
	}
	return -1;
}

static int find_free_locked(const struct ferryi_mirrors *mirrors)
{
	for (int i = 0; i < (int)FERRY_MAX_MIRRORS; i++) {
		if (!mirrors->mirror[i])
			return i;
	}
	return -1;
}

int ferryi_mirror_check(struct ferryi_mirrors *mirrors, const struct ferry_mirror *mirror, const char *call)
{
	ferryi_mutex_lock(&mirrors->lock);
	bool found = mirror && find_locked(mirrors, mirror) >= 0;

	ferryi_mutex_unlock(&mirrors->lock);
	return found ? 0 : ferryi_control_fail(-EINVAL, "%s: the mirror is not registered", call);
}

int ferryi_mirror_register(struct ferryi_mirrors *mirrors, struct ferry_mirror *mirror)
{
	int rc = 0;

	if (!mirror || !mirror->ops || !mirror->ops->invalidate)
		return ferryi_control_fail(-EINVAL, "mirror_register: ops.invalidate must be set");
	ferryi_mutex_lock(&mirrors->lock);
	int at = find_free_locked(mirrors);

	if (find_locked(mirrors, mirror) >= 0)
		rc = -EINVAL;
	else if (at < 0)
		rc = -ENOMEM;
	else
		mirrors->mirror[at] = mirror;
	ferryi_mutex_unlock(&mirrors->lock);
	if (rc == -EINVAL)
		return ferryi_control_fail(rc, "mirror_register: it is registered already");
	if (rc)
		return ferryi_control_fail(rc, "mirror_register: %u mirrors are registered", FERRY_MAX_MIRRORS);
	mirror->ferry = mirrors->ferry;
	atomic_fetch_add(&mirrors->notifier.users, 1);
	return 0;
}

bool ferryi_mirror_in_callback(void)
{
	return in_callback;
}

int ferryi_mirror_unregister(struct ferryi_mirrors *mirrors, struct ferry_mirror *mirror)
{
	if (in_callback)
		return ferryi_control_fail(-EDEADLK, "mirror_unregister: called by a callback, which it would wait for");
	ferryi_mutex_lock(&mirrors->lock);
	int at = mirror ? find_locked(mirrors, mirror) : -1;

	if (at >= 0 && ferryi_ranges_any_of_locked(mirrors, mirror)) {
		ferryi_mutex_unlock(&mirrors->lock);
		return ferryi_control_fail(-EBUSY, "mirror_unregister: ranges of it are registered; unregister them first");
	}
	if (at >= 0) {
		mirrors->leaving[at] = true; /* no callback begins from here on */
		while (mirrors->running[at])
			ferryi_cond_wait_until(&mirrors->changed, &mirrors->lock, UINT64_MAX);
		mirrors->mirror[at] = NULL;
		mirrors->leaving[at] = false;
	}
	ferryi_mutex_unlock(&mirrors->lock);
	if (at < 0)
		return ferryi_control_fail(-EINVAL, "mirror_unregister: it is not registered");
	ferryi_exclusive_release_all(mirrors->pager, mirror, mirror->owner);
	atomic_fetch_sub(&mirrors->notifier.users, 1);
	mirror->ferry = NULL;
	return 0;
}
