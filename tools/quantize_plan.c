#include "tools/quantize_plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pattern.h"
#include "src/format/quant.h"
#include "tools/fit.h"
#include "tools/mixture.h"

typedef unsigned long long ull;

/* ---- older files: attn_kv_b becomes attn_k_b and attn_v_b ---- */

#define KV_B "attn_kv_b.weight"

/* Another tensor of the same layer, or NULL. */
static const struct tensor *neighbour(const struct gguf *g, const struct tensor *t,
                                      const char *rest)
{
    char name[128];
    snprintf(name, sizeof name, "blk.%d.%s", tensor_layer(t->name), rest);
    return gguf_tensor(g, name);
}

/* Its dimensions from the shapes around it: keys mean different things in files of different age.
 * False when this is no kv_b that can be split. */
static bool kv_b_shape(const struct gguf *g, const struct recipe_model *m, const struct tensor *t,
                       struct kv_b_shape *shape)
{
    const struct tensor *q = neighbour(g, t, "attn_q_b.weight");
    const struct tensor *kv_a = neighbour(g, t, "attn_kv_a_mqa.weight");
    const struct tensor *out = neighbour(g, t, "attn_output.weight");
    q = q ? q : neighbour(g, t, "attn_q.weight");
    if (!q || !kv_a || !out || m->n_heads < 1 || t->n_dims != 2 || kv_a->ne[1] <= t->ne[0])
        return false;
    uint64_t heads = (uint64_t)m->n_heads, rotary = kv_a->ne[1] - t->ne[0];
    uint64_t key = q->ne[1] / heads, value = out->ne[0] / heads;
    if (key <= rotary || !value || heads * (key - rotary + value) != t->ne[1])
        return false;
    *shape = (struct kv_b_shape){ (int64_t)heads, (int64_t)(key - rotary), (int64_t)value,
                                  (int64_t)t->ne[0] };
    return true;
}

static bool wants_split(const struct quantize_plan *p, const struct options *o,
                        const struct tensor *t, struct kv_b_shape *shape)
{
    size_t n = strlen(t->name), k = strlen(KV_B);
    bool rest_is_split = !o->only || neighbour(&p->older, t, "attn_k_b.weight");
    return !o->keep_kv_b && rest_is_split && !recipe_copies(&p->types.recipe) && n > k &&
           strcmp(t->name + n - k, KV_B) == 0 && !neighbour(&p->gguf, t, "attn_k_b.weight") &&
           kv_b_shape(&p->gguf, &p->types.model, t, shape);
}

/* ---- the tensors of the new file ---- */

static void add_item(struct quantize_plan *p, const struct tensor *t, enum made_from how,
                     const struct kv_b_shape *shape)
{
    struct quantize_item *item = &p->items[p->types.n];
    struct recipe_tensor *r = &p->types.tensors[p->types.n++];
    *item = (struct quantize_item){ .gguf = &p->gguf, .from = t, .how = how };
    *r = (struct recipe_tensor){ .name = t->name, .n_dims = t->n_dims, .source = t->type,
                                 .source_bytes = t->bytes };
    memcpy(r->ne, t->ne, sizeof r->ne);
    if (how == MADE_WHOLE)
        return;
    uint64_t heads = (uint64_t)shape->heads, part = how == MADE_KEYS ? (uint64_t)shape->nope
                                                                     : (uint64_t)shape->value;
    uint64_t rank = (uint64_t)shape->rank;
    item->shape = *shape;
    r->name = item->split_name;
    snprintf(item->split_name, sizeof item->split_name, "blk.%d.attn_%c_b.weight",
             tensor_layer(t->name), how == MADE_KEYS ? 'k' : 'v');
    r->n_dims = 3;
    r->ne[0] = how == MADE_KEYS ? part : rank;
    r->ne[1] = how == MADE_KEYS ? rank : part;
    r->ne[2] = heads;
    r->source_bytes = heads * part * quant_row_bytes(t->type, (int64_t)rank);
}

static bool list_items(struct quantize_plan *p, const struct options *o, struct error *err)
{
    const struct gguf *g = &p->gguf;
    struct kv_b_shape shape;
    size_t n = (size_t)g->n_tensors;
    for (uint64_t i = 0; i < g->n_tensors; i++)
        n += wants_split(p, o, &g->tensors[i], &shape);
    p->items = mem_alloc(n, sizeof *p->items, "tensors", err);
    p->tensors = mem_alloc(n, sizeof *p->tensors, "tensors", err);
    if (!p->items || !p->tensors || !type_plan_reserve(&p->types, n, err))
        return false;
    p->types.n = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        if (!wants_split(p, o, t, &shape)) {
            add_item(p, t, MADE_WHOLE, NULL);
            continue;
        }
        add_item(p, t, MADE_KEYS, &shape);
        add_item(p, t, MADE_VALUES, &shape);
        p->n_split++;
    }
    if (p->n_split) { /* as the absorbed form sees it: one latent for all heads */
        p->types.model.n_kv_heads = 1;
        log_note("%d tensors attn_kv_b become attn_k_b and attn_v_b (--keep-kv-b leaves them)",
                 p->n_split);
    }
    return true;
}

