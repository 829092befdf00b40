/*
 * Server half: see server.h. Memory is one sealed memfd a region, on every
 * row, mapped here; a region's memory outlives its revocation until it is
 * dropped, so that a test can see whether anybody still writes to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arith.h"
#include "clock.h"
#include "log.h"
#include "server.h"

#define MAX_TENANTS 128
#define MAX_REGIONS 256

struct server_region {
	bool used;
	struct ferryi_region *region; /* NULL once revoked */
	uint8_t *base;
	size_t len_bytes;
	int fd;
	uint64_t tenant;
};

struct ferryt_server {
	const struct ferryi_fabric_row *row;
	struct ferryi_listener *listener;
	struct ferryi_tenant *tenant[MAX_TENANTS];
	struct server_region region[MAX_REGIONS];
};

/*
 * The server's memory is written by peers, ordered by messages between two
 * processes, which the thread sanitizer cannot see.
 */
#define PEERS_WRITE_IT __attribute__((no_sanitize("thread")))

PEERS_WRITE_IT void ferryt_pattern_fill(void *buf, uint64_t seed, uint64_t first_index, uint64_t len_bytes)
{
	uint8_t *p = buf;

	for (uint64_t i = 0; i < len_bytes; i++)
		p[i] = ferryt_pattern(seed, first_index + i);
}

PEERS_WRITE_IT uint64_t ferryt_pattern_check(const void *buf, uint64_t seed, uint64_t first_index,
					     uint64_t len_bytes)
{
	const uint8_t *p = buf;

	for (uint64_t i = 0; i < len_bytes; i++) {
		if (p[i] != ferryt_pattern(seed, first_index + i))
			return i;
	}
	return len_bytes;
}

struct ferryt_server *ferryt_server_create(const struct ferryi_fabric_row *row)
{
	struct ferryt_server *server = calloc(1, sizeof(*server));

	if (server)
		server->row = row;
	return server;
}

static void memory_free(struct server_region *r)
{
	if (r->base)
		munmap(r->base, r->len_bytes);
	if (r->fd >= 0)
		close(r->fd);
	r->base = NULL;
	r->fd = -1;
}

static int memory_alloc(struct server_region *r, size_t len_bytes)
{
	int err = ferryi_local_memfd("ferry-contract", len_bytes, &r->fd);

	if (err) {
		r->fd = -1;
		return err;
	}
	void *base = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);

	if (base == MAP_FAILED) {
		err = -errno;
		close(r->fd);
		r->fd = -1;
		return err;
	}
	r->base = base;
	r->len_bytes = len_bytes;
	return 0;
}

static struct server_region *region_of(struct ferryt_server *server, uint64_t id)
{
	return id < MAX_REGIONS && server->region[id].used ? &server->region[id] : NULL;
}

static void region_drop(struct server_region *r)
{
	if (r->region)
		ferryi_region_revoke(&r->region);
	memory_free(r);
	r->used = false;
}

static int region_open(struct ferryt_server *server, const struct ferryt_req *req, struct ferryt_rep *rep)
{
	struct ferryi_tenant *tenant = req->id < MAX_TENANTS ? server->tenant[req->id] : NULL;
	uint64_t id = 0;

	while (id < MAX_REGIONS && server->region[id].used)
		id++;
	if (!tenant || id == MAX_REGIONS)
		return -EINVAL;

	struct server_region *r = &server->region[id];
	int err = memory_alloc(r, req->arg[0]);

	if (err)
		return err;
	ferryt_pattern_fill(r->base, req->arg[2], 0, r->len_bytes);
	struct ferryi_memory memory = {.base = r->base, .len_bytes = r->len_bytes, .fd = r->fd};

	err = ferryi_region_open(tenant, &memory, (unsigned)req->arg[1], &r->region);
	if (err) {
		memory_free(r);
		return err;
	}
	r->used = true;
	r->tenant = req->id;
	rep->val[0] = id;
	ferryi_region_remote(r->region, &rep->remote);
	return 0;
}

/* After a revocation: a SAME_HOST region's memfd is empty, and its mapping would raise SIGBUS. */
static void memory_forget(struct ferryt_server *server, struct server_region *r)
{
	if (server->row->flags & FERRYI_FABRIC_SAME_HOST)
		memory_free(r);
}

/*
 * What a server does with revoked memory: another tenant's data goes in at
 * once. SAME_HOST rows have truncated the memfd; the pages are new ones there.
 */
static int region_reuse(struct ferryt_server *server, struct server_region *r, uint64_t seed)
{
	if (!r->region)
		return -EINVAL;
	ferryi_region_revoke(&r->region);
	memory_forget(server, r);
	if (!r->base) {
		int err = memory_alloc(r, r->len_bytes);

		if (err)
			return err;
	}
	ferryt_pattern_fill(r->base, seed, 0, r->len_bytes);
	return 0;
}

static int tenant_open(struct ferryt_server *server, const struct ferryt_req *req, struct ferryt_rep *rep)
{
	uint64_t id = 0;

	while (id < MAX_TENANTS && server->tenant[id])
		id++;
	if (id == MAX_TENANTS || !server->listener)
		return -EINVAL;
	char label[32];

	snprintf(label, sizeof(label), "tenant %llu", (unsigned long long)id);
	int err = ferryi_tenant_open(server->listener, req->token, label, &server->tenant[id]);

	if (err)
		return err;
	rep->val[0] = id;
	return ferryi_tenant_addr(server->tenant[id], rep->text, sizeof(rep->text));
}

