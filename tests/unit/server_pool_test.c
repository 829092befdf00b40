/* The server's pools without a server: the map of what is free, what operators ask for, taking and giving
 * back. */
#include "unit.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "arith.h"
#include "backing.h"
#include "book.h"
#include "clock.h"
#include "pool.h"
#include "mce.h"
#include "sections.h"

#define MIB ((uint64_t)1 << 20)
#define SUB FERRYI_SUBSECTION_SIZE

/* ---- sections ---- */

static void sections__large_request__takes_whole_sections(void **state)
{
	struct ferryi_sections sections;
	size_t first = 99;

	(void)state;
	assert_int_equal(ferryi_sections_init(&sections, 3 * 64), 0);
	assert_int_equal(ferryi_sections_take(&sections, 100, &first), 64);
	assert_int_equal(first, 0);
	assert_int_equal(ferryi_sections_take(&sections, 36, &first), 36);
	assert_int_equal(first, 64);
	assert_int_equal(sections.nfree, 3 * 64 - 100);
	ferryi_sections_fini(&sections);
}

static void sections__short_tail__is_never_lent(void **state)
{
	struct ferryi_sections sections;
	size_t first;

	(void)state;
	assert_int_equal(ferryi_sections_init(&sections, 64 + 5), 0);
	assert_int_equal(ferryi_sections_take(&sections, 64, &first), 64);
	assert_int_equal(ferryi_sections_take(&sections, 64, &first), 5);
	assert_int_equal(first, 64);
	assert_int_equal(ferryi_sections_take(&sections, 1, &first), 0);
	assert_int_equal(sections.nfree, 0);
	ferryi_sections_release(&sections, 64, 5);
	assert_int_equal(sections.nfree, 5);
	ferryi_sections_fini(&sections);
}

static void sections__fragmented__gives_longest_run(void **state)
{
	struct ferryi_sections sections;
	size_t first;

	(void)state;
	assert_int_equal(ferryi_sections_init(&sections, 64), 0);
	assert_int_equal(ferryi_sections_take(&sections, 64, &first), 64);
	ferryi_sections_release(&sections, 3, 2);
	ferryi_sections_release(&sections, 40, 7);
	ferryi_sections_release(&sections, 60, 4);
	assert_int_equal(ferryi_sections_take(&sections, 20, &first), 7);
	assert_int_equal(first, 40);
	assert_int_equal(ferryi_sections_take(&sections, 20, &first), 4);
	assert_int_equal(first, 60);
	assert_int_equal(ferryi_sections_take(&sections, 1, &first), 1);
	assert_int_equal(first, 3);
	ferryi_sections_fini(&sections);
}

static void sections__resized__new_ones_are_free_and_old_ones_gone(void **state)
{
	static const size_t sizes[] = {5, 64, 70, 200, 128, 129, 65, 64, 3, 192};
	struct ferryi_sections sections;
	size_t first, sum;

	(void)state;
	assert_int_equal(ferryi_sections_init(&sections, 10), 0);
	ferryi_sections_take_at(&sections, 0, 2);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(ferryi_sections_resize(&sections, sizes[i]), 0);
		assert_int_equal(sections.nfree, sizes[i] - 2);
		assert_int_equal(ferryi_sections_next_used(&sections, 0), 0);
		assert_int_equal(ferryi_sections_next_used(&sections, 2), sizes[i]);
		/* All of it, and no more, can be taken; the runs come back whole. */
		for (sum = 0; sum < sizes[i] - 2;) {
			size_t n = ferryi_sections_take(&sections, sizes[i], &first);

			assert_true(n > 0);
			assert_true(first >= 2 && first + n <= sizes[i]);
			sum += n;
		}
		assert_int_equal(ferryi_sections_take(&sections, 1, &first), 0);
		assert_int_equal(ferryi_sections_next_used(&sections, sizes[i] - 1), sizes[i] - 1);
		for (size_t at = 2; at < sizes[i]; at++)
			ferryi_sections_release(&sections, at, 1);
	}
	ferryi_sections_fini(&sections);
}

