#include "src/engine/draft.h"

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/model/kvcache.h"
#include "src/model/memory.h"

#define LOSS 0.01        /* of the time, that trying may cost */
#define PLAIN_FIRST 4    /* steps that are measured before the first guess; one more warms up */
#define PLAIN_EVERY 32   /* guesses to one plain step: contexts grow, clocks change */
#define MOST_SURPLUS 8   /* plain steps that old gains may pay for */
#define RECENT 0.25      /* weight of a new measurement */

/* ---- open and close ---- */

/* The draft's cache looks like that of a model of one layer, which in V4 sums up nothing. */
static struct params one_layer(const struct params *p)
{
    struct params one = *p;
    one.n_layers = 1;
    one.compress_ratio[0] = 0;
    return one;
}

static size_t room_bytes(const struct model *m, int n_batch)
{
    const struct params *p = &m->params;
    size_t state = (size_t)params_state_width(p), pair = (size_t)params_pair_width(p);
    return (state * (size_t)(n_batch + 1) + pair * (size_t)n_batch + (size_t)p->n_vocab) *
           sizeof(float);
}

uint64_t draft_bytes(const struct engine *e, int64_t n_ctx, int n_batch)
{
    struct params one = one_layer(&e->model.params);
    return kvcache_bytes(e->model.arch, &one, e->wishes.cache_type, n_ctx) +
           room_bytes(&e->model, n_batch);
}

/* The block is read where it lies mapped: beside what the other weights keep of the page cache. */
static bool fits(const struct engine *e, int64_t n_ctx, int n_batch, struct error *err)
{
    const struct model *m = &e->model;
    uint64_t needed = m->mtp_bytes + draft_bytes(e, n_ctx, n_batch);
    uint64_t others = m->copy ? 0 : m->weight_bytes, available = engine_available(e);
    if (available >= others && available - others >= needed)
        return true;
    return fail(err, ERR_FIT, "drafting needs %llu MiB beside %llu MiB of mapped weights, available "
                "are %llu MiB", (unsigned long long)(needed >> 20),
                (unsigned long long)(others >> 20), (unsigned long long)(available >> 20));
}

static bool can_draft(const struct engine *e, int64_t n_ctx, int n_batch, struct error *err)
{
    const struct model *m = &e->model;
    if (!m->arch->draft || m->params.n_mtp < 1)
        return fail(err, ERR_USAGE, "this model has no block for multi-token prediction to draft "
                    "with");
    if (e->hybrid)
        return fail(err, ERR_USAGE, "drafting works on the CPU alone in this version");
    if (n_batch < 2)
        return fail(err, ERR_USAGE, "drafting needs steps of 2 tokens, the batch is %d", n_batch);
    return fits(e, n_ctx, n_batch, err);
}

bool draft_open(struct draft *d, enum draft_use use, struct engine *e, struct workspace *w,
                int64_t n_ctx, int n_batch, struct error *err)
{
    struct error why = { 0 };
    *d = (struct draft){ 0 };
    if (use == DRAFT_OFF)
        return true;
    if (!can_draft(e, n_ctx, n_batch, use == DRAFT_ALWAYS ? err : &why)) {
        if (use == DRAFT_AUTO)
            log_detail("no drafting: %s", why.text);
        return use == DRAFT_AUTO;
    }
    const struct model *m = &e->model;
    int64_t width = params_state_width(&m->params), pair = params_pair_width(&m->params);
    struct params one = one_layer(&m->params);
    *d = (struct draft){
        .use = use, .model = m, .device = w->device, .work = &w->work, .n_batch = n_batch,
        .bytes = room_bytes(m, n_batch),
    };
    const struct device_ops *ops = d->device->ops;
    size_t n_states = (size_t)width * (size_t)(n_batch + 1);
    size_t n_halves = (size_t)pair * (size_t)n_batch;
    d->states = (struct rows){
        ops->alloc(d->device, n_states * sizeof(float), "states to draft from", err), width, width };
    d->pairs = (struct rows){ d->states.data ? ops->alloc(d->device, n_halves * sizeof(float),
                                                          "pairs to draft from", err)
                                             : NULL, pair, pair };
    d->logits = mem_alloc((size_t)m->params.n_vocab, sizeof *d->logits, "logits", err);
    if (d->pairs.data && d->logits &&
        kvcache_open(&d->cache, m->arch, &one, e->wishes.cache_type, n_ctx, d->device, err))
        return true;
    draft_close(d);
    return false;
}

