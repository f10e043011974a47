/* The table of block types. One row says everything that is common to a type; whoever loops over
 * types loops over these rows. */
#include "src/format/quant.h"

#include <string.h>
#include <strings.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"

/* Rows indexed by type id. A row with a name and no block size is a type that files may mention and
 * nobody here can use: the name then says what it is, for the message. */
static const struct quant_traits table[N_TENSOR_TYPES] = {
    [TYPE_F32] = { "F32", 1, 4, TYPE_F32, dequantize_f32, quantize_f32 },
    [TYPE_F16] = { "F16", 1, 2, TYPE_F16, dequantize_f16, quantize_f16 },
    [TYPE_Q4_0] = { "Q4_0", 32, 18, TYPE_Q8_0, dequantize_q4_0, quantize_q4_0 },
    [TYPE_Q4_1] = { "Q4_1", 32, 20, TYPE_Q8_1, dequantize_q4_1, quantize_q4_1 },
    [4] = { .name = "Q4_2 (removed from the format)" },
    [5] = { .name = "Q4_3 (removed from the format)" },
    [TYPE_Q5_0] = { "Q5_0", 32, 22, TYPE_Q8_0, dequantize_q5_0, quantize_q5_0 },
    [TYPE_Q5_1] = { "Q5_1", 32, 24, TYPE_Q8_1, dequantize_q5_1, quantize_q5_1 },
    [TYPE_Q8_0] = { "Q8_0", 32, 34, TYPE_Q8_0, dequantize_q8_0, quantize_q8_0 },
    [TYPE_Q8_1] = { "Q8_1", 32, 36, TYPE_Q8_1, dequantize_q8_1, quantize_q8_1 },
    [TYPE_Q2_K] = { "Q2_K", 256, 84, TYPE_Q8_K, dequantize_q2_k, quantize_q2_k },
    [TYPE_Q3_K] = { "Q3_K", 256, 110, TYPE_Q8_K, dequantize_q3_k, quantize_q3_k },
    [TYPE_Q4_K] = { "Q4_K", 256, 144, TYPE_Q8_K, dequantize_q4_k, quantize_q4_k },
    [TYPE_Q5_K] = { "Q5_K", 256, 176, TYPE_Q8_K, dequantize_q5_k, quantize_q5_k },
    [TYPE_Q6_K] = { "Q6_K", 256, 210, TYPE_Q8_K, dequantize_q6_k, quantize_q6_k },
    [TYPE_Q8_K] = { "Q8_K", 256, 292, TYPE_Q8_K, dequantize_q8_k, quantize_q8_k },
    [TYPE_IQ2_XXS] = { "IQ2_XXS", 256, 66, TYPE_Q8_K, dequantize_iq2_xxs, quantize_iq2_xxs },
    [TYPE_IQ2_XS] = { "IQ2_XS", 256, 74, TYPE_Q8_K, dequantize_iq2_xs, quantize_iq2_xs },
    [TYPE_IQ3_XXS] = { "IQ3_XXS", 256, 98, TYPE_Q8_K, dequantize_iq3_xxs, quantize_iq3_xxs },
    [TYPE_IQ1_S] = { "IQ1_S", 256, 50, TYPE_Q8_K, dequantize_iq1_s, quantize_iq1_s },
    [TYPE_IQ4_NL] = { "IQ4_NL", 32, 18, TYPE_Q8_0, dequantize_iq4_nl, quantize_iq4_nl },
    [TYPE_IQ3_S] = { "IQ3_S", 256, 110, TYPE_Q8_K, dequantize_iq3_s, quantize_iq3_s },
    [TYPE_IQ2_S] = { "IQ2_S", 256, 82, TYPE_Q8_K, dequantize_iq2_s, quantize_iq2_s },
    [TYPE_IQ4_XS] = { "IQ4_XS", 256, 136, TYPE_Q8_K, dequantize_iq4_xs, quantize_iq4_xs },
    [TYPE_I8] = { "I8", 1, 1, TYPE_F32, NULL, NULL },
    [TYPE_I16] = { "I16", 1, 2, TYPE_F32, NULL, NULL },
    [TYPE_I32] = { "I32", 1, 4, TYPE_F32, NULL, NULL },
    [TYPE_I64] = { "I64", 1, 8, TYPE_F32, NULL, NULL },
    [TYPE_F64] = { "F64", 1, 8, TYPE_F32, NULL, NULL },
    [TYPE_IQ1_M] = { "IQ1_M", 256, 56, TYPE_Q8_K, dequantize_iq1_m, quantize_iq1_m },
    [TYPE_BF16] = { "BF16", 1, 2, TYPE_BF16, dequantize_bf16, quantize_bf16 },
    [31] = { .name = "Q4_0_4_4 (removed from the format; use Q4_0)" },
    [32] = { .name = "Q4_0_4_8 (removed from the format; use Q4_0)" },
    [33] = { .name = "Q4_0_8_8 (removed from the format; use Q4_0)" },
    [TYPE_TQ1_0] = { "TQ1_0", 256, 54, TYPE_Q8_K, dequantize_tq1_0, quantize_tq1_0 },
    [TYPE_TQ2_0] = { "TQ2_0", 256, 66, TYPE_Q8_K, dequantize_tq2_0, quantize_tq2_0 },
    [36] = { .name = "IQ4_NL_4_4 (removed from the format) or I2_S from ik_llama.cpp" },
    [37] = { .name = "IQ4_NL_4_8 (removed from the format; use IQ4_NL)" },
    [38] = { .name = "IQ4_NL_8_8 (removed from the format; use IQ4_NL)" },
    [TYPE_MXFP4] = { "MXFP4", 32, 17, TYPE_Q8_0, dequantize_mxfp4, quantize_mxfp4 },
    [TYPE_NVFP4] = { "NVFP4", 64, 36, TYPE_Q8_0, dequantize_nvfp4, quantize_nvfp4 },
    [TYPE_Q1_0] = { "Q1_0", 128, 18, TYPE_Q8_0, dequantize_q1_0, quantize_q1_0 },
    [TYPE_Q2_0] = { "Q2_0", 64, 18, TYPE_Q8_0, dequantize_q2_0, quantize_q2_0 },
};

