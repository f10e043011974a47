/* Weights and activations laid out for matrix tiles.
 *
 * A dot product spends half its time on loading activations and on adding up lanes. A tile avoids
 * both: 16 rows of weights lie across the 16 lanes of a vector, four bytes of each row in a lane,
 * so that one broadcast of four activation bytes serves 16 rows and a lane is a finished sum.
 *
 *   panel   16 rows x 256 columns:  q[column / 4][row][column % 4]
 *   slice   8 or 16 tokens x 256 columns, with what the formulas need of each token
 *
 * The including file says how many tokens a slice has (SLICE_TOKENS) and which bytes it multiplies:
 *
 *   PLANES 1, for VNNI   unsigned. They are too large by an offset; the slice starts each sum at
 *                        minus offset times the sum of its activations, so nothing is lost.
 *   PLANES 2, for AMX    signed. Types of 256 multiply the scales into the weights, which gives up
 *                        to 14 bits: one plane holds the low bytes, as signed numbers, and the
 *                        other what is missing to the full value, in units of 256.
 *
 * Everything else, and above all the order of floating-point sums, is as in cpu/avx2/dot.c. */
#ifndef TANDEM_CPU_AVX512_PANEL_H
#define TANDEM_CPU_AVX512_PANEL_H

#include "cpu/avx2/sums.h"
#include "cpu/avx512/woven.h"

#define PANEL_ROWS 16
#define CHUNK 256 /* columns */

struct panel {
    _Alignas(64) uint8_t q[PLANES][CHUNK / 4][PANEL_ROWS][4]; /* low bytes first */
    /* 256: scale of each run (of 16 or 32) and pairs of minima; 32: d and m of each block */
    union {
        __m512i scale[16];
        __m512 block_d[8];
    };
    union {
        __m512i min[8];
        __m512 block_m[8];
    };
    __m512 d, dmin;
};

struct slice {
    _Alignas(64) int8_t q[SLICE_TOKENS][CHUNK];
    int32_t start[SLICE_TOKENS][16];  /* of the sum of each run or block */
    int32_t bsums[SLICE_TOKENS][8];   /* 256: 16-bit sums of runs, CHUNK / run / 2 pairs */
    float block_sum[SLICE_TOKENS][8]; /* 32: sum of each block */
    float d[SLICE_TOKENS][8];         /* 256: one; 32: of each block */
};

