/* What a session holds, charged to its user. See grants_priv.h. */
#include "grants_priv.h"

#include <errno.h>

static int refuse(struct refusal *why, const char *text)
{
	return ferryi_grants_refuse(why, FARFERRY__CODE__CODE_LIMIT, "%s", text);
}

int ferryi_grants_lease_charge(struct ferryi_grants *grants, struct refusal *why)
{
	char text[256];

	if (grants->nleases >= grants->hub->limits.leases)
		return ferryi_grants_refuse(
			why, FARFERRY__CODE__CODE_LIMIT,
			"this session holds %zu leases already, the limit (--max-leases) of this server",
			grants->nleases);
	if (ferryi_user_charge(grants->user, FERRYI_QUOTA_LEASES, 1, 0, text, sizeof(text)))
		return refuse(why, text);
	grants->nleases++;
	ferryi_count(&grants->hub->status.g_leases, 1);
	return 0;
}

void ferryi_grants_lease_refund(struct ferryi_grants *grants)
{
	ferryi_uncount(&grants->hub->status.g_leases, 1);
	grants->nleases--;
	ferryi_user_refund(grants->user, FERRYI_QUOTA_LEASES, 1);
}

uint64_t ferryi_grants_booked(struct ferryi_grants *grants)
{
	uint64_t booked = ferryi_hub_booked(grants->hub, grants->user->scope);

	atomic_store(&grants->user->booked, booked);
	return booked;
}

int ferryi_grants_bytes_charge(struct ferryi_grants *grants, uint64_t bytes, struct refusal *why)
{
	char text[256];

	if (ferryi_user_charge(grants->user, FERRYI_QUOTA_BYTES, bytes, ferryi_grants_booked(grants), text,
			       sizeof(text)))
		return refuse(why, text);
	return 0;
}

void ferryi_grants_bytes_settle(struct ferryi_grants *grants, struct ferryi_pool_extent *list)
{
	for (; list; list = list->next)
		list->payer = &grants->user->payer;
}

void ferryi_grants_bytes_held(struct ferryi_grants *grants, struct ferryi_pool_extent *list)
{
	for (; list; list = list->next) {
		if (list->payer)
			continue;
		ferryi_user_charge_always(grants->user, FERRYI_QUOTA_BYTES, list->memory.len_bytes);
		list->payer = &grants->user->payer;
	}
}
