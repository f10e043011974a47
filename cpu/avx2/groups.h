/* The loops around a matrix tile, shared by AVX2, AVX-512 and AMX. The including file defines
 *
 *   struct panel, PANEL_ROWS      a chunk of 256 columns of so many rows, unpacked
 *   struct slice, SLICE_TOKENS    a chunk of so many activations, laid out
 *   fill_panel256, fill_panel32, fill_slice256, fill_slice32
 *   offset256, offset32           what of a type's format these last two want to know
 *   ISA_NAME(x)                   appends the ISA to a name
 *   GEMM_ROWS                     the rows of the kernel table to fill
 *
 * before including this, and the functions declared below. It gets ISA_NAME(use_gemm).
 *
 * A group of up to 64 rows and 128 tokens keeps its partial sums (four per result, as
 * cpu/avx2/dot.c demands) on the stack while the columns go by in chunks: the chunk of every row is
 * unpacked once, the chunk of every slice of tokens is laid out once, and each pair of them is
 * multiplied. */
#ifndef TANDEM_CPU_AVX2_GROUPS_H
#define TANDEM_CPU_AVX2_GROUPS_H

#include <string.h>

#include "cpu/avx2/sums.h"
#include "cpu/kernels.h"

#define GROUP_ROWS 64
#define GROUP_TOKENS 128
#define PANELS (GROUP_ROWS / PANEL_ROWS)

/* The four partial sums of one panel and one slice, side by side for the cache's sake. */
struct tile_sums {
    _Alignas(64) float of[4][SLICE_TOKENS][PANEL_ROWS];
};

struct group {
    struct tile_sums sum[GROUP_TOKENS / SLICE_TOKENS][PANELS];
    struct panel panel[PANELS];
    struct slice slice;
};

/* Around a group: 64 or 32 columns are multiplied at a time. */
static void begin_tiles(int columns);
static void end_tiles(void);
/* Add the products of n_panels panels and one slice to partial sum `part` (types of 32: block b to
 * b mod 4) of sums[panel]; those of tokens past n_tokens may become anything. */
static void multiply256(const struct panel *p, int n_panels, const struct slice *s, int run,
                        bool has_min, int n_tokens, struct tile_sums *sums, int part);
static void multiply32(const struct panel *p, int n_panels, const struct slice *s, int n_blocks,
                       bool has_m, int n_tokens, struct tile_sums *sums);

/* What the loops know of a call. */
struct operands {
    const uint8_t *rows, *act;
    size_t row_stride, act_stride, out_stride;
    int n_rows, n_tokens;
    float *out;
};

static inline void clear_sums(struct group *g, const struct operands *o)
{
    int n_slices = (o->n_tokens + SLICE_TOKENS - 1) / SLICE_TOKENS;
    memset(g->sum, 0, (size_t)n_slices * sizeof g->sum[0]);
}

/* (p0 + p2) + (p1 + p3) */
static inline void write_sums(const struct group *g, const struct operands *o)
{
    for (int t = 0; t < o->n_tokens; t++) {
        for (int r = 0; r < o->n_rows; r += PANEL_ROWS) {
            const struct tile_sums *s = &g->sum[t / SLICE_TOKENS][r / PANEL_ROWS];
            const float *part[4];
            for (int p = 0; p < 4; p++)
                part[p] = s->of[p][t % SLICE_TOKENS];
            float line[PANEL_ROWS];
            for (int i = 0; i < PANEL_ROWS; i++)
                line[i] = (part[0][i] + part[2][i]) + (part[1][i] + part[3][i]);
            int count = o->n_rows - r < PANEL_ROWS ? o->n_rows - r : PANEL_ROWS;
            memcpy(o->out + (size_t)t * o->out_stride + r, line, (size_t)count * sizeof *line);
        }
    }
}

