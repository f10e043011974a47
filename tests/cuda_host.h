/* A GPU made of fibres: the twin of gpu/verbs.cuh and of the part of the CUDA runtime that gpu/ uses.
 *
 * The .cu files are compiled by the host's C++ compiler with this file included first; it defines the
 * guard of gpu/verbs.cuh and so replaces it. No CUDA header is needed.
 *
 *   - A launch runs its blocks one after the other on the stream's host thread. Every GPU thread is a
 *     fibre; barriers and warp verbs are meeting points, where a fibre gives way to the next.
 *   - Between meetings threads run in one of three orders: forward, backward, or shuffled anew in
 *     every round. A barrier that is missing gives wrong numbers in at least one of them.
 *   - Shared memory is a heap block of exactly the stated size, filled with NaN before every block;
 *     so is what cudaMalloc gives. AddressSanitizer watches both.
 *   - A thread that ends or waits elsewhere than its warp or block stops the launch: the reason is
 *     printed, and the device fails from then on as after a fault on a card.
 *   - Streams are host threads with a queue; a graph is a recorded queue. What CUDA forbids while a
 *     stream is captured (waiting for it, allocating, memory that is not pinned) ends the capture.
 *   - What a card refuses is refused: grids and shared memory beyond its limits, more than 48 KiB that
 *     were not asked for, copies beyond a block, addresses that vectors and matrices do not allow, a
 *     kernel that was not loaded before the first launch. While a call of the host runs no other stream
 *     begins anything, as where queues share what carries them.
 *
 * Tests steer it by the functions at the end, found with dlsym: a real library does not have them. */
#ifndef TANDEM_TESTS_CUDA_HOST_H
#define TANDEM_TESTS_CUDA_HOST_H

#define TANDEM_GPU_VERBS_CUH /* instead of it */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define KERNEL static
#define KERNEL_OF(most_threads) static
#define DEVICE static inline __attribute__((unused))
#define DEVICE_TABLE static const
#define UNROLL
#define NO_UNROLL
#define __device__

/* ---- threads ---- */

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
/* Aligned as on a card: UBSan finds a pointer that is not. */
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

struct cuda_host_thread {
    dim3 thread, block, block_size, grid_size;
    void *shared;
};
/* In the static part of thread-local memory: a call per look at threadIdx would cost more than the rest. */
#define CUDA_HOST_TLS __thread __attribute__((tls_model("initial-exec")))
extern CUDA_HOST_TLS struct cuda_host_thread *cuda_host_self;

#define threadIdx (cuda_host_self->thread)
#define blockIdx (cuda_host_self->block)
#define blockDim (cuda_host_self->block_size)
#define gridDim (cuda_host_self->grid_size)
#define SHARED(type, name) type *name = (type *)cuda_host_self->shared

/* What meets: one line of the source. */
struct cuda_host_place {
    const char *what, *file;
    int line;
};
#define CUDA_HOST_SLOT 64 /* bytes a lane may bring to a meeting */

void cuda_host_block_sync(const struct cuda_host_place *place);

/* Leave `bytes` at `mine` for the warp, wait for all lanes, let the last one do `act`; gives the
 * slots of all 32, valid until this lane's next meeting but one. */
typedef unsigned char cuda_host_slots[32][CUDA_HOST_SLOT];
typedef void cuda_host_act(cuda_host_slots slots);
unsigned char (*cuda_host_meet(const char *what, const void *mine, size_t bytes,
                               cuda_host_act *act))[CUDA_HOST_SLOT];

/* Stop the launch: a card would fault here, or give anything. */
void cuda_host_fault(const char *what);

#define block_sync()                                                                              \
    do {                                                                                          \
        static const struct cuda_host_place place_ = { "block_sync", __FILE__, __LINE__ };        \
        cuda_host_block_sync(&place_);                                                            \
    } while (0)

DEVICE void warp_sync() { cuda_host_meet("warp_sync", NULL, 0, NULL); }
DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }

template <typename T> DEVICE T cuda_host_exchange(const char *what, T x, int lane)
{
    static_assert(sizeof(T) == 4, "4-byte types");
    memcpy(&x, cuda_host_meet(what, &x, sizeof x, NULL)[lane & 31], sizeof x);
    return x;
}
template <typename T> DEVICE T warp_from(T x, int lane)
{
    return cuda_host_exchange("warp_from", x, lane);
}
template <typename T> DEVICE T warp_xor(T x, int mask)
{
    return cuda_host_exchange("warp_xor", x, lane_id() ^ mask);
}
uint32_t warp_ballot(bool yes);
float warp_sum(float x);
float warp_max(float x);

/* ---- integers ---- */

DEVICE int dot4_i8(int a, int b, int c)
{
    for (int i = 0; i < 32; i += 8)
        c += (int8_t)((uint32_t)a >> i) * (int8_t)((uint32_t)b >> i);
    return c;
}
DEVICE uint32_t sub_bytes(uint32_t a, uint32_t b)
{
    uint32_t r = 0;
    for (int i = 0; i < 32; i += 8)
        r |= (((a >> i) - (b >> i)) & 0xffu) << i;
    return r;
}
DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    if (selector & 0x8888) /* a card would spread the byte's sign */
        cuda_host_fault("pick_bytes with a selector above 7");
    for (int i = 0; i < 4; i++)
        r |= (uint32_t)(both >> 8 * ((selector >> 4 * i & 7)) & 0xff) << 8 * i;
    return r;
}
DEVICE int count_bits(uint32_t x) { return __builtin_popcount(x); }

