/* Entries in the device's own format: hmm_device_entry_*. Pure. */
#include <errno.h>

#include "error.h"
#include "peek.h"
#include "range.h"

#define PFN_BITS 41u /* FERRY_PFN_RAM and what is below it */

const uint64_t ferry_default_pfn_flags[FERRY_PFN_FLAG_MAX] = { 1u << 0, 1u << 1, 1u << 2 };
const uint64_t ferry_default_pfn_values[FERRY_PFN_VALUE_MAX] = { 1u << 3, 0, 1u << 4 };

int ferryi_entry_check_format(const struct ferry_range *range)
{
	const uint64_t *flags = range->flags, *values = range->values;
	uint64_t all = flags[FERRY_PFN_VALID] | flags[FERRY_PFN_WRITE] | flags[FERRY_PFN_DEVICE_PRIVATE];

	if (range->pfn_shift > 64 - PFN_BITS || all >> range->pfn_shift)
		return ferryi_control_fail(-EINVAL, "range_register: pfn_shift %u: flags must be below bit %u, and PFNs need %u bits",
					   range->pfn_shift, range->pfn_shift, PFN_BITS);
	for (unsigned i = 0; i < FERRY_PFN_FLAG_MAX; i++) {
		for (unsigned k = 0; k < i; k++) {
			if (flags[i] & flags[k])
				return ferryi_control_fail(-EINVAL, "range_register: two flags share a bit");
		}
		if (!flags[i])
			return ferryi_control_fail(-EINVAL, "range_register: a flag is 0");
	}
	if (values[FERRY_PFN_NONE] == values[FERRY_PFN_ERROR] || values[FERRY_PFN_NONE] == values[FERRY_PFN_SPECIAL])
		return ferryi_control_fail(-EINVAL, "range_register: the value for NONE is also that of ERROR or SPECIAL");
	for (unsigned i = 0; i < FERRY_PFN_VALUE_MAX; i++) {
		if (values[i] & flags[FERRY_PFN_VALID])
			return ferryi_control_fail(-EINVAL, "range_register: a value has the flag VALID");
	}
	return 0;
}

uint64_t ferryi_entry_make(const struct ferry_range *range, uint64_t pfn, bool write, bool device)
{
	return pfn << range->pfn_shift | range->flags[FERRY_PFN_VALID] | (write ? range->flags[FERRY_PFN_WRITE] : 0) |
	       (device ? range->flags[FERRY_PFN_DEVICE_PRIVATE] : 0);
}

uint64_t ferry_entry_to_pfn(const struct ferry_range *range, uint64_t entry)
{
	if (entry == range->values[FERRY_PFN_NONE] || entry == range->values[FERRY_PFN_ERROR] ||
	    entry == range->values[FERRY_PFN_SPECIAL] || !(entry & range->flags[FERRY_PFN_VALID]))
		return UINT64_MAX;
	return entry >> range->pfn_shift;
}

struct ferry_page *ferry_entry_to_page(const struct ferry_range *range, uint64_t entry)
{
	uint64_t pfn = ferry_entry_to_pfn(range, entry);

	if (pfn == UINT64_MAX || (pfn & FERRY_PFN_RAM) || !range->mirror)
		return NULL;
	return ferry_pfn_to_page(range->mirror->ferry, pfn);
}

uint64_t ferry_entry_from_pfn(const struct ferry_range *range, uint64_t pfn)
{
	bool coherent = range->mirror && ferryi_pager_is_coherent_pfn(ferryi_range_room(range)->pager, pfn);

	return ferryi_entry_make(range, pfn, false, !(pfn & FERRY_PFN_RAM) && !coherent);
}

uint64_t ferry_entry_from_page(const struct ferry_range *range, const struct ferry_page *page)
{
	return ferry_entry_from_pfn(range, ferry_page_to_pfn(range->mirror->ferry, page));
}
