/*
 * Descriptors that a forked child must not keep: CLOEXEC covers exec only, and
 * a child that lives on with our sockets or the embedded server's life line
 * would keep both alive after this process died. The child closes them in a
 * pthread_atfork handler (posix_spawn and vfork run none: there exec closes).
 * Any thread; lock-free.
 */
#ifndef FERRYI_CONTROL_INHERIT_H
#define FERRYI_CONTROL_INHERIT_H

/* Forget before closing, never after. A full table (256) is no error: that descriptor is merely inherited. */
void ferryi_inherit_not(int fd);
void ferryi_inherit_forget(int fd);

#endif
