/* A step on one card, from begin to end, and the records that save its launches.
 *
 * Begin writes the state of the step to the card in one copy; end waits and fetches the last of
 * the logits. Steps of few tokens are recorded (src/device.h) when one of their kind comes for the
 * second time: of the same shape, cache and kv_bound. A few kinds are kept; the one that was not
 * used for longest goes. The state of the step is all that differs between two replays of a
 * record. */
#include "gpu/device.cuh"

#define MIN_KV_BOUND 256

/* ---- the step ---- */

/* The number of positions attention is launched for: few different ones, so that recorded launches
 * serve many steps. */
static int64_t bound_of(const struct gpu_device *d, int64_t n)
{
    int64_t bound = MIN_KV_BOUND;
    while (bound < n)
        bound *= 2;
    return bound < d->options.limits.n_ctx ? bound : d->options.limits.n_ctx;
}

static struct kind kind_of(const struct gpu_device *d)
{
    return { d->step.n_tokens, d->step.n_logits, d->kv_bound, d->step.cache ? d->step.cache->id : 0,
             d->step.mla_form };
}

static bool alike(const struct kind &a, const struct kind &b)
{
    return a.n_tokens == b.n_tokens && a.n_logits == b.n_logits && a.kv_bound == b.kv_bound &&
           a.cache == b.cache && a.mla_form == b.mla_form;
}

/* The place of the running step's kind; NULL: it has none. */
static struct recorded *known_kind(struct gpu_device *d)
{
    for (struct recorded &r : d->records) {
        if (d->step.repeats && alike(r.kind, kind_of(d))) {
            r.used = d->n_steps;
            return &r;
        }
    }
    return NULL;
}

void device_begin(struct device *dev, const struct step *s)
{
    struct gpu_device *d = gpu(dev);
    assert(s->n_tokens > 0 && s->n_tokens <= d->options.limits.max_tokens);
    assert(s->n_past + s->n_tokens <= d->options.limits.n_ctx);
    gpu_enter(d->s); /* whichever thread this is */
    d->step = *s;
    d->n_steps++;
    d->logits_queued = 0;
    d->early.code = ERR_NONE;
    fuse_reset(d->s);
    d->s->cancel = s->cancel;
    d->s->cancelled_s = 0;
    d->kv_bound = bound_of(d, s->n_past + s->n_tokens);
    d->host_step->n_past = s->n_past; /* the copy of the step before is done: end waited for it */
    d->host_step->n_tokens = s->n_tokens;
    d->host_step->epoch = (uint32_t)d->n_steps;
    memcpy(tokens_behind(d->host_step), s->tokens, (size_t)s->n_tokens * sizeof *s->tokens);
    gpu_write(d->s, d->state, d->host_step, step_bytes(s->n_tokens));
    d->now = known_kind(d);
    int record = d->now && d->now->record ? (int)(d->now - d->records) : -1;
    struct gpu_run run = { s, d->host_step->epoch, record };
    if (d->options.partner.start)
        d->options.partner.start(d->options.partner.ctx, &run);
}

/* ---- records ---- */

bool device_replay(struct device *dev)
{
    struct gpu_device *d = gpu(dev);
    if (!d->now || !d->now->record)
        return false;
    if (d->options.partner.replay)
        d->options.partner.replay(d->options.partner.ctx);
    gpu_replay(d->s, d->now->record);
    d->logits_queued = d->now->logits_queued;
    return true;
}

/* Behind the second step of a kind. Behind the first it is noted, in the place that is free or was
 * not used for longest. */
bool device_record(struct device *dev)
{
    struct gpu_device *d = gpu(dev);
    const struct gpu_partner *p = &d->options.partner;
    bool fits = d->step.repeats && d->step.n_tokens <= GPU_GEMV_TOKENS &&
                d->step.n_logits <= d->logits_rows && d->options.n_layers > 0 && !d->refused;
    if (!fits || (d->now && d->now->record))
        return false;
    if (!d->now) {
        struct recorded *oldest = d->records;
        for (struct recorded &r : d->records)
            oldest = r.used < oldest->used ? &r : oldest;
        gpu_forget(d->s, oldest->record);
        *oldest = { kind_of(d), NULL, 0, d->n_steps };
        return false;
    }
    if (p->begin && !(p->record && p->record(p->ctx, (int)(d->now - d->records), d->state)))
        return false;
    for (struct angles &a : d->angles)
        a.step = 0; /* their launch belongs to the record */
    d->logits_queued = 0;
    fuse_reset(d->s);
    gpu_record(d->s);
    return true;
}

bool device_recorded(struct device *dev, bool ok, struct error *err)
{
    struct gpu_device *d = gpu(dev);
    const struct gpu_partner *p = &d->options.partner;
    fuse_settle(d->s); /* what waits belongs to the record too */
    d->now->record = gpu_recorded(d->s, err);
    d->now->logits_queued = d->logits_queued;
    if (p->begin)
        p->recorded(p->ctx);
    for (struct angles &a : d->angles)
        a.step = 0;
    if (!ok) { /* stopped half-way */
        gpu_forget(d->s, d->now->record);
        d->now->record = NULL;
        return true;
    }
    d->refused = !d->now->record;
    return !d->refused;
}

void device_keep_pace(struct gpu_device *d)
{
    if (d->options.limits.n_routed > 0 || d->step.n_tokens <= GPU_GEMV_TOKENS)
        return;
    gpu_wait(d->s, NULL);
    gpu_mark(d->s);
}

bool device_finish(struct gpu_device *d, struct error *err)
{
    const struct gpu_partner *p = &d->options.partner;
    bool ok = !p->finish || p->finish(p->ctx, err);
    return gpu_finish(d->s, err) && ok;
}

bool device_end(struct device *dev, struct error *err)
{
    struct gpu_device *d = gpu(dev);
    fuse_settle(d->s);
    q8_forget_all(d->s);
    bool ok = device_finish(d, err) && d->early.code == ERR_NONE;
    if (d->early.code != ERR_NONE)
        fail(err, d->early.code, "%s", d->early.text);
    size_t n = (size_t)d->logits_queued, n_vocab = (size_t)d->options.n_vocab;
    if (ok && n > 0)
        memcpy(d->step.logits + ((size_t)d->step.n_logits - n) * n_vocab, d->host_piece,
               n * n_vocab * sizeof(float));
    d->s->cancel = NULL;
    return ok;
}
