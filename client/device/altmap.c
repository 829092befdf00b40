/* See altmap.h. */
#include "altmap.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "bitmap.h"

#define MAGIC		 "FERRYALT"
#define VERSION		 1u
#define CHECK_BITS	 24u
#define SEQ_MASK	 ((1ull << (64 - CHECK_BITS)) - 1)
#define GROUPS		 (FERRYI_PAGES_PER_SUBSECTION / FERRYI_GROUP_PAGES) /* of a sub-section */
#define VA_MASK		 (~(uint64_t)(FERRYI_PAGE_SIZE - 1))

struct ferryi_altmap {
	/* immutable */
	struct ferryi_altmap_attr attr;
	uint64_t nr_groups;
	size_t nr_words, nr_summary;

	/* atomic: one writer of descriptors at a time */
	_Atomic bool writing;
	/* atomic: the number of the next description */
	_Atomic uint64_t next_seq;
	/* atomic: a bit a dirty group, and a bit a word of these; the word is set first, and taken last */
	_Atomic uint64_t *dirty, *summary;
	/* atomic: of each page of the window; its word's owner writes, encoders read */
	_Atomic uint64_t *seq;
	/* whoever recovers (recover.c: one at a time) */
	uint16_t *kept_left; /* of each kept sub-section */
	bool any_kept;
};

static size_t words_bytes(size_t n)
{
	return n * sizeof(uint64_t);
}

static size_t seq_bytes(const struct ferryi_altmap *altmap)
{
	return words_bytes((size_t)(altmap->attr.nr_subsections * FERRYI_PAGES_PER_SUBSECTION));
}

static size_t kept_bytes(const struct ferryi_altmap *altmap)
{
	return (size_t)altmap->attr.nr_kept * sizeof(*altmap->kept_left);
}

int ferryi_altmap_open(const struct ferryi_altmap_attr *attr, struct ferryi_altmap **out)
{
	struct ferryi_altmap *altmap = ferryi_arena_alloc(attr->arena, sizeof(*altmap));

	if (!altmap)
		return -ENOMEM;
	altmap->attr = *attr;
	altmap->nr_groups = attr->nr_subsections * GROUPS;
	altmap->nr_words = FERRYI_BITMAP_WORDS(altmap->nr_groups);
	altmap->nr_summary = FERRYI_BITMAP_WORDS(altmap->nr_words);
	altmap->dirty = ferryi_arena_alloc(attr->arena, words_bytes(altmap->nr_words));
	altmap->summary = ferryi_arena_alloc(attr->arena, words_bytes(altmap->nr_summary));
	altmap->seq = ferryi_arena_alloc(attr->arena, seq_bytes(altmap));
	altmap->kept_left = attr->nr_kept ? ferryi_arena_alloc(attr->arena, kept_bytes(altmap)) : NULL;
	*out = altmap;
	if (altmap->dirty && altmap->summary && altmap->seq && (altmap->kept_left || !attr->nr_kept))
		return 0;
	ferryi_altmap_close(out);
	return -ENOMEM;
}

void ferryi_altmap_close(struct ferryi_altmap **altmap_p)
{
	struct ferryi_altmap *altmap = *altmap_p;

	*altmap_p = NULL;
	if (!altmap)
		return;
	struct ferryi_arena *arena = altmap->attr.arena;

	ferryi_arena_free(arena, altmap->kept_left, kept_bytes(altmap));
	ferryi_arena_free(arena, (void *)altmap->seq, seq_bytes(altmap));
	ferryi_arena_free(arena, (void *)altmap->summary, words_bytes(altmap->nr_summary));
	ferryi_arena_free(arena, (void *)altmap->dirty, words_bytes(altmap->nr_words));
	ferryi_arena_free(arena, altmap, sizeof(*altmap));
}

/* ---- bytes ---- */

static void put64(uint8_t *to, uint64_t value)
{
	for (unsigned i = 0; i < 8; i++)
		to[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get64(const uint8_t *from)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < 8; i++)
		value |= (uint64_t)from[i] << (8 * i);
	return value;
}

/* ---- the head record ---- */

uint64_t ferryi_altmap_record_page(const struct ferryi_altmap *altmap)
{
	return altmap->attr.reserve;
}

