/* Twin of json.c for builds without libraries: says so. Callers ask js_available first, so the
 * constructors are never reached with anything to build. */
#include "src/cli/json.h"

bool js_available(struct error *err)
{
    return fail(err, ERR_USAGE,
                "JSON is left out of this build (made with LIBS=none; it needs jansson)");
}

struct json *js_object(void)
{
    return NULL;
}

struct json *js_array(void)
{
    return NULL;
}

struct json *js_text(struct str text)
{
    (void)text;
    return NULL;
}

struct json *js_int(int64_t value)
{
    (void)value;
    return NULL;
}

struct json *js_real(double value)
{
    (void)value;
    return NULL;
}

struct json *js_bool(bool value)
{
    (void)value;
    return NULL;
}

struct json *js_null(void)
{
    return NULL;
}

void js_free(struct json *j)
{
    (void)j;
}

void js_set(struct json *object, const char *key, struct json *child)
{
    (void)object, (void)key, (void)child;
}

void js_push(struct json *array, struct json *child)
{
    (void)array, (void)child;
}

bool js_take_text(struct json *j, int indent, struct buf *out, struct error *err)
{
    (void)j, (void)indent, (void)out;
    return js_available(err);
}

struct json *js_copy(const struct json *j)
{
    (void)j;
    return NULL;
}

bool js_print(struct json *j, int indent, struct error *err)
{
    (void)j, (void)indent;
    return js_available(err);
}

struct json *js_parse(struct str text, struct error *err)
{
    (void)text;
    js_available(err);
    return NULL;
}

const struct json *js_get(const struct json *object, const char *key)
{
    (void)object, (void)key;
    return NULL;
}

const struct json *js_at(const struct json *array, size_t index)
{
    (void)array, (void)index;
    return NULL;
}

bool js_is_array(const struct json *j)
{
    (void)j;
    return false;
}

bool js_is_object(const struct json *j)
{
    (void)j;
    return false;
}

size_t js_count(const struct json *j)
{
    (void)j;
    return 0;
}

bool js_as_text(const struct json *j, struct str *text)
{
    (void)j, (void)text;
    return false;
}

bool js_as_bool(const struct json *j, bool *value)
{
    (void)j, (void)value;
    return false;
}

bool js_is_null(const struct json *j)
{
    (void)j;
    return false;
}

bool js_as_int(const struct json *j, int64_t *value)
{
    (void)j, (void)value;
    return false;
}

bool js_as_real(const struct json *j, double *value)
{
    (void)j, (void)value;
    return false;
}

bool js_next(const struct json *object, struct js_cursor *at)
{
    (void)object, (void)at;
    return false;
}
