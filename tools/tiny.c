/* tiny: write a random model of any architecture, in any size and file generation.
 *
 *     tiny OUT.gguf --arch deepseek2                    a few MB, for tests
 *     tiny OUT.gguf --like v2-lite --type mix           16 B parameters, for speed
 *
 * Tensors are the rows of the architecture's table; sizes come from a table of published and of
 * tiny models. The values of a tensor depend on the seed, its name and its layer only, so the same
 * weights can be written in every way that files have held them: the unsplit key-value matrix of a
 * latent attention or its two parts, fused or separate projections, one file or several. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/format/quant.h"
#include "tools/tiny.h"

/* ---- random values ---- */

#define POOL 65536 /* elements encoded per tensor; larger tensors repeat its blocks at random */
#define BUFFER_BYTES ((size_t)1 << 20)

static uint64_t next(uint64_t *state) /* splitmix64 (Steele et al. 2014) */
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Nearly normal: four uniform numbers, mean 0, deviation 1. */
static float normal(uint64_t *state)
{
    uint64_t z = next(state);
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(z >> (16 * i) & 0xffff) / 65536.0f;
    return (sum - 2.0f + 0x1p-15f) * 1.7320508f;
}

static uint64_t seed_of(uint64_t seed, const char *name)
{
    uint64_t h = seed * 0x9e3779b97f4a7c15u + 0xcbf29ce484222325u;
    for (const char *c = name; *c; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    return h;
}

/* An endless row of encoded blocks with the values of one tensor. */
struct stream {
    enum tensor_type type;
    uint64_t state;
    char *pool;
    size_t block_bytes, n_blocks;
    size_t at, run; /* next block, and how many follow it before a jump */
};

static bool stream_open(struct stream *s, const char *name, enum tensor_type type, uint64_t seed,
                        float mean, float deviation, struct error *err)
{
    const struct quant_traits *q = quant_traits(type);
    *s = (struct stream){ .type = type, .state = seed_of(seed, name) };
    s->block_bytes = (size_t)q->block_bytes;
    s->run = s->n_blocks = POOL / (size_t)q->block_elements;
    float *values = mem_alloc(POOL, sizeof *values, "values", err);
    s->pool = mem_alloc(s->n_blocks, s->block_bytes, "blocks", err);
    for (size_t i = 0; values && i < POOL; i++)
        values[i] = mean + deviation * normal(&s->state);
    if (values && s->pool)
        q->quantize(values, s->pool, POOL, NULL);
    mem_free(values);
    return values && s->pool;
}

/* The next blocks: the pool in order, then runs of it from random places. What comes does not
 * depend on how many are asked for at a time. */
static void stream_read(struct stream *s, char *out, size_t n_blocks)
{
    while (n_blocks) {
        if (s->run == 0) {
            s->at = next(&s->state) % s->n_blocks;
            s->run = min_of(s->n_blocks - s->at, (size_t)256);
        }
        size_t n = min_of(s->run, n_blocks);
        memcpy(out, s->pool + s->at * s->block_bytes, n * s->block_bytes);
        s->at += n;
        s->run -= n;
        out += n * s->block_bytes;
        n_blocks -= n;
    }
}

/* ---- values ---- */

/* Mean and deviation that keep activations near 1 and make logits spread by about 3. */
static void spread(const struct tiny_item *it, float *mean, float *deviation)
{
    const char *name = it->spec->name;
    *mean = 0;
    *deviation = 1 / sqrtf((float)it->ne[0]);
    if (tiny_name_ends(name, "norm.weight")) {
        *mean = 1;
        *deviation = 0.1f;
    } else if (strstr(name, "rope_freqs")) {
        *mean = 4;
        *deviation = 1;
    } else if (it->spec->is_f32 && it->n_dims == 1) {
        *deviation = 0.1f; /* biases */
    } else if (it->spec->role == ROLE_EMBED || it->spec->role == ROLE_HEAD ||
               strstr(name, "ffn_gate_inp")) {
        *deviation *= 3;
    }
}

static bool write_stream(struct tiny_plan *plan, const struct tiny_item *it, const char *name, struct error *err)
{
    float mean, deviation;
    struct stream s;
    const struct quant_traits *q = quant_traits(it->type);
    spread(it, &mean, &deviation);
    bool ok = stream_open(&s, name, it->type, plan->o->seed, mean, deviation, err);
    uint64_t left = it->ne[0] * it->ne[1] * it->ne[2] / (uint64_t)q->block_elements;
    while (ok && left) {
        size_t n = (size_t)min_of(left, BUFFER_BYTES / s.block_bytes);
        stream_read(&s, plan->buffer, n);
        ok = gguf_writer_data(&plan->writer, plan->buffer, n * s.block_bytes, err);
        left -= n;
    }
    mem_free(s.pool);
    return ok;
}

/* A tensor whose matrices are those of several others below each other: matrix by matrix, the rows
 * of each part in turn. `parts` are suffixes of names, `rows` their rows. */
static bool write_fused(struct tiny_plan *plan, const struct tiny_item *it, int n_parts,
                        const char *const *parts, const uint64_t *rows, struct error *err)
{
    struct stream s[3] = { { 0 } };
    const struct quant_traits *q = quant_traits(it->type);
    size_t row_blocks = (size_t)(it->ne[0] / (uint64_t)q->block_elements);
    float mean, deviation;
    bool ok = true;
    spread(it, &mean, &deviation);
    for (int i = 0; ok && i < n_parts; i++) {
        char name[128];
        snprintf(name, sizeof name, "blk.%d.%s", it->layer, parts[i]);
        ok = stream_open(&s[i], name, it->type, plan->o->seed, mean, deviation, err);
    }
    for (uint64_t m = 0; ok && m < it->ne[2]; m++) {
        for (int i = 0; ok && i < n_parts; i++) {
            for (uint64_t row = 0; ok && row < rows[i]; row++) {
                stream_read(&s[i], plan->buffer, row_blocks);
                ok = gguf_writer_data(&plan->writer, plan->buffer, row_blocks * s[i].block_bytes,
                                      err);
            }
        }
    }
    for (int i = 0; i < n_parts; i++)
        mem_free(s[i].pool);
    return ok;
}

/* The key-value matrix of one layer as floats [heads * (nope + value), rank]: what kv_b, k_b and
 * v_b of any file are made of. */
static float *kv_b_values(const struct tiny_plan *plan, int layer, struct error *err)
{
    const struct params *p = &plan->params;
    char name[128];
    snprintf(name, sizeof name, "blk.%d.attn_kv_b.weight", layer);
    uint64_t state = seed_of(plan->o->seed, name);
    size_t n = (size_t)(params_dim(p, DIM_KV_B) * p->kv_lora_rank);
    float *values = mem_alloc(n, sizeof *values, "kv_b", err);
    float deviation = 1 / sqrtf((float)p->kv_lora_rank);
    for (size_t i = 0; values && i < n; i++)
        values[i] = deviation * normal(&state);
    return values;
}

/* The row `row` of k_b, v_b or kv_b, gathered from kv_b. */
static void gather_row(const struct params *p, const char *which, const float *kv_b, int64_t row,
                       float *out)
{
    int64_t rank = p->kv_lora_rank, nope = p->qk_nope_dim, value = p->value_dim;
    if (tiny_name_ends(which, ".attn_k_b.weight")) { /* [head][rank] rows of nope: transposed */
        const float *head = kv_b + row / rank * (nope + value) * rank;
        for (int64_t i = 0; i < nope; i++)
            out[i] = head[i * rank + row % rank];
        return;
    }
    if (tiny_name_ends(which, ".attn_v_b.weight")) /* [head][value] rows of rank */
        row = row / value * (nope + value) + nope + row % value;
    memcpy(out, kv_b + row * rank, (size_t)rank * sizeof *out);
}

static bool write_kv(struct tiny_plan *plan, const struct tiny_item *it, struct error *err)
{
    const struct quant_traits *q = quant_traits(it->type);
    float *kv_b = kv_b_values(plan, it->layer, err);
    float *row = mem_alloc((size_t)it->ne[0], sizeof *row, "row", err);
    bool ok = kv_b && row;
    for (uint64_t r = 0; ok && r < it->ne[1] * it->ne[2]; r++) {
        gather_row(&plan->params, it->spec->name, kv_b, (int64_t)r, row);
        q->quantize(row, plan->buffer, (int64_t)it->ne[0], NULL);
        ok = gguf_writer_data(&plan->writer, plan->buffer,
                              quant_row_bytes(it->type, (int64_t)it->ne[0]), err);
    }
    mem_free(row);
    mem_free(kv_b);
    return ok;
}

/* Experts by token id. */
static bool write_ids(struct tiny_plan *plan, const struct tiny_item *it, struct error *err)
{
    uint64_t state = seed_of(plan->o->seed, it->name);
    for (uint64_t row = 0; row < it->ne[1]; row++) {
        int32_t ids[64];
        int first = (int)(next(&state) % (uint64_t)plan->params.n_routed);
        for (uint64_t i = 0; i < it->ne[0]; i++)
            ids[i] = (first + (int)i) % plan->params.n_routed;
        if (!gguf_writer_data(&plan->writer, ids, (size_t)it->ne[0] * sizeof *ids, err))
            return false;
    }
    return true;
}

static bool write_item(struct tiny_plan *plan, const struct tiny_item *it, struct error *err)
{
    static const char *const qkv[] = { "attn_q.weight", "attn_k.weight", "attn_v.weight" };
    static const char *const qkv_bias[] = { "attn_q.bias", "attn_k.bias", "attn_v.bias" };
    static const char *const gate_up[] = { "ffn_gate_exps.weight", "ffn_up_exps.weight" };
    const struct params *p = &plan->params;
    const char *name = it->spec->name;
    uint64_t q = (uint64_t)params_dim(p, DIM_Q), k = (uint64_t)params_dim(p, DIM_KV);
    uint64_t v = (uint64_t)params_dim(p, DIM_V), expert = (uint64_t)p->expert_size;
    if (strstr(name, "attn_kv_b") || strstr(name, "attn_k_b") || strstr(name, "attn_v_b"))
        return write_kv(plan, it, err);
    if (tiny_name_ends(name, ".attn_qkv.weight"))
        return write_fused(plan, it, 3, qkv, (uint64_t[]){ q, k, v }, err);
    if (tiny_name_ends(name, ".attn_qkv.bias")) { /* one row: parts of it, as rows of one element */
        struct tiny_item column = *it;
        column.ne[0] = 1;
        column.ne[1] = it->ne[0];
        return write_fused(plan, &column, 3, qkv_bias, (uint64_t[]){ q, k, v }, err);
    }
    if (strstr(name, "ffn_gate_up_exps"))
        return write_fused(plan, it, 2, gate_up, (uint64_t[]){ expert, expert }, err);
    if (it->spec->is_i32)
        return write_ids(plan, it, err);
    char canonical[128];
    tiny_item_name(canonical, sizeof canonical, name, it->layer);
    return write_stream(plan, it, canonical, err);
}

/* ---- the file ---- */

static struct params params_of(const struct tiny_options *o)
{
    const struct shape *s = o->like;
    int layers = o->layers ? o->layers : s->layers;
    struct params p = {
        .n_layers = layers, .n_mtp = o->generation->mtp && (s->kv_rank || s->streams) ? 1 : 0,
        .hidden_size = s->hidden, .ffn_size = s->ffn,
        .n_vocab = o->vocab > 0 ? o->vocab : s->vocab,
        .n_heads = s->heads, .n_kv_heads = s->kv_heads,
        .head_dim = s->head, .value_dim = s->value,
        .q_lora_rank = s->q_rank, .kv_lora_rank = s->kv_rank,
        .qk_nope_dim = s->nope, .qk_rope_dim = s->rotary,
        .n_routed = s->routed, .top_k = s->top_k, .n_shared = s->shared,
        .n_dense_lead = min_of(s->dense_lead, layers), .expert_size = s->expert,
    };
    p.index_heads = s->index_heads;
    p.index_dim = s->index_dim;
    p.out_groups = s->out_groups;
    p.out_lora_rank = s->out_rank;
    p.n_streams = s->streams;
    p.n_hash_layers = s->hash_layers;
    for (int i = 0; i < layers; i++)
        p.compress_ratio[i] = (uint8_t)shape_ratio(s, i);
    p.rope.n_rot = s->kv_rank ? s->rotary : s->head;
    return p;
}

typedef bool item_fn(struct tiny_plan *p, const struct tiny_item *it, struct error *err);

static bool announce(struct tiny_plan *p, const struct tiny_item *it, struct error *err)
{
    uint64_t ne[4];
    int n_dims = it->n_dims;
    memcpy(ne, it->ne, sizeof ne);
    if (it->spec->may_fold && p->o->generation->folded) {
        ne[1] *= ne[2];
        n_dims = 2;
    }
    return gguf_writer_add_tensor(&p->writer, it->name, it->type, n_dims, ne, err);
}

static bool for_items(struct tiny_plan *p, item_fn *fn, struct error *err)
{
    for (int layer = -1; layer < p->params.n_layers + p->params.n_mtp; layer++) {
        for (int i = 0; i < p->arch->n_tensors; i++) {
            struct tiny_item it;
            if (tiny_make_item(p, &p->arch->tensors[i], layer, &it) && !fn(p, &it, err))
                return false;
        }
    }
    return true;
}

/* Collect what the mixture must know of a tensor. */
static bool collect(struct tiny_plan *p, const struct tiny_item *it, struct error *err)
{
    size_t n = p->n_chosen;
    char *name = mem_alloc(strlen(it->name) + 1, 1, "name", err);
    if (!name)
        return false;
    struct recipe_tensor *t = &p->chosen[n];
    *t = (struct recipe_tensor){ .name = strcpy(name, it->name), .n_dims = it->n_dims,
                                 .source = it->spec->is_i32   ? TYPE_I32
                                         : it->spec->is_f32 ? TYPE_F32
                                                            : TYPE_F16 };
    memcpy(t->ne, it->ne, sizeof t->ne);
    p->n_chosen++;
    return true;
}

/* Ask the mixture for the types of all tensors. */
static bool choose_types(struct tiny_plan *p, struct error *err)
{
    const struct params *m = &p->params;
    struct recipe_model model = { .arch = str_of(p->o->like->arch),
                                  .n_layers = m->n_layers + m->n_mtp, .n_experts = m->n_routed,
                                  .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads };
    size_t most = (size_t)(model.n_layers + 1) * (size_t)p->arch->n_tensors;
    p->chosen = mem_alloc(most, sizeof *p->chosen, "types", err);
    return p->chosen && for_items(p, collect, err) &&
           recipe_apply(&p->o->mix, &model, p->chosen, p->n_chosen, err);
}

static bool write_model(const struct tiny_options *o, struct error *err)
{
    struct tiny_plan p = { .o = o, .arch = arch_find(str_of(o->like->arch)), .params = params_of(o) };
    p.buffer = mem_alloc(BUFFER_BYTES, 1, "buffer", err);
    if (o->shards > 1)
        gguf_writer_split(&p.writer, o->shards, 0, 0);
    if (o->sparse)
        gguf_writer_sparse(&p.writer);
    bool ok = p.buffer && (!o->mix.mixture || choose_types(&p, err)) && tiny_add_keys(&p, err) &&
              tiny_add_tokenizer(&p, err) &&
              for_items(&p, announce, err) && gguf_writer_begin(&p.writer, o->out, err) &&
              (o->sparse || for_items(&p, write_item, err)) && gguf_writer_finish(&p.writer, err);
    gguf_writer_release(&p.writer);
    for (size_t i = 0; i < p.n_chosen; i++)
        mem_free((void *)p.chosen[i].name);
    mem_free(p.chosen);
    mem_free(p.buffer);
    return ok;
}

/* ---- command line ---- */

static const char usage[] =
    "usage: tiny OUT.gguf [--arch NAME | --like SHAPE] [--layers N] [--type TYPE|mix]\n"
    "            [--mix NAME] [--generation NAME] [--vocab N|none] [--seed N] [--split N]\n"
    "            [--sparse]\n"
    "  --arch        the smallest model of an architecture\n"
    "  --like        sizes of a model (default tiny-v3)\n"
    "  --type        of all matrices, with fallbacks for short rows (default f32);\n"
    "                mix: Q4_K experts, Q8_0 latent matrices, Q6_K head;\n"
    "                ud-q2_k_xl: a dynamic 2-bit file; native: MXFP4 experts, Q8_0, BF16\n"
    "  --mix         types as a mixture of llama-quantize gives them: Q4_K_M, IQ2_XXS, ...\n"
    "  --generation  way of writing (default " DEFAULT_GENERATION ")\n"
    "  --vocab       rows of the embedding; none: token ids only\n"
    "  --split       number of files\n"
    "  --sparse      header and tensor table as they would be, holes instead of weights\n";

static void print_names(FILE *out)
{
    fputs("shapes:", out);
    for (int i = 0; shape_at(i); i++)
        fprintf(out, " %s", shape_at(i)->name);
    fputs("\ngenerations:", out);
    for (int i = 0; generation_at(i); i++)
        fprintf(out, " %s", generation_at(i)->name);
    fputs("\n", out);
}

/* *out = found, or fail naming what there is none of. */
#define FOUND(out, found, what, name)                                                             \
    ((*(out) = (found)) != NULL || fail(err, ERR_USAGE, "no %s \"%s\"", what, name))

static bool parse_number(const char *text, int64_t low, int64_t high, int64_t *value,
                         struct error *err)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (errno || end == text || *end || *value < low || *value > high)
        return fail(err, ERR_USAGE, "\"%s\": expected a number from %lld to %lld", text,
                    (long long)low, (long long)high);
    return true;
}

