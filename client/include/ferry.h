/*
 * libferry: far memory for Linux programs.
 *
 * A process maps device memory that a memory server (ferryd) lends; cold pages
 * of its managed ranges move out to it, hot ones come back on the first touch.
 * The ideas and names are those of the kernel's HMM and ZONE_DEVICE
 * (Documentation/mm/hmm.rst, mm/memory-model.rst), on userfaultfd(2).
 *
 * Conventions
 *   Returns     0 or a negative errno unless stated otherwise.
 *   Ranges      [addr, addr + len), both multiples of 4096; else -EINVAL.
 *   Threads     every function may be called from any thread unless stated.
 *   Blocking    every function may block, bounded by the configured deadlines
 *               (fault_timeout_ms, request_timeout_ms), unless stated.
 *   Lifetime    a range must not be unmapped or given up while another call
 *               works on it, as memory must not be freed while it is read.
 *   Signals     only ferry_fault_query is async-signal-safe.
 *   Descriptors the library's are not to be closed by others (closefrom(3),
 *               while it is open): the process aborts then, when a page is
 *               wanted, rather than read zeros.
 *   Allocation  faults, eviction and device accesses allocate nothing, and the
 *               library's tables lie in address space reserved at open. What
 *               asks a server, or connects again, uses malloc.
 *   fork        parent and child each have their own copy of managed ranges.
 *               The parent serves what was away as long as it lives, and
 *               hands over the rest in ferry_close and exit(3), which may take
 *               long then. After another end of it (a signal, _exit, an exec)
 *               the program ferry-heir [FERRY_HEIR: its path] serves the
 *               child from the server, as long as that keeps what it lent
 *               (ferryd --keep). The first fork that leaves pages away starts
 *               it, with a session of its own, and waits until that stands by
 *               for the pool; it ends when no child needs it. Where there is
 *               no heir (an embedded server, a pool with a name, a coherent
 *               pool, a server of 0.1, no such program), or it is killed too,
 *               the child gets SIGBUS there, never zeros. What the child
 *               has in RAM is in no budget. It may not call this library
 *               (except ferry_open anew); in its own children, and in those of
 *               a raw clone(2), managed memory raises a signal. vfork,
 *               posix_spawn and system are not concerned. FERRY_FORK=guard:
 *               SIGBUS in every child.
 */
#ifndef FERRY_H
#define FERRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#define FERRY_VERSION_MAJOR 0
#define FERRY_VERSION_MINOR 1
#define FERRY_VERSION_PATCH 0

#define FERRY_PAGE_SIZE     4096u
#define FERRY_SUBSECTION    (2u << 20)   /* bytes: unit of lease and of pool alignment */
#define FERRY_SECTION       (128u << 20) /* bytes: unit of the section table */
#define FERRY_COMPAT_ALIGN  FERRY_SUBSECTION /* memremap_compat_align() */

struct ferry;      /* one per process: the mirrored address space */
struct ferry_pool; /* leased window of a server's memory: struct dev_pagemap */
struct ferry_page; /* descriptor of one device page: struct page */

/* Text of the library's version, "0.1.0". Static; async-signal-safe. */
const char *ferry_version(void);

/*
 * One line on why the last failed call of this thread failed and how to mend
 * it; "" if none did. Valid until the thread's next call into the library.
 */
const char *ferry_last_error(void);

/* ---- life ---- */

/*
 * Configuration. Zero (or NULL) members take their default. Set size to
 * sizeof(struct ferry_config). The environment variable in brackets sets the
 * member when ferry_open is given NULL.
 */
struct ferry_config {
	size_t size;
	/*
	 * Comma list of ferry://host:port[?fabric=..][&auth=..], or where to find some (see below) [FERRY_SERVERS]; none: an
	 * embedded server. How this process
	 * shows who it is: auth=token (default), munge, tls or anonymous, or FERRY_AUTH where the URL names none; ferryd(8)
	 */
	const char *servers;
	const char *pool;            /* pool name at the servers; default: the first [FERRY_POOL] */
	const char *token_file;      /* shared secret of the servers [FERRY_TOKEN_FILE] */
	uint64_t local_bytes;        /* budget: RAM that managed pages may hold; default 256M [FERRY_LOCAL] */
	uint64_t embedded_bytes;     /* size of the embedded server's pool; default half of available RAM [FERRY_EMBEDDED_SIZE] */
	uint32_t fault_timeout_ms;   /* a fault older than this is poisoned; default 10000 [FERRY_FAULT_TIMEOUT] */
	uint32_t request_timeout_ms; /* one control request; default 10000 [FERRY_REQUEST_TIMEOUT] */
	uint32_t fault_threads;      /* default 1 [FERRY_FAULT_THREADS] */
	uint32_t evict_threads;      /* default 1 [FERRY_EVICT_THREADS] */
	/*
	 * Largest window, in pages, 1 (none) to 512; default 256; at most 1/64 of the budget, and 32 for a stream
	 * whose pages are no neighbours [FERRY_READAHEAD]
	 */
	uint32_t readahead_pages;
	const char *log_level;       /* error, warn, notice, info, debug; default warn [FERRY_LOG_LEVEL] */
	const char *fork;            /* managed memory in the child of a fork: copy or guard (SIGBUS); default copy [FERRY_FORK] */
	/*
	 * A fault that has found no local memory within fault_timeout_ms (the budget is full of pages that cannot leave, or
	 * a memory cgroup is at its limit): "poison" it, "wait" on, "abort" the process; default poison [FERRY_OOM]
	 */
	const char *oom;
	/*
	 * Who serves faults on memory that ferry_mmap and ferry_adopt are given no FERRY_MAP_INLINE or FERRY_MAP_HANDLER
	 * for: "handler" or "inline"; default handler [FERRY_MODE]
	 */
	const char *mode;
	/*
	 * Copies of each page that leaves, on as many servers, 1 to 3; default 1 [FERRY_REPLICAS]. With more than one,
	 * a page is away when all of them have it; when a server is lost, faults go on from the others and what was lost is
	 * copied to another one that has room, in the background. Where there is none, the process goes on with fewer
	 * copies, and a warning says so (ferry_stats.replicas_missing). A server that is late for a quarter of
	 * fault_timeout_ms is left alone for a while, and the fault answered by another one. What is at a server that
	 * drains (SIGTERM of ferryd) moves in the same way, with one copy too. Pools with a name, callbacks or an altmap,
	 * and coherent ones, have one copy and stay where they are.
	 */
	uint32_t replicas;
	uint64_t rebuild_rate;       /* bytes/s at which lost copies are made anew, at most; default 200M [FERRY_REBUILD_RATE] */
	/*
	 * How memory is spread over the pools, where FERRY_MAP_* says nothing else: "round-robin", "weighted", "nearest" or
	 * "fill" (see "several servers" below); default round-robin [FERRY_POLICY]
	 */
	const char *policy;
	uint64_t stripe_bytes;       /* consecutive bytes of a mapping in one pool; multiple of 2 MiB; default 2M [FERRY_STRIPE] */
	/*
	 * "no": ferry_open fails when one of the servers cannot be reached. "yes": it goes on without, with a warning, as long
	 * as one can be; default no [FERRY_SERVERS_OPTIONAL]
	 */
	const char *servers_optional;
	/*
	 * Bytes that the servers must have for this process: leased at open, the same part at each, in whole 2 MiB, or
	 * ferry_open fails (-ENOMEM). What a pool can give beyond that is leased as it is needed. 0 (default): all of it is.
	 * Not with servers that are found (etcd, DNS) or optional. An embedded server, which is this process's own: nothing is
	 * leased ahead [FERRY_RESERVE]
	 */
	uint64_t reserve_bytes;
};

/* Smallest budget: what the fault and eviction paths need to make progress. -EINVAL below it. */
#define FERRY_BUDGET_MIN (4u << 20)
/*
 * Where the process is in a memory cgroup with a limit (a batch system's, a
 * container's, a service's), the library gives way before the kernel's OOM
 * killer comes: with less than 24 MiB of room (page cache not counted) pages
 * leave until FERRY_BUDGET_MIN is left of them, whatever the budget; with less
 * than 8 MiB they are brought in by frames that were kept back, 1 MiB of them
 * outside the budget. The limit is looked for at open. What an embedded server
 * lends, and a pool of this host that did not reserve its memory (reserve=no),
 * counts in the process's own cgroup.
 */
/* RAM outside the budget, per fault or eviction thread: landing slots and bounce buffers, reserved at open. */
#define FERRY_THREAD_RESERVE (4u << 20)
/*
 * ... and per process: frames of pages that have left, for the next ones that are read ahead; at most 1/16 of the
 * budget. None over verbs and rdm.
 */
#define FERRY_FRAMES_RESERVE (4u << 20)

