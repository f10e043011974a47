#include "tools/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pattern.h"
#include "src/cli/buf.h"
#include "src/format/quant.h"
#include "tools/mixture.h"

#define MAX_OVERRIDES 1024

double type_bits(enum tensor_type type)
{
    const struct quant_traits *t = quant_traits(type);
    return t->block_elements ? 8.0 * t->block_bytes / t->block_elements : 0;
}

/* ---- making a recipe ---- */

static bool unknown_type(const char *name, struct error *err)
{
    const char *near = mixture_nearest(name);
    if (near)
        return fail(err, ERR_USAGE, "unknown type \"%s\" (did you mean %s?)", name, near);
    return fail(err, ERR_USAGE, "unknown type \"%s\"; there are %s", name, mixture_names());
}

bool recipe_set(struct recipe *r, const char *name, struct error *err)
{
    const struct mixture *m = mixture_find(name);
    if (!m)
        return unknown_type(name, err);
    r->mixture = m;
    return true;
}

/* A type that an override may name: one that can be written. */
static bool read_type(const char *name, enum tensor_type *type, struct error *err)
{
    int t = quant_type_by_name(name);
    if (t < 0)
        return fail(err, ERR_USAGE, "\"%s\" is not the name of a tensor type", name);
    if (!quant_traits((uint32_t)t)->quantize || t == TYPE_Q8_1 || t == TYPE_Q8_K)
        return fail(err, ERR_USAGE, "tensors cannot be written as %s", name);
    *type = (enum tensor_type)t;
    return true;
}

bool recipe_add(struct recipe *r, const char *rule, struct error *err)
{
    const char *equals = strrchr(rule, '=');
    enum tensor_type type = TYPE_F32;
    if (!equals || equals == rule)
        return fail(err, ERR_USAGE, "wants RE=TYPE such as ffn_down_exps=q6_k, got \"%s\"", rule);
    if (!read_type(equals + 1, &type, err))
        return false;
    if (r->n_overrides == MAX_OVERRIDES)
        return fail(err, ERR_USAGE, "more than %d rules", MAX_OVERRIDES);
    if (!r->overrides)
        r->overrides = arena_alloc(&r->arena, MAX_OVERRIDES, sizeof *r->overrides, err);
    char *pattern = r->overrides
                        ? arena_strndup(&r->arena, rule, (size_t)(equals - rule), err) : NULL;
    if (!pattern)
        return false;
    struct recipe_override *o = &r->overrides[r->n_overrides];
    if (!pattern_open(&o->re, pattern, err))
        return false;
    o->pattern = pattern;
    o->type = type;
    r->n_overrides++;
    return true;
}

/* Blanks at both ends and a comment taken away. */
static char *trimmed(char *line)
{
    line[strcspn(line, "#")] = 0;
    line += strspn(line, " \t\r");
    size_t n = strlen(line);
    while (n && strchr(" \t\r", line[n - 1]))
        line[--n] = 0;
    return line;
}

bool recipe_read(struct recipe *r, const char *path, struct error *err)
{
    struct buf text = { 0 };
    bool ok = buf_read_file(&text, path, err) && buf_ok(&text, err);
    int number = 1;
    for (char *line = ok ? text.data : NULL, *next; ok && line; line = next, number++) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = trimmed(line);
        if (*line)
            ok = strchr(line, '=') ? recipe_add(r, line, err) : recipe_set(r, line, err);
        if (!ok)
            error_prefix(err, "%s:%d", path, number);
    }
    buf_release(&text);
    return ok;
}

void recipe_release(struct recipe *r)
{
    for (int i = 0; i < r->n_overrides; i++)
        regfree(&r->overrides[i].re);
    arena_release(&r->arena);
    *r = (struct recipe){ 0 };
}

uint32_t recipe_file_type(const struct recipe *r)
{
    return (uint32_t)r->mixture->file_type;
}