void draft_close(struct draft *d)
{
    if (d->use == DRAFT_OFF)
        return;
    kvcache_close(&d->cache, d->device);
    if (d->states.data)
        d->device->ops->release(d->device, d->states.data);
    if (d->pairs.data)
        d->device->ops->release(d->device, d->pairs.data);
    mem_free(d->logits);
    *d = (struct draft){ 0 };
}

/* ---- states and pairs ---- */

static struct rows state_rows(const struct draft *d, int64_t row)
{
    struct rows r = d->states;
    r.data += row * r.stride;
    return r;
}

struct rows draft_room(struct draft *d, int64_t n_past, int n)
{
    if (d->use == DRAFT_OFF)
        return (struct rows){ 0 };
    if (d->first + d->n_states != n_past) {
        d->first = n_past;
        d->n_states = 0;
    }
    if (d->n_states + n > d->n_batch + 1) { /* only the last one can still have a pair to come */
        memmove(d->states.data, state_rows(d, d->n_states - 1).data,
                (size_t)d->states.width * sizeof(float));
        d->first += d->n_states - 1;
        d->n_states = 1;
    }
    return state_rows(d, d->n_states);
}

void draft_took(struct draft *d, int n)
{
    if (d->use != DRAFT_OFF)
        d->n_states += n;
}

void draft_truncate(struct draft *d, int64_t n_past)
{
    d->n_states = max_of((int64_t)0, min_of(d->n_states, n_past - d->first));
    d->n_pairs = max_of((int64_t)0, min_of(d->n_pairs, n_past - 1));
}

static int32_t highest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

bool draft_read(struct draft *d, const int32_t *tokens, int64_t n_pairs, int32_t *guess,
                const atomic_int *cancel, struct error *err)
{
    const struct model *m = d->model;
    struct device *dev = d->device;
    int64_t at = max_of(d->n_pairs, d->first);
    while (at < n_pairs) {
        int n = (int)min_of((int64_t)d->n_batch, n_pairs - at);
        bool last = guess && at + n == n_pairs;
        struct step step = {
            .tokens = tokens + at + 1, .n_tokens = n, .n_past = at,
            .n_logits = last, .logits = last ? d->logits : NULL,
            .cache = &d->cache, .cancel = cancel,
        };
        dev->ops->begin(dev, &step);
        bool ok = m->arch->draft(m, dev, &step, state_rows(d, at - d->first), d->pairs, d->work,
                                 err);
        ok = dev->ops->end(dev, err) && ok;
        if (!ok)
            return false;
        at += n;
        d->n_pairs = at;
    }
    if (guess)
        *guess = highest(d->logits, m->params.n_vocab);
    return true;
}

/* ---- for files ---- */

int draft_parts(const struct draft *d, int64_t n, struct cache_part *parts)
{
    int n_parts = d->cache.n_parts;
    for (int i = 0; i < n_parts; i++) {
        parts[i] = d->cache.parts[i];
        parts[i].lag = 1; /* row i waits for token i + 1 */
    }
    if (n - 1 >= d->first && n - 1 < d->first + d->n_states)
        parts[n_parts++] = (struct cache_part){
            .name = "state", .kind = CACHE_STATE, .n_rows = 1, .span = 1,
            .row_bytes = (size_t)d->states.width * sizeof(float),
            .data = (char *)state_rows(d, n - 1 - d->first).data,
        };
    return n_parts;
}

void draft_adopt(struct draft *d, int64_t n, bool state)
{
    d->first = state ? n - 1 : n;
    d->n_states = state;
    d->n_pairs = n - 1;
}

/* ---- does it pay? ---- */

bool draft_pays(const struct draft *d)
{
    if (d->use != DRAFT_AUTO)
        return d->use == DRAFT_ALWAYS;
    bool measured = d->n_plain > PLAIN_FIRST && d->n_guesses < d->n_plain * PLAIN_EVERY;
    return measured && d->balance_s >= -LOSS * d->total_s - d->plain_s;
}

static double recent(double old, double now)
{
    return old > 0 ? old + RECENT * (now - old) : now;
}

void draft_note_plain(struct draft *d, double seconds)
{
    if (d->n_plain++ == 0)
        return;
    d->plain_s = recent(d->plain_s, seconds);
    d->total_s += seconds;
}

void draft_note_guess(struct draft *d, double seconds)
{
    d->n_guesses++;
    d->guess_s = recent(d->guess_s, seconds);
    d->total_s += seconds;
    d->step_s = seconds;
}

void draft_note_judged(struct draft *d, bool accepted)
{
    d->n_accepted += accepted;
    d->balance_s += (accepted ? 2 : 1) * d->plain_s - d->step_s;
    d->balance_s = min_of(d->balance_s, MOST_SURPLUS * d->plain_s);
}
