/* tandem chat: read a message, stream the answer, remember both. */
#include "src/cli/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "gpu/gpu.h"
#include "src/base/mem.h"
#include "src/cli/chat_actions.h"
#include "src/cli/chat_keep.h"
#include "src/cli/chat_show.h"
#include "src/cli/command.h"
#include "src/cli/heat.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/width.h"

/* ---- the conversation ------------------------------------------------------------------------ */

struct exchange *chat_add(struct chat *c, struct str question, struct error *err)
{
    if (c->n_exchanges == c->capacity) {
        int capacity = c->capacity ? 2 * c->capacity : 16;
        struct exchange *bigger =
            mem_resize(c->exchanges, (size_t)capacity, sizeof *bigger, "conversation", err);
        if (!bigger)
            return NULL;
        c->exchanges = bigger;
        c->capacity = capacity;
    }
    struct exchange *e = &c->exchanges[c->n_exchanges++];
    memset(e, 0, sizeof *e);
    buf_add(&e->question, question.data, question.len);
    if (buf_ok(&e->question, err))
        return e;
    chat_drop_last(c);
    return NULL;
}

static void release_exchange(struct exchange *e)
{
    buf_release(&e->question);
    buf_release(&e->answer);
}

int chat_drop_last(struct chat *c)
{
    if (c->n_exchanges == 0)
        return 0;
    release_exchange(&c->exchanges[--c->n_exchanges]);
    return 1;
}

int chat_drop_first(struct chat *c, int n)
{
    n = min_of(n, c->n_exchanges);
    for (int i = 0; i < n; i++)
        release_exchange(&c->exchanges[i]);
    c->n_exchanges -= n;
    if (n)
        memmove(c->exchanges, c->exchanges + n, (size_t)c->n_exchanges * sizeof *c->exchanges);
    return n;
}

bool chat_prompt(const struct chat *c, bool last_answer, struct tokens *ids, bool *in_thinking,
                 struct error *err)
{
    size_t n = 0;
    struct chat_message *messages = mem_alloc(2 * (size_t)c->n_exchanges + 1, sizeof *messages,
                                              "conversation", err);
    if (!messages)
        return false;
    if (c->system.len)
        messages[n++] = chat_text(ROLE_SYSTEM, buf_str(&c->system));
    for (int i = 0; i < c->n_exchanges; i++) {
        messages[n++] = chat_text(ROLE_USER, buf_str(&c->exchanges[i].question));
        if (last_answer || i + 1 < c->n_exchanges)
            messages[n++] =
                chat_text(ROLE_ASSISTANT, buf_str(&c->exchanges[i].answer));
    }
    bool ok = chat_render(c->m.format, c->m.tokenizer, messages, n, c->m.think, ids, NULL,
                          in_thinking, err);
    mem_free(messages);
    return ok;
}

int64_t chat_n_tokens(const struct chat *c)
{
    struct tokens ids = { 0 };
    if (c->n_exchanges)
        chat_prompt(c, true, &ids, NULL, NULL);
    int64_t n = (int64_t)ids.n;
    tokens_release(&ids);
    return n;
}

/* May the conversation go on after this failure? Said here, then forgotten. n: tokens that were to
 * be read; 0: not known. */
static bool survives(const struct chat *c, int64_t n, struct error *err)
{
    bool ok = err->code == ERR_USAGE || err->code == ERR_FIT || err->code == ERR_CHECK ||
              err->code == ERR_INTERRUPTED;
    if (!ok || out_broken())
        return false;
    if (err->code == ERR_INTERRUPTED)
        note("stopped before the answer began; the message was not kept");
    else
        note_error("%s", err->text);
    bool full = err->code == ERR_USAGE && n >= session_n_ctx(c->m.session);
    int64_t larger = full ? chat_larger_context(c, n) : 0;
    if (larger)
        note("/ctx %lld makes the context larger, and nothing is read again", (long long)larger);
    if (err->code == ERR_USAGE && c->n_exchanges)
        note("/trim drops the oldest exchange, /undo the last, /clear all");
    error_clear(err);
    return true;
}