/* ---- specs ---- */

static void spec__complete__is_understood(void **state)
{
	struct ferryi_pool_spec spec;
	char err[256];

	(void)state;
	assert_int_equal(
		ferryi_pool_spec_parse(
			&spec,
			"name=hot-1.a_b,size=4G,type=private,numa=3,hugepages=2M,backing=anon,reserve=no",
			err, sizeof(err)),
		0);
	assert_string_equal(spec.name, "hot-1.a_b");
	assert_int_equal(spec.size_bytes, 4096 * MIB);
	assert_int_equal(spec.numa_node, 3);
	assert_int_equal(spec.huge_page_bytes, 2 * MIB);
	assert_ptr_equal(spec.backing, &ferryi_backing_anon);
	assert_false(spec.reserve);
}

static void spec__backing_left_open__follows_the_fabrics(void **state)
{
	struct ferryi_pool_spec spec;
	char err[256];

	(void)state;
	assert_int_equal(ferryi_pool_spec_parse(&spec, "name=a,size=2M", err, sizeof(err)), 0);
	assert_true(spec.reserve);
	assert_int_equal(spec.numa_node, -1);
	assert_int_equal(ferryi_pool_spec_resolve(&spec, false, false, err, sizeof(err)), 0);
	assert_ptr_equal(spec.backing, &ferryi_backing_anon);
	spec.backing = NULL;
	assert_int_equal(ferryi_pool_spec_resolve(&spec, true, false, err, sizeof(err)), 0);
	assert_ptr_equal(spec.backing, &ferryi_backing_memfd);

	/* Huge pages: where nobody asked for the same-host fabric it gives way, else it is a contradiction.
	 */
	assert_int_equal(ferryi_pool_spec_parse(&spec, "name=a,size=2M,hugepages=2M", err, sizeof(err)), 0);
	assert_int_equal(ferryi_pool_spec_resolve(&spec, true, false, err, sizeof(err)), 0);
	assert_ptr_equal(spec.backing, &ferryi_backing_anon);
	spec.backing = NULL;
	assert_int_equal(ferryi_pool_spec_resolve(&spec, true, true, err, sizeof(err)), -EINVAL);
}

/* ---- pools ---- */

static struct ferryi_pool *pool_open(const char *text)
{
	struct ferryi_pool_spec spec;
	struct ferryi_pool *pool;
	char err[256] = "";

	assert_int_equal(ferryi_pool_spec_parse(&spec, text, err, sizeof(err)), 0);
	assert_int_equal(ferryi_pool_spec_resolve(&spec, false, false, err, sizeof(err)), 0);
	if (ferryi_pool_open(&spec, &pool, err, sizeof(err))) {
		print_error("%s\n", err);
		fail();
	}
	return pool;
}

static int take(struct ferryi_pool *pool, uint64_t size, unsigned max, struct ferryi_pool_extent **list,
		unsigned *count)
{
	uint64_t free_bytes;

	return ferryi_pool_take(pool, size, max, ferryi_deadline_ms(60000), list, count, &free_bytes);
}

static void expect_usage(struct ferryi_pool *pool, uint64_t free_bytes, uint64_t leased_bytes)
{
	struct ferryi_pool_usage usage;

	ferryi_pool_usage(pool, &usage);
	assert_int_equal(usage.leased_bytes, leased_bytes);
	assert_int_equal(usage.free_bytes + usage.scrub_bytes, free_bytes);
}

/* ---- memory that fails ---- */

static void mce_begin(void)
{
	static int fd = -1;
	struct ferryi_mce mce;

	if (fd < 0)
		assert_int_equal(ferryi_mce_open(&fd), 0);
	assert_int_equal(ferryi_mce_take(&mce), 0);
}

static void expect_mce(const void *addr)
{
	struct ferryi_mce mce;

	assert_int_equal(ferryi_mce_take(&mce), 1);
	assert_int_equal(mce.addr, (uintptr_t)addr);
	assert_int_equal(mce.len_bytes, 4096);
	assert_int_equal(ferryi_mce_take(&mce), 0);
}

