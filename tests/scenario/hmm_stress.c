/*
 * Random operations of eight threads on shared segments, against a model in
 * plain memory: touches and writes, pages sent away and brought back, flushes,
 * pins, munmap, mremap, MADV_DONTNEED, mprotect, fork, and the devices' own
 * calls. Seeded: a thread's operations follow from the seed and its number, so
 * that a run can be repeated (not its interleaving).
 *
 * usage: hmm_stress ROW [SECONDS [SEED...]]; ROW coherent: local, and the second pool is a coherent one
 *
 *   seg->lock   readers use the segment where it is; a writer changes the mapping as a whole
 *   page lock   who reads or writes a page's content, and its word of the model; taken under seg->lock
 *   steps_lock  taken under seg->lock; an operation that holds more than one segment tries, and goes without
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
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "pager_kit.h"

#define THREADS       8u
#define SEGMENTS      16u
#define SEGMENT_PAGES 320u /* not a multiple of a 2 MiB block: neighbours share nothing, ends are odd */
#define SEGMENT_BYTES (SEGMENT_PAGES * FERRYT_PAGE)
#define BUDGET        (8 * FERRYT_MIB)
#define MAY_PROTECT   1u   /* segments that may be read-only: such pages cannot leave, so they must fit the budget */
#define SPAN_PAGES    32u /* of an operation on a part of a segment, at most */
#define FORK_MS       120000

struct segment {
	pthread_rwlock_t lock;
	uint8_t *addr;
	bool read_only;
	pthread_mutex_t page_lock[SEGMENT_PAGES];
	uint64_t model[SEGMENT_PAGES]; /* what ferryt_fill_page was given as seed (new_version); 0: a page of zeros */
	pthread_mutex_t steps_lock;    /* a migration in three steps goes on here: such pages no child of fork has */
};

struct worker {
	pthread_t thread;
	unsigned id;
	uint64_t random;
	uint64_t nr_done;
};

static struct ferry *ferry;
static struct segment segments[SEGMENTS];
static uint64_t seeds[16];
static unsigned nr_seeds, seconds = 20;
static _Atomic uint64_t next_version;
static uint64_t end_ns;

static uint64_t next_random(struct worker *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random * 0x9e3779b97f4a7c15ULL >> 16;
}

static uint8_t *page_of(struct segment *seg, size_t i)
{
	return seg->addr + i * FERRYT_PAGE;
}

/* Of data that was never written before; it tells the segment, so that no page is taken for another's. */
static uint64_t new_version(const struct segment *seg)
{
	return (atomic_fetch_add(&next_version, 1) + 1) * SEGMENTS + (uint64_t)(seg - segments);
}

/* ---- content; the page's lock, or the segment's write lock, is held ---- */

static void verify_page(struct segment *seg, size_t i)
{
	if (seg->model[i])
		ferryt_verify(page_of(seg, i), i, 1, seg->model[i]);
	else
		ferryt_verify_zero(page_of(seg, i), 1);
}

static void write_page(struct segment *seg, size_t i)
{
	seg->model[i] = new_version(seg);
	ferryt_fill_page(page_of(seg, i), seg->model[i], i);
}

static void verify_segment(struct segment *seg)
{
	for (size_t i = 0; i < SEGMENT_PAGES; i++)
		verify_page(seg, i);
}

/* ---- operations: (segment, first page, pages) chosen by the thread's numbers ---- */

struct span {
	struct segment *seg;
	size_t first, nr;
};

static struct span pick(struct worker *w)
{
	struct span s = { .seg = &segments[next_random(w) % SEGMENTS], .first = next_random(w) % SEGMENT_PAGES };

	s.nr = 1 + next_random(w) % SPAN_PAGES;
	if (s.nr > SEGMENT_PAGES - s.first)
		s.nr = SEGMENT_PAGES - s.first;
	return s;
}

