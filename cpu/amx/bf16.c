/* BF16 matrix products and what attention does between two of them: the bf16_ rows of the table.
 *
 * A tile register holds 16 rows of 32 BF16 values. One instruction multiplies 16 x 32 with 32 x 16
 * and adds to 16 x 16 floats, sixteen times the rate of float arithmetic in vectors. Its right
 * operand wants two successive rows interleaved, "pairs": word (r, j) holds row 2 r of column j in
 * its lower half and row 2 r + 1 in its upper. Turning pairs, seen as words, gives plain rows of
 * the transposed matrix; so one transposition of words serves both operands. */
#include <immintrin.h>

#include "cpu/amx/table.h"
#include "cpu/amx/tiles.h"
#include "cpu/avx2/unpack.h"

/* ---- products ---- */

#define SIDE 16  /* rows and columns of a tile of floats */
#define DEPTH 32 /* values along k in one instruction */

struct operands {
    const uint16_t *a;
    const uint32_t *b;
    float *c;
    size_t a_bytes, b_bytes, c_bytes; /* from row to row */
    int k;
    bool add;
};

/* One or two tiles high and wide: every tile that is loaded meets all tiles across. */
ALWAYS_INLINE void multiply_square(struct operands o, const bool high, const bool wide)
{
    float *below = (float *)((char *)o.c + SIDE * o.c_bytes);
    if (o.add) {
        _tile_loadd(C00, o.c, o.c_bytes);
        if (wide)
            _tile_loadd(C01, o.c + SIDE, o.c_bytes);
        if (high)
            _tile_loadd(C10, below, o.c_bytes);
        if (high && wide)
            _tile_loadd(C11, below + SIDE, o.c_bytes);
    } else {
        _tile_zero(C00);
        _tile_zero(C01);
        _tile_zero(C10);
        _tile_zero(C11);
    }
    const char *a = (const char *)o.a, *b = (const char *)o.b;
    for (int k = 0; k < o.k; k += DEPTH, a += 2 * DEPTH, b += DEPTH / 2 * o.b_bytes) {
        _tile_loadd(A0, a, o.a_bytes);
        _tile_loadd(B0, b, o.b_bytes);
        _tile_dpbf16ps(C00, A0, B0);
        if (wide) {
            _tile_loadd(B1, b + 4 * SIDE, o.b_bytes);
            _tile_dpbf16ps(C01, A0, B1);
        }
        if (high) {
            _tile_loadd(A1, a + SIDE * o.a_bytes, o.a_bytes);
            _tile_dpbf16ps(C10, A1, B0);
        }
        if (high && wide)
            _tile_dpbf16ps(C11, A1, B1);
    }
    _tile_stored(C00, o.c, o.c_bytes);
    if (wide)
        _tile_stored(C01, o.c + SIDE, o.c_bytes);
    if (high)
        _tile_stored(C10, below, o.c_bytes);
    if (high && wide)
        _tile_stored(C11, below + SIDE, o.c_bytes);
}

static void gemm_amx(int m, int n, int k, const uint16_t *a, int64_t lda, const uint32_t *b,
                     int64_t ldb, bool add, float *c, int64_t ldc)
{
    struct operands o = { .a_bytes = (size_t)lda * sizeof *a, .b_bytes = (size_t)ldb * sizeof *b,
                          .c_bytes = (size_t)ldc * sizeof *c, .k = k, .add = add };
    configure_tiles(64);
    for (int i = 0; i < m; i += 2 * SIDE) {
        bool high = m - i > SIDE;
        for (int j = 0; j < n; j += 2 * SIDE) {
            bool wide = n - j > SIDE;
            o.a = a + i * lda;
            o.b = b + j;
            o.c = c + i * ldc + j;
            if (high && wide)
                multiply_square(o, true, true);
            else if (high)
                multiply_square(o, true, false);
            else if (wide)
                multiply_square(o, false, true);
            else
                multiply_square(o, false, false);
        }
    }
    _tile_release();
}

