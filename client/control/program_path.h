/* Finds the programs that this library starts. Caller's thread; allocates nothing. */
#ifndef FERRYI_CONTROL_PROGRAM_PATH_H
#define FERRYI_CONTROL_PROGRAM_PATH_H

#include <stddef.h>

/*
 * $FERRY_FERRYD; else ../bin/ferryd beside the library (or program) that holds
 * this code; else the same build tree; else the install prefix; else $PATH.
 * 0 and an executable path, or -ENOENT with the error line set.
 */
int ferryi_ferryd_path(char *buf, size_t buf_len);
/* The same for ferry-heir (client/pager/heir.h): $FERRY_HEIR, else in libexec/farferry; no $PATH, and no error line. */
int ferryi_heir_path(char *buf, size_t buf_len);

#endif
