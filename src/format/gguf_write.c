/* Tables become a header: metadata in order, tensors with their offsets, shards.
 * The layout of a file is drawn at the top of gguf_parse.c. */
#include "src/format/gguf_write_internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/format/gguf_internal.h"
#include "src/format/quant.h"

typedef unsigned long long ull;

/* ---- bytes in file order ---- */

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void put_u64(uint8_t *p, uint64_t v)
{
    put_u32(p, (uint32_t)v);
    put_u32(p + 4, (uint32_t)(v >> 32));
}

/* ---- metadata ---- */

static bool check_key(struct str key, struct error *err)
{
    if (key.len < 1 || key.len > GGUF_MAX_KEY_BYTES)
        return fail(err, ERR_USAGE, "metadata key of %zu bytes, expected 1 to %u (W-03)", key.len,
                    GGUF_MAX_KEY_BYTES);
    for (size_t i = 0; i < key.len; i++) {
        char c = key.data[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
                  c == '-';
        if (!ok)
            return fail(err, ERR_USAGE, "metadata key %.*s: character 0x%02x, expected a-z 0-9 _ . "
                        "- (W-03)", (int)min_of(key.len, 100u), key.data, (unsigned char)c);
    }
    return true;
}

static struct gguf_writer_kv *find_kv(const struct gguf_writer *w, struct str key)
{
    for (size_t i = 0; i < w->n_kv; i++)
        if (w->kv[i].key.len == key.len && memcmp(w->kv[i].key.data, key.data, key.len) == 0)
            return &w->kv[i];
    return NULL;
}

static bool grow(void **array, size_t n, size_t *room, size_t size, struct error *err)
{
    if (n < *room)
        return true;
    size_t wanted = *room ? *room * 2 : 64;
    void *bigger = mem_resize(*array, wanted, size, "table of a new file", err);
    if (!bigger)
        return false;
    *array = bigger;
    *room = wanted;
    return true;
}

/* A new entry; `value` is arena memory. */
static bool append_kv(struct gguf_writer *w, struct str key, uint8_t *value, size_t len,
                      struct error *err)
{
    if (w->n_kv >= GGUF_MAX_KV - 3) /* room for split.* */
        return fail(err, ERR_USAGE, "more than %u metadata keys", GGUF_MAX_KV - 3);
    char *copy = arena_strndup(&w->arena, key.data, key.len, err);
    void *table = w->kv;
    bool ok = copy && grow(&table, w->n_kv, &w->room_kv, sizeof *w->kv, err);
    w->kv = table;
    if (ok)
        w->kv[w->n_kv++] = (struct gguf_writer_kv){ .key = { copy, key.len },
                                                    .value = { (char *)value, len } };
    return ok;
}

static bool set_kv(struct gguf_writer *w, struct str key, uint8_t *value, size_t len,
                   struct error *err)
{
    struct gguf_writer_kv *kv = find_kv(w, key);
    if (!kv)
        return append_kv(w, key, value, len, err);
    kv->value = (struct str){ (char *)value, len };
    return true;
}

/* Arena bytes that begin with the value type; `len` counts what follows. */
static uint8_t *new_value(struct gguf_writer *w, const char *key, enum gguf_type type, size_t len,
                          struct error *err)
{
    if (!check_key(str_of(key), err))
        return NULL;
    uint8_t *value = arena_alloc(&w->arena, len + 4, 1, err);
    if (value)
        put_u32(value, type);
    return value;
}

static bool add_scalar(struct gguf_writer *w, const char *key, enum gguf_type type, uint64_t bits,
                       struct error *err)
{
    size_t len = gguf_type_bytes(type);
    uint8_t *value = new_value(w, key, type, len, err);
    for (size_t i = 0; value && i < len; i++)
        value[4 + i] = (uint8_t)(bits >> 8 * i);
    return value && set_kv(w, str_of(key), value, len + 4, err);
}

bool gguf_writer_add_u32(struct gguf_writer *w, const char *key, uint32_t value, struct error *err)
{
    return add_scalar(w, key, GGUF_U32, value, err);
}

bool gguf_writer_add_u64(struct gguf_writer *w, const char *key, uint64_t value, struct error *err)
{
    return add_scalar(w, key, GGUF_U64, value, err);
}

bool gguf_writer_add_i32(struct gguf_writer *w, const char *key, int32_t value, struct error *err)
{
    return add_scalar(w, key, GGUF_I32, (uint32_t)value, err);
}

bool gguf_writer_add_f32(struct gguf_writer *w, const char *key, float value, struct error *err)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return add_scalar(w, key, GGUF_F32, bits, err);
}

