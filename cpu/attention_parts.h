/* What the forms of attention share. Private to cpu/attention*.c. */
#ifndef TANDEM_CPU_ATTENTION_PARTS_H
#define TANDEM_CPU_ATTENTION_PARTS_H

#include "cpu/matmul.h"
#include "cpu/work.h"

/* A tile of queries that attend together. Query i sees the positions below end[i]. */
struct tile {
    int n;
    int64_t end[QUERY_TILE];
    const float *queries; /* [n, key_width], scaled */
    float *max, *sum;     /* [n] running */
    float *out;           /* [n, value_width] weighted values, not divided by sum yet */
    int64_t out_stride;
};

/* Positions as floats or halves. */
struct block {
    const void *data;
    bool f16;
    int64_t stride, width; /* elements */
};

/* Nothing seen yet. */
void attention_tile_clear(struct tile *t, int64_t value_width);
/* All queries of the tile meet n positions from `first` on, as two matrix products over floats;
 * scores [n queries, KEY_BLOCK] is scratch. */
void attention_meet_matrix(const struct kernels *k, struct tile *t, struct block keys,
                           struct block values, int64_t first, int64_t n, float *scores);
/* Divide by the sums. */
void attention_tile_finish(struct tile *t, int64_t value_width);

/* Queries that share keys, in units of work: heads of one group, or all heads over the latents. */
struct attention {
    struct device_cpu *d;
    struct rows dst, q;
    const struct mla *mla; /* NULL: grouped queries */
    const char *keys, *values; /* this layer's cache */
    const int32_t *ids; /* the positions that are attended to lie in these rows; NULL: in their own */
    bool f16;
    bool bf16; /* may be computed by the BF16 kernels */
    bool gathered; /* keys and values are a copy of selected rows */
    int64_t key_stride, value_stride; /* elements from position to position */
    int64_t key_width, value_width;
    int n_heads, n_sets, heads_per_set; /* a set shares keys: n_sets * heads_per_set == n_heads */
    int n_tokens;
    int64_t n_past, n_positions; /* before this step; with it */
    float scale;
    /* Few tokens: queries of latent attention [n_tokens, n_heads, key_width], and what each piece
     * contributed [n_splits, partial_tokens, n_heads, value_width + 2]. */
    float *absorbed, *partial;
    int partial_tokens;
    int n_splits;
    int64_t split; /* positions per piece */
    struct dot_plan absorb, expand;
};

/* A query as it meets the keys, not scaled: of latents, absorbed. */
const float *attention_query(const struct attention *a, int token, int head);
/* Queries of a set in tiles of `rows`, and such a tile from row0 on (token by token): scaled, with
 * where each may look. */
int attention_tiles(const struct attention *a, int rows);
struct tile attention_load_tile(const struct attention *a, const struct worker_scratch *s, int set,
                                int row0, int rows);
/* The tile attends to positions [first, last) of its set. */
void attention_attend(const struct attention *a, int worker, struct tile *t, int set, int64_t first,
                      int64_t last);

/* cpu/attention_few.c: steps of at most SPLIT_TOKENS tokens, each to the bit as in a step of its own. */
void attention_run_few(const struct attention *a);
/* Latent attention of any number of tokens, each over the positions that the indexer selected for it:
 * in pieces, token by token, where there are few of them or no BF16 kernels. The rows are read where
 * they lie, or gathered as floats, and then are a cache of that length. */
void attention_run_selected(const struct attention *a);

/* ---- many tokens on BF16 operands (cpu/attention_bf16.c), where the kernel table has them ---- */

#define LANES 64  /* queries of a tile */
#define SPAN 1024 /* positions of a head that are expanded at a time: 640 KiB in V3 */

/* LANES queries. Lane i sees the positions below end[i]; nobody looks at lanes behind `used`. */
struct lanes {
    int n, used; /* n: `used` rounded up to SIDE */
    int64_t end[LANES];
    uint32_t *queries; /* [key_width / 2, LANES] pairs, scaled by log2 e as well */
    float *max, *sum;  /* [LANES] */
    float *out;        /* [value_width, LANES] */
    int64_t key_width, value_width;
};

/* What a piece of the cache contributed to a query: sum and maximum (base e), weighted values
 * [value_width], not divided. Pieces are merged in order. */
void attention_put_piece(const struct attention *a, int split, int token, int head, float sum,
                         float max, const float *out);

/* Are the widths of this model multiples of what the tiles need? */
bool attention_bf16_fits(const struct attention *a);
void attention_bf16_gqa(const struct attention *a);
/* Few tokens: up to `rows` <= LANES queries of a set from row0 on meet positions [first, last), a piece. */
void attention_bf16_piece(const struct attention *a, int worker, int set, int row0, int rows,
                          int64_t first, int64_t last);
/* Latent attention from expanded keys and values. */
void attention_bf16_expanded(const struct attention *a);

/* The same over selected positions (cpu/attention_bf16_selected.c), where the widths fit it too. */
bool attention_bf16_selected_fits(const struct attention *a);
void attention_bf16_selected(const struct attention *a);
#define SELECT_CHUNK 64 /* tokens whose queries and results are kept at a time: 19 MB in V3.2 */

/* Working memory: of each worker, of all for a layer's cache, and tiles of each worker. */
size_t attention_bf16_bytes(const struct device_cpu_options *o);
size_t attention_bf16_cache_bytes(const struct device_cpu_options *o);
int attention_bf16_tiles(const struct device_cpu_options *o);

#endif
