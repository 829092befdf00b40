/* See error.h. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

#include "control.h"

#define LINE_LEN 1536 /* a server's text (1023) and our own words */

static __thread char last_error[LINE_LEN];

int ferryi_control_fail(int err, const char *fmt, ...)
{
	char line[LINE_LEN]; /* the arguments may point into last_error */
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	size_t i;

	for (i = 0; line[i] != '\0'; i++)
		last_error[i] = (unsigned char)line[i] < ' ' || line[i] == 0x7f ? ' ' : line[i];
	last_error[i] = '\0';
	return err;
}

const char *ferryi_control_last_error(void)
{
	return last_error;
}
