/* Every kernel of the GPU library on the shapes of DeepSeek-V3, timed and held against what the card's
 * memory and tensor cores allow: `tandem bench --probe-gpu`.
 *
 * Weights and caches hold the byte 0x21 everywhere (speed does not depend on values) and rotate
 * through a pool larger than the card's cache. On an emulated card sizes are tiny and the figures mean
 * nothing; everything is launched all the same. */
#ifndef TANDEM_ENGINE_CARD_BENCH_H
#define TANDEM_ENGINE_CARD_BENCH_H

#include "src/engine/card.h"

struct card_row {
    char kernel[40]; /* "gemv Q4_K" */
    char shape[64];  /* "16384 x 7168" */
    double us;       /* one call; NAN: it failed */
    double bytes;    /* that it must move at least; 0: not a matter of bandwidth */
    double ops;      /* multiplications and additions; 0: not a matter of arithmetic */
    double bound_us; /* the longer of bytes by bandwidth and ops by the GEMM's rate; 0: none */
};

#define CARD_MAX_ROWS 80
struct card_bench {
    struct gpu_info info;
    struct card_rates rates;
    double launch_us;     /* one more kernel in a full queue */
    double round_trip_us; /* queue one kernel and wait for it */
    struct card_row rows[CARD_MAX_ROWS];
    int n_rows;
};

typedef void card_progress(void *ctx, double done); /* 0 .. 1 */

/* On failure (ERR_DEVICE, ERR_FIT, ERR_INTERRUPTED) *b holds what was measured before. */
bool card_bench_run(struct card_bench *b, int index, const atomic_int *cancel,
                    card_progress *progress, void *ctx, struct error *err);

#endif
