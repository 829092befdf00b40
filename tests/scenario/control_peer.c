/* See control_peer.h. */
#include "control_peer.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"

#define SERVER_ID "0123456789abcdef0123456789abcdef"

/* The machinery itself: its failure is no result of a test. */
#define MUST(cond)                                                                                   \
	do {                                                                                         \
		if (!(cond)) {                                                                       \
			fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno); \
			abort();                                                                     \
		}                                                                                    \
	} while (0)

/* True when fd is ready; false when the test stops. */
static bool wait_in(const struct ferryt_peer *peer, int fd)
{
	for (;;) {
		struct pollfd pfds[] = {{.fd = fd, .events = POLLIN},
					{.fd = peer->stop_fd, .events = POLLIN}};
		int n = poll(pfds, 2, FERRYT_WAIT_MS);

		if (n < 0 && errno == EINTR)
			continue;
		return n > 0 && pfds[1].revents == 0;
	}
}

static void *peer_main(void *arg)
{
	struct ferryt_peer *peer = arg;

	while (wait_in(peer, peer->listen_fd)) {
		peer->fd = accept4(peer->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (peer->fd < 0)
			continue;
		peer->script(peer, peer->ctx);
		close(peer->fd);
		peer->fd = -1;
	}
	return NULL;
}

void ferryt_peer_start(struct ferryt_peer *peer, ferryt_script script, void *ctx)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);

	if (peer->terms.version == 0)
		peer->terms.version = 1;
	if (peer->terms.timeout_ms == 0) {
		peer->terms.timeout_ms = 60000;
		peer->terms.keepalive_ms = 30000;
	}
	if (peer->terms.fabrics[0] == NULL)
		peer->terms.fabrics[0] = "local";
	memset(peer->token, 0x5a, sizeof(peer->token));
	peer->script = script;
	peer->ctx = ctx;
	peer->fd = -1;
	peer->stop_fd = eventfd(0, EFD_CLOEXEC);
	peer->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(peer->stop_fd >= 0 && peer->listen_fd >= 0);
	MUST(bind(peer->listen_fd, (struct sockaddr *)&addr, len) == 0 && listen(peer->listen_fd, 8) == 0);
	MUST(getsockname(peer->listen_fd, (struct sockaddr *)&addr, &len) == 0);
	snprintf(peer->url, sizeof(peer->url), "ferry://127.0.0.1:%u?fabric=%s",
		 (unsigned)ntohs(addr.sin_port), peer->terms.fabrics[0]);
	MUST(pthread_create(&peer->thread, NULL, peer_main, peer) == 0);
}

void ferryt_peer_stop(struct ferryt_peer *peer)
{
	MUST(eventfd_write(peer->stop_fd, 1) == 0);
	pthread_join(peer->thread, NULL);
	close(peer->listen_fd);
	close(peer->stop_fd);
	if (peer->region != NULL)
		ferryi_region_revoke(&peer->region);
	if (peer->tenant != NULL)
		ferryi_tenant_close(&peer->tenant);
	if (peer->listener != NULL)
		ferryi_listener_close(&peer->listener);
	if (peer->memory != NULL) {
		munmap(peer->memory, peer->memory_len);
		close(peer->memory_fd);
	}
}

void ferryt_peer_lend(struct ferryt_peer *peer, const char *row, size_t len)
{
	struct ferryi_listener_attr attr = {
		.row = ferryi_fabric_find(row), .host = "127.0.0.1", .label = "test"};
	struct ferryi_memory memory = {.len_bytes = len};

	peer->terms.fabrics[0] = row;
	peer->memory_len = len;
	MUST(ferryi_local_memfd("lent", len, &peer->memory_fd) == 0);
	peer->memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, peer->memory_fd, 0);
	MUST(peer->memory != MAP_FAILED);
	memory.base = peer->memory;
	memory.fd = peer->memory_fd;
	memset(peer->data_token, 0x3c, sizeof(peer->data_token));
	MUST(attr.row != NULL && ferryi_listener_open(&attr, &peer->listener) == 0);
	MUST(ferryi_tenant_open(peer->listener, peer->data_token, "test", &peer->tenant) == 0);
	MUST(ferryi_region_open(peer->tenant, &memory, FERRYI_ACCESS_READ | FERRYI_ACCESS_WRITE,
				&peer->region) == 0);
}

/* ---- scripts ---- */