static bool parse_type(const char *text, int *type, struct error *err)
{
    static const struct {
        const char *name;
        int type;
    } mixes[] = { { "mix", MIX }, { "ud-q2_k_xl", MIX_UD_Q2 }, { "native", MIX_NATIVE } };
    for (size_t i = 0; i < ARRAY_LEN(mixes); i++) {
        if (strcmp(mixes[i].name, text) == 0) {
            *type = mixes[i].type;
            return true;
        }
    }
    *type = quant_type_by_name(text);
    return (*type >= 0 && quant_traits((uint32_t)*type)->quantize) ||
           fail(err, ERR_USAGE, "no type \"%s\", or no encoder for it", text);
}

static bool parse_option(struct tiny_options *o, const char *name, const char *value, struct error *err)
{
    int64_t n = 0;
    bool ok = true;
    if (!strcmp(name, "--arch"))
        ok = FOUND(&o->like, shape_of_arch(value), "architecture", value);
    else if (!strcmp(name, "--like"))
        ok = FOUND(&o->like, shape_find(value), "shape", value);
    else if (!strcmp(name, "--generation"))
        ok = FOUND(&o->generation, generation_find(value), "generation", value);
    else if (!strcmp(name, "--type"))
        ok = parse_type(value, &o->type, err);
    else if (!strcmp(name, "--mix"))
        ok = recipe_set(&o->mix, value, err);
    else if (!strcmp(name, "--layers"))
        ok = parse_number(value, 1, 500, &n, err), o->layers = (int)n;
    else if (!strcmp(name, "--split"))
        ok = parse_number(value, 1, 999, &n, err), o->shards = (int)n;
    else if (!strcmp(name, "--seed"))
        ok = parse_number(value, 0, INT64_MAX, &n, err), o->seed = (uint64_t)n;
    else if (!strcmp(name, "--vocab") && !strcmp(value, "none"))
        o->vocab = 0;
    else if (!strcmp(name, "--vocab"))
        ok = parse_number(value, 300, 1 << 20, &n, err), o->vocab = n;
    else
        ok = fail(err, ERR_USAGE, "no option %s", name);
    return ok;
}

