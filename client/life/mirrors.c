/* The public calls of mirrors: the struct ferry is checked here, client/mirror does the work. */
#include <errno.h>

#include "error.h"
#include "life.h"

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

	return ferry ? ferryi_mirror_unregister(&ferry->mirrors, mirror) : -EINVAL;
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
