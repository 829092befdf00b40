/* See callback.h. */
#include "callback.h"

#include <errno.h>

#include "clock.h"
#include "folio.h"
#include "pager_priv.h"

bool ferryi_callback_has_engine(const struct ferry_pool *pool)
{
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);

	return ops && ops->migrate_to_ram;
}

bool ferryi_callback_has_replica(const struct ferry_pool *pool)
{
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);

	return ops && ops->memory_failure;
}

bool ferryi_callback_keeps_copies(const struct ferry_pool *pool)
{
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);

	return !ops || (!ops->migrate_to_ram && !ops->page_free);
}

/* ---- the reference ---- */

void ferryi_page_store(struct ferryi_pager *pager, uint64_t pfn)
{
	atomic_store_explicit(&ferryi_pfn_to_page(pager->model, pfn)->refs, 1, memory_order_relaxed);
}

void ferryi_page_store_undo(struct ferryi_pager *pager, uint64_t pfn)
{
	atomic_store_explicit(&ferryi_pfn_to_page(pager->model, pfn)->refs, 0, memory_order_relaxed);
}

static void free_pages(struct ferryi_pager *pager, uint64_t pfn, unsigned nr)
{
	struct ferry_pool *pool = ferryi_subsection_of(pager->model, pfn)->pool;
	struct ferry_page *page = ferryi_pfn_to_page(pager->model, pfn);
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);

	for (unsigned i = 0; i < nr; i++)
		atomic_store_explicit(&page[i].refs, 0, memory_order_relaxed);
	if (ops && ops->page_free)
		ops->page_free(pool, pfn);
}

void ferryi_page_freed(struct ferryi_pager *pager, uint64_t pfn)
{
	ferryi_folio_split(pager, pfn);
	free_pages(pager, pfn, 1);
}

void ferryi_folio_freed(struct ferryi_pager *pager, uint64_t pfn)
{
	free_pages(pager, pfn, FERRYI_FOLIO_PAGES);
}

void ferryi_page_stays_away(struct ferryi_pager *pager, struct ferryi_object *object, size_t index)
{
	ferryi_page_word *word = &object->words[index];
	uint64_t old = ferryi_page_load(word);
	bool freed = false;

	for (;;) {
		bool dropped = old & FERRYI_PAGE_DROPPED;

		if (dropped && !freed) {
			ferryi_page_freed(pager, ferryi_object_pfn(object, index));
			ferryi_page_void(pager->model, ferryi_object_pfn(object, index));
			freed = true;
		}
		if (ferryi_page_cas(word, &old, dropped ? (uint64_t)FERRYI_PAGE_ABSENT : FERRYI_PAGE_AWAY | FERRYI_PAGE_COPIED)) {
			if (!dropped)
				ferryi_count(&pager->counters.g_away_pages, 1);
			return;
		}
	}
}

/* ---- content ---- */

static int run_engine(struct ferry_pool *pool, uint64_t pfn, struct ferryi_pager *pager, struct ferryi_fetch *fetch)
{
	struct ferry_device_fault fault = {
		.size = sizeof(fault),
		.pfn = pfn,
		.va = fetch->fault.va,
		.write = fetch->fault.write,
		.to = fetch->op.local,
		.drvdata = atomic_load(&ferryi_pfn_to_page(pager->model, pfn)->drvdata),
	};

	switch (ferryi_pool_ops(pool)->migrate_to_ram(pool, &fault)) {
	case FERRY_VM_FAULT_MINOR:
		fetch->minor = true;
		return 0;
	case FERRY_VM_FAULT_MAJOR:
		return 0;
	case FERRY_VM_FAULT_RETRY:
		return -EAGAIN;
	case FERRY_VM_FAULT_OOM:
		return -ENOMEM;
	case FERRY_VM_FAULT_SIGBUS:
		break;
	}
	fetch->fault.give_up = true;
	return -EIO;
}

int ferryi_callback_fill(struct ferryi_pager *pager, struct ferryi_fetch *fetch)
{
	uint64_t pfn = ferryi_object_pfn(fetch->object, fetch->index);
	struct ferry_pool *pool = ferryi_subsection_of(pager->model, pfn)->pool;

	ferryi_folio_split(pager, pfn); /* a driver is asked for single pages, with drvdata of their own */
	if (fetch->fill == FERRYI_FILL_ENGINE) {
		int rc = run_engine(pool, pfn, pager, fetch);

		if (!rc || ferryi_now_ns() < fetch->fault.deadline_ns)
			return rc;
		if (fetch->fault.forced && !fetch->fault.give_up)
			return -ENOENT; /* it ends here: who asked for the page looks at it, and reports */
		fetch->fault.give_up = true;
		return rc;
	}
	if (fetch->fill == FERRYI_FILL_MEMFD) {
		int rc = ferryi_coherent_io(pager, pfn, 0, fetch->op.local, NULL, FERRYI_PAGE_SIZE);

		fetch->fault.give_up = rc != 0;
		return rc;
	}
	if (ferryi_pool_ops(pool)->memory_failure(pool, pfn, fetch->op.local) == 0)
		return 0;
	fetch->fault.give_up = true;
	return -EHWPOISON;
}