/*
 * Where servers are found, in ferry_config.servers, alone or among others:
 *   etcd://host[:port]/prefix[?fabric=..]          those that are registered there now (ferryd --register): the v3 API, over HTTP
 *   ferry+srv://name[?dns=ipv4[:port]][&fabric=..] those that the name's SRV records name, as _ferry._tcp.example.org
 * One that is found but cannot be reached is left out, with a warning. A thread of the library's, ferry-scout, looks for
 * more as long as the struct ferry is open (at changes of the first etcd; else every 10 s), and attaches what has come,
 * up to 16 servers and pools in all; pages go there from then on. It takes nothing away: a server that is not found any
 * more keeps what it has, until its session ends. With servers_optional, servers of the list that were away, or have
 * restarted, are attached so too.
 */

/*
 * Starts the library in this process: userfaultfd, threads, sessions and
 * leases. cfg NULL: everything from the environment. One struct ferry a
 * process: -EBUSY if there is one.
 * Returns -EPERM (no right to userfaultfd; ferry_last_error says how to get
 * it), -EOPNOTSUPP (kernel lacks a needed feature), -EINVAL (fewer servers
 * than replicas, too), -ENOMEM,
 * -EHOSTUNREACH (also: none is found), -ECONNREFUSED, -ETIMEDOUT, -EACCES (authentication), -EPROTONOSUPPORT
 * (version), -ENXIO (no such pool), -ENODEV (fabric), -ENOENT (no ferryd for
 * an embedded server). *out is untouched on failure.
 */
int ferry_open(const struct ferry_config *cfg, struct ferry **out);

/*
 * Brings every page home (the budget does not apply any more), then stops.
 * Ranges of ferry_mmap and adopted ranges stay mapped, as plain memory.
 * Returns -EBUSY (pages are pinned or busy, a range is registered, a view is open) or -EIO (pages cannot be had back:
 * poisoned, or their server is gone) and leaves all as it was; -EINVAL NULL.
 */
int ferry_close(struct ferry *ferry);

/* What this kernel and these privileges give. Does not block. */
#define FERRY_CAP_MOVE         (1ull << 0) /* UFFDIO_MOVE: atomic eviction */
#define FERRY_CAP_POISON       (1ull << 1) /* UFFDIO_POISON: SIGBUS for lost pages */
#define FERRY_CAP_KERNEL_FAULT (1ull << 2) /* system calls may touch away pages (root or /dev/userfaultfd) */
#define FERRY_CAP_PAGEMAP_SCAN (1ull << 3)
#define FERRY_CAP_WP_ASYNC     (1ull << 4)
#define FERRY_CAP_EVENT_FORK   (1ull << 5)
uint64_t ferry_caps(struct ferry *ferry);

/*
 * ---- memory ----
 *
 * Pages that the application makes read-only (mprotect) do not leave RAM by
 * themselves until they are writable again, as the kernel moves writable pages
 * only, but by ferry_migrate_to_device. Together with
 * pinned ones they must fit the budget, with FERRY_BUDGET_MIN to spare, or
 * faults find no memory, wait, and at last poison (FERRY_FAULT_NO_MEMORY).
 */

#define FERRY_MAP_NORESERVE (1u << 0) /* do not lease pool memory for the whole range now; see -ENOMEM */
#define FERRY_MAP_INLINE    (1u << 1) /* faults are served in the faulting thread; see below */
#define FERRY_MAP_HANDLER   (1u << 2) /* by a thread of the library's, whatever FERRY_MODE says */
/* At most one of these; without, what FERRY_POLICY says. */
#define FERRY_MAP_ROUND_ROBIN (1u << 3)
#define FERRY_MAP_WEIGHTED    (1u << 4)
#define FERRY_MAP_NEAREST     (1u << 5)
#define FERRY_MAP_FILL        (1u << 6)
/* Stripes of 1 << log2 bytes, 21 (2 MiB) to 40, as MAP_HUGE_SHIFT of mmap(2); without, what FERRY_STRIPE says. */
#define FERRY_MAP_STRIPE_SHIFT 26
#define FERRY_MAP_STRIPE(log2) ((unsigned)(log2) << FERRY_MAP_STRIPE_SHIFT)

/*
 * Several servers. Memory goes to all plain pools: those of ferry_open's servers, and those that ferry_pool_attach adds
 * without owner, ops and name; other pools that eviction may use take what these have no room for. A mapping is cut into
 * stripes, of a multiple of 2 MiB from its start (of adopted memory: from the 2 MiB boundary at or below it), and each goes to one pool:
 *   round-robin  one stripe to each in turn, whatever their sizes: all servers work on a scan, and on random touches
 *   weighted     in proportion to the room that each has, of what its server had free when it was last asked (at attach,
 *                and by a ferry_mmap or ferry_adopt, once a second at most): servers of different sizes fill evenly
 *   nearest      to the nearest that has room: pools of this host (fabric local) by the NUMA distance of their memory
 *                from the thread that attaches them, then the others by the latency of a read, measured at attach; in
 *                turn where several are as near, to a quarter
 *   fill         to the first that has room
 * A pool that is full, dying or lost is passed over: the stripe goes to the others by the same policy. Memory is placed
 * when it is mapped or adopted (with FERRY_MAP_NORESERVE: when 2 MiB of it first leave RAM), and stays: a pool
 * attached later gets its share of what is placed from then on, one that is to go is emptied first (ferry_pool_kill,
 * ferry_pool_evict, ferry_pool_detach). The default stripe is what is placed as one at the least: longer ones
 * make no transfer longer, but let a scan wait for one server at a time. Each pool, and each of its copies (replicas),
 * leases in steps of 64 MiB, where its server has that much: what is leased for one is not there for another.
 */

/*
 * Inline memory saves a fault the hand-off to another thread: the library's
 * handler of SIGBUS brings the page in. That pays where pages are touched in no
 * order; who reads in order is faster without. It is for memory that computation alone
 * touches, because:
 * - A system call that is given an address there fails with EFAULT while the
 *   page is away. Pin the buffer first (ferry_pin), or FERRY_ADVICE_WILLNEED it
 *   and be ready to try again.
 * - No thread may block SIGBUS and touch it: the kernel ends the process. The
 *   stack that a signal handler runs on must not be inline (sigaltstack), nor
 *   the memory of malloc.
 * - SIGBUS is the library's from the first inline range on. What is not its
 *   own, and poison, it passes to the handler that was there before; one that is
 *   installed later must pass on what it does not know to the one before it.
 * - An asynchronous signal handler may touch it, but if it has interrupted a
 *   ferry_ call; else it gets SIGBUS after the fault timeout: pin what it needs.
 * - The old addresses of mremap with MREMAP_DONTUNMAP, and those by which mremap
 *   grows a range, raise SIGBUS.
 * In the child of a fork it is memory like any other. A coherent pool takes none (-EINVAL), and memory that
 * ferry_migrate_to_device adopts is handler memory.
 */

/*
 * Maps len bytes of managed anonymous memory (len is rounded up to pages).
 * hint as in mmap(2), may be NULL. prot must include PROT_READ | PROT_WRITE.
 * Pool memory for the whole range is leased first, so that eviction cannot
 * fail later, unless FERRY_MAP_NORESERVE: then a full pool makes faults wait
 * and at last poison.
 * Returns the address, or MAP_FAILED and errno: EINVAL, ENOMEM (the pools are
 * full: ferry_last_error has the number that would fit); with FERRY_MAP_INLINE
 * also EOPNOTSUPP (the kernel), EMFILE, ETIMEDOUT (a server does not answer).
 */
void *ferry_mmap(struct ferry *ferry, void *hint, size_t len, int prot, unsigned flags);

/*
 * Unmaps [addr, addr + len) and frees its pool memory. Any part of managed
 * ranges, also several. -EINVAL: unaligned, or not all managed; -EBUSY: pinned.
 */
int ferry_munmap(struct ferry *ferry, void *addr, size_t len);

/*
 * Manages existing private memory (malloc, mmap, another thread's stack, a
 * program's variables), in place; its content stays. Pages inside
 * [addr, addr + len) only: give it whole pages (-EINVAL otherwise). Resident
 * pages count against the budget from now on, so some may leave at once.
 * Private mappings of files are made anonymous first: all of the range is read
 * in, 1 MiB at a time, and the file's later changes do not show. No other
 * thread may write to such memory during the call: the write could be lost. It
 * stays anonymous, with its content, if the call fails in the middle. Not the
 * variables of libraries that this one uses: its own threads must not wait for
 * a page.
 * Returns -EINVAL (unaligned; overlaps a managed range), -EFAULT (part of it
 * is not mapped, or beyond its file's end), -EOPNOTSUPP (shared, huge page,
 * locked or sealed memory, executable mapping of a file), -EBUSY (belongs to
 * another userfaultfd: CRIU, QEMU, a libfabric monitor), -EACCES (not readable
 * and writable), -ENOMEM (pools full; address space or a resource limit); with
 * FERRY_MAP_INLINE also -EOPNOTSUPP (the kernel), -EMFILE, -ETIMEDOUT. flags are those of ferry_mmap.
 */
