/* The exported symbol, cards, streams, memory. */
#include "gpu/blas.cuh"
#include "gpu/q8.cuh"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ALIGNMENT ((size_t)256)
#define MAX_THREADS 256
#define PATIENCE_S 120 /* for a whole step of a large dense model, on a slow card */
#define CANCEL_PATIENCE_S 10
#define POLL_S 1e-3 /* so long a wait keeps its processor, then it naps between two looks */
#define NAP_NS 50000

const struct gpu_host *gpu_host;
struct gpu_kernel *gpu_kernels;

/* ---- a card that hangs ----
 * Calls that wait for the card (synchronize, free, destroy, copies to memory that is not pinned) would
 * wait with it; so none is made while one of these queues does not move. */

static struct gpu_stream *hung_streams;

static bool card_hangs(void)
{
    bool hangs = false;
    for (struct gpu_stream *s = hung_streams; s; s = s->next_hung)
        hangs = cudaStreamQuery(s->queue) == cudaErrorNotReady || hangs;
    if (hung_streams)
        cudaGetLastError(); /* an answer, not a failure */
    return hangs;
}

static void list_hung(struct gpu_stream *s)
{
    s->next_hung = hung_streams;
    hung_streams = s;
    s->hung = true;
}

static void unlist_hung(struct gpu_stream *s)
{
    struct gpu_stream **at = &hung_streams;
    while (*at && *at != s)
        at = &(*at)->next_hung;
    if (*at)
        *at = s->next_hung;
}

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

/* Have the driver load every kernel now: see struct gpu_kernel. Asking for its attributes does it. */
static cudaError_t load_kernels(int index)
{
    static uint64_t loaded; /* bit per card */
    uint64_t bit = (uint64_t)1 << (index & 63);
    struct cudaFuncAttributes a;
    cudaError_t result = cudaSuccess;
    for (struct gpu_kernel *k = gpu_kernels; k && !(loaded & bit) && result == cudaSuccess; k = k->next)
        result = cudaFuncGetAttributes(&a, k->function);
    if (result == cudaSuccess)
        loaded |= bit;
    return result;
}

/* Code that this card cannot run: kernels_fit says so to who wants to use it. */
static bool is_other_code(cudaError_t result)
{
    return result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction ||
           result == cudaErrorUnsupportedPtxVersion;
}

