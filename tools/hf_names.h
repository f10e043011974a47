/* Where a tensor of the file comes from: names of the GGUF format beside those of Hugging Face
 * checkpoints, in one table. */
#ifndef TANDEM_TOOLS_HF_NAMES_H
#define TANDEM_TOOLS_HF_NAMES_H

#include <stddef.h>
#include <stdint.h>

/* How rows of the file are made from rows of the checkpoint. */
enum how {
    HOW_ROWS,     /* as they are; one source per matrix (experts are stacked so) */
    HOW_ROTARY,   /* rows of a head from split halves to interleaved pairs (arch->permuted_qk) */
    HOW_K_B,      /* key part of kv_b_proj, transposed head by head */
    HOW_V_B,      /* value part of kv_b_proj */
    HOW_INTEGERS, /* a table of numbers */
    HOW_BESIDE,   /* two matrices side by side: row r of the second behind row r of the first */
    HOW_FREQS,    /* computed: rope_freqs */
};

/* In both names the first %d is the layer, a second one the expert. */
struct name_row {
    const char *gguf, *hf;
    enum how how;
    const char *beside; /* HOW_BESIDE: the name of the second */
};

/* Two ways to spell a checkpoint. */
enum spelling {
    SPELLING_HF,  /* model.layers.3.self_attn.o_proj.weight, scales in …weight_scale_inv */
    SPELLING_V4,  /* layers.3.attn.wo_b.weight, scales in layers.3.attn.wo_b.scale */
};

/* The row of a GGUF name as the tables of the architectures have it ("blk.%d.…"); NULL: not made
 * from checkpoints (fused forms, old spellings). */
const struct name_row *find_names(enum spelling spelling, const char *gguf);

/* The name in the checkpoint, of layer `layer` of n_layers main ones: blocks for multi-token
 * prediction go on counting, except in V4, where they are "mtp.0." and so on. Returns out. */
const char *checkpoint_name(char *out, size_t size, enum spelling spelling, const char *hf,
                            int layer, int n_layers, int64_t expert);

/* The name of the scales beside an FP8 or FP4 weight. */
void scale_name(enum spelling spelling, const char *weight, char *out, size_t size);

/* A name with its numbers filled in; returns out. */
const char *fill_name(char *out, size_t size, const char *pattern, int layer, int64_t expert);

/* The layer that a name of the checkpoint speaks of, -1: none. */
int hf_layer(enum spelling spelling, const char *name);

#endif
