/* src/device.h on the CPU: opening, working memory, and the way to the operations. */
#include "cpu/device_cpu.h"

#include <assert.h>
#include <string.h>

#include "cpu/attention.h"
#include "cpu/attention_parts.h"
#include "cpu/blas.h"
#include "cpu/experts.h"
#include "cpu/matmul.h"
#include "cpu/ops.h"
#include "cpu/sparse.h"
#include "src/base/mem.h"
#include "src/base/util.h"

#define LINE ((size_t)64)
#define LARGE_BLOCK ((size_t)4 << 20) /* below this the heap does, and its checks */

/* Zeroed memory whose pages are all there, in huge pages where it is large: attention streams through
 * the cache, and decoding shall take no page fault. The line in front of a block tells its size. */
static void *take_block(size_t bytes, const char *what, struct error *err)
{
    size_t total = bytes < SIZE_MAX - LINE ? bytes + LINE : SIZE_MAX;
    bool large = total >= LARGE_BLOCK;
    uint8_t *line = large ? mem_map(total, what, err) : mem_alloc_aligned(total, 1, what, err);
    if (!line)
        return NULL;
    if (large)
        mem_populate(line, total);
    else
        memset(line, 0, total);
    memcpy(line, &total, sizeof total);
    return line + LINE;
}

static void give_block(void *block)
{
    size_t total = 0;
    uint8_t *line = block ? (uint8_t *)block - LINE : NULL;
    if (line)
        memcpy(&total, line, sizeof total);
    if (total >= LARGE_BLOCK)
        mem_unmap(line, total);
    else
        mem_free(line);
}

static void *cpu_alloc(struct device *d, size_t bytes, const char *what, struct error *err)
{
    (void)d;
    return take_block(bytes, what, err);
}

static void cpu_release(struct device *d, void *block)
{
    (void)d;
    give_block(block);
}

static bool cpu_transfer(struct device *d, void *dst, const void *src, size_t bytes,
                         struct error *err)
{
    (void)d, (void)err;
    memcpy(dst, src, bytes);
    return true;
}

static void cpu_begin(struct device *d, const struct step *s)
{
    assert(s->n_tokens > 0 && s->n_tokens <= cpu(d)->options.max_tokens);
    assert(s->n_logits >= 0 && s->n_logits <= s->n_tokens);
    cpu(d)->step = *s;
    cpu(d)->n_steps++;
}

static bool cpu_end(struct device *d, struct error *err)
{
    (void)d, (void)err;
    return true;
}

/* ---- the large operations ---- */

static void cpu_matmul(struct device *d, struct rows dst, const struct weight *w, struct rows src,
                       const struct weight *bias)
{
    matmul_rows(cpu(d), dst, w, src, cpu(d)->step.n_tokens, bias);
}

static void cpu_logits(struct device *d, const struct weight *w, struct rows src)
{
    const struct step *s = &cpu(d)->step;
    if (s->n_logits == 0)
        return;
    struct rows last = src;
    last.data += (s->n_tokens - s->n_logits) * src.stride;
    struct rows dst = { s->logits, w->rows, w->rows };
    matmul_rows(cpu(d), dst, w, last, s->n_logits, NULL);
}

static void cpu_attention_gqa(struct device *d, struct rows dst, struct rows q,
                              const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                              int head_dim, float scale)
{
    attention_run_gqa(cpu(d), dst, q, c, layer, n_heads, n_kv_heads, head_dim, scale);
}

static void cpu_attention_mla(struct device *d, struct rows dst, struct rows q,
                              const struct kvcache *c, int layer, const struct mla *m)
{
    attention_run_mla(cpu(d), dst, q, c, layer, m);
}

static void cpu_hyper_mix(struct device *d, struct rows dst, struct rows mix, struct rows hidden,
                          const struct hyper *h)
{
    hyper_run_mix(cpu(d), dst, mix, hidden, h);
}

static void cpu_hyper_join(struct device *d, struct rows hidden, struct rows mix, struct rows out)
{
    hyper_run_join(cpu(d), hidden, mix, out);
}

static void cpu_compress(struct device *d, struct kvcache *c, int layer, struct rows values,
                         struct rows scores, const struct compressor *k)
{
    compress_run(cpu(d), c, layer, values, scores, k);
}

