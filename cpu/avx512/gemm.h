/* The part of a matrix tile that AVX-512 and AMX share: the float work. The including file defines
 * multiply256, multiply32, begin_tiles and end_tiles, ISA_NAME and GEMM_ROWS (cpu/avx2/groups.h),
 * and what panel.h asks for; WOVEN_ROWS: the rows of the kernel table for woven weights. It gets
 * ISA_NAME(use_gemm) and ISA_NAME(use_woven_gemm). */
#ifndef TANDEM_CPU_AVX512_GEMM_H
#define TANDEM_CPU_AVX512_GEMM_H

#include "cpu/avx512/panel.h"

#include "cpu/avx2/groups.h"

/* The float part of a block, for one token and 16 rows: see cpu/avx2/dot.c. */
ALWAYS_INLINE void add_block256(const struct panel *p, const struct slice *s, int t, __m512i isum,
                                int run, bool has_min, float *sum)
{
    __m512 da = _mm512_set1_ps(s->d[t][0]);
    __m512 x = _mm512_mul_ps(_mm512_mul_ps(p->d, da), _mm512_cvtepi32_ps(isum));
    if (has_min) {
        __m512i msum = _mm512_setzero_si512();
        for (int j = 0; j < CHUNK / run / 2; j++)
            msum = _mm512_dpwssd_epi32(msum, p->min[j], _mm512_set1_epi32(s->bsums[t][j]));
        x = _mm512_sub_ps(x, _mm512_mul_ps(_mm512_mul_ps(p->dmin, da), _mm512_cvtepi32_ps(msum)));
    }
    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), x));
}

ALWAYS_INLINE __m512 plus_block32(__m512 sum, const struct panel *p, const struct slice *s, int t,
                                  int b, __m512i isum, bool has_m)
{
    __m512 da = _mm512_set1_ps(s->d[t][b]);
    sum = _mm512_fmadd_ps(_mm512_mul_ps(p->block_d[b], da), _mm512_cvtepi32_ps(isum), sum);
    if (has_m)
        sum = _mm512_fmadd_ps(_mm512_mul_ps(p->block_m[b], da),
                              _mm512_set1_ps(s->block_sum[t][b]), sum);
    return sum;
}

/* ---- Woven rows, whole groups of PANEL_ROWS: other panels, everything else as in groups.h ---- */

ALWAYS_INLINE void woven256(struct group *g, int64_t n, const struct operands *o,
                            const struct woven f, lines_fn *lines, run_scale_fn *scale,
                            run_mins_fn *mins, row_scale_fn *row_scale)
{
    const int n_panels = o->n_rows / PANEL_ROWS;
    clear_sums(g, o);
    begin_tiles(64);
    for (int64_t b = 0; b < n / 256; b++) {
        const uint8_t *rows = o->rows + b * PANEL_ROWS * f.bytes, *act = o->act + b * Q8_K_BYTES;
        for (int p = 0; p < n_panels; p++)
            fill_woven256(&g->panel[p], rows + (size_t)(p * PANEL_ROWS) * o->row_stride, f, lines,
                          scale, mins, row_scale);
        for (int t = 0; t < o->n_tokens; t += SLICE_TOKENS) {
            int tokens = o->n_tokens - t < SLICE_TOKENS ? o->n_tokens - t : SLICE_TOKENS;
            fill_slice256(&g->slice, act + (size_t)t * o->act_stride, o->act_stride, tokens,
                          f.run, PLANES == 1 ? f.offset : 0);
            multiply256(g->panel, n_panels, &g->slice, f.run, f.m_at >= 0, tokens,
                        g->sum[t / SLICE_TOKENS], (int)(b % 4));
        }
    }
    end_tiles();
    write_sums(g, o);
}

ALWAYS_INLINE void woven32(struct group *g, int64_t n, const struct operands *o,
                           const struct woven f, lines_fn *lines, row_scale_fn *row_scale)
{
    const bool has_m = f.m_at >= 0;
    const int n_panels = o->n_rows / PANEL_ROWS;
    clear_sums(g, o);
    begin_tiles(32);
    for (int64_t b = 0; b < n / 32; b += 8) {
        int n_blocks = n / 32 - b < 8 ? (int)(n / 32 - b) : 8;
        const uint8_t *rows = o->rows + b * PANEL_ROWS * f.bytes;
        const uint8_t *act = o->act + b * (has_m ? Q8_1_BYTES : Q8_0_BYTES);
        for (int p = 0; p < n_panels; p++)
            fill_woven32(&g->panel[p], rows + (size_t)(p * PANEL_ROWS) * o->row_stride, n_blocks,
                         f, lines, row_scale);
        for (int t = 0; t < o->n_tokens; t += SLICE_TOKENS) {
            int tokens = o->n_tokens - t < SLICE_TOKENS ? o->n_tokens - t : SLICE_TOKENS;
            fill_slice32(&g->slice, act + (size_t)t * o->act_stride, o->act_stride, tokens,
                         n_blocks, has_m, PLANES == 1 ? f.offset : 0);
            multiply32(g->panel, n_panels, &g->slice, n_blocks, has_m, tokens,
                       g->sum[t / SLICE_TOKENS]);
        }
    }
    end_tiles();
    write_sums(g, o);
}

#define DEFINE_WOVEN_256(T, name, scale, mins, d, ...)                                            \
    static void ISA_NAME(woven_gemm_##name)(GEMM_PARAMETERS)                                      \
    {                                                                                             \
        const struct woven f = { __VA_ARGS__ };                                                   \
        EACH_GROUP(woven256(&g, n, &o, f, lines_##name, run_scale_##scale, run_mins_##mins,       \
                            row_scale_##d))                                                       \
    }
WOVEN_256(DEFINE_WOVEN_256)

#define DEFINE_WOVEN_32(T, name, d, ...)                                                          \
    static void ISA_NAME(woven_gemm_##name)(GEMM_PARAMETERS)                                      \
    {                                                                                             \
        const struct woven f = { __VA_ARGS__ };                                                   \
        EACH_GROUP(woven32(&g, n, &o, f, lines_##name, row_scale_##d))                            \
    }
WOVEN_32(DEFINE_WOVEN_32)

void ISA_NAME(use_woven_gemm)(struct kernels *k)
{
#define SET_WOVEN_GEMM(T, name, ...) k->WOVEN_ROWS[TYPE_##T] = ISA_NAME(woven_gemm_##name);
    WOVEN_256(SET_WOVEN_GEMM)
    WOVEN_32(SET_WOVEN_GEMM)
}

#endif
