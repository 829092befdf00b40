/*
 * See bare_uffd.h. The measurement has a thread of its own, the handler, which
 * lives from ferryi_uffd_measure's begin to its end and answers exactly
 * `count` faults; by SIGBUS it has none, and the toucher answers its own.
 */
#include "bare_uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "uapi.h"

static int open_syscall(int flags)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | flags);

	return fd < 0 ? -errno : (int)fd;
}

static int open_device(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (dev < 0)
		return -errno;
	fd = ioctl(dev, FERRYI_USERFAULTFD_IOC_NEW, O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	close(dev);
	return fd;
}

static int api(int fd, struct ferryi_uffd_rights *out)
{
	struct uffdio_api a = {.api = UFFD_API};

	if (ioctl(fd, UFFDIO_API, &a) != 0)
		return -errno;
	if (out != NULL) {
		out->features = a.features;
		out->ioctls = a.ioctls;
	}
	return 0;
}

static int probe_one(int fd, struct ferryi_uffd_rights *out, bool *works)
{
	int rc;

	if (fd < 0)
		return -fd;
	rc = api(fd, out);
	*works = rc == 0;
	close(fd);
	return -rc;
}

int ferryi_uffd_probe(struct ferryi_uffd_rights *out)
{
	*out = (struct ferryi_uffd_rights){0};
	out->user_mode_errno = probe_one(open_syscall(FERRYI_UFFD_USER_MODE_ONLY), out, &out->user_mode);
	out->device_errno = probe_one(open_device(), out, &out->by_device);
	out->syscall_errno = probe_one(open_syscall(0), out, &out->by_syscall);
	return out->user_mode || out->by_device || out->by_syscall ? 0 : -out->user_mode_errno;
}

#define SPIN_NS \
	(50 *   \
	 FERRYI_NS_PER_US) /* as long as the pager's own thread: the floor is what a good handler can do */

/* One measurement at a time, as SIGBUS is the process's. */
struct loop {
	int fd; /* not blocking */
	unsigned count;
	unsigned nr_pages; /* of the area */
	uint32_t *order;   /* of its pages; the first `count` are touched */
	bool may_spin;	   /* else the toucher would have no CPU */
	unsigned char page[FERRYI_PAGE_SIZE] __attribute__((aligned(4096)));
};

static struct loop loop;

static void answer(uintptr_t va)
{
	struct uffdio_copy copy = {.dst = ferryi_align_down(va, FERRYI_PAGE_SIZE),
				   .src = (uintptr_t)loop.page,
				   .len = FERRYI_PAGE_SIZE};

	while (ioctl(loop.fd, UFFDIO_COPY, &copy) != 0 && errno == EAGAIN)
		copy.copy = 0;
}

/* Waking a sleeping thread can cost more than the fault: it spins for the next one, for a while. */
static void *handler(void *arg)
{
	uint64_t idle_since = ferryi_now_ns();

	(void)arg;
	for (unsigned i = 0; i < loop.count;) {
		struct uffd_msg msg;
		ssize_t n = read(loop.fd, &msg, sizeof(msg));

		if (n == sizeof(msg) && msg.event == UFFD_EVENT_PAGEFAULT) {
			answer(msg.arg.pagefault.address);
			i++;
			idle_since = ferryi_now_ns();
		} else if (loop.may_spin && ferryi_now_ns() - idle_since < SPIN_NS) {
			ferryi_cpu_relax();
		} else {
			struct pollfd pfd = {.fd = loop.fd, .events = POLLIN};

			poll(&pfd, 1, -1);
		}
	}
	return NULL;
}

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)sig;
	(void)context;
	answer((uintptr_t)info->si_addr);
	errno = saved;
}

/* The first `count` steps of a shuffle. */
static int shuffle(uint64_t *random)
{
	loop.order = malloc(loop.nr_pages * sizeof(*loop.order));
	if (loop.order == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < loop.nr_pages; i++)
		loop.order[i] = i;
	for (unsigned i = 0; i < loop.count; i++) {
		unsigned j = i + (unsigned)(ferryi_tool_random(random) % (loop.nr_pages - i));
		uint32_t page = loop.order[j];

		loop.order[j] = loop.order[i];
		loop.order[i] = page;
	}
	return 0;
}

