/* What the parts of a hybrid share: hybrid.c opens the card and loads it, hybrid_pair.c makes pairs of
 * devices, hybrid_step.c runs their steps. */
#ifndef TANDEM_ENGINE_HYBRID_INTERNAL_H
#define TANDEM_ENGINE_HYBRID_INTERNAL_H

#include "src/engine/card_weights.h"
#include "src/engine/expert_store.h"
#include "src/engine/expert_upload.h"
#include "src/engine/handoff.h"
#include "src/engine/hybrid.h"

struct hybrid {
    const struct gpu_library *library;
    struct gpu_info card;
    int index;
    struct model *model; /* borrowed */
    struct gpu_stream *s; /* for the weights */
    struct handoff *handoff; /* NULL: stop and read */
    enum handoff_way way;    /* HANDOFF_AUTO: there are no experts */
    struct handoff_rates handoff_rates;
    double patience_s;       /* with the card; 0: the usual */
    const struct placement *placement;
    struct expert_store *store; /* NULL: no slots */
    enum upload_use upload;
    struct rates rates;
    struct expert_report sent;
    uint64_t left_bytes;     /* of free device memory, to others */
    uint64_t free_bytes;     /* before anything was loaded */
    struct card_weights weights;
};

/* What the CPU computes for one layer of the step. */
struct mixture {
    const struct experts *experts;
    int layer;
    bool on_card; /* all experts are there: the CPU has no part in it */
    struct rows src; /* of the device, as ids and weights */
    const int32_t *ids;
    const float *weights;
};
struct layer_job {
    struct mixture mixture;
    struct rows src, dst; /* the pair's pinned rows */
    int n_tokens;
};

struct hybrid_pair {
    const struct gpu_launchers *gpu;
    struct gpu_stream *s; /* of the device */
    struct device *device, *cpu;
    struct device *split;     /* of the two; NULL: the whole trunk is on the GPU */
    struct hybrid *h;         /* not behind the loss of the GPU, when the pair is only closed */
    struct expert_store *store;   /* borrowed */
    struct expert_upload *upload; /* NULL: nothing is ever sent */
    bool sends;               /* in this step */
    struct error failed;      /* of this step */
    struct mixture mixture;
    float *misses;            /* device memory: the CPU's sum, where the GPU has one too */
    int32_t *mine;            /* [max_tokens, top_k] picks of which the CPU has those that are not -1 */
    const struct step *step;  /* the running one */
    float *embedded;          /* pinned: rows of the embedding; NULL: that is on the GPU */
    int64_t stride;           /* of all pinned rows, and misses */
    struct handoff *handoff;  /* borrowed; NULL: stop and read */
    struct job_list {
        struct layer_job *jobs; /* [n_layers] */
        int n;
    } lists[1 + GPU_RECORDS];   /* of a step that is queued as it is, and of each record */
    struct job_list *queued;    /* begin and end add to it */
    struct job_list *running;   /* whose jobs are computed */
    struct gpu_flags *flags;    /* pinned; NULL: recorded steps hand over by calls */
    uint32_t epoch;           /* of this step */
    const struct gpu_step *state; /* while a record is made: the step in device memory */
    float *src, *dst;         /* pinned: hidden rows and the experts' sum, of one layer at a time */
    int32_t *ids;
    float *weights;
};

/* Who computes this pair's experts, for the GPU's device. */
struct gpu_partner hybrid_partner(struct hybrid_pair *p);
/* Nobody computes on the CPU for what is queued so far: struct split_options. */
bool hybrid_settle(void *pair, struct error *err);
bool hybrid_is_settled(void *pair);

#endif
