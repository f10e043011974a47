#include "src/cli/chat_keep.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/prefix_cache.h"
#include "src/cli/term.h"
#include "src/engine/prefix_file.h"

#define CACHE_SLACK ((uint64_t)64 << 20)
#define CHECK_BYTES ((uint64_t)256 << 20) /* a cache that grew so much may be too much for the disk */

/* ---- trouble ---- */

/* From here on the chat is in memory alone. */
static void give_up(struct chat *c, struct error *why)
{
    note_error("the session cannot be saved: %s; the chat goes on unsaved", why->text);
    store_log_close(&c->keep->store.log);
    prefix_file_close(c->keep->file);
    c->keep->file = NULL;
    c->keep->saves = false;
    error_clear(why);
}

static void drop_file(struct chat *c, const char *reason)
{
    note("the session's cache is not kept: %s", reason);
    prefix_file_close(c->keep->file);
    c->keep->file = NULL;
}

/* ---- the cache ---- */


static void cache_path(const struct chat *c, char path[PATH_SIZE])
{
    snprintf(path, PATH_SIZE, "%.*s/cache", PATH_SIZE - 8, c->keep->store.folder);
}

static void open_cache(struct chat *c)
{
    struct keep *k = c->keep;
    char path[PATH_SIZE];
    struct error why = { 0 };
    snprintf(path, sizeof path, "%.*s/cache.new", PATH_SIZE - 16, k->store.folder);
    unlink(path); /* of a program that was killed */
    cache_path(c, path);
    prefix_file_close(k->file);
    if (prefix_file_open(&k->file, path, c->m.session, &why))
        return;
    if (why.code != ERR_FILE || unlink(path) != 0) {
        drop_file(c, why.text);
        return;
    }
    if (store_path(&k->store, store_current(&k->store), NULL) > 0)
        note("what was computed for this session is of another model, or damaged: the conversation "
             "is read again");
    error_clear(&why);
    if (!prefix_file_open(&k->file, path, c->m.session, &why))
        drop_file(c, why.text);
}

/* Bring what the file holds of these tokens. False: the user stopped it. */
static bool restore(struct chat *c, const struct tokens *ids, int64_t *n_read, struct error *err)
{
    struct keep *k = c->keep;
    struct restore_progress progress = { .label = "resuming" };
    struct error why = { 0 };
    bool was_damaged = k->file && prefix_file_damaged(k->file);
    *n_read = 0;
    if (!k->file)
        return true;
    bool ok = prefix_file_restore(k->file, c->m.session, ids->ids, (int64_t)ids->n, n_read,
                                  restore_progress, &progress, &why);
    restore_progress_end(&progress);
    if (!ok && why.code == ERR_INTERRUPTED)
        return error_set(err, why.code, why.file, why.line, "%s", why.text);
    if (!ok)
        drop_file(c, why.text);
    else if (prefix_file_damaged(k->file) && !was_damaged)
        note("part of what was computed for this session is damaged: that is read again");
    return true;
}

static void save_cache(struct chat *c)
{
    struct keep *k = c->keep;
    struct error why = { 0 };
    struct memory_report r;
    if (!k->file || !c->m.session)
        return;
    session_memory(c->m.session, &r);
    double used = (double)session_n_past(c->m.session) / (double)session_n_ctx(c->m.session);
    uint64_t now = (uint64_t)((double)r.cache_bytes * used);
    if (k->store.log.open && prefix_file_bytes(k->file) + now > k->checked_bytes + CHECK_BYTES) {
        k->checked_bytes = prefix_file_bytes(k->file) + now;
        if (!store_make_room(&k->store, k->checked_bytes)) {
            drop_file(c, "the disk is too full");
            return;
        }
    }
    if (!prefix_file_save(k->file, c->m.session, 2 * now + CACHE_SLACK, &why))
        drop_file(c, why.text);
}

bool keep_before(void *ctx, const struct tokens *prompt, struct error *err)
{
    int64_t n_read;
    return restore(ctx, prompt, &n_read, err);
}

void keep_after(void *ctx)
{
    save_cache(ctx);
}

/* ---- from the store to the chat ---- */

