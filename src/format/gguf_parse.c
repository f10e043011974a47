/* Bytes become tables.
 *
 *   magic "GGUF" | u32 version | u64 n_tensors | u64 n_kv
 *   n_kv times:       string key | u32 value type | value
 *   n_tensors times:  string name | u32 n_dims | u64 ne[n_dims] | u32 type | u64 offset
 *   zeros up to a multiple of the alignment
 *   data: each tensor at data start + its offset
 *
 * string = u64 length, then bytes. array = u32 element type, u64 count, then elements. All numbers
 * are little-endian and none is aligned. Versions 2 and 3 differ only in name (3 allows big-endian
 * files, which are refused). Source: ggml-org/ggml docs/gguf.md.
 *
 * Every read goes through take(), which compares the wish with what remains, never a sum with the
 * end; every product and sum of file values is a checked one (G-10 .. G-12). */
#include "src/format/gguf_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/format/quant.h"

#define SMALLEST_KV 14     /* key of one byte, value of one byte */
#define SMALLEST_TENSOR 25 /* name of one byte, no dimensions */

typedef unsigned long long ull;

struct parser {
    const char *path;
    const uint8_t *base;
    uint64_t pos, end;
    struct arena *arena;
    struct error *err;
};

/* "path: byte N: what was found (rule)" */
__attribute__((format(printf, 4, 5)))
static bool bad(struct parser *p, uint64_t at, const char *rule, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fail(p->err, ERR_FILE, "%s: byte %llu: %s (%s)", p->path, (ull)at, text, rule);
}

static uint64_t left(const struct parser *p)
{
    return p->end - p->pos;
}

/* The next n bytes, or NULL when the file ends before them. */
static const uint8_t *take(struct parser *p, uint64_t n, const char *what)
{
    if (n > left(p)) {
        bad(p, p->pos, "G-11", "the file ends inside %s: %llu bytes wanted, %llu left (incomplete "
            "download?)", what, (ull)n, (ull)left(p));
        return NULL;
    }
    const uint8_t *at = p->base + p->pos;
    p->pos += n;
    return at;
}

static bool take_u32(struct parser *p, const char *what, uint32_t *value)
{
    const uint8_t *at = take(p, 4, what);
    if (at)
        *value = gguf_u32(at);
    return at;
}

static bool take_u64(struct parser *p, const char *what, uint64_t *value)
{
    const uint8_t *at = take(p, 8, what);
    if (at)
        *value = gguf_u64(at);
    return at;
}

static bool take_string(struct parser *p, const char *what, const char *rule, uint64_t shortest,
                        uint64_t longest, struct str *s)
{
    uint64_t at = p->pos, len;
    if (!take_u64(p, what, &len))
        return false;
    if (len < shortest || len > longest)
        return bad(p, at, rule, "%s of %llu bytes, expected %llu to %llu", what, (ull)len,
                   (ull)shortest, (ull)longest);
    const uint8_t *bytes = take(p, len, what);
    *s = (struct str){ (const char *)bytes, len };
    return bytes;
}

/* ---- header ---- */

/* A number of things claimed at byte `at`, against the limit and against what the rest can hold. */
static bool count(struct parser *p, uint64_t at, const char *rule, uint64_t n, const char *what,
                  uint64_t limit, uint64_t smallest)
{
    if (n > limit)
        return bad(p, at, rule, "%llu %s, expected at most %llu", (ull)n, what, (ull)limit);
    if (n > left(p) / smallest)
        return bad(p, at, rule, "%llu %s, but only %llu bytes follow (incomplete download?)",
                   (ull)n, what, (ull)left(p));
    return true;
}

static bool header(struct parser *p, struct gguf_part *part)
{
    uint32_t version = 0;
    uint64_t n_tensors = 0, n_kv = 0;
    if (!take(p, 4, "the header") || !take_u32(p, "the header", &version) ||
        !take_u64(p, "the header", &n_tensors) || !take_u64(p, "the header", &n_kv))
        return false;
    if ((version & 0xffff) == 0 && version != 0)
        return bad(p, 4, "G-20", "a big-endian GGUF file; convert it to little-endian");
    if (version == 1)
        return bad(p, 4, "G-20", "GGUF version 1 is too old, expected 2 or 3; convert it again");
    if (version != 2 && version != 3)
        return bad(p, 4, "G-20", "GGUF version %u, expected 2 or 3", version);
    if (!count(p, 16, "G-20", n_kv, "metadata entries", GGUF_MAX_KV, SMALLEST_KV) ||
        !count(p, 8, "G-20", n_tensors, "tensors", GGUF_MAX_TENSORS, SMALLEST_TENSOR))
        return false;
    part->version = version;
    part->n_kv = n_kv;
    part->n_tensors = n_tensors;
    return true;
}