bool chat_ask(struct chat *c, struct str question, struct error *err)
{
    struct tokens ids = { 0 };
    struct generation g = { 0 };
    struct chat_show show;
    struct generate_options go = {
        .n_predict = c->o->n_predict,
        .think_budget = c->think_budget,
        .stop = c->o->stop.items,
        .n_stop = c->o->stop.n,
        .sink = chat_show_piece,
        .ask = chat_show_ask,
        .sink_ctx = &show,
        .before = keep_before,
        .after = keep_after,
        .keep_ctx = c,
        .ways_follow = true,
    };
    struct exchange *e = chat_add(c, question, err);
    if (!e)
        return survives(c, 0, err);
    keep_asked(c);
    chat_show_begin(&show, c, &g);
    double joules = energy_read(&c->energy);
    bool ok = chat_prompt(c, false, &ids, &go.in_thinking, err) &&
              generate(&c->m, &ids, &go, &g, err);
    c->joules = energy_read(&c->energy) - joules;
    ok = chat_show_end(&show, ok, err) && ok;
    int64_t n = (int64_t)ids.n;
    tokens_release(&ids);
    if (ok) {
        e->answer = g.stored;
        g.stored = (struct buf){ 0 };
        generation_release(&c->last);
        c->last = g;
        c->answered = true;
        chat_show_after(c, &g);
        return true;
    }
    generation_release(&g);
    chat_drop_last(c);
    return survives(c, n, err);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* A message, or the parts of a block between lines of three quotes. */
static enum line_result read_message(struct buf *message, struct error *err)
{
    static const char quotes[] = "\"\"\"";
    const char *prompt = term_colour(STDERR_FILENO) ? "\001\033[1m\002> \001\033[0m\002" : "> ";
    struct buf line = { 0 };
    enum line_result result = line_read(prompt, message, err);
    bool block = result == LINE_TEXT && strncmp(buf_str(message).data, quotes, 3) == 0;
    if (block) {
        memmove(message->data, message->data + 3, message->len - 2);
        message->len -= 3;
        while (message->len < 3 || strcmp(message->data + message->len - 3, quotes) != 0) {
            result = line_read("... ", &line, err);
            if (result != LINE_TEXT)
                break;
            if (message->len)
                buf_puts(message, "\n");
            buf_puts(message, buf_str(&line).data);
        }
        if (result == LINE_END) /* the block ends with the input */
            result = LINE_TEXT;
        else if (result == LINE_TEXT)
            message->data[message->len -= 3] = 0;
    }
    buf_release(&line);
    while (result == LINE_TEXT && message->len && message->data[message->len - 1] == '\n')
        message->data[--message->len] = 0;
    return result;
}

static bool is_blank(const char *text)
{
    return text[strspn(text, " \t\r\n")] == 0;
}

/* One turn of the loop. */
static bool handle(struct chat *c, const struct buf *message, struct error *err)
{
    struct str text = buf_str(message);
    if (is_blank(text.data))
        return true;
    if (text.data[0] == '/' && text.data[1] != '/')
        return chat_command(c, text.data, err);
    if (text.data[0] == '/') /* a doubled slash sends one */
        text = (struct str){ text.data + 1, text.len - 1 };
    struct buf full = { 0 };
    bool ok = !chat_confirm(c, text) ||
              (chat_attach(c, text, &full, err) && chat_ask(c, buf_str(&full), err));
    buf_release(&full);
    return ok;
}

static bool converse(struct chat *c, const char *history, struct error *err)
{
    struct buf message = { 0 };
    bool ok = true;
    while (ok && !c->leave && !signals_leave()) {
        enum line_result result = read_message(&message, err);
        if (result == LINE_CLEARED) {
            if (!message.len)
                note("Ctrl-D or /quit leaves");
            continue;
        }
        if (result != LINE_TEXT) {
            ok = result != LINE_FAILED;
            break;
        }
        signals_new_input();
        line_history_add(buf_str(&message).data);
        if (history)
            line_history_save(history);
        ok = handle(c, &message, err);
        keep_turn(c);
        signals_rearm(); /* here alone: a Ctrl-C between Enter and the answer is meant for that */
    }
    buf_release(&message);
    return ok;
}

static bool start(struct chat *c, const char *path, struct error *err)
{
    const struct options *o = c->o;
    c->think_budget = o->think_budget == UNSET ? -1 : o->think_budget;
    c->show_thinking = (enum show_thinking)o->show_thinking;
    if (c->show_thinking == THINKING_STDOUT)
        return fail(err, ERR_USAGE, "option --show-thinking: wants full, fold or off");
    if (c->show_thinking == THINKING_AUTO)
        c->show_thinking = term_stdout() && term_stderr() ? THINKING_FULL : THINKING_HIDDEN;
    if (!load_system(o, &c->system, err) || !loaded_open(&c->m, o, path, WANT_TEXT, UNSET, err))
        return false;
    if (!keep_begin(c, path, err) || !load_goes_on(err))
        return false;
    if (term_stdin() && term_stderr())
        keep_greet(c);
    return true;
}

static void on_more(void *ctx)
{
    chat_show_thought(ctx);
}

static void on_status(void *ctx)
{
    const struct chat *c = ctx;
    note("waiting for a message; %d exchange%s, context %d %% of %lld", c->n_exchanges,
         c->n_exchanges == 1 ? "" : "s",
         (int)(100 * session_n_past(c->m.session) / session_n_ctx(c->m.session)),
         (long long)session_n_ctx(c->m.session));
}

bool cmd_chat(struct options *o, struct error *err)
{
    char path[PATH_SIZE], history[PATH_SIZE];
    struct chat c = { .o = o };
    width_use_utf8();
    term_wrap(true);
    term_hold();
    energy_open(&c.energy, "");
    bool ok = heat_check(o, err) && keep_open(&c, err) && resolve_model(o, true, path, sizeof path, err) &&
              start(&c, path, err);
    if (ok && engine_gpu(c.m.engine))
        energy_add_gpu(&c.energy, getenv("TANDEM_NVML"), engine_gpu(c.m.engine)->pci);
    if (ok) {
        bool keep = !o->no_history && term_stdin() &&
                    path_state(history, sizeof history, "history");
        line_open(&(struct line_hooks){ chat_offers, on_more, on_status, &c });
        if (keep)
            line_history_load(history);
        if (o->prompt && term_stdin())
            note("> %s", o->prompt);
        if (o->prompt)
            ok = chat_ask(&c, str_of(o->prompt), err);
        keep_turn(&c);
        if (o->prompt)
            signals_rearm();
        ok = ok && converse(&c, keep ? history : NULL, err);
        line_close();
    }
    ok = heat_keep(c.m.engine, o, ok, err);
    term_release();
    keep_close(&c);
    term_wrap(false);
    while (chat_drop_last(&c))
        ;
    mem_free(c.exchanges);
    generation_release(&c.last);
    buf_release(&c.system);
    buf_release(&c.attached);
    energy_close(&c.energy);
    loaded_close(&c.m);
    return ok;
}
