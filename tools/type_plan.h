/* Which type every tensor of a file gets, worked out before anything is written: recipe, importance,
 * and the refusals that go with them. quantize makes one from the tensors of a GGUF file, convert
 * from those of a checkpoint. */
#ifndef TANDEM_TOOLS_TYPE_PLAN_H
#define TANDEM_TOOLS_TYPE_PLAN_H

#include "src/cli/options.h"
#include "src/format/gguf_write.h"
#include "tools/imatrix.h"
#include "tools/recipe.h"

/* Zeroed is closed. The arrays have n elements, in the order of the new file. */
struct type_plan {
    struct recipe recipe;
    struct recipe_model model;
    struct imatrix imatrix;
    bool has_imatrix;
    /* Change types after the recipe was applied; NULL: no wish. */
    bool (*settle)(struct type_plan *p, void *ctx, struct error *err);
    void *settle_ctx;
    bool settled; /* types are those of a budget: the recipe's label says nothing */
    bool partial; /* most tensors come from a file that has its own description: add none */
    struct recipe_tensor *tensors;
    struct imatrix_entry *importance; /* n_values 0: none */
    size_t n;
    uint64_t bytes_before, bytes_after;
    double weights; /* elements of all tensors */
};

/* Read the options about types. `type` is the base by name; NULL: the recipe file must name it. */
bool type_plan_begin(struct type_plan *p, const struct options *o, const char *type,
                     struct error *err);
/* Room for n tensors: the caller fills in name, shape, source and source_bytes of each, and
 * p->model. */
bool type_plan_reserve(struct type_plan *p, size_t n, struct error *err);
/* Choose. ERR_USAGE for rounding what was rounded without --allow-requantize and for types
 * that need importance and have none; ERR_FILE for an importance matrix that does not
 * fit. */
bool type_plan_choose(struct type_plan *p, const struct options *o, struct error *err);
void type_plan_close(struct type_plan *p);

/* Importance of tensor i, or NULL; and the rows of the matrices that it speaks of. */
const struct imatrix_entry *type_plan_importance(const struct type_plan *p, size_t i);
int64_t type_plan_matrix_rows(const struct type_plan *p, size_t i);
/* Bytes of tensor i as planned. */
uint64_t type_plan_bytes(const struct type_plan *p, size_t i);
bool type_is_quantized(enum tensor_type type);

/* general.file_type (not for the base "copy"), what is known of the importance, and the version of
 * the block formats. */
bool type_plan_write(const struct type_plan *p, struct gguf_writer *w, struct error *err);
/* The choice in words for a journal: a line each for options and every tensor. */
void type_plan_describe(const struct type_plan *p, const struct options *o, struct buf *text);
/* The table of --dry-run: sizes and types by part of the model; every tensor when `all`. */
void type_plan_table(const struct type_plan *p, bool all, struct buf *out);

#endif
