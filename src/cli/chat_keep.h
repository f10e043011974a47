/* The conversation of a chat and its session on disk (store.h), with the cache of what was computed
 * for it (src/engine/prefix_file.h).
 *
 * The chat changes its exchanges as it likes; keep_turn finds out what became of them and writes
 * that. What cannot be written is told once, and the chat goes on unsaved. */
#ifndef TANDEM_CLI_CHAT_KEEP_H
#define TANDEM_CLI_CHAT_KEEP_H

#include "src/cli/chat.h"
#include "src/cli/store.h"

struct prefix_file;

struct keep {
    struct store store;
    struct prefix_file *file; /* NULL: no cache is kept */
    bool saves;       /* in a folder, which may begin with the first question */
    bool shown;       /* the chat's exchanges are the branch's: what becomes of them may be written */
    bool fresh;       /* the folder is ours, and was made in this chat */
    char path[PATH_SIZE]; /* of the model */
    int64_t n_read;   /* tokens that came from the file when the session began */
    double read_s;
    uint64_t checked_bytes; /* of the cache, when its room was looked at */
};

/* Before the model is known: open the session that --session or --continue names; its model is the
 * default then. ERR_USAGE, ERR_FILE. */
bool keep_open(struct chat *c, struct error *err);
/* The model (from `path`) is loaded: settings, exchanges and the cache come back. */
bool keep_begin(struct chat *c, const char *path, struct error *err);
/* The line that greets: model, session or context. */
void keep_greet(const struct chat *c);
/* The last exchange was asked; a turn of the loop is over. */
void keep_asked(struct chat *c);
void keep_turn(struct chat *c);
/* Write what is left, say so. Then `keep` is NULL. */
void keep_close(struct chat *c);

/* For struct generate_options; ctx is the chat. */
bool keep_before(void *ctx, const struct tokens *prompt, struct error *err);
void keep_after(void *ctx);

/* ---- for the slash commands ---- */

/* Exchanges of the current branch, as the store has them; tokens that its cache holds. */
bool keep_show_branch(struct chat *c, int64_t *n_cached, struct error *err);
/* Leave this session for another that exists. False: said why; it stays with this one unless err is
 * set. */
bool keep_switch(struct chat *c, const char *name, struct error *err);
/* Give the session this name, or begin one. ERR_USAGE, ERR_RUN: nothing changed. */
bool keep_name(struct chat *c, const char *name, struct error *err);

#endif
