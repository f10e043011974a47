/* Rows that sum up blocks of positions (struct compressor of src/device.h).
 *
 * Which blocks end in the step follows from its first position, which only the card knows: the grid
 * is as large as any start may need, and blocks of threads without work leave. A row of V4 Flash sums
 * up 8 or 128 entries of 512 values and scores, 32 or 512 KB, once in 4 or 128 tokens: for decoding
 * the launches are the cost. */
#include "gpu/index_bytes.cuh"

struct compress {
    const float *values, *scores;
    int64_t values_stride, scores_stride, width;
    float *scales; /* of rows in bytes */
    float *state; /* [n_state, 2, width] */
    int64_t n_state;
    const float *ape, *norm;
    const double *frequency;
    float magnitude, eps;
    int ratio, dim, n_rot, n_tokens;
    bool overlaps, halves;
    const struct gpu_step *step;
};

/* The score of a position depends on its place in the block. */
KERNEL void compress_shift(float *scores, int64_t stride, int64_t width, const float *ape, int ratio,
                           const struct gpu_step *step)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i < width)
        scores[t * stride + i] += ape[(step->n_past + t) % ratio * width + i];
}

/* Element k of the values (which: 0) or scores (1) of a position, of this step or kept. */
DEVICE float entry(const struct compress *c, int64_t position, int64_t k, int which)
{
    int64_t t = position - c->step->n_past;
    if (t < 0)
        return c->state[(position % c->n_state * 2 + which) * c->width + k];
    return which ? c->scores[t * c->scores_stride + k] : c->values[t * c->values_stride + k];
}

/* Mean of element k over the positions of block b, weighted by the softmax of their scores. */
DEVICE float mean_of(const struct compress *c, int64_t b, int64_t k)
{
    int64_t own = b * c->ratio, first = own;
    if (c->overlaps && b > 0)
        first -= c->ratio;
    float max = -INFINITY, sum = 0, mean = 0;
    for (int64_t p = first; p < own + c->ratio; p++)
        max = fmaxf(max, entry(c, p, c->overlaps && p >= own ? k + c->dim : k, 1));
    for (int64_t p = first; p < own + c->ratio; p++) {
        int64_t at = c->overlaps && p >= own ? k + c->dim : k;
        float e = expf(entry(c, p, at, 1) - max);
        sum += e;
        mean += e * entry(c, p, at, 0);
    }
    return mean / sum;
}

DEVICE void put_element(float *to, float x) { *to = x; }
DEVICE void put_element(uint16_t *to, float x) { *to = float_to_f16(x); }

/* Row b of the cache, from shared memory with block_sum's behind it. */
template <typename T>
DEVICE void put_row(T *rows, const struct compress *c, int64_t b, float *row)
{
    for (int64_t k = threadIdx.x; k < c->dim; k += blockDim.x)
        put_element(rows + b * c->dim + k, row[k]);
}
DEVICE void put_row(int8_t *rows, const struct compress *c, int64_t b, float *row)
{
    float scale = index_to_bytes(row, c->dim, rows + b * c->dim, row + c->dim);
    if (threadIdx.x == 0)
        c->scales[b] = scale;
}

template <typename T>
KERNEL void compress_blocks(T *rows, struct compress c)
{
    SHARED(float, row); /* [dim], then block_sum's */
    int64_t n_past = c.step->n_past, b = n_past / c.ratio + blockIdx.x;
    if ((b + 1) * c.ratio > n_past + c.n_tokens)
        return; /* the whole block of threads */
    float square = 0;
    for (int64_t k = threadIdx.x; k < c.dim; k += blockDim.x) {
        row[k] = mean_of(&c, b, k);
        square += row[k] * row[k];
    }
    float scale = 1 / sqrtf(block_sum(square, row + c.dim) / (float)c.dim + c.eps);
    for (int64_t k = threadIdx.x; k < c.dim; k += blockDim.x)
        row[k] *= scale * c.norm[k];
    block_sync();
    int n_pairs = c.n_rot / 2;
    for (int i = threadIdx.x; i < n_pairs; i += blockDim.x) {
        double angle = (double)(b * c.ratio) * c.frequency[i];
        float cosine = (float)cos(angle) * c.magnitude, sine = (float)sin(angle) * c.magnitude;
        float *x = row + c.dim - c.n_rot + (c.halves ? i : 2 * i), *y = x + (c.halves ? n_pairs : 1);
        float first = *x, second = *y;
        *x = first * cosine - second * sine;
        *y = first * sine + second * cosine;
    }
    block_sync();
    put_row(rows, &c, b, row);
}

/* The last positions of the step go into the ring, as many as it holds. */
KERNEL void compress_keep(struct compress c)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t t = (c.n_tokens > c.n_state ? c.n_tokens - c.n_state : 0) + blockIdx.y;
    if (i >= 2 * c.width)
        return;
    float *to = c.state + (c.step->n_past + t) % c.n_state * 2 * c.width + i;
    *to = i < c.width ? c.values[t * c.values_stride + i]
                      : c.scores[t * c.scores_stride + i - c.width];
}

static dim3 grid_of(const struct gpu_stream *s, int64_t width, int64_t n)
{
    return dim3((unsigned)divide_up(width, gpu_threads(s, width)), (unsigned)n);
}

void gpu_compress(struct gpu_stream *s, void *rows, float *scales, enum tensor_type type,
                  float *state, int64_t n_state, struct rows values, struct rows scores,
                  const struct compressor *k, const double *frequency, const struct gpu_step *step,
                  int n_tokens)
{
    struct compress c = {
        values.data, scores.data, values.stride, scores.stride, values.width, scales, state, n_state,
        (const float *)k->ape.data, (const float *)k->norm.data, frequency, k->rope->magnitude,
        k->rms_eps, k->ratio, k->dim, k->rope->n_rot, n_tokens, k->overlaps,
        k->rope->pairing == ROPE_NEOX, step,
    };
    int64_t width = values.width, n_blocks = divide_up(n_tokens, k->ratio);
    size_t shared = ((size_t)k->dim + BLOCK_SCRATCH) * sizeof(float);
    dim3 blocks((unsigned)n_blocks);
    assert(width == (k->overlaps ? 2 : 1) * k->dim && scores.width == width);
    LAUNCH(s, compress_shift, grid_of(s, width, n_tokens), gpu_threads(s, width), 0, scores.data,
           scores.stride, width, c.ape, k->ratio, step);
    if (scales)
        LAUNCH(s, compress_blocks<int8_t>, blocks, gpu_threads(s, k->dim), shared, (int8_t *)rows, c);
    else if (type == TYPE_F32)
        LAUNCH(s, compress_blocks<float>, blocks, gpu_threads(s, k->dim), shared, (float *)rows, c);
    else
        LAUNCH(s, compress_blocks<uint16_t>, blocks, gpu_threads(s, k->dim), shared,
               (uint16_t *)rows, c);
    LAUNCH(s, compress_keep, grid_of(s, 2 * width, n_tokens < n_state ? n_tokens : n_state),
           gpu_threads(s, 2 * width), 0, c);
}
