/* The products of cpu/blas.h in plain C, for where there is no library. */
#ifndef TANDEM_CPU_BLAS_PLAIN_H
#define TANDEM_CPU_BLAS_PLAIN_H

#include <stdbool.h>
#include <stdint.h>

void blas_plain_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc);
void blas_plain_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, bool add, float *c, int64_t ldc);

#endif
