/* /ctx [N]: how full the context is, and another size for it in the middle of a conversation.
 *
 * What was computed waits in a file while the session is opened anew: in the one that the
 * conversation is kept in, where that holds all of it, else in a temporary one without a name. Its
 * rows are the same in every size. With a GPU the engine is opened anew as well, so that experts in
 * VRAM make room for a larger cache and come back for a smaller one. What fits is known by the plan
 * before anything is closed; what fails all the same leads back to the old size. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/chat_actions.h"
#include "src/cli/chat_keep.h"
#include "src/cli/prefix_cache.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/prefix_file.h"

/* ---- what fits ---- */

int64_t chat_larger_context(const struct chat *c, int64_t needed)
{
    int64_t n_ctx = session_n_ctx(c->m.session), trained = c->m.model->params.context_length;
    int64_t wanted = 2 * n_ctx;
    while (wanted <= needed && wanted < trained)
        wanted *= 2;
    wanted = min_of(wanted, trained);
    for (int64_t more = wanted - n_ctx; more > n_ctx / 8 && n_ctx + more > needed; more /= 2)
        if (session_could_hold(c->m.session, n_ctx + more, NULL))
            return n_ctx + more;
    return 0;
}

const char *const *chat_context_sizes(const struct chat *c)
{
    static char size[24];
    static const char *const sizes[] = { size, NULL };
    int64_t larger = chat_larger_context(c, 0);
    snprintf(size, sizeof size, "%lld", (long long)larger);
    return larger ? sizes : NULL;
}

/* ---- what was computed ---- */

/* A timeline whose session is closed. */
struct computed {
    struct prefix_file *file;
    bool temporary; /* ours to close; it has no name any more */
    int32_t *tokens;
    int64_t n;
};

static bool open_temporary(struct prefix_file **file, struct chat *c, struct error *err)
{
    const char *const folders[] = { getenv("TMPDIR"), "/var/tmp", "/tmp" };
    char folder[PATH_SIZE - 8], path[PATH_SIZE];
    bool made = false;
    for (size_t i = 0; i < ARRAY_LEN(folders) && !made; i++) {
        int n = folders[i] ? snprintf(folder, sizeof folder, "%s/tandem-XXXXXX", folders[i]) : -1;
        made = n > 0 && (size_t)n < sizeof folder && mkdtemp(folder);
    }
    if (!made)
        return fail(err, ERR_RUN, "no temporary folder can be made: %s", strerror(errno));
    snprintf(path, sizeof path, "%s/cache", folder);
    bool ok = prefix_file_open(file, path, c->m.session, err);
    unlink(path);
    rmdir(folder);
    return ok;
}

static void release(struct computed *w)
{
    if (w->temporary)
        prefix_file_close(w->file);
    mem_free(w->tokens);
}

/* Everything that the session has computed. *w is released on failure, too. */
static bool put_away(struct computed *w, struct chat *c, struct error *err)
{
    struct progress progress;
    *w = (struct computed){ .n = session_n_past(c->m.session) };
    if (w->n == 0)
        return true;
    w->tokens = mem_alloc((size_t)w->n, sizeof *w->tokens, "tokens", err);
    if (!w->tokens)
        return false;
    memcpy(w->tokens, session_tokens(c->m.session), (size_t)w->n * sizeof *w->tokens);
    progress_begin(&progress, "keeping what was computed", NULL);
    keep_after(c);
    w->file = c->keep->file;
    bool ok = true;
    if (!w->file || !prefix_file_holds(w->file, c->m.session)) {
        w->file = NULL;
        w->temporary = true;
        ok = open_temporary(&w->file, c, err) &&
             prefix_file_save(w->file, c->m.session, 0, err);
    }
    progress_end(&progress);
    ok = ok && load_goes_on(err);
    if (!ok)
        release(w);
    return ok;
}

static bool bring_back(const struct computed *w, struct chat *c, struct error *err)
{
    struct restore_progress progress = { .label = "resuming" };
    int64_t n_read;
    if (w->n == 0)
        return true;
    bool ok = prefix_file_restore(w->file, c->m.session, w->tokens, w->n, &n_read,
                                  restore_progress, &progress, err);
    restore_progress_end(&progress);
    return ok;
}

/* ---- another size ---- */

/* *why: what became of it. False: the chat cannot go on. */
static bool reopen(struct chat *c, const struct computed *w, int64_t n_ctx, struct error *why,
                   struct error *err)
{
    int64_t before = session_n_ctx(c->m.session);
    const char *path = c->keep->path;
    struct error ignored = { 0 };
    if (loaded_resize(&c->m, c->o, path, n_ctx, why) && load_goes_on(why) &&
        bring_back(w, c, why))
        return true;
    signals_rearm(); /* the way back is not to be stopped by the same key */
    if (!loaded_resize(&c->m, c->o, path, before, err))
        return false;
    if (!bring_back(w, c, &ignored))
        note("the conversation is read again with the next message");
    return true;
}

static void note_unchanged(int64_t n_ctx, const struct error *why)
{
    note("the context stays at %lld tokens: %s", (long long)n_ctx,
         why->code == ERR_INTERRUPTED ? "stopped" : why->text);
}

static bool resize(struct chat *c, int64_t n_ctx, struct error *err)
{
    struct computed w;
    struct error why = { 0 };
    int64_t before = session_n_ctx(c->m.session);
    int slots = engine_placement(c->m.engine)->expert_slots;
    if (!session_could_hold(c->m.session, n_ctx, &why) || !put_away(&w, c, &why)) {
        note_unchanged(before, &why);
        return true;
    }
    bool ok = reopen(c, &w, n_ctx, &why, err);
    if (ok && why.code != ERR_NONE) {
        note_unchanged(before, &why);
    } else if (ok) {
        int now = engine_placement(c->m.engine)->expert_slots;
        c->warned = false;
        note("the context holds %lld tokens now, %lld before; %lld that were computed are kept",
             (long long)n_ctx, (long long)before, (long long)session_n_past(c->m.session));
        if (now != slots)
            note("copies of experts on the GPU, per layer: %d now, %d before", now, slots);
        if (n_ctx > c->m.model->params.context_length)
            note("the model was trained for %lld", (long long)c->m.model->params.context_length);
    }
    release(&w);
    return ok;
}

static void show(const struct chat *c)
{
    int64_t used = chat_n_tokens(c), n_ctx = session_n_ctx(c->m.session);
    note("context: %lld of %lld tokens (%d %%), %d exchange%s", (long long)used, (long long)n_ctx,
         (int)(100 * used / n_ctx), c->n_exchanges, c->n_exchanges == 1 ? "" : "s");
}

bool chat_do_ctx(struct chat *c, const char *argument, struct error *err)
{
    char *end;
    if (!*argument) {
        show(c);
        return true;
    }
    errno = 0;
    long long n_ctx = strtoll(argument, &end, 10);
    int64_t used = chat_n_tokens(c);
    if (errno || *end || n_ctx < 1 || n_ctx > 1 << 24) {
        note("/ctx %s: wants a number of tokens, from 1 to %d", argument, 1 << 24);
        return true;
    }
    if (n_ctx == session_n_ctx(c->m.session)) {
        note("the context holds %lld tokens", n_ctx);
        return true;
    }
    if (n_ctx <= used) {
        note("the conversation takes %lld tokens, and an answer needs room too: the context "
             "stays at %lld. /undo and /trim make room", (long long)used,
             (long long)session_n_ctx(c->m.session));
        return true;
    }
    return resize(c, n_ctx, err);
}