static bool read_all(struct ferryt_peer *peer, uint8_t *buf, size_t len)
{
	for (size_t have = 0; have < len;) {
		if (!wait_in(peer, peer->fd))
			return false;
		ssize_t n = recv(peer->fd, buf + have, len - have, 0);

		if (n <= 0)
			return false;
		have += (size_t)n;
	}
	return true;
}

Farferry__Envelope *ferryt_peer_recv(struct ferryt_peer *peer)
{
	uint8_t head[FERRYI_FRAME_HEADER];
	Farferry__Envelope *envelope = NULL;
	char why[256];

	if (!read_all(peer, head, sizeof(head)))
		return NULL;
	long len = ferryi_frame_peek(head, sizeof(head));

	MUST(len > 0);
	uint8_t *frame = malloc((size_t)len);

	MUST(frame != NULL);
	memcpy(frame, head, sizeof(head));
	if (read_all(peer, frame + sizeof(head), (size_t)len - sizeof(head)) &&
	    ferryi_frame_decode(FERRYI_ROLE_SERVER, frame, (size_t)len, &envelope, why, sizeof(why)) < 0) {
		fprintf(stderr, "the client sent an invalid frame: %s\n", why);
		abort();
	}
	free(frame);
	return envelope;
}

static void answer_keepalive(struct ferryt_peer *peer, const Farferry__Envelope *request)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;

	envelope.request_id = request->request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_KEEPALIVE;
	envelope.keepalive = request->keepalive;
	ferryt_peer_send(peer, &envelope);
}

Farferry__Envelope *ferryt_peer_next(struct ferryt_peer *peer)
{
	for (;;) {
		Farferry__Envelope *envelope = ferryt_peer_recv(peer);

		if (envelope == NULL || envelope->body_case != FARFERRY__ENVELOPE__BODY_KEEPALIVE)
			return envelope;
		answer_keepalive(peer, envelope);
		ferryi_envelope_free(&envelope);
	}
}

bool ferryt_peer_expect(struct ferryt_peer *peer, Farferry__Envelope__BodyCase body, uint64_t *request_id)
{
	Farferry__Envelope *envelope = ferryt_peer_next(peer);

	if (envelope == NULL)
		return false;
	bool is_it = envelope->body_case == body;

	if (!is_it)
		fprintf(stderr, "got \"%s\" where \"%s\" was expected\n",
			ferryi_body_name(envelope->body_case), ferryi_body_name(body));
	*request_id = envelope->request_id;
	ferryi_envelope_free(&envelope);
	return is_it;
}

void ferryt_peer_raw(struct ferryt_peer *peer, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	while (len > 0) {
		ssize_t n = send(peer->fd, at, len, MSG_NOSIGNAL);

		if (n <= 0)
			return; /* the client has had enough */
		at += n;
		len -= (size_t)n;
	}
}

void ferryt_peer_send(struct ferryt_peer *peer, const Farferry__Envelope *envelope)
{
	uint8_t *bytes;
	size_t len;

	MUST(ferryi_frame_encode(envelope, &bytes, &len) == 0);
	ferryt_peer_raw(peer, bytes, len);
	free(bytes);
}

void ferryt_peer_error(struct ferryt_peer *peer, uint64_t request_id, Farferry__Code code, const char *text)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__Error body = FARFERRY__ERROR__INIT;

	body.code = code;
	body.text = (char *)text;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_ERROR;
	envelope.error = &body;
	ferryt_peer_send(peer, &envelope);
}

void ferryt_peer_done(struct ferryt_peer *peer, uint64_t request_id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__DoneReply body = FARFERRY__DONE_REPLY__INIT;

	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DONE;
	envelope.done = &body;
	ferryt_peer_send(peer, &envelope);
}

void ferryt_peer_drain(struct ferryt_peer *peer)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__DrainNotice body = FARFERRY__DRAIN_NOTICE__INIT;

	body.deadline_ms = 30000;
	body.reason = (char *)"the test says so";
	envelope.body_case = FARFERRY__ENVELOPE__BODY_DRAIN;
	envelope.drain = &body;
	ferryt_peer_send(peer, &envelope);
}

void ferryt_peer_revoke(struct ferryt_peer *peer, uint64_t lease_id)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__RevokedNotice body = FARFERRY__REVOKED_NOTICE__INIT;

	body.lease_id = lease_id;
	body.reason = (char *)"the test says so";
	envelope.body_case = FARFERRY__ENVELOPE__BODY_REVOKED;
	envelope.revoked = &body;
	ferryt_peer_send(peer, &envelope);
}

