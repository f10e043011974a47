/* Decoding on the device: eight neighbours of a row, for every block type.
 *
 * A row is cut into eights, one per thread. The eight never leave a block or a run with one scale, so
 * a thread reads its few bytes of quants, its scale and the block's factor, which its neighbours read
 * too (L1). The layouts are drawn in src/format/quant_blocks.h; the products are those of
 * src/format/quant_dequant.c in the same order, so the bits are the same. */
#ifndef TANDEM_GPU_BLOCK_CUH
#define TANDEM_GPU_BLOCK_CUH

#include "gpu/common.cuh"

/* X(type, elements per block, bytes per block) */
#define GPU_BLOCK_TYPES(X)                                                                        \
    X(F32, 1, 4) X(F16, 1, 2) X(BF16, 1, 2) X(Q4_0, 32, 18) X(Q4_1, 32, 20) X(Q5_0, 32, 22)       \
    X(Q5_1, 32, 24) X(Q8_0, 32, 34) X(Q2_K, 256, 84) X(Q3_K, 256, 110) X(Q4_K, 256, 144)          \
    X(Q5_K, 256, 176) X(Q6_K, 256, 210) X(IQ1_S, 256, 50) X(IQ1_M, 256, 56) X(IQ2_XXS, 256, 66)   \
    X(IQ2_XS, 256, 74) X(IQ2_S, 256, 82) X(IQ3_XXS, 256, 98) X(IQ3_S, 256, 110) X(IQ4_NL, 32, 18) \
    X(IQ4_XS, 256, 136) X(TQ1_0, 256, 54) X(TQ2_0, 256, 66) X(MXFP4, 32, 17) X(NVFP4, 64, 36)     \
    X(Q1_0, 128, 18) X(Q2_0, 64, 18)

/* GPU_BY_TYPE(type, CASE): CASE(TYPE_Q4_K) for the type at hand; types were checked at load. */
#define GPU_BY_TYPE_ROW(T, elements, bytes)                                                       \
    case TYPE_##T: GPU_BY_TYPE_CASE(TYPE_##T); break;
#define GPU_BY_TYPE(type)                                                                         \
    switch (type) {                                                                               \
        GPU_BLOCK_TYPES(GPU_BY_TYPE_ROW)                                                          \
    default: assert(!"a block type the GPU decodes");                                             \
    }

template <int TYPE> struct block_size;
#define GPU_BLOCK_SIZE(T, n_elements, n_bytes)                                                    \
    template <> struct block_size<TYPE_##T> {                                                     \
        enum { elements = n_elements, bytes = n_bytes };                                          \
    };
GPU_BLOCK_TYPES(GPU_BLOCK_SIZE)

/* ---- bytes ---- */

/* The N bytes at p, ALIGN of whose address is known, as words; bytes behind them in the last word are
 * garbage. Reads whole aligned words or sixteens, but only those that hold one of the bytes. */
template <int N, int ALIGN> DEVICE void load_bytes(uint32_t *to, const uint8_t *p)
{
    constexpr int unit = N > 12 ? 16 : 4, n_words = (N + 3) / 4;
    constexpr int units = (N + unit - 1 + (ALIGN < unit ? unit - ALIGN : 0)) / unit;
    uint32_t raw[units * unit / 4 + 1];
    int offset = ALIGN < unit ? (int)((uintptr_t)p & (unit - 1)) : 0;
    const uint8_t *base = p - offset;
    UNROLL
    for (int i = 0; i < units; i++) {
        if (unit == 4) {
            raw[i] = i * unit < offset + N ? load_once((const uint32_t *)base + i) : 0;
        } else {
            uint4 four = { 0, 0, 0, 0 };
            if (i * unit < offset + N)
                four = load_once((const uint4 *)base + i);
            raw[4 * i] = four.x;
            raw[4 * i + 1] = four.y;
            raw[4 * i + 2] = four.z;
            raw[4 * i + 3] = four.w;
        }
    }
    raw[units * unit / 4] = 0;
    constexpr int last = units * unit / 4;
    if (unit == 16 && ALIGN < 16) { /* shift by words: indices must be known to the compiler */
        UNROLL
        for (int i = 0; i < last; i++)
            raw[i] = offset & 8 ? raw[i + 2 < last ? i + 2 : last] : raw[i];
        if (ALIGN < 8) {
            UNROLL
            for (int i = 0; i < last; i++)
                raw[i] = offset & 4 ? raw[i + 1] : raw[i];
        }
    }
    uint32_t selector = 0x3210u + 0x1111u * (uint32_t)(offset & 3);
    UNROLL
    for (int i = 0; i < n_words; i++)
        to[i] = ALIGN < 4 ? pick_bytes(raw[i], raw[i + 1], selector) : raw[i];
}