/* Two vectors of 32 bytes side by side. */
ALWAYS_INLINE __m512i pair(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 16 x 16 dwords: rows become columns. */
ALWAYS_INLINE void transpose16(__m512i x[16])
{
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    /* x[4g + c], 128-bit lane l: dword 4l + c of rows 4g .. 4g + 3 */
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_shuffle_i32x4(x[c], x[c + 4], 0x88);      /* lanes 0 2 of g 0, 1 */
        __m512i b = _mm512_shuffle_i32x4(x[c], x[c + 4], 0xdd);      /* lanes 1 3 */
        __m512i e = _mm512_shuffle_i32x4(x[c + 8], x[c + 12], 0x88); /* the same of g 2, 3 */
        __m512i f = _mm512_shuffle_i32x4(x[c + 8], x[c + 12], 0xdd);
        y[c] = _mm512_shuffle_i32x4(a, e, 0x88);
        y[c + 4] = _mm512_shuffle_i32x4(b, f, 0x88);
        y[c + 8] = _mm512_shuffle_i32x4(a, e, 0xdd);
        y[c + 12] = _mm512_shuffle_i32x4(b, f, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        x[i] = y[i];
}

/* Turn 64 bytes of each row into 16 lines of the panel. */
ALWAYS_INLINE void store_lines(struct panel *p, int first_column, __m512i rows[16])
{
    transpose16(rows);
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(p->q[0][first_column / 4 + i], rows[i]);
}

/* A float of each row, 0 past the last. */
ALWAYS_INLINE __m512 scales16(const uint8_t *p, size_t row_stride, int n_rows, scales_fn *scales)
{
    __m512 d = _mm512_setzero_ps();
    for (int g = 0; g < 4; g++) {
        int count = n_rows - 4 * g < 4 ? n_rows - 4 * g : 4;
        __m128 x = _mm_setzero_ps();
        if (count == 4)
            x = scales(p + (size_t)(4 * g) * row_stride, row_stride, 4);
        else if (count > 0)
            x = scales(p + (size_t)(4 * g) * row_stride, row_stride, count);
        d = _mm512_mask_expand_ps(d, (__mmask16)(15 << 4 * g), _mm512_castps128_ps512(x));
    }
    return d;
}

/* By how much the bytes of a panel are too large. */
ALWAYS_INLINE int offset256(const struct format256 f)
{
    return PLANES == 2 ? 0 : f.is_signed ? 128 : f.offset;
}

ALWAYS_INLINE int offset32(const struct format32 f)
{
    return PLANES == 1 && f.m_at < 0 ? 128 : 0;
}

/* 64 unpacked bytes as a panel takes them. */
ALWAYS_INLINE __m512i panel_bytes(__m512i q, const struct format256 f)
{
    if (PLANES == 2)
        return _mm512_sub_epi8(q, _mm512_set1_epi8((char)f.offset));
    return f.is_signed ? _mm512_xor_si512(q, _mm512_set1_epi8((char)0x80)) : q;
}

#if PLANES == 2
/* Weights times scales of their runs, as two planes. */
static inline void fold_scales(struct panel *p, int run)
{
    const __m512i round = _mm512_set1_epi16(128);
    const __mmask64 odd_bytes = 0xaaaaaaaaaaaaaaaa;
    for (int i = 0; i < CHUNK / 4; i++) {
        __m512i q = _mm512_load_si512(p->q[0][i]), scale = p->scale[4 * i / run];
        scale = _mm512_mask_blend_epi16(0xaaaaaaaa, scale, _mm512_slli_epi32(scale, 16));
        __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(q, 8), 8), odd = _mm512_srai_epi16(q, 8);
        even = _mm512_mullo_epi16(even, scale);
        odd = _mm512_mullo_epi16(odd, scale);
        __m512i low = _mm512_mask_blend_epi8(odd_bytes, even, _mm512_slli_epi16(odd, 8));
        even = _mm512_srli_epi16(_mm512_add_epi16(even, round), 8);
        odd = _mm512_add_epi16(odd, round);
        _mm512_store_si512(p->q[0][i], low);
        _mm512_store_si512(p->q[1][i], _mm512_mask_blend_epi8(odd_bytes, even, odd));
    }
}
#endif

/* One block of 256 of each row. */
ALWAYS_INLINE void fill_panel256(struct panel *p, const uint8_t *block, size_t row_stride,
                                 int n_rows, const struct format256 f,
                                 unpack256_fn *unpack, scales_fn *scales)
{
    __m512i q[4][16], scale[16];
    for (int r = 0; r < 16; r++) {
        struct block256 w;
        const uint8_t *row = row_of(block, row_stride, n_rows, r);
        prefetch_next(row, f.bytes, f.bytes);
        unpack(row, &w);
        for (int k = 0; k < 4; k++)
            q[k][r] = panel_bytes(pair(w.q[2 * k], w.q[2 * k + 1]), f);
        scale[r] = pair(w.scale, f.dmin_at >= 0 ? w.min : _mm256_setzero_si256());
    }
    for (int k = 0; k < 4; k++)
        store_lines(p, 64 * k, q[k]);
    transpose16(scale); /* 8 pairs of scales, 8 pairs of minima, of all rows */
    for (int j = 0; j < 8; j++) {
        __m512i high = _mm512_srai_epi32(scale[j], 16);
        if (f.run == 32) { /* both of a pair are the same */
            p->scale[j] = high;
        } else {
            p->scale[2 * j] = _mm512_srai_epi32(_mm512_slli_epi32(scale[j], 16), 16);
            p->scale[2 * j + 1] = high;
        }
        p->min[j] = scale[j + 8];
    }
    for (int j = 0; f.run == 32 && j < 4; j++) /* one of each of two equal pairs */
        p->min[j] = _mm512_mask_blend_epi16(0xaaaaaaaa, scale[2 * j + 8], scale[2 * j + 9]);
#if PLANES == 2
    fold_scales(p, f.run);
#endif
    p->d = scales16(block, row_stride, n_rows, scales);
    p->dmin = _mm512_setzero_ps();
    if (f.dmin_at >= 0)
        p->dmin = scales16(block + f.dmin_at, row_stride, n_rows, f16x4);
}

/* n_blocks (1..8) blocks of 32 of each row; lines past them stay as they are. */
ALWAYS_INLINE void fill_panel32(struct panel *p, const uint8_t *block, size_t row_stride,
                                int n_rows, int n_blocks, const struct format32 f,
                                unpack32_fn *unpack, scales_fn *scales)
{
    const __m256i flip = _mm256_set1_epi8((char)offset32(f));
    for (int k = 0; 2 * k < n_blocks; k++) {
        const uint8_t *b = block + 2 * k * f.bytes;
        __m512i q[16];
        for (int r = 0; r < 16; r++) {
            const uint8_t *row = row_of(b, row_stride, n_rows, r);
            prefetch_next(row, 8 * f.bytes, 2 * f.bytes);
            __m256i high = flip, low = _mm256_xor_si256(unpack(row), flip);
            if (2 * k + 1 < n_blocks)
                high = _mm256_xor_si256(unpack(row + f.bytes), flip);
            q[r] = pair(low, high);
        }
        store_lines(p, 64 * k, q);
    }
    for (int b = 0; b < n_blocks; b++) {
        p->block_d[b] = scales16(block + b * f.bytes, row_stride, n_rows, scales);
        if (f.m_at >= 0)
            p->block_m[b] = scales16(block + b * f.bytes + f.m_at, row_stride, n_rows, f16x4);
    }
}

/* ---- The same from sixteen woven rows: lines as they are ---- */

/* Eight lines, bytes too large by `offset`, from line `first` of the panel on. */
ALWAYS_INLINE void set_lines(struct panel *p, int first, const __m512i q[8], int offset)
{
    for (int u = 0; u < 8; u++) {
        __m512i line = PLANES == 1 ? q[u] : _mm512_sub_epi8(q[u], _mm512_set1_epi8((char)offset));
        _mm512_store_si512(p->q[0][first + u], line);
    }
}

/* Part of the next block of a group of rows. */
ALWAYS_INLINE void prefetch_woven(const uint8_t *w, int bytes, int part, int parts)
{
    for (int i = bytes / 4 * part / parts; i < bytes / 4 * (part + 1) / parts; i++)
        _mm_prefetch((const char *)w + 16 * bytes + 64 * i, _MM_HINT_T0);
}

ALWAYS_INLINE void fill_woven256(struct panel *p, const uint8_t *w, const struct woven f,
                                 lines_fn *lines, run_scale_fn *scale, run_mins_fn *mins,
                                 row_scale_fn *row_scale)
{
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m512i q[8];
        prefetch_woven(w, f.bytes, j, 8);
        lines(w, j, q);
        set_lines(p, 8 * j, q, f.offset);
    }
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++)
        if (j < CHUNK / f.run)
            p->scale[j] = scale(w, j);
    p->d = row_scale(w);
    p->dmin = _mm512_setzero_ps();
    if (f.m_at >= 0) {
#define SET_MINS(j)                                                                               \
    if (j < CHUNK / f.run / 2)                                                                    \
        p->min[j] = mins(w, j);
        EACH_OF_8(SET_MINS)
        p->dmin = f16_at(w, f.m_at);
    }
