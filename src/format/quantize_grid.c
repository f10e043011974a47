#include "src/format/quantize_grid.h"

#include <assert.h>
#include <pthread.h>

#include "src/format/quant.h"

#define N_8 6561 /* 3^8 */
#define N_4 4096 /* 8^4 */

/* How far to look for neighbours: so many shells of equal distance. The size of the lists follows
 * from the codebook and this number; the build asserts it. */
static struct grid grids[N_GRIDS];
#define ALL_POINTS (256 + 512 + 1024 + 2048 + 256 + 512)
static int8_t ranks_of[ALL_POINTS][8];
static float twice_of[ALL_POINTS][8];
static int32_t places[4 * N_8 + 2 * N_4];
#define LIST_ENTRIES (119462 + 187770 + 50253 + 332234 + 22825 + 28317)
static uint16_t list_entries[LIST_ENTRIES];

/* Rank of a coordinate of the expanded tables. */
static int rank2(int c)
{
    return c == 8 ? 0 : c == 25 ? 1 : 2;
}

static int rank1(int c)
{
    return (int8_t)c + 1;
}

static int rank3xxs(int c)
{
    return (c - 4) / 8;
}

static int rank3s(int c)
{
    return (c - 1) / 2;
}

static const struct source {
    const void *table;
    int n_points, dims, ranks, shells;
    int (*rank)(int coordinate);
} sources[N_GRIDS] = {
    [GRID_IQ2XXS] = { quant_grid_iq2xxs, 256, 8, 3, 2, rank2 },
    [GRID_IQ2XS] = { quant_grid_iq2xs, 512, 8, 3, 2, rank2 },
    [GRID_IQ2S] = { quant_grid_iq2s, 1024, 8, 3, 1, rank2 },
    [GRID_IQ1] = { quant_grid_iq1, 2048, 8, 3, 3, rank1 },
    [GRID_IQ3XXS] = { quant_grid_iq3xxs, 256, 4, 8, 2, rank3xxs },
    [GRID_IQ3S] = { quant_grid_iq3s, 512, 4, 8, 3, rank3s },
};

static int code_of(const struct grid *g, const int8_t *ranks)
{
    int code = 0;
    for (int k = g->dims - 1; k >= 0; k--)
        code = code * g->ranks + ranks[k];
    return code;
}

static int n_codes(const struct grid *g)
{
    return g->dims == 8 ? N_8 : N_4;
}

static int distance2(const struct grid *g, const int8_t *a, const int8_t *b)
{
    int sum = 0;
    for (int k = 0; k < g->dims; k++)
        sum += (a[k] - b[k]) * (a[k] - b[k]);
    return sum;
}

/* Append the list of the lattice point `code`; returns its length with the count. */
static int add_list(const struct grid *g, int code, int shells, uint16_t *list)
{
    int8_t here[8];
    for (int k = 0; k < g->dims; k++, code /= g->ranks)
        here[k] = (int8_t)(code % g->ranks);
    uint8_t distance[2048]; /* at most 8 * 2^2 or 4 * 7^2 */
    bool occurs[256] = { false };
    for (int i = 0; i < g->n_points; i++) {
        distance[i] = (uint8_t)distance2(g, here, g->rank[i]);
        occurs[distance[i]] = true;
    }
    int farthest = 0;
    for (int d = 0; d < 256 && shells; d++)
        if (occurs[d]) {
            farthest = d;
            shells--;
        }
    int n = 0;
    for (int i = 0; i < g->n_points; i++)
        if (distance[i] <= farthest)
            list[1 + n++] = (uint16_t)i;
    list[0] = (uint16_t)n;
    return n + 1;
}

static void build_all(void)
{
    int8_t (*rank)[8] = ranks_of;
    float (*twice)[8] = twice_of;
    int32_t *place = places;
    uint16_t *list = list_entries;
    for (int id = 0; id < N_GRIDS; id++) {
        const struct source *s = &sources[id];
        struct grid *g = &grids[id];
        *g = (struct grid){ s->dims, s->ranks, s->n_points, rank, twice, place, list };
        const uint8_t *table = s->table;
        for (int i = 0; i < s->n_points; i++)
            for (int k = 0; k < s->dims; k++) {
                rank[i][k] = (int8_t)s->rank(table[i * s->dims + k]);
                twice[i][k] = (float)(2 * rank[i][k]);
            }
        for (int code = 0; code < n_codes(g); code++)
            place[code] = -1;
        for (int i = 0; i < s->n_points; i++)
            place[code_of(g, rank[i])] = i;
        for (int code = 0; code < n_codes(g); code++) {
            if (place[code] >= 0)
                continue;
            place[code] = -1 - (int32_t)(list - g->lists);
            list += add_list(g, code, s->shells, list);
        }
        rank += s->n_points;
        twice += s->n_points;
        place += n_codes(g);
    }
    assert(list == list_entries + LIST_ENTRIES);
}

const struct grid *grid_get(enum grid_id id)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, build_all);
    return &grids[id];
}

/* Sum of w (scale * (p + offset) - x)^2 in a fixed order that suits four lanes. */
static inline float error_of(int dims, const float *p, const float *x, const float *w, float scale,
                             float offset)
{
    float e[8], lane[4];
    for (int k = 0; k < dims; k++) {
        float difference = scale * (p[k] + offset) - x[k];
        e[k] = w[k] * difference * difference;
    }
    for (int k = 0; k < 4; k++)
        lane[k] = dims == 8 ? e[k] + e[k + 4] : e[k];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static inline int search(const struct grid *g, int dims, const uint16_t *list, const float *x,
                         const float *w, float scale, float offset)
{
    int best = list[1];
    float least = error_of(dims, g->twice[best], x, w, scale, offset);
    for (int i = 2; i <= list[0]; i++) {
        float error = error_of(dims, g->twice[list[i]], x, w, scale, offset);
        if (error < least) {
            least = error;
            best = list[i];
        }
    }
    return best;
}

int grid_nearest(const struct grid *g, const int8_t *ranks, const float *x, const float *w,
                 float scale, float offset)
{
    const int32_t place = g->place[code_of(g, ranks)];
    if (place >= 0)
        return place;
    const uint16_t *list = g->lists + (-1 - place);
    return g->dims == 8 ? search(g, 8, list, x, w, scale, offset)
                        : search(g, 4, list, x, w, scale, offset);
}
