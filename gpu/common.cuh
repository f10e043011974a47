/* What every kernel file includes: the stream, launching, reductions, small helpers. */
#ifndef TANDEM_GPU_COMMON_CUH
#define TANDEM_GPU_COMMON_CUH

#include "gpu/gpu.h"
#include "gpu/verbs.cuh"

#include <assert.h>

extern const struct gpu_host *gpu_host; /* the program's calls, set when the library is opened */

#undef fail
#define fail(err, code, ...) gpu_host->error_set(err, code, __FILE__, __LINE__, __VA_ARGS__)

/* An error of the runtime as ERR_DEVICE, naming the call. */
#define CUDA_TRY(err, call) gpu_try(err, call, #call, __FILE__, __LINE__)

static inline bool gpu_try(struct error *err, cudaError_t result, const char *what,
                           const char *file, int line)
{
    if (result == cudaSuccess)
        return true;
    enum error_code code = result == cudaErrorMemoryAllocation ? ERR_FIT : ERR_DEVICE;
    return gpu_host->error_set(err, code, file, line, "GPU: %s: %s", what,
                               cudaGetErrorString(result));
}

#define Q8_SLOTS 2

/* Rows that lie in bytes beside; data NULL: none. */
struct q8_slot {
    struct rows of;
    int n_tokens;
    uint64_t used; /* the slot that was not used for longest is given away */
};

/* Operations that were asked for and not queued yet, because the next one may join them: a sum whose
 * rows are normed, two products of the same rows that SwiGLU makes one of. Not both. */
struct waiting {
    int n_tokens, n_products;
    struct {
        struct rows dst, src;
        struct weight w; /* a copy: callers may have built it for the call */
    } products[2];
    bool is_sum;
    struct rows dst, a, b, c;
};

struct gpu_stream {
    cudaStream_t queue;
    cudaEvent_t mark;
    int device;
    int n_sms;
    int max_threads;     /* most threads worth giving a block: 256, less in the emulation */
    size_t max_shared;   /* bytes of shared memory per block */
    bool has_bf16;       /* tensor cores multiply BF16 (not on Turing) */
    struct gpu_limits limits;
    struct gpu_tables *tables; /* codebooks, device memory */
    void *q8;            /* activations in bytes, Q8_SLOTS times what gpu/q8.cuh says */
    struct q8_slot slots[Q8_SLOTS];
    uint64_t q8_uses;
    bool q8_kept;        /* who queues launches says when rows change (q8_forget) */
    struct waiting waiting; /* operations of a device: gpu/fuse.cuh */
    void *workspace;     /* of cuBLAS alone */
    struct blas *blas;   /* NULL: gpu/gemm.cu serves */
    void *scratch;       /* [scratch_bytes], 256-byte aligned */
    size_t scratch_bytes;
    const atomic_int *cancel; /* of the step that is running; NULL: none */
    double cancelled_s;  /* when that was seen to be set; 0: not yet */
    bool recording;
    bool hung;           /* its queue did not end in time, or was not empty when the card was lost */
    struct gpu_stream *next_hung;
    cudaError_t failed;  /* the latch: cudaSuccess, or the first failure ... */
    char failed_where[96]; /* ... and the kernel or call that showed it */
};

/* Remember the first failure. */
static inline bool gpu_latch(struct gpu_stream *s, cudaError_t result, const char *where)
{
    if (result != cudaSuccess && s->failed == cudaSuccess) {
        s->failed = result;
        strncpy(s->failed_where, where, sizeof s->failed_where - 1);
    }
    return s->failed == cudaSuccess;
}

/* Every kernel that a LAUNCH names, listed when the library is opened: gpu_load_kernels loads them all
 * before anything is queued. The driver may hold back who loads one later until the card is idle, for
 * ever when the card waits for that very thread (gpu/handoff.cu). */
struct gpu_kernel {
    const void *function;
    struct gpu_kernel *next;
};
extern struct gpu_kernel *gpu_kernels;

template <auto KERNEL_FUNCTION> struct gpu_listed {
    struct enter : gpu_kernel {
        enter()
        {
            function = (const void *)KERNEL_FUNCTION;
            next = gpu_kernels;
            gpu_kernels = this;
        }
    };
    static inline enter entry;
};

template <typename... P, typename... A>
static void gpu_launch(struct gpu_stream *s, const char *name, void (*kernel)(P...), dim3 blocks,
                       int threads, size_t shared_bytes, A... arguments)
{
    assert(threads > 0 && threads % 32 == 0 && shared_bytes <= s->max_shared);
    if (s->failed != cudaSuccess || blocks.x == 0 || blocks.y == 0 || blocks.z == 0)
        return;
    if (shared_bytes > 48 * 1024 && /* more than that must be asked for */
        !gpu_latch(s, cudaFuncSetAttribute((const void *)kernel,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           (int)shared_bytes), name))
        return;
    GPU_LAUNCH_RAW(s, name, kernel, blocks, threads, shared_bytes, ((P)arguments)...);
    gpu_latch(s, cudaGetLastError(), name);
}

/* Threads per block when a kernel takes any multiple of 32. */
static inline int gpu_threads(const struct gpu_stream *s, int64_t useful)
{
    int64_t n = (useful + 31) / 32 * 32;
    return (int)(n < 32 ? 32 : n > s->max_threads ? s->max_threads : n);
}

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- on the device ---- */

/* Sum and maximum over the block; every thread gets it. `scratch` is shared memory of 33 floats that
 * nobody else uses; it may be used again after the next block_sync. Warps are added in their order. */
#define BLOCK_SCRATCH 33

DEVICE float block_sum(float x, float *scratch)
{
    x = warp_sum(x);
    if (lane_id() == 0)
        scratch[warp_id()] = x;
    block_sync();
    if (threadIdx.x == 0) {
        float sum = 0;
        for (int w = 0; w < (int)blockDim.x / 32; w++)
            sum += scratch[w];
        scratch[32] = sum;
    }
    block_sync();
    return scratch[32];
}

DEVICE float block_max(float x, float *scratch)
{
    x = warp_max(x);
    if (lane_id() == 0)
        scratch[warp_id()] = x;
    block_sync();
    if (threadIdx.x == 0) {
        float max = scratch[0];
        for (int w = 1; w < (int)blockDim.x / 32; w++)
            max = fmaxf(max, scratch[w]);
        scratch[32] = max;
    }
    block_sync();
    return scratch[32];
}

#endif