static bool parse(struct tiny_options *o, int argc, char **argv, struct error *err)
{
    *o = (struct tiny_options){ .vocab = -1, .seed = 1, .type = TYPE_F32,
                           .mix = { .strict = true, .has_imatrix = true },
                           .like = shape_find("tiny-v3"),
                           .generation = NULL };
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-') {
            o->out = argv[i];
        } else if (!strcmp(argv[i], "--sparse")) {
            o->sparse = true;
        } else if (i + 1 == argc) {
            return fail(err, ERR_USAGE, "%s wants a value", argv[i]);
        } else if (!parse_option(o, argv[i], argv[i + 1], err)) {
            return false;
        } else {
            i++;
        }
    }
    if (!o->generation)
        o->generation = generation_find(o->like->generation ? o->like->generation
                                                            : DEFAULT_GENERATION);
    return o->out ? true : fail(err, ERR_USAGE, "no output file");
}

int main(int argc, char **argv)
{
    struct tiny_options o;
    struct error err = { 0 };
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        fputs(usage, stdout);
        print_names(stdout);
        return 0;
    }
    if (parse(&o, argc, argv, &err) && write_model(&o, &err))
        return 0;
    fprintf(stderr, "tiny: %s\n", err.text);
    if (err.code == ERR_USAGE) {
        fputs(usage, stderr);
        print_names(stderr);
    }
    return (int)err.code;
}
