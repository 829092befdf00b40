/* See token.h. */
#include "token.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

#define SYSTEM_TOKEN "/var/lib/farferry/token"

static int load_named(const char *file, struct ferryi_token *out)
{
	char why[512] = "";
	int rc = ferryi_token_load(file, out->bytes, why, sizeof(why));

	if (rc < 0)
		return ferryi_control_fail(rc, "%s", why);
	out->known = true;
	out->named = true;
	snprintf(out->source, sizeof(out->source), "%s", file);
	return 0;
}

/* A file at a default path may be absent or belong to others: then it is simply not ours. */
static bool load_default(const char *file, struct ferryi_token *out)
{
	char why[512];

	if (ferryi_token_load(file, out->bytes, why, sizeof(why)) < 0)
		return false;
	out->known = true;
	snprintf(out->source, sizeof(out->source), "%s", file);
	return true;
}

static bool state_token_path(char *buf, size_t buf_len)
{
	const char *state = secure_getenv("XDG_STATE_HOME");
	const char *home = secure_getenv("HOME");
	int n;

	if (state != NULL && state[0] == '/')
		n = snprintf(buf, buf_len, "%s/farferry/token", state);
	else if (home != NULL && home[0] == '/')
		n = snprintf(buf, buf_len, "%s/.local/state/farferry/token", home);
	else
		return false;
	return n > 0 && (size_t)n < buf_len;
}

int ferryi_token_find(const uint8_t *bytes, const char *file, struct ferryi_token *out)
{
	char path[256];

	memset(out, 0, sizeof(*out));
	if (bytes != NULL) {
		memcpy(out->bytes, bytes, sizeof(out->bytes));
		out->known = true;
		out->named = true;
		return 0;
	}
	if (file == NULL || file[0] == '\0')
		file = secure_getenv("FERRY_TOKEN_FILE");
	if (file != NULL && file[0] != '\0')
		return load_named(file, out);
	/* The order in which ferryd would choose the file: root's is the system's. */
	if (geteuid() == 0 && load_default(SYSTEM_TOKEN, out))
		return 0;
	if (state_token_path(path, sizeof(path)) && load_default(path, out))
		return 0;
	if (geteuid() != 0)
		load_default(SYSTEM_TOKEN, out);
	return 0;
}