/* Ids that ikawrakow/ik_llama.cpp adds. */
#define IK " from ik_llama.cpp"
static const struct foreign {
    uint32_t id;
    struct quant_traits traits;
} foreign[] = {
    { 97, { .name = "Q8_0_X4" IK } },    { 98, { .name = "Q8_1_X4" IK } },
    { 99, { .name = "Q8_2_X4" IK } },    { 133, { .name = "Q6_0" IK } },
    { 134, { .name = "IQ1_BN" IK } },    { 135, { .name = "IQ2_BN" IK } },
    { 136, { .name = "Q8_K64" IK } },    { 137, { .name = "IQ2_K" IK } },
    { 138, { .name = "IQ3_K" IK } },     { 139, { .name = "IQ4_K" IK } },
    { 140, { .name = "IQ5_K" IK } },     { 141, { .name = "IQ6_K" IK } },
    { 144, { .name = "IQ4_KS" IK } },    { 145, { .name = "IQ2_KS" IK } },
    { 146, { .name = "IQ4_KSS" IK } },   { 147, { .name = "Q8_K16" IK } },
    { 148, { .name = "Q8_K32" IK } },    { 149, { .name = "Q8_KR8" IK } },
    { 150, { .name = "Q8_K128" IK } },   { 151, { .name = "Q8_KV" IK } },
    { 152, { .name = "IQ5_KS" IK } },    { 153, { .name = "IQ2_KT" IK } },
    { 154, { .name = "IQ3_KT" IK } },    { 155, { .name = "IQ4_KT" IK } },
    { 156, { .name = "IQ3_KS" IK } },    { 157, { .name = "IQ2_KL" IK } },
    { 158, { .name = "IQ1_KT" IK } },
};
#define FIRST_INTERLEAVED 202u /* one row-interleaved form per type, up to LAST_ */
#define LAST_INTERLEAVED 399u

const struct quant_traits *quant_traits(uint32_t type)
{
    static const struct quant_traits unknown;
    static const struct quant_traits interleaved = { .name = "a row-interleaved type" IK };
    if (type < N_TENSOR_TYPES)
        return &table[type];
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (foreign[i].id == type)
            return &foreign[i].traits;
    return type >= FIRST_INTERLEAVED && type <= LAST_INTERLEAVED ? &interleaved : &unknown;
}

