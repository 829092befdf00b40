/* See access.h. */
#include "access.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "callback.h"
#include "clock.h"
#include "exclusive.h"
#include "fetch_priv.h"
#include "service.h"
#include "uffd.h"

#define PAUSE_MS 1

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

/* ---- in RAM: the page is pinned by us ---- */

/* By the kernel, which respects the mapping's rights at this moment. 0, -EFAULT. */
static int copy_ram(const struct ferryi_access *a)
{
	struct iovec mine = { .iov_base = a->read_to ? a->read_to : (void *)(uintptr_t)a->write_from, .iov_len = a->len };
	struct iovec theirs = { .iov_base = (void *)a->va, .iov_len = a->len };
	ssize_t n = a->read_to ? process_vm_readv(getpid(), &mine, 1, &theirs, 1, 0) :
				 process_vm_writev(getpid(), &mine, 1, &theirs, 1, 0);

	return n == (ssize_t)a->len ? 0 : n < 0 ? -errno : -EFAULT;
}

static int access_ram(struct ferryi_pager *pager, struct ferryi_access *a, uint64_t deadline_ns)
{
	uintptr_t page = a->va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	int rc = copy_ram(a);

	if (rc == -EFAULT) {
		/* A hole that the application's MADV_DONTNEED left: where system calls may not fault, fill it for them. */
		struct ferryi_fault fault = { .va = page, .start_ns = ferryi_now_ns(), .deadline_ns = deadline_ns };

		ferryi_service_fault(pager, &fault);
		rc = copy_ram(a);
	}
	a->place = FERRYI_ACCESS_RAM;
	return rc;
}

/* ---- in the pool: the page is claimed by us, the service lock held ---- */

/* *torn: the write has failed after it was sent, and may have landed in part. */
static int write_pool(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, struct ferryi_access *a, uint8_t *bounce,
		      bool *torn)
{
	int rc = 0;

	if (a->len < FERRYI_PAGE_SIZE)
		rc = ferryi_service_io(pager, ref, FERRYI_OP_READ, bounce);
	if (rc)
		return rc;
	memcpy(bounce + a->va % FERRYI_PAGE_SIZE, a->write_from, a->len);
	rc = ferryi_service_io(pager, ref, FERRYI_OP_WRITE, bounce);
	*torn = rc && rc != -ENOLINK;
	if (!rc)
		ferryi_page_describe(pager->model, ferryi_object_pfn(ref->object, ref->index), ref->va,
				     XXH3_64bits(bounce, FERRYI_PAGE_SIZE));
	return rc;
}

static int access_pool(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t old, struct ferryi_access *a)
{
	ferryi_page_word *word = ferryi_ref_word(ref);
	uint8_t *bounce = pager->service_evictor->batch[0].bounce;
	struct ferryi_notice notice;
	bool torn = false;
	int rc;

	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
		return -EAGAIN;
	ferryi_uncount(&pager->counters.g_away_pages, 1);
	if (a->read_to) {
		rc = ferryi_service_io(pager, ref, FERRYI_OP_READ, bounce);
		if (!rc)
			memcpy(a->read_to, bounce + a->va % FERRYI_PAGE_SIZE, a->len);
	} else {
		rc = write_pool(pager, ref, a, bounce, &torn);
	}
	if (torn) { /* nobody is to see the mixture */
		ferryi_notify_begin(pager->attr.notifier, &notice, ref->va, FERRYI_PAGE_SIZE, FERRY_UPDATE_POISON, a->owner);
		ferryi_page_freed(pager, ferryi_object_pfn(ref->object, ref->index));
		ferryi_page_void(pager->model, ferryi_object_pfn(ref->object, ref->index));
		ferryi_page_release(word, ferryi_page_poisoned(FERRY_FAULT_IO, rc));
		ferryi_notify_end(&notice);
	} else {
		ferryi_page_stays_away(pager, ref->object, ref->index);
	}
	ferryi_fetch_wake(pager, ref->object, ref->index, 1);
	a->place = FERRYI_ACCESS_POOL;
	return rc == -ENOLINK ? -ENOTCONN : rc;
}

