/* Long texts in a line of input, shown as a short mark: "[paste 1: 10000 lines]".
 *
 * The line then holds the mark, which moves and goes like a single character; paste_expand puts the
 * text back. Texts are kept until paste_release, so that a mark recalled from history still works. */
#ifndef TANDEM_CLI_PASTE_H
#define TANDEM_CLI_PASTE_H

#include "src/cli/buf.h"

#define PASTE_MARK_SIZE 64

/* Too long to be shown as it is? */
bool paste_is_long(struct str text);

/* Keep a copy and write its mark. False without memory. */
bool paste_keep(struct str text, char mark[PASTE_MARK_SIZE]);

/* Append `line` with the texts in place of their marks. */
void paste_expand(struct buf *out, const char *line);

/* A key made `after` of `before`. Did that take only a part of a mark away? The rest of it is
 * [*from, *to) of `after`: what is no whole mark any more would be sent as it stands there. */
bool paste_broken(const char *before, const char *after, size_t *from, size_t *to);

/* Are there texts with marks? */
bool paste_any(void);

void paste_release(void);

#endif
