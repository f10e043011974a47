/* What AVX2 can do at best, for the probe. */
#include "cpu/avx2/table.h"

#define VNNI 0
#include "cpu/avx2/count.h"

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

void use_limits_avx2(struct kernels *k)
{
    k->read_words = read_words;
    k->count_int8 = count_int8;
}
