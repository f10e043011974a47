/* Routed experts in device memory.
 *
 * ## Few tokens
 * Pairs of token and pick, in a launch each: gate and up rows of every pair with SwiGLU, the result to
 * bytes, then each token's sum over its picks in their order, so nothing is added atomically and bits
 * do not depend on what runs beside. A pair whose expert is not here is skipped by its blocks at once.
 * For one token a layer of V3 reads 8 x 25 MB at the bandwidth of gpu/run_dot.cuh, all lanes busy:
 * 8 x 2048 pairs of rows. In the F32 profile, and for weights that are floats, gpu/row_dot.cuh serves
 * and SwiGLU is a launch of its own.
 *
 * ## Many tokens
 * One block sorts the pairs by expert and cuts each expert's pairs into tiles of 64; then the tiles of
 * gpu/gemm.cu do gate, up and SwiGLU, and `down`, so that a matrix is read from VRAM once for all its
 * tokens (512 tokens of V3: 16 for each of 256 experts, 6.3 GB a layer, 3 ms at 2 TB/s; on tensor
 * cores 2 x 44 M operations per pair are 0.36 Tflop, 2 ms at 180 Tflop/s). The grid has as many tiles
 * as the worst sharing-out of pairs can give: empty ones leave at once. Which row of a tile a pair takes
 * is left to chance (atomic_add): its sums do not depend on it. Outputs of `down` are kept per pair for
 * a slice of rows that fits the scratch memory, and added in the order of the picks. */
#include "gpu/gemm.cuh"
#include "gpu/run_dot.cuh"

struct pairs {
    const int32_t *slots, *ids;
    int n, top_k;
};

/* gate, up and down as bytes; `up` of a fused matrix lies behind the rows of gate. */
struct matrices {
    const struct weight *gate, *up, *down;
    const uint8_t *gate_data, *up_data;
    float limit; /* of SwiGLU, 0: none */
};

static struct matrices matrices_of(const struct experts *e)
{
    bool fused = e->gate_up.data;
    const struct weight *gate = fused ? &e->gate_up : &e->gate, *up = fused ? gate : &e->up;
    size_t behind = fused ? (size_t)e->expert_size * gate->row_bytes : 0;
    return { gate, up, &e->down, (const uint8_t *)gate->data, (const uint8_t *)up->data + behind,
             e->limit };
}

static bool alike(const struct matrices &m)
{
    return m.gate->type == m.up->type && m.gate->matrix_bytes == m.up->matrix_bytes &&
           m.gate->row_bytes == m.up->row_bytes;
}

/* gate = SwiGLU of gate and up, rows of n elements. */
static void limited_swiglu(struct gpu_stream *s, float *gate, float *up, int64_t n, float limit,
                           int n_rows)
{
    struct rows g = { gate, n, n }, u = { up, n, n };
    if (limit > 0) {
        gpu_clamp(s, g, -INFINITY, limit, n_rows);
        gpu_clamp(s, u, -limit, limit, n_rows);
    }
    gpu_swiglu(s, g, g, u, n_rows);
}

/* ---- few tokens, floats ---- */

/* out[pair, row] = rows of the pair's expert times its token. */
template <int TYPE>
KERNEL void expert_rows(float *out, int64_t n_rows, const uint8_t *weight, int64_t cols,
                        int64_t row_bytes, int64_t matrix_bytes, const float *src,
                        int64_t src_stride, const int32_t *slots, const int32_t *ids, int top_k,
                        const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id(), pair = blockIdx.y;
    int slot = slot_of(slots, ids, pair);
    if (slot < 0 || row >= n_rows)
        return;
    float sum[1];
    row_dot<TYPE, 1>(sum, weight + slot * matrix_bytes + row * row_bytes, cols,
                     src + pair / top_k * src_stride, 0, 1, 32, tables);
    if (lane_id() == 0)
        out[pair * n_rows + row] = sum[0];
}

