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
