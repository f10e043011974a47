/* The parts of the program tiny: what to write, and its file in the making. */
#ifndef TANDEM_TOOLS_TINY_H
#define TANDEM_TOOLS_TINY_H

#include "src/arch/registry.h"
#include "src/format/gguf_write.h"
#include "tools/recipe.h"
#include "tools/shapes.h"

struct tiny_options {
    const char *out;
    const struct shape *like;
    const struct generation *generation;
    int layers, shards;
    int64_t vocab; /* -1: as the shape, 0: no tokenizer */
    uint64_t seed;
    int type;          /* of enum tensor_type, or one of the mixes below */
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

/* The keys of the architecture's hyper-parameters, as the generation of files has them. */
bool tiny_add_keys(struct tiny_plan *p, struct error *err);

/* A byte-level vocabulary: 256 bytes, a few merges, special tokens, padding up to the size. */
bool tiny_add_tokenizer(struct tiny_plan *p, struct error *err);

#endif