#if PLANES == 2
    fold_scales(p, f.run);
#endif
}

/* n_blocks (1..8) blocks; lines past them stay as they are. */
ALWAYS_INLINE void fill_woven32(struct panel *p, const uint8_t *w, int n_blocks,
                                const struct woven f, lines_fn *lines, row_scale_fn *row_scale)
{
    for (int b = 0; b < n_blocks; b++, w += 16 * f.bytes) {
        __m512i q[8];
        prefetch_woven(w, f.bytes, 0, 1);
        lines(w, 0, q);
        set_lines(p, 8 * b, q, f.offset);
        p->block_d[b] = row_scale(w);
        if (f.m_at >= 0)
            p->block_m[b] = f16_at(w, f.m_at);
    }
}

/* ---- Activations ---- */

/* One block Q8_K of each token; tokens past n_tokens become zero. */
static inline void fill_slice256(struct slice *s, const uint8_t *block, size_t act_stride,
                                 int n_tokens, int run, int offset)
{
    const __m256i minus = _mm256_set1_epi16((short)-offset);
    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = block + (size_t)t * act_stride;
        __m256i bsums = load256(a + Q8_K_BSUMS);
        for (int k = 0; k < CHUNK; k += 64) /* memcpy may mean a slow string instruction */
            _mm512_store_si512(s->q[t] + k, _mm512_loadu_si512(a + Q8_K_QS + k));
        __m256i runs = bsums;
        if (run == 32) {
            runs = _mm256_madd_epi16(bsums, _mm256_set1_epi16(1));
            runs = _mm256_permute4x64_epi64(_mm256_packs_epi32(runs, runs), 0xd8);
        }
        _mm256_storeu_si256((__m256i *)s->bsums[t], runs);
        if (!offset)
            _mm512_storeu_si512(s->start[t], _mm512_setzero_si512());
        else if (run == 32)
            _mm256_storeu_si256((__m256i *)s->start[t], _mm256_madd_epi16(bsums, minus));
        else
            _mm512_storeu_si512(s->start[t], _mm512_mullo_epi32(_mm512_cvtepi16_epi32(bsums),
                                                                _mm512_set1_epi32(-offset)));
        s->d[t][0] = load_f32(a);
    }
    for (int t = n_tokens; t < SLICE_TOKENS; t++) {
        memset(s->q[t], 0, CHUNK);
        memset(s->start[t], 0, sizeof s->start[t]);
        memset(s->bsums[t], 0, sizeof s->bsums[t]);
        s->d[t][0] = 0;
    }
}