bool gguf_writer_add_bool(struct gguf_writer *w, const char *key, bool value, struct error *err)
{
    return add_scalar(w, key, GGUF_BOOL, value, err);
}

bool gguf_writer_add_bytes(struct gguf_writer *w, const char *key, struct str value,
                           struct error *err)
{
    if (value.len == 0) {
        gguf_writer_remove(w, key);
        return check_key(str_of(key), err);
    }
    if (value.len > GGUF_MAX_STRING_BYTES)
        return fail(err, ERR_USAGE, "%s: text of %zu bytes, expected at most %u", key, value.len,
                    GGUF_MAX_STRING_BYTES);
    uint8_t *bytes = new_value(w, key, GGUF_STRING, 8 + value.len, err);
    if (!bytes)
        return false;
    put_u64(bytes + 4, value.len);
    memcpy(bytes + 12, value.data, value.len);
    return set_kv(w, str_of(key), bytes, 12 + value.len, err);
}

bool gguf_writer_add_str(struct gguf_writer *w, const char *key, const char *value,
                         struct error *err)
{
    return gguf_writer_add_bytes(w, key, str_of(value), err);
}

static bool check_count(const char *key, size_t count, struct error *err)
{
    if (count > GGUF_MAX_ARRAY_ELEMENTS)
        return fail(err, ERR_USAGE, "%s: %zu elements, expected at most %u", key, count,
                    GGUF_MAX_ARRAY_ELEMENTS);
    return true;
}

/* Value type, element type, count; `len` bytes follow. */
static uint8_t *new_array(struct gguf_writer *w, const char *key, enum gguf_type elem, size_t count,
                          size_t len, struct error *err)
{
    uint8_t *value = new_value(w, key, GGUF_ARRAY, 12 + len, err);
    if (value) {
        put_u32(value + 4, elem);
        put_u64(value + 8, count);
    }
    return value;
}

static uint64_t number_bits(const void *values, size_t size, size_t i)
{
    const char *at = (const char *)values + i * size;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    switch (size) { /* by value, so that the byte order of this machine does not matter */
    case 1: memcpy(&u8, at, 1); return u8;
    case 2: memcpy(&u16, at, 2); return u16;
    case 4: memcpy(&u32, at, 4); return u32;
    default: memcpy(&u64, at, 8); return u64;
    }
}

bool gguf_writer_add_array(struct gguf_writer *w, const char *key, enum gguf_type elem,
                           const void *values, size_t count, struct error *err)
{
    size_t size = gguf_type_bytes(elem);
    if (!size)
        return fail(err, ERR_USAGE, "%s: an array of %s is not one of numbers", key,
                    gguf_type_name(elem));
    if (count == 0) {
        gguf_writer_remove(w, key);
        return check_key(str_of(key), err);
    }
    if (!check_count(key, count, err))
        return false;
    uint8_t *value = new_array(w, key, elem, count, count * size, err);
    if (!value)
        return false;
    for (size_t i = 0; i < count; i++) {
        uint64_t bits = number_bits(values, size, i);
        for (size_t k = 0; k < size; k++)
            value[16 + i * size + k] = (uint8_t)(bits >> 8 * k);
    }
    return set_kv(w, str_of(key), value, 16 + count * size, err);
}

bool gguf_writer_add_strings(struct gguf_writer *w, const char *key, const struct str *values,
                             size_t count, struct error *err)
{
    if (count == 0) {
        gguf_writer_remove(w, key);
        return check_key(str_of(key), err);
    }
    if (!check_count(key, count, err))
        return false;
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        if (values[i].len > GGUF_MAX_STRING_BYTES)
            return fail(err, ERR_USAGE, "%s: element %zu has %zu bytes, expected at most %u", key,
                        i, values[i].len, GGUF_MAX_STRING_BYTES);
        if (__builtin_add_overflow(len, 8 + values[i].len, &len))
            return fail(err, ERR_FIT, "%s: too long", key);
    }
    uint8_t *value = new_array(w, key, GGUF_STRING, count, len, err);
    if (!value)
        return false;
    uint8_t *at = value + 16;
    for (size_t i = 0; i < count; i++) {
        put_u64(at, values[i].len);
        if (values[i].len)
            memcpy(at + 8, values[i].data, values[i].len);
        at += 8 + values[i].len;
    }
    return set_kv(w, str_of(key), value, 16 + len, err);
}

