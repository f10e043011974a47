/* GGUF -> params and weights: which tensors a model has, and that each has exactly its shape. */
#include "src/model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/format/quant.h"
#include "src/model/arch.h"

#define MAX_VOCAB (1 << 20)
#define MAX_TOKEN_LIST_DIFFERENCE 2048 /* padded matrices, padded token lists */
#define NAME_SIZE 128

/* ---- architecture and skeleton ---- */

static bool find_arch(struct model *m, struct error *err)
{
    struct str name = { 0 };
    if (!gguf_has(&m->gguf, "general.architecture"))
        return fail(err, ERR_FILE, "general.architecture: missing");
    if (!gguf_get_str(&m->gguf, "general.architecture", &name, err))
        return false;
    m->arch = arch_find(name);
    if (m->arch)
        return true;
    char known[256] = "";
    for (int i = 0; arch_at(i); i++) {
        size_t len = strlen(known);
        snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", arch_at(i)->name);
    }
    return fail(err, ERR_FILE, "architecture \"%.*s\" is not supported; known are: %s",
                (int)min_of(name.len, (size_t)64), name.data, known);
}

/* The vocabulary is as large as the output matrix has rows, whatever the token list says. */
static bool solve_vocab(struct model *m, struct error *err)
{
    const struct tensor *head = gguf_tensor(&m->gguf, "output.weight");
    m->params.tied_output = !head;
    if (!head)
        head = gguf_tensor(&m->gguf, "token_embd.weight");
    if (!head)
        return fail(err, ERR_FILE, "token_embd.weight: missing");
    uint64_t rows = head->ne[1];
    if (rows > MAX_VOCAB)
        return fail(err, ERR_FILE, "%s: %" PRIu64 " rows, expected at most %d", head->name, rows,
                    MAX_VOCAB);
    const struct gguf_kv *list = gguf_find(&m->gguf, "tokenizer.ggml.tokens");
    if (list && list->type == GGUF_ARRAY) {
        uint64_t difference = list->count > rows ? list->count - rows : rows - list->count;
        if (difference > MAX_TOKEN_LIST_DIFFERENCE)
            return fail(err, ERR_FILE, "tokenizer.ggml.tokens: %" PRIu64 " tokens, but %s has %"
                        PRIu64 " rows", list->count, head->name, rows);
    }
    m->params.n_vocab = (int64_t)rows;
    return true;
}

/* "blk.%d.x" -> "blk.7.x" */
static void tensor_name(char *out, const char *pattern, int layer)
{
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(out, NAME_SIZE, "%.*s%d%s", (int)(mark - pattern), pattern, layer, mark + 2);
    else
        snprintf(out, NAME_SIZE, "%s", pattern);
}

static bool block_has(const struct model *m, const char *pattern, int64_t block)
{
    char name[NAME_SIZE];
    tensor_name(name, pattern, (int)block);
    return gguf_tensor(&m->gguf, name);
}

/* Does the first block for multi-token prediction hold a whole main layer instead? Some files count
 * blocks that they do not have. */
static bool mtp_is_main(const struct model *m, int64_t n_layers)
{
    return !block_has(m, "blk.%d.nextn.eh_proj.weight", n_layers) &&
           !block_has(m, "blk.%d.nextn.e_proj.weight", n_layers) &&
           block_has(m, "blk.%d.attn_norm.weight", n_layers);
}

const char *numerics_name(enum numerics n)
{
    static const char *const names[] = { "official", "gguf", "llamacpp" };
    return names[n];
}

static bool solve_skeleton(struct model *m, enum numerics numerics, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    bool all_main = k->n_mtp > 0 && mtp_is_main(m, k->block_count - k->n_mtp);
    p->n_mtp = all_main ? 0 : (int)k->n_mtp;
    p->n_layers = (int)k->block_count - p->n_mtp;
    if (p->n_mtp > 0 && !block_has(m, "blk.%d.attn_norm.weight", 0))
        return fail(err, ERR_FILE, "it holds a block for multi-token prediction and no model: name it "
                    "with --draft-model, beside the model that it belongs to");
    p->hidden_size = k->embedding_length;
    p->ffn_size = max_of(k->feed_forward_length, 0);
    p->context_length = k->context_length;
    p->rms_eps = (float)k->rms_eps;
    p->n_heads = (int)k->n_heads;
    p->n_kv_heads = (int)k->n_kv_heads;
    p->n_dense_lead = (int)k->n_dense_lead;
    p->rope_base = (float)k->rope_base;
    p->rope_scaling = k->rope_scaling;
    p->rope_factor = k->rope_scaling == ROPE_SCALING_NONE ? 1 : (float)k->rope_factor;
    p->numerics = numerics;
    return solve_vocab(m, err);
}

