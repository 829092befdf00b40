/* The server's shared secret. See secret.h. */
#include "secret.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define FD_WAIT_MS 5000

/* Bytes from an inherited descriptor up to its end; bounded in length and time. */
static int read_fd(int fd, char *buf, size_t size, size_t *len, char *err, size_t err_len)
{
	uint64_t deadline = ferryi_deadline_ms(FD_WAIT_MS);

	*len = 0;
	while (*len < size) {
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		ssize_t n = poll(&pfd, 1, ferryi_remaining_ms(deadline));

		if (n == 0) {
			/* A pipe whose writer forgot to close it: what came is what there is. */
			if (*len)
				return 0;
			snprintf(err, err_len, "--token-fd %d: nothing came within %d ms", fd, FD_WAIT_MS);
			return -ETIMEDOUT;
		}
		if (n > 0)
			n = read(fd, buf + *len, size - *len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			snprintf(err, err_len, "--token-fd %d: %s", fd, ferryi_strerror(errno));
			return -errno;
		}
		if (n == 0)
			return 0;
		*len += (size_t)n;
	}
	return 0;
}

static int load_fd(int fd, uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *err, size_t err_len)
{
	char buf[4 * FERRYI_AUTH_TOKEN_LEN];
	size_t len;
	int rc;

	rc = read_fd(fd, buf, sizeof(buf) - 1, &len, err, err_len);
	close(fd);
	if (rc)
		return rc;
	if (len == FERRYI_AUTH_TOKEN_LEN) {
		memcpy(token, buf, len);
	} else {
		buf[len] = '\0';
		rc = ferryi_token_parse(buf, token) ? -EBADMSG : 0;
		if (rc)
			snprintf(err, err_len,
				 "--token-fd %d: %zu bytes came that are no token (%u bytes, or %u "
				 "hexadecimal digits)",
				 fd, len, FERRYI_AUTH_TOKEN_LEN, 2 * FERRYI_AUTH_TOKEN_LEN);
	}
	explicit_bzero(buf, sizeof(buf));
	return rc;
}

static int default_path(char *path, size_t size, char *err, size_t err_len)
{
	const char *state = secure_getenv("STATE_DIRECTORY");
	const char *xdg = secure_getenv("XDG_STATE_HOME");
	const char *home = secure_getenv("HOME");
	int n;

	if (state && state[0] == '/') /* a list: the first is ours */
		n = snprintf(path, size, "%.*s/token", (int)strcspn(state, ":"), state);
	else if (geteuid() == 0)
		n = snprintf(path, size, "/var/lib/farferry/token");
	else if (xdg && xdg[0] == '/')
		n = snprintf(path, size, "%s/farferry/token", xdg);
	else if (home && home[0] == '/')
		n = snprintf(path, size, "%s/.local/state/farferry/token", home);
	else
		n = -1;
	if (n > 0 && (size_t)n < size)
		return 0;
	snprintf(err, err_len, "there is no folder for the token file: set HOME or give --token-file");
	return -ENOENT;
}

/* Folders above a default path. */
static int make_parents(const char *path, char *err, size_t err_len)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s", path);
	for (char *at = strchr(dir + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(dir, 0700) && errno != EEXIST) {
			int rc = -errno;

			snprintf(err, err_len,
				 "folder '%s' for the token file cannot be made: %s; give --token-file", dir,
				 ferryi_strerror(rc));
			return rc;
		}
		*at = '/';
	}
	return 0;
}

static int load_file(const char *path, bool is_default, bool may_create, uint8_t token[FERRYI_AUTH_TOKEN_LEN],
		     char *err, size_t err_len)
{
	int rc = ferryi_token_load(path, token, err, err_len);

	if (rc == -EINVAL)
		return -EBADMSG; /* a bad file, not a bad configuration */
	if (rc != -ENOENT)
		return rc;
	if (!may_create)
		return 0;
	if (is_default) {
		rc = make_parents(path, err, err_len);
		if (rc)
			return rc;
	}
	rc = ferryi_token_create(path, token, err, err_len);
	if (rc == -EEXIST) /* another server was quicker */
		return ferryi_token_load(path, token, err, err_len);
	if (!rc)
		ferryi_notice("token file '%s': made; clients need a copy of it (FERRY_TOKEN_FILE)", path);
	return rc;
}

int ferryi_secret_load(const struct ferryi_config *config, bool may_create,
		       uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *err, size_t err_len)
{
	char path[PATH_MAX];
	int rc;

	memset(token, 0, FERRYI_AUTH_TOKEN_LEN);
	if (!ferryi_config_wants(config, FERRYI_AUTH_TOKEN))
		return 0;
	if (config->token_fd)
		return load_fd((int)config->token_fd, token, err, err_len);
	if (config->token_file)
		return load_file(config->token_file, false, may_create, token, err, err_len);
	rc = default_path(path, sizeof(path), err, err_len);
	return rc ? rc : load_file(path, true, may_create, token, err, err_len);
}
