/* The decoders and encoders behind the rows of quant.c; callers go through quant_traits. */
#ifndef TANDEM_FORMAT_QUANT_CODEC_H
#define TANDEM_FORMAT_QUANT_CODEC_H

#include "src/format/quant.h"

dequantize_fn dequantize_f32, dequantize_f16, dequantize_bf16, dequantize_q4_0, dequantize_q4_1,
    dequantize_q5_0, dequantize_q5_1, dequantize_q8_0, dequantize_q8_1, dequantize_q2_k,
    dequantize_q3_k, dequantize_q4_k, dequantize_q5_k, dequantize_q6_k, dequantize_q8_k,
    dequantize_iq2_xxs, dequantize_iq2_xs, dequantize_iq2_s, dequantize_iq3_xxs,
    dequantize_iq3_s, dequantize_iq1_s, dequantize_iq1_m, dequantize_iq4_nl, dequantize_iq4_xs,
    dequantize_tq1_0, dequantize_tq2_0, dequantize_mxfp4, dequantize_nvfp4, dequantize_q1_0,
    dequantize_q2_0;

quantize_fn quantize_f32, quantize_f16, quantize_bf16, quantize_q4_0, quantize_q4_1, quantize_q5_0,
    quantize_q5_1, quantize_q8_0, quantize_q8_1, quantize_q2_k, quantize_q3_k, quantize_q4_k,
    quantize_q5_k, quantize_q6_k, quantize_q8_k, quantize_iq4_nl, quantize_iq4_xs, quantize_mxfp4,
    quantize_nvfp4, quantize_iq2_xxs, quantize_iq2_xs, quantize_iq2_s, quantize_iq3_xxs,
    quantize_iq3_s, quantize_iq1_s, quantize_iq1_m, quantize_tq1_0, quantize_tq2_0, quantize_q1_0,
    quantize_q2_0;

/* quantize_TYPE for a super-block type, from a static function TYPE(x, block, importance) that
 * encodes one block of 256. */
#define QUANTIZE_BLOCKS(type)                                                                      \
    void quantize_##type(const float *in, void *blocks, int64_t n, const float *importance)        \
    {                                                                                              \
        struct block_##type *b = blocks;                                                           \
        for (int64_t i = 0; i < n; i += 256)                                                       \
            type(in + i, b++, importance ? importance + i : NULL);                                 \
    }

#endif
