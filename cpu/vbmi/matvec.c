/* Codebook rows times one activation, AVX-512 with VBMI and GFNI.
 *
 * The activation is laid out once as points.h wants it, coordinate by coordinate; then each row
 * goes by in pairs of blocks:
 *
 *   1  bring the indices and the sign bytes of 64 points together
 *   2  look their coordinates up, eight (or four) vectors of 64
 *   3  multiply each with the activations of that coordinate, negated where the sign says so
 *   4  multiply the sums, one per dword, with the scales of their runs
 *
 * The float part is that of cpu/avx2/dot.c, with the same bits. */
#include <pthread.h>
#include <string.h>

#include "cpu/avx2/sums.h"
#include "cpu/vbmi/points.h"
#include "cpu/vbmi/table.h"

#define CHUNK_BLOCKS 64 /* blocks of the activation laid out at a time: 16 KiB */
#define ROWS 64         /* their sums wait while the chunks go by */

/* A chunk of an activation. Blocks past the last are zero up to a multiple of four.
 *
 *   pairs of blocks   vector v of pair p at q + 512 p + 64 v: 32 bytes of either block, byte i
 *                     being element order[32 v + i] of the block
 *   single blocks     vector v of block b at q + 256 b + 64 v: element order[64 v + i] */
struct laid_out {
    _Alignas(64) int8_t q[CHUNK_BLOCKS * 256];
    _Alignas(32) int16_t bsums[CHUNK_BLOCKS][16];
    float d[CHUNK_BLOCKS];
};

/* Which element stands where. */
struct order {
    _Alignas(64) uint8_t of[256];
};
static struct order order8, order16, order4, as_is;

/* order8, for pairs: dword r of vector c is coordinate c of the four points of run r (32 elements).
 *
 * order16, for pairs, runs of 16 elements: vector 2c + h is made of bytes c and c + 4 of points,
 * dword r: coordinate c of both points of a run, then coordinate c + 4. The 8 dwords of a block are
 * runs 0-3 and 8-11 (h = 0) or 4-7 and 12-15 (h = 1): what unpacking words leaves side by side.
 *
 * as_is, single blocks: element by element.
 *
 * order4, single blocks: byte k of vector c is coordinate c of point k, of four coordinates. */
static void make_orders(void)
{
    for (int v = 0; v < 8; v++) {
        for (int r = 0; r < 8; r++) {
            int run = r / 4 * 8 + v % 2 * 4 + r % 4;
            for (int i = 0; i < 4; i++) {
                order8.of[32 * v + 4 * r + i] = (uint8_t)(32 * r + 8 * i + v);
                order16.of[32 * v + 4 * r + i] =
                    (uint8_t)(16 * run + i % 2 * 8 + v / 2 + i / 2 * 4);
            }
        }
    }
    for (int i = 0; i < 256; i++) {
        order4.of[i] = (uint8_t)(i % 64 * 4 + i / 64);
        as_is.of[i] = (uint8_t)i;
    }
}

static void lay_out(struct laid_out *l, const uint8_t *act, int n_blocks, const struct order *order,
                    bool pairs)
{
    int padded = (n_blocks + 3) / 4 * 4;
    for (int b = 0; b < padded; b++) {
        __m512i x[4] = { 0 };
        l->d[b] = 0;
        memset(l->bsums[b], 0, sizeof l->bsums[b]);
        if (b < n_blocks) {
            const uint8_t *a = act + (size_t)b * Q8_K_BYTES;
            l->d[b] = load_f32(a);
            memcpy(l->bsums[b], a + Q8_K_BSUMS, sizeof l->bsums[b]);
            for (int k = 0; k < 4; k++)
                x[k] = _mm512_loadu_si512(a + Q8_K_QS + 64 * k);
        }
        for (int v = 0; v < 4; v++) {
            __m512i from = _mm512_load_si512(order->of + 64 * v);
            __m512i y = _mm512_permutex2var_epi8(x[0], from, x[1]);
            y = _mm512_mask_blend_epi8(_mm512_movepi8_mask(from), y,
                                       _mm512_permutex2var_epi8(x[2], from, x[3]));
            if (!pairs) {
                _mm512_store_si512(l->q + 256 * b + 64 * v, y);
                continue;
            }
            int8_t *to = l->q + 512 * (b / 2) + 32 * (b % 2) + 128 * v;
            _mm256_store_si256((__m256i *)to, _mm512_castsi512_si256(y));
            _mm256_store_si256((__m256i *)(to + 64), _mm512_extracti64x4_epi64(y, 1));
        }
    }
}