/* The first calls that need the card: it may belong to another program, or have no room left. */
static bool enter_card(int index, const char *name, struct error *err)
{
    size_t free_bytes, total_bytes;
    cudaError_t result = cudaSetDevice(index);
    if (result == cudaSuccess)
        result = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (result == cudaSuccess) /* before anybody asks how much is free */
        result = load_kernels(index);
    if (is_other_code(result)) {
        cudaGetLastError();
        return true;
    }
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
    int limited = 0;
    memset(info, 0, sizeof *info);
    if (card_hangs())
        return fail(err, ERR_DEVICE, "GPU %d does not answer", index);
    if (!CUDA_TRY(err, cudaGetDeviceProperties(&p, index)) || !enter_card(index, p.name, err) ||
        !CUDA_TRY(err, cudaDeviceGetAttribute(&limited, cudaDevAttrKernelExecTimeout, index)) ||
        !CUDA_TRY(err, cudaMemGetInfo(&free_bytes, &total_bytes)))
        return false;
    snprintf(info->name, sizeof info->name, "%.127s", p.name);
    info->total_bytes = total_bytes;
    info->free_bytes = free_bytes;
    info->major = p.major;
    info->minor = p.minor;
    info->n_sms = p.multiProcessorCount;
    snprintf(info->pci, sizeof info->pci, "%04x:%02x:%02x.0", (unsigned)p.pciDomainID & 0xffff,
             (unsigned)p.pciBusID & 0xff, (unsigned)p.pciDeviceID & 0xff);
    info->limits_kernels = limited;
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
    cudaError_t result = cudaFuncGetAttributes(&a, (const void *)answer);
    if (result == cudaSuccess)
        result = load_kernels(s->device);
    if (is_other_code(result)) {
        cudaGetLastError();
        if (result == cudaErrorUnsupportedPtxVersion)
            return fail(err, ERR_DEVICE, "GPU %d (%s): the driver is too old to translate this build's "
                        "code for compute capability %d.%d; a newer driver, or make GPU_ARCH=%d%d",
                        s->device, p->name, p->major, p->minor, p->major, p->minor);
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

/* What a stream allocates beside its tables. */
static size_t working_bytes(const struct gpu_limits *l)
{
    const size_t needs[] = {
        gpu_gemv_scratch(l), gpu_gemm_scratch(l), gpu_experts_scratch(l),
        gpu_attention_scratch(l), gpu_mla_absorbed_scratch(l), gpu_mla_decompressed_scratch(l),
        gpu_indexer_scratch(l), gpu_attention_window_scratch(l),
    };
    size_t most = 0;
    for (size_t need : needs)
        most = need > most ? need : most;
    return (most + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + q8_stream_bytes(l) +
           blas_workspace_bytes(l);
}

size_t gpu_scratch_bytes(const struct gpu_limits *l)
{
    return working_bytes(l) + blas_own_bytes(l);
}

void gpu_stream_close(struct gpu_stream *s)
{
    if (!s)
        return;
    if (card_hangs()) { /* kept: the card may be at work with it */
        if (!s->hung)
            list_hung(s);
        return;
    }
    unlist_hung(s);
    cudaSetDevice(s->device);
    if (s->queue)
        gpu_finish(s, NULL);
    blas_close(s);
    cudaFree(s->q8);
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
        size_t bytes = working_bytes(l), first = q8_stream_bytes(l);
        size_t second = blas_workspace_bytes(l);
        s->q8 = gpu_alloc(s, bytes, "working memory of the GPU", err);
        s->workspace = (char *)s->q8 + first;
        s->scratch = (char *)s->workspace + second;
        s->scratch_bytes = bytes - first - second;
        if (s->q8 && second > 0)
            blas_open(s);
    }
    if (!ok || !s->q8) {
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
    if (card_hangs()) {
        fail(err, ERR_DEVICE, "GPU: %s: it does not answer", what);
        return NULL;
    }
    cudaSetDevice(s->device);
    cudaError_t result = cudaMalloc(&block, bytes / 16 * 16 + 16);
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
    gpu_finish(s, NULL);
    if (!card_hangs())
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
    if (card_hangs()) {
        fail(err, ERR_DEVICE, "GPU: %s: it does not answer", what);
        return NULL;
    }
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
    gpu_finish(s, NULL);
    if (!card_hangs())
        cudaFreeHost(block);
}

/* ---- waiting ---- */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double gpu_deadline(struct gpu_stream *s, double since)
{
    double patience = s->limits.patience_s > 0 ? s->limits.patience_s : PATIENCE_S;
    double end = since + patience;
    if (!s->cancel || !s->cancel->load(std::memory_order_relaxed))
        return end;
    if (s->cancelled_s == 0)
        s->cancelled_s = now_s();
    double sooner = s->cancelled_s + CANCEL_PATIENCE_S;
    return sooner < end ? sooner : end;
}

void gpu_give_up(struct gpu_stream *s)
{
    if (!s->hung)
        list_hung(s);
    gpu_latch(s, cudaErrorLaunchTimeout, "waiting for the GPU");
}

/* Ask until the answer is not "not ready"; latch a failure. */
static void await(struct gpu_stream *s, cudaError_t (*ask)(struct gpu_stream *s))
{
    double start = now_s(), now = start;
    if (s->hung)
        return;
    cudaError_t answer = ask(s);
    while (answer == cudaErrorNotReady && now < gpu_deadline(s, start)) {
        struct timespec nap = { 0, NAP_NS };
        if (now - start < POLL_S)
            sched_yield();
        else
            nanosleep(&nap, NULL);
        now = now_s();
        answer = ask(s);
    }
    if (answer == cudaErrorNotReady)
        gpu_give_up(s);
    else
        gpu_latch(s, answer, "waiting for the GPU");
    cudaGetLastError(); /* "not ready" is an answer, not a failure; the others are latched */
}

static cudaError_t ask_queue(struct gpu_stream *s)
{
    return cudaStreamQuery(s->queue);
}

static cudaError_t ask_mark(struct gpu_stream *s)
{
    return cudaEventQuery(s->mark);
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
    if (s->failed == cudaErrorLaunchTimeout && s->hung)
        return fail(err, ERR_DEVICE, "GPU: it does not answer any more");
    return fail(err, ERR_DEVICE, "GPU: %s: %s", s->failed_where, cudaGetErrorString(s->failed));
}

bool gpu_wait(struct gpu_stream *s, struct error *err)
{
    if (s->failed == cudaSuccess)
        await(s, ask_mark);
    return report(s, err);
}

void gpu_call(struct gpu_stream *s, void (*f)(void *ctx), void *ctx)
{
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaLaunchHostFunc(s->queue, f, ctx), "call of the host");
}

void gpu_enter(struct gpu_stream *s)
{
    cudaSetDevice(s->device); /* which is every thread's own */
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
    await(s, ask_queue);
    return report(s, err);
}

/* ---- recording ---- */

struct gpu_record {
    cudaGraphExec_t graph;
    struct gpu_record *next; /* of those that a card was given up with */
};

static struct gpu_record *kept_records;

void gpu_record(struct gpu_stream *s)
{
    /* only this thread's calls are watched: others may copy or allocate meanwhile */
    s->recording = s->failed == cudaSuccess;
    q8_forget_all(s); /* what lies in bytes was made by launches that are not recorded */
    if (s->recording)
        gpu_latch(s, cudaStreamBeginCapture(s->queue, cudaStreamCaptureModeThreadLocal), "record");
}

struct gpu_record *gpu_recorded(struct gpu_stream *s, struct error *err)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (!s->recording)
        return report(s, err), (struct gpu_record *)NULL;
    s->recording = false;
    q8_forget_all(s);
    cudaError_t result = cudaStreamEndCapture(s->queue, &graph);
    if (gpu_latch(s, result, "record"))
        gpu_latch(s, cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    if (graph)
        cudaGraphDestroy(graph);
    struct gpu_record *r = NULL;
    if (s->failed != cudaSuccess) {
        fail(err, ERR_DEVICE, "GPU: %s: %s", s->failed_where, cudaGetErrorString(s->failed));
        s->failed = cudaSuccess; /* nothing has run; a card that has failed says so again */
        cudaGetLastError();
    } else if ((r = (struct gpu_record *)gpu_host->mem_alloc(1, sizeof *r, "record", err))) {
        r->graph = exec;
    } else {
        cudaGraphExecDestroy(exec);
    }
    return r;
}

void gpu_replay(struct gpu_stream *s, struct gpu_record *r)
{
    q8_forget_all(s);
    if (s->failed == cudaSuccess)
        gpu_latch(s, cudaGraphLaunch(r->graph, s->queue), "replay");
}

void gpu_forget(struct gpu_stream *s, struct gpu_record *r)
{
    (void)s;
    if (!r)
        return;
    if (card_hangs()) {
        r->next = kept_records;
        kept_records = r;
        return;
    }
    cudaGraphExecDestroy(r->graph);
    gpu_host->mem_free(r);
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
    /* A queue of the card for each stream: with the usual eight, a stream may come to stand behind
     * another one that waits for the CPU. */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    return &library;
}
