/* The blocks of every quantized type, byte by byte.
 *
 * All fields are bytes, so a block has no alignment and no padding and may lie anywhere in a file;
 * 16- and 32-bit fields are little-endian and read with block_f16, block_u16, block_u32.
 * Element i of a block counts from 0. q(i) below is the stored integer of element i.
 *
 * Source: ggml-org/llama.cpp ggml/src/ggml-common.h. */
#ifndef TANDEM_FORMAT_QUANT_BLOCKS_H
#define TANDEM_FORMAT_QUANT_BLOCKS_H

#include <stdint.h>
#include <string.h>

#include "src/format/quant.h"

/* ---- 32 elements ----
 * Sixteen bytes hold two nibbles each: elements 0..15 are the low ones, 16..31 the high ones. */

/*  d | qs .. 16         d * (q - 8)                                  */
struct block_q4_0 { uint8_t d[2], qs[16]; };
/*  d | m | qs .. 16     d * q + m                                    */
struct block_q4_1 { uint8_t d[2], m[2], qs[16]; };
/*  d | qh .. 4 | qs     d * (q - 16), bit i of qh is bit 4 of q(i)   */
struct block_q5_0 { uint8_t d[2], qh[4], qs[16]; };
/*  d | m | qh | qs      d * q + m                                    */
struct block_q5_1 { uint8_t d[2], m[2], qh[4], qs[16]; };
/*  d | qs .. 32 signed  d * q                                        */
struct block_q8_0 { uint8_t d[2]; int8_t qs[32]; };
/*  d | s | qs .. 32     d * q; s = d * sum of q                      */
struct block_q8_1 { uint8_t d[2], s[2]; int8_t qs[32]; };
/*  d | qs .. 16         d * quant_iq4_values[q]                      */
struct block_iq4_nl { uint8_t d[2], qs[16]; };
/*  e | qs .. 16         2^(e-128) * quant_fp4_values[q]; e = 255 is NaN */
struct block_mxfp4 { uint8_t e, qs[16]; };

/* ---- 64 and 128 elements ---- */

/*  d .. 4 | qs .. 32    four runs of 16, each with an unsigned E4M3 scale and 8 bytes of nibbles
 *                       (low: elements 0..7 of the run, high: 8..15); d/2 * quant_fp4_values[q] */
struct block_nvfp4 { uint8_t d[4], qs[32]; };
/*  d | bits .. 16       bit set: d, clear: -d                        */
struct block_q1_0 { uint8_t d[2], qs[16]; };
/*  d | qs .. 16         d * (q - 1), four per byte, lowest first     */
struct block_q2_0 { uint8_t d[2], qs[16]; };

/* ---- K-quants: 256 elements, two levels of scales ----
 * "crumbs" below: two bits per element; byte 32*(i/128) + i%32, bits 2*(i/32 % 4). */

/*  scales .. 16 | qs .. 64 crumbs | d | dmin
 *  16 runs of 16: low nibble of the run's byte scales, high nibble is its minimum
 *  d * scale * q - dmin * min                                        */
struct block_q2_k { uint8_t scales[16], qs[64], d[2], dmin[2]; };

/*  hmask .. 32 | qs .. 64 crumbs | scales .. 12 | d
 *  bit i/32 of hmask[i%32] clear: 4 is subtracted from q
 *  16 scales of 6 bits, see block_scales_q3_k; d * (scale - 32) * q   */
struct block_q3_k { uint8_t hmask[32], qs[64], scales[12], d[2]; };

/*  d | dmin | scales .. 12 | qs .. 128
 *  8 runs of 32, each pair of runs in 32 bytes: low nibbles first, then high
 *  8 scales and 8 minima of 6 bits, see block_scale_min_k4; d * scale * q - dmin * min */
struct block_q4_k { uint8_t d[2], dmin[2], scales[12], qs[128]; };

/*  d | dmin | scales .. 12 | qh .. 32 | qs .. 128
 *  as Q4_K, bit i/32 of qh[i%32] is bit 4 of q(i)                     */
struct block_q5_k { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; };

/*  ql .. 128 | qh .. 64 | scales .. 16 signed | d
 *  halves of 128 elements in four runs of 32: nibbles of ql (runs 0 and 1 low, 2 and 3 high), upper
 *  two bits in qh, bits 2*run; d * scale * (q - 32)                   */
struct block_q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; uint8_t d[2]; };

/*  d as f32 | qs .. 256 signed | bsums .. 16 as i16: sums of 16 q each
 *  d * q; only for activations                                        */
struct block_q8_k { uint8_t d[4]; int8_t qs[256]; uint8_t bsums[32]; };

/* ---- Codebooks: 256 elements ----
 * Points of 8 (IQ1, IQ2) or 4 (IQ3) coordinates, from quant_grid_*; signs apart. "parity signs":
 * seven bits, the eighth makes the count of minus signs even (quant_sign_bytes). */

/*  d | 8 groups of { index .. 4, u32: 4 x 7 parity signs, 4 bits n }
 *  d * (0.5 + n) / 4 * point * sign                                   */
