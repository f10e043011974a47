/* Shapes of the eight tile registers: 0 to 3 for sums, 4 and 5 for the left operand, 6 and 7 for the
 * right one. With 64 columns all eight are alike, and a caller may use them as it likes. */
#ifndef TANDEM_CPU_AMX_TILES_H
#define TANDEM_CPU_AMX_TILES_H

#include <immintrin.h>
#include <stdint.h>

/* The registers as a square of 2 x 2 tiles uses them, row and column (the compiler wants literals). */
#define C00 0
#define C01 1
#define C10 2
#define C11 3
#define A0 4
#define A1 5
#define B0 6
#define B1 7

/* Sixteen lines of 64 bytes each; of operands only `columns` bytes in use (a multiple of 4, at most
 * 64), which are so many bytes of each line to the left and a fourth as many lines to the right. */
static inline void configure_tiles(int columns)
{
    const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {
        .palette = 1,
        .bytes = { 64, 64, 64, 64, (uint16_t)columns, (uint16_t)columns, 64, 64 },
        .rows = { 16, 16, 16, 16, 16, 16, (uint8_t)(columns / 4), (uint8_t)(columns / 4) },
    };
    _tile_loadconfig(&config);
}

#endif
