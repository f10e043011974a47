#include "cpu/vbmi/points.h"

#include <pthread.h>

#include "src/format/quant.h"

struct points points_iq2xxs, points_iq2xs, points_iq2s, points_iq3xxs, points_iq3s;
uint8_t points_iq1[2048][8];

static const uint8_t values2[4] = { 8, 25, 43, 0 };
static const uint8_t values3xxs[8] = { 4, 12, 20, 28, 36, 44, 52, 62 };
static const uint8_t values3s[8] = { 1, 3, 5, 7, 9, 11, 13, 15 };

static unsigned rank_of(uint8_t value, const uint8_t *values)
{
    unsigned rank = 0;
    while (values[rank] != value)
        rank++;
    return rank;
}

/* n points of 8 coordinates: the ranks of four in a byte. */
static void make2(struct points *p, const uint8_t (*grid)[8], int n)
{
    for (int i = 0; i < n; i++) {
        for (int c = 0; c < 4; c++) {
            p->low[i] |= (uint8_t)(rank_of(grid[i][c], values2) << 2 * c);
            p->high[i] |= (uint8_t)(rank_of(grid[i][c + 4], values2) << 2 * c);
        }
    }
    for (unsigned i = 0; i < 64; i++)
        for (int c = 0; c < 3; c++)
            p->value[c][i] = values2[i >> 2 * c & 3];
}

/* n points of 4 coordinates: the ranks of two in a byte. */
static void make3(struct points *p, const uint8_t (*grid)[4], int n, const uint8_t values[8])
{
    for (int i = 0; i < n; i++) {
        p->low[i] = (uint8_t)(rank_of(grid[i][0], values) | rank_of(grid[i][1], values) << 3);
        p->high[i] = (uint8_t)(rank_of(grid[i][2], values) | rank_of(grid[i][3], values) << 3);
    }
    for (unsigned i = 0; i < 64; i++)
        for (int c = 0; c < 2; c++)
            p->value[c][i] = values[i >> 3 * c & 7];
}

static void make_all(void)
{
    make2(&points_iq2xxs, quant_grid_iq2xxs, 256);
    make2(&points_iq2xs, quant_grid_iq2xs, 512);
    make2(&points_iq2s, quant_grid_iq2s, 1024);
    make3(&points_iq3xxs, quant_grid_iq3xxs, 256, values3xxs);
    make3(&points_iq3s, quant_grid_iq3s, 512, values3s);
    for (int i = 0; i < 2048; i++)
        for (int c = 0; c < 8; c++)
            points_iq1[i][c] = (uint8_t)(8 * (quant_grid_iq1[i][c] + 1));
}

void points_make(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_all);
}
