/* The client side of the control tests: a control object and the witness of its on_state. */
#ifndef FERRYT_CONTROL_CLIENT_H
#define FERRYT_CONTROL_CLIENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "control.h"

#define FERRYT_WAIT_MS 60000 /* bound of every wait that is expected to end at once */

/* A gate that one side opens and the other waits at. */
struct ferryt_gate {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned count;
};

void ferryt_gate_init(struct ferryt_gate *gate);
void ferryt_gate_open(struct ferryt_gate *gate);
/* True once it was opened at least `count` times; false after FERRYT_WAIT_MS. */
bool ferryt_gate_wait(struct ferryt_gate *gate, unsigned count);

struct ferryt_client {
	struct ferryi_control *control;
	struct ferryt_gate states; /* opened once for each on_state */
	_Atomic int last_state;
	_Atomic bool peer_failed_first; /* `lease`'s peer was failed when on_state came */
	_Atomic bool close_in_callback;
	struct ferryi_lease *_Atomic lease;
};

/* token NULL: as the library finds it. 0 or negative errno. */
int ferryt_client_open(struct ferryt_client *client, const uint8_t *token, uint64_t connect_ms,
		       uint64_t request_ms);
/* Opens, and prints the error line on failure. */
int ferryt_client_session(struct ferryt_client *client, const char *url, struct ferryi_session **session);
/* A channel of the lease with buf registered. */
int ferryt_client_channel(struct ferryi_lease *lease, void *buf, size_t len, struct ferryi_channel **channel);
/* Submits, polls to the end and returns its status; -ENOTCONN when the channel is dead. */
int ferryt_client_op(struct ferryi_channel *channel, struct ferryi_op *op);

#endif
