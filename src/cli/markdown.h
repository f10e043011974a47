/* One block of Markdown (CommonMark with tables, task lists, strike-through) as lines for a
 * terminal: parsed by md4c, laid out here.
 *
 * Line ends inside a paragraph are kept: models break lines where they mean to. Links show their
 * address, since what one cannot see one cannot judge. HTML is text like any other. */
#ifndef TANDEM_CLI_MARKDOWN_H
#define TANDEM_CLI_MARKDOWN_H

#include "src/cli/highlight.h"

struct markdown_options {
    int columns;
    enum palette palette;
    int first_number; /* of an ordered list; -1: as written */
};

/* Is there a parser in this build? */
bool markdown_available(void);

/* Append the lines (styled.h). Control bytes must have been made visible before. ERR_FIT. */
bool markdown_render(struct buf *out, struct str source, const struct markdown_options *o,
                     struct error *err);

/* Blocks of code, line by line, as they stand between fences: a rule with the language, lines, a
 * rule. Needs no parser. */
void markdown_code_open(struct buf *out, struct highlight *h, struct str language,
                        struct margins *m, const struct markdown_options *o);
void markdown_code_line(struct buf *out, struct highlight *h, struct str line, struct margins *m,
                        const struct markdown_options *o);
void markdown_code_close(struct buf *out, struct margins *m, const struct markdown_options *o);

#endif