/* ---- rounding and laying out ---- */

/* The upper halves of floats rounded to the nearest BF16, ties to even; below them is rubbish. */
ALWAYS_INLINE __m512i rounded(__m512 x)
{
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    /* The sum would turn a NaN of many ones into a number. */
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_epi32(up, nan, _mm512_set1_epi32(0x7fc00000));
}

/* a in the lower half of each word, b in the upper. */
ALWAYS_INLINE __m512i pair(__m512i a, __m512i b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(a, 16), b);
}

ALWAYS_INLINE __mmask16 first_lanes(int64_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

static void round_amx(const float *x, float factor, uint16_t *y, int64_t n)
{
    __m512 f = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), f);
        _mm512_mask_cvtepi32_storeu_epi16(y + i, lanes, _mm512_srli_epi32(rounded(v), 16));
    }
}

static void pair_rows_amx(const float *even, const float *odd, uint32_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512i a = rounded(_mm512_maskz_loadu_ps(lanes, even + i));
        __m512i b = rounded(_mm512_maskz_loadu_ps(lanes, odd + i));
        _mm512_mask_storeu_epi32(y + i, lanes, pair(a, b));
    }
}

ALWAYS_INLINE void lay_halves(const uint16_t *even, const uint16_t *odd, int64_t n, uint16_t *rows,
                              int64_t ldr, uint32_t *pairs)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 lanes = first_lanes(n - i);
        __m512i a = rounded(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, even + i)));
        __m512i b = rounded(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, odd + i)));
        if (rows) {
            _mm512_mask_cvtepi32_storeu_epi16(rows + i, lanes, _mm512_srli_epi32(a, 16));
            _mm512_mask_cvtepi32_storeu_epi16(rows + ldr + i, lanes, _mm512_srli_epi32(b, 16));
        }
        if (pairs)
            _mm512_mask_storeu_epi32(pairs + i, lanes, pair(a, b));
    }
}

static void lay_halves_amx(const uint16_t *even, const uint16_t *odd, int64_t n, uint16_t *rows,
                           int64_t ldr, uint32_t *pairs)
{
    if (rows && pairs)
        lay_halves(even, odd, n, rows, ldr, pairs);
    else if (rows)
        lay_halves(even, odd, n, rows, ldr, NULL);
    else
        lay_halves(even, odd, n, NULL, 0, pairs);
}

/* Sixteen rows of sixteen words: four rounds that exchange 1, 2, 4 and 8 words between rows. */
ALWAYS_INLINE void transpose_square(const uint32_t *x, int64_t ldx, uint32_t *y, int64_t ldy)
{
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(x + i * ldx);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 16; i += 8) {
        for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    }
    for (int j = 0; j < 8; j++) {
        _mm512_storeu_si512(y + j * ldy, _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88));
        _mm512_storeu_si512(y + (j + 8) * ldy, _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd));
    }
}

static void transpose_amx(const uint32_t *x, int64_t ldx, int rows, int columns, uint32_t *y,
                          int64_t ldy)
{
    for (int i = 0; i < rows; i += 16)
        for (int j = 0; j < columns; j += 16)
            transpose_square(x + i * ldx + j, ldx, y + j * ldy + i, ldy);
}

/* ---- softmax over lanes ---- */

#define UNSEEN (10 * BF16_NOTHING_SEEN) /* weighs nothing, whatever the maximum is */

/* 2^x for x <= 0 by its series on -1/2 .. 1/2: off by 4e-5, while rounding to BF16 takes 4e-3. 0
 * below the smallest normal float; NaN stays. */
ALWAYS_INLINE __m512 exp2_of(__m512 x)
{
    __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(0x1.3b2ab7p-7f); /* ln 2 to the 4th, by 4! */
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.c6b08dp-5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.ebfbep-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0x1.62e43p-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-126), _CMP_NLT_UQ), p,
                                  whole);
}

