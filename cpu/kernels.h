/* The kernel table: one pointer per kernel. Plain C (cpu/ref.c) fills all of it; each ISA overrides
 * rows at run time (cpu/dispatch.c). tests/check_kernels.c compares every row with plain C.
 *
 * Common rules: pointers may be unaligned unless said; n is any count >= 0 unless said; nothing is
 * read or written outside the stated sizes; results of one token never depend on how many tokens a
 * call carries, so batches of any size give the same bits. */
#ifndef TANDEM_CPU_KERNELS_H
#define TANDEM_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/format/tensor.h"

/* Encode n floats as activation blocks; n is a whole number of blocks (32 for Q8_0 and Q8_1, 256
 * for Q8_K, 1 for F16, BF16, F32). Same bits on every ISA: the rounding rules of quant.h. */
typedef void act_quantize_fn(const float *x, void *blocks, int64_t n);

/* out[t] = dot(row, act + t * act_stride) for n_tokens activations of n elements each, encoded as
 * quant_traits(type)->act. Integer sums inside a block, float across blocks; tolerance against the
 * exact dot product of the decoded operands: 1e-5 of sum |w a|. */
typedef void dot_fn(int64_t n, const void *row, const void *act, size_t act_stride, int n_tokens,
                    float *out);

/* out[r] = dot(row r, act) for n_rows rows and one activation, with the bits of dot_fn: for types
 * whose kernel wants the activation laid out in its own order first. Needs 20 KiB of stack. */
typedef void matvec_fn(int64_t n, const void *rows, size_t row_stride, int n_rows, const void *act,
                       float *out);

/* A tile of dot products: out[t * out_stride + r] for n_rows rows and n_tokens activations, with
 * the bits that dot_fn gives for each, so callers may choose by speed alone: a tile unpacks each
 * row once and pays from about GEMM_MIN_TOKENS tokens, best with 64 rows and 128 tokens or
 * multiples. Strides: rows and act in bytes, out in floats. Needs 200 KiB of stack. */
typedef void gemm_fn(int64_t n, const void *rows, size_t row_stride, int n_rows, const void *act,
                     size_t act_stride, int n_tokens, float *out, size_t out_stride);
#define GEMM_MIN_TOKENS 4
#define GEMM_WIDE_MIN_TOKENS 24 /* for wide tiles, made for multiples of 16 tokens */

/* Decode n elements to float, bit-exact. */
typedef void decode_fn(const void *blocks, float *out, int64_t n);

/* bf16_softmax: max of a lane that has seen no position yet. */
#define BF16_NOTHING_SEEN -1e29f

/* One token's queries of an indexer (struct indexer of src/device.h), in bytes. Heads fill up groups of
 * INDEX_GROUP; those that the model does not have are 0. */
#define INDEX_GROUP 32
#define INDEX_LANES 16
struct index_query {
    int n_heads, dim;     /* dim a multiple of 4, at most INDEX_MAX_DIM */
    const int8_t *q;      /* [dim / 4, n_heads, 4] four neighbouring columns of every head; no -128 */
    const int32_t *sums;  /* [n_heads] sum of a head, for instructions that want one side unsigned */
    const float *weights; /* [n_heads] times the scale of the head's bytes */
};
#define INDEX_MAX_DIM 1024 /* products of whole heads are exact as floats */

struct kernels {
    act_quantize_fn *quantize[N_TENSOR_TYPES]; /* by activation type */
    dot_fn *dot[N_TENSOR_TYPES];               /* by weight type; NULL: no dot product */
    matvec_fn *matvec[N_TENSOR_TYPES];         /* by weight type; NULL: none, use dot */
    gemm_fn *gemm[N_TENSOR_TYPES];             /* by weight type; NULL: none, use dot */
    gemm_fn *gemm_wide[N_TENSOR_TYPES];        /* by weight type; NULL: none, use gemm */
    decode_fn *decode[N_TENSOR_TYPES];         /* by weight type */
    /* The same for woven rows (src/format/weave.h), n_rows a multiple of 16, n <= WEAVE_MAX_COLS;
     * the bits are those of the plain rows. A type has the first two or neither; woven_matvec needs
     * 64 KiB of stack. */
    matvec_fn *woven_matvec[N_TENSOR_TYPES];
    gemm_fn *woven_gemm[N_TENSOR_TYPES];
    gemm_fn *woven_gemm_wide[N_TENSOR_TYPES]; /* NULL: use woven_gemm */

    /* sum x[i] y[i] */
    float (*dot_f32)(const float *x, const float *y, int64_t n);
    float (*dot_f32_f16)(const float *x, const uint16_t *y, int64_t n);
    /* y += a x */
    void (*axpy_f32)(float a, const float *x, float *y, int64_t n);
    void (*axpy_f16)(float a, const uint16_t *x, float *y, int64_t n);
    void (*to_f16)(const float *x, uint16_t *y, int64_t n); /* round to nearest even */

