/* Thin wrappers; see uffd.h. What each errno means is decided by the callers. */
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arith.h"
#include "uapi.h"

static int open_fd(bool *kernel_faults)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	*kernel_faults = true;
	if (dev >= 0) {
		int fd = ioctl(dev, FERRYI_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

		close(dev);
		if (fd >= 0)
			return fd;
	}
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && errno == EPERM) {
		*kernel_faults = false;
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | FERRYI_UFFD_USER_MODE_ONLY);
	}
	if (fd >= 0)
		return fd;
	return errno == ENOSYS || errno == EINVAL ? -EOPNOTSUPP : -errno;
}

int ferryi_uffd_open(uint64_t features, bool *kernel_faults)
{
	int fd = open_fd(kernel_faults);

	if (fd < 0)
		return fd;
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api)) {
		int err = errno;

		close(fd);
		return err == EINVAL ? -EOPNOTSUPP : -err;
	}
	return fd;
}

int ferryi_uffd_probe(uint64_t *features)
{
	bool kernel_faults;
	int fd = open_fd(&kernel_faults);

	if (fd < 0)
		return fd;
	struct uffdio_api api = { .api = UFFD_API };
	int rc = ioctl(fd, UFFDIO_API, &api) ? -errno : 0;

	close(fd);
	if (!rc)
		*features = api.features;
	return rc;
}

int ferryi_uffd_register(int fd, void *addr, size_t len, bool markers)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, len },
		.mode = UFFDIO_REGISTER_MODE_MISSING | (markers ? UFFDIO_REGISTER_MODE_WP : 0),
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

int ferryi_uffd_register_shared(int fd, void *addr, size_t len)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, len },
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

int ferryi_uffd_unregister(int fd, void *addr, size_t len)
{
	struct uffdio_range range = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

int ferryi_uffd_track(int fd, void *addr, size_t len)
{
	struct uffdio_register reg = { .range = { (uintptr_t)addr, len }, .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(fd, UFFDIO_REGISTER, &reg) ? -errno : ferryi_uffd_mark(fd, addr, len, true);
}

long ferryi_uffd_copy(int fd, void *dst, const void *src, size_t len)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = len };

	if (ioctl(fd, UFFDIO_COPY, &copy) == 0)
		return (long)len;
	return copy.copy > 0 ? (long)copy.copy : -errno;
}

long ferryi_uffd_continue(int fd, void *addr, size_t len)
{
	struct uffdio_continue cont = { .range = { (uintptr_t)addr, len } };

	if (ioctl(fd, UFFDIO_CONTINUE, &cont) == 0)
		return (long)len;
	return cont.mapped > 0 ? (long)cont.mapped : -errno;
}

int ferryi_uffd_zero(int fd, void *dst, size_t len)
{
	struct uffdio_zeropage zero = { .range = { (uintptr_t)dst, len } };

	return ioctl(fd, UFFDIO_ZEROPAGE, &zero) ? -errno : 0;
}

long ferryi_uffd_move(int fd, void *dst, void *src, size_t len)
{
	struct ferryi_uffdio_move move = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = len,
		.mode = FERRYI_UFFDIO_MOVE_MODE_DONTWAKE,
	};

	if (ioctl(fd, FERRYI_UFFDIO_MOVE, &move) == 0)
		return (long)len;
	return move.move > 0 ? (long)move.move : -errno;
}

int ferryi_uffd_mark(int fd, void *addr, size_t len, bool marked)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)addr, len },
		.mode = marked ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

int ferryi_uffd_poison(int fd, void *addr)
{
	struct ferryi_uffdio_poison poison = { .range = { (uintptr_t)addr, FERRYI_PAGE_SIZE } };

	/* The kernel refuses to poison over a marker. */
	ferryi_uffd_mark(fd, addr, FERRYI_PAGE_SIZE, false);
	return ioctl(fd, FERRYI_UFFDIO_POISON, &poison) ? -errno : 0;
}

int ferryi_uffd_wake(int fd, void *addr, size_t len)
{
	struct uffdio_range range = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_WAKE, &range) ? -errno : 0;
}
