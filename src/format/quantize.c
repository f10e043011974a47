/* Reference encoders: floats to blocks.
 *
 * An encoder promises blocks that decode well, not particular bytes. Three ideas recur:
 *   - the scale is chosen by a fit (quantize_fit.h), errors weighted by importance * magnitude;
 *   - scales are stored rounded, so the integers are computed again for the stored ones;
 *   - a block whose stored scale is zero has zero integers, and nothing is ever divided by zero.
 * Inputs are finite (whoever reads a file checks that); only the encoders of activations, Q8_*,
 * also take non-finite values, and then mark the block by a NaN scale so that the damage shows.
 * The layouts are in quant_blocks.h. */
#include <math.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"
#include "src/format/quantize_fit.h"

/* Loop an encoder of one block over n elements. `s2` is a property of the whole row. */
#define QUANTIZE(type, elements, row_s2)                                                           \
    void quantize_##type(const float *in, void *blocks, int64_t n, const float *importance)        \
    {                                                                                              \
        struct block_##type *b = blocks;                                                           \
        const float s2 = importance ? (row_s2) : 0;                                                \
        for (int64_t i = 0; i < n; i += (elements))                                                \
            type(in + i, b++, importance ? importance + i : NULL, s2);                             \
    }

/* ---- plain floats ---- */

void quantize_f32(const float *in, void *blocks, int64_t n, const float *importance)
{
    (void)importance;
    memcpy(blocks, in, (size_t)n * sizeof *in);
}

void quantize_f16(const float *in, void *blocks, int64_t n, const float *importance)
{
    (void)importance;
    uint8_t *out = blocks;
    for (int64_t i = 0; i < n; i++)
        block_put_u16(out + 2 * i, f32_to_f16(in[i]));
}

void quantize_bf16(const float *in, void *blocks, int64_t n, const float *importance)
{
    (void)importance;
    uint8_t *out = blocks;
    for (int64_t i = 0; i < n; i++)
        block_put_u16(out + 2 * i, f32_to_bf16(in[i]));
}

/* ---- Q8: activations, and the most exact weights ---- */

/* Largest magnitude, NaN when any value is not finite. */
static float magnitude(const float *x, int n)
{
    float largest = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
        sum += x[i] * 0.0f; /* 0 for finite values, else NaN */
    }
    return sum == 0 ? largest : NAN;
}

/* d = amax/127, q = round half away from zero; returns d and the sum of q. */
static float encode_q8(const float *x, int8_t *qs, int *sum)
{
    const float d = magnitude(x, 32) / 127.0f, inverse = isnan(d) ? 0 : fit_inverse(d);
    *sum = 0;
    for (int i = 0; i < 32; i++) {
        qs[i] = inverse == 0 ? 0 : (int8_t)roundf(x[i] * inverse);
        *sum += qs[i];
    }
    return d;
}

static void q8_0(const float *x, struct block_q8_0 *b, const float *importance, float s2)
{
    (void)importance, (void)s2;
    int sum;
    block_put_f16(b->d, encode_q8(x, b->qs, &sum));
}
QUANTIZE(q8_0, 32, 0)

static void q8_1(const float *x, struct block_q8_1 *b, const float *importance, float s2)
{
    (void)importance, (void)s2;
    int sum;
    float d = encode_q8(x, b->qs, &sum);
    block_put_f16(b->d, d);
    block_put_f16(b->s, d * (float)sum);
}
QUANTIZE(q8_1, 32, 0)

