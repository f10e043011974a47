#include "src/engine/draft.h"

#include <assert.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/model/kvcache.h"
#include "src/model/memory.h"

#define KEPT 64 /* states that stay when their room is full: a context to guess from, later */
#define MANY 8  /* pairs in one pass that say what a pair costs */

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
    return (state * (size_t)(n_batch + 1 + DRAFT_FRESH + KEPT) + pair * (size_t)n_batch +
            (size_t)p->n_vocab) * sizeof(float);
}

uint64_t draft_bytes(const struct model *m, enum tensor_type cache_type, int64_t n_ctx, int n_batch)
{
    struct params one = one_layer(&m->params);
    return kvcache_bytes(m->arch, &one, cache_type, n_ctx) + room_bytes(m, n_batch);
}

/* On the CPU the block is read where it lies mapped: beside what the other weights keep of the page
 * cache. A GPU that drafts has it already. */
static bool fits(const struct engine *e, int64_t n_ctx, int n_batch, struct error *err)
{
    const struct model *m = &e->model;
    bool split = e->hybrid && hybrid_is_split(e->hybrid);
    uint64_t needed = draft_bytes(m, e->wishes.cache_type, n_ctx, n_batch), others = 0;
    uint64_t available = split ? memory_available() : engine_available(e);
    if (split || !e->hybrid)
        needed += m->mtp_bytes;
    if (split) {
        uint64_t block = e->placement.bytes[PART_DRAFT][HOME_MAPPED];
        others = e->placement.ram_mapped - block;
    } else if (!e->hybrid && !m->copy) {
        others = m->weight_bytes;
    }
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
    if (e->hybrid && !hybrid_drafts(e->hybrid))
        return fail(err, ERR_USAGE, "the block for multi-token prediction has no place: it gets one "
                    "when drafting is asked for before the model is loaded and there is room, unless "
                    "rules (-ot) take head and layers apart");
    if (n_batch < 2)
        return fail(err, ERR_USAGE, "drafting needs steps of 2 tokens, the batch is %d", n_batch);
    return fits(e, n_ctx, n_batch, err);
}

static bool open_rows(struct rows *r, struct device *d, int64_t width, int n, struct error *err)
{
    *r = (struct rows){ d->ops->alloc(d, (size_t)width * (size_t)n * sizeof(float),
                                      "states to draft from", err), width, width };
    return r->data;
}

static bool open_room(struct draft *d, struct error *err)
{
    const struct params *p = &d->model->params;
    int64_t width = params_state_width(p);
    bool records = d->device->ops->record;
    if (!open_rows(&d->states, d->device, width, d->n_batch + 1, err) ||
        !open_rows(&d->pairs, d->device, params_pair_width(p), d->n_batch, err) ||
        (records && !open_rows(&d->fresh, d->device, width, DRAFT_FRESH, err)))
        return false;
    d->logits = mem_alloc((size_t)p->n_vocab, sizeof *d->logits, "logits", err);
    d->kept = mem_alloc(KEPT * (size_t)width, sizeof *d->kept, "states to draft from", err);
    return d->logits && d->kept;
}

bool draft_open(struct draft *d, const struct session_options *o, struct engine *e,
                struct workspace *w, int64_t n_ctx, int n_batch, struct error *err)
{
    enum draft_use use = o->draft;
    struct error why = { 0 };
    *d = (struct draft){ 0 };
    if (use == DRAFT_OFF)
        return true;
    if (use < DRAFT_AUTO || use > DRAFT_MOST)
        return fail(err, ERR_USAGE, "%d guesses, expected 0 to %d", use, DRAFT_MOST);
    if (!can_draft(e, n_ctx, n_batch, use == DRAFT_AUTO ? &why : err)) {
        if (use == DRAFT_AUTO)
            log_detail("no drafting: %s", why.text);
        return use == DRAFT_AUTO;
    }
    const struct model *m = &e->model;
    struct params one = one_layer(&m->params);
    *d = (struct draft){
        .use = use, .model = m, .pair = w->pair, .work = &w->work, .n_batch = n_batch,
        .device = w->pair ? hybrid_pair_draft_device(w->pair) : w->device,
        .bytes = room_bytes(m, n_batch), .choose = o->choose, .choose_ctx = o->choose_ctx,
        .even.most = use == DRAFT_AUTO ? min_of(DRAFT_MOST, n_batch - 1) : 0,
    };
    if (open_room(d, err) &&
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
    float *const rows[] = { d->states.data, d->pairs.data, d->fresh.data };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i])
            d->device->ops->release(d->device, rows[i]);
    mem_free(d->logits);
    mem_free(d->kept);
    *d = (struct draft){ 0 };
}