const char *recipe_name(const struct recipe *r)
{
    return r->mixture->name;
}

bool recipe_copies(const struct recipe *r)
{
    return r->mixture->copy;
}

const char *recipe_names(void)
{
    return mixture_names();
}

/* ---- the model ---- */

/* A count that may be one number or an array with one per layer: then the first. */
static bool read_count(const struct gguf *g, struct str arch, const char *key, int *value,
                       struct error *err)
{
    char name[128];
    snprintf(name, sizeof name, "%.*s.%s", (int)min_of(arch.len, (size_t)64), arch.data, key);
    const struct gguf_kv *kv = gguf_find(g, name);
    uint64_t n = 0;
    if (kv && kv->type == GGUF_ARRAY) {
        kv = gguf_array(g, name, GGUF_KIND_INT, err);
        if (!kv)
            return false;
        n = kv->count ? (uint64_t)gguf_int_at(kv, 0) : 0;
    } else if (!gguf_get_u64(g, name, &n, err)) {
        return false;
    }
    if (n > 1 << 20)
        return fail(err, ERR_FILE, "%s is %llu", name, (unsigned long long)n);
    *value = (int)n;
    return true;
}

bool recipe_model_read(struct recipe_model *m, const struct gguf *g, struct error *err)
{
    *m = (struct recipe_model){ .arch = str_of("") };
    if (!gguf_get_str(g, "general.architecture", &m->arch, err) ||
        !read_count(g, m->arch, "block_count", &m->n_layers, err) ||
        !read_count(g, m->arch, "nextn_predict_layers", &m->n_mtp, err) ||
        !read_count(g, m->arch, "expert_count", &m->n_experts, err) ||
        !read_count(g, m->arch, "attention.head_count", &m->n_heads, err))
        return false;
    m->n_kv_heads = m->n_heads;
    return read_count(g, m->arch, "attention.head_count_kv", &m->n_kv_heads, err);
}

/* ---- protection ---- */

static bool has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n >= k && strcmp(name + n - k, tail) == 0;
}

static bool is_float(enum tensor_type type)
{
    return type == TYPE_F32 || type == TYPE_F16 || type == TYPE_BF16;
}

/* Vectors, norms, routers, tables of numbers: never quantized by anybody. */
static bool never_quantized(const struct recipe_tensor *t)
{
    bool matrix = t->ne[1] * t->ne[2] * t->ne[3] > 1;
    return !matrix || !ends(t->name, "weight") || has(t->name, "_norm.weight") ||
           has(t->name, "ffn_gate_inp.weight") || has(t->name, "ffn_gate_tid2eid.weight") ||
           has(t->name, "indexer.k_proj.weight") || has(t->name, "indexer.q_proj.weight") ||
           !quant_traits(t->source)->dequantize;
}

/* Small matrices that steer the rest: mixing of residual streams, positions in compressors. */
static bool steers(const char *name)
{
    return has(name, "hc_attn_") || has(name, "hc_ffn_") || has(name, "output_hc_") ||
           has(name, "compressor_ape") || has(name, "attn_sinks");
}

/* Rows of the protection list: the least type of tensors whose name contains `part`. */
static const struct floor {
    const char *part;
    enum tensor_type type;
} floors[] = {
    { "indexer.proj.", TYPE_F16 },
    { "attn_k_b.", TYPE_Q8_0 }, { "attn_v_b.", TYPE_Q8_0 }, { "indexer.attn_k.", TYPE_Q8_0 },
    { "indexer.attn_q_b.", TYPE_Q8_0 }, { "nextn.eh_proj.", TYPE_Q8_0 },
    { "attn_kv_a_mqa.", TYPE_Q6_K }, { "attn_q_a.", TYPE_Q6_K }, { "_shexp.", TYPE_Q6_K },
};

