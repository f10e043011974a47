/* The emulation itself: correct kernels give their numbers in every order of threads, and broken ones
 * are noticed. Each broken kernel here has a fault that real code gets: a missing barrier, shared
 * memory read before it is written, a copy nobody waited for, a barrier not all threads reach. */
#include <stdio.h>

#include <atomic>

#include "tests/cuda_host.h"
extern "C" {
#include "tests/check.h"
}

#define N 64

static cudaStream_t queue;

struct queue_only { /* what GPU_LAUNCH_RAW wants of a stream */
    cudaStream_t queue;
};

template <typename... P, typename... A>
static void launch(cudaStream_t on, const char *name, void (*kernel)(P...), int blocks,
                   size_t shared, A... arguments)
{
    queue_only s = { on }, *p = &s;
    GPU_LAUNCH_RAW(p, name, kernel, dim3((unsigned)blocks), N, shared, ((P)arguments)...);
}

template <typename... P, typename... A>
static bool run(const char *name, void (*kernel)(P...), int blocks, size_t shared, A... arguments)
{
    launch(queue, name, kernel, blocks, shared, arguments...);
    bool ok = cudaStreamSynchronize(queue) == cudaSuccess;
    if (!ok)
        cuda_host_lose(false);
    return ok;
}

/* ---- barriers and shared memory ---- */

/* out[i] = in[N - 1 - i], through shared memory. */
KERNEL void reverse(float *out, const float *in)
{
    SHARED(float, x);
    x[threadIdx.x] = in[threadIdx.x];
    block_sync();
    out[threadIdx.x] = x[N - 1 - threadIdx.x];
}

