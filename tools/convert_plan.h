/* What a conversion will write: for each tensor of the architecture's table, where it comes from.
 *
 * The plan is complete before a byte is written: every tensor that the architecture needs was found
 * with exactly the shape that config.json implies, every FP8 and FP4 weight has its scales and they
 * are finite and positive, every tensor of the checkpoint is used or known to be of no use, and
 * every tensor has its type. */
#ifndef TANDEM_TOOLS_CONVERT_PLAN_H
#define TANDEM_TOOLS_CONVERT_PLAN_H

#include "tools/convert_source.h"
#include "tools/hf_config.h"
#include "tools/hf_names.h"
#include "tools/kv_b.h"
#include "tools/type_plan.h"

/* One tensor of the file: `n_matrices` of `rows` x `cols`. */
struct plan_tensor {
    char name[64];
    enum how how;
    enum role role;
    bool is_f32;
    int n_dims;
    uint64_t ne[TENSOR_MAX_DIMS];
    int64_t cols, rows, n_matrices;
    size_t n_sources;
    const struct st_tensor **sources; /* [n_sources]: n_matrices for HOW_ROWS, else 1 (or 0) */
    const struct st_tensor **scales;  /* beside them; NULL entries: none */
    struct convert_source rows_of;
    struct kv_b_view kv_b;
};

/* Zeroed is closed. `tensors` and `types` are in the order of the new file, `jobs` in that of the
 * checkpoint, so that a disk reads forward. All have n_tensors elements. */
struct plan {
    struct arena arena;
    const struct checkpoint *checkpoint;
    const struct hf_config *config;
    struct type_plan types;
    struct plan_tensor *tensors;
    struct transcode_tensor *jobs;
    size_t n_tensors, room;
    uint64_t n_elements, routed_elements;
    float *rope_freqs;
    int n_unfit; /* quantized tensors of the checkpoint that no block type of the file can hold */
};

/* Sets config->params.n_mtp to what the checkpoint holds, 0 with --no-mtp. */
bool plan_make(struct plan *p, struct checkpoint *c, struct hf_config *config,
               const struct options *o, struct error *err);
void plan_release(struct plan *p);

#endif
