/*
 * See bare_uffd.h. The measurement has a thread of its own, the handler, which
 * lives from ferryi_uffd_measure's begin to its end and answers exactly
 * `count` faults.
 */
#include "bare_uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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

struct loop {
	int fd;
	unsigned count;
	unsigned char page[FERRYI_PAGE_SIZE] __attribute__((aligned(4096)));
};

static void *handler(void *arg)
{
	struct loop *loop = arg;

	for (unsigned i = 0; i < loop->count; i++) {
		struct uffd_msg msg;
		ssize_t n = read(loop->fd, &msg, sizeof(msg));

		if (n != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT) {
			i--;
			continue;
		}
		struct uffdio_copy copy = {
			.dst = ferryi_align_down(msg.arg.pagefault.address, FERRYI_PAGE_SIZE),
			.src = (uintptr_t)loop->page,
			.len = FERRYI_PAGE_SIZE};

		while (ioctl(loop->fd, UFFDIO_COPY, &copy) != 0 && errno == EAGAIN)
			copy.copy = 0;
	}
	return NULL;
}

int ferryi_uffd_measure(unsigned count, struct ferryi_samples *samples)
{
	static struct loop loop; /* the handler's; one measurement at a time */
	size_t len = (size_t)count * FERRYI_PAGE_SIZE;
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	unsigned char *area;
	pthread_t thread;
	int rc;

	loop.fd = open_syscall(FERRYI_UFFD_USER_MODE_ONLY);
	if (loop.fd < 0)
		loop.fd = open_syscall(0);
	if (loop.fd < 0)
		return loop.fd;
	loop.count = count;
	memset(loop.page, 0x5a, sizeof(loop.page));
	rc = api(loop.fd, NULL);
	if (rc != 0)
		goto err_close;
	area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED) {
		rc = -errno;
		goto err_close;
	}
	/* The page tables are there in a process that has used its memory before. */
	madvise(area, len, MADV_NOHUGEPAGE);
	madvise(area, len, MADV_POPULATE_WRITE);
	madvise(area, len, MADV_DONTNEED);
	reg.range.start = (uintptr_t)area;
	reg.range.len = len;
	if (ioctl(loop.fd, UFFDIO_REGISTER, &reg) != 0) {
		rc = -errno;
		goto err_unmap;
	}
	rc = -pthread_create(&thread, NULL, handler, &loop);
	if (rc != 0)
		goto err_unmap;
	for (unsigned i = 0; i < count; i++) {
		const volatile unsigned char *p = area + (size_t)i * FERRYI_PAGE_SIZE;
		uint64_t start = ferryi_now_ns();
		unsigned char v = *p;

		ferryi_samples_add(samples, ferryi_now_ns() - start);
		if (v != 0x5a)
			rc = -EIO;
	}
	pthread_join(thread, NULL);
err_unmap:
	munmap(area, len);
err_close:
	close(loop.fd);
	return rc;
}
