/*
 * Log records: formatted on the stack, written with one write(2).
 * Thread model: any thread, signal handlers too; the only state is atomic.
 */
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static const struct {
	const char *name;
	char priority; /* of sd-daemon(3) */
} levels[] = {
	[FERRYI_LOG_ERROR] = {"error", '3'},   [FERRYI_LOG_WARN] = {"warn", '4'},
	[FERRYI_LOG_NOTICE] = {"notice", '5'}, [FERRYI_LOG_INFO] = {"info", '6'},
	[FERRYI_LOG_DEBUG] = {"debug", '7'},
};

#define NLEVELS (sizeof(levels) / sizeof(levels[0]))

enum journal { JOURNAL_UNKNOWN, JOURNAL_NO, JOURNAL_YES };

/* atomic: read by every thread, changed at start-up or by a reload */
static _Atomic int current_level = FERRYI_LOG_NOTICE;
static const char *_Atomic current_ident = "ferry";
static _Atomic int journal_state = JOURNAL_UNKNOWN;

int ferryi_log_level_parse(const char *name, enum ferryi_log_level *out)
{
	if (!name)
		return -EINVAL;
	for (size_t i = 0; i < NLEVELS; i++) {
		if (strcmp(name, levels[i].name) == 0) {
			*out = (enum ferryi_log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

void ferryi_log_set_level(enum ferryi_log_level level)
{
	atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

enum ferryi_log_level ferryi_log_get_level(void)
{
	return (enum ferryi_log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

/* JOURNAL_STREAM is "DEVICE:INODE" of the stream that the service manager gave us as stderr. */
static int stderr_is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	struct stat st;
	char want[64];

	if (!text || fstat(STDERR_FILENO, &st) != 0)
		return JOURNAL_NO;
	snprintf(want, sizeof(want), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	return strcmp(text, want) == 0 ? JOURNAL_YES : JOURNAL_NO;
}

static int journal_get(void)
{
	int state = atomic_load_explicit(&journal_state, memory_order_relaxed);

	if (state == JOURNAL_UNKNOWN) {
		/* No identity was set. Two threads may both find out; they find the same. */
		state = stderr_is_journal();
		atomic_store_explicit(&journal_state, state, memory_order_relaxed);
	}
	return state;
}

void ferryi_log_set_ident(const char *ident)
{
	atomic_store_explicit(&current_ident, ident, memory_order_relaxed);
	/* Now, not at the first record: that may be on the fault path, and the environment in managed memory.
	 */
	atomic_store_explicit(&journal_state, stderr_is_journal(), memory_order_relaxed);
}

/* A snprintf result that may have been cut, as the bytes really in the buffer. */
static size_t printed(int n, size_t room)
{
	if (n < 0)
		return 0;
	return (size_t)n < room ? (size_t)n : room - 1;
}

void ferryi_log(enum ferryi_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	int saved_errno = errno;
	size_t len = 0;
	va_list args;

	if (level > ferryi_log_get_level() || (size_t)level >= NLEVELS)
		return;

	if (journal_get() == JOURNAL_YES) {
		line[len++] = '<';
		line[len++] = levels[level].priority;
		line[len++] = '>';
	}
	len += printed(snprintf(line + len, sizeof(line) - len,
				"%s: %s: ", atomic_load_explicit(&current_ident, memory_order_relaxed),
				levels[level].name),
		       sizeof(line) - len);

	size_t text_start = len;

	errno = saved_errno; /* for %m */
	va_start(args, fmt);
	len += printed(vsnprintf(line + len, sizeof(line) - len, fmt, args), sizeof(line) - len);
	va_end(args);

	/* One record is one line, even where it quotes what a peer sent. */
	for (size_t i = text_start; i < len; i++) {
		unsigned char c = (unsigned char)line[i];

		if (c < 0x20 || c == 0x7f)
			line[i] = '?';
	}
	line[len++] = '\n'; /* there is room: the text ends with a NUL */

	ssize_t n;

	do {
		n = write(STDERR_FILENO, line, len);
	} while (n < 0 && errno == EINTR);
	errno = saved_errno;
}

const char *ferryi_strerror(int err)
{
	if (err < 0)
		err = err == INT_MIN ? INT_MAX : -err;

	const char *text = strerrordesc_np(err);

	return text ? text : "Unknown error";
}
