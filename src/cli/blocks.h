/* Markdown that arrives piece by piece, cut into blocks which are laid out one by one.
 *
 * A paragraph, a heading, an item of a list at the left margin, a table: each is a block. Once the
 * line that ends it has come, its lines are `done` and never change. What is open may still change
 * with each piece (a table's columns widen, a "**" finds its end); blocks_preview lays that out anew.
 * Blocks of code are done line by line. What is done depends on the text alone, not on the pieces:
 * a stream ends with the same lines as the whole text at once. */
#ifndef TANDEM_CLI_BLOCKS_H
#define TANDEM_CLI_BLOCKS_H

#include "src/cli/markdown.h"

enum block_kind { BLOCK_NONE, BLOCK_TEXT, BLOCK_LIST, BLOCK_QUOTE, BLOCK_INDENTED, BLOCK_FENCE };

/* Zeroed is empty; set options. Control bytes must have been made visible before. */
struct blocks {
    struct markdown_options options;
    bool plain;          /* no Markdown: lines are wrapped, each is a block */
    unsigned look;       /* of plain lines */
    struct buf done;     /* finished lines; the caller takes them out */
    struct buf open;     /* source of the open block, whole lines */
    struct buf line;     /* the line that is not complete yet */
    enum block_kind kind;
    bool blank;          /* a blank line came behind the open block */
    bool gap;            /* a blank line is due before the next block */
    bool wrote;          /* there is something above */
    int number;          /* of the open ordered item, -1: none */
    int last_number;     /* of the item before; -1 */
    char fence;          /* the character of the open fence */
    int fence_length, fence_indent;
    struct highlight highlight;
};

bool blocks_feed(struct blocks *b, const char *bytes, size_t len, struct error *err);
/* Nothing more comes: what is open is done. */
bool blocks_end(struct blocks *b, struct error *err);
/* Append the lines of what is open, as they would be if nothing more came. */
bool blocks_preview(const struct blocks *b, struct buf *out, struct error *err);
void blocks_release(struct blocks *b);

#endif
