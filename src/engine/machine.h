/* What this machine can do: the rates that speeds are predicted from (plan, placement) and graded
 * against (bench). Measured by machine_probe, kept in a small text file between runs.
 *
 *     struct machine m;
 *     machine_get(&m, path, n_threads, isa, cancel, err);   the file's figures, else a quick probe
 *
 * (path: path_machine of src/cli/paths.h.)
 *
 * GB are 1e9 bytes, gops 1e9 operations (a multiply-add is two) per second, both of all threads
 * together. A rate of 0 is unknown: not measured, or there is no such thing here. */
#ifndef TANDEM_ENGINE_MACHINE_H
#define TANDEM_ENGINE_MACHINE_H

#include <stdatomic.h>

#include "src/base/error.h"
#include "src/format/tensor.h"

enum machine_detail {
    MACHINE_QUICK,  /* about a second: a small region, the kernels of `isa`, no curve */
    MACHINE_LIMITS, /* a few seconds: reading (curve over threads) and int8 arithmetic, no kernels */
    MACHINE_FULL,   /* about half a minute: everything */
};

#define MACHINE_MAX_POINTS 16
#define MACHINE_TOKENS 9 /* 1, 2, 4 ... 256 */

struct machine_point {
    int threads;
    double gb_s;
};

/* Kernels of a weaker instruction set. */
#define MACHINE_SETS 2
struct machine_set {
    char isa[16];
    double dot_gb_s[N_TENSOR_TYPES], tile_gops[N_TENSOR_TYPES];
};

struct machine {
    /* What it was measured for. */
    char cpu[96];  /* "Intel(R) Xeon(R) Processor" */
    char isa[16];  /* strongest instruction set in use: "avx512" */
    int n_threads; /* workers */
    int n_nodes;   /* NUMA nodes that this process may compute on */
    int detail;    /* enum machine_detail */
    int sittings;  /* probes whose best figures these are; 0: one */
    int doubted;   /* 1: something ran faster than they allow, see machine_doubt */

    /* Memory. */
    double dram_gb_s;     /* the best of all readers and thread counts: the limit of decode */
    int best_threads;     /* reached with so many threads ... */
    int enough_threads;   /* ... and 95 % of it with so many */
    char reader[48];      /* what the fastest reader does */
    struct machine_point curve[MACHINE_MAX_POINTS]; /* 1, 2, 4 ... and all threads */
    int n_points;
    double stream_gb_s;       /* the order of decode with small experts: random slices, a barrier per layer */
    double stream_large_gb_s; /* the same with large ones */
    double region_gb;         /* what was read, in turn */
    double l3_gb;             /* last cache that one thread sees */
    double huge_share;        /* of the region, in huge pages; NAN: unknown */

    /* Arithmetic. */
    double int8_gops;                  /* in registers: the limit of prefill */
    double dot_gb_s[N_TENSOR_TYPES];   /* one token: weights read by the kernel of that type */
    double tile_gops[N_TENSOR_TYPES];  /* many tokens per expert, QUICK: 128, else PROBE_MAX_TOKENS */
    double gemm_gops[MACHINE_TOKENS];  /* Q4_K with 1, 2, 4 ... 256 tokens per expert */
    struct machine_set sets[MACHINE_SETS]; /* the same of weaker instruction sets; not in the file */
    int n_sets;

    /* Of processors and memory (base/energy.h), waiting and decoding; filled in by bench where the
     * counters can be read. */
    double idle_w, busy_w;
    double busy_gpu_w; /* decoding with the trunk on the card, its power included */

    /* The card of machine_add_card; empty: none was measured. Transfers of pinned memory; tops: 1e12
     * operations per second of prefill's GEMM. */
    char gpu[128];
    double vram_gb_s, h2d_gb_s, d2h_gb_s, gpu_tops, hand_off_us;
};

/* Measure. n_threads 0: the cores this process may use. Done so far and in all, 0 .. 1, is told to
 * `progress` (may be NULL) between measurements. ERR_FIT without memory; ERR_INTERRUPTED, *m then
 * holds what was measured. */
typedef void machine_progress(void *ctx, double done);
struct machine_options {
    enum machine_detail detail;
    int n_threads;
    unsigned isa; /* allowed kernels, bits of cpu/features.h */
    bool isa_given; /* false: everything this CPU has */
    const atomic_int *cancel; /* may be NULL */
    machine_progress *progress;
    void *progress_ctx;
};
bool machine_probe(struct machine *m, const struct machine_options *o, struct error *err);

/* Lines "name = value"; unknown names are skipped, what is missing is 0. The file appears when it is
 * complete. ERR_FILE with line when damaged or of another version. */
bool machine_save(const struct machine *m, const char *path, struct error *err);
bool machine_load(struct machine *m, const char *path, struct error *err);

/* The figures of the file when they are of this CPU with these threads (0: all) and instruction sets
 * (0: all), else those of a quick probe, which are then saved. A file that cannot be read or written
 * is no error. path NULL: always probe.
 *
 * A probe measures what other programs leave at that moment, so a profile can only be too low. One that
 * is doubted is probed once more, and of each rate the better one is kept; after MACHINE_SITTINGS the
 * figures are taken as they are. A full probe (bench --probe) replaces them all. */
#define MACHINE_SITTINGS 8
bool machine_get(struct machine *m, const char *path, int n_threads, unsigned isa,
                 const atomic_int *cancel, struct error *err);

/* Mark the file's profile as too low; true when that is news, and another sitting may follow. */
bool machine_doubt(const char *path);

/* Rates of card number `index` into *m: those that are there when they are of a card of this name,
 * else measured in about half a second, and with a path kept beside the rest. *info tells the card as
 * it is now. ERR_DEVICE: there is none that can be used; ERR_FIT, ERR_INTERRUPTED. */
struct gpu_info;
bool machine_add_card(struct machine *m, struct gpu_info *info, const char *path, int index,
                      const atomic_int *cancel, struct error *err);

/* "Intel(R) Xeon(R) Processor", as the system calls it. */
void machine_cpu_name(char *name, size_t size);

#endif
