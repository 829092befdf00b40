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

enum { KEY_NAME, KEY_SIZE, KEY_TYPE, KEY_NUMA, KEY_HUGEPAGES, KEY_BACKING, KEY_RESERVE, KEY_PATH, NKEYS };

static const char *const key_names[NKEYS] = {
	[KEY_NAME] = "name",	   [KEY_SIZE] = "size",		  [KEY_TYPE] = "type",
	[KEY_NUMA] = "numa",	   [KEY_HUGEPAGES] = "hugepages", [KEY_BACKING] = "backing",
	[KEY_RESERVE] = "reserve", [KEY_PATH] = "path",
};

void ferryi_pool_spec_init(struct ferryi_pool_spec *spec)
{
	*spec = (struct ferryi_pool_spec){.type = FERRYI_POOL_PRIVATE, .numa_node = -1, .reserve = true};
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

static const char *const type_names[] = {
	[FERRYI_POOL_PRIVATE] = "private", [FERRYI_POOL_COHERENT] = "coherent",
	[FERRYI_POOL_FS_DAX] = "fs_dax",   [FERRYI_POOL_GENERIC] = "generic",
	[FERRYI_POOL_P2PDMA] = "p2pdma",
};

const char *ferryi_pool_type_name(enum ferryi_pool_type type)
{
	return type_names[type];
}

static int set_type(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	for (int i = FERRYI_POOL_PRIVATE; i <= FERRYI_POOL_P2PDMA; i++) {
		if (strcmp(value, type_names[i]) == 0) {
			spec->type = (enum ferryi_pool_type)i;
			return 0;
		}
	}
	return bad(err, err_len, spec, "type", value, "no such type; there are private, coherent, fs_dax and generic");
}

static int set_path(struct ferryi_pool_spec *spec, const char *value, char *err, size_t err_len)
{
	if (value[0] != '/')
		return bad(err, err_len, spec, "path", value, "a path that begins with '/' is wanted");
	if (strlen(value) >= sizeof(spec->path))
		return bad(err, err_len, spec, "path", value, "longer than 1023 characters");
	strcpy(spec->path, value);
	return 0;
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

	if (strcmp(key, "file") == 0)
		key = "path";
	while (k < NKEYS && strcmp(key, key_names[k]) != 0)
		k++;
	if (k == NKEYS) {
		snprintf(err, err_len,
			 "pool: unknown key '%s'; there are name, size, type, path, numa, hugepages, backing "
			 "and reserve",
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
		return spec->backing && spec->backing != &ferryi_backing_file
			       ? 0
			       : bad(err, err_len, spec, key, value, "anon or memfd is wanted");
	case KEY_RESERVE:
		return set_yes_no(spec, value, err, err_len);
	default:
		return set_path(spec, value, err, err_len);
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

static bool is_given(const struct ferryi_pool_spec *spec, int key)
{
	return spec->given & (1u << key);
}

/* What the type needs, and what contradicts it. */
static int check_type(const struct ferryi_pool_spec *spec, char *err, size_t err_len)
{
	const char *type = type_names[spec->type];

	if (spec->type == FERRYI_POOL_COHERENT && spec->backing && !spec->backing->gives_fd)
		return bad(err, err_len, spec, "type", type,
			   "shared with clients of this host, so it is backing=memfd");
	if (spec->type == FERRYI_POOL_COHERENT && spec->huge_page_bytes)
		return bad(err, err_len, spec, "type", type, "of normal pages; leave hugepages out");
	if (spec->path[0] && spec->type != FERRYI_POOL_FS_DAX && spec->type != FERRYI_POOL_GENERIC)
		return bad(err, err_len, spec, "path", spec->path, "only for type=fs_dax and type=generic");
	if (spec->type == FERRYI_POOL_FS_DAX && !spec->path[0])
		return bad(err, err_len, spec, "type", type, "path is missing; write path=/DIR/FILE");
	if (spec->type == FERRYI_POOL_GENERIC && !spec->path[0] && !spec->huge_page_bytes)
		return bad(err, err_len, spec, "type", type,
			   "write path=/dev/daxX.Y, or hugepages=2M for huge pages of this machine");
	if (spec->path[0] && (is_given(spec, KEY_NUMA) || is_given(spec, KEY_HUGEPAGES) ||
			      is_given(spec, KEY_BACKING) || is_given(spec, KEY_RESERVE)))
		return bad(err, err_len, spec, "path", spec->path,
			   "the memory is the path's: leave out numa, hugepages, backing and reserve");
	if (spec->type == FERRYI_POOL_GENERIC && spec->backing && spec->backing->gives_fd)
		return bad(err, err_len, spec, "type", type, "huge pages are backing=anon");
	return 0;
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
	return check_type(spec, err, err_len);
}

int ferryi_pool_spec_resolve(struct ferryi_pool_spec *spec, bool local_served, bool local_named, char *err,
			     size_t err_len)
{
	bool huge = spec->huge_page_bytes != 0;

	if (spec->type == FERRYI_POOL_P2PDMA) {
		snprintf(err, err_len,
			 "pool %s: type=p2pdma: no device of this machine has memory that it lends to others "
			 "(peer-to-peer DMA)",
			 spec->name);
		return -ENXIO;
	}
	if (spec->type == FERRYI_POOL_COHERENT && !local_served) {
		snprintf(err, err_len,
			 "pool %s: type=coherent is for clients of this host; serve the local fabric too "
			 "(--fabric local)",
			 spec->name);
		return -EINVAL;
	}
	if (spec->path[0])
		spec->backing = &ferryi_backing_file;
	else if (spec->type == FERRYI_POOL_COHERENT)
		spec->backing = &ferryi_backing_memfd;
	else if (spec->type == FERRYI_POOL_GENERIC)
		spec->backing = &ferryi_backing_anon;
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

	if (spec->path[0])
		return ferryi_backing_file_check(spec, err, err_len);
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
