/* Attention over a window of recent rows and rows of blocks (struct window_attention of
 * src/device.h).
 *
 * Every row is key and value of all heads. A block of threads takes one token and as many heads as it
 * has warps; it lays CHUNK rows at a time into shared memory, where each warp meets them with its head:
 * a lane holds every 32nd element of the query and of the weighted sum. V4 Flash reads 640 rows of
 * 1 KB a token, once for every eight heads, from L2 but for the first time.
 * With few tokens the rows are cut into splits that different blocks look after, merged in order; the
 * sink joins at the end. */
#include "gpu/common.cuh"

#define CHUNK 16
#define MOST 16                 /* elements per lane: heads of up to 512 */
#define SPLIT_ROWS 128          /* rows of a split, at least */
#define SPLITS 16               /* at most */
#define SPLIT_TOKENS 8          /* up to so many tokens are worth splits */

struct window_attend {
    const float *q, *row;
    int64_t q_stride, row_stride;
    float *dst;
    int64_t dst_stride;
    const int32_t *ids, *n_ids; /* selected blocks; NULL: all */
    int top_k;
    int64_t n_window;
    int n_heads, dim, window, ratio, n_tokens, n_splits;
    float scale;
    const float *sinks;
    float *partial; /* [splits, tokens, heads, dim + 2]: largest score, sum of weights, values */
    const struct gpu_step *step;
};

DEVICE float get_row(const float *p) { return *p; }
DEVICE float get_row(const uint16_t *p) { return f16_to_float(*p); }
DEVICE float as_kept(const float *, float x) { return x; }
DEVICE float as_kept(const uint16_t *, float x) { return f16_to_float(float_to_f16(x)); }

/* What a token sees: n_recent positions from `first` on, then n_blocks blocks. */
struct seen {
    int64_t first, n_recent, n_blocks;
};

DEVICE struct seen seen_by(const struct window_attend *a, int64_t t)
{
    int64_t position = a->step->n_past + t;
    struct seen s;
    s.first = position + 1 > a->window ? position + 1 - a->window : 0;
    s.n_recent = position + 1 - s.first;
    s.n_blocks = !a->ratio ? 0 : a->ids ? a->n_ids[t] : (position + 1) / a->ratio;
    return s;
}

/* Element k of row i of those. */
template <typename T>
DEVICE float element(const struct window_attend *a, const struct seen *s, const T *window,
                     const T *blocks, int64_t t, int64_t i, int k)
{
    int64_t position = s->first + i, n_past = a->step->n_past;
    if (i < s->n_recent && position >= n_past)
        return as_kept(window, a->row[(position - n_past) * a->row_stride + k]);
    if (i < s->n_recent)
        return get_row(window + position % a->n_window * a->dim + k);
    int64_t b = i - s->n_recent;
    return get_row(blocks + (a->ids ? a->ids[t * a->top_k + b] : b) * a->dim + k);
}

/* One warp, one head. */
struct head {
    float q[MOST], sum[MOST], max, weights;
};

DEVICE void meet(struct head *h, const float *rows, int n, int dim)
{
    for (int r = 0; r < n; r++) {
        const float *row = rows + r * dim + lane_id();
        float product = 0;
        UNROLL
        for (int i = 0; i < MOST; i++)
            if (lane_id() + 32 * i < dim)
                product = multiply_add(h->q[i], row[32 * i], product);
        float score = warp_sum(product), max = fmaxf(h->max, score);
        float shrink = expf(h->max - max), weight = expf(score - max);
        h->max = max;
        h->weights = h->weights * shrink + weight;
        UNROLL
        for (int i = 0; i < MOST; i++)
            if (lane_id() + 32 * i < dim)
                h->sum[i] = h->sum[i] * shrink + weight * row[32 * i];
    }
}

/* The sink weighs e^sink and has no value. */
DEVICE void write_head(const struct window_attend *a, const struct head *h, int64_t t, int head)
{
    float max = fmaxf(h->max, a->sinks[head]), shrink = expf(h->max - max);
    float all = h->weights * shrink + expf(a->sinks[head] - max);
    for (int i = 0; i < MOST; i++)
        if (lane_id() + 32 * i < a->dim)
            a->dst[t * a->dst_stride + (int64_t)head * a->dim + lane_id() + 32 * i] =
                h->sum[i] * shrink / all;
}

DEVICE float *partial_of(const struct window_attend *a, int split, int64_t t, int head)
{
    return a->partial + (((int64_t)split * a->n_tokens + t) * a->n_heads + head) * (a->dim + 2);
}

template <typename T>
KERNEL void attend_window(const T *window, const T *blocks, struct window_attend a)
{
    SHARED(float, rows); /* [CHUNK, dim] */
    int64_t t = blockIdx.y;
    int head = (int)(blockIdx.x * (blockDim.x / 32)) + warp_id();
    bool mine = head < a.n_heads;
    struct seen s = seen_by(&a, t);
    int64_t n_rows = s.n_recent + s.n_blocks, run = (n_rows + a.n_splits - 1) / a.n_splits;
    int64_t begin = blockIdx.z * run, end = begin + run < n_rows ? begin + run : n_rows;
    struct head h = {};
    h.max = -1e30f; /* below any score; in the differences no infinities meet */
    for (int i = 0; mine && i < MOST; i++)
        if (lane_id() + 32 * i < a.dim)
            h.q[i] = a.scale *
                     a.q[t * a.q_stride + (int64_t)head * a.dim + lane_id() + 32 * i];
    for (int64_t first = begin; first < end; first += CHUNK) {
        int n = (int)(end - first < CHUNK ? end - first : CHUNK);
        for (int i = threadIdx.x; i < n * a.dim; i += blockDim.x)
            rows[i] = element(&a, &s, window, blocks, t, first + i / a.dim, i % a.dim);
        block_sync();
        if (mine)
            meet(&h, rows, n, a.dim);
        block_sync();
    }
    if (mine && a.n_splits == 1) {
        write_head(&a, &h, t, head);
    } else if (mine) {
        float *to = partial_of(&a, blockIdx.z, t, head);
        if (lane_id() == 0)
            to[0] = h.max, to[1] = h.weights;
        for (int i = 0; i < MOST; i++)
            if (lane_id() + 32 * i < a.dim)
                to[2 + lane_id() + 32 * i] = h.sum[i];
    }
}

