#include "tools/hf_fields.h"

#include <math.h>

bool field_int(const struct json *j, const char *key, int64_t low, int64_t high,
               int64_t fallback, int64_t *value, struct error *err)
{
    const struct json *field = js_get(j, key);
    double real;
    *value = fallback;
    if (!field || js_is_null(field))
        return fallback != REQUIRED_FIELD || fail(err, ERR_FILE, "config.json: %s: missing", key);
    if (!js_as_int(field, value)) {
        if (!js_as_real(field, &real) || real != floor(real) || fabs(real) > 1e15)
            return fail(err, ERR_FILE, "config.json: %s: not a whole number", key);
        *value = (int64_t)real;
    }
    return (*value >= low && *value <= high) ||
           fail(err, ERR_FILE, "config.json: %s: %lld, expected %lld to %lld", key,
                (long long)*value, (long long)low, (long long)high);
}

bool field_real(const struct json *j, const char *key, double low, double high, double fallback,
                double *value, struct error *err)
{
    const struct json *field = js_get(j, key);
    *value = fallback;
    if (!field || js_is_null(field))
        return !isnan(fallback) || fail(err, ERR_FILE, "config.json: %s: missing", key);
    if (!js_as_real(field, value))
        return fail(err, ERR_FILE, "config.json: %s: not a number", key);
    return (*value >= low && *value <= high) ||
           fail(err, ERR_FILE, "config.json: %s: %g, expected %g to %g", key, *value, low, high);
}

bool field_bool(const struct json *j, const char *key, bool fallback, bool *value,
                struct error *err)
{
    const struct json *field = js_get(j, key);
    *value = fallback;
    return !field || js_is_null(field) || js_as_bool(field, value) ||
           fail(err, ERR_FILE, "config.json: %s: not true or false", key);
}

bool field_text_is(const struct json *j, const char *key, const char *words, struct error *err)
{
    const struct json *field = js_get(j, key);
    struct str text;
    if (!field || js_is_null(field))
        return true;
    if (!js_as_text(field, &text))
        return fail(err, ERR_FILE, "config.json: %s: not a text", key);
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (text.len == n && memcmp(at, text.data, n) == 0)
            return true;
        at += n;
    }
    return fail(err, ERR_FILE, "config.json: %s: \"%.*s\", expected one of: %s", key,
                (int)min_of(text.len, (size_t)40), text.data, words);
}

bool field_bool_is(const struct json *j, const char *key, bool wanted, struct error *err)
{
    bool value;
    return field_bool(j, key, wanted, &value, err) &&
           (value == wanted || fail(err, ERR_FILE, "config.json: %s: %s is not supported", key,
                                    value ? "true" : "false"));
}
