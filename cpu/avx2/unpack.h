/* One block of every quantized type, spread out to bytes. This is the only place that knows how
 * each type packs its bits for the vector kernels; dot products, decoding and matrix tiles, for
 * AVX2 and for AVX-512, all start from what is made here. Layouts: src/format/quant_blocks.h.
 *
 * Types of 256 elements become 256 bytes and 16 scales of 16 bits, one per run of 16 elements
 * (types with 8 scales repeat each), so that for element i of run j = i / 16
 *
 *     value = d * scale[j] * (q[i] - offset) - dmin * min[j]
 *
 * Types of 32 elements become 32 bytes: value = d * q[i] + m.
 *
 * d and dmin are floats of the block, fetched for four blocks at a time. Constants that the
 * formulas of a type put outside (a quarter, an eighth) go into d, which is exact. */
#ifndef TANDEM_CPU_AVX2_UNPACK_H
#define TANDEM_CPU_AVX2_UNPACK_H

#include <immintrin.h>

#include "src/format/quant_blocks.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct block256 {
    __m256i q[8];   /* 8 x 32 bytes, elements in order */
    __m256i scale;  /* 16 x i16 */
    __m256i min;    /* 16 x i16; left alone by types without */
};

typedef void unpack256_fn(const uint8_t *block, struct block256 *w);
typedef __m256i unpack32_fn(const uint8_t *block);
/* d of `count` (1..4) blocks at this stride, 0 in the other lanes. */
typedef __m128 scales_fn(const uint8_t *block, size_t stride, int count);

/* What a kernel must know of a type besides its unpack function; all constants at compile time. */
struct format256 {
    int bytes;
    int run;        /* elements per scale: 16, or 32 and the scales come in equal pairs */
    int dmin_at;    /* byte of dmin, or -1: no minimum */
    int offset;     /* subtracted from q */
    int is_signed;  /* q are signed bytes, else 0..127 */
    int most;       /* |q| is at most this */
};
struct format32 {
    int bytes;
    int m_at;       /* byte of m, or -1: none, and q are signed bytes; with m they are 0..31 */
    int most;       /* |q| is at most this */
};

/* ---- Small pieces ---- */

ALWAYS_INLINE __m128i load128(const void *p)
{
    return _mm_loadu_si128(p);
}

ALWAYS_INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256(p);
}

ALWAYS_INLINE __m256i and256(__m256i a, int mask)
{
    return _mm256_and_si256(a, _mm256_set1_epi8((char)mask));
}

/* Shifts of bytes: shift words, then drop what came from the neighbour. */
#define shr_and256(a, n, mask) and256(_mm256_srli_epi16(a, n), mask)
#define shl_and256(a, n, mask) and256(_mm256_slli_epi16(a, n), mask)

/* 16 bytes of nibbles -> 32 bytes: the low ones, then the high ones. */
ALWAYS_INLINE __m256i nibbles(const uint8_t *p)
{
    __m128i x = load128(p);
    return and256(_mm256_set_m128i(_mm_srli_epi16(x, 4), x), 15);
}

/* Each bit of a word -> a byte, 0xff where it is set. */
ALWAYS_INLINE __m256i bits_to_bytes(uint32_t bits)
{
    const __m256i pick = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), pick);
    return _mm256_cmpeq_epi8(_mm256_and_si256(x, bit), bit);
}

/* Negate the bytes whose bit is set. */
ALWAYS_INLINE __m256i apply_signs(__m256i q, uint32_t signs)
{
    __m256i minus = bits_to_bytes(signs);
    return _mm256_sub_epi8(_mm256_xor_si256(q, minus), minus);
}

/* 8 dwords, each a scale below 2^15 in size -> 16 words, each scale twice. */
ALWAYS_INLINE __m256i twice(__m256i x)
{
    return _mm256_or_si256(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)),
                           _mm256_slli_epi32(x, 16));
}

ALWAYS_INLINE __m256i odd(__m256i n) /* 2n + 1 in words */
{
    return _mm256_add_epi16(_mm256_add_epi16(n, n), _mm256_set1_epi16(1));
}

/* The halves of 4 f16 at p + k * stride, k < count. */
ALWAYS_INLINE __m128 f16x4(const uint8_t *p, size_t stride, int count)
{
    uint64_t bits = block_u16(p);
    if (count > 1)
        bits |= (uint64_t)block_u16(p + stride) << 16;
    if (count > 2)
        bits |= (uint64_t)block_u16(p + 2 * stride) << 32;
    if (count > 3)
        bits |= (uint64_t)block_u16(p + 3 * stride) << 48;
    return _mm_cvtph_ps(_mm_cvtsi64_si128((long long)bits));
}