struct block_iq2_xxs { uint8_t d[2]; struct { uint8_t index[4], signs_scale[4]; } groups[8]; };
/*  d | 32 x u16: 9 bits index, 7 parity signs | 8 bytes: nibble n per 16 */
struct block_iq2_xs { uint8_t d[2], qs[64], scales[8]; };
/*  d | low 8 index bits .. 32 | sign bytes .. 32 | 2 high index bits .. 8 | nibble n per 16 .. 8 */
struct block_iq2_s { uint8_t d[2], qs[32], signs[32], qh[8], scales[8]; };
/*  d | index .. 64 | 8 x u32: 4 x 7 parity signs, 4 bits n; d * (0.5 + n) / 2 * point * sign */
struct block_iq3_xxs { uint8_t d[2], qs[64], signs_scale[8][4]; };
/*  d | low 8 index bits .. 64 | high bit .. 8 | sign bytes .. 32 | nibble n per 32 .. 4
 *  d * (1 + 2n) * point * sign                                        */
struct block_iq3_s { uint8_t d[2], qs[64], qh[8], signs[32], scales[4]; };
/*  d | low 8 index bits .. 32 | 8 x u16: 4 x 3 high index bits, 3 bits n, 1 bit minus
 *  d * (2n + 1) * (point -+ 1/8)                                      */
struct block_iq1_s { uint8_t d[2], qs[32], qh[16]; };
/*  low 8 index bits .. 32 | nibble per point: 3 high index bits, 1 bit minus
 *  | 4 x u16: 4 x 3 bits n per 16 elements; their top nibbles together are d (f16) */
struct block_iq1_m { uint8_t qs[32], qh[16], scales[8]; };
/*  d | high 2 scale bits x 8 | low 4 scale bits x 8 | nibbles .. 128, 16 bytes per 32 elements
 *  d * (scale - 32) * quant_iq4_values[q]                             */
struct block_iq4_xs { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; };

/* ---- Ternary: 256 elements ---- */

/*  qs .. 48, five per byte | qh .. 4, four per byte | d
 *  a byte is a fraction in base 3: multiplying by 3^n brings digit n to the top; d * (digit - 1) */
struct block_tq1_0 { uint8_t qs[48], qh[4], d[2]; };
/*  qs .. 64 crumbs | d; d * (q - 1)                                   */
struct block_tq2_0 { uint8_t qs[64], d[2]; };

static inline uint16_t block_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t block_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float block_f16(const uint8_t *p)
{
    return f16_to_f32(block_u16(p));
}

static inline void block_put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void block_put_u32(uint8_t *p, uint32_t v)
{
    block_put_u16(p, (uint16_t)v);
    block_put_u16(p + 2, (uint16_t)(v >> 16));
}

/* Store d as f16 and return the value that was stored. */
static inline float block_put_f16(uint8_t *p, float d)
{
    uint16_t h = f32_to_f16(d);
    block_put_u16(p, h);
    return f16_to_f32(h);
}

/* Scale and minimum of run j (0..7) of Q4_K and Q5_K, six bits each:
 *   bytes 0..3   scale of j in the low six bits, upper two bits of scale 4+j on top
 *   bytes 4..7   minimum of j likewise
 *   bytes 8..11  low four bits of scale 4+j, then of minimum 4+j       */
static inline void block_scale_min_k4(const uint8_t *scales, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = scales[j] & 63;
        *min = scales[j + 4] & 63;
    } else {
        *scale = (uint8_t)((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4);
        *min = (uint8_t)((scales[j + 4] >> 4) | (scales[j] >> 6) << 4);
    }
}

/* The 16 scales of Q3_K, 0..63: low nibbles in bytes 0..7 (run j and run 8+j), upper two bits in
 * bytes 8..11. */
static inline void block_scales_q3_k(const uint8_t *packed, uint8_t *scales)
{
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
        scales[j] = (uint8_t)(low | ((packed[8 + j % 4] >> 2 * (j / 4)) & 3) << 4);
    }
}

/* Scale of MXFP4, half a power of two because quant_fp4_values are doubled: 2^(e-128). */
static inline float block_mxfp4_scale(uint8_t e)
{
    uint32_t bits = e >= 2 ? (uint32_t)(e - 1) << 23 : 0x200000u << e;
    float f;
    memcpy(&f, &bits, sizeof f);
    return e == 255 ? e8m0_to_f32(255) : f;
}

/* Scale of one run of NVFP4, halved for the same reason: E4M3 without sign (bit 7 is ignored) and
 * without NaN, 0x7F counts as zero. */
static inline float block_nvfp4_scale(uint8_t b)
{
    int exponent = (b >> 3) & 15, mantissa = b & 7;
    if (b == 0x7f)
        return 0.0f;
    if (exponent == 0)
        return (float)mantissa * 0x1p-10f;
    uint32_t bits = (uint32_t)(exponent - 7 - 1 + 127) << 23 | (uint32_t)mantissa << 20;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