static void each_page(struct worker *w, bool may_write)
{
	struct span s = pick(w);

	pthread_rwlock_rdlock(&s.seg->lock);
	for (size_t i = s.first; i < s.first + s.nr; i++) {
		pthread_mutex_lock(&s.seg->page_lock[i]);
		verify_page(s.seg, i);
		if (may_write && !s.seg->read_only && next_random(w) % 2)
			write_page(s.seg, i);
		pthread_mutex_unlock(&s.seg->page_lock[i]);
	}
	pthread_rwlock_unlock(&s.seg->lock);
}

static void op_touch(struct worker *w)
{
	each_page(w, false);
}

static void op_write(struct worker *w)
{
	each_page(w, true);
}

static void advise(struct worker *w, enum ferry_advice advice)
{
	struct span s = pick(w);

	pthread_rwlock_rdlock(&s.seg->lock);
	CHECK_INT(ferry_advise(ferry, page_of(s.seg, s.first), s.nr * FERRYT_PAGE, advice), 0);
	pthread_rwlock_unlock(&s.seg->lock);
}

static void op_cold(struct worker *w)
{
	advise(w, FERRY_ADVICE_COLD);
}

static void op_willneed(struct worker *w)
{
	advise(w, FERRY_ADVICE_WILLNEED);
}

static void op_flush(struct worker *w)
{
	struct span s = pick(w);

	pthread_rwlock_rdlock(&s.seg->lock);
	CHECK_INT(ferry_flush(ferry, page_of(s.seg, s.first), s.nr * FERRYT_PAGE), 0);
	pthread_rwlock_unlock(&s.seg->lock);
}

/* Few at a time: pins must leave the smallest budget free. */
static void op_pin(struct worker *w)
{
	struct span s = pick(w);

	s.nr = s.nr > 4 ? 4 : s.nr;
	pthread_rwlock_rdlock(&s.seg->lock);
	CHECK_INT(ferry_pin(ferry, page_of(s.seg, s.first), s.nr * FERRYT_PAGE), 0);
	for (size_t i = s.first; i < s.first + s.nr; i++) {
		pthread_mutex_lock(&s.seg->page_lock[i]);
		verify_page(s.seg, i);
		pthread_mutex_unlock(&s.seg->page_lock[i]);
	}
	CHECK_INT(ferry_unpin(ferry, page_of(s.seg, s.first), s.nr * FERRYT_PAGE), 0);
	pthread_rwlock_unlock(&s.seg->lock);
}

static void op_dontneed(struct worker *w)
{
	struct span s = pick(w);

	pthread_rwlock_wrlock(&s.seg->lock);
	if (!s.seg->read_only) {
		if (next_random(w) % 2)
			CHECK_INT(ferry_advise(ferry, page_of(s.seg, s.first), s.nr * FERRYT_PAGE, FERRY_ADVICE_DONTNEED), 0);
		else
			CHECK_INT(madvise(page_of(s.seg, s.first), s.nr * FERRYT_PAGE, MADV_DONTNEED), 0);
		memset(&s.seg->model[s.first], 0, s.nr * sizeof(s.seg->model[0]));
	}
	pthread_rwlock_unlock(&s.seg->lock);
}

/* The second pool's end and a fork, which may replace mappings anywhere, are not beside a change of them (ferry.h, coherent pools). */
static bool is_coherent;
static pthread_rwlock_t pool_lock = PTHREAD_RWLOCK_INITIALIZER; /* second_pool: replaced under the write lock */

static void change_begin(struct segment *seg)
{
	pthread_rwlock_wrlock(&seg->lock);
	if (is_coherent)
		pthread_rwlock_rdlock(&pool_lock);
}

static void change_end(struct segment *seg)
{
	if (is_coherent)
		pthread_rwlock_unlock(&pool_lock);
	pthread_rwlock_unlock(&seg->lock);
}