ALWAYS_INLINE __m512 score(const float *row, int p, __m512i seen, const bool all)
{
    __m512 x = _mm512_loadu_ps(row);
    if (all)
        return x;
    __mmask16 visible = _mm512_cmpgt_epi32_mask(seen, _mm512_set1_epi32(p));
    return _mm512_mask_mov_ps(_mm512_set1_ps(UNSEEN), visible, x);
}

ALWAYS_INLINE void softmax_lanes(const float *scores, int64_t ld, int n, __m512i seen, float *max,
                                 float *sum, float *shrink, uint32_t *weights, int64_t ldw,
                                 const bool all)
{
    __m512 old = _mm512_loadu_ps(max), high0 = old, high1 = old;
    for (int p = 0; p < n; p += 2) {
        high0 = _mm512_max_ps(score(scores + p * ld, p, seen, all), high0);
        high1 = _mm512_max_ps(score(scores + (p + 1) * ld, p + 1, seen, all), high1);
    }
    __m512 high = _mm512_max_ps(high0, high1);
    __m512 factor = exp2_of(_mm512_sub_ps(old, high)), sum0 = _mm512_setzero_ps(), sum1 = sum0;
    for (int p = 0; p < n; p += 2) {
        __m512 a = exp2_of(_mm512_sub_ps(score(scores + p * ld, p, seen, all), high));
        __m512 b = exp2_of(_mm512_sub_ps(score(scores + (p + 1) * ld, p + 1, seen, all), high));
        sum0 = _mm512_add_ps(sum0, a);
        sum1 = _mm512_add_ps(sum1, b);
        /* Weights are not negative: half a step more, cut off, is the nearest. */
        __m512i half = _mm512_set1_epi32(0x8000);
        __m512i even = _mm512_add_epi32(_mm512_castps_si512(a), half);
        __m512i odd = _mm512_add_epi32(_mm512_castps_si512(b), half);
        _mm512_storeu_si512(weights + p / 2 * ldw, pair(even, odd));
    }
    __m512 total = _mm512_fmadd_ps(_mm512_loadu_ps(sum), factor, _mm512_add_ps(sum0, sum1));
    _mm512_storeu_ps(max, high);
    _mm512_storeu_ps(sum, total);
    _mm512_storeu_ps(shrink, factor);
}

static void softmax_amx(const float *scores, int64_t ld, int n, int n_lanes, const int32_t *seen,
                        float *max, float *sum, float *shrink, uint32_t *weights, int64_t ldw)
{
    for (int i = 0; i < n_lanes; i += 16) {
        __m512i see = _mm512_loadu_si512(seen + i);
        if (_mm512_cmplt_epi32_mask(see, _mm512_set1_epi32(n)))
            softmax_lanes(scores + i, ld, n, see, max + i, sum + i, shrink + i, weights + i, ldw,
                          false);
        else
            softmax_lanes(scores + i, ld, n, see, max + i, sum + i, shrink + i, weights + i, ldw,
                          true);
    }
}

static void scale_lanes_amx(float *x, int64_t ld, int rows, int n_lanes, const float *factor)
{
    for (int i = 0; i < n_lanes; i += 16) {
        __m512 f = _mm512_loadu_ps(factor + i);
        if (_mm512_cmpneq_ps_mask(f, _mm512_set1_ps(1)) == 0)
            continue;
        for (int r = 0; r < rows; r++) {
            float *at = x + r * ld + i;
            _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), f));
        }
    }
}

void use_bf16_amx(struct kernels *k)
{
    k->bf16_gemm = gemm_amx;
    k->bf16_round = round_amx;
    k->bf16_pair_rows = pair_rows_amx;
    k->bf16_lay_halves = lay_halves_amx;
    k->bf16_transpose = transpose_amx;
    k->bf16_softmax = softmax_amx;
    k->bf16_scale_lanes = scale_lanes_amx;
}
