/* Each schema becomes one expression, written into a buffer; definitions become rules when a $ref
 * first asks for them. */
#include "src/cli/json_schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "src/cli/json_range.h"
#include "src/text/grammar.h"

#define DEPTH_MAX 60       /* schemas within schemas, 3 groups of the grammar each at most */
#define DEFINITIONS_MAX 512
#define PROPERTIES_MAX 5000 /* of one object: each is three rules of the grammar */
#define COUNT_MAX GRAMMAR_REPEAT

enum {
    TYPE_OBJECT = 1, TYPE_ARRAY = 2, TYPE_STRING = 4, TYPE_INTEGER = 8, TYPE_NUMBER = 16,
    TYPE_BOOLEAN = 32, TYPE_NULL = 64, TYPE_ALL = 127
};

static const struct {
    const char *name;
    unsigned type;
} types[] = {
    { "object", TYPE_OBJECT }, { "array", TYPE_ARRAY }, { "string", TYPE_STRING },
    { "integer", TYPE_INTEGER }, { "number", TYPE_NUMBER }, { "boolean", TYPE_BOOLEAN },
    { "null", TYPE_NULL },
};

/* What is known, and the type that a keyword speaks of. 0: none. */
static const struct {
    const char *name;
    unsigned type;
    bool alone; /* stands without keywords that also restrict */
} keywords[] = {
    { "type", 0, false }, { "enum", 0, false }, { "const", 0, true }, { "anyOf", 0, true },
    { "oneOf", 0, true }, { "$ref", 0, true },
    { "properties", TYPE_OBJECT, false }, { "required", TYPE_OBJECT, false },
    { "additionalProperties", TYPE_OBJECT, false },
    { "items", TYPE_ARRAY, false }, { "minItems", TYPE_ARRAY, false },
    { "maxItems", TYPE_ARRAY, false },
    { "minLength", TYPE_STRING, false }, { "maxLength", TYPE_STRING, false },
    { "minimum", TYPE_INTEGER, false }, { "maximum", TYPE_INTEGER, false },
    { "exclusiveMinimum", TYPE_INTEGER, false }, { "exclusiveMaximum", TYPE_INTEGER, false },
};

static const char *const annotations[] = {
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs",
    "definitions", "deprecated", "readOnly", "writeOnly",
};

static const char common_rules[] =
    "ws ::= (\" \" | \"\\n\" \" \"{0,8})?\n"
    "hex ::= [0-9a-fA-F]\n"
    "char ::= [^\"\\\\\\x00-\\x1F\\x7F] | \"\\\\\" ([\"\\\\/bfnrt] | "
    "\"u\" ([0-9abcefABCEF] hex{3} | [dD] [0-7] hex{2}))\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "integer ::= \"-\"? (\"0\" | [1-9] [0-9]{0,15})\n"
    "number ::= integer (\".\" [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    "value ::= object | array | string | number | boolean | null\n"
    "member ::= string ws \":\" ws value\n"
    "object ::= \"{\" ws (member (ws \",\" ws member)* ws)? \"}\"\n"
    "array ::= \"[\" ws (value (ws \",\" ws value)* ws)? \"]\"\n";

struct writer {
    const struct json *root;
    const struct json *definitions[DEFINITIONS_MAX]; /* rule def-i */
    int n_definitions;
    int n_objects;
    int depth;
    struct buf rules; /* finished ones, beside the expression being written */
    char path[256];   /* of the schema being read, for messages */
    struct error *err;
};

static bool write_schema(struct writer *w, const struct json *s, struct buf *out);

#define wrong(w, ...) wrong_at(w, __LINE__, __VA_ARGS__)
static bool wrong_at(struct writer *w, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool wrong_at(struct writer *w, int line, const char *format, ...)
{
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return error_set(w->err, ERR_USAGE, __FILE__, line, "JSON schema at %s: %s",
                     w->path, message);
}

/* Write the schema below; the path grows meanwhile. */
static bool write_below(struct writer *w, const struct json *s, struct buf *out, const char *step)
{
    size_t len = strlen(w->path);
    snprintf(w->path + len, sizeof w->path - len, "/%s", step);
    bool ok = write_schema(w, s, out);
    w->path[len] = 0;
    return ok;
}

/* ---- constants ------------------------------------------------------------------------------- */

/* Text of a literal of the grammar, without its quotes. */
static void put_literal(struct buf *out, struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.data[i];
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7F)
            buf_printf(out, "\\x%02X", c);
        else
            buf_add(out, s.data + i, 1);
    }
}

