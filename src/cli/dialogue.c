#include "src/cli/dialogue.h"

#include <stdio.h>

#include "src/cli/buf.h"

/* Where the reader stands, for its messages. */
struct reader {
    struct dialogue *d;
    const char *path;
    size_t message; /* from 1; 0: not in one */
    struct error *err;
};

static bool refuse(const struct reader *r, const char *what)
{
    if (r->message == 0)
        return fail(r->err, ERR_FILE, "%s: %s", r->path, what);
    return fail(r->err, ERR_FILE, "%s: message %zu: %s", r->path, r->message, what);
}

/* A copy that lives as long as the dialogue; releases the buffer. */
static bool keep(struct reader *r, struct buf *text, struct str *out)
{
    bool ok = buf_ok(text, r->err);
    struct str s = buf_str(text);
    char *copy = ok ? arena_strndup(&r->d->arena, s.data, s.len, r->err) : NULL;
    *out = (struct str){ copy, s.len };
    buf_release(text);
    return copy != NULL;
}

/* ---- tools ---- */

/* Functions, one to a line, as the model is shown them. */
static bool read_tools(struct reader *r, const struct json *list, struct str *out)
{
    struct buf lines = { 0 };
    if (js_is_object(list))
        list = js_get(list, "tools");
    if (!js_is_array(list))
        return refuse(r, "tools: expected a list of functions");
    for (size_t i = 0; i < js_count(list); i++) {
        const struct json *f = js_at(list, i), *inner = js_get(f, "function");
        struct str name;
        f = inner ? inner : f;
        if (!js_is_object(f) || !js_as_text(js_get(f, "name"), &name)) {
            buf_release(&lines);
            return refuse(r, "tools: expected functions with a \"name\"");
        }
        buf_puts(&lines, i ? "\n" : "");
        js_write(&lines, f);
    }
    r->d->has_tools = r->d->has_tools || lines.len > 0;
    return keep(r, &lines, out);
}

/* {"type": "json_schema", "json_schema": {"schema": ...}}, or the schema itself. */
static bool read_schema(struct reader *r, const struct json *format, struct str *out)
{
    struct buf text = { 0 };
    const struct json *wrapped = js_get(format, "json_schema");
    const struct json *schema = wrapped ? js_get(wrapped, "schema") : NULL;
    if (!js_is_object(format))
        return refuse(r, "response_format: expected an object");
    js_write(&text, schema ? schema : wrapped ? wrapped : format);
    return keep(r, &text, out);
}

/* ---- messages ---- */

static bool read_content(struct reader *r, const struct json *j, struct str *out)
{
    struct buf parts = { 0 };
    *out = (struct str){ "", 0 };
    if (!j || js_is_null(j) || js_as_text(j, out))
        return true;
    if (!js_is_array(j))
        return refuse(r, "content: expected text, null or a list of parts");
    for (size_t i = 0; i < js_count(j); i++) {
        struct str type = { "", 0 }, text;
        buf_puts(&parts, i ? "\n\n" : "");
        js_as_text(js_get(js_at(j, i), "type"), &type);
        if (js_as_text(js_get(js_at(j, i), "text"), &text))
            buf_add(&parts, text.data, text.len);
        else
            buf_printf(&parts, "[Unsupported %.*s]", (int)min_of(type.len, (size_t)64), type.data);
    }
    return keep(r, &parts, out);
}

/* The JSON text of an object's members; other text is one argument of its own. A function without
 * parameters may be called without any. */
static bool read_arguments(struct reader *r, const struct json *j, struct chat_call *call)
{
    struct str text = { "", 0 };
    struct json *parsed = NULL;
    if (!j || js_is_null(j))
        return true;
    if (js_as_text(j, &text))
        j = parsed = js_parse(text, NULL);
    else if (!js_is_object(j))
        return refuse(r, "tool_calls: arguments: expected an object, or its text");
    size_t n = js_is_object(j) ? js_count(j) : 1;
    struct chat_argument *list = arena_alloc(&r->d->arena, max_of(n, (size_t)1), sizeof *list,
                                             r->err);
    bool ok = list != NULL;
    struct js_cursor at = { 0 };
    for (size_t i = 0; ok && js_is_object(j) && i < n && js_next(j, &at); i++) {
        struct buf name = { 0 }, value = { 0 };
        struct str as_text;
        list[i].is_text = js_as_text(at.value, &as_text);
        if (list[i].is_text)
            buf_add(&value, as_text.data, as_text.len);
        else
            js_write(&value, at.value);
        buf_puts(&name, at.key);
        ok = keep(r, &name, &list[i].name);
        ok = keep(r, &value, &list[i].value) && ok;
    }
    if (ok && !js_is_object(j))
        list[0] = (struct chat_argument){ str_of("arguments"), text, true };
    js_free(parsed);
    call->arguments = list;
    call->n_arguments = n;
    return ok;
}