    /* out = x / sqrt(mean(x^2) + eps) * weight; in place ok */
    void (*rmsnorm)(const float *x, const float *weight, float *out, int64_t n, float eps);
    /* max x[i]; -inf when n is 0 */
    float (*max_f32)(const float *x, int64_t n);
    /* x = e^(x - max), returns the sum; max >= every x[i]. Results below the smallest normal float
     * are 0 (so are those of -inf): subnormal weights would slow down everything behind them. */
    float (*softmax_exp)(float *x, int64_t n, float max);
    /* out = silu(gate) * up; in place ok */
    void (*swiglu)(const float *gate, const float *up, float *out, int64_t n);
    /* out = a + b; in place ok */
    void (*add)(const float *a, const float *b, float *out, int64_t n);

    /* For the probe (cpu/probe.h), which wants the limits that the rest is measured against. */
    /* Sum of the 64-bit words in `bytes` bytes, a multiple of READ_STEP; one stream. */
    uint64_t (*read_words)(const void *at, size_t bytes);
    /* Multiply int8 ones with int8 ones in registers and add up the products, `rounds` (at most 1e7)
     * times over; returns the sum, which is the number of multiply-adds done. */
    int64_t (*count_int8)(int64_t rounds);

    /* scores[i] = scales[i] * sum over h of weights[h] * max(0, q_h . key i) for keys [n, dim]. The
     * same bits on every ISA: lane l of INDEX_LANES adds up heads l, l + 16, ... by fused multiply-adds
     * from 0, then lanes 8, 4, 2 and 1 apart are added. */
    void (*index_scores)(const struct index_query *q, const int8_t *keys, const float *scales,
                         int64_t n, float *scores);

    /* ---- Attention on BF16 operands; all NULL where there is no hardware for it ----
     *
     * "Pairs" of a matrix [k, n] are words [k / 2, n]: rows 2 r (lower half) and 2 r + 1 of column
     * j in word (r, j). Lanes are queries: columns of the scores [positions, lanes]. ld.. count
     * elements from row to row. */

    /* c [m, n] = a [m, k] b [k, n], b as pairs, plus c when `add`. Sums in float; k a multiple of
     * 32, m and n of 16. */
    void (*bf16_gemm)(int m, int n, int k, const uint16_t *a, int64_t lda, const uint32_t *b,
                      int64_t ldb, bool add, float *c, int64_t ldc);
    /* y = x * factor, to nearest even */
    void (*bf16_round)(const float *x, float factor, uint16_t *y, int64_t n);
    /* y = pairs of two rows, to nearest even */
    void (*bf16_pair_rows)(const float *even, const float *odd, uint32_t *y, int64_t n);
    /* Two rows of n halves as BF16, to nearest even: as rows [2, n], ldr apart, and as pairs [n].
     * Either may be NULL. */
    void (*bf16_lay_halves)(const uint16_t *even, const uint16_t *odd, int64_t n, uint16_t *rows,
                            int64_t ldr, uint32_t *pairs);
    /* y [columns, rows] = x [rows, columns], of words; both multiples of 16 */
    void (*bf16_transpose)(const uint32_t *x, int64_t ldx, int rows, int columns, uint32_t *y,
                           int64_t ldy);
    /* One step of the online softmax, base 2: lane i sees positions p < seen[i] of n. With the new
     * max: weights = 2^(score - max) as pairs, 0 where unseen; shrink = 2^(old max - max); sum =
     * sum * shrink + new weights. n even, n_lanes a multiple of 16. */
    void (*bf16_softmax)(const float *scores, int64_t ld, int n, int n_lanes, const int32_t *seen,
                         float *max, float *sum, float *shrink, uint32_t *weights, int64_t ldw);
    /* x [rows, n_lanes] *= factor[lane] */
    void (*bf16_scale_lanes)(float *x, int64_t ld, int rows, int n_lanes, const float *factor);
};
#define READ_STEP 512

/* Fill the table for these ISA bits (cpu/features.h). */
void kernels_init(struct kernels *k, unsigned isa);

/* The layers of the table: ref fills every row, the others override what they do better. Each
 * assumes that the CPU has its instructions. */
void kernels_use_ref(struct kernels *k);
void kernels_use_avx2(struct kernels *k);
void kernels_use_avxvnni(struct kernels *k);
void kernels_use_avx512(struct kernels *k);
void kernels_use_vbmi(struct kernels *k);
void kernels_use_amx(struct kernels *k);
void kernels_use_neon(struct kernels *k);

#endif
