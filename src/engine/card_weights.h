/* Weights that live on the card: copied there when a model is loaded, given back when it is left.
 *
 * What has a place in device memory (src/model/placement.h) lies there in one block, and the model's
 * weights point into it. So do weights that were derived from others, key matrices and a tied output
 * matrix. Where each came from in main memory is kept, to point there again. */
#ifndef TANDEM_ENGINE_CARD_WEIGHTS_H
#define TANDEM_ENGINE_CARD_WEIGHTS_H

#include "gpu/gpu.h"
#include "src/model/arch.h"
#include "src/model/placement.h"

/* A zeroed struct is empty. */
struct card_weights {
    struct model *model;             /* borrowed */
    const struct gpu_launchers *gpu; /* borrowed, with the queue: */
    struct gpu_stream *s;
    void *block;                     /* owns, device memory */
    size_t bytes;
    struct moved_weight {
        struct weight *weight;
        const void *host;            /* where it was */
    } *moved;                        /* owns [n_moved] */
    int n_moved;
    bool partial;                    /* some of the trunk stays with the CPU */
};

/* Find what belongs there, moving nothing; the model is loaded. ERR_FIT. */
bool card_weights_list(struct card_weights *w, struct model *m, const struct placement *p,
                       struct error *err);
/* Copy it. ERR_FIT: too little memory; the card's errors. On failure only close may follow. */
bool card_weights_upload(struct card_weights *w, const struct gpu_launchers *gpu,
                         struct gpu_stream *s, struct error *err);
/* The model's weights point to main memory again. The queue is open yet. */
void card_weights_close(struct card_weights *w);

/* Is this an address of the card's block? What lies there, in main memory? NULL: nothing of ours. */
bool card_weights_hold(const struct card_weights *w, const void *data);
const void *card_weights_host(const struct card_weights *w, const void *data);

#endif