static bool floor_of(const struct recipe_model *m, const char *name, enum tensor_type *type)
{
    for (size_t i = 0; i < ARRAY_LEN(floors); i++)
        if (has(name, floors[i].part)) {
            *type = floors[i].type;
            return true;
        }
    bool dense = has(name, ".ffn_gate.") || has(name, ".ffn_up.") || has(name, ".ffn_down.");
    if (strcmp(name, "output.weight") == 0 || (dense && m->n_experts > 0)) {
        *type = TYPE_Q6_K;
        return true;
    }
    *type = TYPE_Q4_K;
    return strcmp(name, "token_embd.weight") == 0;
}

/* Not below `least`; but a source that has less already gains nothing from more bits. */
static void raise_to(struct recipe_tensor *t, enum tensor_type least)
{
    if (type_bits(t->type) >= type_bits(least))
        return;
    if (!is_float(t->source) && type_bits(t->source) <= type_bits(least))
        least = t->source;
    if (type_bits(least) > type_bits(t->type)) {
        t->type = least;
        t->reason = RECIPE_PROTECTED;
    }
}

/* ---- fallback (Q-04) ---- */

static bool divides(enum tensor_type type, const struct recipe_tensor *t)
{
    return t->ne[0] % (uint64_t)quant_traits(type)->block_elements == 0;
}

static enum tensor_type smaller_blocks(enum tensor_type type)
{
    switch (type) {
    case TYPE_Q2_K:
    case TYPE_Q3_K:
        return TYPE_Q4_0;
    case TYPE_Q4_K:
        return TYPE_Q5_0;
    case TYPE_Q5_K:
        return TYPE_Q5_1;
    case TYPE_Q6_K:
        return TYPE_Q8_0;
    case TYPE_NVFP4:
        return TYPE_MXFP4;
    default:
        return TYPE_IQ4_NL;
    }
}

static void fall_back(struct recipe_tensor *t)
{
    if (divides(t->type, t))
        return;
    t->type = smaller_blocks(t->type);
    t->reason = RECIPE_FALLBACK;
    if (!divides(t->type, t))
        t->type = TYPE_F16;
}

enum tensor_type recipe_settle(const struct recipe *r, const struct recipe_model *m,
                               const struct recipe_tensor *t, enum tensor_type wish)
{
    struct recipe_tensor x = *t;
    enum tensor_type least;
    x.type = wish;
    if (!r->strict && floor_of(m, x.name, &least))
        raise_to(&x, least);
    fall_back(&x);
    return type_bits(x.type) >= type_bits(x.source) ? x.source : x.type;
}

/* ---- applying a recipe ---- */

/* Global tensors first, then by layer, then by name: the order in which the mixtures count. */
static int by_layer_and_name(const void *a, const void *b)
{
    const struct recipe_tensor *const *x = a, *const *y = b;
    int lx = tensor_layer((*x)->name), ly = tensor_layer((*y)->name);
    return lx != ly ? (lx > ly) - (lx < ly) : strcmp((*x)->name, (*y)->name);
}

static const struct recipe_override *override_of(const struct recipe *r, const char *name,
                                                 bool *matched)
{
    const struct recipe_override *first = NULL;
    for (int i = 0; i < r->n_overrides; i++)
        if (regexec(&r->overrides[i].re, name, 0, NULL, 0) == 0) {
            matched[i] = true;
            first = first ? first : &r->overrides[i];
        }
    return first;
}

static void choose(const struct recipe *r, const struct recipe_model *m, struct mixture_walk *w,
                   struct recipe_tensor *t, bool *matched)
{
    const struct recipe_override *o = override_of(r, t->name, matched);
    enum tensor_type least;
    bool keep = never_quantized(t) || (!o && (r->mixture->copy || (!r->strict && steers(t->name))));
    t->type = t->source;
    t->reason = RECIPE_KEPT;
    if (keep)
        return;
    t->reason = RECIPE_MIXTURE;
    if (o) {
        t->type = o->type;
        t->reason = RECIPE_OVERRIDE;
        if (!r->strict && floor_of(m, t->name, &least) && type_bits(o->type) < type_bits(least))
            log_warning("%s: %s as asked for, although less than %s costs accuracy there", t->name,
                        quant_traits(o->type)->name, quant_traits(least)->name);
    } else {
        t->type = r->pure ? r->mixture->base : mixture_type(w, t);
        if (!r->strict && floor_of(m, t->name, &least))
            raise_to(t, least);
    }
    fall_back(t);
}