/* dst[token, row] = sum over its picks of weight * (row of the expert's down times h[pair]). */
template <int TYPE>
KERNEL void expert_sums(float *dst, int64_t dst_stride, int64_t n_rows, const uint8_t *weight,
                        int64_t cols, int64_t row_bytes, int64_t matrix_bytes, const float *h,
                        const int32_t *slots, const int32_t *ids, const float *weights, int top_k,
                        const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id(), token = blockIdx.y;
    if (row >= n_rows)
        return;
    float total = 0;
    for (int64_t pair = token * top_k; pair < (token + 1) * top_k; pair++) {
        int slot = slot_of(slots, ids, pair);
        if (slot < 0)
            continue; /* for all lanes alike */
        float sum[1];
        row_dot<TYPE, 1>(sum, weight + slot * matrix_bytes + row * row_bytes, cols,
                         h + pair * cols, 0, 1, 32, tables);
        total = multiply_add(weights[pair], sum[0], total);
    }
    if (lane_id() == 0)
        dst[token * dst_stride + row] = total;
}

static void float_rows(struct gpu_stream *s, float *out, int64_t n_rows, const struct weight *w,
                       const uint8_t *weight, struct rows src, struct pairs p)
{
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(n_rows, threads / 32), (unsigned)p.n);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (expert_rows<TYPE>), blocks, threads, 0, out, n_rows, weight, w->cols,              \
           (int64_t)w->row_bytes, (int64_t)w->matrix_bytes, src.data, src.stride, p.slots, p.ids, \
           p.top_k, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

static void float_sums(struct gpu_stream *s, struct rows dst, const struct weight *w,
                       const float *h, struct pairs p, const float *weights)
{
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(w->rows, threads / 32), (unsigned)(p.n / p.top_k));
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (expert_sums<TYPE>), blocks, threads, 0, dst.data, dst.stride, w->rows,             \
           (const uint8_t *)w->data, w->cols, (int64_t)w->row_bytes, (int64_t)w->matrix_bytes, h, \
           p.slots, p.ids, weights, p.top_k, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

/* ---- few tokens, bytes ---- */

/* The same as expert_sums with activations in bytes: two rows for each group of lanes. */
template <int TYPE>
KERNEL void expert_sums_runs(struct product p, const float *weights)
{
    SHARED(uint32_t, table);
    float *parts = (float *)(table + run_traits<TYPE>::table_words);
    int64_t token = blockIdx.y;
    if constexpr (run_traits<TYPE>::table_words > 0) {
        load_table<TYPE>(table, p.tables);
        block_sync();
    }
    int first = warp_id() % p.shares.split * p.shares.lanes + lane_id() % p.shares.lanes;
    for (int tile = (int)blockIdx.x; tile < p.shares.n_tiles; tile += (int)gridDim.x) {
        int row = RUN_ROWS * run_group(p.shares, tile);
        float total[RUN_ROWS] = {};
        for (int64_t pair = token * p.top_k; pair < (token + 1) * p.top_k; pair++) {
            int slot = slot_of(p.slots, p.ids, pair);
            if (slot < 0)
                continue; /* the whole block */
            const uint8_t *rows[RUN_ROWS];
            UNROLL
            for (int r = 0; r < RUN_ROWS; r++) {
                int there = row + r < p.n_rows ? row + r : p.n_rows - 1;
                rows[r] = p.weight + slot * p.matrix_bytes + there * p.row_bytes;
            }
            float sum[RUN_ROWS][1] = {};
            dot_runs<TYPE, 1>(sum, rows, p.x, pair, 1, first, p.shares.lanes * p.shares.split,
                              p.shares.n_runs, table);
            finish_sums<1>(sum, p.shares, parts, 1);
            UNROLL
            for (int r = 0; r < RUN_ROWS; r++)
                total[r] = multiply_add(weights[pair], sum[r][0], total[r]);
        }
        UNROLL
        for (int r = 0; r < RUN_ROWS; r++)
            if (run_writes(p.shares) && row + r < p.n_rows)
                p.dst[token * p.dst_stride + row + r] = total[r];
    }
}

