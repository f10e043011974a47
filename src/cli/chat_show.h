/* How an answer is shown while it comes: thinking in grey or folded into one line, then the text,
 * laid out as Markdown on a terminal and as it is elsewhere, and behind it one line of figures.
 *
 * Keys during an answer: Ctrl-T folds and unfolds the thinking; Ctrl-C in it asks what to do. */
#ifndef TANDEM_CLI_CHAT_SHOW_H
#define TANDEM_CLI_CHAT_SHOW_H

#include "src/cli/blocks.h"
#include "src/cli/chat.h"
#include "src/cli/view.h"

struct chat_show {
    struct chat *c;
    const struct generation *g; /* what is being generated; borrowed */
    double start_s, drawn_s;
    enum show_thinking thinking; /* Ctrl-T changes it */
    struct session_times before; /* the answer began */
    double gpu_busy, asked_s;    /* share of the time that the GPU computed, NAN: not known; asked when */
    double token_bytes, dram_gb_s; /* weights read per token, what memory can; 0: not known */
    size_t n_thought;            /* bytes of the thinking that are shown */
    bool in_thinking;            /* what stands on the screen last is thinking */
    bool drawn;                  /* the answer is drawn; else written as it comes */
    bool line_open;              /* not drawn: the cursor does not stand at the start of a line */
    struct blocks thought, text; /* text: the answer */
    struct view view;            /* both terminals are one */
};

void chat_show_begin(struct chat_show *s, struct chat *c, const struct generation *g);
/* A piece_sink; ctx is the chat_show. */
bool chat_show_piece(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                     struct error *err);
/* Ctrl-C during thinking; ctx is the chat_show. */
enum interrupt_choice chat_show_ask(void *ctx);
/* Nothing more comes: end the line and release everything. False with or without err as out_write;
 * `ok`: the answer came well. */
bool chat_show_end(struct chat_show *s, bool ok, struct error *err);

/* The grey line behind an answer, and what the reader should know. */
void chat_show_after(struct chat *c, const struct generation *g);

/* The last answer's thinking, in full. */
void chat_show_thought(const struct chat *c);

#endif
