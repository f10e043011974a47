/* Matrix tiles of 8 rows x 4 tokens, two panels at a time, for AVX2 (VNNI 0) and for the same with VNNI
 * on vectors of 256 bits (VNNI 1). 8 rows lie across the lanes of a vector, so a broadcast of a few
 * activations serves all of them.
 *
 * Bytes are multiplied unsigned by signed, so weights are lifted above zero; what that adds is taken away
 * again, from the sums of the activations. VNNI adds up four products in 32 bits at once. Without it
 * bytes become pairs of products in 16 bits, which want a second instruction to become 32 bits, and room:
 * with q <= range a pair is at most 254 range, and as many pairs as 16 bits hold are added up before they
 * are multiplied by the scale of their run, or by one:
 *
 *   depth   lines of four columns that are added up: 8 for Q4_K, Q4_0; 4 for Q2_K, Q3_K, Q5_K, Q5_0, Q5_1,
 *           IQ3_S, IQ1, MXFP4; 2 for Q6_K; 1 for IQ2, IQ3_XXS. A line then costs 2 to 3 instructions.
 *   0       bytes that need 8 bits as they are (Q8_0, IQ4_XS, IQ4_NL). These become words, multiplied by
 *           the scales of their runs where these are integers, activations words too: one multiplication
 *           adds up two columns, and a line costs 4.
 *
 * With VNNI the depth is all lines of a run, and a line costs 1.
 *
 * The including file defines VNNI, ISA_NAME(x) and GEMM_ROWS (cpu/avx2/groups.h). */
#include "cpu/avx2/sums.h"
#include "cpu/kernels.h"

#define PANEL_ROWS 8
#define SLICE_TOKENS 4
#define CHUNK 256 /* columns */

struct panel {
    union {
        _Alignas(32) int16_t words[CHUNK / 2][PANEL_ROWS][2]; /* pairs of columns */
        struct {
            _Alignas(32) uint8_t bytes[CHUNK / 4][PANEL_ROWS][4];
            __m256i scale[16]; /* 256: of each run of 16, as words twice (VNNI: once, as dwords) */
            __m256i lift[8];   /* 256: pairs of what each run is too large by, for an activation of 1 */
        };
    };
    __m256i min[8];                 /* 256: pairs of minima of runs of 16 */
    __m256 d, dmin;                 /* 256 */
    __m256 block_d[8], block_m[8];  /* 32: of each block */
    int depth;
};

struct slice {
    _Alignas(32) int16_t words[SLICE_TOKENS][CHUNK];
    _Alignas(32) int8_t bytes[SLICE_TOKENS][CHUNK];
    int32_t bsums[SLICE_TOKENS][8];   /* 256: pairs of sums of 16 */
    int32_t start[SLICE_TOKENS][8];   /* 32, bytes: of the sum of each block */
    float block_sum[SLICE_TOKENS][8]; /* 32, types with m: sum of each block */
    float d[SLICE_TOKENS][8];         /* 256: one; 32: of each block */
};

/* Of the lines that share a scale, how many are added up; 0, 1, 2, 4, 8. */
ALWAYS_INLINE int depth_of(int range, int lines)
{
    int depth = VNNI ? lines : 32767 / (2 * 127 * range);
    return depth >= 8 && lines >= 8 ? 8 : depth >= 4 ? 4 : depth >= 2 ? 2 : depth;
}

ALWAYS_INLINE int depth256(const struct format256 f)
{
    return depth_of(f.is_signed ? 2 * f.most : f.most, f.run / 4);
}

ALWAYS_INLINE int depth32(const struct format32 f)
{
    return depth_of(f.m_at < 0 ? 2 * f.most : f.most, 8);
}

ALWAYS_INLINE int lift32(const struct format32 f)
{
    return f.m_at < 0 && depth32(f) ? f.most : 0;
}

/* For slices: 0 asks for words. */
ALWAYS_INLINE int offset256(const struct format256 f)
{
    return depth256(f);
}

