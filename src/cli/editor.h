/* Text in the editor of the user's choice: $VISUAL, else $EDITOR, else vi. */
#ifndef TANDEM_CLI_EDITOR_H
#define TANDEM_CLI_EDITOR_H

#include "src/cli/buf.h"

/* Let the user edit *text, by way of a private file in $TMPDIR that is removed afterwards. The caller
 * has given the terminal back. False and ERR_RUN, *text unchanged, when the editor cannot be run or
 * ends with a failure. */
bool editor_edit(struct buf *text, struct error *err);

#endif