/* ---- --only ---- */

static bool open_older(struct quantize_plan *p, const char *out, struct error *err)
{
    if (access(out, F_OK) != 0)
        return errno == ENOENT || fail(err, ERR_RUN, "%s: %s", out, strerror(errno));
    if (!gguf_open(&p->older, out, err))
        return false;
    return p->older.n_shards == 1 ||
           fail(err, ERR_USAGE, "--only: %s is one of several parts; give the output a new name, "
                "then the tensors that do not match come from the input", out);
}

/* The tensor stays as the older output has it. */
static bool take_older(struct quantize_plan *p, size_t i, struct error *err)
{
    struct quantize_item *item = &p->items[i];
    struct recipe_tensor *r = &p->types.tensors[i];
    const struct tensor *t = gguf_tensor(&p->older, r->name);
    if (!t || memcmp(t->ne, r->ne, sizeof t->ne) != 0)
        return fail(err, ERR_USAGE, "--only: %s has no %s of the shape that is in %s: it was not "
                    "made from it", p->older.shards[0].path, r->name, p->gguf.shards[0].path);
    *item = (struct quantize_item){ .gguf = &p->older, .from = t, .how = MADE_WHOLE };
    r->name = t->name;
    r->source = t->type;
    r->source_bytes = t->bytes;
    return true;
}

/* Mark what does not match, and find where it comes from. */
static bool leave_others(struct quantize_plan *p, const struct options *o, struct error *err)
{
    regex_t re;
    size_t n_made = 0;
    bool ok = true;
    if (!o->only)
        return true;
    if (!pattern_open(&re, o->only, err))
        return error_prefix(err, "option --only");
    p->types.partial = true;
    for (size_t i = 0; ok && i < p->types.n; i++) {
        struct recipe_tensor *r = &p->types.tensors[i];
        r->keep = regexec(&re, r->name, 0, NULL, 0) != 0;
        n_made += !r->keep;
        if (r->keep && p->older.n_shards)
            ok = take_older(p, i, err);
    }
    regfree(&re);
    if (ok && !n_made)
        return fail(err, ERR_USAGE, "option --only: no tensor matches %s", o->only);
    if (ok)
        log_note("%zu of %zu tensors are made, the others are copied from %s", n_made, p->types.n,
                 p->older.n_shards ? p->older.shards[0].path : p->gguf.shards[0].path);
    return ok;
}

static void describe_tensors(struct quantize_plan *p)
{
    for (size_t i = 0; i < p->types.n; i++) {
        struct quantize_item *item = &p->items[i];
        const struct recipe_tensor *r = &p->types.tensors[i];
        struct transcode_source source =
            transcode_gguf_source(&item->source, item->gguf, item->from);
        bool copy = r->type == item->from->type && item->how != MADE_KEYS;
        if (item->how == MADE_KEYS)
            source = kv_b_keys(&item->view, &source, &item->shape);
        else if (item->how == MADE_VALUES)
            source = kv_b_values(&item->view, &source, &item->shape,
                                 quant_row_bytes(r->source, item->shape.rank));
        p->tensors[i] = (struct transcode_tensor){
            .name = r->name, .index = i, .type = r->type, .cols = (int64_t)r->ne[0],
            .rows = (int64_t)(r->ne[1] * r->ne[2] * r->ne[3]),
            .matrix_rows = type_plan_matrix_rows(&p->types, i), .copy = copy,
            .importance = type_plan_importance(&p->types, i), .source = source,
        };
    }
}

/* ---- budgets ---- */

struct settling {
    struct quantize_plan *p;
    const struct options *o;
    const char *in;
};

/* Read with pread, one row: few are wanted. */
static bool sample_row(const void *ctx, size_t i, int64_t row, float *out)
{
    const struct quantize_plan *p = ctx;
    const struct quantize_item *item = &p->items[i];
    struct gguf_source slot;
    struct transcode_source source = transcode_gguf_source(&slot, item->gguf, item->from);
    if (item->how != MADE_WHOLE || !quant_traits(item->from->type)->dequantize)
        return false;
    void *scratch = mem_alloc(item->from->ne[0], source.scratch_per_element, "a row", NULL);
    bool ok = scratch && source.rows(source.ctx, row, 1, out, scratch, NULL);
    mem_free(scratch);
    return ok;
}