/* For slices: -1 asks for words. */
ALWAYS_INLINE int offset32(const struct format32 f)
{
    return depth32(f) ? lift32(f) : -1;
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
ALWAYS_INLINE void store_words(struct panel *p, int first_column, __m256i rows[8])
{
    transpose8(rows);
    for (int i = 0; i < 8; i++)
        _mm256_store_si256((__m256i *)p->words[first_column / 2 + i], rows[i]);
}

/* 32 bytes of each row become 8 lines. */
ALWAYS_INLINE void store_bytes(struct panel *p, int first_column, __m256i rows[8])
{
    transpose8(rows);
    for (int i = 0; i < 8; i++)
        _mm256_store_si256((__m256i *)p->bytes[first_column / 4 + i], rows[i]);
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

/* Weights times their scales. */
ALWAYS_INLINE void fill_words256(struct panel *p, struct block256 w[8])
{
    for (int j = 0; j < 16; j++) { /* runs of 16 */
        __m256i words[8];
        for (int r = 0; r < 8; r++) {
            int16_t scale;
            memcpy(&scale, (const char *)&w[r].scale + 2 * j, sizeof scale);
            __m256i q = _mm256_cvtepi8_epi16(load128((const char *)w[r].q + 16 * j));
            words[r] = _mm256_mullo_epi16(q, _mm256_set1_epi16(scale));
        }
        store_words(p, 16 * j, words);
    }
}

/* Weights as they are or lifted, and their scales. */
ALWAYS_INLINE void fill_bytes256(struct panel *p, struct block256 w[8], const struct format256 f)
{
    const int lift = f.is_signed ? f.most : f.offset;
    __m256i x[8];
    for (int g = 0; g < 8; g++) {
        for (int r = 0; r < 8; r++) {
            x[r] = w[r].q[g];
            if (f.is_signed)
                x[r] = _mm256_add_epi8(x[r], _mm256_set1_epi8((char)lift));
        }
        store_bytes(p, 32 * g, x);
    }
    for (int r = 0; r < 8; r++)
        x[r] = w[r].scale;
    transpose8(x);
    for (int j = 0; j < 8; j++) {
        __m256i low = _mm256_slli_epi32(x[j], 16), high = _mm256_srli_epi32(x[j], 16);
        p->scale[2 * j] = VNNI ? _mm256_srai_epi32(low, 16) : _mm256_blend_epi16(x[j], low, 0xaa);
        p->scale[2 * j + 1] = VNNI ? _mm256_srai_epi32(x[j], 16)
                                   : _mm256_blend_epi16(high, x[j], 0xaa);
        p->lift[j] = _mm256_mullo_epi16(x[j], _mm256_set1_epi16((short)lift));
    }
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
    p->depth = depth256(f);
    if (depth256(f))
        fill_bytes256(p, w, f);
    else
        fill_words256(p, w);
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
    const __m256i lift = _mm256_set1_epi8((char)lift32(f));
    p->depth = depth32(f);
    for (int b = 0; b < n_blocks; b++, block += f.bytes) {
        __m256i q[8], low[8], high[8];
        for (int r = 0; r < 8; r++) {
            const uint8_t *row = row_of(block, row_stride, n_rows, r);
            if (b % 2 == 0)
                prefetch_next(row, 8 * f.bytes, 2 * f.bytes);
            q[r] = unpack(row);
            low[r] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q[r]));
            high[r] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q[r], 1));
            q[r] = _mm256_add_epi8(q[r], lift);
        }
        if (depth32(f)) {
            store_bytes(p, 32 * b, q);
        } else {
            store_words(p, 32 * b, low);
            store_words(p, 32 * b + 16, high);
        }
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
                                 int n_tokens, int run, int depth)
{
    (void)run;
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = block + (size_t)t * act_stride;
        for (int i = 0; i < CHUNK; i += 32) {
            if (depth)
                _mm256_store_si256((__m256i *)(s->bytes[t] + i), load256(a + Q8_K_QS + i));
            else
                widen(s->words[t] + i, load256(a + Q8_K_QS + i));
        }
        _mm256_storeu_si256((__m256i *)s->bsums[t], load256(a + Q8_K_BSUMS));
        s->d[t][0] = load_f32(a);
    }
    for (int t = n_tokens; t < SLICE_TOKENS; t++) {
        memset(s->words[t], 0, sizeof s->words[t]);
        memset(s->bytes[t], 0, sizeof s->bytes[t]);
        memset(s->bsums[t], 0, sizeof s->bsums[t]);
        s->d[t][0] = 0;
    }
}

