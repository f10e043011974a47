/* Recipes: from the name of a tensor to its type.
 *
 * A recipe is a base mixture, one of
 *   - the mixtures of llama-quantize by their names (Q4_K_M, IQ2_XXS, Q8_0, …): the same
 *     types per
 *     tensor as that program chooses, for the same model;
 *   - the _L and _XL variants, with embedding and output at Q8_0;
 *   - our presets ds-iq1 … ds-q4m for mixtures of experts;
 *   - "copy": every tensor as it is;
 * then overrides RE=TYPE in the order given (first match wins), then floors: tensors that cost
 * little and matter much are never below a type (protection list; `strict` leaves it out), and
 * then a fallback where rows are no multiple of the block.
 *
 * Norms, biases, routers and the like keep their type always. */
#ifndef TANDEM_TOOLS_RECIPE_H
#define TANDEM_TOOLS_RECIPE_H

#include <regex.h>

#include "src/base/arena.h"
#include "src/format/gguf.h"

struct mixture;

struct recipe_override {
    const char *pattern;
    regex_t re;
    enum tensor_type type;
};

/* Zeroed is empty; recipe_release accepts it. */
struct recipe {
    struct arena arena;
    const struct mixture *mixture; /* NULL: none named yet */
    struct recipe_override *overrides;
    int n_overrides;
    bool strict;      /* without the protection list */
    bool pure;        /* the base type everywhere */
    bool has_imatrix; /* some mixtures choose better types with one */
};

/* Name the base. Case does not matter. ERR_USAGE listing what there is. */
bool recipe_set(struct recipe *r, const char *name, struct error *err);
/* "RE=TYPE": extended regular expression searched in the tensor's name. ERR_USAGE. */
bool recipe_add(struct recipe *r, const char *rule, struct error *err);
/* A file of such rules, one per line; `#` begins a comment, a line without `=` names the base. */
bool recipe_read(struct recipe *r, const char *path, struct error *err);
void recipe_release(struct recipe *r);

/* Number for general.file_type, and the names of all mixtures for messages ("Q2_K, Q2_K_S,
 * …"). */
uint32_t recipe_file_type(const struct recipe *r);
const char *recipe_name(const struct recipe *r);
bool recipe_copies(const struct recipe *r); /* the base is "copy": no file_type of its own */
const char *recipe_names(void);

/* What the mixtures want to know about a model. */
struct recipe_model {
    struct str arch;
    int n_layers;  /* block_count, with the layers of multi-token prediction */
    int n_mtp;     /* of those, for multi-token prediction: the last ones */
    int n_experts; /* 0: dense */
    int n_heads, n_kv_heads; /* of the first layer */
};

/* From the metadata of an open file; missing keys stay 0. */
bool recipe_model_read(struct recipe_model *m, const struct gguf *g, struct error *err);

enum recipe_reason {
    RECIPE_MIXTURE,
    RECIPE_KEPT,      /* never quantized */
    RECIPE_OVERRIDE,
    RECIPE_PROTECTED, /* raised to its floor */
    RECIPE_FALLBACK,  /* rows are no multiple of the block */
    RECIPE_BUDGET,    /* chosen to fit into a budget */
    RECIPE_SPARED,    /* of multi-token prediction, without importance */
};

struct recipe_tensor {
    const char *name;
    int n_dims;
    uint64_t ne[TENSOR_MAX_DIMS];
    enum tensor_type source; /* for convert: what it would be unquantized (F32, BF16, …) */
    uint64_t source_bytes;   /* for reports */
    bool keep;               /* stays as it is whatever the recipe says; counted all the same */
    enum tensor_type type;   /* out */
    enum recipe_reason reason; /* out */
};

/* Choose the type of every tensor of a model at once: some mixtures count tensors as they go.
 * The order of the array does not matter. ERR_USAGE without a base, for a type that cannot be
 * written, or an override that no tensor matches. */
bool recipe_apply(const struct recipe *r, const struct recipe_model *m,
                  struct recipe_tensor *tensors,
                  size_t n, struct error *err);

/* What a tensor gets when `wish` is asked for it: at least the floor of the protection list (unless
 * strict), a type with smaller blocks where its rows do not divide, never more bits than it has. */
enum tensor_type recipe_settle(const struct recipe *r, const struct recipe_model *m,
                               const struct recipe_tensor *t, enum tensor_type wish);

/* Can this type only be made well with an importance matrix? */
bool recipe_wants_imatrix(const struct recipe *r, const struct recipe_tensor *t);

/* Bits per weight of a type. */
double type_bits(enum tensor_type type);

#endif
