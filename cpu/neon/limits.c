/* What NEON with dot product can do at best, for the probe. */
#include <arm_neon.h>

#include "cpu/neon/table.h"

static uint64_t read_words(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    uint64x2_t sum[8];
    for (int j = 0; j < 8; j++)
        sum[j] = vdupq_n_u64(0);
    for (size_t i = 0; i < bytes; i += 128)
        for (int j = 0; j < 8; j++)
            sum[j] = vaddq_u64(sum[j], vreinterpretq_u64_u8(vld1q_u8(p + i + 16 * j)));
    for (int j = 1; j < 8; j++)
        sum[0] = vaddq_u64(sum[0], sum[j]);
    return vgetq_lane_u64(sum[0], 0) + vgetq_lane_u64(sum[0], 1);
}

#define CHAINS 16 /* enough to hide the latency of four units */

static int64_t count_int8(int64_t rounds)
{
    int32x4_t sum[CHAINS];
    int8x16_t ones = vdupq_n_s8(1);
    for (int j = 0; j < CHAINS; j++)
        sum[j] = vdupq_n_s32(0);
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < CHAINS; j++) {
            __asm__ volatile("" : "+w"(ones)); /* multiply again, do not remember */
            sum[j] = vdotq_s32(sum[j], ones, ones);
        }
    }
    int64_t total = 0;
    for (int j = 0; j < CHAINS; j++)
        total += vaddvq_s32(sum[j]);
    return total;
}

void use_limits_neon(struct kernels *k)
{
    k->read_words = read_words;
    k->count_int8 = count_int8;
}
