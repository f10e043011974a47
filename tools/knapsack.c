#include "tools/knapsack.h"

#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"

/* A useful sum over the groups so far, and how it came about. */
struct state {
    uint64_t bytes; /* above the least possible */
    double loss;
    uint32_t before; /* state of the groups before */
    uint8_t choice;
};

/* The states behind each group; those of the last are worked on. */
struct table {
    struct state **of; /* [n + 1] */
    size_t *n_of;
    struct state *fresh; /* [room] sums with the next group, before pruning */
    size_t room;
    uint64_t budget;     /* above the least possible */
    bool exact;
};

static int by_bytes(const void *a, const void *b)
{
    const struct state *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    if (x->loss != y->loss)
        return x->loss < y->loss ? -1 : 1;
    if (x->before != y->before)
        return x->before < y->before ? -1 : 1;
    return x->choice - y->choice;
}

/* Keep those that lose less than all smaller ones; sorted by bytes. Returns how many. */
static size_t prune(struct state *s, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || s[i].loss < s[kept - 1].loss)
            s[kept++] = s[i];
    return kept;
}

static uint64_t least_of(const struct knapsack_group *g)
{
    uint64_t least = UINT64_MAX;
    for (int c = 0; c < g->n; c++)
        least = min_of(least, g->choices[c].bytes);
    return least;
}

uint64_t knapsack_least(const struct knapsack_group *groups, size_t n)
{
    uint64_t least = 0;
    for (size_t i = 0; i < n; i++)
        least += least_of(&groups[i]);
    return least;
}

/* All sums of the states with the choices that stay within the budget. */
static size_t add_exactly(struct table *t, const struct state *s, size_t n,
                          const struct knapsack_group *g)
{
    uint64_t least = least_of(g);
    size_t made = 0;
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < g->n; c++) {
            uint64_t more = g->choices[c].bytes - least;
            if (more <= t->budget - s[i].bytes)
                t->fresh[made++] = (struct state){
                    s[i].bytes + more, s[i].loss + g->choices[c].loss, (uint32_t)i, (uint8_t)c };
        }
    qsort(t->fresh, made, sizeof *t->fresh, by_bytes);
    return prune(t->fresh, made);
}

/* The same into KNAPSACK_STATES equal drawers, the best of each kept. */
static size_t add_coarsely(struct table *t, const struct state *s, size_t n,
                           const struct knapsack_group *g)
{
    uint64_t least = least_of(g);
    double per_byte = (double)KNAPSACK_STATES / ((double)t->budget + 1);
    for (size_t k = 0; k < KNAPSACK_STATES; k++)
        t->fresh[k].before = UINT32_MAX;
    for (size_t i = 0; i < n; i++)
        for (int c = 0; c < g->n; c++) {
            uint64_t more = g->choices[c].bytes - least;
            if (more > t->budget - s[i].bytes)
                continue;
            struct state sum = { s[i].bytes + more, s[i].loss + g->choices[c].loss, (uint32_t)i,
                                 (uint8_t)c };
            size_t k = min_of((size_t)((double)sum.bytes * per_byte), (size_t)KNAPSACK_STATES - 1);
            struct state *best = &t->fresh[k];
            if (best->before == UINT32_MAX || sum.loss < best->loss ||
                (sum.loss == best->loss && sum.bytes < best->bytes))
                *best = sum;
        }
    size_t made = 0;
    for (size_t k = 0; k < KNAPSACK_STATES; k++)
        if (t->fresh[k].before != UINT32_MAX)
            t->fresh[made++] = t->fresh[k];
    t->exact = false;
    return prune(t->fresh, made);
}

static bool add_group(struct table *t, size_t i, const struct knapsack_group *g, struct error *err)
{
    size_t n = t->n_of[i], all = n * (size_t)g->n;
    size_t room = n <= KNAPSACK_EXACT ? max_of(all, (size_t)KNAPSACK_STATES)
                                      : (size_t)KNAPSACK_STATES;
    if (room > t->room) {
        mem_free(t->fresh);
        t->fresh = mem_alloc(room, sizeof *t->fresh, "choices", err);
        t->room = t->fresh ? room : 0;
    }
    if (!t->fresh)
        return false;
    size_t made = n <= KNAPSACK_EXACT ? add_exactly(t, t->of[i], n, g)
                                           : add_coarsely(t, t->of[i], n, g);
    t->of[i + 1] = mem_alloc(made, sizeof *t->fresh, "choices", err);
    if (!t->of[i + 1])
        return false;
    memcpy(t->of[i + 1], t->fresh, made * sizeof *t->fresh);
    t->n_of[i + 1] = made;
    return true;
}

static bool open_table(struct table *t, const struct knapsack_group *groups, size_t n,
                       uint64_t budget, struct error *err)
{
    uint64_t least = knapsack_least(groups, n);
    if (least > budget)
        return fail(err, ERR_FIT, "%llu bytes are needed at least, the budget is %llu",
                    (unsigned long long)least, (unsigned long long)budget);
    uint64_t most = 0; /* that could be spent: beyond it a budget is no limit */
    for (size_t i = 0; i < n; i++) {
        uint64_t largest = 0;
        for (int c = 0; c < groups[i].n; c++)
            largest = max_of(largest, groups[i].choices[c].bytes);
        most += largest;
    }
    t->budget = min_of(budget, most) - least;
    t->exact = true;
    t->of = mem_alloc(n + 1, sizeof *t->of, "choices", err);
    t->n_of = mem_alloc(n + 1, sizeof *t->n_of, "choices", err);
    if (!t->of || !t->n_of || !(t->of[0] = mem_alloc(1, sizeof **t->of, "choices", err)))
        return false;
    t->n_of[0] = 1;
    return true;
}

static void close_table(struct table *t, size_t n)
{
    for (size_t i = 0; t->of && i <= n; i++)
        mem_free(t->of[i]);
    mem_free(t->of);
    mem_free(t->n_of);
    mem_free(t->fresh);
}

bool knapsack_solve(const struct knapsack_group *groups, size_t n, uint64_t budget, int *picks,
                    bool *exact, struct error *err)
{
    struct table t = { 0 };
    bool ok = open_table(&t, groups, n, budget, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = add_group(&t, i, &groups[i], err);
    if (ok) {
        size_t at = t.n_of[n] - 1; /* the least loss has the most bytes */
        for (size_t i = n; i > 0; i--) {
            picks[i - 1] = t.of[i][at].choice;
            at = t.of[i][at].before;
        }
        if (exact)
            *exact = t.exact;
    }
    close_table(&t, n);
    return ok;
}
