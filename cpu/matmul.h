/* Weight matrices times activations.
 *
 * Fast mode: the activations are encoded once as the weight type's partner (quant_traits.act), then
 * each weight row meets all tokens while it is in the cache. Reference mode (act_f32): each weight
 * row is decoded to floats, activations stay as they are. A result is one dot product computed by
 * one worker, so its bits depend neither on the number of threads nor on the other tokens. */
#ifndef TANDEM_CPU_MATMUL_H
#define TANDEM_CPU_MATMUL_H

#include "cpu/work.h"

/* Multiplications worth waking another worker for: a few microseconds. */
#define MIN_PIECE 65536

/* The grain of a share of items that take `each` multiplications. */
static inline int64_t grain_of(int64_t each)
{
    return each < MIN_PIECE ? MIN_PIECE / (each > 0 ? each : 1) : 1;
}

/* Activations as a dot product takes them. */
struct encoded {
    const uint8_t *data;
    size_t stride; /* bytes from token to token */
};

/* How rows of one weight are multiplied. */
struct dot_plan {
    dot_fn *dot;
    matvec_fn *matvec;       /* NULL: dot serves a single token too */
    gemm_fn *gemm;           /* NULL: there is no tile kernel */
    gemm_fn *gemm_wide;      /* NULL: gemm serves any number of tokens */
    bool woven;              /* matvec and gemm want woven rows; nothing else reads those */
    decode_fn *decode;       /* NULL: dot reads the encoded row itself */
    act_quantize_fn *encode; /* NULL: dot reads float activations */
    enum tensor_type act;
    int64_t cols;
};

struct dot_plan dot_plan(const struct device_cpu *d, const struct weight *w);

/* Bytes that encoding one activation of `cols` elements takes; at most 4 each and a few more. */
size_t encoded_bytes(int64_t cols);

/* Encode n_tokens rows of src into `buffer`, `stride` bytes each; all workers take part. Gives src
 * itself where the plan encodes nothing. Not from inside a job. */
struct encoded encode_rows(struct device_cpu *d, const struct dot_plan *p, struct rows src,
                           int n_tokens, uint8_t *buffer, size_t stride);

/* out[t] = row . act[t], a plain row; n_tokens <= TOKEN_TILE; `row_floats` [cols] is scratch. */
static inline void dot_row(const struct dot_plan *p, const uint8_t *row, struct encoded act,
                           int n_tokens, float *row_floats, float *out)
{
    const void *operand = row;
    if (p->decode) {
        p->decode(row, row_floats, p->cols);
        operand = row_floats;
    }
    p->dot(p->cols, operand, act.data, act.stride, n_tokens, out);
}

/* out[t * out_stride + r] = rows[r] . act[t], each as dot_row gives it; n_tokens <= TOKEN_TILE.
 * Woven rows: whole groups of sixteen. */
void dot_rows(const struct dot_plan *p, const uint8_t *rows, size_t row_bytes, int n_rows,
              struct encoded act, int n_tokens, float *row_floats, float *out, size_t out_stride);

/* dst[t, r] = w[r] . src[t] (+ bias[r]) for n_tokens tokens. */
void matmul_rows(struct device_cpu *d, struct rows dst, const struct weight *w, struct rows src,
                 int n_tokens, const struct weight *bias);

#endif
