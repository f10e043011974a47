/* A model as it would be with other types: for plans and budgets, which only look at its tables. */
#ifndef TANDEM_CLI_RETYPE_H
#define TANDEM_CLI_RETYPE_H

#include "src/model/model.h"

/* Zeroed is closed. Everything but the tables is borrowed from the original. */
struct retyped {
    struct model model;
    struct tensor *tensors; /* [model.n_tensors] */
};

bool retyped_open(struct retyped *r, const struct model *m, struct error *err);
/* Tensor number i of the model becomes of this type. */
void retyped_set(struct retyped *r, int i, enum tensor_type type);
void retyped_close(struct retyped *r);

#endif
