/* Blocks to floats, AVX2: the unpacked bytes times their scales, in the order of the formulas of
 * quant_blocks.h, so that the bits are those of plain C. The scale of a run, d * scale, and its
 * minimum, dmin * min, are exact in binary32; so is their product with q: rounding happens only in
 * the last subtraction or addition, if there is one. */
#include "cpu/avx2/table.h"
#include "cpu/avx2/unpack.h"

ALWAYS_INLINE __m256 floats_of_bytes(__m128i x)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x));
}

ALWAYS_INLINE __m256 floats_of_words(__m256i x, int half)
{
    __m128i words = half ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x);
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(words));
}

ALWAYS_INLINE void decode256(const uint8_t *block, float *out, int64_t n, const struct format256 f,
                             unpack256_fn *unpack, scales_fn *scales)
{
    for (int64_t b = 0; b < n / 256; b++, block += f.bytes) {
        struct block256 w;
        unpack(block, &w);
        float scale[16], min[16];
        __m256 d = _mm256_broadcastss_ps(scales(block, 0, 1)), dmin = _mm256_setzero_ps();
        if (f.dmin_at >= 0)
            dmin = _mm256_broadcastss_ps(f16x4(block + f.dmin_at, 0, 1));
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(scale + 8 * h, _mm256_mul_ps(d, floats_of_words(w.scale, h)));
            if (f.dmin_at >= 0)
                _mm256_storeu_ps(min + 8 * h, _mm256_mul_ps(dmin, floats_of_words(w.min, h)));
        }
        for (int j = 0; j < 16; j++) {
            __m256i pair = _mm256_sub_epi8(w.q[j / 2], _mm256_set1_epi8((char)f.offset));
            __m128i q = j % 2 ? _mm256_extracti128_si256(pair, 1) : _mm256_castsi256_si128(pair);
            for (int h = 0; h < 2; h++) {
                __m256 x = floats_of_bytes(h ? _mm_srli_si128(q, 8) : q);
                x = _mm256_mul_ps(_mm256_set1_ps(scale[j]), x);
                if (f.dmin_at >= 0)
                    x = _mm256_sub_ps(x, _mm256_set1_ps(min[j]));
                _mm256_storeu_ps(out, x);
                out += 8;
            }
        }
    }
}

ALWAYS_INLINE void decode32(const uint8_t *block, float *out, int64_t n, const struct format32 f,
                            unpack32_fn *unpack, scales_fn *scales)
{
    for (int64_t b = 0; b < n / 32; b++, block += f.bytes) {
        __m256i w = unpack(block);
        __m256 d = _mm256_broadcastss_ps(scales(block, 0, 1)), m = _mm256_setzero_ps();
        if (f.m_at >= 0)
            m = _mm256_broadcastss_ps(f16x4(block + f.m_at, 0, 1));
        for (int k = 0; k < 4; k++) {
            __m128i q = k < 2 ? _mm256_castsi256_si128(w) : _mm256_extracti128_si256(w, 1);
            __m256 x = floats_of_bytes(k % 2 ? _mm_srli_si128(q, 8) : q);
            x = _mm256_mul_ps(d, x);
            if (f.m_at >= 0)
                x = _mm256_add_ps(x, m);
            _mm256_storeu_ps(out, x);
            out += 8;
        }
    }
}

#define DEFINE_256(T, name, scales, ...)                                                          \
    static void decode_##name##_avx2(const void *blocks, float *out, int64_t n)                   \
    {                                                                                             \
        const struct format256 f = { __VA_ARGS__ };                                               \
        decode256(blocks, out, n, f, unpack_##name, scales_##scales);                             \
    }
TYPES_256(DEFINE_256)

#define DEFINE_32(T, name, scales, ...)                                                           \
    static void decode_##name##_avx2(const void *blocks, float *out, int64_t n)                   \
    {                                                                                             \
        const struct format32 f = { __VA_ARGS__ };                                                \
        decode32(blocks, out, n, f, unpack_##name, scales_##scales);                              \
    }
TYPES_32(DEFINE_32)

void use_decode_avx2(struct kernels *k)
{
#define SET(T, name, ...) k->decode[TYPE_##T] = decode_##name##_avx2;
    TYPES_256(SET)
    TYPES_32(SET)
}
