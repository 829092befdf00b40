/* Leases with a name, in memory. See kept.h. */
#include "kept.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arith.h"
#include "book.h"

struct ferryi_kept_entry {
	struct ferryi_kept_entry *next;
	char name[FERRYI_BOOK_NAME_LEN];
	bool held;
	/* of one that is not held */
	struct ferryi_pool_extent *extents; /* at least one */
	uint64_t until_ns;
};

static struct ferryi_kept_entry **find(struct ferryi_kept *kept, const char *name)
{
	struct ferryi_kept_entry **at = &kept->entries;

	while (*at && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

static void drop(struct ferryi_kept *kept, struct ferryi_kept_entry **at)
{
	struct ferryi_kept_entry *entry = *at;

	*at = entry->next;
	kept->nentries--;
	free(entry);
}

int ferryi_kept_hold(struct ferryi_kept *kept, const char *name, struct ferryi_pool_extent **list)
{
	struct ferryi_kept_entry *entry = *find(kept, name);

	*list = NULL;
	if (entry && entry->held)
		return -EBUSY;
	if (!entry) {
		if (kept->nentries >= FERRYI_BOOK_LEASES_MAX)
			return -EDQUOT;
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		snprintf(entry->name, sizeof(entry->name), "%s", name);
		entry->next = kept->entries;
		kept->entries = entry;
		kept->nentries++;
	}
	entry->held = true;
	*list = entry->extents;
	entry->extents = NULL;
	return 0;
}

void ferryi_kept_keep(struct ferryi_kept *kept, const char *name, struct ferryi_pool_extent *list,
		      uint64_t until_ns)
{
	struct ferryi_kept_entry **at = find(kept, name);

	assert(*at && (*at)->held);
	if (!list) {
		drop(kept, at);
		return;
	}
	(*at)->held = false;
	(*at)->extents = list;
	(*at)->until_ns = until_ns;
}

void ferryi_kept_forget(struct ferryi_kept *kept, const char *name)
{
	struct ferryi_kept_entry **at = find(kept, name);

	assert(*at && (*at)->held);
	drop(kept, at);
}

struct ferryi_pool_extent *ferryi_kept_expire(struct ferryi_kept *kept, uint64_t now_ns, uint64_t *next_ns)
{
	*next_ns = UINT64_MAX;
	for (struct ferryi_kept_entry **at = &kept->entries; *at; at = &(*at)->next) {
		struct ferryi_pool_extent *list = (*at)->extents;

		if ((*at)->held)
			continue;
		if ((*at)->until_ns <= now_ns) {
			drop(kept, at);
			return list;
		}
		*next_ns = ferryi_min_u64(*next_ns, (*at)->until_ns);
	}
	return NULL;
}

void ferryi_kept_failed(struct ferryi_kept *kept, uint64_t pool_off)
{
	for (struct ferryi_kept_entry *entry = kept->entries; entry; entry = entry->next) {
		for (struct ferryi_pool_extent *e = entry->extents; e; e = e->next) {
			if (pool_off < e->pool_off || pool_off - e->pool_off >= e->memory.len_bytes)
				continue;
			e->failed = true;
			entry->until_ns = 0;
		}
	}
}
