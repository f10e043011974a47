#include <inttypes.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/card.h"
#include "src/engine/handoff_probe.h"
#include "src/engine/hybrid_internal.h"

#define HANDOFF_LIMIT_S 300 /* for a layer: a long prompt, with experts that come from a slow disk */
#define COPY_GB_S 2.2 /* of one thread that takes experts from main memory, woven */
#define USUAL_GB_S 50.0 /* of main memory where nothing was measured */

/* ---- open and close ---- */

static bool find_card(struct hybrid *h, int index, struct error *err)
{
    struct gpu_limits none = { .patience_s = h->patience_s };
    h->index = index;
    return card_find(&h->library, &h->card, index, err) &&
           h->library->stream_open(&h->s, index, &none, err);
}

/* Choose the way, and start the thread that computes if that needs one. Where the CPU has part of the
 * trunk, the thread that queues computes too, and one of them at a time (src/engine/split.h). */
static bool open_handoff(struct hybrid *h, const struct engine_options *o, struct error *err)
{
    const struct params *p = &h->model->params;
    char text[200];
    if (p->n_routed == 0)
        return true;
    h->way = o->handoff;
    if (h->way == HANDOFF_AUTO) {
        if (!handoff_probe(&h->handoff_rates, h->library, h->index, p->hidden_size, err))
            return false;
        h->way = handoff_best(&h->handoff_rates);
    }
    handoff_text(h->way, &h->handoff_rates, text, sizeof text);
    log_detail("hand-off to the CPU: %s", text);
    return h->way == HANDOFF_STOP || handoff_open(&h->handoff, HANDOFF_LIMIT_S, err);
}

bool hybrid_open(struct hybrid **out, struct model *m, const struct engine_options *o,
                 struct error *err)
{
    *out = NULL;
    struct hybrid *h = mem_alloc(1, sizeof *h, "hybrid", err);
    if (!h)
        return false;
    h->model = m;
    h->patience_s = o->gpu_patience_s;
    if (!find_card(h, o->gpu_index, err)) {
        hybrid_close(h);
        return false;
    }
    *out = h;
    return true;
}

/* Experts that one thread copies in the time in which the CPU reads those of a token: so the card's
 * copies are ready when the step ends, and reading for them is a small part of all reading. */
static int expert_moves(const struct hybrid *h, const struct engine_options *o)
{
    const struct placement *p = h->placement;
    double dram = o->rates && o->rates->dram_gb_s > 0 ? o->rates->dram_gb_s : USUAL_GB_S;
    double reads = (double)(p->bytes_per_token[PART_ROUTED][HOME_RAM] +
                            p->bytes_per_token[PART_ROUTED][HOME_MAPPED]);
    if (o->expert_moves > 0)
        return o->expert_moves;
    return (int)(reads / dram * COPY_GB_S / (double)max_of(p->expert_bytes, (uint64_t)1)) + 1;
}

bool hybrid_load(struct hybrid *h, const struct placement *p, const struct engine_options *o,
                 struct error *err)
{
    struct gpu_info before;
    h->placement = p;
    h->upload = o->upload;
    if (o->rates)
        h->rates = *o->rates;
    struct expert_store_options so = {
        .library = h->library, .index = h->index, .model = h->model, .placement = p,
        .moves = expert_moves(h, o),
    };
    if (!h->library->info(h->index, &before, err) ||
        !card_weights_list(&h->weights, h->model, p, err) ||
        !card_weights_upload(&h->weights, &h->library->launch, h->s, err) ||
        !expert_store_open(&h->store, &so, err))
        return false;
    if (!open_handoff(h, o, err))
        return false;
    h->free_bytes = before.free_bytes;
    h->left_bytes = before.free_bytes > p->vram_budget ? before.free_bytes - p->vram_budget : 0;
    log_detail("GPU %d: %s, %zu MiB of weights, %d of %d layers%s", h->index, h->card.name,
               h->weights.bytes >> 20, p->gpu_layers, h->model->params.n_layers,
               h->weights.partial ? ", others with the CPU" : "");
    return true;
}

void hybrid_follow(struct hybrid *h)
{
    expert_store_follow(h->store);
}

void hybrid_close(struct hybrid *h)
{
    if (!h)
        return;
    handoff_close(h->handoff);
    expert_store_close(h->store);
    card_weights_close(&h->weights);
    if (h->s)
        h->library->stream_close(h->s);
    mem_free(h);
}

void hybrid_leave(struct hybrid *h)
{
    if (h->handoff)
        handoff_abandon(h->handoff);
    hybrid_close(h);
}

enum handoff_way hybrid_handoff(const struct hybrid *h, struct handoff_rates *rates)
{
    *rates = h->handoff_rates;
    return h->way;
}

bool hybrid_take_seat(struct hybrid *h)
{
    if (h->handoff)
        handoff_take_seat(h->handoff);
    return h->handoff && !h->weights.partial;
}

const struct gpu_info *hybrid_card(const struct hybrid *h)
{
    return &h->card;
}

uint64_t hybrid_weight_bytes(const struct hybrid *h)
{
    return h->weights.bytes;
}

uint64_t hybrid_expert_bytes(const struct hybrid *h)
{
    return expert_store_bytes(h->store);
}

bool hybrid_free_bytes(const struct hybrid *h, uint64_t *bytes, struct error *err)
{
    struct gpu_info now;
    *bytes = 0;
    if (!h->library->info(h->index, &now, err))
        return false;
    *bytes = now.free_bytes > h->left_bytes ? now.free_bytes - h->left_bytes : 0;
    return true;
}

/* cuBLAS and the driver take memory as they go on, of which nobody tells how much. */
void hybrid_tell_memory(const struct hybrid *h)
{
    struct gpu_info now;
    const struct placement *p = h->placement;
    uint64_t planned = p->vram_used - p->bytes[PART_DRIVER][HOME_GPU];
    if (h->library->info(h->index, &now, NULL) && now.free_bytes <= h->free_bytes)
        log_detail("GPU memory taken since loading began: %" PRIu64 " MiB, planned %" PRIu64 " MiB and %"
                   PRIu64 " MiB for the driver", (h->free_bytes - now.free_bytes) >> 20, planned >> 20,
                   p->bytes[PART_DRIVER][HOME_GPU] >> 20);
}

int hybrid_first_layer(const struct hybrid *h)
{
    return h->model->params.n_layers - h->placement->gpu_layers;
}

bool hybrid_drafts(const struct hybrid *h)
{
    return h->placement->drafts;
}

bool hybrid_is_split(const struct hybrid *h)
{
    return h->weights.partial;
}

bool hybrid_report(const struct hybrid *h, struct expert_report *r)
{
    *r = h->sent;
    if (h->store)
        expert_store_report(h->store, r);
    return h->store || r->n_sent > 0;
}
