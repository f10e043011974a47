/* Matrix tiles, AMX: 16 rows x 16 tokens.
 *
 * A tile register holds 16 lines of 64 bytes. One instruction multiplies the activations of 16
 * tokens (a line each) with a panel's lines (four columns of 16 rows each: the layout of panel.h is
 * the one AMX wants) into 16 x 16 sums of 32 bits, which reach the vector unit through memory. That
 * trip and the scales cost more than the multiplication. So types of 256 have their scales
 * multiplied into the weights beforehand, two planes of bytes, and need it once per block; types of
 * 32, whose scales are floats, need it for every 32 columns. */
#include "cpu/amx/table.h"
#include "cpu/amx/tiles.h"

#define ISA_NAME(name) name##_amx
#define GEMM_ROWS gemm_wide
#define WOVEN_ROWS woven_gemm_wide
#define SLICE_TOKENS 16
#define PLANES 2
#include "cpu/avx512/gemm.h"

/* Tile registers (the compiler wants literals). Sums alternate between two pairs, so that a pair is
 * multiplied into while the other waits to be stored. */
#define SUM0 0
#define SUM1 1
#define SUM2 2
#define SUM3 3
#define TOKENS0 4
#define TOKENS1 5
#define LINES0 6
#define LINES1 7

/* Two tiles of sums in memory. */
struct sums {
    _Alignas(64) int32_t of[2][SLICE_TOKENS][PANEL_ROWS];
};

/* Shapes of the tiles: so many bytes of each token, a fourth as many lines of a panel. */
static void begin_tiles(int columns)
{
    configure_tiles(columns);
}

static void end_tiles(void)
{
    _tile_release();
}

/* Both kinds work in steps of two tiles of sums. Multiplying a step and the float work on the sums
 * of the step before it alternate in small portions: one is a few long instructions, the other many
 * short ones, and the processor looks ahead by some hundred instructions only. */
#define PORTION 4 /* tokens */

#define STORE(c, first, second)                                                                   \
    _tile_stored(first, (c)->of[0], 64);                                                          \
    _tile_stored(second, (c)->of[1], 64);

/* ---- 256: a step is one panel, its two tiles are the planes ---- */

struct step256 {
    const struct slice *s;
    int run, n_tokens;
    bool has_min;
    const struct sums *c; /* NULL: nothing to finish yet */
    const struct panel *p;
    float (*sum)[PANEL_ROWS];
};

ALWAYS_INLINE void finish256(const struct step256 *f, int first)
{
    for (int t = first; f->c && first < f->n_tokens && t < first + PORTION; t++) {
        __m512i high = _mm512_slli_epi32(_mm512_load_si512(f->c->of[1][t]), 8);
        __m512i isum = _mm512_add_epi32(_mm512_load_si512(f->c->of[0][t]), high);
        add_block256(f->p, f->s, t, isum, f->run, f->has_min, f->sum[t]);
    }
}

#define MULTIPLY_256(low, high)                                                                   \
    _tile_zero(low);                                                                              \
    _tile_zero(high);                                                                             \
    for (int k = 0; k < 4; k++) {                                                                 \
        _tile_loadd(TOKENS0, s->q[0] + 64 * k, CHUNK);                                            \
        _tile_loadd(LINES0, p->q[0][16 * k], 64);                                                 \
        _tile_dpbssd(low, TOKENS0, LINES0);                                                       \
        _tile_loadd(LINES1, p->q[1][16 * k], 64);                                                 \
        _tile_dpbssd(high, TOKENS0, LINES1);                                                      \
        finish256(&f, PORTION * k);                                                               \
    }

ALWAYS_INLINE void panels256(const struct panel *p, int n_panels, const struct slice *s, int run,
                             bool has_min, int n_tokens, struct tile_sums *sums, int part)
{
    struct sums c[2];
    struct step256 f = { .s = s, .run = run, .n_tokens = n_tokens, .has_min = has_min };
    for (int i = 0; i < n_panels; i++, p++) {
        if (i % 2) {
            MULTIPLY_256(SUM2, SUM3)
            STORE(&c[1], SUM2, SUM3)
        } else {
            MULTIPLY_256(SUM0, SUM1)
            STORE(&c[0], SUM0, SUM1)
        }
        f.c = &c[i % 2], f.p = p, f.sum = sums[i].of[part];
    }
    for (int k = 0; k < 4; k++)
        finish256(&f, PORTION * k);
}