static struct product product_of(const struct weight *w, const uint8_t *weight, int64_t n_rows,
                                 struct q8_rows x, struct pairs pairs)
{
    struct product p = {};
    p.weight = weight;
    p.row_bytes = (int64_t)w->row_bytes;
    p.matrix_bytes = (int64_t)w->matrix_bytes;
    p.n_rows = (int)n_rows;
    p.shares.n_runs = (int)(w->cols / Q8_RUN);
    p.x = x;
    p.n_tokens = 1;
    p.slots = pairs.slots;
    p.ids = pairs.ids;
    p.top_k = pairs.top_k;
    return p;
}

template <int TYPE>
static void launch_sums(struct gpu_stream *s, const struct product &p, const float *weights,
                        int n_tokens, int threads)
{
    if constexpr (run_traits<TYPE>::integer) {
        dim3 blocks(run_blocks<TYPE>(s, p.shares.n_tiles), (unsigned)n_tokens);
        LAUNCH(s, (expert_sums_runs<TYPE>), blocks, threads,
               run_shared_bytes<TYPE>(threads / 32, 1), p, weights);
    }
}

static void byte_sums(struct gpu_stream *s, struct rows dst, const struct weight *w,
                      struct q8_rows h, struct pairs pairs, const float *weights)
{
    int threads = gpu_threads(s, 128);
    struct product p = product_of(w, (const uint8_t *)w->data, w->rows, h, pairs);
    p.shares = run_shares_of(divide_up(w->rows, RUN_ROWS), w->cols, threads / 32);
    p.dst = dst.data;
    p.dst_stride = dst.stride;
    p.tables = s->tables;
#define GPU_BY_TYPE_CASE(TYPE) launch_sums<TYPE>(s, p, weights, pairs.n / pairs.top_k, threads)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

/* h[pair] = SwiGLU of the pair's expert; `spare` holds as much. */
static void hidden_of_pairs(struct gpu_stream *s, float *h, float *spare, struct rows src,
                            const struct matrices &m, int64_t size, struct pairs pairs)
{
    int n_tokens = pairs.n / pairs.top_k;
    src.width = m.gate->cols;
    if (run_serves(s, m.gate->type) && alike(m)) {
        struct product p = product_of(m.gate, m.gate_data, size, q8_of(s, src, n_tokens), pairs);
        p.second = m.up_data;
        p.limit = m.limit;
        p.dst = h;
        p.dst_stride = size;
        run_product(s, m.gate->type, p, pairs.n);
        return;
    }
    float_rows(s, h, size, m.gate, m.gate_data, src, pairs);
    float_rows(s, spare, size, m.up, m.up_data, src, pairs);
    limited_swiglu(s, h, spare, size, m.limit, pairs.n);
}

static void few(struct gpu_stream *s, struct rows dst, struct rows src, const struct experts *e,
                struct pairs pairs, const float *weights)
{
    struct matrices m = matrices_of(e);
    int64_t size = e->expert_size;
    float *h = (float *)s->scratch, *spare = h + pairs.n * size;
    hidden_of_pairs(s, h, spare, src, m, size, pairs);
    if (run_serves(s, m.down->type)) {
        struct q8_rows bytes = q8_at(spare, size, pairs.n);
        q8_encode(s, bytes, { h, size, size }, pairs.n);
        byte_sums(s, dst, m.down, bytes, pairs, weights);
    } else {
        float_sums(s, dst, m.down, h, pairs, weights);
    }
}

/* ---- many tokens ---- */

/* Sort pairs by expert and cut them into tiles; one block. Tiles that are not needed get n = 0. */
KERNEL void group_pairs(struct expert_tile *tiles, int n_tiles, int32_t *sorted,
                        const int32_t *slots, const int32_t *ids, int n_pairs, int n_routed,
                        int per_tile)
{
    SHARED(int, count); /* [n_routed], then where an expert's pairs and tiles begin */
    int *next = count + n_routed, *first_tile = next + n_routed;
    int thread = (int)threadIdx.x, step = (int)blockDim.x;
    for (int e = thread; e < n_routed; e += step)
        count[e] = 0;
    block_sync();
    for (int i = thread; i < n_pairs; i += step)
        if (slot_of(slots, ids, i) >= 0)
            atomic_add(&count[ids[i]], 1);
    block_sync();
    if (thread == 0) {
        int pair = 0, tile = 0;
        for (int e = 0; e < n_routed; e++) {
            next[e] = pair;
            first_tile[e] = tile;
            pair += count[e];
            tile += (count[e] + per_tile - 1) / per_tile;
        }
        first_tile[n_routed] = tile;
    }
    block_sync();
    for (int e = thread; e < n_routed; e += step) {
        for (int done = 0, i = first_tile[e]; done < count[e]; done += per_tile, i++) {
            int n = count[e] - done < per_tile ? count[e] - done : per_tile;
            tiles[i] = { slots ? slots[e] : e, next[e] + done, n };
        }
    }
    for (int i = first_tile[n_routed] + thread; i < n_tiles; i += step)
        tiles[i] = { 0, 0, 0 };
    block_sync();
    for (int i = thread; i < n_pairs; i += step)
        if (slot_of(slots, ids, i) >= 0)
            sorted[atomic_add(&next[ids[i]], 1)] = i;
}

/* dst[token] = sum over its picks that are here of weight * y[pair], n columns. */
KERNEL void add_picks(float *dst, int64_t dst_stride, const float *y, int64_t y_stride, int64_t n,
                      const int32_t *slots, const int32_t *ids, const float *weights, int top_k)
{
    int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
    float sum = 0;
    if (c >= n)
        return;
    for (int64_t pair = token * top_k; pair < (token + 1) * top_k; pair++)
        if (slot_of(slots, ids, pair) >= 0)
            sum = multiply_add(weights[pair], y[pair * y_stride + c], sum);
    dst[token * dst_stride + c] = sum;
}

/* The most tiles that n pairs of n_routed experts can make. */
static int64_t most_tiles(int64_t n, int64_t n_routed, int per_tile)
{
    return n / per_tile + (n < n_routed ? n : n_routed);
}

/* Behind the two arrays of floats: tiles, then sorted pairs. */
static size_t sort_bytes(int64_t n_pairs, int64_t n_routed)
{
    return (size_t)most_tiles(n_pairs, n_routed, 32) * sizeof(struct expert_tile) +
           (size_t)n_pairs * sizeof(int32_t);
}

/* Tiles of one matrix; the caller says from where to where. */
static struct gemm tiles_of(const struct weight *w, const uint8_t *weight, int64_t n_rows,
                            const struct gemm &sorted, int top_k)
{
    struct gemm g = sorted;
    g.weight = weight;
    g.cols = w->cols;
    g.n_rows = n_rows;
    g.row_bytes = (int64_t)w->row_bytes;
    g.matrix_bytes = (int64_t)w->matrix_bytes;
    g.top_k = top_k;
    return g;
}

static void hidden_of_tiles(struct gpu_stream *s, float *h, float *spare, struct rows src,
                            const struct matrices &m, int64_t size, const struct gemm &sorted,
                            struct pairs pairs)
{
    struct gemm g = tiles_of(m.gate, m.gate_data, size, sorted, pairs.top_k);
    g.src = src.data;
    g.src_stride = src.stride;
    g.dst = h;
    g.dst_stride = size;
    if (alike(m)) {
        g.second = m.up_data;
        g.limit = m.limit;
        gemm_run(s, m.gate->type, g);
        return;
    }
    struct gemm u = tiles_of(m.up, m.up_data, size, g, pairs.top_k);
    u.dst = spare;
    gemm_run(s, m.gate->type, g);
    gemm_run(s, m.up->type, u);
    limited_swiglu(s, h, spare, size, m.limit, pairs.n);
}

static void many(struct gpu_stream *s, struct rows dst, struct rows src, const struct experts *e,
                 struct pairs pairs, const float *weights)
{
    struct matrices m = matrices_of(e);
    int64_t size = e->expert_size;
    float *h = (float *)s->scratch, *y = h + pairs.n * size;
    int per_tile = gemm_tokens(s), threads = gpu_threads(s, 1024);
    struct gemm sorted = {};
    struct expert_tile *tiles = (struct expert_tile *)(y + pairs.n * size);
    sorted.n_tiles = (int)most_tiles(pairs.n, e->n_routed, per_tile);
    sorted.tiles = tiles;
    sorted.pairs = (int32_t *)(tiles + sorted.n_tiles);
    LAUNCH(s, group_pairs, 1, threads, (3 * (size_t)e->n_routed + 1) * sizeof(int), tiles,
           sorted.n_tiles, (int32_t *)sorted.pairs, pairs.slots, pairs.ids, pairs.n, e->n_routed,
           per_tile);
    hidden_of_tiles(s, h, y, src, m, size, sorted, pairs);