static void cpu_indexer_topk(struct device *d, struct rows queries, struct rows weights,
                             const struct kvcache *c, int layer, const struct indexer *x)
{
    indexer_run(cpu(d), queries, weights, c, layer, x);
}

static void cpu_attention_window(struct device *d, struct rows dst, struct rows q, struct rows row,
                                 struct kvcache *c, int layer, const struct window_attention *a)
{
    attention_run_window(cpu(d), dst, q, row, c, layer, a);
}

/* The CPU has nothing to overlap: the work is done at the join, where dst is known. */
static void cpu_experts_begin(struct device *d, const struct experts *e, struct rows src)
{
    cpu(d)->experts = e;
    cpu(d)->experts_src = src;
}

static void cpu_experts_end(struct device *dev, struct rows dst)
{
    struct device_cpu *d = cpu(dev);
    assert(d->experts && d->experts->top_k == d->choice.top_k);
    experts_count(d->experts, d->choice.ids, (int64_t)d->step.n_tokens * d->choice.top_k);
    experts_run(d, d->experts, dst, d->experts_src, d->step.n_tokens, d->choice.ids,
                d->choice.weights);
    d->experts = NULL;
}

static void cpu_close(struct device *d)
{
    if (d)
        give_block(cpu(d)->memory);
    mem_free(d);
}

static const struct device_ops ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .write = cpu_transfer,
    .read = cpu_transfer,
    .begin = cpu_begin,
    .end = cpu_end,
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .matmul = cpu_matmul,
    .rope = cpu_rope,
    .cache_gqa = cpu_cache_gqa,
    .cache_mla = cpu_cache_mla,
    .cache_index = cpu_cache_index,
    .attention_gqa = cpu_attention_gqa,
    .attention_mla = cpu_attention_mla,
    .swiglu = cpu_swiglu,
    .clamp = cpu_clamp,
    .hyper_mix = cpu_hyper_mix,
    .hyper_join = cpu_hyper_join,
    .compress = cpu_compress,
    .indexer_topk = cpu_indexer_topk,
    .attention_window = cpu_attention_window,
    .router_topk = cpu_router_topk,
    .experts_begin = cpu_experts_begin,
    .experts_end = cpu_experts_end,
    .add = cpu_add,
    .add3 = cpu_add3,
    .copy = cpu_copy,
    .logits = cpu_logits,
    .read_choice = cpu_read_choice,
    .close = cpu_close,
};

/* ---- working memory ---- */

/* One block, cut twice: without a base to learn its size, with one to set the pointers. */
struct cut {
    uint8_t *base;
    size_t used;
};

static void *take(struct cut *c, int64_t count, size_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += align_up((size_t)count * size, 64);
    return p;
}

static void cut_worker(struct cut *c, const struct device_cpu *d, struct worker_scratch *s)
{
    const struct device_cpu_options *o = &d->options;
    int64_t width = o->head_width;
    s->row = take(c, max_of(o->max_cols, width), sizeof(float));
    s->gathered = take(c, o->n_routed ? (int64_t)d->gathered_bytes : 0, 1);
    s->heads = take(c, width * width, sizeof(float));
    s->latents = take(c, KEY_BLOCK * width, sizeof(float));
    s->keys = take(c, KEY_BLOCK * width, sizeof(float));
    s->values = take(c, KEY_BLOCK * width, sizeof(float));
    s->queries = take(c, QUERY_TILE * width + 1024, sizeof(float));
    s->outputs = take(c, QUERY_TILE * width, sizeof(float));
    s->scores = take(c, QUERY_TILE * KEY_BLOCK, sizeof(float));
    s->states = take(c, 2 * max_of(o->max_tokens, QUERY_TILE), sizeof(float));
    if (d->bf16_bytes) {
        s->lanes = take(c, attention_bf16_tiles(o), sizeof *s->lanes);
        s->bf16 = take(c, (int64_t)d->bf16_bytes, 1);
    }
}