static void multiply256(const struct panel *p, int n_panels, const struct slice *s, int run,
                        bool has_min, int n_tokens, struct tile_sums *sums, int part)
{
    if (!has_min)
        panels256(p, n_panels, s, run, false, n_tokens, sums, part);
    else if (run == 32)
        panels256(p, n_panels, s, 32, true, n_tokens, sums, part);
    else
        panels256(p, n_panels, s, 16, true, n_tokens, sums, part);
}

/* ---- 32: a step is blocks h and h + 4 of one panel, which go to the same partial sums ---- */

struct step32 {
    const struct slice *s;
    int h, n_blocks, n_tokens;
    bool has_m;
    const struct sums *c; /* NULL: nothing to finish yet */
    const struct panel *p;
    float (*sum)[PANEL_ROWS];
};

ALWAYS_INLINE void finish32(const struct step32 *f, int first)
{
    for (int t = first; f->c && first < f->n_tokens && t < first + PORTION; t++) {
        __m512 x = _mm512_load_ps(f->sum[t]);
        x = plus_block32(x, f->p, f->s, t, f->h, _mm512_load_si512(f->c->of[0][t]), f->has_m);
        if (f->h + 4 < f->n_blocks)
            x = plus_block32(x, f->p, f->s, t, f->h + 4, _mm512_load_si512(f->c->of[1][t]),
                             f->has_m);
        _mm512_store_ps(f->sum[t], x);
    }
}

/* The step before is stored between the products, and the one before that finished beside them: a
 * product takes 50 cycles until it can be stored, and a step waiting for its own sums lasted twice
 * as long as its float work. */
#define MULTIPLY_32(first, second, first_before, second_before)                                   \
    _tile_zero(first);                                                                            \
    _tile_loadd(LINES0, p[i].q[0][8 * h], 64);                                                    \
    _tile_dpbssd(first, TOKENS0, LINES0);                                                         \
    finish32(&f, 0);                                                                              \
    _tile_stored(first_before, before->of[0], 64);                                                \
    finish32(&f, PORTION);                                                                        \
    _tile_zero(second);                                                                           \
    _tile_loadd(LINES1, p[i].q[0][8 * (h + 4)], 64);                                              \
    _tile_dpbssd(second, TOKENS1, LINES1);                                                        \
    finish32(&f, 2 * PORTION);                                                                    \
    _tile_stored(second_before, before->of[1], 64);                                               \
    finish32(&f, 3 * PORTION);

ALWAYS_INLINE void finish_all32(const struct step32 *f)
{
    for (int k = 0; k < 4; k++)
        finish32(f, PORTION * k);
}

ALWAYS_INLINE void panels32(const struct panel *p, int n_panels, const struct slice *s,
                            int n_blocks, bool has_m, int n_tokens, struct tile_sums *sums)
{
    struct sums c[2];
    const struct step32 none = { .s = s, .n_blocks = n_blocks, .n_tokens = n_tokens, .has_m = has_m };
    struct step32 f = none, next = none;
    bool odd = false;
    for (int h = 0; h < 4 && h < n_blocks; h++) {
        _tile_loadd(TOKENS0, s->q[0] + 32 * h, CHUNK);
        _tile_loadd(TOKENS1, s->q[0] + 32 * (h + 4), CHUNK);
        for (int i = 0; i < n_panels; i++, odd = !odd) {
            struct sums *before = &c[!odd];
            if (odd) {
                MULTIPLY_32(SUM2, SUM3, SUM0, SUM1)
            } else {
                MULTIPLY_32(SUM0, SUM1, SUM2, SUM3)
            }
            f = next;
            f.c = f.p ? before : NULL;
            next.p = p + i, next.h = h, next.sum = sums[i].of[h];
        }
    }
    finish_all32(&f);
    if (odd) {
        STORE(&c[0], SUM0, SUM1)
    } else {
        STORE(&c[1], SUM2, SUM3)
    }
    next.c = &c[!odd];
    finish_all32(&next);
}

static void multiply32(const struct panel *p, int n_panels, const struct slice *s, int n_blocks,
                       bool has_m, int n_tokens, struct tile_sums *sums)
{
    if (has_m)
        panels32(p, n_panels, s, n_blocks, true, n_tokens, sums);
    else
        panels32(p, n_panels, s, n_blocks, false, n_tokens, sums);
}
