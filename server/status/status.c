/* Tables of the server's figures. See status.h. */
#include "status.h"

#include <stdio.h>

#define COUNTER(member, text_)                                                         \
	{                                                                              \
#member, FERRYI_COUNTER, offsetof(struct ferryi_status, member), text_ \
	}
#define GAUGE(member, text_)                                                         \
	{                                                                            \
#member, FERRYI_GAUGE, offsetof(struct ferryi_status, member), text_ \
	}

static const struct ferryi_counter_desc server_table[] = {
	COUNTER(c_connections_total, "control connections accepted"),
	GAUGE(g_connections, "control connections open"),
	COUNTER(c_sessions_total, "sessions authenticated"),
	GAUGE(g_sessions, "sessions open, those being revoked included"),
	GAUGE(g_leases, "leases held"),
	GAUGE(g_extents, "extents held"),
	GAUGE(g_leased_bytes, "bytes held"),
	COUNTER(c_requests_total, "requests received, keep-alives included"),
	COUNTER(c_auth_failures_total, "connections refused for a wrong token or none"),
	COUNTER(c_protocol_errors_total, "connections closed for bytes that are no request"),
	COUNTER(c_handshake_timeouts_total, "connections closed for not authenticating in time"),
	COUNTER(c_keepalives_missed_total, "sessions revoked for silence"),
	COUNTER(c_slow_readers_total, "connections closed for not reading their replies"),
	COUNTER(c_grants_total, "attach and grow requests granted"),
	COUNTER(c_grants_refused_total, "attach and grow requests refused"),
	COUNTER(c_grant_ns_total, "time spent on granting, registration included"),
	COUNTER(c_registrations_total, "extents registered with a fabric"),
	COUNTER(c_registration_ns_total, "time spent on registering them"),
	COUNTER(c_revocations_total, "keys revoked"),
	COUNTER(c_revocation_ns_total, "time spent on revoking them"),
	COUNTER(c_memory_failures_total, "pages of this server's memory that have failed"),
	GAUGE(g_exports, "mirrors exported"),
	GAUGE(g_views, "views of them open"),
	COUNTER(c_view_accesses_total, "accesses passed on to exporters"),
	COUNTER(c_view_extents_total, "extents that views asked to read"),
	{.name = NULL},
};

#undef COUNTER
#undef GAUGE
#define COUNTER(member, text_)                                                                 \
	{                                                                                      \
#member, FERRYI_COUNTER, offsetof(struct ferryi_listener_stats, member), text_ \
	}
#define GAUGE(member, text_)                                                                 \
	{                                                                                    \
#member, FERRYI_GAUGE, offsetof(struct ferryi_listener_stats, member), text_ \
	}

static const struct ferryi_counter_desc fabric_table[] = {
	COUNTER(c_connections_total, "data connections accepted"),
	COUNTER(c_refused_total, "data connections with a wrong token"),
	GAUGE(g_connections, "data connections open"),
	COUNTER(c_registrations_total, "regions registered"),
	COUNTER(c_registration_ns_total, "time spent on registering them"),
	COUNTER(c_revocations_total, "regions revoked"),
	{.name = NULL},
};

static void each(const struct ferryi_counter_desc *table, const void *base, const char *prefix,
		 ferryi_status_visit *visit, void *ctx)
{
	for (; table->name; table++) {
		const ferryi_counter_t *c = (const ferryi_counter_t *)((const char *)base + table->offset);
		char name[64];

		snprintf(name, sizeof(name), "%s%s", prefix, table->name);
		visit(ctx, name, ferryi_counter_read(c), table->kind == FERRYI_GAUGE, table->text);
	}
}

void ferryi_status_each(const struct ferryi_status *status, ferryi_status_visit *visit, void *ctx)
{
	each(server_table, status, "", visit, ctx);
}

void ferryi_status_each_fabric(const char *row, const struct ferryi_listener_stats *stats,
			       ferryi_status_visit *visit, void *ctx)
{
	char prefix[24];

	snprintf(prefix, sizeof(prefix), "%s.", row);
	each(fabric_table, stats, prefix, visit, ctx);
}
