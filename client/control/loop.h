/*
 * The control thread: one libevent base, run by one thread that blocks all
 * signals. libevent is touched from this thread alone, on a base without
 * locks, so the process's global libevent settings (threading, log and memory
 * functions) are neither needed nor changed: they are the application's.
 * Others reach the thread by ferryi_loop_call and ferryi_loop_wake.
 */
#ifndef FERRYI_CONTROL_LOOP_H
#define FERRYI_CONTROL_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct ferryi_loop;

/* on_wake runs in the control thread after each ferryi_loop_wake (several may give one). 0, -ENOMEM, -errno.
 */
int ferryi_loop_start(void (*on_wake)(void *ctx), void *ctx, struct ferryi_loop **out);
/* Ends and joins the thread; its base must have no events of others left. Not from the thread itself. */
void ferryi_loop_stop(struct ferryi_loop **loop);

/* Any thread, any locks; does not block. */
void ferryi_loop_wake(struct ferryi_loop *loop);
/*
 * Runs fn(arg) in the control thread and waits for its end (inline when called
 * from there). -ETIMEDOUT: fn has not run and will not. No lock may be held.
 */
int ferryi_loop_call(struct ferryi_loop *loop, void (*fn)(void *arg), void *arg, uint64_t deadline_ns);
/* Control thread only. */
struct event_base *ferryi_loop_base(struct ferryi_loop *loop);

#endif