DEVICE uint32_t get_u16(const uint8_t *p) { return (uint32_t)(p[0] | p[1] << 8); }
DEVICE uint32_t get_u32(const uint8_t *p) { return get_u16(p) | get_u16(p + 2) << 16; }
DEVICE float get_f16(const uint8_t *p) { return f16_to_float((uint16_t)get_u16(p)); }

/* Element i of 32 nibbles, and of 256 crumbs. */
DEVICE int nibble(const uint8_t *qs, int i) { return (qs[i & 15] >> (i & 16) / 4) & 15; }
DEVICE int crumb(const uint8_t *qs, int i)
{
    return (qs[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4)) & 3;
}

/* IQ4_NL's and MXFP4's values: sixteen signed bytes, picked from registers. */
DEVICE float iq4_value(int q)
{
    uint32_t four = q < 8 ? (q < 4 ? 0xbfad9881u : 0xf6eaddcfu) : (q < 12 ? 0x26190d01u : 0x71594535u);
    return (float)(int8_t)(four >> 8 * (q & 3));
}
DEVICE float fp4_value(int q)
{
    uint32_t four = (q & 4) ? 0x0c080604u : 0x03020100u;
    int x = (int)(four >> 8 * (q & 3) & 0xff);
    return (float)(q & 8 ? -x : x);
}

/* ---- scales ---- */

/* Scale and minimum of run j of Q4_K and Q5_K: six bits each. */
DEVICE void scale_min_k4(const uint8_t *s, int j, float *scale, float *min)
{
    int a = s[j & 3], b = s[(j & 3) + 4], c = s[(j & 3) + 8];
    *scale = (float)(j < 4 ? a & 63 : (c & 15) | (a >> 6) << 4);
    *min = (float)(j < 4 ? b & 63 : c >> 4 | (b >> 6) << 4);
}

/* 2^(e-128): half a power of two because fp4_value is doubled. */
DEVICE float mxfp4_scale(uint32_t e)
{
    return bits_to_float(e == 255 ? 0x7fc00000u : e >= 2 ? (e - 1) << 23 : 0x200000u << e);
}

/* E4M3 without sign, halved; 0x7f counts as zero. */
DEVICE float nvfp4_scale(uint32_t b)
{
    uint32_t exponent = b >> 3 & 15, mantissa = b & 7;
    if (b == 0x7f)
        return 0;
    if (exponent == 0)
        return (float)mantissa * 0x1p-10f;
    return bits_to_float((exponent - 8 + 127) << 23 | mantissa << 20);
}

DEVICE void point(float *out, float d, const uint8_t *coordinates, int n, uint32_t signs)
{
    for (int i = 0; i < n; i++)
        out[i] = d * (float)coordinates[i] * ((signs >> i) & 1 ? -1.0f : 1.0f);
}

DEVICE void ternary_point(float *out, float d, const int8_t *coordinates, float delta)
{
    for (int i = 0; i < 8; i++)
        out[i] = d * ((float)coordinates[i] + delta);
}

/* Digit n of a byte that is a fraction in base 3: -1, 0 or 1. */
DEVICE float trit(uint8_t byte, int n)
{
    uint32_t power = n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81;
    uint32_t top = byte * power & 0xff;
    return (float)((int)(top * 3 >> 8) - 1);
}

/* ---- one block: elements at .. at + 7, `at` a multiple of 8 ---- */

