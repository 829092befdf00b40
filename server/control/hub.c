/* What all sessions share. See hub.h. */
#include "hub.h"

#include <stdio.h>
#include <string.h>

int ferryi_hub_init(struct ferryi_hub *hub, const struct ferryi_hub_limits *limits)
{
	static const struct ferryi_quotas unlimited;
	uint8_t id[(FERRYI_SERVER_ID_LEN - 1) / 2];
	int rc;

	memset(hub, 0, sizeof(*hub));
	hub->limits = *limits;
	ferryi_users_limit(&hub->users, &unlimited);
	hub->next_session_id = 1;
	hub->next_id = 1;
	rc = ferryi_random(id, sizeof(id));
	if (rc)
		return rc;
	for (size_t i = 0; i < sizeof(id); i++)
		snprintf(&hub->server_id[2 * i], 3, "%02x", id[i]);
	ferryi_host_identity(hub->host, sizeof(hub->host));
	return 0;
}

struct ferryi_pool *ferryi_hub_pool(const struct ferryi_hub *hub, const char *name, const char *type)
{
	for (unsigned i = 0; i < hub->npools; i++) {
		const struct ferryi_pool_spec *spec = ferryi_pool_spec(hub->pools[i]);

		if ((!name[0] || strcmp(spec->name, name) == 0) &&
		    (!type[0] || strcmp(ferryi_pool_type_name(spec->type), type) == 0))
			return hub->pools[i];
	}
	return NULL;
}

struct ferryi_hub_fabric *ferryi_hub_fabric(struct ferryi_hub *hub, const char *name)
{
	const struct ferryi_fabric_row *row = ferryi_fabric_find(name);

	for (unsigned i = 0; row && i < hub->nfabrics; i++) {
		if (hub->fabrics[i].row == row)
			return &hub->fabrics[i];
	}
	return NULL;
}

uint64_t ferryi_hub_booked(const struct ferryi_hub *hub, const char *scope)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < hub->npools; i++)
		bytes += ferryi_pool_booked(hub->pools[i], scope);
	return bytes;
}

static void append(char *buf, size_t buf_len, const char *word)
{
	size_t at = strlen(buf);

	snprintf(buf + at, buf_len - at, "%s%s", at ? ", " : "", word);
}

const char *ferryi_hub_pool_names(const struct ferryi_hub *hub, char *buf, size_t buf_len)
{
	buf[0] = '\0';
	for (unsigned i = 0; i < hub->npools; i++) {
		const struct ferryi_pool_spec *spec = ferryi_pool_spec(hub->pools[i]);
		char word[96];

		if (spec->type == FERRYI_POOL_PRIVATE)
			snprintf(word, sizeof(word), "%s", spec->name);
		else
			snprintf(word, sizeof(word), "%s (%s)", spec->name,
				 ferryi_pool_type_name(spec->type));
		append(buf, buf_len, word);
	}
	return buf;
}

const char *ferryi_hub_fabric_names(const struct ferryi_hub *hub, char *buf, size_t buf_len)
{
	buf[0] = '\0';
	for (unsigned i = 0; i < hub->nfabrics; i++)
		append(buf, buf_len, hub->fabrics[i].row->name);
	return buf;
}
