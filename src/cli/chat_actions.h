/* Slash commands that have a file of their own. Each gets what stands behind its name; false only
 * when the chat cannot go on. */
#ifndef TANDEM_CLI_CHAT_ACTIONS_H
#define TANDEM_CLI_CHAT_ACTIONS_H

#include "src/cli/chat.h"

/* chat_set.c: /set [NAME [VALUE]], and the names, ended by NULL. */
bool chat_do_set(struct chat *c, const char *argument, struct error *err);
const char *const *chat_set_names(void);

/* chat_read.c: the name of a file as commands take it: maybe in quotes, maybe with ~/ in front. */
void chat_file_name(const char *argument, char *path, size_t size);

/* /read FILE. The files go with the next message. */
bool chat_do_read(struct chat *c, const char *argument, struct error *err);
/* The message with the files behind it, in *full. */
bool chat_attach(struct chat *c, struct str message, struct buf *full, struct error *err);
/* A long message says first what reading it will take; false: the user thought better of it, and
 * finds it at the prompt again. */
bool chat_confirm(struct chat *c, struct str message);

/* chat_why.c: /why, /plan. And what the plan expects of reading a prompt, in tokens per second. */
double chat_expected_prefill(const struct chat *c);
bool chat_do_why(struct chat *c, const char *argument, struct error *err);
bool chat_do_plan(struct chat *c, const char *argument, struct error *err);

/* heat.c: /heat [FILE]. */
bool chat_do_heat(struct chat *c, const char *argument, struct error *err);

/* chat_context.c: /ctx [N]. */
bool chat_do_ctx(struct chat *c, const char *argument, struct error *err);
/* A larger context that fits by the plan and holds more than `needed` tokens (0: any): twice as
 * large as now, or doubled until it holds them, at most what the model was trained for; 0: there is
 * none. And as words for Tab. */
int64_t chat_larger_context(const struct chat *c, int64_t needed);
const char *const *chat_context_sizes(const struct chat *c);

/* chat_copy.c: /copy. */
bool chat_do_copy(struct chat *c, const char *argument, struct error *err);

#endif