/* The constant as models were trained to write it. */
static void write_constant(const struct json *j, struct buf *out)
{
    struct buf json = { 0 };
    js_write(&json, j);
    buf_puts(out, "\"");
    put_literal(out, buf_str(&json));
    buf_puts(out, "\"");
    out->out_of_memory = out->out_of_memory || json.out_of_memory;
    buf_release(&json);
}

static unsigned type_of(const struct json *j)
{
    struct str text;
    int64_t i;
    double x;
    bool b;
    return js_is_object(j)         ? TYPE_OBJECT
         : js_is_array(j)          ? TYPE_ARRAY
         : js_as_text(j, &text)    ? TYPE_STRING
         : js_as_int(j, &i)        ? TYPE_INTEGER | TYPE_NUMBER
         : js_as_real(j, &x)       ? (x == floor(x) ? TYPE_INTEGER | TYPE_NUMBER : TYPE_NUMBER)
         : js_as_bool(j, &b)       ? TYPE_BOOLEAN
                                   : TYPE_NULL;
}

static bool write_enum(struct writer *w, const struct json *values, unsigned allowed,
                       struct buf *out)
{
    int n = 0;
    if (!js_is_array(values))
        return wrong(w, "enum must be an array");
    for (size_t i = 0; i < js_count(values); i++) {
        if (!(type_of(js_at(values, i)) & allowed))
            continue;
        buf_puts(out, n++ ? " | " : "(");
        write_constant(js_at(values, i), out);
    }
    buf_puts(out, ")");
    return n > 0 || wrong(w, "enum has no value of the type wanted");
}

/* ---- numbers --------------------------------------------------------------------------------- */

static bool read_bound(struct writer *w, const struct json *s, const char *name, int64_t more,
                       bool lower, int64_t *bound)
{
    const struct json *j = js_get(s, name);
    int64_t value;
    if (!j)
        return true;
    if (!js_as_int(j, &value) || value < -INTEGER_MAX || value > INTEGER_MAX)
        return wrong(w, "%s must be an integer of at most 16 digits", name);
    value += more;
    *bound = lower ? max_of(*bound, value) : min_of(*bound, value);
    return true;
}

static bool write_integer(struct writer *w, const struct json *s, struct buf *out)
{
    int64_t low = -INTEGER_MAX, high = INTEGER_MAX;
    if (!read_bound(w, s, "minimum", 0, true, &low) ||
        !read_bound(w, s, "exclusiveMinimum", 1, true, &low) ||
        !read_bound(w, s, "maximum", 0, false, &high) ||
        !read_bound(w, s, "exclusiveMaximum", -1, false, &high))
        return false;
    if (low > high)
        return wrong(w, "no integer lies between minimum and maximum");
    if (low == -INTEGER_MAX && high == INTEGER_MAX)
        buf_puts(out, "integer");
    else
        integers_between(out, low, high);
    return true;
}

/* ---- strings, arrays, objects ---------------------------------------------------------------- */

/* *max stays -1 where nothing limits. */
static bool read_counts(struct writer *w, const struct json *s, const char *min_name,
                        const char *max_name, int64_t *min, int64_t *max)
{
    const struct json *least = js_get(s, min_name), *most = js_get(s, max_name);
    *min = 0;
    *max = -1;
    if (least && (!js_as_int(least, min) || *min < 0 || *min > COUNT_MAX))
        return wrong(w, "%s must be an integer from 0 to %d", min_name, COUNT_MAX);
    if (most && (!js_as_int(most, max) || *max < 0 || *max > COUNT_MAX))
        return wrong(w, "%s must be an integer from 0 to %d", max_name, COUNT_MAX);
    return *max < 0 || *min <= *max || wrong(w, "%s is above %s", min_name, max_name);
}

