/* Latent attention with absorbed matrices, for few tokens.
 *
 * A head's query moves into the latent space (k_b q_nope, rank wide), so that all heads attend over
 * the latents as they lie in the cache; the weighted latents come back through v_b. Per cached token
 * and layer 1152 bytes (V3, F16) meet 2 * (576 + 512) operations per head: 37.7 MB and 9.1 Gflop at 32k
 * positions, a bound of 11 us on H100 and 55 us on RTX 4090 a layer. No head reads latents of its own:
 * 64 (32) share what a block fetches, splits of the positions fill the card; gpu/attend.cu has the
 * arithmetic. k_b and v_b stay quantized and are read once: 17 M weights a layer for V3, 9 MB at 4.5
 * bits. Four launches: k_b with the rotated parts behind its rows, attention, merge, v_b.
 *
 * Over selected positions (V3.2) a token reads its own rows, 2048 of 1152 bytes, at any length of the
 * context: 2.4 MB and 0.57 GFLOP a layer, for the tiles of 64 (32) heads once from memory, then from L2.
 *
 * Source: DeepSeek-V2 technical report, section 2.1 and appendix B. */
#include "gpu/attend.cuh"
#include "gpu/row_dot.cuh"

#define TOKENS 8 /* that one reading of a weight row serves */

/* y[t * stride + h * head + r] = row r of matrix h of w times x + t * stride + h * head. */
struct head_rows {
    float *data;
    int64_t stride, head;
};

/* What is copied behind a head's rows: n elements of `from`. */
struct tail {
    struct head_rows from;
    int64_t n;
};

/* A group of lanes per row of one head's matrix: k_b's rows of 128 keep half a warp busy. */
template <int TYPE>
KERNEL void head_rows_product(struct head_rows y, const uint8_t *weight, int64_t cols,
                              int64_t n_rows, int64_t row_bytes, int64_t matrix_bytes,
                              struct head_rows x, struct tail tail, int n_tokens, int lanes,
                              const struct gpu_tables *tables)
{
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes, head = blockIdx.y;
    int64_t there = row < n_rows ? row : n_rows - 1; /* groups of one warp go on together */
    int64_t behind = row - n_rows, first = row - lane_id() / lanes; /* of the warp */
    if (behind >= 0 && behind < tail.n && lane_id() % lanes == 0)
        for (int t = 0; t < n_tokens; t++)
            y.data[t * y.stride + head * y.head + row] =
                tail.from.data[t * tail.from.stride + head * tail.from.head + behind];
    if (first >= n_rows)
        return; /* whole warps */
    float sum[TOKENS];
    row_dot<TYPE, TOKENS>(sum, weight + head * matrix_bytes + there * row_bytes, cols,
                          x.data + head * x.head, x.stride, n_tokens, lanes, tables);
    if (lane_id() % lanes == 0 && row < n_rows) {
        for (int t = 0; t < n_tokens; t++)
            y.data[t * y.stride + head * y.head + row] = sum[t];
    }
}

static void head_products(struct gpu_stream *s, struct head_rows y, const struct weight *w,
                          struct head_rows x, struct tail tail, int n_tokens)
{
    int threads = gpu_threads(s, 128), lanes = gpu_lanes(divide_up(w->cols, 8));
    dim3 blocks((unsigned)divide_up((w->rows + tail.n) * lanes, threads), (unsigned)w->n_matrices);
    for (int t = 0; t < n_tokens; t += TOKENS) {
        int n = n_tokens - t < TOKENS ? n_tokens - t : TOKENS;
        struct head_rows to = { y.data + t * y.stride, y.stride, y.head };
        struct head_rows from = { x.data + t * x.stride, x.stride, x.head };
        struct tail rest = tail;
        rest.from.data += t * tail.from.stride;
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, head_rows_product<TYPE>, blocks, threads, 0, to, (const uint8_t *)w->data, w->cols, \
           w->rows, (int64_t)w->row_bytes, (int64_t)w->matrix_bytes, from, rest, n, \
           lanes, s->tables)
        GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
    }
}

/* Over all positions, or those selected (ids not NULL). */
static void attend_absorbed(struct gpu_stream *s, struct rows dst, struct rows q,
                            const void *latents, enum tensor_type cache_type, const struct mla *m,
                            const int32_t *ids, const int32_t *n_ids, const struct gpu_step *step,
                            int64_t n_positions, int n_tokens)
{
    int64_t width = m->rank + m->rope, n_heads = m->n_heads;
    int64_t rows = (int64_t)s->limits.max_tokens * n_heads;
    float *absorbed = (float *)s->scratch, *weighted = absorbed + rows * width;
    float *scratch = weighted + rows * m->rank;
    struct head_rows query = { q.data, q.stride, m->nope + m->rope };
    struct head_rows moved = { absorbed, n_heads * width, width };

    struct head_rows query_rope = { q.data + m->nope, query.stride, query.head };
    head_products(s, moved, &m->k_b, query, { query_rope, m->rope }, n_tokens);

    struct attend a = {};
    a.q = absorbed;
    a.q_stride = moved.stride;
    a.q_head = width;
    a.k = a.v = latents;
    a.k_stride = a.v_stride = width;
    a.key = (int)width;
    a.value = m->rank;
    a.n_heads = a.group = m->n_heads;
    a.n_tokens = n_tokens;
    a.scale = m->scale;
    a.n_positions = n_positions;
    a.step = step;
    a.ids = ids;
    a.n_ids = n_ids;
    a.most = m->n_selected;
    int n_splits = attend_splits(s, &a, cache_type, scratch, false);
    attend_run(s, &a, cache_type, n_splits);
    attend_merge(s, &a, n_splits, weighted, n_heads * m->rank);

    struct head_rows sums = { weighted, n_heads * m->rank, m->rank };
    head_products(s, { dst.data, dst.stride, m->value }, &m->v_b, sums, { sums, 0 },
                  n_tokens);
}

void gpu_mla_absorbed(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                      enum tensor_type cache_type, const struct mla *m, const struct gpu_step *step,
                      int64_t kv_bound, int n_tokens)
{
    attend_absorbed(s, dst, q, latents, cache_type, m, NULL, NULL, step, kv_bound, n_tokens);
}

void gpu_mla_selected(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                      enum tensor_type cache_type, const struct mla *m, const int32_t *ids,
                      const int32_t *n_ids, const struct gpu_step *step, int64_t kv_bound,
                      int n_tokens)
{
    int64_t most = kv_bound < m->n_selected ? kv_bound : m->n_selected;
    attend_absorbed(s, dst, q, latents, cache_type, m, ids, n_ids, step, most, n_tokens);
}

size_t gpu_mla_absorbed_scratch(const struct gpu_limits *l)
{
    size_t rows = (size_t)l->max_tokens * (size_t)l->n_heads;
    size_t width = (size_t)l->head_width + (size_t)l->mla_rank;
    return l->mla_rank > 0 ? rows * width * sizeof(float) + attend_scratch(l) : 0;
}
