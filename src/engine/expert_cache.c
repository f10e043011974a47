#include "src/engine/expert_cache.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define NOBODY (-1)

/* Someone who came back, and after how many steps. */
struct candidate {
    int32_t expert;
    uint32_t distance;
};

struct layer_slots {
    int32_t *slot_of;   /* [n_routed] the table's row */
    uint32_t *last_use; /* [n_routed] step, 0: never */
    int32_t *expert_in; /* [n_slots] NOBODY: empty; not in slot_of yet: on its way */
    struct candidate candidates[EXPERT_CACHE_PER_LAYER]; /* the soonest first */
    int n_candidates;
};

struct expert_cache {
    int n_layers, n_routed, n_slots;
    uint32_t step; /* from 1 on */
    int first;     /* layer that chooses first: everybody's turn comes */
    struct layer_slots *layers;
    int32_t *table, *expert_in;
    uint32_t *last_use;
    struct expert_cache_counts counts;
};

bool expert_cache_open(struct expert_cache **out, int n_layers, int n_routed, int n_slots,
                       struct error *err)
{
    assert(n_layers > 0 && n_routed > 0 && n_slots > 0 && n_slots <= n_routed);
    size_t n = (size_t)n_layers * (size_t)n_routed, slots = (size_t)n_layers * (size_t)n_slots;
    *out = NULL;
    struct expert_cache *c = mem_alloc(1, sizeof *c, "expert cache", err);
    if (!c)
        return false;
    *c = (struct expert_cache){ n_layers, n_routed, n_slots, .step = 1 };
    c->layers = mem_alloc((size_t)n_layers, sizeof *c->layers, "expert cache", err);
    c->table = mem_alloc(n, sizeof *c->table, "table of the expert cache", err);
    c->last_use = mem_alloc(n, sizeof *c->last_use, "table of the expert cache", err);
    c->expert_in = mem_alloc(slots, sizeof *c->expert_in, "table of the expert cache", err);
    if (!c->layers || !c->table || !c->last_use || !c->expert_in) {
        expert_cache_close(c);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        c->table[i] = NOBODY;
    for (size_t i = 0; i < slots; i++)
        c->expert_in[i] = NOBODY;
    for (int i = 0; i < n_layers; i++)
        c->layers[i] = (struct layer_slots){
            .slot_of = c->table + (size_t)i * (size_t)n_routed,
            .last_use = c->last_use + (size_t)i * (size_t)n_routed,
            .expert_in = c->expert_in + (size_t)i * (size_t)n_slots,
        };
    *out = c;
    return true;
}

void expert_cache_close(struct expert_cache *c)
{
    if (!c)
        return;
    mem_free(c->layers);
    mem_free(c->table);
    mem_free(c->last_use);
    mem_free(c->expert_in);
    mem_free(c);
}

const int32_t *expert_cache_table(const struct expert_cache *c)
{
    return c->table;
}

/* ---- during a step ---- */

/* Keep those that came back soonest; of equals, whoever came first. */
static void propose(struct layer_slots *l, int32_t expert, uint32_t distance)
{
    int at = l->n_candidates;
    while (at > 0 && distance < l->candidates[at - 1].distance)
        at--;
    if (at == EXPERT_CACHE_PER_LAYER)
        return;
    l->n_candidates = min_of(l->n_candidates + 1, EXPERT_CACHE_PER_LAYER);
    for (int i = l->n_candidates - 1; i > at; i--)
        l->candidates[i] = l->candidates[i - 1];
    l->candidates[at] = (struct candidate){ expert, distance };
}

void expert_cache_use(struct expert_cache *c, int layer, const int32_t *ids, int n, bool learn)
{
    struct layer_slots *l = &c->layers[layer];
    for (int i = 0; i < n; i++) {
        int32_t e = ids[i];
        uint32_t before = l->last_use[e];
        bool hit = l->slot_of[e] >= 0;
        c->counts.n_picks++;
        c->counts.n_hits += hit;
        if (!learn || before == c->step)
            continue;
        if (!hit && before > 0)
            propose(l, e, c->step - before);
        l->last_use[e] = c->step;
    }
}

/* ---- between steps ---- */

static bool settle_arrivals(struct expert_cache *c)
{
    bool changed = false;
    for (int i = 0; i < c->n_layers; i++) {
        struct layer_slots *l = &c->layers[i];
        for (int32_t slot = 0; slot < c->n_slots; slot++) {
            int32_t e = l->expert_in[slot];
            if (e == NOBODY || l->slot_of[e] == slot)
                continue;
            l->slot_of[e] = slot;
            changed = true;
        }
    }
    return changed;
}

/* The slot to fill: an empty one, else that of the one who has been waiting longest; NOBODY when that is
 * not long enough. */
static int32_t find_slot(const struct expert_cache *c, const struct layer_slots *l,
                         uint32_t distance)
{
    int32_t oldest = NOBODY;
    uint32_t age = 0;
    for (int32_t slot = 0; slot < c->n_slots; slot++) {
        int32_t e = l->expert_in[slot];
        if (e == NOBODY)
            return distance <= EXPERT_CACHE_WINDOW ? slot : NOBODY;
        if (l->slot_of[e] == slot && c->step - l->last_use[e] > age) { /* not on its way */
            age = c->step - l->last_use[e];
            oldest = slot;
        }
    }
    return distance < age ? oldest : NOBODY;
}

/* Moves of one layer; its candidates are forgotten. */
static int choose(struct expert_cache *c, int layer, struct expert_move *moves, int most,
                  bool *changed)
{
    struct layer_slots *l = &c->layers[layer];
    int n = 0;
    for (int i = 0; i < l->n_candidates && n < most; i++) {
        const struct candidate *who = &l->candidates[i];
        int32_t slot = l->slot_of[who->expert] >= 0 ? NOBODY /* it has just arrived */
                                                    : find_slot(c, l, who->distance);
        if (slot == NOBODY)
            continue;
        if (l->expert_in[slot] != NOBODY) {
            l->slot_of[l->expert_in[slot]] = NOBODY;
            *changed = true;
        }
        l->expert_in[slot] = who->expert;
        moves[n++] = (struct expert_move){ layer, who->expert, slot };
    }
    l->n_candidates = 0;
    return n;
}

int expert_cache_next(struct expert_cache *c, struct expert_move *moves, int most, bool *changed)
{
    int n = 0;
    *changed = settle_arrivals(c);
    for (int i = 0; i < c->n_layers; i++)
        n += choose(c, (c->first + i) % c->n_layers, moves + n, most - n, changed);
    c->first = (c->first + 1) % c->n_layers;
    c->step++;
    c->counts.n_moves += (uint64_t)n;
    return n;
}

void expert_cache_count(const struct expert_cache *c, struct expert_cache_counts *counts)
{
    *counts = c->counts;
}