/* Sizes and, with a base, pointers of everything in the block. */
static size_t cut_memory(struct device_cpu *d, uint8_t *base)
{
    const struct device_cpu_options *o = &d->options;
    struct cut c = { base, 0 };
    int64_t tokens = o->max_tokens, pairs = tokens * o->top_k;
    d->act_stride = encoded_bytes(o->max_cols);
    d->h_stride = encoded_bytes(o->expert_size);
    d->gathered_bytes = TOKEN_TILE * (o->act_f32 ? 2 : 1) * d->act_stride;
    d->act = take(&c, tokens, d->act_stride);
    if (o->n_routed) {
        d->h = take(&c, pairs * o->expert_size, sizeof *d->h);
        d->h_act = take(&c, 1, max_of((size_t)pairs * d->h_stride, (size_t)tokens * d->act_stride));
        d->order = take(&c, pairs, sizeof *d->order);
        d->first = take(&c, o->n_routed + 1, sizeof *d->first);
        d->choice.ids = take(&c, pairs, sizeof *d->choice.ids);
        d->choice.weights = take(&c, pairs, sizeof *d->choice.weights);
    }
    for (int i = 0; i < N_ANGLES; i++) {
        d->angles[i].cosine = take(&c, tokens * ((o->head_width + 1) / 2), sizeof(float));
        d->angles[i].sine = take(&c, tokens * ((o->head_width + 1) / 2), sizeof(float));
    }
    if (o->index_top_k) {
        d->selection.count = take(&c, tokens, sizeof *d->selection.count);
        d->selection.ids = take(&c, tokens * o->index_top_k, sizeof *d->selection.ids);
        d->index_scores = take(&c, INDEX_TILE * o->n_ctx, sizeof *d->index_scores);
        int64_t fill = (INDEX_GROUP - 1) * min_of(o->max_cols, (int64_t)INDEX_MAX_DIM);
        int64_t words = INDEX_TILE * (o->max_rows + fill) / 4; /* as many heads at most */
        d->index_words = take(&c, words, sizeof *d->index_words);
        d->index_sums = take(&c, words, sizeof *d->index_sums);
        d->index_weights = take(&c, words, sizeof *d->index_weights);
        d->selected_rows = take(&c, o->index_top_k * o->cache_width, sizeof *d->selected_rows);
    }
    d->absorbed = take(&c, SPLIT_TOKENS * (int64_t)o->n_heads * o->head_width, sizeof(float));
    d->partial = take(&c, MAX_SPLITS * (int64_t)o->n_heads * (o->head_width + 2), sizeof(float));
    if (d->kernels.bf16_gemm && !o->act_f32 && o->index_top_k && o->cache_width) {
        int64_t width = SELECT_CHUNK * (int64_t)o->n_heads * o->head_width;
        d->selected_q = take(&c, width, sizeof *d->selected_q);
        d->selected_z = take(&c, width, sizeof *d->selected_z);
    }
    if (d->kernels.bf16_gemm && !o->act_f32) {
        d->bf16_bytes = attention_bf16_bytes(o);
        d->cache_bf16 = take(&c, 1, attention_bf16_cache_bytes(o));
    }
    struct worker_scratch *scratch = take(&c, d->n_threads, sizeof *scratch);
    for (int w = 0; w < d->n_threads; w++) {
        struct worker_scratch unused;
        cut_worker(&c, d, base ? &scratch[w] : &unused);
    }
    d->scratch = scratch;
    return c.used;
}

size_t device_cpu_bytes(const struct device_cpu_options *o)
{
    struct device_cpu d = { .options = *o };
    d.n_threads = o->pool            ? pool_threads(o->pool)
                : o->n_threads > 0   ? o->n_threads
                                     : cpu_usable_cores();
    kernels_init(&d.kernels, o->isa);
    return sizeof d + cut_memory(&d, NULL);
}

void device_cpu_woven(const struct device_cpu_options *o, bool types[N_TENSOR_TYPES])
{
    struct kernels k;
    kernels_init(&k, o->isa);
    for (int t = 0; t < N_TENSOR_TYPES; t++)
        types[t] = !o->act_f32 && k.woven_matvec[t] && k.woven_gemm[t];
}

bool device_cpu_open(struct device **out, const struct device_cpu_options *o, struct error *err)
{
    *out = NULL;
    struct device_cpu *d = mem_alloc(1, sizeof *d, "CPU device", err);
    if (!d)
        return false;
    d->base.ops = &ops;
    d->options = *o;
    d->pool = o->pool;
    d->n_threads = pool_threads(o->pool);
    kernels_init(&d->kernels, o->isa);
    d->memory = take_block(cut_memory(d, NULL), "working memory of the CPU", err);
    if (!d->memory) {
        cpu_close(&d->base);
        return false;
    }
    cut_memory(d, d->memory);
    blas_init();
    *out = &d->base;
    return true;
}
