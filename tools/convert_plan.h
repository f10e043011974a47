/* What a conversion will write: for each tensor of the architecture's table, where it comes from.
 *
 * Names of both sides meet in one table. The plan is complete before a byte is written: every
 * tensor that the architecture needs was found with exactly the shape that config.json implies,
 * every FP8 weight has its scales and they are finite and positive, every tensor of the checkpoint
 * is used or known to be of no use. */
#ifndef TANDEM_TOOLS_CONVERT_PLAN_H
#define TANDEM_TOOLS_CONVERT_PLAN_H

#include "src/format/quant.h"
#include "tools/hf_config.h"
#include "tools/safetensors.h"

#define FP8_BLOCK 128 /* rows and columns that share one scale */

/* How rows of the file are made from rows of the checkpoint. */
enum how {
    HOW_ROWS,    /* as they are; one source per matrix (experts are stacked so) */
    HOW_ROTARY,  /* rows of a head from split halves to interleaved pairs (arch->permuted_qk) */
    HOW_K_B,     /* key part of kv_b_proj, transposed head by head */
    HOW_V_B,     /* value part of kv_b_proj */
    HOW_FREQS,   /* computed: rope_freqs */
};

/* One tensor of the file: `n_matrices` of `rows` x `cols`. */
struct plan_tensor {
    char name[64];
    enum tensor_type type;
    enum how how;
    enum role role;
    int n_dims;
    uint64_t ne[TENSOR_MAX_DIMS];
    int64_t cols, rows, n_matrices;
    int64_t head_rows;            /* HOW_ROTARY: rows of one head */
    int64_t rows_per_chunk;
    const struct st_tensor **sources; /* [n_matrices] for HOW_ROWS, else [1] */
    const struct st_tensor **scales;  /* beside them; NULL entries: not FP8 */
};

struct plan {
    struct arena arena;
    const struct checkpoint *checkpoint;
    const struct hf_config *config;
    struct plan_tensor *tensors;
    size_t n_tensors, room;
    uint64_t n_elements, routed_elements;
    uint64_t source_bytes, file_bytes;
    int n_fallbacks; /* tensors whose rows do not suit the type asked for */
};

/* `type`: TYPE_F32, F16, BF16, Q8_0, or -1 for "as the checkpoint has it" (FP8 becomes Q8_0). Sets
 * config->params.n_mtp to what the checkpoint holds, 0 without keep_mtp. */
bool plan_make(struct plan *p, struct checkpoint *c, struct hf_config *config, int type,
               bool keep_mtp, struct error *err);
void plan_release(struct plan *p);

/* The block that is computed from one reading: its first source row and their number. */
void plan_source_rows(const struct plan *p, const struct plan_tensor *t, int64_t matrix,
                      int64_t first, int64_t n, int64_t *source_first, int64_t *source_n);

#endif
