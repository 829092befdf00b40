/* The server as a whole: starts, serves, drains. Runs in the main thread, which becomes the control thread.
 */
#ifndef FERRYI_SERVER_DAEMON_H
#define FERRYI_SERVER_DAEMON_H

#include "config.h"

/*
 * Serves until a signal and a drain have ended it. argc and argv are read again
 * on SIGHUP. Returns 0, or -errno with one line in err when it could not start
 * (-EINVAL: the configuration asks for what cannot be).
 */
int ferryi_daemon_run(struct ferryi_config *config, int argc, char **argv, char *err, size_t err_len);
/* --check: everything up to taking memory and ports. Same results. */
int ferryi_daemon_check(struct ferryi_config *config, char *err, size_t err_len);

#endif
