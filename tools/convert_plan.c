#include "tools/convert_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/format/quant.h"

typedef unsigned long long ull;

/* ---- which tensors ---- */

/* Shape by the table; false: this model has no such tensor. */
static bool solve_shape(struct plan_tensor *t, const struct tensor_spec *s, const struct params *p)
{
    t->n_dims = 0;
    for (int d = 0; d < TENSOR_MAX_DIMS && s->shape[d] != DIM_NONE; d++) {
        int64_t n = params_dim(p, s->shape[d]);
        if (n <= 0)
            return false;
        t->ne[t->n_dims++] = (uint64_t)n;
    }
    return true;
}

static bool is_planned(const struct plan *p, const char *name)
{
    for (size_t i = p->n_tensors; i-- > 0;)
        if (strcmp(p->tensors[i].name, name) == 0)
            return true;
    return false;
}

/* ---- sources ---- */

static const char *shape_text(char text[96], const uint64_t *shape, int rank)
{
    size_t n = 0;
    for (int d = 0; d < rank; d++)
        n += (size_t)snprintf(text + n, 96 - n, d ? "x%llu" : "%llu", (ull)shape[d]);
    text[n] = 0;
    return text;
}

static bool check_shape(const struct st_tensor *t, uint64_t rows, uint64_t cols, struct error *err)
{
    uint64_t wanted[2] = { rows, cols };
    int rank = rows ? 2 : 1;
    char found_text[96], wanted_text[96];
    if (t->rank == rank && t->shape[rank - 1] == cols && (rank == 1 || t->shape[0] == rows))
        return true;
    return fail(err, ERR_FILE, "%s: shape %s, config.json implies %s", t->name,
                shape_text(found_text, t->shape, t->rank),
                shape_text(wanted_text, wanted + 2 - rank, rank));
}

static bool check_scale_values(const struct checkpoint *c, const struct st_tensor *s,
                               struct error *err)
{
    size_t bytes = (size_t)s->bytes, size = st_dtype_bytes(s->dtype), n = bytes / size;
    uint8_t *raw = mem_alloc(bytes, 1, "scales", err);
    bool ok = raw && checkpoint_read(c, s, 0, raw, bytes, err);
    for (size_t i = 0; ok && i < n; i++) {
        float value = e8m0_to_f32(raw[i]);
        uint16_t half;
        if (size == 4)
            memcpy(&value, raw + 4 * i, 4);
        else if (size == 2)
            memcpy(&half, raw + 2 * i, 2), value = bf16_to_f32(half);
        if (!(value > 0) || !isfinite(value))
            ok = fail(err, ERR_FILE, "%s: block %llu, %llu: scale %g is not a positive number",
                      s->name,
                      (ull)(i / s->shape[1]), (ull)(i % s->shape[1]), (double)value);
    }
    mem_free(raw);
    return ok;
}

/* Scales of FP8 are so few that all of them are looked at now; those of FP4 are when they are
 * used. */
static bool find_scale(struct plan *p, const struct st_tensor *t, const struct st_tensor **scale,
                       struct error *err)
{
    char name[300];
    bool fp8 = t->dtype == ST_F8_E4M3, fp4 = is_fp4(t);
    scale_name(p->config->spelling, t->name, name, sizeof name);
    struct st_tensor *s = checkpoint_find(p->checkpoint, name);
    *scale = s;
    if (!fp8 && !fp4)
        return !s || fail(err, ERR_FILE, "%s: scales for a weight of type %s", s->name,
                          t->dtype_name);
    if (!p->config->fp8)
        return fail(err, ERR_FILE, "%s: %s, but config.json has no quantization_config", t->name,
                    fp8 ? "FP8" : "FP4");
    if (!s)
        return fail(err, ERR_FILE, "%s: %s without %s", t->name, fp8 ? "FP8" : "FP4", name);
    if (s->dtype != ST_F8_E8M0 && (fp4 || (s->dtype != ST_F32 && s->dtype != ST_BF16)))
        return fail(err, ERR_FILE, "%s: type %s, expected %sF8_E8M0", s->name, s->dtype_name,
                    fp4 ? "" : "F32, BF16 or ");
    s->used = true;
    if (fp4)
        return check_shape(s, t->shape[0], t->shape[1] * 2 / FP4_BLOCK, err);
    uint64_t rows = (t->shape[0] + FP8_BLOCK - 1) / FP8_BLOCK;
    uint64_t cols = (t->shape[1] + FP8_BLOCK - 1) / FP8_BLOCK;
    return check_shape(s, rows, cols, err) && check_scale_values(p->checkpoint, s, err);
}