KERNEL void reverse_without_barrier(float *out, const float *in)
{
    SHARED(float, x);
    x[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = x[N - 1 - threadIdx.x];
}

/* The neighbour below is ready when threads run forward: only other orders see the fault. */
KERNEL void from_below_without_barrier(float *out, const float *in)
{
    SHARED(float, x);
    x[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = x[threadIdx.x > 0 ? threadIdx.x - 1 : 0];
}

/* The second store may overtake a neighbour's load: the barrier between rounds is missing. */
KERNEL void rotate_twice_without_barrier(float *out, const float *in)
{
    SHARED(float, x);
    float mine = in[threadIdx.x];
    for (int round = 0; round < 2; round++) {
        x[threadIdx.x] = mine;
        block_sync();
        mine = x[(threadIdx.x + 1) % N];
    }
    out[threadIdx.x] = mine;
}

KERNEL void uninitialised(float *out, const float *)
{
    SHARED(float, x);
    out[threadIdx.x] = x[threadIdx.x];
}

typedef void transform(float *, const float *);

/* In how many of the orders `kernel` gives wanted[i]. */
static int n_right(const char *name, transform *kernel, int (*wanted)(int))
{
    int right = 0;
    for (uint64_t order = 0; order < 6; order++) {
        float in[N], out[N] = {};
        for (int i = 0; i < N; i++)
            in[i] = (float)i;
        cuda_host_order(order);
        bool same = run(name, kernel, 3, N * sizeof(float), out, in);
        for (int i = 0; i < N; i++)
            same = same && out[i] == (float)wanted(i);
        right += same;
    }
    return right;
}

static int mirrored(int i) { return N - 1 - i; }
static int below(int i) { return i > 0 ? i - 1 : 0; }
static int rotated(int i) { return (i + 2) % N; }
static int itself(int i) { return i; }

static void test_races()
{
    check_case("a correct kernel is right in every order");
    CHECK_INT(n_right("reverse", reverse, mirrored), 6);
    check_case("a missing barrier is noticed");
    CHECK_INT(n_right("race", reverse_without_barrier, mirrored), 0);
    check_case("a missing barrier that forward order hides is noticed");
    int right = n_right("race", from_below_without_barrier, below);
    CHECK(right >= 1 && right < 6);
    check_case("a missing barrier between two rounds is noticed");
    CHECK(n_right("race", rotate_twice_without_barrier, rotated) < 6);
    check_case("shared memory begins as NaN");
    CHECK_INT(n_right("uninitialised", uninitialised, itself), 0);
}

/* ---- threads that do not meet ---- */

KERNEL void half_waits(int *)
{
    if (threadIdx.x < N / 2)
        block_sync();
}
KERNEL void two_barriers(int *)
{
    if (threadIdx.x < N / 2)
        block_sync();
    else
        block_sync();
}
KERNEL void lane_missing(float *out)
{
    if (threadIdx.x != 5)
        out[0] = warp_sum(1);
}
KERNEL void verbs_mixed(float *out)
{
    if (threadIdx.x & 1)
        out[0] = warp_sum(1);
    else
        out[0] = warp_max(1);
}
KERNEL void warp_and_block(float *out)
{
    if (threadIdx.x == 40)
        block_sync();
    else
        out[0] = warp_sum(1);
    if (threadIdx.x != 40)
        block_sync();
}

static void check_stops(const char *name, void (*kernel)(float *), const char *says)
{
    float out[N];
    check_case("%s is stopped", name);
    for (uint64_t order = 0; order < 3; order++) {
        cuda_host_order(order);
        CHECK(!run(name, kernel, 1, 0, out));
        CHECK_MSG(strstr(cuda_host_message(), says), "the message is: %s", cuda_host_message());
        CHECK(strstr(cuda_host_message(), name));
    }
}

static void test_divergence()
{
    check_stops("half_waits", (void (*)(float *))half_waits, "waits at block_sync");
    check_stops("two_barriers", (void (*)(float *))two_barriers, "waits at block_sync");
    check_stops("lane_missing", lane_missing, "thread 5 has ended");
    check_stops("verbs_mixed", verbs_mixed, "waits at warp_max");
    check_stops("warp_and_block", warp_and_block, "thread 40 waits at block_sync");
    check_case("the device works again afterwards");
    CHECK_INT(n_right("reverse", reverse, mirrored), 6);
}

/* ---- background copies ---- */

KERNEL void copies(float *out, const float *in)
{
    SHARED(float, x);
    if (threadIdx.x < N / 4)
        async_copy16(x + 4 * threadIdx.x, in + 4 * threadIdx.x);
    async_commit();
    async_wait<0>();
    block_sync();
    out[threadIdx.x] = x[threadIdx.x];
}
KERNEL void copies_early(float *out, const float *in)
{
    SHARED(float, x);
    if (threadIdx.x < N / 4)
        async_copy16(x + 4 * threadIdx.x, in + 4 * threadIdx.x);
    async_commit();
    block_sync();
    out[threadIdx.x] = x[threadIdx.x];
    async_wait<0>();
}

static void test_copies()
{
    check_case("a background copy arrives at its wait");
    alignas(16) static float in[N], out[N];
    for (int i = 0; i < N; i++)
        in[i] = (float)i;
    for (uint64_t order = 0; order < 3; order++) {
        cuda_host_order(order);
        CHECK(run("copies", copies, 1, sizeof in, out, in));
        CHECK(memcmp(in, out, sizeof in) == 0);
        CHECK(run("copies_early", copies_early, 1, sizeof in, out, in));
        CHECK(out[0] != out[0] && memcmp(in, out, sizeof in) != 0);
    }
}

/* ---- the warp verbs ---- */

struct numbers {
    float sum, max, from_3, opposite;
    uint32_t ballot;
};

KERNEL void warp_numbers(struct numbers *out)
{
    float x = (float)(threadIdx.x % 32 * threadIdx.x % 32);
    struct numbers *n = &out[threadIdx.x];
    n->sum = warp_sum(x);
    n->max = warp_max(x);
    n->from_3 = warp_from(x, 3);
    n->opposite = warp_xor(x, 31);
    n->ballot = warp_ballot(x > 9);
}

static void test_warp_verbs()
{
    check_case("warp verbs");
    float x[32], sum = 0, max = 0;
    uint32_t ballot = 0;
    for (int i = 0; i < 32; i++) {
        x[i] = (float)(i * i % 32);
        sum += x[i];
        max = fmaxf(max, x[i]);
        ballot |= (uint32_t)(x[i] > 9) << i;
    }
    for (uint64_t order = 0; order < 3; order++) {
        struct numbers out[N];
        cuda_host_order(order);
        CHECK(run("warp_numbers", warp_numbers, 1, 0, out));
        for (int i = 0; i < 32; i++)
            CHECK(out[i].sum == sum && out[i].max == max && out[i].from_3 == x[3] &&
                  out[i].opposite == x[31 - i] && out[i].ballot == ballot);
    }
    CHECK_INT(dot4_i8(0x7f80ff01, 0x02ff0380, 5), 127 * 2 + 128 - 3 - 128 + 5);
    CHECK_INT(sub_bytes(0x01020304, 0x02020205), 0xff0001ff);
    CHECK_INT(pick_bytes(0x33221100, 0x77665544, 0x7041), 0x77004411);
}

/* D = C + A B through fragments, A in shared memory for load_matrices. */
KERNEL void multiply(float *d, const uint16_t *a, const uint16_t *b, const float *c)
{
    SHARED(uint16_t, tile);
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        tile[i] = a[i];
    block_sync();
    int lane = lane_id(), group = lane / 4, pair = 2 * (lane % 4);
    uint32_t ra[4], rb[2];
    load_matrices(ra, tile + lane % 16 * 16 + lane / 16 * 8);
    for (int i = 0; i < 2; i++)
        rb[i] = b[(pair + 8 * i) * 8 + group] | (uint32_t)b[(pair + 8 * i + 1) * 8 + group] << 16;
    float rd[4];
    for (int i = 0; i < 4; i++)
        rd[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    mma_f16(rd, ra, rb);
    for (int i = 0; i < 4; i++)
        d[(group + i / 2 * 8) * 8 + pair + i % 2] = rd[i];
}

static void test_mma()
{
    check_case("tensor cores multiply");
    uint16_t a[256], b[128];
    float c[128], d[128];
    for (int i = 0; i < 256; i++)
        a[i] = float_to_f16((float)(i % 7 - 3));
    for (int i = 0; i < 128; i++) {
        b[i] = float_to_f16((float)(i % 5 - 2));
        c[i] = (float)i;
    }
    CHECK(run("multiply", multiply, 1, sizeof a, d, a, b, c));
    for (int i = 0; i < 128; i++) {
        float sum = c[i];
        for (int k = 0; k < 16; k++)
            sum += f16_to_float(a[i / 8 * 16 + k]) * f16_to_float(b[k * 8 + i % 8]);
        CHECK(d[i] == sum);
    }
}

/* Where an element lies, in the words of the PTX manual's "Matrix Fragments for mma.m16n8k16": by lane
 * and number of the element. Written from there, not from the twin. */
static int row_of_a(int lane, int i) { return (i & 2) ? lane / 4 + 8 : lane / 4; }
static int col_of_a(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8); }
static int row_of_b(int lane, int i) { return lane % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8); }
static int row_of_d(int lane, int i) { return i < 2 ? lane / 4 : lane / 4 + 8; }
static int col_of_d(int lane, int i) { return lane % 4 * 2 + (i & 1); }

KERNEL void multiply_manually(float *d, const uint16_t *a, const uint16_t *b)
{
    uint32_t ra[4], rb[2];
    float rd[4] = {};
    int lane = lane_id();
    for (int i = 0; i < 8; i += 2)
        ra[i / 2] = a[16 * row_of_a(lane, i) + col_of_a(lane, i)] |
                    (uint32_t)a[16 * row_of_a(lane, i + 1) + col_of_a(lane, i + 1)] << 16;
    for (int i = 0; i < 4; i += 2)
        rb[i / 2] = b[8 * row_of_b(lane, i) + lane / 4] |
                    (uint32_t)b[8 * row_of_b(lane, i + 1) + lane / 4] << 16;
    mma_f16(rd, ra, rb);
    for (int i = 0; i < 4; i++)
        d[8 * row_of_d(lane, i) + col_of_d(lane, i)] = rd[i];
}

/* Element (i % 2) of lane's word m is row lane / 4, column 2 (lane % 4) + i % 2 of matrix m. */
KERNEL void load_manually(int *wrong, const uint16_t *numbers)
{
    SHARED(uint16_t, x);
    uint32_t plain[4], turned[4];
    int lane = lane_id();
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        x[i] = numbers[i];
    block_sync();
    load_matrices(plain, x + 8 * lane);
    load_matrices_transposed(turned, x + 8 * lane);
    for (int i = 0; i < 8; i++) {
        int m = i / 2, row = lane / 4, col = lane % 4 * 2 + i % 2;
        uint16_t p = (uint16_t)(plain[m] >> 16 * (i % 2)), t = (uint16_t)(turned[m] >> 16 * (i % 2));
        if (p != 64 * m + 8 * row + col || t != 64 * m + 8 * col + row)
            atomic_add(wrong, 1);
    }
}

static void test_fragments()
{
    check_case("fragments lie as the manual says");
    uint16_t a[256], b[128], numbers[256];
    float d[128];
    int wrong = 0;
    for (int i = 0; i < 256; i++) {
        a[i] = float_to_f16((float)(i * 37 % 61 - 30));
        numbers[i] = (uint16_t)i;
    }
    for (int i = 0; i < 128; i++)
        b[i] = float_to_f16((float)(i * 29 % 53 - 26));
    CHECK(run("multiply_manually", multiply_manually, 1, 0, d, a, b));
    for (int i = 0; i < 128; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++)
            sum += f16_to_float(a[i / 8 * 16 + k]) * f16_to_float(b[k * 8 + i % 8]);
        wrong += d[i] != sum;
    }
    CHECK_INT(wrong, 0);
    CHECK(run("load_manually", load_manually, 1, sizeof numbers, &wrong, numbers));
    CHECK_INT(wrong, 0);
}

