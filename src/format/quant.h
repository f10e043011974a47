/* Block types: one row of traits per tensor type, reference dequantization and quantization.
 *
 * A row of a matrix is ne[0] elements = whole blocks of `block_elements` in `block_bytes` bytes,
 * not aligned. The layouts are drawn in quant_blocks.h. Every bit pattern is memory-safe to decode:
 * codebook indices are masked to the table size, so bad data can only give bad numbers.
 *
 * Source of the formats: ggml-org/llama.cpp ggml/src/ggml-quants.c and ggml-common.h (MIT licence);
 * the codebooks are format data by the ggml authors. */
#ifndef TANDEM_FORMAT_QUANT_H
#define TANDEM_FORMAT_QUANT_H

#include "src/base/error.h"
#include "src/format/tensor.h"

/* Decode n elements (a whole number of blocks) to float. */
typedef void dequantize_fn(const void *blocks, float *out, int64_t n);
/* Encode n elements (a whole number of blocks). `importance` [n] or NULL weighs squared errors. */
typedef void quantize_fn(const float *in, void *blocks, int64_t n, const float *importance);

struct quant_traits {
    const char *name;      /* "Q4_K"; NULL: id unknown or removed */
    int block_elements;    /* 0: known by name only, cannot be used (name is then the reason) */
    int block_bytes;
    enum tensor_type act;  /* type that activations take for integer dot products with this type:
                              Q8_0, Q8_1, Q8_K, F16, BF16 or F32 */
    dequantize_fn *dequantize; /* NULL for integer types */
    quantize_fn *quantize;     /* NULL for integer types and F64 */
};

/* Row of traits for any id a file may hold; never NULL (unknown ids get an empty row).
 * Foreign and removed ids have a name but block_elements 0. */
const struct quant_traits *quant_traits(uint32_t type);

/* Bytes of one row of `cols` elements; cols must be a whole number of blocks. */
static inline size_t quant_row_bytes(enum tensor_type type, int64_t cols)
{
    const struct quant_traits *t = quant_traits(type);
    return (size_t)(cols / t->block_elements) * (size_t)t->block_bytes;
}

/* Type id of a name such as "q4_k" or "Q4_K" (case does not matter); -1 when there is none. */
int quant_type_by_name(const char *name);

/* Content scan (G-46): number of the first block among n elements that holds a non-finite scale,
 * minimum or value, or an E8M0 scale of 255; -1 when there is none. Integer types have none. */
int64_t quant_bad_block(enum tensor_type type, const void *blocks, int64_t n);

/* Small floats. Exact in both directions where representable, else round to nearest even;
 * NaN stays NaN. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
float bf16_to_f32(uint16_t b);
uint16_t f32_to_bf16(float f);
float e4m3_to_f32(uint8_t b); /* FP8 E4M3FN: 0x7F and 0xFF are NaN, max 448 */
float e8m0_to_f32(uint8_t b); /* 2^(b-127); 255 is NaN, 0 is subnormal 2^-127 */

/* Activation blocks (never in files). Layouts: quant_blocks.h.
 *   Q8_0  32: f16 d, i8 q[32]           d = amax/127, q = round half away from zero
 *   Q8_1  32: f16 d, f16 s, i8 q[32]    s = d * sum(q)
 *   Q8_K 256: f32 d, i8 q[256], i16 bsums[16]
 *             d = -max/127 with max the value of largest magnitude, q = x/d rounded to nearest,
 *             ties to even, within -127 .. 127
 * All three compute q as x * (1/d) with d before it is rounded to f16. A block whose 1/d is not
 * finite (zeros, subnormals) gets zeros; one with a NaN or an infinity gets d = NaN and zeros. */

/* Codebooks, expanded: points in index order, coordinates as consecutive bytes. */
extern const uint8_t quant_grid_iq2xxs[256][8];
extern const uint8_t quant_grid_iq2xs[512][8];
extern const uint8_t quant_grid_iq2s[1024][8];
extern const int8_t quant_grid_iq1[2048][8];
extern const uint8_t quant_grid_iq3xxs[256][4];
extern const uint8_t quant_grid_iq3s[512][4];
extern const int8_t quant_iq4_values[16];  /* IQ4_NL, IQ4_XS */
extern const int8_t quant_fp4_values[16];  /* E2M1 doubled: MXFP4, NVFP4 */
extern const uint8_t quant_sign_bytes[128]; /* 7 stored signs -> 8 signs of even parity */

#endif
