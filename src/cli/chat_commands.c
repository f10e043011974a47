/* What a line with a slash in front does in a chat. One row per command. */
#include <stdio.h>
#include <stdlib.h>

#include "cpu/features.h"
#include "gpu/gpu.h"
#include "src/cli/chat_actions.h"
#include "src/cli/chat_sessions.h"
#include "src/cli/drafting.h"
#include "src/cli/options.h"
#include "src/cli/styled.h"
#include "src/cli/term.h"
#include "src/cli/repair.h"

static bool do_help(struct chat *c, const char *argument, struct error *err);

static bool do_system(struct chat *c, const char *argument, struct error *err)
{
    if (!*argument) {
        note("system prompt: %s", c->system.len ? c->system.data : "none");
        return true;
    }
    buf_clear(&c->system);
    if (strcmp(argument, "-") != 0)
        buf_puts(&c->system, argument);
    note("%s", c->system.len ? "system prompt set" : "no system prompt");
    return buf_ok(&c->system, err);
}

/* What thinking is now. */
static void note_thinking(const struct chat *c)
{
    static const char *const modes[] = { "on", "off", "on", "high", "max" };
    enum think_mode mode = c->m.think == THINK_DEFAULT && !c->m.thinks ? THINK_OFF : c->m.think;
    if (c->m.thinks && c->think_budget > 0)
        note("thinking is %s, at most %lld tokens", modes[mode], (long long)c->think_budget);
    else
        note("thinking is %s", modes[mode]);
}

/* By the reader of --think, into a copy: what the command line said stays known. */
static bool do_think(struct chat *c, const char *argument, struct error *err)
{
    struct options asked = *c->o;
    struct error why = { 0 };
    (void)err;
    if (!chat_format_thinks(c->m.format)) {
        note("this model's chat format (%s) has no switch for thinking",
             chat_format_name(c->m.format));
        return true;
    }
    if (*argument && !options_set(&asked, CMD_CHAT, "think", argument, &why)) {
        note("%s", why.text);
        return true;
    }
    if (*argument) {
        loaded_think(&c->m, (enum think_mode)asked.think);
        c->think_budget = asked.think_budget == UNSET ? -1 : asked.think_budget;
    }
    note_thinking(c);
    return true;
}

static bool do_clear(struct chat *c, const char *argument, struct error *err)
{
    (void)argument, (void)err;
    chat_drop_first(c, c->n_exchanges);
    session_truncate(c->m.session, 0);
    c->warned = false;
    note("the conversation starts anew");
    return true;
}

static bool do_trim(struct chat *c, const char *argument, struct error *err)
{
    (void)err;
    long n = *argument ? strtol(argument, NULL, 10) : 1;
    int gone = chat_drop_first(c, n > 0 && n < 1000000 ? (int)n : 0);
    if (gone)
        note("removed the first %d; %d left", gone, c->n_exchanges);
    else
        note(c->n_exchanges ? "/trim N wants a number of exchanges" : "nothing to trim");
    return true;
}

static bool do_stats(struct chat *c, const char *argument, struct error *err)
{
    (void)argument, (void)err;
    const struct generation *g = &c->last;
    struct memory_report r = { 0 };
    char mapped[32], copied[32], cache[32], work[32], split[48] = "", line[200];
    session_memory(c->m.session, &r);
    note("model     %s, chat format %s (%s)", c->m.description, chat_format_name(c->m.format),
         c->m.format_why);
    if (engine_nodes(c->m.engine) > 1)
        snprintf(split, sizeof split, " on %d memory nodes", engine_nodes(c->m.engine));
    note("machine   %d threads%s, %s", engine_threads(c->m.engine), split,
         cpu_isa_name(engine_isa(c->m.engine)));
    if (engine_gpu(c->m.engine))
        note("GPU       %s: %s of weights, the cache and working memory",
             engine_gpu(c->m.engine)->name, human_bytes((double)r.gpu_bytes, work, sizeof work));
    char experts[192];
    if (*experts_text(&c->m, experts, sizeof experts))
        note("experts   %s", experts);
    if (handoff_line(c->m.engine, line, sizeof line))
        note("hand-off  %s", line);
    struct draft_report guesses;
    struct buf drafting = { 0 };
    session_draft_report(c->m.session, &guesses);
    drafting_line(&drafting, &guesses);
    if (drafting.len)
        note("guesses   %s", drafting.data);
    buf_release(&drafting);
    note("memory    weights %s mapped, %s copied; cache %s; working memory %s",
         human_bytes((double)r.mapped_bytes, mapped, sizeof mapped),
         human_bytes((double)r.copied_bytes, copied, sizeof copied),
         human_bytes((double)r.cache_bytes, cache, sizeof cache),
         human_bytes((double)r.work_bytes, work, sizeof work));
    note("sampling  temperature %g, top-k %d, top-p %g, min-p %g, seed %llu",
         (double)c->m.sampling.temperature, c->m.sampling.top_k, (double)c->m.sampling.top_p,
         (double)c->m.sampling.min_p, (unsigned long long)c->m.sampling.seed);
    if (c->answered)
        note("answer    read %lld tokens at %.0f tok/s (%lld were in the cache), wrote %lld at "
             "%.1f tok/s, %lld of them thinking",
             (long long)(g->n_prompt - g->n_reused), generation_prefill_rate(g),
             (long long)g->n_reused, (long long)g->n_generated, generation_decode_rate(g),
             (long long)g->n_thinking);
    return true;
}

