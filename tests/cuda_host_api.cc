/* The CUDA runtime on host threads: the card, its memory, streams and launches. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda_host_state.h"

#define DEFAULT_MEMORY ((uint64_t)8 << 30)
#define SMALL_MEMORY ((uint64_t)16 << 20)
#define SHARED_USUAL ((size_t)48 << 10) /* what every kernel may have, and with cudaFuncSetAttribute */
#define SHARED_MOST ((size_t)99 << 10)
#define MOST_THREADS 1024
#define BLOCK_THREADS 64 /* small blocks: a fibre costs as much as a few hundred operations */

using namespace cuda_host;

namespace {

std::map<void *, memory> *volatile kept;

/* What the run launched, for the test that looks for kernels never launched. */
struct at_exit {
    ~at_exit()
    {
        device_error = cudaErrorIllegalAddress; /* streams that were given up end now */
        hangs = false;
        for (int i = 0; i < 5000 && n_busy > 0; i++)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (until_hang != NEVER) /* what a program gives up with a card is no leak */
            kept = new std::map<void *, memory>(blocks);
        const char *path = getenv("TANDEM_GPU_COUNTS");
        FILE *f = path && !launches.empty() ? fopen(path, "a") : NULL;
        for (auto &l : launches)
            if (f)
                fprintf(f, "%s %llu\n", l.first.c_str(), (unsigned long long)l.second);
        if (f)
            fclose(f);
    }
} report;

} // namespace

/* ---- device ---- */

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient";
    case cudaErrorDevicesUnavailable: return "devices busy or unavailable";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorUnsupportedPtxVersion: return "PTX of an unsupported toolchain";
    case cudaErrorInvalidDeviceFunction: return "invalid device function";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for the device";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchTimeout: return "the launch timed out and was terminated";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "capture was invalidated";
    }
    return "unknown error";
}

cudaError_t cudaGetLastError()
{
    cudaError_t e = last_error, sticky = (cudaError_t)device_error.load();
    last_error = cudaSuccess;
    return sticky != cudaSuccess ? sticky : e;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

namespace {
struct at_start {
    at_start()
    {
        const char *wish = getenv("TANDEM_GPU_EMULATE");
        if (wished("small"))
            total_memory = SMALL_MEMORY;
        if (wish && strncmp(wish, "fail=", 5) == 0)
            allocs_left = atoll(wish + 5);
    }
} prepare;
} // namespace

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    if (wished("none"))
        return failed(cudaErrorNoDevice);
    if (wished("old"))
        return failed(cudaErrorInsufficientDriver);
    *n = 1;
    return status();
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    if (device != 0)
        return failed(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated GPU");
    size_t free_bytes;
    cudaMemGetInfo(&free_bytes, &p->totalGlobalMem);
    p->sharedMemPerBlockOptin = SHARED_MOST;
    p->multiProcessorCount = 4;
    p->maxThreadsPerBlock = BLOCK_THREADS;
    p->major = 8;
    p->minor = 9;
    return status();
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr, int)
{
    *value = 0;
    return status();
}

cudaError_t cudaSetDevice(int device)
{
    if (wished("busy") || wished("full"))
        return failed(wished("busy") ? cudaErrorDevicesUnavailable : cudaErrorMemoryAllocation);
    return device == 0 ? status() : failed(cudaErrorInvalidDevice);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    uint64_t total = total_memory.load() ? total_memory.load() : DEFAULT_MEMORY;
    std::lock_guard<std::mutex> hold(lock);
    *total_bytes = total;
    *free_bytes = total > bytes_in_use ? total - bytes_in_use : 0;
    return status();
}

/* ---- memory ---- */

static cudaError_t allocate(void **block, size_t bytes, bool fill)
{
    *block = NULL;
    size_t free_bytes, total_bytes;
    if (capturing)
        return spoil(capturing);
    if (waits_in_vain())
        return failed(cudaErrorLaunchTimeout);
    if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess)
        return status();
    if (is_due(allocs_left) || (fill && bytes > free_bytes) ||
        posix_memalign(block, 256, bytes ? bytes : 1)) {
        *block = NULL;
        return failed(cudaErrorMemoryAllocation);
    }
    if (fill)
        memset(*block, 0xff, bytes);
    std::lock_guard<std::mutex> hold(lock);
    blocks[*block] = { bytes, fill };
    bytes_in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **block, size_t bytes)
{
    return allocate(block, bytes, true);
}

cudaError_t cudaHostAlloc(void **block, size_t bytes, unsigned)
{
    return allocate(block, bytes, false);
}

static cudaError_t release(void *block, bool on_device)
{
    if (!block)
        return status();
    if (capturing)
        return spoil(capturing);
    if (waits_in_vain())
        return failed(cudaErrorLaunchTimeout);
    std::lock_guard<std::mutex> hold(lock);
    auto at = blocks.find(block);
    if (at == blocks.end() || at->second.on_device != on_device)
        return failed(cudaErrorInvalidValue);
    bytes_in_use -= at->second.bytes;
    blocks.erase(at);
    free(block);
    return status();
}

cudaError_t cudaFree(void *block)
{
    return release(block, true);
}

cudaError_t cudaFreeHost(void *block)
{
    return release(block, false);
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    *device = host;
    return status();
}

cudaError_t cudaHostRegister(void *, size_t, unsigned)
{
    return status();
}

cudaError_t cudaHostUnregister(void *)
{
    return status();
}