/* n_blocks blocks Q8_0 or Q8_1 of each token; the rest becomes zero. */
ALWAYS_INLINE void fill_slice32(struct slice *s, const uint8_t *block, size_t act_stride,
                                int n_tokens, int n_blocks, bool q8_1, int offset)
{
    const int bytes = q8_1 ? Q8_1_BYTES : Q8_0_BYTES, qs = q8_1 ? Q8_1_QS : Q8_0_QS;
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    const bool sums_count = q8_1 || offset; /* else nobody asks for the sums of blocks */
    for (int t = n_tokens; t < SLICE_TOKENS; t++) {
        memset(s->q[t], 0, CHUNK);
        memset(s->d[t], 0, sizeof s->d[t]);
        memset(s->start[t], 0, sizeof s->start[t]);
        memset(s->block_sum[t], 0, sizeof s->block_sum[t]);
    }
    for (int t = 0; t < n_tokens; t++) {
        for (int b = 0; b < 8; b += 4) {
            const uint8_t *a = block + (size_t)t * act_stride + (size_t)(b * bytes);
            int count = n_blocks - b < 4 ? n_blocks - b : 4;
            __m256i sum[4];
            for (int j = 0; j < 4; j++) {
                __m256i q = j < count ? load256(a + j * bytes + qs) : _mm256_setzero_si256();
                _mm256_store_si256((__m256i *)(s->q[t] + 32 * (b + j)), q);
                if (sums_count)
                    sum[j] = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, q), ones16);
            }
            _mm_storeu_ps(s->d[t] + b, count > 0 ? f16x4(a, (size_t)bytes, count)
                                                 : _mm_setzero_ps());
            if (!sums_count)
                continue;
            __m128i sums = sums4(sum);
            _mm_storeu_si128((__m128i *)(s->start[t] + b),
                             _mm_mullo_epi32(sums, _mm_set1_epi32(-offset)));
            _mm_storeu_ps(s->block_sum[t] + b, _mm_cvtepi32_ps(sums));
        }
    }
}

#endif
