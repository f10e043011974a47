/* The hand-off by flags: a layer's tokens to the CPU and its sum back, without a call of the driver.
 *
 *     publish   copies picks, weights and hidden rows to pinned memory, then raises a flag there
 *     collect   polls another flag until the CPU has raised it, then copies the sum
 *
 * One token of V3 is 28 KiB each way: 1.5 us at the speed of PCIe 4, about as long as one look at a
 * word of main memory takes from here (a round trip over the bus), so one block does each copy and its
 * first thread the polling. What it costs beside is a multiprocessor, while nothing else is queued: the
 * shared experts stand before collect.
 *
 * A poll never lasts for ever. A CPU that died, or is held by a debugger, would otherwise hold the card
 * with it: behind `limit` the GPU abandons the step by itself, and later polls of the step pass at once.
 * What was collected then is of no use, and the CPU finds the mark. */
#include "gpu/common.cuh"

#define POLLS_PER_LOOK 64 /* polls of the flag to one look at the mark and the clock */
#define BATCH 16          /* words that a thread has on their way at a time */

DEVICE uint32_t load_word(const uint32_t *p) { return *p; }
DEVICE float load_word(const float *p) { return load_relaxed_system(p); } /* the CPU wrote it meanwhile */

/* All threads of the block. Loads of a batch wait together: one by one, each would take a round trip. */
template <typename T> DEVICE void copy_words(T *to, const T *from, int64_t n)
{
    int64_t step = blockDim.x;
    for (int64_t at = threadIdx.x; at < n; at += BATCH * step) {
        T x[BATCH];
        UNROLL for (int k = 0; k < BATCH; k++)
            if (at + k * step < n)
                x[k] = load_word(from + at + k * step);
        UNROLL for (int k = 0; k < BATCH; k++)
            if (at + k * step < n)
                to[at + k * step] = x[k];
    }
}

KERNEL void handoff_publish(struct gpu_parcel parcel, struct gpu_flags *flags,
                            const struct gpu_step *step, int job)
{
    for (int i = 0; i < GPU_PARCEL_PARTS; i++)
        copy_words(parcel.part[i].to, parcel.part[i].from, parcel.part[i].n_words);
    fence_system(); /* every thread for its own words, before the first one raises the flag */
    block_sync();
    if (threadIdx.x == 0)
        store_release_system(&flags->published.word, gpu_ticket(step->epoch, job));
}

DEVICE void await_flag(struct gpu_flags *flags, uint32_t epoch, uint32_t ticket, uint64_t limit_ns)
{
    uint64_t start = clock_ns();
    for (int n = 1; load_acquire_system(&flags->done.word) != ticket; n++) {
        if (n % POLLS_PER_LOOK == 0) {
            if (load_acquire_system(&flags->abandoned.word) == epoch)
                return;
            if (clock_ns() - start > limit_ns)
                store_release_system(&flags->abandoned.word, epoch);
        }
        spin_pause();
    }
}

KERNEL void handoff_collect(float *dst, int64_t stride, int64_t width, int n_tokens,
                            const float *src, int64_t src_stride, struct gpu_flags *flags,
                            const struct gpu_step *step, int job, uint64_t limit_ns)
{
    if (threadIdx.x == 0)
        await_flag(flags, step->epoch, gpu_ticket(step->epoch, job), limit_ns);
    block_sync();
    for (int t = 0; t < n_tokens; t++)
        copy_words(dst + t * stride, src + t * src_stride, width);
}

void gpu_publish(struct gpu_stream *s, const struct gpu_parcel *parcel, struct gpu_flags *flags,
                 const struct gpu_step *step, int job)
{
    assert(job >= 0 && job < GPU_JOBS);
    LAUNCH(s, handoff_publish, 1, s->max_threads, 0, *parcel, flags, step, job);
}

void gpu_collect(struct gpu_stream *s, struct rows dst, struct rows src, struct gpu_flags *flags,
                 const struct gpu_step *step, int job, double limit_s, int n_tokens)
{
    assert(job >= 0 && job < GPU_JOBS);
    LAUNCH(s, handoff_collect, 1, s->max_threads, 0, dst.data, dst.stride, dst.width, n_tokens,
           src.data, src.stride, flags, step, job, (uint64_t)(limit_s * 1e9));
}