/* The down projection of routed experts is the most sensitive of the three: not below the
 * others. */
static void lift_down(struct recipe_tensor **order, size_t n, struct recipe_tensor *down)
{
    int layer = tensor_layer(down->name);
    for (size_t i = 0; i < n; i++) {
        struct recipe_tensor *t = order[i];
        bool other = has(t->name, "ffn_gate_exps") || has(t->name, "ffn_up_exps") ||
                     has(t->name, "ffn_gate_up_exps");
        if (other && t->reason != RECIPE_OVERRIDE && tensor_layer(t->name) == layer) {
            raise_to(down, t->type);
            fall_back(down);
        }
    }
}

/* The tensors of one layer stand together in `order`: find the range around i. */
static void lift_downs(struct recipe_tensor **order, size_t n)
{
    for (size_t begin = 0, end; begin < n; begin = end) {
        int layer = tensor_layer(order[begin]->name);
        for (end = begin; end < n && tensor_layer(order[end]->name) == layer; end++)
            ;
        for (size_t i = begin; i < end; i++)
            if (has(order[i]->name, "ffn_down_exps") && order[i]->reason != RECIPE_OVERRIDE &&
                order[i]->reason != RECIPE_KEPT)
                lift_down(order + begin, end - begin, order[i]);
    }
}

bool recipe_apply(const struct recipe *r, const struct recipe_model *m,
                  struct recipe_tensor *tensors,
                  size_t n, struct error *err)
{
    bool matched[MAX_OVERRIDES] = { false };
    struct mixture_walk w = { .mixture = r->mixture, .model = m, .has_imatrix = r->has_imatrix,
                              .tied = true };
    if (!r->mixture)
        return fail(err, ERR_USAGE, "no type given; there are %s", mixture_names());
    struct recipe_tensor **order = mem_alloc(n, sizeof *order, "tensors of a recipe", err);
    if (!order)
        return false;
    for (size_t i = 0; i < n; i++) {
        order[i] = &tensors[i];
        w.n_attn_v += mixture_is_attn_v(tensors[i].name);
        if (strcmp(tensors[i].name, "output.weight") == 0)
            w.tied = false;
    }
    qsort(order, n, sizeof *order, by_layer_and_name);
    for (size_t i = 0; i < n; i++)
        choose(r, m, &w, order[i], matched);
    if (!r->strict && !r->mixture->copy)
        lift_downs(order, n);
    for (size_t i = 0; i < n; i++)
        if (tensors[i].keep) {
            tensors[i].type = tensors[i].source;
            tensors[i].reason = RECIPE_KEPT;
        }
    for (int i = 0; i < r->n_overrides; i++)
        if (!matched[i])
            log_warning("no tensor matches %s", r->overrides[i].pattern);
    mem_free(order);
    return true;
}

bool recipe_wants_imatrix(const struct recipe *r, const struct recipe_tensor *t)
{
    if (t->type == t->source || strcmp(t->name, "token_embd.weight") == 0 ||
        strcmp(t->name, "output.weight") == 0)
        return false;
    switch (t->type) {
    case TYPE_IQ1_S:
    case TYPE_IQ1_M:
    case TYPE_IQ2_XXS:
    case TYPE_IQ2_XS:
    case TYPE_IQ2_S:
    case TYPE_IQ3_XXS:
        return true;
    case TYPE_Q2_K: /* the small mixture of this type is made for it */
        return r->mixture->file_type == FILE_Q2_K_S;
    default:
        return false;
    }
}
