/* The value of one option, from text into its field of struct options. Errors are ERR_USAGE and
 * say what the option wants; the caller puts in front whose value it was. */
#ifndef TANDEM_CLI_OPTION_VALUE_H
#define TANDEM_CLI_OPTION_VALUE_H

#include "src/cli/option_table.h"

/* Does an argument follow on the command line? */
bool option_wants_value(const struct option *row);

/* As on the command line: `value` is NULL for kinds without an argument. Texts are borrowed. */
bool option_apply(struct options *o, const struct option *row, const char *value, struct error *err);
/* From the configuration file or the environment, where a flag is on or off. */
bool option_apply_named(struct options *o, const struct option *row, const char *value,
                        struct error *err);

/* Is `value` a yes (1), a no (0), or neither (-1)? */
int yes_or_no(const char *value);

#endif