static bool read_calls(struct reader *r, const struct json *list, struct chat_message *m)
{
    if (!list || js_is_null(list))
        return true;
    if (!js_is_array(list))
        return refuse(r, "tool_calls: expected a list");
    size_t n = js_count(list);
    struct chat_call *calls = arena_alloc(&r->d->arena, max_of(n, (size_t)1), sizeof *calls, r->err);
    for (size_t i = 0; calls && i < n; i++) {
        const struct json *j = js_at(list, i), *f = js_get(j, "function");
        f = f ? f : j;
        js_as_text(js_get(j, "id"), &calls[i].id);
        if (!js_as_text(js_get(f, "name"), &calls[i].name))
            return refuse(r, "tool_calls: a call without a name");
        if (!read_arguments(r, js_get(f, "arguments"), &calls[i]))
            return false;
    }
    m->calls = calls;
    m->n_calls = n;
    return calls != NULL;
}

static bool read_role(struct reader *r, const struct json *j, enum chat_role *out)
{
    static const struct {
        const char *name;
        enum chat_role role;
    } roles[] = {
        { "system", ROLE_SYSTEM }, { "user", ROLE_USER }, { "assistant", ROLE_ASSISTANT },
        { "developer", ROLE_DEVELOPER }, { "tool", ROLE_TOOL }, { "latest_reminder", ROLE_REMINDER },
    };
    struct str name;
    for (size_t i = 0; js_as_text(js_get(j, "role"), &name) && i < ARRAY_LEN(roles); i++) {
        *out = roles[i].role;
        if (str_is(name, roles[i].name))
            return true;
    }
    return refuse(r, "role: expected system, user, assistant, developer, tool or latest_reminder");
}

static bool read_message(struct reader *r, const struct json *j, struct chat_message *m)
{
    struct str task;
    bool open = false;
    const struct json *tools = js_get(j, "tools"), *format = js_get(j, "response_format");
    if (!read_role(r, j, &m->role) || !read_content(r, js_get(j, "content"), &m->content) ||
        !read_calls(r, js_get(j, "tool_calls"), m))
        return false;
    js_as_text(js_get(j, "reasoning_content"), &m->reasoning);
    js_as_text(js_get(j, "tool_call_id"), &m->call_id);
    if (js_as_bool(js_get(j, "prefix"), &open))
        m->is_open = open;
    if (js_as_text(js_get(j, "task"), &task) &&
        !(m->task = arena_strndup(&r->d->arena, task.data, task.len, r->err)))
        return false;
    return (!tools || js_is_null(tools) || read_tools(r, tools, &m->tools)) &&
           (!format || js_is_null(format) || read_schema(r, format, &m->schema));
}

/* ---- all ---- */

static struct json *read_file(struct reader *r, const char *path)
{
    struct buf text = { 0 };
    struct error why = { 0 };
    struct json *j = NULL;
    r->path = path;
    if (js_available(r->err) && buf_read_file(&text, path, r->err) && buf_ok(&text, r->err)) {
        j = js_parse(buf_str(&text), &why);
        if (!j)
            refuse(r, why.text);
    }
    buf_release(&text);
    return j;
}

/* Put what stands beside the messages onto the first system message. */
static void attach(struct dialogue *d, struct str tools, struct str schema)
{
    size_t at = 0;
    if (tools.len == 0 && schema.len == 0)
        return;
    while (at < d->n && d->messages[at].role != ROLE_SYSTEM)
        at++;
    if (at == d->n) {
        memmove(d->messages + 1, d->messages, d->n * sizeof *d->messages);
        d->messages[at = 0] = chat_text(ROLE_SYSTEM, (struct str){ "", 0 });
        d->n++;
    }
    struct chat_message *m = &d->messages[at];
    m->tools = tools.len ? tools : m->tools;
    m->schema = schema.len ? schema : m->schema;
}

