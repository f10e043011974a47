/* Reference decoders: blocks to floats, one short function per type.
 *
 * These are the truth that kernels are compared with. Products are evaluated as written, from left
 * to right in binary32, which gives the same bits as ggml. The layouts are in quant_blocks.h. */
#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"

/* Loop a decoder of one block over n elements. */
#define DEQUANTIZE(type, elements)                                                                 \
    void dequantize_##type(const void *blocks, float *out, int64_t n)                              \
    {                                                                                              \
        const struct block_##type *b = blocks;                                                     \
        for (; n > 0; n -= (elements), out += (elements))                                          \
            type(b++, out);                                                                        \
    }

/* ---- plain floats ---- */

void dequantize_f32(const void *blocks, float *out, int64_t n)
{
    memcpy(out, blocks, (size_t)n * sizeof *out);
}

void dequantize_f16(const void *blocks, float *out, int64_t n)
{
    const uint8_t *in = blocks;
    for (int64_t i = 0; i < n; i++)
        out[i] = block_f16(in + 2 * i);
}

void dequantize_bf16(const void *blocks, float *out, int64_t n)
{
    const uint8_t *in = blocks;
    for (int64_t i = 0; i < n; i++)
        out[i] = bf16_to_f32(block_u16(in + 2 * i));
}

/* ---- 32 elements ---- */

static void q4_0(const struct block_q4_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b->qs[i] & 15) - 8);
        out[i + 16] = d * (float)((b->qs[i] >> 4) - 8);
    }
}
DEQUANTIZE(q4_0, 32)

static void q4_1(const struct block_q4_1 *b, float *out)
{
    const float d = block_f16(b->d), m = block_f16(b->m);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b->qs[i] & 15) + m;
        out[i + 16] = d * (float)(b->qs[i] >> 4) + m;
    }
}
DEQUANTIZE(q4_1, 32)

static void q5_0(const struct block_q5_0 *b, float *out)
{
    const float d = block_f16(b->d);
    const uint32_t high = block_u32(b->qh);
    for (int i = 0; i < 16; i++) {
        int low_q = (b->qs[i] & 15) | (int)((high >> i) & 1) << 4;
        int high_q = (b->qs[i] >> 4) | (int)((high >> (i + 16)) & 1) << 4;
        out[i] = d * (float)(low_q - 16);
        out[i + 16] = d * (float)(high_q - 16);
    }
}
DEQUANTIZE(q5_0, 32)

static void q5_1(const struct block_q5_1 *b, float *out)
{
    const float d = block_f16(b->d), m = block_f16(b->m);
    const uint32_t high = block_u32(b->qh);
    for (int i = 0; i < 16; i++) {
        int low_q = (b->qs[i] & 15) | (int)((high >> i) & 1) << 4;
        int high_q = (b->qs[i] >> 4) | (int)((high >> (i + 16)) & 1) << 4;
        out[i] = d * (float)low_q + m;
        out[i + 16] = d * (float)high_q + m;
    }
}
DEQUANTIZE(q5_1, 32)

static void q8_0(const struct block_q8_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)b->qs[i];
}
DEQUANTIZE(q8_0, 32)

static void q8_1(const struct block_q8_1 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)b->qs[i];
}
DEQUANTIZE(q8_1, 32)

static void iq4_nl(const struct block_iq4_nl *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)quant_iq4_values[b->qs[i] & 15];
        out[i + 16] = d * (float)quant_iq4_values[b->qs[i] >> 4];
    }
}
DEQUANTIZE(iq4_nl, 32)

static void mxfp4(const struct block_mxfp4 *b, float *out)
{
    const float d = block_mxfp4_scale(b->e);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)quant_fp4_values[b->qs[i] & 15];
        out[i + 16] = d * (float)quant_fp4_values[b->qs[i] >> 4];
    }
}
DEQUANTIZE(mxfp4, 32)

/* ---- 64 and 128 elements ---- */

static void nvfp4(const struct block_nvfp4 *b, float *out)
{
    for (int run = 0; run < 4; run++) {
        const float d = block_nvfp4_scale(b->d[run]);
        for (int i = 0; i < 8; i++) {
            out[16 * run + i] = d * (float)quant_fp4_values[b->qs[8 * run + i] & 15];
            out[16 * run + i + 8] = d * (float)quant_fp4_values[b->qs[8 * run + i] >> 4];
        }
    }
}
DEQUANTIZE(nvfp4, 64)

static void q1_0(const struct block_q1_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 128; i++)
        out[i] = (b->qs[i / 8] >> i % 8) & 1 ? d : -d;
}
DEQUANTIZE(q1_0, 128)

static void q2_0(const struct block_q2_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 64; i++)
        out[i] = d * (float)(((b->qs[i / 4] >> 2 * (i % 4)) & 3) - 1);
}
DEQUANTIZE(q2_0, 64)

/* ---- K-quants ---- */

/* Two bits of element i of 256, see "crumbs" in quant_blocks.h. */
static int crumb(const uint8_t *qs, int i)
{
    return (qs[32 * (i / 128) + i % 32] >> 2 * (i / 32 % 4)) & 3;
}

