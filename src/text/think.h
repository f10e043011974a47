/* Which part of a reply a token belongs to: thinking or answer.
 *
 * The marks <think> and </think> are single tokens, recognized by id and never by searching the
 * text, so a model that writes *about* the marks confuses nobody. A vocabulary without them (base
 * models, older generations) gives one long answer. The reply starts inside the thinking when the
 * prompt has opened it (chat_render says so), else the model opens it itself.
 *
 *     struct think think;
 *     think_start(&think, tokenizer, in_thinking, close_text, budget, err);
 *     loop: id = think_due(&think) ? think_inject(&think) : choose a token;
 *           part = think_token(&think, id);
 *           if (part != PART_MARK)
 *               bytes = think_show(&think, tokenizer_bytes(tokenizer, id, false));
 *
 * Plain data, allocates nothing, nothing to release. Source: architectures 7.8. */
#ifndef TANDEM_TEXT_THINK_H
#define TANDEM_TEXT_THINK_H

#include "src/base/error.h"
#include "src/base/util.h"
#include "src/text/tokenizer.h"

enum think_part {
    PART_MARK,   /* the token is a mark: no part of what is shown or stored */
    PART_THINK,
    PART_ANSWER,
};

#define THINK_MAX_CLOSE 16

struct think {
    int32_t open_id, close_id; /* -1: the vocabulary has no such token */
    bool thinking;             /* the state: where the next token goes */
    bool at_start;             /* nothing but line ends so far in this part */
    int64_t n_thinking;        /* tokens of thinking so far */
    int64_t budget;            /* end the thinking after so many; -1: no limit */
    int32_t close[THINK_MAX_CLOSE]; /* what ends it: the mark, then often an empty line */
    int n_close, n_injected; /* n_injected > 0: in the middle of it */
};

/* Begin a reply. `close_text` is what the format puts at the end of thinking, such as
 * "</think>\n\n" (chat_format_think_close; NULL: that). ERR_FIT without memory, ERR_RUN in a build
 * that cannot encode text. */
bool think_start(struct think *k, const struct tokenizer *t, bool in_thinking,
                 const char *close_text, int64_t budget, struct error *err);

/* Tell what the next token of the reply is; returns the part that it belongs to. */
enum think_part think_token(struct think *k, int32_t id);

/* Of the bytes of that token, what a reader should see: without the line ends that formats put at
 * the beginning of thinking and answer. Stored answers keep them (byte-exact history): store the
 * bytes as they come. */
struct str think_show(struct think *k, struct str bytes);

/* Is the budget spent, or an injection under way? Then the next token is not the model's choice but
 * think_inject's; feed it to the model and to think_token like any other. */
bool think_due(const struct think *k);
int32_t think_inject(struct think *k);

/* "Answer now": as if the budget were spent. Nothing happens outside the thinking. */
void think_stop(struct think *k);

#endif