/* ---- metadata ---- */

uint64_t gguf_type_bytes(enum gguf_type type)
{
    switch (type) {
    case GGUF_U8: case GGUF_I8: case GGUF_BOOL: return 1;
    case GGUF_U16: case GGUF_I16: return 2;
    case GGUF_U32: case GGUF_I32: case GGUF_F32: return 4;
    case GGUF_U64: case GGUF_I64: case GGUF_F64: return 8;
    default: return 0;
    }
}

static bool check_bools(struct parser *p, uint64_t start, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (p->base[start + i] > 1)
            return bad(p, start + i, "G-23", "bool of value %u, expected 0 or 1",
                       p->base[start + i]);
    return true;
}

/* `count` values of one type, from p->pos on. */
static bool values(struct parser *p, struct gguf_kv *kv)
{
    uint64_t start = p->pos;
    if (kv->elem == GGUF_STRING) {
        struct str s;
        for (uint64_t i = 0; i < kv->count; i++)
            if (!take_string(p, "string", "G-22", 0, GGUF_MAX_STRING_BYTES, &s))
                return false;
    } else {
        uint64_t bytes; /* count was compared with the remaining bytes: cannot wrap */
        if (__builtin_mul_overflow(kv->count, gguf_type_bytes(kv->elem), &bytes) ||
            !take(p, bytes, "a metadata value"))
            return false;
        if (kv->elem == GGUF_BOOL && !check_bools(p, start, kv->count))
            return false;
    }
    kv->data = p->base + start;
    kv->bytes = p->pos - start;
    return true;
}

static bool array_head(struct parser *p, struct gguf_kv *kv)
{
    uint64_t at = p->pos;
    uint32_t elem;
    if (!take_u32(p, "an array", &elem) || !take_u64(p, "an array", &kv->count))
        return false;
    if (elem == GGUF_ARRAY)
        return bad(p, at, "G-24", "an array of arrays, which no model has");
    if (elem >= N_GGUF_TYPES)
        return bad(p, at, "G-24", "array element type %u, expected 0 to 12", elem);
    kv->elem = (enum gguf_type)elem;
    uint64_t smallest = elem == GGUF_STRING ? 8 : gguf_type_bytes(kv->elem);
    return count(p, at + 4, "G-24", kv->count, "array elements", GGUF_MAX_ARRAY_ELEMENTS, smallest);
}

static bool entry(struct parser *p, struct gguf_kv *kv)
{
    uint64_t key_at = p->pos;
    if (!take_string(p, "metadata key", "G-21", 1, GGUF_MAX_KEY_BYTES, &kv->key))
        return false;
    for (size_t i = 0; i < kv->key.len; i++)
        if (kv->key.data[i] < 0x20 || kv->key.data[i] > 0x7e)
            return bad(p, key_at + 8 + i, "G-21", "byte 0x%02x in a metadata key, expected "
                       "printable ASCII", (unsigned char)kv->key.data[i]);
    uint64_t type_at = p->pos;
    uint32_t type;
    if (!take_u32(p, "a metadata entry", &type))
        return false;
    if (type >= N_GGUF_TYPES)
        return bad(p, type_at, "G-23", "%.*s: value type %u, expected 0 to 12",
                   (int)min_of(kv->key.len, 100u), kv->key.data, type);
    kv->type = kv->elem = (enum gguf_type)type;
    kv->count = 1;
    if (kv->type == GGUF_ARRAY && !array_head(p, kv))
        return false;
    return values(p, kv);
}

