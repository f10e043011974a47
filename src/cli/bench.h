/* tandem bench, in parts: bench.c measures, bench_figures.c computes what that says,
 * bench_report.c writes tables, bench_compare.c grades against an older file, bench_plot.c draws,
 * probe.c measures the machine alone, probe_gpu.c the GPU.
 *
 * Words (definitions in one place, so that all outputs agree):
 *
 *   ppN          reading a prompt of N tokens; tok/s = N / time until the logits of the last
 *   tgN          generating N tokens one by one; tok/s = N / time of the N steps
 *   @ D          behind D tokens of context, filled by a real prefill before the clock starts
 *   C, G, K      bytes that one generated token reads: routed experts, other weights, cache
 *   CPU GB/s     tok/s * (C + G + K), each byte counted once; with a GPU tok/s * C
 *   of limit     tg: CPU GB/s / what the probe read. pp: tok/s / the best that the probe's reading
 *                (all weights once) and int8 arithmetic (all products of the trunk and the picked
 *                experts) allow together. With a GPU, tg: the serial bound C / DRAM + (G + K) / VRAM,
 *                for one layer needs what the other gave; pp: all products at the rate of its GEMM */
#ifndef TANDEM_CLI_BENCH_H
#define TANDEM_CLI_BENCH_H

#include "src/base/energy.h"
#include "src/cli/json.h"
#include "src/cli/options.h"
#include "src/engine/engine.h"
#include "src/engine/machine.h"

#define MAX_REPETITIONS 1000

/* What one token needs, from the sizes of the tensors. */
struct token_cost {
    uint64_t routed_bytes;   /* C: top_k of n_routed experts */
    uint64_t other_bytes;    /* G: trunk, head, one row of the embedding */
    uint64_t cache_bytes;    /* of one position of context; K is this times the depth, less where an
                                indexer selects rows */
    uint64_t products;       /* multiply-adds with weights while reading a prompt; head left out */
};

/* One test and what came of it. */
struct bench_row {
    char test[48];
    int64_t n_prompt, n_generate, depth; /* one of the first two is 0 */
    int threads, batch;
    double *tok_s; /* [n] in the order of the repetitions */
    int n;
    double joules;                    /* of all repetitions; NAN: not measured */
    double gpu_busy;                  /* sum over repetitions of its share of the time; NAN: unknown */
    struct expert_report experts;     /* on the GPU, while the clock ran */
    int64_t page_faults, switches;    /* while the clock ran: faults, involuntary context switches */
    uint64_t logits_hash;             /* FNV-1a of the last logits: equal builds give equal hashes */
    double bytes_per_token;           /* that the CPU reads: C + G + K, with a GPU C */
    double limit_tok_s;               /* NAN: unknown */
    const char *limit;                /* "memory", "serial", "arithmetic" or "" */
};

struct bench {
    const struct options *o;
    const struct model *model;
    char description[128];
    unsigned isa;
    const struct gpu_info *gpu; /* the card that computes the trunk; NULL: none */
    char handoff[200];          /* and how it hands experts to the CPU; empty: it does not */
    const struct placement *placement; /* of the engine */
    struct machine machine;     /* the limits */
    int n_doubts;           /* times they were measured again */
    struct token_cost cost;
    double huge_share;      /* of the weights, in huge pages; NAN: unknown */
    bool is_copy;           /* weights in our own memory, else in the mapped file */
    int n_parts;            /* memory nodes that share the routed experts of a copy; 1: not split */
    struct energy energy;
    struct bench_row *rows; /* [n_rows] done, [max_rows] in all */
    int n_rows, max_rows;
    int name_width;         /* of the longest test */
    bool named_threads, named_batch; /* more than one of them: part of the name in tables */
};

/* ---- bench.c ---- */

/* Is this context filled with rows of a shorter one? */
bool row_repeats(const struct bench *b, int64_t depth);

/* ---- bench_figures.c ---- */

void token_cost(const struct model *m, enum tensor_type cache, struct token_cost *cost);

double row_median(const struct bench_row *r);
double row_mean(const struct bench_row *r);
double row_deviation(const struct bench_row *r); /* of a sample; 0 with one */
double row_cache_bytes(const struct bench *b, const struct bench_row *r); /* K; 0 for ppN */
double row_gb_s(const struct bench_row *r);      /* NAN for ppN */
double row_of_limit(const struct bench_row *r);
double row_joules_per_token(const struct bench_row *r);
void row_limit(const struct bench *b, struct bench_row *r); /* fills the last three members */

/* Why this row's speed cannot be the memory's, or "" when it can: more than was read by the probe. */
const char *row_doubt(const struct bench *b, const struct bench_row *r, char *text, size_t size);

/* ---- bench_report.c ---- */

/* In the order of the calls: head once, row after each test, tail once (also after Ctrl-C). */
bool report_head(const struct bench *b, struct error *err);
bool report_row(const struct bench *b, const struct bench_row *r, struct error *err);
bool report_tail(const struct bench *b, struct error *err);

/* The name of a test in tables: with threads and batch where they differ. */
const char *row_name(const struct bench *b, const struct bench_row *r, char *text, size_t size);

/* ---- bench_compare.c ---- */

/* Hold the rows against those of an older json or jsonl file with the same test, threads and batch.
 * ERR_CHECK when one lost more than max_loss (0.03 = 3 %) or none is in the file; ERR_FILE. */
bool compare_rows(const struct bench *b, const char *path, double max_loss, struct error *err);

/* ---- bench_plot.c ---- */

struct plot_point {
    double x, y;
};
struct plot {
    const char *title; /* "decode tok/s" */
    const char *x_name; /* "tokens of context" */
    const struct plot_point *points; /* by ascending x */
    int n;
};

/* `columns` x `rows` characters of drawing, axes and labels beside it; the y axis begins at 0.
 * utf8: braille dots, else stars. */
void plot_text(struct buf *out, const struct plot *p, int columns, int rows, bool utf8);
bool plot_svg(const struct plot *plots, int n, const char *path, struct error *err);

/* Does the terminal's locale (environment) say UTF-8? */
bool plot_can_utf8(void);

/* ---- probe.c ---- */

/* tandem bench --probe. */
bool bench_probe(const struct options *o, struct error *err);

/* ---- probe_gpu.c ---- */

/* tandem bench --probe-gpu. ERR_DEVICE without a GPU that can be used. */
bool bench_probe_gpu(const struct options *o, struct error *err);

#endif