int ferry_adopt(struct ferry *ferry, void *addr, size_t len, unsigned flags);

/*
 * Pages of the range come home and stop being managed; content stays.
 * -EINVAL: not all managed; -EBUSY pinned; -EIO: some page is lost. On failure
 * the range stays managed.
 */
int ferry_unadopt(struct ferry *ferry, void *addr, size_t len);

/*
 * mprotect(2) that the mirrors are told of (FERRY_UPDATE_PROTECT) before it, of
 * managed memory and of any other; ranges that overlap are not valid meanwhile,
 * and changed afterwards. Pages that a device holds exclusively come home
 * first. A plain mprotect is in order too, but nobody is told: a device's access
 * looks up the rights each time, a range's entries show them as they were.
 * Returns as mprotect: -EINVAL (unaligned addr, bad prot), -ENOMEM (part of it
 * is not mapped; what lies before may have changed), -EACCES.
 */
int ferry_mprotect(struct ferry *ferry, void *addr, size_t len, int prot);

enum ferry_advice {
	FERRY_ADVICE_NORMAL,     /* read-ahead by what is seen: streams of any step, up or down, several at a time */
	FERRY_ADVICE_SEQUENTIAL, /* upwards, the largest read-ahead at the first touch; pages behind leave first */
	FERRY_ADVICE_RANDOM,     /* no read-ahead, whatever is seen */
	FERRY_ADVICE_WILLNEED,   /* bring in now, as far as the budget allows */
	FERRY_ADVICE_COLD,       /* move out now */
	FERRY_ADVICE_DONTNEED,   /* drop the content: reads give zeros, pool memory is kept for it */
};

/* -EINVAL: unknown advice, unaligned, or not all managed; -EBUSY: DONTNEED on pinned pages. */
int ferry_advise(struct ferry *ferry, void *addr, size_t len, enum ferry_advice advice);

/*
 * Makes pages resident and unmovable, for DMA, RMA, signal handlers; counts as
 * resident. Pins nest. -ENOMEM: would leave less than FERRY_BUDGET_MIN of the
 * budget unpinned; -EIO: a page is lost; -EINVAL.
 * Unpin of a page that is not pinned: -EINVAL, and nothing is unpinned.
 */
int ferry_pin(struct ferry *ferry, void *addr, size_t len);
int ferry_unpin(struct ferry *ferry, void *addr, size_t len);

/*
 * Every page of the range has a current copy in the pool when this returns, and its descriptor is there, in a pool that
 * keeps them ("after a crash"); pages stay where they are. -EIO, -EINVAL.
 */
int ferry_flush(struct ferry *ferry, void *addr, size_t len);

/*
 * Sets the budget; lowering evicts before it returns. -EINVAL below
 * FERRY_BUDGET_MIN; -ENOMEM: pinned pages do not fit; -ETIMEDOUT: eviction did
 * not get there (the old budget stays).
 */
int ferry_set_budget(struct ferry *ferry, size_t bytes);

/* ---- figures ---- */

struct ferry_latency {
	uint64_t count;
	uint64_t p50_ns, p90_ns, p99_ns, p999_ns, max_ns;
};

struct ferry_stats {
	size_t size; /* set to sizeof(struct ferry_stats) */
	/* gauges */
	uint64_t budget_bytes;
	uint64_t managed_bytes;      /* ranges */
	uint64_t resident_bytes;     /* managed pages in RAM now */
	uint64_t peak_resident_bytes;
	uint64_t pinned_bytes;
	uint64_t away_bytes;         /* pages whose data is in a pool only */
	uint64_t leased_bytes;
	uint64_t bookkeeping_bytes;  /* the library's own memory for these ranges at most: what was never touched takes none */
	/* counters */
	uint64_t faults;             /* touches that had to wait for the library */
	uint64_t faults_major;       /* ... for a read from a pool */
	uint64_t faults_zero;        /* ... for a first touch */
	uint64_t faults_rescued;     /* ... for a page on its way out */
	uint64_t faults_poisoned;    /* ended in SIGBUS */
	uint64_t pages_in;           /* read from pools */
	uint64_t pages_readahead;    /* of these, brought in before they were touched */
	uint64_t readahead_hits;     /* of these, seen to be used: a stream went on past them; told late, and a few not at all */
	uint64_t pages_evicted;
	uint64_t pages_written;      /* of these, dirty: written to the pool */
	uint64_t pages_dropped;      /* of these, clean: no traffic */
	uint64_t bytes_in, bytes_out;
	uint64_t budget_waits;       /* faults that waited for eviction */
	uint64_t channels_reopened;
	/* time from the fault event to the page's being in place */
	struct ferry_latency fault;
	struct ferry_latency fault_major;
	uint64_t pages_reserve;      /* brought in at a memory cgroup's limit, by frames kept back for that */
	uint64_t coherent_bytes;     /* gauge: pages that are mapped in a coherent pool; in no budget */
	/* replicas (FERRY_REPLICAS) */
	uint64_t replicas_missing;   /* gauge: copies of pools that are not there, or not whole yet: wanted less readable */
	uint64_t rebuild_left_bytes; /* gauge: still to be copied to those that are under way */
	uint64_t bytes_replicated;   /* written to second and third copies, by eviction; bytes_out has the first alone */
	uint64_t reads_retried;      /* faults whose read failed and was begun again */
	uint64_t copies_lost;        /* copies of a pool that went with a server */
	uint64_t copies_rebuilt;     /* ... that were made anew, or moved off a server that drains */
	uint64_t bytes_rebuilt;      /* copied for that */
	uint64_t pages_moved;        /* of pages_in, read into the frame of a page that had left, and not copied */
};

/* Fills as much of *stats as its size says. -EINVAL: size 0. Does not block. */
int ferry_stats(struct ferry *ferry, struct ferry_stats *stats);

/* ---- trouble ---- */

enum ferry_fault_reason {
	FERRY_FAULT_NONE = 0,       /* managed and well */
	FERRY_FAULT_NOT_MANAGED,    /* not an address of ours */
	FERRY_FAULT_SERVER_LOST,    /* connection closed, or keep-alive missed */
	FERRY_FAULT_TIMEOUT,        /* no answer within fault_timeout_ms */
	FERRY_FAULT_REVOKED,        /* the server took the lease back */
	FERRY_FAULT_IO,             /* the transport failed, key refused */
	FERRY_FAULT_NO_MEMORY,      /* the budget could not be kept: eviction could not go on */
	FERRY_FAULT_FORKED,         /* this is the child of a fork, and did not get the page */
};

struct ferry_fault_info {
	size_t size; /* set to sizeof(struct ferry_fault_info) */
	uintptr_t va;                    /* page address */
	enum ferry_fault_reason reason;
	int error;                       /* negative errno behind it, or 0 */
	char server[64];                 /* "host:port" of the lost data, or "" */
};

/*
 * Why did this address raise SIGBUS? ferry NULL: the process's own.
 * Async-signal-safe, does not block. -EINVAL.
 */
int ferry_fault_query(struct ferry *ferry, uintptr_t va, struct ferry_fault_info *info);
/* Static text of a reason. */
const char *ferry_fault_reason_text(enum ferry_fault_reason reason);

/* ---- device memory: struct dev_pagemap, struct page, PFNs ---- */

/*
 * What the server's pool is made of (ferryd --pool type=). Pages of PRIVATE,
 * FS_DAX and GENERIC pools behave alike here: marked holes, fetched when they
 * are touched.
 */
enum ferry_mem_type {
	FERRY_MEM_PRIVATE = 1, /* the server's RAM; the CPU reaches it by migration only */
	FERRY_MEM_COHERENT,    /* RAM of a server of this host, which the CPU reaches too: see below */
	FERRY_MEM_FS_DAX,      /* a file of the server's: its leases with a name are kept for good */
	FERRY_MEM_GENERIC,     /* a character device (/dev/dax) or huge pages of the server's */
	FERRY_MEM_P2PDMA,      /* memory of a device of the server's: -ENXIO, no server has it so far */
};