#define DEFINE_SCALES(name, at, factor)                                                           \
    ALWAYS_INLINE __m128 scales_##name(const uint8_t *block, size_t stride, int count)            \
    {                                                                                             \
        return _mm_mul_ps(f16x4(block + (at), stride, count), _mm_set1_ps(factor));               \
    }

/* ---- 32 elements ---- */

ALWAYS_INLINE __m256i unpack_q4_0(const uint8_t *block)
{
    return _mm256_sub_epi8(nibbles(block + 2), _mm256_set1_epi8(8));
}

ALWAYS_INLINE __m256i unpack_q4_1(const uint8_t *block)
{
    return nibbles(block + 4);
}

ALWAYS_INLINE __m256i unpack_q5_1(const uint8_t *block)
{
    return _mm256_or_si256(nibbles(block + 8), and256(bits_to_bytes(block_u32(block + 4)), 16));
}

ALWAYS_INLINE __m256i unpack_q5_0(const uint8_t *block)
{
    /* minus 16 where the fifth bit is clear: 0xf0 is both its sign extension and its value */
    __m256i high = _mm256_andnot_si256(bits_to_bytes(block_u32(block + 2)),
                                       _mm256_set1_epi8((char)0xf0));
    return _mm256_or_si256(nibbles(block + 6), high);
}

ALWAYS_INLINE __m256i unpack_q8_0(const uint8_t *block)
{
    return load256(block + 2);
}

ALWAYS_INLINE __m256i look_up(const int8_t values[16], __m256i index)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load128(values)), index);
}

ALWAYS_INLINE __m256i unpack_iq4_nl(const uint8_t *block)
{
    return look_up(quant_iq4_values, nibbles(block + 2));
}

ALWAYS_INLINE __m256i unpack_mxfp4(const uint8_t *block)
{
    return look_up(quant_fp4_values, nibbles(block + 1));
}

DEFINE_SCALES(first, 0, 1.0f)

ALWAYS_INLINE __m128 scales_mxfp4(const uint8_t *block, size_t stride, int count)
{
    uint32_t bytes = block[0];
    for (int k = 1; k < count; k++)
        bytes |= (uint32_t)block[(size_t)k * stride] << 8 * k;
    __m128i e = _mm_cvtepu8_epi32(_mm_cvtsi32_si128((int)bytes));
    /* 2^(e-128) from its bits; below e = 2 it is subnormal; 255 is NaN */
    __m128i normal = _mm_slli_epi32(_mm_sub_epi32(e, _mm_set1_epi32(1)), 23);
    __m128i subnormal = _mm_sllv_epi32(_mm_set1_epi32(0x200000), e);
    __m128i tiny = _mm_cmpgt_epi32(_mm_set1_epi32(2), e);
    __m128i nan = _mm_cmpeq_epi32(e, _mm_set1_epi32(255));
    nan = _mm_and_si128(nan, _mm_set1_epi32(0x7fc00000));
    return _mm_castsi128_ps(_mm_or_si128(_mm_blendv_epi8(normal, subnormal, tiny), nan));
}

/* ---- K-quants ---- */

ALWAYS_INLINE void unpack_q2_k(const uint8_t *block, struct block256 *w)
{
    __m128i scales = load128(block), low = _mm_set1_epi8(15);
    w->scale = _mm256_cvtepu8_epi16(_mm_and_si128(scales, low));
    w->min = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(scales, 4), low));
    for (int h = 0; h < 2; h++) {
        __m256i x = load256(block + 16 + 32 * h);
        w->q[4 * h] = and256(x, 3);
        w->q[4 * h + 1] = shr_and256(x, 2, 3);
        w->q[4 * h + 2] = shr_and256(x, 4, 3);
        w->q[4 * h + 3] = shr_and256(x, 6, 3);
    }
}