void draft_follow(struct draft *d, struct engine *e, struct workspace *w, int64_t n_ctx)
{
    struct draft before = *d;
    struct error why = { 0 };
    struct session_options o = { .draft = d->use, .choose = d->choose, .choose_ctx = d->choose_ctx };
    draft_close(d);
    if (!draft_open(d, &o, e, w, n_ctx, before.n_batch, &why))
        log_note("no drafting from here on: %s", why.text);
    memcpy(d->guesses, before.guesses, sizeof d->guesses);
    memcpy(d->accepted, before.accepted, sizeof d->accepted);
    memcpy(d->n_steps, before.n_steps, sizeof d->n_steps);
    d->n_off = before.n_off;
}

/* ---- states and pairs ---- */

static struct rows state_rows(const struct draft *d, int64_t row)
{
    struct rows r = d->states;
    r.data += row * r.stride;
    return r;
}

/* The last n states to the front, by way of main memory. Those that cannot be had cost guesses. */
static void keep_last(struct draft *d, int64_t n)
{
    const struct device_ops *ops = d->device->ops;
    size_t bytes = (size_t)(n * d->states.stride) * sizeof(float);
    struct rows last = state_rows(d, d->n_states - n);
    if (!ops->read(d->device, d->kept, last.data, bytes, NULL) ||
        !ops->write(d->device, d->states.data, d->kept, bytes, NULL))
        n = 0;
    d->first += d->n_states - n;
    d->n_states = n;
}

static bool is_fresh(const struct draft *d, int n)
{
    return d->fresh.data && n <= DRAFT_FRESH;
}

bool draft_repeats(const struct draft *d, int n)
{
    return !d->fresh.data || is_fresh(d, n);
}

struct rows draft_room(struct draft *d, int64_t n_past, int n)
{
    if (d->use == DRAFT_OFF)
        return (struct rows){ 0 };
    if (d->first + d->n_states != n_past) {
        d->first = n_past;
        d->n_states = 0;
    }
    if (d->n_states + n > d->n_batch + 1)
        keep_last(d, min_of(min_of(d->n_states, KEPT), d->n_batch + 1 - n));
    return is_fresh(d, n) ? d->fresh : state_rows(d, d->n_states);
}

void draft_took(struct draft *d, int n)
{
    if (d->use == DRAFT_OFF)
        return;
    if (is_fresh(d, n))
        d->device->ops->copy(d->device, state_rows(d, d->n_states), d->fresh);
    d->n_states += n;
}

void draft_truncate(struct draft *d, int64_t n_past)
{
    d->n_states = max_of((int64_t)0, min_of(d->n_states, n_past - d->first));
    d->n_pairs = max_of((int64_t)0, min_of(d->n_pairs, n_past - 1));
    d->base = min_of(d->base, d->n_pairs);
}

static int32_t highest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return (int32_t)best;
}

/* One pass of the block over n pairs, into the cache behind its first n_past rows. */
static bool read_pairs(struct draft *d, const int32_t *tokens, int n, int64_t n_past,
                       struct rows states, bool wants_logits, const atomic_int *cancel,
                       struct error *err)
{
    const struct model *m = d->model;
    struct device *dev = d->device;
    struct step step = {
        .tokens = tokens, .n_tokens = n, .n_past = n_past,
        .n_logits = wants_logits, .logits = wants_logits ? d->logits : NULL,
        .cache = &d->cache, .cancel = cancel,
    };
    if (d->pair && !hybrid_pair_settle(d->pair, err))
        return false;
    dev->ops->begin(dev, &step);
    bool ok = m->arch->draft(m, dev, &step, states, d->pairs, d->work, err);
    return dev->ops->end(dev, err) && ok;
}

/* *last: how many pairs the last pass has read. */
static bool read_until(struct draft *d, const int32_t *tokens, int64_t n_pairs, int *last, bool late,
                       const atomic_int *cancel, struct error *err)
{
    if (d->first > d->n_pairs && n_pairs > d->n_pairs)
        d->base = d->n_pairs = d->first;
    while (d->n_pairs < n_pairs) {
        int64_t at = d->n_pairs;
        int n = (int)min_of((int64_t)d->n_batch, n_pairs - at);
        double start = now_s();
        if (!read_pairs(d, tokens + at + 1, n, at - d->base, state_rows(d, at - d->first),
                        last && at + n == n_pairs, cancel, err))
            return false;
        d->n_pairs += n;
        if (late || n >= MANY)
            break_even_read(&d->even, n, now_s() - start, late);
        if (last)
            *last = n;
    }
    return true;
}

bool draft_read(struct draft *d, const int32_t *tokens, int64_t n_pairs, const atomic_int *cancel,
                struct error *err)
{
    return read_until(d, tokens, n_pairs, NULL, false, cancel, err);
}

static int32_t choose(const struct draft *d, const int32_t *ahead, int n_ahead)
{
    return d->choose ? d->choose(d->choose_ctx, d->logits, ahead, n_ahead)
                     : highest(d->logits, d->model->params.n_vocab);
}

/* Pairs to read before a guess, beside those that a step leaves behind: as many as there are, in auto
 * no more than are worth it. */
static int64_t n_behind(const struct draft *d, int64_t n_pairs)
{
    int64_t n = n_pairs - max_of(d->n_pairs, d->first);
    if (n <= DRAFT_MOST + 1)
        return 0;
    return d->use == DRAFT_AUTO ? min_of(n - 1, max_of((int64_t)KEPT, break_even_pairs(&d->even)))
                                : n - 1;
}

