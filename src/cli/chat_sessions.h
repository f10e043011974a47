/* Slash commands about the session, its branches, and what was said last (chat_sessions.c). Each gets
 * what stands behind its name; false only when the chat cannot go on. */
#ifndef TANDEM_CLI_CHAT_SESSIONS_H
#define TANDEM_CLI_CHAT_SESSIONS_H

#include "src/cli/chat.h"

bool chat_do_save(struct chat *c, const char *argument, struct error *err);
bool chat_do_load(struct chat *c, const char *argument, struct error *err);
bool chat_do_sessions(struct chat *c, const char *argument, struct error *err);
bool chat_do_branch(struct chat *c, const char *argument, struct error *err);
bool chat_do_branches(struct chat *c, const char *argument, struct error *err);
bool chat_do_undo(struct chat *c, const char *argument, struct error *err);
bool chat_do_retry(struct chat *c, const char *argument, struct error *err);
bool chat_do_edit(struct chat *c, const char *argument, struct error *err);
bool chat_do_export(struct chat *c, const char *argument, struct error *err);

/* Names of all sessions, for Tab; valid until the next call. */
const char *const *chat_session_names(struct chat *c);
/* Names of the branches, likewise. */
const char *const *chat_branch_names(struct chat *c);

#endif