/* Can this stored type become such a tensor? FP4 needs whole blocks. */
static bool check_dtype(const struct plan_tensor *t, const struct st_tensor *s, uint64_t cols,
                        struct error *err)
{
    bool integer = s->dtype == ST_I32 || s->dtype == ST_I64;
    if (s->dtype == ST_OTHER || s->dtype == ST_F8_E8M0 || integer != (t->how == HOW_INTEGERS))
        return fail(err, ERR_FILE, "%s: type %s cannot be converted", s->name, s->dtype_name);
    return !is_fp4(s) || (t->n_dims > 1 && cols % FP4_BLOCK == 0) ||
           fail(err, ERR_FILE, "%s: FP4 in rows of %llu, expected a multiple of %d", s->name,
                (ull)cols, FP4_BLOCK);
}

/* The sources of one planned tensor; *found tells a missing one from other failures. */
static bool find_sources(struct plan *p, struct plan_tensor *t, const struct name_row *row,
                         int layer, bool *found, struct error *err)
{
    const struct params *q = &p->config->params;
    char name[256];
    uint64_t rows = t->n_dims == 1 ? 0 : (uint64_t)t->rows, cols = t->ne[0];
    if (t->how == HOW_K_B || t->how == HOW_V_B) {
        rows = (uint64_t)params_dim(q, DIM_KV_B);
        cols = (uint64_t)q->kv_lora_rank;
    }
    if (t->how == HOW_BESIDE)
        cols /= 2;
    t->n_sources = t->how == HOW_ROWS ? (size_t)t->n_matrices : t->how == HOW_BESIDE ? 2 : 1;
    t->sources = arena_alloc(&p->arena, t->n_sources, sizeof *t->sources, err);
    t->scales = arena_alloc(&p->arena, t->n_sources, sizeof *t->scales, err);
    *found = true;
    if (!t->sources || !t->scales)
        return false;
    for (size_t i = 0; i < t->n_sources; i++) {
        const char *hf = t->how == HOW_BESIDE && i > 0 ? row->beside : row->hf;
        struct st_tensor *s = checkpoint_find(
            p->checkpoint, checkpoint_name(name, sizeof name, p->config->spelling, hf, layer,
                                           q->n_layers, (int64_t)i));
        if (!s) {
            *found = i > 0; /* some experts and not others: never optional */
            return fail(err, ERR_FILE, "%s: %s is missing", p->checkpoint->folder, name);
        }
        if (!check_dtype(t, s, cols, err) ||
            !check_shape(s, rows, is_fp4(s) ? cols / 2 : cols, err) ||
            !find_scale(p, s, &t->scales[i], err))
            return false;
        if (s->used && t->how != HOW_V_B)
            return fail(err, ERR_INTERNAL, "%s: used twice", s->name);
        s->used = true;
        t->sources[i] = s;
    }
    t->rows_of = (struct convert_source){
        .checkpoint = p->checkpoint, .tensors = t->sources, .scales = t->scales,
        .rows = rows ? (int64_t)rows : t->rows, .cols = rows ? (int64_t)cols : t->cols,
        .beside = t->how == HOW_BESIDE,
        .head_rows = t->how == HOW_ROTARY ? q->head_dim : 0, .limit = q->n_routed,
    };
    return true;
}