/* ---- weights ---- */

void weight_from_tensor(struct weight *w, const struct tensor *t)
{
    size_t row_bytes = quant_row_bytes(t->type, (int64_t)t->ne[0]);
    *w = (struct weight){
        .data = t->data,
        .type = t->type,
        .cols = (int64_t)t->ne[0],
        .rows = (int64_t)t->ne[1],
        .n_matrices = (int64_t)(t->ne[2] * t->ne[3]),
        .row_bytes = row_bytes,
        .matrix_bytes = row_bytes * t->ne[1],
        .name = t->name,
    };
}

struct weight weight_rows(const struct weight *w, int64_t first, int64_t rows)
{
    struct weight part = *w;
    if (w->data)
        part.data = (const char *)w->data + (size_t)first * w->row_bytes;
    part.rows = rows;
    return part;
}

static const struct tensor *find_tensor(const struct gguf *g, const char *pattern, int layer)
{
    char name[NAME_SIZE];
    if (!pattern)
        return NULL;
    tensor_name(name, pattern, layer);
    return gguf_tensor(g, name);
}

/* The same in the words of the checkpoint: "blk.43.nextn.enorm.weight" is "mtp.0.enorm.weight". */
static const struct tensor *find_published(const struct gguf *g, const char *pattern)
{
    static const char block[] = "blk.%d.", nextn[] = "nextn.";
    char name[NAME_SIZE];
    if (strncmp(pattern, block, sizeof block - 1))
        return NULL;
    const char *rest = pattern + sizeof block - 1;
    rest += strncmp(rest, nextn, sizeof nextn - 1) ? 0 : sizeof nextn - 1;
    if (strcmp(rest, "shared_head_norm.weight") == 0)
        rest = "norm.weight";
    snprintf(name, sizeof name, "mtp.0.%s", rest);
    return gguf_tensor(g, name);
}

/* A row's tensor under any of its names. */
static const struct tensor *find_row(const struct model *m, const struct gguf *g,
                                     const struct tensor_spec *s, int layer)
{
    const struct tensor *t = find_tensor(g, s->name, layer);
    if (!t)
        t = find_tensor(g, s->alias, layer);
    if (!t && g == &m->block)
        t = find_published(g, s->name);
    if (!t && g == &m->block)
        t = find_tensor(g, s->alone, layer);
    return t;
}

/* Is a row not looked for, because of another? */
static bool is_replaced(const struct model *m, const struct gguf *g, const struct tensor_spec *s,
                        int layer)
{
    return s->instead && (find_tensor(g, s->instead, layer) ||
                          (g == &m->block && find_published(g, s->instead)));
}

static void shape_text(char *out, size_t size, const uint64_t *ne, int n_dims)
{
    size_t len = 0;
    for (int i = 0; i < n_dims && len < size; i++)
        len += (size_t)snprintf(out + len, size - len, "%s%" PRIu64, i ? "x" : "", ne[i]);
}

/* Dimensions behind the last of the row's shape are 1. False when one of them is 0: the model has
 * no such tensor. */
static bool wanted_shape(const struct tensor_spec *s, const struct params *p, uint64_t ne[4],
                         int *n_dims)
{
    *n_dims = 0;
    for (int i = 0; i < 4; i++) {
        ne[i] = 1;
        if (s->shape[i] == DIM_NONE)
            continue;
        ne[i] = (uint64_t)params_dim(p, s->shape[i]);
        *n_dims = i + 1;
        if (ne[i] == 0)
            return false;
    }
    return true;
}

static bool same_shape(const struct tensor *t, const uint64_t ne[4])
{
    return memcmp(t->ne, ne, sizeof t->ne) == 0;
}

