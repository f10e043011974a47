/* A table on a terminal: columns as wide as they need to be, narrower where the window is, and one
 * "heading: text" per line where even that does not fit. */
#ifndef TANDEM_CLI_MARKDOWN_TABLE_H
#define TANDEM_CLI_MARKDOWN_TABLE_H

#include "src/cli/markdown.h"

enum { MAX_TABLE_COLUMNS = 64 };

/* Zeroed is empty. The first row is the heading. */
struct table {
    struct styled *cells; /* [n_cells], row by row */
    int n_cells, capacity, n_columns;
    char align[MAX_TABLE_COLUMNS]; /* 'l', 'c', 'r' */
};

/* Add a cell; takes over what `cell` holds. ERR_FIT. */
bool table_add(struct table *t, struct styled *cell, struct error *err);
void table_put(struct buf *out, const struct table *t, struct margins *m,
               const struct markdown_options *o);
void table_release(struct table *t);

#endif
