/* The parts of the program tiny: what to write, and its file in the making. */
#ifndef TANDEM_TOOLS_TINY_H
#define TANDEM_TOOLS_TINY_H

#include "src/arch/registry.h"
#include "src/format/gguf_write.h"
#include "tools/recipe.h"
#include "tools/shapes.h"

/* Types by tensor, as files in the wild have them. */
enum tiny_mix { MIX = -1, MIX_UD_Q2 = -2, MIX_NATIVE = -3 };

struct tiny_options {
    const char *out;
    const struct shape *like;
    const struct generation *generation;
    int layers, shards;
    int64_t vocab; /* -1: as the shape, 0: no tokenizer */
    uint64_t seed;
    int type;          /* of enum tensor_type, or of enum tiny_mix */
    struct recipe mix; /* types by a mixture of llama-quantize instead, if one is named */
    bool sparse;
};

struct tiny_plan {
    const struct tiny_options *o;
    const struct arch *arch;
    struct params params;
    struct gguf_writer writer;
    char *buffer;
    struct recipe_tensor *chosen; /* types by name, once the mixture has chosen them */
    size_t n_chosen;
};

/* ---- tiny_types.c ---- */

/* One tensor of the file. */
struct tiny_item {
    const struct tensor_spec *spec;
    int layer;
    char name[128];
    enum tensor_type type;
    uint64_t ne[4]; /* as the table has them */
    int n_dims;
};

/* The tensor of this row in this layer (-1: beside the layers); false when the file has none. */
bool tiny_make_item(const struct tiny_plan *plan, const struct tensor_spec *s, int layer,
                    struct tiny_item *it);
/* A name of the table with the layer put in for %d. */
void tiny_item_name(char *out, size_t size, const char *pattern, int layer);
bool tiny_name_ends(const char *name, const char *end);

/* ---- tiny_keys.c ---- */

/* The keys of the architecture's hyper-parameters, as the generation of files has them. */
bool tiny_add_keys(struct tiny_plan *p, struct error *err);

/* A byte-level vocabulary: 256 bytes, a few merges, special tokens, padding up to the size. */
bool tiny_add_tokenizer(struct tiny_plan *p, struct error *err);

#endif
