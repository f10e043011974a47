/* Latent attention with expanded keys and values, for many tokens.
 *
 * Expanding a position costs 2 * rank * (nope + value) operations per head (262 k for V3), once per
 * step; then a pair of query and position takes 2 * (192 + 128) per head in place of 2 * (576 + 512):
 * worth it from about 171 queries on. k_b and v_b are decoded to F16 (F32 in the exact profile) once
 * per step, 67 MB for V3; positions are expanded in chunks that fit the scratch memory, 64 KB each in
 * F16, and attention carries its sums from chunk to chunk.
 *
 * Source: DeepSeek-V2 technical report, section 2.1. */
#include "gpu/attend.cuh"

#define CHUNK 512   /* positions expanded at a time */
#define TILE_M 64   /* positions of a tile, 16 for each warp */
#define TILE_N 64   /* columns of a tile */
#define SLICE 32    /* of the latent at a time */
#define WARPS 4
#define PITCH 8     /* 16 bytes more per row keep rows in different banks */

/* One head's expansion: dst[p, head, n] = sum_i latent[p, i] * weight, where k_b is [rank, n] and v_b
 * is [n, rank]. */
struct expand {
    void *dst;
    const void *latents, *weight;
    int64_t latent_stride, n_positions;
    int n_heads, n, rank;
    bool transposed; /* v_b */
};

DEVICE float as_float(float x) { return x; }
DEVICE float as_float(uint16_t x) { return f16_to_float(x); }

/* Exact: one thread per element. `latents` may be F16 while the rest is F32. */
template <typename T> KERNEL void expand_plain(struct expand e)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, p = blockIdx.y;
    if (i >= (int64_t)e.n_heads * e.n)
        return;
    int64_t head = i / e.n, n = i % e.n;
    const T *latent = (const T *)e.latents + p * e.latent_stride;
    const float *w = (const float *)e.weight + head * e.rank * e.n + (e.transposed ? n * e.rank : n);
    int64_t step = e.transposed ? 1 : e.n;
    float sum = 0;
    for (int r = 0; r < e.rank; r++)
        sum += as_float(latent[r]) * w[r * step];
    ((float *)e.dst)[p * e.n_heads * e.n + i] = sum;
}

/* A slice of `width` elements of n_rows rows, SLICE or TILE_N wide in shared memory; what lies outside
 * of the matrix is zero. */
DEVICE void load_slice(uint16_t *to, int pitch, const uint16_t *from, int64_t stride, int rows,
                       int64_t n_rows, int width, int64_t n_cols)
{
    for (int i = (int)threadIdx.x; i < rows * width; i += (int)blockDim.x) {
        int r = i / width, c = i % width;
        to[r * pitch + c] = r < n_rows && c < n_cols ? from[r * stride + c] : (uint16_t)0;
    }
}

/* Tensor cores: TILE_M positions times TILE_N columns of one head. */
KERNEL void expand_tile(struct expand e)
{
    SHARED(uint16_t, latent); /* [TILE_M, SLICE + PITCH], then the weights */
    uint16_t *weight = latent + TILE_M * (SLICE + PITCH);
    int64_t first = (int64_t)blockIdx.x * TILE_M, column = (int64_t)blockIdx.y * TILE_N;
    int head = (int)blockIdx.z, w_pitch = (e.transposed ? SLICE : TILE_N) + PITCH, lane = lane_id();
    const uint16_t *w = (const uint16_t *)e.weight + (int64_t)head * e.rank * e.n;
    const uint16_t *rows = (const uint16_t *)e.latents + first * e.latent_stride;
    float sum[TILE_N / 8][4];
    for (int i = 0; i < TILE_N / 8; i++)
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;

    for (int k = 0; k < e.rank; k += SLICE) {
        block_sync();
        load_slice(latent, SLICE + PITCH, rows + k, e.latent_stride, TILE_M, e.n_positions - first,
                   SLICE, e.rank - k);
        if (e.transposed)
            load_slice(weight, w_pitch, w + column * e.rank + k, e.rank, TILE_N, e.n - column, SLICE,
                       e.rank - k);
        else
            load_slice(weight, w_pitch, w + (int64_t)k * e.n + column, e.n, SLICE, e.rank - k, TILE_N,
                       e.n - column);
        block_sync();
        uint32_t left[2][4];
        for (int half = 0; half < 2; half++)
            load_matrices(left[half], latent + (16 * warp_id() + lane / 8 % 2 * 8 + lane % 8) *
                                                   (SLICE + PITCH) + 16 * half + lane / 16 * 8);
        UNROLL for (int i = 0; i < TILE_N / 8; i++) {
            uint32_t right[4];
            if (e.transposed)
                load_matrices(right, weight + (8 * i + lane % 8) * w_pitch + lane / 8 * 8);
            else
                load_matrices_transposed(right, weight + lane * w_pitch + 8 * i);
            mma_f16(sum[i], left[0], right);
            mma_f16(sum[i], left[1], right + 2);
        }
    }
    for (int i = 0; i < TILE_N / 8; i++) {
        for (int j = 0; j < 4; j++) {
            int64_t p = first + 16 * warp_id() + lane / 4 + 8 * (j / 2);
            int64_t n = column + 8 * i + lane % 4 * 2 + j % 2;
            if (p < e.n_positions && n < e.n)
                ((uint16_t *)e.dst)[(p * e.n_heads + head) * e.n + n] = float_to_f16(sum[i][j]);
        }
    }
}

