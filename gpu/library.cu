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
                 "needs %d.%d; a newer driver from nvidia.com helps", driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
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

/* The first call that needs the card: it may belong to another program, or have no room left. */
static bool enter_card(int index, const char *name, struct error *err)
{
    size_t free_bytes, total_bytes;
    cudaError_t result = cudaSetDevice(index);
    if (result == cudaSuccess)
        result = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (result == cudaErrorDevicesUnavailable)
        fail(err, ERR_DEVICE, "GPU %d (%s) is busy: another program uses it alone (nvidia-smi shows "
             "which)", index, name);
    else if (result == cudaErrorMemoryAllocation)
        fail(err, ERR_FIT, "GPU %d (%s) is full: other programs left no room to start there "
             "(nvidia-smi shows which)", index, name);
    else
        return CUDA_TRY(err, result);
    cudaGetLastError();
    return false;
}

static bool describe_card(int index, struct gpu_info *info, struct error *err)
{
    struct cudaDeviceProp p;
    size_t free_bytes = 0, total_bytes = 0;
    memset(info, 0, sizeof *info);
    if (!CUDA_TRY(err, cudaGetDeviceProperties(&p, index)) || !enter_card(index, p.name, err) ||
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

/* The codebooks, to the card. */
static bool upload_tables(struct gpu_stream *s, struct error *err)
{
    struct gpu_tables *t =
        (struct gpu_tables *)gpu_host->mem_alloc(1, sizeof *t, "codebooks", err);
    s->tables = (struct gpu_tables *)gpu_alloc(s, sizeof *t, "codebooks", err);
    bool ok = t && s->tables;
    if (ok) {
        gpu_host->fill_tables(t);
        gpu_write(s, s->tables, t, sizeof *t);
        ok = gpu_finish(s, err);
    }
    gpu_host->mem_free(t);
    return ok;
}

/* Shows that this card runs our code and reaches host memory. */
KERNEL void answer(uint32_t *out, uint32_t number)
{
    if (threadIdx.x == 0)
        *out = number;
}

/* Was code built that this card runs? *ptx: for which capability (tensor cores differ), 75, 80 ... */
static bool kernels_fit(struct gpu_stream *s, const struct cudaDeviceProp *p, int *ptx,
                        struct error *err)
{
    struct cudaFuncAttributes a;
    cudaError_t result = cudaFuncGetAttributes(&a, answer);
    if (result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return fail(err, ERR_DEVICE, "GPU %d (%s) has compute capability %d.%d, which this build does "
                    "not serve", s->device, p->name, p->major, p->minor);
    }
    *ptx = a.ptxVersion;
    if (!CUDA_TRY(err, result))
        return false;
    uint32_t *word = (uint32_t *)gpu_host_alloc(s, sizeof *word, "probe", err);
    if (!word)
        return false;
    LAUNCH(s, answer, 1, 32, 0, word, 42u);
    bool ok = gpu_finish(s, err);
    if (ok && *word != 42)
        ok = fail(err, ERR_DEVICE, "GPU %d (%s): a first computation gave a wrong result", s->device,
                  p->name);
    gpu_host_release(s, word);
    return ok;
}

size_t gpu_scratch_bytes(const struct gpu_limits *l)
{
    const size_t needs[] = {
        gpu_gemv_scratch(l), gpu_gemm_scratch(l), gpu_experts_scratch(l),
        gpu_attention_scratch(l), gpu_mla_absorbed_scratch(l), gpu_mla_decompressed_scratch(l),
    };
    size_t most = 0;
    for (size_t need : needs)
        most = need > most ? need : most;
    return (most + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void gpu_stream_close(struct gpu_stream *s)
{
    if (!s)
        return;
    cudaSetDevice(s->device);
    if (s->queue)
        cudaStreamSynchronize(s->queue);
    cudaFree(s->scratch);
    cudaFree(s->tables);
    if (s->mark)
        cudaEventDestroy(s->mark);
    if (s->queue)
        cudaStreamDestroy(s->queue);
    cudaGetLastError();
    gpu_host->mem_free(s);
}

bool gpu_stream_open(struct gpu_stream **out, int index, const struct gpu_limits *l,
                     struct error *err)
{
    struct cudaDeviceProp p;
    int ptx = 0;
    *out = NULL;
    struct gpu_stream *s =
        (struct gpu_stream *)gpu_host->mem_alloc(1, sizeof *s, "GPU stream", err);
    if (!s)
        return false;
    s->device = index;
    s->limits = *l;
    bool ok = CUDA_TRY(err, cudaSetDevice(index)) &&
              CUDA_TRY(err, cudaGetDeviceProperties(&p, index)) &&
              CUDA_TRY(err, cudaStreamCreateWithFlags(&s->queue, cudaStreamNonBlocking)) &&
              CUDA_TRY(err, cudaEventCreateWithFlags(&s->mark, cudaEventDisableTiming)) &&
              kernels_fit(s, &p, &ptx, err) && upload_tables(s, err);
    if (ok) {
        s->n_sms = p.multiProcessorCount;
        s->max_threads = p.maxThreadsPerBlock < MAX_THREADS ? p.maxThreadsPerBlock : MAX_THREADS;
        s->max_shared = p.sharedMemPerBlockOptin;
        s->has_bf16 = ptx >= 80;
        s->scratch_bytes = gpu_scratch_bytes(l);
        s->scratch = gpu_alloc(s, s->scratch_bytes, "working memory of the GPU", err);
    }
    if (!ok || !s->scratch) {
        gpu_stream_close(s);
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

void *gpu_host_alloc(struct gpu_stream *s, size_t bytes, const char *what, struct error *err)
{
    void *block = NULL;
    cudaSetDevice(s->device);
    cudaError_t result = cudaHostAlloc(&block, bytes ? bytes : 1, cudaHostAllocMapped);
    if (result == cudaSuccess)
        return memset(block, 0, bytes);
    cudaGetLastError();
    fail(err, result == cudaErrorMemoryAllocation ? ERR_FIT : ERR_DEVICE,
         "GPU: %s: %zu bytes of pinned memory: %s", what, bytes, cudaGetErrorString(result));
    return NULL;
}

void gpu_host_release(struct gpu_stream *s, void *block)
{
    if (!block)
        return;
    cudaStreamSynchronize(s->queue);
    cudaFreeHost(block);
}

void gpu_mark(struct gpu_stream *s)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaEventRecord(s->mark, s->queue), "mark");
}

static bool report(const struct gpu_stream *s, struct error *err)
{
    if (s->failed == cudaSuccess)
        return true;
    return fail(err, ERR_DEVICE, "GPU: %s: %s", s->failed_where, cudaGetErrorString(s->failed));
}

bool gpu_wait(struct gpu_stream *s, struct error *err)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaEventSynchronize(s->mark), "waiting for the GPU");
    return report(s, err);
}

void gpu_call(struct gpu_stream *s, void (*f)(void *ctx), void *ctx)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaLaunchHostFunc(s->queue, f, ctx), "call of the host");
}

bool gpu_is_idle(struct gpu_stream *s)
{
    cudaError_t result = cudaStreamQuery(s->queue);
    if (result == cudaErrorNotReady)
        cudaGetLastError(); /* an answer, not a failure */
    else
        gpu_latch(s, result, "waiting for the GPU");
    return result != cudaErrorNotReady;
}

bool gpu_finish(struct gpu_stream *s, struct error *err)
{
    /* also behind a failure: what was queued before it may still use the caller's memory */
    gpu_latch(s, cudaStreamSynchronize(s->queue), "waiting for the GPU");
    return report(s, err);
}

/* ---- the table ---- */

static const struct gpu_library library = {
    GPU_ABI,
    count_cards,
    describe_card,
    gpu_stream_open,
    gpu_stream_close,
    gpu_device_bytes,
    gpu_device_open,
    gpu_device_stream,
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
