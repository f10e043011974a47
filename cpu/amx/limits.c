/* What the tile unit can do at best, for the probe. */
#include <immintrin.h>
#include <string.h>

#include "cpu/amx/table.h"
#include "cpu/amx/tiles.h"

/* Six tiles of sums hide the latency; the last two hold the operands. Full tiles: 16 lines of 64
 * bytes, 16 x 16 sums of 64 products each. */
static int64_t count_int8(int64_t rounds)
{
    uint8_t ones[16][64];
    int32_t sums[16][16];
    memset(ones, 1, sizeof ones);
    configure_tiles(64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_loadd(6, ones, 64);
    _tile_loadd(7, ones, 64);
    for (int64_t i = 0; i < rounds; i++) {
        _tile_dpbssd(0, 6, 7);
        _tile_dpbssd(1, 6, 7);
        _tile_dpbssd(2, 6, 7);
        _tile_dpbssd(3, 6, 7);
        _tile_dpbssd(4, 6, 7);
        _tile_dpbssd(5, 6, 7);
    }
    int64_t total = 0;
#define ADD_TILE(tile)                                                                            \
    _tile_stored(tile, sums, 64);                                                                 \
    for (int r = 0; r < 16; r++)                                                                  \
        for (int c = 0; c < 16; c++)                                                              \
            total += sums[r][c];
    ADD_TILE(0)
    ADD_TILE(1)
    ADD_TILE(2)
    ADD_TILE(3)
    ADD_TILE(4)
    ADD_TILE(5)
    _tile_release();
    return total;
}

void use_limits_amx(struct kernels *k)
{
    k->count_int8 = count_int8;
}