static void record_of(uint64_t reserve, uint64_t free_pfns, uint8_t *to)
{
	memset(to, 0, FERRYI_ALTMAP_RECORD_BYTES);
	memcpy(to, MAGIC, 8);
	put64(to + 8, VERSION | (uint64_t)FERRYI_DESCRIPTOR_BYTES << 32);
	put64(to + 16, reserve);
	put64(to + 24, free_pfns);
	put64(to + 56, XXH3_64bits(to, 56));
}

void ferryi_altmap_record_encode(const struct ferryi_altmap *altmap, uint8_t *to)
{
	record_of(altmap->attr.reserve, altmap->attr.free, to);
}

int ferryi_altmap_record_check(const struct ferryi_altmap *altmap, const uint8_t *from, uint64_t *reserve,
			       uint64_t *free_pfns)
{
	uint8_t same[FERRYI_ALTMAP_RECORD_BYTES];

	*reserve = get64(from + 16);
	*free_pfns = get64(from + 24);
	record_of(*reserve, *free_pfns, same);
	if (memcmp(from, same, sizeof(same)) != 0)
		return -EBADMSG;
	return *reserve == altmap->attr.reserve && *free_pfns == altmap->attr.free ? 0 : -EINVAL;
}

/* ---- changes ---- */

static struct ferryi_altmap *altmap_of(const struct ferryi_memory_model *model, uint64_t pfn)
{
	const struct ferryi_subsection *sub = pfn ? ferryi_subsection_of(model, pfn) : NULL;
	struct ferry_pool *pool = sub ? ferryi_subsection_pool(sub) : NULL;

	return pool ? ferryi_pool_altmap(pool) : NULL;
}

void ferryi_altmap_mark(struct ferryi_altmap *altmap, uint64_t group)
{
	size_t word = (size_t)(group / 64);

	atomic_fetch_or(&altmap->dirty[word], 1ull << (group % 64));
	atomic_fetch_or(&altmap->summary[word / 64], 1ull << (word % 64));
}

static void touch(struct ferryi_altmap *altmap, uint64_t pfn)
{
	if (altmap)
		ferryi_altmap_mark(altmap, (pfn - altmap->attr.pfn_first) / FERRYI_GROUP_PAGES);
}

void ferryi_page_describe(const struct ferryi_memory_model *model, uint64_t pfn, uint64_t va, uint64_t hash)
{
	struct ferryi_altmap *altmap = altmap_of(model, pfn);
	struct ferry_page *page = ferryi_pfn_to_page(model, pfn);

	__atomic_store_n(&page->va, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&page->hash, hash, __ATOMIC_RELEASE);
	if (altmap) {
		uint64_t seq = atomic_fetch_add_explicit(&altmap->next_seq, 1, memory_order_relaxed);

		atomic_store_explicit(&altmap->seq[pfn - altmap->attr.pfn_first], seq & SEQ_MASK, memory_order_release);
	}
	__atomic_store_n(&page->va, va, __ATOMIC_RELEASE);
	touch(altmap, pfn);
}

void ferryi_page_changed(const struct ferryi_memory_model *model, const struct ferry_page *page)
{
	uint64_t pfn = ferryi_page_to_pfn(model, page);

	touch(altmap_of(model, pfn), pfn);
}

/* true: it was not void. */
static bool void_page(struct ferry_page *page)
{
	return __atomic_load_n(&page->va, __ATOMIC_RELAXED) && __atomic_exchange_n(&page->va, 0, __ATOMIC_RELEASE);
}

void ferryi_page_void(const struct ferryi_memory_model *model, uint64_t pfn)
{
	struct ferryi_altmap *altmap = altmap_of(model, pfn);

	if (altmap && void_page(ferryi_pfn_to_page(model, pfn)))
		touch(altmap, pfn);
}

void ferryi_altmap_void(struct ferryi_altmap *altmap, uint32_t subsection)
{
	uint64_t pfn = (uint64_t)subsection * FERRYI_PAGES_PER_SUBSECTION;
	struct ferry_page *page = ferryi_pfn_to_page(altmap->attr.model, pfn);

	for (unsigned i = 0; i < FERRYI_PAGES_PER_SUBSECTION; i++) {
		if (void_page(&page[i]))
			touch(altmap, pfn + i);
	}
}