/* The value of an open file's entry as it stands there; *len bytes of arena memory. */
static uint8_t *copy_value(struct gguf_writer *w, const struct gguf_kv *kv, size_t *len,
                           struct error *err)
{
    size_t head = kv->type == GGUF_ARRAY ? 16 : 4;
    *len = head + kv->bytes;
    uint8_t *value = arena_alloc(&w->arena, *len, 1, err);
    if (!value)
        return NULL;
    put_u32(value, kv->type);
    if (kv->type == GGUF_ARRAY) {
        put_u32(value + 4, kv->elem);
        put_u64(value + 8, kv->count);
    }
    if (kv->bytes)
        memcpy(value + head, kv->data, kv->bytes);
    return value;
}

bool gguf_writer_copy_kv(struct gguf_writer *w, const struct gguf_kv *kv, struct error *err)
{
    size_t len;
    uint8_t *value = copy_value(w, kv, &len, err);
    return value && set_kv(w, kv->key, value, len, err);
}

static bool starts_with(struct str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.data, prefix, n) == 0;
}

bool gguf_writer_copy_all_kv(struct gguf_writer *w, const struct gguf *g, struct error *err)
{
    bool fresh = w->n_kv == 0; /* keys of a file are unique: no search, it would be quadratic */
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kv[i];
        bool empty = kv->type == GGUF_ARRAY ? kv->count == 0
                                            : kv->type == GGUF_STRING && kv->bytes == 8;
        if (empty || starts_with(kv->key, "split.") || str_is(kv->key, "general.alignment"))
            continue; /* ours is the default alignment */
        size_t len;
        uint8_t *value = copy_value(w, kv, &len, err);
        if (!value || !(fresh ? append_kv(w, kv->key, value, len, err)
                              : set_kv(w, kv->key, value, len, err)))
            return false;
    }
    return true;
}

void gguf_writer_later(struct gguf_writer *w, const char *key)
{
    struct gguf_writer_kv *kv = find_kv(w, str_of(key));
    if (kv)
        kv->later = true;
}

bool gguf_writer_fill(struct gguf_writer *w, const char *key, enum gguf_type elem,
                      const void *values, size_t count, struct error *err)
{
    struct gguf_writer_kv *kv = find_kv(w, str_of(key));
    if (!w->shards || !kv || !kv->later)
        return fail(err, ERR_INTERNAL, "gguf_writer_fill: %s was not announced", key);
    uint32_t announced;
    memcpy(&announced, kv->value.data + 4, 4);
    if (announced != (uint32_t)elem || kv->value.len != 16 + count * gguf_type_bytes(elem))
        return fail(err, ERR_INTERNAL, "gguf_writer_fill: %s was announced with another shape", key);
    return gguf_writer_add_array(w, key, elem, values, count, err) &&
           gguf_writer_put_value(w, find_kv(w, str_of(key)), err);
}

void gguf_writer_remove(struct gguf_writer *w, const char *key)
{
    struct gguf_writer_kv *kv = find_kv(w, str_of(key));
    if (!kv)
        return;
    size_t behind = w->n_kv - (size_t)(kv - w->kv) - 1;
    memmove(kv, kv + 1, behind * sizeof *kv);
    w->n_kv--;
}

/* ---- tensors ---- */

bool gguf_writer_add_tensor(struct gguf_writer *w, const char *name, enum tensor_type type,
                            int n_dims, const uint64_t *ne, struct error *err)
{
    size_t len = strlen(name);
    if (len < 1 || len >= GGUF_MAX_NAME_BYTES)
        return fail(err, ERR_USAGE, "tensor name of %zu bytes, expected 1 to %u (W-03): %s", len,
                    GGUF_MAX_NAME_BYTES - 1, name);
    if (w->n_tensors >= GGUF_MAX_TENSORS)
        return fail(err, ERR_USAGE, "more than %u tensors", GGUF_MAX_TENSORS);
    if (n_dims < 1 || n_dims > TENSOR_MAX_DIMS)
        return fail(err, ERR_USAGE, "%s: %d dimensions, expected 1 to %d", name, n_dims,
                    TENSOR_MAX_DIMS);
    const struct quant_traits *traits = quant_traits((uint32_t)type);
    if (!traits->block_elements)
        return fail(err, ERR_USAGE, "%s: tensor type %d cannot be written", name, (int)type);
    struct gguf_writer_tensor t = { .type = type, .n_dims = n_dims };
    uint64_t elements = 1;
    for (int d = 0; d < TENSOR_MAX_DIMS; d++) {
        t.ne[d] = d < n_dims ? ne[d] : 1;
        if (t.ne[d] < 1 || t.ne[d] > GGUF_MAX_DIM ||
            __builtin_mul_overflow(elements, t.ne[d], &elements) || elements > GGUF_MAX_ELEMENTS)
            return fail(err, ERR_USAGE, "%s: dimension %d is %llu", name, d, (ull)t.ne[d]);
    }
    uint64_t per_block = (uint64_t)traits->block_elements;
    if (t.ne[0] % per_block)
        return fail(err, ERR_USAGE, "%s: rows of %llu elements, expected a multiple of %llu for %s",
                    name, (ull)t.ne[0], (ull)per_block, traits->name);
    t.bytes = elements / per_block * (uint64_t)traits->block_bytes;
    t.name = arena_strndup(&w->arena, name, len, err);
    void *table = w->tensors;
    bool ok = t.name && grow(&table, w->n_tensors, &w->room_tensors, sizeof *w->tensors, err);
    w->tensors = table;
    if (ok)
        w->tensors[w->n_tensors++] = t;
    return ok;
}

