/* Thirty-two neighbouring weights as signed bytes: what a lane of the integer GEMV holds.
 *
 *     weight i of the run = scale[i / 16] * q[i] - min[i / 16]
 *
 * Bytes come in natural order, whatever the type keeps together, so that one dot product serves all
 * types. A lane reads its bytes by aligned loads of 16 bytes that cover them (load_bytes): blocks of
 * 18, 34 or 210 bytes lie at even addresses only, and sixteen loads of two bytes would keep the L1
 * busier than the memory behind it. The layouts are drawn in src/format/quant_blocks.h.
 *
 * An encoded matrix begins at an address that its block size divides as far as 16 does: 16 for Q4_K's
 * 144 bytes, 2 for Q6_K's 210. Matrices begin at 16 or more, so all rows do. */
#ifndef TANDEM_GPU_RUN_CUH
#define TANDEM_GPU_RUN_CUH

#include "gpu/block.cuh"

template <int TYPE> struct run_traits {
    /* Decoded by integers at all? Plain floats are not. */
    static constexpr bool integer = TYPE != TYPE_F32 && TYPE != TYPE_F16 && TYPE != TYPE_BF16;
    /* Both halves of a run have scales of their own; there are minima. */
    static constexpr bool halves = TYPE == TYPE_Q2_K || TYPE == TYPE_Q3_K || TYPE == TYPE_Q6_K ||
                                   TYPE == TYPE_IQ2_XS || TYPE == TYPE_IQ2_S ||
                                   TYPE == TYPE_IQ1_M || TYPE == TYPE_NVFP4;
    static constexpr bool mins = TYPE == TYPE_Q4_1 || TYPE == TYPE_Q5_1 || TYPE == TYPE_Q2_K ||
                                 TYPE == TYPE_Q4_K || TYPE == TYPE_Q5_K;
    /* Words of the codebook that a block of threads keeps in shared memory. */
    static constexpr int table_words = TYPE == TYPE_IQ2_XXS ? 512
                                       : TYPE == TYPE_IQ2_XS ? 1024
                                       : TYPE == TYPE_IQ2_S ? 2048
                                       : TYPE == TYPE_IQ3_XXS ? 256
                                       : TYPE == TYPE_IQ3_S ? 512
                                       : TYPE == TYPE_IQ1_S || TYPE == TYPE_IQ1_M ? 2048 : 0;
    static constexpr int align = block_size<TYPE>::bytes % 16 == 0 ? 16
                                 : block_size<TYPE>::bytes % 8 == 0 ? 8
                                 : block_size<TYPE>::bytes % 4 == 0 ? 4
                                 : block_size<TYPE>::bytes % 2 == 0 ? 2 : 1;
};

struct run {
    uint32_t q[8];
    float scale[2], min[2];
};

/* ---- bytes ---- */

/* Words of a stream of bytes that begins BYTE (0 .. 3) bytes behind `from`. */
template <int BYTE> DEVICE uint32_t word_behind(const uint32_t *from)
{
    return BYTE == 0 ? from[0] : pick_bytes(from[0], from[1], 0x3210u + 0x1111u * BYTE);
}

DEVICE uint32_t load_u16(const uint8_t *p) { return load_once((const uint16_t *)p); }
DEVICE float load_f16(const uint8_t *p) { return f16_to_float((uint16_t)load_u16(p)); }
DEVICE float low_f16(uint32_t w) { return f16_to_float((uint16_t)w); }
DEVICE float high_f16(uint32_t w) { return f16_to_float((uint16_t)(w >> 16)); }
DEVICE uint32_t byte_of(uint32_t w, int i) { return w >> 8 * i & 255; }

/* ---- four bytes at a time ---- */

/* Bit i of the lower four becomes byte i: 0 or 1; and crumb i of a byte: 0 .. 3. */
DEVICE uint32_t spread_bits(uint32_t four) { return (four & 15) * 0x204081u & 0x01010101u; }
DEVICE uint32_t spread_crumbs(uint32_t b) { return (b | b << 6 | b << 12 | b << 18) & 0x03030303u; }