template <int TYPE>
DEVICE void decode_in_block(const uint8_t *b, int at, float *out, const struct gpu_tables *tables)
{
    (void)tables;
    if constexpr (TYPE == TYPE_Q4_0) {
        float d = get_f16(b);
        for (int j = 0; j < 8; j++)
            out[j] = d * (float)(nibble(b + 2, at + j) - 8);
    } else if constexpr (TYPE == TYPE_Q4_1) {
        float d = get_f16(b), m = get_f16(b + 2);
        for (int j = 0; j < 8; j++)
            out[j] = product_plus(d, (float)nibble(b + 4, at + j), m);
    } else if constexpr (TYPE == TYPE_Q5_0 || TYPE == TYPE_Q5_1) {
        constexpr bool has_min = TYPE == TYPE_Q5_1;
        float d = get_f16(b), m = has_min ? get_f16(b + 2) : 0;
        const uint8_t *qh = b + (has_min ? 4 : 2);
        for (int j = 0; j < 8; j++) {
            int q = nibble(qh + 4, at + j) | (qh[at / 8] >> j & 1) << 4;
            out[j] = has_min ? product_plus(d, (float)q, m) : d * (float)(q - 16);
        }
    } else if constexpr (TYPE == TYPE_Q8_0) {
        float d = get_f16(b);
        for (int j = 0; j < 8; j++)
            out[j] = d * (float)(int8_t)b[2 + at + j];
    } else if constexpr (TYPE == TYPE_IQ4_NL) {
        float d = get_f16(b);
        for (int j = 0; j < 8; j++)
            out[j] = d * iq4_value(nibble(b + 2, at + j));
    } else if constexpr (TYPE == TYPE_MXFP4) {
        float d = mxfp4_scale(b[0]);
        for (int j = 0; j < 8; j++)
            out[j] = d * fp4_value(nibble(b + 1, at + j));
    } else if constexpr (TYPE == TYPE_NVFP4) {
        float d = nvfp4_scale(b[at / 16]);
        for (int j = 0; j < 8; j++)
            out[j] = d * fp4_value(b[4 + at / 16 * 8 + j] >> (at & 8) / 2 & 15);
    } else if constexpr (TYPE == TYPE_Q1_0) {
        float d = get_f16(b);
        for (int j = 0; j < 8; j++)
            out[j] = b[2 + at / 8] >> j & 1 ? d : -d;
    } else if constexpr (TYPE == TYPE_Q2_0) {
        float d = get_f16(b);
        for (int j = 0; j < 8; j++)
            out[j] = d * (float)((b[2 + (at + j) / 4] >> 2 * (j & 3) & 3) - 1);
    } else if constexpr (TYPE == TYPE_Q2_K) {
        int s = b[at / 16];
        float scale = get_f16(b + 80) * (float)(s & 15), min = get_f16(b + 82) * (float)(s >> 4);
        for (int j = 0; j < 8; j++)
            out[j] = product_plus(scale, (float)crumb(b + 16, at + j), -min);
    } else if constexpr (TYPE == TYPE_Q3_K) {
        const uint8_t *packed = b + 96;
        int run = at / 16, low = run < 8 ? packed[run] & 15 : packed[run - 8] >> 4;
        int s = low | (packed[8 + run % 4] >> 2 * (run / 4) & 3) << 4;
        float scale = get_f16(b + 108) * (float)(s - 32);
        for (int j = 0; j < 8; j++) {
            int high = b[at % 32 + j] >> at / 32 & 1;
            out[j] = scale * (float)(crumb(b + 32, at + j) - (high ? 0 : 4));
        }
    } else if constexpr (TYPE == TYPE_Q4_K || TYPE == TYPE_Q5_K) {
        constexpr bool five = TYPE == TYPE_Q5_K;
        int run = at / 32;
        float s, m;
        scale_min_k4(b + 4, run, &s, &m);
        float scale = get_f16(b) * s, min = get_f16(b + 2) * m;
        const uint8_t *qs = b + (five ? 48 : 16) + 32 * (run / 2) + at % 32;
        for (int j = 0; j < 8; j++) {
            int q = qs[j] >> 4 * (run & 1) & 15;
            if (five)
                q |= (b[16 + at % 32 + j] >> run & 1) << 4;
            out[j] = product_plus(scale, (float)q, -min);
        }
    } else if constexpr (TYPE == TYPE_Q6_K) {
        int half = at / 128, run = at / 32 % 4, in_run = at % 32;
        float scale = get_f16(b + 208) * (float)(int8_t)b[192 + at / 16];
        for (int j = 0; j < 8; j++) {
            int low = b[64 * half + 32 * (run % 2) + in_run + j] >> 4 * (run / 2) & 15;
            int high = b[128 + 32 * half + in_run + j] >> 2 * run & 3;
            out[j] = scale * (float)((low | high << 4) - 32);
        }
    } else if constexpr (TYPE == TYPE_IQ2_XXS) {
        const uint8_t *group = b + 2 + 8 * (at / 32);
        uint32_t w = get_u32(group + 4);
        int k = at / 8 % 4;
        point(out, get_f16(b) * (0.5f + (float)(w >> 28)) * 0.25f, tables->iq2xxs[group[k]], 8,
              tables->signs[w >> 7 * k & 127]);
    } else if constexpr (TYPE == TYPE_IQ2_XS) {
        int k = at / 8, n = b[66 + k / 4] >> 4 * (k / 2 % 2) & 15;
        uint32_t u = get_u16(b + 2 + 2 * k);
        point(out, get_f16(b) * (0.5f + (float)n) * 0.25f, tables->iq2xs[u & 511], 8,
              tables->signs[u >> 9]);
    } else if constexpr (TYPE == TYPE_IQ2_S) {
        int k = at / 8, n = b[74 + k / 4] >> 4 * (k / 2 % 2) & 15;
        int index = b[2 + k] | (b[66 + k / 4] >> 2 * (k % 4) & 3) << 8;
        point(out, get_f16(b) * (0.5f + (float)n) * 0.25f, tables->iq2s[index], 8, b[34 + k]);
    } else if constexpr (TYPE == TYPE_IQ3_XXS) {
        int k = at / 4;
        uint32_t w = get_u32(b + 66 + 4 * (k / 8)), signs = tables->signs[w >> 7 * (k / 2 % 4) & 127];
        float d = get_f16(b) * (0.5f + (float)(w >> 28)) * 0.5f;
        point(out, d, tables->iq3xxs[b[2 + k]], 4, signs);
        point(out + 4, d, tables->iq3xxs[b[3 + k]], 4, signs >> 4);
    } else if constexpr (TYPE == TYPE_IQ3_S) {
        int k = at / 4, n = b[106 + k / 16] >> 4 * (k / 8 % 2) & 15, signs = b[74 + k / 2];
        float d = get_f16(b) * (float)(1 + 2 * n);
        for (int half = 0; half < 2; half++, k++)
            point(out + 4 * half, d, tables->iq3s[b[2 + k] | (b[66 + k / 8] >> k % 8 & 1) << 8], 4,
                  (uint32_t)signs >> 4 * half);
    } else if constexpr (TYPE == TYPE_IQ1_S) {
        int k = at / 8;
        uint32_t h = get_u16(b + 34 + 2 * (k / 4));
        ternary_point(out, get_f16(b) * (float)(2 * (h >> 12 & 7) + 1),
                      tables->iq1[b[2 + k] | (h >> 3 * (k % 4) & 7) << 8],
                      h & 0x8000 ? -0.125f : 0.125f);
    } else if constexpr (TYPE == TYPE_IQ1_M) {
        const uint8_t *scales = b + 48;
        uint32_t bits = 0;
        for (int i = 0; i < 4; i++)
            bits |= (get_u16(scales + 2 * i) >> 12) << 4 * i;
        int k = at / 8, run = k / 2;
        uint32_t n = b[32 + k / 2] >> 4 * (k % 2) & 15;
        uint32_t s = get_u16(scales + 2 * (run / 4)) >> 3 * (run % 4) & 7;
        ternary_point(out, f16_to_float((uint16_t)bits) * (float)(2 * s + 1),
                      tables->iq1[b[k] | (n & 7) << 8], n & 8 ? -0.125f : 0.125f);
    } else if constexpr (TYPE == TYPE_IQ4_XS) {
        int g = at / 32, low = b[4 + g / 2] >> 4 * (g % 2) & 15;
        int s = low | (int)(get_u16(b + 2) >> 2 * g & 3) << 4;
        float scale = get_f16(b) * (float)(s - 32);
        for (int j = 0; j < 8; j++)
            out[j] = scale * iq4_value(nibble(b + 8 + 16 * g, at % 32 + j));
    } else if constexpr (TYPE == TYPE_TQ1_0) {
        float d = get_f16(b + 52);
        for (int j = 0; j < 8; j++) {
            int i = at + j;
            uint8_t byte = i < 160 ? b[i % 32] : i < 240 ? b[32 + i % 16] : b[48 + i % 4];
            int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
            out[j] = d * trit(byte, digit);
        }
    } else if constexpr (TYPE == TYPE_TQ2_0) {
        float d = get_f16(b + 64);
        for (int j = 0; j < 8; j++)
            out[j] = d * (float)(crumb(b, at + j) - 1);
    }
}

