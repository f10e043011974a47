#include "src/model/placement.h"

#include <inttypes.h>
#include <stdio.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/model/placement_parts.h"

#define MIB ((uint64_t)1 << 20)
#define COPY_MIN_BYTES (64 * MIB)    /* below this, caches hold the file anyway */
#define CONTEXT_GRAIN 256            /* contexts chosen here are multiples of this */
#define CONTEXT_FLOOR 4096           /* a shorter one is chosen only where nothing else helps */

struct placement_wishes placement_wishes_default(void)
{
    return (struct placement_wishes){
        .n_batch = USUAL_BATCH, .cache_type = TYPE_F16, .gpu_layers = PLACE_AUTO,
        .cpu_moe = PLACE_AUTO, .gpu_experts = PLACE_AUTO, .gpu_experts_share = -1,
    };
}

const char *home_name(enum home h)
{
    static const char *const names[] = { "GPU", "RAM", "file", "-" };
    return names[h];
}

/* ---- choosing ---- */

static int64_t most_context(const struct chooser *c)
{
    return c->w->n_ctx ? c->w->n_ctx
                       : min_of((int64_t)USUAL_CONTEXT, c->m->params.context_length);
}

/* The largest context from floor to most for which the draft fits; 0 when none does. Leaves the
 * draft, and the sums, at it. */
static int64_t fit_context(const struct chooser *c, struct draft *d, int64_t floor, int64_t most)
{
    d->n_ctx = most;
    if (placement_try(c, d))
        return most;
    int64_t fits = 0, too_much = (most + CONTEXT_GRAIN - 1) / CONTEXT_GRAIN;
    while (too_much - fits > 1) {
        d->n_ctx = (fits + too_much) / 2 * CONTEXT_GRAIN;
        if (placement_try(c, d))
            fits = d->n_ctx / CONTEXT_GRAIN;
        else
            too_much = d->n_ctx / CONTEXT_GRAIN;
    }
    d->n_ctx = fits * CONTEXT_GRAIN;
    if (fits == 0 || d->n_ctx < floor)
        return 0;
    placement_try(c, d);
    return d->n_ctx;
}

/* A copy is made unasked only of what is large enough to gain. */
static bool may_copy(const struct chooser *c)
{
    if (c->w->load != LOAD_AUTO)
        return placement_copy_asked(c->w);
    return c->m->weight_bytes >= COPY_MIN_BYTES && c->here->ram_bytes != UINT64_MAX;
}

/* Both ways of reading weights: a copy nobody asked for must not cost context. */
static bool fit_loading(const struct chooser *c, struct draft *d, int64_t floor, int64_t most)
{
    int64_t mapped = 0;
    d->copy = false;
    if (!placement_copy_asked(c->w) && !(mapped = fit_context(c, d, floor, most)))
        return false;
    if (!may_copy(c))
        return mapped > 0;
    struct draft copied = *d;
    copied.copy = true;
    if (fit_context(c, &copied, max_of(floor, mapped), max_of(mapped, most))) {
        *d = copied;
        return true;
    }
    return mapped > 0 && placement_try(c, d);
}

/* The trunk on the GPU: all of it with the output matrix, all of it, or with the whole context as
 * many layers as fit; or exactly what was asked for. */
static bool fit_layers(const struct chooser *c, struct draft *d, int64_t floor)
{
    int n_layers = c->m->params.n_layers, asked = c->w->gpu_layers;
    int64_t most = most_context(c);
    int all = c->p->vram_budget == 0 ? 0 : asked == PLACE_AUTO ? n_layers : min_of(asked, n_layers);
    bool head = all == n_layers && (asked == PLACE_AUTO || asked > n_layers);
    for (int with_head = head; with_head >= 0; with_head--) {
        d->gpu_layers = all;
        d->head = with_head && all > 0;
        if (fit_loading(c, d, floor, most))
            return true;
    }
    d->head = false;
    for (int whole = 1; whole >= 0 && asked == PLACE_AUTO; whole--)
        for (d->gpu_layers = all - 1; d->gpu_layers >= 0; d->gpu_layers--)
            if (fit_loading(c, d, whole ? most : floor, most))
                return true;
    return false;
}

/* A GPU that holds everything computes everything: no hand-off, no copies. Experts never cost context, and
 * never override what was asked for. */
static bool experts_open(const struct chooser *c)
{
    const struct placement_wishes *w = c->w;
    return c->p->vram_budget > 0 && w->cpu_moe == PLACE_AUTO && w->gpu_experts == PLACE_AUTO &&
           !w->gpu_experts_bytes && w->gpu_experts_share < 0 &&
           (w->gpu_layers == PLACE_AUTO || w->gpu_layers > c->m->params.n_layers);
}