bool draft_catch_up(struct draft *d, const int32_t *tokens, int64_t n_pairs,
                    const atomic_int *cancel, struct error *err)
{
    int64_t n = n_behind(d, n_pairs), from = n_pairs - 1 - n;
    if (n == 0)
        return true;
    if (from > max_of(d->n_pairs, d->first))
        d->base = d->n_pairs = from;
    return read_until(d, tokens, n_pairs - 1, NULL, true, cancel, err);
}

bool draft_guess(struct draft *d, const int32_t *tokens, int64_t n_pairs, int32_t *guesses, int *n,
                 const atomic_int *cancel, struct error *err)
{
    int last = 0, most = *n;
    int64_t width = d->states.width;
    if (!read_until(d, tokens, n_pairs, &last, false, cancel, err))
        return false;
    assert(last > 0);
    for (int i = 0;; i++) {
        guesses[i] = choose(d, guesses, i);
        *n = guesses[i] < 0 ? i : i + 1;
        if (*n == i || *n == most)
            return true;
        struct rows guessed = { d->pairs.data + (last - 1) * d->pairs.stride, width,
                                d->pairs.stride };
        if (!read_pairs(d, &guesses[i], 1, n_pairs - d->base + i, guessed, true, cancel, err))
            return false;
        last = 1;
    }
}

/* ---- for files ---- */

int draft_parts(const struct draft *d, int64_t n, struct cache_part *parts)
{
    int n_parts = d->cache.n_parts;
    if (d->base > 0)
        return 0;
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

void draft_adopt(struct draft *d, int64_t n, bool pairs, bool state)
{
    d->first = state ? n - 1 : n;
    d->n_states = state;
    d->n_pairs = n - 1;
    d->base = pairs ? 0 : n - 1;
}

/* ---- how far ---- */

bool draft_reads(const struct draft *d)
{
    return d->use != DRAFT_AUTO || break_even_reason(&d->even) != DRAFT_LOSES;
}

int draft_length(const struct draft *d, int64_t n_past, int64_t room)
{
    bool has_state = n_past > d->first && n_past <= d->first + d->n_states;
    int most = (int)min_of(room, (int64_t)min_of(DRAFT_MOST, d->n_batch - 1));
    if (d->use == DRAFT_OFF || !has_state || most < 1)
        return 0;
    return d->use == DRAFT_AUTO ? break_even_length(&d->even, most, n_behind(d, n_past))
                                : min_of((int)d->use, most);
}

/* Has guessing begun to pay, or ceased to? */
static void watch(struct draft *d)
{
    enum draft_reason now = break_even_reason(&d->even);
    if (d->use != DRAFT_AUTO)
        return;
    d->n_off += d->pays && now == DRAFT_LOSES;
    d->pays = now == DRAFT_PAYS || (now == DRAFT_RECOVERS && d->pays);
}

void draft_note_step(struct draft *d, int n_guesses, double seconds)
{
    break_even_step(&d->even, n_guesses, seconds);
    d->n_steps[n_guesses]++;
    for (int i = 0; i < n_guesses; i++)
        d->guesses[i]++;
    watch(d);
}

void draft_note_idle(struct draft *d, double seconds)
{
    break_even_read(&d->even, 0, seconds, true);
}

void draft_note_judged(struct draft *d, int right, bool wrong)
{
    break_even_judged(&d->even, right, wrong);
    for (int i = 0; i < right; i++)
        d->accepted[i]++;
    watch(d);
}

void draft_note(const struct draft *d, struct draft_report *r)
{
    const struct break_even *b = &d->even;
    *r = (struct draft_report){ .available = d->use != DRAFT_OFF, .use = d->use };
    if (!r->available)
        return;
    bool fixed = d->use != DRAFT_AUTO;
    int best = fixed ? min_of((int)d->use, d->n_batch - 1) : break_even_best(b, b->most);
    r->reason = fixed ? DRAFT_FIXED : break_even_reason(b);
    r->n_off = d->n_off;
    r->length = r->reason == DRAFT_RECOVERS ? 0 : best;
    for (int i = 0; i < DRAFT_MOST; i++) {
        r->n_guesses += r->guesses[i] = d->guesses[i];
        r->n_accepted += r->accepted[i] = d->accepted[i];
    }
    memcpy(r->n_steps, d->n_steps, sizeof r->n_steps);
    memcpy(r->step_s, b->step_s, sizeof r->step_s);
    if (b->n_steps[0] > 0 && r->n_guesses > 0 && b->most > 0)
        r->gain = break_even_gain(b, max_of(best, 1));
}

double draft_tokens_per_step(const struct draft_report *r)
{
    int64_t n = 0;
    for (int k = 0; k <= DRAFT_MOST; k++)
        n += r->n_steps[k];
    return n > 0 ? 1 + (double)r->n_accepted / (double)n : 1;
}
