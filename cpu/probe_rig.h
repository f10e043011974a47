/* What the files of the probe share: the rig and the one loop that measures. Private to cpu/. */
#ifndef TANDEM_CPU_PROBE_RIG_H
#define TANDEM_CPU_PROBE_RIG_H

#include "cpu/kernels.h"
#include "cpu/probe.h"
#include "src/base/pool.h"

#define PROBE_COLS 4096 /* columns of the weight rows */

struct probe {
    struct probe_options options;
    struct pool *pool;
    struct kernels kernels; /* of options.isa */
    void *map;              /* owns the region */
    size_t map_bytes;
    uint8_t *region;        /* [n_threads, worker_bytes] */
    size_t worker_bytes;    /* from part to part */
    size_t part_bytes;      /* of each part, filled and used */
    uint32_t *order;        /* room for a permutation of the slices of one part */
    size_t n_ordered;       /* 0: none made yet */
    uint8_t *act;           /* [PROBE_MAX_TOKENS, act_stride] encoded activations */
    size_t act_stride;
    float *out;             /* [n_threads, PROBE_MAX_TOKENS * rows of a group] */
    size_t out_stride;      /* floats per worker */
};

/* One slice, worked on by one worker. */
typedef void slice_fn(struct probe *p, const void *arg, const uint8_t *slice, size_t bytes,
                      int worker);

struct pass {
    slice_fn *fn;
    const void *arg;
    int n_workers; /* the others look on */
    struct probe_order order;
    bool shuffled; /* else front to back */
};

/* Bytes per second: passes of at least seconds / 3 each, each of many layers; the best counts. */
double probe_measure(struct probe *p, const struct pass *pass, double seconds);

bool probe_cancelled(const struct probe *p);

#endif