static void q2_k(const struct block_q2_k *b, float *out)
{
    const float d = block_f16(b->d), dmin = block_f16(b->dmin);
    for (int run = 0; run < 16; run++) {
        const float scale = d * (float)(b->scales[run] & 15);
        const float min = dmin * (float)(b->scales[run] >> 4);
        for (int i = 16 * run; i < 16 * run + 16; i++)
            out[i] = scale * (float)crumb(b->qs, i) - min;
    }
}
DEQUANTIZE(q2_k, 256)

static void q3_k(const struct block_q3_k *b, float *out)
{
    const float d = block_f16(b->d);
    uint8_t scales[16];
    block_scales_q3_k(b->scales, scales);
    for (int run = 0; run < 16; run++) {
        const float scale = d * (float)(scales[run] - 32);
        for (int i = 16 * run; i < 16 * run + 16; i++) {
            int high = (b->hmask[i % 32] >> i / 32) & 1;
            out[i] = scale * (float)(crumb(b->qs, i) - (high ? 0 : 4));
        }
    }
}
DEQUANTIZE(q3_k, 256)

static void q4_k(const struct block_q4_k *b, float *out)
{
    const float d = block_f16(b->d), dmin = block_f16(b->dmin);
    for (int run = 0; run < 8; run++) {
        uint8_t s, m;
        block_scale_min_k4(b->scales, run, &s, &m);
        const float scale = d * (float)s, min = dmin * (float)m;
        const uint8_t *qs = b->qs + 32 * (run / 2);
        for (int i = 0; i < 32; i++)
            out[32 * run + i] = scale * (float)((qs[i] >> 4 * (run % 2)) & 15) - min;
    }
}
DEQUANTIZE(q4_k, 256)

static void q5_k(const struct block_q5_k *b, float *out)
{
    const float d = block_f16(b->d), dmin = block_f16(b->dmin);
    for (int run = 0; run < 8; run++) {
        uint8_t s, m;
        block_scale_min_k4(b->scales, run, &s, &m);
        const float scale = d * (float)s, min = dmin * (float)m;
        const uint8_t *qs = b->qs + 32 * (run / 2);
        for (int i = 0; i < 32; i++) {
            int q = ((qs[i] >> 4 * (run % 2)) & 15) | ((b->qh[i] >> run) & 1) << 4;
            out[32 * run + i] = scale * (float)q - min;
        }
    }
}
DEQUANTIZE(q5_k, 256)

static void q6_k(const struct block_q6_k *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, run = i / 32 % 4, at = i % 32;
        int low = b->ql[64 * half + 32 * (run % 2) + at] >> 4 * (run / 2) & 15;
        int high = b->qh[32 * half + at] >> 2 * run & 3;
        out[i] = d * (float)b->scales[i / 16] * (float)((low | high << 4) - 32);
    }
}
DEQUANTIZE(q6_k, 256)

static void q8_k(const struct block_q8_k *b, float *out)
{
    float d;
    uint32_t bits = block_u32(b->d);
    memcpy(&d, &bits, sizeof d);
    for (int i = 0; i < 256; i++)
        out[i] = d * (float)b->qs[i];
}
DEQUANTIZE(q8_k, 256)

/* ---- codebooks ---- */

/* Eight coordinates, each times d, with the sign bits of `signs` (bit set: minus). */
static void point8(float *out, float d, const uint8_t *point, unsigned signs)
{
    for (int i = 0; i < 8; i++)
        out[i] = d * (float)point[i] * ((signs >> i) & 1 ? -1.0f : 1.0f);
}

static void point4(float *out, float d, const uint8_t *point, unsigned signs)
{
    for (int i = 0; i < 4; i++)
        out[i] = d * (float)point[i] * ((signs >> i) & 1 ? -1.0f : 1.0f);
}

static void iq2_xxs(const struct block_iq2_xxs *b, float *out)
{
    const float d = block_f16(b->d);
    for (int g = 0; g < 8; g++) {
        const uint32_t w = block_u32(b->groups[g].signs_scale);
        const float scale = d * (0.5f + (float)(w >> 28)) * 0.25f;
        for (int k = 0; k < 4; k++)
            point8(out + 32 * g + 8 * k, scale, quant_grid_iq2xxs[b->groups[g].index[k]],
                   quant_sign_bytes[(w >> 7 * k) & 127]);
    }
}
DEQUANTIZE(iq2_xxs, 256)

static void iq2_xs(const struct block_iq2_xs *b, float *out)
{
    const float d = block_f16(b->d);
    for (int k = 0; k < 32; k++) {
        const unsigned u = block_u16(b->qs + 2 * k);
        const int n = (b->scales[k / 4] >> 4 * (k / 2 % 2)) & 15;
        point8(out + 8 * k, d * (0.5f + (float)n) * 0.25f, quant_grid_iq2xs[u & 511],
               quant_sign_bytes[u >> 9]);
    }
}
DEQUANTIZE(iq2_xs, 256)

