/*
 * The one line that a failing call leaves for its caller: a buffer per thread.
 * Any thread; no lock, no allocation.
 */
#ifndef FERRYI_CONTROL_ERROR_H
#define FERRYI_CONTROL_ERROR_H

/*
 * Sets the calling thread's line and returns err, so that a failing branch is
 * one statement. Control characters become spaces: texts may come from a server.
 */
int ferryi_control_fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
