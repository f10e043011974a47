/* The state of a conversation, shared by the loop (chat.c) and the slash commands
 * (chat_commands.c). */
#ifndef TANDEM_CLI_CHAT_H
#define TANDEM_CLI_CHAT_H

#include "src/base/energy.h"
#include "src/cli/generate.h"
#include "src/cli/line.h"

/* A question and what was answered. Both own their text. */
struct exchange {
    struct buf question, answer;
    int64_t node; /* its number in the kept conversation (store.h); 0: not there yet */
};

struct keep;

struct chat {
    struct options *o;
    struct loaded m;
    struct buf system;
    struct buf attached;    /* files of /read, for the next message */
    struct exchange *exchanges;
    int n_exchanges, capacity;
    int64_t think_budget; /* -1: none */
    enum show_thinking show_thinking;
    struct generation last; /* the last answer: texts and figures */
    struct energy energy;   /* the machine's meter */
    double joules;          /* of the last answer; 0: not measured */
    bool answered;          /* is there a last answer? */
    bool warned;            /* that the context fills up */
    bool leave;
    struct keep *keep;      /* the session on disk: chat_keep.h */
};

/* Ask and answer; the exchange stays in the conversation unless nothing was answered. False only
 * when the chat cannot go on. */
bool chat_ask(struct chat *c, struct str question, struct error *err);

/* Put an exchange behind the others; its answer is empty. NULL and ERR_FIT without memory. */
struct exchange *chat_add(struct chat *c, struct str question, struct error *err);

/* All exchanges as prompt tokens, up to and with the last question, or with its answer too. */
bool chat_prompt(const struct chat *c, bool last_answer, struct tokens *ids, bool *in_thinking,
                 struct error *err);

/* Forget the last exchange, or the first n; returns how many went. */
int chat_drop_last(struct chat *c);
int chat_drop_first(struct chat *c, int n);

/* Tokens that the conversation takes in the next prompt. */
int64_t chat_n_tokens(const struct chat *c);

/* The name of a slash command, by its place in the table; NULL behind the last. *shown: the help tells
 * of it; other names for the same are not shown. */
const char *chat_command_at(int index, bool *shown);

/* Likewise, with what its argument is and what it does; *help is NULL for another name of one. */
const char *chat_command_about(int index, const char **argument, const char **help);

/* A line that begins with a slash. */
bool chat_command(struct chat *c, const char *line, struct error *err);

/* What Tab offers (struct line_hooks; ctx is the chat): commands, then what their argument is. */
void chat_offers(void *ctx, const char *line, int from, struct line_offer *offer);

#endif
