/* How fast can this machine read memory? The ceiling that decode speed is measured against. */
#ifndef TANDEM_CLI_PROBE_H
#define TANDEM_CLI_PROBE_H

#include "src/base/error.h"

#define PROBE_MAX_POINTS 16

struct probe_point {
    int threads;
    double gb_s; /* best of several passes, 1e9 bytes per second */
};

struct probe {
    struct probe_point curve[PROBE_MAX_POINTS]; /* 1, 2, 4, … and all threads */
    int n_points;
    double best_gb_s;
    int best_threads, enough_threads; /* the fewest that reach 95 % of the best */
    const char *loop;                 /* name of the fastest reader loop */
    double region_bytes;              /* what was read per pass */
};

/* A region that no cache holds (four times the last one, at most a quarter of the free memory) is
 * read front to back by several loops, the fastest counts. Takes some seconds on a large cache.
 * quick: a smaller region, all threads only, no curve. ERR_FIT, ERR_INTERRUPTED. */
bool probe_run(struct probe *p, int n_threads, bool quick, struct error *err);

#endif
