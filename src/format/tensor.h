/* Tensor types and the description of one tensor in a file. Knows bytes, not models. */
#ifndef TANDEM_FORMAT_TENSOR_H
#define TANDEM_FORMAT_TENSOR_H

#include <stddef.h>
#include <stdint.h>

/* Numbers are ggml's type ids as stored in GGUF. */
enum tensor_type {
    TYPE_F32 = 0,
    TYPE_F16 = 1,
    TYPE_Q4_0 = 2,
    TYPE_Q4_1 = 3,
    TYPE_Q5_0 = 6,
    TYPE_Q5_1 = 7,
    TYPE_Q8_0 = 8,
    TYPE_Q8_1 = 9, /* activations only */
    TYPE_Q2_K = 10,
    TYPE_Q3_K = 11,
    TYPE_Q4_K = 12,
    TYPE_Q5_K = 13,
    TYPE_Q6_K = 14,
    TYPE_Q8_K = 15, /* activations only */
    TYPE_IQ2_XXS = 16,
    TYPE_IQ2_XS = 17,
    TYPE_IQ3_XXS = 18,
    TYPE_IQ1_S = 19,
    TYPE_IQ4_NL = 20,
    TYPE_IQ3_S = 21,
    TYPE_IQ2_S = 22,
    TYPE_IQ4_XS = 23,
    TYPE_I8 = 24,
    TYPE_I16 = 25,
    TYPE_I32 = 26,
    TYPE_I64 = 27,
    TYPE_F64 = 28,
    TYPE_IQ1_M = 29,
    TYPE_BF16 = 30,
    TYPE_TQ1_0 = 34,
    TYPE_TQ2_0 = 35,
    TYPE_MXFP4 = 39,
    TYPE_NVFP4 = 40,
    TYPE_Q1_0 = 41,
    TYPE_Q2_0 = 42,
    N_TENSOR_TYPES = 43,
};

#define TENSOR_MAX_DIMS 4

/* One entry of a file's tensor table. `ne[0]` is the fastest dimension: the columns of a matrix and
 * the direction of quantization; `ne[1]` rows, `ne[2]` matrices (experts or heads). Missing
 * dimensions are 1. `data` borrows the mapping until gguf_close. */
struct tensor {
    const char *name; /* terminated; owned by the gguf */
    enum tensor_type type;
    int n_dims;
    uint64_t ne[TENSOR_MAX_DIMS];
    uint64_t bytes;
    uint64_t file_offset; /* of the first byte in its shard */
    int shard;            /* 0-based */
    const void *data;
};

/* Rows of ne[0] elements over all matrices. */
static inline uint64_t tensor_rows(const struct tensor *t)
{
    return t->ne[1] * t->ne[2] * t->ne[3];
}

#endif
