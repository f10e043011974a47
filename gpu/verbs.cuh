/* The verbs: everything in gpu/ that only a GPU can do goes through one of these.
 *
 * tests/cuda_host.h holds a twin of each and replaces this file when the same sources are compiled
 * for the CPU (it defines the guard below). So kernels have no #ifdef, and a new verb is added in
 * both places. What kernels may use beside the verbs: threadIdx, blockIdx, blockDim, gridDim, plain
 * C++17 and <math.h>.
 *
 * Rules that make the twins possible, and the code easier to read:
 *   - blocks have a multiple of 32 threads, one dimension; warp verbs are called by all 32 lanes
 *   - every thread of a block reaches every block_sync: where there is one, nobody returns early
 *   - shared memory is dynamic (SHARED), its size stated at the launch; it starts as garbage
 *   - no grid-wide synchronisation, no cooperative groups
 *   - F16 and BF16 are stored as uint16_t, pairs of them as uint32_t (lower index in the lower half) */
#ifndef TANDEM_GPU_VERBS_CUH
#define TANDEM_GPU_VERBS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define KERNEL static __global__
#define KERNEL_OF(most_threads) static __global__ __launch_bounds__(most_threads)
#define DEVICE static __device__ __forceinline__
#define DEVICE_TABLE static __device__ const /* read-only table in device memory */
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1") /* where registers are short */

/* `name` points at this block's shared memory, 16-byte aligned; all uses in a kernel see the same. */
#define SHARED(type, name)                                                                        \
    extern __shared__ __align__(16) unsigned char shared_memory_[];                               \
    type *name = (type *)shared_memory_

/* ---- synchronisation ---- */

/* All threads of the block have come here, and what they wrote to memory is visible to all. */
#define block_sync() __syncthreads()
#define warp_sync() __syncwarp()

/* ---- lanes of a warp ---- */

DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }

/* The value of lane `lane`, or of lane_id() ^ mask; 4-byte types. */
template <typename T> DEVICE T warp_from(T x, int lane)
{
    return __shfl_sync(0xffffffffu, x, lane);
}
template <typename T> DEVICE T warp_xor(T x, int mask)
{
    return __shfl_xor_sync(0xffffffffu, x, mask);
}
/* Bit i: lane i says yes. */
DEVICE uint32_t warp_ballot(bool yes) { return __ballot_sync(0xffffffffu, yes); }

/* Over all lanes, every lane gets the result; a butterfly 16, 8, 4, 2, 1, so the same bits always. */
DEVICE float warp_sum(float x)
{
    for (int mask = 16; mask > 0; mask >>= 1)
        x += warp_xor(x, mask);
    return x;
}
DEVICE float warp_max(float x)
{
    for (int mask = 16; mask > 0; mask >>= 1)
        x = fmaxf(x, warp_xor(x, mask));
    return x;
}

/* ---- integers ---- */

/* c + sum of four products of signed bytes. */
DEVICE int dot4_i8(int a, int b, int c) { return __dp4a(a, b, c); }
/* Per byte, without carry between them. */
DEVICE uint32_t sub_bytes(uint32_t a, uint32_t b) { return __vsub4(a, b); }
/* Byte i of the result is byte (selector >> 4 i) & 7 of a (0..3) and b (4..7). */
DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector)
{
    return __byte_perm(a, b, selector);
}
DEVICE int count_bits(uint32_t x) { return __popc(x); }