static void put_counts(struct buf *out, int64_t min, int64_t max)
{
    if (max < 0)
        buf_printf(out, "{%lld,}", (long long)min);
    else
        buf_printf(out, "{%lld,%lld}", (long long)min, (long long)max);
}

static bool write_string(struct writer *w, const struct json *s, struct buf *out)
{
    int64_t min, max;
    if (!read_counts(w, s, "minLength", "maxLength", &min, &max))
        return false;
    buf_puts(out, "(\"\\\"\" char");
    put_counts(out, min, max);
    buf_puts(out, " \"\\\"\")");
    return true;
}

static bool write_array(struct writer *w, const struct json *s, struct buf *out)
{
    int64_t min, max;
    const struct json *items = js_get(s, "items");
    if (!read_counts(w, s, "minItems", "maxItems", &min, &max))
        return false;
    if (max == 0) {
        buf_puts(out, "(\"[\" ws \"]\")");
        return true;
    }
    int item = w->n_objects++;
    struct buf rule = { 0 };
    buf_printf(&rule, "item-%d ::= ", item);
    bool ok = true;
    if (items)
        ok = write_below(w, items, &rule, "items");
    else
        buf_puts(&rule, "value");
    buf_printf(&rule, "\n");
    buf_add(&w->rules, buf_str(&rule).data, rule.len);
    w->rules.out_of_memory |= rule.out_of_memory;
    buf_release(&rule);
    buf_printf(out, "(\"[\" ws (item-%d (ws \",\" ws item-%d)", item, item);
    put_counts(out, max_of(min - 1, 0), max < 0 ? -1 : max - 1);
    buf_printf(out, " ws)%s \"]\")", min == 0 ? "?" : "");
    return ok;
}

static bool is_required(const struct json *required, const char *name)
{
    for (size_t i = 0; i < js_count(required); i++) {
        struct str text;
        if (js_as_text(js_at(required, i), &text) && str_is(text, name))
            return true;
    }
    return false;
}

static bool check_required(struct writer *w, const struct json *required,
                           const struct json *properties)
{
    if (required && !js_is_array(required))
        return wrong(w, "required must be an array of names");
    for (size_t i = 0; i < js_count(required); i++) {
        struct str name;
        if (!js_as_text(js_at(required, i), &name))
            return wrong(w, "required must be an array of names");
        if (!js_get(properties, name.data) || strlen(name.data) != name.len)
            return wrong(w, "required names %.60s, which is not in properties", name.data);
    }
    return true;
}

/* Object k with members in the order of the schema: rule member-k-i is the i-th, rest-k-i what may
 * follow where a member stands in front, first-k-i where none does. */
static bool write_members(struct writer *w, const struct json *properties,
                          const struct json *required, int k, struct buf *rules)
{
    struct js_cursor at = { 0 };
    int i = 0;
    if (js_count(properties) > PROPERTIES_MAX)
        return wrong(w, "%zu properties, at most %d are supported", js_count(properties),
                     PROPERTIES_MAX);
    for (; js_next(properties, &at); i++) {
        bool must = is_required(required, at.key);
        struct buf key = { 0 };
        js_write_text(&key, str_of(at.key));
        buf_printf(rules, "member-%d-%d ::= \"", k, i);
        put_literal(rules, buf_str(&key));
        rules->out_of_memory |= key.out_of_memory;
        buf_release(&key);
        buf_puts(rules, "\" ws \":\" ws ");
        if (!write_below(w, at.value, rules, at.key))
            return false;
        buf_printf(rules, "\nrest-%d-%d ::= (ws \",\" ws member-%d-%d)%s rest-%d-%d\n", k, i, k, i,
                   must ? "" : "?", k, i + 1);
        buf_printf(rules, "first-%d-%d ::= member-%d-%d rest-%d-%d", k, i, k, i, k, i + 1);
        if (!must)
            buf_printf(rules, " | first-%d-%d", k, i + 1);
        buf_puts(rules, "\n");
    }
    buf_printf(rules, "rest-%d-%d ::= \"\"\nfirst-%d-%d ::= \"\"\n", k, i, k, i);
    return true;
}