static bool fit_whole(const struct chooser *c)
{
    int64_t most = most_context(c);
    struct draft d = { .gpu_layers = c->m->params.n_layers, .head = true };
    return experts_open(c) && fit_loading(c, &d, most, most);
}

/* Main memory cannot hold all experts: those of the last layers live in VRAM for good, as few as will
 * do. */
static bool fit_some_experts(const struct chooser *c, int64_t floor)
{
    struct placement *p = c->p;
    int n_layers = c->m->params.n_layers, n_moe = n_layers - c->m->params.n_dense_lead;
    struct draft d = { .gpu_layers = n_layers, .head = true, .cpu_moe = n_layers, .n_ctx = floor };
    if (!experts_open(c) || n_moe <= 0 || placement_try(c, &d))
        return false;
    uint64_t routed = p->bytes[PART_ROUTED][HOME_RAM] + p->bytes[PART_ROUTED][HOME_MAPPED];
    uint64_t taken = p->ram_used + p->ram_mapped;
    if (taken <= p->ram_budget || routed < (uint64_t)n_moe) /* it is VRAM that lacks */
        return false;
    int64_t needed = (int64_t)((taken - p->ram_budget) / (routed / (uint64_t)n_moe)) + 1;
    for (int64_t n = needed; n < needed + 3 && n <= n_moe; n++) {
        d.cpu_moe = n_layers - (int)n;
        if (fit_loading(c, &d, floor, most_context(c)))
            return true;
    }
    return false;
}

static void choose(const struct chooser *c)
{
    int64_t most = most_context(c), floor = c->w->n_ctx ? most : min_of(most, CONTEXT_FLOOR);
    bool all_cpu = c->w->cpu_moe == PLACE_AUTO || c->p->vram_budget == 0;
    struct draft d = { .cpu_moe = all_cpu ? c->m->params.n_layers : c->w->cpu_moe };
    if (fit_whole(c) || fit_layers(c, &d, floor) || fit_some_experts(c, floor) ||
        (!c->w->n_ctx && fit_layers(c, &d, min_of(most, CONTEXT_GRAIN))))
        return;
    /* Nothing fits: show the cheapest that keeps what was asked for. */
    d.copy = placement_copy_asked(c->w);
    d.gpu_layers = c->p->vram_budget && c->w->gpu_layers != PLACE_AUTO
                 ? min_of(c->w->gpu_layers, c->m->params.n_layers)
                 : 0;
    d.head = d.gpu_layers == c->m->params.n_layers && c->w->gpu_layers > d.gpu_layers;
    int64_t fitting = fit_context(c, &d, 1, most);
    d.n_ctx = c->w->n_ctx ? most : min_of(most, CONTEXT_FLOOR);
    placement_try(c, &d);
    c->p->fitting_ctx = fitting;
}

static void choose_with(struct chooser *c, bool drafts)
{
    c->drafts = drafts;
    c->p->expert_bytes = placement_largest_expert(c->m, drafts);
    choose(c);
}

/* Has one side all that the block needs, whatever the user's rules have moved? The GPU needs the whole
 * trunk, so that no step is parted between the two; the CPU what comes before the layers and behind
 * them. */
static bool block_has_side(const struct chooser *c)
{
    const struct placement *p = c->p;
    bool whole = p->gpu_layers == c->m->params.n_layers && p->head_on_gpu;
    for (int i = 0; i < c->m->n_tensors; i++) {
        const struct model_tensor *t = &c->m->tensors[i];
        bool on_gpu = p->homes[i] == HOME_GPU, is_end = t->layer < 0;
        if (t->role == ROLE_ROUTED || t->role == ROLE_MTP)
            continue;
        if (whole ? !on_gpu && !(is_end && t->role == ROLE_EMBED) : on_gpu && is_end)
            return false;
    }
    return true;
}

/* The block that drafts takes what would be left: no layer loses its place, nobody a copy or a position
 * of the context. */
static void choose_drafting(struct chooser *c)
{
    struct placement *p = c->p;
    const struct params *q = &c->m->params;
    choose_with(c, false);
    if (!c->w->draft || !c->m->arch->draft || q->n_mtp == 0 || !p->fits || !block_has_side(c))
        return;
    const struct placement without = *p;
    choose_with(c, true);
    p->drafts = p->fits && p->gpu_layers == without.gpu_layers &&
                p->head_on_gpu == without.head_on_gpu && p->cpu_moe == without.cpu_moe &&
                p->copied == without.copied && p->n_ctx == without.n_ctx;
    if (!p->drafts)
        choose_with(c, false);
}

