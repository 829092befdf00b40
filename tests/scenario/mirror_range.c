/*
 * Ranges by the public API: what a snapshot says of each kind of page, what a
 * fault brings in, when entries are out of date. argv[1]: the fabric row.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define PAGES 64u
#define LEN   (PAGES * FERRYT_PAGE)

static int ignore(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static const struct ferry_mirror_ops ops = { .invalidate = ignore };
static struct ferry_mirror mirror = { .ops = &ops };
static uint64_t pfns[PAGES];

static struct ferry_range *range_over(const void *p, size_t len, unsigned shift)
{
	struct ferry_range *range = calloc(1, sizeof(*range));

	CHECK(range);
	memset(pfns, 0, sizeof(pfns));
	range->pfns = pfns;
	CHECK_INT(ferry_range_register(range, &mirror, (uintptr_t)p, (uintptr_t)p + len, shift), 0);
	return range;
}

static struct ferry *open_ferry(void)
{
	struct ferry *ferry = ferryt_open(FERRYT_BUDGET);

	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	return ferry;
}

static void close_ferry(struct ferry *ferry)
{
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	CHECK_INT(ferry_close(ferry), 0);
}

static bool is_write(uint64_t entry)
{
	return entry & ferry_default_pfn_flags[FERRY_PFN_WRITE];
}

static bool is_device(uint64_t entry)
{
	return entry & ferry_default_pfn_flags[FERRY_PFN_DEVICE_PRIVATE];
}

static enum ferry_entry_kind kind_at(struct ferry_range *range, const uint8_t *p)
{
	struct ferry_entry_info info = { .size = sizeof(info) };

	CHECK_INT(ferry_entry_info(range, (uintptr_t)p, &info), 0);
	return info.kind;
}

/* ---- registration ---- */

static void body_register(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	uintptr_t start = (uintptr_t)p, end = start + LEN;
	struct ferry_range r = { .pfns = pfns };
	const uint64_t no_none[] = { 8, 8, 16 }, shared_bit[] = { 1, 3, 4 }, wide[] = { 1, 2, 1 << 13 };

	CHECK_FAILS(ferry_range_register(&r, &mirror, start + 1, end, 12), -EINVAL, "whole device pages");
	CHECK_FAILS(ferry_range_register(&r, &mirror, end, start, 12), -EINVAL, "whole device pages");
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 11), -EINVAL, "page_shift");
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 22), -EINVAL, "page_shift");
	r.values = no_none;
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "NONE");
	r.values = NULL;
	r.flags = shared_bit;
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "share a bit");
	r.flags = wide;
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "below bit 12");
	r.flags = NULL;
	r.pfn_shift = 40;
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "41 bits");
	r.pfn_shift = 0;
	r.pfns = NULL;
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "pfns");
	r.pfns = pfns;
	CHECK_INT(ferry_range_snapshot(&r), -EINVAL);
	CHECK_INT(ferry_range_register(&r, &mirror, start, end, 12), 0);
	CHECK(!ferry_range_valid(&r)); /* no entries yet */
	CHECK_FAILS(ferry_range_register(&r, &mirror, start, end, 12), -EINVAL, "already");
	CHECK_FAILS(ferry_mirror_unregister(&mirror), -EBUSY, "ranges");
	CHECK_FAILS(ferry_close(ferry), -EBUSY, "ranges");
	ferry_range_unregister(&r);
	close_ferry(ferry);
}

static void hmm_range_register__bad_arguments_and_lifetime(void **state)
{
	(void)state;
	RUN(body_register);
}

/* ---- snapshot ---- */

