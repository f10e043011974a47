/* What AVX-512 with VNNI can do at best, for the probe. */
#include <immintrin.h>

#include "cpu/avx512/table.h"

static uint64_t read_words(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    __m512i sum[4] = { 0 };
    for (size_t i = 0; i < bytes; i += 256)
        for (int j = 0; j < 4; j++)
            sum[j] = _mm512_add_epi64(sum[j], _mm512_loadu_si512(p + i + 64 * j));
    sum[0] = _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3]));
    uint64_t words[8], total = 0; /* the compiler's own reduction adds signed numbers */
    _mm512_storeu_si512(words, sum[0]);
    for (int j = 0; j < 8; j++)
        total += words[j];
    return total;
}

#define CHAINS 12 /* enough to hide the latency of two units */

static int64_t count_int8(int64_t rounds)
{
    __m512i sum[CHAINS] = { 0 }, ones = _mm512_set1_epi8(1);
    for (int64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < CHAINS; j++) {
            __asm__ volatile("" : "+v"(ones)); /* multiply again, do not remember */
            sum[j] = _mm512_dpbusd_epi32(sum[j], ones, ones);
        }
    }
    int64_t total = 0;
    for (int j = 0; j < CHAINS; j++) {
        int32_t lanes[16];
        _mm512_storeu_si512(lanes, sum[j]);
        for (int k = 0; k < 16; k++)
            total += lanes[k];
    }
    return total;
}

void use_limits_avx512(struct kernels *k)
{
    k->read_words = read_words;
    k->count_int8 = count_int8;
}