/* Bytes whose bit in `four` is set are negated. */
DEVICE uint32_t negate_bytes(uint32_t bytes, uint32_t four)
{
    uint32_t mask = spread_bits(four) * 255;
    return sub_bytes(bytes ^ mask, mask);
}

/* Seven signs and the eighth that makes their number even. */
DEVICE uint32_t parity_signs(uint32_t seven)
{
    return seven | (uint32_t)(count_bits(seven) & 1) << 7;
}

/* Eight nibbles through a table of sixteen bytes: low[i] of byte i's lower nibble, high[i] likewise.
 * A selector picks from eight bytes, so both halves of the table are asked and bit 3 decides. */
DEVICE uint32_t look_up_four(uint32_t nibbles, const uint32_t table[4])
{
    uint32_t three = nibbles & 0x7777u;
    return pick_bytes(pick_bytes(table[0], table[1], three), pick_bytes(table[2], table[3], three),
                      0x3210u + ((nibbles & 0x8888u) >> 1));
}
DEVICE void look_up(uint32_t *low, uint32_t *high, uint32_t w, const uint32_t table[4])
{
    uint32_t a = look_up_four(w & 0xffff, table), b = look_up_four(w >> 16, table);
    *low = pick_bytes(a, b, 0x6420);
    *high = pick_bytes(a, b, 0x7531);
}

/* Digit 0, 1 or 2 of four bytes that are fractions in base 3, after `power` = 3^n. */
DEVICE uint32_t trits(uint32_t w, uint32_t power)
{
    const uint32_t even = 0x00ff00ffu;
    uint32_t a = ((w & even) * power & even) * 3 >> 8 & even;
    uint32_t b = ((w >> 8 & even) * power & even) * 3 >> 8 & even;
    return a | b << 8;
}
DEVICE uint32_t power_of_3(int n) { return n == 0 ? 1 : n == 1 ? 3 : n == 2 ? 9 : n == 3 ? 27 : 81; }

/* q = (bits of w from `shift` on, masked) - offset, for n words. */
DEVICE void set_fields(uint32_t *q, const uint32_t *w, int n, int shift, uint32_t mask,
                       uint32_t offset)
{
    UNROLL
    for (int j = 0; j < n; j++)
        q[j] = sub_bytes(w[j] >> shift & mask, offset);
}

/* 16 bytes of nibbles, low ones first. */
DEVICE void set_nibbles(uint32_t *q, const uint32_t *w, uint32_t offset)
{
    set_fields(q, w, 4, 0, 0x0f0f0f0fu, offset);
    set_fields(q + 4, w, 4, 4, 0x0f0f0f0fu, offset);
}

DEVICE void set_scale(struct run *r, float scale, float min)
{
    r->scale[0] = r->scale[1] = scale;
    r->min[0] = r->min[1] = min;
}

/* Element i, with the bits of decode_eight. */
template <int TYPE> DEVICE float run_element(const struct run &r, int i)
{
    int half = run_traits<TYPE>::halves ? i / 16 : 0;
    float q = (float)(int8_t)byte_of(r.q[i / 4], i % 4);
    return run_traits<TYPE>::mins ? product_plus(r.scale[half], q, -r.min[half]) : r.scale[half] * q;
}

/* ---- codebooks in shared memory ---- */

/* Copy TYPE's codebook; all threads of the block call, block_sync before use. Points of IQ1 have
 * coordinates -1, 0, 1: stored as nibbles 0, 1, 2, coordinate i in byte i % 4, lower nibble first. */
template <int TYPE> DEVICE void load_table(uint32_t *to, const struct gpu_tables *tables)
{
    for (int i = (int)threadIdx.x; i < run_traits<TYPE>::table_words; i += (int)blockDim.x) {
        if constexpr (TYPE == TYPE_IQ2_XXS)
            to[i] = ((const uint32_t *)tables->iq2xxs)[i];
        else if constexpr (TYPE == TYPE_IQ2_XS)
            to[i] = ((const uint32_t *)tables->iq2xs)[i];
        else if constexpr (TYPE == TYPE_IQ2_S)
            to[i] = ((const uint32_t *)tables->iq2s)[i];
        else if constexpr (TYPE == TYPE_IQ3_XXS)
            to[i] = ((const uint32_t *)tables->iq3xxs)[i];
        else if constexpr (TYPE == TYPE_IQ3_S)
            to[i] = ((const uint32_t *)tables->iq3s)[i];
        else {
            const uint32_t *p = (const uint32_t *)tables->iq1[i];
            to[i] = sub_bytes(p[0], 0xffffffffu) | sub_bytes(p[1], 0xffffffffu) << 4;
        }
    }
}