/*
 * A coherent pool (ZONE_DEVICE's MEMORY_DEVICE_COHERENT) is shared by a server of this host, embedded or not, over
 * fabric local; it is one of the server's pools of type=coherent, or else a private one. Pages get there by
 * ferry_migrate_to_device alone, never by eviction (but what leaves RAM of a block of 2 MiB, part of which is there,
 * joins it). They are mapped where they are: no access of a CPU faults, devices reach them by PFN or address at the
 * same time, they count against no budget and stay until they are called home: by ferry_migrate_to_ram,
 * ferry_pool_evict, ferry_unadopt, ferry_close, migration to another pool, or by who wants them resident or alone
 * (ferry_pin, ferry_range_rma_map, ferry_exclusive_acquire: no long-term pin).
 *   fork        sends them all away, so that the child gets its own copy; they come home by touch, to RAM
 *   MADV_DONTNEED  drops them: they read as zeros
 *   mremap      keeps them; where an end has no page of its own (the old one with MREMAP_DONTUNMAP, growth) it raises
 *               SIGBUS
 *   a server that ends takes nothing along: the content stays right, and comes home. A lease that it takes back
 *               raises SIGBUS, never zeros (FERRY_FAULT_REVOKED).
 * The mapping keeps its rights, but not other properties (mlock, NUMA policy, a name). While pages enter or leave the
 * pool, in one of these calls or a fork, no other thread may munmap, mremap or mprotect them (ferry_munmap and ferry_mprotect are well):
 * the kernel replaces a mapping whatever has become of it just before. MADV_DONTNEED may come at any time. Who sleeps
 * on a futex there that is not private to the process (pthread_join of a thread whose stack it is) is not woken if
 * its page enters or leaves meanwhile; the caller's own stack is refused (-EINVAL). Memory that is there in part is
 * several mappings, which mremap moves one at a time (EFAULT for all of them). A system call given a page that was dropped gets EFAULT where it may not fault (FERRY_CAP_KERNEL_FAULT), as ever.
 */
enum ferry_vm_fault {
	FERRY_VM_FAULT_MINOR, /* `to` is filled: it was at hand */
	FERRY_VM_FAULT_MAJOR, /* `to` is filled */
	FERRY_VM_FAULT_RETRY,
	FERRY_VM_FAULT_OOM,
	FERRY_VM_FAULT_SIGBUS,
};

/* One device page that a thread waits for: struct vm_fault of migrate_to_ram. */
struct ferry_device_fault {
	size_t size; /* sizeof(struct ferry_device_fault) */
	uint64_t pfn;
	uintptr_t va;     /* page address; a hint, as in the kernel */
	bool write;       /* also a hint */
	void *to;         /* FERRY_PAGE_SIZE bytes: the page's content goes here */
	uint64_t drvdata;
};

/*
 * Callbacks of a pool (dev_pagemap_ops); any may be NULL. Called in library
 * threads, on the fault path, page_free and page_split also with locks of the
 * library held: must not touch managed memory, allocate, call this library (but
 * the page and PFN functions), nor wait for a thread that may.
 * A pool with page_free or migrate_to_ram keeps no copy of a page that has come
 * home: it is written again when it leaves.
 */
struct ferry_pool_ops {
	/*
	 * No page of the process lives in the device page any more: it has come to RAM, was dropped or poisoned. Its
	 * reference count is 0; it is the driver's alone during the call. Once a use. For a folio (page_split) that is
	 * given up as a whole, once with its first page: ferry_page_order says 9 then, else 0.
	 */
	void (*page_free)(struct ferry_pool *pool, uint64_t pfn);
	/*
	 * The caller's own copy engine in place of the library's read: the faulting page only, no read-ahead.
	 * RETRY: asked again, until the fault's deadline. OOM: as if the budget had no room: asked again, then
	 * poison (FERRY_FAULT_NO_MEMORY). SIGBUS: the page is poisoned (FERRY_FAULT_IO).
	 */
	enum ferry_vm_fault (*migrate_to_ram)(struct ferry_pool *pool, const struct ferry_device_fault *fault);
	/*
	 * The server has reported this page's memory as failed, or its lease or server is lost; called when the
	 * page is wanted. Fill replica (FERRY_PAGE_SIZE bytes) and return 0: the page goes on with that. NULL or
	 * any error (-EOPNOTSUPP): poison (FERRY_FAULT_IO, or why the pool is lost).
	 */
	int (*memory_failure)(struct ferry_pool *pool, uint64_t pfn, void *replica);
	/*
	 * folio_split: a folio of 512 pages (ferry_migrate_to_device) parts, because a page of it is brought home,
	 * dropped, poisoned, unmapped or moved without the others. Called once for each page but the first, 511 times,
	 * before the CPU sees a page of it, and before any other callback for one: the driver's chance to copy its
	 * metadata. drvdata of the head has been copied to every tail; ferry_page_order of the head is 9 until the last
	 * call has returned, then 0. There is no last call without a tail. A pool with ops, but no page_split, has no
	 * folios.
	 */
	void (*page_split)(struct ferry_pool *pool, uint64_t head_pfn, uint64_t tail_pfn);
};

/*
 * Page descriptors kept in the device's own memory (struct vmem_altmap): where
 * in a pool's window they are. With a name (struct ferry_pool_attr) they are
 * written there, and another process finds the pages again after this one has
 * crashed: see "after a crash" below. Without one they are in RAM only; the PFNs
 * are set aside and accounted for as in the kernel, and hold nothing.
 * Changes only with the pool's growth, attach and detach.
 */
struct ferry_altmap {
	uint64_t base_pfn; /* out: the window's first PFN */
	uint64_t end_pfn;  /* out: and its last */
	uint64_t reserve;  /* in: PFNs at the window's start that are left untouched */
	uint64_t free;     /* in: PFNs after these, set aside for descriptors: 4 a sub-section of 2 MiB, and with a name 1 more */
	uint64_t align;    /* out: PFNs of padding, up to the next sub-section: there the pool's pages begin */
	uint64_t alloc;    /* out: PFNs of free that are consumed; the pool does not grow beyond what free grants */
};
/* PFNs before the pages: reserve + free; 0 for NULL. Pure. */
uint64_t ferry_altmap_offset(const struct ferry_altmap *altmap);
/* Gives back n PFNs of alloc. */
void ferry_altmap_free(struct ferry_altmap *altmap, uint64_t n);

struct ferry_pool_attr {
	size_t size;                /* sizeof(struct ferry_pool_attr) */
	enum ferry_mem_type type;   /* 0 is refused: -EINVAL */
	const char *server;         /* URL; NULL: the first server of the process */
	const char *pool;           /* NULL: the server's first of that type */
	uint64_t len_bytes;         /* leased now; multiple of FERRY_SUBSECTION; may be 0 */
	const void *owner;          /* identity for migration filters; may be NULL, but for COHERENT */
	void *data;                 /* the caller's */
	const struct ferry_pool_ops *ops; /* may be NULL; must outlive the pool */
	struct ferry_altmap *altmap; /* the caller's; may be NULL; must outlive the pool. -EINVAL: it leaves no page */
	/*
	 * NULL: the server takes the memory back when it is detached, or this process ends. Else it keeps it under this
	 * name, and an attach by the same name, by whoever has the server's token, finds it as it was, at the same
	 * offsets from the window's first PFN (kept_bytes of ferry_pool_info): ferry_device_read gives it, no page of
	 * the process is put there.
	 * FERRY_MEM_FS_DAX: for good, also over the server's end, until ferry_pool_forget. Others: when this process ends
	 * without ferry_pool_detach or ferry_close, for keep_ms of ferry_pool_info from the moment that the server notices
	 * (at once; a machine that is gone: after its --timeout); then it is zeroed and free, and the name new.
	 * Without an altmap, such a pool gets pages by ferry_migrate_to_device and ferry_migrate_setup only. With one it is
	 * paged to as any other, and "after a crash" holds. 1 to 63 letters, digits and . _ : ; - (-EINVAL).
	 */
	const char *name;
};

/*
 * Leases a window of device memory and gives it PFNs, as memremap_pages() does.
 * The pager of this process uses it for eviction, beside the pools that
 * ferry_open attached.
 * -EINVAL (type 0, alignment; COHERENT without an owner, or with a name), -ENXIO (no such pool, or not of that type; a
 * type that cannot be had), -ENODEV (the fabric cannot lend it: FS_DAX and
 * GENERIC are not for the same-host row, COHERENT is for no other), -ENOMEM, -EACCES, -EHOSTUNREACH, -ETIMEDOUT;
 * with a name: -EBUSY (a process has it; it is free a moment after that has
 * ended), -EOPNOTSUPP (a server of 0.1); with an altmap, too: -EINVAL (laid out
 * for another altmap; ops with page_free or migrate_to_ram), -EBADMSG (what is
 * kept under the name has no descriptors there, or a garbled head record). A
 * name that was not attached so is kept on. With ferry_config.replicas, its
 * copies are at other servers of the process: -EINVAL where there are too few.
 */
