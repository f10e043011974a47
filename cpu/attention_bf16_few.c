/* Attention of few tokens on BF16 operands: one piece of the cache meets tiles of queries (all
 * heads of latent attention look at the same latents; heads of a group share theirs).
 *
 * Here laying out a block costs more than multiplying it, so it is read once for keys and values,
 * row by row as it lies. Values are then the right operand, and it is the weights, few as they are,
 * that are turned:
 *
 *     scores [positions, lanes] = keys [positions, width] x queries
 *     out    [lanes, width]    += weights turned [lanes, positions] x values [positions, width]  */
#include <string.h>

#include "cpu/attention_bf16.h"

static void scale_rows(const struct lanes *l, const float *shrink)
{
    for (int i = 0; i < l->used; i++) {
        float *row = l->out + i * l->value_width;
        for (int64_t j = 0; shrink[i] != 1 && j < l->value_width; j++)
            row[j] *= shrink[i];
    }
}

void bf16_meet_pairs(const struct attention *a, const struct bench *b, struct lanes *l,
                     const uint16_t *keys, int64_t first, int rows)
{
    const struct kernels *k = &a->d->kernels;
    float shrink[LANES];
    bf16_weigh(a, b, l, keys, first, rows, shrink);
    scale_rows(l, shrink);
    k->bf16_transpose(b->weights, LANES, rows / 2, l->n, (uint32_t *)(void *)b->turned,
                      KEY_BLOCK / 2);
    k->bf16_gemm(l->n, (int)l->value_width, rows, b->turned, KEY_BLOCK, b->words, l->value_width,
                 true, l->out, l->value_width);
}

void bf16_meet_rows(const struct attention *a, const struct bench *b, struct lanes *l,
                    const uint16_t *keys, int64_t first, int rows, uint16_t *turned)
{
    const struct kernels *k = &a->d->kernels;
    float shrink[LANES];
    bf16_weigh(a, b, l, keys, first, rows, shrink);
    scale_rows(l, shrink);
    k->bf16_transpose(b->weights, LANES, rows / 2, l->n, (uint32_t *)(void *)turned, KEY_BLOCK / 2);
    k->bf16_gemm(l->n, (int)a->value_width, rows, turned, KEY_BLOCK, b->words, a->value_width, true,
                 l->out, a->value_width);
}

void attention_bf16_piece(const struct attention *a, int worker, int set, int row0, int rows,
                          int64_t first, int64_t last)
{
    struct room r = bf16_room(a, worker);
    struct bench b = bf16_bench(&r, max_of(a->key_width + DEPTH, a->value_width));
    int used = min_of(a->n_tokens * a->heads_per_set - row0, rows);
    struct lanes l = bf16_lanes(&r, used, a->key_width, a->value_width);
    uint16_t *keys = (uint16_t *)(void *)b.floats;
    for (int i = 0; i < used; i++) {
        int token = (row0 + i) / a->heads_per_set;
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        bf16_put_query(a, &b, &l, i, attention_query(a, token, head), a->n_past + token + 1);
    }
    bf16_turn_queries(a, &b, &l);
    memset(keys + KEY_BLOCK * a->key_width, 0, DEPTH * sizeof *keys);
    for (int64_t p = first; p < last && !step_cancelled(a->d); p += KEY_BLOCK) {
        int n = (int)align_up((size_t)min_of(last - p, (int64_t)KEY_BLOCK), DEPTH);
        bf16_lay_block(a, &b, set, p, keys, b.words);
        bf16_meet_pairs(a, &b, &l, keys, p, n);
    }
    for (int i = 0; i < used; i++) {
        int token = (row0 + i) / a->heads_per_set;
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        attention_put_piece(a, (int)(first / a->split), token, head, l.sum[i], l.max[i] / LOG2_E,
                            l.out + i * l.value_width);
    }
}
