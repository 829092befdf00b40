/*
 * Server side, what holds on every row: argument checks, the lists of tenants
 * and regions, statistics. Any thread; listener->lock guards the lists and is
 * not held while a row works, so rows may take it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "fabric_ops.h"
#include "log.h"

int ferryi_listener_open(const struct ferryi_listener_attr *attr, struct ferryi_listener **out)
{
	struct ferryi_listener *listener;
	const char *host;
	int len, rc;

	if (!attr || !attr->row || !out)
		return -EINVAL;
	host = attr->host ? attr->host : "";
	if (!strcmp(host, "0.0.0.0") || !strcmp(host, "::") || !strcmp(host, "*"))
		host = "";
	listener = calloc(1, attr->row->ops->listener_size);
	if (!listener)
		return -ENOMEM;
	listener->row = attr->row;
	len = snprintf(listener->host, sizeof(listener->host), "%s", host);
	if (len < 0 || (size_t)len >= sizeof(listener->host)) {
		free(listener);
		return -EINVAL;
	}
	snprintf(listener->label, sizeof(listener->label), "%s", attr->label ? attr->label : attr->row->name);
	listener->spin_us = attr->spin_us;
	listener->threads = attr->threads ? attr->threads : 1;
	ferryi_mutex_init(&listener->lock, FERRYI_RANK_LISTENER);
	rc = attr->row->ops->listener_open(listener);
	if (rc) {
		ferryi_mutex_fini(&listener->lock);
		free(listener);
		return rc;
	}
	*out = listener;
	return 0;
}

void ferryi_listener_close(struct ferryi_listener **listenerp)
{
	struct ferryi_listener *listener = *listenerp;
	struct ferryi_tenant *tenant;

	if (!listener)
		return;
	*listenerp = NULL;
	while ((tenant = listener->tenants))
		ferryi_tenant_close(&tenant);
	listener->row->ops->listener_close(listener);
	ferryi_mutex_fini(&listener->lock);
	free(listener);
}

const struct ferryi_listener_stats *ferryi_listener_stats(const struct ferryi_listener *listener)
{
	return &listener->stats;
}

/* ---- tenants ---- */

struct ferryi_tenant *ferryi_listener_match_locked(struct ferryi_listener *listener,
						   const uint8_t token[FERRYI_TOKEN_LEN])
{
	struct ferryi_tenant *found = NULL;

	ferryi_assert_held(&listener->lock);
	for (struct ferryi_tenant *tenant = listener->tenants; tenant; tenant = tenant->next) {
		volatile uint8_t diff = 0;

		for (unsigned i = 0; i < FERRYI_TOKEN_LEN; i++)
			diff = (uint8_t)(diff | (tenant->token[i] ^ token[i]));
		if (!diff)
			found = tenant;
	}
	return found;
}

int ferryi_tenant_open(struct ferryi_listener *listener, const uint8_t token[FERRYI_TOKEN_LEN],
		       const char *label, struct ferryi_tenant **out)
{
	struct ferryi_tenant *tenant;
	int rc;

	tenant = calloc(1, listener->row->ops->tenant_size);
	if (!tenant)
		return -ENOMEM;
	tenant->listener = listener;
	memcpy(tenant->token, token, FERRYI_TOKEN_LEN);
	snprintf(tenant->label, sizeof(tenant->label), "%s", label ? label : "tenant");
	rc = listener->row->ops->tenant_open(tenant);
	if (rc) {
		explicit_bzero(tenant->token, sizeof(tenant->token));
		free(tenant);
		return rc;
	}
	ferryi_mutex_lock(&listener->lock);
	tenant->next = listener->tenants;
	tenant->pprev = &listener->tenants;
	if (tenant->next)
		tenant->next->pprev = &tenant->next;
	listener->tenants = tenant;
	ferryi_mutex_unlock(&listener->lock);
	*out = tenant;
	return 0;
}