/* ---- Pairs of blocks: 8 sums of the first, 8 of the second, all times their scales ---- */

/* Two vectors of 32 bytes side by side. */
ALWAYS_INLINE __m512i pair(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

typedef __m512i pair_fn(const uint8_t *blocks, const struct laid_out *l, int b);

ALWAYS_INLINE __m512i load_value(const struct points *p, int c)
{
    return _mm512_load_si512(p->value[c]);
}

/* sum += the coordinate that `value` finds in `ranks`, times the activations at `act`, negated
 * where a bit of `sign` is set. */
ALWAYS_INLINE __m512i add_coordinate(__m512i sum, __m512i ranks, __m512i value, const int8_t *act,
                                     __m512i signs, __m512i sign)
{
    __m512i w = _mm512_permutexvar_epi8(ranks, value), x = _mm512_load_si512(act);
    x = _mm512_mask_sub_epi8(x, _mm512_test_epi8_mask(signs, sign), _mm512_setzero_si512(), x);
    return _mm512_dpbusd_epi32(sum, w, x);
}

/* All eight coordinates of 64 points, order8. */
ALWAYS_INLINE __m512i dot_points8(const struct points *p, __m512i low, __m512i high, __m512i signs,
                                  const int8_t *act)
{
    __m512i a = _mm512_setzero_si512(), b = a;
    __m512i half[2] = { low, high };
    for (int h = 0; h < 2; h++) {
        const int8_t *x = act + 256 * h;
        __m512i last = _mm512_srli_epi16(half[h], 2);
        for (int c = 0; c < 4; c++) {
            __m512i *sum = c % 2 ? &b : &a;
            *sum = add_coordinate(*sum, c < 3 ? half[h] : last, load_value(p, c < 3 ? c : 2),
                                  x + 64 * c, signs, _mm512_set1_epi8((char)(1 << (4 * h + c))));
        }
    }
    return _mm512_add_epi32(a, b);
}

/* The same in order16, for runs of 16: scale is 32 bytes, one per run of the two blocks. */
ALWAYS_INLINE __m512i dot_points16(const struct points *p, __m512i low, __m512i high,
                                   __m512i signs, __m256i scale, const int8_t *act)
{
    const __m512i dwords = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26,
                                             27);
    __m512i total = _mm512_setzero_si512();
    for (int h = 0; h < 2; h++) {
        __m512i ranks = h ? _mm512_unpackhi_epi16(low, high) : _mm512_unpacklo_epi16(low, high);
        __m512i s = h ? _mm512_unpackhi_epi16(signs, signs) : _mm512_unpacklo_epi16(signs, signs);
        __m512i last = _mm512_srli_epi16(ranks, 2), sum = _mm512_setzero_si512();
        for (int c = 0; c < 4; c++) {
            __m512i sign = _mm512_set1_epi32((int)(0x10100101u << c));
            sum = add_coordinate(sum, c < 3 ? ranks : last, load_value(p, c < 3 ? c : 2),
                                 act + 64 * (2 * c + h), s, sign);
        }
        __m512i run = _mm512_add_epi32(dwords, _mm512_set1_epi32(4 * h));
        __m512i times = _mm512_maskz_permutexvar_epi8(0x1111111111111111, run,
                                                      _mm512_castsi256_si512(scale));
        total = _mm512_add_epi32(total, _mm512_mullo_epi32(sum, times));
    }
    return total;
}

/* 16 bytes of two nibbles n each -> 32 bytes 2n + 1. */
ALWAYS_INLINE __m256i odd_nibbles(__m128i x)
{
    __m256i words = _mm256_cvtepu8_epi16(x);
    __m256i n = and256(_mm256_or_si256(words, _mm256_slli_epi16(words, 4)), 15);
    return _mm256_or_si256(_mm256_add_epi8(n, n), _mm256_set1_epi8(1));
}

ALWAYS_INLINE __m512i times_odd(__m512i sum, __m512i n) /* sum (2n + 1) */
{
    return _mm512_mullo_epi32(sum, _mm512_add_epi32(_mm512_add_epi32(n, n), _mm512_set1_epi32(1)));
}

