/*
 * Local row: its ops table, whether it can be used here, and the memfds that
 * it lends. Any thread.
 *
 * Seals of a lent memfd: GROW, so that after the revocation (truncation to 0)
 * no write can bring it back to life; SEAL, so that a client cannot add SHRINK
 * and so forbid the revocation. SHRINK itself must stay open for the latter.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "local.h"
#include "log.h"

int ferryi_local_memfd(const char *name, size_t len_bytes, int *fd)
{
	struct rlimit limit;
	int err;

	if (len_bytes == 0 || len_bytes > SSIZE_MAX)
		return -EINVAL;
	/* beyond this limit the kernel would not only refuse but raise SIGXFSZ */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
	    limit.rlim_cur < len_bytes)
		return -EFBIG;

	int memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (memfd < 0)
		return -errno;
	if (fchmod(memfd, 0600) || ftruncate(memfd, (off_t)len_bytes) ||
	    fcntl(memfd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL)) {
		err = -errno;
		close(memfd);
		return err;
	}
	*fd = memfd;
	return 0;
}

int ferryi_local_memfd_check(int fd, size_t len_bytes, char *why, size_t why_len)
{
	struct stat st;
	int seals;

	if (fd < 0) {
		snprintf(why, why_len, "it has no memfd");
		return -EINVAL;
	}
	if (fstat(fd, &st)) {
		snprintf(why, why_len, "fstat: %s", ferryi_strerror(errno));
		return -EINVAL;
	}
	/* the whole file is lent, so it must hold nothing else */
	if (st.st_size < 0 || (uint64_t)st.st_size != len_bytes) {
		snprintf(why, why_len, "its memfd has %lld bytes instead of %zu", (long long)st.st_size,
			 len_bytes);
		return -EINVAL;
	}
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & (F_SEAL_GROW | F_SEAL_SEAL)) != (F_SEAL_GROW | F_SEAL_SEAL) ||
	    (seals & (F_SEAL_SHRINK | F_SEAL_WRITE))) {
		snprintf(why, why_len, "its memfd is not sealed as ferryi_local_memfd() does");
		return -EINVAL;
	}
	return 0;
}

static int usable(char *why, size_t why_len)
{
	char path[32];
	int fd = -1;
	int err = ferryi_local_memfd("ferry-probe", 4096, &fd);

	if (err) {
		snprintf(why, why_len,
			 "local: no sealable memfd (%s): needs memfd_create and a file size limit (ulimit "
			 "-f) above 4 KiB",
			 ferryi_strerror(err));
		return err;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int again = open(path, O_RDONLY | O_CLOEXEC);

	if (again < 0) {
		err = -errno;
		snprintf(why, why_len, "local: cannot open %s (%s): mount /proc", path, ferryi_strerror(err));
	} else {
		close(again);
	}
	close(fd);
	return err;
}

const struct ferryi_fabric_ops ferryi_ops_local = {
	.peer_size = sizeof(struct ferryi_local_peer),
	.channel_size = sizeof(struct ferryi_local_channel),
	.listener_size = sizeof(struct ferryi_local_listener),
	.tenant_size = sizeof(struct ferryi_local_tenant),
	.region_size = sizeof(struct ferryi_local_region),
	.usable = usable,
	.peer_open = ferryi_local_peer_open,
	.peer_close = ferryi_local_peer_close,
	.peer_import = ferryi_local_peer_import,
	.peer_forget = ferryi_local_peer_forget,
	.peer_memfd = ferryi_local_peer_memfd,
	.peer_event_fd = ferryi_local_peer_event_fd,
	.peer_events = ferryi_local_peer_events,
	.channel_open = ferryi_local_channel_open,
	.channel_close = ferryi_local_channel_close,
	.channel_register = ferryi_local_channel_register,
	.channel_submit = ferryi_local_channel_submit,
	.channel_poll = ferryi_local_channel_poll,
	.channel_wait_fd = ferryi_local_channel_wait_fd,
	.channel_arm = ferryi_local_channel_arm,
	.channel_shutdown = ferryi_local_channel_shutdown,
	.listener_open = ferryi_local_listener_open,
	.listener_close = ferryi_local_listener_close,
	.tenant_open = ferryi_local_tenant_open,
	.tenant_shutdown = ferryi_local_tenant_shutdown,
	.tenant_close = ferryi_local_tenant_close,
	.tenant_addr = ferryi_local_tenant_addr,
	.region_open = ferryi_local_region_open,
	.region_revoke = ferryi_local_region_revoke,
};
