/* How an answer is shown while it comes: thinking in grey or folded into one line, then the text,
 * and behind it one line of figures. */
#ifndef TANDEM_CLI_CHAT_SHOW_H
#define TANDEM_CLI_CHAT_SHOW_H

#include "src/cli/chat.h"

struct chat_show {
    struct chat *c;
    const struct generation *g; /* what is being generated; borrowed */
    double start_s, drawn_s;
    bool thinking;  /* the cursor stands behind thinking */
    bool line_open; /* the cursor does not stand at the start of a line */
};

void chat_show_begin(struct chat_show *s, struct chat *c, const struct generation *g);
/* A piece_sink; ctx is the chat_show. */
bool chat_show_piece(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                     struct error *err);
/* Nothing more comes: end the line. `ok`: err may be set by a failing write. */
bool chat_show_end(struct chat_show *s, bool ok, struct error *err);

/* The grey line behind an answer, and what the reader should know. */
void chat_show_after(struct chat *c, const struct generation *g);

#endif
