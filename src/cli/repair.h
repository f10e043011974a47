/* UTF-8 for output: repair what is not valid, count what a reader sees. */
#ifndef TANDEM_CLI_REPAIR_H
#define TANDEM_CLI_REPAIR_H

#include "src/cli/buf.h"

/* Append `text` with every malformed sequence replaced by U+FFFD. */
void buf_add_repaired(struct buf *out, struct str text);

/* Characters for people: code points, malformed bytes count as one each. */
size_t utf8_count(struct str text);

#endif