ALWAYS_INLINE void unpack_q3_k(const uint8_t *block, struct block256 *w)
{
    const uint32_t nib = 0x0f0f0f0f, two = 0x03030303;
    uint32_t a = block_u32(block + 96), b = block_u32(block + 100), c = block_u32(block + 104);
    __m128i scales = _mm_setr_epi32((int)((a & nib) | (c & two) << 4),
                                    (int)((b & nib) | (c >> 2 & two) << 4),
                                    (int)((a >> 4 & nib) | (c >> 4 & two) << 4),
                                    (int)((b >> 4 & nib) | (c >> 6 & two) << 4));
    w->scale = _mm256_sub_epi16(_mm256_cvtepu8_epi16(scales), _mm256_set1_epi16(32));
    __m256i high = load256(block);
    __m256i x = load256(block + 32), y = load256(block + 64);
    w->q[0] = _mm256_or_si256(and256(x, 3), shl_and256(high, 2, 4));
    w->q[1] = _mm256_or_si256(shr_and256(x, 2, 3), shl_and256(high, 1, 4));
    w->q[2] = _mm256_or_si256(shr_and256(x, 4, 3), and256(high, 4));
    w->q[3] = _mm256_or_si256(shr_and256(x, 6, 3), shr_and256(high, 1, 4));
    w->q[4] = _mm256_or_si256(and256(y, 3), shr_and256(high, 2, 4));
    w->q[5] = _mm256_or_si256(shr_and256(y, 2, 3), shr_and256(high, 3, 4));
    w->q[6] = _mm256_or_si256(shr_and256(y, 4, 3), shr_and256(high, 4, 4));
    w->q[7] = _mm256_or_si256(shr_and256(y, 6, 3), shr_and256(high, 5, 4));
}

/* The 8 scales and 8 minima of Q4_K and Q5_K (block_scale_min_k4), each twice. */
ALWAYS_INLINE void unpack_scales_k4(const uint8_t *packed, struct block256 *w)
{
    const uint32_t six = 0x3f3f3f3f, nib = 0x0f0f0f0f, two = 0x03030303;
    uint32_t a = block_u32(packed), b = block_u32(packed + 4), c = block_u32(packed + 8);
    uint64_t scale = (a & six) | (uint64_t)((c & nib) | (a >> 6 & two) << 4) << 32;
    uint64_t min = (b & six) | (uint64_t)((c >> 4 & nib) | (b >> 6 & two) << 4) << 32;
    __m128i s = _mm_cvtsi64_si128((long long)scale), m = _mm_cvtsi64_si128((long long)min);
    w->scale = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(s, s));
    w->min = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(m, m));
}

ALWAYS_INLINE void unpack_q4_k(const uint8_t *block, struct block256 *w)
{
    unpack_scales_k4(block + 4, w);
    for (int k = 0; k < 4; k++) {
        __m256i x = load256(block + 16 + 32 * k);
        w->q[2 * k] = and256(x, 15);
        w->q[2 * k + 1] = shr_and256(x, 4, 15);
    }
}

ALWAYS_INLINE void unpack_q5_k(const uint8_t *block, struct block256 *w)
{
    unpack_scales_k4(block + 4, w);
    __m256i high = load256(block + 16);
    __m256i fifth[8] = {
        shl_and256(high, 4, 16), shl_and256(high, 3, 16), shl_and256(high, 2, 16),
        shl_and256(high, 1, 16), and256(high, 16),        shr_and256(high, 1, 16),
        shr_and256(high, 2, 16), shr_and256(high, 3, 16),
    };
    for (int k = 0; k < 4; k++) {
        __m256i x = load256(block + 48 + 32 * k);
        w->q[2 * k] = _mm256_or_si256(and256(x, 15), fifth[2 * k]);
        w->q[2 * k + 1] = _mm256_or_si256(shr_and256(x, 4, 15), fifth[2 * k + 1]);
    }
}

ALWAYS_INLINE void unpack_q6_k(const uint8_t *block, struct block256 *w)
{
    w->scale = _mm256_cvtepi8_epi16(load128(block + 192));
    for (int h = 0; h < 2; h++) {
        __m256i a = load256(block + 64 * h), b = load256(block + 64 * h + 32);
        __m256i high = load256(block + 128 + 32 * h);
        w->q[4 * h] = _mm256_or_si256(and256(a, 15), shl_and256(high, 4, 48));
        w->q[4 * h + 1] = _mm256_or_si256(and256(b, 15), shl_and256(high, 2, 48));
        w->q[4 * h + 2] = _mm256_or_si256(shr_and256(a, 4, 15), and256(high, 48));
        w->q[4 * h + 3] = _mm256_or_si256(shr_and256(b, 4, 15), shr_and256(high, 2, 48));
    }
}