/* ---- types ---- */

static enum tensor_type type_of(enum st_dtype dtype)
{
    switch (dtype) {
    case ST_F32:
        return TYPE_F32;
    case ST_F16:
        return TYPE_F16;
    case ST_BF16:
        return TYPE_BF16;
    case ST_BYTE:
        return TYPE_MXFP4;
    case ST_I32:
    case ST_I64:
        return TYPE_I32;
    default:
        return TYPE_Q8_0; /* the nearest to FP8 that the format has */
    }
}

/* What the tensor is when nobody asks for anything. */
static enum tensor_type native_type(struct plan *p, const struct plan_tensor *t)
{
    if (t->is_f32 || t->how == HOW_FREQS)
        return TYPE_F32;
    enum tensor_type type = type_of(t->sources[0]->dtype);
    for (size_t i = 1; i < t->n_sources; i++)
        if (type_of(t->sources[i]->dtype) != type) /* experts of different kinds: what holds all */
            return TYPE_F32;
    if (t->ne[0] % (uint64_t)quant_traits(type)->block_elements == 0)
        return type;
    p->n_unfit++;
    return TYPE_F16;
}

static uint64_t source_bytes(const struct plan_tensor *t)
{
    uint64_t bytes = 0;
    if (t->how == HOW_V_B) /* counted with the keys */
        return 0;
    for (size_t i = 0; i < t->n_sources; i++)
        bytes += t->sources[i]->bytes + (t->scales[i] ? t->scales[i]->bytes : 0);
    return bytes;
}

static bool choose_types(struct plan *p, const struct options *o, struct error *err)
{
    const struct params *q = &p->config->params;
    if (!type_plan_reserve(&p->types, p->n_tensors, err))
        return false;
    p->types.model = (struct recipe_model){
        .arch = str_of(p->config->arch->name), .n_layers = q->n_layers + q->n_mtp,
        .n_mtp = q->n_mtp, .n_experts = q->n_routed, .n_heads = q->n_heads,
        .n_kv_heads = p->config->arch->has_latent_cache ? 1 : q->n_kv_heads };
    for (size_t i = 0; i < p->n_tensors; i++) {
        const struct plan_tensor *t = &p->tensors[i];
        struct recipe_tensor *r = &p->types.tensors[i];
        *r = (struct recipe_tensor){ .name = t->name, .n_dims = t->n_dims,
                                     .source = native_type(p, t),
                                     .source_bytes = source_bytes(t) };
        memcpy(r->ne, t->ne, sizeof r->ne);
        uint64_t n = t->ne[0] * t->ne[1] * t->ne[2];
        p->n_elements += n;
        p->routed_elements += t->role == ROLE_ROUTED ? n : 0;
    }
    return type_plan_choose(&p->types, o, err);
}

/* ---- one tensor ---- */

static struct plan_tensor *new_tensor(struct plan *p, struct error *err)
{
    if (p->n_tensors == p->room) {
        size_t room = p->room ? 2 * p->room : 256;
        void *grown = mem_resize(p->tensors, room, sizeof *p->tensors, "plan", err);
        if (!grown)
            return NULL;
        p->tensors = grown;
        p->room = room;
    }
    struct plan_tensor *t = &p->tensors[p->n_tensors];
    *t = (struct plan_tensor){ .ne = { 1, 1, 1, 1 } };
    return t;
}

static bool may_lack(const struct plan *p, const struct tensor_spec *s, const struct plan_tensor *t)
{
    if (s->when == ONCE && strcmp(s->name, "output.weight") == 0)
        return p->config->tied;
    return s->need == OPTIONAL && t->how != HOW_K_B && t->how != HOW_V_B;
}