static bool check_type(const struct tensor_spec *s, const struct tensor *t, struct error *err)
{
    const struct quant_traits *q = quant_traits(t->type);
    bool is_float = t->type == TYPE_F32 || t->type == TYPE_F16 || t->type == TYPE_BF16;
    if (s->is_f32 && !is_float)
        return fail(err, ERR_FILE, "%s: type %s, expected F32, F16 or BF16", t->name,
                    q->name ? q->name : "unknown");
    if (s->is_i32 && t->type != TYPE_I32)
        return fail(err, ERR_FILE, "%s: type %s, expected I32", t->name,
                    q->name ? q->name : "unknown");
    if (!q->dequantize && !s->is_i32)
        return fail(err, ERR_FILE, "%s: type %s is not supported", t->name,
                    q->name ? q->name : "unknown");
    return true;
}

/* Check one tensor against its row and fill the weight. */
static bool bind(struct model *m, const struct tensor_spec *s, const struct tensor *t, int layer,
                 struct error *err)
{
    uint64_t ne[4], folded[4];
    int n_dims;
    wanted_shape(s, &m->params, ne, &n_dims);
    memcpy(folded, ne, sizeof ne);
    folded[n_dims - 2 >= 0 ? n_dims - 2 : 0] *= ne[n_dims - 1];
    folded[n_dims - 1] = 1;
    if (!same_shape(t, ne) && !(s->may_fold && same_shape(t, folded))) {
        char found[96] = "", wanted[96] = "";
        shape_text(found, sizeof found, t->ne, max_of(t->n_dims, 1));
        shape_text(wanted, sizeof wanted, ne, n_dims);
        return fail(err, ERR_FILE, "%s: shape %s, expected %s", t->name, found, wanted);
    }
    if (!check_type(s, t, err))
        return false;

    char *owner = s->when == ONCE ? (char *)m : (char *)&m->layers[layer];
    struct weight *w = (struct weight *)(owner + s->offset);
    struct tensor exact = *t;
    memcpy(exact.ne, ne, sizeof ne);
    weight_from_tensor(w, &exact);
    m->tensors[m->n_tensors++] = (struct model_tensor){
        .spec = s, .tensor = t, .weight = w, .layer = s->when == ONCE ? -1 : layer,
        .role = layer >= m->params.n_layers ? ROLE_MTP : (int)s->role,
    };
    return true;
}

bool layer_is_moe(const struct params *p, int layer)
{
    return p->n_routed > 0 && (layer >= p->n_dense_lead || layer >= p->n_layers);
}

static int main_layer_ratio(const struct params *p, int layer)
{
    return layer >= 0 && layer < p->n_layers ? p->compress_ratio[layer] : 0;
}

bool tensor_stands_in(const struct tensor_spec *s, const struct params *p, int layer)
{
    switch (s->when) {
    case ONCE:        return layer < 0;
    case EVERY_LAYER: return layer >= 0;
    case DENSE_LAYER: return layer >= 0 && !layer_is_moe(p, layer);
    case MOE_LAYER:   return layer >= 0 && layer_is_moe(p, layer);
    case MTP_LAYER:   return layer >= p->n_layers;
    case MAIN_LAYER:  return layer >= 0 && layer < p->n_layers;
    case CSA_LAYER:   return main_layer_ratio(p, layer) == 4;
    case HCA_LAYER:   return main_layer_ratio(p, layer) == 128;
    case HASH_LAYER:  return layer >= 0 && layer < p->n_hash_layers;
    }
    return false;
}

/* All tensors of one layer, or the global ones for layer -1. */
static bool bind_layer(struct model *m, const struct gguf *g, int layer, struct error *err)
{
    for (int i = 0; i < m->arch->n_tensors; i++) {
        const struct tensor_spec *s = &m->arch->tensors[i];
        uint64_t ne[4];
        int n_dims;
        if (!tensor_stands_in(s, &m->params, layer) || !wanted_shape(s, &m->params, ne, &n_dims) ||
            is_replaced(m, g, s, layer))
            continue;
        const struct tensor *t = find_row(m, g, s, layer);
        if (!t && s->need == REQUIRED) {
            char name[NAME_SIZE];
            tensor_name(name, s->name, layer);
            return fail(err, ERR_FILE, "%s: missing", name);
        }
        if (t && !bind(m, s, t, layer, err))
            return false;
    }
    return layer < 0 || m->arch->assemble(m, layer, err);
}