    for (int64_t row = 0; row < m.down->rows; row += size) { /* a slice is as wide as h */
        int64_t n = m.down->rows - row < size ? m.down->rows - row : size;
        const uint8_t *weight = (const uint8_t *)m.down->data + row * (int64_t)m.down->row_bytes;
        struct gemm g = tiles_of(m.down, weight, n, sorted, 1);
        g.src = h;
        g.src_stride = g.dst_stride = size;
        g.dst = y;
        gemm_run(s, m.down->type, g);
        int width = gpu_threads(s, n);
        LAUNCH(s, add_picks, dim3((unsigned)divide_up(n, width), (unsigned)(pairs.n / pairs.top_k)),
               width, 0, dst.data + row, dst.stride, y, size, n, pairs.slots, pairs.ids, weights,
               pairs.top_k);
    }
}

/* ---- */

/* Tokens whose pairs a grid's second dimension takes, that many at a time. */
static int most_tokens(const struct experts *e)
{
    return GPU_MOST_TOKENS / e->top_k;
}

void gpu_experts(struct gpu_stream *s, struct rows dst, struct rows src, const struct experts *e,
                 const int32_t *slots, const int32_t *ids, const float *weights, int n_tokens)
{
    for (int t = 0, n; t < n_tokens; t += n) {
        n = n_tokens - t < most_tokens(e) ? n_tokens - t : most_tokens(e);
        struct pairs pairs = { slots, ids + (int64_t)t * e->top_k, n * e->top_k, e->top_k };
        struct rows to = { dst.data + t * dst.stride, dst.width, dst.stride };
        struct rows from = { src.data + t * src.stride, src.width, src.stride };
        assert(2 * (size_t)pairs.n * (size_t)e->expert_size * sizeof(float) <= s->scratch_bytes);
        if (n_tokens <= GPU_GEMV_TOKENS)
            few(s, to, from, e, pairs, weights + (int64_t)t * e->top_k);
        else
            many(s, to, from, e, pairs, weights + (int64_t)t * e->top_k);
    }
}

size_t gpu_experts_scratch(const struct gpu_limits *l)
{
    int64_t n = (int64_t)l->max_tokens * l->top_k, few = GPU_GEMV_TOKENS * (int64_t)l->top_k;
    size_t floats = (size_t)n * (size_t)l->expert_size * sizeof(float);
    size_t behind = floats + sort_bytes(n, l->n_routed);
    size_t bytes = q8_bytes(l->expert_size, n < few ? n : few);
    return l->top_k > 0 ? floats + (behind > bytes ? behind : bytes) : 0;
}