/* Elements i .. i + 7 of a row, i a multiple of 8; only the first n (1 .. 8) exist, the others are
 * given as 0. Rows of block types are whole blocks: n is 8. */
template <int TYPE>
DEVICE void decode_eight(const uint8_t *row, int64_t i, int n, float *out,
                         const struct gpu_tables *tables)
{
    if constexpr (TYPE == TYPE_F32 || TYPE == TYPE_F16 || TYPE == TYPE_BF16) {
        constexpr int size = block_size<TYPE>::bytes;
        uint32_t w[2 * size] = {};
        if (n == 8) {
            load_bytes<8 * size, size>(w, row + i * size);
        } else {
            UNROLL /* indices that the compiler knows keep w in registers */
            for (int j = 0; j < 8; j++) {
                if (j >= n)
                    continue;
                if constexpr (size == 4)
                    w[j] = ((const uint32_t *)row)[i + j];
                else
                    w[j / 2] |= (uint32_t)((const uint16_t *)row)[i + j] << 16 * (j % 2);
            }
        }
        UNROLL
        for (int j = 0; j < 8; j++) {
            uint16_t half = (uint16_t)(w[size == 4 ? 0 : j / 2] >> 16 * (j % 2));
            out[j] = size == 4 ? bits_to_float(w[size == 4 ? j : 0])
                     : TYPE == TYPE_F16 ? f16_to_float(half) : bf16_to_float(half);
        }
    } else {
        decode_in_block<TYPE>(row + i / block_size<TYPE>::elements * block_size<TYPE>::bytes,
                              (int)(i % block_size<TYPE>::elements), out, tables);
    }
}

#endif