static char page[8192] __attribute__((aligned(4096)));

static int touch(void *ctx)
{
	if (ctx)
		ferryi_mce_inject((char *)ctx + 77, true);
	return ctx ? 0 : 5;
}

static void mce__told_or_touched__noted_and_lived_through(void **state)
{
	(void)state;
	mce_begin();
	assert_int_equal(ferryi_mce_inject(page + 4096 + 100, false), 0);
	expect_mce(page + 4096);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(ferryi_mce_guard(touch, page), -EHWPOISON);
		expect_mce(page);
		assert_int_equal(ferryi_mce_guard(touch, NULL), 5);
	}
}

/* Lent memory that has failed comes back and is good and zero again; free memory at once. */
static void fail_lent_and_free(const char *text)
{
	struct ferryi_pool *pool = pool_open(text);
	struct ferryi_pool_extent *list;
	unsigned count;

	assert_int_equal(take(pool, 4 * MIB, 1, &list, &count), 0);
	memset(list->memory.base, 0xaa, 4 * MIB);
	list->failed = true;
	ferryi_pool_give_back(pool, list);
	assert_int_equal(take(pool, 4 * MIB, 1, &list, &count), 0);
	for (size_t i = 0; i < 4 * MIB; i += 512)
		assert_int_equal(((char *)list->memory.base)[i], 0);
	void *addr = list->memory.base;

	memset(addr, 0xaa, 4 * MIB);
	ferryi_pool_failed(pool, (uintptr_t)addr); /* lent: nothing happens */
	assert_int_equal(*(unsigned char *)addr, 0xaa);
	expect_usage(pool, 0, 4 * MIB);
	ferryi_pool_give_back(pool, list);
	assert_int_equal(take(pool, 4 * MIB, 1, &list, &count), 0);
	ferryi_pool_give_back(pool, list);
	/* Free, or not yet: it is there again. */
	ferryi_pool_failed(pool, (uintptr_t)addr + 2 * MIB + 5000);
	ferryi_pool_failed(pool, (uintptr_t)page); /* nobody's */
	assert_int_equal(take(pool, 4 * MIB, 2, &list, &count), 0);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
}

static void pool__memory_fails__is_replaced(void **state)
{
	(void)state;
	fail_lent_and_free("name=a,size=4M,backing=anon");
	fail_lent_and_free("name=a,size=4M,backing=anon,reserve=no");
	fail_lent_and_free("name=a,size=4M,backing=memfd");
}

/* Nothing can come in the place of a device's memory. */
static void pool__device_fails__sub_section_out_of_use(void **state)
{
	struct ferryi_pool *pool = pool_open("name=a,size=6M,type=generic,path=/dev/zero");
	struct ferryi_pool_extent *list;
	unsigned count;

	(void)state;
	assert_int_equal(take(pool, 6 * MIB, 1, &list, &count), 0);
	ferryi_pool_give_back(pool, list);
	assert_int_equal(take(pool, 2 * MIB, 1, &list, &count), 0);
	list->failed = true;
	ferryi_pool_give_back(pool, list);
	assert_int_equal(take(pool, 6 * MIB, 3, &list, &count), -ENOMEM);
	assert_int_equal(take(pool, 4 * MIB, 2, &list, &count), 0);
	expect_usage(pool, 0, 4 * MIB);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
}

/* Whatever the backing: memory is zero when it is lent, dirty or not when it came back. */
static void lend_dirty_and_lend_again(const char *text)
{
	struct ferryi_pool *pool = pool_open(text);
	struct ferryi_pool_extent *list;
	unsigned count;

	for (int round = 0; round < 3; round++) {
		assert_int_equal(take(pool, 132 * MIB, 8, &list, &count), 0);
		expect_usage(pool, 0, 132 * MIB);
		/* 128 MiB and the rest: few large extents. */
		assert_int_equal(count, 2);
		for (struct ferryi_pool_extent *e = list; e; e = e->next) {
			const uint64_t *words = e->memory.base;

			assert_int_equal(e->memory.fd >= 0, ferryi_pool_gives_fd(pool));
			assert_true(ferryi_is_aligned(e->pool_off, SUB));
			for (size_t i = 0; i < e->memory.len_bytes / 8; i++) {
				if (words[i])
					fail_msg("round %d: word %zu is not zero", round, i);
			}
			memset(e->memory.base, 0xee, e->memory.len_bytes);
		}
		ferryi_pool_give_back(pool, list);
		expect_usage(pool, 132 * MIB, 0);
	}
	ferryi_pool_close(&pool);
	assert_null(pool);
}