bool keep_show_branch(struct chat *c, int64_t *n_cached, struct error *err)
{
    const struct store *s = &c->keep->store;
    const struct branch *b = store_current(s);
    struct tokens ids = { 0 };
    int64_t n = store_path(s, b, NULL), n_read;
    int64_t *path = mem_alloc((size_t)n, sizeof *path, "conversation", err);
    bool ok = path != NULL;
    *n_cached = 0;
    c->keep->shown = false;
    chat_drop_first(c, c->n_exchanges);
    if (path)
        store_path(s, b, path);
    for (int64_t i = 0; ok && i < n; i++) {
        const struct node *node = store_node(s, path[i]);
        struct exchange *e = chat_add(c, buf_str(&node->question), err);
        ok = e != NULL;
        if (!ok)
            break;
        e->node = path[i];
        buf_add(&e->answer, buf_str(&node->answer).data, node->answer.len);
        ok = buf_ok(&e->answer, err);
    }
    mem_free(path);
    c->keep->shown = ok;
    c->answered = c->warned = false;
    if (ok && c->n_exchanges) {
        struct error why = { 0 };
        ok = chat_prompt(c, true, &ids, NULL, err);
        if (ok && !restore(c, &ids, &n_read, &why))
            note("stopped: the rest of the conversation is read again with the next message");
        const int32_t *held = session_tokens(c->m.session);
        int64_t most = min_of(session_n_past(c->m.session), (int64_t)ids.n);
        while (*n_cached < most && held[*n_cached] == ids.ids[*n_cached])
            ++*n_cached;
    }
    tokens_release(&ids);
    return ok;
}

static const char *const think_names[] = {
    [THINK_DEFAULT] = "", [THINK_OFF] = "off", [THINK_ON] = "on", [THINK_HIGH] = "high",
    [THINK_MAX] = "max",
};

static void take_settings(struct chat *c)
{
    const struct options *o = c->o;
    const struct store *s = &c->keep->store;
    struct str system = buf_str(&s->settings[SET_SYSTEM]);
    const char *think = buf_str(&s->settings[SET_THINK]).data;
    if (system.len && !o->system && !o->system_file) {
        buf_clear(&c->system);
        buf_add(&c->system, system.data, system.len);
    }
    if (!*think || o->think != THINK_DEFAULT || o->think_budget != UNSET ||
        !chat_format_thinks(c->m.format))
        return;
    long long budget = strtoll(think, NULL, 10);
    enum think_mode mode = budget > 0 ? THINK_ON : THINK_DEFAULT;
    for (int i = THINK_OFF; i <= THINK_MAX; i++)
        mode = strcmp(think, think_names[i]) == 0 ? (enum think_mode)i : mode;
    if (mode == THINK_DEFAULT)
        return;
    c->m.think = mode;
    c->m.thinks = mode != THINK_OFF;
    c->think_budget = budget > 0 ? budget : -1;
}

/* A question that was never answered, when the program was killed meanwhile. */
static void tell_unanswered(const struct chat *c)
{
    const struct node *n = store_node(&c->keep->store, store_current(&c->keep->store)->tip);
    if (n && !n->answered)
        note("the last message was not answered: %.60s", buf_str(&n->question).data);
}

static bool take_session(struct chat *c, struct error *err)
{
    struct keep *k = c->keep;
    double start = now_s();
    take_settings(c);
    open_cache(c);
    if (k->store.n_lost)
        note("the session is damaged: %llu bytes of it were left out",
             (unsigned long long)k->store.n_lost);
    bool ok = keep_show_branch(c, &k->n_read, err);
    k->read_s = now_s() - start;
    return ok;
}

/* ---- from the chat to the store ---- */

static bool begin_folder(struct chat *c, const char *name, struct error *err)
{
    struct keep *k = c->keep;
    if (!store_set(&k->store, SET_AUTOMATIC, str_of(name ? "" : "yes"), err) ||
        !store_create(&k->store, name, err))
        return false;
    k->fresh = k->saves = true;
    open_cache(c);
    return true;
}

static bool note_settings(struct chat *c, struct error *err)
{
    struct store *s = &c->keep->store;
    char think[32];
    snprintf(think, sizeof think, "%s", think_names[c->m.think]);
    if (c->m.think == THINK_ON && c->think_budget > 0)
        snprintf(think, sizeof think, "%lld", (long long)c->think_budget);
    return store_set(s, SET_MODEL, str_of(c->keep->path), err) &&
           store_set(s, SET_DESCRIPTION, str_of(c->m.description), err) &&
           store_set(s, SET_SYSTEM, buf_str(&c->system), err) &&
           store_set(s, SET_THINK, str_of(think), err);
}

/* Questions that are not in the tree yet, answers that are new, and where the branch ends. */
static bool note_exchanges(struct chat *c, bool last_answered, struct error *err)
{
    struct store *s = &c->keep->store;
    int64_t parent = 0;
    bool ok = true;
    for (int i = 0; ok && i < c->n_exchanges; i++) {
        struct exchange *e = &c->exchanges[i];
        bool last = i + 1 == c->n_exchanges;
        if (!e->node)
            ok = store_ask(s, parent, buf_str(&e->question), &e->node, err);
        const struct node *n = store_node(s, e->node);
        if (n && !n->answered && (!last || last_answered)) {
            bool known = last && c->answered;
            ok = store_answer(s, e->node, buf_str(&e->answer),
                              known ? buf_str(&c->last.thinking) : (struct str){ "", 0 },
                              known ? c->last.n_generated : 0, err) && ok;
        }
        parent = e->node;
    }
    const struct branch *b = store_current(s);
    int64_t n_skipped = c->n_exchanges ? store_depth(s, c->exchanges[0].node) - 1 : 0;
    if (ok && (b->tip != parent || b->n_skipped != n_skipped))
        ok = store_branch(s, b->name, parent, n_skipped, err);
    return ok;
}