/* Eight coordinates with signs; and two points of four. */
DEVICE void set_point8(uint32_t *q, const uint32_t *point, uint32_t signs)
{
    q[0] = negate_bytes(point[0], signs);
    q[1] = negate_bytes(point[1], signs >> 4);
}
DEVICE void set_points4(uint32_t *q, const uint32_t *table, uint32_t a, uint32_t b, uint32_t signs)
{
    q[0] = negate_bytes(table[a], signs);
    q[1] = negate_bytes(table[b], signs >> 4);
}
/* 8 * coordinate -+ 1: eighths, so that the shift of a ternary point is a whole number. */
DEVICE void set_ternary(uint32_t *q, uint32_t packed, bool minus)
{
    uint32_t offset = minus ? 0x09090909u : 0x07070707u;
    q[0] = sub_bytes((packed & 0x0f0f0f0fu) << 3, offset);
    q[1] = sub_bytes((packed >> 4 & 0x0f0f0f0fu) << 3, offset);
}

/* ---- one run of each type: the g-th of the block at b ---- */

template <int TYPE>
DEVICE void unpack_small(struct run *r, const uint8_t *b)
{
    const uint32_t iq4[4] = { 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u };
    const uint32_t fp4[4] = { 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu };
    constexpr int bytes = block_size<TYPE>::bytes, align = run_traits<TYPE>::align;
    uint32_t w[(bytes + 3) / 4 + 1];
    w[(bytes + 3) / 4] = 0;
    load_bytes<bytes, align>(w, b);
    uint32_t qs[8];
    constexpr int head = bytes % 16; /* bytes before the quants: 1, 2, 4, 6 or 8 */
    UNROLL
    for (int j = 0; j < bytes / 16 * 4; j++)
        qs[j] = word_behind<head % 4>(w + head / 4 + j);
    if constexpr (TYPE == TYPE_Q8_0) {
        for (int j = 0; j < 8; j++)
            r->q[j] = qs[j];
        set_scale(r, low_f16(w[0]), 0);
    } else if constexpr (TYPE == TYPE_Q4_0) {
        set_nibbles(r->q, qs, 0x08080808u);
        set_scale(r, low_f16(w[0]), 0);
    } else if constexpr (TYPE == TYPE_Q4_1) {
        set_nibbles(r->q, qs, 0);
        set_scale(r, low_f16(w[0]), -high_f16(w[0]));
    } else if constexpr (TYPE == TYPE_Q5_0 || TYPE == TYPE_Q5_1) {
        constexpr bool has_min = TYPE == TYPE_Q5_1;
        uint32_t high = has_min ? w[1] : word_behind<2>(w);
        set_nibbles(r->q, qs, 0);
        UNROLL
        for (int j = 0; j < 8; j++)
            r->q[j] = sub_bytes(r->q[j] | spread_bits(high >> 4 * j) << 4, has_min ? 0 : 0x10101010u);
        set_scale(r, low_f16(w[0]), has_min ? -high_f16(w[0]) : 0);
    } else {
        UNROLL
        for (int j = 0; j < 4; j++)
            look_up(&r->q[j], &r->q[j + 4], qs[j], TYPE == TYPE_IQ4_NL ? iq4 : fp4);
        set_scale(r, TYPE == TYPE_IQ4_NL ? low_f16(w[0]) : mxfp4_scale(w[0] & 255), 0);
    }
}

