/* What the operator asks of a pool: parsing and checks. Pure but for _fits. See pool.h. */
#include "pool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "arith.h"
#include "backing.h"
#include "memory.h"
#include "param.h"

#define POOL_SIZE_MAX (1ULL << 50) /* 1 PiB: catches a wrong unit, and keeps every sum in 64 bits */
#define HUGE_2M	      (2ULL << 20)

enum { KEY_NAME, KEY_SIZE, KEY_TYPE, KEY_NUMA, KEY_HUGEPAGES, KEY_BACKING, KEY_RESERVE, KEY_FILE, NKEYS };

static const char *const key_names[NKEYS] = {
	[KEY_NAME] = "name",	   [KEY_SIZE] = "size",		  [KEY_TYPE] = "type",
	[KEY_NUMA] = "numa",	   [KEY_HUGEPAGES] = "hugepages", [KEY_BACKING] = "backing",
	[KEY_RESERVE] = "reserve", [KEY_FILE] = "file",
};

void ferryi_pool_spec_init(struct ferryi_pool_spec *spec)
{
	*spec = (struct ferryi_pool_spec){.numa_node = -1, .reserve = true};
}

static int bad(char *err, size_t err_len, const struct ferryi_pool_spec *spec, const char *key,
	       const char *value, const char *want)
{
	snprintf(err, err_len, "pool %s: %s=%s: %s", spec->name[0] ? spec->name : "(unnamed)", key, value,
		 want);
	return -EINVAL;
}

static int set_name(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	size_t n = strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	if (n == 0 || n >= sizeof(spec->name) || value[n])
		return bad(err, err_len, spec, "name", value,
			   "1 to 63 letters, digits, '.', '_' or '-' are wanted");
	memcpy(spec->name, value, n + 1);
	return 0;
}

static int set_size(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	uint64_t size;

	if (ferryi_parse_size(value, &size))
		return bad(err, err_len, spec, "size", value,
			   "a number with an optional K, M, G or T is wanted, as in size=4G");
	if (!size || !ferryi_is_aligned(size, FERRYI_SUBSECTION_SIZE)) {
		char down[16], up[16];
		char want[128];
		uint64_t below = ferryi_align_down(size, FERRYI_SUBSECTION_SIZE);

		/* The nearest sizes that would do, as a user would write them. */
		snprintf(want, sizeof(want), "not a multiple of 2M; %s%s%s would be",
			 below ? ferryi_format_size(below, down, sizeof(down)) : "", below ? " or " : "",
			 ferryi_format_size(below + FERRYI_SUBSECTION_SIZE, up, sizeof(up)));
		return bad(err, err_len, spec, "size", value, want);
	}
	if (size > POOL_SIZE_MAX)
		return bad(err, err_len, spec, "size", value, "more than 1024T");
	spec->size_bytes = size;
	return 0;
}

static int set_type(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	static const char *const later[] = {"coherent", "fs-dax", "generic", "p2pdma"};

	if (strcmp(value, "private") == 0)
		return 0;
	for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
		if (strcmp(value, later[i]) == 0) {
			snprintf(err, err_len, "pool %s: type=%s is not built yet; only private is",
				 spec->name[0] ? spec->name : "(unnamed)", value);
			return -EINVAL;
		}
	}
	return bad(err, err_len, spec, "type", value, "no such type; private is the one that can be had");
}

static int set_yes_no(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	if (strcmp(value, "yes") == 0)
		spec->reserve = true;
	else if (strcmp(value, "no") == 0)
		spec->reserve = false;
	else
		return bad(err, err_len, spec, "reserve", value, "yes or no is wanted");
	return 0;
}