static void pool__anon__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again("name=a,size=132M,backing=anon");
}

static void pool__anon_not_reserved__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again("name=a,size=132M,backing=anon,reserve=no");
}

static void pool__memfd__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again("name=a,size=132M,backing=memfd");
}

static void pool__memfd_not_reserved__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again("name=a,size=132M,backing=memfd,reserve=no");
}

/* ---- pools that a path names ---- */

static char file_path[] = "/tmp/ferryt-pool-XXXXXX";

static int make_file(void **state)
{
	int fd;

	(void)state;
	strcpy(strrchr(file_path, '-'), "-XXXXXX");
	fd = mkstemp(file_path);
	return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
	(void)state;
	return unlink(file_path);
}

static const char *file_spec(const char *size)
{
	static char text[160];

	snprintf(text, sizeof(text), "name=f,type=fs_dax,size=%s,path=%s", size, file_path);
	return text;
}

static void pool__file__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again(file_spec("132M"));
}

static void pool__file_there_already__is_scrubbed_before_it_is_lent(void **state)
{
	struct ferryi_pool_extent *list;
	struct ferryi_pool *pool;
	unsigned count;

	(void)state;
	pool = pool_open(file_spec("4M"));
	assert_int_equal(take(pool, 4 * MIB, 8, &list, &count), 0);
	memset(list->memory.base, 0xee, 4 * MIB);
	/* As a server that was killed leaves it: nothing was scrubbed. */
	FILE *f = fopen(file_path, "r");
	assert_non_null(f);
	assert_int_equal(fgetc(f), 0xee);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
	f = freopen(file_path, "r+", f);
	assert_non_null(f);
	for (uint64_t i = 0; i < 4 * MIB; i++)
		fputc(0xdd, f);
	assert_int_equal(fclose(f), 0);

	pool = pool_open(file_spec("4M"));
	assert_int_equal(take(pool, 4 * MIB, 8, &list, &count), 0);
	for (const uint64_t *word = list->memory.base; word < (uint64_t *)list->memory.base + 4 * MIB / 8;
	     word++)
		assert_int_equal(*word, 0);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
}

static void expect_no_pool(const char *text, int want, const char *words)
{
	struct ferryi_pool_spec spec;
	struct ferryi_pool *pool;
	char err[512] = "";

	assert_int_equal(ferryi_pool_spec_parse(&spec, text, err, sizeof(err)), 0);
	assert_int_equal(ferryi_pool_spec_resolve(&spec, false, false, err, sizeof(err)), 0);
	assert_int_equal(ferryi_pool_open(&spec, &pool, err, sizeof(err)), want);
	assert_null(pool);
	if (!strstr(err, words))
		fail_msg("the line is: %s", err);
}

static void pool__file_that_cannot_be__one_line_each(void **state)
{
	struct ferryi_pool *pool = pool_open(file_spec("4M"));

	(void)state;
	expect_no_pool(file_spec("4M"), -EBUSY, "another ferryd serves it");
	ferryi_pool_close(&pool);
	expect_no_pool(file_spec("8M"), -EINVAL, "there with 4194304 bytes");
	expect_no_pool("name=f,type=fs_dax,size=4M,path=/nowhere/at/all", -ENOENT,
		       "/nowhere/at/all: No such");
	expect_no_pool("name=f,type=fs_dax,size=4M,path=/tmp", -EINVAL, "not a file");
	expect_no_pool("name=g,type=generic,size=4M,path=/tmp", -EINVAL, "not a character device");
}

