/*
 * The one clear line that a failing function leaves with its caller: what is
 * wrong, and how to mend it. Any thread; no allocation.
 */
#ifndef FERRYI_BASE_ERR_H
#define FERRYI_BASE_ERR_H

#include <stddef.h>

/* Formats into err (NULL or err_len 0: nowhere), cut to fit, and returns rc. */
int ferryi_err(int rc, char *err, size_t err_len, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
