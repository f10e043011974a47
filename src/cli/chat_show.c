#include "src/cli/chat_show.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "src/cli/chat_actions.h"
#include "src/cli/keys.h"
#include "src/cli/rates.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/why.h"
#include "src/cli/wrap.h"

#define WARN_AT_PERCENT 80
#define CTRL_T '\024'
#define LARGE_BLOCK 8192 /* bytes of an open block that is not laid out for every token */

static enum palette palette_of(int fd)
{
    return term_colour(fd) ? PALETTE_COLOURS : term_draws(fd) ? PALETTE_ATTRIBUTES : PALETTE_PLAIN;
}

/* A last newline comes behind the look. */
static void grey(const char *bytes, size_t len)
{
    struct buf line = { 0 };
    bool looks = palette_of(STDERR_FILENO) != PALETTE_PLAIN;
    bool ends = len > 0 && bytes[len - 1] == '\n';
    buf_puts(&line, looks ? "\033[2m" : "");
    buf_add(&line, bytes, len - ends);
    buf_puts(&line, looks ? "\033[0m" : "");
    buf_puts(&line, ends ? "\n" : "");
    err_write(buf_str(&line).data, line.len);
    buf_release(&line);
}

/* One grey line of the region, cut to the window. */
static void add_grey_line(struct buf *out, const char *text)
{
    struct styled line = { 0 };
    size_t at = 0, begin, end;
    int taken;
    styled_add(&line, str_of(text), LOOK_DIM);
    if (styled_next_line(&line, max_of(term_columns() - 1, 8), true, &at, &begin, &end, &taken))
        styled_put(out, &line, begin, end, palette_of(STDERR_FILENO));
    buf_puts(out, "\n");
    styled_release(&line);
}

static int context_percent(const struct chat *c)
{
    return (int)(100 * session_n_past(c->m.session) / session_n_ctx(c->m.session));
}

/* ---- drawing --------------------------------------------------------------------------------- */

#define FASTER 1.1 /* tokens a step that are worth a word: more than trials */

/* What --live shows below the text. */
static void add_live_line(struct chat_show *s, struct buf *out)
{
    struct buf line = { 0 }, bound = { 0 };
    double rate = generation_decode_rate(s->g), gb_s = rate * s->token_bytes / 1e9;
    double share = gb_s > 0 && s->dram_gb_s > 0 ? gb_s / s->dram_gb_s : NAN;
    if (now_s() - s->asked_s > 0.5) { /* the driver takes its time to answer */
        s->gpu_busy = energy_gpu_busy(&s->c->energy);
        s->asked_s = now_s();
    }
    buf_printf(&line, "  %.1f tok/s · %lld tokens · %.0f s · context %d %%", rate,
               (long long)s->g->n_generated, now_s() - s->start_s, context_percent(s->c));
    why_bound(&bound, &s->before, session_times(s->c->m.session), share, s->gpu_busy);
    if (bound.len)
        buf_printf(&line, " · %s", buf_str(&bound).data);
    buf_release(&bound);
    if (!isnan(share))
        buf_printf(&line, " · weights %.1f GB/s, %.0f %% of memory's", gb_s, 100 * share);
    if (!isnan(s->gpu_busy))
        buf_printf(&line, " · GPU busy %.0f %%", 100 * s->gpu_busy);
    struct expert_report r;
    if (engine_expert_report(s->c->m.engine, &r) && r.n_picks > 0)
        buf_printf(&line, " · expert hits %.0f %%", 100 * expert_hit_rate(&r));
    add_grey_line(out, buf_str(&line).data);
    buf_release(&line);
}

/* Show finished lines and the region below them. */
static bool show_lines(struct chat_show *s, struct str done, struct str open, struct error *err)
{
    struct buf out = { 0 };
    bool ok = true;
    if (signals_continued())
        view_lost(&s->view); /* the shell wrote meanwhile */
    view_show(&s->view, done, open, &out);
    if (!buf_ok(&out, err))
        ok = false;
    else if (s->drawn && !s->in_thinking)
        ok = out_write(buf_str(&out).data, out.len, err);
    else
        err_write(buf_str(&out).data, out.len);
    buf_release(&out);
    s->drawn_s = now_s();
    return ok;
}

