/* Rotary position embedding (Su et al. 2021): angles once per step, then one thread per pair.
 *
 * Angles are products of a position and a frequency in double, so that position 160,000 turns as
 * exactly as position 1; 32 pairs a token are too few for the card's slow double units to matter.
 * All layers share them: 64 floats a token, read from L2. A rotation reads and writes each rotated
 * element once (V3: 128 heads of 64 elements, 64 KB a token), less than a launch costs, until
 * prefill makes it a matter of bandwidth. */
#include "gpu/common.cuh"

KERNEL void rope_angles(float *cosine, float *sine, const double *frequency, int n_pairs,
                        float magnitude, const struct gpu_step *step)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n_pairs)
        return;
    double angle = (double)(step->n_past + blockIdx.y) * frequency[i];
    int64_t at = (int64_t)blockIdx.y * n_pairs + i;
    cosine[at] = (float)cos(angle) * magnitude;
    sine[at] = (float)sin(angle) * magnitude;
}

/* Where the vectors of one row lie, and which elements form pairs. */
struct rope_shape {
    int64_t stride, head_stride, offset;
    int n_heads, n_pairs;
    bool halves; /* pairs (i, i + n_pairs), else (2i, 2i + 1) */
};

KERNEL void rope_rotate(float *x, const float *cosine, const float *sine, struct rope_shape r)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i >= (int64_t)r.n_heads * r.n_pairs)
        return;
    int64_t head = i / r.n_pairs, pair = i % r.n_pairs;
    float *v = x + t * r.stride + head * r.head_stride + r.offset;
    float *first = v + (r.halves ? pair : 2 * pair);
    float *second = r.halves ? first + r.n_pairs : first + 1;
    float c = cosine[t * r.n_pairs + pair], s = sine[t * r.n_pairs + pair], a = *first, b = *second;
    *first = a * c - b * s;
    *second = a * s + b * c;
}

void gpu_rope_angles(struct gpu_stream *s, float *cosine, float *sine, const double *frequency,
                     int n_pairs, float magnitude, const struct gpu_step *step, int n_tokens)
{
    int threads = gpu_threads(s, n_pairs);
    LAUNCH(s, rope_angles, dim3((unsigned)divide_up(n_pairs, threads), (unsigned)n_tokens), threads,
           0, cosine, sine, frequency, n_pairs, magnitude, step);
}

void gpu_rope(struct gpu_stream *s, struct rows x, const float *cosine, const float *sine,
              int n_pairs, enum rope_pairing pairing, int n_heads, int64_t head_stride,
              int64_t offset, int n_tokens)
{
    struct rope_shape r = { x.stride, head_stride, offset, n_heads, n_pairs,
                            pairing == ROPE_NEOX };
    int64_t n = (int64_t)n_heads * n_pairs;
    int threads = gpu_threads(s, n);
    LAUNCH(s, rope_rotate, dim3((unsigned)divide_up(n, threads), (unsigned)n_tokens), threads, 0,
           x.data, cosine, sine, r);
}