static void test_small_floats()
{
    check_case("F16 and BF16, all values");
    int bad = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float f = f16_to_float(h), g = bf16_to_float(h);
        bad += f == f && float_to_f16(f) != h;
        bad += g == g && float_to_bf16(g) != h;
    }
    CHECK_INT(bad, 0);
    CHECK_INT(float_to_f16(65519.f), 0x7bff);
    CHECK_INT(float_to_f16(65520.f), 0x7c00);
    CHECK_INT(float_to_f16(1.00048828125f), 0x3c00); /* ties go to even */
    CHECK_INT(float_to_f16(1.00146484375f), 0x3c02);
}

/* ---- streams and graphs ---- */

KERNEL void add_one(float *x)
{
    if (threadIdx.x == 0 && blockIdx.x == 0)
        *x += 1;
}
KERNEL void wait_for_flag(const uint32_t *flag, float *x)
{
    if (threadIdx.x == 0)
        while (load_acquire_system(flag) == 0)
            spin_pause();
    block_sync();
    if (threadIdx.x == 0)
        *x *= 2;
}

static void test_graph()
{
    check_case("a graph is recorded once and replayed");
    float x = 0;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK_INT(cudaStreamBeginCapture(queue, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    for (int i = 0; i < 3; i++)
        launch(queue, "add_one", add_one, 1, 0, &x);
    CHECK_INT(cudaStreamEndCapture(queue, &graph), cudaSuccess);
    CHECK(x == 0);
    CHECK_INT(cudaGraphInstantiate(&exec, graph), cudaSuccess);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 4; i++)
        CHECK_INT(cudaGraphLaunch(exec, queue), cudaSuccess);
    CHECK_INT(cudaStreamSynchronize(queue), cudaSuccess);
    CHECK(x == 12);
    cudaGraphExecDestroy(exec);

    check_case("two streams, a flag and an event");
    cudaStream_t other;
    cudaEvent_t event;
    alignas(64) uint32_t flag = 0;
    CHECK_INT(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
    CHECK_INT(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    launch(queue, "wait_for_flag", wait_for_flag, 1, 0, &flag, &x);
    CHECK_INT(cudaEventRecord(event, queue), cudaSuccess);
    CHECK_INT(cudaStreamWaitEvent(other, event), cudaSuccess);
    launch(other, "add_one", add_one, 1, 0, &x);
    CHECK_INT(cudaStreamQuery(other), cudaErrorNotReady);
    __atomic_store_n(&flag, 1, __ATOMIC_RELEASE);
    CHECK_INT(cudaStreamSynchronize(other), cudaSuccess);
    CHECK(x == 25);
    cudaEventDestroy(event);
    cudaStreamDestroy(other);
}

/* ---- what a card refuses ---- */

KERNEL void unaligned_load(float *out)
{
    out[0] = (float)load_once((const uint4 *)(const void *)((const char *)out + 4)).x;
}
KERNEL void unaligned_matrix(float *out)
{
    SHARED(uint16_t, x);
    uint32_t r[4];
    load_matrices(r, x + 4);
    out[0] = (float)r[0];
}
KERNEL void outside_matrix(float *out)
{
    SHARED(uint16_t, x);
    uint32_t r[4];
    load_matrices(r, x + 8 * lane_id());
    out[0] = (float)r[0];
}
KERNEL void signed_selector(float *out)
{
    out[0] = (float)pick_bytes(1, 2, 0x3218);
}
KERNEL void nothing(float *) {}

static bool launches(dim3 grid, int threads, size_t shared)
{
    queue_only s = { queue }, *p = &s;
    cudaGetLastError();
    float *none = NULL;
    GPU_LAUNCH_RAW(p, "nothing", nothing, grid, threads, shared, none);
    return cudaGetLastError() == cudaSuccess && cudaStreamSynchronize(queue) == cudaSuccess;
}

static void test_limits()
{
    alignas(16) float out[N];
    static const struct {
        const char *name, *says;
        void (*kernel)(float *);
        size_t shared;
    } faults[] = {
        { "unaligned_load", "unaligned address", unaligned_load, 0 },
        { "unaligned_matrix", "unaligned or not in shared", unaligned_matrix, 1024 },
        { "outside_matrix", "unaligned or not in shared", outside_matrix, 256 },
        { "signed_selector", "selector above 7", signed_selector, 0 },
    };
    for (const auto &f : faults) {
        check_case("%s is stopped", f.name);
        CHECK(!run(f.name, f.kernel, 1, f.shared, out));
        CHECK_MSG(strstr(cuda_host_message(), f.says), "the message is: %s", cuda_host_message());
    }
    check_case("launches that a card does not take");
    CHECK(launches(dim3(1), 32, 48 << 10));
    CHECK(!launches(dim3(1, 65536), 32, 0));
    CHECK(!launches(dim3(1, 1, 65536), 32, 0));
    CHECK(!launches(dim3(0), 32, 0));
    CHECK(!launches(dim3(1), 1056, 0));
    CHECK(!launches(dim3(1), 48, 0));
    CHECK(!launches(dim3(1), 32, (48 << 10) + 1));
    CHECK_INT(cudaFuncSetAttribute((const void *)nothing,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
              cudaErrorInvalidValue);
    CHECK_INT(cudaFuncSetAttribute((const void *)nothing,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10), cudaSuccess);
    CHECK(launches(dim3(1), 32, 64 << 10));
    CHECK(!launches(dim3(1), 32, (64 << 10) + 1));

    check_case("copies beyond a block, or in the wrong direction");
    void *device, *pinned;
    CHECK_INT(cudaMalloc(&device, 64), cudaSuccess);
    CHECK_INT(cudaHostAlloc(&pinned, 64, cudaHostAllocMapped), cudaSuccess);
    CHECK_INT(cudaMemcpyAsync(device, pinned, 64, cudaMemcpyHostToDevice, queue), cudaSuccess);
    CHECK_INT(cudaMemcpyAsync(device, pinned, 65, cudaMemcpyHostToDevice, queue), cudaErrorInvalidValue);
    CHECK_INT(cudaMemcpyAsync(pinned, device, 64, cudaMemcpyHostToDevice, queue), cudaErrorInvalidValue);
    CHECK_INT(cudaMemcpyAsync(out, device, 64, cudaMemcpyDeviceToHost, queue), cudaSuccess);
    CHECK_INT(cudaMemsetAsync((char *)device + 32, 0, 33, queue), cudaErrorInvalidValue);
    CHECK_INT(cudaStreamSynchronize(queue), cudaSuccess);
    CHECK_INT(cudaFree(pinned), cudaErrorInvalidValue);
    CHECK_INT(cudaFree(device), cudaSuccess);
    CHECK_INT(cudaFreeHost(pinned), cudaSuccess);

    check_case("a kernel that was not loaded before its first launch");
    struct cudaFuncAttributes a;
    CHECK_INT(cudaFuncGetAttributes(&a, (const void *)add_one), cudaSuccess);
    CHECK(!launches(dim3(1), 32, 0));
    CHECK_MSG(strstr(cuda_host_message(), "not loaded"), "the message is: %s", cuda_host_message());
    CHECK_INT(cudaFuncGetAttributes(&a, (const void *)nothing), cudaSuccess);
    CHECK(launches(dim3(1), 32, 0));
}

int main()
{
    cudaStreamCreateWithFlags(&queue, cudaStreamNonBlocking);
    cuda_host_quiet(true);
    test_races();
    test_divergence();
    test_copies();
    test_warp_verbs();
    test_mma();
    test_fragments();
    test_small_floats();
    test_graph();
    test_limits(); /* last: kernels must be loaded then */
    cudaStreamDestroy(queue);
    return check_finish();
}