/* Show what is done and open of b. `last`: nothing follows. */
static bool draw(struct chat_show *s, struct blocks *b, bool last, struct error *err)
{
    struct buf open = { 0 };
    bool large = b->open.len + b->line.len > LARGE_BLOCK;
    if (large && !last && now_s() - s->drawn_s < 0.05)
        return true;
    b->options.columns = max_of(term_columns() - 1, 8); /* never the last: no terminal wraps then */
    bool ok = last ? blocks_end(b, err) : blocks_preview(b, &open, err);
    if (s->c->o->live && !last)
        add_live_line(s, &open);
    ok = ok && show_lines(s, buf_str(&b->done), buf_str(&open), err);
    buf_clear(&b->done);
    buf_release(&open);
    return ok;
}

static bool feed(struct blocks *b, const char *bytes, size_t len,
                 struct error *err)
{
    struct buf clean = { 0 };
    b->options.columns = max_of(term_columns() - 1, 8);
    bool ok = (term_escape_to(&clean, bytes, len) || buf_ok(&clean, err)) &&
              blocks_feed(b, buf_str(&clean).data, clean.len, err);
    buf_release(&clean);
    return ok;
}

/* A line is about to be noted: leave what is drawn where it is, and go on below. */
static void make_room(void *ctx)
{
    struct chat_show *s = ctx;
    if (s->view.shown.len > 0)
        err_write("\n", 1);
    view_lost(&s->view);
}

/* ---- thinking -------------------------------------------------------------------------------- */

static bool draw_fold(struct chat_show *s, bool last)
{
    struct buf line = { 0 };
    char text[128];
    if (!term_animates() || (!last && now_s() - s->drawn_s < 0.1))
        return true;
    snprintf(text, sizeof text, last ? "thought %lld tokens, %.0f s"
                                     : "thinking… %lld tokens, %.0f s   (Ctrl-T shows it, Ctrl-C: "
                                       "answer now / stop)",
             (long long)s->g->n_thinking, now_s() - s->start_s);
    add_grey_line(&line, text);
    struct str none = { "", 0 };
    bool ok = show_lines(s, last ? buf_str(&line) : none, last ? none : buf_str(&line), NULL);
    buf_release(&line);
    return ok;
}

/* Feed what is not shown yet of the thinking, in full. */
static bool draw_thought(struct chat_show *s, struct error *err)
{
    struct str all = buf_str(&s->g->thinking);
    bool ok = true;
    if (!term_draws(STDERR_FILENO)) { /* no drawing there: as it comes */
        struct buf clean = { 0 };
        term_escape_to(&clean, all.data + s->n_thought, all.len - s->n_thought);
        grey(buf_str(&clean).data, clean.len);
        buf_release(&clean);
    } else {
        ok = feed(&s->thought, all.data + s->n_thought, all.len - s->n_thought, err) &&
             draw(s, &s->thought, false, err);
    }
    s->n_thought = all.len;
    return ok;
}

static bool show_thinking(struct chat_show *s, struct error *err)
{
    if (s->thinking == THINKING_HIDDEN)
        return true;
    s->in_thinking = true;
    return s->thinking == THINKING_FOLD ? draw_fold(s, false) : draw_thought(s, err);
}

/* Ctrl-T: from one line to all of it, or back. */
static bool toggle_fold(struct chat_show *s, struct error *err)
{
    struct str none = { "", 0 };
    if (!term_animates())
        return true;
    if (s->thinking == THINKING_FULL) {
        s->thinking = THINKING_FOLD;
        return draw(s, &s->thought, true, err);
    }
    s->thinking = THINKING_FULL;
    s->n_thought = 0;
    return show_lines(s, none, none, err) && draw_thought(s, err);
}

static bool end_thinking(struct chat_show *s, struct error *err)
{
    bool ok = true;
    if (s->in_thinking && s->thinking == THINKING_FOLD)
        ok = draw_fold(s, true);
    else if (s->in_thinking && term_draws(STDERR_FILENO))
        ok = draw(s, &s->thought, true, err);
    else if (s->in_thinking)
        err_write("\n", 1);
    if (s->in_thinking && s->thinking == THINKING_FULL)
        err_write("\n", 1);
    s->in_thinking = false;
    return ok;
}