static int open_loop(uint64_t features)
{
	struct uffdio_api a = {.api = UFFD_API, .features = features};

	loop.fd = open_syscall(FERRYI_UFFD_USER_MODE_ONLY | O_NONBLOCK);
	if (loop.fd < 0)
		loop.fd = open_syscall(O_NONBLOCK);
	if (loop.fd < 0)
		return loop.fd;
	loop.may_spin = sysconf(_SC_NPROCESSORS_ONLN) > 1;
	memset(loop.page, 0x5a, sizeof(loop.page));
	if (ioctl(loop.fd, UFFDIO_API, &a) != 0) {
		int rc = -errno;

		close(loop.fd);
		return rc;
	}
	return 0;
}

/* An armed area, all pages of it missing. */
static int open_area(unsigned char **area)
{
	size_t len = (size_t)loop.nr_pages * FERRYI_PAGE_SIZE;
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	*area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (*area == MAP_FAILED)
		return -errno;
	/* The page tables are there in a process that has used its memory before. */
	madvise(*area, len, MADV_NOHUGEPAGE);
	madvise(*area, len, MADV_POPULATE_READ);
	madvise(*area, len, MADV_DONTNEED);
	reg.range.start = (uintptr_t)*area;
	reg.range.len = len;
	if (ioctl(loop.fd, UFFDIO_REGISTER, &reg) != 0) {
		int rc = -errno;

		munmap(*area, len);
		return rc;
	}
	return 0;
}

static int touch_all(const unsigned char *area, struct ferryi_samples *samples)
{
	int rc = 0;

	for (unsigned i = 0; i < loop.count; i++) {
		const volatile unsigned char *p = area + (size_t)loop.order[i] * FERRYI_PAGE_SIZE;
		uint64_t start = ferryi_now_ns();
		unsigned char v = *p;

		ferryi_samples_add(samples, ferryi_now_ns() - start);
		if (v != 0x5a)
			rc = -EIO;
	}
	return rc;
}

static int touch_by_handler(const unsigned char *area, struct ferryi_samples *samples)
{
	pthread_t thread;
	int rc = -pthread_create(&thread, NULL, handler, NULL);

	if (rc == 0) {
		rc = touch_all(area, samples);
		pthread_join(thread, NULL);
	}
	return rc;
}

static int touch_by_sigbus(const unsigned char *area, struct ferryi_samples *samples)
{
	struct sigaction act = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER},
			 old;
	int rc;

	if (sigaction(SIGBUS, &act, &old) != 0)
		return -errno;
	rc = touch_all(area, samples);
	sigaction(SIGBUS, &old, NULL);
	return rc;
}

static int measure(bool by_sigbus, struct ferryi_samples *samples)
{
	unsigned char *area;
	int rc = open_loop(by_sigbus ? FERRYI_UFFD_FEATURE_SIGBUS : 0);

	if (rc != 0)
		return rc;
	rc = open_area(&area);
	if (rc == 0) {
		rc = (by_sigbus ? touch_by_sigbus : touch_by_handler)(area, samples);
		munmap(area, (size_t)loop.nr_pages * FERRYI_PAGE_SIZE);
	}
	close(loop.fd);
	return rc;
}

int ferryi_uffd_measure(unsigned count, size_t len_bytes, bool by_sigbus, uint64_t *random,
			struct ferryi_samples *samples)
{
	loop.nr_pages = (unsigned)(len_bytes / FERRYI_PAGE_SIZE);
	loop.count = (unsigned)ferryi_min_u64(count, loop.nr_pages);
	int rc = shuffle(random);

	if (rc == 0)
		rc = measure(by_sigbus, samples);
	free(loop.order);
	loop.order = NULL;
	return rc;
}
