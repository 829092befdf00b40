#include "err.h"

#include <stdarg.h>
#include <stdio.h>

int ferryi_err(int rc, char *err, size_t err_len, const char *fmt, ...)
{
	va_list args;

	if (err && err_len) {
		va_start(args, fmt);
		vsnprintf(err, err_len, fmt, args);
		va_end(args);
	}
	return rc;
}
