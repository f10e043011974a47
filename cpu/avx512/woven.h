/* One block of sixteen woven rows (src/format/weave.h) as lines: four columns of 16 rows each, as
 * panel.h has them, without the transposing that plain rows need. Bytes are unsigned and too large
 * by the type's offset. For a row
 *
 *     types of 256   value = d * scale(run) * (byte - offset) - dmin * minimum(run)
 *     types of 32    value = d * (byte - offset) + m
 *
 * Columns come in runs of 32, eight lines each. */
#ifndef TANDEM_CPU_AVX512_WOVEN_H
#define TANDEM_CPU_AVX512_WOVEN_H

#include "cpu/avx2/unpack.h"

/* The lines of 32 columns from 32 * j on. */
typedef void lines_fn(const uint8_t *w, int j, __m512i q[8]);
/* Scale of run j of each row; runs of `run` elements. */
typedef __m512i run_scale_fn(const uint8_t *w, int j);
/* Minima of runs 2 j and 2 j + 1, as pairs of words. */
typedef __m512i run_mins_fn(const uint8_t *w, int j);
/* d of each row. */
typedef __m512 row_scale_fn(const uint8_t *w);

struct woven {
    int bytes;   /* of a block of one row; sixteen times that from block to block */
    int run;     /* elements per scale: 16 or 32 */
    int offset;
    int m_at;    /* byte of m or dmin in the block of a row, or -1: none */
};

/* Line u of the field at byte `at` of a row's share of a woven block. */
ALWAYS_INLINE __m512i line_at(const uint8_t *w, int at, int u)
{
    return _mm512_loadu_si512(w + 16 * at + 64 * u);
}

/* Byte `at` of each row. */
ALWAYS_INLINE __m128i bytes_at(const uint8_t *w, int at)
{
    return load128(w + 16 * at);
}

ALWAYS_INLINE __m512 f16_at(const uint8_t *w, int at)
{
    return _mm512_cvtph_ps(load256(w + 16 * at));
}

ALWAYS_INLINE __m512i and512(__m512i x, int mask)
{
    return _mm512_and_si512(x, _mm512_set1_epi8((char)mask));
}

ALWAYS_INLINE __m128i and128(__m128i x, int mask)
{
    return _mm_and_si128(x, _mm_set1_epi8((char)mask));
}

/* Bits n .. of each byte, brought down (words are shifted, the mask drops the neighbour's bits). */
ALWAYS_INLINE __m512i bits512(__m512i x, int n, int mask)
{
    return and512(_mm512_srli_epi16(x, (unsigned)n), mask);
}

ALWAYS_INLINE __m128i bits128(__m128i x, int n, int mask)
{
    return and128(_mm_srli_epi16(x, n), mask);
}

/* Bit n of each byte as the value `value`, a power of two. */
ALWAYS_INLINE __m512i bit_as(__m512i x, int n, int value)
{
    int to = __builtin_ctz((unsigned)value);
    __m512i moved = n >= to ? _mm512_srli_epi16(x, (unsigned)(n - to))
                            : _mm512_slli_epi16(x, (unsigned)(to - n));
    return and512(moved, value);
}

/* Bytes of 16 values each, looked up and raised to unsigned ones. */
ALWAYS_INLINE __m512i look_up512(const int8_t values[16], int offset, __m512i index)
{
    __m128i table = _mm_add_epi8(load128(values), _mm_set1_epi8((char)offset));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index);
}

/* Bytes of two runs -> pairs of words. */
ALWAYS_INLINE __m512i byte_pairs(__m128i even, __m128i odd)
{
    return _mm512_cvtepu8_epi16(
        _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd)));
}

ALWAYS_INLINE __m512 row_scale_first(const uint8_t *w)
{
    return f16_at(w, 0);
}

ALWAYS_INLINE __m512i run_mins_none(const uint8_t *w, int j)
{
    (void)w, (void)j;
    return _mm512_setzero_si512();
}

/* ---- 32 elements ---- */

/* Low nibbles of the 16 bytes at `at`, then the high ones. */
ALWAYS_INLINE void nibble_lines(const uint8_t *w, int at, __m512i q[8])
{
    for (int u = 0; u < 4; u++) {
        __m512i x = line_at(w, at, u);
        q[u] = and512(x, 15);
        q[u + 4] = bits512(x, 4, 15);
    }
}

