/* How fast a placement will be: bytes divided by measured rates.
 *
 *   one token   T = C / DRAM + G / VRAM + L_moe * hand-off + what does not stream
 *
 * with C the expert (and, without a GPU, all) weights that the CPU reads, G what the GPU reads. The
 * sum, not the maximum: layer l + 1 needs what layer l gave. Experts cached in VRAM are computed
 * beside those of the CPU, so of the two the slower counts. The serial bound is the same with plain
 * reading rates and no hand-off: what no program could beat without changing the sum.
 * Several tokens: a weight is unpacked once per step and multiplied once per token, and a step of n
 * tokens touches E (1 - (1 - k/E)^n) of E experts. */
#ifndef TANDEM_MODEL_FORECAST_H
#define TANDEM_MODEL_FORECAST_H

#include "src/model/placement.h"

/* Times of one token, in seconds. */
struct token_time {
    double cpu_weights; /* streamed by the CPU */
    double gpu_weights; /* streamed by the GPU */
    double handoff;     /* between the two */
    double steps;       /* work handed to the threads and collected */
    double attention;   /* over the cached context */
    double disk;        /* weights that main memory cannot hold */
    double all;
};

struct range {
    double low, mid, high;
};

struct forecast {
    struct range decode_tok_s, prefill_tok_s;
    double serial_tok_s;       /* the serial bound of decode */
    struct token_time token;   /* at mid */
    double hit_rate;           /* share of expert picks that VRAM answers; 0 without a cache */
    double reads[N_PARTS][N_HOMES]; /* bytes per token as they fall, hits counted */
    const char *bound_first, *bound_second; /* words; second NULL when the first is most of it */
    double watts, joules;      /* while decoding, per token at mid; 0: not known */
    double load_s;             /* 0: not known */
    bool measured;             /* every rate that matters was measured */
};

/* `depth`: tokens in the cache when decoding; `prompt`: tokens of a prompt read from the start. */
void forecast_make(struct forecast *f, const struct model *m, const struct placement *p,
                   const struct rates *here, int64_t depth, int64_t prompt);

/* Bytes of a cache of `type` that one token reads in layers first .. first + n - 1 behind `depth`
 * positions: of attention all rows, or those that an indexer selects and the keys that it looks at. */
double forecast_cache_reads(const struct params *q, enum tensor_type type, int first, int n,
                            double depth);

/* Share of picks that the `share` most recently used experts of a layer answer. Source: published
 * LRU measurements, a model with 256 experts (14, 28, 56, 112, 224 slots: 41, 59, 74, 87, 91 %). */
double forecast_hit_rate(double share);

/* What a user may ask of a placement beside fitting. 0: nothing. */
struct goals {
    double min_tok_s;
    double max_joules;
};

/* Among the contexts that wishes leave open, the largest whose forecast with that context full
 * meets the goals; for the sake of max_joules also without the GPU, where it was not asked for. Where
 * none does, the best one. ERR_* as placement_make. *met tells. */
bool forecast_choose(struct placement *p, struct forecast *f, const struct model *m,
                     const struct rates *here, const struct placement_wishes *w,
                     const struct goals *goals, bool *met, struct error *err);

#endif
