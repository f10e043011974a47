/* Reading VRAM as fast as it goes: the ceiling that GEMV and attention are graded against.
 *
 * Nothing is computed but a sum, so the bytes are all there is: 256 MiB take 80 us at 3.35 TB/s. Four
 * independent 16-byte loads per thread keep 64 bytes in flight, times 2048 threads of an SM 128 KiB,
 * more than bandwidth times latency asks for (3.35 TB/s * 0.7 us / 132 SMs = 18 KiB). */
#include "gpu/common.cuh"

#define LOADS 4          /* in flight per thread */
#define BLOCKS_PER_SM 16 /* a few waves: the last one is short */

DEVICE uint32_t word_sum(uint4 x) { return x.x + x.y + x.z + x.w; }

KERNEL void read_words(int *sum, const uint4 *at, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t mine = 0;
    for (; i + (LOADS - 1) * step < n; i += LOADS * step) {
        uint4 x[LOADS];
        UNROLL for (int k = 0; k < LOADS; k++)
            x[k] = load_once(at + i + k * step);
        UNROLL for (int k = 0; k < LOADS; k++)
            mine += word_sum(x[k]);
    }
    for (; i < n; i += step)
        mine += word_sum(load_once(at + i));
    for (int mask = 16; mask > 0; mask >>= 1)
        mine += warp_xor(mine, mask);
    if (lane_id() == 0)
        atomic_add(sum, (int)mine);
}

void gpu_probe_read(struct gpu_stream *s, int32_t *sum, const void *block, size_t bytes)
{
    int threads = gpu_threads(s, s->max_threads);
    assert(bytes % sizeof(uint4) == 0);
    LAUNCH(s, read_words, dim3((unsigned)(s->n_sms * BLOCKS_PER_SM)), threads, 0, sum,
           (const uint4 *)block, (int64_t)(bytes / sizeof(uint4)));
}