int ferry_pool_attach(struct ferry *ferry, const struct ferry_pool_attr *attr, struct ferry_pool **out);
/* -EBUSY while pages of the process live in it, or references are held. The struct is gone on success, and what is kept for a time only. */
int ferry_pool_detach(struct ferry_pool *pool);
/*
 * The same for a pool that was attached with a name; what it holds is given up
 * for good, and the name is free. -EINVAL: no name; -EBUSY as ferry_pool_detach,
 * nothing has changed then. -EIO, -ENOTCONN, -ETIMEDOUT: the pool is detached,
 * but the server may have kept the name.
 */
int ferry_pool_forget(struct ferry_pool *pool);

/*
 * ---- after a crash: pools with a name and an altmap ----
 *
 * What comes back is what the pool holds: of each page its content when it was
 * last evicted, migrated there or flushed; what was written to it in RAM since
 * is lost. When ferry_flush returns, every page of the range that is not all zero
 * can be found, where its block of 2 MiB is in such a pool (one that is not gets
 * its place in whichever pool has room: to be sure, ferry_pool_kill the others).
 * Without a flush a page is found some round trips after it was evicted; one that
 * was being written there again just then is lost. drvdata follows within a second
 * or so. Memory that was dropped or unmapped in the last second may be found.
 * No page is ever another's, nor torn: content and descriptor carry hashes.
 *
 * The attach reads the descriptors; what they tell of, the kept pages, stays
 * where it is until it is recovered or given up, and is never overwritten. Other
 * memory of the pool is used as ever. Should this process end before, the next
 * one finds what is left, and what this one has evicted or flushed itself.
 */
struct ferry_kept_page {
	uintptr_t va; /* of the process that has ended */
	uint64_t pfn; /* in this pool, now: ferry_device_read gives its content, or what is there if that is lost */
	uint64_t drvdata;
};
/*
 * Fills pages with up to max of the pages that are kept, from *cursor (0: the
 * first) on, which moves; in the order of their PFNs. An address may come twice:
 * recovery knows which is the later. Number of pages, 0: there are no more;
 * -EINVAL: no name or no altmap.
 */
long ferry_pool_kept(struct ferry_pool *pool, struct ferry_kept_page *pages, size_t max, uint64_t *cursor);

enum ferry_recovered {
	FERRY_RECOVER_MISSING, /* nothing is kept of that page: it was in RAM only, zero, or never touched */
	FERRY_RECOVERED,
	FERRY_RECOVER_LOST,    /* its place holds something else than its descriptor says: its process ended in the middle */
};
struct ferry_recover_stats {
	size_t size; /* sizeof(struct ferry_recover_stats); the members are added to */
	uint64_t recovered, missing, lost; /* pages */
	uint8_t *which; /* in: NULL, or a byte a page of the range, each set to its enum ferry_recovered */
};
/*
 * The kept pages of [old_va, old_va + len) become the content of the same pages
 * of [addr, addr + len), which is managed, here or at another address; drvdata
 * goes to their new places. Pages that are missing or lost stay as they are in
 * addr; that is no error. Copies, within the budget, and flushes; then the kept
 * place is free. The new places come first: FERRY_MAP_NORESERVE where the pool
 * cannot hold both. stats may be NULL.
 * -EINVAL (unaligned, not managed, no name or no altmap), -ENOENT (the pool holds
 * no kept page at all), -EFAULT, -EIO (a page of addr cannot be written, or is
 * lost; the pool does not take it), -ENOMEM, -ENOTCONN, -ETIMEDOUT: what has been
 * recovered before stays, what was not is still kept.
 */
int ferry_pool_recover(struct ferry_pool *pool, uintptr_t old_va, void *addr, size_t len,
		       struct ferry_recover_stats *stats);
/* Gives up the kept pages that are left: their number, or -EINVAL. */
long ferry_pool_drop_kept(struct ferry_pool *pool);

/* ---- a pool's end: percpu_ref_kill, memunmap_pages ---- */

/*
 * From now on no memory of the process is given a place in the pool, and
 * ferry_pool_get fails for it (NULL). A block of 2 MiB with pages in it stays,
 * until it has been called home or has come home by itself. For good; killing
 * twice is 0. -EINVAL. Does not block.
 */
int ferry_pool_kill(struct ferry_pool *pool);
/*
 * Every page of the process leaves the pool, block by block: to RAM and from
 * there, as the budget demands, to the other pools. Not beside
 * ferry_pool_detach of the same pool. -EINVAL: not killed. -ENOMEM: the budget
 * and the other pools cannot hold them (what has left stays out); -EIO: a page
 * is lost (the others have left); -ETIMEDOUT: a page did not come to rest.
 */
int ferry_pool_evict(struct ferry_pool *pool);
/*
 * Waits until nothing of the process lives in a killed pool and no reference
 * but the attacher's is held: ferry_pool_detach succeeds then.
 * -EINVAL (not killed, timeout_ms below 0), -ETIMEDOUT.
 */
int ferry_pool_drain(struct ferry_pool *pool, int timeout_ms);
/*
 * What is still in a killed pool is given up: touching it raises SIGBUS
 * (reason FERRY_FAULT_REVOKED), never waits. Number of pages poisoned, or -EINVAL.
 */
long ferry_pool_poison(struct ferry_pool *pool);

/*
 * get_dev_pagemap(): the pool that pfn belongs to, with a reference, or NULL.
 * A hint that covers pfn is returned as it is; one that does not is put.
 */
struct ferry_pool *ferry_pool_get(struct ferry *ferry, uint64_t pfn, struct ferry_pool *hint);
void ferry_pool_put(struct ferry_pool *pool);

struct ferry_pool_info {
	size_t size;
	uint64_t pfn_first, pfn_last; /* window, as large as the server's pool was when it last told; only leased sub-sections of it are valid */
	uint64_t leased_bytes, used_bytes;
	enum ferry_mem_type type;
	char fabric[16];
	char server[64];
	uint64_t kept_bytes; /* from pfn_first on: what was there under the name that it was attached with */
	uint32_t keep_ms;    /* how long the server keeps the name for the next, after this process; 0: for good, or no name */
};
int ferry_pool_info(struct ferry_pool *pool, struct ferry_pool_info *info);

/* pgmap_pfn_valid(): pfn is a page of this pool, leased, past its altmap. Does not block. */
bool ferry_pool_pfn_valid(struct ferry_pool *pool, uint64_t pfn);
/* pgmap_has_memory_failure(): it was attached with ops.memory_failure. Does not block. */
bool ferry_pool_has_memory_failure(const struct ferry_pool *pool);

/* A pool of the process by index, 0 first, with a reference; NULL past the end. */
struct ferry_pool *ferry_pool_at(struct ferry *ferry, unsigned index);

/* NULL when !ferry_pfn_valid(pfn). Both ways are exact inverses for valid PFNs. Do not block. */
struct ferry_page *ferry_pfn_to_page(struct ferry *ferry, uint64_t pfn);
uint64_t ferry_page_to_pfn(struct ferry *ferry, const struct ferry_page *page);
bool ferry_pfn_valid(struct ferry *ferry, uint64_t pfn);

/*
 * What kind of memory the page is: is_zone_device_page() is any but 0,
 * is_device_private_page() is FERRY_MEM_PRIVATE, and so on. 0: NULL (as
 * ferry_entry_to_page gives for RAM), or the page's pool is detached. Does not block.
 */
enum ferry_mem_type ferry_page_type(struct ferry *ferry, const struct ferry_page *page);
/*
 * One number a device page, the driver's own; 0 until set. That of a folio is its first page's; the others' are
 * overwritten when it is split. The page is valid. Do not block.
 */
void ferry_page_set_drvdata(struct ferry_page *page, uint64_t data);
uint64_t ferry_page_get_drvdata(const struct ferry_page *page);
/* folio_order(): 9 for the first page of a folio, 0 for all others. The page is valid. Does not block. */
unsigned ferry_page_order(const struct ferry_page *page);
/*
 * The server that holds the page, as page_to_nid(): "host:port" to name, cut to
 * name_len bytes with its '\0'. -EINVAL (not ferry_pfn_valid, no name), name
 * untouched then. Does not block.
 */
int ferry_pfn_to_server(struct ferry *ferry, uint64_t pfn, char *name, size_t name_len);

/*
 * The older memory models' view of the same descriptors (Documentation/mm/memory-model.rst): a server is a node, its
 * number is the order in which the process came to it, for as long as the struct ferry is open. A descriptor's size
 * is the library's own; pages are counted by ferry_page_at.
 *   DISCONTIGMEM  page = node_mem_map + (pfn - node_start_pfn), of the node ferry_pfn_to_nid(pfn)
 *   FLATMEM       the same with one server: node 0 is mem_map, its start_pfn ARCH_PFN_OFFSET
 * Nodes may interleave. Of PFNs in the span that are not ferry_pfn_valid there is no descriptor: do not touch it.
 */
