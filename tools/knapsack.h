/* One choice for each of many things, at the least loss within a budget (multiple-choice knapsack).
 *
 * Dynamic programming over the useful sums: those for which no other has fewer bytes and less
 * loss. Exact while there are at most KNAPSACK_EXACT of them; beyond that sums that differ by
 * less than one part in KNAPSACK_STATES of the room are taken for one, the better of them kept,
 * which never breaks the budget. Equal input gives equal choices. */
#ifndef TANDEM_TOOLS_KNAPSACK_H
#define TANDEM_TOOLS_KNAPSACK_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/error.h"

#define KNAPSACK_EXACT 2048
#define KNAPSACK_STATES 8192

struct knapsack_choice {
    uint64_t bytes;
    double loss;
};

struct knapsack_group {
    const struct knapsack_choice *choices;
    int n; /* at least 1, at most 256 */
};

/* The least budget with which there is an answer. */
uint64_t knapsack_least(const struct knapsack_group *groups, size_t n);

/* picks[i]: the choice of group i. *exact (may be NULL): nothing was taken for one. ERR_FIT with
 * the least that would do when not even the smallest choices fit; ERR_FIT without memory. */
bool knapsack_solve(const struct knapsack_group *groups, size_t n, uint64_t budget, int *picks,
                    bool *exact, struct error *err);

#endif
