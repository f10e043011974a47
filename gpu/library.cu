/* The exported symbol, cards, streams, memory. */
#include "gpu/common.cuh"

#include <stdio.h>

#define ALIGNMENT ((size_t)256)
#define MAX_THREADS 256

const struct gpu_host *gpu_host;

/* ---- cards ---- */

static int count_cards(struct error *err)
{
    int n = 0;
    cudaError_t result = cudaGetDeviceCount(&n);
    if (result == cudaSuccess && n > 0)
        return n;
    cudaGetLastError(); /* forget it: there is just no GPU */
    if (result == cudaErrorInsufficientDriver) {
        int driver = 0;
        cudaDriverGetVersion(&driver);
        if (driver > 0)
            fail(err, ERR_DEVICE, "the GPU driver is too old: it serves CUDA %d.%d, this program "
                 "needs %d.%d", driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                 CUDART_VERSION % 1000 / 10);
        else
            fail(err, ERR_DEVICE, "no GPU driver found");
    } else if (result == cudaSuccess || result == cudaErrorNoDevice) {
        fail(err, ERR_DEVICE, "no GPU found (or all hidden by CUDA_VISIBLE_DEVICES)");
    } else {
        fail(err, ERR_DEVICE, "GPU: %s", cudaGetErrorString(result));
    }
    return 0;
}

static bool describe_card(int index, struct gpu_info *info, struct error *err)
{
    struct cudaDeviceProp p;
    size_t free_bytes = 0, total_bytes = 0;
    memset(info, 0, sizeof *info);
    if (!CUDA_TRY(err, cudaGetDeviceProperties(&p, index)) ||
        !CUDA_TRY(err, cudaSetDevice(index)) ||
        !CUDA_TRY(err, cudaMemGetInfo(&free_bytes, &total_bytes)))
        return false;
    snprintf(info->name, sizeof info->name, "%.127s", p.name);
    info->total_bytes = total_bytes;
    info->free_bytes = free_bytes;
    info->major = p.major;
    info->minor = p.minor;
    info->n_sms = p.multiProcessorCount;
    info->emulated = p.maxThreadsPerBlock < MAX_THREADS; /* no card has such small blocks */
    return true;
}

/* ---- streams ---- */

static size_t scratch_for(const struct gpu_limits *l)
{
    (void)l;
    return 0;
}

static void stream_close(struct gpu_stream *s)
{
    if (!s)
        return;
    cudaSetDevice(s->device);
    if (s->queue)
        cudaStreamSynchronize(s->queue);
    cudaFree(s->scratch);
    if (s->queue)
        cudaStreamDestroy(s->queue);
    cudaGetLastError();
    gpu_host->mem_free(s);
}

static bool stream_open(struct gpu_stream **out, int index, const struct gpu_limits *l,
                        struct error *err)
{
    struct cudaDeviceProp p;
    *out = NULL;
    struct gpu_stream *s =
        (struct gpu_stream *)gpu_host->mem_alloc(1, sizeof *s, "GPU stream", err);
    if (!s)
        return false;
    s->device = index;
    s->limits = *l;
    bool ok = CUDA_TRY(err, cudaSetDevice(index)) &&
              CUDA_TRY(err, cudaGetDeviceProperties(&p, index)) &&
              CUDA_TRY(err, cudaStreamCreateWithFlags(&s->queue, cudaStreamNonBlocking));
    if (ok) {
        s->n_sms = p.multiProcessorCount;
        s->max_threads = p.maxThreadsPerBlock < MAX_THREADS ? p.maxThreadsPerBlock : MAX_THREADS;
        s->max_shared = p.sharedMemPerBlockOptin;
        s->has_bf16 = p.major >= 8;
        s->scratch_bytes = scratch_for(l);
        s->scratch = gpu_alloc(s, s->scratch_bytes, "working memory of the GPU", err);
    }
    if (!ok || !s->scratch) {
        stream_close(s);
        return false;
    }
    *out = s;
    return true;
}

/* ---- memory ---- */

void *gpu_alloc(struct gpu_stream *s, size_t bytes, const char *what, struct error *err)
{
    void *block = NULL;
    cudaSetDevice(s->device);
    cudaError_t result = cudaMalloc(&block, bytes ? bytes : 1);
    if (result == cudaSuccess)
        return block;
    cudaGetLastError(); /* running out of memory does not make the card unusable */
    fail(err, result == cudaErrorMemoryAllocation ? ERR_FIT : ERR_DEVICE,
         "GPU: %s: %zu bytes: %s", what, bytes, cudaGetErrorString(result));
    return NULL;
}

void gpu_release(struct gpu_stream *s, void *block)
{
    if (!block)
        return;
    cudaStreamSynchronize(s->queue);
    cudaFree(block);
}

void gpu_write(struct gpu_stream *s, void *dst, const void *host_src, size_t bytes)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaMemcpyAsync(dst, host_src, bytes, cudaMemcpyHostToDevice, s->queue),
                  "copy to the GPU");
}

void gpu_read(struct gpu_stream *s, void *host_dst, const void *src, size_t bytes)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaMemcpyAsync(host_dst, src, bytes, cudaMemcpyDeviceToHost, s->queue),
                  "copy from the GPU");
}

void gpu_fill(struct gpu_stream *s, void *dst, int byte, size_t bytes)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaMemsetAsync(dst, byte, bytes, s->queue), "fill");
}

bool gpu_finish(struct gpu_stream *s, struct error *err)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaStreamSynchronize(s->queue), "waiting for the GPU");
    if (s->failed == cudaSuccess)
        return true;
    return fail(err, ERR_DEVICE, "GPU: %s: %s", s->failed_where, cudaGetErrorString(s->failed));
}

/* ---- the table ---- */

static const struct gpu_library library = {
    GPU_ABI,
    count_cards,
    describe_card,
    stream_open,
    stream_close,
    {
#define GPU_ROW(name) gpu_##name,
        GPU_LAUNCHERS(GPU_ROW)
#undef GPU_ROW
    },
};

extern "C" __attribute__((visibility("default"))) const struct gpu_library *
tandem_gpu(uint32_t abi, const struct gpu_host *host)
{
    if (abi != GPU_ABI)
        return NULL;
    gpu_host = host;
    return &library;
}
