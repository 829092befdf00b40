/*
 * Views: mirrors of other processes, read and written by their virtual addresses. An access is cut at 64 KiB; each piece is
 * a request to the exporter, which answers its pages in RAM with their bytes and those in a pool with their place, from
 * where the view reads them itself (view_pool.h). In the caller's thread.
 */
#ifndef FERRYI_MIRROR_VIEW_H
#define FERRYI_MIRROR_VIEW_H

#include "mirror.h"

/* As the public calls. The struct is of the arena's. */
int ferryi_view_open(struct ferryi_mirrors *mirrors, struct ferryi_arena *arena, struct ferryi_session *session,
		     const char *name, struct ferry_mirror_view **out);
int ferryi_view_close(struct ferry_mirror_view *view);
int ferryi_view_read(struct ferry_mirror_view *view, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats);
int ferryi_view_write(struct ferry_mirror_view *view, uintptr_t va, const void *buf, size_t len,
		      struct ferry_mirror_stats *stats);
/* -EINVAL with a line unless it is an open view. */
int ferryi_view_check(const struct ferry_mirror_view *view, const char *call);
/* The struct ferry of an open view. */
struct ferry *ferryi_view_ferry(const struct ferry_mirror_view *view);

#endif
