/* Matrix tiles, AVX-512 with VNNI: 16 rows x 8 tokens in registers (panel.h). */
#include "cpu/avx512/table.h"

#define ISA_NAME(name) name##_avx512
#define GEMM_ROWS gemm
#define WOVEN_ROWS woven_gemm
#define SLICE_TOKENS 8
#define PLANES 1
#include "cpu/avx512/gemm.h"

static void begin_tiles(int columns)
{
    (void)columns;
}

static void end_tiles(void)
{
}

/* Four bytes of an activation in every lane. */
ALWAYS_INLINE __m512i broadcast4(const void *p)
{
    int x;
    memcpy(&x, p, sizeof x);
    return _mm512_set1_epi32(x);
}

/* `lines` lines of the panel from `line` on times n_tokens tokens, added to isum. */
ALWAYS_INLINE void multiply_lines(const struct panel *p, const struct slice *s, int line, int lines,
                                  int n_tokens, __m512i isum[SLICE_TOKENS])
{
    for (int i = line; i < line + lines; i++) {
        __m512i w = _mm512_load_si512(p->q[0][i]);
        for (int t = 0; t < n_tokens; t++)
            isum[t] = _mm512_dpbusd_epi32(isum[t], w, broadcast4(s->q[t] + 4 * i));
    }
}

ALWAYS_INLINE void tile256(const struct panel *p, const struct slice *s, int run, bool has_min,
                           int n_tokens, float (*sum)[PANEL_ROWS])
{
    __m512i total[SLICE_TOKENS];
    for (int t = 0; t < n_tokens; t++)
        total[t] = _mm512_setzero_si512();
    for (int j = 0; j < CHUNK / run; j++) {
        __m512i isum[SLICE_TOKENS], scale = p->scale[j];
        for (int t = 0; t < n_tokens; t++)
            isum[t] = _mm512_set1_epi32(s->start[t][j]);
        multiply_lines(p, s, j * run / 4, run / 4, n_tokens, isum);
        for (int t = 0; t < n_tokens; t++)
            total[t] = _mm512_add_epi32(total[t], _mm512_mullo_epi32(isum[t], scale));
    }
    for (int t = 0; t < n_tokens; t++)
        add_block256(p, s, t, total[t], run, has_min, sum[t]);
}

/* Blocks b and b + 4 of a chunk go to the same partial sums, so they are added in one visit. */
ALWAYS_INLINE void tile32(const struct panel *p, const struct slice *s, int n_blocks, bool has_m,
                          int n_tokens, struct tile_sums *sums)
{
    for (int h = 0; h < 4 && h < n_blocks; h++) {
        __m512 sum[SLICE_TOKENS];
        for (int t = 0; t < n_tokens; t++)
            sum[t] = _mm512_load_ps(sums->of[h][t]);
        for (int b = h; b < n_blocks; b += 4) {
            __m512i isum[SLICE_TOKENS];
            for (int t = 0; t < n_tokens; t++)
                isum[t] = _mm512_set1_epi32(s->start[t][b]);
            multiply_lines(p, s, 8 * b, 8, n_tokens, isum);
            for (int t = 0; t < n_tokens; t++)
                sum[t] = plus_block32(sum[t], p, s, t, b, isum[t], has_m);
        }
        for (int t = 0; t < n_tokens; t++)
            _mm512_store_ps(sums->of[h][t], sum[t]);
    }
}

/* Few tokens at the end of a batch get a narrower tile. */
#define NARROW 4

static void multiply256(const struct panel *p, int n_panels, const struct slice *s, int run,
                        bool has_min, int n_tokens, struct tile_sums *sums, int part)
{
    bool narrow = n_tokens <= NARROW;
    for (int i = 0; i < n_panels; i++, p++) {
        float(*sum)[PANEL_ROWS] = sums[i].of[part];
        if (run == 32 && has_min)
            narrow ? tile256(p, s, 32, true, NARROW, sum) : tile256(p, s, 32, true, 8, sum);
        else if (run == 32)
            narrow ? tile256(p, s, 32, false, NARROW, sum) : tile256(p, s, 32, false, 8, sum);
        else if (has_min)
            narrow ? tile256(p, s, 16, true, NARROW, sum) : tile256(p, s, 16, true, 8, sum);
        else
            narrow ? tile256(p, s, 16, false, NARROW, sum) : tile256(p, s, 16, false, 8, sum);
    }
}

static void multiply32(const struct panel *p, int n_panels, const struct slice *s, int n_blocks,
                       bool has_m, int n_tokens, struct tile_sums *sums)
{
    bool narrow = n_tokens <= NARROW;
    for (int i = 0; i < n_panels; i++, p++, sums++) {
        if (has_m)
            narrow ? tile32(p, s, n_blocks, true, NARROW, sums)
                   : tile32(p, s, n_blocks, true, 8, sums);
        else
            narrow ? tile32(p, s, n_blocks, false, NARROW, sums)
                   : tile32(p, s, n_blocks, false, 8, sums);
    }
}
