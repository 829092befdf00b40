/*
 * The server's half of the rdm row: one datagram endpoint a tenant, which
 * answers greetings and, on providers that need the target's CPU, serves reads
 * and writes. All of it happens in the tenant's worker or under its lock.
 */
#include "ofi.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "clock.h"
#include "log.h"

#define NRECVS	     16
#define NSENDS	     16
#define READS_A_TURN 4
/* How long an answer is tried before the client is left to its own deadline. */
#define ANSWER_NS (2 * FERRYI_NS_PER_S)

struct recv_slot {
	struct fi_context2 ctx;
	struct ferryi_ofi_greeting greeting;
	bool is_posted;
};

struct send_slot {
	struct fi_context2 ctx;
	struct ferryi_ofi_answer answer;
	fi_addr_t to;
	uint64_t give_up_ns;
	bool is_used, is_pending;
};

struct ferryi_ofi_rdm {
	/* immutable after open */
	struct fi_info *info; /* ours, with the address that was bound */
	char port[16];	      /* "" where addresses are not IP */
	bool is_emulated;     /* requests in hand keep pointers into memory until the endpoint is closed */
	struct ferryi_ofi_worker *worker;
	struct fid_mr *mr;
	void *desc;
	/* protected by the worker's lock */
	struct fid_av *av;
	struct fid_ep *ep;
	uint64_t nclients;
	unsigned npending; /* answers that the provider would not take yet */
	struct recv_slot recvs[NRECVS];
	struct send_slot sends[NSENDS];
};

static struct ferryi_ofi_listener *listener_of(struct ferryi_ofi_tenant *tenant)
{
	return (struct ferryi_ofi_listener *)tenant->base.listener;
}

/* ---- endpoint ---- */

static void post_recvs(struct ferryi_ofi_rdm *rdm)
{
	for (int i = 0; i < NRECVS; i++) {
		struct recv_slot *slot = &rdm->recvs[i];

		if (!slot->is_posted)
			slot->is_posted = !fi_recv(rdm->ep, &slot->greeting, sizeof(slot->greeting),
						   rdm->desc, FI_ADDR_UNSPEC, &slot->ctx);
	}
}

static void close_ep(struct ferryi_ofi_rdm *rdm)
{
	FERRYI_OFI_CLOSE(rdm->ep);
	FERRYI_OFI_CLOSE(rdm->av);
	for (int i = 0; i < NRECVS; i++)
		rdm->recvs[i].is_posted = false;
	for (int i = 0; i < NSENDS; i++)
		rdm->sends[i].is_used = rdm->sends[i].is_pending = false;
	rdm->npending = 0;
}

static int open_ep(struct ferryi_ofi_tenant *tenant)
{
	struct fi_av_attr av_attr = {.type = FI_AV_TABLE, .count = 64};
	struct ferryi_ofi_rdm *rdm = tenant->rdm;
	int rc;

	rc = fi_av_open(tenant->domain, &av_attr, &rdm->av, NULL);
	if (!rc)
		rc = fi_endpoint(tenant->domain, rdm->info, &rdm->ep, NULL);
	if (!rc)
		rc = fi_ep_bind(rdm->ep, &rdm->av->fid, 0);
	if (!rc)
		rc = fi_ep_bind(rdm->ep, &tenant->cq->fid, FI_TRANSMIT | FI_RECV);
	if (!rc)
		rc = fi_enable(rdm->ep);
	if (rc) {
		close_ep(rdm);
		return ferryi_ofi_log(tenant->base.label, "open endpoint", rc);
	}
	post_recvs(rdm);
	return 0;
}

/* The address that the provider chose becomes the one to ask for when the endpoint is opened again. */
static int keep_name(struct ferryi_ofi_rdm *rdm)
{
	uint8_t name[FERRYI_OFI_NAME_MAX] = {0};
	size_t len = sizeof(name);
	void *copy;
	int rc;

	rc = fi_getname(&rdm->ep->fid, name, &len);
	if (rc)
		return rc;
	copy = malloc(len);
	if (!copy)
		return -FI_ENOMEM;
	memcpy(copy, name, len);
	free(rdm->info->src_addr);
	rdm->info->src_addr = copy;
	rdm->info->src_addrlen = len;
	if (rdm->info->addr_format == FI_SOCKADDR_IN || rdm->info->addr_format == FI_SOCKADDR_IN6 ||
	    rdm->info->addr_format == FI_SOCKADDR) {
		if (getnameinfo(copy, (socklen_t)len, NULL, 0, rdm->port, sizeof(rdm->port), NI_NUMERICSERV))
			return -FI_EADDRNOTAVAIL;
	}
	return 0;
}