DEFINE_SCALES(q2_k, 80, 1.0f)
DEFINE_SCALES(q3_k, 108, 1.0f)
DEFINE_SCALES(q6_k, 208, 1.0f)

/* ---- Codebooks ---- */

/* 8 nibbles of a word -> 8 dwords. */
ALWAYS_INLINE __m256i nibbles_of(uint32_t word)
{
    __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)word), shifts),
                            _mm256_set1_epi32(15));
}

/* 8 bytes of two nibbles, low first -> 16 words. */
ALWAYS_INLINE __m256i nibble_words(const uint8_t *p)
{
    __m128i x = _mm_loadl_epi64((const __m128i *)p), low = _mm_set1_epi8(15);
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(
        _mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low)));
}

/* Four points of eight bytes, loaded straight into a vector. */
ALWAYS_INLINE __m128i points2(const void *a, const void *b)
{
    __m128 low = _mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)a));
    return _mm_castps_si128(_mm_loadh_pi(low, (const __m64 *)b));
}
ALWAYS_INLINE __m256i points4(const void *a, const void *b, const void *c, const void *d)
{
    return _mm256_set_m128i(points2(c, d), points2(a, b));
}

ALWAYS_INLINE int point4(const void *point)
{
    int p;
    memcpy(&p, point, 4);
    return p;
}

/* 32 bytes of seven signs -> the eighth makes their number even (quant_sign_bytes). Words are
 * shifted; what crosses into a neighbour never reaches its lowest bit. */
ALWAYS_INLINE __m256i with_parity(__m256i seven)
{
    __m256i p = _mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4));
    p = _mm256_xor_si256(p, _mm256_srli_epi16(p, 2));
    p = _mm256_xor_si256(p, _mm256_srli_epi16(p, 1));
    return _mm256_or_si256(seven, shl_and256(p, 7, 0x80));
}

/* Eight words, each four times seven signs in its low 28 bits -> four sign bytes of each. */
ALWAYS_INLINE void parity_signs(__m256i words, uint32_t signs[8])
{
    __m256i x = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    for (int l = 1; l < 4; l++)
        x = _mm256_or_si256(x, _mm256_and_si256(_mm256_slli_epi32(words, l),
                                                _mm256_set1_epi32((int)(0x7fu << 8 * l))));
    _mm256_storeu_si256((__m256i *)signs, with_parity(x));
}

ALWAYS_INLINE void unpack_iq4_xs(const uint8_t *block, struct block256 *w)
{
    __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(block_u16(block + 2)),
                                     _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
    __m256i scale = _mm256_or_si256(nibbles_of(block_u32(block + 4)), high);
    w->scale = twice(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
    for (int g = 0; g < 8; g++)
        w->q[g] = look_up(quant_iq4_values, nibbles(block + 8 + 16 * g));
}

ALWAYS_INLINE void unpack_iq2_xxs(const uint8_t *block, struct block256 *w)
{
    __m256 a = _mm256_castsi256_ps(load256(block + 2));
    __m256 b = _mm256_castsi256_ps(load256(block + 34));
    __m256i words = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)); /* the odd dwords */
    words = _mm256_permute4x64_epi64(words, 0xd8);
    w->scale = odd(twice(_mm256_srli_epi32(words, 28)));
    uint32_t signs[8];
    parity_signs(words, signs);
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 8 * g;
        __m256i points = points4(quant_grid_iq2xxs[p[0]], quant_grid_iq2xxs[p[1]],
                                 quant_grid_iq2xxs[p[2]], quant_grid_iq2xxs[p[3]]);
        w->q[g] = apply_signs(points, signs[g]);
    }
}

ALWAYS_INLINE void unpack_iq2_xs(const uint8_t *block, struct block256 *w)
{
    w->scale = odd(nibble_words(block + 66));
    __m256i x = _mm256_srli_epi16(load256(block + 2), 9);
    __m256i y = _mm256_srli_epi16(load256(block + 34), 9);
    uint32_t signs[8];
    _mm256_storeu_si256((__m256i *)signs,
                        with_parity(_mm256_permute4x64_epi64(_mm256_packus_epi16(x, y), 0xd8)));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 8 * g;
        __m256i points = points4(quant_grid_iq2xs[block_u16(p) & 511],
                                 quant_grid_iq2xs[block_u16(p + 2) & 511],
                                 quant_grid_iq2xs[block_u16(p + 4) & 511],
                                 quant_grid_iq2xs[block_u16(p + 6) & 511]);
        w->q[g] = apply_signs(points, signs[g]);
    }
}