static void iq2_s(const struct block_iq2_s *b, float *out)
{
    const float d = block_f16(b->d);
    for (int k = 0; k < 32; k++) {
        const int index = b->qs[k] | ((b->qh[k / 4] >> 2 * (k % 4)) & 3) << 8;
        const int n = (b->scales[k / 4] >> 4 * (k / 2 % 2)) & 15;
        point8(out + 8 * k, d * (0.5f + (float)n) * 0.25f, quant_grid_iq2s[index], b->signs[k]);
    }
}
DEQUANTIZE(iq2_s, 256)

static void iq3_xxs(const struct block_iq3_xxs *b, float *out)
{
    const float d = block_f16(b->d);
    for (int k = 0; k < 64; k++) {
        const uint32_t w = block_u32(b->signs_scale[k / 8]);
        const unsigned signs = quant_sign_bytes[(w >> 7 * (k / 2 % 4)) & 127];
        point4(out + 4 * k, d * (0.5f + (float)(w >> 28)) * 0.5f, quant_grid_iq3xxs[b->qs[k]],
               signs >> 4 * (k % 2));
    }
}
DEQUANTIZE(iq3_xxs, 256)

static void iq3_s(const struct block_iq3_s *b, float *out)
{
    const float d = block_f16(b->d);
    for (int k = 0; k < 64; k++) {
        const int index = b->qs[k] | ((b->qh[k / 8] >> k % 8) & 1) << 8;
        const int n = (b->scales[k / 16] >> 4 * (k / 8 % 2)) & 15;
        point4(out + 4 * k, d * (float)(1 + 2 * n), quant_grid_iq3s[index],
               b->signs[k / 2] >> 4 * (k % 2));
    }
}
DEQUANTIZE(iq3_s, 256)

static void ternary8(float *out, float d, const int8_t *point, float delta)
{
    for (int i = 0; i < 8; i++)
        out[i] = d * ((float)point[i] + delta);
}

static void iq1_s(const struct block_iq1_s *b, float *out)
{
    const float d = block_f16(b->d);
    for (int k = 0; k < 32; k++) {
        const unsigned h = block_u16(b->qh + 2 * (k / 4));
        const unsigned index = b->qs[k] | ((h >> 3 * (k % 4)) & 7) << 8;
        ternary8(out + 8 * k, d * (float)(2 * ((h >> 12) & 7) + 1), quant_grid_iq1[index],
                 h & 0x8000 ? -0.125f : 0.125f);
    }
}
DEQUANTIZE(iq1_s, 256)

static void iq1_m(const struct block_iq1_m *b, float *out)
{
    unsigned bits = 0;
    for (int i = 0; i < 4; i++)
        bits |= (unsigned)(block_u16(b->scales + 2 * i) >> 12) << 4 * i;
    const float d = f16_to_f32((uint16_t)bits);
    for (int k = 0; k < 32; k++) {
        const int run = k / 2; /* of 16 elements */
        const unsigned n = (b->qh[k / 2] >> 4 * (k % 2)) & 15;
        const unsigned s = (block_u16(b->scales + 2 * (run / 4)) >> 3 * (run % 4)) & 7;
        ternary8(out + 8 * k, d * (float)(2 * s + 1),
                 quant_grid_iq1[b->qs[k] | (n & 7) << 8], n & 8 ? -0.125f : 0.125f);
    }
}
DEQUANTIZE(iq1_m, 256)

static void iq4_xs(const struct block_iq4_xs *b, float *out)
{
    const float d = block_f16(b->d);
    const unsigned high = block_u16(b->scales_h);
    for (int g = 0; g < 8; g++) {
        const int low = (b->scales_l[g / 2] >> 4 * (g % 2)) & 15;
        const float scale = d * (float)((low | (int)((high >> 2 * g) & 3) << 4) - 32);
        for (int i = 0; i < 16; i++) {
            const uint8_t byte = b->qs[16 * g + i];
            out[32 * g + i] = scale * (float)quant_iq4_values[byte & 15];
            out[32 * g + i + 16] = scale * (float)quant_iq4_values[byte >> 4];
        }
    }
}
DEQUANTIZE(iq4_xs, 256)

/* ---- ternary ---- */

/* Digit n of a byte read as a fraction 0.t0 t1 t2 t3 t4 in base 3: -1, 0 or 1. */
static float trit(uint8_t byte, int n)
{
    static const uint8_t power_of_3[5] = { 1, 3, 9, 27, 81 };
    uint8_t top = (uint8_t)(byte * power_of_3[n]);
    return (float)((top * 3 >> 8) - 1);
}

static void tq1_0(const struct block_tq1_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 160; i++)
        out[i] = d * trit(b->qs[i % 32], i / 32);
    for (int i = 160; i < 240; i++)
        out[i] = d * trit(b->qs[32 + (i - 160) % 16], (i - 160) / 16);
    for (int i = 240; i < 256; i++)
        out[i] = d * trit(b->qh[(i - 240) % 4], (i - 240) / 4);
}
DEQUANTIZE(tq1_0, 256)

static void tq2_0(const struct block_tq2_0 *b, float *out)
{
    const float d = block_f16(b->d);
    for (int i = 0; i < 256; i++)
        out[i] = d * (float)(crumb(b->qs, i) - 1);
}
DEQUANTIZE(tq2_0, 256)
