/*
 * One-line log records: object identity, action, cause. Never contents of
 * memory, keys or tokens; nothing per page above FERRYI_LOG_DEBUG.
 *
 * Context: any thread, any time; a record is formatted on the stack and leaves
 * in one write(2) to stderr: no malloc, no stdio, no lock. When stderr is the
 * journal (JOURNAL_STREAM names it) each line carries its <N> priority prefix.
 */
#ifndef FERRYI_BASE_LOG_H
#define FERRYI_BASE_LOG_H

/* Levels say who must act. */
enum ferryi_log_level {
	FERRYI_LOG_ERROR,  /* the operator: something was lost or refused */
	FERRYI_LOG_WARN,   /* the operator, soon: degraded but working */
	FERRYI_LOG_NOTICE, /* nobody: a state change worth a line in a week */
	FERRYI_LOG_INFO,   /* nobody: sessions, leases, connections */
	FERRYI_LOG_DEBUG,  /* a developer */
};

/* Name ("error", "warn", "notice", "info", "debug") to level; -EINVAL if none. */
int ferryi_log_level_parse(const char *name, enum ferryi_log_level *out);

void ferryi_log_set_level(enum ferryi_log_level level);
enum ferryi_log_level ferryi_log_get_level(void);

/*
 * Prefix of every line, "ferryd" say; borrowed for the life of the process.
 * Start-up code: also looks at the environment, once, so that no record has to.
 */
void ferryi_log_set_ident(const char *ident);

void ferryi_log(enum ferryi_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define ferryi_error(...)  ferryi_log(FERRYI_LOG_ERROR, __VA_ARGS__)
#define ferryi_warn(...)   ferryi_log(FERRYI_LOG_WARN, __VA_ARGS__)
#define ferryi_notice(...) ferryi_log(FERRYI_LOG_NOTICE, __VA_ARGS__)
#define ferryi_info(...)   ferryi_log(FERRYI_LOG_INFO, __VA_ARGS__)
#define ferryi_debug(...)  ferryi_log(FERRYI_LOG_DEBUG, __VA_ARGS__)

/* errno number (either sign) as text; static strings only, async-signal-safe. */
const char *ferryi_strerror(int err);

#endif
