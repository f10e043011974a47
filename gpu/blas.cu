/* Products of many tokens by cuBLAS: decode a slab of the matrix, multiply on tensor cores.
 *
 * ## When
 * A weight costs 0.56 bytes (Q4_K) to read, 2 to write as F16 and 2 to read again, whatever the number
 * of tokens: 2.3 ps at 2 TB/s. Then n tokens take 2 n operations at some 300 Tflop/s, where the tiles of
 * gpu/gemm.cu, which decode for every 64 tokens anew, reach a fifth of that: even at about 90 tokens.
 * Slabs of 16 M weights are 32 MB of F16, so that on cards with a large L2 (H100 50 MB, RTX 4090 72 MB)
 * most of what is written is read again before it leaves the chip.
 *
 * ## How
 * cuBLAS is half a gigabyte and many users have only a driver: it is opened at run time, and its
 * absence says nothing. Matrices are stored by columns there: our row-major W [rows, cols] is its
 * [cols, rows], so the product asked for is dst' = (W')' src' with leading dimensions cols, the width of
 * the activation rows, and the stride of dst.
 * Fast profile: F16 operands, F32 sums, as in gpu/gemm.cu. F32 profile: F32 operands and "pedantic"
 * sums: no TF32, no reordering by precision.
 * A product that is refused is done by our own tiles, as are all after it; the handle stays until the
 * stream closes, since destroying it waits for the whole card, which may be waiting for us.
 * The workspace is given explicitly, so that a recorded launch finds it again, and with one stream a
 * handle the same input gives the same bits. */
#include "gpu/blas.cuh"
#include "gpu/gemm.cuh"

#define BLAS_TOKENS 96
#define SLAB_WEIGHTS ((int64_t)16 << 20)
#define SLAB_ROWS 128 /* a slab is a multiple of these: the height of cuBLAS' tiles */
#define WORKSPACE_BYTES ((size_t)32 << 20) /* what NVIDIA recommends for Hopper */

/* What a handle takes of device memory by itself, beside our workspace: the default workspace that it
 * was created with, 32 MiB on newer cards, and the code of a few kernels, which the driver loads when
 * each is used first. An estimate, rounded up: the size is nowhere to be asked for, and no card was at
 * hand to measure it. With -v a session tells at its end how much memory the card really gave. */
#define OWN_BYTES ((size_t)64 << 20)

/* Constants of cublas_api.h and library_types.h. */
enum { OP_N = 0, OP_T = 1, REAL_32 = 0, REAL_16 = 2, SUM_32 = 68, SUM_32_PEDANTIC = 69, ANY_ALGORITHM = -1 };

struct blas {
    void *handle;
    bool refused; /* a product: no more are asked for */
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, cudaStream_t queue);
    int (*set_workspace)(void *handle, void *at, size_t bytes);
    int (*gemm)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                const void *a, int a_type, int lda, const void *b, int b_type, int ldb,
                const void *beta, void *c, int c_type, int ldc, int sum_type, int algorithm);
};

/* Where the loader looks, then where the toolkit puts it: not every installation tells the loader. */
static void *library_of_blas()
{
    static const char *const names[] = {
        "libcublas.so.13", "libcublas.so.12", "/usr/local/cuda/lib64/libcublas.so.13",
        "/usr/local/cuda/lib64/libcublas.so.12", "/opt/cuda/lib64/libcublas.so.13",
        "/opt/cuda/lib64/libcublas.so.12",
    };
    for (const char *name : names) {
        void *library = optional_library(name);
        if (library)
            return library;
    }
    return NULL;
}

/* Every function, or none. */
static bool find_functions(struct blas *b)
{
    void *library = library_of_blas();
    *(void **)&b->create = library_function(library, "cublasCreate_v2");
    *(void **)&b->destroy = library_function(library, "cublasDestroy_v2");
    *(void **)&b->set_stream = library_function(library, "cublasSetStream_v2");
    *(void **)&b->set_workspace = library_function(library, "cublasSetWorkspace_v2");
    *(void **)&b->gemm = library_function(library, "cublasGemmEx");
    return b->create && b->destroy && b->set_stream && b->set_workspace && b->gemm;
}

static bool is_wanted(const struct gpu_limits *l)
{
    return l->max_tokens >= BLAS_TOKENS && l->max_cols > 0 && l->max_rows > 0;
}

static bool is_there(const struct gpu_limits *l)
{
    struct blas b = {};
    return is_wanted(l) && find_functions(&b);
}

void blas_close(struct gpu_stream *s)
{
    if (s->blas && s->blas->handle)
        s->blas->destroy(s->blas->handle);
    gpu_host->mem_free(s->blas);
    s->blas = NULL;
}