/* One warp per head: its splits in order. */
KERNEL void merge_window(struct window_attend a)
{
    int64_t t = blockIdx.y;
    int head = (int)(blockIdx.x * (blockDim.x / 32)) + warp_id();
    if (head >= a.n_heads)
        return; /* whole warps */
    struct head h = {};
    h.max = -1e30f;
    for (int split = 0; split < a.n_splits; split++) {
        const float *part = partial_of(&a, split, t, head);
        float max = fmaxf(h.max, part[0]), shrink = expf(h.max - max), grow = expf(part[0] - max);
        h.max = max;
        h.weights = h.weights * shrink + part[1] * grow;
        for (int i = 0; i < MOST; i++)
            if (lane_id() + 32 * i < a.dim)
                h.sum[i] = h.sum[i] * shrink + part[2 + lane_id() + 32 * i] * grow;
    }
    write_head(&a, &h, t, head);
}

KERNEL void window_keep_f32(float *window, struct window_attend a)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t t = (a.n_tokens > a.n_window ? a.n_tokens - a.n_window : 0) + blockIdx.y;
    if (i < a.dim)
        window[(a.step->n_past + t) % a.n_window * a.dim + i] = a.row[t * a.row_stride + i];
}

KERNEL void window_keep_f16(uint16_t *window, struct window_attend a)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t t = (a.n_tokens > a.n_window ? a.n_tokens - a.n_window : 0) + blockIdx.y;
    if (i < a.dim)
        window[(a.step->n_past + t) % a.n_window * a.dim + i] =
            float_to_f16(a.row[t * a.row_stride + i]);
}

/* As many splits as the rows of the bound are worth. */
static int splits_of(const struct window_attention *a, int top_k, int64_t kv_bound, int n_tokens)
{
    int64_t blocks = !a->ratio ? 0 : kv_bound / a->ratio;
    if (a->selected && blocks > top_k)
        blocks = top_k;
    int64_t n = divide_up(a->window + blocks, SPLIT_ROWS);
    return n_tokens > SPLIT_TOKENS ? 1 : n > SPLITS ? SPLITS : (int)n;
}

void gpu_attention_window(struct gpu_stream *s, struct rows dst, struct rows q, struct rows row,
                          const struct kv_sparse *c, enum tensor_type type,
                          const struct window_attention *w, const int32_t *ids,
                          const int32_t *n_ids, int top_k, const struct gpu_step *step,
                          int64_t kv_bound, int n_tokens)
{
    int threads = gpu_threads(s, 32 * w->n_heads), dim = w->head_dim;
    int n_splits = splits_of(w, top_k, kv_bound, n_tokens);
    struct window_attend a = {
        q.data, row.data, q.stride, row.stride, dst.data, dst.stride,
        w->selected ? ids : NULL, n_ids, top_k, c->n_window, w->n_heads, dim, w->window, w->ratio,
        n_tokens, n_splits, w->scale, (const float *)w->sinks.data, (float *)s->scratch, step,
    };
    unsigned groups = (unsigned)divide_up(w->n_heads, threads / 32);
    dim3 grid(groups, (unsigned)n_tokens, (unsigned)n_splits);
    size_t shared = (size_t)CHUNK * (size_t)dim * sizeof(float);
    assert(dim <= 32 * MOST);
    if (type == TYPE_F32)
        LAUNCH(s, attend_window<float>, grid, threads, shared, (const float *)c->window,
               (const float *)c->blocks, a);
    else
        LAUNCH(s, attend_window<uint16_t>, grid, threads, shared, (const uint16_t *)c->window,
               (const uint16_t *)c->blocks, a);
    if (n_splits > 1)
        LAUNCH(s, merge_window, dim3(groups, (unsigned)n_tokens), threads, 0, a);

    int wide = gpu_threads(s, dim);
    int64_t n_kept = n_tokens < c->n_window ? n_tokens : c->n_window;
    dim3 kept((unsigned)divide_up(dim, wide), (unsigned)n_kept);
    if (type == TYPE_F32)
        LAUNCH(s, window_keep_f32, kept, wide, 0, (float *)c->window, a);
    else
        LAUNCH(s, window_keep_f16, kept, wide, 0, (uint16_t *)c->window, a);
}

size_t gpu_attention_window_scratch(const struct gpu_limits *l)
{
    int64_t tokens = l->max_tokens < SPLIT_TOKENS ? l->max_tokens : SPLIT_TOKENS;
    return l->window ? (size_t)(SPLITS * tokens * l->n_heads * (l->head_width + 2)) * sizeof(float)
                     : 0;
}