enum interrupt_choice chat_show_ask(void *ctx)
{
    static const char question[] = "a: answer now   Enter: go on thinking   Ctrl-C: stop";
    struct chat_show *s = ctx;
    enum interrupt_choice choice = INTERRUPT_STOP;
    struct buf line = { 0 };
    struct str none = { "", 0 };
    if (!term_stdin() || !term_animates())
        return INTERRUPT_STOP;
    bool full = s->in_thinking && s->thinking == THINKING_FULL;
    if (full)
        draw(s, &s->thought, true, NULL);
    add_grey_line(&line, question);
    bool thinking = s->in_thinking;
    keys_ask();
    signals_new_input(); /* the next Ctrl-C stops the answer, not the program */
    s->in_thinking = true; /* to stderr */
    show_lines(s, none, buf_str(&line), NULL);
    for (int key = 0; key >= 0 && !signals_cancelled() && !signals_leave(); key = keys_wait()) {
        if (key == 'a' || key == 'A')
            choice = INTERRUPT_ANSWER;
        if (key == '\r' || key == '\n')
            choice = INTERRUPT_GO_ON;
        if (choice != INTERRUPT_STOP)
            break;
    }
    if (!signals_leave())
        signals_new_input();
    show_lines(s, none, none, NULL);
    s->in_thinking = thinking;
    buf_release(&line);
    return choice;
}

/* ---- the answer ------------------------------------------------------------------------------ */

void chat_show_begin(struct chat_show *s, struct chat *c, const struct generation *g)
{
    bool markdown = c->o->markdown == MARKDOWN_AUTO && markdown_available();
    *s = (struct chat_show){ .c = c, .g = g, .start_s = now_s(), .thinking = c->show_thinking,
                             .before = *session_times(c->m.session), .gpu_busy = NAN };
    s->drawn = term_draws(STDOUT_FILENO) && (markdown || c->o->live);
    s->text = (struct blocks){ .options.palette = palette_of(STDOUT_FILENO), .plain = !markdown,
                               .number = -1, .last_number = -1 };
    s->thought = (struct blocks){ .options.palette = palette_of(STDERR_FILENO), .plain = true,
                                  .look = LOOK_DIM };
    if (c->o->live && !engine_gpu(c->m.engine)) {
        struct error ignored = { 0 };
        struct rates rates = { 0 };
        double bytes[N_PHASES];
        why_bytes(c->m.model, bytes);
        for (int i = 0; i < N_PHASES; i++)
            s->token_bytes += bytes[i];
        if (rates_here(&rates, c->o, false, &ignored))
            s->dram_gb_s = rates.dram_gb_s;
    }
    note_before(make_room, s);
}

static bool write_plain(struct chat_show *s, const char *bytes, size_t len, struct error *err)
{
    struct buf clean = { 0 };
    s->line_open = len > 0 ? bytes[len - 1] != '\n' : s->line_open;
    if (!term_stdout())
        return out_write(bytes, len, err);
    bool ok = term_escape_to(&clean, bytes, len) ? out_write(clean.data, clean.len, err)
                                                 : buf_ok(&clean, err);
    buf_release(&clean);
    return ok;
}

bool chat_show_piece(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                     struct error *err)
{
    struct chat_show *s = ctx;
    keys_poll();
    if (kind == PIECE_THINKING) {
        if (keys_take(CTRL_T) && !toggle_fold(s, err))
            return false;
        return show_thinking(s, err);
    }
    if (!end_thinking(s, err))
        return false;
    if (!s->drawn)
        return write_plain(s, bytes, len, err);
    return feed(&s->text, bytes, len, err) && draw(s, &s->text, false, err);
}

bool chat_show_end(struct chat_show *s, bool ok, struct error *err)
{
    bool written = end_thinking(s, ok ? err : NULL);
    if (s->drawn)
        written = draw(s, &s->text, true, ok ? err : NULL) && written;
    else if (ok || s->line_open)
        written = out_write("\n", 1, ok ? err : NULL) && written;
    note_before(NULL, NULL);
    blocks_release(&s->thought);
    blocks_release(&s->text);
    buf_release(&s->view.shown);
    return written;
}

void chat_show_thought(const struct chat *c)
{
    struct buf clean = { 0 };
    term_escape_to(&clean, buf_str(&c->last.thinking).data, c->last.thinking.len);
    if (clean.len == 0)
        buf_puts(&clean, "(no thinking in the last answer)");
    buf_puts(&clean, "\n");
    grey(buf_str(&clean).data, clean.len);
    buf_release(&clean);
}