/* ---- in the pool, for somebody else to read ---- */

static bool find_extent(const struct ferryi_lease *lease, const struct ferryi_remote *remote, uint64_t *id)
{
	for (unsigned i = ferryi_lease_extent_count(lease); i-- > 0;) {
		const struct ferryi_extent *extent = ferryi_lease_extent(lease, i);

		if (extent->remote.key == remote->key && extent->remote.addr == remote->addr) {
			*id = extent->id;
			return true;
		}
	}
	return false;
}

/* The pool's content is a page's own, of that hash, and others of its session can be let to it. */
static bool may_place(struct ferry_pool *pool, uint64_t word, const struct ferryi_access *a)
{
	const struct ferryi_lease *lease = ferryi_pool_lease(pool);

	return a->place_for && (word & FERRYI_PAGE_COPIED) && !ferryi_lender_is_lost(ferryi_pool_lender(pool)) && !ferryi_pool_ops(pool) &&
	       ferryi_lease_session(lease) == a->place_for && !(ferryi_lease_row(lease)->flags & FERRYI_FABRIC_SAME_HOST);
}

/* The page is held for a moment, as by an access: its hash and its place are its owner's. -ENOENT: read it. */
static int place(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t old, struct ferryi_access *a)
{
	uint64_t pfn = ferryi_object_pfn(ref->object, ref->index);
	ferryi_page_word *word = ferryi_ref_word(ref);
	struct ferryi_remote remote;
	int rc = -ENOENT;

	if (!ferryi_page_cas(word, &old, ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
		return -EAGAIN;
	ferryi_uncount(&pager->counters.g_away_pages, 1);
	/* The block is bound while a page of it is away: its pool stays. */
	struct ferry_pool *pool = ferryi_locate(pager, pfn, &remote, &a->extent_off);

	if (pool && may_place(pool, old, a) && find_extent(ferryi_pool_lease(pool), &remote, &a->extent_id)) {
		a->hash = ferryi_pfn_to_page(pager->model, pfn)->hash;
		a->place = FERRYI_ACCESS_PLACED;
		rc = 0;
	}
	ferryi_page_stays_away(pager, ref->object, ref->index);
	ferryi_fetch_wake(pager, ref->object, ref->index, 1);
	return rc;
}

/* ---- one page ---- */

/* It is AWAY, in a pool of the device's. */
static int access_own(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, uint64_t word, struct ferryi_access *a)
{
	int rc;

	if (a->place_for) {
		rc = place(pager, ref, word, a);
		if (rc != -ENOENT)
			return rc;
		word = ferryi_page_load(ferryi_ref_word(ref));
		if (ferryi_page_state(word) != FERRYI_PAGE_AWAY)
			return -EAGAIN;
	}
	ferryi_mutex_lock(&pager->service_lock);
	rc = access_pool(pager, ref, word, a);
	ferryi_mutex_unlock(&pager->service_lock);
	return rc;
}

static bool is_own(struct ferryi_pager *pager, const struct ferryi_page_ref *ref, const void *owner)
{
	struct ferryi_remote remote;
	uint64_t off;
	struct ferry_pool *pool = ferryi_locate(pager, ferryi_object_pfn(ref->object, ref->index), &remote, &off);

	uint64_t pfn = pool ? ferryi_object_pfn(ref->object, ref->index) : 0;

	/* What has failed there comes home by a replica, or not at all. */
	return pool && ferryi_pool_owner(pool) == owner && !(ferryi_pool_any_failed(pool) && ferryi_pool_page_failed(pool, pfn));
}

/* One look; -EAGAIN: look again. */
static int try_access(struct ferryi_pager *pager, struct ferryi_access *a, uint64_t deadline_ns)
{
	uintptr_t page = a->va & ~(uintptr_t)(FERRYI_PAGE_SIZE - 1);
	struct ferryi_page_ref ref;
	uint64_t word;
	int rc = -EAGAIN;

	if (!ferryi_service_look(pager, page, &ref, &word))
		return -ENOENT;
	enum ferryi_page_state state = ferryi_page_state(word);
	bool own = state == FERRYI_PAGE_AWAY && is_own(pager, &ref, a->owner);

	if (state == FERRYI_PAGE_COHERENT) /* any device's to reach, as the CPU does */
		own = !a->pool_only || is_own(pager, &ref, a->owner);
	if (a->pool_only && !own && !ferryi_page_is_transient(word))
		return -ENOENT;
	switch (state) {
	case FERRYI_PAGE_COHERENT:
		rc = ferryi_coherent_access(pager, &ref, word, a);
		return rc == -EKEYREVOKED ? -EIO : rc;
	case FERRYI_PAGE_RESIDENT:
		if (ferryi_service_pin_resident(pager, page))
			return -EAGAIN;
		rc = access_ram(pager, a, deadline_ns);
		ferryi_service_unpin(pager, page);
		return rc;
	case FERRYI_PAGE_AWAY:
		if (own)
			return access_own(pager, &ref, word, a);
		a->came_home = true;
		rc = ferryi_service_bring(pager, page, page + FERRYI_PAGE_SIZE, false);
		return rc ? rc : -EAGAIN;
	case FERRYI_PAGE_EXCLUSIVE:
		rc = ferryi_exclusive_access(pager, &ref, word, a);
		if (rc != -ENOENT)
			return rc;
		ferryi_service_fault(pager, &(struct ferryi_fault){ .va = page, .forced = true, .deadline_ns = deadline_ns });
		return -EAGAIN;
	case FERRYI_PAGE_ABSENT:
		a->populated = true;
		ferryi_service_fault(pager, &(struct ferryi_fault){ .va = page, .forced = true, .deadline_ns = deadline_ns });
		return -EAGAIN;
	case FERRYI_PAGE_POISONED:
		return -EIO;
	default: /* on its way in or out: that ends by itself */
		poll(NULL, 0, PAUSE_MS);
		return -EAGAIN;
	}
}

int ferryi_pager_access(struct ferryi_pager *pager, struct ferryi_access *a)
{
	uint64_t deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms);
	int rc;

	a->populated = a->came_home = false;
	a->rounds = 0;
	ferryi_events_settle(pager);
	do {
		rc = try_access(pager, a, deadline_ns);
		a->rounds++;
	} while (rc == -EAGAIN && ferryi_now_ns() < deadline_ns);
	return rc == -EAGAIN ? -ETIMEDOUT : rc;
}

int ferryi_pager_want(struct ferryi_pager *pager, uintptr_t page, bool write)
{
	struct ferryi_fault fault = { .va = page, .write = write,
				      .deadline_ns = ferryi_deadline_ms(pager->attr.fault_timeout_ms) };
	struct ferryi_page_ref ref;
	uint64_t word;

	if (!ferryi_service_look(pager, page, &ref, &word)) {
		int rc = madvise((void *)page, FERRYI_PAGE_SIZE, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);

		return !rc ? 0 : errno == ENOMEM ? -ENOMEM : -EFAULT;
	}
	switch (ferryi_page_state(word)) {
	case FERRYI_PAGE_COHERENT:
	case FERRYI_PAGE_AWAY:
		return ferryi_service_bring(pager, page, page + FERRYI_PAGE_SIZE, false) ? -EFAULT : 0;
	case FERRYI_PAGE_ABSENT:
	case FERRYI_PAGE_EXCLUSIVE:
		fault.forced = true;
		ferryi_service_fault(pager, &fault);
		return 0;
	case FERRYI_PAGE_RESIDENT: /* a hole of the application's own making */
		fault.start_ns = ferryi_now_ns();
		ferryi_service_fault(pager, &fault);
		return 0;
	case FERRYI_PAGE_POISONED:
		return -EFAULT;
	default:
		poll(NULL, 0, PAUSE_MS);
		return 0;
	}
}
