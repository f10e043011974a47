/* Matrix tiles, AMX: 16 rows x 16 tokens.
 *
 * A tile register holds 16 lines of 64 bytes. One instruction multiplies the activations of 16
 * tokens (a line each) with a panel's lines (four columns of 16 rows each: the layout of panel.h is
 * the one AMX wants) into 16 x 16 sums of 32 bits, which reach the vector unit through memory. That
 * trip and the scales cost more than the multiplication. So types of 256 have their scales
 * multiplied into the weights beforehand, two planes of bytes, and need it once per block; types of
 * 32, whose scales are floats, need it for every 32 columns. */
#include "cpu/amx/table.h"

#define ISA_NAME(name) name##_amx
#define GEMM_ROWS gemm_wide
#define SLICE_TOKENS 16
#define PLANES 2
#include "cpu/avx512/gemm.h"

/* Tile registers (the compiler wants literals), two of each so that work can overlap. */
#define SUM0 0
#define SUM1 1
#define TOKENS0 2
#define TOKENS1 3
#define LINES0 4
#define LINES1 5

struct sums {
    _Alignas(64) int32_t of[2][SLICE_TOKENS][PANEL_ROWS];
};

/* Shapes of the tiles: so many bytes of each token, a fourth as many lines of a panel. */
static void begin_tiles(int columns)
{
    const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {
        .palette = 1,
        .bytes = { 64, 64, (uint16_t)columns, (uint16_t)columns, 64, 64 },
        .rows = { 16, 16, 16, 16, (uint8_t)(columns / 4), (uint8_t)(columns / 4) },
    };
    _tile_loadconfig(&config);
}

static void end_tiles(void)
{
    _tile_release();
}

ALWAYS_INLINE void tile256(const struct panel *p, const struct slice *s, int run, bool has_min,
                           int n_tokens, float (*sum)[GROUP_ROWS])
{
    struct sums c;
    _tile_zero(SUM0);
    _tile_zero(SUM1);
    for (int k = 0; k < CHUNK; k += 64) {
        _tile_loadd(TOKENS0, s->q[0] + k, CHUNK);
        _tile_loadd(LINES0, p->q[0][k / 4], 64);
        _tile_loadd(LINES1, p->q[1][k / 4], 64);
        _tile_dpbssd(SUM0, TOKENS0, LINES0);
        _tile_dpbssd(SUM1, TOKENS0, LINES1);
    }
    _tile_stored(SUM0, c.of[0], 64);
    _tile_stored(SUM1, c.of[1], 64);
    for (int t = 0; t < n_tokens; t++) {
        __m512i high = _mm512_slli_epi32(_mm512_load_si512(c.of[1][t]), 8);
        __m512i isum = _mm512_add_epi32(_mm512_load_si512(c.of[0][t]), high);
        add_block256(p, s, t, isum, run, has_min, sum[t]);
    }
}

static void multiply256(const struct panel *p, const struct slice *s, int run, bool has_min,
                        int n_tokens, float (*sum)[GROUP_ROWS])
{
    if (!has_min)
        tile256(p, s, run, false, n_tokens, sum);
    else if (run == 32)
        tile256(p, s, 32, true, n_tokens, sum);
    else
        tile256(p, s, 16, true, n_tokens, sum);
}

/* Sums of 32 columns from `column` on and of the 32 behind them. */
ALWAYS_INLINE void multiply_blocks(const struct panel *p, const struct slice *s, int column,
                                   struct sums *sums)
{
    _tile_zero(SUM0);
    _tile_loadd(TOKENS0, s->q[0] + column, CHUNK);
    _tile_loadd(LINES0, p->q[0][column / 4], 64);
    _tile_dpbssd(SUM0, TOKENS0, LINES0);
    _tile_zero(SUM1);
    _tile_loadd(TOKENS1, s->q[0] + column + 32, CHUNK);
    _tile_loadd(LINES1, p->q[0][column / 4 + 8], 64);
    _tile_dpbssd(SUM1, TOKENS1, LINES1);
    _tile_stored(SUM0, sums->of[0], 64);
    _tile_stored(SUM1, sums->of[1], 64);
}

static void multiply32(const struct panel *p, const struct slice *s, int n_blocks, bool has_m,
                       int n_tokens, float (*sums[4])[GROUP_ROWS])
{
    for (int b = 0; b < n_blocks; b += 2) { /* the second of an odd last pair stays unused */
        struct sums c;
        multiply_blocks(p, s, 32 * b, &c);
        for (int h = 0; h < 2 && b + h < n_blocks; h++)
            for (int t = 0; t < n_tokens; t++)
                add_block32(p, s, t, b + h, _mm512_load_si512(c.of[h][t]), has_m,
                            sums[(b + h) % 4][t]);
    }
}