static bool write_object(struct writer *w, const struct json *s, struct buf *out)
{
    const struct json *properties = js_get(s, "properties"), *required = js_get(s, "required");
    const struct json *more = js_get(s, "additionalProperties");
    bool flag = false, is_flag = more && js_as_bool(more, &flag);
    bool open = more ? !is_flag || flag : !properties;
    if (properties && !js_is_object(properties))
        return wrong(w, "properties must be an object");
    if (!check_required(w, required, properties))
        return false;
    if (open && js_count(properties) > 0)
        return wrong(w, "additionalProperties beside properties is not supported unless false");
    if (open && (!more || is_flag)) {
        buf_puts(out, "object");
        return true;
    }
    int k = w->n_objects++;
    struct buf rules = { 0 };
    bool ok = true;
    if (open) {
        buf_printf(&rules, "pair-%d ::= string ws \":\" ws ", k);
        ok = write_below(w, more, &rules, "additionalProperties");
        buf_puts(&rules, "\n");
        buf_printf(out, "(\"{\" ws (pair-%d (ws \",\" ws pair-%d)* ws)? \"}\")", k, k);
    } else {
        ok = write_members(w, properties, required, k, &rules);
        buf_printf(out, "(\"{\" ws first-%d-0 ws \"}\")", k);
    }
    buf_add(&w->rules, buf_str(&rules).data, rules.len);
    w->rules.out_of_memory |= rules.out_of_memory;
    buf_release(&rules);
    return ok;
}

/* ---- any schema ------------------------------------------------------------------------------ */

static bool write_ref(struct writer *w, const struct json *ref, struct buf *out)
{
    struct str name;
    const struct json *target = NULL;
    if (!js_as_text(ref, &name))
        return wrong(w, "$ref must be a text");
    static const char *const folders[] = { "$defs", "definitions" };
    if (str_is(name, "#"))
        target = w->root;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        size_t len = strlen(folders[i]);
        if (name.len > len + 3 && memcmp(name.data, "#/", 2) == 0 &&
            memcmp(name.data + 2, folders[i], len) == 0 && name.data[len + 2] == '/')
            target = js_get(js_get(w->root, folders[i]), name.data + len + 3);
    }
    if (!target)
        return wrong(w, "$ref %.80s leads nowhere (#, #/$defs/NAME and #/definitions/NAME do)",
                     name.data);
    int i = 0;
    while (i < w->n_definitions && w->definitions[i] != target)
        i++;
    if (i == DEFINITIONS_MAX)
        return wrong(w, "more than %d definitions", DEFINITIONS_MAX);
    if (i == w->n_definitions)
        w->definitions[w->n_definitions++] = target;
    buf_printf(out, "def-%d", i);
    return true;
}

static bool write_any_of(struct writer *w, const struct json *list, const char *name,
                         struct buf *out)
{
    if (!js_is_array(list) || js_count(list) == 0)
        return wrong(w, "%s must be an array of schemas", name);
    for (size_t i = 0; i < js_count(list); i++) {
        buf_puts(out, i ? " | " : "(");
        if (!write_below(w, js_at(list, i), out, name))
            return false;
    }
    buf_puts(out, ")");
    return true;
}

static bool read_type(struct writer *w, struct str name, unsigned *mask)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (str_is(name, types[i].name)) {
            *mask |= types[i].type;
            return true;
        }
    return wrong(w, "no type is called %.60s", name.data);
}

static bool read_types(struct writer *w, const struct json *type, unsigned *mask)
{
    struct str name;
    *mask = 0;
    if (js_as_text(type, &name))
        return read_type(w, name, mask);
    for (size_t i = 0; i < js_count(type); i++)
        if (!js_as_text(js_at(type, i), &name) || !read_type(w, name, mask))
            return wrong(w, "type must be a name or a list of names");
    return *mask || wrong(w, "type must be a name or a list of names");
}

/* Refuse what is not known. *implied: the types that the keywords speak of; *n: how many
 * keywords restrict. */
