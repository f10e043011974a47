/* Greedy pair merging, the heart of BPE and SPM alike.
 *
 * A piece of text starts as a row of symbols. Again and again the adjacent pair of the lowest rank
 * is replaced by its merged symbol, the leftmost among equal ranks, until no pair has a rank. The
 * two tokenizers differ only in the start and in how a pair's rank is found, so that is a callback.
 *
 * Each symbol remembers the rank of the pair it forms with its right neighbour. Pairs wait in a
 * heap of numbers, rank above place, so n symbols take O(n log n) even when a whole file is one
 * piece. An entry that its symbol has outlived stays in the heap; it is recognized when it comes
 * up, because the symbol remembers another rank by then. */
#ifndef TANDEM_TEXT_MERGE_H
#define TANDEM_TEXT_MERGE_H

#include "src/base/error.h"
#include "src/base/util.h"

struct symbol {
    uint32_t start, len;    /* bytes of the piece */
    int32_t id;             /* token, or -1 */
    int32_t previous, next; /* -1 at the ends */
    uint32_t rank;          /* of the pair with `next`; MERGE_NONE: does not merge, or swallowed */
    int32_t merged;         /* token of that pair */
};

#define MERGE_NONE UINT32_MAX
#define MERGE_PIECE_BYTES ((size_t)INT32_MAX) /* longest piece: symbols are numbered by int32 */

/* The rank (below MERGE_NONE) and the merged token of two neighbours, or false when they do not
 * merge. */
typedef bool merge_find(const void *ctx, struct str piece, const struct symbol *left,
                        const struct symbol *right, uint32_t *rank, int32_t *id);

/* Scratch of one encode call; zeroed is empty. */
struct merger {
    struct symbol *symbols;
    size_t n_symbols, symbol_capacity;
    uint64_t *heap; /* rank << 32 | symbol, smallest first */
    size_t n_heap, heap_capacity;
};

/* Make room for a piece of `n` symbols, then add them left to right. */
bool merger_start(struct merger *m, size_t n, struct error *err);
static inline void merger_add(struct merger *m, uint32_t start, uint32_t len, int32_t id)
{
    int32_t at = (int32_t)m->n_symbols++;
    m->symbols[at] = (struct symbol){ start, len, id, at - 1, -1, MERGE_NONE, -1 };
    if (at > 0)
        m->symbols[at - 1].next = at;
}

/* Merge until nothing merges. Afterwards the symbols from 0 along `next` cover the piece. */
bool merger_run(struct merger *m, struct str piece, merge_find *find, const void *ctx,
                struct error *err);
void merger_release(struct merger *m);

#endif
