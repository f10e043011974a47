/* tandem sessions: what chats have left on disk. */
#include <stdio.h>

#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/export.h"
#include "src/cli/term.h"
#include "src/cli/width.h"

/* ---- list ---- */

static bool list_json(const struct store_summary *list, int n, struct error *err)
{
    struct json *all = js_array();
    for (int i = 0; i < n; i++) {
        struct json *j = js_object();
        js_set(j, "name", js_text(str_of(list[i].name)));
        js_set(j, "title", js_text(str_of(list[i].title)));
        js_set(j, "model", js_text(str_of(list[i].model)));
        js_set(j, "changed", js_int(list[i].changed_s));
        js_set(j, "exchanges", js_int(list[i].n_exchanges));
        js_set(j, "branches", js_int(list[i].n_branches));
        js_set(j, "talk_bytes", js_int((int64_t)list[i].talk_bytes));
        js_set(j, "cache_bytes", js_int((int64_t)list[i].cache_bytes));
        js_push(all, j);
    }
    return js_print(all, 2, err);
}

static bool list_text(const struct store_summary *list, int n, bool verbose, struct error *err)
{
    struct buf text = { 0 };
    char when[32], size[32];
    width_use_utf8();
    if (n == 0)
        note("no sessions yet: every chat on a terminal becomes one");
    for (int i = 0; i < n; i++) {
        export_time(when, list[i].changed_s);
        human_bytes((double)(list[i].talk_bytes + list[i].cache_bytes), size, sizeof size);
        size_t from = text.len;
        buf_printf(&text, "%-16s %s %4lld %9s  ", list[i].name, when, (long long)list[i].n_exchanges,
                   size);
        struct str title = export_title(list[i].title, (int)(text.len - from),
                                        term_stdout() && !verbose);
        term_escape_to(&text, title.data, title.len);
        if (verbose) {
            buf_puts(&text, "   (");
            term_escape_to(&text, list[i].model, strlen(list[i].model));
            buf_printf(&text, ", %d branch%s)", list[i].n_branches, list[i].n_branches == 1 ? "" : "es");
        }
        buf_puts(&text, "\n");
    }
    bool ok = buf_ok(&text, err) && (text.len == 0 || out_write(text.data, text.len, err));
    buf_release(&text);
    return ok;
}

static bool do_list(struct options *o, const char *const *names, int n_names, struct error *err)
{
    struct store_summary *list;
    int n;
    (void)names;
    if (n_names > 0)
        return fail(err, ERR_USAGE, "sessions list takes no name (sessions show %s)", names[0]);
    bool ok = store_list(&list, &n, err) &&
              (o->json ? list_json(list, n, err) : list_text(list, n, o->verbose > 0, err));
    mem_free(list);
    return ok;
}

/* ---- show, export, rm ---- */

static bool one_name(const char *const *names, int n, const char *verb, char name[STORE_NAME],
                     struct error *err)
{
    if (n != 1)
        return fail(err, ERR_USAGE, "sessions %s wants the name of one session", verb);
    return store_match(names[0], name, err);
}

static bool print_markdown(const struct store *s, bool escape, struct error *err)
{
    struct buf text = { 0 }, clean = { 0 };
    export_markdown(&text, s, store_current(s));
    bool ok = buf_ok(&text, err);
    if (ok && escape)
        ok = term_escape_to(&clean, text.data, text.len) || buf_ok(&clean, err);
    ok = ok && out_write(escape ? clean.data : text.data, escape ? clean.len : text.len, err);
    buf_release(&text);
    buf_release(&clean);
    return ok;
}

static bool do_show(struct options *o, const char *const *names, int n, struct error *err)
{
    char name[STORE_NAME];
    struct store s;
    if (!one_name(names, n, "show", name, err) || !store_look(&s, name, err))
        return false;
    bool ok = o->json ? js_print(export_json(&s), 2, err)
                      : print_markdown(&s, term_stdout(), err);
    store_close(&s);
    return ok;
}

static bool do_export(struct options *o, const char *const *names, int n, struct error *err)
{
    char name[STORE_NAME];
    struct store s;
    if (!o->output)
        return do_show(o, names, n, err);
    if (!one_name(names, n, "export", name, err) || !store_look(&s, name, err))
        return false;
    bool ok = export_file(&s, o->output, err);
    if (ok)
        note("wrote %s", o->output);
    store_close(&s);
    return ok;
}

static bool remove_one(const char *word, struct error *err)
{
    char name[STORE_NAME];
    struct store s;
    struct error why = { 0 };
    if (!store_match(word, name, err))
        return false;
    bool ok = store_open(&s, name, &why);
    if (!ok && why.code == ERR_FILE) /* damaged beyond reading: to be removed all the same */
        ok = store_claim(&s, name, err);
    else if (!ok)
        return fail(err, why.code, "%s", why.text);
    long long n = ok ? (long long)store_path(&s, store_current(&s), NULL) : 0;
    ok = ok && store_remove(&s, err);
    if (ok)
        note("removed \"%s\", %lld exchange%s", name, n, n == 1 ? "" : "s");
    return ok;
}

static bool do_remove(struct options *o, const char *const *names, int n, struct error *err)
{
    (void)o;
    bool ok = n > 0 || fail(err, ERR_USAGE, "sessions rm wants names of sessions");
    for (int i = 0; ok && i < n; i++)
        ok = remove_one(names[i], err);
    return ok;
}

bool cmd_sessions(struct options *o, struct error *err)
{
    static const struct {
        const char *name;
        bool (*run)(struct options *o, const char *const *names, int n, struct error *err);
    } verbs[] = { { "list", do_list }, { "show", do_show }, { "export", do_export },
                  { "rm", do_remove } };
    const char *names[ARRAY_LEN(verbs)];
    const char *verb = o->n_positional ? o->positional[0] : "list";
    if (o->json && !js_available(err))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        names[i] = verbs[i].name;
        if (strcmp(verb, names[i]) == 0)
            return verbs[i].run(o, o->positional + 1, max_of(0, o->n_positional - 1), err);
    }
    const char *near = nearest_name(verb, names, ARRAY_LEN(names));
    return fail(err, ERR_USAGE, "sessions %s: there are list, show, export and rm%s%s%s", verb,
                near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}
