/* Products of small float matrices, row-major, in the calling thread. cpu/blas.c asks OpenBLAS, which
 * it opens at run time; without it cpu/blas_plain.c computes. Tile sizes are the caller's and never
 * depend on thread counts. */
#ifndef TANDEM_CPU_BLAS_H
#define TANDEM_CPU_BLAS_H

#include <stdbool.h>
#include <stdint.h>

/* Before the first product: no threads of the library's own. */
void blas_init(void);

/* c [m, n] = a [m, k] times transposed b [n, k], rows lda, ldb, ldc floats apart. */
void blas_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, float *c, int64_t ldc);

/* c [m, n] = a [m, k] times b [k, n], plus c when `add`. */
void blas_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, bool add, float *c, int64_t ldc);

#endif
