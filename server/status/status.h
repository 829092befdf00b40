/*
 * The server's counters and gauges. Any thread counts; reading is a walk over
 * the tables.
 */
#ifndef FERRYI_SERVER_STATUS_H
#define FERRYI_SERVER_STATUS_H

#include <stdbool.h>

#include "counter.h"
#include "fabric.h"

struct ferryi_status {
	ferryi_counter_t c_connections_total;
	ferryi_counter_t g_connections;
	ferryi_counter_t c_sessions_total;
	ferryi_counter_t g_sessions;
	ferryi_counter_t g_leases;
	ferryi_counter_t g_extents;
	ferryi_counter_t g_leased_bytes;
	ferryi_counter_t c_requests_total;
	ferryi_counter_t c_auth_failures_total;
	ferryi_counter_t c_protocol_errors_total;
	ferryi_counter_t c_handshake_timeouts_total;
	ferryi_counter_t c_keepalives_missed_total;
	ferryi_counter_t c_slow_readers_total;
	ferryi_counter_t c_grants_total;
	ferryi_counter_t c_grants_refused_total;
	ferryi_counter_t c_grant_ns_total;
	ferryi_counter_t c_registrations_total;
	ferryi_counter_t c_registration_ns_total;
	ferryi_counter_t c_revocations_total;
	ferryi_counter_t c_revocation_ns_total;
	ferryi_counter_t c_memory_failures_total;
	ferryi_counter_t g_exports;
	ferryi_counter_t g_views;
	ferryi_counter_t c_view_accesses_total;
	ferryi_counter_t c_view_extents_total;
};

/* Called once for each figure; name and text live during the call only. */
typedef void ferryi_status_visit(void *ctx, const char *name, uint64_t value, bool gauge, const char *text);

void ferryi_status_each(const struct ferryi_status *status, ferryi_status_visit *visit, void *ctx);
/* The same for one fabric's listener; names get "ROW." in front. */
void ferryi_status_each_fabric(const char *row, const struct ferryi_listener_stats *stats,
			       ferryi_status_visit *visit, void *ctx);

#endif