void ferryi_tenant_close(struct ferryi_tenant **tenantp)
{
	struct ferryi_tenant *tenant = *tenantp;
	struct ferryi_listener *listener;
	struct ferryi_region *region;

	if (!tenant)
		return;
	*tenantp = NULL;
	listener = tenant->listener;
	/* From here no connection can join, so what shutdown closes stays closed. */
	ferryi_mutex_lock(&listener->lock);
	*tenant->pprev = tenant->next;
	if (tenant->next)
		tenant->next->pprev = tenant->pprev;
	tenant->pprev = NULL;
	ferryi_mutex_unlock(&listener->lock);

	if (listener->row->ops->tenant_shutdown)
		listener->row->ops->tenant_shutdown(tenant);
	while ((region = tenant->regions))
		ferryi_region_revoke(&region);
	listener->row->ops->tenant_close(tenant);
	explicit_bzero(tenant->token, sizeof(tenant->token));
	free(tenant);
}

int ferryi_tenant_addr(struct ferryi_tenant *tenant, char *buf, size_t buf_len)
{
	const struct ferryi_fabric_row *row = tenant->listener->row;
	int len = snprintf(buf, buf_len, "%s:", row->name);

	if (len < 0 || (size_t)len >= buf_len)
		return -ENOSPC;
	return row->ops->tenant_addr(tenant, buf + len, buf_len - (size_t)len);
}

/* ---- regions ---- */

static int region_check(const struct ferryi_tenant *tenant, const struct ferryi_memory *memory,
			unsigned access)
{
	if (!memory->base || !memory->len_bytes || (uintptr_t)memory->base > UINTPTR_MAX - memory->len_bytes)
		return -EINVAL;
	if (!access || (access & ~(FERRYI_ACCESS_READ | FERRYI_ACCESS_WRITE)))
		return -EINVAL;
	if ((tenant->listener->row->flags & FERRYI_FABRIC_SAME_HOST) && memory->fd < 0) {
		ferryi_error("%s: %s: this row lends memory by descriptor; back the pool with a memfd",
			     tenant->listener->label, tenant->label);
		return -EINVAL;
	}
	return 0;
}

int ferryi_region_open(struct ferryi_tenant *tenant, const struct ferryi_memory *memory, unsigned access,
		       struct ferryi_region **out)
{
	struct ferryi_listener *listener = tenant->listener;
	struct ferryi_region *region;
	uint64_t start_ns;
	int rc;

	rc = region_check(tenant, memory, access);
	if (rc)
		return rc;
	region = calloc(1, listener->row->ops->region_size);
	if (!region)
		return -ENOMEM;
	region->tenant = tenant;
	region->memory = *memory;
	region->access = access;
	region->remote.len_bytes = memory->len_bytes;
	start_ns = ferryi_now_ns();
	rc = listener->row->ops->region_open(region);
	if (rc) {
		free(region);
		return rc;
	}
	ferryi_count(&listener->stats.c_registrations_total, 1);
	ferryi_count(&listener->stats.c_registration_ns_total, ferryi_now_ns() - start_ns);
	ferryi_mutex_lock(&listener->lock);
	region->next = tenant->regions;
	region->pprev = &tenant->regions;
	if (region->next)
		region->next->pprev = &region->next;
	tenant->regions = region;
	ferryi_mutex_unlock(&listener->lock);
	*out = region;
	return 0;
}

void ferryi_region_remote(const struct ferryi_region *region, struct ferryi_remote *out)
{
	*out = region->remote;
}

void ferryi_region_revoke(struct ferryi_region **regionp)
{
	struct ferryi_region *region = *regionp;
	struct ferryi_listener *listener;

	if (!region)
		return;
	*regionp = NULL;
	listener = region->tenant->listener;
	ferryi_mutex_lock(&listener->lock);
	*region->pprev = region->next;
	if (region->next)
		region->next->pprev = region->pprev;
	ferryi_mutex_unlock(&listener->lock);
	listener->row->ops->region_revoke(region);
	ferryi_count(&listener->stats.c_revocations_total, 1);
	free(region);
}