ALWAYS_INLINE __m512i pair_iq2_xxs(const uint8_t *blocks, const struct laid_out *l, int b)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28,
                                           30);
    const __m512i seven_bits = _mm512_set1_epi64(0x352e2720150e0700); /* 0 7 14 21 of each dword */
    __m512i x = _mm512_loadu_si512(blocks + 2), y = _mm512_loadu_si512(blocks + 66 + 2);
    __m512i index = _mm512_permutex2var_epi32(x, even, y);
    __m512i words = _mm512_permutex2var_epi32(x, _mm512_add_epi32(even, _mm512_set1_epi32(1)), y);
    __m512i signs = parity_of_low7(_mm512_multishift_epi64_epi8(seven_bits, words));
    struct quarters q = quarters_of(index);
    __m512i low = look_up256(points_iq2xxs.low, index, q);
    __m512i high = look_up256(points_iq2xxs.high, index, q);
    return times_odd(dot_points8(&points_iq2xxs, low, high, signs, l->q + 256 * b),
                     _mm512_srli_epi32(words, 28));
}

ALWAYS_INLINE __m512i pair_iq2_xs(const uint8_t *blocks, const struct laid_out *l, int b)
{
    const uint8_t *second = blocks + 74;
    __m512i x = _mm512_loadu_si512(blocks + 2), y = _mm512_loadu_si512(second + 2);
    __m512i index = pair(_mm512_cvtepi16_epi8(x), _mm512_cvtepi16_epi8(y));
    x = _mm512_srli_epi16(x, 8), y = _mm512_srli_epi16(y, 8);
    __m512i rest = pair(_mm512_cvtepi16_epi8(x), _mm512_cvtepi16_epi8(y)); /* bit 8, seven signs */
    struct quarters q = quarters_of(index);
    __mmask64 b8 = _mm512_test_epi8_mask(rest, _mm512_set1_epi8(1));
    __m512i low = look_up512(points_iq2xs.low, index, q, b8);
    __m512i high = look_up512(points_iq2xs.high, index, q, b8);
    __m256i scale = odd_nibbles(points2(blocks + 66, second + 66));
    return dot_points16(&points_iq2xs, low, high, parity_of_high7(rest), scale, l->q + 256 * b);
}

ALWAYS_INLINE __m512i pair_iq2_s(const uint8_t *blocks, const struct laid_out *l, int b)
{
    const __m512i by4 = _mm512_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404,
                                          0x05050505, 0x06060606, 0x07070707, 0x08080808,
                                          0x09090909, 0x0a0a0a0a, 0x0b0b0b0b, 0x0c0c0c0c,
                                          0x0d0d0d0d, 0x0e0e0e0e, 0x0f0f0f0f);
    const uint8_t *second = blocks + 82;
    __m512i x = _mm512_loadu_si512(blocks + 2), y = _mm512_loadu_si512(second + 2);
    __m512i index = _mm512_shuffle_i64x2(x, y, 0x44), signs = _mm512_shuffle_i64x2(x, y, 0xee);
    __m128i more = points2(blocks + 66, second + 66);
    __m512i upper = _mm512_permutexvar_epi8(by4, _mm512_castsi128_si512(more));
    struct quarters q = quarters_of(index);
    __mmask64 b8 = _mm512_test_epi8_mask(upper, _mm512_set1_epi32(0x40100401));
    __mmask64 b9 = _mm512_test_epi8_mask(upper, _mm512_set1_epi32((int)0x80200802));
    __m512i low = look_up1024(points_iq2s.low, index, q, b8, b9);
    __m512i high = look_up1024(points_iq2s.high, index, q, b8, b9);
    __m256i scale = odd_nibbles(points2(blocks + 74, second + 74));
    return dot_points16(&points_iq2s, low, high, signs, scale, l->q + 256 * b);
}

/* Four coordinates of the 64 points of one block, order4. In `signs` each byte serves two points:
 * the low nibble of the even ones, the high nibble of the odd ones. */
ALWAYS_INLINE __m512i dot_points4(const struct points *p, __m512i low, __m512i high, __m512i signs,
                                  const int8_t *act)
{
    __m512i a = _mm512_setzero_si512(), b = a;
    a = add_coordinate(a, low, load_value(p, 0), act, signs, _mm512_set1_epi16(0x1001));
    b = add_coordinate(b, low, load_value(p, 1), act + 64, signs, _mm512_set1_epi16(0x2002));
    a = add_coordinate(a, high, load_value(p, 0), act + 128, signs, _mm512_set1_epi16(0x4004));
    b = add_coordinate(b, high, load_value(p, 1), act + 192, signs,
                       _mm512_set1_epi16((short)0x8008));
    return _mm512_add_epi32(a, b);
}