static bool plan_one(struct plan *p, const struct tensor_spec *s, int layer, struct error *err)
{
    const struct params *q = &p->config->params;
    const struct name_row *row = find_names(p->config->spelling, s->name);
    struct error why = { 0 };
    char other[64];
    bool found, head = s->when == ONCE && strcmp(s->name, "output.weight") == 0;
    struct plan_tensor *t = row ? new_tensor(p, err) : NULL;
    if (!t)
        return !row;
    if (!solve_shape(t, s, q) || (row->how == HOW_FREQS && !p->config->llama3.present) ||
        (s->instead && is_planned(p, fill_name(other, sizeof other, s->instead, layer, 0))) ||
        (head && p->config->tied))
        return true;
    fill_name(t->name, sizeof t->name, s->name, layer, 0);
    t->how = row->how == HOW_ROTARY && !p->config->arch->permuted_qk ? HOW_ROWS : row->how;
    t->role = s->role;
    t->is_f32 = s->is_f32;
    t->cols = t->how == HOW_ROTARY && t->n_dims == 1 ? 1 : (int64_t)t->ne[0];
    t->rows = t->n_dims == 1 ? (int64_t)t->ne[0] / t->cols : (int64_t)t->ne[1];
    t->n_matrices = (int64_t)t->ne[2];
    if (t->how != HOW_FREQS && !find_sources(p, t, row, layer, &found, &why))
        return (!found && may_lack(p, s, t)) || fail(err, why.code, "%s", why.text);
    p->n_tensors++;
    return true;
}

/* ---- the work ---- */

static bool freqs_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                       struct error *err)
{
    const struct plan *p = ctx;
    (void)row, (void)n, (void)scratch, (void)err;
    memcpy(out, p->rope_freqs, sizeof *out * (size_t)(p->config->params.head_dim / 2));
    return true;
}

static struct transcode_source source_of(struct plan *p, struct plan_tensor *t)
{
    const struct params *q = &p->config->params;
    struct kv_b_shape shape = { q->n_heads, q->qk_nope_dim, q->value_dim, q->kv_lora_rank };
    if (t->how == HOW_FREQS)
        return (struct transcode_source){ .rows = freqs_rows, .ctx = p };
    struct transcode_source rows = convert_rows(&t->rows_of, t->n_sources);
    return t->how == HOW_K_B   ? kv_b_keys(&t->kv_b, &rows, &shape)
           : t->how == HOW_V_B ? kv_b_values(&t->kv_b, &rows, &shape, 0)
                               : rows;
}

/* Place of a job in the checkpoint: what is computed comes first. */
static int by_place(const void *a, const void *b, void *ctx)
{
    const struct plan *p = ctx;
    const struct transcode_tensor *x = a, *y = b;
    const struct plan_tensor *t = &p->tensors[x->index], *u = &p->tensors[y->index];
    if (!t->n_sources || !u->n_sources)
        return (t->n_sources > 0) - (u->n_sources > 0);
    const struct st_tensor *s = t->sources[0], *r = u->sources[0];
    if (s->file != r->file)
        return s->file < r->file ? -1 : 1;
    if (s->offset != r->offset)
        return s->offset < r->offset ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index); /* both halves of kv_b */
}

static bool describe_jobs(struct plan *p, struct error *err)
{
    p->jobs = mem_alloc(p->n_tensors, sizeof *p->jobs, "conversion", err);
    if (p->config->llama3.present) {
        p->rope_freqs = arena_alloc(&p->arena, (size_t)p->config->params.head_dim / 2,
                                    sizeof *p->rope_freqs, err);
        if (!p->rope_freqs)
            return false;
        hf_config_rope_freqs(p->config, p->rope_freqs);
    }
    for (size_t i = 0; p->jobs && i < p->n_tensors; i++) {
        struct plan_tensor *t = &p->tensors[i];
        const struct recipe_tensor *r = &p->types.tensors[i];
        struct transcode_source source = source_of(p, t);
        p->jobs[i] = (struct transcode_tensor){
            .name = t->name, .index = i, .type = r->type, .cols = t->cols,
            .rows = t->rows * t->n_matrices, .matrix_rows = type_plan_matrix_rows(&p->types, i),
            .copy = source.bytes && t->how != HOW_V_B &&
                    (r->type == TYPE_MXFP4 || r->type == TYPE_I32),
            .importance = type_plan_importance(&p->types, i), .source = source,
        };
    }
    if (p->jobs)
        qsort_r(p->jobs, p->n_tensors, sizeof *p->jobs, by_place, p);
    return p->jobs != NULL;
}

