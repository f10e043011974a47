/* Woven rows times one token, AVX-512 with VNNI: what a decode step spends its time on.
 *
 * Lanes are rows, so there is nothing to shuffle and nothing to add up across lanes: a line of
 * weights, a mask or shift, and one multiplication by four activation bytes, which the load spreads
 * to all lanes. From cache that runs two to four times as fast as memory delivers. The bits are
 * those of cpu/avx2/dot.c: block b goes to partial sum b mod 4. */
#include <assert.h>

#include "cpu/avx512/table.h"

#define SLICE_TOKENS 1
#define PLANES 1
#include "cpu/avx512/panel.h"
#include "src/format/weave.h"

/* Bytes between reading and asking: rows of a group follow each other without a gap, and far ahead
 * is what keeps most requests under way. */
#define WOVEN_AHEAD 3072

/* Ask for line i of a block, WOVEN_AHEAD further on, after `sum` is known. Compilers gather
 * prefetches, and dozens at once fill the buffers through which loads go as well: Q4_K 14.5 GB/s on
 * one core, 17.5 when each stands between two multiplications. */
ALWAYS_INLINE __m512i ask_ahead(__m512i sum, const uint8_t *w, int i)
{
    __asm__ volatile("prefetcht0 %1" : "+v"(sum) : "m"(w[WOVEN_AHEAD + 64 * i]));
    return sum;
}

/* `n` lines times the four columns each that begin at `act`, added to sum. They are lines `first`
 * and so on of the `n_lines` of their block, which has `bytes` bytes a row. */
ALWAYS_INLINE __m512i multiply_lines(__m512i sum, const __m512i *q, int n, const int8_t *act,
                                     const uint8_t *w, int bytes, int first, int n_lines)
{
    const int asked = (WEAVE_ROWS * bytes + 63) / 64; /* cache lines of the block */
#pragma GCC unroll 8
    for (int u = 0; u < n; u++) {
        int columns, line = first + u;
        memcpy(&columns, act + 4 * u, sizeof columns);
        sum = _mm512_dpbusd_epi32(sum, q[u], _mm512_set1_epi32(columns));
        for (int i = asked * line / n_lines; i < asked * (line + 1) / n_lines; i++)
            sum = ask_ahead(sum, w, i);
    }
    return sum;
}

/* d_w * d_a * isum - dmin * d_a * msum of one block of 256. */
ALWAYS_INLINE __m512 decode256(const uint8_t *w, const struct slice *s, const struct woven f,
                              lines_fn *lines, run_scale_fn *scale, run_mins_fn *mins,
                              row_scale_fn *row_scale)
{
    __m512i total = _mm512_setzero_si512(), msum = total;
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m512i q[8];
        const int8_t *act = s->q[0] + 32 * j;
        lines(w, j, q);
        for (int h = 0; h < 32 / f.run; h++) {
            int run = j * (32 / f.run) + h, n = f.run / 4;
            __m512i sum = multiply_lines(_mm512_set1_epi32(s->start[0][run]), q + h * n, n,
                                         act + h * f.run, w, f.bytes, run * n, CHUNK / 4);
            total = _mm512_add_epi32(total, _mm512_mullo_epi32(sum, scale(w, run)));
        }
    }
    __m512 da = _mm512_set1_ps(s->d[0][0]);
    __m512 x = _mm512_mul_ps(_mm512_mul_ps(row_scale(w), da), _mm512_cvtepi32_ps(total));
    if (f.m_at < 0)
        return x;
#define ADD_MINS(j)                                                                               \
    if (j < CHUNK / f.run / 2)                                                                    \
        msum = _mm512_dpwssd_epi32(msum, mins(w, j), _mm512_set1_epi32(s->bsums[0][j]));
    EACH_OF_8(ADD_MINS)
    __m512 m = _mm512_mul_ps(_mm512_mul_ps(f16_at(w, f.m_at), da), _mm512_cvtepi32_ps(msum));
    return _mm512_sub_ps(x, m);
}

/* sum + d_w * d_a * isum + m * d_a * asum of block b of a chunk of eight. */
ALWAYS_INLINE __m512 plus32(__m512 sum, const uint8_t *w, const struct slice *s, int b,
                            const struct woven f, lines_fn *lines, row_scale_fn *row_scale)
{
    __m512i q[8];
    lines(w, 0, q);
    __m512i isum = multiply_lines(_mm512_set1_epi32(s->start[0][b]), q, 8, s->q[0] + 32 * b, w,
                                  f.bytes, 0, 8);
    __m512 da = _mm512_set1_ps(s->d[0][b]);
    sum = _mm512_fmadd_ps(_mm512_mul_ps(row_scale(w), da), _mm512_cvtepi32_ps(isum), sum);
    if (f.m_at >= 0)
        sum = _mm512_fmadd_ps(_mm512_mul_ps(f16_at(w, f.m_at), da),
                              _mm512_set1_ps(s->block_sum[0][b]), sum);
    return sum;
}

