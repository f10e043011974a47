/* Which part of a model lives where, within a memory budget, before anything is loaded.
 *
 * placement_make is a pure function of a header, a machine and the user's wishes. Its table has one
 * row per role, layer, home and layout, and one number for everything else that will be allocated:
 * the cache, working memory, what a GPU's driver takes. The loader follows it, `plan` prints it, a
 * model that does not fit is refused with it, and the memory report adds it up; so they agree.
 *
 * The automatic choice is an expert's: everything to the GPU if it fits, else the trunk, which is read
 * for every token, then the cache behind it, then routed experts into what VRAM is left; everything else to main memory,
 * copied to huge pages where there is room for a copy, else read from the mapped file.
 * Without a GPU everything is in main memory. */
#ifndef TANDEM_MODEL_PLACEMENT_H
#define TANDEM_MODEL_PLACEMENT_H

#include <regex.h>

#include "src/model/arch.h"
#include "src/model/rates.h"

enum home {
    HOME_GPU,    /* VRAM */
    HOME_RAM,    /* memory of our own */
    HOME_MAPPED, /* the file's pages in the page cache: used, never allocated */
    HOME_NONE,   /* not needed */
    N_HOMES = HOME_NONE
};

enum layout {
    LAYOUT_PLAIN,    /* as in the file */
    LAYOUT_REPACKED, /* rows interleaved for the kernels (model_weave) */
};

/* What a number in the table is for. */
enum part {
    PART_TRUNK,        /* attention, norms, routers, shared experts, dense layers */
    PART_ENDS,         /* embedding and output matrix */
    PART_ROUTED,
    PART_CACHE,        /* of one session with n_ctx positions */
    PART_DRAFT,        /* the block for multi-token prediction: weights, cache, room */
    PART_WORK,         /* activations, scratch of the operations, lists of a session */
    PART_EXPERT_CACHE, /* copies of routed experts in VRAM */
    PART_STAGING,      /* VRAM ring for experts on their way up during prefill */
    PART_DRIVER,       /* what the GPU's driver and a captured graph take */
    N_PARTS
};

#define PLACE_AUTO (-1)
#define PLACE_ALL INT32_MAX

/* A tensor whose name matches goes there; the first rule that matches wins. */
struct placement_rule {
    regex_t name;
    bool on_gpu;
};

struct placement_wishes {
    int64_t n_ctx;             /* 0: the largest that fits, at most 32768 and as trained */
    int n_batch;               /* most tokens per step */
    int n_threads;             /* for the working memory */
    enum tensor_type cache_type;
    bool act_f32;
    enum load_mode load;
    bool force;                /* accept reading experts from the disk again and again */
    int gpu_layers;            /* trunk of the last N layers on the GPU, PLACE_AUTO, PLACE_ALL */
    int cpu_moe;               /* routed experts of the first N layers stay with the CPU */
    int gpu_experts;           /* cached in VRAM per layer; PLACE_AUTO: what VRAM is left */
    uint64_t gpu_experts_bytes; /* the same as a size; 0: not said */
    double gpu_experts_share;  /* the same as a share of all experts, 0 to 1; negative: not said */
    uint64_t vram_margin;      /* left to others */
    bool draft;                /* sessions will draft, if the block for that finds room in what is left */
    const struct placement_rule *rules;
    int n_rules;

    /* Bytes that the CPU takes to run steps of n_batch tokens over n_ctx positions; from the
     * device, which src/model does not know. */
    uint64_t (*work_bytes)(const struct model *m, const struct placement_wishes *w, int64_t n_ctx,
                           const void *ctx);
    /* The same of the GPU; NULL: guess. */
    uint64_t (*gpu_work_bytes)(const struct model *m, const struct placement_wishes *w,
                               int64_t n_ctx, const void *ctx);
    /* The same for what a session takes to draft, its weights left out; NULL: nothing. */
    uint64_t (*draft_bytes)(const struct model *m, enum tensor_type cache_type, int64_t n_ctx,
                            int n_batch);
    const void *work_ctx;
    bool weave[N_TENSOR_TYPES]; /* types of which the CPU wants copied rows interleaved */
};

/* Wishes of a user who said nothing. */
struct placement_wishes placement_wishes_default(void);

struct placement_row {
    enum role role;
    int layer; /* -1: the model as a whole */
    enum home home;
    enum layout layout;
    int n_tensors;
    uint64_t bytes;
    uint64_t bytes_per_token; /* read for one token, all experts where they lie */
};

struct placement {
    struct placement_row *rows; /* owned */
    int n_rows;
    unsigned char *homes;       /* owned: enum home of each of the model's tensors */

    int64_t n_ctx;
    int n_batch;
    bool copied;        /* weights in main memory are a copy, not the mapped file */
    int gpu_layers;     /* trunk layers on the GPU: the last ones */
    int cpu_moe;        /* mixture layers before this one have their experts with the CPU */
    bool head_on_gpu;
    bool drafts;        /* the block for multi-token prediction has its place: with the head; on the
                         * GPU its experts with the last layer's */
    int expert_slots;   /* experts of each such layer that VRAM holds copies of */
    uint64_t expert_bytes; /* the largest expert of one layer */

    uint64_t bytes[N_PARTS][N_HOMES];
    uint64_t bytes_per_token[N_PARTS][N_HOMES]; /* weights; experts counted where they lie */

    uint64_t ram_budget, vram_budget; /* what may be taken */
    uint64_t ram_used, ram_mapped, vram_used;
    bool fits;
    /* When it does not: the home, and what makes it large. */
    enum home short_home;
    int64_t fitting_ctx; /* the largest context that would; 0: none */
};

/* Fails only without memory for the table, or on wishes that contradict the model (ERR_USAGE). A
 * placement that does not fit is complete, with fits == false. */
bool placement_make(struct placement *p, const struct model *m, const struct rates *here,
                    const struct placement_wishes *w, struct error *err);
void placement_free(struct placement *p);

/* Bytes of tensor number i of the model that one token reads. */
uint64_t placement_tensor_reads(const struct model *m, int i);

/* ERR_FIT with the numbers of a placement that does not fit; returns p->fits. */
bool placement_check(const struct placement *p, struct error *err);

/* Words for people: "GPU", "RAM", "file". */
const char *home_name(enum home h);

/* The ring for experts on their way: two parts, so that one is filled while the other is used. */
#define RING_SLOTS 2
#define RING_EXPERTS 8
#define RING_BORDERS 1024 /* bytes between its matrices, per part */
#define RING_COPIERS 4 /* threads that fill it, at most, with two pinned buffers each */

/* Positions that a session gets when nobody says: the trained number, at most this. */
#define USUAL_CONTEXT 32768
/* Tokens per step, likewise. */
#define USUAL_BATCH 512

#endif
