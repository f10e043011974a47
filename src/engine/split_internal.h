/* What the parts of a split share: split.c has its memory and knows where the valid copies are,
 * split_ops.c runs each operation on its side. */
#ifndef TANDEM_ENGINE_SPLIT_INTERNAL_H
#define TANDEM_ENGINE_SPLIT_INTERNAL_H

#include "src/engine/split.h"

#define MAX_BUFFERS 32
#define TOGETHER SIZE_MAX /* no part of a block is apart */

enum side { CPU, GPU };

/* Memory on both sides, or in main memory up to `apart` and on the GPU from there on. */
struct block {
    char *ram, *vram; /* vram: of byte `apart`, or of byte 0 */
    size_t bytes, apart;
    bool mapped; /* ram is */
};

struct buffer {
    struct rows rows;
    enum side valid;
    bool early; /* a record's operations read it: brought over before they start */
};

/* What calls of operations do. Each moves on what is known of buffers; then it
 *   PLAIN      runs where it belongs
 *   RECORDING  is recorded on the GPU; on the CPU nothing happens
 *   REPLAYING  runs on the CPU; on the GPU all of them run together, when the first one comes */
enum split_mode { PLAIN, RECORDING, REPLAYING };

struct split {
    struct device base; /* first */
    struct device_ops ops;
    struct split_options o;
    struct block *blocks;
    int n_blocks, max_blocks;
    size_t next_apart;
    struct buffer buffers[MAX_BUFFERS];
    int n_buffers;
    int n_tokens;
    enum split_mode mode;
    enum side turn;            /* whose operation was the last one of this step */
    int n_ranges;              /* of operations of the GPU in a row, in this step */
    bool stuck;                /* somebody else computes on the CPU and does not end: it does nothing more */
    enum side router, experts; /* where the last picks are, and who works on them */
    struct error failed;       /* the first since begin */
    /* A cache as one side finds it; the GPU's addresses of its layers, each filled in when it is used. */
    struct kvcache cache;
    void **k, **v;             /* [n_layers]; k owns both */
    struct kv_sparse *sparse;  /* owns [n_layers] */
};

static inline struct split *split(struct device *d)
{
    return (struct split *)d;
}

static inline struct device *device_of(const struct split *d, enum side side)
{
    return side == GPU ? d->o.gpu : d->o.cpu;
}

/* Who runs the next operation, after its rows were asked for; NULL: nobody. */
struct device *split_device(struct split *d, enum side side);

/* Where the GPU has what lies at this address for others. */
void *split_vram(const struct split *d, const void *data);

/* These rows on a side: valid there, to be read by an operation; or to be written, all of them or some
 * columns. */
struct rows split_input(struct split *d, struct rows r, enum side side);
struct rows split_output(struct split *d, struct rows r, enum side side);
/* The same rows, as that side finds them, whatever is valid. */
struct rows split_rows(const struct split *d, struct rows r, enum side side);
/* Do both sides know these rows? Else they are somebody's in main memory. */
bool split_is_ours(struct split *d, struct rows r);
/* Where the valid copy is. */
enum side split_valid(struct split *d, struct rows r);

/* Fill in all that run within a step. */
void split_operations(struct device_ops *ops);

#endif