/* ---- writing ---- */

bool ferryi_altmap_try_write(struct ferryi_altmap *altmap)
{
	return !atomic_exchange(&altmap->writing, true);
}

void ferryi_altmap_end_write(struct ferryi_altmap *altmap)
{
	atomic_store(&altmap->writing, false);
}

bool ferryi_altmap_is_dirty(const struct ferryi_altmap *altmap)
{
	for (size_t s = 0; s < altmap->nr_summary; s++) {
		if (atomic_load_explicit(&altmap->summary[s], memory_order_relaxed))
			return true;
	}
	return false;
}

/* Bits of *map from bit `from` on are taken off it. */
static uint64_t take_from(_Atomic uint64_t *map, unsigned from)
{
	return atomic_load_explicit(map, memory_order_relaxed) ? atomic_fetch_and(map, ~(~0ull << from)) & ~0ull << from : 0;
}

unsigned ferryi_altmap_collect(struct ferryi_altmap *altmap, uint64_t *cursor, uint64_t *groups, unsigned max)
{
	unsigned n = 0;

	for (size_t s = (size_t)(*cursor / (64 * 64)); s < altmap->nr_summary; s++) {
		uint64_t first_word = s * 64 > *cursor / 64 ? s * 64 : *cursor / 64;
		uint64_t words = take_from(&altmap->summary[s], (unsigned)(first_word % 64));

		while (words) {
			size_t w = s * 64 + (unsigned)__builtin_ctzll(words);
			unsigned from = w == *cursor / 64 ? (unsigned)(*cursor % 64) : 0;
			uint64_t bits = take_from(&altmap->dirty[w], from);

			words &= words - 1;
			for (; bits && n < max; bits &= bits - 1)
				groups[n++] = w * 64 + (unsigned)__builtin_ctzll(bits);
			/* What is left, there and in this word, is for the next call. */
			if (bits)
				atomic_fetch_or(&altmap->dirty[w], bits);
			if (atomic_load(&altmap->dirty[w]))
				atomic_fetch_or(&altmap->summary[s], 1ull << (w % 64));
			if (n == max) {
				atomic_fetch_or(&altmap->summary[s], words);
				*cursor = groups[n - 1] + 1;
				return n;
			}
		}
	}
	*cursor = UINT64_MAX;
	return n;
}

static uint64_t tail_of(uint64_t seq, const uint8_t *head, uint64_t number)
{
	uint64_t check = XXH3_64bits_withSeed(head, 24, number ^ seq << CHECK_BITS);

	return seq << CHECK_BITS | check >> (64 - CHECK_BITS);
}

static void encode_page(const struct ferryi_altmap *altmap, uint64_t number, const struct ferry_page *page, uint8_t *to)
{
	uint64_t va = __atomic_load_n(&page->va, __ATOMIC_ACQUIRE);
	uint64_t hash = __atomic_load_n(&page->hash, __ATOMIC_ACQUIRE);
	uint64_t seq = atomic_load_explicit(&altmap->seq[number], memory_order_acquire);

	if (!va || __atomic_load_n(&page->va, __ATOMIC_RELAXED) != va)
		return;
	put64(to, va);
	put64(to + 8, atomic_load(&page->drvdata));
	put64(to + 16, hash);
	put64(to + 24, tail_of(seq, to, number));
}

void ferryi_altmap_encode(const struct ferryi_altmap *altmap, uint64_t group, uint8_t *to)
{
	uint64_t number = group * FERRYI_GROUP_PAGES;
	const struct ferry_page *page = ferryi_pfn_to_page(altmap->attr.model, altmap->attr.pfn_first + number);

	memset(to, 0, FERRYI_GROUP_BYTES);
	for (unsigned i = 0; i < FERRYI_GROUP_PAGES; i++)
		encode_page(altmap, number + i, &page[i], to + (size_t)i * FERRYI_DESCRIPTOR_BYTES);
}

uint64_t ferryi_altmap_group_off(const struct ferryi_altmap *altmap, uint64_t group)
{
	uint64_t first = altmap->attr.nr_aside * GROUPS;

	return (altmap->attr.reserve + 1) * FERRYI_PAGE_SIZE + (group - first) * FERRYI_GROUP_BYTES;
}

