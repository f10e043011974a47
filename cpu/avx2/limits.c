/* What AVX2 can do at best, for the probe. */
#include <immintrin.h>

#include "cpu/avx2/table.h"

static uint64_t read_words(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    __m256i sum[4] = { 0 };
    for (size_t i = 0; i < bytes; i += 128)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm256_add_epi64(sum[j], _mm256_loadu_si256((const __m256i *)(p + i + 32 * j)));
    sum[0] = _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
    uint64_t words[4];
    _mm256_storeu_si256((__m256i *)words, sum[0]);
    return words[0] + words[1] + words[2] + words[3];
}

/* Bytes become pairs of 16 bits, pairs become sums of four: 32 multiply-adds in three
 * instructions. */
#define CHAINS 8 /* enough to hide the latency */

static int64_t count_int8(int64_t rounds)
{
    __m256i sum[CHAINS] = { 0 }, ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < CHAINS; j++) {
            __asm__ volatile("" : "+x"(ones8)); /* multiply again, do not remember */
            __m256i pairs = _mm256_maddubs_epi16(ones8, ones8);
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(pairs, ones16));
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

void use_limits_avx2(struct kernels *k)
{
    k->read_words = read_words;
    k->count_int8 = count_int8;
}