struct ferry_node {
	size_t size;              /* in */
	uint64_t start_pfn;       /* node_start_pfn: of the first pool; 0: none is attached */
	uint64_t spanned_pages;   /* node_spanned_pages: to the end of the last pool, holes too */
	struct ferry_page *mem_map; /* node_mem_map: descriptor of start_pfn, or NULL */
};
/* Servers that the process has come to, lost ones too. Does not block. */
unsigned ferry_nr_nodes(struct ferry *ferry);
/* NODE_DATA(nid), as pools are attached now. -EINVAL (no such node, size). Waits for an attach or detach under way. */
int ferry_node_data(struct ferry *ferry, unsigned nid, struct ferry_node *node);
/* pfn_to_nid(), page_to_nid(): the node, or -EINVAL (not ferry_pfn_valid). Its pool is not being detached. Do not block. */
int ferry_pfn_to_nid(struct ferry *ferry, uint64_t pfn);
int ferry_page_to_nid(struct ferry *ferry, const struct ferry_page *page);
/* mem_map + nr: descriptors are opaque, so that they may grow. */
struct ferry_page *ferry_page_at(struct ferry_page *mem_map, uint64_t nr);

/*
 * hmm_device: a fake device that groups pools and mirrors into one owner: give
 * the pointer as their `owner`. The caller's reference; put it after the last
 * pool and mirror that name it. name: 1 to 63 characters, copied.
 * NULL and ferry_last_error: a bad name, or FERRY_MAX_DEVICES are there.
 */
#define FERRY_MAX_DEVICES 64u
struct ferry_device;
struct ferry_device *ferry_device_new(struct ferry *ferry, const char *name);
/* NULL is allowed. */
void ferry_device_put(struct ferry_device *device);

/* ---- mirrors: struct hmm_mirror, mmu_notifier ---- */

/*
 * A mirror is one device's view of this process's address space. The library
 * tells it of every change before the CPU can see the new page
 * (Documentation/mm/hmm.rst, "Address space mirroring implementation and API").
 */
enum ferry_update_event {
	FERRY_UPDATE_UNMAP = 1, /* munmap */
	FERRY_UPDATE_REMOVE,    /* MADV_DONTNEED: content dropped */
	FERRY_UPDATE_REMAP,     /* mremap moved it: the old addresses */
	FERRY_UPDATE_MIGRATE,   /* the page moves between RAM and a pool */
	FERRY_UPDATE_EXCLUSIVE, /* a device takes it for itself, or the CPU takes it back */
	FERRY_UPDATE_PROTECT,   /* ferry_mprotect; none for a plain mprotect, of which the kernel tells nobody */
	FERRY_UPDATE_FORK,      /* the process forks: pages in RAM will be shared with the child, copy on write */
	FERRY_UPDATE_POISON,    /* its data is lost */
};

struct ferry_update {
	uintptr_t start, end; /* page aligned */
	enum ferry_update_event event;
	bool blockable;       /* false: invalidate may not sleep, and may refuse. MIGRATE near a memory cgroup's limit only */
	/* MIGRATE to a device, EXCLUSIVE: the owner whose call does it, NULL the pager's own, or a CPU's; a device may skip its own */
	const void *owner;
};

struct ferry_mirror;
struct ferry_mirror_ops {
	/*
	 * The address space goes (ferry_close; exit(3), in the thread that exits): stop all device access before
	 * returning; no callback comes afterwards. A process that is killed, or calls _exit, calls nothing. May be NULL.
	 */
	void (*release)(struct ferry_mirror *mirror);
	/*
	 * The device must not use [start, end) any more when this returns. Called in library threads, on the fault
	 * path: must not touch managed memory, allocate, call this library, nor wait for a thread that may.
	 * Returns 0, or -EAGAIN (only if !blockable): nothing changes, and it is asked again later; where that
	 * keeps every page for 100 ms, it is told with blockable for a second. Any other answer is taken for 0,
	 * with one line in the log.
	 */
	int (*invalidate)(struct ferry_mirror *mirror, const struct ferry_update *update);
};

/* The caller's, zeroed but for ops and owner; must live until it is unregistered. */
struct ferry_mirror {
	const struct ferry_mirror_ops *ops;
	const void *owner; /* identity: pools with the same owner are this device's own memory */
	void *data;        /* the caller's */
	struct ferry *ferry; /* set by register */
	uint64_t private_[4];
};

/* -EINVAL (no ops.invalidate, registered already), -ENOMEM (FERRY_MAX_MIRRORS are registered). */
#define FERRY_MAX_MIRRORS 16u
int ferry_mirror_register(struct ferry_mirror *mirror, struct ferry *ferry);
/* Withdraws it if it is exported. Waits for callbacks that run. -EDEADLK from within a callback; -EINVAL not registered; -EBUSY its ranges are registered. */
int ferry_mirror_unregister(struct ferry_mirror *mirror);

struct ferry_mirror_stats {
	size_t size; /* sizeof(struct ferry_mirror_stats); the members are added to */
	uint64_t rounds;      /* looks at the address space, retries included */
	uint64_t pages_ram;   /* pages served from RAM */
	uint64_t pages_pool;  /* ... from a pool, in place */
	uint64_t pages_populated; /* were missing: made to be zeros first */
	uint64_t pages_home;  /* belonged to another owner: brought to RAM first */
	uint64_t bytes;
	uint64_t pages_rma;   /* of a view, of pages_pool: read from the server by the view itself */
};

/*
 * The device's own access to [va, va + len), any alignment: each page where it
 * is, in RAM or in a pool, without moving it when its pool is this mirror's
 * (same owner). Pages missing are populated; pages in another owner's pool come
 * home first. Unmanaged memory is accessed in RAM. Per page the access is
 * atomic with respect to migration: never a mixture of two places.
 * stats may be NULL. -EFAULT (not mapped), -EPERM (mapping not readable, or not
 * writable), -EIO (a page is lost), -ENOTCONN (its server cannot be reached;
 * the pool is as it was), -ETIMEDOUT, -EINVAL: the caller's buffer (read) or
 * the memory (write) is untouched on -EFAULT, -EPERM and -EINVAL. A write that
 * fails on its way to the pool leaves that page poisoned.
 */
int ferry_mirror_read(struct ferry_mirror *mirror, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats);
int ferry_mirror_write(struct ferry_mirror *mirror, uintptr_t va, const void *buf, size_t len,
		       struct ferry_mirror_stats *stats);
/* Reads only what is in a pool now, from there: -ENOENT when some page of it is not. Never faults, moves nothing. */
int ferry_mirror_peek(struct ferry_mirror *mirror, uintptr_t va, void *buf, size_t len);

/* ---- exclusive access: make_device_exclusive ---- */

/*
 * The device alone holds the pages: they leave the address space, and a CPU's
 * touch brings a page back and ends that for it, after the mirrors were told
 * (EXCLUSIVE, owner NULL; Documentation/mm/hmm.rst, "Exclusive access memory").
 * So do ferry_pin, ferry_flush, another mirror's access, migration, and giving
 * the range up; MADV_DONTNEED and munmap drop the page. The pages are brought
 * to RAM first, stay charged to the budget, and are not evicted meanwhile; at
 * most FERRY_EXCLUSIVE_MAX bytes, and half of the budget, at a time in a
 * process. A fork takes them all back (not with FERRY_FORK=guard). The holder reaches them by
 * ferry_mirror_read and _write, which follow a page that has gone back, and by
 * ferry_exclusive_update, which does not. Any thread; may block, bounded by
 * fault_timeout_ms a page.
 */
#define FERRY_EXCLUSIVE_MAX (4u << 20)
/*
 * All of [addr, addr + len), or nothing: -EBUSY (a page is pinned, or held
 * already, by this mirror too), -EINVAL (unaligned, not managed), -ENOMEM
 * (beyond the limits), -EPERM (not writable), -EIO (a page is lost), -ETIMEDOUT.
 * Mirrors are told with this mirror's owner.
 */
int ferry_exclusive_acquire(struct ferry_mirror *mirror, void *addr, size_t len);
/* How many pages of the range this mirror still holds, or -EINVAL. */
long ferry_exclusive_query(struct ferry_mirror *mirror, void *addr, size_t len);
/* Gives back what is still held; ferry_mirror_unregister does it too. -EINVAL. */
int ferry_exclusive_release(struct ferry_mirror *mirror, void *addr, size_t len);
/*
 * The device's atomic operation: runs update(arg, bytes, len) on the content of
 * [addr, addr + len), which lies in one page, while neither a CPU nor another
 * update can reach that page. In the caller's thread; update must be short, must
 * not touch managed memory nor call this library. -ENOENT: this mirror does not
 * hold the page (any more), nothing was done; -EINVAL, -ETIMEDOUT.
 */
int ferry_exclusive_update(struct ferry_mirror *mirror, void *addr, size_t len,
			   void (*update)(void *arg, void *bytes, size_t len), void *arg);

