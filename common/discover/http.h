/* One POST over HTTP/1.1, on an event loop of its own. Blocks; any thread. */
#ifndef FERRYI_DISCOVER_HTTP_H
#define FERRYI_DISCOVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FERRYI_HTTP_BODY_MAX ((size_t)1 << 20) /* bytes of an answer */

struct ferryi_http_call {
	const char *host; /* borrowed, as all of them, during the call */
	uint16_t port;
	const char *path, *body;
	uint64_t deadline_ns;
	int stop_fd; /* readable: end the call, -ECANCELED; -1: none */
	/* What has come of the answer so far, as it comes; true: that is enough, 0. NULL: the answer is kept. */
	bool (*on_data)(void *ctx, const char *data, size_t len);
	void *ctx;
};

/*
 * *answer is the caller's to free (with on_data: NULL), NUL-terminated, *len without that.
 * 0: an answer with status 2xx, or on_data has had enough. -EHOSTUNREACH (also a connection that was cut), -ETIMEDOUT,
 * -ECANCELED, -EPROTO (another status, or too long), -ENOMEM, each with one line in err.
 */
int ferryi_http_post(const struct ferryi_http_call *call, char **answer, size_t *len, char *err, size_t err_len);

#endif
