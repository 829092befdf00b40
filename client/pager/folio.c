/* See folio.h. */
#include "folio.h"

#include "callback.h"
#include "clock.h"
#include "pager_priv.h"

enum { NONE = 0, FORMING, WHOLE, BUSY };

static struct ferry_page *head_of(const struct ferryi_pager *pager, uint64_t pfn)
{
	return ferryi_pfn_to_page(pager->model, pfn - pfn % FERRYI_FOLIO_PAGES);
}

bool ferryi_folio_is_for(const struct ferry_pool *pool)
{
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);

	return !ops || ops->page_split;
}

unsigned ferryi_folio_order(const struct ferry_page *page)
{
	return atomic_load(&page->folio) >= WHOLE ? FERRYI_FOLIO_ORDER : 0;
}

void ferryi_folio_begin(struct ferryi_pager *pager, uint64_t pfn)
{
	ferryi_assert_held(&pager->service_lock);
	atomic_store(&head_of(pager, pfn)->folio, FORMING);
}

bool ferryi_folio_form(struct ferryi_pager *pager, uint64_t pfn)
{
	uint32_t forming = FORMING;

	return atomic_compare_exchange_strong(&head_of(pager, pfn)->folio, &forming, WHOLE);
}

/* The folio is BUSY, by us. */
static void tell_tails(struct ferryi_pager *pager, struct ferry_page *head)
{
	uint64_t pfn = ferryi_page_to_pfn(pager->model, head);
	struct ferry_pool *pool = ferryi_subsection_of(pager->model, pfn)->pool;
	const struct ferry_pool_ops *ops = ferryi_pool_ops(pool);
	uint64_t drvdata = atomic_load(&head->drvdata);

	for (unsigned i = 1; i < FERRYI_FOLIO_PAGES; i++)
		atomic_store(&head[i].drvdata, drvdata);
	for (unsigned i = 1; ops && i < FERRYI_FOLIO_PAGES; i++)
		ops->page_split(pool, pfn, pfn + i);
}

void ferryi_folio_split(struct ferryi_pager *pager, uint64_t pfn)
{
	struct ferry_page *head = head_of(pager, pfn);
	uint32_t state = atomic_load_explicit(&head->folio, memory_order_acquire);

	while (state != NONE) {
		if (state == BUSY) {
			ferryi_cpu_relax();
			state = atomic_load_explicit(&head->folio, memory_order_acquire);
		} else if (atomic_compare_exchange_strong(&head->folio, &state,
							  state == WHOLE ? BUSY : NONE)) {
			if (state == FORMING)
				return;
			tell_tails(pager, head);
			atomic_store_explicit(&head->folio, NONE, memory_order_release);
			return;
		}
	}
}

static void split_at(struct ferryi_pager *pager, struct ferryi_object *object, size_t index)
{
	uint64_t pfn = index % FERRYI_PAGES_PER_BLOCK && index < object->nr_pages
			       ? ferryi_object_pfn(object, index)
			       : 0;

	if (pfn)
		ferryi_folio_split(pager, pfn);
}

void ferryi_folio_split_ends(struct ferryi_pager *pager, struct ferryi_object *object, size_t first,
			     size_t nr)
{
	split_at(pager, object, first);
	split_at(pager, object, first + nr);
}

/* AWAY pages of the block from `first` on become ours, until one is not: how many. */
static size_t claim(struct ferryi_pager *pager, struct ferryi_object *object, size_t first)
{
	size_t n = 0;

	for (; n < FERRYI_FOLIO_PAGES; n++) {
		uint64_t old = ferryi_page_load(&object->words[first + n]);

		if (ferryi_page_state(old) != FERRYI_PAGE_AWAY ||
		    !ferryi_page_cas(&object->words[first + n], &old,
				     ferryi_page_with(old, FERRYI_PAGE_FETCHING)))
			break;
	}
	ferryi_uncount(&pager->counters.g_away_pages, n);
	return n;
}

bool ferryi_folio_free(struct ferryi_pager *pager, struct ferryi_object *object, size_t first)
{
	uint64_t pfn = ferryi_object_pfn(object, first);
	struct ferry_page *head = pfn ? head_of(pager, pfn) : NULL;
	uint32_t whole = WHOLE;

	if (!head || atomic_load(&head->folio) != WHOLE)
		return false;
	size_t n = claim(pager, object, first);

	if (n < FERRYI_FOLIO_PAGES || !atomic_compare_exchange_strong(&head->folio, &whole, BUSY)) {
		while (n)
			ferryi_page_stays_away(pager, object, first + --n);
		return false;
	}
	ferryi_folio_freed(pager, pfn);
	atomic_store_explicit(&head->folio, NONE, memory_order_release);
	for (size_t i = 0; i < n; i++)
		ferryi_page_release(&object->words[first + i], FERRYI_PAGE_ABSENT);
	return true;
}