/* ---- behind the answer ----------------------------------------------------------------------- */

/* Oldest exchanges to leave out so that about half of the context is free. */
static int oldest_to_drop(const struct chat *c)
{
    size_t all = 0, rest;
    int n = 0;
    for (int i = 0; i < c->n_exchanges; i++)
        all += c->exchanges[i].question.len + c->exchanges[i].answer.len;
    for (rest = all; n + 1 < c->n_exchanges && rest > all / 2; n++)
        rest -= c->exchanges[n].question.len + c->exchanges[n].answer.len;
    return n;
}

/* What a larger context costs, where one fits. */
static void add_larger(struct buf *out, const struct chat *c, int64_t n_ctx)
{
    struct memory_report r = { 0 };
    char size[32];
    int64_t larger = chat_larger_context(c, 0);
    session_memory(c->m.session, &r);
    double more = (double)r.cache_bytes * (double)(larger - n_ctx) / (double)n_ctx;
    if (larger)
        buf_printf(out, "  /ctx %-20lld a larger context, nothing is read again: %s more memory\n",
                   (long long)larger, human_bytes(more, size, sizeof size));
}

/* The ways on, by what they cost. */
static void print_ways_on(const struct chat *c, int64_t n_ctx)
{
    struct buf text = { 0 };
    int n = oldest_to_drop(c);
    buf_printf(&text, "the context of %lld tokens is full. Nothing is forgotten by itself; ways on:\n",
               (long long)n_ctx);
    buf_puts(&text, "  /undo                    forget the last exchange\n");
    if (n > 0)
        buf_printf(&text, "  /branch NAME, /trim %-4d a branch without the oldest %d of %d; this one "
                          "stays whole\n", n, n, c->n_exchanges);
    else
        buf_puts(&text, "  /clear                   begin anew\n");
    add_larger(&text, c, n_ctx);
    err_lines(buf_str(&text));
    buf_release(&text);
}

static void warn_of_context(struct chat *c, const struct generation *g, int percent)
{
    int64_t n_ctx = session_n_ctx(c->m.session);
    if (g->finish == FINISH_CONTEXT) {
        print_ways_on(c, n_ctx);
    } else if (percent >= WARN_AT_PERCENT && !c->warned) {
        char grow[64] = "";
        int64_t larger = chat_larger_context(c, 0);
        if (larger)
            snprintf(grow, sizeof grow, "/ctx %lld makes it larger, ", (long long)larger);
        note("the context is %d %% full: %lld tokens are left. %s/branch NAME and /trim make room, "
             "/clear begins anew", percent, (long long)(n_ctx - session_n_past(c->m.session)),
             grow);
    }
    c->warned = percent >= WARN_AT_PERCENT;
}

void chat_show_after(struct chat *c, const struct generation *g)
{
    int percent = context_percent(c);
    struct buf line = { 0 }, lines = { 0 };
    buf_printf(&line, "  %s%.1f tok/s · context %d %%",
               g->finish == FINISH_INTERRUPTED ? "stopped · " : "", generation_decode_rate(g),
               percent);
    if (g->drafted.n_accepted > 0 && draft_tokens_per_step(&g->drafted) >= FASTER)
        buf_printf(&line, " · %.2f tokens a step", draft_tokens_per_step(&g->drafted));
    if (c->joules > 0 && g->n_generated > 0)
        buf_printf(&line, " · %.1f J/token%s", c->joules / (double)g->n_generated,
                   *c->energy.reason ? " of the GPU" : "");
    buf_puts(&line, "\n");
    if (c->o->stats && g->times.n_steps > 0) {
        buf_puts(&line, "  ");
        why_line(&line, g);
        buf_puts(&line, "\n");
    }
    if (c->o->quiet == 0 && term_stderr())
        wrap_lines(&lines, buf_str(&line), max_of(term_columns() - 1, 8));
    if (c->o->quiet == 0 && (term_stderr() || c->o->stats))
        grey(buf_str(term_stderr() ? &lines : &line).data, (term_stderr() ? &lines : &line)->len);
    buf_release(&line);
    buf_release(&lines);
    if (g->finish == FINISH_LENGTH)
        note("(stopped at %lld tokens, -n)", (long long)g->n_generated);
    warn_of_context(c, g, percent);
}