void blas_open(struct gpu_stream *s)
{
    if (!is_wanted(&s->limits))
        return;
    s->blas = (struct blas *)gpu_host->mem_alloc(1, sizeof *s->blas, "cuBLAS", NULL);
    bool ok = s->blas && find_functions(s->blas) && s->blas->create(&s->blas->handle) == 0 &&
              s->blas->set_stream(s->blas->handle, s->queue) == 0 &&
              s->blas->set_workspace(s->blas->handle, s->workspace, WORKSPACE_BYTES) == 0;
    if (!ok)
        blas_close(s);
    cudaGetLastError(); /* what it failed with is no failure of the stream */
}

/* ---- operands ---- */

/* Activations as F16, row behind row. */
KERNEL void rows_to_f16(uint16_t *to, const float *src, int64_t stride, int64_t width)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i < width)
        to[row * width + i] = to_operand(src[row * stride + i]);
}

/* Every row begins with the bias, onto which the product is added. */
KERNEL void rows_of_bias(float *dst, int64_t stride, const float *bias, int64_t width)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < width)
        dst[blockIdx.y * stride + i] = bias[i];
}

/* Weights of a slab: no more than the largest matrix has, but SLAB_ROWS rows. */
static int64_t slab_weights(const struct gpu_limits *l)
{
    int64_t least = SLAB_ROWS * l->max_cols, most = l->max_rows * l->max_cols;
    most = most < SLAB_WEIGHTS ? most : SLAB_WEIGHTS;
    return most > least ? most : least;
}

static int64_t slab_rows(const struct gpu_limits *l, int64_t cols)
{
    return slab_weights(l) / cols / SLAB_ROWS * SLAB_ROWS;
}

static size_t slab_bytes(const struct gpu_limits *l)
{
    return ((size_t)slab_weights(l) * (l->act_f32 ? 4 : 2) + 255) / 256 * 256;
}

/* Activations as cuBLAS reads them. */
struct operand {
    const void *data;
    int stride;
};

static struct operand operand_of(struct gpu_stream *s, void *at, struct rows src, int64_t cols,
                                 int n_tokens)
{
    if (s->limits.act_f32)
        return { src.data, (int)src.stride };
    int threads = gpu_threads(s, cols);
    LAUNCH(s, rows_to_f16, dim3((unsigned)divide_up(cols, threads), (unsigned)n_tokens), threads, 0,
           (uint16_t *)at, src.data, src.stride, cols);
    return { at, (int)cols };
}

/* dst columns of n_rows rows of the decoded slab. */
static bool multiply(struct gpu_stream *s, float *dst, int64_t stride, const void *slab,
                     int64_t n_rows, int64_t cols, struct operand x, int n_tokens, float beta)
{
    bool exact = s->limits.act_f32;
    int type = exact ? REAL_32 : REAL_16;
    float alpha = 1;
    return s->blas->gemm(s->blas->handle, OP_T, OP_N, (int)n_rows, n_tokens, (int)cols, &alpha, slab,
                         type, (int)cols, x.data, type, x.stride, &beta, dst, REAL_32, (int)stride,
                         exact ? SUM_32_PEDANTIC : SUM_32, ANY_ALGORITHM) == 0;
}

bool blas_gemm(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
               const float *bias, int n_tokens)
{
    if (!s->blas || s->blas->refused || n_tokens < BLAS_TOKENS || w->cols > s->limits.max_cols)
        return false;
    char *slab = (char *)s->scratch;
    struct operand x = operand_of(s, slab + slab_bytes(&s->limits), src, w->cols, n_tokens);
    if (bias) {
        int threads = gpu_threads(s, w->rows);
        LAUNCH(s, rows_of_bias, dim3((unsigned)divide_up(w->rows, threads), (unsigned)n_tokens),
               threads, 0, dst.data, dst.stride, bias, w->rows);
    }
    int64_t step = slab_rows(&s->limits, w->cols);
    for (int64_t row = 0; row < w->rows && s->failed == cudaSuccess; row += step) {
        int64_t n = w->rows - row < step ? w->rows - row : step;
        gpu_dequantize(s, slab, s->limits.act_f32 ? TYPE_F32 : TYPE_F16,
                       (const char *)w->data + row * (int64_t)w->row_bytes, w->type, n * w->cols);
        if (!multiply(s, dst.data + row, dst.stride, slab, n, w->cols, x, n_tokens, bias ? 1 : 0)) {
            s->blas->refused = true; /* our own products do all of this one */
            return false;
        }
    }
    return true;
}

size_t blas_scratch(const struct gpu_limits *l)
{
    size_t rows = l->act_f32 ? 0 : (size_t)l->max_tokens * (size_t)l->max_cols * sizeof(uint16_t);
    return is_there(l) ? slab_bytes(l) + rows : 0;
}

size_t blas_workspace_bytes(const struct gpu_limits *l)
{
    return is_there(l) ? WORKSPACE_BYTES : 0;
}

size_t blas_own_bytes(const struct gpu_limits *l)
{
    return is_there(l) ? OWN_BYTES : 0;
}