/* Blocks behind the main layers are a bonus: without them, or with an unusable one, the model loads
 * and there is no drafting. */
static void bind_mtp(struct model *m)
{
    int wanted = m->params.n_mtp;
    for (int i = 0; i < wanted; i++) {
        struct error why = { 0 };
        int layer = m->params.n_layers + i, n_before = m->n_tensors;
        if (bind_layer(m, &m->gguf, layer, &why))
            continue;
        log_note("multi-token prediction is not available: %s", why.text);
        m->n_tensors = n_before;
        m->params.n_mtp = i;
        return;
    }
}

static void set_layer_kinds(struct model *m)
{
    const struct params *p = &m->params;
    for (int i = 0; i < p->n_layers + p->n_mtp; i++)
        m->layers[i].is_moe = layer_is_moe(p, i);
}

static bool bind_tensors(struct model *m, struct error *err)
{
    struct params *p = &m->params;
    size_t n_blocks = (size_t)(p->n_layers + max_of(p->n_mtp, 1)); /* one may come later */
    m->layers = arena_alloc(&m->arena, n_blocks, sizeof *m->layers, err);
    m->tensors = arena_alloc(&m->arena, (n_blocks + 1) * (size_t)m->arch->n_tensors,
                             sizeof *m->tensors, err);
    if (!m->layers || !m->tensors)
        return false;
    set_layer_kinds(m);
    if (!bind_layer(m, &m->gguf, -1, err))
        return false;
    for (int i = 0; i < p->n_layers; i++) {
        if (!bind_layer(m, &m->gguf, i, err))
            return false;
    }
    bind_mtp(m);
    if (p->tied_output)
        m->output = m->token_embd;
    return true;
}

/* ---- counts ---- */

static void count(struct model *m)
{
    const struct params *p = &m->params;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *mt = &m->tensors[i];
        const struct tensor *t = mt->tensor;
        uint64_t elements = t->ne[0] * tensor_rows(t), used = t->bytes, active = elements;
        if (mt->role == ROLE_MTP) {
            m->mtp_bytes += t->bytes;
            continue;
        }
        if (mt->role == ROLE_ROUTED) {
            m->routed_bytes += t->bytes;
            used = used / (uint64_t)p->n_routed * (uint64_t)p->top_k;
            active = active / (uint64_t)p->n_routed * (uint64_t)p->top_k;
        } else if (mt->role == ROLE_EMBED && !p->tied_output) {
            used = t->bytes / t->ne[1];
        }
        m->weight_bytes += t->bytes;
        m->bytes_per_token += used;
        m->n_elements += elements;
        m->n_elements_active += active;
    }
}

static void note_unused(const struct model *m)
{
    uint64_t n_used = (uint64_t)m->n_tensors;
    if (n_used < m->gguf.n_tensors)
        log_detail("%" PRIu64 " of %" PRIu64 " tensors in the file are not used",
                   m->gguf.n_tensors - n_used, m->gguf.n_tensors);
}

/* ---- open, close, describe ---- */

static bool open_model(struct model *m, const char *path, bool unfinished, enum numerics numerics,
                       struct error *err)
{
    *m = (struct model){ 0 };
    if (!(unfinished ? gguf_open_unfinished(&m->gguf, path, err) : gguf_open(&m->gguf, path, err))) {
        model_close(m);
        return false; /* these errors name the file, of split models the part */
    }
    bool ok = find_arch(m, err) && keys_read(&m->keys, &m->gguf, m->arch->name, err) &&
              solve_skeleton(m, numerics, err) && m->arch->solve(m, err) && bind_tensors(m, err);
    if (!ok) {
        error_prefix(err, "%s", path);
        model_close(m);
        return false;
    }
    count(m);
    note_unused(m);
    return true;
}

bool model_open(struct model *m, const char *path, enum numerics numerics, struct error *err)
{
    return open_model(m, path, false, numerics, err);
}

bool model_open_unfinished(struct model *m, const char *path, enum numerics numerics,
                           struct error *err)
{
    return open_model(m, path, true, numerics, err);
}