int ferryi_pool_spec_set(struct ferryi_pool_spec *spec, const char *key, const char *value, char *err,
			 size_t err_len)
{
	int k = 0;
	uint64_t number;

	while (k < NKEYS && strcmp(key, key_names[k]) != 0)
		k++;
	if (k == NKEYS) {
		snprintf(err, err_len,
			 "pool: unknown key '%s'; there are name, size, type, numa, hugepages, backing and "
			 "reserve",
			 key);
		return -EINVAL;
	}
	if (!value || !*value) {
		snprintf(err, err_len, "pool: '%s' has no value; write %s=VALUE", key, key);
		return -EINVAL;
	}
	if (spec->given & (1u << k)) {
		snprintf(err, err_len, "pool: '%s' is given twice", key);
		return -EINVAL;
	}
	spec->given |= 1u << k;

	switch (k) {
	case KEY_NAME:
		return set_name(spec, value, err, err_len);
	case KEY_SIZE:
		return set_size(spec, value, err, err_len);
	case KEY_TYPE:
		return set_type(spec, value, err, err_len);
	case KEY_NUMA:
		if (ferryi_parse_u64(value, &number) || number > 1023)
			return bad(err, err_len, spec, key, value, "a node number, 0 to 1023, is wanted");
		spec->numa_node = (int)number;
		return 0;
	case KEY_HUGEPAGES:
		if (ferryi_parse_size(value, &number) || number != HUGE_2M)
			return bad(err, err_len, spec, key, value,
				   "2M is the only huge page size that can be used");
		spec->huge_page_bytes = number;
		return 0;
	case KEY_BACKING:
		spec->backing = ferryi_backing_find(value);
		return spec->backing ? 0 : bad(err, err_len, spec, key, value, "anon or memfd is wanted");
	case KEY_RESERVE:
		return set_yes_no(spec, value, err, err_len);
	default:
		return bad(err, err_len, spec, key, value,
			   "pools in files are not built yet; backing=anon and memfd are");
	}
}

static int set_one(void *ctx, const char *key, const char *value, char *err, size_t err_len)
{
	return ferryi_pool_spec_set(ctx, key, value, err, err_len);
}

int ferryi_pool_spec_parse(struct ferryi_pool_spec *spec, const char *text, char *err, size_t err_len)
{
	int rc;

	ferryi_pool_spec_init(spec);
	rc = ferryi_keyvals_parse(text, set_one, spec, err, err_len);
	return rc ? rc : ferryi_pool_spec_check(spec, err, err_len);
}

int ferryi_pool_spec_check(const struct ferryi_pool_spec *spec, char *err, size_t err_len)
{
	if (!spec->name[0]) {
		snprintf(err, err_len, "pool: name is missing; write name=NAME,size=SIZE");
		return -EINVAL;
	}
	if (!spec->size_bytes) {
		snprintf(err, err_len, "pool %s: size is missing; write size=SIZE, as in size=4G",
			 spec->name);
		return -EINVAL;
	}
	return 0;
}

int ferryi_pool_spec_resolve(struct ferryi_pool_spec *spec, bool local_served, bool local_named, char *err,
			     size_t err_len)
{
	bool huge = spec->huge_page_bytes != 0;

	if (!spec->backing)
		spec->backing =
			local_served && (!huge || local_named) ? &ferryi_backing_memfd : &ferryi_backing_anon;
	if (huge && spec->backing->gives_fd) {
		snprintf(err, err_len,
			 "pool %s: huge pages cannot be lent to clients of the same host; leave hugepages "
			 "out, or serve "
			 "other fabrics (--fabric tcp,verbs) with backing=anon",
			 spec->name);
		return -EINVAL;
	}
	return 0;
}

int ferryi_pool_spec_fits(const struct ferryi_pool_spec *spec, uint64_t taken_bytes, char *err,
			  size_t err_len)
{
	char fits_text[16], size_text[16];
	const char *what;
	uint64_t fits;

	if (!spec->reserve)
		return 0;
	if (spec->huge_page_bytes) {
		uint64_t have = ferryi_memory_free_huge_pages(spec->numa_node, spec->huge_page_bytes);
		uint64_t want = (taken_bytes + spec->size_bytes) / spec->huge_page_bytes;

		if (have >= want)
			return 0;
		snprintf(err, err_len,
			 "pool %s: %" PRIu64 " huge pages of 2M are wanted and %" PRIu64
			 " are free; reserve them with 'sysctl vm.nr_hugepages=%" PRIu64 "'",
			 spec->name, want, have, want);
		return -ENOMEM;
	}
	fits = ferryi_memory_fits(spec->numa_node, &what);
	fits -= ferryi_min_u64(fits, taken_bytes);
	if (spec->size_bytes <= fits)
		return 0;
	snprintf(err, err_len,
		 "pool %s: size=%s does not fit in memory: %" PRIu64 " bytes (%s) would, bound by %s",
		 spec->name, ferryi_format_size(spec->size_bytes, size_text, sizeof(size_text)), fits,
		 ferryi_format_size(fits, fits_text, sizeof(fits_text)), what);
	return -ENOMEM;
}