template <int TYPE> DEVICE void unpack_odd(struct run *r, const uint8_t *b, int g)
{
    const uint32_t fp4[4] = { 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu };
    uint32_t w[4];
    if constexpr (TYPE == TYPE_NVFP4) { /* two runs of 16, a scale each */
        load_bytes<16, 4>(w, b + 4 + 16 * g);
        for (int half = 0; half < 2; half++) {
            uint32_t *q = r->q + 4 * half;
            look_up(&q[0], &q[2], w[2 * half], fp4);
            look_up(&q[1], &q[3], w[2 * half + 1], fp4);
            r->scale[half] = nvfp4_scale(b[2 * g + half]);
            r->min[half] = 0;
        }
    } else if constexpr (TYPE == TYPE_Q1_0) {
        load_bytes<4, 2>(w, b + 2 + 4 * g);
        for (int j = 0; j < 8; j++)
            r->q[j] = sub_bytes(spread_bits(w[0] >> 4 * j) << 1, 0x01010101u);
        set_scale(r, load_f16(b), 0);
    } else if constexpr (TYPE == TYPE_Q2_0) {
        load_bytes<8, 2>(w, b + 2 + 8 * g);
        for (int j = 0; j < 8; j++)
            r->q[j] = sub_bytes(spread_crumbs(byte_of(w[j / 4], j % 4)), 0x01010101u);
        set_scale(r, load_f16(b), 0);
    } else if constexpr (TYPE == TYPE_TQ2_0) {
        uint32_t qs[8];
        load_bytes<32, 2>(qs, b + 32 * (g / 4));
        set_fields(r->q, qs, 8, 2 * (g % 4), 0x03030303u, 0x01010101u);
        set_scale(r, load_f16(b + 64), 0);
    } else { /* TQ1_0: digits 0 .. 4 of 32 bytes, then of 16, then 0 .. 3 of 4 */
        uint32_t qs[8], tail[1];
        load_bytes<32, 2>(qs, b + (g < 5 ? 0 : 16)); /* the 16 are the upper half of it */
        load_bytes<4, 2>(tail, b + 48);
        for (int j = 0; j < 8; j++) {
            int digit = g < 5 ? g : 2 * (g - 5) + j / 4;
            uint32_t four = g < 5 ? qs[j] : qs[4 + j % 4];
            if (digit == 5) { /* the last 16 elements */
                four = tail[0];
                digit = j - 4;
            }
            r->q[j] = sub_bytes(trits(four, power_of_3(digit)), 0x01010101u);
        }
        set_scale(r, load_f16(b + 52), 0);
    }
}