static int compare_str(struct str a, struct str b)
{
    int order = memcmp(a.data, b.data, min_of(a.len, b.len));
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int by_key(const void *a, const void *b, void *ctx)
{
    const struct gguf_kv *kv = ctx;
    return compare_str(kv[*(const uint32_t *)a].key, kv[*(const uint32_t *)b].key);
}

static uint32_t *sorted_index(struct arena *arena, uint64_t n, void *items,
                              int (*compare)(const void *, const void *, void *),
                              struct error *err)
{
    uint32_t *index = arena_alloc(arena, n, sizeof *index, err);
    if (!index)
        return NULL;
    for (uint64_t i = 0; i < n; i++)
        index[i] = (uint32_t)i;
    qsort_r(index, n, sizeof *index, compare, items);
    return index;
}

static bool metadata(struct parser *p, struct gguf_part *part)
{
    part->kv = arena_alloc(p->arena, part->n_kv, sizeof *part->kv, p->err);
    if (!part->kv)
        return false;
    for (uint64_t i = 0; i < part->n_kv; i++)
        if (!entry(p, &part->kv[i]))
            return false;
    part->kv_index = sorted_index(p->arena, part->n_kv, part->kv, by_key, p->err);
    if (!part->kv_index)
        return false;
    for (uint64_t i = 1; i < part->n_kv; i++) {
        struct str key = part->kv[part->kv_index[i]].key;
        if (compare_str(key, part->kv[part->kv_index[i - 1]].key) == 0)
            return bad(p, (uint64_t)((const uint8_t *)key.data - p->base), "G-21",
                       "metadata key %.*s occurs twice", (int)min_of(key.len, 100u), key.data);
    }
    return true;
}

static bool find_alignment(struct parser *p, struct gguf_part *part)
{
    part->alignment = 32;
    for (uint64_t i = 0; i < part->n_kv; i++) {
        const struct gguf_kv *kv = &part->kv[i];
        if (!str_is(kv->key, "general.alignment"))
            continue;
        uint64_t at = (uint64_t)(kv->data - p->base);
        if (kv->type != GGUF_U32)
            return bad(p, at, "G-26", "general.alignment is %s, expected u32",
                       gguf_type_name(kv->type));
        uint32_t a = gguf_u32(kv->data);
        if (a < GGUF_MIN_ALIGNMENT || a > GGUF_MAX_ALIGNMENT || (a & (a - 1)))
            return bad(p, at, "G-26", "general.alignment is %u, expected a power of two from %u "
                       "to %u", a, GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT);
        part->alignment = a;
    }
    return true;
}

/* ---- tensor table ---- */

static bool shape(struct parser *p, struct tensor *t)
{
    uint64_t at = p->pos;
    uint32_t n_dims;
    if (!take_u32(p, "the tensor table", &n_dims))
        return false;
    if (n_dims > TENSOR_MAX_DIMS)
        return bad(p, at, "G-31", "%s: %u dimensions, expected at most %d", t->name, n_dims,
                   TENSOR_MAX_DIMS);
    t->n_dims = (int)n_dims;
    uint64_t elements = 1;
    for (uint32_t d = 0; d < TENSOR_MAX_DIMS; d++) {
        t->ne[d] = 1;
        at = p->pos;
        if (d < n_dims && !take_u64(p, "the tensor table", &t->ne[d]))
            return false;
        if (t->ne[d] < 1 || t->ne[d] > GGUF_MAX_DIM)
            return bad(p, at, "G-31", "%s: dimension %u is %llu, expected 1 to %llu", t->name, d,
                       (ull)t->ne[d], GGUF_MAX_DIM);
        if (__builtin_mul_overflow(elements, t->ne[d], &elements) || elements > GGUF_MAX_ELEMENTS)
            return bad(p, at, "G-31", "%s: more than %llu elements", t->name, GGUF_MAX_ELEMENTS);
    }
    return true;
}

static bool type_and_bytes(struct parser *p, struct tensor *t)
{
    uint64_t at = p->pos;
    uint32_t type;
    if (!take_u32(p, "the tensor table", &type))
        return false;
    const struct quant_traits *traits = quant_traits(type);
    if (!traits->name)
        return bad(p, at, "G-32", "%s: tensor type %u is unknown", t->name, type);
    if (!traits->block_elements)
        return bad(p, at, "G-32", "%s: tensor type %u, %s: not supported", t->name, type,
                   traits->name);
    uint64_t per_block = (uint64_t)traits->block_elements;
    if (t->ne[0] % per_block)
        return bad(p, at, "G-33", "%s: rows of %llu elements, expected a multiple of %llu for %s",
                   t->name, (ull)t->ne[0], (ull)per_block, traits->name);
    /* at most 2^46 elements of 8 bytes */
    uint64_t elements = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    t->bytes = elements / per_block * (uint64_t)traits->block_bytes;
    t->type = (enum tensor_type)type;
    return true;
}

static bool tensor_record(struct parser *p, uint64_t alignment, struct tensor *t)
{
    uint64_t at = p->pos;
    struct str name = { 0 };
    if (!take_string(p, "tensor name", "G-30", 1, GGUF_MAX_NAME_BYTES, &name))
        return false;
    for (size_t i = 0; i < name.len; i++)
        if ((unsigned char)name.data[i] < 0x20 || name.data[i] == 0x7f)
            return bad(p, at + 8 + i, "G-30", "control byte 0x%02x in a tensor name",
                       (unsigned char)name.data[i]);
    t->name = arena_strndup(p->arena, name.data, name.len, p->err);
    if (!t->name || !shape(p, t) || !type_and_bytes(p, t))
        return false;
    at = p->pos;
    if (!take_u64(p, "the tensor table", &t->file_offset)) /* still relative to the data */
        return false;
    if (t->file_offset % alignment)
        return bad(p, at, "G-34", "%s: offset %llu, expected a multiple of the alignment %llu",
                   t->name, (ull)t->file_offset, (ull)alignment);
    return true;
}

/* Offsets become absolute, and the file must hold all of the farthest tensor. */
static bool place(struct parser *p, struct gguf_part *part, struct gguf_shard *shard)
{
    const struct tensor *farthest = NULL;
    uint64_t wanted = 0;
    for (uint64_t i = 0; i < part->n_tensors; i++) {
        struct tensor *t = &part->tensors[i];
        uint64_t relative = t->file_offset, end;
        if (__builtin_add_overflow(relative, shard->data_start, &t->file_offset) ||
            __builtin_add_overflow(t->file_offset, t->bytes, &end))
            return bad(p, shard->data_start, "G-34", "%s: offset %llu is beyond any file", t->name,
                       (ull)relative);
        if (end > wanted) {
            wanted = end;
            farthest = t;
        }
    }
    if (wanted > shard->size)
        return bad(p, shard->size, "G-34", "the file ends %llu bytes too early: %s ends at byte "
                   "%llu (incomplete download?)", (ull)(wanted - shard->size), farthest->name,
                   (ull)wanted);
    for (uint64_t i = 0; i < part->n_tensors; i++)
        part->tensors[i].data = shard->map + part->tensors[i].file_offset;
    return true;
}

static int by_offset(const void *a, const void *b, void *ctx)
{
    const struct tensor *t = ctx;
    uint64_t x = t[*(const uint32_t *)a].file_offset, y = t[*(const uint32_t *)b].file_offset;
    return (x > y) - (x < y);
}

static bool check_overlap(struct parser *p, struct gguf_part *part)
{
    struct arena_mark mark = arena_mark(p->arena);
    uint32_t *order = sorted_index(p->arena, part->n_tensors, part->tensors, by_offset, p->err);
    if (!order)
        return false;
    bool ok = true;
    for (uint64_t i = 1; ok && i < part->n_tensors; i++) {
        const struct tensor *a = &part->tensors[order[i - 1]], *b = &part->tensors[order[i]];
        if (b->file_offset - a->file_offset < a->bytes)
            ok = bad(p, b->file_offset, "G-35", "%s begins inside %s, which ends at byte %llu",
                     b->name, a->name, (ull)(a->file_offset + a->bytes));
    }
    arena_rewind(p->arena, mark);
    return ok;
}

static bool tensors(struct parser *p, struct gguf_part *part, int shard_no,
                    struct gguf_shard *shard)
{
    part->tensors = arena_alloc(p->arena, part->n_tensors, sizeof *part->tensors, p->err);
    if (!part->tensors)
        return false;
    for (uint64_t i = 0; i < part->n_tensors; i++) {
        part->tensors[i].shard = shard_no;
        if (!tensor_record(p, part->alignment, &part->tensors[i]))
            return false;
    }
    if (p->pos > UINT64_MAX - (part->alignment - 1)) /* G-12 */
        return bad(p, p->pos, "G-12", "the tensor table ends beyond any file");
    shard->data_start = (p->pos + part->alignment - 1) & ~(part->alignment - 1);
    return place(p, part, shard) && check_overlap(p, part);
}

static int by_name(const void *a, const void *b, void *ctx)
{
    const struct tensor *t = ctx;
    return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

bool gguf_index_tensors(struct gguf *g, struct error *err)
{
    g->tensor_index = sorted_index(&g->arena, g->n_tensors, g->tensors, by_name, err);
    if (!g->tensor_index)
        return false;
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        const struct tensor *a = &g->tensors[g->tensor_index[i - 1]];
        const struct tensor *b = &g->tensors[g->tensor_index[i]];
        if (strcmp(a->name, b->name) == 0)
            return fail(err, ERR_FILE, "%s: byte %llu: tensor %s occurs twice (G-30)",
                        g->shards[b->shard].path, (ull)b->file_offset, b->name);
    }
    return true;
}

bool gguf_parse(struct arena *arena, struct gguf_shard *shard, int shard_no,
                struct gguf_part *part, struct error *err)
{
    struct parser p = { .path = shard->path, .base = shard->map, .end = shard->size,
                        .arena = arena, .err = err };
    return header(&p, part) && metadata(&p, part) && find_alignment(&p, part) &&
           tensors(&p, part, shard_no, shard);
}