/* ---- a mirror seen from another process or node ---- */

#define FERRY_EXPORT_READ  (1u << 0)
#define FERRY_EXPORT_WRITE (1u << 1)
struct ferry_mirror_view;

/*
 * Publishes the mirror at the process's first server under a name: 1 to 63
 * letters, digits, '.', '_' and '-'. Other processes that the server has
 * authenticated (an embedded one has no other clients) open it by name and access this process's memory by its own
 * virtual addresses, wherever each page is: any mapping of it, not managed
 * ranges alone, as ferry_mirror_read. perms: FERRY_EXPORT_READ, _WRITE or both.
 * Accesses are served by a thread of the library's, one after another. A pool
 * whose owner is not the mirror's has its pages brought home by them. Whoever
 * has the server's token may open it: a reader sees all that this process could
 * read, and what its leases in the pool hold; a writer can do all it could.
 * -EEXIST (name taken), -EBUSY (exported already), -EINVAL, -EDQUOT (the
 * server's limit), -ENOMEM, -EAGAIN (no thread), -ENOTCONN, -ETIMEDOUT.
 */
int ferry_mirror_export(struct ferry_mirror *mirror, const char *name, unsigned perms);
/*
 * Views of it fail with -ESHUTDOWN from now on; waits for an access under way.
 * Done by ferry_mirror_unregister and ferry_close too, and by the process's
 * end. -EINVAL: not exported; -EDEADLK: from within a callback.
 */
int ferry_mirror_unexport(struct ferry_mirror *mirror);

/*
 * Opens the mirror of that name at this process's first server. *out is to be
 * closed; it is untouched on failure.
 * -ENOENT (no such name), -EDQUOT (the server's limit), -ENOMEM, -ENOTCONN, -ETIMEDOUT, -EINVAL.
 */
int ferry_mirror_open(struct ferry *ferry, const char *name, struct ferry_mirror_view **out);
/*
 * Reads or writes [va, va + len) of the exporter's memory; any alignment. Each
 * page is old or new, never a mixture of two pages nor of two places, never
 * memory that has been given to someone else; a page in RAM that the exporter
 * writes at this moment is as a concurrent reader there would see it. Pages in a
 * pool of the exporter's first server are read from there by one-sided RMA and
 * compared with the hash that the exporter gives; where that cannot be (same-host
 * memfds, a pool with callbacks, pages that move all the time), and in RAM,
 * through the exporter. One access of a view at a time; others wait.
 * stats may be NULL. -EFAULT (not mapped there), -EPERM (rights of the export or
 * of the mapping), -EIO (a page is lost, or its server not reached), -ESHUTDOWN
 * (the exporter is gone or has withdrawn it), -ETIMEDOUT (the exporter does not
 * answer: it is stopped, or waits for a pool; request_timeout_ms for each 64
 * KiB), -ENOTCONN (this process's session is lost), -EPROTO (the exporter's
 * answers are wrong), -ENOMEM, -EINVAL. What an access that
 * fails has read or written of the first 64 KiB pieces, or written of the piece
 * that failed, stays; a write that has timed out may be done yet.
 */
int ferry_view_read(struct ferry_mirror_view *view, uintptr_t va, void *buf, size_t len, struct ferry_mirror_stats *stats);
int ferry_view_write(struct ferry_mirror_view *view, uintptr_t va, const void *buf, size_t len,
		     struct ferry_mirror_stats *stats);
/* No access of it may be under way. -EINVAL. */
int ferry_view_close(struct ferry_mirror_view *view);

/* ---- ranges and entries: struct hmm_range, hmm_pfn ---- */

enum ferry_pfn_flag { FERRY_PFN_VALID, FERRY_PFN_WRITE, FERRY_PFN_DEVICE_PRIVATE, FERRY_PFN_FLAG_MAX };
enum ferry_pfn_value { FERRY_PFN_ERROR, FERRY_PFN_NONE, FERRY_PFN_SPECIAL, FERRY_PFN_VALUE_MAX };

#define FERRY_RANGE_DEFAULT_TIMEOUT_MS 1000u
/* PFN of a page in RAM: its virtual page number with this bit, since a process is not told physical ones. */
#define FERRY_PFN_RAM (1ull << 40)

enum ferry_range_option {
	FERRY_RANGE_STRICT = 1u << 0, /* v5.2's rules: no mapping -EFAULT, not readable -EPERM, at once; else ERROR entries */
};

/*
 * A span of addresses and what each page of it is for the device. The caller's;
 * zeroed but for the members set before register (those marked in).
 */
struct ferry_range {
	uintptr_t start, end;          /* set by register; in for ferry_vma_fault */
	uint64_t *pfns;                /* in: (end - start) >> page_shift entries */
	const uint64_t *flags;         /* in: FERRY_PFN_FLAG_MAX bits of the device's own format; NULL: ferry_default_pfn_flags */
	const uint64_t *values;        /* in: FERRY_PFN_VALUE_MAX values; ERROR may equal SPECIAL, NONE neither; NULL: default */
	uint64_t default_flags;        /* in: asked of every page ... */
	uint64_t pfn_flags_mask;       /* in: request of page i = (pfns[i] & mask) | default_flags */
	uint8_t page_shift;            /* set by register: 12 .. 21 */
	uint8_t pfn_shift;             /* in: entry = pfn << pfn_shift | flags; 0: 12 */
	unsigned options;              /* in: enum ferry_range_option */
	struct ferry_mirror *mirror;   /* set by register; in for ferry_vma_fault */
	uint64_t private_[8];
};
extern const uint64_t ferry_default_pfn_flags[FERRY_PFN_FLAG_MAX];
extern const uint64_t ferry_default_pfn_values[FERRY_PFN_VALUE_MAX];

/*
 * -EINVAL (start, end not multiples of 1 << page_shift, start >= end, page_shift
 * out of 12..21, pfns NULL, values alias), -EFAULT (the struct ferry is closing).
 * A range keeps the struct ferry (ferry_close: -EBUSY), not pages.
 */
int ferry_range_register(struct ferry_range *range, struct ferry_mirror *mirror, uintptr_t start, uintptr_t end,
			 unsigned page_shift);
void ferry_range_unregister(struct ferry_range *range);
/* No change of the range since the last snapshot or fault began, and none is under way. Does not block. */
bool ferry_range_valid(struct ferry_range *range);
/* Waits until no change is under way; true then. */
bool ferry_range_wait_until_valid(struct ferry_range *range, unsigned timeout_ms);
/* mmu_interval_read_begin / _retry: use the entries only under the device's own lock and !read_retry. */
uint64_t ferry_range_read_begin(struct ferry_range *range);
bool ferry_range_read_retry(struct ferry_range *range, uint64_t seq);

/*
 * Fills pfns with what is there now, faults nothing; waits a moment for pages
 * that are between RAM and a pool. Number of valid entries,
 * or -EINVAL, -ENOMEM, -EAGAIN (changed meanwhile), STRICT: -EFAULT, -EPERM.
 */
long ferry_range_snapshot(struct ferry_range *range);
/*
 * As snapshot, and brings in, by the requests (VALID, WRITE, DEVICE_PRIVATE),
 * what is missing: VALID populates; a page in a pool of the mirror's own owner
 * stays there unless DEVICE_PRIVATE is asked for, one of another owner comes
 * home; a coherent page is valid for everybody and stays, its entry has its PFN
 * and is not DEVICE_PRIVATE. Number of valid entries, or -EINVAL, -ENOMEM, -EPERM (WRITE asked of a
 * read-only mapping), -EBUSY (invalidated meanwhile), -EAGAIN (!block and it
 * would have to wait), -EFAULT (a requested page cannot be made valid).
 */
long ferry_range_fault(struct ferry_range *range, bool block);

/*
 * hmm_range_dma_map: faults the range and pins its pages for access by RMA;
 * addrs[i] is the local address to register, 0 for entries that were not asked
 * for. Count, or an error with all rolled back (-EBUSY: invalidated meanwhile).
 * unmap: unpins; dirty: the device wrote (no dirty bit shows that); entries
 * become NONE, addrs 0. Count or -EINVAL.
 */
long ferry_range_rma_map(struct ferry_range *range, uintptr_t *addrs, bool block);
long ferry_range_rma_unmap(struct ferry_range *range, uintptr_t *addrs, bool dirty);

/*
 * v5.2's helpers for drivers of the API before it: hmm_vma_fault registers the
 * range (start, end and mirror are the caller's here; pages of 4 KiB), waits
 * until no change is under way (FERRY_RANGE_DEFAULT_TIMEOUT_MS), and faults
 * what pfns ask for, page by page (default_flags and pfn_flags_mask are set for
 * that). 0: the range is registered and filled, until ferry_vma_range_done.
 * Else it is not registered: -EAGAIN (a change did not end in time), -EBUSY (it
 * changed meanwhile; !block and it would have to wait; or no entry is valid),
 * -EINVAL, -EFAULT, -EPERM, -ENOMEM as register and fault.
 */
