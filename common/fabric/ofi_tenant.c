/*
 * A tenant over libfabric: its own domain (so that no key of another tenant
 * means anything on its connections), one completion queue for all of its
 * endpoints, and its regions. Called from any server thread; endpoints and
 * progress meet under the worker's lock.
 */
#include "ofi.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

/* Events at the target are rare (nothing is posted there); for rdm, hellos in and answers out. */
#define CQ_SIZE 512
/* Requests that the provider has buffered itself are served in turns of this many reads of the queue. */
#define READS_A_TURN 4

static struct ferryi_ofi_listener *listener_of(struct ferryi_ofi_tenant *tenant)
{
	return (struct ferryi_ofi_listener *)tenant->base.listener;
}

/* Reading the queue is what makes tcp serve requests. */
static bool drive_msg(struct ferryi_ofi_source *source)
{
	struct ferryi_ofi_tenant *home =
		(struct ferryi_ofi_tenant *)((char *)source - offsetof(struct ferryi_ofi_tenant, source));
	struct fid *fids[1] = {&home->cq->fid};

	for (int i = 0; i < READS_A_TURN; i++) {
		struct fi_cq_msg_entry entries[8];
		ssize_t n = fi_cq_read(home->cq, entries, 8);

		if (n == -FI_EAVAIL) {
			struct fi_cq_err_entry err = {0};

			(void)fi_cq_readerr(home->cq, &err, 0);
		}
		if (!fi_trywait(listener_of(home)->fabric, fids, 1))
			return false;
	}
	return true;
}

int ferryi_ofi_home_open_cq(struct ferryi_ofi_tenant *home)
{
	struct fi_cq_attr attr = {.size = CQ_SIZE, .format = FI_CQ_FORMAT_MSG, .wait_obj = FI_WAIT_FD};
	int rc = fi_cq_open(home->domain, &attr, &home->cq, NULL);

	if (rc == -FI_ENOSYS) {
		attr.wait_obj = FI_WAIT_NONE;
		rc = fi_cq_open(home->domain, &attr, &home->cq, NULL);
	}
	if (rc)
		return ferryi_ofi_log(home->base.listener->label, "open completion queue", rc);
	home->source.fd = attr.wait_obj == FI_WAIT_FD ? ferryi_ofi_wait_fd(&home->cq->fid) : -1;
	return 0;
}

int ferryi_ofi_home_open(struct ferryi_ofi_listener *listener, struct ferryi_ofi_tenant *home)
{
	struct ferryi_ofi_worker *worker = ferryi_ofi_worker_pick(listener->workers, listener->nworkers);
	int rc;

	home->base.listener = &listener->base;
	home->info = listener->info;
	home->source.fd = -1;
	home->source.drive = listener->kind->ep_type == FI_EP_RDM ? ferryi_ofi_rdm_drive : drive_msg;
	rc = fi_domain(listener->fabric, home->info, &home->domain, NULL);
	if (rc)
		return ferryi_ofi_log(listener->base.label, "open domain", rc);
	rc = ferryi_ofi_home_open_cq(home);
	if (rc)
		goto err_domain;
	if (worker && listener->kind->ep_type == FI_EP_MSG) {
		ferryi_ofi_worker_lock(worker);
		rc = ferryi_ofi_worker_add_locked(worker, &home->source);
		ferryi_ofi_worker_unlock(worker);
		if (rc)
			goto err_cq;
	}
	return 0;

err_cq:
	FERRYI_OFI_CLOSE(home->cq);
err_domain:
	FERRYI_OFI_CLOSE(home->domain);
	return rc;
}

void ferryi_ofi_home_close(struct ferryi_ofi_tenant *home)
{
	struct ferryi_ofi_worker *worker = home->source.worker;

	if (worker) {
		ferryi_ofi_worker_lock(worker);
		ferryi_ofi_worker_del_locked(&home->source);
		ferryi_ofi_worker_unlock(worker);
	}
	FERRYI_OFI_CLOSE(home->cq);
	FERRYI_OFI_CLOSE(home->domain);
}

int ferryi_ofi_tenant_open(struct ferryi_tenant *base)
{
	struct ferryi_ofi_tenant *tenant = (struct ferryi_ofi_tenant *)base;
	int rc;

	rc = ferryi_ofi_home_open((struct ferryi_ofi_listener *)base->listener, tenant);
	if (rc)
		return rc;
	if (listener_of(tenant)->kind->ep_type == FI_EP_RDM) {
		rc = ferryi_ofi_rdm_open(tenant);
		if (rc)
			ferryi_ofi_home_close(tenant);
	}
	return rc;
}

void ferryi_ofi_tenant_shutdown(struct ferryi_tenant *base)
{
	struct ferryi_ofi_tenant *tenant = (struct ferryi_ofi_tenant *)base;

	if (tenant->rdm)
		ferryi_ofi_rdm_close(tenant);
	else
		ferryi_ofi_listener_drop(listener_of(tenant), tenant, true);
}

void ferryi_ofi_tenant_close(struct ferryi_tenant *base)
{
	ferryi_ofi_home_close((struct ferryi_ofi_tenant *)base);
}

int ferryi_ofi_tenant_addr(struct ferryi_tenant *base, char *buf, size_t buf_len)
{
	struct ferryi_ofi_tenant *tenant = (struct ferryi_ofi_tenant *)base;
	const char *host = base->listener->host;
	bool is_v6 = strchr(host, ':') && host[0] != '[';
	int len;

	if (listener_of(tenant)->kind->ep_type == FI_EP_RDM)
		return ferryi_ofi_rdm_addr(tenant, buf, buf_len);
	len = snprintf(buf, buf_len, "%s%s%s:%s", is_v6 ? "[" : "", host, is_v6 ? "]" : "",
		       listener_of(tenant)->port);
	return len < 0 || (size_t)len >= buf_len ? -ENOSPC : 0;
}

/* ---- regions ---- */

int ferryi_ofi_region_open(struct ferryi_region *base)
{
	struct ferryi_ofi_tenant *tenant = (struct ferryi_ofi_tenant *)base->tenant;
	struct ferryi_ofi_region *region = (struct ferryi_ofi_region *)base;
	uint64_t access = 0;
	int rc;

	if (base->access & FERRYI_ACCESS_READ)
		access |= FI_REMOTE_READ;
	if (base->access & FERRYI_ACCESS_WRITE)
		access |= FI_REMOTE_WRITE;
	rc = ferryi_ofi_mr(base->tenant->label, tenant->info, tenant->domain, ferryi_ofi_rdm_ep(tenant),
			   base->memory.base, base->memory.len_bytes, access, true, &region->mr);
	if (rc)
		return rc;
	base->remote.key = fi_mr_key(region->mr);
	base->remote.addr = tenant->info->domain_attr->mr_mode & FI_MR_VIRT_ADDR
				    ? (uint64_t)(uintptr_t)base->memory.base
				    : 0;
	return 0;
}

void ferryi_ofi_region_revoke(struct ferryi_region *base)
{
	struct ferryi_ofi_tenant *tenant = (struct ferryi_ofi_tenant *)base->tenant;
	struct ferryi_ofi_region *region = (struct ferryi_ofi_region *)base;

	/* From here no new request finds the key. With verbs nothing is under way past this either. */
	FERRYI_OFI_CLOSE(region->mr);
	/* tcp answers that are queued already keep pointers into the memory until their endpoint is closed.
	 */
	if (tenant->rdm)
		ferryi_ofi_rdm_quiesce(tenant);
	else if (listener_of(tenant)->kind->target_cpu)
		ferryi_ofi_listener_drop(listener_of(tenant), tenant, false);
}
