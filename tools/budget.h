/* Choosing types by a budget: the least expected loss within so many bytes.
 *
 * Tensors are taken together by layer and part: attention; dense or shared feed-forward; the
 * routed experts, whose down matrices never get fewer bits than gate and up; embedding; output.
 * Each group has a choice for every type of a ladder, with its size in bytes and its loss; a
 * knapsack finds the best combination. What the recipe keeps or names itself is not touched.
 *
 * Loss of a tensor: the square of the relative error of what it computes, times how much of the
 * model's error comes from such a tensor. The first is the type's error on normally distributed
 * weights (7.5 of the format notes), or measured on the tensor's own weights and importance. The
 * second are round numbers: every block of a layer adds about the same to the residual stream,
 * whatever its size, so a matrix that serves every token at small cost deserves more bits than
 * one expert of many; early and late layers and down projections count more, as in the named
 * mixtures. */
#ifndef TANDEM_TOOLS_BUDGET_H
#define TANDEM_TOOLS_BUDGET_H

#include "tools/type_plan.h"

/* Which budget a tensor is paid from. */
enum purse { PURSE_RAM, PURSE_VRAM, N_PURSES };

struct budget {
    const unsigned char *purses;    /* [n] enum purse, by tensor of the plan */
    uint64_t bytes[N_PURSES];       /* for weights; UINT64_MAX: as many as you like */
    /* Squared relative error of each tensor as each type, measured; 0: not measured; NULL: none. */
    double (*errors)[N_TENSOR_TYPES];

    /* Results. */
    uint64_t used[N_PURSES];
    double loss;
    bool exact;                     /* no combination is better by this measure */
};

/* Set the types of p->tensors, to which the recipe was applied. ERR_FIT when not even the smallest
 * types fit. */
bool budget_choose(struct budget *b, struct type_plan *p, struct error *err);

/* Squared relative error of a type on normally distributed weights; with importance: weighted so. */
double budget_type_error(enum tensor_type type, bool weighted);
/* How much of the model's error comes from a tensor like this. */
double budget_share(const struct recipe_model *m, const char *name);

/* The types that may be chosen, smallest first; without importance only those that do without. */
int budget_ladder(bool has_imatrix, enum tensor_type types[N_TENSOR_TYPES]);

/* The choice for people: a line for each run of layers that have the same types. */
void budget_explain(const struct type_plan *p, struct buf *out);

#endif
