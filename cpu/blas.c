#include "cpu/blas.h"

#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "cpu/blas_plain.h"
#include "src/base/log.h"
#include "src/base/util.h"

/* cblas_sgemm of the library, NULL where there is none. */
static __typeof__(&cblas_sgemm) sgemm;

/* Opened at the first use and not linked: a linked OpenBLAS starts threads, each with a hundred
 * megabytes, before main begins, where they cannot be started it raises SIGINT or never lets the
 * program end. None are wanted, and it looks for their number while it is opened. */
static void open_library(void)
{
    static const char *const names[] = { "libopenblas.so.0", "libopenblas.so" };
    static const char variable[] = "OPENBLAS_NUM_THREADS";
    bool own = !getenv(variable);
    void *library = NULL;
    if (own)
        setenv(variable, "1", 1);
    for (size_t i = 0; i < ARRAY_LEN(names) && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (own)
        unsetenv(variable);
    if (!library) {
        log_detail("no OpenBLAS: products of float matrices are computed in plain C");
        return;
    }
    void (*set_threads)(int) = (void (*)(int))(uintptr_t)dlsym(library, "openblas_set_num_threads");
    if (set_threads)
        set_threads(1);
    sgemm = (__typeof__(sgemm))(uintptr_t)dlsym(library, "cblas_sgemm");
}

void blas_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_library);
}

void blas_nt(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, float *c, int64_t ldc)
{
    if (!sgemm)
        blas_plain_nt(m, n, k, a, lda, b, ldb, c, ldc);
    else
        sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)k, 1, a,
              (blasint)lda, b, (blasint)ldb, 0, c, (blasint)ldc);
}

void blas_nn(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
             int64_t ldb, bool add, float *c, int64_t ldc)
{
    if (!sgemm)
        blas_plain_nn(m, n, k, a, lda, b, ldb, add, c, ldc);
    else
        sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1, a,
              (blasint)lda, b, (blasint)ldb, add, c, (blasint)ldc);
}