void ferryt_peer_failed(struct ferryt_peer *peer, uint64_t lease_id, uint64_t extent_id, uint64_t off)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__FailedNotice body = FARFERRY__FAILED_NOTICE__INIT;

	body.lease_id = lease_id;
	body.extent_id = extent_id;
	body.off = off;
	body.len_bytes = 4096;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_FAILED;
	envelope.failed = &body;
	ferryt_peer_send(peer, &envelope);
}

void ferryt_peer_grant(struct ferryt_peer *peer, uint64_t request_id, uint64_t len, uint64_t key_error)
{
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__LeaseReply body = FARFERRY__LEASE_REPLY__INIT;
	Farferry__Extent extent = FARFERRY__EXTENT__INIT, *extents = &extent;
	Farferry__Location location = FARFERRY__LOCATION__INIT, *locations = &location;
	struct ferryi_remote remote;
	char addr[FERRYI_FABRIC_ADDR_LEN];

	ferryi_region_remote(peer->region, &remote);
	MUST(ferryi_tenant_addr(peer->tenant, addr, sizeof(addr)) == 0);
	location.server_id = (char *)SERVER_ID;
	location.key = remote.key + key_error;
	location.addr = remote.addr;
	extent.id = 1;
	extent.len_bytes = len;
	extent.locations = &locations;
	extent.n_locations = 1;
	body.lease_id = 7;
	body.epoch = 3;
	body.fabric = (char *)peer->terms.fabrics[0];
	body.fabric_addr = addr;
	body.data_token = (ProtobufCBinaryData){.len = sizeof(peer->data_token), .data = peer->data_token};
	body.extents = &extents;
	body.n_extents = len > 0 ? 1 : 0;
	body.pool_size_bytes = peer->memory_len;
	envelope.request_id = request_id;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_LEASE_REPLY;
	envelope.lease_reply = &body;
	ferryt_peer_send(peer, &envelope);
}

bool ferryt_peer_welcome(struct ferryt_peer *peer)
{
	const struct ferryt_terms *terms = &peer->terms;
	Farferry__Envelope envelope = FARFERRY__ENVELOPE__INIT;
	Farferry__HelloReply hello = FARFERRY__HELLO_REPLY__INIT;
	Farferry__AuthReply auth = FARFERRY__AUTH_REPLY__INIT;
	uint8_t nonce[FERRYI_NONCE_LEN] = {1, 2, 3}, mac[FERRYI_MAC_LEN];
	char host[256];

	if (!ferryt_peer_expect(peer, FARFERRY__ENVELOPE__BODY_HELLO, &envelope.request_id))
		return false;
	ferryi_host_identity(host, sizeof(host));
	hello.version = terms->version;
	hello.server_nonce = (ProtobufCBinaryData){.len = sizeof(nonce), .data = nonce};
	hello.server_id = (char *)SERVER_ID;
	hello.host = host;
	hello.auth_required = !terms->no_auth;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_HELLO_REPLY;
	envelope.hello_reply = &hello;
	ferryt_peer_send(peer, &envelope);

	Farferry__Envelope *got = ferryt_peer_next(peer);

	if (got == NULL)
		return false;
	MUST(got->body_case == FARFERRY__ENVELOPE__BODY_AUTH);
	MUST(ferryi_auth_mac(FERRYI_ROLE_SERVER, peer->token, nonce, got->auth->client_nonce.data, mac) == 0);
	if (terms->wrong_mac)
		mac[0] ^= 1;
	envelope.request_id = got->request_id;
	ferryi_envelope_free(&got);
	auth.mac = (ProtobufCBinaryData){.len = sizeof(mac), .data = mac};
	auth.session_id = 1;
	auth.epoch = 1;
	auth.keepalive_ms = terms->keepalive_ms;
	auth.timeout_ms = terms->timeout_ms;
	auth.fabrics = (char **)terms->fabrics;
	while (auth.n_fabrics < 4 && terms->fabrics[auth.n_fabrics] != NULL)
		auth.n_fabrics++;
	envelope.body_case = FARFERRY__ENVELOPE__BODY_AUTH_REPLY;
	envelope.auth_reply = &auth;
	ferryt_peer_send(peer, &envelope);
	return true;
}

void ferryt_peer_idle(struct ferryt_peer *peer, bool answer)
{
	Farferry__Envelope *envelope;

	while ((envelope = ferryt_peer_recv(peer)) != NULL) {
		if (answer && envelope->body_case == FARFERRY__ENVELOPE__BODY_KEEPALIVE)
			answer_keepalive(peer, envelope);
		ferryi_envelope_free(&envelope);
	}
}
