/* See program_path.h. */
#include "program_path.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

static bool is_file(const char *dir, const char *name)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, name);

	return n > 0 && (size_t)n < sizeof(path) && access(path, F_OK) == 0;
}

static bool try_file(const char *path, char *buf, size_t buf_len)
{
	size_t len = strlen(path);

	if (len >= buf_len || !is_program(path))
		return false;
	memcpy(buf, path, len + 1);
	return true;
}

static bool try_path(const char *dir, const char *rest, char *buf, size_t buf_len)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, rest);

	return n > 0 && (size_t)n < sizeof(path) && try_file(path, buf, buf_len);
}

/* Directory of the shared library, or of the program where we are linked in statically. */
static bool own_dir(char buf[PATH_MAX])
{
	Dl_info info;
	const char *name = "/proc/self/exe";

	/* The main program is listed as it was called; a library with the path that it was loaded from. */
	if (dladdr((void *)&ferryi_ferryd_path, &info) != 0 && info.dli_fname != NULL &&
	    strstr(info.dli_fname, ".so") != NULL && strchr(info.dli_fname, '/') != NULL)
		name = info.dli_fname;
	if (realpath(name, buf) == NULL && realpath("/proc/self/exe", buf) == NULL)
		return false;
	char *slash = strrchr(buf, '/');

	if (slash == NULL)
		return false;
	*slash = '\0';
	return true;
}

/* installed: below the prefix; built: below the top of a build tree. */
static bool beside_us(const char *installed, const char *built, char *buf, size_t buf_len)
{
	char dir[PATH_MAX], up_one[PATH_MAX], up_two[PATH_MAX];

	if (!own_dir(dir))
		return false;
	/* lib, and lib/<triplet> */
	snprintf(up_one, sizeof(up_one), "../%s", installed);
	snprintf(up_two, sizeof(up_two), "../../%s", installed);
	if (try_path(dir, up_one, buf, buf_len) || try_path(dir, up_two, buf, buf_len))
		return true;
	/* A build tree: our programs and libraries lie up to three folders below its top. */
	for (unsigned up = 0; up <= 3; up++) {
		char *slash = strrchr(dir, '/');

		if (is_file(dir, "CMakeCache.txt"))
			return try_path(dir, built, buf, buf_len);
		if (slash == NULL)
			break;
		*slash = '\0';
	}
	return false;
}

static bool on_search_path(char *buf, size_t buf_len)
{
	const char *path = secure_getenv("PATH");
	char dir[PATH_MAX];

	for (const char *at = path; at != NULL && *at != '\0';) {
		size_t len = strcspn(at, ":");

		if (len > 0 && len < sizeof(dir)) {
			memcpy(dir, at, len);
			dir[len] = '\0';
			if (try_path(dir, "ferryd", buf, buf_len))
				return true;
		}
		at += len;
		if (*at == ':')
			at++;
	}
	return false;
}

int ferryi_ferryd_path(char *buf, size_t buf_len)
{
	const char *named = secure_getenv("FERRY_FERRYD");

	if (named != NULL && named[0] != '\0') {
		if (!try_file(named, buf, buf_len))
			return ferryi_control_fail(-ENOENT,
						   "FERRY_FERRYD names %s, which is no program: set it to "
						   "the path of ferryd, or unset it",
						   named);
		return 0;
	}
	if (beside_us("bin/ferryd", "server/ferryd", buf, buf_len) || try_file(FERRYD_INSTALL_PATH, buf, buf_len) ||
	    on_search_path(buf, buf_len))
		return 0;
	return ferryi_control_fail(
		-ENOENT,
		"no ferryd for an embedded server, neither beside the library nor at %s nor in PATH: install "
		"it, set FERRY_FERRYD to its path, or name a server in FERRY_SERVERS",
		FERRYD_INSTALL_PATH);
}

int ferryi_heir_path(char *buf, size_t buf_len)
{
	const char *named = secure_getenv("FERRY_HEIR");

	if (named != NULL && named[0] != '\0')
		return try_file(named, buf, buf_len) ? 0 : -ENOENT;
	return beside_us("libexec/farferry/ferry-heir", "client/heir/ferry-heir", buf, buf_len) ||
			       try_file(HEIR_INSTALL_PATH, buf, buf_len)
		       ? 0
		       : -ENOENT;
}
