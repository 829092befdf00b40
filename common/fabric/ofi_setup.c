/*
 * What libfabric's rows ask of a provider, how provider errors become ours, and
 * registration. Start-up and control paths only; any thread.
 */
#include "ofi.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "arith.h"
#include "log.h"

static const struct ferryi_ofi_kind kinds[] = {
	{"verbs", "verbs", FI_EP_MSG, false},
	{"tcp", "tcp", FI_EP_MSG, true},
	{"rdm", NULL, FI_EP_RDM, true},
};

/* Providers for the rdm row in order of preference. Only the last is tested; `shm` checks no key and never is
 * one. */
static const char *const rdm_providers[] = {"cxi", "psm3", "opx", "efa", "tcp;ofi_rxm"};

const struct ferryi_ofi_kind *ferryi_ofi_kind_of(const struct ferryi_fabric_row *row)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].row, row->name))
			return &kinds[i];
	return NULL;
}

static struct fi_info *make_hints(const struct ferryi_ofi_kind *kind, const char *provider, bool single_owner)
{
	struct fi_info *hints = fi_allocinfo();

	if (!hints)
		return NULL;
	hints->ep_attr->type = kind->ep_type;
	hints->caps = FI_MSG | FI_RMA;
	/* Modes we can live with; the answer keeps those that it needs. */
	hints->mode = FI_CONTEXT | FI_CONTEXT2 | FI_RX_CQ_DATA;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_VIRT_ADDR | FI_MR_ALLOCATED | FI_MR_PROV_KEY;
	if (kind->ep_type == FI_EP_RDM)
		hints->domain_attr->mr_mode |= FI_MR_ENDPOINT;
	hints->domain_attr->threading = single_owner ? FI_THREAD_DOMAIN : FI_THREAD_SAFE;
	if (kind->ep_type == FI_EP_RDM)
		hints->domain_attr->data_progress = FI_PROGRESS_MANUAL;
	hints->addr_format = FI_FORMAT_UNSPEC;
	hints->fabric_attr->prov_name = strdup(provider);
	if (!hints->fabric_attr->prov_name) {
		fi_freeinfo(hints);
		return NULL;
	}
	return hints;
}

static int get_info(const struct ferryi_ofi_kind *kind, const char *provider, const char *host,
		    const char *port, bool source, bool single_owner, struct fi_info **out)
{
	struct fi_info *hints = make_hints(kind, provider, single_owner);
	int rc;

	if (!hints)
		return -FI_ENOMEM;
	rc = fi_getinfo(FERRYI_OFI_VERSION, host && host[0] ? host : NULL, port, source ? FI_SOURCE : 0,
			hints, out);
	fi_freeinfo(hints);
	return rc;
}

int ferryi_ofi_info(const struct ferryi_ofi_kind *kind, const char *provider, const char *host,
		    const char *port, bool source, bool single_owner, struct fi_info **out)
{
	int rc;

	ferryi_fabric_setup();
	if (!provider)
		provider = kind->provider;
	if (provider) {
		rc = get_info(kind, provider, host, port, source, single_owner, out);
	} else {
		rc = -FI_ENODATA;
		for (size_t i = 0; rc && i < sizeof(rdm_providers) / sizeof(rdm_providers[0]); i++)
			rc = get_info(kind, rdm_providers[i], host, port, source, single_owner, out);
	}
	if (!rc)
		return 0;
	ferryi_error("fabric %s: no device or provider %s \"%s\": %s", kind->row,
		     source ? "to listen on" : "reaches", host && host[0] ? host : "*", fi_strerror(-rc));
	if (rc == -FI_ENOMEM)
		return -ENOMEM;
	if (source)
		return host && host[0] ? -EADDRNOTAVAIL : -ENODEV;
	return -EHOSTUNREACH;
}

