/* How fast bytes are multiplied on vectors of 256 bits at best, for the probe: with VNNI (VNNI 1) four
 * multiply-adds to a sum at once; without (VNNI 0) bytes become pairs of 16 bits, pairs become sums of
 * four, 32 multiply-adds in three instructions. */
#ifndef TANDEM_CPU_AVX2_COUNT_H
#define TANDEM_CPU_AVX2_COUNT_H

#include <immintrin.h>
#include <stdint.h>

#define CHAINS 12 /* enough to hide the latency of two units */

static int64_t count_int8(int64_t rounds)
{
    __m256i sum[CHAINS] = { 0 }, ones8 = _mm256_set1_epi8(1);
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < CHAINS; j++) {
            __asm__ volatile("" : "+x"(ones8)); /* multiply again, do not remember */
#if VNNI
            sum[j] = _mm256_dpbusd_avx_epi32(sum[j], ones8, ones8);
#else
            __m256i pairs = _mm256_maddubs_epi16(ones8, ones8);
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
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

#endif
