/* Woven rows: the layout there and back, and kernels that must give the bits of the dot products of
 * the plain rows. Included by check_kernels.c only. */
#ifndef TANDEM_TESTS_KERNELS_WOVEN_H
#define TANDEM_TESTS_KERNELS_WOVEN_H

#include "src/format/weave.h"

static void check_woven_call(const struct kernels *k, enum tensor_type type, int64_t n, int n_rows,
                             int n_tokens, enum pattern weights)
{
    enum tensor_type act_type = quant_traits(type)->act;
    size_t row_bytes = quant_row_bytes(type, n), act_stride = quant_row_bytes(act_type, n) + 3;
    size_t out_stride = (size_t)n_rows + 2, group = WEAVE_ROWS * row_bytes;
    struct guarded rows = guarded((size_t)n_rows * row_bytes);
    struct guarded woven = guarded((size_t)n_rows * row_bytes);
    struct guarded act = guarded((size_t)n_tokens * act_stride - 3);
    struct guarded out = guarded(((size_t)n_tokens * out_stride - 2) * sizeof(float));
    float *x = malloc((size_t)(n + 1) * sizeof *x), *found = (float *)(void *)out.data;
    uint8_t *back = malloc(group + 1);

    fill_weights(type, rows.data, n * n_rows, weights);
    for (int g = 0; g < n_rows / WEAVE_ROWS; g++) {
        weave_rows(type, n, rows.data + (size_t)g * group, woven.data + (size_t)g * group);
        unweave_rows(type, n, woven.data + (size_t)g * group, back);
        CHECK_MSG(memcmp(back, rows.data + (size_t)g * group, group) == 0,
                  "n %lld, group %d is another one when unwoven", (long long)n, g);
    }
    for (int t = 0; t < n_tokens; t++) {
        fill_floats(x, n, t % 5 == 4 ? EXTREMES : RANDOM);
        k->quantize[act_type](x, act.data + (size_t)t * act_stride, n);
    }
    for (int form = 0; form < 3; form++) {
        gemm_fn *gemm = form == 1 ? k->woven_gemm[type] : k->woven_gemm_wide[type];
        if (form == 0)
            for (int t = 0; t < n_tokens; t++)
                k->woven_matvec[type](n, woven.data, row_bytes, n_rows, act.data + (size_t)t * act_stride,
                               found + (size_t)t * out_stride);
        else if (gemm)
            gemm(n, woven.data, row_bytes, n_rows, act.data, act_stride, n_tokens, found,
                 out_stride);
        for (int t = 0; t < n_tokens; t++) {
            for (int r = 0; r < n_rows; r++) {
                float wanted, is = found[(size_t)t * out_stride + (size_t)r];
                k->dot[type](n, rows.data + (size_t)r * row_bytes,
                             act.data + (size_t)t * act_stride, 0, 1, &wanted);
                CHECK_MSG(memcmp(&is, &wanted, sizeof wanted) == 0,
                          "form %d, n %lld, row %d of %d, token %d of %d, %s: %.9g, dot gives %.9g",
                          form, (long long)n, r, n_rows, t, n_tokens, pattern_name[weights], is,
                          wanted);
            }
        }
    }
    free(x);
    free(back);
    release(rows);
    release(woven);
    release(act);
    release(out);
}

static void check_woven(const struct kernels *k, enum tensor_type type)
{
    static const int sizes[][3] = { /* blocks, rows, tokens */
                                    { 0, 16, 1 },  { 1, 16, 1 }, { 2, 32, 2 },  { 3, 48, 3 },
                                    { 5, 16, 9 },  { 8, 64, 4 }, { 9, 80, 17 }, { 13, 32, 5 },
                                    { 4, 144, 1 }, { 11, 16, 33 } };
    int64_t block = quant_traits(type)->block_elements;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        check_woven_call(k, type, sizes[i][0] * block, sizes[i][1], sizes[i][2], RANDOM);
    for (int weights = 0; weights < N_PATTERNS - 1; weights++)
        check_woven_call(k, type, 5 * block, 32, 2, (enum pattern)weights);
    check_woven_call(k, type, WEAVE_MAX_COLS, 16, 1, RANDOM);
}

#endif
