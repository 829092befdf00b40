/* Where the client's shared secret comes from. Start-up code; no thread of its own. */
#ifndef FERRYI_CONTROL_TOKEN_H
#define FERRYI_CONTROL_TOKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "proto.h"

struct ferryi_token {
	bool known;
	/*
	 * Somebody named it (parameter or environment), so a server that does not
	 * prove to know it is refused. One found at a default path serves servers that ask for it.
	 */
	bool named;
	uint8_t bytes[FERRYI_AUTH_TOKEN_LEN];
	char source[256]; /* the file, for error lines; "" when given as bytes */
};

/*
 * bytes, else file, else $FERRY_TOKEN_FILE, else the paths where ferryd leaves
 * its own: $XDG_STATE_HOME/farferry/token or ~/.local/state/farferry/token,
 * and /var/lib/farferry/token. None there is no error (known is false).
 * A named file that cannot be used is: -ENOENT, -EACCES, -EPERM, -EINVAL, and the error line.
 */
int ferryi_token_find(const uint8_t *bytes, const char *file, struct ferryi_token *out);

#endif
