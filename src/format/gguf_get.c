/* Typed access to metadata. Nothing here trusts that the mapped bytes are still those that were
 * checked: lengths are compared again, so a file overwritten in place gives wrong text, not a
 * wild read. */
#include "src/format/gguf_internal.h"

typedef unsigned long long ull;

const char *gguf_type_name(enum gguf_type type)
{
    static const char *const names[N_GGUF_TYPES] = {
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
        "f64",
    };
    return (unsigned)type < N_GGUF_TYPES ? names[type] : "unknown";
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    size_t len = strlen(key);
    uint64_t low = 0, high = g->n_kv;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct gguf_kv *kv = &g->kv[g->kv_index[middle]];
        int order = memcmp(key, kv->key.data, min_of(len, kv->key.len));
        if (order == 0)
            order = (len > kv->key.len) - (len < kv->key.len);
        if (order == 0)
            return kv;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    uint64_t low = 0, high = g->n_tensors;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct tensor *t = &g->tensors[g->tensor_index[middle]];
        int order = strcmp(name, t->name);
        if (order == 0)
            return t;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return gguf_find(g, key) != NULL;
}

static bool is_int(enum gguf_type type)
{
    switch (type) {
    case GGUF_U8: case GGUF_I8: case GGUF_U16: case GGUF_I16: case GGUF_U32: case GGUF_I32:
    case GGUF_U64: case GGUF_I64:
        return true;
    default:
        return false;
    }
}

static bool is_float(enum gguf_type type)
{
    return type == GGUF_F32 || type == GGUF_F64;
}

static bool wrong_type(const struct gguf *g, const struct gguf_kv *kv, const char *wanted,
                       struct error *err)
{
    const char *path = g->n_shards ? g->shards[0].path : "?";
    bool array = kv->type == GGUF_ARRAY;
    return fail(err, ERR_FILE, "%s: %.*s: %s%s, expected %s (G-25)", path,
                (int)min_of(kv->key.len, 200u), kv->key.data, array ? "array of " : "",
                gguf_type_name(kv->elem), wanted);
}

int64_t gguf_int_at(const struct gguf_kv *kv, uint64_t index)
{
    const uint8_t *at = kv->data + index * gguf_type_bytes(kv->elem);
    switch (kv->elem) {
    case GGUF_U8: return *at;
    case GGUF_BOOL: return *at != 0;
    case GGUF_I8: return (int8_t)*at;
    case GGUF_U16: return gguf_u16(at);
    case GGUF_I16: return (int16_t)gguf_u16(at);
    case GGUF_U32: return gguf_u32(at);
    case GGUF_I32: return (int32_t)gguf_u32(at);
    case GGUF_U64: return (int64_t)min_of(gguf_u64(at), (uint64_t)INT64_MAX);
    case GGUF_I64: return (int64_t)gguf_u64(at);
    default: return 0;
    }
}

double gguf_float_at(const struct gguf_kv *kv, uint64_t index)
{
    const uint8_t *at = kv->data + index * gguf_type_bytes(kv->elem);
    if (kv->elem == GGUF_F32) {
        uint32_t bits = gguf_u32(at);
        float f;
        memcpy(&f, &bits, sizeof f);
        return (double)f;
    }
    if (kv->elem == GGUF_F64) {
        uint64_t bits = gguf_u64(at);
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    return (double)gguf_int_at(kv, index);
}

bool gguf_get_u64(const struct gguf *g, const char *key, uint64_t *value, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return true;
    if (!is_int(kv->type))
        return wrong_type(g, kv, "an integer", err);
    int64_t found = gguf_int_at(kv, 0);
    if (found < 0)
        return fail(err, ERR_FILE, "%s: %s is %lld, expected zero or more (G-25)",
                    g->shards[0].path, key, (long long)found);
    *value = kv->type == GGUF_U64 ? gguf_u64(kv->data) : (uint64_t)found;
    return true;
}

bool gguf_get_f64(const struct gguf *g, const char *key, double *value, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return true;
    if (!is_float(kv->type))
        return wrong_type(g, kv, "f32 or f64", err);
    *value = gguf_float_at(kv, 0);
    return true;
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *value, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return true;
    if (kv->type != GGUF_BOOL)
        return wrong_type(g, kv, "bool", err);
    *value = gguf_int_at(kv, 0) != 0;
    return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, struct str *value, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return true;
    if (kv->type != GGUF_STRING)
        return wrong_type(g, kv, "string", err);
    struct gguf_cursor c = gguf_strings(kv);
    if (!gguf_next_string(&c, value))
        return fail(err, ERR_RUN, "%s: %s: the file changed while in use", g->shards[0].path, key);
    return true;
}

const struct gguf_kv *gguf_array(const struct gguf *g, const char *key, enum gguf_kind kind,
                                 struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return NULL;
    static const char *const wanted[] = { "array of integers", "array of f32 or f64",
                                          "array of string", "array of bool" };
    bool fits = kv->type == GGUF_ARRAY && (kind == GGUF_KIND_INT    ? is_int(kv->elem)
                                           : kind == GGUF_KIND_FLOAT ? is_float(kv->elem)
                                           : kind == GGUF_KIND_STRING ? kv->elem == GGUF_STRING
                                                                      : kv->elem == GGUF_BOOL);
    if (!fits)
        wrong_type(g, kv, wanted[kind], err);
    return fits ? kv : NULL;
}

struct gguf_cursor gguf_strings(const struct gguf_kv *kv)
{
    if (kv->elem != GGUF_STRING)
        return (struct gguf_cursor){ 0 };
    return (struct gguf_cursor){ kv->data, kv->bytes };
}

bool gguf_next_string(struct gguf_cursor *c, struct str *s)
{
    if (c->left < 8)
        return false;
    uint64_t len = gguf_u64(c->at);
    if (len > c->left - 8)
        return false;
    *s = (struct str){ (const char *)c->at + 8, len };
    c->at += 8 + len;
    c->left -= 8 + len;
    return true;
}