/* (p0 + p2) + (p1 + p3) */
ALWAYS_INLINE void write_rows(const __m512 sum[4], float *out)
{
    _mm512_storeu_ps(out, _mm512_add_ps(_mm512_add_ps(sum[0], sum[2]),
                                        _mm512_add_ps(sum[1], sum[3])));
}

#define MAX_SLICES (WEAVE_MAX_COLS / CHUNK)

ALWAYS_INLINE void rows256(int64_t n, const uint8_t *rows, size_t row_bytes, int n_rows,
                           const uint8_t *act, float *out, const struct woven f, lines_fn *lines,
                           run_scale_fn *scale, run_mins_fn *mins, row_scale_fn *row_scale)
{
    struct slice slices[MAX_SLICES];
    int n_blocks = (int)(n / CHUNK);
    for (int b = 0; b < n_blocks; b++)
        fill_slice256(&slices[b], act + b * Q8_K_BYTES, 0, 1, f.run, f.offset);
    for (int r = 0; r < n_rows; r += WEAVE_ROWS) {
        const uint8_t *w = rows + (size_t)r * row_bytes;
        __m512 sum[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                          _mm512_setzero_ps() };
        for (int b = 0; b < n_blocks; b++, w += WEAVE_ROWS * f.bytes) {
            __m512 x = decode256(w, &slices[b], f, lines, scale, mins, row_scale);
            sum[b % 4] = _mm512_add_ps(sum[b % 4], x);
        }
        write_rows(sum, out + r);
    }
}

ALWAYS_INLINE void rows32(int64_t n, const uint8_t *rows, size_t row_bytes, int n_rows,
                          const uint8_t *act, float *out, const struct woven f, lines_fn *lines,
                          row_scale_fn *row_scale)
{
    struct slice slices[MAX_SLICES];
    const int act_bytes = f.m_at >= 0 ? Q8_1_BYTES : Q8_0_BYTES;
    int n_blocks = (int)(n / 32);
    for (int b = 0; b < n_blocks; b += 8)
        fill_slice32(&slices[b / 8], act + b * act_bytes, 0, 1, n_blocks - b < 8 ? n_blocks - b : 8,
                     f.m_at >= 0, f.offset);
    for (int r = 0; r < n_rows; r += WEAVE_ROWS) {
        const uint8_t *w = rows + (size_t)r * row_bytes;
        __m512 sum[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                          _mm512_setzero_ps() };
        int b = 0;
        for (; b + 4 <= n_blocks; b += 4)
            for (int p = 0; p < 4; p++, w += WEAVE_ROWS * f.bytes)
                sum[p] = plus32(sum[p], w, &slices[b / 8], b % 8 + p, f, lines, row_scale);
        for (int p = 0; b + p < n_blocks; p++, w += WEAVE_ROWS * f.bytes)
            sum[p] = plus32(sum[p], w, &slices[b / 8], b % 8 + p, f, lines, row_scale);
        write_rows(sum, out + r);
    }
}

#define ROWS_PARAMETERS                                                                           \
    int64_t n, const void *rows, size_t row_bytes, int n_rows, const void *act, float *out

#define DEFINE_ROWS_256(T, name, scale, mins, d, ...)                                             \
    static void woven_##name(ROWS_PARAMETERS)                                                     \
    {                                                                                             \
        const struct woven f = { __VA_ARGS__ };                                                   \
        assert(n_rows % WEAVE_ROWS == 0 && n <= WEAVE_MAX_COLS);                                  \
        rows256(n, rows, row_bytes, n_rows, act, out, f, lines_##name, run_scale_##scale,         \
                run_mins_##mins, row_scale_##d);                                                  \
    }
WOVEN_256(DEFINE_ROWS_256)

#define DEFINE_ROWS_32(T, name, d, ...)                                                           \
    static void woven_##name(ROWS_PARAMETERS)                                                     \
    {                                                                                             \
        const struct woven f = { __VA_ARGS__ };                                                   \
        assert(n_rows % WEAVE_ROWS == 0 && n <= WEAVE_MAX_COLS);                                  \
        rows32(n, rows, row_bytes, n_rows, act, out, f, lines_##name, row_scale_##d);             \
    }
WOVEN_32(DEFINE_ROWS_32)

void use_woven_avx512(struct kernels *k)
{
#define SET_WOVEN(T, name, ...) k->woven_matvec[TYPE_##T] = woven_##name;
    WOVEN_256(SET_WOVEN)
    WOVEN_32(SET_WOVEN)
}