/* ---- the catalogue of leases with a name ---- */

static struct ferryi_book *book_open(void)
{
	struct ferryi_book *book;
	char err[512] = "";

	if (ferryi_book_open(file_path, 256 * MIB, &book, err, sizeof(err)))
		fail_msg("%s", err);
	return book;
}

static const char *catalogue(void)
{
	static char path[96];

	snprintf(path, sizeof(path), "%s.leases", file_path);
	return path;
}

static int remove_catalogue(void **state)
{
	unlink(catalogue());
	return remove_file(state);
}

static const struct ferryi_span two_spans[] = {{4 * MIB, 2 * MIB}, {128 * MIB, 128 * MIB}};

static void expect_spans(struct ferryi_book *book, const char *name, size_t n)
{
	struct ferryi_span *spans;
	size_t got;

	assert_int_equal(ferryi_book_hold(book, name, &spans, &got), 0);
	assert_int_equal(got, n);
	assert_memory_equal(spans, two_spans, n * sizeof(*spans));
	free(spans);
}

static void book__written__is_there_when_it_is_opened_again(void **state)
{
	struct ferryi_book *book = book_open();
	struct ferryi_span *spans;
	size_t n;

	(void)state;
	expect_spans(book, "a", 0);
	assert_int_equal(ferryi_book_hold(book, "a", &spans, &n), -EBUSY);
	expect_spans(book, "b", 0);
	expect_spans(book, "never-written", 0);
	assert_int_equal(ferryi_book_write(book, "a", two_spans, 2), 0);
	assert_int_equal(ferryi_book_write(book, "b", NULL, 0), 0);
	ferryi_book_put(book, "never-written");
	ferryi_book_close(&book);
	book = book_open();
	expect_spans(book, "a", 2);
	expect_spans(book, "b", 0);
	ferryi_book_put(book, "a");
	expect_spans(book, "a", 2);
	assert_int_equal(ferryi_book_erase(book, "a"), 0);
	expect_spans(book, "a", 0);
	ferryi_book_close(&book);
	book = book_open();
	expect_spans(book, "a", 0);
	ferryi_book_close(&book);
}

static void book__cannot_be_saved__nothing_has_changed(void **state)
{
	char blocker[112];
	struct ferryi_book *book = book_open();

	(void)state;
	expect_spans(book, "a", 0);
	assert_int_equal(ferryi_book_write(book, "a", two_spans, 2), 0);
	/* A folder where the temporary file would be. */
	snprintf(blocker, sizeof(blocker), "%s.tmp", catalogue());
	assert_int_equal(mkdir(blocker, 0700), 0);
	assert_int_equal(ferryi_book_write(book, "a", two_spans, 1), -EISDIR);
	assert_int_equal(ferryi_book_erase(book, "a"), -EISDIR);
	ferryi_book_put(book, "a");
	assert_int_equal(rmdir(blocker), 0);
	expect_spans(book, "a", 2);
	ferryi_book_close(&book);
	book = book_open();
	expect_spans(book, "a", 2);
	ferryi_book_close(&book);
}

