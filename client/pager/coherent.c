/* Pages of coherent pools, one by one: their content, faults on them, a device's access. See coherent.h. */
#include "coherent.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "access.h"
#include "clock.h"
#include "fetch_priv.h"
#include "pager_priv.h"
#include "uffd.h"

int ferryi_coherent_io(struct ferryi_pager *pager, uint64_t pfn, size_t off, void *read_to, const void *write_from,
		       size_t len)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	ssize_t n;

	if (!sub || sub->memfd < 0)
		return -EINVAL;
	off_t at = (off_t)(sub->remote_off + (pfn % FERRYI_PAGES_PER_SUBSECTION) * FERRYI_PAGE_SIZE + off);

	do {
		n = read_to ? pread(sub->memfd, read_to, len, at) : pwrite(sub->memfd, write_from, len, at);
	} while (n < 0 && errno == EINTR);
	if (n == (ssize_t)len)
		return 0;
	/* Truncated: what is left ends before the page, and its seal lets nobody write it longer. */
	return n >= 0 || errno == EPERM ? -EKEYREVOKED : -errno;
}

bool ferryi_coherent_is_revoked(struct ferryi_pager *pager, uint64_t pfn)
{
	const struct ferryi_subsection *sub = ferryi_subsection_of(pager->model, pfn);
	struct stat st;

	return sub && sub->memfd >= 0 && fstat(sub->memfd, &st) == 0 && (uint64_t)st.st_size <= sub->remote_off;
}

/* ---- a page that is ours for a moment ---- */

/* COHERENT -> FETCHING (ours); zeroed if it was dropped. false: somebody has changed the word. */
static bool claim(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t old)
{
	bool dropped = old & FERRYI_PAGE_DROPPED;
	struct ferryi_notice notice;

	if (!ferryi_page_cas(ferryi_ref_word(ref), &old,
			     ferryi_page_with(old & ~FERRYI_PAGE_DROPPED, FERRYI_PAGE_FETCHING)))
		return false;
	if (!dropped)
		return true;
	ferryi_notify_begin(pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_REMOVE, NULL);
	ferryi_coherent_io(pager, ferryi_object_pfn(ref->object, ref->index), 0, NULL, pager->zeros, FERRYI_PAGE_SIZE);
	ferryi_notify_end(&notice);
	return true;
}

/* COHERENT again, and DROPPED if that has come meanwhile. */
static void release(const struct ferryi_page_ref *ref)
{
	uint64_t now = ferryi_page_load(ferryi_ref_word(ref));

	while (!ferryi_page_cas(ferryi_ref_word(ref), &now, ferryi_page_with(now, FERRYI_PAGE_COHERENT)))
		;
}

int ferryi_coherent_fault(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word)
{
	void *va = (void *)ref->va;

	if (word & FERRYI_PAGE_DROPPED) {
		if (!claim(pager, ref, word))
			return -EAGAIN;
		release(ref);
	}
	long rc = ferryi_uffd_continue(pager->uffd, va, FERRYI_PAGE_SIZE);

	if (rc == -EFAULT) /* MADV_REMOVE has taken the page out of the file */
		rc = ferryi_uffd_copy(pager->uffd, va, pager->zeros, FERRYI_PAGE_SIZE);
	if (rc == -EAGAIN || rc == -ENOMEM)
		return (int)rc;
	if (rc < 0) /* it is there; or it was taken back, and touching it raises SIGBUS */
		ferryi_uffd_wake(pager->uffd, va, FERRYI_PAGE_SIZE);
	return 0;
}

int ferryi_coherent_access(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word,
			   struct ferryi_access *a)
{
	uint64_t pfn = ferryi_object_pfn(ref->object, ref->index);
	uint8_t bytes[FERRYI_PAGE_SIZE]; /* the caller's may be memory that is away, or this very page */

	if (a->write_from)
		memcpy(bytes, a->write_from, a->len);
	if (!claim(pager, ref, word))
		return -EAGAIN;
	int rc = ferryi_coherent_io(pager, pfn, a->va % FERRYI_PAGE_SIZE, a->read_to ? bytes : NULL, bytes, a->len);

	release(ref);
	ferryi_fetch_wake(pager, ref->object, ref->index, 1);
	if (!rc && a->read_to)
		memcpy(a->read_to, bytes, a->len);
	a->place = FERRYI_ACCESS_POOL;
	return rc;
}

/* ---- a block on its way in ---- */

bool ferryi_coherent_is_unasked(const struct ferry_pool *pool, const struct ferryi_block *block, const void *owner)
{
	return ferryi_pool_is_coherent(pool) && owner != ferryi_pool_owner(pool) && !atomic_load(&block->entering);
}

void ferryi_coherent_entry_begin(struct ferryi_block *block)
{
	atomic_store(&block->entering, (int)syscall(SYS_gettid));
}

void ferryi_coherent_entry_end(struct ferryi_pager *pager, struct ferryi_block *block)
{
	atomic_store(&block->entering, 0);
	ferryi_pager_wake_handlers(pager);
}

bool ferryi_coherent_entry_blocks(struct ferryi_pager *pager, const struct ferryi_block *block,
				  const struct ferryi_fault *fault)
{
	int tid = atomic_load_explicit(&block->entering, memory_order_relaxed);

	if (!tid || fault->forced || fault->tid == tid)
		return false;
	/* Long before its deadline it goes on all the same: rather this page stays in RAM than that it is poisoned. */
	return ferryi_now_ns() - fault->start_ns < pager->attr.fault_timeout_ms * FERRYI_NS_PER_MS / 2;
}
