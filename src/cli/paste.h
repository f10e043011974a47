/* Long texts in a line of input, shown as a short mark: "[paste 1: 10000 lines]".
 *
 * The line then holds the mark, which can be moved and deleted like any text; paste_expand puts the
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

void paste_release(void);

#endif