int ferryi_ofi_rdm_open(struct ferryi_ofi_tenant *tenant)
{
	struct ferryi_ofi_listener *listener = listener_of(tenant);
	struct ferryi_ofi_worker *worker = ferryi_ofi_worker_pick(listener->workers, listener->nworkers);
	struct ferryi_ofi_rdm *rdm = calloc(1, sizeof(*rdm));
	int rc = -ENOMEM;

	if (!rdm)
		return rc;
	rdm->info = fi_dupinfo(tenant->info);
	if (!rdm->info)
		goto err_free;
	rdm->is_emulated = !strncmp(rdm->info->fabric_attr->prov_name, "tcp", 3);
	if (rdm->info->domain_attr->mr_mode & FI_MR_LOCAL) {
		rc = ferryi_ofi_mr(tenant->base.label, rdm->info, tenant->domain, NULL, rdm, sizeof(*rdm),
				   FI_SEND | FI_RECV, false, &rdm->mr);
		if (rc)
			goto err_info;
		rdm->desc = fi_mr_desc(rdm->mr);
	}
	rdm->worker = worker;
	tenant->rdm = rdm;
	rc = open_ep(tenant);
	if (rc)
		goto err_mr;
	rc = keep_name(rdm);
	if (rc) {
		rc = ferryi_ofi_log(tenant->base.label, "own address", rc);
		goto err_ep;
	}
	ferryi_ofi_worker_lock(worker);
	rc = ferryi_ofi_worker_add_locked(worker, &tenant->source);
	ferryi_ofi_worker_unlock(worker);
	if (!rc)
		return 0;

err_ep:
	close_ep(rdm);
err_mr:
	FERRYI_OFI_CLOSE(rdm->mr);
err_info:
	fi_freeinfo(rdm->info);
err_free:
	tenant->rdm = NULL;
	free(rdm);
	return rc;
}

void ferryi_ofi_rdm_close(struct ferryi_ofi_tenant *tenant)
{
	struct ferryi_ofi_worker *worker = tenant->rdm->worker;
	struct ferryi_ofi_rdm *rdm = tenant->rdm;

	ferryi_ofi_worker_lock(worker);
	ferryi_ofi_worker_del_locked(&tenant->source);
	close_ep(rdm);
	ferryi_ofi_worker_unlock(worker);
	ferryi_uncount(&tenant->base.listener->stats.g_connections, rdm->nclients);
	FERRYI_OFI_CLOSE(rdm->mr);
	fi_freeinfo(rdm->info);
	tenant->rdm = NULL;
	free(rdm);
}

void ferryi_ofi_rdm_quiesce(struct ferryi_ofi_tenant *tenant)
{
	struct ferryi_ofi_worker *worker = tenant->rdm->worker;
	struct ferryi_ofi_rdm *rdm = tenant->rdm;

	if (!rdm->is_emulated)
		return;
	ferryi_ofi_worker_lock(worker);
	ferryi_ofi_worker_del_locked(&tenant->source);
	close_ep(rdm);
	/* ofi_rxm leaves pointers to a closed endpoint in its queue's wait object, so the queue goes with it.
	 */
	FERRYI_OFI_CLOSE(tenant->cq);
	/* Should this fail, nobody reaches the tenant any more: safe, and its session finds out by its
	 * deadlines. */
	if (ferryi_ofi_home_open_cq(tenant) || open_ep(tenant) ||
	    ferryi_ofi_worker_add_locked(worker, &tenant->source))
		ferryi_error("%s: data endpoint lost; the session has to attach again", tenant->base.label);
	ferryi_uncount(&tenant->base.listener->stats.g_connections, rdm->nclients);
	rdm->nclients = 0;
	ferryi_ofi_worker_unlock(worker);
}

struct fid_ep *ferryi_ofi_rdm_ep(struct ferryi_ofi_tenant *tenant)
{
	return tenant->rdm ? tenant->rdm->ep : NULL;
}

int ferryi_ofi_rdm_addr(struct ferryi_ofi_tenant *tenant, char *buf, size_t buf_len)
{
	const char *host = tenant->base.listener->host;
	struct ferryi_ofi_rdm *rdm = tenant->rdm;
	const char *provider = rdm->info->fabric_attr->prov_name;
	const uint8_t *raw = rdm->info->src_addr;
	bool is_v6 = strchr(host, ':') && host[0] != '[';
	size_t used = 1;
	int len;

	if (rdm->port[0]) {
		len = snprintf(buf, buf_len, "%s%s%s:%s/%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "",
			       rdm->port, provider);
		return len < 0 || (size_t)len >= buf_len ? -ENOSPC : 0;
	}
	if (buf_len < 2 * rdm->info->src_addrlen + strlen(provider) + 3)
		return -ENOSPC;
	buf[0] = '#';
	for (size_t i = 0; i < rdm->info->src_addrlen; i++)
		used += (size_t)snprintf(buf + used, buf_len - used, "%02x", raw[i]);
	snprintf(buf + used, buf_len - used, "/%s", provider);
	return 0;
}

/* ---- greetings ---- */

static bool token_is_right(const struct ferryi_ofi_tenant *tenant, const uint8_t *token)
{
	volatile uint8_t diff = 0;

	for (unsigned i = 0; i < FERRYI_TOKEN_LEN; i++)
		diff = (uint8_t)(diff | (tenant->base.token[i] ^ token[i]));
	return !diff;
}