/* ---- the rest of the checkpoint ---- */

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Tensors that say nothing to this program: frequencies computed elsewhere, ranges of activations,
 * prediction blocks that were not asked for, a head that repeats the embedding. */
static bool is_useless(const struct plan *p, const struct st_tensor *t)
{
    const struct params *q = &p->config->params;
    if (ends_with(t->name, "rotary_emb.inv_freq") || ends_with(t->name, "_activation_scale") ||
        ends_with(t->name, "input_scale"))
        return true;
    if (p->config->tied && strcmp(t->name, "lm_head.weight") == 0)
        return true;
    int block;
    if (p->config->spelling == SPELLING_V4)
        return sscanf(t->name, "mtp.%d.", &block) == 1 && block >= q->n_mtp;
    return q->n_routed && hf_layer(SPELLING_HF, t->name) >= q->n_layers + q->n_mtp;
}

static bool check_all_used(const struct plan *p, struct error *err)
{
    for (size_t i = 0; i < p->checkpoint->n_tensors; i++) {
        const struct st_tensor *t = &p->checkpoint->tensors[i];
        if (!t->used && !is_useless(p, t))
            return fail(err, ERR_FILE, "%s: architecture %s has no place for it", t->name,
                        p->config->arch->name);
    }
    return true;
}

/* Many derived checkpoints announce the prediction block and leave it out. */
static void settle_mtp(struct hf_config *config, const struct checkpoint *c, bool keep)
{
    char name[64];
    int announced = config->params.n_mtp;
    for (int i = 0; i < announced; i++) {
        if (config->spelling == SPELLING_V4)
            snprintf(name, sizeof name, "mtp.%d.e_proj.weight", i);
        else
            snprintf(name, sizeof name, "model.layers.%d.eh_proj.weight",
                     config->params.n_layers + i);
        if (keep && checkpoint_find(c, name))
            continue;
        if (keep)
            log_note("%s is missing: written without multi-token prediction", name);
        config->params.n_mtp = i;
        return;
    }
}

/* The base by name: "native" is what the checkpoint has. */
static const char *base_type(const struct options *o)
{
    if (!o->convert_type)
        return o->recipe ? NULL : "copy";
    return strcasecmp(o->convert_type, "native") == 0 ? "copy" : o->convert_type;
}

bool plan_make(struct plan *p, struct checkpoint *c, struct hf_config *config,
               const struct options *o, struct error *err)
{
    *p = (struct plan){ .checkpoint = c, .config = config };
    convert_source_init();
    settle_mtp(config, c, !o->no_mtp);
    const struct params *q = &config->params;
    if (!type_plan_begin(&p->types, o, base_type(o), err))
        return false;
    for (int layer = -1; layer < q->n_layers + q->n_mtp; layer++)
        for (int i = 0; i < config->arch->n_tensors; i++)
            if (tensor_stands_in(&config->arch->tensors[i], q, layer) &&
                !plan_one(p, &config->arch->tensors[i], layer, err))
                return false;
    return check_all_used(p, err) && choose_types(p, o, err) && describe_jobs(p, err);
}

void plan_release(struct plan *p)
{
    mem_free(p->tensors);
    mem_free(p->jobs);
    type_plan_close(&p->types);
    arena_release(&p->arena);
    *p = (struct plan){ 0 };
}
