/* The CUDA runtime on host threads: memory, streams, events, graphs, and failures on demand. */
#include <stdio.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_host_block.h"

#define DEFAULT_MEMORY ((uint64_t)8 << 30)
#define SMALL_MEMORY ((uint64_t)16 << 20)
#define SHARED_USUAL ((size_t)48 << 10) /* what every kernel may have, and with cudaFuncSetAttribute */
#define SHARED_MOST ((size_t)99 << 10)
#define MOST_THREADS 1024
#define BLOCK_THREADS 64 /* small blocks: a fibre costs as much as a few hundred operations */

namespace {

typedef std::function<void()> work;
struct operation {
    work run;
    bool calls_host = false;
};

const int64_t NEVER = INT64_MIN;

std::mutex lock; /* protects everything below that is not atomic */
std::map<std::string, uint64_t> launches;
struct memory {
    size_t bytes;
    bool on_device; /* else pinned */
};
std::map<void *, memory> blocks;
std::map<const void *, size_t> shared_asked; /* of kernels that may have more than is usual */
std::set<const void *> loaded;               /* kernels */
std::string message;
uint64_t bytes_in_use;
bool quiet;
std::atomic<uint64_t> total_memory{ 0 };
std::atomic<uint64_t> thread_order{ 0 };
std::atomic<int64_t> allocs_left{ -1 }, launches_left{ -1 }, until_hang{ NEVER };
std::atomic<int> n_busy{ 0 }; /* streams at work */
std::atomic<int> n_calls{ 0 }; /* calls of the host that run */
std::atomic<bool> hangs{ false }, refuse_capture{ false };
std::atomic<uint64_t> in_vain{ 0 }, replays{ 0 };
std::atomic<int> device_error{ cudaSuccess }; /* sticky */
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t failed(cudaError_t e)
{
    last_error = e;
    return e;
}

cudaError_t status()
{
    cudaError_t e = (cudaError_t)device_error.load();
    return e == cudaSuccess ? cudaSuccess : failed(e);
}

/* Counts down to a failure that was asked for. */
bool is_due(std::atomic<int64_t> &left)
{
    int64_t n = left.load();
    while (n >= 0 && !left.compare_exchange_weak(n, n - 1)) {}
    return n == 0;
}

/* What a call that would wait for the card says while a kernel hangs. */
bool waits_in_vain()
{
    if (hangs)
        in_vain++;
    return hangs;
}

double now_ms()
{
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

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

struct cuda_host_graph {
    std::shared_ptr<std::vector<operation>> operations{ new std::vector<operation> };
    std::vector<cudaStream_t> members; /* streams that are being captured into it */
    bool spoilt = false;               /* by a call that is forbidden meanwhile */
};

struct cuda_host_event {
    std::mutex lock;
    std::condition_variable changed;
    uint64_t n_recorded = 0, n_done = 0;
    double ms = 0;
    struct cuda_host_graph *capture = NULL; /* recorded while captured: orders nothing but the graph */
};

struct cuda_host_stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<operation> queue;
    bool busy = false, closing = false;
    struct cuda_host_graph *capture = NULL;
    std::thread thread;

    void run()
    {
        std::unique_lock<std::mutex> hold(lock);
        for (;;) {
            changed.wait(hold, [this] { return closing || !queue.empty(); });
            if (queue.empty())
                return;
            operation next = std::move(queue.front());
            queue.pop_front();
            busy = true;
            n_busy++;
            hold.unlock();
            while (n_calls > 0 && !next.calls_host && !cuda_host_device_failed() && !hangs)
                std::this_thread::sleep_for(std::chrono::microseconds(50));
            n_calls += next.calls_host;
            next.run();
            n_calls -= next.calls_host;
            next.run = nullptr;
            n_busy--;
            hold.lock();
            busy = false;
            changed.notify_all();
        }
    }
    void push(operation o)
    {
        if (capture) {
            capture->operations->push_back(std::move(o));
            return;
        }
        std::lock_guard<std::mutex> hold(lock);
        queue.push_back(std::move(o));
        changed.notify_all();
    }
};

/* The capture that this thread has begun: some calls are forbidden to it until it ends. */
static thread_local struct cuda_host_graph *capturing;

static cudaError_t spoil(struct cuda_host_graph *capture)
{
    capture->spoilt = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

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

/* Machines that one would rather not meet: TANDEM_GPU_EMULATE=
 *     none, old    without a card, with an old driver
 *     busy, full   a card that belongs to another program, or has no room to start
 *     small        a card with 16 MiB
 *     mute         a card that does not count its energy
 *     fail=N       allocation N from the start fails */
static bool wished(const char *word)
{
    const char *wish = getenv("TANDEM_GPU_EMULATE");
    return wish && strcmp(wish, word) == 0;
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

/* Work is skipped once the device has failed. */
static cudaError_t push(cudaStream_t s, work o, bool calls_host = false)
{
    if (status() != cudaSuccess)
        return status();
    s->push({ [o] {
        if (!cuda_host_device_failed())
            o();
    }, calls_host });
    return cudaSuccess;
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

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = NULL;
    if (status() != cudaSuccess)
        return status();
    *e = new cuda_host_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return status();
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->capture = s->capture;
    if (s->capture)
        return status();
    std::unique_lock<std::mutex> hold(e->lock);
    uint64_t n = ++e->n_recorded;
    hold.unlock();
    s->push({ [=] { /* also when the device has failed: somebody may wait */
        std::lock_guard<std::mutex> done(e->lock);
        e->n_done = n;
        e->ms = now_ms();
        e->changed.notify_all();
    } });
    return status();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    if (e->capture) { /* joins the graph, whose operations run in the order they were recorded */
        if (!s->capture) {
            s->capture = e->capture;
            e->capture->members.push_back(s);
        }
        return status();
    }
    std::unique_lock<std::mutex> hold(e->lock);
    uint64_t n = e->n_recorded;
    hold.unlock();
    s->push({ [=] {
        std::unique_lock<std::mutex> wait(e->lock);
        e->changed.wait(wait, [=] { return e->n_done >= n; });
    } });
    return status();
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    std::unique_lock<std::mutex> hold(e->lock);
    if (e->capture)
        return spoil(e->capture);
    uint64_t n = e->n_recorded;
    while (!hangs && e->n_done < n)
        e->changed.wait_for(hold, std::chrono::milliseconds(10));
    return waits_in_vain() ? failed(cudaErrorLaunchTimeout) : status();
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    std::lock_guard<std::mutex> hold(e->lock);
    if (e->capture || capturing)
        return spoil(e->capture ? e->capture : capturing);
    if (status() != cudaSuccess)
        return status();
    return e->n_done == e->n_recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)(to->ms - from->ms);
    return status();
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (s->capture)
        return failed(cudaErrorStreamCaptureInvalidated);
    capturing = s->capture = new cuda_host_graph();
    s->capture->members.push_back(s);
    return status();
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    *graph = s->capture;
    if (!s->capture)
        return failed(cudaErrorStreamCaptureInvalidated);
    for (cudaStream_t member : (*graph)->members)
        member->capture = NULL;
    capturing = NULL;
    if ((*graph)->spoilt || refuse_capture) {
        delete *graph;
        *graph = NULL;
        return failed(cudaErrorStreamCaptureInvalidated);
    }
    return status();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = NULL;
    if (status() != cudaSuccess)
        return status();
    *exec = new cuda_host_graph();
    (*exec)->operations = graph->operations;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    auto operations = exec->operations;
    replays++;
    return push(s, [operations] {
        for (auto &o : *operations) {
            n_calls += o.calls_host;
            o.run();
            n_calls -= o.calls_host;
        }
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return status();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return status();
}

/* ---- for tests ---- */

void cuda_host_stopped(const char *text)
{
    std::lock_guard<std::mutex> hold(lock);
    message = text;
    if (!quiet)
        fprintf(stderr, "emulated GPU: %s\n", text);
}

bool cuda_host_device_failed()
{
    return device_error.load() != cudaSuccess;
}

#define EXPORT extern "C" __attribute__((visibility("default")))

/* ---- NVML, as far as src/base/energy.c asks: the card takes 2.5 J from look to look ---- */

EXPORT int nvmlInit_v2(void)
{
    return 0;
}

EXPORT int nvmlShutdown(void)
{
    return 0;
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **card)
{
    static int here;
    *card = &here;
    return strcmp(pci, "0000:00:00.0") == 0 ? 0 : 6;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *, unsigned long long *mj)
{
    static std::atomic<unsigned long long> count{ 1000000 };
    *mj = count += 2500;
    return wished("mute") ? 3 : 0;
}

EXPORT int nvmlDeviceGetUtilizationRates(void *, unsigned *percent)
{
    percent[0] = 40;
    percent[1] = 20;
    return 0;
}

EXPORT void cuda_host_order(uint64_t order)
{
    thread_order = order;
}

EXPORT void cuda_host_fail_alloc(int64_t n)
{
    allocs_left = n;
}

EXPORT void cuda_host_fail_launch(int64_t n)
{
    launches_left = n;
}

EXPORT void cuda_host_hang(int64_t n)
{
    until_hang = n;
    if (n < 0)
        hangs = false;
}

EXPORT void cuda_host_refuse_capture(bool refuse)
{
    refuse_capture = refuse;
}

EXPORT uint64_t cuda_host_waited_in_vain(void)
{
    return in_vain;
}

EXPORT void cuda_host_lose(bool lost)
{
    device_error = lost ? cudaErrorIllegalAddress : cudaSuccess;
    last_error = cudaSuccess;
}

EXPORT uint64_t cuda_host_bytes(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return bytes_in_use;
}

EXPORT void cuda_host_memory(uint64_t total)
{
    total_memory = total;
}

EXPORT uint64_t cuda_host_launches(const char *kernel)
{
    std::lock_guard<std::mutex> hold(lock);
    uint64_t n = 0;
    for (auto &l : launches)
        n += !kernel || l.first == kernel ? l.second : 0;
    return n;
}

EXPORT uint64_t cuda_host_replays(void)
{
    return replays;
}

EXPORT void cuda_host_quiet(bool on)
{
    std::lock_guard<std::mutex> hold(lock);
    quiet = on;
}

EXPORT const char *cuda_host_message(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return message.c_str();
}
