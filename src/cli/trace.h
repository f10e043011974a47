/* What a model computed for an answer, step by step: the token that was taken, and a hash of all the
 * logits it was taken from. Two equal traces are the same answer by the same bits. Kept by run --record,
 * compared by replay. */
#ifndef TANDEM_CLI_TRACE_H
#define TANDEM_CLI_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/error.h"

struct trace_step {
    int32_t id; /* the end mark too, where it ends the answer */
    uint64_t bits;
};

/* Zeroed is empty; release in any case. */
struct trace {
    struct trace_step *steps; /* [n] owned */
    size_t n, capacity;
    const struct trace *wanted; /* borrowed: what it shall be; NULL: anything */
    bool differs;               /* its last step has another token */
};

/* FNV-1a of logits [n]: equal bits give equal hashes. */
uint64_t logits_hash(const float *logits, int64_t n);

/* ERR_FIT. ERR_CHECK, the step kept and `differs` set, where another token was wanted. */
bool trace_add(struct trace *t, int32_t id, uint64_t bits, struct error *err);
void trace_release(struct trace *t);

/* The first step whose token is not that of the other; where one is shorter and the same so far, its
 * length; -1: none. Then the first whose bits are not, of the steps that both have. */
int64_t trace_other_token(const struct trace *a, const struct trace *b);
int64_t trace_other_bits(const struct trace *a, const struct trace *b);

#endif