static bool do_quit(struct chat *c, const char *argument, struct error *err)
{
    (void)argument, (void)err;
    c->leave = true;
    return true;
}

/* What Tab offers behind a command's name. */
enum argument { NO_ARGUMENT, FREE_TEXT, FILE_NAME, SESSION_NAME, BRANCH_NAME, THINK_MODE,
                SETTING, CONTEXT_SIZE };

static const struct {
    const char *name, *argument, *help; /* help NULL: another name for a row above */
    bool (*run)(struct chat *c, const char *argument, struct error *err);
    enum argument kind;
} table[] = {
    { "/help", "", "this list", do_help, NO_ARGUMENT },
    { "/set", "[NAME [VALUE]]", "show or change options of sampling and display", chat_do_set,
      SETTING },
    { "/read", "FILE", "put a file behind the next message", chat_do_read, FILE_NAME },
    { "/copy", "", "the last answer into the clipboard", chat_do_copy, NO_ARGUMENT },
    { "/system", "[TEXT]", "show or set the system prompt; - removes it", do_system, FREE_TEXT },
    { "/think", "[MODE]", "thinking: on, off, high, max, or at most N tokens", do_think,
      THINK_MODE },
    { "/retry", "[N]", "answer the last question again; N times, each a branch", chat_do_retry,
      FREE_TEXT },
    { "/undo", "", "forget the last exchange", chat_do_undo, NO_ARGUMENT },
    { "/edit", "", "the last question in an editor, then ask it", chat_do_edit, NO_ARGUMENT },
    { "/trim", "[N]", "forget the first exchange, or the first N", do_trim, FREE_TEXT },
    { "/clear", "", "forget the whole conversation", do_clear, NO_ARGUMENT },
    { "/branch", "[NAME]", "go on in a new branch, or in one that exists", chat_do_branch,
      BRANCH_NAME },
    { "/branches", "", "list the branches", chat_do_branches, NO_ARGUMENT },
    { "/save", "[NAME]", "name the session", chat_do_save, FREE_TEXT },
    { "/load", "NAME", "go on with another session", chat_do_load, SESSION_NAME },
    { "/sessions", "", "list the sessions", chat_do_sessions, NO_ARGUMENT },
    { "/export", "FILE", "write the conversation as Markdown, FILE.json as JSON", chat_do_export,
      FILE_NAME },
    { "/ctx", "[N]", "how full the context is; N: another size, without reading again", chat_do_ctx,
      CONTEXT_SIZE },
    { "/stats", "", "model, memory, sampling, speed of the last answer", do_stats, NO_ARGUMENT },
    { "/why", "", "where the time of the last answer went", chat_do_why, NO_ARGUMENT },
    { "/plan", "", "what lies where, and how fast that should be", chat_do_plan, NO_ARGUMENT },
    { "/heat", "[FILE]", "how often each expert was picked; into FILE.csv or FILE.svg", chat_do_heat,
      FILE_NAME },
    { "/quit", "", "leave, as Ctrl-D does", do_quit, NO_ARGUMENT },
    { "/exit", NULL, NULL, do_quit, NO_ARGUMENT },
    { "/bye", NULL, NULL, do_quit, NO_ARGUMENT },
};

const char *chat_command_at(int index, bool *shown)
{
    if (index < 0 || index >= (int)ARRAY_LEN(table))
        return NULL;
    *shown = table[index].help != NULL;
    return table[index].name;
}

const char *chat_command_about(int index, const char **argument, const char **help)
{
    bool shown;
    const char *name = chat_command_at(index, &shown);
    *argument = name ? table[index].argument : NULL;
    *help = name ? table[index].help : NULL;
    return name;
}

