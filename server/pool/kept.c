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
	char name[FERRYI_BOOK_NAME_LEN]; /* of one with a secret: a text that is no name */
	bool has_secret;
	uint64_t heir; /* who stands by; 0: nobody */
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
	kept->nentries -= !entry->has_secret;
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

/* ---- leases that may have an heir ---- */

/* Names have no blanks. */
static struct ferryi_kept_entry **find_secret(struct ferryi_kept *kept,
					      const uint8_t secret[FERRYI_POOL_SECRET_LEN],
					      char name[FERRYI_BOOK_NAME_LEN])
{
	int n = snprintf(name, FERRYI_BOOK_NAME_LEN, "heir ");

	for (size_t i = 0; i < FERRYI_POOL_SECRET_LEN; i++)
		n += snprintf(name + n, FERRYI_BOOK_NAME_LEN - (size_t)n, "%02x", secret[i]);
	return find(kept, name);
}

int ferryi_kept_bequeath(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN])
{
	char name[FERRYI_BOOK_NAME_LEN];
	struct ferryi_kept_entry *entry;

	if (*find_secret(kept, secret, name))
		return -EEXIST;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	memcpy(entry->name, name, sizeof(name));
	entry->has_secret = true;
	entry->held = true;
	entry->next = kept->entries;
	kept->entries = entry;
	return 0;
}

int ferryi_kept_stand_by(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
			 uint64_t heir)
{
	char name[FERRYI_BOOK_NAME_LEN];
	struct ferryi_kept_entry *entry = *find_secret(kept, secret, name);

	if (!entry || !entry->held)
		return -ENOENT;
	if (entry->heir)
		return -EBUSY;
	entry->heir = heir;
	return 0;
}

bool ferryi_kept_has_heir(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN])
{
	char name[FERRYI_BOOK_NAME_LEN];
	const struct ferryi_kept_entry *entry = *find_secret(kept, secret, name);

	return entry && entry->heir;
}

bool ferryi_kept_leave(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN],
		       struct ferryi_pool_extent *list, uint64_t until_ns)
{
	char name[FERRYI_BOOK_NAME_LEN];
	struct ferryi_kept_entry **at = find_secret(kept, secret, name);

	assert(*at && (*at)->held);
	if (!list || !(*at)->heir) {
		drop(kept, at);
		return false;
	}
	(*at)->held = false;
	(*at)->extents = list;
	(*at)->until_ns = until_ns;
	return true;
}

int ferryi_kept_claim(struct ferryi_kept *kept, const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir,
		      struct ferryi_pool_extent **list)
{
	char name[FERRYI_BOOK_NAME_LEN];
	struct ferryi_kept_entry **at = find_secret(kept, secret, name);

	*list = NULL;
	if (!*at || (*at)->heir != heir)
		return -ENOENT;
	if ((*at)->held)
		return -EBUSY;
	*list = (*at)->extents;
	drop(kept, at);
	return 0;
}

struct ferryi_pool_extent *ferryi_kept_renounce(struct ferryi_kept *kept,
						const uint8_t secret[FERRYI_POOL_SECRET_LEN], uint64_t heir)
{
	char name[FERRYI_BOOK_NAME_LEN];
	struct ferryi_kept_entry **at = find_secret(kept, secret, name);
	struct ferryi_pool_extent *list;

	if (!*at || (*at)->heir != heir)
		return NULL;
	(*at)->heir = 0;
	if ((*at)->held)
		return NULL;
	list = (*at)->extents;
	drop(kept, at);
	return list;
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