/* 16 sums of each of two blocks -> 8 and 8. */
ALWAYS_INLINE __m512i halved(__m512i x, __m512i y)
{
    return _mm512_add_epi32(_mm512_shuffle_i64x2(x, y, 0x44), _mm512_shuffle_i64x2(x, y, 0xee));
}

ALWAYS_INLINE __m512i one_iq3_xxs(const uint8_t *block, const int8_t *act)
{
    const __m512i seven_bits = _mm512_set1_epi64(0x15150e0e07070000); /* 0 7 14 21, each twice */
    __m512i index = _mm512_loadu_si512(block + 2);
    __m512i words = _mm512_cvtepu32_epi64(load256(block + 66));
    __m512i signs = parity_of_low7(_mm512_multishift_epi64_epi8(seven_bits, words));
    struct quarters q = quarters_of(index);
    __m512i low = look_up256(points_iq3xxs.low, index, q);
    __m512i high = look_up256(points_iq3xxs.high, index, q);
    __m512i scale = _mm512_shuffle_epi32(_mm512_srli_epi64(words, 28), _MM_PERM_CCAA);
    return times_odd(dot_points4(&points_iq3xxs, low, high, signs, act), scale);
}

ALWAYS_INLINE __m512i one_iq3_s(const uint8_t *block, const int8_t *act)
{
    const __m512i nibble = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28,
                                             28);
    __m512i index = _mm512_loadu_si512(block + 2);
    __m512i signs = _mm512_cvtepu8_epi16(load256(block + 74));
    signs = _mm512_or_si512(signs, _mm512_slli_epi16(signs, 8));
    uint64_t b8;
    memcpy(&b8, block + 66, sizeof b8);
    struct quarters q = quarters_of(index);
    __m512i low = look_up512(points_iq3s.low, index, q, b8);
    __m512i high = look_up512(points_iq3s.high, index, q, b8);
    __m512i scale = _mm512_srlv_epi32(_mm512_set1_epi32((int)block_u32(block + 106)), nibble);
    scale = _mm512_and_si512(scale, _mm512_set1_epi32(15));
    return times_odd(dot_points4(&points_iq3s, low, high, signs, act), scale);
}

/* ---- IQ1: 2048 points, fetched by gathers, in the order of the block ----
 *
 *     sum scale (8 g + delta) a  =  sum scale u a  -  sum 8 scale a,   u = 8 (g + 1) + delta
 *
 * where delta is 1 or -1 for each run of IQ1_S, each point of IQ1_M. */

/* 32 indices, times u; `plus`: points whose u gets another 2. scale: 16 runs of 16. */
ALWAYS_INLINE __m512i dot_gathered(__m512i index, __mmask32 plus, __m256i scale, const int8_t *act)
{
    const __m512i quads = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m512i two = _mm512_set1_epi8(2), scales = _mm512_cvtepi16_epi32(scale);
    __m256i half[2] = { _mm512_castsi512_si256(index), _mm512_extracti64x4_epi64(index, 1) };
    __m512i total = _mm512_setzero_si512();
    for (int k = 0; k < 4; k++) {
        __m128i words = k % 2 ? _mm256_extracti128_si256(half[k / 2], 1)
                              : _mm256_castsi256_si128(half[k / 2]);
        __m512i u = _mm512_i32gather_epi64(_mm256_cvtepu16_epi32(words), points_iq1, 8);
        u = _mm512_mask_or_epi64(u, (__mmask8)(plus >> 8 * k), u, two);
        __m512i run = _mm512_add_epi32(quads, _mm512_set1_epi32(4 * k));
        __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u,
                                          _mm512_load_si512(act + 64 * k));
        sum = _mm512_mullo_epi32(sum, _mm512_permutexvar_epi32(run, scales));
        total = _mm512_add_epi32(total, sum);
    }
    return total;
}

/* What a constant per run adds to the products: the constants times the sums of activations. */
ALWAYS_INLINE __m512i plus_sums(__m512i total, __m256i factors, const int16_t *bsums)
{
    __m256i x = _mm256_madd_epi16(factors, _mm256_load_si256((const __m256i *)bsums));
    return _mm512_add_epi32(total, _mm512_zextsi256_si512(x));
}

ALWAYS_INLINE __m512i words_of_bytes(__m256i low, __m256i high) /* low | high << 8 */
{
    return _mm512_or_si512(_mm512_cvtepu8_epi16(low),
                           _mm512_slli_epi16(_mm512_cvtepu8_epi16(high), 8));
}