int quant_type_by_name(const char *name)
{
    for (int i = 0; i < N_TENSOR_TYPES; i++)
        if (table[i].block_elements && strcasecmp(table[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- content scan ---- */

/* Where a block keeps its f16 fields; types with other fields are cases of block_is_bad. */
static const struct {
    uint8_t n, at[2];
} f16_fields[N_TENSOR_TYPES] = {
    [TYPE_F16] = { 1, { 0 } },      [TYPE_Q4_0] = { 1, { 0 } },    [TYPE_Q4_1] = { 2, { 0, 2 } },
    [TYPE_Q5_0] = { 1, { 0 } },     [TYPE_Q5_1] = { 2, { 0, 2 } }, [TYPE_Q8_0] = { 1, { 0 } },
    [TYPE_Q8_1] = { 2, { 0, 2 } },  [TYPE_Q2_K] = { 2, { 80, 82 } }, [TYPE_Q3_K] = { 1, { 108 } },
    [TYPE_Q4_K] = { 2, { 0, 2 } },  [TYPE_Q5_K] = { 2, { 0, 2 } }, [TYPE_Q6_K] = { 1, { 208 } },
    [TYPE_IQ2_XXS] = { 1, { 0 } },  [TYPE_IQ2_XS] = { 1, { 0 } },  [TYPE_IQ2_S] = { 1, { 0 } },
    [TYPE_IQ3_XXS] = { 1, { 0 } },  [TYPE_IQ3_S] = { 1, { 0 } },   [TYPE_IQ1_S] = { 1, { 0 } },
    [TYPE_IQ4_NL] = { 1, { 0 } },   [TYPE_IQ4_XS] = { 1, { 0 } },  [TYPE_TQ1_0] = { 1, { 52 } },
    [TYPE_TQ2_0] = { 1, { 64 } },   [TYPE_Q1_0] = { 1, { 0 } },    [TYPE_Q2_0] = { 1, { 0 } },
};

static bool f16_is_bad(uint16_t h)
{
    return (h & 0x7c00) == 0x7c00;
}

static bool block_is_bad(enum tensor_type type, const uint8_t *b)
{
    for (int i = 0; i < f16_fields[type].n; i++)
        if (f16_is_bad(block_u16(b + f16_fields[type].at[i])))
            return true;
    switch (type) {
    case TYPE_F32: case TYPE_Q8_K: return (block_u32(b) & 0x7f800000) == 0x7f800000;
    case TYPE_F64: return (block_u16(b + 6) & 0x7ff0) == 0x7ff0;
    case TYPE_BF16: return (block_u16(b) & 0x7f80) == 0x7f80;
    case TYPE_MXFP4: return b[0] == 255;
    case TYPE_IQ1_M: return f16_is_bad((uint16_t)(b[51] >> 4 << 4 | b[49] >> 4 | b[53] >> 4 << 8 |
                                                  b[55] >> 4 << 12));
    default: return false;
    }
}

int64_t quant_bad_block(enum tensor_type type, const void *blocks, int64_t n)
{
    const struct quant_traits *t = quant_traits(type);
    const uint8_t *b = blocks;
    for (int64_t i = 0; i < n / t->block_elements; i++, b += t->block_bytes)
        if (block_is_bad(type, b))
            return i;
    return -1;
}

/* ---- small floats ---- */

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 31, mantissa = h & 0x3ff;
    if (exponent == 31) /* infinity, NaN with its payload */
        return float_of(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) { /* zero, subnormal: mantissa units of 2^-24, exact in binary32 */
        float magnitude = (float)mantissa * 0x1p-24f;
        return float_of(sign | bits_of(magnitude));
    }
    return float_of(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t f32_to_f16(float f)
{
    const uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) /* NaN stays one even if its payload is cut */
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: units of 2^-24; adding 0.5 rounds to them */
        uint32_t units = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        return (uint16_t)(sign | units);
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1); /* a carry moves the exponent */
    return (uint16_t)(sign | ((rounded - ((127u - 15u) << 23)) >> 13));
}

float bf16_to_f32(uint16_t b)
{
    return float_of((uint32_t)b << 16);
}

uint16_t f32_to_bf16(float f)
{
    const uint32_t bits = bits_of(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float e4m3_to_f32(uint8_t b)
{
    const uint32_t sign = (uint32_t)(b & 0x80) << 24;
    const uint32_t exponent = (b >> 3) & 15, mantissa = b & 7;
    if (exponent == 15 && mantissa == 7)
        return float_of(sign | 0x7fc00000);
    if (exponent == 0)
        return float_of(sign | bits_of((float)mantissa * 0x1p-9f));
    return float_of(sign | (exponent + 127 - 7) << 23 | mantissa << 20);
}

float e8m0_to_f32(uint8_t b)
{
    return float_of(b == 255 ? 0x7fc00000 : b == 0 ? 0x400000 : (uint32_t)b << 23);
}
