/* Where the server's shared secret comes from. Start-up code. */
#ifndef FERRYI_SERVER_SECRET_H
#define FERRYI_SERVER_SECRET_H

#include "config.h"

/*
 * Reads the token named by the config, or the default file, which it makes at
 * the first start (with its folders, 0700). Zeros where no listener wants one. may_create
 * false (--check): a file that is not there yet is no error.
 * 0, or negative errno with one line in err.
 */
int ferryi_secret_load(const struct ferryi_config *config, bool may_create,
		       uint8_t token[FERRYI_AUTH_TOKEN_LEN], char *err, size_t err_len);

#endif
