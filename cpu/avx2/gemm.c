/* Matrix tiles, AVX2: 8 rows x 4 tokens, two panels at a time.
 *
 * Without VNNI a product of bytes wants two instructions and a proof that 16 bits hold it. So a
 * panel holds words: weights times the scales of their runs where these are integers (types of 256;
 * they stay below 2^14), activations widened to match. One multiplication of words adds up two
 * columns, and a block of 256 needs no other integer work. 8 rows lie across the lanes of a vector;
 * a broadcast of two activations serves all of them. */
#include "cpu/avx2/sums.h"
#include "cpu/avx2/table.h"

#define ISA_NAME(name) name##_avx2
#define GEMM_ROWS gemm
#define PANEL_ROWS 8
#define SLICE_TOKENS 4
#define CHUNK 256 /* columns */

struct panel {
    _Alignas(32) int16_t q[CHUNK / 2][PANEL_ROWS][2]; /* pairs of columns */
    __m256i min[8];                                   /* 256: pairs of minima of runs of 16 */
    __m256 d, dmin;                                   /* 256 */
    __m256 block_d[8], block_m[8];                    /* 32: of each block */
};

struct slice {
    _Alignas(32) int16_t q[SLICE_TOKENS][CHUNK];
    int32_t bsums[SLICE_TOKENS][8];   /* 256: pairs of sums of 16 */
    float block_sum[SLICE_TOKENS][8]; /* 32, types with m: sum of each block */
    float d[SLICE_TOKENS][8];         /* 256: one; 32: of each block */
};

/* Nothing is added to the weights that would have to be taken away again. */
ALWAYS_INLINE int offset256(const struct format256 f)
{
    (void)f;
    return 0;
}
ALWAYS_INLINE int offset32(const struct format32 f)
{
    (void)f;
    return 0;
}

/* 8 x 8 dwords: rows become columns. */
ALWAYS_INLINE void transpose8(__m256i x[8])
{
    __m256i y[8], z[8];
    for (int i = 0; i < 8; i += 2) {
        y[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int h = 0; h < 2; h++) {
            z[i + 2 * h] = _mm256_unpacklo_epi64(y[i + h], y[i + 2 + h]);
            z[i + 2 * h + 1] = _mm256_unpackhi_epi64(y[i + h], y[i + 2 + h]);
        }
    }
    for (int c = 0; c < 4; c++) {
        x[c] = _mm256_permute2x128_si256(z[c], z[c + 4], 0x20);
        x[c + 4] = _mm256_permute2x128_si256(z[c], z[c + 4], 0x31);
    }
}

/* 16 words of each row become 8 lines of the panel. */
ALWAYS_INLINE void store_lines(struct panel *p, int first_column, __m256i rows[8])
{
    transpose8(rows);
    for (int i = 0; i < 8; i++)
        _mm256_store_si256((__m256i *)p->q[first_column / 2 + i], rows[i]);
}

/* A float of each row, 0 past the last. */
ALWAYS_INLINE __m256 scales8(const uint8_t *p, size_t row_stride, int n_rows, scales_fn *scales)
{
    __m128 low, high = _mm_setzero_ps();
    low = n_rows >= 4 ? scales(p, row_stride, 4) : scales(p, row_stride, n_rows);
    if (n_rows > 4)
        high = scales(p + 4 * row_stride, row_stride, n_rows < 8 ? n_rows - 4 : 4);
    return _mm256_set_m128(high, low);
}

/* One block of 256 of each row. */
ALWAYS_INLINE void fill_panel256(struct panel *p, const uint8_t *block, size_t row_stride,
                                 int n_rows, const struct format256 f, unpack256_fn *unpack,
                                 scales_fn *scales)
{
    struct block256 w[8];
    __m256i min[8];
    for (int r = 0; r < 8; r++) {
        const uint8_t *row = row_of(block, row_stride, n_rows, r);
        prefetch_next(row, f.bytes, f.bytes);
        unpack(row, &w[r]);
        min[r] = w[r].min;
    }
    for (int j = 0; j < 16; j++) { /* runs of 16 */
        __m256i words[8];
        for (int r = 0; r < 8; r++) {
            int16_t scale;
            memcpy(&scale, (const char *)&w[r].scale + 2 * j, sizeof scale);
            __m256i q = _mm256_cvtepi8_epi16(load128((const char *)w[r].q + 16 * j));
            q = _mm256_sub_epi16(q, _mm256_set1_epi16((short)f.offset));
            words[r] = _mm256_mullo_epi16(q, _mm256_set1_epi16(scale));
        }
        store_lines(p, 16 * j, words);
    }
    p->d = scales8(block, row_stride, n_rows, scales);
    if (f.dmin_at < 0)
        return;
    p->dmin = scales8(block + f.dmin_at, row_stride, n_rows, f16x4);
    transpose8(min);
    for (int j = 0; j < 8; j++)
        p->min[j] = min[j];
}

