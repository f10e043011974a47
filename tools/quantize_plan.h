/* What quantize is going to do, worked out in seconds, before anything is written: everything that
 * can fail for a logical reason fails here. */
#ifndef TANDEM_TOOLS_QUANTIZE_PLAN_H
#define TANDEM_TOOLS_QUANTIZE_PLAN_H

#include "src/cli/buf.h"
#include "tools/kv_b.h"
#include "tools/type_plan.h"

/* How a tensor of the new file is made from one of the old. */
enum made_from {
    MADE_WHOLE,
    MADE_KEYS,   /* attn_k_b from attn_kv_b */
    MADE_VALUES, /* attn_v_b from attn_kv_b */
};

struct quantize_item {
    char split_name[64]; /* of one half of kv_b */
    const struct gguf *gguf; /* which has it: the input, or with --only the older output */
    const struct tensor *from;
    enum made_from how;
    struct kv_b_shape shape; /* of kv_b */
    struct gguf_source source;
    struct kv_b_view view;
};

/* Zeroed is closed. `items`, `types` and `tensors` have types.n elements, in the order of the new
 * file: that of the old one, with attn_k_b and attn_v_b in place of attn_kv_b where it is split. */
struct quantize_plan {
    struct gguf gguf;
    struct gguf older; /* the output as it is, with --only where there is one; else closed */
    struct type_plan types;
    struct quantize_item *items;
    struct transcode_tensor *tensors;
    struct buf explanation; /* of a choice by budget */
    int n_split; /* tensors attn_kv_b that become two */
};

/* type: NULL when the recipe file names it, or a budget decides (tools/fit.h). With --only RE,
 * tensors whose name does not match are copied from `out` when it exists, which must hold the
 * same tensors, else from `in`; those that do get the types they would have without it. */
bool quantize_plan_open(struct quantize_plan *p, const struct options *o, const char *in,
                        const char *out, const char *type, struct error *err);
/* Are the files still those that were opened? ERR_RUN naming the one that is not. */
bool quantize_plan_unchanged(const struct quantize_plan *p, struct error *err);
void quantize_plan_close(struct quantize_plan *p);

/* Metadata and tensors of the new file. */
bool quantize_plan_announce(const struct quantize_plan *p, struct gguf_writer *w,
                            struct error *err);

/* The job in words for the journal: a line each for inputs, options and every tensor. */
bool quantize_plan_describe(const struct quantize_plan *p, const struct options *o,
                            struct buf *text,
                            struct error *err);

#endif