void keep_asked(struct chat *c)
{
    struct keep *k = c->keep;
    struct error why = { 0 };
    bool ok = note_settings(c, &why);
    if (ok && k->saves && !k->store.log.open)
        ok = begin_folder(c, NULL, &why);
    if (!(ok && note_exchanges(c, false, &why)))
        give_up(c, &why);
}

void keep_turn(struct chat *c)
{
    struct error why = { 0 };
    if (!c->keep->shown)
        return;
    if (!note_settings(c, &why) || !note_exchanges(c, true, &why))
        give_up(c, &why);
    save_cache(c);
}

/* ---- open and close ---- */

bool keep_open(struct chat *c, struct error *err)
{
    struct options *o = c->o;
    char name[STORE_NAME];
    if (o->session && o->go_on)
        return fail(err, ERR_USAGE, "both --session and --continue are given");
    if (o->no_save && (o->session || o->go_on))
        return fail(err, ERR_USAGE, "--no-save contradicts %s",
                    o->session ? "--session" : "--continue");
    struct keep *k = mem_alloc(1, sizeof *k, "session", err);
    if (!k)
        return false;
    c->keep = k;
    k->shown = true;
    k->saves = !o->no_save && (o->session || o->go_on || term_stdin());
    if (o->go_on ? !store_latest(name, err) : o->session && !store_check_name(o->session, err))
        return false;
    const char *wanted = o->go_on ? name : o->session;
    if (!wanted || !store_exists(wanted))
        return true;
    if (!store_open(&k->store, wanted, err))
        return false;
    k->shown = false;
    const char *model = buf_str(&k->store.settings[SET_MODEL]).data;
    if (!o->model_given && *model && access(model, F_OK) == 0)
        o->model = model;
    return true;
}

bool keep_begin(struct chat *c, const char *path, struct error *err)
{
    struct keep *k = c->keep;
    char whole[PATH_SIZE];
    snprintf(k->path, sizeof k->path, "%s", realpath(path, whole) ? whole : path);
    if (*k->store.name)
        return take_session(c, err);
    return !c->o->session || begin_folder(c, c->o->session, err);
}

void keep_greet(const struct chat *c)
{
    const struct keep *k = c->keep;
    if (k->fresh || !*k->store.name) {
        note("%s · context %lld · /help", c->m.description, (long long)session_n_ctx(c->m.session));
        return;
    }
    note("%s · resumed \"%s\", %lld tokens, %.1f s · /help", c->m.description, k->store.name,
         (long long)k->n_read, k->read_s);
    tell_unanswered(c);
}

/* Write what is left and let the session go; an empty folder of ours goes, too. */
static void leave(struct chat *c)
{
    struct keep *k = c->keep;
    if (k->store.log.open && c->m.session && k->shown) {
        keep_turn(c);
        prefix_file_close(k->file);
        k->file = NULL;
        if (k->fresh && k->store.n_nodes == 0)
            store_remove(&k->store, NULL);
        else if (k->store.log.open && term_stdin() && term_stderr())
            note("saved \"%s\"", k->store.name);
    }
    prefix_file_close(k->file);
    k->file = NULL;
    store_close(&k->store);
}

void keep_close(struct chat *c)
{
    if (c->keep)
        leave(c);
    mem_free(c->keep);
    c->keep = NULL;
}

bool keep_switch(struct chat *c, const char *name, struct error *err)
{
    struct keep *k = c->keep;
    struct store other;
    struct error why = { 0 };
    if (*k->store.name && strcmp(name, k->store.name) == 0) {
        note("\"%s\" is the session that is open", name);
        return false;
    }
    if (!store_open(&other, name, &why)) {
        note_error("%s", why.text);
        return false;
    }
    leave(c);
    k->store = other;
    k->store.log.path = k->store.path;
    k->saves = true;
    k->fresh = false;
    k->checked_bytes = 0;
    buf_clear(&c->system);
    return take_session(c, err);
}

bool keep_name(struct chat *c, const char *name, struct error *err)
{
    struct keep *k = c->keep;
    if (!k->store.log.open)
        return store_check_name(name, err) && begin_folder(c, name, err);
    if (!store_rename(&k->store, name, err))
        return false;
    open_cache(c);
    return store_set(&k->store, SET_AUTOMATIC, (struct str){ "", 0 }, err);
}