int ferry_vma_fault(struct ferry_range *range, bool block);
/* hmm_vma_range_done: unregisters; true if the entries were valid until now. */
bool ferry_vma_range_done(struct ferry_range *range);

/* hmm_device_entry_*: NULL, or -1 (UINT64_MAX), for NONE, ERROR, SPECIAL and entries without VALID. Pure. */
struct ferry_page *ferry_entry_to_page(const struct ferry_range *range, uint64_t entry); /* NULL for RAM too, not for a coherent page */
uint64_t ferry_entry_to_pfn(const struct ferry_range *range, uint64_t entry);
uint64_t ferry_entry_from_page(const struct ferry_range *range, const struct ferry_page *page); /* VALID | DEVICE_PRIVATE; coherent: VALID */
uint64_t ferry_entry_from_pfn(const struct ferry_range *range, uint64_t pfn);

enum ferry_entry_kind {
	FERRY_ENTRY_ERROR, FERRY_ENTRY_NONE, FERRY_ENTRY_SPECIAL, FERRY_ENTRY_RAM, FERRY_ENTRY_ZERO,
	FERRY_ENTRY_DEVICE_OWN, FERRY_ENTRY_DEVICE_OTHER, FERRY_ENTRY_COHERENT,
};
struct ferry_entry_info {
	size_t size;
	enum ferry_entry_kind kind;
	bool writable;
	unsigned order;      /* 0, or 9 when the page is part of a huge one in RAM, or of a folio in a pool */
	uint64_t pfn;        /* of a device page, else 0 */
};
/* What the page at va, in the range, is now: finer than an entry. -EINVAL. */
int ferry_entry_info(struct ferry_range *range, uintptr_t va, struct ferry_entry_info *info);

/* ---- migration: migrate_vma ---- */

enum ferry_migrate_flags {
	FERRY_MIGRATE_SELECT_SYSTEM = 1u << 0,          /* pages in RAM */
	FERRY_MIGRATE_SELECT_DEVICE_PRIVATE = 1u << 1,  /* pages in pools whose owner is pgmap_owner */
	FERRY_MIGRATE_SELECT_DEVICE_COHERENT = 1u << 2, /* the same, of coherent pools */
	FERRY_MIGRATE_SELECT_COMPOUND = 1u << 3,        /* ferry_migrate_setup: a huge page, as one */
};

struct ferry_migrate_stats {
	size_t size; /* sizeof(struct ferry_migrate_stats), an older one's too; the members are added to */
	uint64_t cpages;   /* collected */
	uint64_t migrated; /* moved with their data */
	uint64_t zero;     /* holes and zero pages: no traffic */
	uint64_t there;    /* were there already */
	uint64_t skipped_pinned, skipped_raced, skipped_owner, skipped_lost; /* owner: or not of a kind that was selected */
	uint64_t bytes;    /* transferred */
	uint64_t folios;       /* to_device: moved as one; their 512 pages are in `migrated` */
	uint64_t folios_split; /* to_device: huge pages that had to go page by page; to_ram: folios that parted on their way */
};

/*
 * Moves what is in RAM in [addr, addr + len) to the pool, whatever the clock
 * says; adopts memory of the range that is not managed yet (ferry_adopt). A 2 MiB block whose
 * pages live in another pool is moved as a whole: those come home first, if
 * their owner is the pool's, or, for a coherent pool, nobody. To a coherent pool
 * holes and zero pages go too, as zeros, and pages in use: who touches them
 * waits until they are there; one for which there is no mapping more (-ENOMEM:
 * vm.max_map_count) is in the pool as in any other. Pinned pages and pages that lose a race are
 * skipped and counted, never an error. Pages of a read-only mapping go too; no other thread may munmap, mremap or
 * mprotect that meanwhile (a write to it there raises SIGSEGV as ever). flags 0: SELECT_SYSTEM. Without SELECT_SYSTEM
 * what is in RAM stays: pages go from pools of the kinds selected to this one. stats may be NULL.
 * A transparent huge page that lies whole in [addr, addr + len) goes as one
 * (MIGRATE_VMA_SELECT_COMPOUND): all its 2 MiB are sent, zeros too, and its 512
 * device pages are a folio until one of them parts (page_split). Else it goes
 * page by page: where a page of it is pinned, is touched or dropped meanwhile,
 * or is shared with a child of fork, the budget has no room for 2 MiB more
 * meanwhile, the pool has ops without page_split, or the range was moved by an
 * mremap, but not by a multiple of 2 MiB, since it was adopted.
 * -EINVAL (unaligned; not mapped or not readable; unknown flag), -EOPNOTSUPP
 * (shared, hugetlb or special memory, a file's text), -ENOMEM (pool full), -ESHUTDOWN
 * (pool killed), -ENOTCONN, -EIO (pool lost).
 */
int ferry_migrate_to_device(struct ferry_pool *pool, void *addr, size_t len, unsigned flags,
			    struct ferry_migrate_stats *stats);
/*
 * Brings pages of the range home: those of pools with this owner, or of every
 * pool (owner NULL); flags: 0, or the kinds of pools (SELECT_DEVICE_PRIVATE,
 * _COHERENT). A folio parts: its pages come home one by one. Stops where the
 * budget is full of pinned pages: -ENOMEM.
 * -EINVAL (unaligned, not managed), -EIO (a page is lost).
 */
int ferry_migrate_to_ram(struct ferry *ferry, void *addr, size_t len, const void *owner, unsigned flags,
			 struct ferry_migrate_stats *stats);

/* Entries of src and dst. */
#define FERRY_MIGRATE_PFN_VALID   (1ull << 0)
#define FERRY_MIGRATE_PFN_MIGRATE (1ull << 1)
#define FERRY_MIGRATE_PFN_WRITE   (1ull << 3)
#define FERRY_MIGRATE_PFN_COMPOUND (1ull << 4)
#define FERRY_MIGRATE_PFN_SHIFT   6
#define FERRY_MIGRATE_MAX_PAGES   128u

/*
 * The three steps, for a caller that copies by its own means. The caller's
 * struct; members marked in are set by him. One thread; at most one under way
 * in a process (setup: -EBUSY).
 *   setup     collects: pages leave the CPU's page table, src[i] says which; data[i] is where their content is
 *             (NULL for a hole or zero page: it needs no copy), dst[i] the device page chosen for each
 *   (caller)  copies data[i] to dst[i] with ferry_device_write or by its own means; clears dst[i] to leave page i
 *   pages     commits; src[i] loses MIGRATE where the page was touched meanwhile and so stayed
 *   finalize  gives back what did not go; must follow every setup that returned 0
 * With SELECT_COMPOUND the range is 2 MiB, aligned (-EINVAL), and all arrays have 512 entries: where it is a huge page
 * that can go as one (ferry_migrate_to_device says when), src[0] and dst[0] have PFN_COMPOUND and stand for all of it,
 * data[0] is its 2 MiB; else nothing is collected (cpages 0), and the caller goes on by small pages. pages takes
 * COMPOUND off src[0] where a page of it was touched meanwhile: that one stayed, the others are single device pages.
 * Without it huge pages are split, and device pages single.
 */
struct ferry_migrate {
	size_t size;               /* in */
	struct ferry_pool *pool;   /* in: destination */
	uintptr_t start, end;      /* in: at most FERRY_MIGRATE_MAX_PAGES, or one huge page; managed */
	uint64_t *src, *dst;       /* in: arrays of that many entries */
	const void **data;         /* in: array of that many */
	const void *pgmap_owner;   /* in: without SELECT_SYSTEM, whose pools pages are taken from; NULL: the destination's owner's */
	unsigned flags;            /* in: as of ferry_migrate_to_device */
	uint64_t npages, cpages;   /* out */
	uint64_t private_[4];
};
int ferry_migrate_setup(struct ferry_migrate *migrate);
int ferry_migrate_pages(struct ferry_migrate *migrate);
int ferry_migrate_finalize(struct ferry_migrate *migrate);
/* One-sided access to a device page that the caller owns (during a migration): len <= FERRY_PAGE_SIZE. -EINVAL, -EIO, -ENOTCONN, -ETIMEDOUT. */
int ferry_device_write(struct ferry *ferry, uint64_t pfn, const void *buf, size_t len);
int ferry_device_read(struct ferry *ferry, uint64_t pfn, void *buf, size_t len);

/*
 * Puts data over poison at [va, va + len): the pages are well again. Whole
 * pages that are poisoned only: -EINVAL otherwise, and nothing is changed. -ENOMEM (budget), -EIO.
 */
int ferry_recover(struct ferry *ferry, uintptr_t va, const void *data, size_t len);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