/* n_blocks (1..8) blocks of 32 of each row; lines past them stay as they are. */
ALWAYS_INLINE void fill_panel32(struct panel *p, const uint8_t *block, size_t row_stride,
                                int n_rows, int n_blocks, const struct format32 f,
                                unpack32_fn *unpack, scales_fn *scales)
{
    for (int b = 0; b < n_blocks; b++, block += f.bytes) {
        __m256i low[8], high[8];
        for (int r = 0; r < 8; r++) {
            const uint8_t *row = row_of(block, row_stride, n_rows, r);
            if (b % 2 == 0)
                prefetch_next(row, 8 * f.bytes, 2 * f.bytes);
            __m256i q = unpack(row);
            low[r] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q));
            high[r] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1));
        }
        store_lines(p, 32 * b, low);
        store_lines(p, 32 * b + 16, high);
        p->block_d[b] = scales8(block, row_stride, n_rows, scales);
        if (f.m_at >= 0)
            p->block_m[b] = scales8(block + f.m_at, row_stride, n_rows, f16x4);
    }
}

ALWAYS_INLINE void widen(int16_t *to, __m256i bytes)
{
    _mm256_store_si256((__m256i *)to, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)));
    _mm256_store_si256((__m256i *)(to + 16),
                       _mm256_cvtepi8_epi16(_mm256_extracti128_si256(bytes, 1)));
}

/* One block Q8_K of each token; tokens past n_tokens become zero. */
static inline void fill_slice256(struct slice *s, const uint8_t *block, size_t act_stride,
                                 int n_tokens, int run, int offset)
{
    (void)run, (void)offset;
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = block + (size_t)t * act_stride;
        for (int i = 0; i < CHUNK; i += 32)
            widen(s->q[t] + i, load256(a + Q8_K_QS + i));
        _mm256_storeu_si256((__m256i *)s->bsums[t], load256(a + Q8_K_BSUMS));
        s->d[t][0] = load_f32(a);
    }
    for (int t = n_tokens; t < SLICE_TOKENS; t++) {
        memset(s->q[t], 0, sizeof s->q[t]);
        memset(s->bsums[t], 0, sizeof s->bsums[t]);
        s->d[t][0] = 0;
    }
}

/* n_blocks blocks Q8_0 or Q8_1 of each token; tokens past n_tokens become zero. */
static inline void fill_slice32(struct slice *s, const uint8_t *block, size_t act_stride,
                                int n_tokens, int n_blocks, bool q8_1, int offset)
{
    (void)offset;
    const int bytes = q8_1 ? Q8_1_BYTES : Q8_0_BYTES, qs = q8_1 ? Q8_1_QS : Q8_0_QS;
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    memset(s->d, 0, sizeof s->d);
    for (int t = n_tokens; t < SLICE_TOKENS; t++)
        memset(s->q[t], 0, sizeof s->q[t]);
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = block + (size_t)t * act_stride;
        for (int b = 0; b < n_blocks; b += 4, a += 4 * bytes) {
            int count = n_blocks - b < 4 ? n_blocks - b : 4;
            __m256i sum[4];
            for (int j = 0; j < 4; j++) {
                __m256i q = j < count ? load256(a + j * bytes + qs) : _mm256_setzero_si256();
                widen(s->q[t] + 32 * (b + j), q);
                if (q8_1)
                    sum[j] = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
            }
            if (q8_1)
                _mm_storeu_ps(s->block_sum[t] + b, _mm_cvtepi32_ps(sums4(sum)));
            _mm_storeu_ps(s->d[t] + b, f16x4(a, (size_t)bytes, count));
        }
    }
}

#include "cpu/avx2/groups.h"

static void begin_tiles(int columns)
{
    (void)columns;
}

static void end_tiles(void)
{
}

