/* The named mixtures behind recipe.h: one row each. */
#ifndef TANDEM_TOOLS_MIXTURE_H
#define TANDEM_TOOLS_MIXTURE_H

#include "tools/recipe.h"

/* Numbers of general.file_type: a label for people, and here the name of a mixture's rules. */
enum file_type {
    FILE_F32 = 0, FILE_F16 = 1, FILE_Q4_0 = 2, FILE_Q4_1 = 3, FILE_Q8_0 = 7, FILE_Q5_0 = 8,
    FILE_Q5_1 = 9, FILE_Q2_K = 10, FILE_Q3_K_S = 11, FILE_Q3_K_M = 12, FILE_Q3_K_L = 13,
    FILE_Q4_K_S = 14, FILE_Q4_K_M = 15, FILE_Q5_K_S = 16, FILE_Q5_K_M = 17, FILE_Q6_K = 18,
    FILE_IQ2_XXS = 19, FILE_IQ2_XS = 20, FILE_Q2_K_S = 21, FILE_IQ3_XS = 22, FILE_IQ3_XXS = 23,
    FILE_IQ1_S = 24, FILE_IQ4_NL = 25, FILE_IQ3_S = 26, FILE_IQ3_M = 27, FILE_IQ2_S = 28,
    FILE_IQ2_M = 29, FILE_IQ4_XS = 30, FILE_IQ1_M = 31, FILE_BF16 = 32, FILE_MXFP4_MOE = 38,
    FILE_NVFP4 = 39,
};

/* Types by part of the model (9.5 of the format notes); for models with experts. */
struct preset {
    enum tensor_type gate_up, down, first_down; /* routed experts; the first 6 down tensors */
    enum tensor_type attention, dense;          /* dense: shared experts and dense layers */
    enum tensor_type embed, output;
};

struct mixture {
    const char *name, *alias; /* alias may be NULL */
    enum file_type file_type;
    enum tensor_type base;
    bool large;               /* embedding and output at Q8_0 */
    bool copy;                /* nothing changes */
    const struct preset *preset; /* NULL: the rules of file_type */
};

const struct mixture *mixture_find(const char *name); /* NULL: none of this name */
const char *mixture_names(void);
/* The name that is written most like this one, or NULL when none is near. */
const char *mixture_nearest(const char *name);
/* The number of general.file_type for files mostly of this type. */
uint32_t mixture_label(enum tensor_type type);

/* What the rules keep count of while they walk through a model. */
struct mixture_walk {
    const struct mixture *mixture;
    const struct recipe_model *model;
    bool has_imatrix, tied; /* tied: no output matrix, the embedding serves as one */
    int n_attn_v;           /* value-like projections in the model */
    int i_attn_v, i_down;   /* how many came before */
};

/* Is this the projection that the rules treat as a value matrix? */
bool mixture_is_attn_v(const char *tensor);

/* The type the mixture gives to a tensor. Tensors come in the order of recipe_apply: global ones,
 * then layer by layer, by name. */
enum tensor_type mixture_type(struct mixture_walk *w, const struct recipe_tensor *t);

/* Layer of "blk.N.…", -1 for global tensors. */
int tensor_layer(const char *name);

#endif
