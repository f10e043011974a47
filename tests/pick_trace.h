/* Picks of a router that does not exist, for whatever depends on which experts are used together and
 * again: three kinds of locality.
 *
 *   uniform   any expert, all alike: no locality at all
 *   recency   the stack-distance generator: experts stand in the order of their last use, and the
 *             place in it is drawn with the cumulative chances of `places`, measured on a model with
 *             256 experts (LRU hit rates of 14, 28, 56, 112 and 224 slots). It has that LRU curve by
 *             construction.
 *   skewed    expert e has a chance in proportion to 1 / (rank + 1), for ever */
#ifndef TANDEM_TESTS_PICK_TRACE_H
#define TANDEM_TESTS_PICK_TRACE_H

#include <stdlib.h>
#include <string.h>

#include "tests/check.h"

enum pick_kind { PICK_UNIFORM, PICK_RECENCY, PICK_SKEWED };

#define PICK_MAX_EXPERTS 512

struct pick_trace {
    enum pick_kind kind;
    int n_routed, top_k;
    int32_t order[PICK_MAX_EXPERTS]; /* the last used first; skewed: the likeliest first */
};

static inline void pick_trace_open(struct pick_trace *t, enum pick_kind kind, int n_routed,
                                   int top_k)
{
    *t = (struct pick_trace){ kind, n_routed, top_k, { 0 } };
    for (int i = 0; i < n_routed; i++) { /* shuffled as it grows */
        int at = (int)(check_random() % (uint64_t)(i + 1));
        t->order[i] = t->order[at];
        t->order[at] = i;
    }
}

/* A place in the order, 0 .. n_routed - 1. */
static inline int pick_place(const struct pick_trace *t)
{
    static const double places[][2] = { /* share of the experts, chance to be among them */
        { 0, 0 }, { 0.0547, 0.41 }, { 0.109, 0.59 }, { 0.219, 0.74 }, { 0.4375, 0.87 },
        { 0.875, 0.91 }, { 1, 1 },
    };
    double x = (double)(check_random() >> 11) * 0x1p-53;
    if (t->kind == PICK_UNIFORM)
        return (int)(x * t->n_routed);
    if (t->kind == PICK_SKEWED) {
        double sum = 0, at = 0;
        for (int i = 0; i < t->n_routed; i++)
            sum += 1.0 / (i + 1);
        for (int i = 0; i < t->n_routed; i++)
            if ((at += 1.0 / (i + 1) / sum) > x)
                return i;
        return t->n_routed - 1;
    }
    int i = 1;
    while (x >= places[i][1] && places[i][0] < 1)
        i++;
    double along = (x - places[i - 1][1]) / (places[i][1] - places[i - 1][1]);
    int place = (int)((places[i - 1][0] + along * (places[i][0] - places[i - 1][0])) * t->n_routed);
    return place < t->n_routed ? place : t->n_routed - 1;
}

/* The picks of one token: ids [top_k], all different. */
static inline void pick_trace_next(struct pick_trace *t, int32_t *ids)
{
    for (int n = 0; n < t->top_k; n++) {
        bool again = true;
        while (again) {
            ids[n] = t->order[pick_place(t)];
            again = false;
            for (int i = 0; i < n; i++)
                again = again || ids[i] == ids[n];
        }
    }
    for (int n = t->top_k - 1; n >= 0 && t->kind == PICK_RECENCY; n--) {
        int at = 0;
        while (t->order[at] != ids[n])
            at++;
        memmove(t->order + 1, t->order, (size_t)at * sizeof *t->order);
        t->order[0] = ids[n];
    }
}

#endif