/* Two activations in every lane. */
ALWAYS_INLINE __m256i broadcast2(const int16_t *p)
{
    int x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* Columns [first, last) of `width` panels times all tokens of the slice. */
ALWAYS_INLINE void multiply_pairs(const struct panel *p, const int width, const struct slice *s,
                                  int first, int last, __m256i isum[2][SLICE_TOKENS])
{
    for (int w = 0; w < width; w++)
        for (int t = 0; t < SLICE_TOKENS; t++)
            isum[w][t] = _mm256_setzero_si256();
#pragma GCC unroll 8 /* else sums are copied from register to register once per turn */
    for (int i = first; i < last; i += 2) {
        __m256i q[2];
        for (int w = 0; w < width; w++)
            q[w] = _mm256_load_si256((const __m256i *)p[w].q[i / 2]);
        for (int t = 0; t < SLICE_TOKENS; t++) {
            __m256i a = broadcast2(s->q[t] + i);
            for (int w = 0; w < width; w++)
                isum[w][t] = _mm256_add_epi32(isum[w][t], _mm256_madd_epi16(q[w], a));
        }
    }
}

/* d_w d_a isum: see cpu/avx2/dot.c */
ALWAYS_INLINE __m256 scaled8(__m256 d, __m256 da, __m256i isum)
{
    return _mm256_mul_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum));
}

ALWAYS_INLINE void tile256(const struct panel *p, const int width, const struct slice *s,
                           bool has_min, struct tile_sums *sums, int part)
{
    __m256i isum[2][SLICE_TOKENS];
    multiply_pairs(p, width, s, 0, CHUNK, isum);
    for (int w = 0; w < width; w++) {
        for (int t = 0; t < SLICE_TOKENS; t++) {
            float *sum = sums[w].of[part][t];
            __m256 da = _mm256_set1_ps(s->d[t][0]), x = scaled8(p[w].d, da, isum[w][t]);
            if (has_min) {
                __m256i msum = _mm256_setzero_si256();
                for (int j = 0; j < 8; j++) {
                    __m256i b = _mm256_set1_epi32(s->bsums[t][j]);
                    msum = _mm256_add_epi32(msum, _mm256_madd_epi16(p[w].min[j], b));
                }
                x = _mm256_sub_ps(x, scaled8(p[w].dmin, da, msum));
            }
            _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), x));
        }
    }
}

ALWAYS_INLINE void tile32(const struct panel *p, const int width, const struct slice *s,
                          int n_blocks, bool has_m, struct tile_sums *sums)
{
    for (int b = 0; b < n_blocks; b++) {
        __m256i isum[2][SLICE_TOKENS];
        multiply_pairs(p, width, s, 32 * b, 32 * (b + 1), isum);
        for (int w = 0; w < width; w++) {
            for (int t = 0; t < SLICE_TOKENS; t++) {
                float *sum = sums[w].of[b % 4][t];
                __m256 da = _mm256_set1_ps(s->d[t][b]);
                __m256 x = _mm256_fmadd_ps(_mm256_mul_ps(p[w].block_d[b], da),
                                           _mm256_cvtepi32_ps(isum[w][t]), _mm256_load_ps(sum));
                if (has_m)
                    x = _mm256_fmadd_ps(_mm256_mul_ps(p[w].block_m[b], da),
                                        _mm256_set1_ps(s->block_sum[t][b]), x);
                _mm256_store_ps(sum, x);
            }
        }
    }
}

static void multiply256(const struct panel *p, int n_panels, const struct slice *s, int run,
                        bool has_min, int n_tokens, struct tile_sums *sums, int part)
{
    (void)run, (void)n_tokens;
    for (int i = 0; i < n_panels; i += 2, p += 2, sums += 2) {
        bool both = i + 1 < n_panels;
        if (has_min)
            both ? tile256(p, 2, s, true, sums, part) : tile256(p, 1, s, true, sums, part);
        else
            both ? tile256(p, 2, s, false, sums, part) : tile256(p, 1, s, false, sums, part);
    }
}

static void multiply32(const struct panel *p, int n_panels, const struct slice *s, int n_blocks,
                       bool has_m, int n_tokens, struct tile_sums *sums)
{
    (void)n_tokens;
    for (int i = 0; i < n_panels; i += 2, p += 2, sums += 2) {
        bool both = i + 1 < n_panels;
        if (has_m)
            both ? tile32(p, 2, s, n_blocks, true, sums) : tile32(p, 1, s, n_blocks, true, sums);
        else
            both ? tile32(p, 2, s, n_blocks, false, sums) : tile32(p, 1, s, n_blocks, false, sums);
    }
}