static void q8_k(const float *x, struct block_q8_k *b, const float *importance, float s2)
{
    (void)importance, (void)s2;
    float m = 0; /* largest magnitude, with its sign */
    for (int i = 0; i < 256; i++)
        m = fabsf(x[i]) > fabsf(m) ? x[i] : m;
    float inverse = -127.0f / m, d = 1.0f / inverse;
    if (isnan(magnitude(x, 256))) {
        inverse = 0;
        d = NAN;
    } else if (!isfinite(inverse)) {
        inverse = d = 0;
    }
    for (int i = 0; i < 256; i++)
        b->qs[i] = inverse == 0 ? 0 : (int8_t)fit_round(inverse * x[i], -127, 127);
    for (int run = 0; run < 16; run++) {
        int sum = 0;
        for (int i = 0; i < 16; i++)
            sum += b->qs[16 * run + i];
        block_put_u16(b->bsums + 2 * run, (uint16_t)sum);
    }
    uint32_t bits;
    memcpy(&bits, &d, sizeof bits);
    block_put_u32(b->d, bits);
}
QUANTIZE(q8_k, 256, 0)

/* ---- Q4_0, Q4_1, Q5_0, Q5_1 ---- */

/* Integers 0 .. 2*nmax-1, value d * (q - nmax). */
static float encode_symmetric(const float *x, const float *importance, float s2, int nmax,
                              uint8_t *d_field, uint8_t *q)
{
    float w[32], d;
    int8_t l[32];
    bool weighted = fit_weigh(32, x, importance, s2, w);
    if (weighted) {
        d = block_put_f16(d_field, fit_symmetric(32, x, w, nmax, l));
    } else {
        float m = 0;
        for (int i = 0; i < 32; i++)
            m = fabsf(x[i]) > fabsf(m) ? x[i] : m;
        d = m / (float)-nmax;
        block_put_f16(d_field, d);
    }
    const float inverse = fit_inverse(d);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * inverse;
        q[i] = weighted ? (uint8_t)(fit_round(v, -nmax, nmax - 1) + nmax)
                        : (uint8_t)(int)fminf(v + (float)nmax + 0.5f, (float)(2 * nmax - 1));
    }
    return d;
}

/* Integers 0 .. nmax, value d * q + m. */
static void encode_affine(const float *x, const float *importance, float s2, int nmax,
                          uint8_t *d_field, uint8_t *m_field, uint8_t *q)
{
    static const struct fit_search search = { -0.9f, 0.05f, 36, false };
    float w[32];
    if (fit_weigh(32, x, importance, s2, w)) {
        float min;
        float d = block_put_f16(d_field, fit_affine(32, x, w, nmax, search, q, &min));
        float m = block_put_f16(m_field, -min), inverse = fit_inverse(d);
        for (int i = 0; i < 32; i++)
            q[i] = (uint8_t)fit_round((x[i] - m) * inverse, 0, nmax);
        return;
    }
    float low = x[0], high = x[0];
    for (int i = 1; i < 32; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    const float d = (high - low) / (float)nmax, inverse = fit_inverse(d);
    block_put_f16(d_field, d);
    block_put_f16(m_field, low);
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)fminf((x[i] - low) * inverse + 0.5f, (float)nmax);
}

