/* Prose and small tables for a window that may be narrower than their lines. */
#ifndef TANDEM_CLI_WRAP_H
#define TANDEM_CLI_WRAP_H

#include "src/cli/buf.h"

/* Append the lines of `text`, none wider than `columns`. A line that is too long breaks at words; what
 * goes on stands below its last column that leaves half of the window (else a little deeper than the
 * line), as
 *
 *     memory    weights 6.6 MiB mapped, cache
 *               4.5 MiB
 */
void wrap_lines(struct buf *out, struct str text, int columns);

#endif