void gguf_writer_split(struct gguf_writer *w, int n_shards, uint64_t max_bytes,
                       uint64_t max_tensors)
{
    w->want_shards = n_shards;
    w->max_shard_bytes = max_bytes;
    w->max_shard_tensors = max_tensors;
}

/* ---- layout ---- */

static int by_name(const void *a, const void *b)
{
    const struct gguf_writer_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static bool check_names(struct gguf_writer *w, struct error *err)
{
    const struct gguf_writer_tensor **order =
        mem_alloc(w->n_tensors, sizeof *order, "tensor names", err);
    if (!order)
        return false;
    for (size_t i = 0; i < w->n_tensors; i++)
        order[i] = &w->tensors[i];
    qsort(order, w->n_tensors, sizeof *order, by_name);
    bool ok = true;
    for (size_t i = 1; ok && i < w->n_tensors; i++)
        if (strcmp(order[i - 1]->name, order[i]->name) == 0)
            ok = fail(err, ERR_USAGE, "tensor %s is written twice (W-03)", order[i]->name);
    mem_free(order);
    return ok;
}

/* W-01: general.*, the architecture's, tokenizer.*, the rest; inside a group as added. */
static void sort_keys(struct gguf_writer *w, struct gguf_writer_kv *sorted)
{
    struct str arch = { 0 };
    const struct gguf_writer_kv *a = find_kv(w, str_of("general.architecture"));
    if (a && a->value.len > 12)
        arch = (struct str){ a->value.data + 12, a->value.len - 12 };
    size_t n = 0;
    for (int group = 0; group < 4; group++) {
        for (size_t i = 0; i < w->n_kv; i++) {
            struct str key = w->kv[i].key;
            bool of_arch = arch.len && key.len > arch.len && key.data[arch.len] == '.' &&
                           memcmp(key.data, arch.data, arch.len) == 0;
            int its = starts_with(key, "general.")     ? 0
                      : of_arch                        ? 1
                      : starts_with(key, "tokenizer.") ? 2
                                                       : 3;
            if (its == group)
                sorted[n++] = w->kv[i];
        }
    }
}

/* Does tensor i begin a new shard, when `bytes` and `count` are in the current one already? */
static bool starts_shard(const struct gguf_writer *w, size_t i, uint64_t bytes, uint64_t count,
                         uint64_t before, uint64_t total, int shard)
{
    if (count == 0)
        return false;
    if (w->want_shards > 0) {
        size_t left = w->n_tensors - i;
        int shards_left = w->want_shards - shard - 1;
        if (shards_left <= 0)
            return false;
        if (left <= (size_t)shards_left)
            return true;
        double share = (double)total / w->want_shards * (shard + 1);
        return (double)before + 0.5 * (double)w->tensors[i].bytes > share;
    }
    return (w->max_shard_bytes && bytes + w->tensors[i].bytes > w->max_shard_bytes) ||
           (w->max_shard_tensors && count + 1 > w->max_shard_tensors);
}

static int assign_shards(struct gguf_writer *w)
{
    uint64_t total = 0, before = 0, bytes = 0, count = 0;
    int shard = 0;
    for (size_t i = 0; i < w->n_tensors; i++)
        total += w->tensors[i].bytes;
    for (size_t i = 0; i < w->n_tensors; i++) {
        if (starts_shard(w, i, bytes, count, before, total, shard)) {
            shard++;
            bytes = count = 0;
        }
        w->tensors[i].shard = shard;
        w->tensors[i].offset = bytes;
        bytes += align_up(w->tensors[i].bytes, WRITE_ALIGNMENT);
        before += w->tensors[i].bytes;
        count++;
    }
    return shard + 1;
}

bool gguf_writer_layout(struct gguf_writer *w, struct error *err)
{
    if (!check_names(w, err))
        return false;
    struct gguf_writer_kv *sorted = mem_alloc(w->n_kv, sizeof *sorted, "metadata table", err);
    if (!sorted)
        return false;
    sort_keys(w, sorted);
    mem_free(w->kv);
    w->kv = sorted;
    w->room_kv = w->n_kv;

    int n_shards = assign_shards(w);
    if (n_shards > GGUF_MAX_SHARDS)
        return fail(err, ERR_USAGE, "%d files, expected at most %d", n_shards, GGUF_MAX_SHARDS);
    w->shards = arena_alloc(&w->arena, (size_t)n_shards, sizeof *w->shards, err);
    if (!w->shards)
        return false;
    w->n_shards = n_shards;
    for (int s = 0; s < n_shards; s++)
        w->shards[s].fd = -1;
    for (size_t i = 0; i < w->n_tensors; i++) {
        struct gguf_writer_shard *s = &w->shards[w->tensors[i].shard];
        if (s->n_tensors++ == 0)
            s->first_tensor = i;
    }
    return true;
}

/* ---- header ---- */


static size_t put_key(uint8_t *p, struct str key)
{
    if (p) {
        put_u64(p, key.len);
        memcpy(p + 8, key.data, key.len);
    }
    return 8 + key.len;
}

static size_t put_number(uint8_t *p, const char *key, enum gguf_type type, uint32_t value)
{
    size_t n = put_key(p, str_of(key)), size = gguf_type_bytes(type);
    if (p) {
        put_u32(p + n, type);
        for (size_t i = 0; i < size; i++)
            p[n + 4 + i] = (uint8_t)(value >> 8 * i);
    }
    return n + 4 + size;
}

/* Write the tables to p, or only measure them when p is NULL. */
static size_t put_tables(uint8_t *p, const struct gguf_writer *w, int shard)
{
    const struct gguf_writer_shard *s = &w->shards[shard];
    size_t n = 24;
    size_t n_kv = (shard == 0 ? w->n_kv : 0) + (w->n_shards > 1 ? 3 : 0);
    if (p) {
        memcpy(p, "GGUF", 4);
        put_u32(p + 4, 3);
        put_u64(p + 8, s->n_tensors);
        put_u64(p + 16, n_kv);
    }
    for (size_t i = 0; shard == 0 && i < w->n_kv; i++) {
        n += put_key(p ? p + n : NULL, w->kv[i].key);
        w->kv[i].at = n;
        if (p)
            memcpy(p + n, w->kv[i].value.data, w->kv[i].value.len);
        n += w->kv[i].value.len;
    }
    if (w->n_shards > 1) {
        n += put_number(p ? p + n : NULL, "split.no", GGUF_U16, (uint32_t)shard);
        n += put_number(p ? p + n : NULL, "split.count", GGUF_U16, (uint32_t)w->n_shards);
        n += put_number(p ? p + n : NULL, "split.tensors.count", GGUF_I32, (uint32_t)w->n_tensors);
    }
    for (size_t i = s->first_tensor; i < s->first_tensor + s->n_tensors; i++) {
        const struct gguf_writer_tensor *t = &w->tensors[i];
        n += put_key(p ? p + n : NULL, str_of(t->name));
        if (p) {
            put_u32(p + n, (uint32_t)t->n_dims);
            for (int d = 0; d < t->n_dims; d++)
                put_u64(p + n + 4 + 8 * d, t->ne[d]);
            put_u32(p + n + 4 + 8 * t->n_dims, (uint32_t)t->type);
            put_u64(p + n + 8 + 8 * t->n_dims, t->offset);
        }
        n += 16 + 8 * (size_t)t->n_dims;
    }
    return n;
}

uint8_t *gguf_writer_header(struct gguf_writer *w, int shard, struct error *err)
{
    struct gguf_writer_shard *s = &w->shards[shard];
    size_t n = put_tables(NULL, w, shard);
    s->data_start = s->n_tensors ? align_up(n, WRITE_ALIGNMENT) : n;
    s->size = s->data_start;
    if (s->n_tensors) {
        const struct gguf_writer_tensor *last = &w->tensors[s->first_tensor + s->n_tensors - 1];
        s->size += last->offset + align_up(last->bytes, WRITE_ALIGNMENT);
    }
    uint8_t *bytes = mem_alloc(s->data_start, 1, "header of a new file", err);
    if (bytes)
        put_tables(bytes, w, shard);
    return bytes;
}