static void pack_nibbles(const uint8_t *q, uint8_t *qs)
{
    for (int i = 0; i < 16; i++)
        qs[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void pack_fifth_bits(const uint8_t *q, uint8_t *qh)
{
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (uint32_t)(q[i] >> 4 & 1) << i;
    block_put_u32(qh, bits);
}

static void q4_0(const float *x, struct block_q4_0 *b, const float *importance, float s2)
{
    uint8_t q[32];
    encode_symmetric(x, importance, s2, 8, b->d, q);
    pack_nibbles(q, b->qs);
}
QUANTIZE(q4_0, 32, fit_mean_square(in, n))

static void q4_1(const float *x, struct block_q4_1 *b, const float *importance, float s2)
{
    uint8_t q[32];
    encode_affine(x, importance, s2, 15, b->d, b->m, q);
    pack_nibbles(q, b->qs);
}
QUANTIZE(q4_1, 32, fit_mean_square(in, n))

static void q5_0(const float *x, struct block_q5_0 *b, const float *importance, float s2)
{
    uint8_t q[32];
    encode_symmetric(x, importance, s2, 16, b->d, q);
    pack_nibbles(q, b->qs);
    pack_fifth_bits(q, b->qh);
}
QUANTIZE(q5_0, 32, fit_mean_square(in, n))

static void q5_1(const float *x, struct block_q5_1 *b, const float *importance, float s2)
{
    uint8_t q[32];
    encode_affine(x, importance, s2, 31, b->d, b->m, q);
    pack_nibbles(q, b->qs);
    pack_fifth_bits(q, b->qh);
}
QUANTIZE(q5_1, 32, fit_mean_square(in, n))

/* ---- MXFP4, NVFP4 ---- */

/* Codes of the FP4 values nearest to x/d (ties: the smaller magnitude), and the squared error. */
static float encode_fp4(const float *x, int n, float d, uint8_t *codes)
{
    static const float middle[7] = { 0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10 };
    const float inverse = fit_inverse(d);
    int count[32] = { 0 };
    for (int k = 0; k < 7; k++)
        for (int i = 0; i < n; i++)
            count[i] += fabsf(x[i] * inverse) > middle[k];
    float error = 0;
    for (int i = 0; i < n; i++) {
        codes[i] = (uint8_t)(count[i] && x[i] < 0 ? count[i] + 8 : count[i]);
        float difference = x[i] - d * (float)quant_fp4_values[codes[i]];
        error += difference * difference;
    }
    return error;
}

static void mxfp4(const float *x, struct block_mxfp4 *b, const float *importance, float s2)
{
    (void)importance, (void)s2;
    uint8_t codes[32], trial[32];
    float amax = magnitude(x, 32);
    int exponent;
    frexpf(amax, &exponent); /* amax = f * 2^exponent, f in [0.5, 1) */
    int e = amax > 0 ? exponent - 1 - 2 + 127 : 0;
    e = e < 0 ? 0 : e > 254 ? 254 : e;
    float error = encode_fp4(x, 32, block_mxfp4_scale((uint8_t)e), codes);
    b->e = (uint8_t)e;
    if (e < 254 && encode_fp4(x, 32, block_mxfp4_scale((uint8_t)(e + 1)), trial) < error) {
        memcpy(codes, trial, sizeof codes); /* 6 times the scale was just below the maximum */
        b->e++;
    }
    pack_nibbles(codes, b->qs);
}
QUANTIZE(mxfp4, 32, 0)

/* The scale byte whose value is nearest to twice v; 0x7F is not one. */
static uint8_t nearest_nvfp4_scale(float v)
{
    int low = 0, high = 0x7e;
    while (high - low > 1) { /* values ascend with the byte */
        int middle = (low + high) / 2;
        if (block_nvfp4_scale((uint8_t)middle) <= v)
            low = middle;
        else
            high = middle;
    }
    float below = block_nvfp4_scale((uint8_t)low), above = block_nvfp4_scale((uint8_t)high);
    return (uint8_t)(v - below <= above - v ? low : high);
}

static void nvfp4(const float *x, struct block_nvfp4 *b, const float *importance, float s2)
{
    (void)importance, (void)s2;
    for (int run = 0; run < 4; run++) {
        const float *v = x + 16 * run;
        uint8_t codes[16];
        b->d[run] = nearest_nvfp4_scale(magnitude(v, 16) / 12.0f);
        encode_fp4(v, 16, block_nvfp4_scale(b->d[run]), codes);
        for (int i = 0; i < 8; i++)
            b->qs[8 * run + i] = (uint8_t)(codes[i] | codes[i + 8] << 4);
    }
}
QUANTIZE(nvfp4, 64, 0)

/* ---- IQ4 ---- */

/* Between neighbouring values of the codebook: from here on the upper one is nearer. */
static const float iq4_middle[15] = { -115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19,
                                      31.5f, 45.5f, 61, 79, 101 };

/* Least-squares sums of 32 values rounded to the codebook; each value climbs its steps. */
static void iq4_sums(const float *x, const float *w, float inverse, float *xq, float *q2)
{
    float q[32], xq4[4] = { 0 }, q24[4] = { 0 };
    for (int i = 0; i < 32; i++)
        q[i] = (float)quant_iq4_values[0];
    for (int k = 0; k < 15; k++) {
        const float step = (float)(quant_iq4_values[k + 1] - quant_iq4_values[k]);
        for (int i = 0; i < 32; i++)
            q[i] += inverse * x[i] >= iq4_middle[k] ? step : 0.0f;
    }
    for (int i = 0; i < 32; i++) {
        xq4[i % 4] += w[i] * q[i] * x[i];
        q24[i % 4] += w[i] * q[i] * q[i];
    }
    *xq = (xq4[0] + xq4[2]) + (xq4[1] + xq4[3]);
    *q2 = (q24[0] + q24[2]) + (q24[1] + q24[3]);
}

/* Scale for 32 values, best after least squares: the largest value may become -127 or some steps
 * beside it, or +113, the other end of the codebook. */
static float fit_iq4(const float *x, const float *w)
{
    float m = 0, best = 0, scale = 0;
    for (int i = 0; i < 32; i++)
        m = fabsf(x[i]) > fabsf(m) ? x[i] : m;
    if (fabsf(m) < FIT_TINY)
        return 0;
    for (int t = -7; t <= 8; t++) {
        float xq, q2, end = t == 8 ? 127.0f : (float)quant_iq4_values[0] + (float)t;
        iq4_sums(x, w, end / m, &xq, &q2);
        if (q2 > 0 && xq * xq > best * q2) {
            scale = xq / q2;
            best = scale * xq;
        }
    }
    return scale;
}

static void weigh_iq4(const float *x, const float *importance, float s2, float *w)
{
    if (!fit_weigh(32, x, importance, s2, w))
        fit_weigh_squares(32, x, w);
}

static void encode_iq4(const float *x, float d, uint8_t *qs)
{
    const float inverse = fit_inverse(d);
    uint8_t q[32] = { 0 };
    for (int k = 0; k < 15; k++)
        for (int i = 0; i < 32; i++)
            q[i] += x[i] * inverse >= iq4_middle[k];
    pack_nibbles(q, qs);
}

static void iq4_nl(const float *x, struct block_iq4_nl *b, const float *importance, float s2)
{
    (void)s2;
    float w[32];
    weigh_iq4(x, importance, 2 * fit_mean_square(x, 32), w);
    float d = block_put_f16(b->d, fit_iq4(x, w));
    encode_iq4(x, d, b->qs);
}
QUANTIZE(iq4_nl, 32, 0)

static void iq4_xs(const float *x, struct block_iq4_xs *b, const float *importance, float s2)
{
    (void)s2;
    float scales[8], w[32], largest = 0;
    const float mean2 = 2 * fit_mean_square(x, 256);
    for (int g = 0; g < 8; g++) {
        weigh_iq4(x + 32 * g, importance ? importance + 32 * g : NULL, mean2, w);
        scales[g] = fit_iq4(x + 32 * g, w);
        largest = fabsf(scales[g]) > fabsf(largest) ? scales[g] : largest;
    }
    const float d = block_put_f16(b->d, -largest / 32.0f), inverse = fit_inverse(d);
    unsigned high = 0;
    memset(b->scales_l, 0, sizeof b->scales_l);
    for (int g = 0; g < 8; g++) {
        int l = fit_round(inverse * scales[g], -32, 31);
        b->scales_l[g / 2] |= (uint8_t)(((l + 32) & 15) << 4 * (g % 2));
        high |= (unsigned)(l + 32) >> 4 << 2 * g;
        encode_iq4(x + 32 * g, d * (float)l, b->qs + 16 * g);
    }
    block_put_u16(b->scales_h, (uint16_t)high);
}
QUANTIZE(iq4_xs, 256, 0)