/* ---- kept ---- */

uint64_t ferryi_altmap_kept_first(const struct ferryi_altmap *altmap)
{
	return altmap->attr.nr_aside * GROUPS;
}

uint64_t ferryi_altmap_kept_end(const struct ferryi_altmap *altmap)
{
	return altmap->attr.nr_kept > altmap->attr.nr_aside ? altmap->attr.nr_kept * GROUPS :
							      ferryi_altmap_kept_first(altmap);
}

bool ferryi_altmap_is_later(uint64_t a, uint64_t b)
{
	return ((a - b) & SEQ_MASK) - 1 < SEQ_MASK / 2;
}

/* 1: good, 0: void, -1: neither. */
static int decode_page(struct ferryi_altmap *altmap, uint64_t number, const uint8_t *from, struct ferry_page *page)
{
	static const uint8_t none[FERRYI_DESCRIPTOR_BYTES];
	uint64_t va = get64(from), seq = get64(from + 24) >> CHECK_BITS;

	if (memcmp(from, none, sizeof(none)) == 0)
		return 0;
	if (!(va & VA_MASK) || va & ~(VA_MASK | FERRYI_DESCRIPTOR_ZERO) || get64(from + 24) != tail_of(seq, from, number))
		return -1;
	page->va = va;
	page->hash = get64(from + 16);
	atomic_store(&page->drvdata, get64(from + 8));
	atomic_store(&altmap->seq[number], seq);
	/* What is described from now on is later than all of it. */
	if (!altmap->any_kept || !ferryi_altmap_is_later(atomic_load(&altmap->next_seq), seq))
		atomic_store(&altmap->next_seq, seq + 1);
	altmap->any_kept = true;
	return 1;
}

unsigned ferryi_altmap_decode(struct ferryi_altmap *altmap, uint64_t group, const uint8_t *from)
{
	uint64_t number = group * FERRYI_GROUP_PAGES;
	struct ferry_page *page = ferryi_pfn_to_page(altmap->attr.model, altmap->attr.pfn_first + number);
	unsigned bad = 0;

	for (unsigned i = 0; i < FERRYI_GROUP_PAGES && page; i++) {
		int rc = decode_page(altmap, number + i, from + (size_t)i * FERRYI_DESCRIPTOR_BYTES, &page[i]);

		bad += rc < 0;
		altmap->kept_left[group / GROUPS] = (uint16_t)(altmap->kept_left[group / GROUPS] + (rc > 0));
	}
	return bad;
}

unsigned ferryi_altmap_kept_left(const struct ferryi_altmap *altmap, uint32_t subsection)
{
	uint64_t nr = subsection - altmap->attr.pfn_first / FERRYI_PAGES_PER_SUBSECTION;

	return nr < altmap->attr.nr_kept ? altmap->kept_left[nr] : 0;
}

bool ferryi_altmap_kept_page(const struct ferryi_altmap *altmap, uint64_t pfn, struct ferryi_kept_page *kept)
{
	const struct ferry_page *page = ferryi_pfn_to_page(altmap->attr.model, pfn);

	/* Without any left the sub-section is used anew. */
	if (!page || !ferryi_altmap_kept_left(altmap, (uint32_t)(pfn / FERRYI_PAGES_PER_SUBSECTION)) || !page->va)
		return false;
	*kept = (struct ferryi_kept_page){
		.va = page->va & VA_MASK,
		.hash = page->hash,
		.drvdata = atomic_load(&page->drvdata),
		.seq = atomic_load(&altmap->seq[pfn - altmap->attr.pfn_first]),
		.is_zero = page->va & FERRYI_DESCRIPTOR_ZERO,
	};
	return true;
}

bool ferryi_altmap_drop_kept(struct ferryi_altmap *altmap, uint64_t pfn)
{
	uint64_t nr = (pfn - altmap->attr.pfn_first) / FERRYI_PAGES_PER_SUBSECTION;
	struct ferry_page *page = ferryi_pfn_to_page(altmap->attr.model, pfn);

	void_page(page);
	atomic_store(&page->drvdata, 0);
	touch(altmap, pfn);
	return --altmap->kept_left[nr] == 0;
}