static void put_catalogue(const char *text, size_t len)
{
	FILE *f = fopen(catalogue(), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static void expect_damaged(const char *words)
{
	struct ferryi_book *book;
	char err[512] = "";

	assert_int_equal(ferryi_book_open(file_path, 256 * MIB, &book, err, sizeof(err)), -EBADMSG);
	assert_null(book);
	if (!strstr(err, words) || !strstr(err, catalogue()))
		fail_msg("the line is: %s", err);
}

static void book__any_byte_changed_or_missing__is_refused(void **state)
{
	struct ferryi_book *book = book_open();
	char text[512], bad[512];
	size_t len;
	FILE *f;

	(void)state;
	expect_spans(book, "a", 0);
	assert_int_equal(ferryi_book_write(book, "a", two_spans, 2), 0);
	ferryi_book_close(&book);
	f = fopen(catalogue(), "r");
	assert_non_null(f);
	len = fread(text, 1, sizeof(text), f);
	fclose(f);
	assert_in_range(len, 60, sizeof(text) - 1);
	for (size_t i = 0; i < len; i++) {
		memcpy(bad, text, len);
		bad[i] = (char)(bad[i] ^ 4);
		put_catalogue(bad, len);
		expect_damaged(".leases: line");
		put_catalogue(text, i);
		expect_damaged(".leases: line");
	}
}

/* The checksum is right, what it is of is not. */
static void expect_refused(const char *body, const char *words)
{
	char text[512];
	size_t len = (size_t)snprintf(text, sizeof(text), "farferry leases 1\n%s", body);

	len += (size_t)snprintf(text + len, sizeof(text) - len, "checksum %016llx\n",
				(unsigned long long)XXH3_64bits(text, len));
	put_catalogue(text, len);
	expect_damaged(words);
}

static void book__every_field__is_validated(void **state)
{
	(void)state;
	expect_refused("lease a 1\n0 4096\n", "line 3: not a part");
	expect_refused("lease a 1\n4096 2097152\n", "line 3: not a part");
	expect_refused("lease a 1\n0 0\n", "not a part");
	expect_refused("lease a 1\n268435456 2097152\n", "not a part");
	expect_refused("lease a 1\n18446744073707454464 4194304\n", "not a part");
	expect_refused("lease a 1\n132120576 4194304\n", "end of a section");
	expect_refused("lease a 2\n0 2097152\n0 4194304\n", "line 4: part of two");
	expect_refused("lease a 1\n0 2097152\nlease b 1\n0 2097152\n", "line 5: part of two");
	expect_refused("lease a 1\n0 2097152\nlease a 1\n2097152 2097152\n", "there twice");
	expect_refused("lease a 2\n0 2097152\n", "offset and length");
	expect_refused("lease a 1\n-1 2097152\n", "offset and length");
	expect_refused("lease a 1\n0 99999999999999999999\n", "offset and length");
	expect_refused("lease a 999\n", "number of parts");
	expect_refused("lease a*b 0\n", "no good name");
	expect_refused("lease  0\n", "no good name");
	expect_refused("lease a 0 \n", "number of parts");
	expect_refused("what\n", "neither a lease");
	expect_refused("lease a 0", "no end");
}

/* /dev/zero stands in for /dev/dax0.0: a character device that can be mapped shared. */
static void pool__character_device__is_zero_when_lent(void **state)
{
	(void)state;
	lend_dirty_and_lend_again("name=g,type=generic,size=132M,path=/dev/zero");
}

static void pool__too_much_asked__gives_nothing(void **state)
{
	struct ferryi_pool *pool = pool_open("name=a,size=8M,backing=anon");
	struct ferryi_pool_extent *list, *other;
	uint64_t free_bytes;
	unsigned count;

	(void)state;
	assert_int_equal(take(pool, 4 * MIB, 8, &list, &count), 0);
	assert_int_equal(
		ferryi_pool_take(pool, 6 * MIB, 8, ferryi_deadline_ms(60000), &other, &count, &free_bytes),
		-ENOMEM);
	assert_int_equal(free_bytes, 4 * MIB);
	assert_null(other);
	expect_usage(pool, 4 * MIB, 4 * MIB);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
}

static void pool__more_extents_than_allowed__gives_nothing(void **state)
{
	struct ferryi_pool *pool = pool_open("name=a,size=12M,backing=anon");
	struct ferryi_pool_extent *parts[6], *list;
	unsigned count;

	(void)state;
	for (int i = 0; i < 6; i++)
		assert_int_equal(take(pool, 2 * MIB, 1, &parts[i], &count), 0);
	for (int i = 0; i < 6; i += 2)
		ferryi_pool_give_back(pool, parts[i]);
	/* Three holes of 2 MiB each; taking waits for the scrubber where that helps. */
	assert_int_equal(take(pool, 6 * MIB, 2, &list, &count), -E2BIG);
	assert_null(list);
	assert_int_equal(take(pool, 6 * MIB, 3, &list, &count), 0);
	assert_int_equal(count, 3);
	ferryi_pool_give_back(pool, list);
	for (int i = 1; i < 6; i += 2)
		ferryi_pool_give_back(pool, parts[i]);
	ferryi_pool_close(&pool);
}

static void pool__no_descriptor_for_an_extent__gives_nothing(void **state)
{
	struct ferryi_pool *pool = pool_open("name=a,size=132M,backing=memfd");
	struct ferryi_pool_extent *list;
	struct rlimit before, tight;
	int lowest = dup(0);
	unsigned count;

	(void)state;
	assert_true(lowest >= 0);
	close(lowest);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	/* Room for one more descriptor, where two extents are needed. */
	tight = before;
	tight.rlim_cur = (rlim_t)lowest + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	assert_int_equal(take(pool, 132 * MIB, 8, &list, &count), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_null(list);
	expect_usage(pool, 132 * MIB, 0);
	assert_int_equal(take(pool, 132 * MIB, 8, &list, &count), 0);
	ferryi_pool_give_back(pool, list);
	ferryi_pool_close(&pool);
}

static int count_up(void *ctx, size_t i)
{
	_Atomic int *seen = ctx;

	atomic_fetch_add(&seen[i], 1);
	return i == 150 ? -EIO : 0;
}

static void parallel__each_piece__is_done_once_and_errors_come_back(void **state)
{
	_Atomic int seen[200] = {0};

	(void)state;
	assert_int_equal(ferryi_backing_parallel(100, count_up, seen), 0);
	for (size_t i = 0; i < 200; i++)
		assert_int_equal(seen[i], i < 100);
	assert_int_equal(ferryi_backing_parallel(200, count_up, seen), -EIO);
	assert_int_equal(ferryi_backing_parallel(0, count_up, seen), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sections__large_request__takes_whole_sections),
		cmocka_unit_test(sections__short_tail__is_never_lent),
		cmocka_unit_test(sections__fragmented__gives_longest_run),
		cmocka_unit_test(mce__told_or_touched__noted_and_lived_through),
		cmocka_unit_test(pool__memory_fails__is_replaced),
		cmocka_unit_test(pool__device_fails__sub_section_out_of_use),
		cmocka_unit_test(sections__resized__new_ones_are_free_and_old_ones_gone),
		cmocka_unit_test(spec__complete__is_understood),
		cmocka_unit_test(spec__backing_left_open__follows_the_fabrics),
		cmocka_unit_test(pool__anon__is_zero_when_lent),
		cmocka_unit_test(pool__anon_not_reserved__is_zero_when_lent),
		cmocka_unit_test(pool__memfd__is_zero_when_lent),
		cmocka_unit_test(pool__memfd_not_reserved__is_zero_when_lent),
		cmocka_unit_test_setup_teardown(pool__file__is_zero_when_lent, make_file, remove_file),
		cmocka_unit_test_setup_teardown(pool__file_there_already__is_scrubbed_before_it_is_lent,
						make_file, remove_file),
		cmocka_unit_test_setup_teardown(pool__file_that_cannot_be__one_line_each, make_file,
						remove_file),
		cmocka_unit_test_setup_teardown(book__written__is_there_when_it_is_opened_again, make_file,
						remove_catalogue),
		cmocka_unit_test_setup_teardown(book__cannot_be_saved__nothing_has_changed, make_file,
						remove_catalogue),
		cmocka_unit_test_setup_teardown(book__any_byte_changed_or_missing__is_refused, make_file,
						remove_catalogue),
		cmocka_unit_test_setup_teardown(book__every_field__is_validated, make_file, remove_catalogue),
		cmocka_unit_test(pool__character_device__is_zero_when_lent),
		cmocka_unit_test(pool__too_much_asked__gives_nothing),
		cmocka_unit_test(pool__more_extents_than_allowed__gives_nothing),
		cmocka_unit_test(pool__no_descriptor_for_an_extent__gives_nothing),
		cmocka_unit_test(parallel__each_piece__is_done_once_and_errors_come_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
