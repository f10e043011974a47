#include "src/cli/json.h"

#include <jansson.h>
#include <math.h>

#include "src/base/mem.h"
#include "src/cli/term.h"
#include "src/cli/repair.h"

/* A value under construction that could not be made; js_print reports it and starts afresh. */
static bool incomplete;

/* struct json is never defined: a handle is a json_t under another name. */
static json_t *in(const struct json *j)
{
    return (json_t *)(uintptr_t)j;
}

static struct json *made(json_t *j)
{
    incomplete = incomplete || !j;
    return (struct json *)j;
}

static void *take(size_t bytes)
{
    return mem_alloc(bytes, 1, "JSON", NULL);
}

bool js_available(struct error *err)
{
    (void)err;
    json_set_alloc_funcs(take, mem_free);
    return true;
}

struct json *js_object(void)
{
    js_available(NULL);
    return made(json_object());
}

struct json *js_array(void)
{
    js_available(NULL);
    return made(json_array());
}

struct json *js_text(struct str text)
{
    struct buf clean = { 0 };
    buf_add_repaired(&clean, text);
    struct str s = buf_str(&clean);
    struct json *j = made(clean.out_of_memory ? NULL : json_stringn(s.data, s.len));
    buf_release(&clean);
    return j;
}

struct json *js_int(int64_t value)
{
    return made(json_integer(value));
}

struct json *js_real(double value)
{
    return made(isfinite(value) ? json_real(value) : json_null());
}

struct json *js_bool(bool value)
{
    return made(json_boolean(value));
}

struct json *js_null(void)
{
    return made(json_null());
}

void js_free(struct json *j)
{
    json_decref(in(j));
}

void js_set(struct json *object, const char *key, struct json *child)
{
    if (json_object_set_new_nocheck(in(object), key, in(child)) != 0)
        incomplete = true;
}

void js_push(struct json *array, struct json *child)
{
    if (json_array_append_new(in(array), in(child)) != 0)
        incomplete = true;
}

static int collect(const char *bytes, size_t len, void *ctx)
{
    buf_add(ctx, bytes, len);
    return 0;
}

bool js_take_text(struct json *j, int indent, struct buf *out, struct error *err)
{
    bool ok = !incomplete && j;
    incomplete = false;
    ok = ok && json_dump_callback(in(j), collect, out,
                                  JSON_INDENT((size_t)indent) | JSON_REAL_PRECISION(9)) == 0;
    json_decref(in(j));
    buf_puts(out, "\n");
    return (ok && !out->out_of_memory) || fail(err, ERR_FIT, "out of memory: JSON");
}

bool js_print(struct json *j, int indent, struct error *err)
{
    struct buf text = { 0 };
    bool ok = js_take_text(j, indent, &text, err) && out_write(text.data, text.len, err);
    buf_release(&text);
    return ok;
}

struct json *js_copy(const struct json *j)
{
    return made(json_deep_copy(in(j)));
}

struct json *js_parse(struct str text, struct error *err)
{
    json_error_t where;
    js_available(NULL);
    json_t *j = json_loadb(text.data, text.len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &where);
    if (!j)
        fail(err, ERR_FILE, "JSON: %s (line %d, column %d)", where.text, where.line, where.column);
    return (struct json *)j;
}

const struct json *js_get(const struct json *object, const char *key)
{
    return (const struct json *)json_object_get(in(object), key);
}

const struct json *js_at(const struct json *array, size_t index)
{
    return (const struct json *)json_array_get(in(array), index);
}

bool js_is_array(const struct json *j)
{
    return json_is_array(in(j));
}

bool js_is_object(const struct json *j)
{
    return json_is_object(in(j));
}

size_t js_count(const struct json *j)
{
    return json_is_object(in(j)) ? json_object_size(in(j)) : json_array_size(in(j));
}

bool js_as_text(const struct json *j, struct str *text)
{
    if (!json_is_string(in(j)))
        return false;
    *text = (struct str){ json_string_value(in(j)), json_string_length(in(j)) };
    return true;
}

bool js_as_bool(const struct json *j, bool *value)
{
    if (!json_is_boolean(in(j)))
        return false;
    *value = json_is_true(in(j));
    return true;
}

bool js_is_null(const struct json *j)
{
    return json_is_null(in(j));
}

bool js_as_int(const struct json *j, int64_t *value)
{
    if (!json_is_integer(in(j)))
        return false;
    *value = json_integer_value(in(j));
    return true;
}

bool js_as_real(const struct json *j, double *value)
{
    if (!json_is_number(in(j)))
        return false;
    *value = json_number_value(in(j));
    return true;
}

bool js_next(const struct json *object, struct js_cursor *at)
{
    at->place = at->place ? json_object_iter_next(in(object), at->place)
                          : json_object_iter(in(object));
    if (!at->place)
        return false;
    at->key = json_object_iter_key(at->place);
    at->value = (const struct json *)json_object_iter_value(at->place);
    return true;
}