ALWAYS_INLINE void lines_q4_0(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 2, q);
}

ALWAYS_INLINE void lines_q4_1(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 4, q);
}

ALWAYS_INLINE void fifth_bits(__m512i qh, __m512i q[8])
{
    for (int u = 0; u < 8; u++)
        q[u] = _mm512_or_si512(q[u], bit_as(qh, u, 16));
}

ALWAYS_INLINE void lines_q5_0(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 6, q);
    fifth_bits(line_at(w, 2, 0), q);
}

ALWAYS_INLINE void lines_q5_1(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 8, q);
    fifth_bits(line_at(w, 4, 0), q);
}

ALWAYS_INLINE void lines_q8_0(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    for (int u = 0; u < 8; u++)
        q[u] = _mm512_xor_si512(line_at(w, 2, u), _mm512_set1_epi8((char)0x80));
}

ALWAYS_INLINE void lines_iq4_nl(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 2, q);
    for (int u = 0; u < 8; u++)
        q[u] = look_up512(quant_iq4_values, 128, q[u]);
}

ALWAYS_INLINE void lines_mxfp4(const uint8_t *w, int j, __m512i q[8])
{
    (void)j;
    nibble_lines(w, 1, q);
    for (int u = 0; u < 8; u++)
        q[u] = look_up512(quant_fp4_values, 12, q[u]);
}

/* 2^(e-128) from its bits; below e = 2 it is subnormal; 255 is NaN. */
ALWAYS_INLINE __m512 row_scale_mxfp4(const uint8_t *w)
{
    __m512i e = _mm512_cvtepu8_epi32(bytes_at(w, 0));
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    bits = _mm512_mask_sllv_epi32(bits, _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2)),
                                  _mm512_set1_epi32(0x200000), e);
    bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255)),
                                 _mm512_set1_epi32(0x7fc00000));
    return _mm512_castsi512_ps(bits);
}

/* ---- K-quants ---- */

ALWAYS_INLINE void lines_q2_k(const uint8_t *w, int j, __m512i q[8])
{
    for (int u = 0; u < 8; u++)
        q[u] = bits512(line_at(w, 20 + 32 * (j / 4), u), 2 * (j % 4), 3);
}

ALWAYS_INLINE __m512i run_scale_q2_k(const uint8_t *w, int j)
{
    return _mm512_cvtepu8_epi32(and128(bytes_at(w, 4 + j), 15));
}

ALWAYS_INLINE __m512i run_mins_q2_k(const uint8_t *w, int j)
{
    return byte_pairs(bits128(bytes_at(w, 4 + 2 * j), 4, 15),
                      bits128(bytes_at(w, 5 + 2 * j), 4, 15));
}

ALWAYS_INLINE void lines_q3_k(const uint8_t *w, int j, __m512i q[8])
{
    for (int u = 0; u < 8; u++) {
        __m512i low = bits512(line_at(w, 46 + 32 * (j / 4), u), 2 * (j % 4), 3);
        q[u] = _mm512_or_si512(low, bit_as(line_at(w, 14, u), j, 4));
    }
}

/* See block_scales_q3_k. */
ALWAYS_INLINE __m512i run_scale_q3_k(const uint8_t *w, int j)
{
    __m128i low = bytes_at(w, 2 + j % 8), high = bytes_at(w, 10 + j % 4);
    low = bits128(low, j < 8 ? 0 : 4, 15);
    high = _mm_slli_epi16(bits128(high, 2 * (j / 4), 3), 4);
    return _mm512_sub_epi32(_mm512_cvtepu8_epi32(_mm_or_si128(low, high)), _mm512_set1_epi32(32));
}

/* 32 bytes at `at` hold runs 2 i (low nibbles) and 2 i + 1. */
ALWAYS_INLINE void k4_lines(const uint8_t *w, int at, int j, __m512i q[8])
{
    for (int u = 0; u < 8; u++)
        q[u] = bits512(line_at(w, at + 32 * (j / 2), u), 4 * (j % 2), 15);
}

ALWAYS_INLINE void lines_q4_k(const uint8_t *w, int j, __m512i q[8])
{
    k4_lines(w, 16, j, q);
}

ALWAYS_INLINE void lines_q5_k(const uint8_t *w, int j, __m512i q[8])
{
    k4_lines(w, 48, j, q);
    for (int u = 0; u < 8; u++)
        q[u] = _mm512_or_si512(q[u], bit_as(line_at(w, 16, u), j, 16));
}