static bool settle(struct type_plan *types, void *ctx, struct error *err)
{
    struct settling *s = ctx;
    struct fit_source source = { sample_row, s->p };
    return fit_choose(types, s->o, s->in, &source, &s->p->explanation, err);
}

bool quantize_plan_open(struct quantize_plan *p, const struct options *o, const char *in,
                        const char *out, const char *type, struct error *err)
{
    struct settling settling = { p, o, in };
    bool by_budget = fit_wanted(o);
    *p = (struct quantize_plan){ .n_split = 0 };
    if (by_budget && type)
        return fail(err, ERR_USAGE, "a type and a budget: leave out %s, or --fit-ram, --fit-vram "
                    "and --min-tps", type);
    if (!type_plan_begin(&p->types, o, by_budget ? "q8_0" : type, err) ||
        !gguf_open(&p->gguf, in, err) ||
        !recipe_model_read(&p->types.model, &p->gguf, err) ||
        (o->only && !open_older(p, out, err)))
        return false;
    if (by_budget) {
        p->types.settle = settle;
        p->types.settle_ctx = &settling;
        p->types.settled = true;
    }
    if (!p->gguf.n_tensors)
        return fail(err, ERR_FILE, "%s: has no tensors", in);
    if (!list_items(p, o, err) || !leave_others(p, o, err) || !type_plan_choose(&p->types, o, err))
        return false;
    describe_tensors(p);
    return true;
}

void quantize_plan_close(struct quantize_plan *p)
{
    gguf_close(&p->gguf);
    gguf_close(&p->older);
    type_plan_close(&p->types);
    buf_release(&p->explanation);
    mem_free(p->items);
    mem_free(p->tensors);
    *p = (struct quantize_plan){ .n_split = 0 };
}

bool quantize_plan_unchanged(const struct quantize_plan *p, struct error *err)
{
    return gguf_unchanged(&p->gguf, err) && gguf_unchanged(&p->older, err);
}

/* ---- the new file ---- */

/* The keys that speak of attention, as files with split tensors have them. */
static bool announce_split(const struct quantize_plan *p, struct gguf_writer *w, struct error *err)
{
    const struct kv_b_shape *s = NULL;
    const struct str arch = p->types.model.arch;
    const struct tensor *kv_a = NULL;
    for (size_t i = 0; i < p->types.n && !s; i++)
        if (p->items[i].how == MADE_KEYS) {
            s = &p->items[i].shape;
            kv_a = neighbour(&p->gguf, p->items[i].from, "attn_kv_a_mqa.weight");
        }
    if (!s) /* both halves come from the older output, and so do the keys */
        return true;
    int64_t rotary = (int64_t)kv_a->ne[1] - s->rank;
    const struct { const char *key; int64_t value; } keys[] = {
        { "head_count_kv", 1 }, { "key_length", s->rank + rotary }, { "value_length", s->rank },
        { "key_length_mla", s->nope + rotary }, { "value_length_mla", s->value },
    };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        char name[128];
        snprintf(name, sizeof name, "%.*s.attention.%s", (int)min_of(arch.len, (size_t)64),
                 arch.data, keys[i].key);
        if (!gguf_writer_add_u32(w, name, (uint32_t)keys[i].value, err))
            return false;
    }
    return true;
}

bool quantize_plan_announce(const struct quantize_plan *p, struct gguf_writer *w, struct error *err)
{
    bool ok = gguf_writer_copy_all_kv(w, p->older.n_shards ? &p->older : &p->gguf, err) &&
              (!p->n_split || announce_split(p, w, err)) && type_plan_write(&p->types, w, err);
    for (size_t i = 0; ok && i < p->types.n; i++) {
        const struct recipe_tensor *t = &p->types.tensors[i];
        ok = gguf_writer_add_tensor(w, t->name, t->type, t->n_dims, t->ne, err);
    }
    return ok;
}

static void describe_files(const struct gguf *g, const char *what, struct buf *text)
{
    for (int i = 0; i < g->n_shards; i++) {
        const struct gguf_shard *s = &g->shards[i];
        buf_printf(text, "%s %s of %llu bytes, file %llu:%llu changed at %lld\n", what, s->path,
                   (ull)s->size, (ull)s->device, (ull)s->inode, (long long)s->changed_ns);
    }
}

bool quantize_plan_describe(const struct quantize_plan *p, const struct options *o,
                            struct buf *text,
                            struct error *err)
{
    describe_files(&p->gguf, "input", text);
    describe_files(&p->older, "older output", text);
    buf_printf(text, "made: %s\n", o->only ? o->only : "all");
    type_plan_describe(&p->types, o, text);
    return buf_ok(text, err);
}