/* a * b + c: rounded once, as fast as a product; and rounded twice, as plain C does it. */
DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE float product_plus(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

/* ---- small floats ---- */

DEVICE float f16_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
DEVICE uint16_t float_to_f16(float x) { return __half_as_ushort(__float2half_rn(x)); }
DEVICE float bf16_to_float(uint16_t b) { return __uint_as_float((uint32_t)b << 16); }
DEVICE uint16_t float_to_bf16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
DEVICE float bits_to_float(uint32_t x) { return __uint_as_float(x); }
DEVICE uint32_t float_to_bits(float x) { return __float_as_uint(x); }

/* ---- memory ---- */

/* Read what is used once (weights): not kept in L1. Pointers aligned to sizeof(T) of 1, 2, 4, 8; uint4. */
template <typename T> DEVICE T load_once(const T *p) { return __ldcs(p); }

DEVICE int atomic_add(int *p, int x) { return atomicAdd(p, x); } /* gives the old value */

/* Copy 16 bytes to shared memory in the background; both sides 16-byte aligned. What was begun up to
 * a commit is one group; async_wait<n> returns when all groups but the newest n have arrived, for the
 * calling thread: block_sync before others read it. */
DEVICE void async_copy16(void *shared, const void *global)
{
#if __CUDA_ARCH__ >= 800
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
#else
    *(uint4 *)shared = *(const uint4 *)global;
#endif
}
DEVICE void async_commit()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N> DEVICE void async_wait()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* ---- tensor cores ----
 * D[16, 8] += A[16, 16] B[16, 8]; F16 or BF16 operands, F32 sums. With group = lane / 4 and
 * pair = 2 (lane % 4), lane holds
 *     a[0] = A[group][pair, pair + 1]        a[1] = A[group + 8][pair, pair + 1]
 *     a[2] = A[group][pair + 8, pair + 9]    a[3] = A[group + 8][pair + 8, pair + 9]
 *     b[0] = B[pair, pair + 1][group]        b[1] = B[pair + 8, pair + 9][group]
 *     d[0], d[1] = D[group][pair, pair + 1]  d[2], d[3] = D[group + 8][pair, pair + 1]
 * Turing multiplies F16 in two halves and has no BF16: check stream->has_bf16. */
DEVICE void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
                     "{%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}
DEVICE void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    asm volatile("trap;");
#endif
}

/* Four 8x8 matrices of 16-bit elements from shared memory. Lane i gives the address of row i % 8 of
 * matrix i / 8 (16 bytes, aligned); r[m] of a lane = elements pair, pair + 1 of row `group` of matrix
 * m, transposed: of column `group`. */
DEVICE void load_matrices(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
DEVICE void load_matrices_transposed(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* ---- the other side: words in memory that CPU and GPU both see ---- */

DEVICE void fence_system() { __threadfence_system(); }
DEVICE uint32_t load_acquire_system(const uint32_t *p)
{
    uint32_t x;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
DEVICE void store_release_system(uint32_t *p, uint32_t x)
{
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
/* Data behind a flag: never through the read-only cache. */
DEVICE float load_relaxed_system(const float *p)
{
    float x;
    asm volatile("ld.relaxed.sys.global.f32 %0, [%1];" : "=f"(x) : "l"(p) : "memory");
    return x;
}
DEVICE void spin_pause() { __nanosleep(100); }
DEVICE uint64_t clock_ns() /* of a clock that all blocks share */
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

/* ---- libraries that may not be there ---- */

/* NULL without a word; stays open. And one of its functions, NULL too. */
static inline void *optional_library(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
static inline void *library_function(void *library, const char *name)
{
    return library ? dlsym(library, name) : NULL;
}

/* ---- launching ----
 * LAUNCH(stream, kernel, blocks, threads, shared_bytes, arguments...): a kernel template is named
 * with its arguments in parentheses, LAUNCH(s, (gemv<TYPE_Q4_K, 4>), ...). After a failure nothing is
 * launched any more. Naming a kernel here also has it loaded with the library (gpu/common.cuh). */
#define LAUNCH(s, kernel, blocks, threads, shared_bytes, ...)                                     \
    ((void)&gpu_listed<(kernel)>::entry,                                                          \
     gpu_launch(s, #kernel, kernel, blocks, threads, shared_bytes, __VA_ARGS__))

#define GPU_LAUNCH_RAW(s, name, kernel, blocks, threads, shared_bytes, ...)                       \
    kernel<<<blocks, threads, shared_bytes, (s)->queue>>>(__VA_ARGS__)

#endif