void model_close(struct model *m)
{
    mem_unmap(m->copy, m->copy_bytes);
    arena_release(&m->arena);
    gguf_close(&m->block);
    gguf_close(&m->gguf);
    *m = (struct model){ 0 };
}

/* ---- a block in a file of its own ---- */

/* Its architecture is the model's, and so is the number that it gives the block. */
static bool check_block_file(const struct model *m, struct error *err)
{
    const struct gguf *g = &m->block;
    struct str arch = { 0 };
    char key[NAME_SIZE];
    uint64_t n_blocks = 0, n_mtp = 0;
    snprintf(key, sizeof key, "%s.block_count", m->arch->name);
    if (!gguf_get_str(g, "general.architecture", &arch, err) ||
        !gguf_get_u64(g, key, &n_blocks, err))
        return false;
    snprintf(key, sizeof key, "%s.nextn_predict_layers", m->arch->name);
    if (!gguf_get_u64(g, key, &n_mtp, err))
        return false;
    if (!str_is(arch, m->arch->name))
        return fail(err, ERR_FILE, "general.architecture: \"%.*s\", the model's is %s",
                    (int)min_of(arch.len, (size_t)64), arch.data, m->arch->name);
    if (gguf_tensor(g, "mtp.0.enorm.weight"))
        return true;
    if (n_mtp != 1 || n_blocks != (uint64_t)m->params.n_layers + 1)
        return fail(err, ERR_FILE, "%" PRIu64 " of %" PRIu64 " blocks are for multi-token prediction, "
                    "expected 1 of %d", n_mtp, n_blocks, m->params.n_layers + 1);
    return true;
}

static bool add_block(struct model *m, struct error *err)
{
    struct params *p = &m->params;
    int layer = p->n_layers, n_before = m->n_tensors;
    if (!check_block_file(m, err))
        return false;
    p->n_mtp = 1;
    set_layer_kinds(m);
    if (bind_layer(m, &m->block, layer, err)) {
        for (int i = n_before; i < m->n_tensors; i++)
            m->mtp_bytes += m->tensors[i].tensor->bytes;
        return true;
    }
    p->n_mtp = 0;
    m->n_tensors = n_before;
    m->layers[layer] = (struct layer){ 0 };
    return false;
}

bool model_add_block(struct model *m, const char *path, struct error *err)
{
    if (m->params.n_mtp > 0 || !m->arch->draft)
        return fail(err, ERR_USAGE, m->arch->draft ? "%s: the model has a block for multi-token "
                                                     "prediction in its own file"
                                                   : "%s: %s does not draft",
                    path, m->arch->name);
    if (gguf_open(&m->block, path, err) && add_block(m, err))
        return true;
    error_prefix(err, "%s", path);
    gguf_close(&m->block);
    return false;
}

bool model_check_files(const struct model *m, struct error *err)
{
    const struct gguf *files[] = { &m->gguf, &m->block };
    int shard;
    uint64_t offset;
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (gguf_lost(files[i], &shard, &offset))
            return fail(err, ERR_RUN, "%s: model file changed or unreadable at offset %" PRIu64,
                        files[i]->shards[shard].path, offset);
    return true;
}

/* 671026419200 -> "671.0 B" */
static void count_text(char *out, size_t size, uint64_t n)
{
    if (n >= 1000000000)
        snprintf(out, size, "%.1f B", (double)n / 1e9);
    else
        snprintf(out, size, "%.1f M", (double)n / 1e6);
}

void model_describe(const struct model *m, char *text, size_t size)
{
    char all[32], active[32];
    struct str name = str_of(m->arch->name);
    struct error ignored = { 0 };
    gguf_get_str(&m->gguf, "general.name", &name, &ignored);
    count_text(all, sizeof all, m->n_elements);
    count_text(active, sizeof active, m->n_elements_active);
    int shown = (int)min_of(name.len, (size_t)80);
    if (m->params.n_routed)
        snprintf(text, size, "%.*s %s, %s active", shown, name.data, all, active);
    else
        snprintf(text, size, "%.*s %s", shown, name.data, all);
    for (char *c = text; *c; c++) { /* metadata must not drive the terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    }
}
