/* Columns that text takes on a terminal: two for Chinese, Japanese, Korean and most emoji, none for
 * combining marks. */
#ifndef TANDEM_CLI_WIDTH_H
#define TANDEM_CLI_WIDTH_H

#include "src/base/util.h"

/* Characters are UTF-8, also where the environment says nothing or "C", as bare containers do; there
 * LC_ALL is set for readline to see. Numbers stay in the C locale. Call once, before the rest. */
void width_use_utf8(void);

/* The character at the start of `s` (not empty): its columns, and its length in *bytes. A control
 * character takes none. */
int width_next(struct str s, size_t *bytes);

int width_of(struct str s);

/* The start of `s` that takes at most so many columns. */
struct str width_cut(struct str s, int columns);

#endif
