/* Nearest points of the codebooks, for the encoders of IQ1, IQ2 and IQ3.
 *
 * A codebook holds some of the points of a small lattice: 3^8 or 8^4 of them. Rounding each
 * coordinate gives a lattice point; when it is not in the codebook, its nearest neighbours that are
 * have been listed in advance, and the list is short enough to try all of it.
 *
 * A coordinate is a rank r = 0, 1, ..; encoders work with the odd number 2r+1 in its place (IQ2,
 * IQ3) or with r-1 (IQ1). */
#ifndef TANDEM_FORMAT_QUANTIZE_GRID_H
#define TANDEM_FORMAT_QUANTIZE_GRID_H

#include <stdint.h>

struct grid {
    int dims;  /* coordinates of a point: 8 or 4 */
    int ranks; /* 3 or 8 */
    int n_points;
    int8_t (*rank)[8]; /* [n_points], the first `dims` of each, then zeros */
    float (*twice)[8]; /* [n_points] 2r, as floats for the search */
    int32_t *place;    /* [ranks^dims] index of the point, or -1 - start of its list */
    uint16_t *lists;   /* each: count, then that many indices, ascending */
};

enum grid_id { GRID_IQ2XXS, GRID_IQ2XS, GRID_IQ2S, GRID_IQ1, GRID_IQ3XXS, GRID_IQ3S, N_GRIDS };

/* Built at the first call, which takes a few hundredths of a second; thread-safe. */
const struct grid *grid_get(enum grid_id id);

/* The point for the lattice point with these ranks: itself, or of its neighbours the one with the
 * least sum of w (scale * (2r + offset) - x)^2. */
int grid_nearest(const struct grid *g, const int8_t *ranks, const float *x, const float *w,
                 float scale, float offset);

#endif