/* The whole segment goes, by the library or behind its back; a new one comes. */
static void op_munmap(struct worker *w)
{
	struct segment *seg = pick(w).seg;

	change_begin(seg);
	if (next_random(w) % 2)
		CHECK_INT(ferry_munmap(ferry, seg->addr, SEGMENT_BYTES), 0);
	else
		CHECK_INT(munmap(seg->addr, SEGMENT_BYTES), 0);
	seg->addr = ferryt_mmap(ferry, SEGMENT_BYTES);
	memset(seg->model, 0, sizeof(seg->model));
	seg->read_only = false;
	change_end(seg);
}

/* Memory that is in a coherent pool in part is several mappings, and the kernel moves one at a time. */
static void move(uint8_t *from, uint8_t *to)
{
	if (mremap(from, SEGMENT_BYTES, SEGMENT_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to)
		return;
	CHECK(is_coherent && errno == EFAULT);
	for (size_t at = 0; at < SEGMENT_BYTES; at += FERRYT_PAGE)
		CHECK(mremap(from + at, FERRYT_PAGE, FERRYT_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to + at) == to + at);
}

static void op_mremap(struct worker *w)
{
	struct segment *seg = pick(w).seg;

	change_begin(seg);
	uint8_t *to = mmap(NULL, SEGMENT_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	CHECK(to != MAP_FAILED);
	move(seg->addr, to);
	seg->addr = to;
	change_end(seg);
}

/* Read-only, or writable again. */
static void op_mprotect(struct worker *w)
{
	struct segment *seg = &segments[next_random(w) % MAY_PROTECT];

	change_begin(seg);
	seg->read_only = !seg->read_only;
	CHECK_INT(mprotect(seg->addr, SEGMENT_BYTES, seg->read_only ? PROT_READ : PROT_READ | PROT_WRITE), 0);
	change_end(seg);
}

/* ---- as a device ---- */

static int ignore(struct ferry_mirror *mirror, const struct ferry_update *update)
{
	(void)mirror;
	(void)update;
	return 0;
}

static const struct ferry_mirror_ops mirror_ops = { .invalidate = ignore };
static struct ferry_mirror mirror = { .ops = &mirror_ops };

static void op_device(struct worker *w)
{
	uint8_t page[FERRYT_PAGE];
	struct span s = pick(w);

	pthread_rwlock_rdlock(&s.seg->lock);
	for (size_t i = s.first; i < s.first + s.nr; i++) {
		uintptr_t va = (uintptr_t)page_of(s.seg, i);

		pthread_mutex_lock(&s.seg->page_lock[i]);
		CHECK_INT(ferry_mirror_read(&mirror, va, page, sizeof(page), NULL), 0);
		if (s.seg->model[i])
			ferryt_verify(page, i, 1, s.seg->model[i]);
		else
			ferryt_verify_zero(page, 1);
		if (!s.seg->read_only && next_random(w) % 2) {
			s.seg->model[i] = new_version(s.seg);
			ferryt_fill_page(page, s.seg->model[i], i);
			CHECK_INT(ferry_mirror_write(&mirror, va, page, sizeof(page), NULL), 0);
		}
		pthread_mutex_unlock(&s.seg->page_lock[i]);
	}
	pthread_rwlock_unlock(&s.seg->lock);
}

/* What an update of the device looks at, and writes. */
struct change {
	size_t index;
	uint64_t old, new; /* of the model */
};

static void change_page(void *arg, void *bytes, size_t len)
{
	struct change *c = arg;

	if (c->old)
		ferryt_verify(bytes, c->index, 1, c->old);
	else
		ferryt_verify_zero(bytes, 1);
	ferryt_fill_page(bytes, c->new, c->index);
	CHECK(len == FERRYT_PAGE);
}

/* Held by the device alone, changed by it while that lasts; given back, or left to whoever wants a page. */
static void op_exclusive(struct worker *w)
{
	struct span s = pick(w);

	pthread_rwlock_rdlock(&s.seg->lock);
	int rc = ferry_exclusive_acquire(&mirror, page_of(s.seg, s.first), s.nr * FERRYT_PAGE);

	CHECK(rc == 0 || rc == -EBUSY || rc == -ENOMEM || (rc == -EPERM && s.seg->read_only));
	for (size_t i = s.first; i < s.first + s.nr; i++) {
		pthread_mutex_lock(&s.seg->page_lock[i]);
		struct change c = { .index = i, .old = s.seg->model[i], .new = new_version(s.seg) };

		rc = ferry_exclusive_update(&mirror, page_of(s.seg, i), FERRYT_PAGE, change_page, &c);
		CHECK(rc == 0 || rc == -ENOENT);
		if (!rc)
			s.seg->model[i] = c.new;
		pthread_mutex_unlock(&s.seg->page_lock[i]);
	}
	if (next_random(w) % 2)
		CHECK_INT(ferry_exclusive_release(&mirror, page_of(s.seg, s.first), s.nr * FERRYT_PAGE), 0);
	pthread_rwlock_unlock(&s.seg->lock);
}

static struct ferry_pool *first_pool, *second_pool;

static const char attr_owner;

static void attach_second(void)
{
	struct ferry_pool_attr attr = { .size = sizeof(attr), .type = FERRY_MEM_PRIVATE,
					.pool = strcmp(ferryt_row(), "embedded") ? "test" : "embedded" };

	if (is_coherent) {
		attr.type = FERRY_MEM_COHERENT;
		attr.owner = &attr_owner;
	}
	CHECK_INT(ferry_pool_attach(ferry, &attr, &second_pool), 0);
}

/* The end of a pool while the others go on, and a new one in its place. */
static void op_kill(struct worker *w)
{
	(void)w;
	pthread_rwlock_wrlock(&pool_lock);
	CHECK_INT(ferry_pool_kill(second_pool), 0);
	CHECK_INT(ferry_pool_evict(second_pool), 0);
	CHECK_INT(ferry_pool_drain(second_pool, 60000), 0);
	CHECK_INT(ferry_pool_detach(second_pool), 0);
	attach_second();
	pthread_rwlock_unlock(&pool_lock);
}

static void op_migrate(struct worker *w)
{
	struct span s = pick(w);
	uint8_t *addr;

	pthread_rwlock_rdlock(&s.seg->lock);
	pthread_rwlock_rdlock(&pool_lock);
	addr = page_of(s.seg, s.first);
	switch (next_random(w) % 3) {
	case 0:
		CHECK_INT(ferry_migrate_to_device(second_pool, addr, s.nr * FERRYT_PAGE, 0, NULL), 0);
		break;
	case 1:
		CHECK_INT(ferry_migrate_to_ram(ferry, addr, s.nr * FERRYT_PAGE, NULL, 0, NULL), 0);
		break;
	default:
		CHECK_INT(ferry_migrate_to_device(first_pool, addr, s.nr * FERRYT_PAGE, 0, NULL), 0);
	}
	pthread_rwlock_unlock(&pool_lock);
	pthread_rwlock_unlock(&s.seg->lock);
}

/* A device that copies by its own means; one of its kind at a time. */
static void op_steps(struct worker *w)
{
	struct span s = pick(w);
	uint64_t src[SPAN_PAGES], dst[SPAN_PAGES];
	const void *data[SPAN_PAGES];
	struct ferry_migrate m = { .size = sizeof(m), .src = src, .dst = dst, .data = data };

	pthread_rwlock_rdlock(&s.seg->lock);
	pthread_mutex_lock(&s.seg->steps_lock);
	pthread_rwlock_rdlock(&pool_lock);
	m.pool = second_pool;
	m.start = (uintptr_t)page_of(s.seg, s.first);
	m.end = m.start + s.nr * FERRYT_PAGE;
	int rc = ferry_migrate_setup(&m);

	CHECK(rc == 0 || rc == -EBUSY);
	for (size_t i = 0; !rc && i < m.npages; i++) {
		if (src[i] & FERRY_MIGRATE_PFN_VALID)
			CHECK_INT(ferry_device_write(ferry, dst[i] >> FERRY_MIGRATE_PFN_SHIFT, data[i], FERRYT_PAGE), 0);
	}
	if (!rc) {
		CHECK_INT(ferry_migrate_pages(&m), 0);
		CHECK_INT(ferry_migrate_finalize(&m), 0);
	}
	pthread_rwlock_unlock(&pool_lock);
	pthread_mutex_unlock(&s.seg->steps_lock);
	pthread_rwlock_unlock(&s.seg->lock);
}

/* ---- fork ---- */

/*
 * What a child may look at. Its forker's own segment stands still: there the
 * model is exact. Others whose mapping stays (a read lock) are written to
 * meanwhile, page by page at some moment of the fork: each page is a version
 * not older than the one before the fork, or the beginning of one over another.
 * The rest may be unmapped, moved or dropped in that moment: not looked at.
 */
struct snapshot {
	struct segment *own;
	bool is_kept[SEGMENTS];
	uint64_t before[SEGMENTS][SEGMENT_PAGES]; /* the model, of what is kept */
};

static void keep_segment(struct snapshot *snap, unsigned s)
{
	struct segment *seg = &segments[s];

	snap->is_kept[s] = false;
	if (seg == snap->own || pthread_rwlock_tryrdlock(&seg->lock))
		return;
	if (pthread_mutex_trylock(&seg->steps_lock)) {
		pthread_rwlock_unlock(&seg->lock);
		return;
	}
	snap->is_kept[s] = true;
	for (size_t i = 0; i < SEGMENT_PAGES; i++) {
		pthread_mutex_lock(&seg->page_lock[i]);
		snap->before[s][i] = seg->model[i];
		pthread_mutex_unlock(&seg->page_lock[i]);
	}
}

static void let_go(struct snapshot *snap)
{
	for (unsigned s = 0; s < SEGMENTS; s++) {
		if (!snap->is_kept[s])
			continue;
		pthread_mutex_unlock(&segments[s].steps_lock);
		pthread_rwlock_unlock(&segments[s].lock);
	}
	pthread_rwlock_unlock(&snap->own->lock);
}

/* Words of page i from k on that are of one version of this segment, or all zero; where the next begins. */
static size_t same_version(struct segment *seg, size_t i, size_t k, uint64_t *version)
{
	const uint64_t *word = (const uint64_t *)page_of(seg, i);
	uint64_t first = 0, next = 0;

	CHECK(!word[k] || (ferryt_is_word(word[k], i, k, &first) && first % SEGMENTS == (uint64_t)(seg - segments)));
	*version = first;
	for (k++; k < FERRYT_PAGE / 8; k++) {
		if (first ? !ferryt_is_word(word[k], i, k, &next) || next != first : word[k] != 0)
			break;
	}
	return k;
}

static bool is_older(uint64_t a, uint64_t b)
{
	return ((a - b) & FERRYT_SEED_MASK) > FERRYT_SEED_MASK / 2;
}

static void verify_changing(struct segment *seg, size_t i, uint64_t before)
{
	const size_t words = FERRYT_PAGE / 8;
	uint64_t newer, older;
	size_t k = same_version(seg, i, 0, &newer);

	CHECK(newer || !before); /* nothing makes it zeros */
	CHECK(!before || !is_older(newer, before));
	if (k == words)
		return;
	CHECK_INT(same_version(seg, i, k, &older), words);
	CHECK(older ? is_older(older, newer) && (!before || !is_older(older, before)) : newer && !before);
}

/* In the child, where the model is a copy, too. Of the segments that were written to, all or a part of each. */
_Noreturn static void look_and_write(struct worker *w, const struct snapshot *snap)
{
	struct segment *own = snap->own;
	bool all = next_random(w) % 4 == 0;

	verify_segment(own);
	for (unsigned s = 0; s < SEGMENTS; s++) {
		struct span part = pick(w);

		if (all)
			part.first = 0, part.nr = SEGMENT_PAGES;
		for (size_t i = part.first; i < part.first + part.nr && snap->is_kept[s]; i++)
			verify_changing(&segments[s], i, snap->before[s][i]);
	}
	if (!own->read_only) {
		size_t dropped = next_random(w) % SEGMENT_PAGES;

		for (size_t i = 0; i < SEGMENT_PAGES; i += 1 + next_random(w) % 4)
			write_page(own, i);
		CHECK_INT(madvise(page_of(own, dropped), FERRYT_PAGE, MADV_DONTNEED), 0);
		own->model[dropped] = 0;
	}
	verify_segment(own);
	_exit(0);
}

static void op_fork(struct worker *w)
{
	struct snapshot snap = { .own = pick(w).seg };

	pthread_rwlock_wrlock(&snap.own->lock);
	for (unsigned s = 0; s < SEGMENTS; s++)
		keep_segment(&snap, s);
	if (is_coherent) /* it sends all coherent pages away */
		pthread_rwlock_wrlock(&pool_lock);
	pid_t pid = fork();

	if (pid == 0)
		look_and_write(w, &snap);
	if (is_coherent)
		pthread_rwlock_unlock(&pool_lock);
	CHECK(pid > 0);
	let_go(&snap); /* the child's memory is its own: here all may change while it looks */
	CHECK_INT(ferryt_wait_child(pid, FORK_MS), 0);
}

#ifdef __SANITIZE_THREAD__ /* which supports no fork of a process with threads */
#define FORK_WEIGHT 0
#else
#define FORK_WEIGHT 3
#endif

/* A new operation is a function, and a row here: its share of all operations is weight / sum of the weights. */
struct op {
	const char *name;
	unsigned weight;
	void (*run)(struct worker *w);
};

static const struct op ops[] = {
	/* by the processor */
	{ "touch", 400, op_touch },
	{ "write", 400, op_write },
	/* of the pager */
	{ "cold", 60, op_cold },
	{ "willneed", 40, op_willneed },
	{ "flush", 20, op_flush },
	{ "pin", 20, op_pin },
	/* of the address space */
	{ "dontneed", 20, op_dontneed },
	{ "munmap", 6, op_munmap },
	{ "mremap", 6, op_mremap },
	{ "mprotect", 6, op_mprotect },
	{ "fork", FORK_WEIGHT, op_fork },
	/* by a device */
	{ "device", 60, op_device },
	{ "migrate", 30, op_migrate },
	{ "steps", 20, op_steps },
	{ "exclusive", 40, op_exclusive },
	/* of a pool */
	{ "kill", 2, op_kill },
};
#define NR_OPS (sizeof(ops) / sizeof(ops[0]))

/* FERRYT_STRESS_OPS=touch,write,...: these only, to narrow a failure down. */
static unsigned weight_of(const struct op *op)
{
	const char *only = getenv("FERRYT_STRESS_OPS");

	return !only || strstr(only, op->name) ? op->weight : 0;
}

static void step(struct worker *w)
{
	unsigned sum = 0, at = 0;

	for (size_t i = 0; i < NR_OPS; i++)
		sum += weight_of(&ops[i]);
	unsigned r = (unsigned)(next_random(w) % sum);

	while (r >= weight_of(&ops[at]))
		r -= weight_of(&ops[at++]);
	ops[at].run(w);
	w->nr_done++;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (ferryi_now_ns() < end_ns)
		step(w);
	return NULL;
}

static void run_seed(uint64_t seed)
{
	struct worker workers[THREADS] = { 0 };
	uint64_t done = 0;

	for (unsigned s = 0; s < SEGMENTS; s++) {
		pthread_rwlock_init(&segments[s].lock, NULL);
		pthread_mutex_init(&segments[s].steps_lock, NULL);
		for (size_t i = 0; i < SEGMENT_PAGES; i++)
			pthread_mutex_init(&segments[s].page_lock[i], NULL);
		segments[s].addr = ferryt_mmap(ferry, SEGMENT_BYTES);
		memset(segments[s].model, 0, sizeof(segments[s].model));
		segments[s].read_only = false;
	}
	end_ns = ferryi_now_ns() + seconds * 1000000000ULL / nr_seeds;
	for (unsigned t = 0; t < THREADS; t++) {
		workers[t] = (struct worker){ .id = t, .random = seed * 1000003 + t + 1 };
		CHECK_INT(pthread_create(&workers[t].thread, NULL, work, &workers[t]), 0);
	}
	for (unsigned t = 0; t < THREADS; t++) {
		CHECK_INT(pthread_join(workers[t].thread, NULL), 0);
		done += workers[t].nr_done;
	}
	for (unsigned s = 0; s < SEGMENTS; s++) {
		verify_segment(&segments[s]);
		CHECK_INT(ferry_munmap(ferry, segments[s].addr, SEGMENT_BYTES), 0);
	}
	struct ferry_stats stats = ferryt_stats(ferry);

	printf("# seed %llu: %llu operations, %llu faults, %llu from the pool, %llu evicted, peak %llu of %llu KiB\n",
	       (unsigned long long)seed, (unsigned long long)done, (unsigned long long)stats.faults,
	       (unsigned long long)stats.faults_major, (unsigned long long)stats.pages_evicted,
	       (unsigned long long)stats.peak_resident_bytes >> 10, (unsigned long long)stats.budget_bytes >> 10);
	CHECK(stats.pages_evicted > 0 && stats.faults_major > 0);
	CHECK(stats.peak_resident_bytes <= BUDGET);
}

/* No data is ever lost here: say why the library thinks that some is. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	struct ferry_fault_info why = { .size = sizeof(why) };
	char line[160];

	(void)context;
	ferry_fault_query(NULL, (uintptr_t)info->si_addr, &why);
	int len = snprintf(line, sizeof(line), "SIGBUS at %p: %s (%d)\n", info->si_addr, ferry_fault_reason_text(why.reason),
			   why.error);

	if (write(STDERR_FILENO, line, (size_t)len) < 0)
		_exit(1);
	signal(sig, SIG_DFL);
	raise(sig);
}

static void stress_body(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };

	sigaction(SIGBUS, &action, NULL);
	ferry = ferryt_open(BUDGET);
	attach_second();
	first_pool = ferry_pool_at(ferry, 0);
	CHECK_INT(ferry_mirror_register(&mirror, ferry), 0);
	for (unsigned i = 0; i < nr_seeds; i++)
		run_seed(seeds[i]);
	CHECK_INT(ferry_mirror_unregister(&mirror), 0);
	ferry_pool_put(first_pool);
	CHECK_INT(ferry_close(ferry), 0);
}

static void eight_threads__random_operations__the_model_agrees(void **state)
{
	(void)state;
	RUN(stress_body);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(eight_threads__random_operations__the_model_agrees),
	};
	int skip = ferryt_needs_uffd();

	if (skip)
		return skip;
	if (argc > 2)
		seconds = (unsigned)strtoul(argv[2], NULL, 10);
	for (int i = 3; i < argc && nr_seeds < sizeof(seeds) / sizeof(seeds[0]); i++)
		seeds[nr_seeds++] = strtoull(argv[i], NULL, 10);
	if (!nr_seeds)
		seeds[nr_seeds++] = 1;
	is_coherent = argc > 1 && strcmp(argv[1], "coherent") == 0;
	ferryt_server_start(argc > 1 && !is_coherent ? argv[1] : "local");
	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	ferryt_server_end();
	return rc;
}