ALWAYS_INLINE void group256(struct group *g, int64_t n, const struct operands *o,
                            const struct format256 f, unpack256_fn *unpack,
                            scales_fn *scales)
{
    const int n_panels = (o->n_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    clear_sums(g, o);
    begin_tiles(64);
    for (int64_t b = 0; b < n / 256; b++) {
        const uint8_t *rows = o->rows + b * f.bytes, *act = o->act + b * Q8_K_BYTES;
        for (int r = 0; r < o->n_rows; r += PANEL_ROWS)
            fill_panel256(&g->panel[r / PANEL_ROWS], rows + (size_t)r * o->row_stride,
                          o->row_stride, o->n_rows - r, f, unpack, scales);
        for (int t = 0; t < o->n_tokens; t += SLICE_TOKENS) {
            int tokens = o->n_tokens - t < SLICE_TOKENS ? o->n_tokens - t : SLICE_TOKENS;
            fill_slice256(&g->slice, act + (size_t)t * o->act_stride, o->act_stride, tokens,
                          f.run, offset256(f));
            multiply256(g->panel, n_panels, &g->slice, f.run, f.dmin_at >= 0, tokens,
                        g->sum[t / SLICE_TOKENS], (int)(b % 4));
        }
    }
    end_tiles();
    write_sums(g, o);
}

ALWAYS_INLINE void group32(struct group *g, int64_t n, const struct operands *o,
                           const struct format32 f, unpack32_fn *unpack, scales_fn *scales)
{
    const bool has_m = f.m_at >= 0;
    const int n_panels = (o->n_rows + PANEL_ROWS - 1) / PANEL_ROWS;
    clear_sums(g, o);
    begin_tiles(32);
    for (int64_t b = 0; b < n / 32; b += 8) {
        int n_blocks = n / 32 - b < 8 ? (int)(n / 32 - b) : 8;
        const uint8_t *rows = o->rows + b * f.bytes;
        const uint8_t *act = o->act + b * (has_m ? Q8_1_BYTES : Q8_0_BYTES);
        for (int r = 0; r < o->n_rows; r += PANEL_ROWS)
            fill_panel32(&g->panel[r / PANEL_ROWS], rows + (size_t)r * o->row_stride,
                         o->row_stride, o->n_rows - r, n_blocks, f, unpack, scales);
        for (int t = 0; t < o->n_tokens; t += SLICE_TOKENS) {
            int tokens = o->n_tokens - t < SLICE_TOKENS ? o->n_tokens - t : SLICE_TOKENS;
            fill_slice32(&g->slice, act + (size_t)t * o->act_stride, o->act_stride, tokens,
                         n_blocks, has_m, offset32(f));
            multiply32(g->panel, n_panels, &g->slice, n_blocks, has_m, tokens,
                       g->sum[t / SLICE_TOKENS]);
        }
    }
    end_tiles();
    write_sums(g, o);
}

/* Split a call into groups. */
#define EACH_GROUP(call)                                                                          \
    struct group g;                                                                               \
    for (int r = 0; r < n_rows; r += GROUP_ROWS) {                                                \
        for (int t = 0; t < n_tokens; t += GROUP_TOKENS) {                                        \
            struct operands o = {                                                                 \
                .rows = (const uint8_t *)rows + (size_t)r * row_stride,                           \
                .act = (const uint8_t *)act + (size_t)t * act_stride,                             \
                .row_stride = row_stride, .act_stride = act_stride, .out_stride = out_stride,     \
                .n_rows = n_rows - r < GROUP_ROWS ? n_rows - r : GROUP_ROWS,                      \
                .n_tokens = n_tokens - t < GROUP_TOKENS ? n_tokens - t : GROUP_TOKENS,            \
                .out = out + (size_t)t * out_stride + r,                                          \
            };                                                                                    \
            call;                                                                                 \
        }                                                                                         \
    }

#define GEMM_PARAMETERS                                                                           \
    int64_t n, const void *rows, size_t row_stride, int n_rows, const void *act,                  \
        size_t act_stride, int n_tokens, float *out, size_t out_stride

#define DEFINE_GEMM_256(T, name, scales, ...)                                                     \
    static void ISA_NAME(gemm_##name)(GEMM_PARAMETERS)                                            \
    {                                                                                             \
        const struct format256 f = { __VA_ARGS__ };                                               \
        EACH_GROUP(group256(&g, n, &o, f, unpack_##name, scales_##scales))                        \
    }
TYPES_256(DEFINE_GEMM_256)

#define DEFINE_GEMM_32(T, name, scales, ...)                                                      \
    static void ISA_NAME(gemm_##name)(GEMM_PARAMETERS)                                            \
    {                                                                                             \
        const struct format32 f = { __VA_ARGS__ };                                                \
        EACH_GROUP(group32(&g, n, &o, f, unpack_##name, scales_##scales))                         \
    }
TYPES_32(DEFINE_GEMM_32)

void ISA_NAME(use_gemm)(struct kernels *k)
{
#define SET_GEMM(T, name, ...) k->GEMM_ROWS[TYPE_##T] = ISA_NAME(gemm_##name);
    TYPES_256(SET_GEMM)
    TYPES_32(SET_GEMM)
}

#endif
