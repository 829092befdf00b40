/* The public calls of ranges: registered or not is checked here, client/mirror does the work. */
#include "range.h"

#include <errno.h>

#include "error.h"
#include "life.h"

static int check(const struct ferry_range *range, const char *call)
{
	if (!range || !ferryi_range_room(range))
		return ferryi_control_fail(-EINVAL, "%s: the range is not registered", call);
	return ferryi_ferry_check(ferryi_range_room(range)->ferry, call);
}

int ferry_range_register(struct ferry_range *range, struct ferry_mirror *mirror, uintptr_t start, uintptr_t end,
			 unsigned page_shift)
{
	if (!range || !mirror || !mirror->ferry)
		return ferryi_control_fail(-EINVAL, "range_register: no range, or its mirror is not registered");
	int rc = ferryi_ferry_check(mirror->ferry, "range_register");

	if (!rc && ferryi_range_room(range))
		rc = ferryi_control_fail(-EINVAL, "range_register: it is registered already (or not zeroed)");
	return rc ? rc : ferryi_range_register(&mirror->ferry->mirrors, range, mirror, start, end, page_shift);
}

void ferry_range_unregister(struct ferry_range *range)
{
	if (!check(range, "range_unregister"))
		ferryi_range_unregister(range);
}

bool ferry_range_valid(struct ferry_range *range)
{
	return !check(range, "range_valid") && ferryi_range_valid(range);
}

bool ferry_range_wait_until_valid(struct ferry_range *range, unsigned timeout_ms)
{
	return !check(range, "range_wait_until_valid") && ferryi_range_wait(range, timeout_ms);
}

uint64_t ferry_range_read_begin(struct ferry_range *range)
{
	return check(range, "range_read_begin") ? 0 : ferryi_range_read_begin(range);
}

bool ferry_range_read_retry(struct ferry_range *range, uint64_t seq)
{
	return check(range, "range_read_retry") || ferryi_range_read_retry(range, seq);
}

long ferry_range_snapshot(struct ferry_range *range)
{
	int rc = check(range, "range_snapshot");

	return rc ? rc : ferryi_range_snapshot(range);
}

long ferry_range_fault(struct ferry_range *range, bool block)
{
	int rc = check(range, "range_fault");

	return rc ? rc : ferryi_range_fault(range, block);
}

long ferry_range_rma_map(struct ferry_range *range, uintptr_t *addrs, bool block)
{
	int rc = check(range, "range_rma_map");

	if (!rc && !addrs)
		rc = ferryi_control_fail(-EINVAL, "range_rma_map: addrs is NULL");
	return rc ? rc : ferryi_range_rma_map(range, addrs, block);
}

long ferry_range_rma_unmap(struct ferry_range *range, uintptr_t *addrs, bool dirty)
{
	int rc = check(range, "range_rma_unmap");

	if (!rc && !addrs)
		rc = ferryi_control_fail(-EINVAL, "range_rma_unmap: addrs is NULL");
	return rc ? rc : ferryi_range_rma_unmap(range, addrs, dirty);
}

int ferry_vma_fault(struct ferry_range *range, bool block)
{
	if (!range)
		return ferryi_control_fail(-EINVAL, "vma_fault: no range");
	int rc = ferry_range_register(range, range->mirror, range->start, range->end, 12);

	if (rc)
		return rc;
	range->default_flags = 0;
	range->pfn_flags_mask = UINT64_MAX;
	long n = -EAGAIN;

	if (!ferryi_range_wait(range, FERRY_RANGE_DEFAULT_TIMEOUT_MS)) {
		ferryi_control_fail(-EAGAIN, "vma_fault: a change of the range did not end within %u ms",
				    FERRY_RANGE_DEFAULT_TIMEOUT_MS);
	} else {
		n = ferryi_range_fault(range, block);
		if (n == 0)
			n = ferryi_control_fail(-EBUSY, "vma_fault: no page of the range is valid");
		else if (n == -EAGAIN)
			n = -EBUSY;
	}
	if (n < 0)
		ferryi_range_unregister(range);
	return n < 0 ? (int)n : 0;
}

bool ferry_vma_range_done(struct ferry_range *range)
{
	bool valid = ferry_range_valid(range);

	ferry_range_unregister(range);
	return valid;
}

int ferry_entry_info(struct ferry_range *range, uintptr_t va, struct ferry_entry_info *info)
{
	int rc = check(range, "entry_info");

	if (!rc && !info)
		rc = ferryi_control_fail(-EINVAL, "entry_info: info is NULL");
	return rc ? rc : ferryi_entry_info(range, va, info);
}
