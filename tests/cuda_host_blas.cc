/* A cuBLAS of plain loops on emulated streams, so that gpu/blas.cu runs as it would on a card: order of
 * arguments, transposes, leading dimensions, types, workspace. What the manual forbids is refused, and
 * the workspace is filled with NaN by every product, to show that nobody else keeps anything there.
 *
 * TANDEM_GPU_EMULATE=noblas: there is no such library; badblas: it makes no handle; failblas: products
 * are refused. */
#include <stdlib.h>

#include "tests/cuda_host.h"

#define LIBRARY "libcublas.so.13"
#define INVALID_VALUE 7
#define NOT_SUPPORTED 15

enum { OP_N, OP_T, REAL_32 = 0, REAL_16 = 2, SUM_32 = 68, SUM_32_PEDANTIC = 69 };

namespace {

struct handle {
    cudaStream_t queue;
    void *workspace;
    size_t bytes;
};

bool wish(const char *word)
{
    const char *text = getenv("TANDEM_GPU_EMULATE");
    return text && strcmp(text, word) == 0;
}

int create(void **h)
{
    if (wish("badblas"))
        return NOT_SUPPORTED;
    *h = new handle();
    return 0;
}

int destroy(void *h)
{
    delete (handle *)h;
    return 0;
}

int set_stream(void *h, cudaStream_t queue)
{
    ((handle *)h)->queue = queue;
    return 0;
}

int set_workspace(void *h, void *at, size_t bytes)
{
    ((handle *)h)->workspace = at;
    ((handle *)h)->bytes = bytes;
    return (uintptr_t)at % 256 ? INVALID_VALUE : 0;
}

/* A matrix by columns, as it is or transposed. */
struct matrix {
    const void *data;
    int type, leading;
    bool transposed;

    float operator()(int row, int column) const
    {
        size_t at = transposed ? (size_t)row * (size_t)leading + (size_t)column
                               : (size_t)column * (size_t)leading + (size_t)row;
        return type == REAL_16 ? f16_to_float(((const uint16_t *)data)[at])
                               : ((const float *)data)[at];
    }
};

int gemm(void *opaque, int op_a, int op_b, int m, int n, int k, const void *alpha_at, const void *a,
         int a_type, int lda, const void *b, int b_type, int ldb, const void *beta_at, void *c,
         int c_type, int ldc, int sum_type, int)
{
    const handle h = *(const handle *)opaque;
    float alpha = *(const float *)alpha_at, beta = *(const float *)beta_at;
    bool types = a_type == b_type && (a_type == REAL_32 || a_type == REAL_16) && c_type == REAL_32 &&
                 (sum_type == SUM_32 || (sum_type == SUM_32_PEDANTIC && a_type == REAL_32));
    if (m < 0 || n < 0 || k < 0 || lda < (op_a == OP_N ? m : k) || ldb < (op_b == OP_N ? k : n) ||
        ldc < m)
        return INVALID_VALUE;
    if (!types || !h.workspace || wish("failblas")) /* without one it would allocate while recorded */
        return NOT_SUPPORTED;
    matrix left = { a, a_type, lda, op_a == OP_T }, right = { b, b_type, ldb, op_b == OP_T };
    cuda_host_launch(h.queue, "cublasGemmEx", NULL, dim3(1), 32, 0, [=]() {
        if (threadIdx.x)
            return;
        memset(h.workspace, 0xff, h.bytes < 4096 ? h.bytes : 4096);
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                float sum = 0, *to = (float *)c + (size_t)j * (size_t)ldc + i;
                for (int p = 0; p < k; p++)
                    sum += left(i, p) * right(p, j);
                *to = beta != 0 ? alpha * sum + beta * *to : alpha * sum;
            }
        }
    });
    return 0;
}

const struct {
    const char *name;
    void *function;
} functions[] = {
    { "cublasCreate_v2", (void *)create },
    { "cublasDestroy_v2", (void *)destroy },
    { "cublasSetStream_v2", (void *)set_stream },
    { "cublasSetWorkspace_v2", (void *)set_workspace },
    { "cublasGemmEx", (void *)gemm },
};

} // namespace

void *optional_library(const char *name)
{
    return strcmp(name, LIBRARY) == 0 && !wish("noblas") ? (void *)functions : NULL;
}

void *library_function(void *library, const char *name)
{
    for (auto &f : functions)
        if (library && strcmp(f.name, name) == 0)
            return f.function;
    return NULL;
}
