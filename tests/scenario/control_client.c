/* See control_client.h. */
#include "control_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "clock.h"

/* ---- gates ---- */

void ferryt_gate_init(struct ferryt_gate *gate)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&gate->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&gate->moved, &attr);
	pthread_condattr_destroy(&attr);
	gate->count = 0;
}

void ferryt_gate_open(struct ferryt_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	gate->count++;
	pthread_cond_broadcast(&gate->moved);
	pthread_mutex_unlock(&gate->lock);
}

bool ferryt_gate_wait(struct ferryt_gate *gate, unsigned count)
{
	uint64_t until = ferryi_deadline_ms(FERRYT_WAIT_MS);
	struct timespec ts = {.tv_sec = (time_t)(until / FERRYI_NS_PER_S),
			      .tv_nsec = (long)(until % FERRYI_NS_PER_S)};
	int rc = 0;

	pthread_mutex_lock(&gate->lock);
	while (gate->count < count && rc == 0)
		rc = pthread_cond_timedwait(&gate->moved, &gate->lock, &ts);
	bool there = gate->count >= count;

	pthread_mutex_unlock(&gate->lock);
	return there;
}

/* ---- client ---- */

static void on_state(void *ctx, struct ferryi_session *session, enum ferryi_session_state state)
{
	struct ferryt_client *client = ctx;
	struct ferryi_lease *lease = atomic_load(&client->lease);

	if (lease != NULL)
		atomic_store(&client->peer_failed_first, ferryi_peer_is_failed(ferryi_lease_peer(lease)));
	atomic_store(&client->last_state, (int)state);
	if (atomic_load(&client->close_in_callback))
		ferryi_session_close(&session);
	ferryt_gate_open(&client->states);
}

int ferryt_client_open(struct ferryt_client *client, const uint8_t *token, uint64_t connect_ms,
		       uint64_t request_ms)
{
	struct ferryi_control_attr attr = {
		.token = token,
		.connect_ms = connect_ms,
		.request_ms = request_ms,
		.on_state = on_state,
		.ctx = client,
	};

	memset(client, 0, sizeof(*client));
	ferryt_gate_init(&client->states);
	return ferryi_control_open(&attr, &client->control);
}

int ferryt_client_session(struct ferryt_client *client, const char *url, struct ferryi_session **session)
{
	int rc = ferryi_session_open(client->control, url, session);

	if (rc < 0)
		printf("    %s\n", ferryi_control_last_error());
	return rc;
}

int ferryt_client_channel(struct ferryi_lease *lease, void *buf, size_t len, struct ferryi_channel **channel)
{
	int rc =
		ferryi_channel_open(ferryi_lease_peer(lease), 4, ferryi_deadline_ms(FERRYT_WAIT_MS), channel);

	if (rc < 0)
		return rc;
	rc = ferryi_channel_register(*channel, buf, len);
	if (rc < 0)
		ferryi_channel_close(channel);
	return rc;
}

int ferryt_client_op(struct ferryi_channel *channel, struct ferryi_op *op)
{
	uint64_t deadline_ns = ferryi_deadline_ms(FERRYT_WAIT_MS);
	struct ferryi_op *done = NULL;

	if (ferryi_channel_submit(channel, &op, 1) < 0)
		return -ENOTCONN;
	while (ferryi_now_ns() < deadline_ns) {
		int n = ferryi_channel_poll(channel, &done, 1);

		if (n == 1)
			return op->status;
		if (n < 0)
			return n;
		ferryi_cpu_relax();
	}
	return -ETIMEDOUT;
}
