/* What AVX-VNNI can do at best, for the probe. */
#include <immintrin.h>

#include "cpu/avxvnni/table.h"

#define CHAINS 12 /* enough to hide the latency of two units */

static int64_t count_int8(int64_t rounds)
{
    __m256i sum[CHAINS] = { 0 }, ones = _mm256_set1_epi8(1);
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < CHAINS; j++) {
            __asm__ volatile("" : "+x"(ones)); /* multiply again, do not remember */
            sum[j] = _mm256_dpbusd_avx_epi32(sum[j], ones, ones);
        }
    }
    int64_t total = 0;
    for (int j = 0; j < CHAINS; j++) {
        int32_t lanes[8];
        _mm256_storeu_si256((__m256i *)lanes, sum[j]);
        for (int k = 0; k < 8; k++)
            total += lanes[k];
    }
    return total;
}

void use_limits_avxvnni(struct kernels *k)
{
    k->count_int8 = count_int8;
}
