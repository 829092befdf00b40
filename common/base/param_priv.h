/* Private to the param_*.c files: one row of a table. See param.h. */
#ifndef FERRYI_BASE_PARAM_PRIV_H
#define FERRYI_BASE_PARAM_PRIV_H

#include "param.h"

/* The row of that name, or NULL. */
const struct ferryi_param *ferryi_param_find(const struct ferryi_param *table, const char *name);
/* The row of that short option, or NULL. */
const struct ferryi_param *ferryi_param_find_short(const struct ferryi_param *table, int c);
/* Parses value into its place; label is how the user named the row: "--size", "FERRY_LOCAL", "size". 0 or -EINVAL. */
int ferryi_param_assign(const struct ferryi_param *p, void *cfg, const char *label, const char *value, char *err,
			size_t err_len);
/* -EINVAL: no such row; names the one that was likely meant. kind: "option"; dashes: before the name. */
int ferryi_param_unknown(const struct ferryi_param *table, const char *kind, const char *dashes, const char *name,
			 char *err, size_t err_len);
/* "from 1 to 64", of a number's row. */
void ferryi_param_format_range(const struct ferryi_param *p, char *buf, size_t buf_len);
/* "red, green", of an ENUM's row. */
void ferryi_param_list_values(const struct ferryi_param *p, char *buf, size_t buf_len);

#endif
