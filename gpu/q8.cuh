/* Activations as signed bytes: what integer dot products (dp4a) read in the fast profile.
 *
 * A row is cut into runs of 32 elements, x[i] ~ d * q[i] with d = max |x| / 127, and stored so that a
 * warp whose lanes hold 32 neighbouring runs reads 512 bytes in a piece, no bank or line twice:
 *
 *     q      [row][run / 32][half of the run][run % 32] 16 bytes
 *     scale  [row][run] d and the sums of both halves, for types with a minimum
 *
 * The last group of 32 runs of a row may be unused in part. One byte and a quarter per element: 9 KB
 * for V3's hidden size, which stays in L1 while the rows of a matrix pass by. */
#ifndef TANDEM_GPU_Q8_CUH
#define TANDEM_GPU_Q8_CUH

#include "gpu/common.cuh"

#define Q8_RUN 32
#define Q8_GROUP 32 /* runs */

struct alignas(8) q8_scale {
    float d;
    int16_t sum[2];
};

struct q8_rows {
    const uint32_t *q;
    const struct q8_scale *scale;
    int64_t groups; /* per row */
};

/* Where things lie, in words and scales. */
DEVICE int64_t q8_word(const struct q8_rows &x, int64_t row, int64_t run, int half)
{
    return (row * x.groups + run / Q8_GROUP) * (Q8_GROUP * 8) + half * (Q8_GROUP * 4) +
           run % Q8_GROUP * 4;
}
DEVICE int64_t q8_place(const struct q8_rows &x, int64_t row, int64_t run)
{
    return row * x.groups * Q8_GROUP + run;
}

/* Encode the run whose element lane_id() is x; all lanes call. Zeros give d = 0, NaN gives NaN. */
DEVICE void q8_store_run(const struct q8_rows &to, int64_t row, int64_t run, float x)
{
    float most = warp_max(fabsf(x)), d = most / 127;
    bool broken = warp_ballot(x != x) != 0;
    int q = most > 0 && !broken ? (int)rintf(x * (127 / most)) : 0;
    int word = (q & 255) << 8 * (lane_id() & 3), sum = q;
    for (int mask = 1; mask < 4; mask *= 2)
        word |= warp_xor(word, mask);
    for (int mask = 1; mask < 16; mask *= 2)
        sum += warp_xor(sum, mask);
    int other = warp_xor(sum, 16);
    if (lane_id() % 4 == 0)
        ((uint32_t *)to.q)[q8_word(to, row, run, lane_id() / 16) + lane_id() % 16 / 4] =
            (uint32_t)word;
    if (lane_id() == 0)
        ((struct q8_scale *)to.scale)[q8_place(to, row, run)] =
            { broken ? NAN : d, { (int16_t)sum, (int16_t)other } };
}

/* Bytes of n_rows rows of `width` elements, and the rows in memory at `at` (16-byte aligned). */
static inline int64_t q8_groups(int64_t width)
{
    return divide_up(width, Q8_RUN * Q8_GROUP);
}
static inline size_t q8_bytes(int64_t width, int64_t n_rows)
{
    size_t runs = (size_t)(n_rows * q8_groups(width)) * Q8_GROUP;
    return runs * (Q8_RUN + sizeof(struct q8_scale));
}
static inline struct q8_rows q8_at(void *at, int64_t width, int64_t n_rows)
{
    int64_t words = n_rows * q8_groups(width) * Q8_GROUP * 8;
    const uint32_t *q = (const uint32_t *)at;
    return { q, (const struct q8_scale *)(q + words), q8_groups(width) };
}

/* Encode the first n_rows rows of src, whose width is a multiple of 32. */
void q8_encode(struct gpu_stream *s, struct q8_rows to, struct rows src, int64_t n_rows);

/* The first n_tokens (<= GPU_GEMV_TOKENS) rows of src in bytes, in one of the stream's slots; encoded
 * unless they lie there already. Without q8_kept, by which a device promises to call q8_forget for all
 * rows that it writes, they are encoded every time. Two slots: a layer reads its normed hidden state
 * before and behind the low-rank query. */
struct q8_rows q8_of(struct gpu_stream *s, struct rows src, int n_tokens);
/* Where a kernel may leave rows that it writes in bytes too; empty (q NULL) where nobody reads them. */
struct q8_rows q8_beside(struct gpu_stream *s, struct rows dst, int n_tokens);
void q8_forget(struct gpu_stream *s, struct rows written, int n_tokens);
void q8_forget_all(struct gpu_stream *s);
size_t q8_stream_bytes(const struct gpu_limits *l);

#endif
