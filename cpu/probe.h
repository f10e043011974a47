/* What this CPU and its memory can do at best: the limits that speeds are graded against.
 *
 * A probe owns a region of memory in huge pages, one part per worker, filled by that worker so that
 * it lies on the worker's own node, and larger in all than the last cache. Every byte of it is 0x21:
 * the number 0.01 as an F16, small and normal in every other float format, so the same bytes serve
 * as weights of any type (speed does not depend on the values).
 *
 * Measurements take about `seconds` each and return the best of several passes; cancelled, what was
 * measured so far, possibly 0. GB are 1e9 bytes; a multiply-add counts as two operations. */
#ifndef TANDEM_CPU_PROBE_H
#define TANDEM_CPU_PROBE_H

#include <stdatomic.h>

#include "src/base/error.h"
#include "src/format/tensor.h"

struct probe;

struct probe_options {
    int n_threads;            /* 0: cpu_usable_cores() */
    unsigned isa;             /* kernels to use, bits of cpu/features.h */
    size_t worker_bytes;      /* part of the region per worker; rounded up to 2 MiB */
    double fill_s;            /* use only what could be filled in this time; 0: no limit */
    const atomic_int *cancel; /* may be NULL */
};

/* ERR_FIT, ERR_INTERRUPTED. probe_close accepts NULL. */
bool probe_open(struct probe **out, const struct probe_options *o, struct error *err);
void probe_close(struct probe *p);

int probe_threads(const struct probe *p);
size_t probe_region_bytes(const struct probe *p);
double probe_huge_share(const struct probe *p); /* of the region, in huge pages; NAN: unknown */

/* Plain reading by workers 0 .. n_workers-1, front to back, in several independent ways; the fastest
 * counts, its name goes to *reader (may be NULL). */
double probe_read(struct probe *p, int n_workers, double seconds, const char **reader);

/* Reading as decode does it: a "layer" is `n_slices` slices per worker from random places of the
 * region, then all workers wait for each other. slice_bytes is rounded to whole kilobytes. */
struct probe_order {
    size_t slice_bytes;
    int n_slices;
};
double probe_stream(struct probe *p, struct probe_order order, double seconds);

/* The real kernels on that order (slices of at least 64 rows, with several tokens of at most 256): rows
 * of `type` times n_tokens activations (1: decode; up to PROBE_MAX_TOKENS: an expert with so many
 * tokens), chosen as the engine would for copied weights among those of the instruction sets `isa`:
 * on woven rows where there are kernels for them. False when that type has no dot product. */
#define PROBE_MAX_TOKENS 256
struct probe_rate {
    double gb_s; /* weights read */
    double gops; /* 1e9 operations per second */
};
bool probe_kernel(struct probe *p, unsigned isa, enum tensor_type type, int n_tokens,
                  struct probe_order order, double seconds, struct probe_rate *rate);

/* Would those two sets of instructions run the same kernel? */
bool probe_same_kernel(unsigned isa, unsigned other, enum tensor_type type, int n_tokens);

/* 1e9 int8 operations per second of all workers on operands in registers. */
double probe_int8(struct probe *p, unsigned isa, double seconds);

#endif