static void answer(struct ferryi_ofi_tenant *tenant, const struct ferryi_ofi_greeting *greeting,
		   bool is_right)
{
	struct ferryi_ofi_rdm *rdm = tenant->rdm;
	struct send_slot *slot = NULL;

	for (int i = 0; i < NSENDS && !slot; i++)
		if (!rdm->sends[i].is_used)
			slot = &rdm->sends[i];
	/* Without a slot the client asks again, or times out: that many greetings at once are not ours. */
	if (!slot || fi_av_insert(rdm->av, greeting->name, 1, &slot->to, 0, NULL) != 1)
		return;
	memcpy(slot->answer.magic, is_right ? FERRYI_OFI_MAGIC : FERRYI_OFI_REFUSE,
	       sizeof(slot->answer.magic));
	slot->is_used = slot->is_pending = true;
	slot->give_up_ns = ferryi_now_ns() + ANSWER_NS;
	rdm->npending++;
}

/* While ofi_rxm connects back to a client, the provider says "again". */
static void send_pending(struct ferryi_ofi_tenant *tenant)
{
	struct ferryi_ofi_rdm *rdm = tenant->rdm;

	for (int i = 0; i < NSENDS && rdm->npending; i++) {
		struct send_slot *slot = &rdm->sends[i];
		ssize_t rc;

		if (!slot->is_pending)
			continue;
		rc = fi_send(rdm->ep, &slot->answer, sizeof(slot->answer), rdm->desc, slot->to, &slot->ctx);
		if (rc == -FI_EAGAIN && ferryi_now_ns() < slot->give_up_ns)
			continue;
		if (rc) {
			ferryi_info("%s: cannot answer a client's greeting: %s", tenant->base.label,
				    fi_strerror((int)-rc));
			slot->is_used = false;
		}
		slot->is_pending = false;
		rdm->npending--;
	}
}

static void handle_greeting(struct ferryi_ofi_tenant *tenant, const struct ferryi_ofi_greeting *greeting,
			    size_t len)
{
	struct ferryi_listener *listener = tenant->base.listener;
	struct ferryi_ofi_rdm *rdm = tenant->rdm;
	bool is_right;

	if (len < sizeof(greeting->hello) ||
	    memcmp(greeting->hello.magic, FERRYI_OFI_MAGIC, sizeof(greeting->hello.magic)))
		return;
	is_right = token_is_right(tenant, greeting->hello.token);
	if (greeting->hello.purpose == FERRYI_OFI_BYE) {
		if (is_right && rdm->nclients) {
			rdm->nclients--;
			ferryi_uncount(&listener->stats.g_connections, 1);
		}
		return;
	}
	if (greeting->hello.purpose != FERRYI_OFI_DATA || len < sizeof(*greeting) ||
	    greeting->name_len > sizeof(greeting->name) || greeting->name_len < sizeof(sa_family_t))
		return;
	if (is_right) {
		rdm->nclients++;
		ferryi_count(&listener->stats.c_connections_total, 1);
		ferryi_count(&listener->stats.g_connections, 1);
	} else {
		ferryi_count(&listener->stats.c_refused_total, 1);
		ferryi_warn("%s: data connection refused: its token belongs to no session",
			    tenant->base.label);
	}
	answer(tenant, greeting, is_right);
}

static void handle_completion(struct ferryi_ofi_tenant *tenant, void *context, size_t len, bool is_error)
{
	struct ferryi_ofi_rdm *rdm = tenant->rdm;

	for (int i = 0; i < NRECVS; i++) {
		struct recv_slot *slot = &rdm->recvs[i];

		if (context == &slot->ctx && slot->is_posted) {
			slot->is_posted = false;
			if (!is_error)
				handle_greeting(tenant, &slot->greeting, len);
			explicit_bzero(&slot->greeting, sizeof(slot->greeting));
		}
	}
	for (int i = 0; i < NSENDS; i++) {
		struct send_slot *slot = &rdm->sends[i];

		if (context == &slot->ctx && slot->is_used)
			slot->is_used = false;
	}
	post_recvs(rdm);
}

bool ferryi_ofi_rdm_drive(struct ferryi_ofi_source *source)
{
	struct ferryi_ofi_tenant *tenant =
		(struct ferryi_ofi_tenant *)((char *)source - offsetof(struct ferryi_ofi_tenant, source));
	struct fid *fids[1] = {&tenant->cq->fid};

	for (int i = 0; i < READS_A_TURN; i++) {
		struct fi_cq_msg_entry entries[8];
		ssize_t n = fi_cq_read(tenant->cq, entries, 8);

		for (ssize_t k = 0; k < n; k++)
			if (entries[k].op_context)
				handle_completion(tenant, entries[k].op_context, entries[k].len, false);
		if (n == -FI_EAVAIL) {
			struct fi_cq_err_entry err = {0};

			if (fi_cq_readerr(tenant->cq, &err, 0) > 0 && err.op_context)
				handle_completion(tenant, err.op_context, 0, true);
		}
		if (tenant->rdm->npending)
			send_pending(tenant);
		if (source->fd < 0 || tenant->rdm->npending)
			break;
		if (!fi_trywait(listener_of(tenant)->fabric, fids, 1))
			return false;
	}
	return source->fd >= 0 || tenant->rdm->npending;
}