ALWAYS_INLINE __m512i one_iq1_s(const uint8_t *block, const int8_t *act, const int16_t *bsums)
{
    const __m512i by4 = _mm512_set_epi64(0x0007000700070007, 0x0006000600060006,
                                         0x0005000500050005, 0x0004000400040004,
                                         0x0003000300030003, 0x0002000200020002,
                                         0x0001000100010001, 0);
    __m128i h = load128(block + 34);
    __m512i upper = _mm512_permutexvar_epi16(by4, _mm512_castsi128_si512(h));
    upper = _mm512_srlv_epi16(upper, _mm512_set1_epi64(0x0009000600030000));
    upper = _mm512_slli_epi16(_mm512_and_si512(upper, _mm512_set1_epi16(7)), 8);
    __m512i index = _mm512_or_si512(upper, _mm512_cvtepu8_epi16(load256(block + 2)));
    __m256i runs = _mm256_cvtepu16_epi32(h);
    __m256i n = _mm256_and_si256(_mm256_srli_epi32(runs, 12), _mm256_set1_epi32(7));
    __m256i scale = odd(twice(n));
    __m256i minus = twice(_mm256_slli_epi32(_mm256_srli_epi32(runs, 15), 1)); /* 0 or 2 */
    __m256i delta = _mm256_sub_epi16(_mm256_set1_epi16(-8 + 1), minus);
    return plus_sums(dot_gathered(index, 0, scale, act), _mm256_mullo_epi16(scale, delta), bsums);
}

ALWAYS_INLINE __m512i one_iq1_m(const uint8_t *block, const int8_t *act, const int16_t *bsums)
{
    const __m256i pick = _mm256_setr_epi64x(0x0100010001000100, 0x0302030203020302,
                                            0x0504050405040504, 0x0706070607060706);
    __m256i nibbles = _mm256_cvtepu8_epi16(load128(block + 32));
    nibbles = and256(_mm256_or_si256(nibbles, _mm256_slli_epi16(nibbles, 4)), 15);
    __mmask32 minus = _mm256_test_epi8_mask(nibbles, _mm256_set1_epi8(8));
    __m512i index = words_of_bytes(load256(block), and256(nibbles, 7));
    __m128i four = _mm_loadl_epi64((const __m128i *)(block + 48));
    __m256i words = _mm256_shuffle_epi8(_mm256_broadcastq_epi64(four), pick);
    words = _mm256_srlv_epi16(words, _mm256_set1_epi64x(0x0009000600030000));
    __m256i scale = odd(_mm256_and_si256(words, _mm256_set1_epi16(7)));
    __m256i factors = _mm256_mullo_epi16(scale, _mm256_set1_epi16(-9)); /* u is one too large */
    return plus_sums(dot_gathered(index, ~minus, scale, act), factors, bsums);
}

#define DEFINE_PAIR(name, bytes, ...)                                                             \
    ALWAYS_INLINE __m512i pair_##name(const uint8_t *blocks, const struct laid_out *l, int b)     \
    {                                                                                             \
        __m512i x, y;                                                                             \
        {                                                                                         \
            const uint8_t *block = blocks;                                                        \
            x = __VA_ARGS__;                                                                      \
        }                                                                                         \
        {                                                                                         \
            const uint8_t *block = blocks + (bytes);                                              \
            b++;                                                                                  \
            y = __VA_ARGS__;                                                                      \
        }                                                                                         \
        return halved(x, y);                                                                      \
    }
DEFINE_PAIR(iq3_xxs, 98, one_iq3_xxs(block, l->q + 256 * b))
DEFINE_PAIR(iq3_s, 110, one_iq3_s(block, l->q + 256 * b))
DEFINE_PAIR(iq1_s, 50, one_iq1_s(block, l->q + 256 * b, l->bsums[b]))
DEFINE_PAIR(iq1_m, 56, one_iq1_m(block, l->q + 256 * b, l->bsums[b]))

/* ---- Rows ---- */

/* The sums of four blocks in order, from those of two pairs. */
ALWAYS_INLINE __m128i sums_of_pairs(__m512i x, __m512i y)
{
    __m512i both = _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    both = _mm512_add_epi32(both, _mm512_shuffle_epi32(both, _MM_PERM_BADC));
    __m256i first = _mm512_castsi512_si256(both), second = _mm512_extracti64x4_epi64(both, 1);
    __m256i z = _mm256_unpacklo_epi32(first, second); /* x first, x second, y first, y second */
    return _mm_add_epi32(_mm256_castsi256_si128(z), _mm256_extracti128_si256(z, 1));
}