/* ---- routed experts in VRAM ---- */

/* What the user wants in the layers whose experts stay with the CPU, as experts per layer. */
static int wanted_slots(const struct chooser *c, uint64_t slot_bytes, uint64_t spare)
{
    const struct placement_wishes *w = c->w;
    uint64_t n_routed = (uint64_t)c->m->params.n_routed, n = spare / slot_bytes;
    if (w->gpu_experts_share >= 0)
        n = (uint64_t)(w->gpu_experts_share * (double)n_routed + 0.5);
    else if (w->gpu_experts_bytes)
        n = w->gpu_experts_bytes / slot_bytes;
    else if (w->gpu_experts != PLACE_AUTO)
        n = (uint64_t)w->gpu_experts;
    return (int)min_of(n, n_routed);
}

/* Of the list of slots, and what borders between matrices take. */
static uint64_t table_bytes(const struct model *m)
{
    const struct params *q = &m->params;
    return (uint64_t)q->n_layers * ((uint64_t)q->n_routed * sizeof(int32_t) + 4 * GPU_LINE);
}

static void fill_spare(const struct chooser *c)
{
    struct placement *p = c->p;
    uint64_t slot_bytes = placement_one_expert_each(c);
    if (!p->fits || p->gpu_layers == 0 || slot_bytes == 0)
        return;
    uint64_t spare = p->vram_budget - p->vram_used, table = table_bytes(c->m);
    spare = spare > table ? spare - table : 0;
    p->expert_slots = wanted_slots(c, slot_bytes, spare);
    p->bytes[PART_EXPERT_CACHE][HOME_GPU] = (uint64_t)p->expert_slots * slot_bytes +
                                            (p->expert_slots > 0 ? table_bytes(c->m) : 0);
    p->vram_used = placement_home_bytes(p, HOME_GPU);
    if (p->vram_used > p->vram_budget) {
        p->fits = false;
        p->short_home = HOME_GPU;
    }
}

/* ---- rows ---- */

static enum layout tensor_layout(const struct chooser *c, int i)
{
    bool woven = c->p->copied && c->p->homes[i] == HOME_RAM &&
                 model_weavable(&c->m->tensors[i], c->w->weave);
    return woven ? LAYOUT_REPACKED : LAYOUT_PLAIN;
}

/* Tensors come layer by layer, so the row they belong to is among the last few. */
static struct placement_row *row_of(struct placement *p, enum role role, int layer, enum home home,
                                    enum layout layout)
{
    for (int i = p->n_rows - 1; i >= 0 && p->rows[i].layer == layer; i--) {
        struct placement_row *r = &p->rows[i];
        if (r->role == role && r->home == home && r->layout == layout)
            return r;
    }
    struct placement_row *r = &p->rows[p->n_rows++];
    *r = (struct placement_row){ .role = role, .layer = layer, .home = home, .layout = layout };
    return r;
}

static void fill_rows(const struct chooser *c)
{
    for (int i = 0; i < c->m->n_tensors; i++) {
        const struct model_tensor *t = &c->m->tensors[i];
        enum home home = c->p->homes[i];
        struct placement_row *r =
            row_of(c->p, (enum role)t->role, t->layer, home, tensor_layout(c, i));
        r->n_tensors++;
        r->bytes += home == HOME_NONE ? 0 : placement_tensor_bytes(t, home);
        r->bytes_per_token += home == HOME_NONE ? 0 : placement_tensor_reads(c->m, i);
    }
}

/* ---- the whole ---- */

static void find_rules(const struct chooser *c)
{
    for (int i = 0; i < c->m->n_tensors; i++) {
        for (int r = 0; r < c->w->n_rules && !c->rules[i]; r++) {
            const struct placement_rule *rule = &c->w->rules[r];
            if (regexec(&rule->name, c->m->tensors[i].tensor->name, 0, NULL, 0) == 0)
                c->rules[i] = rule;
        }
    }
}

/* Wishes that only a GPU can fulfil. */
static bool check_device(const struct chooser *c, struct error *err)
{
    const struct placement_wishes *w = c->w;
    bool wants = w->gpu_layers > 0 || w->gpu_experts > 0 || w->gpu_experts_bytes > 0 ||
                 w->gpu_experts_share > 0;
    for (int r = 0; r < w->n_rules; r++)
        wants = wants || w->rules[r].on_gpu;
    if (!wants || c->here->vram_bytes > 0)
        return true;
    return fail(err, ERR_DEVICE, "no GPU is there to take what -ngl, --gpu-experts or -ot give it; "
                "without them everything is computed by the CPU");
}