ALWAYS_INLINE void unpack_iq2_s(const uint8_t *block, struct block256 *w)
{
    w->scale = odd(nibble_words(block + 74));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 4 * g;
        uint32_t high = block[66 + g];
        __m256i points = points4(quant_grid_iq2s[p[0] | (high << 8 & 0x300)],
                                 quant_grid_iq2s[p[1] | (high << 6 & 0x300)],
                                 quant_grid_iq2s[p[2] | (high << 4 & 0x300)],
                                 quant_grid_iq2s[p[3] | (high << 2 & 0x300)]);
        w->q[g] = apply_signs(points, block_u32(block + 34 + 4 * g));
    }
}

ALWAYS_INLINE void unpack_iq3_xxs(const uint8_t *block, struct block256 *w)
{
    __m256i words = load256(block + 66);
    w->scale = odd(twice(_mm256_srli_epi32(words, 28)));
    uint32_t signs[8];
    parity_signs(words, signs);
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 8 * g;
        __m256i points = _mm256_setr_epi32(
            point4(quant_grid_iq3xxs[p[0]]), point4(quant_grid_iq3xxs[p[1]]),
            point4(quant_grid_iq3xxs[p[2]]), point4(quant_grid_iq3xxs[p[3]]),
            point4(quant_grid_iq3xxs[p[4]]), point4(quant_grid_iq3xxs[p[5]]),
            point4(quant_grid_iq3xxs[p[6]]), point4(quant_grid_iq3xxs[p[7]]));
        w->q[g] = apply_signs(points, signs[g]);
    }
}

ALWAYS_INLINE void unpack_iq3_s(const uint8_t *block, struct block256 *w)
{
    w->scale = odd(twice(nibbles_of(block_u32(block + 106))));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 8 * g;
        uint32_t high = block[66 + g];
        __m256i points = _mm256_setr_epi32(
            point4(quant_grid_iq3s[p[0] | (high << 8 & 256)]),
            point4(quant_grid_iq3s[p[1] | (high << 7 & 256)]),
            point4(quant_grid_iq3s[p[2] | (high << 6 & 256)]),
            point4(quant_grid_iq3s[p[3] | (high << 5 & 256)]),
            point4(quant_grid_iq3s[p[4] | (high << 4 & 256)]),
            point4(quant_grid_iq3s[p[5] | (high << 3 & 256)]),
            point4(quant_grid_iq3s[p[6] | (high << 2 & 256)]),
            point4(quant_grid_iq3s[p[7] | (high << 1 & 256)]));
        w->q[g] = apply_signs(points, block_u32(block + 74 + 4 * g));
    }
}

/* Points of IQ1 are -1, 0, 1; in eighths, with the shift of one eighth added they are whole. */
ALWAYS_INLINE __m256i eighths(__m256i points, __m256i minus)
{
    __m256i shift = _mm256_or_si256(minus, _mm256_set1_epi8(1)); /* -1 or 1 */
    return _mm256_add_epi8(shl_and256(points, 3, 0xf8), shift);
}

ALWAYS_INLINE void unpack_iq1_s(const uint8_t *block, struct block256 *w)
{
    __m256i high = _mm256_cvtepu16_epi32(load128(block + 34));
    w->scale = odd(twice(_mm256_and_si256(_mm256_srli_epi32(high, 12), _mm256_set1_epi32(7))));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 4 * g;
        uint32_t h = block_u16(block + 34 + 2 * g);
        __m256i points = points4(quant_grid_iq1[p[0] | (h << 8 & 0x700)],
                                 quant_grid_iq1[p[1] | (h << 5 & 0x700)],
                                 quant_grid_iq1[p[2] | (h << 2 & 0x700)],
                                 quant_grid_iq1[p[3] | (h >> 1 & 0x700)]);
        w->q[g] = eighths(points, _mm256_set1_epi8(h & 0x8000 ? -1 : 0));
    }
}