template <int TYPE> DEVICE void unpack_k(struct run *r, const uint8_t *b, int g)
{
    uint32_t qs[8], high[8], head[5];
    if constexpr (TYPE == TYPE_Q2_K) {
        load_bytes<32, 4>(qs, b + 16 + 32 * (g / 4));
        load_bytes<4, 4>(head, b + 80);
        uint32_t two = load_u16(b + 2 * g);
        set_fields(r->q, qs, 8, 2 * (g % 4), 0x03030303u, 0);
        for (int half = 0; half < 2; half++) {
            r->scale[half] = low_f16(head[0]) * (float)(byte_of(two, half) & 15);
            r->min[half] = high_f16(head[0]) * (float)(byte_of(two, half) >> 4);
        }
    } else if constexpr (TYPE == TYPE_Q3_K) {
        load_bytes<32, 2>(high, b);
        load_bytes<32, 2>(qs, b + 32 + 32 * (g / 4));
        load_bytes<14, 2>(head, b + 96);
        UNROLL
        for (int j = 0; j < 8; j++)
            r->q[j] = sub_bytes((qs[j] >> 2 * (g % 4) & 0x03030303u) |
                                    (high[j] >> g & 0x01010101u) << 2, 0x04040404u);
        for (int half = 0; half < 2; half++) {
            int i = 2 * g + half; /* of 16 scales: 4 bits in the first 8 bytes, 2 in the others */
            uint32_t low = byte_of(i & 4 ? head[1] : head[0], i & 3) >> (i & 8) / 2 & 15;
            uint32_t top = byte_of(head[2], i & 3) >> 2 * (i / 4) & 3;
            r->scale[half] = low_f16(head[3]) * (float)((int)(low | top << 4) - 32);
            r->min[half] = 0;
        }
    } else if constexpr (TYPE == TYPE_Q4_K || TYPE == TYPE_Q5_K) {
        constexpr bool five = TYPE == TYPE_Q5_K;
        load_bytes<16, 16>(head, b);
        load_bytes<32, 16>(qs, b + (five ? 48 : 16) + 32 * (g / 2));
        set_fields(r->q, qs, 8, 4 * (g & 1), 0x0f0f0f0fu, 0);
        if constexpr (five) {
            load_bytes<32, 16>(high, b + 16);
            UNROLL
            for (int j = 0; j < 8; j++)
                r->q[j] |= (high[j] >> g & 0x01010101u) << 4;
        }
        uint32_t x = byte_of(head[1], g & 3), y = byte_of(head[2], g & 3), z = byte_of(head[3], g & 3);
        uint32_t scale = g < 4 ? x & 63 : (z & 15) | (x >> 6) << 4;
        uint32_t min = g < 4 ? y & 63 : z >> 4 | (y >> 6) << 4;
        set_scale(r, low_f16(head[0]) * (float)scale, high_f16(head[0]) * (float)min);
    } else if constexpr (TYPE == TYPE_Q6_K) {
        int half = g / 4, run = g % 4;
        load_bytes<32, 2>(qs, b + 64 * half + 32 * (run % 2));
        load_bytes<32, 2>(high, b + 128 + 32 * half);
        UNROLL
        for (int j = 0; j < 8; j++)
            r->q[j] = sub_bytes((qs[j] >> 4 * (run / 2) & 0x0f0f0f0fu) |
                                    (high[j] >> 2 * run & 0x03030303u) << 4, 0x20202020u);
        uint32_t two = load_u16(b + 192 + 2 * g);
        float d = load_f16(b + 208);
        for (int i = 0; i < 2; i++) {
            r->scale[i] = d * (float)(int8_t)byte_of(two, i);
            r->min[i] = 0;
        }
    } else { /* IQ4_XS */
        const uint32_t iq4[4] = { 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u };
        load_bytes<8, 8>(head, b);
        load_bytes<16, 8>(qs, b + 8 + 16 * g);
        UNROLL
        for (int j = 0; j < 4; j++)
            look_up(&r->q[j], &r->q[j + 4], qs[j], iq4);
        uint32_t scale = (byte_of(head[1], g / 2) >> 4 * (g & 1) & 15) |
                         (head[0] >> (16 + 2 * g) & 3) << 4;
        set_scale(r, low_f16(head[0]) * (float)((int)scale - 32), 0);
    }
}