DEVICE float multiply_add(float a, float b, float c) { return a * b + c; } /* fmaf takes ten times as long */
DEVICE float product_plus(float a, float b, float c) { return a * b + c; }

/* ---- small floats ---- */

float f16_to_float(uint16_t h);
uint16_t float_to_f16(float x);
DEVICE float bits_to_float(uint32_t x)
{
    float f;
    memcpy(&f, &x, sizeof f);
    return f;
}
DEVICE uint32_t float_to_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}
DEVICE float bf16_to_float(uint16_t b) { return bits_to_float((uint32_t)b << 16); }
uint16_t float_to_bf16(float x);

/* ---- memory ---- */

template <typename T> DEVICE T load_once(const T *p)
{
    if ((uintptr_t)p % sizeof(T))
        cuda_host_fault("load_once with an unaligned address");
    return *p;
}
DEVICE int atomic_add(int *p, int x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }

/* The target is NaN until the wait. */
void async_copy16(void *shared, const void *global);
void async_commit();
void cuda_host_async_wait(int newest);
template <int N> DEVICE void async_wait() { cuda_host_async_wait(N); }

/* ---- tensor cores: from the documented fragments ---- */

void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void load_matrices(uint32_t r[4], const void *row);
void load_matrices_transposed(uint32_t r[4], const void *row);

/* ---- the other side ---- */

DEVICE void fence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
DEVICE uint32_t load_acquire_system(const uint32_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
DEVICE void store_release_system(uint32_t *p, uint32_t x)
{
    __atomic_store_n(p, x, __ATOMIC_RELEASE);
}
DEVICE float load_relaxed_system(const float *p)
{
    float x;
    __atomic_load(p, &x, __ATOMIC_RELAXED);
    return x;
}
void spin_pause();
uint64_t clock_ns();

/* cuda_host_blas.cc has the one that is there. */
void *optional_library(const char *name);
void *library_function(void *library, const char *name);

/* ---- the runtime ---- */

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorDevicesUnavailable = 46,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorUnsupportedPtxVersion = 222,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchTimeout = 702,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
};
const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaGetLastError();

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlockOptin;
    int multiProcessorCount, maxThreadsPerBlock, major, minor;
    int pciDomainID, pciBusID, pciDeviceID;
};
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
enum cudaDeviceAttr { cudaDevAttrKernelExecTimeout = 17 };
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_event *cudaEvent_t;
typedef struct cuda_host_graph *cudaGraph_t;
typedef struct cuda_host_graph *cudaGraphExec_t;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                             cudaStreamCaptureModeRelaxed };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
typedef void (*cudaHostFn_t)(void *);

cudaError_t cudaMalloc(void **block, size_t bytes);
cudaError_t cudaFree(void *block);
cudaError_t cudaHostAlloc(void **block, size_t bytes, unsigned flags);
cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned flags);
cudaError_t cudaFreeHost(void *block);
cudaError_t cudaHostRegister(void *block, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void *block);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s);
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *ctx);
struct cudaFuncAttributes {
    int ptxVersion;
};
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

/* ---- launching ---- */

/* Queue blocks.x * y * z blocks whose every thread calls body, the code of `kernel` (NULL: a library's,
 * whose needs are its own matter). */
void cuda_host_launch(cudaStream_t s, const char *name, const void *kernel, dim3 blocks, int threads,
                      size_t shared_bytes, std::function<void()> body);

#define LAUNCH(s, kernel, blocks, threads, shared_bytes, ...)                                     \
    ((void)&gpu_listed<(kernel)>::entry,                                                          \
     gpu_launch(s, #kernel, kernel, blocks, threads, shared_bytes, __VA_ARGS__))

#define GPU_LAUNCH_RAW(s, name, kernel, blocks, threads, shared_bytes, ...)                       \
    cuda_host_launch((s)->queue, name, (const void *)kernel, blocks, threads, shared_bytes,       \
                     [=]() { kernel(__VA_ARGS__); })

/* ---- for tests ---- */

extern "C" {
/* Order of the threads: 0 forward, 1 backward, otherwise the seed of a shuffle. */
void cuda_host_order(uint64_t order);
/* Allocation (launch) n from now fails, 0 the next; negative: none does. Allocations recover, a
 * failed launch leaves the device unusable. */
void cuda_host_fail_alloc(int64_t n);
void cuda_host_fail_launch(int64_t n);
/* Launch n from now does not end before a call with a negative n. Calls that would wait for it on a
 * card come back at once and are counted: a program must not make them. */
void cuda_host_hang(int64_t n);
uint64_t cuda_host_waited_in_vain(void);
/* Captures end with an error, as on a card or driver that cannot record something. */
void cuda_host_refuse_capture(bool refuse);
/* Every call fails from now on; false: a working device again, as in a new process. */
void cuda_host_lose(bool lost);
/* Bytes of device and pinned memory in use; cudaMemGetInfo's total, 0: 8 GiB. */
uint64_t cuda_host_bytes(void);
void cuda_host_memory(uint64_t total);
/* Launches of a kernel since the start, by the name in the source; NULL: of all. */
uint64_t cuda_host_launches(const char *kernel);
/* Launches of graphs. */
uint64_t cuda_host_replays(void);
/* What stopped the last launch that was stopped; "" when none was. Printed too, unless quiet. */
const char *cuda_host_message(void);
void cuda_host_quiet(bool quiet);
}

#endif
