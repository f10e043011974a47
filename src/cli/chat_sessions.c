#include "src/cli/chat_sessions.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/cli/chat_actions.h"
#include "src/cli/chat_keep.h"
#include "src/cli/editor.h"
#include "src/cli/export.h"
#include "src/cli/term.h"

#define MOST_RETRIES 16
#define MOST_NAMES 256

static struct store *store_of(struct chat *c)
{
    return &c->keep->store;
}

/* Say why something did not work; the chat goes on. */
static bool refuse(struct error *why)
{
    note_error("%s", why->text);
    error_clear(why);
    return true;
}

/* ---- sessions ---- */

bool chat_do_save(struct chat *c, const char *argument, struct error *err)
{
    struct error why = { 0 };
    char old[STORE_NAME];
    (void)err;
    memcpy(old, store_of(c)->name, sizeof old);
    if (!*argument && !store_of(c)->log.open) {
        note("this chat is not saved: /save NAME begins a session");
        return true;
    }
    if (*argument && strcmp(argument, old) != 0 && !keep_name(c, argument, &why))
        return refuse(&why);
    if (*old && *argument && strcmp(argument, old) != 0)
        note("saved \"%s\", which was \"%s\"", store_of(c)->name, old);
    else
        note("saved \"%s\"", store_of(c)->name);
    return true;
}

bool chat_do_load(struct chat *c, const char *argument, struct error *err)
{
    struct error why = { 0 };
    char name[STORE_NAME];
    if (!*argument) {
        note("/load NAME goes on with another session; /sessions lists them");
        return true;
    }
    if (!store_match(argument, name, &why))
        return refuse(&why);
    if (!keep_switch(c, name, err))
        return !err || err->code == ERR_NONE;
    keep_greet(c);
    return true;
}

bool chat_do_sessions(struct chat *c, const char *argument, struct error *err)
{
    struct store_summary *list;
    struct error why = { 0 };
    char when[32];
    int n;
    (void)argument, (void)err;
    if (!store_list(&list, &n, &why))
        return refuse(&why);
    for (int i = 0; i < n; i++) {
        export_time(when, list[i].changed_s);
        char row[160];
        int n_row = snprintf(row, sizeof row, "%c %-16s %s  %3lld exchange%s  ",
                             strcmp(list[i].name, store_of(c)->name) ? ' ' : '*', list[i].name, when,
                             (long long)list[i].n_exchanges, list[i].n_exchanges == 1 ? " " : "s");
        struct str title = export_title(list[i].title, n_row + 1, term_stderr());
        note("%s%.*s", row, (int)title.len, title.data);
    }
    if (n == 0)
        note("there are no sessions");
    mem_free(list);
    return true;
}

const char *const *chat_session_names(struct chat *c)
{
    static char names[MOST_NAMES][STORE_NAME];
    static const char *words[MOST_NAMES + 1];
    struct store_summary *list;
    int n = 0;
    (void)c;
    if (!store_list(&list, &n, NULL))
        n = 0;
    n = min_of(n, MOST_NAMES);
    for (int i = 0; i < n; i++) {
        memcpy(names[i], list[i].name, sizeof names[i]);
        words[i] = names[i];
    }
    words[n] = NULL;
    mem_free(list);
    return words;
}

/* ---- branches ---- */

/* "branch-2", or the next that is free. */
static void free_name(const struct store *s, const char *word, int first, char name[STORE_NAME])
{
    do
        snprintf(name, STORE_NAME, "%s-%d", word, first++);
    while (store_find_branch(s, name));
}

static void tell_branch(const struct chat *c, int64_t n_cached)
{
    note("branch \"%s\": %d exchange%s, %lld tokens of it are in the cache",
         store_current(&c->keep->store)->name, c->n_exchanges, c->n_exchanges == 1 ? "" : "s",
         (long long)n_cached);
}

bool chat_do_branch(struct chat *c, const char *argument, struct error *err)
{
    struct store *s = store_of(c);
    struct error why = { 0 };
    char name[STORE_NAME], here[STORE_NAME];
    int64_t n_cached;
    snprintf(name, sizeof name, "%.63s", argument);
    if (!*argument)
        free_name(s, "branch", max_of(2, s->n_branches + 1), name);
    else if (!store_check_name(argument, &why))
        return refuse(&why);
    keep_turn(c);
    const struct branch *old = store_find_branch(s, name), *now = store_current(s);
    if (old == now) {
        note("\"%s\" is the branch that you are on", name);
        return true;
    }
    memcpy(here, now->name, sizeof here);
    int64_t tip = old ? old->tip : now->tip, n_skipped = old ? old->n_skipped : now->n_skipped;
    if (!store_branch(s, name, tip, n_skipped, &why))
        refuse(&why); /* made all the same, only not on disk */
    if (!old) {
        note("a new branch \"%s\" begins here; /branch %s goes back", name, here);
        return true;
    }
    if (!keep_show_branch(c, &n_cached, err))
        return false;
    tell_branch(c, n_cached);
    return true;
}