ALWAYS_INLINE void unpack_iq1_m(const uint8_t *block, struct block256 *w)
{
    /* run j: bits 3 * (j % 4) of word j / 4, moved to the top by a multiplication, then down */
    const __m256i pick = _mm256_setr_epi64x(0x0100010001000100, 0x0302030203020302,
                                            0x0504050405040504, 0x0706070607060706);
    const __m256i to_top = _mm256_set1_epi64x(1ll << 13 | 1ll << 26 | 1ll << 39 | 1ll << 52);
    __m128i four = _mm_loadl_epi64((const __m128i *)(block + 48));
    __m256i words = _mm256_shuffle_epi8(_mm256_broadcastq_epi64(four), pick);
    w->scale = odd(_mm256_srli_epi16(_mm256_mullo_epi16(words, to_top), 13));
    const __m256i minus_bit = _mm256_setr_epi64x(0x0008000800080008, 0x0080008000800080,
                                                 0x0800080008000800,
                                                 (long long)0x8000800080008000);
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 4 * g;
        uint32_t h = block_u16(block + 32 + 2 * g); /* four nibbles: 3 index bits, minus */
        __m256i points = points4(quant_grid_iq1[p[0] | (h << 8 & 0x700)],
                                 quant_grid_iq1[p[1] | (h << 4 & 0x700)],
                                 quant_grid_iq1[p[2] | (h & 0x700)],
                                 quant_grid_iq1[p[3] | (h >> 4 & 0x700)]);
        __m256i minus = _mm256_and_si256(_mm256_set1_epi16((short)h), minus_bit);
        minus = _mm256_cmpeq_epi16(minus, minus_bit);
        w->q[g] = eighths(points, minus);
    }
}

DEFINE_SCALES(iq2, 0, 0.125f)
DEFINE_SCALES(iq3_xxs, 0, 0.25f)

ALWAYS_INLINE __m128 scales_iq1_m(const uint8_t *block, size_t stride, int count)
{
    uint64_t bits = 0;
    for (int k = 0; k < count; k++) {
        const uint8_t *s = block + (size_t)k * stride + 48;
        uint64_t d = s[1] >> 4 | (s[3] & 0xf0u) | (s[5] & 0xf0u) << 4 | (s[7] & 0xf0u) << 8;
        bits |= d << 16 * k;
    }
    return _mm_mul_ps(_mm_cvtph_ps(_mm_cvtsi64_si128((long long)bits)), _mm_set1_ps(0.125f));
}

/* ---- All types, for tables: X(TYPE, name, scales, fields of the format) ---- */

#define TYPES_256(X)                                                                              \
    X(Q2_K, q2_k, q2_k, 84, 16, 82, 0, 0, 3)                                                      \
    X(Q3_K, q3_k, q3_k, 110, 16, -1, 4, 0, 7)                                                     \
    X(Q4_K, q4_k, first, 144, 32, 2, 0, 0, 15)                                                    \
    X(Q5_K, q5_k, first, 176, 32, 2, 0, 0, 31)                                                    \
    X(Q6_K, q6_k, q6_k, 210, 16, -1, 32, 0, 63)                                                   \
    X(IQ4_XS, iq4_xs, first, 136, 32, -1, 0, 1, 127)                                              \
    X(IQ3_S, iq3_s, first, 110, 32, -1, 0, 1, 15)                                                 \
    X(IQ3_XXS, iq3_xxs, iq3_xxs, 98, 32, -1, 0, 1, 62)                                            \
    X(IQ2_XXS, iq2_xxs, iq2, 66, 32, -1, 0, 1, 43)                                                \
    X(IQ2_XS, iq2_xs, iq2, 74, 16, -1, 0, 1, 43)                                                  \
    X(IQ2_S, iq2_s, iq2, 82, 16, -1, 0, 1, 43)                                                    \
    X(IQ1_S, iq1_s, iq2, 50, 32, -1, 0, 1, 9)                                                     \
    X(IQ1_M, iq1_m, iq1_m, 56, 16, -1, 0, 1, 9)

#define TYPES_32(X)                                                                               \
    X(Q4_0, q4_0, first, 18, -1, 8)                                                               \
    X(Q4_1, q4_1, first, 20, 2, 15)                                                               \
    X(Q5_0, q5_0, first, 22, -1, 16)                                                              \
    X(Q5_1, q5_1, first, 24, 2, 31)                                                               \
    X(Q8_0, q8_0, first, 34, -1, 128)                                                             \
    X(IQ4_NL, iq4_nl, first, 18, -1, 127)                                                         \
    X(MXFP4, mxfp4, mxfp4, 17, -1, 12)

#endif