template <int TYPE>
DEVICE void unpack_points(struct run *r, const uint8_t *b, int g, const uint32_t *table)
{
    uint32_t w[2], signs[1];
    float d = TYPE == TYPE_IQ1_M ? 0 : load_f16(b);
    if constexpr (TYPE == TYPE_IQ2_XXS) {
        load_bytes<8, 2>(w, b + 2 + 8 * g);
        UNROLL
        for (int k = 0; k < 4; k++)
            set_point8(r->q + 2 * k, table + 2 * byte_of(w[0], k),
                       parity_signs(w[1] >> 7 * k & 127));
        set_scale(r, d * (0.5f + (float)(w[1] >> 28)) * 0.25f, 0);
    } else if constexpr (TYPE == TYPE_IQ2_XS || TYPE == TYPE_IQ2_S) {
        int scales;
        if constexpr (TYPE == TYPE_IQ2_XS) {
            load_bytes<8, 2>(w, b + 2 + 8 * g);
            scales = b[66 + g];
            UNROLL
            for (int k = 0; k < 4; k++) {
                uint32_t u = w[k / 2] >> 16 * (k % 2) & 0xffff;
                set_point8(r->q + 2 * k, table + 2 * (u & 511), parity_signs(u >> 9));
            }
        } else {
            load_bytes<4, 2>(w, b + 2 + 4 * g);
            load_bytes<4, 2>(signs, b + 34 + 4 * g);
            uint32_t top = b[66 + g];
            scales = b[74 + g];
            UNROLL
            for (int k = 0; k < 4; k++)
                set_point8(r->q + 2 * k, table + 2 * (byte_of(w[0], k) | (top >> 2 * k & 3) << 8),
                           byte_of(signs[0], k));
        }
        for (int half = 0; half < 2; half++) {
            r->scale[half] = d * (0.5f + (float)(scales >> 4 * half & 15)) * 0.25f;
            r->min[half] = 0;
        }
    } else if constexpr (TYPE == TYPE_IQ3_XXS) {
        load_bytes<8, 2>(w, b + 2 + 8 * g);
        load_bytes<4, 2>(signs, b + 66 + 4 * g);
        UNROLL
        for (int k = 0; k < 4; k++)
            set_points4(r->q + 2 * k, table, byte_of(w[k / 2], 2 * k % 4),
                        byte_of(w[k / 2], 2 * k % 4 + 1), parity_signs(signs[0] >> 7 * k & 127));
        set_scale(r, d * (0.5f + (float)(signs[0] >> 28)) * 0.5f, 0);
    } else if constexpr (TYPE == TYPE_IQ3_S) {
        load_bytes<8, 2>(w, b + 2 + 8 * g);
        load_bytes<4, 2>(signs, b + 74 + 4 * g);
        uint32_t top = b[66 + g];
        UNROLL
        for (int k = 0; k < 4; k++)
            set_points4(r->q + 2 * k, table,
                        byte_of(w[k / 2], 2 * k % 4) | (top >> 2 * k & 1) << 8,
                        byte_of(w[k / 2], 2 * k % 4 + 1) | (top >> (2 * k + 1) & 1) << 8,
                        byte_of(signs[0], k));
        set_scale(r, d * (float)(1 + 2 * (b[106 + g / 2] >> 4 * (g % 2) & 15)), 0);
    } else if constexpr (TYPE == TYPE_IQ1_S) {
        load_bytes<4, 2>(w, b + 2 + 4 * g);
        uint32_t h = load_u16(b + 34 + 2 * g);
        UNROLL
        for (int k = 0; k < 4; k++)
            set_ternary(r->q + 2 * k, table[byte_of(w[0], k) | (h >> 3 * k & 7) << 8], h >> 15);
        set_scale(r, d * (float)(2 * (h >> 12 & 7) + 1) * 0.125f, 0);
    } else { /* IQ1_M */
        uint32_t scales[2], h = load_u16(b + 32 + 2 * g);
        load_bytes<4, 4>(w, b + 4 * g);
        load_bytes<8, 8>(scales, b + 48);
        uint32_t bits = (scales[0] >> 12 & 0xf) | (scales[0] >> 24 & 0xf0) |
                        (scales[1] >> 4 & 0xf00) | (scales[1] >> 16 & 0xf000);
        UNROLL
        for (int k = 0; k < 4; k++) {
            uint32_t n = h >> 4 * k & 15;
            set_ternary(r->q + 2 * k, table[byte_of(w[0], k) | (n & 7) << 8], n & 8);
        }
        uint32_t three = (g < 4 ? scales[0] : scales[1]) >> (16 * (g / 2 % 2) + 6 * (g % 2));
        for (int half = 0; half < 2; half++) {
            r->scale[half] = low_f16(bits) * (float)(2 * (three >> 3 * half & 7) + 1) * 0.125f;
            r->min[half] = 0;
        }
    }
}

/* Run number i of a row. `table`: what load_table left, for types with a codebook. */
template <int TYPE>
DEVICE void unpack_run(struct run *r, const uint8_t *row, int64_t i, const uint32_t *table)
{
    constexpr int runs = block_size<TYPE>::elements / 32;
    const uint8_t *b = row + i / runs * block_size<TYPE>::bytes;
    if constexpr (runs == 1)
        unpack_small<TYPE>(r, b);
    else if constexpr (TYPE == TYPE_NVFP4 || TYPE == TYPE_Q1_0 || TYPE == TYPE_Q2_0 ||
                       TYPE == TYPE_TQ1_0 || TYPE == TYPE_TQ2_0)
        unpack_odd<TYPE>(r, b, (int)(i % runs));
    else if constexpr (run_traits<TYPE>::table_words > 0)
        unpack_points<TYPE>(r, b, (int)(i % runs), table);
    else
        unpack_k<TYPE>(r, b, (int)(i % runs));
}

#endif
