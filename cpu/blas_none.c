/* cpu/blas.h in a build without libraries. */
#include "cpu/blas.h"

#include "cpu/blas_plain.h"

void blas_init(void)
{
}

void blas_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, float *c, int64_t ldc)
{
    blas_plain_nt(m, n, k, a, lda, b, ldb, c, ldc);
}

void blas_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, bool add, float *c, int64_t ldc)
{
    blas_plain_nn(m, n, k, a, lda, b, ldb, add, c, ldc);
}