/* Scale (first = 0) or minimum (first = 4) of run j from the twelve bytes: block_scale_min_k4. */
ALWAYS_INLINE __m128i six_bits(const uint8_t *w, int first, int j)
{
    if (j < 4)
        return and128(bytes_at(w, 4 + first + j), 63);
    __m128i low = bits128(bytes_at(w, 8 + j), first, 15); /* scales low, minima high */
    return _mm_or_si128(low, bits128(bytes_at(w, 4 + first + j - 4), 2, 0x30));
}

ALWAYS_INLINE __m512i run_scale_k4(const uint8_t *w, int j)
{
    return _mm512_cvtepu8_epi32(six_bits(w, 0, j));
}

ALWAYS_INLINE __m512i run_mins_k4(const uint8_t *w, int j)
{
    return byte_pairs(six_bits(w, 4, 2 * j), six_bits(w, 4, 2 * j + 1));
}

ALWAYS_INLINE void lines_q6_k(const uint8_t *w, int j, __m512i q[8])
{
    int half = 18 + 96 * (j / 4), r = j % 4; /* 32 bytes of upper bits, 64 of nibbles */
    for (int u = 0; u < 8; u++) {
        __m512i low = bits512(line_at(w, half + 32 + 32 * (r % 2), u), r < 2 ? 0 : 4, 15);
        __m512i high = line_at(w, half, u);
        high = r < 2 ? _mm512_slli_epi16(high, (unsigned)(4 - 2 * r))
                     : _mm512_srli_epi16(high, (unsigned)(2 * r - 4));
        q[u] = _mm512_or_si512(low, and512(high, 0x30));
    }
}

ALWAYS_INLINE __m512i run_scale_q6_k(const uint8_t *w, int j)
{
    return _mm512_cvtepi8_epi32(bytes_at(w, 2 + j));
}

ALWAYS_INLINE void lines_iq4_xs(const uint8_t *w, int j, __m512i q[8])
{
    nibble_lines(w, 8 + 16 * j, q);
    for (int u = 0; u < 8; u++)
        q[u] = look_up512(quant_iq4_values, 128, q[u]);
}

ALWAYS_INLINE __m512i run_scale_iq4_xs(const uint8_t *w, int j)
{
    __m512i low = _mm512_cvtepu8_epi32(bits128(bytes_at(w, 4 + j / 2), 4 * (j % 2), 15));
    __m512i high = _mm512_cvtepu16_epi32(_mm256_srli_epi16(load256(w + 16 * 2), 2 * j));
    high = _mm512_slli_epi32(_mm512_and_si512(high, _mm512_set1_epi32(3)), 4);
    return _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
}

/* DO(0) .. DO(7), for what may turn out to be dead code: a compiler that is told to unroll a loop
 * which is not there warns. */
#define EACH_OF_8(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)

/* ---- All types: X(TYPE, name, scale, mins, d, fields of struct woven) ---- */

#define WOVEN_256(X)                                                                              \
    X(Q2_K, q2_k, q2_k, q2_k, first, 84, 16, 0, 2)                                                \
    X(Q3_K, q3_k, q3_k, none, first, 110, 16, 4, -1)                                              \
    X(Q4_K, q4_k, k4, k4, first, 144, 32, 0, 2)                                                   \
    X(Q5_K, q5_k, k4, k4, first, 176, 32, 0, 2)                                                   \
    X(Q6_K, q6_k, q6_k, none, first, 210, 16, 32, -1)                                             \
    X(IQ4_XS, iq4_xs, iq4_xs, none, first, 136, 32, 128, -1)

/* X(TYPE, name, d, fields of struct woven) */
#define WOVEN_32(X)                                                                               \
    X(Q4_0, q4_0, first, 18, 32, 8, -1)                                                           \
    X(Q4_1, q4_1, first, 20, 32, 0, 2)                                                            \
    X(Q5_0, q5_0, first, 22, 32, 16, -1)                                                          \
    X(Q5_1, q5_1, first, 24, 32, 0, 2)                                                            \
    X(Q8_0, q8_0, first, 34, 32, 128, -1)                                                         \
    X(IQ4_NL, iq4_nl, first, 18, 32, 128, -1)                                                     \
    X(MXFP4, mxfp4, mxfp4, 17, 32, 12, -1)

#endif
