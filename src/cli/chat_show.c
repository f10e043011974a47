#include "src/cli/chat_show.h"

#include <stdio.h>
#include <unistd.h>

#include "src/cli/term.h"

#define WARN_AT_PERCENT 80

static void grey(const char *bytes, size_t len)
{
    bool colour = term_colour(STDERR_FILENO);
    if (colour)
        err_write("\033[2m", 4);
    err_write(bytes, len);
    if (colour)
        err_write("\033[0m", 4);
}

/* One line that counts, in place of the thinking itself. */
static void draw_fold(struct chat_show *d, bool last)
{
    char line[96];
    if (!term_animates() || (!last && now_s() - d->drawn_s < 0.1))
        return;
    d->drawn_s = now_s();
    int n = snprintf(line, sizeof line, "%s %lld tokens, %.0f s", last ? "thought" : "thinking…",
                     (long long)d->g->n_thinking, now_s() - d->start_s);
    err_write("\r\033[K", 4);
    grey(line, (size_t)n);
}

static bool show_thinking(struct chat_show *d, const char *bytes, size_t len)
{
    struct buf clean = { 0 };
    d->thinking = d->c->show_thinking != THINKING_HIDDEN;
    if (d->c->show_thinking == THINKING_FOLD)
        draw_fold(d, false);
    if (d->c->show_thinking == THINKING_FULL && term_escape_to(&clean, bytes, len))
        grey(clean.data, clean.len);
    buf_release(&clean);
    return true;
}

static void end_thinking(struct chat_show *d)
{
    if (d->thinking && d->c->show_thinking == THINKING_FOLD)
        draw_fold(d, true);
    if (d->thinking)
        err_write("\n\n", d->c->show_thinking == THINKING_FULL ? 2 : 1);
    d->thinking = false;
}

bool chat_show_piece(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                     struct error *err)
{
    struct chat_show *d = ctx;
    if (kind == PIECE_THINKING)
        return show_thinking(d, bytes, len);
    end_thinking(d);
    d->line_open = len > 0 && bytes[len - 1] != '\n';
    if (!term_stdout())
        return out_write(bytes, len, err);
    struct buf clean = { 0 };
    bool ok = term_escape_to(&clean, bytes, len) ? out_write(clean.data, clean.len, err)
                                                 : buf_ok(&clean, err);
    buf_release(&clean);
    return ok;
}

void chat_show_begin(struct chat_show *s, struct chat *c, const struct generation *g)
{
    *s = (struct chat_show){ .c = c, .g = g, .start_s = now_s() };
}

bool chat_show_end(struct chat_show *s, bool ok, struct error *err)
{
    end_thinking(s);
    return !(ok || s->line_open) || out_write("\n", 1, ok ? err : NULL);
}

void chat_show_after(struct chat *c, const struct generation *g)
{
    int64_t used = session_n_past(c->m.session), n_ctx = session_n_ctx(c->m.session);
    int percent = (int)(100 * used / n_ctx);
    char line[160];
    int n = snprintf(line, sizeof line, "%s%.1f tok/s · context %d %%\n",
                     g->finish == FINISH_INTERRUPTED ? "stopped · " : "", generation_decode_rate(g),
                     percent);
    if (c->o->quiet == 0 && (term_stderr() || c->o->stats))
        grey(line, (size_t)n);
    if (g->finish == FINISH_LENGTH)
        note("(stopped at %lld tokens, -n)", (long long)g->n_generated);
    if (g->finish == FINISH_CONTEXT)
        note("the context of %lld tokens is full: /undo drops the last exchange, /trim the first, "
             "/clear all; a larger one: -c %lld", (long long)n_ctx, (long long)(2 * n_ctx));
    else if (percent >= WARN_AT_PERCENT && !c->warned)
        note("the context is %d %% full: /trim drops the oldest exchange, /clear all", percent);
    c->warned = percent >= WARN_AT_PERCENT;
}
