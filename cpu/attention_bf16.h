/* What the two forms of attention on BF16 operands share: tiles of queries, worker memory.
 * Private to cpu/attention_bf16*.c. */
#ifndef TANDEM_CPU_ATTENTION_BF16_H
#define TANDEM_CPU_ATTENTION_BF16_H

#include "cpu/attention_parts.h"
#include "src/base/util.h"

#define DEPTH 32 /* a product's inner width is a multiple of this, */
#define SIDE 16  /* its outer ones of this */
#define LOG2_E 1.44269504f

/* The worker's memory, cut up for one use. */
struct room {
    uint8_t *next, *end;
};

/* What a tile needs while it meets a block, and for laying things out. */
struct bench {
    float *scores;     /* [KEY_BLOCK, LANES] */
    uint32_t *weights; /* [KEY_BLOCK / 2, LANES] pairs */
    float *floats;     /* [KEY_BLOCK, width] */
    uint32_t *words;   /* [KEY_BLOCK / 2, width] */
    uint16_t *turned;  /* [LANES, KEY_BLOCK] weights, a lane's side by side */
    float *even, *odd; /* [width] rows as floats */
};

struct room bf16_room(const struct attention *a, int worker);
void *bf16_take(struct room *r, int64_t count, size_t size);
struct bench bf16_bench(struct room *r, int64_t width);
/* A tile for `used` queries that have seen nothing yet, its memory from the room. */
struct lanes bf16_lanes(struct room *r, int used, int64_t key_width, int64_t value_width);
/* Query of lane i, which sees the positions below `end`; bf16_turn_queries when all are there. */
void bf16_put_query(const struct attention *a, const struct bench *b, struct lanes *l, int i,
                    const float *q, int64_t end);
void bf16_turn_queries(const struct attention *a, const struct bench *b, struct lanes *l);
/* The cache's block from position `first` on as BF16: keys [KEY_BLOCK, key_width], and values as
 * pairs [KEY_BLOCK / 2, value_width] unless NULL. Behind the last position: 0. */
void bf16_lay_block(const struct attention *a, const struct bench *b, int set, int64_t first,
                    uint16_t *keys, uint32_t *pairs);
/* Pairs [cols / 2, rows] of the transpose of a matrix [rows, cols]; rows a multiple of SIDE, cols of
 * 2 * SIDE. */
void bf16_turn_weight(const struct attention *a, const struct bench *b, const struct weight *w,
                      int matrix, uint32_t *to);
/* A tile meets a block laid out by bf16_lay_block, `rows` positions from `first` on, in the order of
 * few tokens: its out is [lanes, value_width]. turned [LANES, KEY_BLOCK] is scratch. */
void bf16_meet_rows(const struct attention *a, const struct bench *b, struct lanes *l,
                    const uint16_t *keys, int64_t first, int rows, uint16_t *turned);
/* scores of `rows` positions from `first` on, then weights; shrink [LANES]. */
void bf16_weigh(const struct attention *a, const struct bench *b, struct lanes *l,
                const uint16_t *keys, int64_t first, int rows, float *shrink);
/* Cached rows, `rows` of them (a multiple of DEPTH) from `first` on, as keys [rows, key_width] and
 * in b->words as values in pairs [rows / 2, value_width], meet the lanes; l->out is [n, value_width]
 * here. */
void bf16_meet_pairs(const struct attention *a, const struct bench *b, struct lanes *l,
                     const uint16_t *keys, int64_t first, int rows);

#endif
