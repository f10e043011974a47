/* Routed experts of a prompt: which the CPU computes where they lie, and which go to the GPU first.
 *
 * With many tokens an expert's weights are worth a journey: the CPU's time for it grows with its tokens,
 * the journey's does not. Per layer, as soon as the picks are known, the experts with most tokens are
 * sent, as long as sending is quicker than computing here and the list of the sent ends before the CPU's
 * does. Both happen at the same time:
 *
 *     CPU         the others .............................................
 *     copiers     take group 0 | take group 1 | ...        through pinned memory, two buffers each
 *     GPU                      | group 0      | group 1    two rings of slots, on a queue of its own
 *
 * The sum of what was sent is added behind the CPU's. */
#ifndef TANDEM_ENGINE_EXPERT_UPLOAD_H
#define TANDEM_ENGINE_EXPERT_UPLOAD_H

#include "gpu/gpu.h"
#include "src/engine/engine.h"

/* Shorter steps send nothing: too few tokens for any expert. */
#define UPLOAD_MIN_TOKENS 9

/* ---- the choice ---- */

/* Seconds for one expert. */
struct upload_costs {
    double read_s;  /* the CPU gets at its weights */
    double token_s; /* and multiplies them with one token */
    double send_s;  /* on its way to the GPU */
};

/* `here` may be NULL or know little: usual rates take the place of what is not known. */
struct upload_costs upload_costs_of(const struct experts *e, const struct rates *here,
                                    int n_copiers);

/* n_tokens [n_routed] of each expert; up [n_routed] out: who goes, hottest first. Returns how many.
 * Equal numbers favour the lower id. */
int upload_choose(const struct upload_costs *c, const int32_t *n_tokens, int n_routed,
                  int32_t *up);

/* ---- doing it ---- */

struct expert_upload;

struct expert_upload_options {
    const struct gpu_library *library;
    int index; /* of the card */
    struct gpu_limits limits; /* of the device whose steps these are */
    enum upload_use use;
    const struct rates *rates; /* copied; NULL: nobody knows */
    size_t expert_bytes;       /* of the largest expert */
    int64_t stride;            /* of the sum's rows */
    struct expert_report *counts; /* what is sent is added here; borrowed */
};

/* Device memory: slots for experts on their way, and the rest. */
uint64_t expert_upload_slot_bytes(const struct expert_upload_options *o);
uint64_t expert_upload_work_bytes(const struct expert_upload_options *o);

/* ERR_FIT, ERR_DEVICE, ERR_RUN. */
bool expert_upload_open(struct expert_upload **out, const struct expert_upload_options *o,
                        struct error *err);
void expert_upload_close(struct expert_upload *u); /* accepts NULL */

/* Does it take part in a step of so many tokens? Of NULL: no. */
bool expert_upload_serves(const struct expert_upload *u, int n_tokens);

/* The picks of a layer are known: choose, take what is sent out of mine [n_tokens, top_k] (-1), and
 * start. src, ids, weights: device memory, as for gpu_experts. */
void expert_upload_start(struct expert_upload *u, const struct experts *e, int32_t *mine,
                         struct rows src, const int32_t *ids, const float *weights, int n_tokens);
/* Until the sum of what was sent is in its place. */
void expert_upload_wait(struct expert_upload *u);
/* Where that is: [max_tokens, stride] in device memory, zeros when nothing was sent. */
const float *expert_upload_sum(const struct expert_upload *u);

/* ERR_DEVICE: something failed since expert_upload_open. */
bool expert_upload_check(const struct expert_upload *u, struct error *err);

#endif
