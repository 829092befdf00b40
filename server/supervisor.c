/* What a service manager or a parent process sees. See supervisor.h. */
#include "supervisor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

void ferryi_supervisor_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = path ? strlen(path) : 0;
	int fd;

	if (len < 2 || len >= sizeof(addr.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(addr.sun_path, path, len);
	if (path[0] == '@')
		addr.sun_path[0] = '\0'; /* the abstract name space */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr,
			     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		ferryi_warn("telling the service manager '%s' failed: %s", state, ferryi_strerror(errno));
	if (fd >= 0)
		close(fd);
}

const char *ferryi_supervisor_url(const char *host, uint16_t port, char *buf, size_t buf_len)
{
	snprintf(buf, buf_len, strchr(host, ':') ? "ferry://[%s]:%u" : "ferry://%s:%u", host, port);
	return buf;
}

int ferryi_supervisor_ready(int fd, const char *url)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "%s\n", url);
	int rc = write(fd, line, (size_t)n) == n ? 0 : -EPIPE;

	close(fd);
	return rc;
}
