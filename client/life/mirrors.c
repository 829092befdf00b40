/* The public calls of mirrors: the struct ferry is checked here, client/mirror does the work. */
#include <errno.h>

#include "error.h"
#include "life.h"
#include "view.h"

/* A registered mirror's struct ferry; NULL, with a line, otherwise. */
static struct ferry *ferry_of(const struct ferry_mirror *mirror, const char *call)
{
	if (!mirror || !mirror->ferry) {
		ferryi_control_fail(-EINVAL, "%s: the mirror is not registered", call);
		return NULL;
	}
	return ferryi_ferry_check(mirror->ferry, call) ? NULL : mirror->ferry;
}

int ferry_mirror_register(struct ferry_mirror *mirror, struct ferry *ferry)
{
	int rc = ferryi_ferry_check(ferry, "mirror_register");

	return rc ? rc : ferryi_mirror_register(&ferry->mirrors, mirror);
}

int ferry_mirror_unregister(struct ferry_mirror *mirror)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_unregister");

	int rc = ferry ? ferryi_mirror_unregister(&ferry->mirrors, mirror) : -EINVAL;

	if (!rc && ferryi_mirror_is_exported(&ferry->exports, mirror))
		ferryi_mirror_unexport(&ferry->exports, mirror);
	return rc;
}

int ferry_mirror_read(struct ferry_mirror *mirror, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_read");

	return ferry ? ferryi_mirror_read(&ferry->mirrors, mirror, va, buf, len, stats) : -EINVAL;
}

int ferry_mirror_write(struct ferry_mirror *mirror, uintptr_t va, const void *buf, size_t len,
		       struct ferry_mirror_stats *stats)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_write");

	return ferry ? ferryi_mirror_write(&ferry->mirrors, mirror, va, buf, len, stats) : -EINVAL;
}

int ferry_mirror_peek(struct ferry_mirror *mirror, uintptr_t va, void *buf, size_t len)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_peek");

	return ferry ? ferryi_mirror_peek(&ferry->mirrors, mirror, va, buf, len) : -EINVAL;
}

int ferry_exclusive_acquire(struct ferry_mirror *mirror, void *addr, size_t len)
{
	struct ferry *ferry = ferry_of(mirror, "exclusive_acquire");

	return ferry ? ferryi_mirror_exclusive_acquire(&ferry->mirrors, mirror, addr, len) : -EINVAL;
}

long ferry_exclusive_query(struct ferry_mirror *mirror, void *addr, size_t len)
{
	struct ferry *ferry = ferry_of(mirror, "exclusive_query");

	return ferry ? ferryi_mirror_exclusive_query(&ferry->mirrors, mirror, addr, len) : -EINVAL;
}

int ferry_exclusive_release(struct ferry_mirror *mirror, void *addr, size_t len)
{
	struct ferry *ferry = ferry_of(mirror, "exclusive_release");

	return ferry ? ferryi_mirror_exclusive_release(&ferry->mirrors, mirror, addr, len) : -EINVAL;
}

int ferry_exclusive_update(struct ferry_mirror *mirror, void *addr, size_t len,
			   void (*update)(void *arg, void *bytes, size_t len), void *arg)
{
	struct ferry *ferry = ferry_of(mirror, "exclusive_update");

	return ferry ? ferryi_mirror_exclusive_update(&ferry->mirrors, mirror, addr, len, update, arg) : -EINVAL;
}

/* ---- seen from another process ---- */

static struct ferryi_session *first_session(struct ferry *ferry)
{
	ferryi_mutex_lock(&ferry->lock);
	struct ferryi_session *session = ferry->sessions[0];

	ferryi_mutex_unlock(&ferry->lock);
	return session;
}

int ferry_mirror_export(struct ferry_mirror *mirror, const char *name, unsigned perms)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_export");

	return ferry ? ferryi_mirror_export(&ferry->exports, first_session(ferry), mirror, name, perms) : -EINVAL;
}

int ferry_mirror_unexport(struct ferry_mirror *mirror)
{
	struct ferry *ferry = ferry_of(mirror, "mirror_unexport");

	return ferry ? ferryi_mirror_unexport(&ferry->exports, mirror) : -EINVAL;
}

int ferry_mirror_open(struct ferry *ferry, const char *name, struct ferry_mirror_view **out)
{
	int rc = ferryi_ferry_check(ferry, "mirror_open");

	return rc ? rc : ferryi_view_open(&ferry->mirrors, ferry->arena, first_session(ferry), name, out);
}

/* An open view, of this process: not one of a fork's parent. */
static int check_view(const struct ferry_mirror_view *view, const char *call)
{
	int rc = ferryi_view_check(view, call);

	return rc ? rc : ferryi_ferry_check(ferryi_view_ferry(view), call);
}

int ferry_view_read(struct ferry_mirror_view *view, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats)
{
	int rc = check_view(view, "view_read");

	return rc ? rc : ferryi_view_read(view, va, buf, len, stats);
}

int ferry_view_write(struct ferry_mirror_view *view, uintptr_t va, const void *buf, size_t len,
		     struct ferry_mirror_stats *stats)
{
	int rc = check_view(view, "view_write");

	return rc ? rc : ferryi_view_write(view, va, buf, len, stats);
}

int ferry_view_close(struct ferry_mirror_view *view)
{
	int rc = check_view(view, "view_close");

	return rc ? rc : ferryi_view_close(view);
}