int ferryi_ofi_usable(const struct ferryi_ofi_kind *kind, char *why, size_t why_len)
{
	struct fi_info *info = NULL;
	int rc = -FI_ENODATA;

	ferryi_fabric_setup();
	if (kind->provider) {
		rc = get_info(kind, kind->provider, NULL, NULL, false, false, &info);
	} else {
		for (size_t i = 0; rc && i < sizeof(rdm_providers) / sizeof(rdm_providers[0]); i++)
			rc = get_info(kind, rdm_providers[i], NULL, NULL, false, false, &info);
	}
	if (rc) {
		snprintf(why, why_len,
			 "libfabric has no provider for \"%s\" here (%s); `fi_info -p %s` shows why",
			 kind->row, fi_strerror(-rc), kind->provider ? kind->provider : "tcp");
		return -ENODEV;
	}
	fi_freeinfo(info);
	return 0;
}

int ferryi_ofi_log(const char *label, const char *what, ssize_t rc)
{
	ferryi_error("%s: %s: %s", label, what, fi_strerror((int)-rc));
	/* libfabric's own codes (256 and up) mean nothing to a caller. */
	return rc > -256 ? (int)rc : -EIO;
}

int ferryi_ofi_wait_fd(struct fid *fid)
{
	int fd = -1, flags;

	if (fi_control(fid, FI_GETWAIT, &fd))
		return -1;
	flags = fcntl(fd, F_GETFD);
	if (flags >= 0)
		(void)fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
	return fd;
}

void ferryi_ofi_hello_fill(struct ferryi_ofi_hello *hello, enum ferryi_ofi_purpose purpose,
			   const uint8_t token[FERRYI_TOKEN_LEN])
{
	memset(hello, 0, sizeof(*hello));
	memcpy(hello->magic, FERRYI_OFI_MAGIC, sizeof(hello->magic));
	hello->purpose = (uint8_t)purpose;
	memcpy(hello->token, token, sizeof(hello->token));
}

static void log_registration(const char *label, size_t len, ssize_t rc)
{
	struct rlimit limit;
	char size[16], max[16];

	ferryi_format_size(len, size, sizeof(size));
	if (rc == -FI_ENOMEM && !getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur != RLIM_INFINITY) {
		ferryi_error("%s: cannot register %s: locked memory is limited to %s (ulimit -l); raise it "
			     "(LimitMEMLOCK=infinity in the unit, or memlock in /etc/security/limits.conf)",
			     label, size, ferryi_format_size(limit.rlim_cur, max, sizeof(max)));
		return;
	}
	ferryi_error("%s: cannot register %s: %s", label, size, fi_strerror((int)-rc));
}

int ferryi_ofi_mr(const char *label, const struct fi_info *info, struct fid_domain *domain, struct fid_ep *ep,
		  const void *base, size_t len, uint64_t access, bool remote, struct fid_mr **out)
{
	int mode = info->domain_attr->mr_mode;
	size_t key_size = info->domain_attr->mr_key_size;
	ssize_t rc = -FI_ENOKEY;

	/* Random keys may collide, if hardly ever. */
	for (int tries = 0; rc == -FI_ENOKEY && tries < 8; tries++) {
		uint64_t key = mode & FI_MR_PROV_KEY ? 0 : ferryi_random_key();

		if (key_size < sizeof(key))
			key &= (1ULL << (8 * key_size)) - 1;
		rc = fi_mr_reg(domain, base, len, access, 0, key, 0, out, NULL);
	}
	if (rc) {
		log_registration(label, len, rc);
		return rc == -FI_ENOMEM || rc == -FI_EAGAIN ? -ENOMEM : rc == -FI_EACCES ? -EACCES : -EINVAL;
	}
	if (remote && (mode & FI_MR_ENDPOINT)) {
		rc = fi_mr_bind(*out, &ep->fid, 0);
		if (!rc)
			rc = fi_mr_enable(*out);
		if (rc) {
			FERRYI_OFI_CLOSE(*out);
			return ferryi_ofi_log(label, "enable registration", rc);
		}
	}
	return 0;
}
