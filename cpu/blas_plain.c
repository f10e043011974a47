/* Blocked for the caches, written so that the inner loop runs over independent sums and the compiler
 * can use vectors. */
#include <string.h>

#include "cpu/blas_plain.h"
#include "src/base/util.h"

#define K_BLOCK 128
#define N_BLOCK 64

/* c [m, n] += a [m, k] b [k, n] for n <= N_BLOCK. */
static void add_panel(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      int64_t ldb, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++) {
        float sum[N_BLOCK];
        memcpy(sum, c + i * ldc, (size_t)n * sizeof *sum);
        for (int64_t p = 0; p < k; p++) {
            float factor = a[i * lda + p];
            for (int64_t j = 0; j < n; j++)
                sum[j] += factor * b[p * ldb + j];
        }
        memcpy(c + i * ldc, sum, (size_t)n * sizeof *sum);
    }
}

static void clear(int64_t m, int64_t n, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        memset(c + i * ldc, 0, (size_t)n * sizeof *c);
}

void blas_plain_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, bool add, float *c, int64_t ldc)
{
    if (!add)
        clear(m, n, c, ldc);
    for (int64_t p = 0; p < k; p += K_BLOCK) {
        for (int64_t j = 0; j < n; j += N_BLOCK)
            add_panel(m, min_of(n - j, N_BLOCK), min_of(k - p, K_BLOCK), a + p, lda,
                      b + p * ldb + j, ldb, c + j, ldc);
    }
}

void blas_plain_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                   int64_t ldb, float *c, int64_t ldc)
{
    float turned[K_BLOCK * N_BLOCK]; /* a block of b, transposed */
    clear(m, n, c, ldc);
    for (int64_t p = 0; p < k; p += K_BLOCK) {
        int64_t depth = min_of(k - p, K_BLOCK);
        for (int64_t j = 0; j < n; j += N_BLOCK) {
            int64_t width = min_of(n - j, N_BLOCK);
            for (int64_t x = 0; x < width; x++) {
                for (int64_t y = 0; y < depth; y++)
                    turned[y * N_BLOCK + x] = b[(j + x) * ldb + p + y];
            }
            add_panel(m, width, depth, a + p, lda, turned, N_BLOCK, c + j, ldc);
        }
    }
}