bool dialogue_open(struct dialogue *d, const struct options *o, const struct json *talk,
                   struct str system, struct str prompt, struct error *err)
{
    struct reader r = { .d = d, .path = "the batch", .err = err };
    struct str tools = { "", 0 }, schema = { "", 0 };
    const struct json *list = NULL, *beside = NULL, *format = NULL;
    *d = (struct dialogue){ 0 };
    if (!talk && o->messages && !(talk = d->files[0] = read_file(&r, o->messages)))
        return false;
    if (talk) {
        list = js_is_array(talk) ? talk : js_get(talk, "messages");
        beside = js_get(talk, "tools");
        format = js_get(talk, "response_format");
        if (!js_is_array(list))
            return refuse(&r, "expected a list of messages, or an object with \"messages\"");
    }
    size_t n = js_count(list), room = n + 3;
    d->messages = arena_alloc(&d->arena, room, sizeof *d->messages, err);
    if (!d->messages)
        return false;
    if (system.len > 0)
        d->messages[d->n++] = chat_text(ROLE_SYSTEM, system);
    for (size_t i = 0; i < n; i++) {
        r.message = i + 1;
        if (!read_message(&r, js_at(list, i), &d->messages[d->n++]))
            return false;
    }
    r.message = 0;
    if (prompt.len > 0)
        d->messages[d->n++] = chat_text(ROLE_USER, prompt);
    bool ok = (!beside || js_is_null(beside) || read_tools(&r, beside, &tools)) &&
              (!format || js_is_null(format) || read_schema(&r, format, &schema));
    if (ok && o->tools)
        ok = (d->files[1] = read_file(&r, o->tools)) && read_tools(&r, d->files[1], &tools);
    if (ok)
        attach(d, tools, schema);
    return ok;
}

void dialogue_close(struct dialogue *d)
{
    js_free(d->files[0]);
    js_free(d->files[1]);
    arena_release(&d->arena);
    *d = (struct dialogue){ 0 };
}

/* ---- calls ---- */

/* An argument that is no JSON after all is taken for text. */
static void write_arguments(struct buf *out, const struct chat_call *c)
{
    buf_puts(out, "{");
    for (size_t i = 0; i < c->n_arguments; i++) {
        const struct chat_argument *a = &c->arguments[i];
        struct json *name = js_text(a->name), *text = js_text(a->value), *list = NULL;
        if (!a->is_text) { /* any value is one within a list */
            struct buf wrapped = { 0 };
            buf_puts(&wrapped, "[");
            buf_add(&wrapped, a->value.data, a->value.len);
            buf_puts(&wrapped, "]");
            list = js_parse(buf_str(&wrapped), NULL);
            buf_release(&wrapped);
        }
        buf_puts(out, i ? ", " : "");
        js_write(out, name);
        buf_puts(out, ": ");
        js_write(out, js_count(list) == 1 ? js_at(list, 0) : text);
        js_free(name);
        js_free(text);
        js_free(list);
    }
    buf_puts(out, "}");
}

struct json *dialogue_calls_json(const struct chat_reply *r)
{
    struct json *list = js_array();
    for (size_t i = 0; i < r->n_calls; i++) {
        struct json *call = js_object(), *function = js_object();
        struct buf text = { 0 };
        char id[32];
        snprintf(id, sizeof id, "call_%zu", i + 1);
        write_arguments(&text, &r->calls[i]);
        js_set(function, "name", js_text(r->calls[i].name));
        js_set(function, "arguments", js_text(buf_str(&text)));
        js_set(call, "id", js_text(str_of(id)));
        js_set(call, "type", js_text(str_of("function")));
        js_set(call, "function", function);
        js_push(list, call);
        buf_release(&text);
    }
    return list;
}

void dialogue_write_calls(struct buf *out, const struct chat_reply *r)
{
    for (size_t i = 0; i < r->n_calls; i++) {
        struct json *name = js_text(r->calls[i].name);
        buf_puts(out, "{\"name\": ");
        js_write(out, name);
        buf_puts(out, ", \"arguments\": ");
        write_arguments(out, &r->calls[i]);
        buf_puts(out, "}\n");
        js_free(name);
    }
}
