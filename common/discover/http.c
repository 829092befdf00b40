/* See http.h. */
#include "http.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

struct transfer {
	const struct ferryi_http_call *call;
	struct event_base *base;
	bool ended;   /* the request is the library's no more */
	bool enough;  /* on_data says so */
	bool stopped; /* by stop_fd */
	bool late;
	int status;
	char *answer;
	size_t len;
};

static void on_end(struct evhttp_request *request, void *ctx)
{
	struct transfer *t = ctx;
	struct evbuffer *buffer = request ? evhttp_request_get_input_buffer(request) : NULL;

	t->ended = true;
	t->status = request ? evhttp_request_get_response_code(request) : 0;
	if (buffer && !t->call->on_data) {
		t->len = evbuffer_get_length(buffer);
		t->answer = malloc(t->len + 1);
		if (t->answer) {
			evbuffer_remove(buffer, t->answer, t->len);
			t->answer[t->len] = '\0';
		}
	}
	event_base_loopbreak(t->base);
}

static void on_chunk(struct evhttp_request *request, void *ctx)
{
	struct transfer *t = ctx;
	struct evbuffer *buffer = evhttp_request_get_input_buffer(request);
	size_t len = evbuffer_get_length(buffer);
	const char *data = (const char *)evbuffer_pullup(buffer, -1);

	/* Of an error the text is no answer. */
	if (data && evhttp_request_get_response_code(request) / 100 == 2 && t->call->on_data(t->call->ctx, data, len)) {
		t->enough = true;
		event_base_loopbreak(t->base);
	}
}

static void on_stop(evutil_socket_t fd, short what, void *ctx)
{
	struct transfer *t = ctx;

	(void)fd;
	(void)what;
	t->stopped = true;
	event_base_loopbreak(t->base);
}

static void on_late(evutil_socket_t fd, short what, void *ctx)
{
	struct transfer *t = ctx;

	(void)fd;
	(void)what;
	t->late = true;
	event_base_loopbreak(t->base);
}

/* Makes the request on the connection; false: no memory. What failed at once has ended. */
static bool send_request(struct transfer *t, struct evhttp_connection *connection)
{
	struct evhttp_request *request = evhttp_request_new(on_end, t);
	struct evkeyvalq *headers;

	if (!request)
		return false;
	if (t->call->on_data)
		evhttp_request_set_chunked_cb(request, on_chunk);
	headers = evhttp_request_get_output_headers(request);
	if (evhttp_add_header(headers, "Host", t->call->host) ||
	    evhttp_add_header(headers, "Content-Type", "application/json") ||
	    evhttp_add_header(headers, "Connection", "close") ||
	    evbuffer_add(evhttp_request_get_output_buffer(request), t->call->body, strlen(t->call->body))) {
		evhttp_request_free(request);
		return false;
	}
	/* It is the connection's from now on, also when it fails. */
	if (evhttp_make_request(connection, request, EVHTTP_REQ_POST, t->call->path))
		t->ended = true;
	return true;
}

static int verdict(const struct transfer *t, char *err, size_t err_len)
{
	if (t->enough)
		return 0;
	if (t->stopped) {
		snprintf(err, err_len, "ended");
		return -ECANCELED;
	}
	if (t->late) {
		snprintf(err, err_len, "%s:%u does not answer in time", t->call->host, t->call->port);
		return -ETIMEDOUT;
	}
	if (!t->status) {
		snprintf(err, err_len, "%s:%u cannot be reached, or has cut the connection", t->call->host, t->call->port);
		return -EHOSTUNREACH;
	}
	if (t->status / 100 != 2) {
		snprintf(err, err_len, "%s:%u answers %s with HTTP status %d", t->call->host, t->call->port, t->call->path,
			 t->status);
		return -EPROTO;
	}
	if (!t->call->on_data && !t->answer) {
		snprintf(err, err_len, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

int ferryi_http_post(const struct ferryi_http_call *call, char **answer, size_t *len, char *err, size_t err_len)
{
	struct transfer t = { .call = call, .base = event_base_new() };
	struct evhttp_connection *connection = NULL;
	struct event *stop = NULL, *late = NULL;
	int ms = ferryi_remaining_ms(call->deadline_ns);
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	int rc = -ENOMEM;

	*answer = NULL;
	*len = 0;
	snprintf(err, err_len, "out of memory");
	if (t.base)
		connection = evhttp_connection_base_new(t.base, NULL, call->host, call->port);
	if (!connection)
		goto out;
	evhttp_connection_set_max_body_size(connection, (ev_ssize_t)FERRYI_HTTP_BODY_MAX);
	evhttp_connection_set_max_headers_size(connection, 16384);
	evhttp_connection_set_retries(connection, 0);
	evhttp_connection_set_timeout(connection, ms / 1000 + 1); /* late comes first */
	late = evtimer_new(t.base, on_late, &t);
	if (!late || evtimer_add(late, &tv))
		goto out;
	if (call->stop_fd >= 0) {
		stop = event_new(t.base, call->stop_fd, EV_READ, on_stop, &t);
		if (!stop || event_add(stop, NULL))
			goto out;
	}
	if (!send_request(&t, connection))
		goto out;
	if (!t.ended)
		event_base_dispatch(t.base);
	rc = verdict(&t, err, err_len);
out:
	if (rc) {
		free(t.answer);
	} else {
		*answer = t.answer;
		*len = t.len;
		err[0] = '\0';
	}
	t.call = NULL;
	if (connection)
		evhttp_connection_free(connection); /* its request with it, without a call */
	if (stop)
		event_free(stop);
	if (late)
		event_free(late);
	if (t.base)
		event_base_free(t.base);
	return rc;
}