/* n_blocks blocks Q8_0 or Q8_1 of each token; tokens past n_tokens become zero. */
ALWAYS_INLINE void fill_slice32(struct slice *s, const uint8_t *block, size_t act_stride,
                                int n_tokens, int n_blocks, bool q8_1, int lift)
{
    const int bytes = q8_1 ? Q8_1_BYTES : Q8_0_BYTES, qs = q8_1 ? Q8_1_QS : Q8_0_QS;
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    const bool sums_count = q8_1 || lift > 0; /* else nobody asks for the sums of blocks */
    memset(s->d, 0, sizeof s->d);
    memset(s->start, 0, sizeof s->start);
    for (int t = n_tokens; t < SLICE_TOKENS; t++) {
        memset(s->words[t], 0, sizeof s->words[t]);
        memset(s->bytes[t], 0, sizeof s->bytes[t]);
    }
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = block + (size_t)t * act_stride;
        for (int b = 0; b < n_blocks; b += 4, a += 4 * bytes) {
            int count = n_blocks - b < 4 ? n_blocks - b : 4;
            __m256i sum[4];
            for (int j = 0; j < 4; j++) {
                __m256i q = j < count ? load256(a + j * bytes + qs) : _mm256_setzero_si256();
                if (lift < 0)
                    widen(s->words[t] + 32 * (b + j), q);
                else
                    _mm256_store_si256((__m256i *)(s->bytes[t] + 32 * (b + j)), q);
                if (sums_count)
                    sum[j] = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
            }
            _mm_storeu_ps(s->d[t] + b, f16x4(a, (size_t)bytes, count));
            if (!sums_count)
                continue;
            __m128i sums = sums4(sum);
            _mm_storeu_si128((__m128i *)(s->start[t] + b),
                             _mm_mullo_epi32(sums, _mm_set1_epi32(-lift)));
            _mm_storeu_ps(s->block_sum[t] + b, _mm_cvtepi32_ps(sums));
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

/* Two or four activations in every lane. */
ALWAYS_INLINE __m256i broadcast4(const void *p)
{
    int x;
    memcpy(&x, p, sizeof x);
    return _mm256_set1_epi32(x);
}

/* Columns [first, last) of `width` panels of words times all tokens of the slice. */
ALWAYS_INLINE void multiply_words(const struct panel *p, const int width, const struct slice *s,
                                  int first, int last, __m256i isum[2][SLICE_TOKENS])
{
    for (int w = 0; w < width; w++)
        for (int t = 0; t < SLICE_TOKENS; t++)
            isum[w][t] = _mm256_setzero_si256();
#pragma GCC unroll 8 /* else sums are copied from register to register once per turn */
    for (int i = first; i < last; i += 2) {
        __m256i q[2];
        for (int w = 0; w < width; w++)
            q[w] = _mm256_load_si256((const __m256i *)p[w].words[i / 2]);
        for (int t = 0; t < SLICE_TOKENS; t++) {
            __m256i a = broadcast4(s->words[t] + i);
            for (int w = 0; w < width; w++)
                isum[w][t] = _mm256_add_epi32(isum[w][t], _mm256_madd_epi16(q[w], a));
        }
    }
}

/* Four products, added up: sums of 32 bits, or two of 16. */
ALWAYS_INLINE __m256i plus_products(__m256i sum, __m256i q, __m256i a, bool first)
{
#if VNNI
    return _mm256_dpbusd_avx_epi32(first ? _mm256_setzero_si256() : sum, q, a);
#else
    __m256i x = _mm256_maddubs_epi16(q, a);
    sum = first ? x : _mm256_add_epi16(sum, x);
    __asm__("" : "+x"(sum)); /* now: a tree of sums at the end needs 64 registers */
    return sum;
#endif
}

/* `depth` lines of bytes from `line` on: sums of `width` panels and all tokens. */
ALWAYS_INLINE void multiply_lines(const struct panel *p, const int width, const struct slice *s,
                                  int line, const int depth, __m256i part[2][SLICE_TOKENS])
{
#pragma GCC unroll 8
    for (int i = 0; i < depth; i++) {
        __m256i q[2];
        for (int w = 0; w < width; w++)
            q[w] = _mm256_load_si256((const __m256i *)p[w].bytes[line + i]);
#pragma GCC unroll 4
        for (int t = 0; t < SLICE_TOKENS; t++) {
            __m256i a = broadcast4(s->bytes[t] + 4 * (line + i));
            for (int w = 0; w < width; w++)
                part[w][t] = plus_products(part[w][t], q[w], a, i == 0);
        }
    }
}

/* isum + part * scale, in 32 bits */
ALWAYS_INLINE __m256i plus_run(__m256i isum, __m256i part, __m256i scale)
{
    part = VNNI ? _mm256_mullo_epi32(part, scale) : _mm256_madd_epi16(part, scale);
    return _mm256_add_epi32(isum, part);
}

/* The integer sums of a block of 256 in bytes. */
ALWAYS_INLINE void multiply_bytes256(const struct panel *p, const int width, const struct slice *s,
                                     const int depth, bool lifted, __m256i isum[2][SLICE_TOKENS])
{
    for (int w = 0; w < width; w++) {
        for (int t = 0; t < SLICE_TOKENS; t++) {
            isum[w][t] = _mm256_setzero_si256();
            for (int j = 0; lifted && j < 8; j++) {
                __m256i b = broadcast4(&s->bsums[t][j]);
                isum[w][t] = _mm256_sub_epi32(isum[w][t], _mm256_madd_epi16(p[w].lift[j], b));
            }
        }
    }
#pragma GCC unroll 1
    for (int line = 0; line < CHUNK / 4; line += depth) {
        __m256i part[2][SLICE_TOKENS];
        multiply_lines(p, width, s, line, depth, part);
        for (int w = 0; w < width; w++)
            for (int t = 0; t < SLICE_TOKENS; t++)
                isum[w][t] = plus_run(isum[w][t], part[w][t], p[w].scale[line / 4]);
    }
}

/* d_w d_a isum: see cpu/avx2/dot.c */
ALWAYS_INLINE __m256 scaled8(__m256 d, __m256 da, __m256i isum)
{
    return _mm256_mul_ps(_mm256_mul_ps(d, da), _mm256_cvtepi32_ps(isum));
}

ALWAYS_INLINE void tile256(const struct panel *p, const int width, const struct slice *s,
                           const int depth, bool has_min, bool lifted, struct tile_sums *sums,
                           int part)
{
    __m256i isum[2][SLICE_TOKENS];
    if (depth)
        multiply_bytes256(p, width, s, depth, lifted, isum);
    else
        multiply_words(p, width, s, 0, CHUNK, isum);
    for (int w = 0; w < width; w++) {
        for (int t = 0; t < SLICE_TOKENS; t++) {
            float *sum = sums[w].of[part][t];
            __m256 da = _mm256_set1_ps(s->d[t][0]), x = scaled8(p[w].d, da, isum[w][t]);
            if (has_min) {
                __m256i msum = _mm256_setzero_si256();
                for (int j = 0; j < 8; j++) {
                    __m256i b = broadcast4(&s->bsums[t][j]);
                    msum = _mm256_add_epi32(msum, _mm256_madd_epi16(p[w].min[j], b));
                }
                x = _mm256_sub_ps(x, scaled8(p[w].dmin, da, msum));
            }
            _mm256_store_ps(sum, _mm256_add_ps(_mm256_load_ps(sum), x));
        }
    }
}

/* The integer sums of block b of 32. */
ALWAYS_INLINE void multiply_block32(const struct panel *p, const int width, const struct slice *s,
                                    int b, const int depth, __m256i isum[2][SLICE_TOKENS])
{
    if (!depth) {
        multiply_words(p, width, s, 32 * b, 32 * (b + 1), isum);
        return;
    }
    for (int w = 0; w < width; w++)
        for (int t = 0; t < SLICE_TOKENS; t++)
            isum[w][t] = broadcast4(&s->start[t][b]);
    for (int line = 8 * b; line < 8 * (b + 1); line += depth) {
        __m256i part[2][SLICE_TOKENS];
        multiply_lines(p, width, s, line, depth, part);
        for (int w = 0; w < width; w++)
            for (int t = 0; t < SLICE_TOKENS; t++)
                isum[w][t] = VNNI ? _mm256_add_epi32(isum[w][t], part[w][t])
                                  : plus_run(isum[w][t], part[w][t], _mm256_set1_epi16(1));
    }
}

ALWAYS_INLINE void tile32(const struct panel *p, const int width, const struct slice *s,
                          int n_blocks, const int depth, bool has_m, struct tile_sums *sums)
{
    for (int b = 0; b < n_blocks; b++) {
        __m256i isum[2][SLICE_TOKENS];
        multiply_block32(p, width, s, b, depth, isum);
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

/* Two panels at a time, and what is left. */
ALWAYS_INLINE void panels256(const struct panel *p, int n_panels, const struct slice *s,
                             const int depth, bool has_min, bool lifted, struct tile_sums *sums,
                             int part)
{
    for (; n_panels > 1; n_panels -= 2, p += 2, sums += 2)
        tile256(p, 2, s, depth, has_min, lifted, sums, part);
    if (n_panels > 0)
        tile256(p, 1, s, depth, has_min, lifted, sums, part);
}

ALWAYS_INLINE void panels32(const struct panel *p, int n_panels, const struct slice *s,
                            int n_blocks, const int depth, bool has_m, struct tile_sums *sums)
{
    for (; n_panels > 1; n_panels -= 2, p += 2, sums += 2)
        tile32(p, 2, s, n_blocks, depth, has_m, sums);
    if (n_panels > 0)
        tile32(p, 1, s, n_blocks, depth, has_m, sums);
}

/* Of the types there are, those with minima are not lifted, and all others of bytes are. */
static void multiply256(const struct panel *p, int n_panels, const struct slice *s, int run,
                        bool has_min, int n_tokens, struct tile_sums *sums, int part)
{
    (void)run, (void)n_tokens;
    if (p->depth == 8 && has_min)
        panels256(p, n_panels, s, 8, true, false, sums, part);
    else if (p->depth == 4 && has_min)
        panels256(p, n_panels, s, 4, true, false, sums, part);
    else if (VNNI && p->depth == 8)
        panels256(p, n_panels, s, 8, false, true, sums, part);
    else if (p->depth == 4)
        panels256(p, n_panels, s, 4, false, true, sums, part);
    else if (!VNNI && p->depth == 2)
        panels256(p, n_panels, s, 2, false, true, sums, part);
    else if (!VNNI && p->depth == 1)
        panels256(p, n_panels, s, 1, false, true, sums, part);
    else if (!VNNI)
        panels256(p, n_panels, s, 0, false, false, sums, part);
}

static void multiply32(const struct panel *p, int n_panels, const struct slice *s, int n_blocks,
                       bool has_m, int n_tokens, struct tile_sums *sums)
{
    (void)n_tokens;
    if (p->depth == 8 && has_m)
        panels32(p, n_panels, s, n_blocks, 8, true, sums);
    else if (p->depth == 8)
        panels32(p, n_panels, s, n_blocks, 8, false, sums);
    else if (!VNNI && p->depth == 4 && has_m)
        panels32(p, n_panels, s, n_blocks, 4, true, sums);
    else if (!VNNI && p->depth == 4)
        panels32(p, n_panels, s, n_blocks, 4, false, sums);
    else if (!VNNI)
        panels32(p, n_panels, s, n_blocks, 0, false, sums);
}