/* The last question of a branch, which tells it from the others. */
static struct str last_question(const struct store *s, const struct branch *b)
{
    const struct node *n = store_node(s, b->tip);
    struct str text = n ? buf_str(&n->question) : (struct str){ "", 0 };
    text.len = strcspn(text.data, "\n");
    return text;
}

bool chat_do_branches(struct chat *c, const char *argument, struct error *err)
{
    struct store *s = store_of(c);
    (void)argument, (void)err;
    keep_turn(c);
    const struct branch *now = store_current(s);
    if (s->n_branches == 0)
        note("* main  (nothing was said yet)");
    for (int i = 0; i < s->n_branches; i++) {
        const struct branch *b = &s->branches[i];
        struct str last = last_question(s, b);
        long long n = (long long)store_path(s, b, NULL);
        note("%c %-16s %3lld exchange%s  %.*s", b == now ? '*' : ' ', b->name, n, n == 1 ? " " : "s",
             (int)min_of(last.len, (size_t)60), last.data);
    }
    return true;
}

const char *const *chat_branch_names(struct chat *c)
{
    static const char *words[MOST_NAMES + 1];
    struct store *s = store_of(c);
    int n = min_of(s->n_branches, MOST_NAMES);
    for (int i = 0; i < n; i++)
        words[i] = s->branches[i].name;
    words[n] = NULL;
    return words;
}

/* ---- what was said last ---- */

bool chat_do_undo(struct chat *c, const char *argument, struct error *err)
{
    (void)argument, (void)err;
    if (chat_drop_last(c))
        note("removed the last exchange; %lld tokens kept", (long long)chat_n_tokens(c));
    else
        note("nothing to undo");
    return true;
}

/* Take the last question out of the conversation; the caller releases it. */
static struct buf take_question(struct chat *c)
{
    struct buf question = c->exchanges[c->n_exchanges - 1].question;
    c->exchanges[c->n_exchanges - 1].question = (struct buf){ 0 };
    chat_drop_last(c);
    return question;
}

/* Answer once more, with another seed; the answer that was there stays in its branch when `branch`
 * names a new one. */
static bool answer_again(struct chat *c, const char *branch, struct error *err)
{
    struct store *s = store_of(c);
    struct error why = { 0 };
    struct buf question = take_question(c);
    int64_t tip = c->n_exchanges ? c->exchanges[c->n_exchanges - 1].node : 0;
    if (branch && !store_branch(s, branch, tip, store_current(s)->n_skipped, &why))
        refuse(&why);
    bool ok = loaded_reseed(&c->m, err) && chat_ask(c, buf_str(&question), err);
    buf_release(&question);
    return ok;
}

bool chat_do_retry(struct chat *c, const char *argument, struct error *err)
{
    char name[STORE_NAME], *end;
    long n = *argument ? strtol(argument, &end, 10) : 1;
    if (*argument && (*end || n < 1 || n > MOST_RETRIES)) {
        note("/retry, or /retry N for N more answers, at most %d", MOST_RETRIES);
        return true;
    }
    if (c->n_exchanges == 0) {
        note("nothing to retry");
        return true;
    }
    if (n == 1 && !*argument)
        return answer_again(c, NULL, err);
    bool ok = true;
    for (long i = 0; ok && i < n; i++) {
        int before = c->n_exchanges;
        keep_turn(c);
        free_name(store_of(c), "retry", 1, name);
        note("%s:", name);
        ok = answer_again(c, name, err);
        if (c->n_exchanges < before || c->last.finish == FINISH_INTERRUPTED)
            break;
    }
    if (ok)
        note("/branches lists all answers, /branch NAME goes on with one");
    return ok;
}

bool chat_do_edit(struct chat *c, const char *argument, struct error *err)
{
    struct error why = { 0 };
    struct buf text = { 0 };
    (void)argument;
    if (c->n_exchanges == 0) {
        note("nothing to edit");
        return true;
    }
    struct str old = buf_str(&c->exchanges[c->n_exchanges - 1].question);
    buf_add(&text, old.data, old.len);
    term_release();
    bool ok = editor_edit(&text, &why);
    term_hold();
    while (text.len && text.data[text.len - 1] == '\n')
        text.data[--text.len] = 0;
    bool same = text.len == old.len && memcmp(text.data, old.data, old.len) == 0;
    if (!ok || !text.len || same) {
        if (ok)
            note("%s", same ? "nothing was changed" : "an empty message is not sent");
        buf_release(&text);
        return ok || refuse(&why);
    }
    chat_drop_last(c);
    ok = chat_ask(c, buf_str(&text), err);
    buf_release(&text);
    return ok;
}

bool chat_do_export(struct chat *c, const char *argument, struct error *err)
{
    struct error why = { 0 };
    char path[4096];
    (void)err;
    if (!*argument) {
        note("/export FILE.md writes the conversation as Markdown, FILE.json all branches as JSON");
        return true;
    }
    keep_turn(c);
    chat_file_name(argument, path, sizeof path);
    if (!export_file(store_of(c), path, &why))
        return refuse(&why);
    note("wrote %s", path);
    return true;
}