static void expand(struct gpu_stream *s, const struct expand *e, enum tensor_type latent_type,
                   bool plain)
{
    if (!plain) {
        dim3 grid((unsigned)divide_up(e->n_positions, TILE_M), (unsigned)divide_up(e->n, TILE_N),
                  (unsigned)e->n_heads);
        size_t weights = e->transposed ? TILE_N * (SLICE + PITCH) : SLICE * (TILE_N + PITCH);
        LAUNCH(s, expand_tile, grid, 32 * WARPS,
               (TILE_M * (SLICE + PITCH) + weights) * sizeof(uint16_t), *e);
        return;
    }
    int64_t n = (int64_t)e->n_heads * e->n;
    int threads = gpu_threads(s, n);
    dim3 grid((unsigned)divide_up(n, threads), (unsigned)e->n_positions);
    if (latent_type == TYPE_F32)
        LAUNCH(s, expand_plain<float>, grid, threads, 0, *e);
    else
        LAUNCH(s, expand_plain<uint16_t>, grid, threads, 0, *e);
}

/* All matrices of w one behind the other as `type`. */
static void decode_matrices(struct gpu_stream *s, uint8_t *to, enum tensor_type type,
                            const struct weight *w)
{
    int64_t n = w->rows * w->cols;
    if (w->matrix_bytes == (size_t)w->rows * w->row_bytes) {
        gpu_dequantize(s, to, type, w->data, w->type, n * w->n_matrices);
        return;
    }
    for (int64_t i = 0; i < w->n_matrices; i++)
        gpu_dequantize(s, to + i * n * (type == TYPE_F32 ? 4 : 2), type,
                       (const uint8_t *)w->data + i * (int64_t)w->matrix_bytes, w->type, n);
}

static uint8_t *carve(uint8_t **at, size_t bytes)
{
    uint8_t *here = *at;
    *at += (bytes + 255) / 256 * 256;
    return here;
}

void gpu_mla_decompressed(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                          enum tensor_type cache_type, const struct mla *m,
                          const struct gpu_step *step, int64_t kv_bound, int n_tokens)
{
    bool plain = s->limits.act_f32;
    assert(plain || cache_type == TYPE_F16);
    enum tensor_type type = plain ? TYPE_F32 : TYPE_F16;
    size_t element = plain ? 4 : 2, latent_element = cache_type == TYPE_F32 ? 4 : 2;
    size_t heads = (size_t)m->n_heads, rank = (size_t)m->rank;
    int64_t chunk = kv_bound < CHUNK ? kv_bound : CHUNK, width = m->rank + m->rope;
    uint8_t *at = (uint8_t *)s->scratch;
    uint8_t *k_b = carve(&at, heads * rank * (size_t)m->nope * element);
    uint8_t *v_b = carve(&at, heads * rank * (size_t)m->value * element);
    uint8_t *keys = carve(&at, (size_t)chunk * heads * (size_t)m->nope * element);
    uint8_t *values = carve(&at, (size_t)chunk * heads * (size_t)m->value * element);
    uint8_t *tails = plain && cache_type == TYPE_F16 /* the rotated part, of one type with the rest */
                         ? carve(&at, (size_t)chunk * (size_t)width * element) : NULL;
    decode_matrices(s, k_b, type, &m->k_b);
    decode_matrices(s, v_b, type, &m->v_b);

    struct attend a = {};
    a.q = q.data;
    a.q_stride = q.stride;
    a.q_head = m->nope + m->rope;
    a.k = keys;
    a.k_stride = (int64_t)m->n_heads * m->nope;
    a.k_head = a.key = m->nope;
    a.v = values;
    a.v_stride = (int64_t)m->n_heads * m->value;
    a.v_head = a.value = m->value;
    a.tail = m->rope;
    a.tail_stride = width;
    a.n_heads = m->n_heads;
    a.group = 1;
    a.n_tokens = n_tokens;
    a.scale = m->scale;
    a.step = step;
    for (a.first = 0; a.first < kv_bound; a.first += chunk) {
        a.n_positions = kv_bound - a.first < chunk ? kv_bound - a.first : chunk;
        const uint8_t *rows = (const uint8_t *)latents + (size_t)(a.first * width) * latent_element;
        struct expand e = { keys, rows, k_b, width, a.n_positions, m->n_heads, m->nope, m->rank,
                            false };
        expand(s, &e, cache_type, plain);
        e.dst = values;
        e.weight = v_b;
        e.n = m->value;
        e.transposed = true;
        expand(s, &e, cache_type, plain);
        a.k_tail = rows + (size_t)m->rank * latent_element;
        if (tails) {
            gpu_dequantize(s, tails, TYPE_F32, rows, TYPE_F16, a.n_positions * width);
            a.k_tail = tails + rank * element;
        }
        int n_splits = attend_splits(s, &a, type, at, true);
        attend_run(s, &a, type, n_splits);
        a.carry = true;
    }
    attend_merge(s, &a, 1, dst.data, dst.stride);
}

size_t gpu_mla_decompressed_scratch(const struct gpu_limits *l)
{
    if (l->mla_rank <= 0)
        return 0;
    size_t element = l->act_f32 ? 4 : 2, heads = (size_t)l->n_heads, width = (size_t)l->head_width;
    size_t chunk = l->n_ctx < CHUNK ? (size_t)l->n_ctx : CHUNK;
    size_t matrices = heads * (size_t)l->mla_rank * width * element;
    size_t expanded = chunk * heads * width * element, tails = l->act_f32 ? chunk * width * 4 : 0;
    return matrices + expanded + tails + 5 * 256 + attend_scratch(l);
}