/* Names of the commands that help shows, ended by NULL. */
static const char *const *command_names(int *n)
{
    static const char *names[ARRAY_LEN(table) + 1];
    *n = 0;
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].help)
            names[(*n)++] = table[i].name;
    names[*n] = NULL;
    return names;
}

/* The row of the command at the start of a line, -1: none. */
static int find_row(const char *line)
{
    size_t len = strcspn(line, " \t\n");
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (strlen(table[i].name) == len && memcmp(table[i].name, line, len) == 0)
            return (int)i;
    return -1;
}

void chat_offers(void *ctx, const char *line, int from, struct line_offer *offer)
{
    static const char *const modes[] = { "on", "off", "high", "max", NULL };
    struct chat *c = ctx;
    int n, row;
    if (line[0] != '/')
        return;
    if (from == 0) {
        offer->words = command_names(&n);
        return;
    }
    row = find_row(line);
    if (row < 0)
        return;
    offer->files = table[row].kind == FILE_NAME;
    if (table[row].kind == THINK_MODE)
        offer->words = modes;
    if (table[row].kind == SETTING && from == (int)strlen("/set "))
        offer->words = chat_set_names();
    if (table[row].kind == SESSION_NAME)
        offer->words = chat_session_names(c);
    if (table[row].kind == CONTEXT_SIZE)
        offer->words = chat_context_sizes(c);
    if (table[row].kind == BRANCH_NAME)
        offer->words = chat_branch_names(c);
}

/* One row of the help, the words of its text below each other in a narrow window. */
static void add_help(struct buf *out, const char *name, const char *argument, const char *help,
                     int columns)
{
    struct margins margins = { 0 };
    struct styled text = { 0 };
    char first[32], rest[32];
    bool narrow = columns < 60;
    if (narrow)
        buf_printf(out, "  %s %s\n", name, argument);
    snprintf(first, sizeof first, "  %-9s %-14s ", narrow ? "" : name, narrow ? "" : argument);
    snprintf(rest, sizeof rest, "%*s", narrow ? 4 : (int)strlen(first), "");
    margins_push(&margins, narrow ? rest : first, rest);
    styled_add(&text, str_of(help), 0);
    styled_wrap(out, &text, &margins, columns, false, PALETTE_PLAIN);
    styled_release(&text);
}

static bool do_help(struct chat *c, const char *argument, struct error *err)
{
    static const char *const keys[] = {
        "Enter sends. Several lines: paste them, Alt-Enter, between lines of \"\"\", Ctrl-G for an "
        "editor.",
        "Ctrl-R searches the history, Ctrl-T shows or folds the thinking.",
        "Ctrl-C stops an answer and keeps it; // sends a line that begins with a slash.",
    };
    struct buf out = { 0 };
    int columns = max_of(term_columns() - 1, 20);
    (void)c, (void)argument;
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].help)
            add_help(&out, table[i].name, table[i].argument, table[i].help, columns);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        struct margins margins = { 0 };
        struct styled text = { 0 };
        margins_push(&margins, "  ", "  ");
        styled_add(&text, str_of(keys[i]), 0);
        styled_wrap(&out, &text, &margins, columns, false, PALETTE_PLAIN);
        styled_release(&text);
    }
    bool ok = buf_ok(&out, err);
    if (ok)
        err_write(buf_str(&out).data, out.len);
    buf_release(&out);
    return ok;
}

/* Run a row with what stands behind the command's name, without blanks around it: Tab leaves one. */
static bool run_row(int row, struct chat *c, const char *text, struct error *err)
{
    struct buf argument = { 0 };
    text += strspn(text, " \t\n");
    size_t len = strlen(text);
    while (len > 0 && strchr(" \t\n", text[len - 1]))
        len--;
    buf_add(&argument, text, len);
    bool ok = buf_ok(&argument, err) && table[row].run(c, buf_str(&argument).data, err);
    buf_release(&argument);
    return ok;
}

bool chat_command(struct chat *c, const char *line, struct error *err)
{
    size_t len = strcspn(line, " \t\n");
    int row = find_row(line), n;
    if (row >= 0)
        return run_row(row, c, line + len, err);
    char word[32] = "";
    memcpy(word, line, min_of(len, sizeof word - 1));
    const char *const *names = command_names(&n);
    const char *near = nearest_name(word, names, n);
    if (near)
        note("unknown command %s (did you mean %s?)", word, near);
    else
        note("unknown command %s (/help lists them; // sends a literal slash)", word);
    return true;
}
