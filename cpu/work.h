/* What the parts of the CPU device share: the kernel table, the pool, the step, working memory.
 * Private to cpu/; everybody else includes cpu/device_cpu.h or cpu/experts.h. */
#ifndef TANDEM_CPU_WORK_H
#define TANDEM_CPU_WORK_H

#include "cpu/device_cpu.h"
#include "cpu/kernels.h"
#include "src/base/pool.h"
#include "src/device.h"

/* Tokens that a weight row is multiplied with in one go: their encoded activations (about 8 KiB
 * each in a large model) stay in the second-level cache. */
#define TOKEN_TILE 128
/* Rows are shared out in runs of this many, one cache line of floats ... */
#define ROW_TILE 16
/* ... and meet all tokens of a tile in groups of this many, which a tile kernel likes best. */
#define ROW_GROUP 64
/* With one token nothing is gained by coming back to rows: as many as their results may take. */
#define LONE_GROUP (TOKEN_TILE * ROW_GROUP)

/* Attention works on blocks: this many positions of the cache, converted to floats ... */
#define KEY_BLOCK 256
/* ... against this many queries. */
#define QUERY_TILE 128
/* Steps of up to SPLIT_TOKENS tokens cut the cache into at most MAX_SPLITS / SPLIT_TOKENS pieces that
 * are attended to separately and merged in order. */
#define SPLIT_TOKENS 4
#define MAX_SPLITS 64

/* Choice of the last router_topk. */
struct choice {
    int top_k;
    int32_t *ids;   /* [n_tokens, top_k] best first */
    float *weights; /* [n_tokens, top_k] */
};

/* Choice of the last indexer_topk. */
struct selection {
    int top_k;
    int32_t *count; /* [n_tokens] rows selected */
    int32_t *ids;   /* [n_tokens, top_k] ascending */
};
/* Tokens that the indexer scores in one go. */
#define INDEX_TILE 16

/* cos and sin of all pairs and tokens of a step, for one rope. */
struct angles {
    const struct rope *rope;
    uint64_t step;
    float *cosine, *sine; /* [max_tokens, n_rot / 2] */
};
#define N_ANGLES 4 /* ropes in use by one model: V4 has two, and their inverses */

/* Memory of one worker. */
struct worker_scratch {
    float *row;        /* [max_cols] a decoded weight row */
    uint8_t *gathered; /* activations of one expert's tokens, side by side */
    float *heads;      /* [head_width^2] decoded k_b and v_b of one head */
    float *latents;    /* [KEY_BLOCK, head_width] cache rows as floats: latents, or keys */
    float *keys;       /* [KEY_BLOCK, head_width] expanded keys, or values */
    float *values;     /* [KEY_BLOCK, head_width] expanded values */
    float *queries;    /* [QUERY_TILE, head_width] */
    float *outputs;    /* [QUERY_TILE, head_width] */
    float *scores;     /* [QUERY_TILE, KEY_BLOCK] */
    float *states;     /* [2, max(max_tokens, QUERY_TILE)] running maximum and sum of each query */
    struct lanes *lanes; /* attention on BF16: its tiles ... */
    uint8_t *bf16;       /* ... and all else [bf16_bytes] */
};

struct device_cpu {
    struct device base; /* first */
    struct device_cpu_options options;
    struct kernels kernels;
    struct pool *pool;
    int n_threads;

    struct step step; /* of the last begin; n_steps counts them */
    uint64_t n_steps;
    struct choice choice;

    const struct experts *experts; /* between experts_begin and experts_end */
    struct rows experts_src;

    void *memory; /* owns everything below */
    size_t act_stride; /* bytes of one encoded activation of max_cols elements */
    uint8_t *act;      /* [max_tokens, act_stride] */

    /* Experts, pairs (token, slot) sorted by expert. */
    size_t gathered_bytes; /* of each worker's `gathered` */
    size_t h_stride;  /* bytes of one encoded expert-wide activation */
    float *h;         /* [max_tokens * top_k, expert_size] silu(gate) * up */
    uint8_t *h_act;   /* [max_tokens * top_k, h_stride]; src encoded for `up` before that */
    int32_t *order;   /* [max_tokens * top_k] pair numbers by expert */
    int32_t *first;   /* [n_routed + 1] where an expert's pairs begin in order */

    struct angles angles[N_ANGLES]; /* of the ropes that were used last */
    int next_angles;                /* to be given up when there is another one */

    struct selection selection;
    float *index_scores;  /* [INDEX_TILE, n_ctx] */
    int32_t *index_words; /* queries of INDEX_TILE tokens in bytes: struct index_query */
    int32_t *index_sums;
    float *index_weights;
    float *selected_rows; /* [index_top_k, cache_width] of one token */
    uint16_t *selected_q, *selected_z; /* attention on BF16 over selected rows: absorbed queries and
                                          weighted latents of SELECT_CHUNK tokens */

    /* Attention of few tokens: absorbed queries, and what each piece of the cache contributed. */
    float *absorbed; /* [SPLIT_TOKENS, n_heads, head_width] */
    float *partial;  /* [MAX_SPLITS, n_heads, head_width + 2] sum, maximum, weighted values */

    uint16_t *cache_bf16; /* attention on BF16: the layer's cache */
    size_t bf16_bytes;    /* of each worker's `bf16` */

    struct worker_scratch *scratch; /* [n_threads] */
};

static inline struct device_cpu *cpu(struct device *d)
{
    return (struct device_cpu *)d;
}

/* Work on fewer floats than this is not worth waking anybody: the least grain of a job. */
#define SMALL_FLOATS 16384

/* x = min(max(x, low), high) */
static inline void clamp_floats(float *x, int64_t n, float low, float high)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] = x[i] < low ? low : x[i];
        x[i] = x[i] > high ? high : x[i];
    }
}

/* Has somebody asked to stop? Then long loops leave early: what they computed will be thrown away,
 * because the forward pass looks at the same flag before it returns; it stays set until then. */
static inline bool step_cancelled(const struct device_cpu *d)
{
    return d->step.cancel && atomic_load_explicit(d->step.cancel, memory_order_relaxed);
}

#endif