static bool check_keywords(struct writer *w, const struct json *s, unsigned *implied)
{
    struct js_cursor at = { 0 };
    const char *alone = NULL;
    int n = 0;
    *implied = 0;
    while (js_next(s, &at)) {
        bool known = false;
        for (size_t i = 0; !known && i < ARRAY_LEN(annotations); i++)
            known = strcmp(at.key, annotations[i]) == 0;
        for (size_t i = 0; !known && i < ARRAY_LEN(keywords); i++) {
            if (strcmp(at.key, keywords[i].name) != 0)
                continue;
            known = true;
            *implied |= keywords[i].type;
            alone = keywords[i].alone ? keywords[i].name : alone;
            n++;
        }
        if (!known)
            return wrong(w, "the keyword %.60s is not supported", at.key);
    }
    return !alone || n == 1 || wrong(w, "%s beside other keywords is not supported", alone);
}

static bool write_types(struct writer *w, const struct json *s, unsigned mask, struct buf *out)
{
    bool ok = true;
    const char *bar = "";
    buf_puts(out, "(");
    for (size_t i = 0; ok && i < ARRAY_LEN(types); i++) {
        if (!(types[i].type & mask))
            continue;
        buf_puts(out, bar);
        bar = " | ";
        switch (types[i].type) {
        case TYPE_OBJECT:  ok = write_object(w, s, out); break;
        case TYPE_ARRAY:   ok = write_array(w, s, out); break;
        case TYPE_STRING:  ok = write_string(w, s, out); break;
        case TYPE_INTEGER: ok = write_integer(w, s, out); break;
        default:           buf_puts(out, types[i].name); break;
        }
    }
    buf_puts(out, ")");
    return ok;
}

static bool write_restricted(struct writer *w, const struct json *s, struct buf *out)
{
    unsigned implied, mask = TYPE_ALL;
    const struct json *j;
    if (!check_keywords(w, s, &implied))
        return false;
    if ((j = js_get(s, "$ref")))
        return write_ref(w, j, out);
    if ((j = js_get(s, "const")))
        return write_constant(j, out), true;
    if ((j = js_get(s, "anyOf")))
        return write_any_of(w, j, "anyOf", out);
    if ((j = js_get(s, "oneOf")))
        return write_any_of(w, j, "oneOf", out);
    const struct json *type = js_get(s, "type"), *values = js_get(s, "enum");
    if (type && !read_types(w, type, &mask))
        return false;
    if (values && implied)
        return wrong(w, "enum beside other keywords than type is not supported");
    if (values)
        return write_enum(w, values, mask, out);
    if (type && (mask & TYPE_NUMBER) && (implied & TYPE_INTEGER))
        return wrong(w, "minimum and maximum are supported for integers only");
    if (!type && implied)
        mask = implied; /* other types would be valid too; these are meant */
    if (!type && !implied) {
        buf_puts(out, "value");
        return true;
    }
    return write_types(w, s, mask, out);
}

/* An expression for the schema, which binds at least as tightly as a group. */
static bool write_schema(struct writer *w, const struct json *s, struct buf *out)
{
    bool flag;
    if (js_as_bool(s, &flag)) {
        buf_puts(out, "value");
        return flag || wrong(w, "the schema false allows nothing");
    }
    if (!js_is_object(s))
        return wrong(w, "a schema is an object, true or false");
    if (++w->depth > DEPTH_MAX)
        return wrong(w, "schemas are nested more than %d deep", DEPTH_MAX);
    bool ok = write_restricted(w, s, out);
    w->depth--;
    return ok;
}

bool json_schema_grammar(const struct json *schema, struct buf *gbnf, struct error *err)
{
    struct writer w = { .root = schema, .path = "#", .err = err };
    struct buf rule = { 0 };
    buf_puts(&rule, "root ::= ");
    bool ok = write_schema(&w, schema, &rule);
    for (int i = 0; ok && i < w.n_definitions; i++) { /* which may ask for more of them */
        buf_printf(&rule, "\ndef-%d ::= ", i);
        snprintf(w.path, sizeof w.path, "definition %d", i + 1);
        ok = write_schema(&w, w.definitions[i], &rule);
    }
    buf_puts(&rule, "\n");
    buf_add(gbnf, buf_str(&rule).data, rule.len);
    buf_add(gbnf, buf_str(&w.rules).data, w.rules.len);
    buf_puts(gbnf, common_rules);
    ok = ok && buf_ok(&rule, err) && buf_ok(&w.rules, err) && buf_ok(gbnf, err);
    buf_release(&rule);
    buf_release(&w.rules);
    return ok;
}
