/* What quantize is going to do, worked out in seconds, before anything is written: everything that
 * can fail for a logical reason fails here. */
#ifndef TANDEM_TOOLS_QUANTIZE_PLAN_H
#define TANDEM_TOOLS_QUANTIZE_PLAN_H

#include "src/cli/options.h"
#include "tools/recipe.h"
#include "tools/transcode.h"

/* Zeroed is closed. The arrays have gguf.n_tensors elements, in the order of the file. */
struct quantize_plan {
    struct gguf gguf;
    struct recipe recipe;
    struct recipe_model model;
    struct imatrix imatrix;
    bool has_imatrix;
    struct recipe_tensor *types;
    struct imatrix_entry *importance; /* n_values 0: none */
    struct gguf_source *sources;
    struct transcode_tensor *tensors;
    uint64_t bytes_before, bytes_after;
    double weights; /* elements of all tensors */
};

/* type: NULL when the recipe file names it. */
bool quantize_plan_open(struct quantize_plan *p, const struct options *o, const char *in,
                        const char *type, struct error *err);
void quantize_plan_close(struct quantize_plan *p);

/* Metadata and tensors of the new file. */
bool quantize_plan_announce(const struct quantize_plan *p, struct gguf_writer *w,
                            struct error *err);

/* The job in words for the journal: a line each for inputs, options and every tensor. */
bool quantize_plan_describe(const struct quantize_plan *p, const struct options *o,
                            struct buf *text,
                            struct error *err);

/* The table of --dry-run: sizes and types by part of the model; every tensor when `all`. */
void quantize_plan_table(const struct quantize_plan *p, bool all, struct buf *out);

#endif