static void body_snapshot(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range *range = range_over(p, LEN, 12);

	/* 0..7 in the pool, 8..15 in RAM, the rest never touched */
	ferryt_fill_away(ferry, p, 8, 1);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_RANDOM), 0);
	ferryt_fill(p + 8 * FERRYT_PAGE, 8, 2);
	struct ferry_stats before = ferryt_stats(ferry);

	CHECK_INT(ferry_range_snapshot(range), 16);
	CHECK(ferry_range_valid(range));
	struct ferry_stats after = ferryt_stats(ferry);

	CHECK_INT(after.faults, before.faults); /* nothing was faulted, nothing moved */
	CHECK_INT(after.pages_in, before.pages_in);
	CHECK_INT(ferryt_present(p, PAGES), 8);
	for (size_t i = 0; i < PAGES; i++) {
		uint64_t pfn = ferry_entry_to_pfn(range, pfns[i]);
		struct ferry_page *page = ferry_entry_to_page(range, pfns[i]);

		if (i < 8) {
			CHECK(is_device(pfns[i]) && is_write(pfns[i]) && ferry_pfn_valid(ferry, pfn));
			CHECK(page && page == ferry_pfn_to_page(ferry, pfn) && ferry_page_to_pfn(ferry, page) == pfn);
			CHECK(ferry_entry_from_page(range, page) == (pfns[i] & ~ferry_default_pfn_flags[FERRY_PFN_WRITE]));
			CHECK_INT(kind_at(range, p + i * FERRYT_PAGE), FERRY_ENTRY_DEVICE_OWN);
		} else if (i < 16) {
			CHECK(!is_device(pfns[i]) && is_write(pfns[i]) && !page);
			CHECK(pfn == (FERRY_PFN_RAM | ((uintptr_t)p / FERRYT_PAGE + i)));
			CHECK(ferry_entry_from_pfn(range, pfn) == (pfns[i] & ~ferry_default_pfn_flags[FERRY_PFN_WRITE]));
			CHECK_INT(kind_at(range, p + i * FERRYT_PAGE), FERRY_ENTRY_RAM);
		} else {
			CHECK(pfns[i] == ferry_default_pfn_values[FERRY_PFN_NONE] && pfn == UINT64_MAX && !page);
			CHECK_INT(kind_at(range, p + i * FERRYT_PAGE), FERRY_ENTRY_NONE);
		}
	}
	CHECK_INT(mprotect(p, 12 * FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(ferry_range_snapshot(range), 16);
	CHECK(!is_write(pfns[0]) && !is_write(pfns[9]) && is_write(pfns[12]));
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_snapshot__pool_ram_none__told_apart_and_nothing_faulted(void **state)
{
	(void)state;
	RUN(body_snapshot);
}

static void body_other_kinds(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ferry_range *range, strict = { .pfns = pfns, .options = FERRY_RANGE_STRICT };
	volatile uint8_t byte;

	CHECK(p != MAP_FAILED);
	CHECK_INT(madvise(p, LEN, MADV_NOHUGEPAGE), 0);
	byte = p[0];        /* the zero page */
	p[FERRYT_PAGE] = byte; /* RAM */
	CHECK_INT(mprotect(p + 2 * FERRYT_PAGE, FERRYT_PAGE, PROT_NONE), 0);
	CHECK_INT(munmap(p + 3 * FERRYT_PAGE, FERRYT_PAGE), 0);
	range = range_over(p, 5 * FERRYT_PAGE, 12);
	CHECK_INT(ferry_range_snapshot(range), 2);
	CHECK_INT(kind_at(range, p), FERRY_ENTRY_ZERO);
	CHECK(!is_write(pfns[0]) && is_write(pfns[1]));
	CHECK(pfns[2] == ferry_default_pfn_values[FERRY_PFN_ERROR]);
	CHECK(pfns[3] == ferry_default_pfn_values[FERRY_PFN_ERROR]);
	CHECK(pfns[4] == ferry_default_pfn_values[FERRY_PFN_NONE]);
	ferry_range_unregister(range);

	/* v5.2's rules */
	CHECK_INT(ferry_range_register(&strict, &mirror, (uintptr_t)p, (uintptr_t)p + 3 * FERRYT_PAGE, 12), 0);
	CHECK_FAILS(ferry_range_snapshot(&strict), -EPERM, "not readable");
	CHECK(pfns[1] == ferry_default_pfn_values[FERRY_PFN_NONE]);
	ferry_range_unregister(&strict);
	CHECK_INT(ferry_range_register(&strict, &mirror, (uintptr_t)p + 3 * FERRYT_PAGE, (uintptr_t)p + 5 * FERRYT_PAGE, 12), 0);
	CHECK_FAILS(ferry_range_snapshot(&strict), -EFAULT, "not mapped");
	ferry_range_unregister(&strict);

	/* the kernel's clock pages lie just below the vdso */
	uintptr_t vdso = (uintptr_t)getauxval(AT_SYSINFO_EHDR);

	range = range_over((void *)(vdso - FERRYT_PAGE), FERRYT_PAGE, 12);
	CHECK_INT(ferry_range_snapshot(range), 0);
	CHECK(pfns[0] == ferry_default_pfn_values[FERRY_PFN_SPECIAL]);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_snapshot__zero_error_special__and_strict(void **state)
{
	(void)state;
	RUN(body_other_kinds);
}

static void body_owner(void)
{
	mirror.owner = "another";
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range *range = range_over(p, LEN, 12);

	ferryt_fill_away(ferry, p, PAGES, 3);
	CHECK_INT(ferry_range_snapshot(range), 0);
	CHECK(pfns[0] == ferry_default_pfn_values[FERRY_PFN_NONE]);
	CHECK_INT(kind_at(range, p), FERRY_ENTRY_DEVICE_OTHER);
	range->default_flags = ferry_default_pfn_flags[FERRY_PFN_VALID];
	CHECK_INT(ferry_range_fault(range, true), PAGES); /* comes home first */
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	ferryt_verify(p, 0, PAGES, 3);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range__page_of_another_owner__none_and_faulted_home(void **state)
{
	(void)state;
	RUN(body_owner);
}

/* ---- fault ---- */

static void body_fault(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range *range = range_over(p, LEN, 12);
	const uint64_t valid = ferry_default_pfn_flags[FERRY_PFN_VALID], write = ferry_default_pfn_flags[FERRY_PFN_WRITE];

	ferryt_fill_away(ferry, p, PAGES / 2, 4);
	/* nothing is asked for: as a snapshot */
	CHECK_INT(ferry_range_fault(range, false), PAGES / 2);
	CHECK_INT(ferryt_present(p, PAGES), 0);
	/* by entry: one page of zeros; own pages in the pool are valid where they are */
	memset(pfns, 0, sizeof(pfns));
	range->pfn_flags_mask = UINT64_MAX;
	pfns[0] = pfns[40] = valid;
	CHECK_FAILS(ferry_range_fault(range, false), -EAGAIN, "wait");
	memset(pfns, 0, sizeof(pfns));
	pfns[0] = pfns[40] = valid;
	CHECK_INT(ferry_range_fault(range, true), PAGES / 2 + 1);
	CHECK(is_device(pfns[0]) && ferry_entry_to_pfn(range, pfns[40]) != UINT64_MAX);
	CHECK_INT(ferryt_present(p, PAGES / 2), 0);
	/* DEVICE_PRIVATE asked for: they come home */
	range->pfn_flags_mask = 0;
	range->default_flags = valid | write | ferry_default_pfn_flags[FERRY_PFN_DEVICE_PRIVATE];
	CHECK_INT(ferry_range_fault(range, true), PAGES);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(!is_device(pfns[i]) && is_write(pfns[i]));
	ferryt_verify(p, 0, PAGES / 2, 4);
	/* dropped by the application, unseen by us */
	CHECK_INT(madvise(p, LEN, MADV_DONTNEED), 0);
	CHECK_INT(ferry_range_fault(range, true), PAGES);
	ferryt_verify_zero(p, PAGES);
	CHECK_INT(mprotect(p, FERRYT_PAGE, PROT_READ), 0);
	CHECK_FAILS(ferry_range_fault(range, true), -EPERM, "not writable");
	CHECK_INT(munmap(p, FERRYT_PAGE), 0);
	CHECK_FAILS(ferry_range_fault(range, true), -EFAULT, "not mapped");
	ferry_range_unregister(range);

	/* memory that nobody manages */
	p = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	range = range_over(p, LEN, 12);
	range->default_flags = valid | write;
	CHECK_INT(ferry_range_fault(range, true), PAGES);
	CHECK_INT(ferryt_present(p, PAGES), PAGES);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_fault__by_flags_and_mask__every_error(void **state)
{
	(void)state;
	RUN(body_fault);
}

static void body_large(void)
{
	struct ferry *ferry = open_ferry();
	size_t big = 4 * FERRY_SUBSECTION;
	uint8_t *p = ferryt_mmap(ferry, big);
	uintptr_t start = ((uintptr_t)p + FERRY_SUBSECTION - 1) & ~(uintptr_t)(FERRY_SUBSECTION - 1);
	struct ferry_range *range = range_over((void *)start, 32 * FERRYT_PAGE, 14);

	ferryt_fill((void *)start, 32, 5);
	CHECK_INT(ferry_range_snapshot(range), 8); /* device pages of 16 KiB */
	CHECK(ferry_entry_to_pfn(range, pfns[1]) == ferry_entry_to_pfn(range, pfns[0]) + 4);
	CHECK_INT(madvise((void *)(start + 5 * FERRYT_PAGE), FERRYT_PAGE, MADV_DONTNEED), 0);
	CHECK_INT(ferry_range_snapshot(range), 7);
	CHECK(pfns[1] == ferry_default_pfn_values[FERRY_PFN_NONE]);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_page_shift__larger_device_pages__whole_or_none(void **state)
{
	(void)state;
	RUN(body_large);
}

/* ---- valid ---- */

static void body_valid(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, 2 * LEN);
	struct ferry_range *range = range_over(p, LEN, 12);

	ferryt_fill(p, 2 * PAGES, 6);
	CHECK_INT(ferry_range_snapshot(range), PAGES);
	uint64_t seq = ferry_range_read_begin(range);

	CHECK(ferry_range_valid(range) && !ferry_range_read_retry(range, seq));
	/* what happens beside it does not count */
	CHECK_INT(ferry_advise(ferry, p + LEN, LEN, FERRY_ADVICE_COLD), 0);
	CHECK(ferry_range_valid(range) && !ferry_range_read_retry(range, seq));
	CHECK_INT(ferry_advise(ferry, p, FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK(!ferry_range_valid(range) && ferry_range_read_retry(range, seq));
	CHECK(ferry_range_wait_until_valid(range, FERRY_RANGE_DEFAULT_TIMEOUT_MS)); /* no change is under way */
	CHECK(!ferry_range_valid(range)); /* but the entries are old */
	CHECK_INT(ferry_range_snapshot(range), PAGES);
	CHECK(ferry_range_valid(range) && is_device(pfns[0]));
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_valid__changes_of_the_range_only(void **state)
{
	(void)state;
	RUN(body_valid);
}

static _Atomic bool hold, inside;

static int stay(struct ferry_mirror *m, const struct ferry_update *update)
{
	(void)m;
	(void)update;
	atomic_store(&inside, true);
	while (atomic_load(&hold))
		;
	return 0;
}

static const struct ferry_mirror_ops stay_ops = { .invalidate = stay };

static void *touch(void *arg)
{
	ferryt_verify(arg, 0, 1, 7);
	return NULL;
}

static void body_wait(void)
{
	struct ferry *ferry = open_ferry();
	struct ferry_mirror slow = { .ops = &stay_ops };
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range *range = range_over(p, LEN, 12);
	pthread_t thread;

	ferryt_fill_away(ferry, p, PAGES, 7);
	atomic_store(&hold, true);
	CHECK_INT(ferry_mirror_register(&slow, ferry), 0);
	CHECK_INT(pthread_create(&thread, NULL, touch, p), 0);
	while (!atomic_load(&inside))
		;
	uint64_t before = ferryi_now_ns();

	CHECK(!ferry_range_wait_until_valid(range, 50)); /* a change is under way, and stays so */
	CHECK(ferryi_now_ns() - before >= 50000000ULL);
	CHECK(!ferry_range_valid(range));
	atomic_store(&hold, false);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK(ferry_range_wait_until_valid(range, 20000));
	CHECK_INT(ferry_mirror_unregister(&slow), 0);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_wait_until_valid__change_under_way__times_out_and_ends(void **state)
{
	(void)state;
	RUN(body_wait);
}

/* Entries that passed read_retry: a page that was in RAM then is where its data is, pinned by nothing but luck. */
static struct ferry *busy_ferry;
static uint8_t *busy;
static _Atomic bool busy_stop;

static void *busy_mover(void *arg)
{
	(void)arg;
	while (!atomic_load(&busy_stop)) {
		CHECK_INT(ferry_advise(busy_ferry, busy, LEN, FERRY_ADVICE_COLD), 0);
		CHECK_INT(ferry_advise(busy_ferry, busy, LEN, FERRY_ADVICE_WILLNEED), 0);
	}
	return NULL;
}

static void body_retry(void)
{
	struct ferry_range *range;
	pthread_t mover;
	unsigned good = 0, old = 0;

	busy_ferry = open_ferry();
	busy = ferryt_mmap(busy_ferry, LEN);
	ferryt_fill(busy, PAGES, 8);
	range = range_over(busy, LEN, 12);
	CHECK_INT(pthread_create(&mover, NULL, busy_mover, NULL), 0);
	uint64_t end_ns = ferryi_now_ns() + 2000000000ULL;

	while (ferryi_now_ns() < end_ns || !good) {
		CHECK(ferryi_now_ns() < end_ns + 30000000000ULL);
		uint64_t seq = ferry_range_read_begin(range);
		long n = ferry_range_snapshot(range);

		CHECK(n >= 0 || n == -EAGAIN);
		if (n < 0 || ferry_range_read_retry(range, seq)) {
			old++;
			continue;
		}
		good++;
		for (size_t i = 0; i < PAGES; i++) { /* data in the pool can be read there by its PFN */
			uint8_t page[FERRYT_PAGE];

			if (!is_device(pfns[i]) || i % 16)
				continue;
			CHECK_INT(ferry_device_read(busy_ferry, ferry_entry_to_pfn(range, pfns[i]), page, sizeof(page)), 0);
			ferryt_verify(page, i, 1, 8); /* the content never changes, so the place keeps it */
		}
	}
	atomic_store(&busy_stop, true);
	CHECK_INT(pthread_join(mover, NULL), 0);
	printf("# %u snapshots used, %u out of date\n", good, old);
	ferry_range_unregister(range);
	close_ferry(busy_ferry);
}

static void mmu_interval_read_retry__beside_migration__entries_match_places(void **state)
{
	(void)state;
	RUN(body_retry);
}

/* ---- RMA ---- */

static void body_rma(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range *range = range_over(p, LEN, 12);
	uintptr_t addrs[PAGES];

	ferryt_fill_away(ferry, p, PAGES, 9);
	range->default_flags = ferry_default_pfn_flags[FERRY_PFN_VALID] | ferry_default_pfn_flags[FERRY_PFN_WRITE];
	CHECK_INT(ferry_range_rma_map(range, addrs, true), PAGES);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(addrs[i] == (uintptr_t)p + i * FERRYT_PAGE);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK_INT(ferryt_present(p, PAGES), PAGES); /* they stay */
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, LEN);
	memset((void *)addrs[3], 0x77, FERRYT_PAGE); /* as a NIC would */
	CHECK_INT(ferry_range_rma_unmap(range, addrs, true), PAGES);
	CHECK(!addrs[0] && pfns[0] == ferry_default_pfn_values[FERRY_PFN_NONE]);
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 0);
	CHECK_INT(ferry_advise(ferry, p, LEN, FERRY_ADVICE_COLD), 0);
	CHECK(p[3 * FERRYT_PAGE] == 0x77 && p[4 * FERRYT_PAGE - 1] == 0x77); /* what was written has left, and come back */
	/* one page cannot be had: all is rolled back */
	CHECK_INT(mprotect(p + 60 * FERRYT_PAGE, FERRYT_PAGE, PROT_READ), 0);
	CHECK_INT(ferry_range_rma_map(range, addrs, true), -EPERM);
	CHECK(!addrs[0] && !addrs[60]);
	CHECK_INT(ferryt_stats(ferry).pinned_bytes, 0);
	ferry_range_unregister(range);
	close_ferry(ferry);
}

static void hmm_range_dma_map__pinned_dirty_unmapped__or_rolled_back(void **state)
{
	(void)state;
	RUN(body_rma);
}

/* ---- v5.2's helpers ---- */

/* A range that the caller of hmm_vma_fault has filled in: every page is asked for. */
static struct ferry_range asking(const void *p, size_t len)
{
	struct ferry_range range = { .pfns = pfns, .mirror = &mirror, .start = (uintptr_t)p, .end = (uintptr_t)p + len };

	for (size_t i = 0; i < PAGES; i++)
		pfns[i] = ferry_default_pfn_flags[FERRY_PFN_VALID];
	return range;
}

static void body_vma_fault(void)
{
	struct ferry *ferry = open_ferry();
	struct ferry_mirror slow = { .ops = &stay_ops };
	uint8_t *p = ferryt_mmap(ferry, 2 * LEN);
	struct ferry_range range = asking(p, LEN);
	pthread_t thread;

	ferryt_fill_away(ferry, p, PAGES, 7);
	pfns[1] = 0; /* not asked for; valid all the same, as it is there */
	range.default_flags = ferry_default_pfn_flags[FERRY_PFN_WRITE]; /* does not count: the old API has pfns alone */
	CHECK_INT(ferry_vma_fault(&range, true), 0);
	for (size_t i = 0; i < PAGES; i++)
		CHECK(is_device(pfns[i]));
	CHECK(ferry_range_valid(&range)); /* registered */
	CHECK_FAILS(ferry_vma_fault(&range, true), -EINVAL, "already");
	CHECK(ferry_vma_range_done(&range));

	/* each failure leaves it unregistered, so that the same struct serves for the next try */
	range = asking(p + LEN, LEN);
	CHECK_FAILS(ferry_vma_fault(&range, false), -EBUSY, "wait");
	CHECK_INT(ferry_range_snapshot(&range), -EINVAL);
	memset(pfns, 0, sizeof(pfns));
	CHECK_FAILS(ferry_vma_fault(&range, true), -EBUSY, "no page"); /* nothing asked for, nothing there */
	CHECK_INT(ferry_range_snapshot(&range), -EINVAL);
	range.end = range.start;
	CHECK_FAILS(ferry_vma_fault(&range, true), -EINVAL, "whole device pages");
	CHECK_FAILS(ferry_vma_fault(NULL, true), -EINVAL, "no range");
	range = asking(p, LEN);
	range.mirror = NULL;
	CHECK_FAILS(ferry_vma_fault(&range, true), -EINVAL, "mirror");
	CHECK_INT(mprotect(p, LEN, PROT_READ), 0);
	range = asking(p, LEN);
	pfns[0] |= ferry_default_pfn_flags[FERRY_PFN_WRITE];
	CHECK_FAILS(ferry_vma_fault(&range, true), -EPERM, "not writable");
	CHECK_INT(mprotect(p, LEN, PROT_READ | PROT_WRITE), 0);

	/* a change that does not end */
	atomic_store(&hold, true);
	atomic_store(&inside, false);
	CHECK_INT(ferry_mirror_register(&slow, ferry), 0);
	CHECK_INT(pthread_create(&thread, NULL, touch, p), 0);
	while (!atomic_load(&inside))
		;
	range = asking(p, LEN);
	CHECK_FAILS(ferry_vma_fault(&range, true), -EAGAIN, "did not end");
	CHECK_INT(ferry_range_snapshot(&range), -EINVAL);
	atomic_store(&hold, false);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(ferry_mirror_unregister(&slow), 0);
	CHECK_INT(ferry_vma_fault(&range, true), 0);
	ferry_vma_range_done(&range);
	CHECK_INT(munmap(p, FERRYT_PAGE), 0);
	range = asking(p, LEN);
	CHECK_FAILS(ferry_vma_fault(&range, true), -EFAULT, "not mapped");
	close_ferry(ferry);
}

static void hmm_vma_fault__registered_and_filled__or_dropped_with_its_code(void **state)
{
	(void)state;
	RUN(body_vma_fault);
}

static void body_range_done(void)
{
	struct ferry *ferry = open_ferry();
	uint8_t *p = ferryt_mmap(ferry, LEN);
	struct ferry_range range = asking(p, LEN);

	ferryt_fill(p, PAGES, 8);
	CHECK_INT(ferry_vma_fault(&range, true), 0);
	CHECK(ferry_vma_range_done(&range)); /* nothing has changed */
	CHECK(!ferry_vma_range_done(&range)); /* it is not registered any more */
	range = asking(p, LEN);
	CHECK_INT(ferry_vma_fault(&range, true), 0);
	CHECK_INT(ferry_advise(ferry, p, FERRYT_PAGE, FERRY_ADVICE_COLD), 0);
	CHECK(!ferry_vma_range_done(&range));
	CHECK_INT(ferry_range_snapshot(&range), -EINVAL); /* unregistered all the same */
	ferryt_verify(p, 0, PAGES, 8);
	close_ferry(ferry);
}

static void hmm_vma_range_done__changed_or_not__unregistered(void **state)
{
	(void)state;
	RUN(body_range_done);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hmm_range_register__bad_arguments_and_lifetime),
		cmocka_unit_test(hmm_range_snapshot__pool_ram_none__told_apart_and_nothing_faulted),
		cmocka_unit_test(hmm_range_snapshot__zero_error_special__and_strict),
		cmocka_unit_test(hmm_range__page_of_another_owner__none_and_faulted_home),
		cmocka_unit_test(hmm_range_fault__by_flags_and_mask__every_error),
		cmocka_unit_test(hmm_range_page_shift__larger_device_pages__whole_or_none),
		cmocka_unit_test(hmm_range_valid__changes_of_the_range_only),
		cmocka_unit_test(hmm_range_wait_until_valid__change_under_way__times_out_and_ends),
		cmocka_unit_test(mmu_interval_read_retry__beside_migration__entries_match_places),
		cmocka_unit_test(hmm_range_dma_map__pinned_dirty_unmapped__or_rolled_back),
		cmocka_unit_test(hmm_vma_fault__registered_and_filled__or_dropped_with_its_code),
		cmocka_unit_test(hmm_vma_range_done__changed_or_not__unregistered),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	ferryt_server_start(argc > 1 ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
