/* Long pages for a person: through $PAGER where stdout is a terminal that they would scroll out of. */
#ifndef TANDEM_CLI_PAGER_H
#define TANDEM_CLI_PAGER_H

#include "src/cli/buf.h"

/* Write `text` to stdout. On a terminal with fewer rows, show it by $PAGER (without it by less; when
 * that is empty or cannot be started, as everywhere else). Errors are those of out_write. */
bool pager_show(const struct buf *text, struct error *err);

#endif
