/* Colours for code, line by line: comments, strings, numbers, keywords. Knows a few families of
 * languages by the name behind a fence; others stay as they are. */
#ifndef TANDEM_CLI_HIGHLIGHT_H
#define TANDEM_CLI_HIGHLIGHT_H

#include "src/cli/styled.h"

/* Where the lines so far have left off. Plain data. */
struct highlight {
    const struct language *language; /* NULL: none */
    const char *inside;              /* in a comment or string that ends with this; NULL: in neither */
    bool in_comment;
};

void highlight_open(struct highlight *h, struct str name);
/* Append a line (without its newline). */
void highlight_line(struct highlight *h, struct str line, struct styled *out);

#endif