/* Closing a tenant revokes its regions by itself; only their memory is left to free. */
static int tenant_close(struct ferryt_server *server, uint64_t id)
{
	if (id >= MAX_TENANTS || !server->tenant[id])
		return -EINVAL;
	ferryi_tenant_close(&server->tenant[id]);
	for (unsigned i = 0; i < MAX_REGIONS; i++) {
		struct server_region *r = &server->region[i];

		if (r->used && r->tenant == id) {
			r->region = NULL;
			memory_forget(server, r);
		}
	}
	return 0;
}

static int listen_on(struct ferryt_server *server, const struct ferryt_req *req)
{
	struct ferryi_listener_attr attr = {
		.row = server->row,
		.host = req->text,
		.spin_us = req->arg[0],
		.label = "contract",
	};

	if (server->listener)
		return -EINVAL;
	return ferryi_listener_open(&attr, &server->listener);
}

static void stats(struct ferryt_server *server, struct ferryt_rep *rep)
{
	const struct ferryi_listener_stats *s = ferryi_listener_stats(server->listener);

	rep->val[0] = ferryi_counter_read(&s->c_connections_total);
	rep->val[1] = ferryi_counter_read(&s->c_refused_total);
	rep->val[2] = ferryi_counter_read(&s->g_connections);
	rep->val[3] = ferryi_counter_read(&s->c_registrations_total);
	rep->val[4] = ferryi_counter_read(&s->c_revocations_total);
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static uint64_t open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint64_t n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

void ferryt_server_exec(struct ferryt_server *server, const struct ferryt_req *req, struct ferryt_rep *rep)
{
	struct server_region *r = region_of(server, req->id);

	memset(rep, 0, sizeof(*rep));
	switch (req->cmd) {
	case FERRYT_LISTEN:
		rep->status = listen_on(server, req);
		return;
	case FERRYT_SELF_TEST:
		rep->status = ferryi_listener_self_test(server->listener, ferryi_deadline_ms(30000));
		return;
	case FERRYT_TENANT_OPEN:
		rep->status = tenant_open(server, req, rep);
		return;
	case FERRYT_TENANT_CLOSE:
		rep->status = tenant_close(server, req->id);
		return;
	case FERRYT_REGION_OPEN:
		rep->status = region_open(server, req, rep);
		return;
	case FERRYT_STATS:
		stats(server, rep);
		return;
	case FERRYT_CPU:
		rep->val[0] = cpu_us();
		rep->val[1] = open_fds();
		return;
	case FERRYT_EXIT:
		return;
	default:
		break;
	}

	/* the rest concerns a region */
	rep->status = -EINVAL;
	if (!r)
		return;
	switch (req->cmd) {
	case FERRYT_REGION_REVOKE:
		if (r->region)
			ferryi_region_revoke(&r->region);
		memory_forget(server, r);
		rep->status = 0;
		return;
	case FERRYT_REGION_REUSE:
		rep->status = region_reuse(server, r, req->arg[0]);
		return;
	case FERRYT_REGION_DROP:
		region_drop(r);
		rep->status = 0;
		return;
	case FERRYT_REGION_CHECK:
	case FERRYT_REGION_FILL:
		break;
	default:
		return;
	}
	if (!r->base || !ferryi_range_ok(req->arg[0], req->arg[1], r->len_bytes))
		return;
	if (req->cmd == FERRYT_REGION_FILL)
		ferryt_pattern_fill(r->base + req->arg[0], req->arg[2], req->arg[0], req->arg[1]);
	else
		rep->val[0] =
			ferryt_pattern_check(r->base + req->arg[0], req->arg[2], req->arg[0], req->arg[1]);
	rep->status = 0;
}

void ferryt_server_destroy(struct ferryt_server **pserver)
{
	struct ferryt_server *server = *pserver;

	if (!server)
		return;
	for (unsigned i = 0; i < MAX_REGIONS; i++) {
		if (server->region[i].used)
			region_drop(&server->region[i]);
	}
	for (unsigned i = 0; i < MAX_TENANTS; i++) {
		if (server->tenant[i])
			ferryi_tenant_close(&server->tenant[i]);
	}
	if (server->listener)
		ferryi_listener_close(&server->listener);
	free(server);
	*pserver = NULL;
}

static bool read_all(int fd, void *buf, size_t len)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = read(fd, (char *)buf + got, len - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		got += (size_t)n;
	}
	return true;
}

int ferryt_serve(const char *row_name, int in, int out)
{
	const struct ferryi_fabric_row *row = ferryi_fabric_find(row_name);

	/* never outlive a test that crashed */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	ferryi_log_set_ident("contract-server");
	if (!row) {
		fprintf(stderr, "contract: no row called %s\n", row_name);
		return 2;
	}
	struct ferryt_server *server = ferryt_server_create(row);
	struct ferryt_req req;
	struct ferryt_rep rep;

	if (!server)
		return 2;
	while (read_all(in, &req, sizeof(req))) {
		ferryt_server_exec(server, &req, &rep);
		if (req.cmd == FERRYT_EXIT)
			ferryt_server_destroy(&server);
		if (write(out, &rep, sizeof(rep)) != (ssize_t)sizeof(rep))
			break;
		if (req.cmd == FERRYT_EXIT)
			return 0;
	}
	ferryt_server_destroy(&server);
	return 0;
}