/* Routed experts of a layer go together, and to the GPU only where the layer is. */
static bool check_together(const struct chooser *c, struct error *err)
{
    const struct model *m = c->m;
    int first = m->params.n_layers - c->p->gpu_layers;
    for (int i = 0; i < m->n_tensors && c->w->n_rules > 0; i++) {
        const struct model_tensor *t = &m->tensors[i];
        bool on_gpu = c->p->homes[i] == HOME_GPU;
        if (t->role != ROLE_ROUTED)
            continue;
        if (on_gpu && t->layer < first)
            return fail(err, ERR_USAGE, "option -ot: %s on the GPU, but layer %d is the CPU's with this "
                        "-ngl", t->tensor->name, t->layer);
        for (int k = i + 1; k < m->n_tensors && m->tensors[k].layer == t->layer; k++)
            if (m->tensors[k].role == ROLE_ROUTED && (c->p->homes[k] == HOME_GPU) != on_gpu)
                return fail(err, ERR_USAGE, "option -ot: %s and %s are on different sides: the matrices "
                            "of a layer's experts go together", t->tensor->name,
                            m->tensors[k].tensor->name);
    }
    return true;
}

static bool check_wishes(const struct chooser *c, struct error *err)
{
    if (c->w->n_ctx < 0 || c->w->n_ctx > (int64_t)1 << 24)
        return fail(err, ERR_USAGE, "a context of %" PRId64 " tokens, expected 1 to %d",
                    c->w->n_ctx, 1 << 24);
    return check_device(c, err);
}

bool placement_make(struct placement *p, const struct model *m, const struct rates *here,
                    const struct placement_wishes *w, struct error *err)
{
    struct chooser c = { p, m, here, w, NULL, false };
    *p = (struct placement){ .n_batch = w->n_batch };
    p->vram_budget = here->vram_bytes > w->vram_margin ? here->vram_bytes - w->vram_margin : 0;
    if (here->vram_bytes && w->gpu_layers > 0) /* a card that is asked for is there, or it does not fit */
        p->vram_budget = max_of(p->vram_budget, (uint64_t)1);
    if (!check_wishes(&c, err))
        return false;
    size_t n = (size_t)m->n_tensors;
    c.rules = mem_alloc(n, sizeof *c.rules, "placement rules", err);
    p->homes = mem_alloc(n, sizeof *p->homes, "placement", err);
    p->rows = mem_alloc(n, sizeof *p->rows, "placement table", err);
    if (!c.rules || !p->homes || !p->rows) {
        mem_free(c.rules);
        placement_free(p);
        return false;
    }
    find_rules(&c);
    choose_drafting(&c);
    fill_spare(&c);
    fill_rows(&c);
    mem_free(c.rules);
    bool ok = check_together(&c, err);
    if (!ok)
        placement_free(p);
    return ok;
}

void placement_free(struct placement *p)
{
    mem_free(p->homes);
    mem_free(p->rows);
    *p = (struct placement){ 0 };
}

struct size_text {
    char text[24];
};

static struct size_text size_text(double bytes)
{
    struct size_text t;
    bool large = bytes >= 1073741824;
    snprintf(t.text, sizeof t.text, "%.1f %s", bytes / (large ? 1073741824 : 1048576),
             large ? "GiB" : "MiB");
    return t;
}

bool placement_check(const struct placement *p, struct error *err)
{
    if (p->fits)
        return true;
    if (p->short_home == HOME_GPU)
        return fail(err, ERR_FIT, "does not fit: %s for the GPU, %s of VRAM may be used; -ngl auto takes "
                    "what fits, -ngl 0 runs on the CPU", size_text((double)p->vram_used).text, size_text((double)p->vram_budget).text);
    double weights = 0;
    for (int part = PART_TRUNK; part <= PART_ROUTED; part++)
        weights += (double)(p->bytes[part][HOME_RAM] + p->bytes[part][HOME_MAPPED]);
    char hint[64] = "";
    if (p->fitting_ctx > 0)
        snprintf(hint, sizeof hint, "; the largest context that fits is %" PRId64, p->fitting_ctx);
    char room[64] = "no RAM may be used beyond what stays free for others";
    if (p->ram_budget)
        snprintf(room, sizeof room, "%s of RAM may be used", size_text((double)p->ram_budget).text);
    return fail(err, ERR_FIT, "does not fit: %s of weights, %s for a context of %" PRId64
                ", %s to work, %s%s", size_text(weights).text,
                size_text((double)p->bytes[PART_CACHE][HOME_RAM]).text, p->n_ctx,
                size_text((double)p->bytes[PART_WORK][HOME_RAM]).text, room, hint);
}