/* Four blocks of a row: their part of the four partial sums. */
ALWAYS_INLINE __m128 four_blocks(const uint8_t *blocks, const int bytes, const struct laid_out *l,
                                 int b, pair_fn *pair_sums, scales_fn *scales)
{
    __m512i x = pair_sums(blocks, l, b), y = pair_sums(blocks + 2 * bytes, l, b + 2);
    return scaled(scales(blocks, (size_t)bytes, 4), _mm_loadu_ps(l->d + b), sums_of_pairs(x, y));
}

/* One chunk of a row; adds to its partial sums. */
ALWAYS_INLINE __m128 add_chunk(__m128 sum, const uint8_t *row, const struct laid_out *l,
                               int n_blocks, const int bytes, pair_fn *pair_sums,
                               scales_fn *scales)
{
    int b = 0;
    for (; b + 4 <= n_blocks; b += 4, row += 4 * bytes) {
        prefetch_ahead(row, 4 * bytes);
        sum = _mm_add_ps(sum, four_blocks(row, bytes, l, b, pair_sums, scales));
    }
    if (b == n_blocks)
        return sum;
    uint8_t last[4 * 128] = { 0 };
    memcpy(last, row, (size_t)((n_blocks - b) * bytes));
    return _mm_add_ps(sum, four_blocks(last, bytes, l, b, pair_sums, scales));
}

ALWAYS_INLINE void matvec(int64_t n, const uint8_t *rows, size_t row_stride, int n_rows,
                          const uint8_t *act, float *out, const int bytes,
                          const struct order *order, bool pairs, pair_fn *pair_sums,
                          scales_fn *scales)
{
    struct laid_out l;
    int64_t n_blocks = n / 256;
    for (int first = 0; first < n_rows; first += ROWS) {
        int count = n_rows - first < ROWS ? n_rows - first : ROWS;
        __m128 sum[ROWS];
        for (int r = 0; r < count; r++)
            sum[r] = _mm_setzero_ps();
        for (int64_t b = 0; b < n_blocks; b += CHUNK_BLOCKS) {
            int blocks = n_blocks - b < CHUNK_BLOCKS ? (int)(n_blocks - b) : CHUNK_BLOCKS;
            if (first == 0 || n_blocks > CHUNK_BLOCKS)
                lay_out(&l, act + b * Q8_K_BYTES, blocks, order, pairs);
            for (int r = 0; r < count; r++)
                sum[r] = add_chunk(sum[r], rows + (size_t)(first + r) * row_stride + b * bytes, &l,
                                   blocks, bytes, pair_sums, scales);
        }
        for (int r = 0; r < count; r++)
            out[first + r] = fold4(sum[r]);
    }
}

/* X(TYPE, name, bytes, order, pairs, scales) */
#define CODEBOOK_TYPES(X)                                                                         \
    X(IQ2_XXS, iq2_xxs, 66, order8, true, iq2)                                                    \
    X(IQ2_XS, iq2_xs, 74, order16, true, iq2)                                                     \
    X(IQ2_S, iq2_s, 82, order16, true, iq2)                                                       \
    X(IQ3_XXS, iq3_xxs, 98, order4, false, iq3_xxs)                                               \
    X(IQ3_S, iq3_s, 110, order4, false, first)                                                    \
    X(IQ1_S, iq1_s, 50, as_is, false, iq2)                                                        \
    X(IQ1_M, iq1_m, 56, as_is, false, iq1_m)

#define DEFINE_MATVEC(T, name, bytes, order, pairs, scales)                                       \
    static void matvec_##name##_vbmi(int64_t n, const void *rows, size_t row_stride, int n_rows,  \
                                     const void *act, float *out)                                 \
    {                                                                                             \
        matvec(n, rows, row_stride, n_rows, act, out, bytes, &order, pairs, pair_##name,          \
               scales_##scales);                                                                  \
    }
CODEBOOK_TYPES(DEFINE_MATVEC)

void use_matvec_vbmi(struct kernels *k)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    points_make();
    pthread_once(&once, make_orders);
#define SET_MATVEC(T, name, ...) k->matvec[TYPE_##T] = matvec_##name##_vbmi;
    CODEBOOK_TYPES(SET_MATVEC)
}
