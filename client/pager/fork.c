/*
 * fork: managed ranges carry MADV_DONTFORK, so that no child, not even one of a
 * raw clone(2), sees zeros in their place. The atfork handler then maps an
 * empty file over each range in the child: a touch there raises SIGBUS, and
 * ferry_fault_query says FORKED.
 *
 *   prepare: take the area table's read lock (no half-made change is copied)
 *   parent:  release it
 *   child:   the only thread; map the guards, set `forked`
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"
#include "pager_priv.h"

/* One struct ferry a process (ferry_open keeps that), so one pager. */
static _Atomic(struct ferryi_pager *) the_pager;

static void before_fork(void)
{
	struct ferryi_pager *pager = atomic_load(&the_pager);

	if (pager)
		ferryi_areas_read_lock(&pager->areas);
}

static void after_fork_in_parent(void)
{
	struct ferryi_pager *pager = atomic_load(&the_pager);

	if (pager)
		ferryi_areas_read_unlock(&pager->areas);
}

static void after_fork_in_child(void)
{
	struct ferryi_pager *pager = atomic_load(&the_pager);

	if (!pager)
		return;
	for (unsigned i = 0; i < pager->areas.nr_areas; i++) {
		const struct ferryi_area *area = &pager->areas.areas[i];

		mmap((void *)area->start, area->end - area->start, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, pager->fork_guard_fd, 0);
	}
	atomic_store(&pager->forked, true);
	/* The parent's userfaultfd would keep its faults readable here. */
	close(pager->uffd);
}

static void install_handlers(void)
{
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

int ferryi_fork_guard_open(struct ferryi_pager *pager)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pager->fork_guard_fd = memfd_create("ferry-fork-guard", MFD_CLOEXEC);
	if (pager->fork_guard_fd < 0)
		return -errno;
	pthread_once(&once, install_handlers);
	atomic_store(&the_pager, pager);
	return 0;
}

void ferryi_fork_guard_close(struct ferryi_pager *pager)
{
	atomic_store(&the_pager, NULL);
	close(pager->fork_guard_fd);
}
