#include "src/cli/export.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/output_file.h"
#include "src/cli/term.h"
#include "src/cli/width.h"

void export_time(char text[32], int64_t time_s)
{
    time_t t = (time_t)time_s;
    struct tm here;
    if (!localtime_r(&t, &here) || strftime(text, 32, "%Y-%m-%d %H:%M", &here) == 0)
        snprintf(text, 32, "?");
}

struct str export_title(const char *title, int column, bool on_terminal)
{
    int room = max_of(term_columns() - column, 16);
    return on_terminal ? width_cut(str_of(title), room) : str_of(title);
}

/* ---- Markdown ---- */

static void add_section(struct buf *out, const char *title, struct str text)
{
    while (text.len && strchr("\n\r ", text.data[text.len - 1]))
        text.len--;
    while (text.len && strchr("\n\r", text.data[0]))
        text = (struct str){ text.data + 1, text.len - 1 };
    buf_printf(out, "\n## %s\n\n", title);
    buf_add(out, text.data, text.len);
    buf_puts(out, "\n");
}

/* Numbers of the branch's nodes; *n -1 without memory. */
static int64_t *path_of(const struct store *s, const struct branch *b, int64_t *n)
{
    *n = store_path(s, b, NULL);
    int64_t *ids = mem_alloc((size_t)*n, sizeof *ids, "conversation", NULL);
    if (ids)
        store_path(s, b, ids);
    return ids;
}

void export_markdown(struct buf *out, const struct store *s, const struct branch *b)
{
    char when[32];
    int64_t n, *ids = path_of(s, b, &n);
    if (!ids) {
        out->out_of_memory = true;
        return;
    }
    buf_printf(out, "# %s%s%s\n\n", *s->name ? s->name : "conversation",
               s->n_branches > 1 ? ", branch " : "", s->n_branches > 1 ? b->name : "");
    export_time(when, n ? store_node(s, ids[n - 1])->time_s : 0);
    if (n)
        buf_printf(out, "%s, %s\n", buf_str(&s->settings[SET_DESCRIPTION]).data, when);
    if (s->settings[SET_SYSTEM].len)
        add_section(out, "System", buf_str(&s->settings[SET_SYSTEM]));
    for (int64_t i = 0; i < n; i++) {
        add_section(out, "Question", buf_str(&store_node(s, ids[i])->question));
        add_section(out, "Answer", buf_str(&store_node(s, ids[i])->answer));
    }
    mem_free(ids);
}

/* ---- JSON ---- */

static struct json *message(const char *role, struct str content, int64_t time_s)
{
    struct json *j = js_object();
    js_set(j, "role", js_text(str_of(role)));
    js_set(j, "content", js_text(content));
    js_set(j, "time", js_int(time_s));
    return j;
}

static struct json *messages_of(const struct store *s, const struct branch *b)
{
    int64_t n, *ids = path_of(s, b, &n);
    struct json *list = js_array();
    for (int64_t i = 0; ids && i < n; i++) {
        const struct node *node = store_node(s, ids[i]);
        struct json *answer = message("assistant", buf_str(&node->answer), node->time_s);
        if (node->thinking.len)
            js_set(answer, "thinking", js_text(buf_str(&node->thinking)));
        js_set(answer, "tokens", js_int(node->n_tokens));
        js_push(list, message("user", buf_str(&node->question), node->time_s));
        js_push(list, answer);
    }
    mem_free(ids);
    return list;
}

struct json *export_json(const struct store *s)
{
    struct json *j = js_object(), *branches = js_array();
    js_set(j, "name", js_text(str_of(s->name)));
    js_set(j, "model", js_text(buf_str(&s->settings[SET_DESCRIPTION])));
    js_set(j, "system", s->settings[SET_SYSTEM].len ? js_text(buf_str(&s->settings[SET_SYSTEM]))
                                                    : js_null());
    js_set(j, "branch", js_text(str_of(store_current(s)->name)));
    js_set(j, "messages", messages_of(s, store_current(s)));
    for (int i = 0; i < s->n_branches; i++) {
        struct json *b = js_object();
        js_set(b, "name", js_text(str_of(s->branches[i].name)));
        js_set(b, "messages", messages_of(s, &s->branches[i]));
        js_push(branches, b);
    }
    js_set(j, "branches", branches);
    return j;
}

/* ---- files ---- */

static bool is_json(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

bool export_file(const struct store *s, const char *path, struct error *err)
{
    struct output_file file = { .fd = -1 };
    struct buf text = { 0 };
    if (access(path, F_OK) == 0)
        return fail(err, ERR_USAGE, "%s exists already", path);
    if (is_json(path) && !js_available(err))
        return false;
    if (is_json(path)) {
        struct json *j = export_json(s);
        js_write(&text, j);
        buf_puts(&text, "\n");
        js_free(j);
    } else {
        export_markdown(&text, s, store_current(s));
    }
    bool ok = buf_ok(&text, err) && output_open(&file, path, err);
    if (ok)
        ok = output_close(&file, output_write(&file, text.data, text.len, err), err);
    buf_release(&text);
    return ok;
}