/* ---- streams ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = NULL;
    if (status() != cudaSuccess)
        return status();
    *s = new cuda_host_stream();
    cudaStream_t created = *s;
    created->thread = std::thread([created] { created->run(); });
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return status();
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    if (waits_in_vain())
        return failed(cudaErrorLaunchTimeout);
    {
        std::lock_guard<std::mutex> hold(s->lock);
        s->closing = true;
        s->changed.notify_all();
    }
    s->thread.join();
    delete s;
    return status();
}

/* What a thread may not ask while it captures, of that stream or another. */
static struct cuda_host_graph *spoils(cudaStream_t s)
{
    return s->capture ? s->capture : capturing;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (spoils(s))
        return spoil(spoils(s));
    std::unique_lock<std::mutex> hold(s->lock);
    while (!hangs && !(s->queue.empty() && !s->busy))
        s->changed.wait_for(hold, std::chrono::milliseconds(10));
    return waits_in_vain() ? failed(cudaErrorLaunchTimeout) : status();
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    if (spoils(s))
        return spoil(spoils(s));
    std::lock_guard<std::mutex> hold(s->lock);
    return s->queue.empty() && !s->busy ? status() : cudaErrorNotReady; /* a fault shows at the end */
}

/* Whose memory begins at p; a run that goes beyond its block is nobody's. */
enum owner { PAGEABLE, PINNED, ON_DEVICE, BROKEN };
static enum owner owner_of(const void *p, size_t bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    auto next = blocks.upper_bound((void *)p);
    if (next == blocks.begin())
        return PAGEABLE;
    auto at = std::prev(next);
    const char *end = (const char *)at->first + at->second.bytes;
    if ((const char *)p >= end)
        return PAGEABLE;
    return (const char *)p + bytes > end ? BROKEN : at->second.on_device ? ON_DEVICE : PINNED;
}

/* A copy from or to memory that is not pinned waits for the queue before it, as on a card. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s)
{
    enum owner to = owner_of(dst, bytes), from = owner_of(src, bytes);
    bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;
    if (status() == cudaSuccess && bytes > 0 &&
        (to == BROKEN || from == BROKEN || (to == ON_DEVICE) == down || (from == ON_DEVICE) == up))
        return failed(cudaErrorInvalidValue);
    cudaError_t result = push(s, [=] {
        if (bytes)
            memcpy(dst, src, bytes);
    });
    bool waits = (down ? to : from) == PAGEABLE;
    if (waits && s->capture)
        return spoil(s->capture);
    return result == cudaSuccess && waits ? cudaStreamSynchronize(s) : result;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s)
{
    if (status() == cudaSuccess && bytes > 0 && owner_of(dst, bytes) != ON_DEVICE)
        return failed(cudaErrorInvalidValue);
    return push(s, [=] {
        if (bytes)
            memset(dst, byte, bytes);
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *ctx)
{
    return push(s, [=] { f(ctx); }, true);
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute, int value)
{
    if (status() != cudaSuccess)
        return status();
    if (value < 0 || (size_t)value > SHARED_MOST)
        return failed(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> hold(lock);
    shared_asked[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel)
{
    a->ptxVersion = 89;
    std::lock_guard<std::mutex> hold(lock);
    loaded.insert(kernel);
    return status();
}

/* "(gemv<TYPE_Q4_K, 4>)" is counted as gemv. */
static std::string kernel_name(const char *text)
{
    std::string name = text;
    name = name.substr(name.find_first_not_of("( "));
    return name.substr(0, name.find_first_of("<) "));
}

/* Says what is wrong, "" if nothing. Programs that load no kernel at all are not asked to. */
static std::string wrong_with(const void *kernel, dim3 grid, int threads, size_t shared_bytes)
{
    std::lock_guard<std::mutex> hold(lock);
    auto asked = shared_asked.find(kernel);
    size_t most = asked == shared_asked.end() ? SHARED_USUAL : asked->second;
    if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
        return "a grid that no card takes";
    if (threads < 1 || threads > MOST_THREADS || threads % 32)
        return "a block that no card takes";
    if (shared_bytes > SHARED_USUAL && shared_bytes > most)
        return "more shared memory than was asked for";
    if (kernel && !loaded.empty() && !loaded.count(kernel))
        return "not loaded before: the driver may wait for the card";
    return "";
}

void cuda_host_launch(cudaStream_t s, const char *name, const void *code, dim3 grid, int threads,
                      size_t shared_bytes, std::function<void()> body)
{
    std::string wrong = wrong_with(code, grid, threads, shared_bytes);
    if (!wrong.empty()) {
        cuda_host_stopped(("kernel " + std::string(name) + ": " + wrong).c_str());
        failed(cudaErrorInvalidConfiguration);
        return;
    }
    bool recorded = s->capture; /* then its accidents come when it runs */
    if (!recorded && is_due(launches_left)) {
        device_error = cudaErrorLaunchFailure;
        status();
        return;
    }
    std::string kernel = kernel_name(name);
    bool hang = !recorded && is_due(until_hang);
    push(s, [=] {
        if (recorded && is_due(launches_left)) {
            device_error = cudaErrorLaunchFailure;
            return;
        }
        if (hang || (recorded && is_due(until_hang))) {
            hangs = true;
            while (hangs)
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        {
            std::lock_guard<std::mutex> hold(lock);
            launches[kernel]++;
        }
        if (!cuda_host_run(kernel.c_str(), grid, threads, shared_bytes, body, thread_order))
            device_error = cudaErrorLaunchFailure;
    });
}
